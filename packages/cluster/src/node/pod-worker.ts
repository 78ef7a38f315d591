// The life of one pod on the node: sandbox, volumes, init containers, containers, probes, restarts, the end.
// One worker per pod; its state is what runs, the pod's status is written from it. States of a container:
// waiting -> running -> terminated -> (by restart policy, after a back-off) waiting ...
import { chmodSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { errorText } from "@lateen/base";
import { ApiError } from "../api/errors.ts";
import { recordEvent } from "../api/events.ts";
import { builtIn } from "../api/kinds.ts";
import { type Container, type ContainerState, type Pod, type Probe, timestamp } from "../api/objects.ts";
import type { ContainerExit } from "../sandbox/client.ts";
import { containerSpec, hostnameOf, UnknownImage } from "./container-spec.ts";
import type { NodeContext } from "./kubelet.ts";
import { type ContainerProcess, isSidecar, podStatus, type Running, terminationMessage } from "./pod-status.ts";
import { type ProbeResult, Prober, runProbe } from "./probes.ts";
import { PODS_FOLDER, VolumeNotReady } from "./volumes.ts";

const PODS = builtIn("pods");
const SIGTERM = 15;
const SIGKILL = 9;
const BACKOFF_FIRST_MS = 10_000;
const BACKOFF_MAX_MS = 300_000;
const BACKOFF_FORGET_MS = 600_000;
const RETRY_MS = 250;
/** A container that lacks something (a key of a ConfigMap) tries again soon, and always as soon. */
const CONFIG_ERROR = "CreateContainerConfigError";
const CONFIG_RETRY_MS = 2_000;
/** Pause before what the store could not keep, on a full disk, is written again. */
export const WRITE_RETRY_MS = 1_000;
/** A postStart hook that takes longer counts as failed. */
const HOOK_LIMIT_SECONDS = 120;
const LOG_GENERATIONS = 2;

export class PodWorker {
  readonly #node: NodeContext;
  #pod: Pod;
  readonly #address: string;
  readonly #hostAddress: string;
  readonly #containers: Running[];
  #stopping = false;
  #initialized = false;
  #timers = new Set<NodeJS.Timeout>();
  #statusRunning = false;
  #statusDirty = false;
  #startTime: string;

  constructor(node: NodeContext, pod: Pod, addresses: { readonly host: string; readonly pod: string }) {
    this.#node = node;
    this.#pod = pod;
    this.#address = addresses.pod;
    this.#hostAddress = addresses.host;
    this.#startTime = pod.status.startTime ?? timestamp();
    const hasInit = (pod.spec.initContainers ?? []).length > 0;
    this.#containers = [
      ...(pod.spec.initContainers ?? []).map((container) =>
        this.#entry(container, "initContainers", "PodInitializing"),
      ),
      ...pod.spec.containers.map((container) =>
        this.#entry(container, "containers", hasInit ? "PodInitializing" : "ContainerCreating"),
      ),
    ];
  }

  #entry(container: Container, list: Running["list"], reason: string): Running {
    const { containerStatuses = [], initContainerStatuses = [] } = this.#pod.status;
    const old = [...containerStatuses, ...initContainerStatuses].find(({ name }) => name === container.name);
    return {
      container,
      list,
      id: "",
      process: undefined,
      state: { waiting: { reason } },
      lastState: {},
      // After a restart of the instance the containers are new ones of the same pod.
      restartCount: old?.containerID === undefined ? 0 : old.restartCount + 1,
      started: false,
      ready: false,
      isStarting: false,
      earlyExit: undefined,
      probers: [],
      backoffMs: 0,
      startedAtMs: 0,
      onExit: undefined,
    };
  }

  get address(): string {
    return this.#address;
  }

  get pod(): Pod {
    return this.#pod;
  }

  /** Name of the pod's network namespace: unique, at most 14 characters. Empty: it is in that of its node. */
  get sandbox(): string {
    if (this.#pod.spec["hostNetwork"] === true) return "";
    return `p${this.#pod.metadata.uid.replaceAll("-", "").slice(0, 12)}`;
  }

  /** The process of a running container, for those who enter it. */
  processOf(name: string): ContainerProcess | undefined {
    const found = this.#containers.find((running) => running.container.name === name);
    return found?.state.running === undefined ? undefined : found.process;
  }

  stateOf(name: string): ContainerState | undefined {
    return this.#containers.find((running) => running.container.name === name)?.state;
  }

  logFile(container: string): string {
    const { namespace, name, uid } = this.#pod.metadata;
    return join(this.#node.logsFolder, `${namespace}_${name}_${uid}`, `${container}.log`);
  }

  /** The object has changed: labels and the like for the downward API, ephemeral containers to be started. */
  update(pod: Pod): void {
    this.#pod = pod;
    const known = new Set(this.#containers.map(({ container }) => container.name));
    for (const container of pod.spec.ephemeralContainers ?? []) {
      if (known.has(container.name) || this.#stopping) continue;
      const entry = this.#entry(container, "ephemeralContainers", "ContainerCreating");
      this.#containers.push(entry);
      void this.#start(entry);
    }
  }

  /** Brings the pod up and keeps it up. Returns when its containers have been started, or it was stopped. */
  async run(): Promise<void> {
    try {
      if (this.sandbox !== "") await this.#node.sandbox.createSandbox(this.sandbox, this.#address, this.#node.gateway);
      this.#writeEtc();
      this.#pod.status = { ...this.#pod.status, podIP: this.#address, hostIP: this.#hostAddress };
      this.#changed();
      if (!(await this.#prepareVolumes())) return;
      for (const running of this.#containers.filter(({ list }) => list === "initContainers")) {
        if (!(await this.#runInit(running))) return;
      }
      this.#initialized = true;
      await Promise.all(
        this.#containers.filter(({ list }) => list === "containers").map((entry) => this.#start(entry)),
      );
      this.#changed();
    } catch (error) {
      await recordEvent(this.#node.registry, this.#pod, "kubelet", {
        type: "Warning",
        reason: "FailedCreatePodSandBox",
        message: errorText(error),
      });
    }
  }

  #writeEtc(): void {
    const etc = join(PODS_FOLDER, this.#pod.metadata.uid, "etc");
    mkdirSync(etc, { recursive: true });
    const { namespace } = this.#pod.metadata;
    const hostname = hostnameOf(this.#pod);
    const search = `${namespace}.svc.cluster.local svc.cluster.local cluster.local`;
    writeFileSync(join(etc, "hostname"), `${hostname}\n`);
    writeFileSync(join(etc, "resolv.conf"), `search ${search}\nnameserver ${this.#node.dnsAddress}\noptions ndots:5\n`);
    writeFileSync(
      join(etc, "hosts"),
      `# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n${this.#address}\t${hostname}\n`,
    );
  }

  /** Writes the volumes, waiting for what they need. False when the pod was stopped meanwhile. */
  async #prepareVolumes(): Promise<boolean> {
    for (;;) {
      try {
        this.#refreshVolumes();
        return true;
      } catch (error) {
        const message = `MountVolume.SetUp failed: ${errorText(error)}`;
        await recordEvent(this.#node.registry, this.#pod, "kubelet", {
          type: "Warning",
          reason: "FailedMount",
          message,
        });
      }
      if (!(await this.#pause(RETRY_MS))) return false;
    }
  }

  #refreshVolumes(): void {
    const seconds = this.#node.volumes.prepare(this.#pod);
    if (seconds === undefined) return;
    this.#later(seconds * 1000, () => {
      try {
        this.#refreshVolumes();
      } catch (error) {
        process.stderr.write(`node: volumes of ${this.#pod.metadata.name}: ${errorText(error)}\n`);
      }
    });
  }

  #later(delayMs: number, action: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (!this.#stopping) action();
    }, delayMs);
    this.#timers.add(timer);
  }

  /** Waits; false when the pod is being stopped. */
  async #pause(delayMs: number): Promise<boolean> {
    if (this.#stopping) return false;
    await new Promise<void>((resolve) => this.#later(delayMs, resolve));
    return !this.#stopping;
  }

  /** Runs one init container to its end (a native sidecar: until it has started). False when the pod goes no further. */
  async #runInit(running: Running): Promise<boolean> {
    for (;;) {
      const ended = new Promise<void>((resolve) => {
        running.onExit = resolve;
      });
      const isUp = await this.#start(running);
      if (isUp && isSidecar(running.container)) {
        running.onExit = undefined;
        return this.#untilStarted(running);
      }
      if (isUp) await ended;
      if (this.#stopping) return false;
      if (isUp && running.state.terminated?.exitCode === 0) return true;
      if (isUp && this.#pod.spec.restartPolicy === "Never") {
        this.#changed();
        return false;
      }
      if (!(await this.#backOff(running))) return false;
    }
  }

  async #untilStarted(running: Running): Promise<boolean> {
    while (!running.started) if (!(await this.#pause(20))) return false;
    return true;
  }

  /** Starts a container; false when it could not be started (the reason is in its state). */
  async #start(running: Running): Promise<boolean> {
    const { container } = running;
    const generation = running.restartCount;
    running.id = `${this.#pod.metadata.uid}/${container.name}/${generation}`;
    const log = this.logFile(container.name);
    try {
      mkdirSync(join(log, ".."), { recursive: true });
      this.#rotateLog(log);
      const spec = containerSpec({
        store: this.#node.registry.store,
        programs: this.#node.programs,
        images: this.#node.images,
        pod: this.#pod,
        container,
        sandbox: this.sandbox,
        id: running.id,
        log,
        messageFile: this.#messageFile(running),
        target: this.#containers.find((entry) => entry.container.name === container.targetContainerName)?.id,
      });
      writeFileSync(log, "");
      mkdirSync(join(this.#messageFile(running), ".."), { recursive: true });
      writeFileSync(this.#messageFile(running), "");
      // For whatever user it runs as.
      chmodSync(this.#messageFile(running), 0o666);
      this.#node.owners.set(running.id, this);
      running.isStarting = true;
      running.earlyExit = undefined;
      running.process = { ...(await this.#node.sandbox.start(spec)), spec };
      running.isStarting = false;
    } catch (error) {
      running.isStarting = false;
      await this.#failedToStart(running, error);
      return false;
    }
    void this.#tell(running, "Normal", "Pulled", `Container image "${container.image}" already present on machine`);
    void this.#tell(running, "Normal", "Created", `Created container: ${container.name}`);
    void this.#tell(running, "Normal", "Started", `Started container ${container.name}`);
    running.state = { running: { startedAt: timestamp() } };
    running.startedAtMs = performance.now();
    const early = this.#earlyExit(running);
    if (early !== undefined) {
      setImmediate(() => this.exited(early));
      this.#changed();
      return true;
    }
    const { postStart } = container.lifecycle ?? {};
    if (postStart !== undefined && !(await this.#hook(running, "PostStart", postStart, HOOK_LIMIT_SECONDS)))
      await this.#node.sandbox.kill(running.id, SIGTERM);
    if (running.state.running === undefined) return true;
    running.started = container.startupProbe === undefined;
    running.ready = container.readinessProbe === undefined && running.started;
    this.#probe(running);
    this.#changed();
    return true;
  }

  /** Read through a function: it is set while its start is awaited. */
  #earlyExit(running: Running): Running["earlyExit"] {
    return running.earlyExit;
  }

  #messageFile(running: Running): string {
    return join(PODS_FOLDER, this.#pod.metadata.uid, "messages", running.container.name);
  }

  #rotateLog(log: string): void {
    for (let i = LOG_GENERATIONS; i > 0; i--) {
      try {
        renameSync(i === 1 ? log : `${log}.previous${i - 1}`, `${log}.previous${i}`);
      } catch {
        // not there: nothing to keep
      }
    }
  }

  async #failedToStart(running: Running, error: unknown): Promise<void> {
    const isImage = error instanceof UnknownImage;
    const reason = isImage
      ? "ErrImagePull"
      : error instanceof VolumeNotReady || errorText(error).startsWith("failed to prepare subPath")
        ? CONFIG_ERROR
        : "RunContainerError";
    const message = isImage
      ? `image "${running.container.image}" is not in the image table; the embedded cluster runs known images only and those added to it: lateen image add ${running.container.image} -- COMMAND`
      : errorText(error);
    running.state = { waiting: { reason, message } };
    running.ready = false;
    this.#changed();
    await recordEvent(this.#node.registry, this.#pod, "kubelet", {
      type: "Warning",
      reason: "Failed",
      message: isImage ? message : `Error: ${message}`,
    });
    if (running.list === "containers")
      void this.#backOff(running).then((goesOn) => (goesOn ? this.#start(running) : undefined));
  }

  #probe(running: Running): void {
    const { container } = running;
    const run = (probe: NonNullable<Container["startupProbe"]>) => (): Promise<ProbeResult> =>
      runProbe(probe, container, this.#address, (command, timeoutMs) =>
        this.#node.execProbe(running.process, command, timeoutMs),
      );
    const { startupProbe, readinessProbe, livenessProbe } = container;
    const begin = (): void => {
      if (readinessProbe !== undefined) {
        running.probers.push(
          new Prober(readinessProbe, run(readinessProbe), (ok) => {
            running.ready = ok;
            this.#changed();
          }),
        );
      } else running.ready = true;
      if (livenessProbe !== undefined) {
        running.probers.push(
          new Prober(livenessProbe, run(livenessProbe), (ok, message) => {
            if (!ok) void this.#kill(running, `Liveness probe failed: ${message}`);
          }),
        );
      }
    };
    if (startupProbe === undefined) {
      begin();
      return;
    }
    const prober = new Prober(startupProbe, run(startupProbe), (ok, message) => {
      prober.stop();
      if (!ok) {
        void this.#kill(running, `Startup probe failed: ${message}`);
        return;
      }
      running.started = true;
      begin();
      this.#changed();
    });
    running.probers.push(prober);
  }

  /** Runs a lifecycle hook to its end. False, with an event: it failed. */
  async #hook(running: Running, name: string, handler: Probe, limitSeconds: number): Promise<boolean> {
    if (handler.sleep !== undefined) {
      await delay(Math.min(handler.sleep.seconds, limitSeconds) * 1000);
      return true;
    }
    const probe = { ...handler, timeoutSeconds: limitSeconds };
    const { ok, message } = await runProbe(probe, running.container, this.#address, (command, timeoutMs) =>
      this.#node.execProbe(running.process, command, timeoutMs),
    );
    if (!ok) await this.#tell(running, "Warning", `Failed${name}Hook`, `${name}Hook failed: ${message}`);
    return ok;
  }

  /** An event about one container. */
  #tell(running: Running, type: "Normal" | "Warning", reason: string, message: string): Promise<void> {
    const fieldPath = `spec.${running.list}{${running.container.name}}`;
    return recordEvent(this.#node.registry, this.#pod, "kubelet", { type, reason, message, fieldPath });
  }

  async #kill(running: Running, message: string): Promise<void> {
    await recordEvent(this.#node.registry, this.#pod, "kubelet", { type: "Warning", reason: "Unhealthy", message });
    await this.#node.sandbox.kill(running.id, SIGTERM);
    const { id } = running;
    this.#later(
      (this.#pod.spec.terminationGracePeriodSeconds ?? 30) * 1000,
      () => void this.#node.sandbox.kill(id, SIGKILL),
    );
  }

  /** A container of this pod has ended. */
  exited(exit: ContainerExit): void {
    const { container: id, code, signal } = exit;
    const running = this.#containers.find((entry) => entry.id === id);
    if (running === undefined) return;
    if (running.isStarting) {
      running.earlyExit = exit;
      return;
    }
    for (const prober of running.probers.splice(0)) prober.stop();
    const startedAt = running.state.running?.startedAt ?? timestamp();
    const message = terminationMessage(running, code, this.#messageFile(running), this.logFile(running.container.name));
    running.state = {
      terminated: {
        exitCode: code,
        ...(signal === 0 ? {} : { signal }),
        reason: exit.isOutOfMemory ? "OOMKilled" : code === 0 ? "Completed" : "Error",
        ...(message === "" ? {} : { message }),
        startedAt,
        finishedAt: timestamp(),
        containerID: `lateen://${id}`,
      },
    };
    running.ready = false;
    running.started = false;
    this.#changed();
    running.onExit?.();
    if (running.onExit !== undefined) {
      running.onExit = undefined;
      return;
    }
    if (running.list === "ephemeralContainers") return;
    const policy = isSidecar(running.container) ? "Always" : this.#pod.spec.restartPolicy;
    if (this.#stopping || policy === "Never" || (policy === "OnFailure" && code === 0)) return;
    void this.#backOff(running).then((goesOn) => (goesOn ? this.#start(running) : undefined));
  }

  /** Waits as the kubelet does before a restart: at once the first time, then 10 s, 20 s ... 5 min. */
  async #backOff(running: Running): Promise<boolean> {
    const hasRun = running.state.terminated !== undefined;
    const ranMs = performance.now() - running.startedAtMs;
    if (ranMs > BACKOFF_FORGET_MS) running.backoffMs = 0;
    const isConfig = running.state.waiting?.reason === CONFIG_ERROR;
    const wait = isConfig ? CONFIG_RETRY_MS : running.backoffMs;
    running.backoffMs = isConfig ? 0 : wait === 0 ? BACKOFF_FIRST_MS : Math.min(wait * 2, BACKOFF_MAX_MS);
    if (wait > 0) {
      const { terminated, waiting } = running.state;
      if (terminated !== undefined) running.lastState = { terminated };
      const { reason, message = "" } = waiting ?? {};
      const back = `back-off ${wait / 1000}s restarting failed container=${running.container.name}`;
      if (reason === "ErrImagePull") running.state = { waiting: { reason: "ImagePullBackOff", message } };
      else if (reason !== CONFIG_ERROR && reason !== "ImagePullBackOff")
        running.state = { waiting: { reason: "CrashLoopBackOff", message: back } };
      this.#changed();
      if (!(await this.#pause(wait))) return false;
    }
    if (running.state.terminated !== undefined) running.lastState = { terminated: running.state.terminated };
    if (hasRun) running.restartCount += 1;
    return !this.#stopping;
  }

  /** Ends the pod: preStop, SIGTERM, SIGKILL after the grace period; frees everything. */
  async stop(graceSeconds: number): Promise<void> {
    this.#stopping = true;
    for (const timer of this.#timers) clearTimeout(timer);
    const live = this.#containers.filter((running) => running.state.running !== undefined);
    for (const running of live) for (const prober of running.probers.splice(0)) prober.stop();
    await Promise.all(live.map((running) => this.#end(running, graceSeconds)));
    await this.#node.sandbox.removeSandbox(this.sandbox, this.#pod.metadata.uid);
    for (const { id } of this.#containers) this.#node.owners.delete(id);
    this.#node.volumes.remove(this.#pod);
  }

  async #end(running: Running, graceSeconds: number): Promise<void> {
    const gone = new Promise<void>((resolve) => {
      running.onExit = resolve;
    });
    const { preStop } = running.container.lifecycle ?? {};
    if (preStop !== undefined && graceSeconds > 0) await this.#hook(running, "PreStop", preStop, graceSeconds);
    await this.#node.sandbox.kill(running.id, graceSeconds > 0 ? SIGTERM : SIGKILL);
    const timer = setTimeout(() => void this.#node.sandbox.kill(running.id, SIGKILL), graceSeconds * 1000);
    await gone;
    clearTimeout(timer);
  }

  /** Writes the status soon; changes meanwhile are written together. */
  #changed(): void {
    this.#statusDirty = true;
    if (!this.#statusRunning) void this.#writeStatus();
  }

  async #writeStatus(): Promise<void> {
    this.#statusRunning = true;
    while (this.#statusDirty) {
      this.#statusDirty = false;
      const { namespace, name, uid } = this.#pod.metadata;
      try {
        await this.#node.registry.update(
          PODS,
          namespace,
          name,
          (current) =>
            current.metadata.uid === uid
              ? { ...current, status: podStatus(current as Pod, this.#containers, this.#facts()) }
              : current,
          { subresource: "status" },
        );
      } catch (error) {
        if (!(error instanceof ApiError) || error.code !== 404)
          process.stderr.write(`node: status of ${name}: ${errorText(error)}\n`);
        if (!(error instanceof ApiError)) {
          this.#statusDirty = true;
          await delay(WRITE_RETRY_MS);
        }
      }
    }
    this.#statusRunning = false;
  }

  #facts(): Parameters<typeof podStatus>[2] {
    return {
      hostAddress: this.#hostAddress,
      address: this.#address,
      startTime: this.#startTime,
      isInitialized: this.#initialized,
    };
  }
}
