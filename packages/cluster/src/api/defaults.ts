// Defaults that the API server fills in, as clients of a real one see them, and the checks that are not about types.
import { isObject } from "@lateen/base";
import { checkDefinition } from "./custom.ts";
import { required, type StatusCause } from "./errors.ts";
import {
  type Container,
  type Deployment,
  type KubeObject,
  type Pod,
  type PodSpec,
  type Probe,
  type Service,
  timestamp,
} from "./objects.ts";

/** Sets `target[key]` where it is absent. */
function fill(target: object, key: string, value: unknown): void {
  const record = target as Record<string, unknown>;
  if (record[key] === undefined || record[key] === null) record[key] = value;
}

function probeDefaults(probe: Probe | undefined): void {
  if (probe === undefined) return;
  fill(probe, "timeoutSeconds", 1);
  fill(probe, "periodSeconds", 10);
  fill(probe, "successThreshold", 1);
  fill(probe, "failureThreshold", 3);
  if (probe.httpGet !== undefined) {
    fill(probe.httpGet, "path", "/");
    fill(probe.httpGet, "scheme", "HTTP");
  }
}

function containerDefaults(container: Container): void {
  const tag = container.image?.split("/").at(-1)?.split(":")[1];
  fill(container, "imagePullPolicy", tag === undefined || tag === "latest" ? "Always" : "IfNotPresent");
  fill(container, "terminationMessagePath", "/dev/termination-log");
  fill(container, "terminationMessagePolicy", "File");
  fill(container, "resources", {});
  for (const port of container.ports ?? []) fill(port, "protocol", "TCP");
  for (const env of container.env ?? [])
    if (env.valueFrom?.fieldRef !== undefined) fill(env.valueFrom.fieldRef, "apiVersion", "v1");
  probeDefaults(container.livenessProbe);
  probeDefaults(container.readinessProbe);
  probeDefaults(container.startupProbe);
}

function volumeDefaults(spec: PodSpec): void {
  for (const volume of spec.volumes ?? []) {
    for (const source of [volume.configMap, volume.secret, volume.downwardAPI, volume.projected]) {
      if (source !== undefined) fill(source, "defaultMode", 420);
    }
    for (const item of volume.downwardAPI?.items ?? [])
      if (item.fieldRef !== undefined) fill(item.fieldRef, "apiVersion", "v1");
    for (const source of volume.projected?.sources ?? []) {
      if (source.serviceAccountToken !== undefined) fill(source.serviceAccountToken, "expirationSeconds", 3600);
      for (const item of source.downwardAPI?.items ?? []) fill(item.fieldRef, "apiVersion", "v1");
    }
  }
}

/** Defaults that pods and pod templates share. */
function podSpecDefaults(spec: PodSpec): void {
  fill(spec, "restartPolicy", "Always");
  fill(spec, "terminationGracePeriodSeconds", 30);
  fill(spec, "dnsPolicy", "ClusterFirst");
  fill(spec, "schedulerName", "default-scheduler");
  fill(spec, "securityContext", {});
  if (spec.serviceAccountName !== undefined) fill(spec, "serviceAccount", spec.serviceAccountName);
  for (const container of [...(spec.containers ?? []), ...(spec.initContainers ?? [])]) containerDefaults(container);
  volumeDefaults(spec);
}

const ACCOUNT_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";

/** The ServiceAccount admission: the default account, and its token mounted into every container. */
export function accountDefaults(pod: Pod, suffix: string): void {
  const { spec } = pod;
  fill(spec, "serviceAccountName", "default");
  fill(spec, "serviceAccount", spec.serviceAccountName);
  if (spec.automountServiceAccountToken === false) return;
  const containers = [...spec.containers, ...(spec.initContainers ?? [])];
  const missing = containers.filter(
    (container) => !(container.volumeMounts ?? []).some((mount) => mount.mountPath === ACCOUNT_MOUNT),
  );
  if (missing.length === 0) return;
  let name = spec.volumes?.find((volume) => volume.name.startsWith("kube-api-access-"))?.name;
  if (name === undefined) {
    name = `kube-api-access-${suffix}`;
    const sources = [
      { serviceAccountToken: { expirationSeconds: 3607, path: "token" } },
      { configMap: { name: "kube-root-ca.crt", items: [{ key: "ca.crt", path: "ca.crt" }] } },
      {
        downwardAPI: {
          items: [{ path: "namespace", fieldRef: { apiVersion: "v1", fieldPath: "metadata.namespace" } }],
        },
      },
    ];
    spec.volumes = [...(spec.volumes ?? []), { name, projected: { defaultMode: 420, sources } as object }];
  }
  for (const container of missing) {
    container.volumeMounts = [...(container.volumeMounts ?? []), { name, readOnly: true, mountPath: ACCOUNT_MOUNT }];
  }
}

