// Deployments. A Deployment owns one ReplicaSet for each version of its template; a rollout moves replicas
// from the old ones to the new one within maxSurge and maxUnavailable.
import { compareText, jsonEqual } from "@lateen/base";
import { ApiError } from "../api/errors.ts";
import { recordEvent } from "../api/events.ts";
import { builtIn } from "../api/kinds.ts";
import {
  type Condition,
  type Deployment,
  type KubeObject,
  ownedBy,
  type ReplicaSet,
  timestamp,
} from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { Controller, keyOf } from "./controller.ts";
import { claim, isOwnedBy, ownerKey, templateHash } from "./pods.ts";

const DEPLOYMENTS = builtIn("deployments");
const REPLICASETS = builtIn("replicasets");
const REVISION = "deployment.kubernetes.io/revision";
const DESIRED = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM = "deployment.kubernetes.io/max-replicas";
const HASH = "pod-template-hash";

/** Starts the controller. */
export function startDeployments(registry: Registry): void {
  new Controller(
    registry,
    "deployment",
    [
      { kind: DEPLOYMENTS, keys: (object) => [keyOf(object)] },
      { kind: REPLICASETS, keys: (object) => ownerKey(object, "Deployment") },
    ],
    async (namespace, name) => {
      await reconcileDeployment(registry, namespace, name);
      const { spec, status } = (registry.find(DEPLOYMENTS, namespace, name) ?? {}) as Partial<Deployment>;
      const isWaiting = status?.conditions?.some(({ reason }) => reason === "ReplicaSetUpdated") === true;
      return isWaiting ? (spec?.progressDeadlineSeconds ?? 600) * 1000 + 1000 : undefined;
    },
  );
}

const share = (value: number | string | undefined, total: number, round: (n: number) => number): number =>
  typeof value === "string" ? round((Number.parseInt(value, 10) / 100) * total) : (value ?? 0);

/** What each of a Deployment's sets says of the whole: how many pods it is to have, and at most has. */
function sizes({ spec }: Deployment): Record<string, string> {
  const desired = spec.replicas ?? 1;
  const isRolling = spec.strategy?.type !== "Recreate";
  const surge = isRolling ? share(spec.strategy?.rollingUpdate?.maxSurge ?? "25%", desired, Math.ceil) : 0;
  return { [DESIRED]: String(desired), [MAXIMUM]: String(desired + surge) };
}

async function setReplicas(
  registry: Registry,
  deployment: Deployment,
  set: ReplicaSet,
  replicas: number,
): Promise<void> {
  const annotations = { ...set.metadata.annotations, ...sizes(deployment) };
  if (set.spec.replicas === replicas && (replicas === 0 || jsonEqual(annotations, set.metadata.annotations))) return;
  const before = set.spec.replicas ?? 0;
  if (before !== replicas)
    await recordEvent(registry, deployment, "deployment-controller", {
      type: "Normal",
      reason: "ScalingReplicaSet",
      message: `Scaled ${replicas > before ? "up" : "down"} replica set ${set.metadata.name} from ${before} to ${replicas}`,
    });
  await registry.update(REPLICASETS, set.metadata.namespace, set.metadata.name, (current) => ({
    ...current,
    metadata: { ...current.metadata, annotations: { ...current.metadata.annotations, ...sizes(deployment) } },
    spec: { ...(current.spec as object), replicas },
  }));
}

async function reconcileDeployment(registry: Registry, namespace: string, name: string): Promise<void> {
  const deployment = registry.find(DEPLOYMENTS, namespace, name) as Deployment | undefined;
  if (deployment === undefined || deployment.metadata.deletionTimestamp !== undefined) return;
  await claim(
    registry,
    REPLICASETS,
    deployment,
    deployment.spec.selector,
    ({ metadata }) => metadata.deletionTimestamp === undefined,
  );
  const owned = (): ReplicaSet[] =>
    (registry.list(REPLICASETS, namespace) as ReplicaSet[]).filter((set) => isOwnedBy(set, deployment));
  const hash = templateHash(deployment.spec.template);
  let current = owned().find((set) => set.metadata.labels?.[HASH] === hash);
  if (current === undefined && deployment.spec.paused !== true)
    current = await createReplicaSet(registry, deployment, hash, owned());
  if (current !== undefined) {
    await syncRevision(registry, deployment, current, owned());
    const old = owned().filter((set) => set.metadata.uid !== current?.metadata.uid);
    if (deployment.spec.paused === true)
      await setReplicas(registry, deployment, current, deployment.spec.replicas ?? 1);
    else await roll(registry, deployment, current, old);
  }
  await cleanUp(registry, deployment, owned(), hash);
  await writeStatus(registry, deployment, owned(), hash);
}

