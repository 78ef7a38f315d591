// The node: runs the pods that are assigned to it, and serves their logs and exec streams to the API.
import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { existsSync, rmSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { availableParallelism, release, totalmem } from "node:os";
import { join } from "node:path";
import { errorText } from "@lateen/base";
import { ApiError, badRequest, notFound } from "../api/errors.ts";
import { builtIn } from "../api/kinds.ts";
import { type Container, newMeta, type Pod, timestamp } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import type { NodePort, ResourceRequest } from "../api/server.ts";
import type { SandboxClient } from "../sandbox/client.ts";
import { BASE_ENV, type ImageTable, type Programs } from "./images.ts";
import { followOutput, serveLog } from "./logs.ts";
import { PodWorker, WRITE_RETRY_MS } from "./pod-worker.ts";
import type { ProbeResult } from "./probes.ts";
import { serveProxy } from "./proxy.ts";
import { helper, serveAttach, serveCommand, servePortForward, streamsOf, type Upgrade } from "./streams.ts";
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
  execProbe(pid: number, container: Container, command: readonly string[], timeoutMs: number): Promise<ProbeResult>;
}

export interface KubeletOptions extends Omit<NodeContext, "owners" | "execProbe"> {
  readonly nodeName: string;
  readonly sandboxScript: string;
}

