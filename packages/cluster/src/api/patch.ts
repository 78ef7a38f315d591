// The three patch types that kubectl and typed clients send: JSON patch (RFC 6902), merge patch (RFC 7386) and
// Kubernetes' strategic merge (built-in kinds: lists merged by a key of their elements).
import { isObject, jsonClone, jsonEqual } from "@lateen/base";
import { applyPatch, type Operation } from "rfc6902";
import { ApiError, badRequest } from "./errors.ts";

type Members = Record<string, unknown>;

/** RFC 7386. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const result: Members = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else result[key] = mergePatch(result[key], value);
  }
  return result;
}

/** RFC 6902. A failed test or a missing path is 422, anything but a list 400. */
export function jsonPatch(target: unknown, patch: unknown): unknown {
  if (!Array.isArray(patch)) {
    throw badRequest("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch");
  }
  const result = jsonClone(target);
  const failed = applyPatch(result, patch as Operation[]).find((error) => error !== null);
  if (failed !== undefined && failed !== null) {
    throw new ApiError(422, "Invalid", "the server rejected our request due to an error in our request", {});
  }
  return result;
}

/** Keys by which lists of built-in kinds are merged, by the list's field name (Kubernetes' patchMergeKey tags). */
const MERGE_KEYS: Readonly<Record<string, readonly string[]>> = {
  containers: ["name"],
  initContainers: ["name"],
  ephemeralContainers: ["name"],
  env: ["name"],
  volumes: ["name"],
  imagePullSecrets: ["name"],
  secrets: ["name"],
  webhooks: ["name"],
  ports: ["containerPort", "port"],
  volumeMounts: ["mountPath"],
  volumeDevices: ["devicePath"],
  conditions: ["type"],
  ownerReferences: ["uid"],
  hostAliases: ["ip"],
  topologySpreadConstraints: ["topologyKey"],
  addresses: ["type"],
};

function mergeKey(field: string, items: readonly unknown[]): string | undefined {
  return MERGE_KEYS[field]?.find((key) =>
    items.every((item) => isObject(item) && (item[key] !== undefined || "$patch" in item)),
  );
}

function mergeList(field: string, target: readonly unknown[], patch: readonly unknown[], order: unknown): unknown[] {
  if (patch.some((item) => isObject(item) && item["$patch"] === "replace")) {
    return patch.filter((item) => !(isObject(item) && item["$patch"] === "replace"));
  }
  if (field === "finalizers") return [...new Set([...target, ...patch])];
  const key = mergeKey(field, [...patch, ...target]);
  if (key === undefined) {
    const first = MERGE_KEYS[field]?.[0];
    if (first === undefined || patch.length === 0) return [...patch];
    throw new ApiError(500, "", `map: ${JSON.stringify(patch[0])} does not contain declared merge key: ${first}`);
  }
  const result = [...target];
  const added: unknown[] = [];
  for (const item of patch as Members[]) {
    const at = result.findIndex((entry) => isObject(entry) && entry[key] === item[key]);
    if (item["$patch"] === "delete") {
      if (at >= 0) result.splice(at, 1);
    } else if (at >= 0) result[at] = strategicMerge(result[at], item);
    else added.push(strategicMerge({}, item));
  }
  const merged = [...added, ...result] as Members[];
  if (!Array.isArray(order)) return merged;
  const ranks = order.map((entry) => (isObject(entry) ? entry[key] : undefined));
  const rank = (item: Members): number => {
    const at = ranks.findIndex((value) => jsonEqual(value, item[key]));
    return at < 0 ? ranks.length : at;
  };
  return merged.toSorted((a, b) => rank(a) - rank(b));
}

/** Kubernetes' strategic merge patch of a built-in kind. */
export function strategicMerge(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  if (patch["$patch"] === "replace") {
    const { $patch: _directive, ...rest } = patch;
    return rest;
  }
  let result: Members = isObject(target) ? { ...target } : {};
  const retained = patch["$retainKeys"];
  if (Array.isArray(retained)) {
    result = Object.fromEntries(Object.entries(result).filter(([key]) => retained.includes(key)));
  }
  for (const [key, value] of Object.entries(patch)) {
    if (key.startsWith("$deleteFromPrimitiveList/")) {
      const field = key.slice(key.indexOf("/") + 1);
      const list = result[field];
      if (Array.isArray(list) && Array.isArray(value)) result[field] = list.filter((item) => !value.includes(item));
    }
    if (key.startsWith("$")) continue;
    const before = result[key];
    if (value === null) delete result[key];
    else if (Array.isArray(value)) {
      result[key] = mergeList(key, Array.isArray(before) ? before : [], value, patch[`$setElementOrder/${key}`]);
    } else result[key] = strategicMerge(before, value);
  }
  return result;
}
