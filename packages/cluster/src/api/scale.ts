// The scale subresource: one small object (autoscaling/v1 Scale) for all kinds that have replicas.
import { isObject } from "@lateen/base";
import { isCustom } from "./custom.ts";
import { badRequest, invalid } from "./errors.ts";
import type { Kind } from "./kinds.ts";
import type { KubeObject, LabelSelector } from "./objects.ts";
import { selectorText } from "./selectors.ts";

const stepsOf = (path: string): string[] => path.split(".").filter((step) => step !== "");

function valueAt(object: unknown, path: string): unknown {
  let at = object;
  for (const step of stepsOf(path)) at = isObject(at) ? at[step] : undefined;
  return at;
}

function withValue(object: unknown, steps: readonly string[], value: unknown): Record<string, unknown> {
  const [first = "", ...rest] = steps;
  const members = isObject(object) ? object : {};
  return { ...members, [first]: rest.length === 0 ? value : withValue(members[first], rest, value) };
}

/** The scale of an object. */
export function scaleOf(kind: Kind, object: KubeObject): KubeObject {
  const paths = isCustom(kind) ? kind.scale : undefined;
  const replicas = Number(valueAt(object, paths?.specReplicasPath ?? ".spec.replicas") ?? 0);
  const current = Number(valueAt(object, paths?.statusReplicasPath ?? ".status.replicas") ?? 0);
  let selector: unknown;
  if (paths !== undefined)
    selector = paths.labelSelectorPath === undefined ? undefined : valueAt(object, paths.labelSelectorPath);
  else {
    const spec = object.spec as { selector?: LabelSelector | Record<string, string> };
    selector = selectorText(
      kind.plural === "replicationcontrollers"
        ? { matchLabels: spec.selector as Record<string, string> }
        : spec.selector,
    );
  }
  const { name, namespace, uid, resourceVersion, creationTimestamp } = object.metadata;
  return {
    kind: "Scale",
    apiVersion: "autoscaling/v1",
    metadata: { name, namespace, uid, resourceVersion, creationTimestamp } as KubeObject["metadata"],
    spec: replicas === 0 ? {} : { replicas },
    status: { replicas: current, ...(typeof selector === "string" && selector !== "" ? { selector } : {}) },
  };
}

/** The object with the replicas that a Scale asks for. */
export function withScale(kind: Kind, object: KubeObject, scale: KubeObject): KubeObject {
  const spec = scale.spec as { replicas?: unknown } | undefined;
  const replicas = spec?.replicas ?? 0;
  if (typeof replicas !== "number" || !Number.isInteger(replicas))
    throw badRequest("Scale: spec.replicas must be an integer");
  if (replicas < 0) {
    const message = `Invalid value: ${replicas}: must be greater than or equal to 0`;
    throw invalid({ group: "autoscaling", plural: "scales", kind: "Scale" }, object.metadata.name, [
      { reason: "FieldValueInvalid", message, field: "spec.replicas" },
    ]);
  }
  const path = (isCustom(kind) ? kind.scale?.specReplicasPath : undefined) ?? ".spec.replicas";
  return withValue(object, stepsOf(path), replicas) as unknown as KubeObject;
}
