// The cells of the tables that `kubectl get` prints: one row of finished texts and numbers for each object. The columns are
// those of facts/kinds.json; here is what stands in them (Kubernetes' pkg/printers/internalversion).
import { compareText, formatAge, isObject } from "@lateen/base";
import type {
  ContainerStatus,
  Deployment,
  EndpointSlice,
  KubeObject,
  LabelSelector,
  Pod,
  ReplicaSet,
  Service,
} from "./objects.ts";
import { selectorText } from "./selectors.ts";

export type Cell = string | number | boolean | null;
type Members = Record<string, any>;
type Cells = (object: KubeObject, now: number) => Cell[];

export const age = (time: string | undefined, now: number): string =>
  time === undefined ? "<unknown>" : formatAge(now - Date.parse(time));
export const ageOf = (object: KubeObject, now: number): string => age(object.metadata.creationTimestamp, now);
const orNone = (text: string | undefined): string => (text === undefined || text === "" ? "<none>" : text);
const labelText = (labels: Readonly<Record<string, string>> | undefined): string =>
  orNone(
    Object.entries(labels ?? {})
      .map(([key, value]) => `${key}=${value}`)
      .join(","),
  );
const images = (containers: readonly { image: string }[]): string => containers.map(({ image }) => image).join(",");
const names = (containers: readonly { name: string }[]): string => containers.map(({ name }) => name).join(",");

/** The STATUS that kubectl shows for a pod: the most telling reason of its containers. */
function podReason(pod: Pod): string {
  let reason = pod.status.reason ?? pod.status.phase;
  const initial = pod.status.initContainerStatuses ?? [];
  const sidecars = new Set(
    (pod.spec.initContainers ?? []).filter((c) => c.restartPolicy === "Always").map((c) => c.name),
  );
  const stuck = initial.findIndex(
    (status) => status.state.terminated?.exitCode !== 0 && !(sidecars.has(status.name) && status.started),
  );
  if (stuck >= 0) {
    const state = initial[stuck]?.state;
    const failed = state?.terminated;
    const why = failed?.reason ?? state?.waiting?.reason;
    reason = why === undefined || why === "PodInitializing" ? `Init:${stuck}/${initial.length}` : `Init:${why}`;
  } else {
    for (const { state } of (pod.status.containerStatuses ?? []).toReversed()) {
      if (state.waiting?.reason !== undefined) reason = state.waiting.reason;
      else if (state.terminated !== undefined) reason = state.terminated.reason;
    }
    const isUp = (pod.status.containerStatuses ?? []).some((status) => status.ready && status.state.running);
    if (reason === "Completed" && isUp) reason = "Running";
  }
  return pod.metadata.deletionTimestamp === undefined ? reason : "Terminating";
}

function restarts(statuses: readonly ContainerStatus[], now: number): string {
  const count = statuses.reduce((sum, status) => sum + status.restartCount, 0);
  const last = statuses
    .map((status) => status.lastState.terminated?.finishedAt)
    .filter((time) => time !== undefined)
    .sort()
    .at(-1);
  return count === 0 || last === undefined ? String(count) : `${count} (${age(last, now)} ago)`;
}

function podCells(object: KubeObject, now: number): Cell[] {
  const pod = object as Pod;
  const statuses = pod.status.containerStatuses ?? [];
  const sidecars = (pod.spec.initContainers ?? []).filter((container) => container.restartPolicy === "Always");
  const sidecarStatuses = (pod.status.initContainerStatuses ?? []).filter((status) =>
    sidecars.some((container) => container.name === status.name),
  );
  const all = [...statuses, ...sidecarStatuses];
  const total = pod.spec.containers.length + sidecars.length;
  return [
    pod.metadata.name,
    `${all.filter((status) => status.ready).length}/${total}`,
    podReason(pod),
    restarts(all, now),
    ageOf(pod, now),
    orNone(pod.status.podIP),
    orNone(pod.spec.nodeName),
    "<none>",
    "<none>",
  ];
}

