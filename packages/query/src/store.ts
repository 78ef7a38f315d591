// The memoised query engine. Inputs are tables of keyed values; everything else is a query, a pure function of a key that
// reads only through its `Db`, which records what was read. A change re-runs only what read it, and a result that comes
// out equal stops the spread. (The idea is Salsa's: https://salsa-rs.github.io/salsa/reference/algorithm.html)
//
// What must stay true: a memo's value equals what a fresh store would compute from the same inputs; revisions only grow.

/** Reads inputs and other queries on behalf of one query. */
export interface Db {
  /** The value of an input, or undefined. Reading an absent key is a dependency too. */
  read<V>(table: Table<V>, key: string): V | undefined;
  /** The keys of a table, in code-unit order. Depends on which keys there are, not on their values. */
  keys<V>(table: Table<V>): readonly string[];
  /** The result of another query. */
  get<V>(query: Query<V>, key: string): V;
}

/** A kind of input. */
export interface Table<V> {
  readonly name: string;
  readonly equal: (a: V, b: V) => boolean;
}

/** A kind of derived value. */
export interface Query<V> {
  readonly name: string;
  readonly run: (db: Db, key: string) => V;
  readonly equal: (a: V, b: V) => boolean;
}

export function table<V>(name: string, equal: (a: V, b: V) => boolean = Object.is): Table<V> {
  return { name, equal };
}

export function query<V>(
  name: string,
  run: (db: Db, key: string) => V,
  equal: (a: V, b: V) => boolean = Object.is,
): Query<V> {
  return { name, run, equal };
}

/** Why a memo is as it is: what it read, in order, each with what that read. */
export interface Provenance {
  /** `query(key)`, `table[key]`, or `table[*]` for the set of keys. */
  readonly name: string;
  readonly changedAt: number;
  readonly reads: readonly Provenance[];
}

/** How often the queries of one name ran and how often a kept result served. */
export interface QueryStats {
  runs: number;
  hits: number;
  dropped: number;
}

/** Inputs and memos look alike to whoever depends on them. */
interface Cell {
  readonly label: string;
  changedAt: number;
  refresh(): void;
  readonly deps: readonly Cell[];
}

class InputCell<V> implements Cell {
  readonly label: string;
  readonly deps: readonly Cell[] = [];
  changedAt: number;
  value: V | undefined;
  constructor(label: string, revision: number) {
    this.label = label;
    this.changedAt = revision;
  }
  refresh(): void {}
}

class Memo<V> implements Cell {
  readonly label: string;
  readonly query: Query<V>;
  readonly key: string;
  deps: readonly Cell[] = [];
  changedAt = -1;
  verifiedAt = -1;
  usedAt: number;
  value!: V;
  readonly #store: Store;
  #isRunning = false;

  constructor(store: Store, definition: Query<V>, key: string) {
    this.#store = store;
    this.query = definition;
    this.key = key;
    this.label = `${definition.name}(${key})`;
    this.usedAt = store.revision;
  }

  refresh(): void {
    const { revision } = this.#store;
    this.usedAt = revision;
    if (this.verifiedAt === revision) return;
    if (this.#isRunning) throw new Error(`query ${this.label} depends on itself`);
    this.#isRunning = true;
    try {
      if (this.changedAt < 0 || this.#isStale()) this.#recompute();
      else this.#store.stats(this.query.name).hits += 1;
      this.verifiedAt = revision;
    } finally {
      this.#isRunning = false;
    }
  }

  /** Re-verify before recompute: in the order of use, so that nothing is refreshed that the query would not read now. */
  #isStale(): boolean {
    return this.deps.some((dep) => {
      dep.refresh();
      return dep.changedAt > this.verifiedAt;
    });
  }

  #recompute(): void {
    const deps = new Set<Cell>();
    const next = this.query.run(this.#store.tracker(deps), this.key);
    this.#store.ran(this.query.name, this.label);
    if (this.changedAt < 0 || !this.query.equal(this.value, next)) {
      this.value = next;
      this.changedAt = this.#store.revision;
    }
    this.deps = [...deps];
  }
}

class InputTable<V> {
  readonly cells = new Map<string, InputCell<V>>();
  readonly keySet: InputCell<readonly string[]>;
  readonly name: string;
  constructor(name: string, revision: number) {
    this.name = name;
    this.keySet = new InputCell(`${name}[*]`, revision);
    this.keySet.value = [];
  }
}

export class Store {
  /** Grows with every change of an input. */
  revision = 0;
  /** Labels of the queries that ran, in order, while a log is kept. */
  executed: string[] | undefined;
  readonly #tables = new Map<string, InputTable<unknown>>();
  readonly #memos = new Map<Query<unknown>, Map<string, Memo<unknown>>>();
  readonly #stats = new Map<string, QueryStats>();

