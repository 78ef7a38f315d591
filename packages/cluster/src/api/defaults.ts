// Defaults that the API server fills in, by type, wherever the type occurs: a Container in a Pod, in a Deployment's template,
// in a CronJob's. The values are those of Kubernetes' SetDefaults functions (pkg/apis/*/v1/defaults.go).
import { isObject } from "@lateen/base";
import { canonicalQuantity, quantityNanos } from "./quantity.ts";
import type { StructType, Type } from "./types.ts";

type Members = Record<string, any>;

/** Sets `target[key]` where it is absent, null or, for texts and numbers that are no pointers, empty. */
export function fill(target: Members, key: string, value: unknown): void {
  const now = target[key];
  if (
    now === undefined ||
    now === null ||
    now === "" ||
    (typeof value === "number" && now === 0 && EMPTY_IS_ABSENT.has(key))
  )
    target[key] = value;
}

/** Numbers that Go keeps without a pointer: 0 means not said. */
const EMPTY_IS_ABSENT = new Set([
  "timeoutSeconds",
  "periodSeconds",
  "successThreshold",
  "failureThreshold",
  "queues",
  "handSize",
]);

const MODE = 420;

function containerDefaults(container: Members): void {
  const image = String(container["image"] ?? "");
  const last = image.split("/").at(-1) ?? "";
  const tag = image.includes("@") ? "digest" : last.split(":")[1];
  fill(container, "imagePullPolicy", tag === undefined || tag === "" || tag === "latest" ? "Always" : "IfNotPresent");
  fill(container, "terminationMessagePath", "/dev/termination-log");
  fill(container, "terminationMessagePolicy", "File");
}

function podSpecDefaults(spec: Members): void {
  fill(spec, "dnsPolicy", "ClusterFirst");
  fill(spec, "restartPolicy", "Always");
  if (spec["hostNetwork"] === true) hostPorts(spec);
  fill(spec, "securityContext", {});
  fill(spec, "terminationGracePeriodSeconds", 30);
  fill(spec, "schedulerName", "default-scheduler");
  // The old name of the field follows the new one.
  if ((spec["serviceAccountName"] ?? "") === "" && (spec["serviceAccount"] ?? "") !== "")
    spec["serviceAccountName"] = spec["serviceAccount"];
  if ((spec["serviceAccountName"] ?? "") !== "") spec["serviceAccount"] = spec["serviceAccountName"];
}

function hostPorts(spec: Members): void {
  for (const container of [...(spec["containers"] ?? []), ...(spec["initContainers"] ?? [])])
    for (const port of container.ports ?? []) fill(port, "hostPort", port.containerPort);
}

function podDefaults(pod: Members): void {
  const spec: Members = pod["spec"];
  // Requests follow limits where they are not said.
  for (const container of [...(spec["containers"] ?? []), ...(spec["initContainers"] ?? [])]) {
    const { limits, requests } = (container.resources ?? {}) as { limits?: Members; requests?: Members };
    if (limits === undefined) continue;
    container.resources.requests = Object.fromEntries(
      Object.entries({ ...limits, ...requests }).toSorted(([a], [b]) => (a < b ? -1 : 1)),
    );
  }
  fill(spec, "enableServiceLinks", true);
}

function serviceDefaults(service: Members): void {
  const spec: Members = service["spec"];
  fill(spec, "sessionAffinity", "None");
  if (spec["sessionAffinity"] === "None") delete spec["sessionAffinityConfig"];
  if (spec["sessionAffinity"] === "ClientIP" && spec["sessionAffinityConfig"]?.clientIP?.timeoutSeconds === undefined)
    spec["sessionAffinityConfig"] = { clientIP: { timeoutSeconds: 10_800 } };
  fill(spec, "type", "ClusterIP");
  for (const port of spec["ports"] ?? []) {
    fill(port, "protocol", "TCP");
    if (port.targetPort === undefined || port.targetPort === 0 || port.targetPort === "") port.targetPort = port.port;
  }
  const isOutside = spec["type"] === "NodePort" || spec["type"] === "LoadBalancer";
  if (isOutside || (spec["externalIPs"] ?? []).length > 0) fill(spec, "externalTrafficPolicy", "Cluster");
  if (spec["type"] !== "ExternalName") fill(spec, "internalTrafficPolicy", "Cluster");
  if (spec["type"] === "LoadBalancer") fill(spec, "allocateLoadBalancerNodePorts", true);
}

function rollingDefaults(rolling: Members | undefined, values: Members): Members {
  const result = rolling ?? {};
  for (const [key, value] of Object.entries(values)) fill(result, key, value);
  return result;
}

function webhookDefaults(webhook: Members): void {
  fill(webhook, "failurePolicy", "Fail");
  fill(webhook, "matchPolicy", "Equivalent");
  fill(webhook, "namespaceSelector", {});
  fill(webhook, "objectSelector", {});
  fill(webhook, "timeoutSeconds", 10);
}

