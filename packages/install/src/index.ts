// The objects of an installed mesh, under the names that users and istioctl expect: namespace istio-system, istiod,
// istio-ingressgateway, ConfigMap istio, the definitions of the mesh's kinds.
import { PROXY_MOUNTS, PROXY_PROBES, PROXY_VOLUMES, proxyEnv } from "@lateen/inject";
import { CUSTOM_KINDS, crdOf } from "@lateen/resources";

export interface InstallOptions {
  readonly namespace: string;
  readonly pilotImage: string;
  readonly proxyImage: string;
  readonly trustDomain: string;
  readonly clusterDomain: string;
  /** Contents of the `mesh` document of ConfigMap istio, as YAML. */
  readonly meshConfig: string;
}

export const DEFAULTS: InstallOptions = {
  namespace: "istio-system",
  pilotImage: "docker.io/lateen/pilot:0.1.0",
  proxyImage: "docker.io/lateen/proxyv2:0.1.0",
  trustDomain: "cluster.local",
  clusterDomain: "cluster.local",
  meshConfig: `accessLogFile: /dev/stdout
defaultConfig:
  discoveryAddress: istiod.istio-system.svc:15012
enablePrometheusMerge: true
rootNamespace: istio-system
trustDomain: cluster.local
`,
};

/** An object with the path of its collection in the API. */
export interface Manifest {
  readonly collection: string;
  readonly object: {
    readonly kind: string;
    readonly metadata: { readonly name: string; readonly [key: string]: unknown };
    readonly [key: string]: unknown;
  };
}

type Members = Record<string, unknown>;

/** Paths of the collections used here. */
function collection(kind: string, namespace: string): string {
  const inNamespace = (prefix: string, plural: string): string => `${prefix}/namespaces/${namespace}/${plural}`;
  const paths: Readonly<Record<string, string>> = {
    Namespace: "/api/v1/namespaces",
    CustomResourceDefinition: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    ClusterRole: "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    ClusterRoleBinding: "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    ServiceAccount: inNamespace("/api/v1", "serviceaccounts"),
    ConfigMap: inNamespace("/api/v1", "configmaps"),
    Service: inNamespace("/api/v1", "services"),
    Deployment: inNamespace("/apis/apps/v1", "deployments"),
  };
  const path = paths[kind];
  if (path === undefined) throw new Error(`no collection for kind ${kind}`);
  return path;
}

function manifest(
  options: InstallOptions,
  apiVersion: string,
  kind: string,
  name: string,
  rest: Members,
  labels: Readonly<Record<string, string>> = {},
): Manifest {
  const isCluster = kind === "Namespace" || kind.startsWith("Cluster");
  const metadata = { name, ...(isCluster ? {} : { namespace: options.namespace }), labels };
  return { collection: collection(kind, options.namespace), object: { apiVersion, kind, metadata, ...rest } };
}

const ISTIOD = { app: "istiod", istio: "pilot" };
const GATEWAY = { app: "istio-ingressgateway", istio: "ingressgateway" };
const UNPRIVILEGED = {
  allowPrivilegeEscalation: false,
  capabilities: { drop: ["ALL"] },
  privileged: false,
  runAsGroup: 1337,
  runAsNonRoot: true,
  runAsUser: 1337,
};

/** What the control plane may do: read what it compiles from, publish its root, review tokens, register its webhooks. */
const ISTIOD_RULES = [
  {
    apiGroups: [""],
    resources: ["services", "pods", "namespaces", "endpoints", "nodes", "configmaps"],
    verbs: ["get", "list", "watch"],
  },
  { apiGroups: [""], resources: ["configmaps"], verbs: ["create", "patch", "update"] },
  { apiGroups: [""], resources: ["secrets"], verbs: ["create", "get"] },
  { apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["get", "list", "watch"] },
  { apiGroups: ["networking.istio.io", "security.istio.io"], resources: ["*"], verbs: ["get", "list", "watch"] },
  { apiGroups: ["authentication.k8s.io"], resources: ["tokenreviews"], verbs: ["create"] },
  {
    apiGroups: ["admissionregistration.k8s.io"],
    resources: ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
    verbs: ["create", "get", "patch"],
  },
];

function istiodDeployment(options: InstallOptions): Members {
  const port = (containerPort: number, name: string): Members => ({ containerPort, name, protocol: "TCP" });
  const field = (fieldPath: string): Members => ({ valueFrom: { fieldRef: { fieldPath } } });
  return {
    spec: {
      replicas: 1,
      selector: { matchLabels: ISTIOD },
      template: {
        metadata: { labels: { ...ISTIOD, "sidecar.istio.io/inject": "false" } },
        spec: {
          serviceAccountName: "istiod",
          containers: [
            {
              name: "discovery",
              image: options.pilotImage,
              args: [
                "discovery",
                "--monitoringAddr=:15014",
                "--log_output_level=default:info",
                "--domain",
                options.clusterDomain,
              ],
              ports: [
                port(15010, "grpc-xds"),
                port(15012, "tls-xds"),
                port(15017, "https-webhooks"),
                port(15014, "http-monitoring"),
              ],
              env: [
                { name: "REVISION", value: "default" },
                { name: "POD_NAME", ...field("metadata.name") },
                { name: "POD_NAMESPACE", ...field("metadata.namespace") },
                { name: "PROXY_IMAGE", value: options.proxyImage },
              ],
              readinessProbe: { httpGet: { path: "/ready", port: 15014 }, periodSeconds: 3, timeoutSeconds: 5 },
              securityContext: { ...UNPRIVILEGED, readOnlyRootFilesystem: true },
              resources: { requests: { cpu: "100m", memory: "128Mi" } },
            },
          ],
        },
      },
    },
  };
}

