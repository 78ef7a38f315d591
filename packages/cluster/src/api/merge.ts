// Values with their types: which fields a value sets, how two values differ, and their structured merge. The rules are those
// of server-side apply (Kubernetes' structured-merge-diff): atomic values are one field, maps and structs merge by name, lists
// by the keys of their items.
import { isObject, jsonEqual } from "@lateen/base";
import { ApiError } from "./errors.ts";
import { FieldSet, FieldSetBuilder, fieldElement, keyElement, valueElement } from "./fieldset.ts";
import { ANY, type ListType, type Type } from "./types.ts";

type Members = Readonly<Record<string, unknown>>;

/** What a type says of one member of a map or struct; `isDeclared`: a struct's field, not a map's key. */
interface Member {
  readonly type: Type;
  readonly isDeclared: boolean;
}

/** Arbitrary JSON is a map of arbitrary values, or an atomic list. */
function memberOf(type: Type, key: string): Member {
  if (type.shape === "struct") {
    const field = type.fields.get(key);
    return field === undefined ? { type: ANY, isDeclared: false } : { type: field.type, isDeclared: true };
  }
  return { type: type.shape === "map" ? type.value : ANY, isDeclared: false };
}

/** Whether a value of this type merges by its members. */
function isGranularMap(type: Type, value: unknown): value is Members {
  if (!isObject(value)) return false;
  if (type.shape === "leaf") return type.leaf === "any" || type.leaf === "JSON";
  return (type.shape === "struct" || type.shape === "map") && !type.isAtomic;
}

function granularList(type: Type, value: unknown): ListType | undefined {
  return type.shape === "list" && type.list !== "atomic" && Array.isArray(value) ? type : undefined;
}

/** How a list item is named in sets of fields. Throws when it lacks its keys. */
function itemElement(type: ListType, item: unknown): string {
  if (type.list === "set") return valueElement(item);
  if (!isObject(item)) throw new ApiError(500, "", "associative list with keys has an element that is not an object");
  const keys: Record<string, unknown> = {};
  for (const key of type.keys) {
    const declared = type.item.shape === "struct" ? type.item.fields.get(key)?.default : undefined;
    const value = item[key] ?? declared;
    if (value !== undefined && value !== null) keys[key] = value;
  }
  if (Object.keys(keys).length === 0) {
    const names = type.keys.map((key) => JSON.stringify(key)).join(", ");
    throw new ApiError(
      500,
      "",
      `associative list with keys has an element that omits key field ${names} (and doesn't have default value)`,
    );
  }
  return keyElement(keys);
}

const isBlank = (value: unknown): boolean =>
  value === null || value === undefined || (typeof value === "object" && Object.keys(value).length === 0);

/** The fields that a value sets. */
export function fieldsOf(value: unknown, type: Type): FieldSet {
  const builder = new FieldSetBuilder();
  collect(value, type, builder);
  return builder.build();
}

/** Adds what is inside `value`; returns whether the value itself is one field (atomic or a leaf). */
function collect(value: unknown, type: Type, into: FieldSetBuilder): boolean {
  const list = granularList(type, value);
  if (list !== undefined) {
    for (const item of value as unknown[]) {
      const element = itemElement(list, item);
      collect(item, list.item, into.at(element));
      into.add(element);
    }
    return false;
  }
  if (!isGranularMap(type, value)) return true;
  for (const [key, member] of Object.entries(value)) {
    if (member === undefined) continue;
    const { type: inner, isDeclared } = memberOf(type, key);
    const element = fieldElement(key);
    const isLeaf = collect(member, inner, into.at(element));
    const isEmpty = member === null || (isObject(member) && Object.keys(member).length === 0);
    if (isLeaf || isEmpty || !isDeclared) into.add(element);
  }
  return false;
}

export interface Comparison {
  readonly added: FieldSet;
  readonly modified: FieldSet;
  readonly removed: FieldSet;
}

interface Builders {
  readonly added: FieldSetBuilder;
  readonly modified: FieldSetBuilder;
  readonly removed: FieldSetBuilder;
}

/** The fields in which `after` differs from `before`. */
export function compareValues(before: unknown, after: unknown, type: Type): Comparison {
  const builders = { added: new FieldSetBuilder(), modified: new FieldSetBuilder(), removed: new FieldSetBuilder() };
  compareInside(before, after, type, builders);
  return { added: builders.added.build(), modified: builders.modified.build(), removed: builders.removed.build() };
}

const below = (builders: Builders, element: string): Builders => ({
  added: builders.added.at(element),
  modified: builders.modified.at(element),
  removed: builders.removed.at(element),
});

