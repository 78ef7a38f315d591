// The scheduler: puts pods on nodes that their selectors, affinities, tolerations, requests and rules about evenness allow, and of
// those on the one that they prefer (`score`).
import { compareText } from "@lateen/base";
import { recordEvent } from "../api/events.ts";
import { builtIn } from "../api/kinds.ts";
import { type Condition, type KubeObject, type Pod, timestamp } from "../api/objects.ts";
import { addQuantities, quantityNanos } from "../api/quantity.ts";
import type { Registry } from "../api/registry.ts";
import { Controller, keyOf } from "./controller.ts";
import { crowding, spreadProblem } from "./spreading.ts";

type Members = Record<string, any>;

const PODS = builtIn("pods");
const NODES = builtIn("nodes");
const UNSCHEDULABLE = "node.kubernetes.io/unschedulable";
const COMPONENT = "default-scheduler";
const OPTIONS = { manager: "kube-scheduler" };

/** Starts the scheduler. */
export function startScheduler(registry: Registry): void {
  const waiting = (): string[] => (registry.list(PODS) as Pod[]).filter((pod) => isWaiting(pod)).map(keyOf);
  const controller = new Controller(
    registry,
    "scheduler",
    [
      { kind: PODS, keys: (object) => [keyOf(object)] },
      { kind: NODES, keys: waiting },
    ],
    (namespace, name) => schedule(registry, namespace, name),
  );
  // A pod that ends makes room for those that found none.
  registry.store.subscribe("pods", ({ type, object }) => {
    const { phase } = (object as Pod).status;
    if (type === "DELETED" || phase === "Succeeded" || phase === "Failed")
      for (const key of waiting()) controller.add(key);
  });
}

function isWaiting(pod: Pod): boolean {
  const { spec, metadata } = pod;
  const isOurs =
    (spec["schedulerName"] ?? COMPONENT) === COMPONENT &&
    ((spec["schedulingGates"] as unknown[] | undefined) ?? []).length === 0;
  return (spec.nodeName ?? "") === "" && metadata.deletionTimestamp === undefined && isOurs;
}

export interface Taint {
  readonly key: string;
  readonly value?: string;
  readonly effect: string;
  readonly timeAdded?: string;
}

/** How long a pod bears a taint: the shortest of its tolerations of it, Infinity where none has a limit, undefined: not at all. */
export function toleranceSeconds(pod: Members, taint: Taint): number | undefined {
  const tolerations = ((pod["spec"].tolerations ?? []) as Members[]).filter((toleration) => {
    if ((toleration["effect"] ?? "") !== "" && toleration["effect"] !== taint.effect) return false;
    if (toleration["operator"] === "Exists") return (toleration["key"] ?? "") === "" || toleration["key"] === taint.key;
    return toleration["key"] === taint.key && (toleration["value"] ?? "") === (taint.value ?? "");
  });
  if (tolerations.length === 0) return undefined;
  return Math.min(...tolerations.map(({ tolerationSeconds }) => Number(tolerationSeconds ?? Number.POSITIVE_INFINITY)));
}

const tolerates = (pod: Members, taint: Taint): boolean => toleranceSeconds(pod, taint) !== undefined;

function matchesTerm(term: Members, labels: Members, fields: Members): boolean {
  const isMet = (requirement: Members, values: Members): boolean => {
    const value = values[requirement["key"]];
    const given: string[] = requirement["values"] ?? [];
    switch (requirement["operator"]) {
      case "In":
        return given.includes(value);
      case "NotIn":
        return !given.includes(value);
      case "Exists":
        return value !== undefined;
      case "DoesNotExist":
        return value === undefined;
      case "Gt":
        return Number(value) > Number(given[0]);
      default:
        return Number(value) < Number(given[0]);
    }
  };
  return (
    ((term["matchExpressions"] ?? []) as Members[]).every((entry) => isMet(entry, labels)) &&
    ((term["matchFields"] ?? []) as Members[]).every((entry) => isMet(entry, fields))
  );
}

/** A node's taints; one that is cordoned counts as tainted. */
function taintsOf(node: KubeObject): Taint[] {
  const { taints = [], unschedulable } = (node.spec ?? {}) as { taints?: Taint[]; unschedulable?: boolean };
  return unschedulable === true ? [...taints, { key: UNSCHEDULABLE, effect: "NoSchedule" }] : taints;
}

/** Whether a pod's node selector and its required node affinity allow a node. */
function selectsNode(pod: KubeObject, node: KubeObject): boolean {
  const spec = pod.spec as Members;
  const labels: Members = node.metadata.labels ?? {};
  const isSelected = Object.entries(spec["nodeSelector"] ?? {}).every(([key, value]) => labels[key] === value);
  const required = spec["affinity"]?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution?.nodeSelectorTerms as
    | Members[]
    | undefined;
  const fields = { "metadata.name": node.metadata.name };
  return isSelected && (required === undefined || required.some((term) => matchesTerm(term, labels, fields)));
}

