// The cluster's objects: in memory for reading, in SQLite for keeping.
// A write changes memory at once, so that the next request sees it, and is acknowledged (and shown to watchers) only when
// the transaction that holds it has been synced to disk. Writes of one turn of the event loop share one transaction.
import type { DatabaseSync } from "node:sqlite";
import { lowerBound } from "@lateen/base";
import type { KubeObject } from "./objects.ts";
import { openDatabase } from "./store-format.ts";

/** One change, as watchers see it. `previous` is the object before (for selectors on both states). */
export interface StoreEvent {
  readonly type: "ADDED" | "MODIFIED" | "DELETED";
  readonly version: number;
  readonly resource: string;
  readonly object: KubeObject;
  readonly previous: KubeObject | undefined;
}

interface Pending {
  readonly event: StoreEvent;
  readonly key: string;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** How many past events a watch may start from; older versions are answered 410 Expired. */
const EVENTS_MAX = 20_000;

/** The objects of a resource by key, with the keys in order. */
class Table {
  readonly objects = new Map<string, KubeObject>();
  readonly keys: string[] = [];

  /** The place of the first key that is not before `key`. */
  place(key: string): number {
    return lowerBound(this.keys.length, (index) => (this.keys[index] ?? "") < key);
  }

  get(key: string): KubeObject | undefined {
    return this.objects.get(key);
  }

  set(key: string, object: KubeObject): void {
    if (!this.objects.has(key)) this.keys.splice(this.place(key), 0, key);
    this.objects.set(key, object);
  }

  delete(key: string): void {
    if (this.objects.delete(key)) this.keys.splice(this.place(key), 1);
  }
}

/** Namespace and name as one key; "/" cannot occur in either. */
function objectKey(namespace: string | undefined, name: string): string {
  return `${namespace ?? ""}/${name}`;
}

export class Store {
  readonly #database: DatabaseSync;
  readonly #objects = new Map<string, Table>();
  readonly #listeners = new Map<string, Set<(event: StoreEvent) => void>>();
  #events: StoreEvent[] = [];
  #pending: Pending[] = [];
  #version = 1;
  #committed = 1;
  #oldest = 1;
  #flushing = false;

  /** Opens or creates the store in `path`; one of an older format is brought up to date. Throws Failure when the file cannot be used. */
  constructor(path: string) {
    this.#database = openDatabase(path);
    const row = this.#database.prepare("SELECT value FROM meta WHERE name='version'").get();
    if (row !== undefined) this.#version = Number(row["value"]);
    this.#committed = this.#version;
    this.#oldest = this.#version;
    for (const stored of this.#database.prepare("SELECT resource, key, json FROM objects").iterate()) {
      this.#table(String(stored["resource"])).set(String(stored["key"]), JSON.parse(String(stored["json"])));
    }
  }

  #table(resource: string): Table {
    let table = this.#objects.get(resource);
    if (table === undefined) {
      table = new Table();
      this.#objects.set(resource, table);
    }
    return table;
  }

  /** The version of the newest durable change. */
  get version(): number {
    return this.#committed;
  }

  /** The oldest version a watch may start from. */
  get oldestVersion(): number {
    return this.#oldest;
  }

  get(resource: string, namespace: string | undefined, name: string): KubeObject | undefined {
    return this.#objects.get(resource)?.get(objectKey(namespace, name));
  }

