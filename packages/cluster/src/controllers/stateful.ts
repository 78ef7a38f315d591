// StatefulSets: pods with ordinal names, made and removed in order; revisions of the template as ControllerRevisions.
import { jsonEqual } from "@lateen/base";
import { ApiError } from "../api/errors.ts";
import { builtIn } from "../api/kinds.ts";
import { type KubeObject, ownedBy, type Pod, type StatefulSet } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { Controller, keyOf } from "./controller.ts";
import { availableInMs, claimPods, createPod, deletePod, isOwnedBy, isPodReady, ownerKey, PODS } from "./pods.ts";
import { currentRevision, REVISION_LABEL, REVISIONS, revisionsOf } from "./revisions.ts";

const SETS = builtIn("statefulsets");
const CLAIMS = builtIn("persistentvolumeclaims");
const COMPONENT = "statefulset-controller";

/** Starts the controller. */
export function startStatefulSets(registry: Registry): void {
  new Controller(
    registry,
    "statefulset",
    [
      { kind: SETS, keys: (object) => [keyOf(object)] },
      { kind: PODS, keys: (object) => ownerKey(object, "StatefulSet") },
    ],
    (namespace, name) => reconcile(registry, namespace, name),
  );
}

const ordinalOf = (set: StatefulSet, pod: Pod): number => {
  const match = /^(.*)-(\d+)$/.exec(pod.metadata.name);
  return match?.[1] === set.metadata.name ? Number(match[2]) : -1;
};

const podRevision = (pod: Pod): string => pod.metadata.labels?.[REVISION_LABEL] ?? "";

/** The template of a revision that is not the newest: what pods below the partition keep. */
function templateOf(registry: Registry, set: StatefulSet, revision: string): StatefulSet["spec"]["template"] {
  const found = registry.find(REVISIONS, set.metadata.namespace, revision);
  const { $patch: _patch, ...template } = (found?.["data"] as any)?.spec?.template ?? {};
  return Object.keys(template).length === 0 ? set.spec.template : template;
}

async function createMember(registry: Registry, set: StatefulSet, ordinal: number, revision: string): Promise<void> {
  const name = `${set.metadata.name}-${ordinal}`;
  for (const claim of set.spec.volumeClaimTemplates ?? []) await ensureClaim(registry, set, claim, name);
  const labels = {
    "apps.kubernetes.io/pod-index": String(ordinal),
    [REVISION_LABEL]: revision,
    "statefulset.kubernetes.io/pod-name": name,
  };
  await createPod(registry, set, templateOf(registry, set, revision), {
    component: COMPONENT,
    name,
    labels,
    change: (pod) => {
      const spec = pod.spec as Pod["spec"];
      spec.hostname = name;
      if ((set.spec.serviceName ?? "") !== "") spec.subdomain = set.spec.serviceName as string;
      const claims = (set.spec.volumeClaimTemplates ?? []).map(({ metadata }) => ({
        name: metadata.name,
        persistentVolumeClaim: { claimName: `${metadata.name}-${name}` },
      }));
      const others = (spec.volumes ?? []).filter((volume) => !claims.some((claim) => claim.name === volume.name));
      if (claims.length > 0) spec.volumes = [...others, ...claims];
    },
  });
}

async function ensureClaim(registry: Registry, set: StatefulSet, template: KubeObject, pod: string): Promise<void> {
  const name = `${template.metadata.name}-${pod}`;
  if (registry.find(CLAIMS, set.metadata.namespace, name) !== undefined) return;
  const labels = { ...template.metadata.labels, ...set.spec.selector.matchLabels };
  const isOwned = set.spec.persistentVolumeClaimRetentionPolicy?.whenDeleted === "Delete";
  await registry.create(CLAIMS, set.metadata.namespace, {
    apiVersion: "v1",
    kind: "PersistentVolumeClaim",
    metadata: { ...template.metadata, name, uid: "", labels, ...(isOwned ? { ownerReferences: [ownedBy(set)] } : {}) },
    spec: template.spec,
  });
}

/** Brings one set a step further. Returns the milliseconds after which to look again, if only time is missing. */
async function reconcile(registry: Registry, namespace: string, name: string): Promise<number | undefined> {
  const set = registry.find(SETS, namespace, name) as StatefulSet | undefined;
  if (set === undefined || set.metadata.deletionTimestamp !== undefined) return undefined;
  const { name: update } = await currentRevision(registry, set);
  const pods = (await claimPods(registry, set, set.spec.selector)).filter((pod) => ordinalOf(set, pod) >= 0);
  const current = set.status.currentRevision ?? update;
  const wait = await step(registry, set, pods, { current, update });
  await writeStatus(registry, set, { current, update });
  await trimHistory(registry, set, { current, update });
  return wait;
}

interface Names {
  readonly current: string;
  readonly update: string;
}