/** For how long a pod must be ready to count, as its set is told. */
function readiness({ spec }: Deployment): { minReadySeconds?: number } {
  const seconds = spec.minReadySeconds ?? 0;
  return seconds > 0 ? { minReadySeconds: seconds } : {};
}

async function createReplicaSet(
  registry: Registry,
  deployment: Deployment,
  hash: string,
  others: readonly ReplicaSet[],
): Promise<ReplicaSet> {
  const { namespace, name, annotations = {} } = deployment.metadata;
  const template = structuredClone(deployment.spec.template);
  const labels = { ...template.metadata?.labels, [HASH]: hash };
  const revision = 1 + Math.max(0, ...others.map((set) => Number(set.metadata.annotations?.[REVISION] ?? 0)));
  const { "kubectl.kubernetes.io/last-applied-configuration": _applied, ...kept } = annotations;
  const isFirst = others.every((set) => (set.spec.replicas ?? 0) === 0);
  const replicas =
    isFirst || deployment.spec.strategy?.type === "Recreate" ? (isFirst ? (deployment.spec.replicas ?? 1) : 0) : 0;
  const created = await registry.create(REPLICASETS, namespace, {
    apiVersion: "apps/v1",
    kind: "ReplicaSet",
    metadata: {
      name: `${name}-${hash}`,
      uid: "",
      labels,
      annotations: { ...kept, ...sizes(deployment), [REVISION]: String(revision) },
      ownerReferences: [ownedBy(deployment)],
    },
    spec: {
      replicas,
      ...readiness(deployment),
      selector: { ...deployment.spec.selector, matchLabels: { ...deployment.spec.selector.matchLabels, [HASH]: hash } },
      template: { ...template, metadata: { ...template.metadata, labels } },
    },
  });
  await recordEvent(registry, deployment, "deployment-controller", {
    type: "Normal",
    reason: "ScalingReplicaSet",
    message: `Scaled up replica set ${created.metadata.name} from 0 to ${replicas}`,
  });
  return created as ReplicaSet;
}

/** A template that comes back (undo) is the newest revision again. */
async function syncRevision(
  registry: Registry,
  deployment: Deployment,
  current: ReplicaSet,
  all: readonly ReplicaSet[],
): Promise<void> {
  const newest = Math.max(
    0,
    ...all
      .filter((set) => set.metadata.uid !== current.metadata.uid)
      .map((set) => Number(set.metadata.annotations?.[REVISION] ?? 0)),
  );
  let revision = Number(current.metadata.annotations?.[REVISION] ?? 0);
  if (revision <= newest) revision = newest + 1;
  const annotate = (object: KubeObject): KubeObject => ({
    ...object,
    metadata: { ...object.metadata, annotations: { ...object.metadata.annotations, [REVISION]: String(revision) } },
  });
  const { namespace } = deployment.metadata;
  if (
    current.metadata.annotations?.[REVISION] !== String(revision) ||
    (current.spec.minReadySeconds ?? 0) !== (deployment.spec.minReadySeconds ?? 0)
  )
    await registry.update(REPLICASETS, namespace, current.metadata.name, (object) => {
      const { minReadySeconds: _before, ...spec } = object.spec as ReplicaSet["spec"];
      return { ...annotate(object), spec: { ...spec, ...readiness(deployment) } };
    });
  if (deployment.metadata.annotations?.[REVISION] !== String(revision))
    await registry.update(DEPLOYMENTS, namespace, deployment.metadata.name, annotate, { subresource: "status" });
}

const wanted = (set: ReplicaSet): number => set.spec.replicas ?? 0;
const available = (set: ReplicaSet): number => set.status.availableReplicas ?? 0;

