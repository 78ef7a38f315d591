// Limits of namespaces: ResourceQuota (what all objects of a namespace may use together) and LimitRange (what one pod, container
// or claim may use, and its defaults). Rules: Kubernetes' quota and limitranger admission plugins.
import { applyDefaults } from "./defaults.ts";
import { refused } from "./errors.ts";
import { builtIn, type Kind, tableOf } from "./kinds.ts";
import type { KubeObject, Pod } from "./objects.ts";
import { addQuantities, canonicalQuantity, quantityNanos } from "./quantity.ts";
import type { Store } from "./store.ts";

type Members = Record<string, any>;
type Amounts = Readonly<Record<string, string>>;

const COMPUTE = new Set(["cpu", "memory", "ephemeral-storage"]);

/** What a pod's containers ask for: their sum, or what the neediest init container asks for if that is more. */
function podAmounts(pod: KubeObject, list: "requests" | "limits"): Record<string, string> {
  const spec = pod.spec as Members;
  const of = (container: Members): Amounts => container["resources"]?.[list] ?? {};
  const sidecars: Members[] = (spec["initContainers"] ?? []).filter((c: Members) => c["restartPolicy"] === "Always");
  const main = [...(spec["containers"] ?? []), ...sidecars].map(of);
  const initial = (spec["initContainers"] ?? []).map(of) as Amounts[];
  const result: Record<string, string> = {};
  for (const key of new Set([...main, ...initial].flatMap((amounts) => Object.keys(amounts)))) {
    const sum = addQuantities(main.map((amounts) => amounts[key] ?? "0"));
    const most = initial
      .map((amounts) => amounts[key] ?? "0")
      .find((value) => quantityNanos(value) > quantityNanos(sum));
    result[key] = most ?? sum;
  }
  const overhead = (spec["overhead"] ?? {}) as Amounts;
  for (const [key, value] of Object.entries(overhead)) result[key] = addQuantities([result[key] ?? "0", value]);
  return result;
}

function podUsage(pod: KubeObject): Record<string, string> {
  const status = pod.status as Members | undefined;
  if (status?.["phase"] === "Succeeded" || status?.["phase"] === "Failed") return { "count/pods": "1" };
  const usage: Record<string, string> = { pods: "1", "count/pods": "1" };
  for (const [key, value] of Object.entries(podAmounts(pod, "requests"))) {
    if (COMPUTE.has(key)) usage[key] = value;
    usage[`requests.${key}`] = value;
  }
  for (const [key, value] of Object.entries(podAmounts(pod, "limits")))
    if (COMPUTE.has(key)) usage[`limits.${key}`] = value;
  return usage;
}

function serviceUsage(service: KubeObject): Record<string, string> {
  const spec = service.spec as Members;
  const ports = (spec["ports"] ?? []).length;
  const isBalanced = spec["type"] === "LoadBalancer";
  const hasNodePorts = spec["type"] === "NodePort" || (isBalanced && spec["allocateLoadBalancerNodePorts"] !== false);
  return {
    services: "1",
    "services.loadbalancers": isBalanced ? "1" : "0",
    "services.nodeports": hasNodePorts ? String(ports) : "0",
  };
}

function claimUsage(claim: KubeObject): Record<string, string> {
  const spec = claim.spec as Members;
  const storage = String(spec["resources"]?.requests?.storage ?? "0");
  const name = spec["storageClassName"];
  const usage: Record<string, string> = { persistentvolumeclaims: "1", "requests.storage": storage };
  if (name !== undefined) {
    usage[`${name}.storageclass.storage.k8s.io/persistentvolumeclaims`] = "1";
    usage[`${name}.storageclass.storage.k8s.io/requests.storage`] = storage;
  }
  return usage;
}

const PLAIN_COUNTS = new Set(["configmaps", "secrets", "replicationcontrollers", "resourcequotas"]);

/** What one object uses, by the names of quotas. */
function usageOf(kind: Kind, object: KubeObject): Record<string, string> {
  const counted = { [`count/${tableOf(kind)}`]: "1" };
  if (kind.group !== "") return counted;
  if (kind.plural === "pods") return podUsage(object);
  if (kind.plural === "services") return { ...counted, ...serviceUsage(object) };
  if (kind.plural === "persistentvolumeclaims") return { ...counted, ...claimUsage(object) };
  return PLAIN_COUNTS.has(kind.plural) ? { ...counted, [kind.plural]: "1" } : counted;
}

