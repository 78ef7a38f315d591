// Envoy's bootstrap: who it is, where its agent listens, and the listeners that are there before any configuration.
// Names and ports: Istio's (15000 admin, 15020 agent, 15021 readiness, 15090 statistics).
import { type ProxyOptions, VERSION } from "./options.ts";

const HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TYPE = "type.googleapis.com";
const HTTP2 = {
  [HTTP_OPTIONS]: { "@type": `${TYPE}/${HTTP_OPTIONS}`, explicit_http_config: { http2_protocol_options: {} } },
};

const socket = (address: string, port: number): unknown => ({ socket_address: { address, port_value: port } });

function cluster(name: string, address: unknown, isHttp2: boolean): unknown {
  return {
    name,
    type: "STATIC",
    connect_timeout: isHttp2 ? "1s" : "0.250s",
    lb_policy: "ROUND_ROBIN",
    load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints: [{ endpoint: { address } }] }] },
    ...(isHttp2 ? { typed_extension_protocol_options: HTTP2 } : {}),
  };
}

function staticListener(port: number, prefix: string, target: string): unknown {
  return {
    address: socket("0.0.0.0", port),
    filter_chains: [
      {
        filters: [
          {
            name: "envoy.filters.network.http_connection_manager",
            typed_config: {
              "@type": `${TYPE}/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`,
              codec_type: "AUTO",
              stat_prefix: target,
              route_config: {
                virtual_hosts: [
                  { name: "backend", domains: ["*"], routes: [{ match: { prefix }, route: { cluster: target } }] },
                ],
              },
              http_filters: [
                {
                  name: "envoy.filters.http.router",
                  typed_config: { "@type": `${TYPE}/envoy.extensions.filters.http.router.v3.Router` },
                },
              ],
            },
          },
        ],
      },
    ],
  };
}

/** The node that the control plane sees; metadata keys are Istio's. */
function node(options: ProxyOptions, isOnDemand: boolean): unknown {
  const app = options.labels["app"] ?? options.metadata["WORKLOAD_NAME"] ?? "istio-proxy";
  return {
    id: `${options.kind}~${options.address}~${options.podName}.${options.namespace}~${options.domain}`,
    cluster: `${app}.${options.namespace}`,
    locality: {},
    metadata: {
      ...options.metadata,
      NAME: options.podName,
      NAMESPACE: options.namespace,
      SERVICE_ACCOUNT: options.account,
      INSTANCE_IPS: options.address,
      ISTIO_VERSION: VERSION,
      LABELS: options.labels,
      ANNOTATIONS: options.annotations,
      ...(isOnDemand ? { LATEEN_ON_DEMAND: "true" } : {}),
    },
  };
}

/** The bootstrap as JSON text. */
export function renderBootstrap(options: ProxyOptions, isOnDemand: boolean): string {
  const ads = { initial_fetch_timeout: "0s", resource_api_version: "V3", ads: {} };
  const bootstrap = {
    node: node(options, isOnDemand),
    layered_runtime: { layers: [{ name: "admin", admin_layer: {} }] },
    admin: { address: socket("127.0.0.1", 15000), profile_path: "/var/lib/istio/data/envoy.prof" },
    dynamic_resources: {
      lds_config: ads,
      cds_config: ads,
      ads_config: {
        api_type: "DELTA_GRPC",
        set_node_on_first_message_only: true,
        transport_api_version: "V3",
        // A lost stream is opened again soon: the agent is on this machine.
        grpc_services: [
          {
            envoy_grpc: {
              cluster_name: "xds-grpc",
              retry_policy: { retry_back_off: { base_interval: "0.1s", max_interval: "1s" } },
            },
          },
        ],
      },
    },
    static_resources: {
      clusters: [
        cluster("prometheus_stats", socket("127.0.0.1", 15000), false),
        cluster("agent", socket("127.0.0.1", 15020), false),
        cluster("sds-grpc", { pipe: { path: "./var/run/secrets/workload-spiffe-uds/socket" } }, true),
        cluster("xds-grpc", { pipe: { path: "./etc/istio/proxy/XDS" } }, true),
      ],
      listeners: [
        staticListener(15021, "/healthz/ready", "agent"),
        staticListener(15090, "/stats/prometheus", "prometheus_stats"),
      ],
    },
  };
  return JSON.stringify(bootstrap, null, 2);
}
