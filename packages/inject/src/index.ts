// Sidecar injection: what a pod becomes when it is part of the mesh. Names, order, defaults: Istio's injection template.
import { isObject, jsonClone } from "@lateen/base";
import { parse } from "yaml";

export interface InjectionConfig {
  readonly proxyImage: string;
  /** Address of the control plane for proxies, such as `istiod.istio-system.svc:15012`. */
  readonly discoveryAddress: string;
  readonly trustDomain: string;
  readonly clusterDomain: string;
  readonly clusterId: string;
  readonly revision: string;
}

type Members = Record<string, unknown>;

interface PodParts {
  readonly metadata: {
    name?: string;
    generateName?: string;
    namespace?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    ownerReferences?: { kind: string; name: string; apiVersion: string }[];
  };
  readonly spec: {
    containers: Members[];
    initContainers?: Members[];
    volumes?: Members[];
    hostNetwork?: boolean;
    serviceAccountName?: string;
    [field: string]: unknown;
  };
}

const PROXY = "istio-proxy";
const STATUS_ANNOTATION = "sidecar.istio.io/status";
const NEVER = new Set(["kube-system", "kube-public", "kube-node-lease", "local-path-storage"]);
const TOKEN_SECONDS = 43_200;

/** Whether a pod is to be injected, once the webhook's selectors have let it through. Label beats annotation. */
export function wantsInjection(pod: PodParts, namespace: string): boolean {
  if (pod.spec.hostNetwork === true || NEVER.has(namespace)) return false;
  const { labels = {}, annotations = {} } = pod.metadata;
  const choice = labels["sidecar.istio.io/inject"] ?? annotations["sidecar.istio.io/inject"];
  return choice !== "false";
}

const field = (fieldPath: string): Members => ({ valueFrom: { fieldRef: { apiVersion: "v1", fieldPath } } });

/** `web-6d4cf56db6-` of a ReplicaSet's pod is Deployment `web`. */
function workloadOf(pod: PodParts): { kind: string; name: string; api: string } {
  const owner = pod.metadata.ownerReferences?.[0];
  if (owner?.kind === "ReplicaSet") {
    const hash = pod.metadata.labels?.["pod-template-hash"];
    const name =
      hash !== undefined && owner.name.endsWith(`-${hash}`) ? owner.name.slice(0, -hash.length - 1) : owner.name;
    return { kind: "deployments", name, api: "apps/v1" };
  }
  if (owner !== undefined) return { kind: `${owner.kind.toLowerCase()}s`, name: owner.name, api: owner.apiVersion };
  return { kind: "pods", name: pod.metadata.name ?? (pod.metadata.generateName ?? "").replace(/-$/, ""), api: "v1" };
}

function podPorts(pod: PodParts): string {
  const ports = pod.spec.containers
    .filter((container) => container["name"] !== PROXY)
    .flatMap((container) => (Array.isArray(container["ports"]) ? (container["ports"] as unknown[]) : []));
  return JSON.stringify(ports);
}

function initContainer(config: InjectionConfig, annotations: Readonly<Record<string, string>>): Members {
  const get = (name: string, fallback: string): string => annotations[`traffic.sidecar.istio.io/${name}`] ?? fallback;
  const excluded = get("excludeInboundPorts", "");
  return {
    name: "istio-init",
    image: config.proxyImage,
    imagePullPolicy: "IfNotPresent",
    args: [
      "istio-iptables",
      ...["-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT"],
      ...["-i", get("includeOutboundIPRanges", "*"), "-x", get("excludeOutboundIPRanges", "")],
      ...[
        "-b",
        get("includeInboundPorts", "*"),
        "-d",
        excluded === "" ? "15090,15021,15020" : `15090,15021,15020,${excluded}`,
      ],
      ...["-o", get("excludeOutboundPorts", "")],
      "--log_output_level=default:info",
    ],
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { add: ["NET_ADMIN", "NET_RAW"], drop: ["ALL"] },
      privileged: false,
      readOnlyRootFilesystem: false,
      runAsGroup: 0,
      runAsNonRoot: false,
      runAsUser: 0,
    },
    resources: { limits: { cpu: "2", memory: "1Gi" }, requests: { cpu: "100m", memory: "128Mi" } },
  };
}

