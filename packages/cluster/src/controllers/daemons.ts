// DaemonSets: one pod on each node that its template tolerates and selects.
import { jsonClone, jsonEqual } from "@lateen/base";
import { builtIn } from "../api/kinds.ts";
import { type DaemonSet, type KubeObject, type Pod } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { Controller, keyOf } from "./controller.ts";
import { availableInMs, claimPods, createPod, deletePod, isOwnedBy, isPodReady, ownerKey, PODS } from "./pods.ts";
import { currentRevision, REVISION_LABEL } from "./revisions.ts";
import { fitsNode } from "./scheduler.ts";

const SETS = builtIn("daemonsets");
const NODES = builtIn("nodes");
const GENERATION_LABEL = "pod-template-generation";
const GENERATION = "deprecated.daemonset.template.generation";
const COMPONENT = "daemonset-controller";

/** What daemons run through: a node that is not ready or under pressure keeps them. */
const TOLERATIONS = [
  ["not-ready", "NoExecute"],
  ["unreachable", "NoExecute"],
  ["disk-pressure", "NoSchedule"],
  ["memory-pressure", "NoSchedule"],
  ["pid-pressure", "NoSchedule"],
  ["unschedulable", "NoSchedule"],
].map(([name, effect]) => ({ key: `node.kubernetes.io/${name}`, operator: "Exists", effect }));

/** Starts the controller. */
export function startDaemonSets(registry: Registry): void {
  const everySet = (): string[] => registry.list(SETS).map(keyOf);
  new Controller(
    registry,
    "daemonset",
    [
      { kind: SETS, keys: (object) => [keyOf(object)] },
      { kind: PODS, keys: (object) => ownerKey(object, "DaemonSet") },
      { kind: NODES, keys: everySet },
    ],
    (namespace, name) => reconcile(registry, namespace, name),
  );
}

/** A pod of the set as it would be on a node: for the node's own rules. */
function daemonOn(set: DaemonSet): KubeObject {
  const spec = jsonClone(set.spec.template.spec);
  spec.tolerations = [...(spec.tolerations ?? []), ...TOLERATIONS];
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "", uid: "", ...set.spec.template.metadata },
    spec,
  };
}

/** Pins a pod to a node through affinity, as the scheduler is the one to place it. */
function pinTo(pod: KubeObject, nodeName: string): void {
  const spec = pod.spec as Pod["spec"] & { affinity?: { nodeAffinity?: object } };
  const term = { matchFields: [{ key: "metadata.name", operator: "In", values: [nodeName] }] };
  spec.affinity = {
    ...spec.affinity,
    nodeAffinity: {
      ...spec.affinity?.nodeAffinity,
      requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [term] },
    },
  };
  spec.tolerations = [...(spec.tolerations ?? []), ...TOLERATIONS];
}

/** The node that a daemon is on or pinned to. */
function nodeOf(pod: Pod): string {
  const affinity = pod.spec["affinity"] as any;
  const terms = affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution?.nodeSelectorTerms;
  return pod.spec.nodeName || (terms?.[0]?.matchFields?.[0]?.values?.[0] ?? "");
}

async function reconcile(registry: Registry, namespace: string, name: string): Promise<number | undefined> {
  const set = registry.find(SETS, namespace, name) as DaemonSet | undefined;
  if (set === undefined || set.metadata.deletionTimestamp !== undefined) return undefined;
  const generation = set.metadata.annotations?.[GENERATION] ?? "1";
  const { hash } = await currentRevision(registry, set, { [GENERATION]: generation });
  const wanted = registry
    .list(NODES)
    .filter((node) => fitsNode(daemonOn(set), node) === undefined)
    .map((node) => node.metadata.name);
  const pods = await claimPods(registry, set, set.spec.selector);
  for (const pod of pods.filter((entry) => !wanted.includes(nodeOf(entry)) || entry.status.phase === "Failed"))
    if (pod.metadata.deletionTimestamp === undefined) await deletePod(registry, set, pod, COMPONENT);
  const labels = { [REVISION_LABEL]: hash, [GENERATION_LABEL]: generation };
  for (const node of wanted)
    if (!pods.some((pod) => nodeOf(pod) === node))
      await createPod(registry, set, set.spec.template, {
        component: COMPONENT,
        labels,
        change: (pod) => pinTo(pod, node),
      });
  await roll(registry, set, pods, hash, wanted.length);
  return writeStatus(registry, set, wanted, hash);
}

/** Replaces daemons of older templates, no more than maxUnavailable at a time. */
async function roll(
  registry: Registry,
  set: DaemonSet,
  pods: readonly Pod[],
  hash: string,
  nodes: number,
): Promise<void> {
  const strategy = set.spec.updateStrategy;
  if (strategy?.type === "OnDelete") return;
  const most = strategy?.rollingUpdate?.maxUnavailable ?? 1;
  const allowed =
    typeof most === "string" ? Math.max(1, Math.ceil((Number.parseInt(most, 10) / 100) * nodes)) : Math.max(1, most);
  const live = pods.filter((pod) => pod.metadata.deletionTimestamp === undefined);
  const old = live.filter((pod) => pod.metadata.labels?.[REVISION_LABEL] !== hash);
  const unavailable = nodes - live.filter(isPodReady).length;
  const broken = old.filter((pod) => !isPodReady(pod));
  const working = old.filter(isPodReady).slice(0, Math.max(0, allowed - unavailable));
  for (const pod of [...broken, ...working]) await deletePod(registry, set, pod, COMPONENT);
}

async function writeStatus(
  registry: Registry,
  seen: DaemonSet,
  wanted: readonly string[],
  hash: string,
): Promise<number | undefined> {
  const { namespace, name } = seen.metadata;
  const set = registry.find(SETS, namespace, name) as DaemonSet | undefined;
  if (set === undefined) return undefined;
  const pods = (registry.list(PODS, namespace) as Pod[]).filter(
    (pod) => isOwnedBy(pod, set) && pod.metadata.deletionTimestamp === undefined,
  );
  const placed = pods.filter((pod) => wanted.includes(nodeOf(pod)));
  const waits = placed.map((pod) => availableInMs(pod, set.spec.minReadySeconds ?? 0));
  const available = waits.filter((wait) => wait === 0).length;
  const updated = placed.filter((pod) => pod.metadata.labels?.[REVISION_LABEL] === hash).length;
  const unavailable = wanted.length - available;
  const status = {
    currentNumberScheduled: placed.length,
    numberMisscheduled: pods.length - placed.length,
    desiredNumberScheduled: wanted.length,
    numberReady: placed.filter(isPodReady).length,
    observedGeneration: set.metadata.generation ?? 1,
    ...(updated > 0 ? { updatedNumberScheduled: updated } : {}),
    ...(available > 0 ? { numberAvailable: available } : {}),
    ...(unavailable > 0 ? { numberUnavailable: unavailable } : {}),
  };
  if (!jsonEqual(status, set.status))
    await registry.update(SETS, namespace, name, (object) => ({ ...object, status }), { subresource: "status" });
  return waits.find((wait) => wait !== undefined && wait > 0);
}