function servicePorts(service: Service): string {
  return orNone(
    (service.spec.ports ?? [])
      .map((port) => `${port.port}${port.nodePort === undefined ? "" : `:${port.nodePort}`}/${port.protocol ?? "TCP"}`)
      .join(","),
  );
}

function externalAddress(service: Service): string {
  if (service.spec.type === "ExternalName") return orNone(service.spec.externalName);
  if (service.spec.type !== "LoadBalancer") return orNone(service.spec.externalIPs?.join(","));
  const status =
    isObject(service.status) && isObject(service.status["loadBalancer"]) ? service.status["loadBalancer"] : {};
  const ingress = Array.isArray(status["ingress"]) ? status["ingress"] : [];
  const addresses = ingress.map((entry: { ip?: string; hostname?: string }) => entry.ip ?? entry.hostname);
  return addresses.length === 0 ? "<pending>" : addresses.join(",");
}

function endpointText(addresses: readonly string[]): string {
  const shown = addresses.slice(0, 3).join(",");
  return orNone(addresses.length > 3 ? `${shown} + ${addresses.length - 3} more...` : shown);
}

const count = (value: unknown): number =>
  isObject(value) ? Object.keys(value).length : Array.isArray(value) ? value.length : 0;
const shownSelector = (selector: LabelSelector | undefined): string => orNone(selectorText(selector));
const specOf = (object: KubeObject): Members => (object.spec ?? {}) as Members;
const statusOf = (object: KubeObject): Members => (object.status ?? {}) as Members;
const nameAndAge: Cells = (object, now) => [object.metadata.name, ageOf(object, now)];
const nameAndTime: Cells = (object) => [object.metadata.name, object.metadata.creationTimestamp ?? ""];
const unset = (value: unknown): string =>
  value === undefined || value === null || value === "" ? "<unset>" : String(value);

/** Containers, images and selector: the columns of workloads with `-o wide`. */
function wide(spec: Members): Cell[] {
  const { containers = [] } = spec["template"]?.spec ?? {};
  return [names(containers), images(containers), shownSelector(spec["selector"])];
}

const ACCESS: Readonly<Record<string, string>> = {
  ReadWriteOnce: "RWO",
  ReadOnlyMany: "ROX",
  ReadWriteMany: "RWX",
  ReadWriteOncePod: "RWOP",
};
const accessModes = (modes: readonly string[] | undefined): string =>
  (modes ?? []).map((mode) => ACCESS[mode] ?? mode).join(",");