  /** Reads from outside: nothing is recorded. */
  readonly root: Db = this.tracker(undefined);

  #table<V>(definition: Table<V>): InputTable<V> {
    let found = this.#tables.get(definition.name);
    if (found === undefined) {
      found = new InputTable(definition.name, this.revision);
      this.#tables.set(definition.name, found);
    }
    return found as InputTable<V>;
  }

  /** Sets or (with undefined) removes an input. An equal value changes nothing. */
  set<V>(definition: Table<V>, key: string, value: V | undefined): void {
    const inputs = this.#table(definition);
    let cell = inputs.cells.get(key);
    if (cell === undefined) {
      if (value === undefined) return;
      cell = new InputCell(`${definition.name}[${key}]`, this.revision);
      inputs.cells.set(key, cell);
    }
    const before = cell.value;
    if (before === value || (before !== undefined && value !== undefined && definition.equal(before, value))) return;
    this.revision += 1;
    cell.value = value;
    cell.changedAt = this.revision;
    if ((before === undefined) === (value === undefined)) return;
    inputs.keySet.value = [...inputs.cells]
      .filter(([, entry]) => entry.value !== undefined)
      .map(([name]) => name)
      .sort();
    inputs.keySet.changedAt = this.revision;
  }

  /** @internal The reader that a running query is given. */
  tracker(deps: Set<Cell> | undefined): Db {
    const read = <V>(definition: Table<V>, key: string): V | undefined => {
      const inputs = this.#table(definition);
      let cell = inputs.cells.get(key);
      if (cell === undefined) {
        cell = new InputCell(`${definition.name}[${key}]`, 0);
        inputs.cells.set(key, cell);
      }
      deps?.add(cell);
      return cell.value;
    };
    const keys = <V>(definition: Table<V>): readonly string[] => {
      const { keySet } = this.#table(definition);
      deps?.add(keySet);
      return keySet.value ?? [];
    };
    const get = <V>(definition: Query<V>, key: string): V => {
      const memo = this.#memo(definition, key);
      memo.refresh();
      deps?.add(memo);
      return memo.value;
    };
    return { read, keys, get };
  }

  #memo<V>(definition: Query<V>, key: string): Memo<V> {
    let byKey = this.#memos.get(definition as Query<unknown>);
    if (byKey === undefined) {
      byKey = new Map();
      this.#memos.set(definition as Query<unknown>, byKey);
    }
    let memo = byKey.get(key) as Memo<V> | undefined;
    if (memo === undefined) {
      memo = new Memo(this, definition, key);
      byKey.set(key, memo as Memo<unknown>);
    }
    return memo;
  }

  /** @internal */
  stats(name: string): QueryStats {
    let found = this.#stats.get(name);
    if (found === undefined) {
      found = { runs: 0, hits: 0, dropped: 0 };
      this.#stats.set(name, found);
    }
    return found;
  }

  /** @internal */
  ran(name: string, label: string): void {
    this.stats(name).runs += 1;
    this.executed?.push(label);
  }

  /** Counters by query name. */
  allStats(): ReadonlyMap<string, Readonly<QueryStats>> {
    return this.#stats;
  }

  /** The number of memos held. */
  get memoCount(): number {
    let count = 0;
    for (const byKey of this.#memos.values()) count += byKey.size;
    return count;
  }

  /** What the result of a query rests on, read from the records of its last run. */
  explain<V>(definition: Query<V>, key: string): Provenance {
    const memo = this.#memo(definition, key);
    memo.refresh();
    const seen = new Map<Cell, Provenance>();
    const describe = (cell: Cell): Provenance => {
      const known = seen.get(cell);
      if (known !== undefined) return known;
      const reads: Provenance[] = [];
      const result = { name: cell.label, changedAt: cell.changedAt, reads };
      seen.set(cell, result);
      for (const dep of cell.deps) reads.push(describe(dep));
      return result;
    };
    return describe(memo);
  }

  /** Drops memos that nothing has used for `revisions` revisions. A dropped one is computed anew when asked for. */
  collect(revisions: number): number {
    const oldest = this.revision - revisions;
    // What a kept memo depends on is kept: it was used when that one was verified.
    let dropped = 0;
    const kept = new Set<Cell>();
    const keep = (cell: Cell): void => {
      if (kept.has(cell)) return;
      kept.add(cell);
      for (const dep of cell.deps) keep(dep);
    };
    for (const byKey of this.#memos.values()) for (const memo of byKey.values()) if (memo.usedAt >= oldest) keep(memo);
    for (const byKey of this.#memos.values()) {
      for (const [key, memo] of byKey) {
        if (kept.has(memo)) continue;
        byKey.delete(key);
        this.stats(memo.query.name).dropped += 1;
        dropped += 1;
      }
    }
    return dropped;
  }
}
