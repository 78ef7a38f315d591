// The node: runs the pods that are assigned to it, and serves their logs and exec streams to the API.
import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { createReadStream, existsSync, rmSync, statSync, watch } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { errorText } from "@lateen/base";
import { WebSocket, WebSocketServer } from "ws";
import { ApiError, badRequest, notFound } from "../api/errors.ts";
import { builtIn } from "../api/kinds.ts";
import { type Container, newMeta, type Pod, timestamp } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import type { NodePort } from "../api/server.ts";
import type { SandboxClient } from "../sandbox/client.ts";
import { BASE_ENV, findImage, type Programs } from "./images.ts";
import { PodWorker, WRITE_RETRY_MS } from "./pod-worker.ts";
import type { ProbeResult } from "./probes.ts";
import { PODS_FOLDER, type Volumes } from "./volumes.ts";

/** What every pod worker uses of the node. */
export interface NodeContext {
  readonly registry: Registry;
  readonly sandbox: SandboxClient;
  readonly programs: Programs;
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
const FINISHED = new Set(["Succeeded", "Failed"]);
const LOG_POLL_MS = 200;

/** WebSocket channels of the remote command protocol (v5.channel.k8s.io). */
const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 } as const;

export class Kubelet implements NodePort, NodeContext {
  readonly registry: Registry;
  readonly sandbox: SandboxClient;
  readonly programs: Programs;
  readonly volumes: Volumes;
  readonly logsFolder: string;
  readonly address: string;
  readonly gateway: string;
  readonly dnsAddress: string;
  readonly owners = new Map<string, PodWorker>();
  readonly #options: KubeletOptions;
  readonly #workers = new Map<string, PodWorker>();
  readonly #sockets = new WebSocketServer({
    noServer: true,
    handleProtocols: (offered) => (offered.has("v5.channel.k8s.io") ? "v5.channel.k8s.io" : false),
  });

  constructor(options: KubeletOptions) {
    this.#options = options;
    this.registry = options.registry;
    this.sandbox = options.sandbox;
    this.programs = options.programs;
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
    const status = {
      addresses: [
        { type: "InternalIP", address: this.address },
        { type: "Hostname", address: nodeName },
      ],
      conditions: [
        {
          type: "Ready",
          status: "True",
          reason: "KubeletReady",
          message: "the node runs pods as processes",
          lastHeartbeatTime: now,
          lastTransitionTime: now,
        },
      ],
      nodeInfo: {
        kubeletVersion: "v1.34.1+lateen",
        kubeProxyVersion: "v1.34.1+lateen",
        osImage: "Lateen embedded node",
        kernelVersion: (await import("node:os")).release(),
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
    const worker = this.#workers.get(pod.metadata.uid);
    const current = join(this.logsFolder, `${namespace}_${name}_${pod.metadata.uid}`, `${container}.log`);
    const isPrevious = query.get("previous") === "true";
    const file = isPrevious ? `${current}.previous1` : current;
    if (!existsSync(file)) {
      if (isPrevious) throw badRequest(`previous terminated container "${container}" in pod "${name}" not found`);
      const reason = worker?.stateOf(container)?.waiting?.reason ?? "ContainerCreating";
      throw badRequest(`container "${container}" in pod "${name}" is waiting to start: ${reason}`);
    }
    const since = sinceTime(query);
    const withTime = query.get("timestamps") === "true";
    const present = await readLines(file);
    const wanted = present.lines.filter((line) => since === undefined || Date.parse(line.slice(0, 30)) >= since);
    const tail = query.get("tailLines");
    const shown = tail === null ? wanted : wanted.slice(Math.max(0, wanted.length - Number(tail)));
    response.writeHead(200, { "content-type": "text/plain" });
    response.write(shown.map((line) => `${plainLine(line, withTime)}\n`).join(""));
    if (query.get("follow") !== "true" || isPrevious) {
      response.end();
      return;
    }
    const isLive = (): boolean => worker?.stateOf(container)?.running !== undefined;
    await followLines(file, present.bytes, isLive, response, (line) => plainLine(line, withTime));
  }

  #execSpec(
    pid: number,
    container: Container,
    command: readonly string[],
    streams: { stdin: boolean; tty: boolean },
  ): string {
    const security = container.securityContext ?? {};
    const uid = security.runAsUser ?? findImage(container.image)?.uid ?? 0;
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
      ...streams,
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

  async exec(
    namespace: string,
    name: string,
    query: URLSearchParams,
    upgrade: { request: IncomingMessage; socket: Duplex; head: Buffer },
  ): Promise<void> {
    const worker = this.#worker(namespace, name);
    const containerName = this.#containerName(worker.pod, query);
    const running = worker.runningContainer(containerName);
    if (running === undefined) throw new ApiError(500, "InternalError", `container not found ("${containerName}")`);
    const command = query.getAll("command");
    if (command.length === 0) throw badRequest("you must specify at least 1 command to run");
    if (!(upgrade.request.headers["sec-websocket-protocol"] ?? "").includes("v5.channel.k8s.io")) {
      throw badRequest("the server speaks the v5.channel.k8s.io protocol over WebSocket (kubectl 1.30 and newer)");
    }
    const streams = { stdin: query.get("stdin") === "true", tty: query.get("tty") === "true" };
    const spec = this.#execSpec(running.pid, running.container, command, streams);
    this.#sockets.handleUpgrade(upgrade.request, upgrade.socket, upgrade.head, (socket) =>
      this.#serveExec(socket, spec, streams.stdin),
    );
  }

  #serveExec(socket: WebSocket, spec: string, hasStdin: boolean): void {
    const child = spawn("python3", ["-I", "-S", this.#options.sandboxScript, "exec", spec], {
      stdio: ["pipe", "pipe", "pipe", "pipe"],
    });
    const control = child.stdio[3] as Duplex;
    const stdin = child.stdin;
    const send = (channel: number, data: Buffer): void => {
      if (socket.readyState === WebSocket.OPEN) socket.send(Buffer.concat([Buffer.of(channel), data]));
    };
    for (const stream of [stdin, control]) stream.on("error", () => {});
    if (!hasStdin) stdin.end();
    child.stdout.on("data", (data: Buffer) => send(CHANNEL.stdout, data));
    child.stderr.on("data", (data: Buffer) => send(CHANNEL.stderr, data));
    socket.on("message", (data: Buffer) => {
      const channel = data[0];
      if (channel === CHANNEL.stdin) stdin.write(data.subarray(1));
      else if (channel === CHANNEL.resize) control.write(`${data.subarray(1).toString("utf8").trim()}\n`);
      else if (channel === CHANNEL.close && data[1] === CHANNEL.stdin) stdin.end();
    });
    socket.on("close", () => child.kill("SIGKILL"));
    socket.on("error", () => child.kill("SIGKILL"));
    child.once("close", (code, signal) => {
      const exitCode = code ?? (signal === null ? 1 : 137);
      send(CHANNEL.error, Buffer.from(JSON.stringify(exitStatus(exitCode))));
      socket.close(1000);
    });
  }
}

