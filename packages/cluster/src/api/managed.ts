// Who manages which fields: metadata.managedFields, kept at every write, and server-side apply on top of it. The rules are
// Kubernetes' (apimachinery/pkg/util/managedfields, structured-merge-diff): an update owns what it changed, an apply owns
// what it says; two appliers of different values conflict; what an applier no longer says and nobody else owns goes away.
import { isObject, jsonEqual } from "@lateen/base";
import { ApiError, badRequest, type StatusCause } from "./errors.ts";
import { FieldSet } from "./fieldset.ts";
import { compareValues, fieldsOf, mergeValues, withoutFields } from "./merge.ts";
import { type KubeObject, type ManagedFieldsEntry, timestamp } from "./objects.ts";
import type { Type } from "./types.ts";

interface Owner {
  readonly manager: string;
  readonly operation: "Apply" | "Update";
  readonly apiVersion: string;
  readonly subresource: string;
  readonly time: string | undefined;
  readonly set: FieldSet;
}

type Owners = Map<string, Owner>;

/** Who writes: `manager` names the fields' owner, `subresource` is that of the request. */
export interface Writer {
  readonly manager: string;
  readonly apiVersion: string;
  readonly subresource: string;
  /** Status is not theirs: it is written on a path of its own. */
  readonly ignoresStatus: boolean;
}

/** More updaters than these are merged into one, the oldest first. */
const UPDATERS_MAX = 10;
const ANCIENT = "ancient-changes";
const BEFORE_APPLY = "before-first-apply";
const LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration";

/** What identifies an object is nobody's. */
const UNMANAGED = FieldSet.parse({
  "f:apiVersion": {},
  "f:kind": {},
  "f:metadata": {
    ".": {},
    ...Object.fromEntries(
      [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
      ].map((name) => [`f:${name}`, {}]),
    ),
  },
});
const STATUS = FieldSet.parse({ "f:status": {} });

const identity = ({
  manager,
  apiVersion,
  subresource,
}: Writer): Pick<Owner, "manager" | "apiVersion" | "subresource"> => ({
  manager,
  apiVersion,
  subresource,
});

function ownerKey(owner: Pick<Owner, "manager" | "operation" | "apiVersion" | "subresource">): string {
  return JSON.stringify([owner.manager, owner.operation, owner.apiVersion, owner.subresource]);
}

function decodeOwners(entries: readonly ManagedFieldsEntry[]): Owners {
  const owners: Owners = new Map();
  for (const entry of entries) {
    const owner: Owner = {
      manager: entry.manager ?? "",
      operation: entry.operation === "Apply" ? "Apply" : "Update",
      apiVersion: entry.apiVersion ?? "",
      subresource: entry.subresource ?? "",
      time: entry.time,
      set: FieldSet.parse(entry.fieldsV1 ?? {}),
    };
    owners.set(ownerKey(owner), owner);
  }
  return owners;
}

const before = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

function inOrder(owners: Owners): Owner[] {
  return [...owners.values()].toSorted(
    (a, b) =>
      before(a.operation, b.operation) ||
      before(a.time ?? "", b.time ?? "") ||
      before(a.manager, b.manager) ||
      before(a.apiVersion, b.apiVersion) ||
      before(a.subresource, b.subresource),
  );
}

function encodeOwners(owners: Owners): ManagedFieldsEntry[] {
  return inOrder(owners).map((owner) => ({
    manager: owner.manager,
    operation: owner.operation,
    apiVersion: owner.apiVersion,
    ...(owner.time === undefined ? {} : { time: owner.time }),
    fieldsType: "FieldsV1",
    fieldsV1: owner.set.toJson(),
    ...(owner.subresource === "" ? {} : { subresource: owner.subresource }),
  }));
}

/** Merges the oldest updaters of one version into one entry while there are too many. */
function capped(owners: Owners): Owners {
  const updaters = inOrder(owners).filter(({ operation }) => operation === "Update");
  for (const old of updaters.slice(0, Math.max(0, updaters.length - UPDATERS_MAX + 1))) {
    if (updaters.length <= UPDATERS_MAX) break;
    const merged = { ...old, manager: ANCIENT, subresource: "" };
    const already = owners.get(ownerKey(merged));
    owners.delete(ownerKey(old));
    owners.set(ownerKey(merged), { ...merged, set: merged.set.union(already?.set ?? FieldSet.EMPTY) });
  }
  return owners;
}

function entriesOf(object: KubeObject): readonly ManagedFieldsEntry[] {
  return object.metadata.managedFields ?? [];
}

const isReset = (entries: readonly ManagedFieldsEntry[] | undefined): boolean =>
  entries !== undefined &&
  (entries.length === 0 || (entries.length === 1 && isObject(entries[0]) && Object.keys(entries[0]).length === 0));

