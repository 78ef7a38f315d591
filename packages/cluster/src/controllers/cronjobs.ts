// CronJobs: a Job at each time of a schedule, with what shall happen when the one before still runs.
import { errorText, jsonClone, jsonEqual } from "@lateen/base";
import { Cron } from "croner";
import { ApiError } from "../api/errors.ts";
import { recordEvent } from "../api/events.ts";
import { builtIn } from "../api/kinds.ts";
import { type CronJob, type Job, type KubeObject, ownedBy, timestamp } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { Controller, keyOf } from "./controller.ts";
import { isOwnedBy, ownerKey } from "./pods.ts";

const CRONJOBS = builtIn("cronjobs");
const JOBS = builtIn("jobs");
const COMPONENT = "cronjob-controller";
const SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/** More missed times than these are a clock that is wrong: nothing is started for them. */
const MISSED_MAX = 100;
/** Node's timers go no further; what is later is looked at again. */
const WAIT_MAX_MS = 86_400_000;

/** Starts the controller. */
export function startCronJobs(registry: Registry): void {
  new Controller(
    registry,
    "cronjob",
    [
      { kind: CRONJOBS, keys: (object) => [keyOf(object)] },
      { kind: JOBS, keys: (object) => ownerKey(object, "CronJob") },
    ],
    (namespace, name) => reconcile(registry, namespace, name),
  );
}

const conditionOf = (job: Job): string | undefined =>
  job.status.conditions?.find(({ type, status }) => (type === "Complete" || type === "Failed") && status === "True")
    ?.type;

/** The last time of the schedule after `since` and not after now. */
function lastDue(schedule: Cron, since: Date, now: Date): Date | undefined {
  let due: Date | undefined;
  let next = schedule.nextRun(since);
  for (let i = 0; next !== null && next <= now; i++) {
    if (i > MISSED_MAX) return schedule.previousRuns(1, now)[0];
    due = next;
    next = schedule.nextRun(next);
  }
  return due;
}

async function reconcile(registry: Registry, namespace: string, name: string): Promise<number | undefined> {
  const cron = registry.find(CRONJOBS, namespace, name) as CronJob | undefined;
  if (cron === undefined || cron.metadata.deletionTimestamp !== undefined) return undefined;
  const jobs = (registry.list(JOBS, namespace) as Job[]).filter((job) => isOwnedBy(job, cron));
  await trim(registry, cron, jobs);
  await writeStatus(registry, cron, jobs, cron.status.lastScheduleTime);
  if (cron.spec.suspend === true) return undefined;
  let schedule: Cron;
  try {
    schedule = new Cron(cron.spec.schedule, { paused: true, timezone: cron.spec.timeZone ?? "UTC" });
  } catch (error) {
    await recordEvent(registry, cron, COMPONENT, {
      type: "Warning",
      reason: "UnparseableSchedule",
      message: `unparseable schedule: ${cron.spec.schedule}: ${errorText(error)}`,
    });
    return undefined;
  }
  const now = new Date();
  const since = new Date(cron.status.lastScheduleTime ?? cron.metadata.creationTimestamp ?? now);
  const due = lastDue(schedule, since, now);
  if (due !== undefined) await startDue(registry, cron, jobs, due);
  const next = schedule.nextRun(now);
  return next === null ? undefined : Math.min(WAIT_MAX_MS, next.getTime() - Date.now() + 100);
}

async function startDue(registry: Registry, cron: CronJob, jobs: readonly Job[], due: Date): Promise<void> {
  const deadline = cron.spec.startingDeadlineSeconds;
  if (deadline !== undefined && Date.now() - due.getTime() > deadline * 1000) return;
  const active = jobs.filter((job) => conditionOf(job) === undefined);
  if (active.length > 0 && cron.spec.concurrencyPolicy === "Forbid") {
    await recordEvent(registry, cron, COMPONENT, {
      type: "Normal",
      reason: "JobAlreadyActive",
      message: "Not starting job because prior execution is running and concurrency policy is Forbid",
    });
    return;
  }
  if (cron.spec.concurrencyPolicy === "Replace")
    for (const job of active)
      await registry.delete(JOBS, job.metadata.namespace, job.metadata.name, { propagationPolicy: "Background" });
  const { metadata = {}, spec } = jsonClone(cron.spec.jobTemplate);
  const name = `${cron.metadata.name}-${Math.floor(due.getTime() / 60_000)}`;
  try {
    const job = await registry.create(JOBS, cron.metadata.namespace, {
      apiVersion: "batch/v1",
      kind: "Job",
      metadata: {
        ...metadata,
        annotations: { ...metadata.annotations, [SCHEDULED]: timestamp(due) },
        name,
        uid: "",
        ownerReferences: [ownedBy(cron)],
      },
      spec,
    });
    await recordEvent(registry, cron, COMPONENT, {
      type: "Normal",
      reason: "SuccessfulCreate",
      message: `Created job ${job.metadata.name}`,
    });
  } catch (error) {
    if (!(error instanceof ApiError) || error.reason !== "AlreadyExists") throw error;
  }
  const now = (registry.list(JOBS, cron.metadata.namespace) as Job[]).filter((job) => isOwnedBy(job, cron));
  await writeStatus(registry, cron, now, timestamp(due));
}

async function writeStatus(
  registry: Registry,
  seen: CronJob,
  jobs: readonly Job[],
  last: string | undefined,
): Promise<void> {
  const active = jobs
    .filter((job) => conditionOf(job) === undefined)
    .map((job) => ({
      kind: "Job",
      namespace: job.metadata.namespace,
      name: job.metadata.name,
      uid: job.metadata.uid,
      apiVersion: "batch/v1",
      resourceVersion: job.metadata.resourceVersion,
    }));
  const ends = jobs.filter((job) => conditionOf(job) === "Complete").map((job) => job.status.completionTime ?? "");
  const success = ends.toSorted().at(-1) ?? seen.status.lastSuccessfulTime;
  const status = {
    ...(active.length > 0 ? { active } : {}),
    ...(last === undefined ? {} : { lastScheduleTime: last }),
    ...(success === undefined ? {} : { lastSuccessfulTime: success }),
  };
  const names = (value: { active?: { uid?: string }[] }): unknown => ({
    ...value,
    active: value.active?.map(({ uid }) => uid),
  });
  if (jsonEqual(names(status), names(seen.status))) return;
  const write = (current: KubeObject): KubeObject => ({ ...current, status });
  await registry.update(CRONJOBS, seen.metadata.namespace, seen.metadata.name, write, { subresource: "status" });
}

/** Keeps as many finished jobs as the history limits say. */
async function trim(registry: Registry, cron: CronJob, jobs: readonly Job[]): Promise<void> {
  for (const [end, limit] of [
    ["Complete", cron.spec.successfulJobsHistoryLimit ?? 3],
    ["Failed", cron.spec.failedJobsHistoryLimit ?? 1],
  ] as const) {
    const ended = jobs
      .filter((job) => conditionOf(job) === end)
      .toSorted((a, b) => ((a.status.startTime ?? "") < (b.status.startTime ?? "") ? -1 : 1));
    for (const job of ended.slice(0, Math.max(0, ended.length - limit)))
      if (job.metadata.deletionTimestamp === undefined)
        await registry.delete(JOBS, job.metadata.namespace, job.metadata.name, { propagationPolicy: "Background" });
  }
}