/** Why a pod may not run on a node by the node's own rules, in the scheduler's words; undefined: it may. */
export function fitsNode(pod: KubeObject, node: KubeObject): string | undefined {
  const taint = taintsOf(node).find((entry) => entry.effect !== "PreferNoSchedule" && !tolerates(pod, entry));
  if (taint !== undefined) {
    if (taint.key === UNSCHEDULABLE) return "node(s) were unschedulable";
    return `node(s) had untolerated taint {${taint.key}${taint.value === undefined ? "" : `: ${taint.value}`}}`;
  }
  return selectsNode(pod, node) ? undefined : "node(s) didn't match Pod's node affinity/selector";
}

const requestsOf = (pod: KubeObject): Record<string, string[]> => {
  const sums: Record<string, string[]> = { pods: ["1"] };
  for (const container of ((pod.spec as Members)["containers"] ?? []) as Members[])
    for (const [name, value] of Object.entries((container["resources"]?.requests ?? {}) as Record<string, string>))
      (sums[name] ??= []).push(value);
  return sums;
};

/** Resources that a node does not have enough of for one more pod. */
function lacking(pod: KubeObject, node: KubeObject, placed: readonly Pod[]): string[] {
  const allocatable = ((node.status as Members | undefined)?.["allocatable"] ?? {}) as Record<string, string>;
  const here = placed.filter(
    (entry) =>
      entry.spec.nodeName === node.metadata.name &&
      entry.status.phase !== "Succeeded" &&
      entry.status.phase !== "Failed",
  );
  return Object.entries(requestsOf(pod)).flatMap(([name, values]) => {
    const limit = allocatable[name];
    if (limit === undefined) return name === "pods" ? [] : [name];
    const used = here.flatMap((entry) => requestsOf(entry)[name] ?? []);
    return quantityNanos(addQuantities([...used, ...values])) > quantityNanos(limit) ? [name] : [];
  });
}

/** Whether the rules about other pods in the same place (a zone, a host) allow a node. */
function affinityProblem(
  pod: Pod,
  node: KubeObject,
  nodes: readonly KubeObject[],
  placed: readonly Pod[],
): string | undefined {
  const affinity = (pod.spec["affinity"] ?? {}) as Members;
  const isNear = (other: Pod, key: string): boolean => {
    const where = nodes.find((entry) => entry.metadata.name === other.spec.nodeName);
    const value = node.metadata.labels?.[key];
    return value !== undefined && where?.metadata.labels?.[key] === value;
  };
  const matches = (term: Members, other: Pod): boolean => {
    const namespaces: string[] = term["namespaces"] ?? [pod.metadata.namespace ?? ""];
    const labels = other.metadata.labels ?? {};
    const selector: Members = term["labelSelector"] ?? {};
    const isSelected =
      Object.entries(selector["matchLabels"] ?? {}).every(([key, value]) => labels[key] === value) &&
      matchesTerm({ matchExpressions: selector["matchExpressions"] ?? [] }, labels, {});
    return namespaces.includes(other.metadata.namespace ?? "") && isSelected;
  };
  const required = (kind: string): Members[] => affinity[kind]?.requiredDuringSchedulingIgnoredDuringExecution ?? [];
  for (const term of required("podAffinity")) {
    const others = placed.filter((other) => matches(term, other));
    // The first of a group that wants to be together may stand anywhere.
    if (others.length === 0 && matches(term, pod)) continue;
    if (!others.some((other) => isNear(other, term["topologyKey"]))) return "node(s) didn't match pod affinity rules";
  }
  for (const term of required("podAntiAffinity"))
    if (placed.some((other) => matches(term, other) && isNear(other, term["topologyKey"])))
      return "node(s) didn't match pod anti-affinity rules";
  return undefined;
}

function isPortTaken(pod: Pod, node: KubeObject, placed: readonly Pod[]): boolean {
  const portsOf = (entry: Pod): string[] =>
    entry.spec.containers.flatMap((container) =>
      ((container.ports ?? []) as Members[]).flatMap((port) =>
        port["hostPort"] === undefined ? [] : [`${port["protocol"] ?? "TCP"}/${port["hostPort"]}`],
      ),
    );
  const wanted = new Set(portsOf(pod));
  return (
    wanted.size > 0 &&
    placed.some(
      (other) => other.spec.nodeName === node.metadata.name && portsOf(other).some((port) => wanted.has(port)),
    )
  );
}

