// What keeps the cluster tidy: namespaces and their end, default accounts, the objects that every cluster has.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { jsonEqual } from "@lateen/base";
import { ApiError } from "../api/errors.ts";
import { builtIn, type Kind } from "../api/kinds.ts";
import { type Condition, type KubeObject, newMeta, timestamp } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { Controller, keyOf } from "./controller.ts";

const NAMESPACES = builtIn("namespaces");
const ACCOUNTS = builtIn("serviceaccounts");
const CONFIGMAPS = builtIn("configmaps");
const PODS = builtIn("pods");
const ROOT_CA = "kube-root-ca.crt";

/** Starts the controllers. `authorityPem` is the cluster's CA, published in every namespace. */
export function startLifecycle(registry: Registry, authorityPem: string): void {
  const inNamespace = (object: KubeObject): string[] => [`/${object.metadata.namespace ?? ""}`];
  const namespaces = new Controller(
    registry,
    "namespace",
    [
      { kind: NAMESPACES, keys: (object) => [keyOf(object)] },
      { kind: ACCOUNTS, keys: inNamespace },
      { kind: CONFIGMAPS, keys: inNamespace },
      { kind: PODS, keys: inNamespace },
    ],
    (_, name) => reconcileNamespace(registry, name, authorityPem, () => namespaces.add(`/${name}`)),
  );
}

async function reconcileNamespace(
  registry: Registry,
  name: string,
  authorityPem: string,
  again: () => void,
): Promise<void> {
  const namespace = registry.find(NAMESPACES, undefined, name);
  if (namespace === undefined) return;
  if (namespace.metadata.deletionTimestamp !== undefined) {
    await emptyNamespace(registry, namespace, again);
    return;
  }
  if (registry.find(ACCOUNTS, name, "default") === undefined) {
    await registry.create(ACCOUNTS, name, {
      apiVersion: "v1",
      kind: "ServiceAccount",
      metadata: newMeta("default", name),
    });
  }
  const published = registry.find(CONFIGMAPS, name, ROOT_CA);
  const data = { "ca.crt": authorityPem };
  if (published === undefined)
    await registry.create(CONFIGMAPS, name, {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: newMeta(ROOT_CA, name),
      data,
    });
  else if (!jsonEqual(published["data"], data))
    await registry.update(CONFIGMAPS, name, ROOT_CA, (current) => ({ ...current, data }));
}

/** Removes what a namespace holds, pods first, then the namespace itself. What stays is told in its conditions. */
async function emptyNamespace(registry: Registry, namespace: KubeObject, again: () => void): Promise<void> {
  const { name } = namespace.metadata;
  const finalizers = (namespace.spec as { finalizers?: string[] }).finalizers ?? [];
  if (!finalizers.includes("kubernetes")) return;
  const kinds = registry.kinds.stored().filter((kind) => kind.isNamespaced);
  const remove = async (kind: Kind): Promise<KubeObject[]> => {
    for (const object of registry.list(kind, name)) {
      if (object.metadata.deletionTimestamp !== undefined) continue;
      try {
        await registry.delete(kind, name, object.metadata.name, { propagationPolicy: "Background" });
      } catch (error) {
        if (!(error instanceof ApiError) || error.code !== 404) throw error;
      }
    }
    return registry.list(kind, name);
  };
  const left: [Kind, KubeObject[]][] = [[PODS, await remove(PODS)]];
  if (left[0]?.[1].length === 0)
    for (const kind of kinds) if (kind !== PODS && kind.plural !== "events") left.push([kind, await remove(kind)]);
  const remaining = left.filter(([, objects]) => objects.length > 0);
  if (remaining.length > 0) {
    await writeDeletionStatus(registry, name, remaining);
    // Pods announce their end; what only has finalizers is looked at again.
    setTimeout(again, REMAINING_POLL_MS).unref();
    return;
  }
  await remove(builtIn("events"));
  const spec = { finalizers: finalizers.filter((entry) => entry !== "kubernetes") };
  await registry.update(NAMESPACES, undefined, name, (current) => ({ ...current, spec }), { subresource: "finalize" });
}

