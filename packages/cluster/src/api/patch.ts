// The three patch types that kubectl and typed clients send: JSON patch (RFC 6902), merge patch (RFC 7386) and
// Kubernetes' strategic merge (built-in kinds: lists merged by a key of their elements, as their types say).
import { isObject, jsonClone, jsonEqual } from "@lateen/base";
import { applyPatch, type Operation } from "rfc6902";
import { ApiError, badRequest } from "./errors.ts";
import { ANY, type Type } from "./types.ts";

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

/** Applies operations in place. False: one of them cannot be applied. */
function isApplied(target: unknown, operations: readonly Operation[]): boolean {
  try {
    return applyPatch(target, [...operations]).every((error) => error === null);
  } catch {
    return false;
  }
}

/** RFC 6902. A failed test or a missing path is 422, anything but a list 400. */
export function jsonPatch(target: unknown, patch: unknown): unknown {
  if (!Array.isArray(patch)) {
    throw badRequest(
      "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
    );
  }
  for (const operation of patch as unknown[]) {
    const isText = (name: string): boolean => isObject(operation) && typeof operation[name] === "string";
    const needsFrom = isObject(operation) && (operation["op"] === "move" || operation["op"] === "copy");
    if (!isText("op") || !isText("path") || (needsFrom && !isText("from")))
      throw badRequest(`error decoding patch: ${JSON.stringify(operation).slice(0, 200)} is no operation`);
  }
  const result = jsonClone(target);
  if (!isApplied(result, patch as Operation[])) {
    throw new ApiError(422, "Invalid", "the server rejected our request due to an error in our request", {});
  }
  return result;
}

/** What the type of a struct says of one of its lists, or of anything else. */
interface Place {
  readonly type: Type;
  readonly strategy: string;
  readonly mergeKey: string | undefined;
}

const UNKNOWN: Place = { type: ANY, strategy: "", mergeKey: undefined };

function placeOf(type: Type, name: string): Place {
  if (type.shape === "map") return { ...UNKNOWN, type: type.value };
  return (type.shape === "struct" ? type.fields.get(name) : undefined) ?? UNKNOWN;
}

const itemType = (type: Type): Type => (type.shape === "list" ? type.item : ANY);

function mergeList(target: readonly unknown[], patch: readonly unknown[], place: Place, order: unknown): unknown[] {
  if (patch.some((item) => isObject(item) && item["$patch"] === "replace"))
    return patch.filter((item) => !(isObject(item) && item["$patch"] === "replace"));
  if (!place.strategy.includes("merge")) return [...patch];
  const key = place.mergeKey;
  const wanted = Array.isArray(order) ? order : patch;
  if (key === undefined) return inOrder([...new Set([...target, ...patch])], wanted, target, (item) => item);
  const result = [...target];
  for (const item of patch) {
    if (!isObject(item)) throw badRequest("a list of objects is merged with something else");
    if (item[key] === undefined)
      throw new ApiError(500, "", `map: ${goMap(item)} does not contain declared merge key: ${key}`);
    const at = result.findIndex((entry) => isObject(entry) && jsonEqual(entry[key], item[key]));
    if (item["$patch"] === "delete") {
      for (let i = result.length - 1; i >= 0; i--) {
        const entry = result[i];
        if (isObject(entry) && jsonEqual(entry[key], item[key])) result.splice(i, 1);
      }
    } else if (at >= 0) result[at] = strategicMerge(result[at], item, itemType(place.type));
    else result.push(strategicMerge({}, item, itemType(place.type)));
  }
  return inOrder(result, wanted, target, (item) => (isObject(item) ? item[key] : undefined));
}

export const goMap = (value: Members): string =>
  `map[${Object.entries(value)
    .map(([key, member]) => `${key}:${isObject(member) ? goMap(member) : String(member)}`)
    .join(" ")}]`;

/**
 * The order after a merge: items of the patch as it (or its $setElementOrder) orders them, the others as they were; of the
 * two, what stood first goes first, and an item that is new goes before those that are not in the patch.
 */
function inOrder(
  merged: readonly unknown[],
  order: readonly unknown[],
  before: readonly unknown[],
  keyOf: (item: unknown) => unknown,
): unknown[] {
  const rank = (list: readonly unknown[], item: unknown): number =>
    list.findIndex((entry) => jsonEqual(keyOf(entry), keyOf(item)));
  const ours = merged.filter((item) => rank(order, item) >= 0).toSorted((a, b) => rank(order, a) - rank(order, b));
  const others = merged.filter((item) => rank(order, item) < 0).toSorted((a, b) => rank(before, a) - rank(before, b));
  const result: unknown[] = [];
  while (ours.length > 0 && others.length > 0) {
    const [other, our] = [rank(before, others[0]), rank(before, ours[0])];
    result.push(other >= 0 && our >= 0 && other <= our ? others.shift() : ours.shift());
  }
  return [...result, ...ours, ...others];
}

/** Kubernetes' strategic merge patch: objects merge by name, lists as their type says. */
export function strategicMerge(target: unknown, patch: unknown, type: Type): unknown {
  if (!isObject(patch)) return patch;
  if (patch["$patch"] === "replace") {
    const { $patch: _directive, ...rest } = patch;
    return rest;
  }
  if (patch["$patch"] === "delete") return {};
  let result: Members = isObject(target) ? { ...target } : {};
  const retained = patch["$retainKeys"];
  if (Array.isArray(retained))
    result = Object.fromEntries(Object.entries(result).filter(([key]) => retained.includes(key)));
  for (const [key, value] of Object.entries(patch)) {
    if (key.startsWith("$deleteFromPrimitiveList/")) {
      const name = key.slice(key.indexOf("/") + 1);
      const list = result[name];
      if (Array.isArray(list) && Array.isArray(value)) result[name] = list.filter((item) => !value.includes(item));
    } else if (key.startsWith("$setElementOrder/")) {
      const name = key.slice(key.indexOf("/") + 1);
      const list = result[name];
      const { mergeKey } = placeOf(type, name);
      if (Array.isArray(list) && Array.isArray(value) && patch[name] === undefined)
        result[name] = inOrder(list, value, list, (item) =>
          mergeKey !== undefined && isObject(item) ? item[mergeKey] : item,
        );
    }
    if (key.startsWith("$")) continue;
    const before = result[key];
    const place = placeOf(type, key);
    // What is not there cannot be replaced: a real server leaves it out.
    if (value === null || (before === undefined && isObject(value) && value["$patch"] !== undefined))
      delete result[key];
    else if (Array.isArray(value))
      result[key] = mergeList(Array.isArray(before) ? before : [], value, place, patch[`$setElementOrder/${key}`]);
    else result[key] = strategicMerge(before, value, place.type);
  }
  return result;
}
