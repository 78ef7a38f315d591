// Events: what controllers and the node tell of objects. The same thing told again is counted on the event that exists.
import { errorText } from "@lateen/base";
import { ApiError } from "./errors.ts";
import { builtIn } from "./kinds.ts";
import { type KubeObject, timestamp } from "./objects.ts";
import type { Registry } from "./registry.ts";

const EVENTS = builtIn("events");

export interface EventText {
  readonly type: "Normal" | "Warning";
  readonly reason: string;
  readonly message: string;
  /** Which part of the object, such as `spec.containers{web}`. */
  readonly fieldPath?: string;
}

/** Writes an Event about `about`. Never throws: that something cannot be told must not stop what it tells of. */
export async function recordEvent(
  registry: Registry,
  about: KubeObject,
  component: string,
  entry: EventText,
): Promise<void> {
  try {
    await write(registry, about, component, entry);
  } catch (error) {
    // Nobody will read events of a namespace that ends.
    if (error instanceof ApiError && (error.code === 403 || error.code === 404)) return;
    process.stderr.write(`event ${entry.reason} of ${about.metadata.name}: ${errorText(error)}\n`);
  }
}

let lastTime = 0n;

/** Now, in nanoseconds, later than the time before: it names events, and events of one second are shown in order of their names. */
function nextTime(): bigint {
  const now = BigInt(Date.now()) * 1_000_000n;
  lastTime = now > lastTime ? now : lastTime + 1n;
  return lastTime;
}

async function write(registry: Registry, about: KubeObject, component: string, entry: EventText): Promise<void> {
  const namespace = about.metadata.namespace ?? "default";
  const now = timestamp();
  const { name, uid, resourceVersion } = about.metadata;
  const same = registry.list(EVENTS, namespace).find((event) => {
    const involved = event["involvedObject"] as { uid?: string; fieldPath?: string };
    const isSame = involved.uid === uid && involved.fieldPath === entry.fieldPath;
    return (
      isSame && event["reason"] === entry.reason && event["message"] === entry.message && event["type"] === entry.type
    );
  });
  const options = { manager: component };
  if (same !== undefined) {
    const counted = (event: KubeObject): KubeObject => ({
      ...event,
      count: Number(event["count"] ?? 1) + 1,
      lastTimestamp: now,
    });
    await registry.update(EVENTS, namespace, same.metadata.name, counted, options);
    return;
  }
  const involvedObject = {
    kind: about.kind,
    namespace: about.metadata.namespace,
    name,
    uid,
    apiVersion: about.apiVersion,
    resourceVersion,
    fieldPath: entry.fieldPath,
  };
  const event = {
    apiVersion: "v1",
    kind: "Event",
    metadata: { name: `${name}.${nextTime().toString(16)}`, uid: "" },
    involvedObject,
    reason: entry.reason,
    message: entry.message,
    source: { component },
    firstTimestamp: now,
    lastTimestamp: now,
    count: 1,
    type: entry.type,
    reportingComponent: component,
    reportingInstance: "",
  };
  await registry.create(EVENTS, namespace, event, options);
}