  /** How many objects there are of each resource. */
  counts(): [resource: string, count: number][] {
    return [...this.#objects].map(([resource, { keys }]) => [resource, keys.length]);
  }

  /** All objects of a resource, in namespace/name order; of one namespace where given. */
  list(resource: string, namespace?: string): KubeObject[] {
    const table = this.#objects.get(resource);
    if (table === undefined) return [];
    // "0" comes right after "/".
    const [from, to] =
      namespace === undefined ? [0, table.keys.length] : [table.place(`${namespace}/`), table.place(`${namespace}0`)];
    return table.keys.slice(from, to).map((key) => table.get(key) as KubeObject);
  }

  /** Stores `object` under a new resourceVersion, which is set on it. Resolves when durable. */
  put(resource: string, object: KubeObject): Promise<void> {
    const key = objectKey(object.metadata.namespace, object.metadata.name);
    const table = this.#table(resource);
    const previous = table.get(key);
    this.#version += 1;
    object.metadata.resourceVersion = String(this.#version);
    table.set(key, object);
    const type = previous === undefined ? "ADDED" : "MODIFIED";
    return this.#enqueue({ type, version: this.#version, resource, object, previous }, key);
  }

  /** Removes an object. The event carries its last state with the version of the deletion. */
  remove(resource: string, namespace: string | undefined, name: string): Promise<void> {
    const key = objectKey(namespace, name);
    const previous = this.#table(resource).get(key);
    if (previous === undefined) return Promise.resolve();
    this.#version += 1;
    this.#table(resource).delete(key);
    const object = { ...previous, metadata: { ...previous.metadata, resourceVersion: String(this.#version) } };
    return this.#enqueue({ type: "DELETED", version: this.#version, resource, object, previous }, key);
  }

  #enqueue(event: StoreEvent, key: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#pending.push({ event, key, resolve, reject });
      if (this.#flushing) return;
      this.#flushing = true;
      setImmediate(() => this.#flush());
    });
  }

  #flush(): void {
    const batch = this.#pending;
    this.#pending = [];
    this.#flushing = false;
    try {
      this.#commit(batch);
    } catch (error) {
      this.#rollBack(batch);
      for (const pending of batch) pending.reject(error);
      return;
    }
    for (const { event } of batch) {
      this.#events.push(event);
      this.#committed = event.version;
      for (const listener of this.#listeners.get(event.resource) ?? []) listener(event);
      for (const listener of this.#listeners.get("*") ?? []) listener(event);
    }
    if (this.#events.length > EVENTS_MAX) {
      const dropped = this.#events.splice(0, this.#events.length - EVENTS_MAX / 2);
      this.#oldest = dropped.at(-1)?.version ?? this.#oldest;
    }
    for (const pending of batch) pending.resolve();
  }

  #commit(batch: readonly Pending[]): void {
    const put = this.#database.prepare("INSERT OR REPLACE INTO objects VALUES(?, ?, ?)");
    const remove = this.#database.prepare("DELETE FROM objects WHERE resource=? AND key=?");
    this.#database.exec("BEGIN IMMEDIATE");
    try {
      for (const { event, key } of batch) {
        if (event.type === "DELETED") remove.run(event.resource, key);
        else put.run(event.resource, key, JSON.stringify(event.object));
      }
      const version = String(batch.at(-1)?.event.version ?? this.#version);
      this.#database.prepare("INSERT OR REPLACE INTO meta VALUES('version', ?)").run(version);
      this.#database.exec("COMMIT");
    } catch (error) {
      if (this.#database.isTransaction) this.#database.exec("ROLLBACK");
      throw error;
    }
  }

  /** Puts memory back to what the disk holds after a failed transaction. */
  #rollBack(batch: readonly Pending[]): void {
    const failed = [...batch, ...this.#pending];
    for (const { event, key } of failed.toReversed()) {
      if (event.previous === undefined) this.#table(event.resource).delete(key);
      else this.#table(event.resource).set(key, event.previous);
    }
    for (const pending of this.#pending) pending.reject(new Error("an earlier write of the same moment failed"));
    this.#pending = [];
  }

  /** Durable events of `resource` after `version`, oldest first; undefined when they are no longer held. */
  eventsSince(resource: string, version: number): StoreEvent[] | undefined {
    if (version < this.#oldest) return undefined;
    return this.#events.filter((event) => event.resource === resource && event.version > version);
  }

  /** Calls `listener` for each durable change of `resource`, of every resource for `*`, in order. Returns the function that ends it. */
  subscribe(resource: string, listener: (event: StoreEvent) => void): () => void {
    let set = this.#listeners.get(resource);
    if (set === undefined) {
      set = new Set();
      this.#listeners.set(resource, set);
    }
    set.add(listener);
    return () => void set.delete(listener);
  }

  close(): void {
    if (this.#pending.length > 0) this.#flush();
    this.#database.close();
  }
}