async function roll(
  registry: Registry,
  deployment: Deployment,
  current: ReplicaSet,
  old: readonly ReplicaSet[],
): Promise<void> {
  const desired = deployment.spec.replicas ?? 1;
  const oldTotal = old.reduce((sum, set) => sum + wanted(set), 0);
  if (deployment.spec.strategy?.type === "Recreate") {
    for (const set of old) await setReplicas(registry, deployment, set, 0);
    const isEmpty = old.every((set) => (set.status.replicas ?? 0) === 0);
    if (isEmpty) await setReplicas(registry, deployment, current, desired);
    return;
  }
  if (oldTotal === 0) {
    await setReplicas(registry, deployment, current, desired);
    return;
  }
  const active = [current, ...old].filter((set) => wanted(set) > 0);
  const isScaled = active.some((set) => (set.metadata.annotations?.[DESIRED] ?? String(desired)) !== String(desired));
  if (isScaled && active.length > 1) {
    await scaleInParts(registry, deployment, active);
    return;
  }
  const room = mostPods(deployment) - (wanted(current) + oldTotal);
  const grown = Math.min(desired, wanted(current) + Math.max(0, room));
  await setReplicas(registry, deployment, current, grown);
  await shrinkOld(registry, deployment, { ...current, spec: { ...current.spec, replicas: grown } }, old);
}

/** How many pods a rollout may have at once. */
function mostPods({ spec }: Deployment): number {
  const desired = spec.replicas ?? 1;
  const { maxSurge = "25%", maxUnavailable = "25%" } = spec.strategy?.rollingUpdate ?? {};
  const surge = share(maxSurge, desired, Math.ceil);
  return desired + Math.max(surge, surge + share(maxUnavailable, desired, Math.floor) === 0 ? 1 : 0);
}

/** Takes pods from the sets that go: those that do not work first, then as many as enough others are available. */
async function shrinkOld(
  registry: Registry,
  deployment: Deployment,
  current: ReplicaSet,
  old: readonly ReplicaSet[],
): Promise<void> {
  const desired = deployment.spec.replicas ?? 1;
  const minimum =
    desired - share(deployment.spec.strategy?.rollingUpdate?.maxUnavailable ?? "25%", desired, Math.floor);
  const all = [current, ...old];
  // By what is asked of the sets, too: what they say of themselves may be older than the last step.
  let most = all.reduce((sum, set) => sum + wanted(set), 0) - minimum - (wanted(current) - available(current));
  let spare = all.reduce((sum, set) => sum + available(set), 0) - minimum;
  for (const set of old.toSorted((a, b) => available(a) - available(b))) {
    const broken = Math.min(Math.max(0, wanted(set) - available(set)), Math.max(0, most));
    const working = Math.min(Math.max(0, spare), Math.max(0, most - broken), wanted(set) - broken);
    if (broken + working === 0) continue;
    most -= broken + working;
    spare -= working;
    await setReplicas(registry, deployment, set, wanted(set) - broken - working);
  }
}

/** Another number of pods in the middle of a rollout: each set has its part of the change, the largest what is left over. */
async function scaleInParts(registry: Registry, deployment: Deployment, sets: readonly ReplicaSet[]): Promise<void> {
  const desired = deployment.spec.replicas ?? 1;
  const allowed = desired === 0 ? 0 : mostPods(deployment);
  const total = sets.reduce((sum, set) => sum + wanted(set), 0);
  const change = allowed - total;
  const age = (a: ReplicaSet, b: ReplicaSet): number =>
    compareText(a.metadata.creationTimestamp ?? "", b.metadata.creationTimestamp ?? "");
  const bySize = sets.toSorted((a, b) => wanted(b) - wanted(a) || (change > 0 ? age(b, a) : age(a, b)));
  let done = 0;
  const parts = bySize.map((set) => {
    const before = Number(set.metadata.annotations?.[MAXIMUM] ?? total);
    const part = Math.round((wanted(set) * allowed) / before) - wanted(set);
    const bounded = change > 0 ? Math.min(part, change - done) : Math.max(part, change - done);
    done += bounded;
    return bounded;
  });
  for (const [i, set] of bySize.entries()) {
    const rest = i === 0 ? change - done : 0;
    await setReplicas(registry, deployment, set, Math.max(0, wanted(set) + (parts[i] ?? 0) + rest));
  }
}

