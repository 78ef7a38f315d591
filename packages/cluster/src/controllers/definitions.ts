// CustomResourceDefinitions: their names are accepted and they are served; a deleted one takes its objects along first.
import { jsonEqual } from "@lateen/base";
import { type CustomKind, customKinds } from "../api/custom.ts";
import { ApiError } from "../api/errors.ts";
import { builtIn } from "../api/kinds.ts";
import { type Condition, type KubeObject, timestamp } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { Controller, keyOf } from "./controller.ts";

const DEFINITIONS = builtIn("customresourcedefinitions");
const CLEANUP = "customresourcecleanup.apiextensions.k8s.io";
const REMAINING_POLL_MS = 100;
const OPTIONS = { manager: "kube-apiserver" };

interface Names {
  readonly plural: string;
  readonly singular?: string;
  readonly kind: string;
  readonly listKind?: string;
  readonly shortNames?: readonly string[];
}

interface Status {
  readonly conditions?: readonly Condition[];
  readonly acceptedNames?: Names;
  readonly storedVersions?: readonly string[];
}

/** Starts the controller. */
export function startDefinitions(registry: Registry): void {
  new Controller(
    registry,
    "customresourcedefinition",
    [{ kind: DEFINITIONS, keys: (object) => [keyOf(object)] }],
    (_, name) => reconcile(registry, name),
  );
}

async function reconcile(registry: Registry, name: string): Promise<number | undefined> {
  const definition = registry.find(DEFINITIONS, undefined, name);
  if (definition === undefined) return undefined;
  if (definition.metadata.deletionTimestamp !== undefined) return cleanUp(registry, definition);
  await establish(registry, definition);
  return undefined;
}

/** Names of other kinds of the group that this one wants, too. */
function takenName(registry: Registry, definition: KubeObject): string | undefined {
  const { group, names } = definition.spec as { group: string; names: Names };
  const others = registry
    .list(DEFINITIONS)
    .filter(
      (other) => other.metadata.name !== definition.metadata.name && (other.spec as { group: string }).group === group,
    )
    .flatMap((other) => (other.status as Status).acceptedNames ?? []);
  const taken = new Set(
    others.flatMap(({ plural, singular = "", kind, listKind = "", shortNames = [] }) => [
      plural,
      singular,
      kind,
      listKind,
      ...shortNames,
    ]),
  );
  return [names.plural, names.singular ?? "", names.kind, ...(names.shortNames ?? [])].find(
    (entry) => entry !== "" && taken.has(entry),
  );
}

async function establish(registry: Registry, definition: KubeObject): Promise<void> {
  const before = (definition.status ?? {}) as Status;
  const { names } = definition.spec as { names: Names };
  const taken = takenName(registry, definition);
  const old = (type: string): Condition | undefined => before.conditions?.find((entry) => entry.type === type);
  const condition = (type: string, isTrue: boolean, reason: string, message: string): Condition => {
    const status = isTrue ? "True" : "False";
    const last = old(type);
    const lastTransitionTime = last?.status === status ? (last.lastTransitionTime ?? timestamp()) : timestamp();
    return { type, status, lastTransitionTime, reason, message };
  };
  const wasEstablished = old("Established")?.status === "True";
  const conditions =
    taken === undefined
      ? [
          condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
          condition("Established", true, "InitialNamesAccepted", "the initial names have been accepted"),
        ]
      : [
          condition("NamesAccepted", false, "NamesConflict", `${JSON.stringify(taken)} is already in use`),
          ...(wasEstablished
            ? [old("Established") as Condition]
            : [condition("Established", false, "NotAccepted", "not all names are accepted")]),
        ];
  const others = (before.conditions ?? []).filter(({ type }) => type !== "NamesAccepted" && type !== "Established");
  const status = {
    ...before,
    conditions: [...conditions, ...others],
    acceptedNames: taken === undefined ? names : (before.acceptedNames ?? { plural: "", kind: "" }),
  };
  if (jsonEqual(status, before)) return;
  await registry.update(DEFINITIONS, undefined, definition.metadata.name, (current) => ({ ...current, status }), {
    ...OPTIONS,
    subresource: "status",
  });
}

/** Removes the objects of a definition, then lets it go. */
async function cleanUp(registry: Registry, definition: KubeObject): Promise<number | undefined> {
  const { name, finalizers = [] } = definition.metadata;
  if (!finalizers.includes(CLEANUP)) return undefined;
  const [kind]: CustomKind[] = customKinds(definition);
  const objects = kind === undefined ? [] : registry.list(kind);
  for (const object of kind === undefined ? [] : objects) {
    if (object.metadata.deletionTimestamp !== undefined) continue;
    try {
      await registry.delete(kind as CustomKind, object.metadata.namespace, object.metadata.name);
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== 404) throw error;
    }
  }
  if (kind !== undefined && registry.list(kind).length > 0) return REMAINING_POLL_MS;
  await registry.update(
    DEFINITIONS,
    undefined,
    name,
    (current) => ({
      ...current,
      metadata: { ...current.metadata, finalizers: finalizers.filter((entry) => entry !== CLEANUP) },
    }),
    OPTIONS,
  );
  return undefined;
}