/** The owners that a write starts from: those it names itself, else the object's. Undefined: it clears them. */
function ownersOf(live: KubeObject, next: KubeObject): Owners | undefined {
  const given = next.metadata.managedFields;
  if (given !== undefined && isReset(given)) return undefined;
  if (given !== undefined) {
    try {
      const owners = decodeOwners(given);
      if (owners.size > 0) return owners;
    } catch {
      // What cannot be read counts as not given.
    }
  }
  return decodeOwners(entriesOf(live));
}

/** Takes what changed from everybody but `self`. */
function afterChange(owners: Owners, changed: FieldSet, self?: string): Owners {
  const result: Owners = new Map();
  for (const [key, owner] of owners) {
    const set = key === self ? owner.set : owner.set.difference(changed);
    if (!set.isEmpty || key === self) result.set(key, { ...owner, set });
  }
  return result;
}

/** Sets managedFields of `next`, by which `writer` updates `live`; `live` of a new object is the empty one of its type. */
export function trackUpdate(live: KubeObject, next: KubeObject, type: Type, writer: Writer): void {
  const owners = ownersOf(live, next);
  if (owners === undefined) {
    delete next.metadata.managedFields;
    return;
  }
  const { added, modified, removed } = compareValues(bare(live), bare(next), type);
  const isSame = added.isEmpty && modified.isEmpty && removed.isEmpty;
  if (isSame) {
    setEntries(next, owners);
    return;
  }
  const taken = added.union(modified);
  const result = afterChange(owners, taken.union(removed));
  const known = taken.difference(UNMANAGED);
  const mine = writer.ignoresStatus ? known.recursiveDifference(STATUS) : known;
  if (!mine.isEmpty) {
    const owner = { ...identity(writer), operation: "Update" as const };
    const already = result.get(ownerKey(owner));
    const set = mine.union(already?.set ?? FieldSet.EMPTY);
    result.set(ownerKey(owner), { ...owner, time: timestamp(), set });
  }
  setEntries(next, capped(result));
}

function setEntries(object: KubeObject, owners: Owners): void {
  if (owners.size === 0) delete object.metadata.managedFields;
  else object.metadata.managedFields = encodeOwners(owners);
}

/** The object without what managers are recorded in. */
function bare(object: KubeObject): unknown {
  if (object.metadata.managedFields === undefined) return object;
  const { managedFields: _entries, ...metadata } = object.metadata;
  return { ...object, metadata };
}

export interface ApplyRequest {
  /** The stored object; undefined when the apply creates it. */
  readonly live: KubeObject | undefined;
  readonly applied: KubeObject;
  /** The empty object of the kind, before anything was applied. */
  readonly empty: KubeObject;
  readonly type: Type;
  readonly writer: Writer;
  readonly isForced: boolean;
}

/** Server-side apply: the object that results, with its managedFields. Throws 409 when others own fields with other values. */
export function applyObject(ask: ApplyRequest): KubeObject {
  const { applied, type, writer } = ask;
  if (applied.metadata.managedFields !== undefined && applied.metadata.managedFields.length > 0)
    throw badRequest("metadata.managedFields must be nil");
  const live = ask.live ?? ask.empty;
  let owners = decodeOwners(entriesOf(live));
  if (owners.size === 0 && ask.live !== undefined) {
    const { added: fresh, modified: filled } = compareValues(bare(ask.empty), bare(live), type);
    const known = fresh.union(filled).difference(UNMANAGED);
    const all = writer.ignoresStatus ? known.recursiveDifference(STATUS) : known;
    const owner = {
      manager: BEFORE_APPLY,
      operation: "Update" as const,
      apiVersion: writer.apiVersion,
      subresource: "",
    };
    owners.set(ownerKey(owner), { ...owner, time: timestamp(), set: all });
  }
  const self: Owner = { ...identity(writer), operation: "Apply", time: undefined, set: appliedSet(ask) };
  const key = ownerKey(self);
  const last = owners.get(key);
  owners.set(key, { ...self, time: last?.time });
  const base = bare(live);
  const next = pruned(mergeValues(base, applied, type), type, owners, last?.set) as KubeObject;
  const { added, modified, removed } = compareValues(base, next, type);
  const taken = added.union(modified);
  const conflicts = ask.isForced ? [] : conflictsOf(owners, taken, key);
  if (conflicts.length > 0 && !isFromClientSideApply(ask, base, conflicts)) throw conflictError(conflicts);
  owners = afterChange(owners, taken.union(removed), key);
  const mine = owners.get(key);
  if (mine?.set.isEmpty === true) owners.delete(key);
  else if (mine !== undefined && !jsonEqual(base, next)) owners.set(key, { ...mine, time: timestamp() });
  const result = next === base ? ({ ...next, metadata: { ...next.metadata } } as KubeObject) : next;
  result.metadata = { ...result.metadata };
  setEntries(result, capped(owners));
  keepLastApplied(ask, result);
  return result;
}

