// The cells of the tables that `kubectl get` prints: one row of finished texts and numbers for each object. The columns are
// those of facts/kinds.json; here is what stands in them (Kubernetes' pkg/printers/internalversion).
import { compareText, formatAge } from "@lateen/base";
import { CLUSTER_CELLS } from "./cells-cluster.ts";
import {
  age,
  ageOf,
  type Cell,
  type Cells,
  count,
  endpointText,
  externalAddress,
  images,
  labelText,
  type Members,
  nameAndAge,
  nameAndTime,
  names,
  orNone,
  plain,
  podCells,
  servicePorts,
  shownSelector,
  specOf,
  statusOf,
} from "./cells-core.ts";
import type { Deployment, EndpointSlice, KubeObject, ReplicaSet, Service } from "./objects.ts";

/** Containers, images and selector: the columns of workloads with `-o wide`. */
function wide(spec: Members): Cell[] {
  const { containers = [] } = spec["template"]?.spec ?? {};
  return [names(containers), images(containers), shownSelector(spec["selector"])];
}

function nodeStatus(object: KubeObject): string {
  const ready = ((statusOf(object)["conditions"] ?? []) as Members[]).find(
    (condition) => condition["type"] === "Ready",
  );
  const states = [ready === undefined ? "Unknown" : ready["status"] === "True" ? "Ready" : "NotReady"];
  if (specOf(object)["unschedulable"] === true) states.push("SchedulingDisabled");
  return states.join(",");
}

function nodeCells(object: KubeObject, now: number): Cell[] {
  const { nodeInfo = {}, addresses = [] } = statusOf(object);
  const roles = Object.entries(object.metadata.labels ?? {})
    .flatMap(([label, value]) =>
      label.startsWith("node-role.kubernetes.io/")
        ? [label.slice("node-role.kubernetes.io/".length)]
        : label === "kubernetes.io/role"
          ? [value]
          : [],
    )
    .filter((role) => role !== "")
    .toSorted(compareText);
  const address = (type: string): string =>
    orNone((addresses as Members[]).find((entry) => entry["type"] === type)?.["address"]);
  const unknown = (text: string | undefined): string => (text === undefined || text === "" ? "<unknown>" : text);
  return [
    object.metadata.name,
    nodeStatus(object),
    orNone(roles.join(",")),
    ageOf(object, now),
    nodeInfo.kubeletVersion ?? "",
    address("InternalIP"),
    address("ExternalIP"),
    unknown(nodeInfo.osImage),
    unknown(nodeInfo.kernelVersion),
    unknown(nodeInfo.containerRuntimeVersion),
  ];
}

function eventCells(object: KubeObject, now: number): Cell[] {
  const event = object as unknown as Members;
  const involved: Members = event["involvedObject"] ?? event["regarding"] ?? {};
  const text = (...fields: string[]): string =>
    String(fields.map((field) => event[field]).find((value) => value !== undefined && value !== null) ?? "");
  const source = (event["source"] ?? event["deprecatedSource"] ?? {}) as Members;
  const from = [source["component"], source["host"]].filter((part) => part !== undefined && part !== "");
  const { series } = event;
  const first = text("firstTimestamp", "deprecatedFirstTimestamp") || text("eventTime");
  const last = series?.lastObservedTime ?? (text("lastTimestamp", "deprecatedLastTimestamp") || first);
  const about = String(involved["kind"] ?? "").toLowerCase();
  return [
    age(last === "" ? undefined : last, now),
    text("type"),
    text("reason"),
    about === "" ? String(involved["name"] ?? "") : `${about}/${String(involved["name"] ?? "")}`,
    involved["fieldPath"] ?? "",
    from.length > 0 ? from.join(", ") : text("reportingComponent", "reportingController"),
    text("message", "note").trim(),
    age(first === "" ? undefined : first, now),
    Number(series?.count ?? (text("count", "deprecatedCount") || 1)),
    object.metadata.name,
  ];
}

function jobState(job: KubeObject): string {
  const { conditions = [] } = statusOf(job);
  const has = (type: string): boolean =>
    (conditions as Members[]).some((entry) => entry["type"] === type && entry["status"] === "True");
  if (has("Complete")) return "Complete";
  if (has("Failed")) return "Failed";
  if (job.metadata.deletionTimestamp !== undefined) return "Terminating";
  if (has("Suspended")) return "Suspended";
  if (has("FailureTarget")) return "FailureTarget";
  return has("SuccessCriteriaMet") ? "SuccessCriteriaMet" : "Running";
}

function jobCells(object: KubeObject, now: number): Cell[] {
  const [spec, status] = [specOf(object), statusOf(object)];
  const goal = spec["completions"] ?? (spec["parallelism"] > 1 ? `1 of ${spec["parallelism"]}` : 1);
  const { startTime, completionTime } = status;
  let duration = "";
  if (startTime !== undefined) {
    const end =
      completionTime ??
      ((status["conditions"] ?? []) as Members[]).find((entry) => entry["type"] === "Failed")?.["lastTransitionTime"];
    duration = formatAge((end === undefined ? now : Date.parse(end)) - Date.parse(startTime));
  }
  return [
    object.metadata.name,
    jobState(object),
    `${status["succeeded"] ?? 0}/${goal}`,
    duration,
    ageOf(object, now),
    ...wide(spec),
  ];
}

function quotaCells(object: KubeObject, now: number): Cell[] {
  const { hard = {}, used = {} } = statusOf(object);
  const keys = Object.keys(hard).toSorted(compareText);
  const shown = (list: readonly string[]): string =>
    list.map((key) => `${key}: ${used[key] ?? "0"}/${hard[key]}`).join(", ");
  const isLimit = (key: string): boolean => key.startsWith("limits.");
  return [
    object.metadata.name,
    shown(keys.filter((key) => !isLimit(key))),
    shown(keys.filter(isLimit)),
    ageOf(object, now),
  ];
}

