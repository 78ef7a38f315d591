// ValidatingAdmissionPolicies: their status says what the types of the matched kinds make doubtful in their expressions.
import { jsonEqual } from "@lateen/base";
import { builtIn, tableOf } from "../api/kinds.ts";
import { typeWarnings } from "../api/policies.ts";
import type { Registry } from "../api/registry.ts";
import { Controller, keyOf } from "./controller.ts";

const POLICIES = builtIn("validatingadmissionpolicies");

/** Starts the controller. */
export function startPolicies(registry: Registry): void {
  const controller = new Controller(
    registry,
    "validatingadmissionpolicy-status",
    [{ kind: POLICIES, keys: (object) => [keyOf(object)] }],
    (_, name) => reconcile(registry, name),
  );
  registry.store.subscribe(tableOf(builtIn("customresourcedefinitions")), () => {
    for (const policy of registry.list(POLICIES)) controller.add(keyOf(policy));
  });
}

async function reconcile(registry: Registry, name: string): Promise<void> {
  const policy = registry.find(POLICIES, undefined, name);
  if (policy === undefined) return;
  const expressionWarnings = typeWarnings(policy, registry.kinds);
  const typeChecking = expressionWarnings.length === 0 ? {} : { expressionWarnings };
  const status = { observedGeneration: policy.metadata.generation ?? 1, typeChecking };
  const { conditions } = (policy.status ?? {}) as { conditions?: unknown };
  const next = conditions === undefined ? status : { ...status, conditions };
  if (jsonEqual(next, policy.status)) return;
  await registry.update(POLICIES, undefined, name, (current) => ({ ...current, status: next }), {
    subresource: "status",
  });
}
