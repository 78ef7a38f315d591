// Pods whose node is no place for them any more: tainted NoExecute, or gone.
import { recordEvent } from "../api/events.ts";
import { builtIn } from "../api/kinds.ts";
import { type Condition, type KubeObject, type Pod, timestamp } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { Controller, keyOf } from "./controller.ts";
import { PODS } from "./pods.ts";
import { type Taint, toleranceSeconds } from "./scheduler.ts";

const NODES = builtIn("nodes");

/** Starts the controllers. */
export function startTaintEviction(registry: Registry): void {
  const onNode = (node: KubeObject): string[] =>
    (registry.list(PODS) as Pod[]).filter((pod) => pod.spec.nodeName === node.metadata.name).map(keyOf);
  new Controller(
    registry,
    "taint-eviction",
    [
      { kind: PODS, keys: (object) => [keyOf(object)] },
      { kind: NODES, keys: onNode },
    ],
    (namespace, name) => reconcile(registry, namespace, name),
  );
}

/** Deletes a pod that must leave its node. Returns the milliseconds it may still stay, if that is limited. */
async function reconcile(registry: Registry, namespace: string, name: string): Promise<number | undefined> {
  const pod = registry.find(PODS, namespace, name) as Pod | undefined;
  const nodeName = pod?.spec.nodeName ?? "";
  if (pod === undefined || nodeName === "") return undefined;
  const node = registry.find(NODES, undefined, nodeName);
  if (node === undefined) {
    const message = "PodGC: node no longer exists";
    if (pod.metadata.deletionTimestamp === undefined) await mark(registry, pod, "DeletionByPodGC", message);
    await registry.delete(PODS, namespace, name, { gracePeriodSeconds: 0, uid: pod.metadata.uid });
    return undefined;
  }
  if (pod.metadata.deletionTimestamp !== undefined) return undefined;
  const taints = ((node.spec as { taints?: Taint[] } | undefined)?.taints ?? []).filter(
    ({ effect }) => effect === "NoExecute",
  );
  const lefts = taints.map((taint) => {
    const seconds = toleranceSeconds(pod, taint);
    const since = Date.parse(taint.timeAdded ?? node.metadata.creationTimestamp ?? timestamp());
    return seconds === undefined ? 0 : since + seconds * 1000 - Date.now();
  });
  const left = Math.min(...lefts);
  if (left === Number.POSITIVE_INFINITY) return undefined;
  if (left > 0) return left;
  const event = { type: "Normal", reason: "TaintManagerEviction" } as const;
  const message = `Marking for deletion Pod ${namespace}/${name}`;
  await recordEvent(registry, pod, "taint-eviction-controller", { ...event, message });
  await mark(registry, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
  await registry.delete(PODS, namespace, name, { uid: pod.metadata.uid });
  return undefined;
}

/** The condition that tells why a pod is being disrupted. */
async function mark(registry: Registry, pod: Pod, reason: string, message: string): Promise<void> {
  const condition: Condition = {
    type: "DisruptionTarget",
    status: "True",
    lastTransitionTime: timestamp(),
    reason,
    message,
  };
  const write = (current: KubeObject): KubeObject => {
    const status = current.status as Pod["status"];
    const others = (status.conditions ?? []).filter(({ type }) => type !== condition.type);
    return { ...current, status: { ...status, conditions: [...others, condition] } };
  };
  const { namespace, name } = pod.metadata;
  await registry.update(PODS, namespace, name, write, { subresource: "status" });
}