const PODS = builtIn("pods");
const POD_PREFIX = "10.244.";
const PODS_MAX = 250;
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
  constructor(options: KubeletOptions) {
    this.#options = options;
    this.registry = options.registry;
    this.sandbox = options.sandbox;
    this.programs = options.programs;
    this.images = options.images;
    this.volumes = options.volumes;
    this.logsFolder = options.logsFolder;
    this.address = options.address;
    this.gateway = options.gateway;
    this.dnsAddress = options.dnsAddress;
    options.sandbox.onExit = ({ container, code, signal }) =>
      this.owners.get(container)?.exited(container, code, signal);
  }

  /** Registers the node and takes up its pods; from here on changes drive it. */
  async start(): Promise<void> {
    await this.#registerNode();
    rmSync(PODS_FOLDER, { recursive: true, force: true });
    for (const pod of this.registry.list(PODS) as Pod[]) this.#sync(pod);
    this.registry.store.subscribe("pods", (event) => {
      if (event.type === "DELETED") this.#gone(event.object as Pod);
      else this.#sync(event.object as Pod);
    });
  }

  async #registerNode(): Promise<void> {
    const { nodeName } = this.#options;
    const kind = builtIn("nodes");
    const labels = {
      "kubernetes.io/hostname": nodeName,
      "kubernetes.io/os": "linux",
      "kubernetes.io/arch": process.arch === "arm64" ? "arm64" : "amd64",
      "node-role.kubernetes.io/control-plane": "",
    };
    const now = timestamp();
    const capacity = {
      cpu: String(availableParallelism()),
      "ephemeral-storage": "64Gi",
      memory: `${Math.floor(totalmem() / 1024)}Ki`,
      pods: String(PODS_MAX),
    };
    const condition = (type: string, isTrue: boolean, reason: string, message: string): Record<string, string> => ({
      type,
      status: isTrue ? "True" : "False",
      lastHeartbeatTime: now,
      lastTransitionTime: now,
      reason,
      message,
    });
    const status = {
      capacity,
      allocatable: capacity,
      addresses: [
        { type: "InternalIP", address: this.address },
        { type: "Hostname", address: nodeName },
      ],
      conditions: [
        condition("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
      ],
      nodeInfo: {
        kubeletVersion: "v1.34.1+lateen",
        kubeProxyVersion: "v1.34.1+lateen",
        osImage: "Lateen embedded node",
        kernelVersion: release(),
        containerRuntimeVersion: "lateen://0.1.0",
        architecture: labels["kubernetes.io/arch"],
        operatingSystem: "linux",
        bootID: "",
        machineID: "",
        systemUUID: "",
      },
    };
    if (this.registry.find(kind, undefined, nodeName) === undefined) {
      await this.registry.create(kind, undefined, {
        apiVersion: "v1",
        kind: "Node",
        metadata: newMeta(nodeName, undefined, labels),
        spec: { podCIDR: "10.244.0.0/16" },
      });
    }
    await this.registry.update(kind, undefined, nodeName, (node) => ({ ...node, status }), { subresource: "status" });
  }

  #freeAddress(): string {
    const used = new Set([...this.#workers.values()].map((worker) => worker.address));
    for (;;) {
      const address = `${POD_PREFIX}${randomInt(0, 255)}.${randomInt(2, 254)}`;
      if (!used.has(address) && address !== this.address) return address;
    }
  }

  #sync(pod: Pod): void {
    if (pod.spec.nodeName !== this.#options.nodeName) return;
    const worker = this.#workers.get(pod.metadata.uid);
    if (pod.metadata.deletionTimestamp !== undefined) {
      if (worker === undefined) void this.#remove(pod);
      else if (!worker.pod.metadata.deletionTimestamp) void this.#stop(worker, pod);
      return;
    }
    if (worker !== undefined) {
      worker.update(pod);
      return;
    }
    if (FINISHED.has(pod.status.phase)) return;
    const started = new PodWorker(this, pod, this.#freeAddress());
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
    const all = [...pod.spec.containers, ...(pod.spec.initContainers ?? [])].map((container) => container.name);
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
    pid: number,
    container: Container,
    command: readonly string[],
    { stdin, tty }: { readonly stdin: boolean; readonly tty: boolean },
  ): string {
    const security = container.securityContext ?? {};
    const uid = security.runAsUser ?? this.images.find(container.image)?.uid ?? 0;
    const plain = Object.fromEntries(
      (container.env ?? []).filter((entry) => entry.value !== undefined).map((entry) => [entry.name, entry.value]),
    );
    return JSON.stringify({
      pid,
      args: command,
      env: { ...BASE_ENV, TERM: "xterm", ...plain },
      cwd: container.workingDir ?? "/",
      uid,
      gid: security.runAsGroup ?? uid,
      addCapabilities: security.capabilities?.add ?? [],
      dropCapabilities: security.capabilities?.drop ?? [],
      stdin,
      tty,
    });
  }

  execProbe(pid: number, container: Container, command: readonly string[], timeoutMs: number): Promise<ProbeResult> {
    return new Promise((resolve) => {
      const spec = this.#execSpec(pid, container, command, { stdin: false, tty: false });
      const child = spawn("python3", ["-I", "-S", this.#options.sandboxScript, "exec", spec], {
        stdio: ["ignore", "pipe", "pipe", "pipe"],
        timeout: timeoutMs,
      });
      let output = "";
      child.stdout?.on("data", (chunk) => {
        output += chunk;
      });
      child.once("error", (error) => resolve({ ok: false, message: errorText(error) }));
      child.once("close", (code) => resolve({ ok: code === 0, message: output.trim() }));
    });
  }

  async stream(how: string, namespace: string, name: string, query: URLSearchParams, upgrade: Upgrade): Promise<void> {
    const worker = this.#worker(namespace, name);
    if (how === "portforward") {
      const netns = `/run/netns/${worker.sandbox}`;
      return servePortForward(upgrade, (port) => helper(this.#options.sandboxScript, ["dial", netns, String(port)]));
    }
    const containerName = this.#containerName(worker.pod, query);
    const running = worker.runningContainer(containerName);
    if (running === undefined) throw new ApiError(500, "InternalError", `container not found ("${containerName}")`);
    const streams = streamsOf(query);
    if (how === "attach") {
      const isLive = (): boolean => worker.stateOf(containerName)?.running !== undefined;
      return serveAttach(upgrade, streams, (stdout, stderr) =>
        followOutput(worker.logFile(containerName), isLive, stdout, stderr),
      );
    }
    const command = query.getAll("command");
    if (command.length === 0) throw badRequest("you must specify at least 1 command to run");
    const spec = this.#execSpec(running.pid, running.container, command, streams);
    return serveCommand(upgrade, streams, () => helper(this.#options.sandboxScript, ["exec", spec]));
  }

  proxy(ask: ResourceRequest): Promise<void> {
    return serveProxy(this.registry, ask);
  }
}