const CELLS: Readonly<Record<string, Cells>> = {
  pods: podCells,
  services: (object, now) => {
    const service = object as Service;
    const { spec } = service;
    return [
      service.metadata.name,
      spec.type ?? "ClusterIP",
      orNone(spec.clusterIP),
      externalAddress(service),
      servicePorts(service),
      ageOf(service, now),
      labelText(spec.selector),
    ];
  },
  "deployments.apps": (object, now) => {
    const { metadata, spec, status } = object as Deployment;
    const ready = `${status.readyReplicas ?? 0}/${spec.replicas ?? 1}`;
    return [
      metadata.name,
      ready,
      status.updatedReplicas ?? 0,
      status.availableReplicas ?? 0,
      ageOf(object, now),
      ...wide(spec),
    ];
  },
  "replicasets.apps": (object, now) => {
    const { metadata, spec, status } = object as ReplicaSet;
    return [
      metadata.name,
      spec.replicas ?? 1,
      status.replicas ?? 0,
      status.readyReplicas ?? 0,
      ageOf(object, now),
      ...wide(spec),
    ];
  },
  replicationcontrollers: (object, now) => {
    const [spec, status] = [specOf(object), statusOf(object)];
    const selector = { matchLabels: spec["selector"] };
    return [
      object.metadata.name,
      spec["replicas"] ?? 1,
      status["replicas"] ?? 0,
      status["readyReplicas"] ?? 0,
      ageOf(object, now),
      ...wide({ ...spec, selector }),
    ];
  },
  "statefulsets.apps": (object, now) => {
    const [spec, status] = [specOf(object), statusOf(object)];
    return [
      object.metadata.name,
      `${status["readyReplicas"] ?? 0}/${spec["replicas"] ?? 1}`,
      ageOf(object, now),
      ...wide(spec).slice(0, 2),
    ];
  },
  "daemonsets.apps": (object, now) => {
    const [spec, status] = [specOf(object), statusOf(object)];
    const numbers = [
      "desiredNumberScheduled",
      "currentNumberScheduled",
      "numberReady",
      "updatedNumberScheduled",
      "numberAvailable",
    ];
    const selector = labelText(spec["template"].spec.nodeSelector);
    return [
      object.metadata.name,
      ...numbers.map((name) => Number(status[name] ?? 0)),
      selector,
      ageOf(object, now),
      ...wide(spec),
    ];
  },
  "controllerrevisions.apps": (object, now) => {
    const owner = object.metadata.ownerReferences?.find((entry) => entry.controller === true);
    const group = owner?.apiVersion.split("/")[0] ?? "";
    const by = owner === undefined ? "<none>" : `${owner.kind.toLowerCase()}.${group}/${owner.name}`;
    return [object.metadata.name, by, Number(plain(object)["revision"]), ageOf(object, now)];
  },
  "jobs.batch": jobCells,
  "cronjobs.batch": (object, now) => {
    const [spec, status] = [specOf(object), statusOf(object)];
    const last = status["lastScheduleTime"];
    const { template, selector } = spec["jobTemplate"].spec;
    const shown = last === undefined ? "<none>" : formatAge(now - Date.parse(last));
    return [
      object.metadata.name,
      spec["schedule"],
      orNone(spec["timeZone"]),
      spec["suspend"] === true ? "True" : "False",
      count(status["active"]),
      shown,
      ageOf(object, now),
      ...wide({ template, selector }),
    ];
  },
  podtemplates: (object) => {
    const { template } = plain(object);
    const { containers = [] } = template.spec ?? {};
    return [object.metadata.name, names(containers), images(containers), labelText(template.metadata?.labels)];
  },
  namespaces: (object, now) => [object.metadata.name, String(statusOf(object)["phase"] ?? ""), ageOf(object, now)],
  nodes: nodeCells,
  configmaps: (object, now) => [
    object.metadata.name,
    count(object["data"]) + count(object["binaryData"]),
    ageOf(object, now),
  ],
  secrets: (object, now) => [object.metadata.name, String(object["type"]), count(object["data"]), ageOf(object, now)],
  serviceaccounts: (object, now) => [object.metadata.name, count(object["secrets"]), ageOf(object, now)],
  endpoints: (object, now) => {
    const subsets = (object["subsets"] ?? []) as { addresses?: { ip: string }[]; ports?: { port: number }[] }[];
    const all = subsets.flatMap(({ addresses = [], ports = [] }) =>
      ports.length === 0
        ? addresses.map(({ ip }) => ip)
        : ports.flatMap(({ port }) => addresses.map(({ ip }) => `${ip}:${port}`)),
    );
    return [object.metadata.name, endpointText(all), ageOf(object, now)];
  },
  "endpointslices.discovery.k8s.io": (object, now) => {
    const slice = object as EndpointSlice;
    const ports = (slice.ports ?? []).map(({ port }) => port ?? "*").join(",");
    const addresses = (slice.endpoints ?? []).flatMap((endpoint) => endpoint.addresses);
    return [
      slice.metadata.name,
      slice.addressType,
      ports === "" ? "<unset>" : ports,
      addresses.length === 0 ? "<unset>" : endpointText(addresses),
      ageOf(slice, now),
    ];
  },
  events: eventCells,
  limitranges: nameAndTime,
  resourcequotas: quotaCells,
  ...CLUSTER_CELLS,
};

/** The cells of one object; `table` is its storage table. Kinds without rules of their own show name and age. */
export function cellsOf(table: string, object: KubeObject, now: number): Cell[] {
  return (CELLS[table] ?? nameAndAge)(object, now);
}
