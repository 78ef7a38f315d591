// The loop of every controller: keys of what may be out of step, one at a time, from full state, never from the event.
import { errorText } from "@lateen/base";
import { ApiError } from "../api/errors.ts";
import type { Kind } from "../api/kinds.ts";
import { tableOf } from "../api/kinds.ts";
import type { KubeObject } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";

const RETRY_FIRST_MS = 20;
const RETRY_MAX_MS = 10_000;

export interface Watched {
  readonly kind: Kind;
  /** The keys that a change of this object concerns; its previous state counts too. */
  readonly keys: (object: KubeObject) => readonly string[];
}

/** Key of an object: `namespace/name`. */
export function keyOf(object: KubeObject): string {
  return `${object.metadata.namespace ?? ""}/${object.metadata.name}`;
}

/** Brings what `namespace/name` names into step. A number: look again after so many milliseconds, as only time is missing. */
type Reconcile = (namespace: string, name: string) => Promise<number | undefined | void>;

export class Controller {
  readonly #name: string;
  readonly #reconcile: Reconcile;
  readonly #queue = new Set<string>();
  readonly #failures = new Map<string, number>();
  readonly #timers = new Map<string, NodeJS.Timeout>();
  #running = false;

  constructor(registry: Registry, name: string, watched: readonly Watched[], reconcile: Reconcile) {
    this.#name = name;
    this.#reconcile = reconcile;
    for (const { kind, keys } of watched) {
      for (const object of registry.list(kind)) for (const key of keys(object)) this.#queue.add(key);
      registry.store.subscribe(tableOf(kind), (event) => {
        for (const key of keys(event.object)) this.add(key);
        if (event.previous !== undefined) for (const key of keys(event.previous)) this.add(key);
      });
    }
    void this.#work();
  }

  /** Has `key` reconciled soon. */
  add(key: string): void {
    this.#queue.add(key);
    if (!this.#running) void this.#work();
  }

  #addLater(key: string, delayMs: number): void {
    clearTimeout(this.#timers.get(key));
    const timer = setTimeout(() => {
      this.#timers.delete(key);
      this.add(key);
    }, delayMs);
    this.#timers.set(key, timer.unref());
  }

  async #work(): Promise<void> {
    this.#running = true;
    // Everything that happens in this turn of the event loop is one round.
    await new Promise((resolve) => setImmediate(resolve));
    for (const key of this.#queue) {
      this.#queue.delete(key);
      const slash = key.indexOf("/");
      try {
        const again = await this.#reconcile(key.slice(0, slash), key.slice(slash + 1));
        if (typeof again === "number") this.#addLater(key, again);
        this.#failures.delete(key);
      } catch (error) {
        this.#retry(key, error);
      }
    }
    this.#running = false;
  }

  #retry(key: string, error: unknown): void {
    // A namespace that ends takes nothing new: its own controller removes what is left.
    if (
      error instanceof ApiError &&
      error.details?.causes?.some(({ reason }) => reason === "NamespaceTerminating") === true
    )
      return;
    const count = (this.#failures.get(key) ?? 0) + 1;
    this.#failures.set(key, count);
    // Conflicts and missing objects are the normal course of a busy cluster.
    const isExpected = error instanceof ApiError && (error.code === 409 || error.code === 404 || error.code === 403);
    if (!isExpected || count > 5) process.stderr.write(`${this.#name}: ${key}: ${errorText(error)}\n`);
    setTimeout(() => this.add(key), Math.min(RETRY_FIRST_MS * 2 ** count, RETRY_MAX_MS)).unref();
  }
}