/** Environment of a proxy container, in Istio's order. */
export function proxyEnv(
  config: InjectionConfig,
  workload: { kind: string; name: string; api: string },
  namespace: string,
  more: { readonly podPorts: string; readonly appContainers: string },
): Members[] {
  return [
    { name: "PILOT_CERT_PROVIDER", value: "istiod" },
    { name: "CA_ADDR", value: config.discoveryAddress },
    { name: "POD_NAME", ...field("metadata.name") },
    { name: "POD_NAMESPACE", ...field("metadata.namespace") },
    { name: "INSTANCE_IP", ...field("status.podIP") },
    { name: "SERVICE_ACCOUNT", ...field("spec.serviceAccountName") },
    { name: "HOST_IP", ...field("status.hostIP") },
    { name: "PROXY_CONFIG", value: `${JSON.stringify({ discoveryAddress: config.discoveryAddress })}\n` },
    { name: "ISTIO_META_POD_PORTS", value: more.podPorts },
    { name: "ISTIO_META_APP_CONTAINERS", value: more.appContainers },
    { name: "ISTIO_META_CLUSTER_ID", value: config.clusterId },
    { name: "ISTIO_META_NODE_NAME", ...field("spec.nodeName") },
    { name: "ISTIO_META_INTERCEPTION_MODE", value: "REDIRECT" },
    { name: "ISTIO_META_WORKLOAD_NAME", value: workload.name },
    {
      name: "ISTIO_META_OWNER",
      value: `kubernetes://apis/${workload.api}/namespaces/${namespace}/${workload.kind}/${workload.name}`,
    },
    { name: "ISTIO_META_MESH_ID", value: config.trustDomain },
    { name: "TRUST_DOMAIN", value: config.trustDomain },
  ];
}

/** Volumes of a proxy: where its sockets, its configuration and its token lie. */
export const PROXY_VOLUMES: readonly Members[] = [
  { name: "workload-socket", emptyDir: {} },
  { name: "istio-envoy", emptyDir: { medium: "Memory" } },
  { name: "istio-data", emptyDir: {} },
  {
    name: "istio-podinfo",
    downwardAPI: {
      items: [
        { path: "labels", fieldRef: { fieldPath: "metadata.labels" } },
        { path: "annotations", fieldRef: { fieldPath: "metadata.annotations" } },
      ],
    },
  },
  {
    name: "istio-token",
    projected: {
      sources: [
        { serviceAccountToken: { audience: "istio-ca", expirationSeconds: TOKEN_SECONDS, path: "istio-token" } },
      ],
    },
  },
  { name: "istiod-ca-cert", configMap: { name: "istio-ca-root-cert" } },
];

export const PROXY_MOUNTS: readonly Members[] = [
  { name: "workload-socket", mountPath: "/var/run/secrets/workload-spiffe-uds" },
  { name: "istiod-ca-cert", mountPath: "/var/run/secrets/istio" },
  { name: "istio-data", mountPath: "/var/lib/istio/data" },
  { name: "istio-envoy", mountPath: "/etc/istio/proxy" },
  { name: "istio-token", mountPath: "/var/run/secrets/tokens" },
  { name: "istio-podinfo", mountPath: "/etc/istio/pod" },
];

const ready = (timing: Members): Members => ({
  httpGet: { path: "/healthz/ready", port: 15021, scheme: "HTTP" },
  timeoutSeconds: 3,
  ...timing,
});

/** Probes of a proxy, answered by Envoy on 15021. */
export const PROXY_PROBES: Members = {
  startupProbe: ready({ periodSeconds: 1, failureThreshold: 600 }),
  readinessProbe: ready({ periodSeconds: 15, failureThreshold: 4 }),
};