async function step(
  registry: Registry,
  set: StatefulSet,
  pods: readonly Pod[],
  names: Names,
): Promise<number | undefined> {
  const replicas = set.spec.replicas ?? 1;
  const start = set.spec.ordinals?.start ?? 0;
  const isOrdered = set.spec.podManagementPolicy !== "Parallel";
  const minReady = set.spec.minReadySeconds ?? 0;
  const byOrdinal = new Map(pods.map((pod) => [ordinalOf(set, pod), pod]));
  const isRolling = set.spec.updateStrategy?.type !== "OnDelete";
  const partition = isRolling ? (set.spec.updateStrategy?.rollingUpdate?.partition ?? 0) : 0;
  let wait: number | undefined;
  for (let ordinal = start; ordinal < start + replicas; ordinal++) {
    const pod = byOrdinal.get(ordinal);
    if (pod === undefined) {
      await createMember(registry, set, ordinal, ordinal < start + partition ? names.current : names.update);
      if (isOrdered) return undefined;
    } else if (pod.status.phase === "Failed" || pod.status.phase === "Succeeded") {
      if (pod.metadata.deletionTimestamp === undefined) await deletePod(registry, set, pod, COMPONENT);
      if (isOrdered) return undefined;
    } else {
      const left = pod.metadata.deletionTimestamp === undefined ? availableInMs(pod, minReady) : undefined;
      if (isOrdered && left !== 0) return left;
      if (left !== undefined && left > 0) wait = left;
    }
  }
  const surplus = pods
    .filter((pod) => ordinalOf(set, pod) >= start + replicas || ordinalOf(set, pod) < start)
    .toSorted((a, b) => ordinalOf(set, b) - ordinalOf(set, a));
  for (const pod of surplus) {
    if (pod.metadata.deletionTimestamp === undefined) await deletePod(registry, set, pod, COMPONENT);
    if (isOrdered) return undefined;
  }
  if (!isRolling) return wait;
  // The highest ordinal goes first; one at a time, and none while another is not ready.
  for (let ordinal = start + replicas - 1; ordinal >= start + partition; ordinal--) {
    const pod = byOrdinal.get(ordinal);
    if (pod === undefined || pod.metadata.deletionTimestamp !== undefined) return wait;
    if (podRevision(pod) !== names.update) {
      await deletePod(registry, set, pod, COMPONENT);
      return undefined;
    }
    if (!isPodReady(pod)) return wait;
  }
  return wait;
}

async function writeStatus(registry: Registry, seen: StatefulSet, names: Names): Promise<void> {
  const { namespace, name } = seen.metadata;
  const set = registry.find(SETS, namespace, name) as StatefulSet | undefined;
  if (set === undefined) return;
  const pods = (registry.list(PODS, namespace) as Pod[]).filter((pod) => isOwnedBy(pod, set));
  const live = pods.filter((pod) => pod.metadata.deletionTimestamp === undefined);
  const ready = live.filter(isPodReady).length;
  const available = live.filter((pod) => availableInMs(pod, set.spec.minReadySeconds ?? 0) === 0).length;
  const updated = live.filter((pod) => podRevision(pod) === names.update).length;
  const isDone = updated === (set.spec.replicas ?? 1) && ready === updated && pods.length === updated;
  const current = isDone ? names.update : names.current;
  const status = {
    observedGeneration: set.metadata.generation ?? 1,
    replicas: pods.length,
    ...(ready > 0 ? { readyReplicas: ready } : {}),
    ...(isDone || current === names.update
      ? updated > 0
        ? { currentReplicas: updated }
        : {}
      : currentCount(live, current)),
    ...(updated > 0 ? { updatedReplicas: updated } : {}),
    currentRevision: current,
    updateRevision: names.update,
    collisionCount: 0,
    availableReplicas: available,
  };
  if (jsonEqual(status, set.status)) return;
  try {
    await registry.update(SETS, namespace, name, (object) => ({ ...object, status }), { subresource: "status" });
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== 404) throw error;
  }
}

function currentCount(pods: readonly Pod[], revision: string): { currentReplicas?: number } {
  const count = pods.filter((pod) => podRevision(pod) === revision).length;
  return count > 0 ? { currentReplicas: count } : {};
}

async function trimHistory(registry: Registry, set: StatefulSet, names: Names): Promise<void> {
  const used = new Set([
    names.current,
    names.update,
    ...(registry.list(PODS, set.metadata.namespace) as Pod[]).map(podRevision),
  ]);
  const old = revisionsOf(registry, set).filter((revision) => !used.has(revision.metadata.name));
  const limit = set.spec.revisionHistoryLimit ?? 10;
  for (const revision of old.slice(0, Math.max(0, old.length - limit)))
    await registry.delete(REVISIONS, set.metadata.namespace, revision.metadata.name);
}
