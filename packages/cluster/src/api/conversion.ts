// Kinds that are served in two forms and stored in one: HorizontalPodAutoscaler v1 (stored as v2), Event of events.k8s.io
// (stored as the core one), and the versions of custom kinds, which differ in apiVersion alone.
import { jsonClone } from "@lateen/base";
import { defaultCustom, hasDefaults, isCustom } from "./custom.ts";
import { apiVersionOf, type Kind } from "./kinds.ts";
import type { KubeObject } from "./objects.ts";

type Members = Record<string, any>;

const renamed = (from: Members, names: Readonly<Record<string, string>>): Members =>
  Object.fromEntries(
    Object.entries(from)
      .filter(([key, value]) => names[key] !== "" && value !== undefined)
      .map(([key, value]) => [names[key] ?? key, value]),
  );

const EVENT_NAMES = {
  regarding: "involvedObject",
  note: "message",
  reportingController: "reportingComponent",
  deprecatedSource: "source",
  deprecatedFirstTimestamp: "firstTimestamp",
  deprecatedLastTimestamp: "lastTimestamp",
  deprecatedCount: "count",
};
const EVENT_NAMES_BACK = Object.fromEntries(Object.entries(EVENT_NAMES).map(([a, b]) => [b, a]));

const CPU_TARGET = "targetCPUUtilizationPercentage";
const METRICS = "autoscaling.alpha.kubernetes.io/metrics";
const isCpu = (metric: Members): boolean =>
  metric["resource"]?.name === "cpu" && metric["resource"].target?.type === "Utilization";

function scalerToV2(object: KubeObject): KubeObject {
  const { [CPU_TARGET]: target, ...spec } = (object.spec ?? {}) as Members;
  const { currentCPUUtilizationPercentage: _current, ...status } = (object.status ?? {}) as Members;
  const metrics =
    target === undefined
      ? []
      : [{ type: "Resource", resource: { name: "cpu", target: { type: "Utilization", averageUtilization: target } } }];
  return { ...object, spec: { ...spec, metrics }, status };
}

function scalerToV1(object: KubeObject): KubeObject {
  const { metrics = [], behavior: _behavior, ...spec } = (object.spec ?? {}) as Members;
  const { currentMetrics: _metrics, conditions: _conditions, ...status } = (object.status ?? {}) as Members;
  const cpu = (metrics as Members[]).find(isCpu);
  const others = (metrics as Members[]).filter((metric) => metric !== cpu);
  const annotations = {
    ...object.metadata.annotations,
    ...(others.length === 0 ? {} : { [METRICS]: JSON.stringify(others) }),
  };
  return {
    ...object,
    metadata: Object.keys(annotations).length === 0 ? object.metadata : { ...object.metadata, annotations },
    spec: { ...spec, ...(cpu === undefined ? {} : { [CPU_TARGET]: cpu["resource"].target.averageUtilization }) },
    status: { currentReplicas: 0, desiredReplicas: 0, ...status },
  };
}

const isSecondForm = (kind: Kind): boolean =>
  kind.group === "events.k8s.io" || (kind.group === "autoscaling" && kind.version === "v1");

/** A stored object in the form of `kind`. */
export function toServed(kind: Kind, object: KubeObject): KubeObject {
  const apiVersion = apiVersionOf(kind);
  // What the schema has learned since the object was written holds for it, too.
  if (isCustom(kind) && hasDefaults(kind.schema)) {
    const filled = { ...jsonClone(object), kind: kind.kind, apiVersion };
    defaultCustom(filled, kind.schema);
    return filled;
  }
  if (object.apiVersion === apiVersion) return object;
  let served: KubeObject = object;
  if (kind.group === "events.k8s.io") served = renamed(object, EVENT_NAMES_BACK) as KubeObject;
  else if (isSecondForm(kind)) served = scalerToV1(object);
  return { ...served, kind: kind.kind, apiVersion };
}

/** An object in the form of `kind` as it is stored. */
export function toStored(kind: Kind, object: KubeObject): KubeObject {
  if (!isSecondForm(kind)) return object;
  if (kind.group === "events.k8s.io") return { ...(renamed(object, EVENT_NAMES) as KubeObject), apiVersion: "v1" };
  return { ...scalerToV2(object), apiVersion: "autoscaling/v2" };
}