function isBestEffort(pod: KubeObject): boolean {
  return (pod.status as Members | undefined)?.["qosClass"] === "BestEffort";
}

function hasScope(pod: KubeObject, scope: string, term: Members | undefined): boolean {
  const spec = pod.spec as Members;
  switch (scope) {
    case "Terminating":
      return spec["activeDeadlineSeconds"] !== undefined;
    case "NotTerminating":
      return spec["activeDeadlineSeconds"] === undefined;
    case "BestEffort":
      return isBestEffort(pod);
    case "NotBestEffort":
      return !isBestEffort(pod);
    case "PriorityClass": {
      const name: string = spec["priorityClassName"] ?? "";
      if (term?.["operator"] === "DoesNotExist") return name === "";
      if (term === undefined || term["operator"] === "Exists") return name !== "";
      return (term["values"] ?? []).includes(name) === (term["operator"] === "In");
    }
    case "CrossNamespacePodAffinity":
      return JSON.stringify(spec["affinity"] ?? {}).includes('"namespace');
    default:
      return false;
  }
}

function isInScope(quota: KubeObject, kind: Kind, object: KubeObject): boolean {
  const spec = quota.spec as Members;
  const scopes: string[] = spec["scopes"] ?? [];
  const terms: Members[] = spec["scopeSelector"]?.matchExpressions ?? [];
  if (scopes.length + terms.length === 0) return true;
  if (kind.plural !== "pods") return false;
  return (
    scopes.every((scope) => hasScope(object, scope, undefined)) &&
    terms.every((term) => hasScope(object, String(term["scopeName"]), term))
  );
}

const hardOf = (quota: KubeObject): Amounts => ((quota.spec as Members)["hard"] ?? {}) as Amounts;

/** What the objects of its namespace use of a quota, for each resource that it limits. */
export function quotaUsage(store: Store, kinds: readonly Kind[], quota: KubeObject): Record<string, string> {
  const { namespace } = quota.metadata;
  const hard = Object.keys(hardOf(quota));
  const used = new Map(hard.map((key) => [key, [] as string[]]));
  for (const kind of kinds) {
    if (!kind.isNamespaced || !hard.some((key) => limits(kind, key))) continue;
    for (const object of store.list(tableOf(kind), namespace)) {
      if (!isInScope(quota, kind, object)) continue;
      const usage = usageOf(kind, object);
      for (const key of hard) if (usage[key] !== undefined) used.get(key)?.push(usage[key]);
    }
  }
  return Object.fromEntries([...used].map(([key, values]) => [key, addQuantities(values)]));
}

/** Whether a quota's resource `key` counts objects of `kind`. */
function limits(kind: Kind, key: string): boolean {
  if (key === `count/${tableOf(kind)}`) return true;
  if (kind.group !== "") return false;
  if (kind.plural === "services") return key === "services" || key.startsWith("services.");
  if (kind.plural === "persistentvolumeclaims")
    return key === "persistentvolumeclaims" || key === "requests.storage" || key.includes(".storageclass.");
  if (kind.plural === "pods") {
    const isCompute = COMPUTE.has(key) || /^(requests|limits)\./.test(key);
    return key === "pods" || (isCompute && key !== "requests.storage");
  }
  return key === kind.plural && PLAIN_COUNTS.has(key);
}

const shown = (amounts: Amounts, keys: readonly string[]): string =>
  keys.map((key) => `${key}=${canonicalQuantity(amounts[key] ?? "0")}`).join(",");

/** Refuses a new object that would use more than a quota of its namespace allows. */
export function chargeQuota(store: Store, kind: Kind, object: KubeObject): void {
  const quotas = store.list("resourcequotas", object.metadata.namespace);
  for (const quota of quotas) {
    if (!isInScope(quota, kind, object)) continue;
    const hard = hardOf(quota);
    const keys = Object.keys(hard)
      .filter((key) => limits(kind, key))
      .toSorted();
    if (keys.length === 0) continue;
    const asked = usageOf(kind, object);
    const name = object.metadata.name ?? "";
    const missing =
      kind.plural === "pods"
        ? keys.filter((key) => key !== "pods" && !key.startsWith("count/") && asked[key] === undefined)
        : [];
    if (missing.length > 0) {
      throw refused(
        kind,
        name,
        `failed quota: ${quota.metadata.name}: must specify ${missing.map((key) => `${key} for: ${containersWithout(object, key)}`).join("; ")}`,
      );
    }
    const used = quotaUsage(store, [kind], quota);
    const over = keys.filter(
      (key) =>
        quantityNanos(asked[key] ?? "0") > 0n &&
        quantityNanos(asked[key]) + quantityNanos(used[key]) > quantityNanos(hard[key]),
    );
    if (over.length > 0) {
      const why = `exceeded quota: ${quota.metadata.name}, requested: ${shown(asked, over)}, used: ${shown(used, over)}, limited: ${shown(hard, over)}`;
      throw refused(kind, name, why);
    }
  }
}