/** Compares what is inside; returns true when the values are to be compared as a whole. */
function compareInside(before: unknown, after: unknown, type: Type, into: Builders): boolean {
  if (isBlank(before) && isBlank(after)) return true;
  const list = granularList(type, before ?? after) ?? granularList(type, after ?? before);
  if (
    list !== undefined &&
    (before === undefined || before === null || Array.isArray(before)) &&
    !(isObject(after) || isObject(before))
  ) {
    compareLists(toList(before), toList(after), list, into);
    return false;
  }
  const isMap = (value: unknown): boolean => value === undefined || value === null || isGranularMap(type, value);
  if (!isMap(before) || !isMap(after)) return true;
  const [old, next] = [(before ?? {}) as Members, (after ?? {}) as Members];
  for (const key of new Set([...Object.keys(old), ...Object.keys(next)])) {
    compareMember(old[key], next[key], memberOf(type, key).type, into, fieldElement(key));
  }
  return false;
}

const toList = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

function compareLists(before: readonly unknown[], after: readonly unknown[], type: ListType, into: Builders): void {
  const old = new Map(before.map((item) => [itemElement(type, item), item]));
  const next = new Map(after.map((item) => [itemElement(type, item), item]));
  for (const element of new Set([...old.keys(), ...next.keys()]))
    compareMember(old.get(element), next.get(element), type.item, into, element);
}

function compareMember(before: unknown, after: unknown, type: Type, into: Builders, element: string): void {
  const isWhole = compareInside(before, after, type, below(into, element));
  if (before === undefined && after !== undefined) into.added.add(element);
  else if (before !== undefined && after === undefined) into.removed.add(element);
  else if (isWhole && !jsonEqual(before, after)) into.modified.add(element);
}

/** `live` with what `applied` says: structured merge. */
export function mergeValues(live: unknown, applied: unknown, type: Type): unknown {
  if (applied === undefined) return live;
  if (live === undefined || live === null || applied === null) return applied;
  const list = granularList(type, applied);
  if (list !== undefined && Array.isArray(live)) return mergeLists(live, applied as unknown[], list);
  if (!isGranularMap(type, applied) || !isObject(live)) return applied;
  const result: Record<string, unknown> = { ...live };
  for (const [key, value] of Object.entries(applied)) {
    const { type: inner } = memberOf(type, key);
    result[key] = mergeValues(live[key], value, inner);
  }
  return result;
}

/**
 * The items of both, each once. The order is that of the applied list; items of the live one alone go before the applied
 * item that they stand before.
 */
function mergeLists(live: readonly unknown[], applied: readonly unknown[], type: ListType): unknown[] {
  const wanted = new Map(applied.map((item) => [itemElement(type, item), item]));
  const present = new Map(live.map((item) => [itemElement(type, item), item]));
  const result: unknown[] = [];
  const done = new Set<string>();
  const put = (element: string): void => {
    if (done.has(element)) return;
    done.add(element);
    result.push(mergeValues(present.get(element), wanted.get(element), type.item));
  };
  const liveOrder = [...present.keys()];
  let at = 0;
  for (const element of wanted.keys()) {
    for (; at < liveOrder.length && !wanted.has(liveOrder[at] as string); at++) put(liveOrder[at] as string);
    put(element);
    while (at < liveOrder.length && done.has(liveOrder[at] as string)) at += 1;
  }
  for (const element of liveOrder) if (!wanted.has(element)) put(element);
  return result;
}

/** The value without the fields of `set` (a member takes all that is below it along). */
export function withoutFields(value: unknown, type: Type, set: FieldSet): unknown {
  if (set.isEmpty) return value;
  const list = granularList(type, value);
  if (list !== undefined) {
    const kept: unknown[] = [];
    for (const item of value as unknown[]) {
      const node = set.nodes.get(itemElement(list, item));
      if (node?.isMember === true) continue;
      kept.push(node === undefined ? item : withoutFields(item, list.item, node.children));
    }
    return kept.length === 0 && (value as unknown[]).length > 0 ? undefined : kept;
  }
  if (!isGranularMap(type, value)) return value;
  const result: Record<string, unknown> = {};
  for (const [key, member] of Object.entries(value)) {
    const node = set.nodes.get(fieldElement(key));
    if (node?.isMember === true) continue;
    const kept = node === undefined ? member : withoutFields(member, memberOf(type, key).type, node.children);
    if (kept !== undefined) result[key] = kept;
  }
  return Object.keys(result).length === 0 && Object.keys(value).length > 0 ? undefined : result;
}