/** Environment for the proxy that annotation `proxy.istio.io/config` asks for (`proxyMetadata`). Throws when it is no YAML. */
function proxyMetadata(pod: PodParts): Members[] {
  const config: unknown = parse(pod.metadata.annotations?.["proxy.istio.io/config"] ?? "{}");
  const metadata = isObject(config) && isObject(config["proxyMetadata"]) ? config["proxyMetadata"] : {};
  return Object.entries(metadata).map(([name, value]) => ({ name, value: String(value) }));
}

function proxyContainer(pod: PodParts, config: InjectionConfig, namespace: string): Members {
  const apps = pod.spec.containers.map((container) => String(container["name"])).join(",");
  return {
    name: PROXY,
    image: config.proxyImage,
    imagePullPolicy: "IfNotPresent",
    args: [
      "proxy",
      "sidecar",
      "--domain",
      `$(POD_NAMESPACE).svc.${config.clusterDomain}`,
      "--proxyLogLevel=warning",
      "--proxyComponentLogLevel=misc:error",
      "--log_output_level=default:info",
    ],
    ports: [{ name: "http-envoy-prom", containerPort: 15090, protocol: "TCP" }],
    env: [
      ...proxyEnv(config, workloadOf(pod), namespace, { podPorts: podPorts(pod), appContainers: apps }),
      ...proxyMetadata(pod),
    ],
    ...PROXY_PROBES,
    resources: { limits: { cpu: "2", memory: "1Gi" }, requests: { cpu: "100m", memory: "128Mi" } },
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ["ALL"] },
      privileged: false,
      readOnlyRootFilesystem: true,
      runAsGroup: 1337,
      runAsNonRoot: true,
      runAsUser: 1337,
    },
    volumeMounts: PROXY_MOUNTS,
  };
}

/** The pod with the sidecar; undefined when it is to stay as it is. */
export function injectPod(object: unknown, namespace: string, config: InjectionConfig): PodParts | undefined {
  if (!isObject(object) || !isObject(object["metadata"]) || !isObject(object["spec"])) return undefined;
  const pod = jsonClone(object) as unknown as PodParts;
  if (!wantsInjection(pod, namespace) || pod.spec.containers.some((container) => container["name"] === PROXY))
    return undefined;
  const { metadata, spec } = pod;
  const labels = metadata.labels ?? {};
  const workload = workloadOf(pod);
  const first = String(spec.containers[0]?.["name"] ?? "");
  const status = {
    initContainers: ["istio-init"],
    containers: [PROXY],
    volumes: PROXY_VOLUMES.map((volume) => volume["name"]),
    imagePullSecrets: null,
    revision: config.revision,
  };
  metadata.labels = {
    ...labels,
    "security.istio.io/tlsMode": labels["security.istio.io/tlsMode"] ?? "istio",
    "service.istio.io/canonical-name":
      labels["service.istio.io/canonical-name"] ?? labels["app.kubernetes.io/name"] ?? labels["app"] ?? workload.name,
    "service.istio.io/canonical-revision":
      labels["service.istio.io/canonical-revision"] ??
      labels["app.kubernetes.io/version"] ??
      labels["version"] ??
      "latest",
  };
  metadata.annotations = {
    "kubectl.kubernetes.io/default-container": first,
    "kubectl.kubernetes.io/default-logs-container": first,
    ...metadata.annotations,
    "istio.io/rev": config.revision,
    "prometheus.io/path": "/stats/prometheus",
    "prometheus.io/port": "15020",
    "prometheus.io/scrape": "true",
    [STATUS_ANNOTATION]: JSON.stringify(status),
  };
  const added = new Set(PROXY_VOLUMES.map((volume) => volume["name"]));
  spec.containers = [...spec.containers, proxyContainer(pod, config, namespace)];
  spec.initContainers = [initContainer(config, metadata.annotations), ...(spec.initContainers ?? [])];
  spec.volumes = [...(spec.volumes ?? []).filter((volume) => !added.has(volume["name"])), ...PROXY_VOLUMES];
  return pod;
}
