// The node: runs the pods that are assigned to it, and serves their logs and exec streams to the API.
import { spawn } from "node:child_process";
import { existsSync, rmSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { join } from "node:path";
import { errorText } from "@lateen/base";
import { ApiError, badRequest, notFound } from "../api/errors.ts";
import { builtIn } from "../api/kinds.ts";
import type { Pod } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import type { NodePort, ResourceRequest } from "../api/server.ts";
import type { SandboxClient, SandboxCommand } from "../sandbox/client.ts";
import type { ImageTable, Programs } from "./images.ts";
import { serveLog } from "./logs.ts";
import { SimulatedNodes } from "./nodes.ts";
import type { ContainerProcess } from "./pod-status.ts";
import { PodWorker, WRITE_RETRY_MS } from "./pod-worker.ts";
import type { ProbeResult } from "./probes.ts";
import { serveProxy } from "./proxy.ts";
import {
  type CommandStreams,
  helper,
  serveAttach,
  serveCommand,
  servePortForward,
  streamsOf,
  type Upgrade,
} from "./streams.ts";
import { PODS_FOLDER, type Volumes } from "./volumes.ts";

/** What every pod worker uses of the node. */
export interface NodeContext {
  readonly registry: Registry;
  readonly sandbox: SandboxClient;
  readonly programs: Programs;
  readonly images: ImageTable;
  readonly volumes: Volumes;
  readonly logsFolder: string;
  readonly address: string;
  readonly gateway: string;
  readonly dnsAddress: string;
  /** Which worker a container belongs to. */
  readonly owners: Map<string, PodWorker>;
  execProbe(process: ContainerProcess | undefined, command: readonly string[], timeoutMs: number): Promise<ProbeResult>;
}

export interface KubeletOptions extends Omit<NodeContext, "owners" | "execProbe"> {
  readonly nodeName: string;
  readonly sandboxCommand: SandboxCommand;
}

const PODS = builtIn("pods");
const FINISHED = new Set(["Succeeded", "Failed"]);

export class Kubelet implements NodePort, NodeContext {
  readonly registry: Registry;
  readonly sandbox: SandboxClient;
  readonly programs: Programs;
  readonly images: ImageTable;
  readonly volumes: Volumes;
  readonly logsFolder: string;
  readonly address: string;
  readonly gateway: string;
  readonly dnsAddress: string;
  readonly owners = new Map<string, PodWorker>();
  readonly #options: KubeletOptions;
  readonly #workers = new Map<string, PodWorker>();
  readonly #nodes: SimulatedNodes;
  constructor(options: KubeletOptions) {
    this.#options = options;
    this.#nodes = new SimulatedNodes(options.registry, options.sandbox, options.address);
    this.registry = options.registry;
    this.sandbox = options.sandbox;
    this.programs = options.programs;
    this.images = options.images;
    this.volumes = options.volumes;
    this.logsFolder = options.logsFolder;
    this.address = options.address;
    this.gateway = options.gateway;
    this.dnsAddress = options.dnsAddress;
    options.sandbox.onExit = (exit) => this.owners.get(exit.container)?.exited(exit);
  }

  /** Registers the node and takes up its pods; from here on changes drive it. */
  async start(): Promise<void> {
    await this.#nodes.start(this.#options.nodeName, (name) => {
      for (const pod of this.registry.list(PODS) as Pod[]) if (pod.spec.nodeName === name) this.#sync(pod);
    });
    rmSync(PODS_FOLDER, { recursive: true, force: true });
    for (const pod of this.registry.list(PODS) as Pod[]) this.#sync(pod);
    this.registry.store.subscribe("pods", (event) => {
      if (event.type === "DELETED") this.#gone(event.object as Pod);
      else this.#sync(event.object as Pod);
    });
  }

  #sync(pod: Pod): void {
    const { nodeName = "" } = pod.spec;
    const host = this.#nodes.addressOf(nodeName);
    const worker = this.#workers.get(pod.metadata.uid);
    if (pod.metadata.deletionTimestamp !== undefined) {
      if (worker === undefined) void (host === undefined ? undefined : this.#remove(pod));
      else if (!worker.pod.metadata.deletionTimestamp) void this.#stop(worker, pod);
      return;
    }
    if (worker !== undefined) {
      worker.update(pod);
      return;
    }
    if (host === undefined || FINISHED.has(pod.status.phase)) return;
    const used = new Set([...this.#workers.values()].map(({ address }) => address));
    const started = new PodWorker(this, pod, {
      host,
      pod: pod.spec["hostNetwork"] === true ? host : this.#nodes.freePodAddress(nodeName, used),
    });
    this.#workers.set(pod.metadata.uid, started);
    void started.run();
  }

  async #stop(worker: PodWorker, pod: Pod): Promise<void> {
    worker.update(pod);
    await worker.stop(pod.metadata.deletionGracePeriodSeconds ?? 30);
    this.#workers.delete(pod.metadata.uid);
    await this.#remove(pod);
  }

  async #remove(pod: Pod): Promise<void> {
    const { namespace, name, uid } = pod.metadata;
    rmSync(join(this.logsFolder, `${namespace}_${name}_${uid}`), { recursive: true, force: true });
    try {
      await this.registry.delete(PODS, namespace, name, { gracePeriodSeconds: 0, uid });
    } catch (error) {
      // Refused: it is gone, or another one. A store that could not write is asked again.
      if (error instanceof ApiError) return;
      process.stderr.write(`node: removal of ${name}: ${errorText(error)}\n`);
      setTimeout(() => void this.#remove(pod), WRITE_RETRY_MS).unref();
    }
  }

  /** Removed by force: what still runs is ended at once. */
  #gone(pod: Pod): void {
    const worker = this.#workers.get(pod.metadata.uid);
    this.#workers.delete(pod.metadata.uid);
    if (worker !== undefined && worker.pod.metadata.deletionTimestamp === undefined) void worker.stop(0);
  }

  #worker(namespace: string, name: string): PodWorker {
    const pod = this.registry.get(PODS, namespace, name);
    const worker = this.#workers.get(pod.metadata.uid);
    if (worker === undefined) throw new ApiError(400, "BadRequest", `pod ${name} is not running on this node`);
    return worker;
  }

  #containerName(pod: Pod, query: URLSearchParams): string {
    const { containers, initContainers = [], ephemeralContainers = [] } = pod.spec;
    const all = [...containers, ...initContainers, ...ephemeralContainers].map((container) => container.name);
    const asked = query.get("container");
    if (asked !== null && asked !== "") {
      if (!all.includes(asked)) throw badRequest(`container ${asked} is not valid for pod ${pod.metadata.name}`);
      return asked;
    }
    const [only, ...others] = pod.spec.containers;
    if (only === undefined || others.length > 0) {
      const choice = pod.spec.containers.map((container) => container.name).join(" ");
      throw badRequest(`a container name must be specified for pod ${pod.metadata.name}, choose one of: [${choice}]`);
    }
    return only.name;
  }

  async logs(namespace: string, name: string, query: URLSearchParams, response: ServerResponse): Promise<void> {
    const pod = this.registry.find(PODS, namespace, name) as Pod | undefined;
    if (pod === undefined) throw notFound(PODS, name);
    const container = this.#containerName(pod, query);
    // A pod that is on no node has no log, and nothing is wrong with that.
    if ((pod.spec.nodeName ?? "") === "") {
      response.writeHead(204).end();
      return;
    }
    const worker = this.#workers.get(pod.metadata.uid);
    const current = join(this.logsFolder, `${namespace}_${name}_${pod.metadata.uid}`, `${container}.log`);
    const isPrevious = query.get("previous") === "true";
    const file = isPrevious ? `${current}.previous1` : current;
    if (!existsSync(file)) {
      if (isPrevious) throw badRequest(`previous terminated container "${container}" in pod "${name}" not found`);
      const reason = worker?.stateOf(container)?.waiting?.reason ?? "ContainerCreating";
      throw badRequest(`container "${container}" in pod "${name}" is waiting to start: ${reason}`);
    }
    const isLive = (): boolean => !isPrevious && worker?.stateOf(container)?.running !== undefined;
    await serveLog(file, query, isLive, response);
  }

  #execSpec(
    process: ContainerProcess,
    command: readonly string[],
    streams: Pick<CommandStreams, "stdin" | "tty">,
  ): string {
    const { pid, groups, spec } = process;
    return JSON.stringify({
      pid,
      groups,
      args: command,
      env: { TERM: "xterm", ...spec.env },
      cwd: spec.cwd,
      uid: spec.uid,
      gid: spec.gid,
      groupIds: spec.groupIds,
      addCapabilities: spec.addCapabilities,
      dropCapabilities: spec.dropCapabilities,
      privileged: spec.privileged,
      stdin: streams.stdin,
      tty: streams.tty,
    });
  }

  execProbe(
    process: ContainerProcess | undefined,
    command: readonly string[],
    timeoutMs: number,
  ): Promise<ProbeResult> {
    if (process === undefined) return Promise.resolve({ ok: false, message: "the container does not run" });
    return new Promise((resolve) => {
      const spec = this.#execSpec(process, command, { stdin: false, tty: false });
      const [program, ...fixed] = this.#options.sandboxCommand;
      const child = spawn(program, [...fixed, "exec", spec], {
        stdio: ["ignore", "pipe", "pipe", "pipe"],
        timeout: timeoutMs,
      });
      let output = "";
      for (const stream of [child.stdout, child.stdio[3]])
        stream?.on("data", (chunk) => {
          output += chunk;
        });
      child.once("error", (error) => resolve({ ok: false, message: errorText(error) }));
      child.once("close", (code) => resolve({ ok: code === 0, message: output.trim() }));
    });
  }

  async stream(how: string, namespace: string, name: string, query: URLSearchParams, upgrade: Upgrade): Promise<void> {
    const worker = this.#worker(namespace, name);
    if (how === "portforward") {
      const netns = worker.sandbox === "" ? "/proc/self/ns/net" : `/run/netns/${worker.sandbox}`;
      return servePortForward(upgrade, (port) => helper(this.#options.sandboxCommand, ["dial", netns, String(port)]));
    }
    const containerName = this.#containerName(worker.pod, query);
    const process = worker.processOf(containerName);
    if (process === undefined) throw new ApiError(500, "InternalError", `container not found ("${containerName}")`);
    const streams = streamsOf(query);
    if (how === "attach") {
      return serveAttach(
        upgrade,
        { ...streams, stdin: streams.stdin && process.spec.stdin },
        (path) => this.sandbox.attach(process.spec.container, path),
        (rows, columns) => void this.sandbox.resize(process.spec.container, rows, columns),
      );
    }
    const command = query.getAll("command");
    if (command.length === 0) throw badRequest("you must specify at least 1 command to run");
    const spec = this.#execSpec(process, command, streams);
    return serveCommand(upgrade, streams, () => helper(this.#options.sandboxCommand, ["exec", spec]));
  }

  proxy(ask: ResourceRequest): Promise<void> {
    return serveProxy(this.registry, ask);
  }
}
