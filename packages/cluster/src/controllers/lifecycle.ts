// What keeps the cluster tidy: namespaces and their end, default accounts, the scheduler, garbage collection, the status of
// LoadBalancer Services.
import { jsonEqual } from "@lateen/base";
import { builtIn, type Kind, tableOf } from "../api/kinds.ts";
import { type KubeObject, newMeta, type Pod, type Service, timestamp } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { Controller, keyOf } from "./controller.ts";

const NAMESPACES = builtIn("namespaces");
const ACCOUNTS = builtIn("serviceaccounts");
const CONFIGMAPS = builtIn("configmaps");
const PODS = builtIn("pods");
const SERVICES = builtIn("services");
const ROOT_CA = "kube-root-ca.crt";

/** Starts the controllers. `authorityPem` is the cluster's CA, published in every namespace. */
export function startLifecycle(
  registry: Registry,
  options: { readonly nodeName: string; readonly authorityPem: string },
): void {
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
    (_, name) => reconcileNamespace(registry, name, options.authorityPem, () => namespaces.add(`/${name}`)),
  );
  new Controller(registry, "scheduler", [{ kind: PODS, keys: (object) => [keyOf(object)] }], (namespace, name) =>
    schedule(registry, namespace, name, options.nodeName),
  );
  new Controller(registry, "service", [{ kind: SERVICES, keys: (object) => [keyOf(object)] }], (namespace, name) =>
    reconcileLoadBalancer(registry, namespace, name),
  );
  startGarbageCollector(registry);
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

/** Removes what a namespace holds, then the namespace. Owners go before what they own, so that nothing is made anew. */
async function emptyNamespace(registry: Registry, namespace: KubeObject, again: () => void): Promise<void> {
  const { name } = namespace.metadata;
  const kinds = registry.kinds.all().filter((kind) => kind.isNamespaced && !kind.isReview);
  const order = (kind: Kind): number => ["deployments", "replicasets", "pods"].indexOf(kind.plural) + 1 || 4;
  let left = 0;
  for (const kind of kinds.toSorted((a, b) => order(a) - order(b))) {
    for (const object of registry.list(kind, name)) {
      left += 1;
      if (object.metadata.deletionTimestamp === undefined) await registry.delete(kind, name, object.metadata.name);
    }
  }
  if (left > 0) {
    // Pods announce their end; what only has finalizers is looked at again.
    setTimeout(again, 100).unref();
    return;
  }
  await registry.update(NAMESPACES, undefined, name, (current) => ({ ...current, spec: { finalizers: [] } }));
}

async function schedule(registry: Registry, namespace: string, name: string, nodeName: string): Promise<void> {
  const pod = registry.find(PODS, namespace, name) as Pod | undefined;
  if (pod === undefined || pod.spec.nodeName !== undefined || pod.metadata.deletionTimestamp !== undefined) return;
  await registry.update(PODS, namespace, name, (current) => ({
    ...current,
    spec: { ...(current.spec as object), nodeName },
  }));
  await registry.event(pod, "default-scheduler", {
    type: "Normal",
    reason: "Scheduled",
    message: `Successfully assigned ${namespace}/${name} to ${nodeName}`,
  });
}

/** A LoadBalancer Service is reached on the host's loopback, where the forwarder listens. */
async function reconcileLoadBalancer(registry: Registry, namespace: string, name: string): Promise<void> {
  const service = registry.find(SERVICES, namespace, name) as Service | undefined;
  if (service === undefined) return;
  const loadBalancer = service.spec.type === "LoadBalancer" ? { ingress: [{ ip: "127.0.0.1", ipMode: "VIP" }] } : {};
  if (jsonEqual(service.status, { loadBalancer })) return;
  await registry.update(SERVICES, namespace, name, (current) => ({ ...current, status: { loadBalancer } }), {
    subresource: "status",
  });
}

