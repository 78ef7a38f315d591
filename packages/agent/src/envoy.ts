// Envoy as a child process: start, drain, end.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { renameSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import { renderBootstrap } from "./bootstrap.ts";
import { ENVOY, PATHS, type ProxyOptions } from "./options.ts";

/** How long a proxy that is to end goes on at least (until its callers have heard of it) and at most. */
const DRAIN_MS_MIN = 2_000;
const DRAIN_MS_MAX = 5_000;
const DRAIN_POLL_MS = 100;
const ON_DEMAND_MAJOR = 1;
const ON_DEMAND_MINOR = 40;

/** Whether this Envoy can be sent virtual hosts when it asks: 1.40 or newer. */
export function supportsOnDemand(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major > ON_DEMAND_MAJOR || (major === ON_DEMAND_MAJOR && minor >= ON_DEMAND_MINOR);
}

/** The version of the Envoy binary, such as `1.40.0`. */
export function envoyVersion(): string {
  const { stdout } = spawnSync(ENVOY, ["--version"], { encoding: "utf8" });
  return /\/(\d+\.\d+\.\d+)[^/]*\//.exec(stdout)?.[1] ?? "0.0.0";
}

/** Writes the bootstrap, completely before Envoy may see it, and starts Envoy with Istio's flags. */
export function startEnvoy(options: ProxyOptions, isOnDemand: boolean): ChildProcess {
  const file = `${PATHS.config}/envoy-rev.json`;
  writeFileSync(`${file}.new`, renderBootstrap(options, isOnDemand));
  renameSync(`${file}.new`, file);
  const args = [
    ...["-c", "etc/istio/proxy/envoy-rev.json", "--drain-time-s", "45", "--drain-strategy", "immediate"],
    ...[
      "--local-address-ip-version",
      "v4",
      "--file-flush-interval-msec",
      "1000",
      "--disable-hot-restart",
      "--allow-unknown-static-fields",
    ],
    ...[
      "-l",
      options.logLevel,
      "--component-log-level",
      options.componentLogLevel,
      "--concurrency",
      String(options.concurrency),
    ],
  ];
  return spawn(ENVOY, args, { cwd: "/", stdio: ["ignore", "inherit", "inherit"] });
}

function admin(method: "GET" | "POST", path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const ask = request({ host: "127.0.0.1", port: 15000, method, path }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => resolve(Buffer.concat(chunks).toString("utf8")));
    });
    ask.on("error", reject);
    ask.end();
  });
}

/** Lets Envoy finish: answers ask for no further requests, then until no connection is active; then it is ended. */
export async function drainEnvoy(envoy: ChildProcess): Promise<void> {
  try {
    await admin("POST", "/drain_listeners?graceful&skip_exit");
    const started = performance.now();
    await delay(DRAIN_MS_MIN);
    while (performance.now() < started + DRAIN_MS_MAX) {
      const stats = await admin("GET", "/stats?filter=^listener\\..*\\.downstream_cx_active$&usedonly");
      const isBusy = stats.split("\n").some((line) => !/15021|15090|^$|admin/.test(line) && !line.endsWith(": 0"));
      if (!isBusy) break;
      await delay(DRAIN_POLL_MS);
    }
  } catch {
    // Envoy is gone already, or was not up yet: nothing to wait for.
  }
  envoy.kill("SIGTERM");
}
