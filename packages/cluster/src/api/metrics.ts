// What the API server tells of itself at /metrics, in Prometheus' text format and under the names of a real one.
import { readdirSync } from "node:fs";
import type { Store } from "./store.ts";

type Labels = Readonly<Record<string, string>>;

const escaped = (value: string): string =>
  value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
const shown = (labels: Labels): string =>
  Object.entries(labels)
    .map(([name, value]) => `${name}="${escaped(value)}"`)
    .join(",");

/** A number for each set of labels. */
class Family {
  readonly #name: string;
  readonly #head: string;
  readonly #values = new Map<string, number>();

  constructor(name: string, type: "counter" | "gauge", help: string) {
    this.#name = name;
    this.#head = `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
  }

  add(labels: Labels, amount = 1): void {
    const key = shown(labels);
    this.#values.set(key, (this.#values.get(key) ?? 0) + amount);
  }

  set(labels: Labels, value: number): void {
    this.#values.set(shown(labels), value);
  }

  text(): string {
    const lines = [...this.#values].map(([key, value]) => `${this.#name}${key === "" ? "" : `{${key}}`} ${value}\n`);
    return this.#head + lines.join("");
  }
}

export class ApiMetrics {
  /** Requests that have been answered, by what they asked for and the status. */
  readonly requests = new Family("apiserver_request_total", "counter", "Requests by verb, resource and status code.");
  /** Watches that are open. */
  readonly watches = new Family("apiserver_longrunning_requests", "gauge", "Requests that go on: watches.");
  /** Watches that were ended because their clients did not read, or all of them too little. */
  readonly slowWatches = new Family("apiserver_terminated_watchers_total", "counter", "Watches ended as too slow.");

  text(store: Store): string {
    const objects = new Family("apiserver_storage_objects", "gauge", "Stored objects by resource.");
    for (const [resource, count] of store.counts()) objects.set({ resource }, count);
    const one = (name: string, type: "counter" | "gauge", help: string, value: number): string => {
      const family = new Family(name, type, help);
      family.set({}, value);
      return family.text();
    };
    const { user, system } = process.cpuUsage();
    return [
      this.requests.text(),
      this.watches.text(),
      this.slowWatches.text(),
      objects.text(),
      one("process_cpu_seconds_total", "counter", "User and system time.", (user + system) / 1e6),
      one("process_open_fds", "gauge", "Open file descriptors.", readdirSync("/proc/self/fd").length),
      one("process_resident_memory_bytes", "gauge", "Resident memory.", process.memoryUsage.rss()),
      one(
        "process_start_time_seconds",
        "gauge",
        "Start of the process since the epoch.",
        performance.timeOrigin / 1000,
      ),
    ].join("");
  }
}
