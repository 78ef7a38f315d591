// What a pod's status says of its containers, from what runs.
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { jsonEqual } from "@lateen/base";
import {
  type Condition,
  type Container,
  type ContainerState,
  type ContainerStatus,
  type Pod,
  type PodStatus,
  timestamp,
} from "../api/objects.ts";
import type { ContainerExit, ContainerSpec } from "../sandbox/client.ts";
import { fullName } from "./images.ts";
import { plainLine } from "./logs.ts";
import type { Prober } from "./probes.ts";

/** Limits of a termination message, in characters, and of what it takes from the log. */
const MESSAGE_MAX = 4096;
const MESSAGE_LOG_MAX = 2048;
const MESSAGE_LINES = 80;

/** A container's first process, for those who enter it. */
export interface ContainerProcess {
  readonly pid: number;
  /** Its control groups; none where it has no limits. */
  readonly groups: readonly string[];
  readonly spec: ContainerSpec;
}

/** A running or finished container of the pod. */
export interface Running {
  readonly container: Container;
  /** Where the pod's spec has it. */
  readonly list: "initContainers" | "containers" | "ephemeralContainers";
  id: string;
  /** Its process and how it was started; of the last start. */
  process: ContainerProcess | undefined;
  state: ContainerState;
  lastState: ContainerState;
  restartCount: number;
  started: boolean;
  ready: boolean;
  probers: Prober[];
  backoffMs: number;
  startedAtMs: number;
  /** PID 1 has been asked to start it, and has not answered yet. */
  isStarting: boolean;
  /** It ended before its start was told. */
  earlyExit: ContainerExit | undefined;
  onExit: (() => void) | undefined;
}

export const isSidecar = (container: Container): boolean => container.restartPolicy === "Always";

/** What a container said of its end: in its message file, or by its last lines where its policy says so. */
export function terminationMessage(running: Running, code: number, file: string, log: string): string {
  const read = (path: string): string => (existsSync(path) ? readFileSync(path, "utf8") : "");
  const said = read(file).slice(0, MESSAGE_MAX);
  if (said !== "" || code === 0 || running.container.terminationMessagePolicy !== "FallbackToLogsOnError") return said;
  const lines = read(log)
    .split("\n")
    .slice(-MESSAGE_LINES - 1);
  return lines
    .map((line) => plainLine(line, false))
    .join("\n")
    .slice(-MESSAGE_LOG_MAX);
}

const isFullyRun = (running: Running, restartPolicy: string | undefined): boolean =>
  running.state.terminated !== undefined && restartPolicy !== "Always";

function containerStatus(running: Running): ContainerStatus {
  const { container, list, process } = running;
  const isPlainInit = list === "initContainers" && !isSidecar(container);
  const { volumeMounts = [] } = process === undefined ? {} : container;
  return {
    name: container.name,
    image: process === undefined ? container.image : fullName(container.image),
    // There is no digest of what a table names: the name stands for it.
    imageID:
      process === undefined ? "" : `sha256:${createHash("sha256").update(fullName(container.image)).digest("hex")}`,
    ...(process === undefined || list === "ephemeralContainers" ? {} : { resources: container.resources ?? {} }),
    ...(volumeMounts.length === 0
      ? {}
      : {
          volumeMounts: volumeMounts.map(({ name, mountPath, readOnly }) => ({
            name,
            mountPath,
            ...(readOnly === true ? { readOnly, recursiveReadOnly: "Disabled" } : {}),
          })),
        }),
    ...(process === undefined ? {} : { containerID: `lateen://${running.id}` }),
    ready: isPlainInit ? running.state.terminated?.exitCode === 0 : running.ready,
    started: running.started && running.state.running !== undefined,
    restartCount: running.restartCount,
    state: running.state,
    lastState: running.lastState,
  };
}

function phaseOf(main: readonly Running[], restartPolicy: string | undefined): PodStatus["phase"] {
  if (main.length > 0 && main.every((running) => isFullyRun(running, restartPolicy))) {
    const failed = main.some((running) => running.state.terminated?.exitCode !== 0);
    if (!failed || restartPolicy === "Never") return failed ? "Failed" : "Succeeded";
  }
  return main.some((running) => running.startedAtMs > 0) ? "Running" : "Pending";
}

/** The status of a pod; what the node does not know of it stays as in `current`. */
export function podStatus(
  current: Pod,
  containers: readonly Running[],
  on: {
    readonly hostAddress: string;
    readonly address: string;
    readonly startTime: string;
    readonly isInitialized: boolean;
  },
): PodStatus {
  const of = (list: Running["list"]): Running[] => containers.filter((running) => running.list === list);
  const [main, initial, ephemeral] = [of("containers"), of("initContainers"), of("ephemeralContainers")];
  const isReady =
    on.isInitialized &&
    main.every((running) => running.ready) &&
    initial.every((running) => !isSidecar(running.container) || running.ready);
  const phase = phaseOf(main, current.spec.restartPolicy);
  const conditions = [
    ["PodReadyToStartContainers", phase === "Running" || phase === "Pending"],
    ["Initialized", on.isInitialized],
    ["Ready", isReady],
    ["ContainersReady", isReady],
    ["PodScheduled", true],
  ] as const;
  const before = current.status.conditions ?? [];
  const unready = main.filter((running) => !running.ready).map((running) => running.container.name);
  const isOver = phase === "Succeeded" || phase === "Failed";
  const unreadyReason = isOver
    ? { reason: phase === "Succeeded" ? "PodCompleted" : "PodFailed" }
    : { reason: "ContainersNotReady", message: `containers with unready status: [${unready.join(" ")}]` };
  const observedGeneration = current.metadata.generation ?? 1;
  return {
    ...current.status,
    observedGeneration,
    phase,
    hostIP: on.hostAddress,
    hostIPs: [{ ip: on.hostAddress }],
    podIP: on.address,
    podIPs: [{ ip: on.address }],
    startTime: on.startTime,
    conditions: conditions.map(([type, value]): Condition => {
      const status = value ? "True" : "False";
      const old = before.find((condition) => condition.type === type);
      const next: Condition = {
        type,
        observedGeneration,
        status,
        ...(!value && type.endsWith("Ready") ? unreadyReason : {}),
        lastTransitionTime: old?.status === status ? (old.lastTransitionTime ?? timestamp()) : timestamp(),
      };
      return old !== undefined && jsonEqual(old, next) ? old : next;
    }),
    containerStatuses: main.map(containerStatus),
    ...(initial.length === 0 ? {} : { initContainerStatuses: initial.map(containerStatus) }),
    ...(ephemeral.length === 0 ? {} : { ephemeralContainerStatuses: ephemeral.map(containerStatus) }),
  };
}
