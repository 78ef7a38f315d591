// The node's side of the control channel to PID 1 (sandbox.py): namespaces and containers on request.
import { Socket } from "node:net";
import { createInterface } from "node:readline";
import { isObject } from "@lateen/base";

/** The program of sandbox.py and its fixed arguments. */
export type SandboxCommand = readonly [program: string, ...args: readonly string[]];

/** One mount of a container. */
export interface Mount {
  readonly source: string;
  readonly target: string;
  readonly readOnly: boolean;
  /** What of `source` is mounted: a path below it that no link leads out of. Missing folders are made. */
  readonly beneath?: string;
}

/** Everything that sandbox.py needs to start a container. */
export interface ContainerSpec {
  readonly container: string;
  readonly sandbox: string;
  readonly hostname: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly uid: number;
  readonly gid: number;
  readonly groupIds: readonly number[];
  readonly addCapabilities: readonly string[];
  readonly dropCapabilities: readonly string[];
  readonly privileged: boolean;
  readonly readOnlyRoot: boolean;
  readonly mounts: readonly Mount[];
  readonly links: Readonly<Record<string, string>>;
  readonly files: Readonly<Record<string, string>>;
  /** Folder with the files that the container's root begins with. */
  readonly lower?: string;
  readonly stdin: boolean;
  /** Its input ends when the first client that was attached to it leaves. */
  readonly stdinOnce: boolean;
  readonly tty: boolean;
  /** Whose processes it sees and is one of: all of its pod (""), or those of another container; absent: only its own. */
  readonly processesOf?: string;
  readonly limits?: { readonly memoryBytes?: number; readonly cpuMillis?: number };
  readonly log: string;
}

export interface ContainerExit {
  readonly container: string;
  readonly code: number;
  readonly signal: number;
  /** The kernel has ended a process of it for want of memory. */
  readonly isOutOfMemory: boolean;
}

interface Waiting {
  readonly resolve: (value: Record<string, unknown>) => void;
  readonly reject: (error: Error) => void;
}

/** Control channel; file descriptor 3 of the cluster process. */
export class SandboxClient {
  readonly #socket: Socket;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  onExit: (exit: ContainerExit) => void = () => {};

  constructor(fd: number) {
    this.#socket = new Socket({ fd, readable: true, writable: true });
    createInterface({ input: this.#socket }).on("line", (line) => this.#receive(JSON.parse(line)));
  }

  #receive(message: Record<string, unknown>): void {
    if (message["event"] === "exited") {
      this.onExit(message as unknown as ContainerExit);
      return;
    }
    const waiting = this.#waiting.get(Number(message["id"]));
    this.#waiting.delete(Number(message["id"]));
    if (typeof message["error"] === "string") waiting?.reject(new Error(message["error"]));
    else waiting?.resolve(isObject(message["ok"]) ? message["ok"] : {});
  }

  #request(op: string, parameters: Record<string, unknown>): Promise<Record<string, unknown>> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#socket.write(`${JSON.stringify({ id, op, ...parameters })}\n`);
    });
  }

  /** Makes a pod's network namespace. `name` is at most 14 characters. */
  async createSandbox(name: string, address: string, gateway: string): Promise<void> {
    await this.#request("sandbox", { name, address, gateway });
  }

  /** Removes what a pod had beside its containers: its network namespace, if it had one of its own, and its reaper. */
  async removeSandbox(name: string, uid: string): Promise<void> {
    await this.#request("remove-sandbox", { name, uid });
  }

  /** Gives the node one more address. */
  async addAddress(address: string): Promise<void> {
    await this.#request("node-address", { address });
  }

  /** Starts a container; resolves with its process id and control groups once its command runs. */
  async start(spec: ContainerSpec): Promise<{ readonly pid: number; readonly groups: readonly string[] }> {
    const { pid, groups } = await this.#request("start", { spec });
    return { pid: Number(pid), groups: groups as string[] };
  }

  /** Joins a container's streams to the socket that listens at `path` (see Attachment in init.py). */
  async attach(container: string, path: string): Promise<void> {
    await this.#request("attach", { container, path });
  }

  /** Sets the size of a container's terminal, in characters. */
  async resize(container: string, rows: number, columns: number): Promise<void> {
    await this.#request("resize", { container, rows, columns });
  }

  async kill(container: string, signal: number): Promise<void> {
    await this.#request("kill", { container, signal });
  }
}