function containersWithout(pod: KubeObject, key: string): string {
  const [list, resource] = key.startsWith("limits.")
    ? ["limits", key.slice(7)]
    : ["requests", key.replace(/^requests\./, "")];
  return ((pod.spec as Members)["containers"] as Members[])
    .filter((container) => container["resources"]?.[list]?.[resource] === undefined)
    .map((container) => String(container["name"]))
    .join(",");
}

/** The LimitRanger admission: defaults of the namespace's LimitRanges, then their bounds. */
export function limitPod(store: Store, pod: Pod): void {
  const ranges = store.list("limitranges", pod.metadata.namespace);
  if (ranges.length === 0) return;
  const items = ranges.flatMap((range) => ((range.spec as Members)["limits"] ?? []) as Members[]);
  const containers = [...(pod.spec.containers ?? []), ...(pod.spec.initContainers ?? [])] as Members[];
  const touched: string[] = [];
  for (const item of items.filter((entry) => entry["type"] === "Container"))
    for (const container of containers) {
      const resources = (container["resources"] ??= {});
      for (const [list, from] of [
        ["limits", item["default"]],
        ["requests", item["defaultRequest"]],
      ] as const) {
        const added = Object.entries((from ?? {}) as Amounts).filter(([key]) => resources[list]?.[key] === undefined);
        if (added.length === 0) continue;
        resources[list] = { ...resources[list], ...Object.fromEntries(added) };
        touched.push(`${added.map(([key]) => key).join(", ")} ${list.slice(0, -1)} for container ${container["name"]}`);
      }
    }
  if (touched.length > 0)
    pod.metadata.annotations = {
      ...pod.metadata.annotations,
      "kubernetes.io/limit-ranger": `LimitRanger plugin set: ${touched.join("; ")}`,
    };
  applyDefaults(pod, builtIn("pods").type);
  checkBounds(pod, items, containers);
}

function checkBounds(pod: Pod, items: readonly Members[], containers: readonly Members[]): void {
  const problems: string[] = [];
  const check = (item: Members, requests: Amounts, bounds: Amounts): void => {
    const type = String(item["type"]);
    for (const [key, least] of Object.entries((item["min"] ?? {}) as Amounts)) {
      if (requests[key] === undefined)
        problems.push(`minimum ${key} usage per ${type} is ${least}.  No request is specified`);
      else if (quantityNanos(requests[key]) < quantityNanos(least))
        problems.push(`minimum ${key} usage per ${type} is ${least}, but request is ${requests[key]}`);
    }
    for (const [key, most] of Object.entries((item["max"] ?? {}) as Amounts)) {
      if (bounds[key] === undefined)
        problems.push(`maximum ${key} usage per ${type} is ${most}.  No limit is specified`);
      else if (quantityNanos(bounds[key]) > quantityNanos(most))
        problems.push(`maximum ${key} usage per ${type} is ${most}, but limit is ${bounds[key]}`);
    }
    for (const [key, ratio] of Object.entries((item["maxLimitRequestRatio"] ?? {}) as Amounts)) {
      const [request, limit] = [quantityNanos(requests[key]), quantityNanos(bounds[key])];
      if (request > 0n && limit * 1_000_000_000n > request * quantityNanos(ratio))
        problems.push(
          `${key} max limit to request ratio per ${type} is ${ratio}, but provided ratio is ${(Number(limit) / Number(request)).toFixed(6)}`,
        );
    }
  };
  for (const item of items) {
    if (item["type"] === "Container")
      for (const container of containers)
        check(item, container["resources"]?.requests ?? {}, container["resources"]?.limits ?? {});
    else if (item["type"] === "Pod") check(item, podAmounts(pod, "requests"), podAmounts(pod, "limits"));
  }
  if (problems.length === 0) return;
  const text = problems.length === 1 ? problems[0] : `[${problems.join(", ")}]`;
  throw refused(builtIn("pods"), pod.metadata.name ?? "", String(text));
}