function volumeState(object: KubeObject): string {
  const phase = String(statusOf(object)["phase"] ?? "");
  return object.metadata.deletionTimestamp === undefined ? phase : "Terminating";
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

function scalerTargets(spec: Members, status: Members): string {
  const specs = (spec["metrics"] ?? []) as Members[];
  if (specs.length === 0) return "<none>";
  const shown = specs.map((metric) => {
    const kind = String(metric["type"]);
    const source = metric[kind[0]?.toLowerCase() + kind.slice(1)] ?? {};
    const found = ((status["currentMetrics"] ?? []) as Members[]).find(
      (entry) => entry["type"] === kind && (entry["resource"]?.name ?? "") === (source.name ?? ""),
    );
    const current = found?.["resource"]?.current ?? {};
    const { target = {} } = source;
    const prefix = kind === "Resource" ? `${source.name}: ` : "";
    if (target.averageUtilization !== undefined)
      return `${prefix}${current.averageUtilization === undefined ? "<unknown>" : `${current.averageUtilization}%`}/${target.averageUtilization}%`;
    return `${prefix}${current.averageValue ?? "<unknown>"}/${target.averageValue ?? target.value ?? "<auto>"}${target.averageValue === undefined ? "" : " (avg)"}`;
  });
  return shown.length > 2 ? `${shown.slice(0, 2).join(", ")} + ${shown.length - 2} more...` : shown.join(", ");
}

function ingressCells(object: KubeObject, now: number): Cell[] {
  const spec = specOf(object);
  const rules = (spec["rules"] ?? []) as Members[];
  const hosts = rules.map((rule) => rule["host"] ?? "*").slice(0, 3);
  const addresses = ((statusOf(object)["loadBalancer"]?.ingress ?? []) as Members[]).map(
    (entry) => entry["ip"] ?? entry["hostname"],
  );
  const more = rules.length > 3 ? ` + ${rules.length - 3} more...` : "";
  return [
    object.metadata.name,
    orNone(spec["ingressClassName"] ?? object.metadata.annotations?.["kubernetes.io/ingress.class"]),
    rules.length === 0 ? "*" : `${hosts.join(",")}${more}`,
    addresses.join(","),
    (spec["tls"] ?? []).length > 0 ? "80, 443" : "80",
    ageOf(object, now),
  ];
}

function bindingCells(object: KubeObject, now: number): Cell[] {
  const binding = object as unknown as Members;
  const subjects = (binding["subjects"] ?? []) as Members[];
  const named = (kind: string): string =>
    subjects
      .filter((subject) => subject["kind"] === kind)
      .map((subject) => String(subject["name"]))
      .join(", ");
  const accounts = subjects
    .filter((subject) => subject["kind"] === "ServiceAccount")
    .map((subject) => `${subject["namespace"] ?? ""}/${subject["name"]}`);
  return [
    object.metadata.name,
    `${binding["roleRef"].kind}/${binding["roleRef"].name}`,
    ageOf(object, now),
    named("User"),
    named("Group"),
    accounts.join(", "),
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

function requestCells(object: KubeObject, now: number): Cell[] {
  const [spec, status] = [specOf(object), statusOf(object)];
  const types = ((status["conditions"] ?? []) as Members[]).map((condition) => String(condition["type"]));
  const states =
    types.length === 0
      ? ["Pending"]
      : types.filter((type) => type === "Approved" || type === "Denied" || type === "Failed");
  if ((status["certificate"] ?? "") !== "") states.push("Issued");
  const seconds = spec["expirationSeconds"];
  return [
    object.metadata.name,
    ageOf(object, now),
    spec["signerName"],
    spec["username"] ?? "",
    seconds === undefined ? "<none>" : formatAge(seconds * 1000),
    states.join(","),
  ];
}

function serviceOf(object: KubeObject): string {
  const { service } = specOf(object);
  return service === undefined || service === null ? "Local" : `${service.namespace}/${service.name}`;
}

function available(object: KubeObject): string {
  const condition = ((statusOf(object)["conditions"] ?? []) as Members[]).find(
    (entry) => entry["type"] === "Available",
  );
  if (condition === undefined) return "Unknown";
  return condition["status"] === "True" ? "True" : `${condition["status"]} (${condition["reason"]})`;
}

const webhookCells: Cells = (object, now) => [object.metadata.name, count(object["webhooks"]), ageOf(object, now)];
const plain = (object: KubeObject): Members => object as unknown as Members;

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
  persistentvolumeclaims: (object, now) => {
    const [spec, status] = [specOf(object), statusOf(object)];
    const isBound = (spec["volumeName"] ?? "") !== "";
    const storage = isBound ? (status["capacity"]?.storage ?? "") : "";
    const storageClass =
      spec["storageClassName"] ?? object.metadata.annotations?.["volume.beta.kubernetes.io/storage-class"] ?? "";
    return [
      object.metadata.name,
      volumeState(object),
      spec["volumeName"] ?? "",
      storage,
      isBound ? accessModes(status["accessModes"]) : "",
      storageClass,
      unset(spec["volumeAttributesClassName"]),
      ageOf(object, now),
      unset(spec["volumeMode"]),
    ];
  },
  persistentvolumes: (object, now) => {
    const [spec, status] = [specOf(object), statusOf(object)];
    const claim = spec["claimRef"] === undefined ? "" : `${spec["claimRef"].namespace}/${spec["claimRef"].name}`;
    return [
      object.metadata.name,
      spec["capacity"]?.storage ?? "",
      accessModes(spec["accessModes"]),
      spec["persistentVolumeReclaimPolicy"],
      volumeState(object),
      claim,
      spec["storageClassName"] ?? "",
      unset(spec["volumeAttributesClassName"]),
      status["reason"] ?? "",
      ageOf(object, now),
      unset(spec["volumeMode"]),
    ];
  },
  "apiservices.apiregistration.k8s.io": (object, now) => [
    object.metadata.name,
    serviceOf(object),
    available(object),
    ageOf(object, now),
  ],
  "horizontalpodautoscalers.autoscaling": (object, now) => {
    const [spec, status] = [specOf(object), statusOf(object)];
    const target = `${spec["scaleTargetRef"].kind}/${spec["scaleTargetRef"].name}`;
    return [
      object.metadata.name,
      target,
      scalerTargets(spec, status),
      String(spec["minReplicas"] ?? "<unset>"),
      spec["maxReplicas"],
      status["currentReplicas"] ?? 0,
      ageOf(object, now),
    ];
  },
  "certificatesigningrequests.certificates.k8s.io": requestCells,
  "ingresses.networking.k8s.io": ingressCells,
  "ingressclasses.networking.k8s.io": (object, now) => {
    const { parameters, controller } = specOf(object);
    const shown =
      parameters === undefined
        ? "<none>"
        : `${parameters.kind}${parameters.apiGroup === undefined ? "" : `.${parameters.apiGroup}`}/${parameters.name}`;
    return [object.metadata.name, controller ?? "", shown, ageOf(object, now)];
  },
  "networkpolicies.networking.k8s.io": (object, now) => [
    object.metadata.name,
    shownSelector(specOf(object)["podSelector"]),
    ageOf(object, now),
  ],
  "ipaddresses.networking.k8s.io": (object) => {
    const { parentRef = {} } = specOf(object);
    return [object.metadata.name, `${parentRef.resource}/${parentRef.namespace}/${parentRef.name}`];
  },
  "servicecidrs.networking.k8s.io": (object, now) => [
    object.metadata.name,
    (specOf(object)["cidrs"] ?? []).join(","),
    ageOf(object, now),
  ],
  "poddisruptionbudgets.policy": (object, now) => {
    const spec = specOf(object);
    const shown = (value: unknown): string => (value === undefined ? "N/A" : String(value));
    return [
      object.metadata.name,
      shown(spec["minAvailable"]),
      shown(spec["maxUnavailable"]),
      Number(statusOf(object)["disruptionsAllowed"] ?? 0),
      ageOf(object, now),
    ];
  },
  "clusterrolebindings.rbac.authorization.k8s.io": bindingCells,
  "rolebindings.rbac.authorization.k8s.io": bindingCells,
  "clusterroles.rbac.authorization.k8s.io": nameAndTime,
  "roles.rbac.authorization.k8s.io": nameAndTime,
  "csistoragecapacities.storage.k8s.io": nameAndTime,
  "csidrivers.storage.k8s.io": (object, now) => {
    const spec = specOf(object);
    const requests = ((spec["tokenRequests"] ?? []) as Members[]).map((entry) => String(entry["audience"])).join(",");
    return [
      object.metadata.name,
      spec["attachRequired"] ?? true,
      spec["podInfoOnMount"] ?? false,
      spec["storageCapacity"] ?? false,
      unset(requests),
      spec["requiresRepublish"] ?? false,
      orNone((spec["volumeLifecycleModes"] ?? []).join(",")),
      ageOf(object, now),
    ];
  },
  "csinodes.storage.k8s.io": (object, now) => [
    object.metadata.name,
    count(specOf(object)["drivers"]),
    ageOf(object, now),
  ],
  "storageclasses.storage.k8s.io": (object, now) => {
    const storage = plain(object);
    const isDefault = object.metadata.annotations?.["storageclass.kubernetes.io/is-default-class"] === "true";
    return [
      `${object.metadata.name}${isDefault ? " (default)" : ""}`,
      storage["provisioner"],
      storage["reclaimPolicy"],
      storage["volumeBindingMode"],
      storage["allowVolumeExpansion"] === true,
      ageOf(object, now),
    ];
  },
  "volumeattachments.storage.k8s.io": (object, now) => {
    const spec = specOf(object);
    return [
      object.metadata.name,
      spec["attacher"],
      spec["source"]?.persistentVolumeName ?? "",
      spec["nodeName"],
      statusOf(object)["attached"] === true,
      ageOf(object, now),
    ];
  },
  "volumeattributesclasses.storage.k8s.io": (object, now) => [
    object.metadata.name,
    plain(object)["driverName"],
    ageOf(object, now),
  ],
  "mutatingwebhookconfigurations.admissionregistration.k8s.io": webhookCells,
  "validatingwebhookconfigurations.admissionregistration.k8s.io": webhookCells,
  "validatingadmissionpolicies.admissionregistration.k8s.io": (object, now) => {
    const { validations, paramKind } = specOf(object);
    return [
      object.metadata.name,
      count(validations),
      paramKind === undefined ? "<unset>" : `${paramKind.apiVersion}/${paramKind.kind}`,
      ageOf(object, now),
    ];
  },
  "validatingadmissionpolicybindings.admissionregistration.k8s.io": (object, now) => {
    const { policyName, paramRef } = specOf(object);
    const shown =
      paramRef === undefined
        ? "<unset>"
        : paramRef.name === undefined
          ? "*"
          : `${paramRef.namespace === undefined ? "*" : paramRef.namespace}/${paramRef.name}`;
    return [object.metadata.name, policyName, shown, ageOf(object, now)];
  },
  "customresourcedefinitions.apiextensions.k8s.io": nameAndTime,
  "priorityclasses.scheduling.k8s.io": (object, now) => {
    const { value, globalDefault, preemptionPolicy } = plain(object);
    return [object.metadata.name, value, globalDefault === true, ageOf(object, now), preemptionPolicy ?? ""];
  },
  "leases.coordination.k8s.io": (object, now) => [
    object.metadata.name,
    specOf(object)["holderIdentity"] ?? "",
    ageOf(object, now),
  ],
  "runtimeclasses.node.k8s.io": (object, now) => [object.metadata.name, plain(object)["handler"], ageOf(object, now)],
  "resourceclaims.resource.k8s.io": (object, now) => {
    const status = statusOf(object);
    const states = [
      status["allocation"] === undefined ? "pending" : "allocated",
      ...((status["reservedFor"] ?? []).length > 0 ? ["reserved"] : []),
    ];
    return [object.metadata.name, states.join(","), ageOf(object, now)];
  },
  "resourceslices.resource.k8s.io": (object, now) => {
    const spec = specOf(object);
    return [object.metadata.name, unset(spec["nodeName"]), spec["driver"], spec["pool"]?.name, ageOf(object, now)];
  },
  "flowschemas.flowcontrol.apiserver.k8s.io": (object, now) => {
    const spec = specOf(object);
    const missing = ((statusOf(object)["conditions"] ?? []) as Members[]).find(
      (entry) => entry["type"] === "Dangling",
    )?.["status"];
    return [
      object.metadata.name,
      spec["priorityLevelConfiguration"].name,
      spec["matchingPrecedence"],
      spec["distinguisherMethod"]?.type ?? "<none>",
      ageOf(object, now),
      missing ?? "?",
    ];
  },
  "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": (object, now) => {
    const { type, limited, exempt } = specOf(object);
    const queuing = limited?.limitResponse?.queuing;
    const shares = (limited ?? exempt)?.nominalConcurrencyShares;
    const shown = (value: unknown): string => (value === undefined ? "<none>" : String(value));
    return [
      object.metadata.name,
      type,
      shown(shares),
      shown(queuing?.queues),
      shown(queuing?.handSize),
      shown(queuing?.queueLengthLimit),
      ageOf(object, now),
    ];
  },
};

/** The cells of one object; `table` is its storage table. Kinds without rules of their own show name and age. */
export function cellsOf(table: string, object: KubeObject, now: number): Cell[] {
  return (CELLS[table] ?? nameAndAge)(object, now);
}
