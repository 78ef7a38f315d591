// PodDisruptionBudgets: how many of the pods that they select may go now.
import { jsonEqual } from "@lateen/base";
import { builtIn } from "../api/kinds.ts";
import {
  type Condition,
  controllerOf,
  type KubeObject,
  type LabelSelector,
  type Pod,
  timestamp,
} from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { selectsLabels } from "../api/selectors.ts";
import { Controller, keyOf } from "./controller.ts";
import { isPodReady, PODS } from "./pods.ts";

const BUDGETS = builtIn("poddisruptionbudgets");

interface BudgetSpec {
  readonly minAvailable?: number | string;
  readonly maxUnavailable?: number | string;
  readonly selector?: LabelSelector;
}

/** Starts the controller. */
export function startBudgets(registry: Registry): void {
  const budgetsOf = (pod: KubeObject): string[] =>
    registry
      .list(BUDGETS, pod.metadata.namespace)
      .filter((budget) => selectsLabels((budget.spec as BudgetSpec).selector)(pod.metadata.labels))
      .map(keyOf);
  new Controller(
    registry,
    "disruption",
    [
      { kind: BUDGETS, keys: (object) => [keyOf(object)] },
      { kind: PODS, keys: budgetsOf },
    ],
    (namespace, name) => reconcile(registry, namespace, name),
  );
}

const part = (value: number | string, total: number): number =>
  typeof value === "string" ? Math.ceil((Number.parseInt(value, 10) / 100) * total) : value;

/** How many pods there should be: what the controllers of the selected ones ask for. */
function expectedPods(registry: Registry, pods: readonly Pod[]): number {
  const replicas = new Map<string, number>();
  let alone = 0;
  for (const pod of pods) {
    const owner = controllerOf(pod);
    const kind = owner === undefined ? undefined : registry.kinds.ofObject(owner.apiVersion, owner.kind);
    const found =
      owner === undefined || kind === undefined ? undefined : registry.find(kind, pod.metadata.namespace, owner.name);
    if (found === undefined) alone += 1;
    else replicas.set(found.metadata.uid, Number((found.spec as { replicas?: number }).replicas ?? 1));
  }
  return alone + [...replicas.values()].reduce((sum, count) => sum + count, 0);
}

async function reconcile(registry: Registry, namespace: string, name: string): Promise<void> {
  const budget = registry.find(BUDGETS, namespace, name);
  if (budget === undefined) return;
  const spec = budget.spec as BudgetSpec;
  const selects = selectsLabels(spec.selector);
  const pods = (registry.list(PODS, namespace) as Pod[]).filter(
    (pod) => selects(pod.metadata.labels) && pod.status.phase !== "Succeeded" && pod.status.phase !== "Failed",
  );
  const healthy = pods.filter((pod) => isPodReady(pod) && pod.metadata.deletionTimestamp === undefined).length;
  const expected = typeof spec.minAvailable === "number" ? pods.length : expectedPods(registry, pods);
  const desired =
    spec.maxUnavailable === undefined
      ? part(spec.minAvailable ?? 1, expected)
      : Math.max(0, expected - part(spec.maxUnavailable, expected));
  const allowed = Math.max(0, healthy - desired);
  const before = (budget.status ?? {}) as { conditions?: Condition[] };
  const old = before.conditions?.find(({ type }) => type === "DisruptionAllowed");
  const status = allowed > 0 ? "True" : "False";
  const condition = {
    type: "DisruptionAllowed",
    status,
    observedGeneration: budget.metadata.generation ?? 1,
    lastTransitionTime: old?.status === status ? old.lastTransitionTime : timestamp(),
    reason: allowed > 0 ? "SufficientPods" : "InsufficientPods",
    message: "",
  };
  const next = {
    observedGeneration: budget.metadata.generation ?? 1,
    disruptionsAllowed: allowed,
    currentHealthy: healthy,
    desiredHealthy: desired,
    expectedPods: expected,
    conditions: [condition],
  };
  if (jsonEqual(next, budget.status)) return;
  await registry.update(BUDGETS, namespace, name, (current) => ({ ...current, status: next }), {
    subresource: "status",
  });
}
