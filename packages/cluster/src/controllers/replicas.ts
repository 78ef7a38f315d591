// ReplicaSets and ReplicationControllers: as many pods of one template as asked for.
import { errorText, jsonEqual } from "@lateen/base";
import { ApiError } from "../api/errors.ts";
import { builtIn, type Kind } from "../api/kinds.ts";
import { type Condition, type LabelSelector, type Pod, type ReplicaSet, timestamp } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { selectsLabels } from "../api/selectors.ts";
import { Controller, keyOf } from "./controller.ts";
import {
  availableInMs,
  claimPods,
  createPod,
  deletePod,
  deletionOrder,
  isOwnedBy,
  isPodActive,
  isPodReady,
  ownerKey,
  PODS,
} from "./pods.ts";

/** Starts the controllers of both kinds. */
export function startReplicas(registry: Registry): void {
  for (const plural of ["replicasets", "replicationcontrollers"]) {
    const kind = builtIn(plural);
    const component = plural === "replicasets" ? "replicaset-controller" : "replication-controller";
    const orphanKeys = (pod: Pod): string[] =>
      (pod.metadata.ownerReferences ?? []).length > 0
        ? []
        : registry
            .list(kind, pod.metadata.namespace)
            .filter((set) => selectsLabels(selectorOf(kind, set as ReplicaSet))(pod.metadata.labels))
            .map(keyOf);
    new Controller(
      registry,
      component,
      [
        { kind, keys: (object) => [keyOf(object)] },
        { kind: PODS, keys: (object) => [...ownerKey(object, kind.kind), ...orphanKeys(object as Pod)] },
      ],
      (namespace, name) => reconcile(registry, kind, component, namespace, name),
    );
  }
}

const selectorOf = (kind: Kind, set: ReplicaSet): LabelSelector | undefined =>
  kind.plural === "replicasets"
    ? set.spec.selector
    : { matchLabels: set.spec.selector as unknown as Record<string, string> };

async function reconcile(
  registry: Registry,
  kind: Kind,
  component: string,
  namespace: string,
  name: string,
): Promise<number | undefined> {
  const set = registry.find(kind, namespace, name) as ReplicaSet | undefined;
  if (set === undefined || set.metadata.deletionTimestamp !== undefined) return undefined;
  const active = (await claimPods(registry, set, selectorOf(kind, set))).filter(isPodActive);
  const desired = set.spec.replicas ?? 1;
  let failure: unknown;
  try {
    for (let i = active.length; i < desired; i++) await createPod(registry, set, set.spec.template, { component });
  } catch (error) {
    failure = error;
  }
  for (const pod of active.toSorted(deletionOrder).slice(0, Math.max(0, active.length - desired)))
    await deletePod(registry, set, pod, component);
  const again = await writeStatus(registry, kind, set, failure);
  if (failure !== undefined) throw failure;
  return again;
}

async function writeStatus(
  registry: Registry,
  kind: Kind,
  seen: ReplicaSet,
  failure: unknown,
): Promise<number | undefined> {
  const { namespace, name } = seen.metadata;
  const set = registry.find(kind, namespace, name) as ReplicaSet | undefined;
  if (set === undefined) return undefined;
  const now = (registry.list(PODS, namespace) as Pod[]).filter((pod) => isOwnedBy(pod, set) && isPodActive(pod));
  const ready = now.filter(isPodReady).length;
  const waits = now.map((pod) => availableInMs(pod, set.spec.minReadySeconds ?? 0));
  const available = waits.filter((wait) => wait === 0).length;
  const labelled = now.filter((pod) =>
    selectsLabels({ matchLabels: set.spec.template.metadata?.labels ?? {} })(pod.metadata.labels),
  ).length;
  const conditions = failureConditions(set.status.conditions ?? [], failure);
  const status = {
    replicas: now.length,
    ...(labelled > 0 ? { fullyLabeledReplicas: labelled } : {}),
    ...(ready > 0 ? { readyReplicas: ready } : {}),
    ...(available > 0 ? { availableReplicas: available } : {}),
    observedGeneration: set.metadata.generation ?? 1,
    ...(conditions.length > 0 ? { conditions } : {}),
  };
  if (!jsonEqual(status, set.status)) {
    try {
      await registry.update(kind, namespace, name, (current) => ({ ...current, status }), { subresource: "status" });
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== 404) throw error;
    }
  }
  return waits.find((wait) => wait !== undefined && wait > 0);
}

function failureConditions(before: readonly Condition[], failure: unknown): Condition[] {
  const others = before.filter(({ type }) => type !== "ReplicaFailure");
  if (failure === undefined) return others;
  const message = errorText(failure);
  const old = before.find(({ type }) => type === "ReplicaFailure");
  if (old?.message === message) return [...others, old];
  return [
    ...others,
    { type: "ReplicaFailure", status: "True", reason: "FailedCreate", message, lastTransitionTime: timestamp() },
  ];
}