/** Deletes objects whose owners are all gone; serves the finalizers of foreground and orphan deletion. */
function startGarbageCollector(registry: Registry): void {
  const dependents = (uid: string): { kind: Kind; object: KubeObject }[] =>
    registry.kinds
      .all()
      .filter((kind) => !kind.isReview)
      .flatMap((kind) => registry.list(kind).map((object) => ({ kind, object })))
      .filter(({ object }) => object.metadata.ownerReferences?.some((owner) => owner.uid === uid) === true);
  const owned = (object: KubeObject, uid: string): KubeObject => ({
    ...object,
    metadata: {
      ...object.metadata,
      ownerReferences: (object.metadata.ownerReferences ?? []).filter((owner) => owner.uid !== uid),
    },
  });
  const withoutFinalizer = (object: KubeObject, finalizer: string): KubeObject => ({
    ...object,
    metadata: {
      ...object.metadata,
      finalizers: (object.metadata.finalizers ?? []).filter((entry) => entry !== finalizer),
    },
  });
  /** An owner is gone: what it alone owned follows. */
  const ownerGone = async (uid: string): Promise<void> => {
    for (const { kind, object } of dependents(uid)) {
      const { namespace, name } = object.metadata;
      const others = (object.metadata.ownerReferences ?? []).filter((owner) => owner.uid !== uid);
      if (others.length > 0) await registry.update(kind, namespace, name, (current) => owned(current, uid));
      else if (object.metadata.deletionTimestamp === undefined) await registry.delete(kind, namespace, name);
    }
  };
  const finalize = async (kind: Kind, object: KubeObject): Promise<void> => {
    const { namespace, name, uid, finalizers = [] } = object.metadata;
    if (finalizers.includes("orphan")) {
      for (const child of dependents(uid)) {
        await registry.update(child.kind, child.object.metadata.namespace, child.object.metadata.name, (current) =>
          owned(current, uid),
        );
      }
      await registry.update(kind, namespace, name, (current) => withoutFinalizer(current, "orphan"));
    } else if (finalizers.includes("foregroundDeletion")) {
      const blocking = dependents(uid);
      for (const child of blocking) {
        if (child.object.metadata.deletionTimestamp === undefined) {
          await registry.delete(child.kind, child.object.metadata.namespace, child.object.metadata.name, {
            propagationPolicy: "Foreground",
          });
        }
      }
      if (blocking.length === 0)
        await registry.update(kind, namespace, name, (current) => withoutFinalizer(current, "foregroundDeletion"));
    }
  };
  const watchedKinds = new Set<string>();
  const kindsByKey = new Map<string, Kind>();
  const finalizer = new Controller(registry, "garbage-collector", [], async (table, key) => {
    const kind = kindsByKey.get(table);
    if (kind === undefined) {
      await ownerGone(key);
      return;
    }
    const [namespace, name = ""] = key.split("|");
    const object = registry.find(kind, namespace, name);
    if (object?.metadata.deletionTimestamp !== undefined) await finalize(kind, object);
  });
  const watchKinds = (): void => {
    for (const kind of registry.kinds.all()) {
      const table = tableOf(kind);
      if (kind.isReview || watchedKinds.has(table)) continue;
      watchedKinds.add(table);
      kindsByKey.set(table, kind);
      registry.store.subscribe(table, (event) => {
        if (event.type === "DELETED") {
          finalizer.add(`gone/${event.object.metadata.uid}`);
          // A foreground deletion of its owner may have waited for this one.
          for (const owner of event.object.metadata.ownerReferences ?? []) {
            const ownerKind = registry.kinds.ofObject(owner.apiVersion, owner.kind);
            if (ownerKind !== undefined)
              finalizer.add(`${tableOf(ownerKind)}/${event.object.metadata.namespace ?? ""}|${owner.name}`);
          }
        } else if (
          event.object.metadata.deletionTimestamp !== undefined &&
          (event.object.metadata.finalizers ?? []).length > 0
        ) {
          finalizer.add(`${table}/${event.object.metadata.namespace ?? ""}|${event.object.metadata.name}`);
        }
      });
    }
  };
  watchKinds();
  registry.store.subscribe(tableOf(builtIn("customresourcedefinitions")), watchKinds);
  // Owners that went while nobody watched.
  const alive = new Set(
    registry.kinds
      .all()
      .flatMap((kind) => (kind.isReview ? [] : registry.list(kind).map((object) => object.metadata.uid))),
  );
  for (const kind of registry.kinds.all()) {
    for (const object of kind.isReview ? [] : registry.list(kind)) {
      for (const owner of object.metadata.ownerReferences ?? [])
        if (!alive.has(owner.uid)) finalizer.add(`gone/${owner.uid}`);
    }
  }
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
}