async function cleanUp(
  registry: Registry,
  deployment: Deployment,
  all: readonly ReplicaSet[],
  hash: string,
): Promise<void> {
  const limit = deployment.spec.revisionHistoryLimit ?? 10;
  const revision = (set: ReplicaSet): number => Number(set.metadata.annotations?.[REVISION] ?? 0);
  const done = all
    .filter(
      (set) =>
        set.metadata.labels?.[HASH] !== hash && (set.spec.replicas ?? 0) === 0 && (set.status.replicas ?? 0) === 0,
    )
    .toSorted((a, b) => revision(a) - revision(b));
  for (const set of done.slice(0, Math.max(0, done.length - limit))) {
    await registry.delete(REPLICASETS, set.metadata.namespace, set.metadata.name);
  }
}

function condition(
  before: readonly Condition[],
  type: string,
  status: Condition["status"],
  reason: string,
  message: string,
): Condition {
  const old = before.find((entry) => entry.type === type);
  if (old?.status === status && old.reason === reason && old.message === message) return old;
  const now = timestamp();
  return {
    type,
    status,
    lastUpdateTime: now,
    lastTransitionTime: old?.status === status ? (old.lastTransitionTime ?? now) : now,
    reason,
    message,
  };
}

/** How a rollout goes: done, on its way, paused, or stuck for longer than its deadline. */
function progress({ spec, status }: Deployment, setName: string, isDone: boolean): Condition {
  const before = status.conditions ?? [];
  if (spec.paused === true)
    return condition(before, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused");
  const set = `ReplicaSet "${setName}"`;
  if (isDone)
    return condition(before, "Progressing", "True", "NewReplicaSetAvailable", `${set} has successfully progressed.`);
  const old = before.find((entry) => entry.type === "Progressing");
  const sinceMs = Date.now() - Date.parse(old?.lastUpdateTime ?? timestamp());
  const isStuck = old?.reason === "ReplicaSetUpdated" && sinceMs > (spec.progressDeadlineSeconds ?? 600) * 1000;
  if (isStuck || old?.reason === "ProgressDeadlineExceeded")
    return condition(before, "Progressing", "False", "ProgressDeadlineExceeded", `${set} has timed out progressing.`);
  return condition(before, "Progressing", "True", "ReplicaSetUpdated", `${set} is progressing.`);
}

async function writeStatus(
  registry: Registry,
  seen: Deployment,
  all: readonly ReplicaSet[],
  hash: string,
): Promise<void> {
  const { namespace, name } = seen.metadata;
  const deployment = registry.find(DEPLOYMENTS, namespace, name) as Deployment | undefined;
  if (deployment === undefined) return;
  const sum = (field: "replicas" | "readyReplicas" | "availableReplicas", sets: readonly ReplicaSet[]): number =>
    sets.reduce((total, set) => total + (set.status?.[field] ?? 0), 0);
  const current = all.filter((set) => set.metadata.labels?.[HASH] === hash);
  const desired = deployment.spec.replicas ?? 1;
  const available = sum("availableReplicas", all);
  const unavailableMax = share(deployment.spec.strategy?.rollingUpdate?.maxUnavailable ?? "25%", desired, Math.floor);
  const isAvailable = available >= desired - unavailableMax;
  const updated = sum("replicas", current);
  const isDone = updated === desired && sum("replicas", all) === desired && available === desired;
  const before = deployment.status.conditions ?? [];
  const setName = current[0]?.metadata.name ?? "";
  const counts = {
    replicas: sum("replicas", all),
    updatedReplicas: updated,
    readyReplicas: sum("readyReplicas", all),
    availableReplicas: available,
    unavailableReplicas: Math.max(0, desired - available),
  };
  const isUp = condition(
    before,
    "Available",
    isAvailable ? "True" : "False",
    isAvailable ? "MinimumReplicasAvailable" : "MinimumReplicasUnavailable",
    isAvailable ? "Deployment has minimum availability." : "Deployment does not have minimum availability.",
  );
  const progressing = progress(deployment, setName, isDone);
  const status = {
    observedGeneration: deployment.metadata.generation ?? 1,
    ...Object.fromEntries(Object.entries(counts).filter(([, value]) => value > 0)),
    conditions: deployment.spec.paused === true ? [progressing, isUp] : [isUp, progressing],
  };
  if (jsonEqual(status, deployment.status)) return;
  try {
    await registry.update(DEPLOYMENTS, namespace, name, (current_) => ({ ...current_, status }), {
      subresource: "status",
    });
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== 404) throw error;
  }
}
