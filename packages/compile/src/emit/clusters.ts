// Clusters and their endpoints.
import { create } from "@bufbuild/protobuf";
import type { JsonObject } from "@lateen/base";
import {
  type Cluster_DiscoveryType,
  Cluster_LbPolicy,
  ClusterLoadAssignmentSchema,
  ClusterSchema,
  Cluster_DiscoveryType as Discovery,
  HealthStatus,
  HttpProtocolOptionsSchema,
} from "@lateen/envoy-api";
import {
  BLACK_HOLE,
  type ClusterName,
  type DestinationPolicy,
  type EncodedResource,
  type Endpoint,
  INBOUND_PASSTHROUGH,
  inboundCluster,
  PASSTHROUGH,
  type Service,
  type ServicePort,
} from "@lateen/model";
import { ADS, duration, encode, istioMetadata, pack } from "./common.ts";
import { RAW_BUFFER, upstreamTls } from "./tls.ts";

const CONNECT_TIMEOUT_MS = 10_000;
/** Istio's "no limit". */
const UNLIMITED = 4_294_967_295;
/** Connections of pass-through clusters that nobody uses are closed after this. */
const PASSTHROUGH_IDLE_MS = 300_000;
/** Inbound connections show the application this address. */
const INBOUND_SOURCE = "127.0.0.6";
/** Hosts of inbound clusters are never cleaned up: the application is always the same. */
const NEVER_MS = 9_223_372_035_000;

const LB_POLICIES = {
  "least-request": Cluster_LbPolicy.LEAST_REQUEST,
  "round-robin": Cluster_LbPolicy.ROUND_ROBIN,
  random: Cluster_LbPolicy.RANDOM,
  passthrough: Cluster_LbPolicy.CLUSTER_PROVIDED,
} as const;

const HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const USE_DOWNSTREAM = {
  [HTTP_OPTIONS]: pack(HttpProtocolOptionsSchema, {
    upstreamProtocolOptions: {
      case: "useDownstreamProtocolConfig",
      value: { httpProtocolOptions: {}, http2ProtocolOptions: {} },
    },
  }),
};
const PASSTHROUGH_OPTIONS = {
  [HTTP_OPTIONS]: pack(HttpProtocolOptionsSchema, {
    commonHttpProtocolOptions: { idleTimeout: duration(PASSTHROUGH_IDLE_MS) },
    upstreamProtocolOptions: {
      case: "useDownstreamProtocolConfig",
      value: { httpProtocolOptions: {}, http2ProtocolOptions: {} },
    },
  }),
};
const HTTP2_OPTIONS = {
  [HTTP_OPTIONS]: pack(HttpProtocolOptionsSchema, {
    upstreamProtocolOptions: {
      case: "explicitHttpConfig",
      value: { protocolConfig: { case: "http2ProtocolOptions", value: {} } },
    },
  }),
};

function protocolOptions(protocol: ServicePort["protocol"], isRouter: boolean) {
  if (protocol === "http2") return { typedExtensionProtocolOptions: HTTP2_OPTIONS };
  return protocol === "auto" && !isRouter ? { typedExtensionProtocolOptions: USE_DOWNSTREAM } : {};
}

function base(name: string, type: Cluster_DiscoveryType) {
  return {
    name,
    altStatName: `${name};`,
    clusterDiscoveryType: { case: "type" as const, value: type },
    connectTimeout: duration(CONNECT_TIMEOUT_MS),
  };
}

const breakers = () => ({
  thresholds: [
    { maxConnections: UNLIMITED, maxPendingRequests: UNLIMITED, maxRequests: UNLIMITED, maxRetries: UNLIMITED },
  ],
});

function serviceMetadata(service: Service): JsonObject {
  return { host: service.host, name: service.name, namespace: service.namespace };
}