function exitStatus(code: number): Record<string, unknown> {
  if (code === 0) return { metadata: {}, status: "Success" };
  return {
    metadata: {},
    status: "Failure",
    message: `command terminated with non-zero exit code: exit status ${code}`,
    reason: "NonZeroExitCode",
    details: { causes: [{ reason: "ExitCode", message: String(code) }] },
  };
}

function sinceTime(query: URLSearchParams): number | undefined {
  const seconds = query.get("sinceSeconds");
  if (seconds !== null) return Date.now() - Number(seconds) * 1000;
  const time = query.get("sinceTime");
  return time === null ? undefined : Date.parse(time);
}

/** A log line as written by PID 1 is `TIME STREAM F text`. */
function plainLine(line: string, withTime: boolean): string {
  const time = line.indexOf(" ");
  const text = line.slice(line.indexOf(" F ", time) + 3);
  return withTime ? `${line.slice(0, time)} ${text}` : text;
}

async function readLines(file: string): Promise<{ lines: string[]; bytes: number }> {
  const chunks: Buffer[] = [];
  for await (const chunk of createReadStream(file)) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks);
  const lines = text.toString("utf8").split("\n");
  lines.pop();
  return { lines, bytes: text.lastIndexOf(10) + 1 };
}

/** Sends lines as they are written, until the container has ended or the client leaves. */
async function followLines(
  file: string,
  from: number,
  isLive: () => boolean,
  response: ServerResponse,
  render: (line: string) => string,
): Promise<void> {
  let position = from;
  let wake: () => void = () => {};
  const watcher = watch(file, () => wake());
  watcher.on("error", () => {});
  response.once("close", () => wake());
  try {
    while (!response.destroyed && existsSync(file)) {
      const wasLive = isLive();
      if (statSync(file).size < position) position = 0;
      const chunks: Buffer[] = [];
      for await (const chunk of createReadStream(file, { start: position })) chunks.push(chunk as Buffer);
      const data = Buffer.concat(chunks);
      const end = data.lastIndexOf(10) + 1;
      if (end > 0) {
        position += end;
        const lines = data.subarray(0, end).toString("utf8").split("\n").slice(0, -1);
        response.write(lines.map((line) => `${render(line)}\n`).join(""));
        continue;
      }
      if (!wasLive) break;
      // The watcher wakes this up; the limit is for the end of the container, which writes nothing.
      await new Promise<void>((resolve) => {
        wake = resolve;
        setTimeout(resolve, LOG_POLL_MS);
      });
    }
  } finally {
    watcher.close();
    response.end();
  }
}
