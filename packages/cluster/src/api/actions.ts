// Writes that are acts on another object: a pod is bound to its node, evicted, a certificate request approved.
import { isObject } from "@lateen/base";
import type { Body } from "./body.ts";
import { ApiError, badRequest, conflict } from "./errors.ts";
import { builtIn } from "./kinds.ts";
import { type KubeObject, type Pod, timestamp } from "./objects.ts";
import type { Registry, WriteOptions } from "./registry.ts";
import { selectsLabels } from "./selectors.ts";
import type { ResourceRequest } from "./server.ts";

const SUCCESS = { kind: "Status", apiVersion: "v1", metadata: {}, status: "Success", code: 201 };

/** Puts a pod on a node: pods/binding and the older bindings. */
export async function writeBinding(
  registry: Registry,
  ask: Pick<ResourceRequest, "namespace" | "name">,
  body: Body | KubeObject,
  options: WriteOptions,
): Promise<unknown> {
  const target = (body as Body)["target"];
  const nodeName = isObject(target) ? target["name"] : undefined;
  if (typeof nodeName !== "string" || nodeName === "") throw badRequest("Binding: target.name is required");
  const pods = builtIn("pods");
  const name = ask.name ?? "";
  await registry.update(
    pods,
    ask.namespace,
    name,
    (current) => {
      const pod = current as Pod;
      if (pod.metadata.deletionTimestamp !== undefined)
        throw conflict(pods, name, `pod ${name} is being deleted, cannot be assigned to a host`);
      if ((pod.spec.nodeName ?? "") !== "")
        throw conflict(pods, name, `pod ${name} is already assigned to node "${pod.spec.nodeName}"`);
      const scheduled = { type: "PodScheduled" as const, status: "True" as const, lastTransitionTime: timestamp() };
      const others = (pod.status.conditions ?? []).filter(({ type }) => type !== "PodScheduled");
      return { ...pod, spec: { ...pod.spec, nodeName }, status: { ...pod.status, conditions: [...others, scheduled] } };
    },
    { ...options, subresource: "binding" },
  );
  return SUCCESS;
}

/** Deletes a pod where its PodDisruptionBudget lets it go; else 429. */
export async function writeEviction(
  registry: Registry,
  ask: ResourceRequest,
  body: Body,
  options: WriteOptions,
): Promise<unknown> {
  const pods = builtIn("pods");
  const budgets = builtIn("poddisruptionbudgets");
  const pod = registry.get(pods, ask.namespace, ask.name ?? "") as Pod;
  const isOver =
    pod.status.phase === "Succeeded" || pod.status.phase === "Failed" || pod.metadata.deletionTimestamp !== undefined;
  const matching = registry
    .list(budgets, ask.namespace)
    .filter((budget) => selectsLabels((budget.spec as { selector?: object }).selector)(pod.metadata.labels));
  const [budget] = matching;
  if (!isOver && budget !== undefined) {
    const { disruptionsAllowed = 0, observedGeneration } = (budget.status ?? {}) as {
      disruptionsAllowed?: number;
      observedGeneration?: number;
    };
    if (observedGeneration !== budget.metadata.generation || disruptionsAllowed <= 0) {
      const { name } = budget.metadata;
      const message = `The disruption budget ${name} needs ${String((budget.status as Body)["desiredHealthy"] ?? 0)} healthy pods and has ${String((budget.status as Body)["currentHealthy"] ?? 0)} currently`;
      throw new ApiError(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.", {
        causes: [{ reason: "DisruptionBudget", message }],
      });
    }
  }
  const deletion = isObject(body["deleteOptions"]) ? body["deleteOptions"] : {};
  const grace = deletion["gracePeriodSeconds"];
  const isDryRun =
    options.isDryRun === true || (Array.isArray(deletion["dryRun"]) && deletion["dryRun"].includes("All"));
  await registry.delete(pods, ask.namespace, pod.metadata.name, {
    ...options,
    isDryRun,
    ...(typeof grace === "number" ? { gracePeriodSeconds: grace } : {}),
  });
  return SUCCESS;
}

/** Approval is a permission of its own on the signer; RBAC of the subresource has decided already. */
export async function writeApproval(ask: ResourceRequest): Promise<void> {
  if (ask.name === undefined) throw badRequest("the approval of a request needs its name");
}
