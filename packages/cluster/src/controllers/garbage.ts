// Garbage collection: what belongs to owners that are gone goes too; deletion in the foreground waits for it, deletion that
// orphans sets it free (Kubernetes' garbage collector controller).
import { ApiError } from "../api/errors.ts";
import { isStored, type Kind, tableOf } from "../api/kinds.ts";
import type { KubeObject, OwnerReference } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { Controller } from "./controller.ts";

const ORPHAN = "orphan";
const FOREGROUND = "foregroundDeletion";

/** One stored object: its table, namespace and name. */
const placeOf = (table: string, object: KubeObject): string =>
  `${table}/${object.metadata.namespace ?? ""}|${object.metadata.name}`;

const without = (object: KubeObject, owners: ReadonlySet<string>): KubeObject => {
  const kept = (object.metadata.ownerReferences ?? []).filter((owner) => !owners.has(owner.uid));
  const { ownerReferences: _owners, ...metadata } = object.metadata;
  return { ...object, metadata: kept.length === 0 ? metadata : { ...metadata, ownerReferences: kept } };
};

const withoutFinalizer = (object: KubeObject, finalizer: string): KubeObject => ({
  ...object,
  metadata: {
    ...object.metadata,
    finalizers: (object.metadata.finalizers ?? []).filter((entry) => entry !== finalizer),
  },
});

/** What the collector knows: which objects name which owner, by the owner's uid. */
class Dependents {
  readonly #byOwner = new Map<string, Set<string>>();

  add(place: string, object: KubeObject): void {
    for (const { uid } of object.metadata.ownerReferences ?? []) {
      const places = this.#byOwner.get(uid) ?? new Set<string>();
      places.add(place);
      this.#byOwner.set(uid, places);
    }
  }

  remove(place: string, object: KubeObject): void {
    for (const { uid } of object.metadata.ownerReferences ?? []) {
      const places = this.#byOwner.get(uid);
      places?.delete(place);
      if (places?.size === 0) this.#byOwner.delete(uid);
    }
  }

