// An instance is a state folder: names, sockets and ports all come from it, so several run side by side.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { isObject } from "@lateen/base";
import type { Programs } from "../node/images.ts";

/** What the cluster process is told. */
export interface ClusterOptions {
  readonly stateFolder: string;
  readonly kubeconfig: string;
  readonly apiSocket: string;
  readonly apiPort: number;
  readonly dialSocket: string;
  readonly forwarderSocket: string;
  readonly sandboxScript: string;
  readonly programs: Programs;
}

/** A running supervisor, as it writes itself down. */
export interface SupervisorRecord {
  readonly pid: number;
  /** Start time of the process in clock ticks: with the pid it names the process beyond reuse. */
  readonly startTicks: string;
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

  /** The supervisor that runs now, if any. A record of one that is gone counts as none. */
  supervisor(): SupervisorRecord | undefined {
    if (!existsSync(this.#record)) return undefined;
    const record: unknown = JSON.parse(readFileSync(this.#record, "utf8"));
    if (!isObject(record)) return undefined;
    const found = { pid: Number(record["pid"]), startTicks: String(record["startTicks"]) };
    return startTicks(found.pid) === found.startTicks ? found : undefined;
  }

  writeSupervisor(): void {
    writeFileSync(this.#record, JSON.stringify({ pid: process.pid, startTicks: startTicks(process.pid) }));
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
