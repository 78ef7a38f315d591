// ResourceQuotas: their status says what the namespace uses now.
import { jsonEqual } from "@lateen/base";
import { builtIn, isStored } from "../api/kinds.ts";
import type { KubeObject } from "../api/objects.ts";
import { quotaUsage } from "../api/quota.ts";
import type { Registry } from "../api/registry.ts";
import { Controller, keyOf } from "./controller.ts";

const QUOTAS = builtIn("resourcequotas");

/** Starts the controller. */
export function startQuotas(registry: Registry): void {
  const controller = new Controller(
    registry,
    "resourcequota",
    [{ kind: QUOTAS, keys: (object) => [keyOf(object)] }],
    (namespace, name) => reconcile(registry, namespace, name),
  );
  // Any object of a namespace may count.
  registry.store.subscribe("*", ({ object, resource }) => {
    if (resource === "resourcequotas" || resource === "events") return;
    for (const quota of registry.store.list("resourcequotas", object.metadata.namespace ?? "\0"))
      controller.add(keyOf(quota));
  });
}

async function reconcile(registry: Registry, namespace: string, name: string): Promise<void> {
  const quota = registry.find(QUOTAS, namespace, name);
  if (quota === undefined) return;
  const { hard = {} } = (quota.spec ?? {}) as { hard?: Record<string, string> };
  const kinds = registry.kinds.all().filter((kind) => kind.isNamespaced && isStored(kind));
  const used = quotaUsage(registry.store, kinds, quota);
  const status = Object.keys(hard).length === 0 ? {} : { hard, used };
  if (jsonEqual(status, quota.status)) return;
  const write = (current: KubeObject): KubeObject => ({ ...current, status });
  await registry.update(QUOTAS, namespace, name, write, { subresource: "status" });
}