  of(uid: string): string[] {
    return [...(this.#byOwner.get(uid) ?? [])];
  }
}

/** Starts the collector. */
export function startGarbageCollector(registry: Registry): void {
  const dependents = new Dependents();
  const kindOf = (table: string): Kind | undefined => registry.kinds.stored().find((kind) => tableOf(kind) === table);
  const controller = new Controller(registry, "garbage-collector", [], async (table, key) => {
    const kind = kindOf(table);
    const [namespace = "", name = ""] = key.split("|");
    const object = kind === undefined ? undefined : registry.find(kind, namespace, name);
    if (kind !== undefined && object !== undefined) await collect(registry, dependents, kind, object);
  });
  const look = (table: string, object: KubeObject): void => controller.add(placeOf(table, object));
  registry.store.subscribe("*", ({ type, resource, object, previous }) => {
    const place = placeOf(resource, object);
    if (previous !== undefined) dependents.remove(place, previous);
    if (type !== "DELETED") {
      dependents.add(place, object);
      const isNew = (object.metadata.ownerReferences ?? []).length > 0 && previous === undefined;
      if (isNew || (object.metadata.deletionTimestamp !== undefined && (object.metadata.finalizers ?? []).length > 0))
        look(resource, object);
      return;
    }
    for (const dependent of dependents.of(object.metadata.uid)) controller.add(dependent);
    // A foreground deletion of its owner may have waited for this one.
    for (const owner of object.metadata.ownerReferences ?? []) {
      const ownerKind = registry.kinds.ofObject(owner.apiVersion, owner.kind);
      const found =
        ownerKind === undefined ? undefined : registry.find(ownerKind, object.metadata.namespace, owner.name);
      if (ownerKind !== undefined && found !== undefined) look(tableOf(ownerKind), found);
    }
  });
  for (const kind of registry.kinds.stored())
    for (const object of registry.list(kind)) {
      dependents.add(placeOf(tableOf(kind), object), object);
      if ((object.metadata.ownerReferences ?? []).length > 0 || object.metadata.deletionTimestamp !== undefined)
        look(tableOf(kind), object);
    }
}

/** Whether an owner is there, gone, or on its way out and waiting for its dependents. Undefined: its kind is not served now. */
function stateOf(
  registry: Registry,
  owner: OwnerReference,
  namespace: string | undefined,
): "here" | "gone" | "waiting" | undefined {
  const kind = registry.kinds.ofObject(owner.apiVersion, owner.kind);
  if (kind === undefined || !isStored(kind)) return undefined;
  const found = registry.find(kind, namespace, owner.name);
  if (found?.metadata.uid !== owner.uid) return "gone";
  const isWaiting =
    found.metadata.deletionTimestamp !== undefined && found.metadata.finalizers?.includes(FOREGROUND) === true;
  return isWaiting && owner.blockOwnerDeletion === true ? "waiting" : "here";
}

async function collect(registry: Registry, dependents: Dependents, kind: Kind, object: KubeObject): Promise<void> {
  if (object.metadata.deletionTimestamp !== undefined) {
    await finalize(registry, dependents, kind, object);
    return;
  }
  const { namespace, name, uid, ownerReferences = [] } = object.metadata;
  if (ownerReferences.length === 0) return;
  const states = ownerReferences.map((owner) => ({ owner, state: stateOf(registry, owner, namespace) }));
  if (states.some(({ state }) => state === undefined)) return;
  const left = new Set(states.filter(({ state }) => state !== "here").map(({ owner }) => owner.uid));
  if (left.size === 0) return;
  try {
    if (states.some(({ state }) => state === "here")) {
      await registry.update(kind, namespace, name, (current) => without(current, left));
      return;
    }
    const isWaited = states.some(({ state }) => state === "waiting");
    if (isWaited && isInCircle(registry, dependents, uid)) await registry.update(kind, namespace, name, unblocked);
    const propagationPolicy = isWaited ? "Foreground" : (policyOf(object) ?? "Background");
    await registry.delete(kind, namespace, name, { uid, propagationPolicy });
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== 404) throw error;
  }
}

/** Whether one of an object's own dependents waits for its dependents, as the object is to: they might wait for each other. */
function isInCircle(registry: Registry, dependents: Dependents, uid: string): boolean {
  return ownedBy(registry, dependents, uid).some(
    ({ child }) =>
      child.metadata.deletionTimestamp !== undefined && child.metadata.finalizers?.includes(FOREGROUND) === true,
  );
}

/** The object, no longer in the way of its owners' deletion. */
const unblocked = (object: KubeObject): KubeObject => ({
  ...object,
  metadata: {
    ...object.metadata,
    ownerReferences: (object.metadata.ownerReferences ?? []).map((owner) => ({ ...owner, blockOwnerDeletion: false })),
  },
});

/** The objects that name an owner. */
function ownedBy(
  registry: Registry,
  dependents: Dependents,
  uid: string,
): { readonly childKind: Kind; readonly child: KubeObject }[] {
  return dependents.of(uid).flatMap((place) => {
    const table = place.slice(0, place.indexOf("/"));
    const [namespace = "", name = ""] = place.slice(table.length + 1).split("|");
    const childKind = registry.kinds.stored().find((entry) => tableOf(entry) === table);
    const child = childKind === undefined ? undefined : registry.find(childKind, namespace, name);
    return childKind === undefined || child === undefined ? [] : [{ childKind, child }];
  });
}

function policyOf({ metadata: { finalizers = [] } }: KubeObject): string | undefined {
  if (finalizers.includes(ORPHAN)) return "Orphan";
  return finalizers.includes(FOREGROUND) ? "Foreground" : undefined;
}

async function finalize(registry: Registry, dependents: Dependents, kind: Kind, object: KubeObject): Promise<void> {
  const { namespace, name, uid, finalizers = [] } = object.metadata;
  const owned = ownedBy(registry, dependents, uid);
  if (finalizers.includes(ORPHAN)) {
    for (const { childKind, child } of owned)
      await registry.update(childKind, child.metadata.namespace, child.metadata.name, (current) =>
        without(current, new Set([uid])),
      );
    await registry.update(kind, namespace, name, (current) => withoutFinalizer(current, ORPHAN));
    return;
  }
  if (!finalizers.includes(FOREGROUND)) return;
  for (const { childKind, child } of owned)
    if (child.metadata.deletionTimestamp === undefined) await collect(registry, dependents, childKind, child);
  const isBlocked = owned.some(({ childKind, child }) => {
    const now = registry.find(childKind, child.metadata.namespace, child.metadata.name);
    return (
      now?.metadata.ownerReferences?.some((owner) => owner.uid === uid && owner.blockOwnerDeletion === true) === true
    );
  });
  if (!isBlocked) await registry.update(kind, namespace, name, (current) => withoutFinalizer(current, FOREGROUND));
}