function podDefaults(pod: Pod): void {
  podSpecDefaults(pod.spec);
  fill(pod.spec, "enableServiceLinks", true);
  fill(pod.spec, "priority", 0);
  fill(pod.spec, "preemptionPolicy", "PreemptLowerPriority");
  const toleration = (key: string): unknown => ({
    key: `node.kubernetes.io/${key}`,
    operator: "Exists",
    effect: "NoExecute",
    tolerationSeconds: 300,
  });
  fill(pod.spec, "tolerations", [toleration("not-ready"), toleration("unreachable")]);
  fill(pod, "status", { phase: "Pending", qosClass: "BestEffort" });
}

function deploymentDefaults(deployment: Deployment): void {
  const { spec } = deployment;
  fill(spec, "replicas", 1);
  fill(spec, "strategy", {});
  const strategy = spec.strategy ?? {};
  fill(strategy, "type", "RollingUpdate");
  if (strategy.type === "RollingUpdate") {
    fill(strategy, "rollingUpdate", {});
    fill(strategy.rollingUpdate ?? {}, "maxUnavailable", "25%");
    fill(strategy.rollingUpdate ?? {}, "maxSurge", "25%");
  }
  fill(spec, "revisionHistoryLimit", 10);
  fill(spec, "progressDeadlineSeconds", 600);
  podSpecDefaults(spec.template.spec);
  fill(deployment, "status", {});
}

function serviceDefaults(service: Service): void {
  const { spec } = service;
  fill(spec, "type", "ClusterIP");
  fill(spec, "sessionAffinity", "None");
  for (const port of spec.ports ?? []) {
    fill(port, "protocol", "TCP");
    if (spec.type !== "ExternalName") fill(port, "targetPort", port.port);
  }
  if (spec.type !== "ExternalName") {
    fill(spec, "internalTrafficPolicy", "Cluster");
    fill(spec, "ipFamilies", ["IPv4"]);
    fill(spec, "ipFamilyPolicy", "SingleStack");
  }
  if (spec.type === "NodePort" || spec.type === "LoadBalancer") fill(spec, "externalTrafficPolicy", "Cluster");
  if (spec.type === "LoadBalancer") fill(spec, "allocateLoadBalancerNodePorts", true);
  fill(service, "status", { loadBalancer: {} });
}

function secretDefaults(secret: KubeObject): void {
  fill(secret, "type", "Opaque");
  const plain = secret["stringData"];
  if (!isObject(plain)) return;
  const encoded = Object.entries(plain).map(([key, value]) => [key, Buffer.from(String(value)).toString("base64")]);
  secret["data"] = { ...(secret["data"] as object | undefined), ...Object.fromEntries(encoded) };
  delete secret["stringData"];
}

function webhookDefaults(configuration: KubeObject): void {
  for (const webhook of (configuration["webhooks"] ?? []) as Record<string, unknown>[]) {
    fill(webhook, "failurePolicy", "Fail");
    fill(webhook, "matchPolicy", "Equivalent");
    fill(webhook, "timeoutSeconds", 10);
    fill(webhook, "namespaceSelector", {});
    fill(webhook, "objectSelector", {});
    if (configuration.kind.startsWith("Mutating")) fill(webhook, "reinvocationPolicy", "Never");
    const client = webhook["clientConfig"];
    if (isObject(client) && isObject(client["service"])) fill(client["service"], "port", 443);
    for (const rule of (webhook["rules"] ?? []) as object[]) fill(rule, "scope", "*");
  }
}