const REMAINING_POLL_MS = 100;

/** The conditions of a namespace that is being deleted, in Kubernetes' words. */
async function writeDeletionStatus(
  registry: Registry,
  name: string,
  remaining: readonly (readonly [Kind, KubeObject[]])[],
): Promise<void> {
  const counts = remaining.map(
    ([kind, objects]) => `${kind.plural}.${kind.group} has ${objects.length} resource instances`,
  );
  const byFinalizer = new Map<string, number>();
  for (const [, objects] of remaining)
    for (const { metadata } of objects)
      for (const finalizer of metadata.finalizers ?? [])
        byFinalizer.set(finalizer, (byFinalizer.get(finalizer) ?? 0) + 1);
  const held = [...byFinalizer].map(([finalizer, count]) => `${finalizer} in ${count} resource instances`);
  const texts: readonly (readonly [string, boolean, string, string])[] = [
    ["NamespaceDeletionDiscoveryFailure", false, "ResourcesDiscovered", "All resources successfully discovered"],
    [
      "NamespaceDeletionGroupVersionParsingFailure",
      false,
      "ParsedGroupVersions",
      "All legacy kube types successfully parsed",
    ],
    [
      "NamespaceDeletionContentFailure",
      false,
      "ContentDeleted",
      "All content successfully deleted, may be waiting on finalization",
    ],
    ["NamespaceContentRemaining", true, "SomeResourcesRemain", `Some resources are remaining: ${counts.join(", ")}`],
    [
      "NamespaceFinalizersRemaining",
      held.length > 0,
      held.length > 0 ? "SomeFinalizersRemain" : "ContentHasNoFinalizers",
      held.length > 0
        ? `Some content in the namespace has finalizers remaining: ${held.join(", ")}`
        : "All content-preserving finalizers finished",
    ],
  ];
  await registry.update(
    NAMESPACES,
    undefined,
    name,
    (current) => {
      const before = (current.status as { conditions?: Condition[] } | undefined)?.conditions ?? [];
      const conditions = texts.map(([type, isTrue, reason, message]): Condition => {
        const status = isTrue ? "True" : "False";
        const old = before.find((entry) => entry.type === type);
        const lastTransitionTime = old?.status === status ? (old.lastTransitionTime ?? timestamp()) : timestamp();
        return { type, status, lastTransitionTime, reason, message };
      });
      return { ...current, status: { phase: "Terminating", conditions } };
    },
    { subresource: "status" },
  );
}

const BOOTSTRAP = join(import.meta.dirname, "../api/facts/bootstrap.json");

/** Roles, priorities and flow schemas that clients may rely on. What is there stays as it is. */
async function ensureBootstrap(registry: Registry): Promise<void> {
  const objects = JSON.parse(readFileSync(BOOTSTRAP, "utf8")) as KubeObject[];
  const missing = objects.flatMap((object) => {
    const kind = registry.kinds.ofObject(object.apiVersion, object.kind);
    if (kind === undefined) throw new Error(`${BOOTSTRAP} holds a ${object.kind}, which is not served`);
    const { name, namespace } = object.metadata;
    return registry.find(kind, namespace, name) === undefined ? [{ kind, namespace, object }] : [];
  });
  const options = { manager: "kube-apiserver" };
  await Promise.all(missing.map(({ kind, namespace, object }) => registry.create(kind, namespace, object, options)));
}

/** The objects that every cluster has. */
export async function ensureSystem(registry: Registry): Promise<void> {
  for (const name of ["default", "kube-system", "kube-public", "kube-node-lease"]) {
    if (registry.find(NAMESPACES, undefined, name) === undefined) {
      await registry.create(NAMESPACES, undefined, {
        apiVersion: "v1",
        kind: "Namespace",
        metadata: { ...newMeta(name), creationTimestamp: timestamp() },
      });
    }
  }
  await ensureBootstrap(registry);
}
