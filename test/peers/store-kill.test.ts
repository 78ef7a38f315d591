// The store under kill -9, hundreds of times: what was acknowledged is there, nothing is half there, versions only rise.
// A child process writes and prints what has been acknowledged; it is killed at a random moment, and what the disk holds is
// compared with what it said. Each round goes on with the state of the one before.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";

const ROUNDS = 300;
const WRITER = join(import.meta.dirname, "store-writer.ts");

interface Said {
  readonly key: string;
  /** Absent: removed. */
  readonly value?: string;
  readonly isAcknowledged: boolean;
  readonly version?: number;
}

/** Lets the writer run for a moment, kills it, returns what it said was acknowledged, in order. */
async function writeAndKill(path: string, round: number, ms: number): Promise<Said[]> {
  const child = spawn(process.execPath, [WRITER, path, String(round)], { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  const isReady = new Promise<void>((resolve) =>
    child.stdout.on("data", (part: Buffer) => {
      text += part.toString("utf8");
      resolve();
    }),
  );
  const isOver = new Promise((resolve) => child.once("close", resolve));
  await isReady;
  // The moment is the point of the test: it is not waited for anything.
  await delay(ms);
  child.kill("SIGKILL");
  await isOver;
  const lines = text.split("\n").slice(0, -1);
  return lines.map((line) => JSON.parse(line) as Said);
}

/** What the store holds when it is opened again: key to value, and its version. */
async function readBack(path: string): Promise<{ values: Map<string, string>; version: number }> {
  const { Store } = await import("../../packages/cluster/src/api/store.ts");
  const store = new Store(path);
  const values = new Map(
    store.list("configmaps").map((object) => {
      const { a, b } = object["data"] as { a: string; b: string };
      assert.equal(a, b, "an object is whole");
      return [object.metadata.name, a];
    }),
  );
  const { version } = store;
  store.close();
  return { values, version };
}

test(`kill -9, ${ROUNDS} times, while clients write: no acknowledged write is lost, none is half there`, async () => {
  const folder = mkdtempSync(join(tmpdir(), "lateen-kill-"));
  try {
    const path = join(folder, "state.db");
    let version = 0;
    let acknowledged = 0;
    let before = new Map<string, string>();
    for (let round = 0; round < ROUNDS; round++) {
      const said = await writeAndKill(path, round, Math.random() * 12);
      const found = await readBack(path);
      // What may be there: the last acknowledged write of a key, or one that had begun after it.
      const allowed = new Map<string, Set<string | undefined>>();
      for (const entry of said) {
        if (entry.isAcknowledged) {
          acknowledged += 1;
          allowed.set(entry.key, new Set([entry.value]));
          assert.ok((entry.version ?? 0) <= found.version, "the version covers every acknowledged write");
        } else allowed.set(entry.key, (allowed.get(entry.key) ?? new Set([before.get(entry.key)])).add(entry.value));
      }
      for (const [key, values] of allowed)
        assert.ok(
          values.has(found.values.get(key)),
          `round ${round}: ${key} is ${found.values.get(key)}, not one of ${[...values].join(", ")}`,
        );
      for (const [key, value] of before)
        if (!allowed.has(key)) assert.equal(found.values.get(key), value, `round ${round}: ${key} was not touched`);
      before = found.values;
      assert.ok(found.version >= version, "versions rise across restarts");
      version = found.version;
    }
    assert.ok(acknowledged > ROUNDS, `the test saw writes (${acknowledged})`);
    process.stdout.write(`    ${ROUNDS} kills, ${acknowledged} acknowledged writes, all found\n`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