/** Prefers nodes of preferred affinity terms, without taints that ask to be left alone, less crowded ones, then those with fewest pods. */
function score(pod: Pod, node: KubeObject, nodes: readonly KubeObject[], placed: readonly Pod[]): readonly number[] {
  const preferred = ((pod.spec["affinity"] as Members | undefined)?.["nodeAffinity"]
    ?.preferredDuringSchedulingIgnoredDuringExecution ?? []) as Members[];
  const liked = preferred
    .filter((entry) => matchesTerm(entry["preference"] ?? {}, node.metadata.labels ?? {}, {}))
    .reduce((sum, entry) => sum + Number(entry["weight"]), 0);
  const here = placed.filter((other) => other.spec.nodeName === node.metadata.name);
  const unwanted = taintsOf(node).filter(
    (taint) => taint.effect === "PreferNoSchedule" && !tolerates(pod, taint),
  ).length;
  return [
    -liked,
    unwanted,
    crowding(pod, node, nodes, placed),
    here.filter((other) => other.metadata.namespace === pod.metadata.namespace).length,
    here.length,
  ];
}

async function schedule(registry: Registry, namespace: string, name: string): Promise<void> {
  const pod = registry.find(PODS, namespace, name) as Pod | undefined;
  if (pod === undefined || !isWaiting(pod)) return;
  const nodes = registry.list(NODES);
  const placed = (registry.list(PODS) as Pod[]).filter((other) => (other.spec.nodeName ?? "") !== "");
  const reasons = new Map<string, number>();
  const eligible = nodes.filter((node) => selectsNode(pod, node));
  const fitting = nodes.filter((node) => {
    const own =
      fitsNode(pod, node) ?? spreadProblem(pod, node, eligible, placed) ?? affinityProblem(pod, node, nodes, placed);
    const short = lacking(pod, node, placed).map((resource) =>
      resource === "pods" ? "Too many pods" : `Insufficient ${resource}`,
    );
    const port = isPortTaken(pod, node, placed) ? ["node(s) didn't have free ports for the requested pod ports"] : [];
    const problems = own === undefined ? [...short, ...port] : [own];
    for (const problem of problems) reasons.set(problem, (reasons.get(problem) ?? 0) + 1);
    return problems.length === 0;
  });
  if (fitting.length === 0) return tellUnschedulable(registry, pod, nodes.length, reasons);
  const ranked = fitting.map((node) => ({ node, rank: score(pod, node, fitting, placed) }));
  ranked.sort(
    (a, b) =>
      a.rank.map((value, i) => value - (b.rank[i] ?? 0)).find((diff) => diff !== 0) ??
      compareText(a.node.metadata.name, b.node.metadata.name),
  );
  const nodeName = ranked[0]?.node.metadata.name ?? "";
  await registry.update(
    PODS,
    namespace,
    name,
    (current) => {
      const { conditions = [], ...status } = current.status as Pod["status"];
      const others = conditions.filter(({ type }) => type !== "PodScheduled");
      const observedGeneration = pod.metadata.generation ?? 1;
      const scheduled: Condition = {
        type: "PodScheduled",
        observedGeneration,
        status: "True",
        lastTransitionTime: timestamp(),
      };
      return {
        ...current,
        spec: { ...(current.spec as object), nodeName },
        status: { ...status, conditions: [...others, scheduled] },
      };
    },
    { ...OPTIONS, subresource: "binding" },
  );
  const message = `Successfully assigned ${namespace}/${name} to ${nodeName}`;
  await recordEvent(registry, pod, COMPONENT, { type: "Normal", reason: "Scheduled", message });
}

async function tellUnschedulable(
  registry: Registry,
  pod: Pod,
  nodes: number,
  reasons: ReadonlyMap<string, number>,
): Promise<void> {
  const list = [...reasons].map(([reason, count]) => `${count} ${reason}`).toSorted(compareText);
  const message = `0/${nodes} nodes are available: ${list.join(", ")}. preemption: 0/${nodes} nodes are available: ${nodes} Preemption is not helpful for scheduling.`;
  const old = pod.status.conditions?.find(({ type }) => type === "PodScheduled");
  if (old?.status === "False" && old.message === message) return;
  const condition: Condition = {
    type: "PodScheduled",
    observedGeneration: pod.metadata.generation ?? 1,
    status: "False",
    lastTransitionTime: timestamp(),
    reason: "Unschedulable",
    message,
  };
  await registry.update(
    PODS,
    pod.metadata.namespace,
    pod.metadata.name,
    (current) => ({ ...current, status: { ...(current.status as object), conditions: [condition] } }),
    { ...OPTIONS, subresource: "status" },
  );
  await recordEvent(registry, pod, COMPONENT, { type: "Warning", reason: "FailedScheduling", message });
}
