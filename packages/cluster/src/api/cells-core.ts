// What the cells of tables share, and those of pods and Services: STATUS, RESTARTS and PORT(S) as kubectl's users know them.
import { formatAge, isObject } from "@lateen/base";
import type { ContainerStatus, KubeObject, LabelSelector, Pod, Service } from "./objects.ts";
import { selectorText } from "./selectors.ts";

export type Cell = string | number | boolean | null;

export const age = (time: string | undefined, now: number): string =>
  time === undefined ? "<unknown>" : formatAge(now - Date.parse(time));
export const ageOf = (object: KubeObject, now: number): string => age(object.metadata.creationTimestamp, now);
export const orNone = (text: string | undefined): string => (text === undefined || text === "" ? "<none>" : text);
export const labelText = (labels: Readonly<Record<string, string>> | undefined): string =>
  orNone(
    Object.entries(labels ?? {})
      .map(([key, value]) => `${key}=${value}`)
      .join(","),
  );
export const images = (containers: readonly { image: string }[]): string =>
  containers.map(({ image }) => image).join(",");
export const names = (containers: readonly { name: string }[]): string => containers.map(({ name }) => name).join(",");

/** The STATUS that kubectl shows for a pod: the most telling reason of its containers. */
function podReason(pod: Pod): string {
  let reason = pod.status.reason ?? pod.status.phase;
  const initial = pod.status.initContainerStatuses ?? [];
  const sidecars = new Set(
    (pod.spec.initContainers ?? []).filter((c) => c.restartPolicy === "Always").map((c) => c.name),
  );
  const stuck = initial.findIndex(
    (status) => status.state.terminated?.exitCode !== 0 && !(sidecars.has(status.name) && status.started),
  );
  if (stuck >= 0) {
    const state = initial[stuck]?.state;
    const failed = state?.terminated;
    const why = failed?.reason ?? state?.waiting?.reason;
    reason = why === undefined || why === "PodInitializing" ? `Init:${stuck}/${initial.length}` : `Init:${why}`;
  } else {
    for (const { state } of (pod.status.containerStatuses ?? []).toReversed()) {
      if (state.waiting?.reason !== undefined) reason = state.waiting.reason;
      else if (state.terminated !== undefined) reason = state.terminated.reason;
    }
    const isUp = (pod.status.containerStatuses ?? []).some((status) => status.ready && status.state.running);
    if (reason === "Completed" && isUp) reason = "Running";
  }
  return pod.metadata.deletionTimestamp === undefined ? reason : "Terminating";
}

function restarts(statuses: readonly ContainerStatus[], now: number): string {
  const count = statuses.reduce((sum, status) => sum + status.restartCount, 0);
  const last = statuses
    .map((status) => status.lastState.terminated?.finishedAt)
    .filter((time) => time !== undefined)
    .sort()
    .at(-1);
  return count === 0 || last === undefined ? String(count) : `${count} (${age(last, now)} ago)`;
}

export function podCells(object: KubeObject, now: number): Cell[] {
  const pod = object as Pod;
  const statuses = pod.status.containerStatuses ?? [];
  const sidecars = (pod.spec.initContainers ?? []).filter((container) => container.restartPolicy === "Always");
  const sidecarStatuses = (pod.status.initContainerStatuses ?? []).filter((status) =>
    sidecars.some((container) => container.name === status.name),
  );
  const all = [...statuses, ...sidecarStatuses];
  const total = pod.spec.containers.length + sidecars.length;
  return [
    pod.metadata.name,
    `${all.filter((status) => status.ready).length}/${total}`,
    podReason(pod),
    restarts(all, now),
    ageOf(pod, now),
    orNone(pod.status.podIP),
    orNone(pod.spec.nodeName),
    "<none>",
    "<none>",
  ];
}

export function servicePorts(service: Service): string {
  return orNone(
    (service.spec.ports ?? [])
      .map((port) => `${port.port}${port.nodePort === undefined ? "" : `:${port.nodePort}`}/${port.protocol ?? "TCP"}`)
      .join(","),
  );
}

export function externalAddress(service: Service): string {
  if (service.spec.type === "ExternalName") return orNone(service.spec.externalName);
  if (service.spec.type !== "LoadBalancer") return orNone(service.spec.externalIPs?.join(","));
  const status =
    isObject(service.status) && isObject(service.status["loadBalancer"]) ? service.status["loadBalancer"] : {};
  const ingress = Array.isArray(status["ingress"]) ? status["ingress"] : [];
  const addresses = ingress.map((entry: { ip?: string; hostname?: string }) => entry.ip ?? entry.hostname);
  return addresses.length === 0 ? "<pending>" : addresses.join(",");
}

export function endpointText(addresses: readonly string[]): string {
  const shown = addresses.slice(0, 3).join(",");
  return orNone(addresses.length > 3 ? `${shown} + ${addresses.length - 3} more...` : shown);
}

/** Objects as the cells read them: stored ones, whose shape their types have checked. */
export type Members = Record<string, any>;
export type Cells = (object: KubeObject, now: number) => Cell[];
export const count = (value: unknown): number =>
  isObject(value) ? Object.keys(value).length : Array.isArray(value) ? value.length : 0;
export const shownSelector = (selector: LabelSelector | undefined): string => orNone(selectorText(selector));
export const specOf = (object: KubeObject): Members => object.spec ?? {};
export const statusOf = (object: KubeObject): Members => object.status ?? {};
export const nameAndAge: Cells = (object, now) => [object.metadata.name, ageOf(object, now)];
export const nameAndTime: Cells = (object) => [object.metadata.name, object.metadata.creationTimestamp ?? ""];
export const unset = (value: unknown): string =>
  value === undefined || value === null || value === "" ? "<unset>" : String(value);
export const plain = (object: KubeObject): Members => object;