/** Fills the defaults of an object's kind in, in place. */
export function applyDefaults(object: KubeObject): void {
  switch (object.kind) {
    case "Pod":
      return podDefaults(object as Pod);
    case "Deployment":
      return deploymentDefaults(object as Deployment);
    case "ReplicaSet":
      fill(object.spec as object, "replicas", 1);
      podSpecDefaults((object.spec as Deployment["spec"]).template.spec);
      return fill(object, "status", { replicas: 0 });
    case "Service":
      return serviceDefaults(object as Service);
    case "Secret":
      return secretDefaults(object);
    case "Namespace":
      object.metadata.labels = { "kubernetes.io/metadata.name": object.metadata.name, ...object.metadata.labels };
      fill(object, "spec", { finalizers: ["kubernetes"] });
      return fill(object, "status", { phase: "Active" });
    case "MutatingWebhookConfiguration":
    case "ValidatingWebhookConfiguration":
      return webhookDefaults(object);
    case "Event":
      fill(object, "firstTimestamp", timestamp());
      return fill(object, "lastTimestamp", object["firstTimestamp"]);
    default:
  }
}

function checkContainers(spec: PodSpec | undefined, at: string): StatusCause[] {
  if (spec === undefined || !Array.isArray(spec.containers) || spec.containers.length === 0)
    return [required(`${at}.containers`)];
  const causes: StatusCause[] = [];
  const lists = [
    ["containers", spec.containers],
    ["initContainers", spec.initContainers ?? []],
  ] as const;
  for (const [list, containers] of lists) {
    containers.forEach((container, i) => {
      if (container.name === undefined || container.name === "") causes.push(required(`${at}.${list}[${i}].name`));
      if (container.image === undefined || container.image === "") causes.push(required(`${at}.${list}[${i}].image`));
      for (const [j, mount] of (container.volumeMounts ?? []).entries()) {
        if (!(spec.volumes ?? []).some((volume) => volume.name === mount.name)) {
          const field = `${at}.${list}[${i}].volumeMounts[${j}].name`;
          causes.push({ reason: "FieldValueNotFound", message: `Not found: "${mount.name}"`, field });
        }
      }
    });
  }
  return causes;
}

function checkTemplate(object: KubeObject): StatusCause[] {
  const spec = object.spec as Partial<Deployment["spec"]> | undefined;
  if (spec?.selector === undefined) return [required("spec.selector")];
  if (spec.template === undefined) return [required("spec.template")];
  const labels = spec.template.metadata?.labels ?? {};
  const mismatch = Object.entries(spec.selector.matchLabels ?? {}).some(([key, value]) => labels[key] !== value);
  const causes = checkContainers(spec.template.spec, "spec.template.spec").filter(
    ({ message }) => !message.startsWith("Not found"),
  );
  if (!mismatch) return causes;
  const message = `Invalid value: ${JSON.stringify(labels)}: \`selector\` does not match template \`labels\``;
  return [...causes, { reason: "FieldValueInvalid", message, field: "spec.template.metadata.labels" }];
}

function checkPorts(spec: Partial<Service["spec"]>): StatusCause[] {
  const needsPorts = spec.type !== "ExternalName" && spec.clusterIP !== "None";
  const ports = spec.ports ?? [];
  if (needsPorts && ports.length === 0) return [required("spec.ports")];
  return ports.flatMap(({ name, port }, i) => {
    const causes = port === undefined ? [required(`spec.ports[${i}].port`)] : checkPort(port, `spec.ports[${i}].port`);
    if (ports.length > 1 && (name ?? "") === "") causes.push(required(`spec.ports[${i}].name`));
    return causes;
  });
}

function checkPort(port: number, field: string): StatusCause[] {
  if (Number.isInteger(port) && port >= 1 && port <= 65_535) return [];
  const message = `Invalid value: ${port}: must be between 1 and 65535, inclusive`;
  return [{ reason: "FieldValueInvalid", message, field }];
}

/** Checks before defaulting: the fields without which the object means nothing. */
export function checkRequired(object: KubeObject): StatusCause[] {
  switch (object.kind) {
    case "Pod":
      return checkContainers(object.spec as PodSpec | undefined, "spec");
    case "Deployment":
    case "ReplicaSet":
      return checkTemplate(object);
    case "Service":
      return isObject(object.spec) ? checkPorts(object.spec) : [required("spec")];
    case "CustomResourceDefinition":
      return checkDefinition(object);
    default:
      return [];
  }
}
