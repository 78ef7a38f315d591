// An instance is a state folder: names, sockets and ports all come from it, so several run side by side.
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { errorCode, Failure, isObject } from "@lateen/base";
import type { Programs } from "../node/images.ts";
import type { SandboxCommand } from "../sandbox/client.ts";

/** The listening socket of the API on the host, as the cluster process gets it. */
export const API_FD = 4;
const GROUPS_LIMIT_MS = 5_000;
const POLL_MS = 5;
const CONTROL_GROUPS = "/sys/fs/cgroup";

/** What the cluster process is told. */
export interface ClusterOptions {
  readonly stateFolder: string;
  readonly kubeconfig: string;
  readonly apiSocket: string;
  /** Where the host has the API; its socket is file descriptor API_FD. */
  readonly apiPort: number;
  readonly dialSocket: string;
  readonly forwarderSocket: string;
  readonly sandboxCommand: SandboxCommand;
  readonly programs: Programs;
}

/** What the cluster asks of the forwarder, a line of JSON each time. */
export interface ForwarderRequest {
  readonly nodePorts: readonly { readonly name: string; readonly nodePort: number }[];
  /** LoadBalancer Services: `host` is where a port of theirs leads inside the instance, `wanted` the address they ask for. */
  readonly balancers: readonly {
    readonly name: string;
    readonly host: string;
    readonly ports: readonly number[];
    readonly wanted?: string;
  }[];
}

/** Its answer: the address of each LoadBalancer Service; null where none was free. */
export interface ForwarderAnswer {
  readonly balancers: Readonly<Record<string, string | null>>;
}

/** A running supervisor, as it writes itself down. */
export interface SupervisorRecord {
  readonly pid: number;
  /** Start time of the process in clock ticks: with the pid it names the process beyond reuse. */
  readonly startTicks: string;
  /** Its control groups: whoever removes them may be in another one than it was. */
  readonly groups: readonly string[];
}

export class Instance {
  readonly stateFolder: string;
  /** Sockets live here: their paths must be short. */
  readonly runFolder: string;

  constructor(stateFolder: string) {
    this.stateFolder = resolve(stateFolder);
    const hash = createHash("sha256").update(this.stateFolder).digest("hex").slice(0, 10);
    this.runFolder = join(tmpdir(), `lateen-${process.getuid?.() ?? 0}-${hash}`);
  }

  /** The instance that `--state`, LATEEN_STATE or the default names. */
  static find(option: string | undefined): Instance {
    return new Instance(option ?? process.env["LATEEN_STATE"] ?? join(homedir(), ".lateen", "default"));
  }

  get kubeconfig(): string {
    return join(this.stateFolder, "kubeconfig");
  }
  get apiSocket(): string {
    return join(this.runFolder, "api.sock");
  }
  get dialSocket(): string {
    return join(this.runFolder, "dial.sock");
  }
  get forwarderSocket(): string {
    return join(this.runFolder, "forwarder.sock");
  }
  get supervisorLog(): string {
    return join(this.stateFolder, "lateen.log");
  }

  createFolders(): void {
    mkdirSync(this.stateFolder, { recursive: true, mode: 0o700 });
    mkdirSync(this.runFolder, { recursive: true, mode: 0o700 });
  }

  get #record(): string {
    return join(this.runFolder, "supervisor.json");
  }

  /** What the last supervisor wrote down; undefined when there is nothing, or nothing whole. */
  #readRecord(): SupervisorRecord | undefined {
    if (!existsSync(this.#record)) return undefined;
    try {
      const record: unknown = JSON.parse(readFileSync(this.#record, "utf8"));
      return isObject(record) ? (record as unknown as SupervisorRecord) : undefined;
    } catch {
      return undefined;
    }
  }

  /** The supervisor that runs now, if any. A record of one that is gone counts as none. */
  supervisor(): SupervisorRecord | undefined {
    const record = this.#readRecord();
    return record !== undefined && startTicks(record.pid) === record.startTicks ? record : undefined;
  }

  writeSupervisor(groups: readonly string[]): void {
    const record = { pid: process.pid, startTicks: startTicks(process.pid), groups };
    writeFileSync(this.#record, JSON.stringify(record));
  }

  /**
   * Where the kernel keeps the limits of its containers (cgroups(7)): a folder in the hierarchy of version 2, or one in each of
   * version 1. They are made when a container has limits.
   */
  controlGroups(): string[] {
    const own = new Map<string, string>();
    for (const line of readFileSync("/proc/self/cgroup", "utf8").trim().split("\n")) {
      const [, controllers = "", path = "/"] = line.split(":");
      for (const controller of controllers.split(",")) own.set(controller, path);
    }
    const name = basename(this.runFolder);
    // In version 2 a group with processes has no groups below it: ours lies beside the one that we are in.
    if (existsSync(join(CONTROL_GROUPS, "cgroup.controllers")))
      return [join(CONTROL_GROUPS, dirname(own.get("") ?? "/"), name)];
    return ["memory", "cpu"]
      .filter((controller) => own.has(controller) && existsSync(join(CONTROL_GROUPS, controller)))
      .map((controller) => join(CONTROL_GROUPS, controller, own.get(controller) ?? "/", name));
  }

  /** Removes what a run leaves outside the state folder. The instance has been ended; its last processes may be on their way out. */
  async removeRun(): Promise<void> {
    const groups = this.#readRecord()?.groups ?? [];
    rmSync(this.runFolder, { recursive: true, force: true });
    const limit = performance.now() + GROUPS_LIMIT_MS;
    for (const group of groups) {
      while (!removeGroup(group)) {
        if (performance.now() > limit) throw new Failure(`${group} cannot be removed: processes are left in it`);
        await delay(POLL_MS);
      }
    }
  }

  /** Host ports by what they lead to; kept so that addresses stay the same from start to start. */
  readPorts(): Record<string, number> {
    const path = join(this.stateFolder, "ports.json");
    return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as Record<string, number>) : {};
  }

  writePorts(ports: Readonly<Record<string, number>>): void {
    const path = join(this.stateFolder, "ports.json");
    writeFileSync(`${path}.new`, `${JSON.stringify(ports, null, 2)}\n`);
    renameSync(`${path}.new`, path);
  }
}

/** Removes a control group and those in it; false while a process is in one of them. */
function removeGroup(group: string): boolean {
  if (!existsSync(group)) return true;
  try {
    for (const entry of readdirSync(group, { withFileTypes: true }))
      if (entry.isDirectory()) rmdirSync(join(group, entry.name));
    rmdirSync(group);
    return true;
  } catch (error) {
    // Somebody else has been here first, or a process is still there.
    if (errorCode(error) === "ENOENT") return !existsSync(group);
    if (errorCode(error) === "EBUSY") return false;
    throw error;
  }
}

/** Field 22 of /proc/PID/stat, or undefined when there is no such process (or it is a zombie). */
export function startTicks(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** Lets the process outlive its log: on a full disk lines are lost, and nothing else. */
export function outliveLog(): void {
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
}