/** Defaults of an item of a LimitRange: limits follow from max, requests from limits. */
function limitDefaults(item: Members): void {
  if (item["type"] !== "Container") return;
  const filled = (from: Members | undefined, to: Members | undefined): Members | undefined => {
    const all = { ...from, ...to };
    return Object.keys(all).length === 0 ? undefined : all;
  };
  item["default"] = filled(item["max"], item["default"]);
  item["defaultRequest"] = filled(item["min"], filled(item["default"], item["defaultRequest"]));
  for (const key of ["default", "defaultRequest"]) if (item[key] === undefined) delete item[key];
}

const subjectDefaults = (subject: Members): void => {
  if (subject["apiGroup"] === undefined && subject["kind"] !== "ServiceAccount")
    subject["apiGroup"] = "rbac.authorization.k8s.io";
};
const bindingDefaults = (binding: Members): void => fill(binding["roleRef"], "apiGroup", "rbac.authorization.k8s.io");
const set =
  (values: Members) =>
  (target: Members): void => {
    for (const [key, value] of Object.entries(values)) fill(target, key, value);
  };

const DEFAULTS: Readonly<Record<string, (value: Members) => void>> = {
  "core.v1.Container": containerDefaults,
  "core.v1.EphemeralContainer": containerDefaults,
  "core.v1.ContainerPort": set({ protocol: "TCP" }),
  "core.v1.PodSpec": podSpecDefaults,
  "core.v1.Pod": podDefaults,
  "core.v1.Probe": set({ timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3 }),
  "core.v1.HTTPGetAction": set({ path: "/", scheme: "HTTP" }),
  "core.v1.GRPCAction": (action) => {
    action["service"] ??= "";
  },
  "core.v1.ObjectFieldSelector": set({ apiVersion: "v1" }),
  "core.v1.ConfigMapVolumeSource": set({ defaultMode: MODE }),
  "core.v1.SecretVolumeSource": set({ defaultMode: MODE }),
  "core.v1.DownwardAPIVolumeSource": set({ defaultMode: MODE }),
  "core.v1.ProjectedVolumeSource": set({ defaultMode: MODE }),
  "core.v1.ServiceAccountTokenProjection": set({ expirationSeconds: 3600 }),
  "core.v1.HostPathVolumeSource": (source) => {
    source["type"] ??= "";
  },
  "core.v1.Volume": (volume) => {
    if (Object.keys(volume).length === 1) volume["emptyDir"] = {};
  },
  "core.v1.ISCSIVolumeSource": set({ iscsiInterface: "default" }),
  "core.v1.RBDVolumeSource": set({ pool: "rbd", user: "admin", keyring: "/etc/ceph/keyring" }),
  "core.v1.Service": serviceDefaults,
  "core.v1.Secret": set({ type: "Opaque" }),
  "core.v1.ReplicationController": (controller) => {
    const { spec, metadata } = controller as { spec: Members; metadata: Members };
    const labels = spec["template"]?.metadata?.labels;
    if (labels !== undefined) {
      if (Object.keys(spec["selector"] ?? {}).length === 0) spec["selector"] = labels;
      if (Object.keys(metadata["labels"] ?? {}).length === 0) metadata["labels"] = labels;
    }
    fill(spec, "replicas", 1);
  },
  "core.v1.Endpoints": (endpoints) => {
    for (const subset of endpoints["subsets"] ?? [])
      for (const port of subset.ports ?? []) fill(port, "protocol", "TCP");
  },
  "core.v1.PersistentVolume": (volume) => {
    fill(volume["status"], "phase", "Pending");
    fill(volume["spec"], "persistentVolumeReclaimPolicy", "Retain");
    fill(volume["spec"], "volumeMode", "Filesystem");
  },
  "core.v1.PersistentVolumeClaim": (claim) => fill(claim["status"], "phase", "Pending"),
  "core.v1.PersistentVolumeClaimSpec": set({ volumeMode: "Filesystem" }),
  "core.v1.Namespace": (namespace) => {
    fill(namespace["status"], "phase", "Active");
    const { metadata } = namespace as { metadata: Members };
    if (metadata["name"] !== undefined)
      metadata["labels"] = { ...metadata["labels"], "kubernetes.io/metadata.name": metadata["name"] };
  },
  "core.v1.NodeStatus": (status) => {
    if (status["allocatable"] === undefined && status["capacity"] !== undefined)
      status["allocatable"] = status["capacity"];
  },
  "core.v1.LimitRangeItem": limitDefaults,
  "apps.v1.Deployment": ({ spec }) => {
    fill(spec, "replicas", 1);
    fill(spec["strategy"], "type", "RollingUpdate");
    if (spec["strategy"].type === "RollingUpdate")
      spec["strategy"].rollingUpdate = rollingDefaults(spec["strategy"].rollingUpdate, {
        maxUnavailable: "25%",
        maxSurge: "25%",
      });
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
  },
  "apps.v1.ReplicaSet": ({ spec }) => fill(spec, "replicas", 1),
  "apps.v1.DaemonSet": ({ spec, metadata }) => {
    const generation = "deprecated.daemonset.template.generation";
    metadata["annotations"] = { [generation]: "1", ...metadata["annotations"] };
    fill(spec["updateStrategy"], "type", "RollingUpdate");
    if (spec["updateStrategy"].type === "RollingUpdate")
      spec["updateStrategy"].rollingUpdate = rollingDefaults(spec["updateStrategy"].rollingUpdate, {
        maxUnavailable: 1,
        maxSurge: 0,
      });
    fill(spec, "revisionHistoryLimit", 10);
  },
  "apps.v1.StatefulSet": ({ spec }) => {
    fill(spec, "podManagementPolicy", "OrderedReady");
    fill(spec["updateStrategy"], "type", "RollingUpdate");
    if (spec["updateStrategy"].type === "RollingUpdate")
      spec["updateStrategy"].rollingUpdate = rollingDefaults(spec["updateStrategy"].rollingUpdate, { partition: 0 });
    spec["persistentVolumeClaimRetentionPolicy"] = rollingDefaults(spec["persistentVolumeClaimRetentionPolicy"], {
      whenDeleted: "Retain",
      whenScaled: "Retain",
    });
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    for (const claim of spec["volumeClaimTemplates"] ?? []) {
      claim.kind = "PersistentVolumeClaim";
      claim.apiVersion = "v1";
    }
  },
  "batch.v1.Job": ({ spec }) => {
    if (
      spec["completions"] === undefined &&
      spec["parallelism"] === undefined &&
      spec["completionMode"] !== "Indexed"
    ) {
      spec["completions"] = 1;
      spec["parallelism"] = 1;
    }
    fill(spec, "parallelism", 1);
    if (spec["backoffLimit"] === undefined)
      spec["backoffLimit"] = spec["backoffLimitPerIndex"] === undefined ? 6 : 2_147_483_647;
    fill(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    fill(spec, "podReplacementPolicy", spec["podFailurePolicy"] === undefined ? "TerminatingOrFailed" : "Failed");
    fill(spec, "manualSelector", false);
  },
  "batch.v1.CronJob": ({ spec }) => {
    fill(spec, "concurrencyPolicy", "Allow");
    fill(spec, "suspend", false);
    fill(spec, "successfulJobsHistoryLimit", 3);
    fill(spec, "failedJobsHistoryLimit", 1);
  },
  "autoscaling.v2.HorizontalPodAutoscaler": ({ spec }) => {
    fill(spec, "minReplicas", 1);
    if ((spec["metrics"] ?? []).length === 0)
      spec["metrics"] = [
        { type: "Resource", resource: { name: "cpu", target: { type: "Utilization", averageUtilization: 80 } } },
      ];
  },
  "autoscaling.v1.HorizontalPodAutoscaler": ({ spec }) => fill(spec, "minReplicas", 1),
  "networking.v1.NetworkPolicyPort": set({ protocol: "TCP" }),
  "networking.v1.NetworkPolicy": ({ spec }) => {
    if ((spec["policyTypes"] ?? []).length === 0)
      spec["policyTypes"] = ["Ingress", ...((spec["egress"] ?? []).length === 0 ? [] : ["Egress"])];
  },
  "networking.v1.IngressClass": ({ spec }) => {
    if (spec?.["parameters"] !== undefined) fill(spec["parameters"], "scope", "Cluster");
  },
  "rbac.v1.Subject": subjectDefaults,
  "rbac.v1.RoleBinding": bindingDefaults,
  "rbac.v1.ClusterRoleBinding": bindingDefaults,
  "scheduling.v1.PriorityClass": set({ preemptionPolicy: "PreemptLowerPriority" }),
  "storage.v1.StorageClass": set({ reclaimPolicy: "Delete", volumeBindingMode: "Immediate" }),
  "storage.v1.CSIDriver": ({ spec }) => {
    for (const [key, value] of Object.entries({ attachRequired: true, podInfoOnMount: false, storageCapacity: false }))
      fill(spec, key, value);
    fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    fill(spec, "volumeLifecycleModes", ["Persistent"]);
    fill(spec, "requiresRepublish", false);
    fill(spec, "seLinuxMount", false);
  },
  "discovery.v1.EndpointPort": (port) => {
    port["name"] ??= "";
    fill(port, "protocol", "TCP");
  },
  "admissionregistration.v1.MutatingWebhook": (webhook) => {
    webhookDefaults(webhook);
    fill(webhook, "reinvocationPolicy", "Never");
  },
  "admissionregistration.v1.ValidatingWebhook": webhookDefaults,
  "admissionregistration.v1.RuleWithOperations": set({ scope: "*" }),
  "admissionregistration.v1.NamedRuleWithOperations": set({ scope: "*" }),
  "admissionregistration.v1.ServiceReference": set({ port: 443 }),
  "admissionregistration.v1.ValidatingAdmissionPolicySpec": set({ failurePolicy: "Fail" }),
  "admissionregistration.v1.MatchResources": set({
    matchPolicy: "Equivalent",
    namespaceSelector: {},
    objectSelector: {},
  }),
  "apiextensions.v1.CustomResourceDefinitionSpec": (spec) => {
    fill(spec["names"], "singular", String(spec["names"].kind ?? "").toLowerCase());
    if ((spec["names"].kind ?? "") !== "") fill(spec["names"], "listKind", `${spec["names"].kind}List`);
    if (spec["conversion"] === undefined) spec["conversion"] = { strategy: "None" };
  },
  "apiextensions.v1.ServiceReference": set({ port: 443 }),
  "apiregistration.v1.ServiceReference": set({ port: 443 }),
  "flowcontrol.v1.FlowSchemaSpec": set({ matchingPrecedence: 1000 }),
  "flowcontrol.v1.ExemptPriorityLevelConfiguration": set({ nominalConcurrencyShares: 0, lendablePercent: 0 }),
  "flowcontrol.v1.LimitedPriorityLevelConfiguration": set({ nominalConcurrencyShares: 30, lendablePercent: 0 }),
  "flowcontrol.v1.QueuingConfiguration": set({ handSize: 8, queues: 64, queueLengthLimit: 50 }),
  "certificates.v1.CertificateSigningRequestSpec": set({ usages: ["digital signature", "key encipherment"] }),
  "resource.v1.ExactDeviceRequest": set({ allocationMode: "ExactCount" }),
  "resource.v1.DeviceSubRequest": set({ allocationMode: "ExactCount" }),
};

const shortName = (type: StructType): string => type.name.split(".").slice(-3).join(".");

/** Which types have defaults anywhere inside: the others are not walked. */
const reached = new Map<Type, boolean>();

function reaches(type: Type): boolean {
  const known = reached.get(type);
  if (known !== undefined) return known;
  reached.set(type, false);
  let result = false;
  if (type.shape === "list") result = reaches(type.item);
  else if (type.shape === "map") result = reaches(type.value);
  else if (type.shape === "struct")
    result = DEFAULTS[shortName(type)] !== undefined || [...type.fields.values()].some((field) => reaches(field.type));
  reached.set(type, result);
  return result;
}

/** Fills the defaults of `type` in, in place: those of the outer type first, then those of what is inside. */
export function applyDefaults(value: unknown, type: Type): void {
  if (type.shape === "list" && Array.isArray(value)) for (const item of value) applyDefaults(item, type.item);
  else if (type.shape === "map" && isObject(value))
    for (const item of Object.values(value)) applyDefaults(item, type.value);
  else if (type.shape === "struct" && isObject(value)) {
    DEFAULTS[shortName(type)]?.(value);
    for (const name of fieldsToWalk(type))
      if (value[name] !== undefined && value[name] !== null)
        applyDefaults(value[name], type.fields.get(name)?.type as Type);
  }
}

const walked = new Map<StructType, readonly string[]>();

function fieldsToWalk(type: StructType): readonly string[] {
  let names = walked.get(type);
  if (names === undefined) {
    names = [...type.fields.values()]
      .filter((field) => field.type.shape !== "leaf" && reaches(field.type))
      .map((field) => field.name);
    walked.set(type, names);
  }
  return names;
}

/** Quality of service, from what a pod's containers request (Guaranteed, Burstable, BestEffort). */
export function qosClass(spec: Members): string {
  const all: Members[] = [...(spec["containers"] ?? []), ...(spec["initContainers"] ?? [])].map(
    (c) => c.resources ?? {},
  );
  const isSaid = (list: Members | undefined): boolean =>
    ["cpu", "memory"].some((key) => quantityNanos(list?.[key]) > 0n);
  if (!all.some(({ requests, limits }) => isSaid(requests) || isSaid(limits))) return "BestEffort";
  const isGuaranteed = all.every(({ requests = {}, limits = {} }) =>
    ["cpu", "memory"].every(
      (key) =>
        quantityNanos(limits[key]) > 0n &&
        canonicalQuantity(requests[key] ?? limits[key]) === canonicalQuantity(limits[key]),
    ),
  );
  return isGuaranteed ? "Guaranteed" : "Burstable";
}