/** The fields that an apply sets, without those that its path does not write. */
function appliedSet({ applied, type, writer }: ApplyRequest): FieldSet {
  const set = fieldsOf(bare(applied), type).difference(UNMANAGED);
  const status = set.nodes.get("f:status");
  if (writer.subresource !== "status") return set.recursiveDifference(STATUS);
  return status === undefined ? FieldSet.EMPTY : FieldSet.of(new Map([["f:status", status]]));
}

/** Removes what the applier said last time and says no more, unless another owns it. */
function pruned(merged: unknown, type: Type, owners: Owners, last: FieldSet | undefined): unknown {
  if (last === undefined || last.isEmpty) return merged;
  const gone = last.withParents();
  const rest = withoutFields(merged, type, gone) ?? {};
  const all = fieldsOf(merged, type).withParents();
  const left = fieldsOf(rest, type).withParents();
  const owned = [...owners.values()].reduce((sum, { set }) => sum.union(set), FieldSet.EMPTY).withParents();
  // Back comes what somebody owns, and what was removed along without having been the applier's.
  const dangling = all.difference(left).difference(gone);
  const back = owned.union(dangling.withParents());
  return withoutFields(merged, type, all.difference(left).difference(back)) ?? {};
}

interface Conflict {
  readonly owner: Owner;
  readonly set: FieldSet;
}

function conflictsOf(owners: Owners, taken: FieldSet, self: string): Conflict[] {
  return inOrder(owners)
    .filter((owner) => ownerKey(owner) !== self)
    .map((owner) => ({ owner, set: owner.set.intersection(taken) }))
    .filter(({ set }) => !set.isEmpty);
}

function ownerText({ manager, operation, apiVersion, subresource }: Owner): string {
  const part = subresource === "" ? "" : ` with subresource ${JSON.stringify(subresource)}`;
  return `${JSON.stringify(manager)}${part}${operation === "Update" ? ` using ${apiVersion}` : ""}`;
}

function conflictError(conflicts: readonly Conflict[]): ApiError {
  const all = conflicts.flatMap(({ owner, set }) => set.paths().map((field) => ({ who: ownerText(owner), field })));
  const causes: StatusCause[] = all.map(({ who, field }) => ({
    reason: "FieldManagerConflict",
    message: `conflict with ${who}`,
    field,
  }));
  const [only] = all;
  if (all.length === 1 && only !== undefined)
    return new ApiError(409, "Conflict", `Apply failed with 1 conflict: conflict with ${only.who}: ${only.field}`, {
      causes,
    });
  const lines = conflicts.flatMap(({ owner, set }) => [
    `conflicts with ${ownerText(owner)}:`,
    ...set.paths().map((path) => `- ${path}`),
  ]);
  return new ApiError(409, "Conflict", `Apply failed with ${all.length} conflicts: ${lines.join("\n")}`, { causes });
}

/**
 * Whether every conflict is about a field that kubectl's client-side apply set and that still has the value of then: moving
 * from client-side to server-side apply is no conflict.
 */
function isFromClientSideApply(ask: ApplyRequest, live: unknown, conflicts: readonly Conflict[]): boolean {
  const text = ask.live?.metadata.annotations?.[LAST_APPLIED];
  if (ask.writer.manager !== "kubectl" || text === undefined) return false;
  let said: unknown;
  try {
    said = JSON.parse(text);
  } catch {
    return false;
  }
  const { modified, removed } = compareValues(said, live, ask.type);
  const kept = fieldsOf(said, ask.type).difference(modified).difference(removed);
  return conflicts.every(({ set }) => set.difference(kept).isEmpty);
}

/** kubectl's record of client-side apply follows its server-side apply, where the object has one. */
function keepLastApplied({ applied, live, writer }: ApplyRequest, result: KubeObject): void {
  if (writer.manager !== "kubectl" || live?.metadata.annotations?.[LAST_APPLIED] === undefined) return;
  const { annotations = {}, ...metadata } = applied.metadata;
  const { [LAST_APPLIED]: _old, ...kept } = annotations;
  const said = {
    ...applied,
    metadata: { ...metadata, ...(Object.keys(kept).length === 0 ? {} : { annotations: kept }) },
  };
  result.metadata.annotations = { ...result.metadata.annotations, [LAST_APPLIED]: `${JSON.stringify(said)}\n` };
}
