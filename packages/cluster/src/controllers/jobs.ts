// Jobs: pods that run to their end, so many times, so many at once. Each finished pod is counted exactly once: it keeps a
// finalizer until the status has its count (Kubernetes' job tracking with finalizers).
import { jsonEqual } from "@lateen/base";
import { ApiError } from "../api/errors.ts";
import { recordEvent } from "../api/events.ts";
import { builtIn } from "../api/kinds.ts";
import { type Condition, controllerOf, type Job, type KubeObject, type Pod, timestamp } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { Controller, keyOf } from "./controller.ts";
import { claimPods, createPod, deletePod, isPodActive, isPodReady, ownerKey, PODS } from "./pods.ts";

const JOBS = builtIn("jobs");
const TRACKING = "batch.kubernetes.io/job-tracking";
const INDEX = "batch.kubernetes.io/job-completion-index";
const COMPONENT = "job-controller";
const BACKOFF_FIRST_MS = 10_000;
const BACKOFF_MAX_MS = 600_000;

/** The Job that a pod belongs to; one that has been set free still tells by its label whose it was. */
function jobKey(pod: KubeObject): string[] {
  const { namespace, labels, finalizers } = pod.metadata;
  if (controllerOf(pod) !== undefined || finalizers?.includes(TRACKING) !== true) return ownerKey(pod, "Job");
  const name = labels?.["batch.kubernetes.io/job-name"];
  return name === undefined ? [] : [`${namespace}/${name}`];
}

/** Starts the controller. */
export function startJobs(registry: Registry): void {
  new Controller(
    registry,
    "job",
    [
      { kind: JOBS, keys: (object) => [keyOf(object)] },
      { kind: PODS, keys: jobKey },
    ],
    (namespace, name) => reconcile(registry, namespace, name),
  );
}

const isDone = (pod: Pod): boolean => pod.status.phase === "Succeeded" || pod.status.phase === "Failed";
const indexOf = (pod: Pod): number => Number(pod.metadata.annotations?.[INDEX] ?? -1);
const conditionOf = (job: Job, type: string): Condition | undefined =>
  job.status.conditions?.find((condition) => condition.type === type && condition.status === "True");

async function setStatus(registry: Registry, job: Job, status: Job["status"]): Promise<Job> {
  if (jsonEqual(job.status, status)) return job;
  const write = (current: KubeObject): KubeObject => ({ ...current, status });
  return (await registry.update(JOBS, job.metadata.namespace, job.metadata.name, write, {
    subresource: "status",
  })) as Job;
}

async function releasePod(registry: Registry, pod: Pod): Promise<void> {
  try {
    await registry.update(PODS, pod.metadata.namespace, pod.metadata.name, (current) => ({
      ...current,
      metadata: {
        ...current.metadata,
        finalizers: (current.metadata.finalizers ?? []).filter((entry) => entry !== TRACKING),
      },
    }));
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== 404) throw error;
  }
}

const isTracked = (pod: Pod): boolean => pod.metadata.finalizers?.includes(TRACKING) === true;

/** Counts pods that have ended: first by name in the status, then, once they are let go, as numbers. */
async function count(registry: Registry, seen: Job, pods: readonly Pod[]): Promise<Job> {
  let job = seen;
  const { uncountedTerminatedPods: before = {} } = job.status;
  const known = new Set([...(before.succeeded ?? []), ...(before.failed ?? [])]);
  const ended = pods.filter(
    (pod) =>
      isTracked(pod) &&
      (isDone(pod) ||
        (pod.metadata.deletionTimestamp !== undefined && pod.metadata.deletionGracePeriodSeconds === 0)) &&
      !known.has(pod.metadata.uid),
  );
  const uids = (phase: string): string[] =>
    ended
      .filter((pod) => (pod.status.phase === "Succeeded") === (phase === "Succeeded"))
      .map((pod) => pod.metadata.uid);
  const uncounted = {
    succeeded: [...(before.succeeded ?? []), ...uids("Succeeded")],
    failed: [...(before.failed ?? []), ...uids("Failed")],
  };
  if (uncounted.succeeded.length + uncounted.failed.length === 0) return job;
  if (ended.length > 0) job = await setStatus(registry, job, { ...job.status, uncountedTerminatedPods: uncounted });
  const all = new Set([...uncounted.succeeded, ...uncounted.failed]);
  for (const pod of pods) if (all.has(pod.metadata.uid) && isTracked(pod)) await releasePod(registry, pod);
  const isIndexed = job.spec.completionMode === "Indexed";
  const done = new Set(completedIndexes(job.status.completedIndexes));
  for (const pod of pods) if (uncounted.succeeded.includes(pod.metadata.uid)) done.add(indexOf(pod));
  return setStatus(registry, job, {
    ...job.status,
    succeeded: isIndexed ? done.size : (job.status.succeeded ?? 0) + uncounted.succeeded.length,
    failed: (job.status.failed ?? 0) + uncounted.failed.length,
    ...(isIndexed ? { completedIndexes: indexText([...done]) } : {}),
    uncountedTerminatedPods: {},
  });
}

