// The query engine: which queries run after an edit, and that the result is that of a fresh store.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Db, query, Store, table } from "./store.ts";

const numbers = table<number>("numbers");
const links = table<string>("links");
const parity = query("parity", (db, key) => ((db.read(numbers, key) ?? 0) % 2 === 0 ? "even" : "odd"));
const linked = query("linked", (db, key) => `${key}:${db.get(parity, db.read(links, key) ?? key)}`);
const all = query("all", (db) =>
  db
    .keys(numbers)
    .map((key) => db.get(linked, key))
    .join(","),
);

function withLog(store: Store, act: () => unknown): string[] {
  store.executed = [];
  act();
  const { executed } = store;
  store.executed = undefined;
  return executed;
}

test("after one edit exactly the queries that read it run, and an equal result stops the spread", () => {
  const store = new Store();
  for (const [key, value] of [
    ["a", 1],
    ["b", 2],
    ["c", 3],
  ] as const)
    store.set(numbers, key, value);
  assert.equal(store.root.get(all, ""), "a:odd,b:even,c:odd");
  store.set(numbers, "b", 4);
  assert.deepEqual(
    withLog(store, () => store.root.get(all, "")),
    ["parity(b)"],
  );
  store.set(numbers, "b", 5);
  assert.deepEqual(
    withLog(store, () => assert.equal(store.root.get(all, ""), "a:odd,b:odd,c:odd")),
    ["parity(b)", "linked(b)", "all()"],
  );
  assert.deepEqual(
    withLog(store, () => store.root.get(all, "")),
    [],
  );
});

test("a change that nobody reads runs nothing", () => {
  const store = new Store();
  store.set(numbers, "a", 1);
  store.root.get(linked, "a");
  store.set(numbers, "z", 9);
  assert.deepEqual(
    withLog(store, () => store.root.get(linked, "a")),
    [],
  );
});

test("an absent input is a dependency", () => {
  const store = new Store();
  assert.equal(store.root.get(linked, "a"), "a:even");
  store.set(links, "a", "b");
  store.set(numbers, "b", 1);
  assert.equal(store.root.get(linked, "a"), "a:odd");
  store.set(links, "a", undefined);
  assert.equal(store.root.get(linked, "a"), "a:even");
});

test("an equal input is no change", () => {
  const store = new Store();
  const objects = table<{ n: number }>("objects", (a, b) => a.n === b.n);
  store.set(objects, "a", { n: 1 });
  const { revision } = store;
  store.set(objects, "a", { n: 1 });
  assert.equal(store.revision, revision);
});

test("a query that depends on itself is refused", () => {
  const store = new Store();
  const loop: ReturnType<typeof query<number>> = query("loop", (db: Db, key) => db.get(loop, key) + 1);
  assert.throws(() => store.root.get(loop, "x"), /loop\(x\) depends on itself/);
});

test("a query that throws keeps nothing and works once its input is mended", () => {
  const store = new Store();
  const strict = query("strict", (db, key) => {
    const value = db.read(numbers, key);
    if (value === undefined) throw new Error("absent");
    return value;
  });
  assert.throws(() => store.root.get(strict, "a"), /absent/);
  store.set(numbers, "a", 7);
  assert.equal(store.root.get(strict, "a"), 7);
});

test("provenance names what was read", () => {
  const store = new Store();
  store.set(numbers, "b", 1);
  store.set(links, "a", "b");
  const { name, reads } = store.explain(linked, "a");
  assert.equal(name, "linked(a)");
  assert.deepEqual(
    reads.map((entry) => entry.name),
    ["links[a]", "parity(b)"],
  );
  assert.deepEqual(
    reads[1]?.reads.map((entry) => entry.name),
    ["numbers[b]"],
  );
});

test("memos that nobody used for long are dropped, what is still used is not", () => {
  const store = new Store();
  for (const key of ["a", "b"]) store.set(numbers, key, 1);
  store.root.get(linked, "a");
  store.root.get(linked, "b");
  for (let i = 2; i < 12; i++) {
    store.set(numbers, "a", i);
    store.root.get(linked, "a");
  }
  assert.equal(store.collect(5), 2);
  assert.equal(store.memoCount, 2);
  assert.equal(store.root.get(linked, "b"), "b:odd");
});

/** A small generator with a printable seed (mulberry32). */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

test("thousands of random edits: incremental equals from scratch", (context) => {
  const seed = Number(process.env["LATEEN_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
  context.diagnostic(`seed ${seed} (LATEEN_SEED repeats it)`);
  const next = random(seed);
  const names = "abcdefgh".split("");
  const pick = (): string => names[Math.floor(next() * names.length)] ?? "a";
  const sum = query(
    "sum",
    (db, key) =>
      names.slice(0, names.indexOf(key) + 1).reduce((total, name) => total + (db.read(numbers, name) ?? 0), 0) % 5,
  );
  const chain = query("chain", (db, key): string => {
    const target = db.read(links, key);
    return target === undefined || target <= key ? `${key}=${db.get(sum, key)}` : `${key}>${db.get(chain, target)}`;
  });
  const everything = query("everything", (db) =>
    [...db.keys(numbers).map((key) => db.get(chain, key)), db.keys(links).join("")].join(" "),
  );
  const store = new Store();
  const fresh = (): string => {
    const other = new Store();
    for (const [at, value] of numberValues) other.set(numbers, at, value);
    for (const [at, value] of linkValues) other.set(links, at, value);
    return other.root.get(everything, "");
  };
  const numberValues = new Map<string, number>();
  const linkValues = new Map<string, string>();
  for (let i = 0; i < 4000; i++) {
    const key = pick();
    const dice = next();
    if (dice < 0.5) {
      const value = Math.floor(next() * 4);
      numberValues.set(key, value);
      store.set(numbers, key, value);
    } else if (dice < 0.6) {
      numberValues.delete(key);
      store.set(numbers, key, undefined);
    } else if (dice < 0.9) {
      const value = pick();
      linkValues.set(key, value);
      store.set(links, key, value);
    } else {
      linkValues.delete(key);
      store.set(links, key, undefined);
    }
    if (next() < 0.1) store.collect(3);
    if (next() < 0.3) continue;
    assert.equal(store.root.get(everything, ""), fresh(), `edit ${i} of seed ${seed}`);
  }
});
