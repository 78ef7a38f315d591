// What watches may cost whose clients do not read: a bound for each, and one for all of them together.
import type { ServerResponse } from "node:http";
import type { ApiMetrics } from "./metrics.ts";

/** A watcher that is this far behind is cut off; it lists again. */
const ONE_MAX_BYTES = 16 << 20;
/** Behind as far as this all together, those that are furthest behind are cut off. */
const ALL_MAX_BYTES = 256 << 20;
/** Who is less behind than this is not looked at. */
const LOOKED_AT_BYTES = 64 << 10;
const LOOK_EVERY_MS = 50;

export class WatchBudget {
  readonly #metrics: ApiMetrics;
  readonly #open = new Map<ServerResponse, string>();
  #lookedAt = 0;

  constructor(metrics: ApiMetrics) {
    this.#metrics = metrics;
  }

  /** Counts a watch of `resource` in, until its response is closed. */
  add(response: ServerResponse, resource: string): void {
    this.#open.set(response, resource);
    response.once("close", () => this.#open.delete(response));
  }

  /** Called after each write: ends the watch, or others, when too much waits to be read. */
  wrote(response: ServerResponse): void {
    const behind = response.writableLength;
    if (behind < LOOKED_AT_BYTES) return;
    if (behind > ONE_MAX_BYTES) this.#end(response);
    const now = performance.now();
    if (now - this.#lookedAt < LOOK_EVERY_MS) return;
    this.#lookedAt = now;
    const all = [...this.#open.keys()].map((watch) => ({ watch, bytes: watch.writableLength }));
    let sum = all.reduce((bytes, entry) => bytes + entry.bytes, 0);
    if (sum <= ALL_MAX_BYTES) return;
    for (const { watch, bytes } of all.toSorted((a, b) => b.bytes - a.bytes)) {
      if (sum <= ALL_MAX_BYTES / 2) return;
      this.#end(watch);
      sum -= bytes;
    }
  }

  #end(response: ServerResponse): void {
    const resource = this.#open.get(response);
    if (resource === undefined) return;
    this.#open.delete(response);
    this.#metrics.slowWatches.add({ resource });
    response.destroy();
  }
}