/** "0,2-4" as numbers. */
function completedIndexes(text: string | undefined): number[] {
  if (text === undefined || text === "") return [];
  return text.split(",").flatMap((part) => {
    const [first = 0, last = first] = part.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

function indexText(indexes: readonly number[]): string {
  const parts: string[] = [];
  let start: number | undefined;
  const sorted = indexes.toSorted((a, b) => a - b);
  sorted.forEach((index, i) => {
    start ??= index;
    if (sorted[i + 1] === index + 1) return;
    parts.push(start === index ? String(index) : index === start + 1 ? `${start},${index}` : `${start}-${index}`);
    start = undefined;
  });
  return parts.join(",");
}

/** Brings a job further. Returns the milliseconds after which to look again, if only time is missing. */
/** Pods of a Job of this name that is gone, or that has let them go, are kept for nobody's count. */
async function releaseOrphans(
  registry: Registry,
  namespace: string,
  name: string,
  uid: string | undefined,
): Promise<void> {
  for (const pod of registry.list(PODS, namespace) as Pod[]) {
    if (!isTracked(pod) || !jobKey(pod).includes(`${namespace}/${name}`)) continue;
    if (controllerOf(pod)?.uid !== uid || uid === undefined) await releasePod(registry, pod);
  }
}

async function reconcile(registry: Registry, namespace: string, name: string): Promise<number | undefined> {
  const found = registry.find(JOBS, namespace, name) as Job | undefined;
  await releaseOrphans(registry, namespace, name, found?.metadata.uid);
  if (found === undefined) return undefined;
  if (found.metadata.deletionTimestamp !== undefined) {
    for (const pod of registry.list(PODS, namespace) as Pod[])
      if (pod.metadata.ownerReferences?.some(({ uid }) => uid === found.metadata.uid) && isTracked(pod))
        await releasePod(registry, pod);
    return undefined;
  }
  const pods = await claimPods(registry, found, found.spec.selector);
  if (conditionOf(found, "Complete") !== undefined || conditionOf(found, "Failed") !== undefined) {
    for (const pod of pods) if (isTracked(pod)) await releasePod(registry, pod);
    return expire(registry, found);
  }
  const job = await count(registry, found, pods);
  const active = pods.filter((pod) => isPodActive(pod));
  if (job.spec.suspend === true) return suspend(registry, job, active);
  const startTime = job.status.startTime ?? timestamp();
  const failure = failureOf(job, startTime, pods);
  if (failure !== undefined) return fail(registry, job, active, failure);
  const isIndexed = job.spec.completionMode === "Indexed";
  const goal = job.spec.completions;
  const succeeded = job.status.succeeded ?? 0;
  const isComplete = goal === undefined ? succeeded > 0 && active.length === 0 : succeeded >= goal;
  const met = isIndexed ? metRule(job) : undefined;
  if (met !== undefined)
    return complete(registry, job, active, startTime, {
      reason: "SuccessPolicy",
      message: `Matched rules at index ${met}`,
    });
  if (isComplete) return complete(registry, job, active, startTime);
  const wait = retryIn(job, pods);
  let running = active.length;
  if (wait === 0) running += await makePods(registry, job, active, { goal, succeeded, isIndexed });
  const limit =
    goal === undefined ? (job.spec.parallelism ?? 1) : Math.min(job.spec.parallelism ?? 1, goal - succeeded);
  for (const pod of active.slice(Math.max(0, limit))) {
    await deletePod(registry, job, pod, COMPONENT);
    running -= 1;
  }
  const conditions = resumed(job);
  await setStatus(registry, job, {
    ...job.status,
    ...(conditions === undefined ? {} : { conditions }),
    startTime,
    ...runningCounts(pods, running),
    uncountedTerminatedPods: job.status.uncountedTerminatedPods ?? {},
  });
  const deadline = job.spec.activeDeadlineSeconds;
  const untilDeadline =
    deadline === undefined ? undefined : Math.max(1, Date.parse(startTime) + deadline * 1000 - Date.now());
  if (wait > 0) return Math.min(wait, untilDeadline ?? wait);
  return untilDeadline;
}

function runningCounts(pods: readonly Pod[], running: number): Partial<Job["status"]> {
  const terminating = pods.filter((pod) => pod.metadata.deletionTimestamp !== undefined && !isDone(pod)).length;
  const ready = pods.filter((pod) => isPodActive(pod) && isPodReady(pod)).length;
  return { active: running, ready, terminating };
}

async function makePods(
  registry: Registry,
  job: Job,
  active: readonly Pod[],
  state: { readonly goal: number | undefined; readonly succeeded: number; readonly isIndexed: boolean },
): Promise<number> {
  const { goal, succeeded, isIndexed } = state;
  const most = job.spec.parallelism ?? 1;
  const isWinding = goal === undefined && succeeded > 0;
  const wanted = isWinding ? 0 : (goal === undefined ? most : Math.min(most, goal - succeeded)) - active.length;
  const taken = new Set([...completedIndexes(job.status.completedIndexes), ...active.map(indexOf)]);
  let index = -1;
  for (let i = 0; i < wanted; i++) {
    do index += 1;
    while (taken.has(index));
    const own = index;
    await createPod(registry, job, job.spec.template, {
      component: COMPONENT,
      ...(isIndexed ? { annotations: { [INDEX]: String(own) }, labels: { [INDEX]: String(own) } } : {}),
      change: (pod) => {
        pod.metadata.finalizers = [TRACKING];
        if (isIndexed) giveIndex(pod, job, own);
      },
    });
  }
  return Math.max(0, wanted);
}

function giveIndex(pod: KubeObject, job: Job, index: number): void {
  const spec = pod.spec as Pod["spec"];
  const base = `${job.metadata.name}-${index}`;
  spec.hostname = base;
  pod.metadata.generateName = `${base}-`;
  pod.metadata.name = `${base}-${pod.metadata.name.slice(-5)}`;
  const entry = { name: "JOB_COMPLETION_INDEX", valueFrom: { fieldRef: { fieldPath: `metadata.labels['${INDEX}']` } } };
  for (const container of [...(spec.initContainers ?? []), ...spec.containers])
    container.env = [...(container.env ?? []), entry];
}

interface Failing {
  readonly reason: string;
  readonly message: string;
}

function failureOf(job: Job, startTime: string, pods: readonly Pod[]): Failing | undefined {
  const limit = job.spec.backoffLimit ?? 6;
  const restarts =
    job.spec.template.spec.restartPolicy === "OnFailure"
      ? pods.flatMap((pod) => pod.status.containerStatuses ?? []).reduce((sum, entry) => sum + entry.restartCount, 0)
      : 0;
  if ((job.status.failed ?? 0) > limit || (restarts > 0 && restarts >= limit && limit > 0))
    return { reason: "BackoffLimitExceeded", message: "Job has reached the specified backoff limit" };
  const deadline = job.spec.activeDeadlineSeconds;
  if (deadline !== undefined && Date.now() - Date.parse(startTime) >= deadline * 1000)
    return { reason: "DeadlineExceeded", message: "Job was active longer than specified deadline" };
  return undefined;
}

/** Milliseconds until a failed pod may be replaced: 10 s after the first failure, doubling, at most 10 minutes. */
function retryIn(job: Job, pods: readonly Pod[]): number {
  const failed = job.status.failed ?? 0;
  if (failed === 0) return 0;
  const ends = pods
    .filter((pod) => pod.status.phase === "Failed")
    .flatMap((pod) => pod.status.containerStatuses ?? [])
    .map((entry) => Date.parse(entry.state.terminated?.finishedAt ?? ""))
    .filter((time) => !Number.isNaN(time));
  const last = Math.max(0, ...ends);
  return Math.max(0, last + Math.min(BACKOFF_FIRST_MS * 2 ** (failed - 1), BACKOFF_MAX_MS) - Date.now());
}

const condition = (type: string, reason: string, message: string, status: "True" | "False" = "True"): Condition => {
  const now = timestamp();
  return { type, status, lastProbeTime: now, lastTransitionTime: now, reason, message };
};

function resumed(job: Job): Condition[] | undefined {
  if (conditionOf(job, "Suspended") === undefined) return undefined;
  const others = (job.status.conditions ?? []).filter(({ type }) => type !== "Suspended");
  return [...others, condition("Suspended", "JobResumed", "Job resumed", "False")];
}

async function suspend(registry: Registry, job: Job, active: readonly Pod[]): Promise<undefined> {
  for (const pod of active) await deletePod(registry, job, pod, COMPONENT);
  const others = (job.status.conditions ?? []).filter(({ type }) => type !== "Suspended");
  const isNew = conditionOf(job, "Suspended") === undefined;
  const { startTime: _start, ...status } = job.status;
  const conditions = isNew
    ? [...others, condition("Suspended", "JobSuspended", "Job suspended")]
    : (job.status.conditions ?? []);
  await setStatus(registry, job, {
    ...status,
    conditions,
    active: 0,
    ready: 0,
    terminating: 0,
    uncountedTerminatedPods: {},
  });
  if (isNew)
    await recordEvent(registry, job, COMPONENT, { type: "Normal", reason: "Suspended", message: "Job suspended" });
}

async function fail(
  registry: Registry,
  job: Job,
  active: readonly Pod[],
  { reason, message }: Failing,
): Promise<undefined> {
  for (const pod of active) await deletePod(registry, job, pod, COMPONENT);
  const conditions = [
    ...(job.status.conditions ?? []),
    condition("FailureTarget", reason, message),
    condition("Failed", reason, message),
  ];
  await setStatus(registry, job, { ...job.status, conditions, active: 0, ready: 0, terminating: 0 });
  await recordEvent(registry, job, COMPONENT, { type: "Warning", reason, message });
}

/** The first rule of the success policy that the indexes which have succeeded meet. */
function metRule(job: Job): number | undefined {
  const done = new Set(completedIndexes(job.status.completedIndexes));
  const at = (job.spec.successPolicy?.rules ?? []).findIndex(({ succeededIndexes, succeededCount }) => {
    const wanted = succeededIndexes === undefined ? [...done] : completedIndexes(succeededIndexes);
    const count = wanted.filter((index) => done.has(index)).length;
    return succeededCount === undefined ? count === wanted.length : count >= succeededCount;
  });
  return at < 0 ? undefined : at;
}

async function complete(
  registry: Registry,
  job: Job,
  active: readonly Pod[],
  startTime: string,
  why: Failing = { reason: "CompletionsReached", message: "Reached expected number of succeeded pods" },
): Promise<undefined> {
  for (const pod of active) await deletePod(registry, job, pod, COMPONENT);
  const conditions = [
    ...(job.status.conditions ?? []),
    condition("SuccessCriteriaMet", why.reason, why.message),
    condition("Complete", why.reason, why.message),
  ];
  const status = {
    ...job.status,
    conditions,
    startTime,
    completionTime: timestamp(),
    active: 0,
    ready: 0,
    terminating: 0,
  };
  await setStatus(registry, job, status);
  await recordEvent(registry, job, COMPONENT, { type: "Normal", reason: "Completed", message: "Job completed" });
}

/** Deletes a finished job after its time to live. */
async function expire(registry: Registry, job: Job): Promise<number | undefined> {
  const seconds = job.spec.ttlSecondsAfterFinished;
  if (seconds === undefined) return undefined;
  const end = conditionOf(job, "Complete") ?? conditionOf(job, "Failed");
  const left = Date.parse(end?.lastTransitionTime ?? "") + seconds * 1000 - Date.now();
  if (left > 0) return left;
  await registry.delete(JOBS, job.metadata.namespace, job.metadata.name, { propagationPolicy: "Foreground" });
  return undefined;
}