function gatewayDeployment(options: InstallOptions): Members {
  const config = {
    proxyImage: options.proxyImage,
    discoveryAddress: `istiod.${options.namespace}.svc:15012`,
    trustDomain: options.trustDomain,
    clusterDomain: options.clusterDomain,
    clusterId: "Kubernetes",
    revision: "default",
  };
  const workload = { kind: "deployments", name: "istio-ingressgateway", api: "apps/v1" };
  const port = (containerPort: number, name?: string): Members => ({
    containerPort,
    protocol: "TCP",
    ...(name === undefined ? {} : { name }),
  });
  return {
    spec: {
      replicas: 1,
      selector: { matchLabels: GATEWAY },
      template: {
        metadata: {
          labels: {
            ...GATEWAY,
            "service.istio.io/canonical-name": "istio-ingressgateway",
            "service.istio.io/canonical-revision": "latest",
            "sidecar.istio.io/inject": "false",
          },
          annotations: {
            "istio.io/rev": "default",
            "prometheus.io/path": "/stats/prometheus",
            "prometheus.io/port": "15020",
            "prometheus.io/scrape": "true",
          },
        },
        spec: {
          serviceAccountName: "istio-ingressgateway-service-account",
          terminationGracePeriodSeconds: 30,
          containers: [
            {
              name: "istio-proxy",
              image: options.proxyImage,
              args: [
                "proxy",
                "router",
                "--domain",
                `$(POD_NAMESPACE).svc.${options.clusterDomain}`,
                "--proxyLogLevel=warning",
                "--proxyComponentLogLevel=misc:error",
                "--log_output_level=default:info",
              ],
              ports: [port(15021), port(8080), port(8443), port(15090, "http-envoy-prom")],
              env: proxyEnv(config, workload, options.namespace, { podPorts: "[]", appContainers: "" }),
              ...PROXY_PROBES,
              securityContext: { ...UNPRIVILEGED, readOnlyRootFilesystem: true },
              volumeMounts: PROXY_MOUNTS,
              resources: { requests: { cpu: "100m", memory: "128Mi" } },
            },
          ],
          volumes: PROXY_VOLUMES,
        },
      },
    },
  };
}

/** All objects of the mesh, in the order in which they are to be applied. */
export function manifests(
  options: InstallOptions,
): readonly { readonly component: string; readonly objects: readonly Manifest[] }[] {
  const { namespace } = options;
  const account = (name: string): Manifest => manifest(options, "v1", "ServiceAccount", name, {});
  const role = `istiod-${namespace}`;
  const subjects = [{ kind: "ServiceAccount", name: "istiod", namespace }];
  const servicePort = (name: string, port: number, targetPort = port): Members => ({
    name,
    port,
    targetPort,
    protocol: "TCP",
  });
  return [
    {
      component: "core",
      objects: [
        manifest(options, "v1", "Namespace", namespace, {}),
        ...CUSTOM_KINDS.map(
          (kind): Manifest => ({
            collection: collection("CustomResourceDefinition", ""),
            object: crdOf(kind) as Manifest["object"],
          }),
        ),
        account("istiod"),
        manifest(options, "rbac.authorization.k8s.io/v1", "ClusterRole", role, { rules: ISTIOD_RULES }),
        manifest(options, "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", role, {
          roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: role },
          subjects,
        }),
        manifest(options, "v1", "ConfigMap", "istio", {
          data: { mesh: options.meshConfig, meshNetworks: "networks: {}\n" },
        }),
      ],
    },
    {
      component: "istiod",
      objects: [
        manifest(
          options,
          "v1",
          "Service",
          "istiod",
          {
            spec: {
              selector: ISTIOD,
              ports: [
                servicePort("grpc-xds", 15010),
                servicePort("https-dns", 15012),
                servicePort("https-webhook", 443, 15017),
                servicePort("http-monitoring", 15014),
              ],
            },
          },
          ISTIOD,
        ),
        manifest(options, "apps/v1", "Deployment", "istiod", istiodDeployment(options), ISTIOD),
      ],
    },
    {
      component: "ingress gateway",
      objects: [
        account("istio-ingressgateway-service-account"),
        manifest(
          options,
          "v1",
          "Service",
          "istio-ingressgateway",
          {
            spec: {
              type: "LoadBalancer",
              selector: GATEWAY,
              ports: [
                servicePort("status-port", 15021),
                servicePort("http2", 80, 8080),
                servicePort("https", 443, 8443),
              ],
            },
          },
          GATEWAY,
        ),
        manifest(options, "apps/v1", "Deployment", "istio-ingressgateway", gatewayDeployment(options), GATEWAY),
      ],
    },
  ];
}