/** The cluster by which clients reach a port of a service, or a subset of it. */
export function emitOutboundCluster(parts: {
  readonly name: ClusterName;
  readonly service: Service;
  readonly port: ServicePort;
  readonly subset: string;
  readonly policy: DestinationPolicy;
  readonly identities: readonly string[];
  readonly isRouter: boolean;
}): EncodedResource {
  const { name, service, port, subset, policy, identities } = parts;
  const isOriginal = service.address === undefined && !parts.isRouter ? true : policy.loadBalancer === "passthrough";
  const metadata = istioMetadata({
    ...(policy.origin === undefined ? {} : { config: policy.origin.resource }),
    services: [serviceMetadata(service)],
    ...(subset === "" ? {} : { subset }),
  });
  const cluster = create(ClusterSchema, {
    ...base(name, isOriginal ? Discovery.ORIGINAL_DST : Discovery.EDS),
    ...(isOriginal ? {} : { edsClusterConfig: { edsConfig: ADS, serviceName: name } }),
    lbPolicy: isOriginal ? Cluster_LbPolicy.CLUSTER_PROVIDED : LB_POLICIES[policy.loadBalancer],
    circuitBreakers: breakers(),
    commonLbConfig: { healthyPanicThreshold: { value: 0 } },
    metadata,
    ...protocolOptions(port.protocol, parts.isRouter),
    ...(isOriginal
      ? {}
      : {
          transportSocketMatches: [
            { name: "tlsMode-istio", match: { tlsMode: "istio" }, transportSocket: upstreamTls(name, identities) },
            { name: "tlsMode-disabled", match: {}, transportSocket: RAW_BUFFER },
          ],
        }),
  });
  return encode(ClusterSchema, name, cluster);
}

/** The endpoints of a cluster. */
export function emitAssignment(name: ClusterName, endpoints: readonly Endpoint[]): EncodedResource {
  const lbEndpoints = endpoints.map((endpoint) => ({
    hostIdentifier: {
      case: "endpoint" as const,
      value: {
        address: {
          address: {
            case: "socketAddress" as const,
            value: { address: endpoint.address, portSpecifier: { case: "portValue" as const, value: endpoint.port } },
          },
        },
      },
    },
    healthStatus: endpoint.isHealthy ? HealthStatus.HEALTHY : HealthStatus.UNHEALTHY,
    metadata: {
      filterMetadata: {
        ...(endpoint.isMeshed ? { "envoy.transport_socket_match": { tlsMode: "istio" } } : {}),
        istio: { workload: endpoint.workload },
      },
    },
    loadBalancingWeight: 1,
  }));
  const assignment = create(ClusterLoadAssignmentSchema, {
    clusterName: name,
    endpoints: lbEndpoints.length === 0 ? [] : [{ locality: {}, lbEndpoints, loadBalancingWeight: lbEndpoints.length }],
  });
  return encode(ClusterLoadAssignmentSchema, name, assignment);
}

const ownAddress = () => ({
  sourceAddress: { address: INBOUND_SOURCE, portSpecifier: { case: "portValue" as const, value: 0 } },
});

/** The application behind the proxy, on one port. */
export function emitInboundCluster(
  targetPort: number,
  services: readonly Service[],
  protocol: ServicePort["protocol"],
): EncodedResource {
  const name = inboundCluster(targetPort);
  const cluster = create(ClusterSchema, {
    ...base(name, Discovery.ORIGINAL_DST),
    lbPolicy: Cluster_LbPolicy.CLUSTER_PROVIDED,
    circuitBreakers: breakers(),
    cleanupInterval: duration(NEVER_MS),
    upstreamBindConfig: ownAddress(),
    commonLbConfig: {},
    metadata: istioMetadata({ services: services.map(serviceMetadata) }),
    ...protocolOptions(protocol, false),
  });
  return encode(ClusterSchema, name, cluster);
}

const passthrough = (name: ClusterName, extra: object) =>
  encode(
    ClusterSchema,
    name,
    create(ClusterSchema, {
      ...base(name, Discovery.ORIGINAL_DST),
      lbPolicy: Cluster_LbPolicy.CLUSTER_PROVIDED,
      circuitBreakers: breakers(),
      typedExtensionProtocolOptions: PASSTHROUGH_OPTIONS,
      ...extra,
    }),
  );

/** To where the application meant to go, untouched. */
export const PASSTHROUGH_CLUSTER = passthrough(PASSTHROUGH, {});
/** To the application on a port that no Service names. */
export const INBOUND_PASSTHROUGH_CLUSTER = passthrough(INBOUND_PASSTHROUGH, { upstreamBindConfig: ownAddress() });
/** To nowhere. */
export const BLACK_HOLE_CLUSTER = encode(
  ClusterSchema,
  BLACK_HOLE,
  create(ClusterSchema, base(BLACK_HOLE, Discovery.STATIC)),
);
