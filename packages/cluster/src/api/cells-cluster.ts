// The cells of storage, networking policy, access and the cluster's own kinds.
import { formatAge } from "@lateen/base";
import {
  ageOf,
  type Cell,
  type Cells,
  count,
  type Members,
  nameAndTime,
  orNone,
  plain,
  shownSelector,
  specOf,
  statusOf,
  unset,
} from "./cells-core.ts";
import type { KubeObject } from "./objects.ts";

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

export const CLUSTER_CELLS: Readonly<Record<string, Cells>> = {
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
