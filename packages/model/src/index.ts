// The mesh's own vocabulary: what rules and objects mean, before it becomes Envoy configuration. Knows neither YAML nor
// protobuf. Terms are defined in docs/glossary.md.

declare const brand: unique symbol;
type Brand<T, Name extends string> = T & { readonly [brand]: Name };

/** A full host name, such as `reviews.default.svc.cluster.local`. */
export type Host = Brand<string, "Host">;
/** The name of an outbound or inbound cluster, such as `outbound|9080|v1|reviews.default.svc.cluster.local`. */
export type ClusterName = Brand<string, "ClusterName">;
/** A workload's identity, such as `spiffe://cluster.local/ns/default/sa/default`. */
export type SpiffeId = Brand<string, "SpiffeId">;

/** A resource and a field of it: where something in the output comes from. */
export interface Origin {
  /** Path of the object in the API: `/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews`. */
  readonly resource: string;
  /** The field, such as `spec.http[1]`. */
  readonly path: string;
}

/** What a port speaks. `auto` is found out by looking at the first bytes. */
export type Protocol = "http" | "http2" | "tls" | "tcp" | "auto";

export interface ServicePort {
  readonly number: number;
  readonly name: string;
  readonly protocol: Protocol;
  /** Number, or name of a container port. */
  readonly targetPort: number | string;
}

export interface Service {
  readonly host: Host;
  readonly name: string;
  readonly namespace: string;
  /** The cluster address; undefined for headless services. */
  readonly address: string | undefined;
  readonly selector: Readonly<Record<string, string>> | undefined;
  readonly ports: readonly ServicePort[];
}

export interface Endpoint {
  readonly address: string;
  readonly port: number;
  readonly isHealthy: boolean;
  readonly identity: SpiffeId | undefined;
  /** Whether its proxy accepts mutual TLS. */
  readonly isMeshed: boolean;
  readonly labels: Readonly<Record<string, string>>;
  /** `workload;namespace;canonical service;canonical revision;cluster`, as Istio writes it into endpoint metadata. */
  readonly workload: string;
}

export type TextMatch =
  | { readonly kind: "exact" | "prefix" | "regex"; readonly value: string }
  | { readonly kind: "present" };

export interface RouteMatch {
  readonly path: TextMatch | undefined;
  /** Sorted by name; pseudo-headers (`:method`) last. */
  readonly headers: readonly { readonly name: string; readonly match: TextMatch }[];
  /** Whether the rule had a match block at all: Envoy's case_sensitive is then set, as Istio sets it. */
  readonly isGiven: boolean;
}

export interface RetryPolicy {
  readonly attempts: number;
  readonly conditions: string;
  readonly statusCodes: readonly number[];
  readonly perTryTimeoutMs: number | undefined;
}

export interface FaultPolicy {
  readonly delay: { readonly percent: number; readonly durationMs: number } | undefined;
  readonly abort: { readonly percent: number | undefined; readonly status: number } | undefined;
}

export interface Backend {
  readonly cluster: ClusterName;
  readonly host: Host;
  readonly port: number;
  readonly weight: number;
}

/** One route: which requests, and where to. */
export interface RouteRule {
  readonly name: string;
  readonly match: RouteMatch;
  /** At least one. */
  readonly backends: readonly Backend[];
  /** 0: no limit. */
  readonly timeoutMs: number;
  readonly retry: RetryPolicy | undefined;
  readonly fault: FaultPolicy | undefined;
  /** `host:port path`, for traces. */
  readonly operation: string;
  /** The VirtualService that it comes from; undefined for a Service's default route. */
  readonly origin: Origin | undefined;
}

export type LoadBalancer = "least-request" | "round-robin" | "random" | "passthrough";

/** How a client reaches a host or a subset of it. */
export interface DestinationPolicy {
  readonly loadBalancer: LoadBalancer;
  /** Labels that endpoints must have; undefined without a subset. */
  readonly subsetLabels: Readonly<Record<string, string>> | undefined;
  readonly origin: Origin | undefined;
}

/** What a workload accepts. */
export type MtlsMode = "disable" | "permissive" | "strict";

export interface MeshConfig {
  readonly trustDomain: string;
  readonly rootNamespace: string;
  readonly domainSuffix: string;
  readonly outbound: "allow-any" | "registry-only";
  /** Path of the access log of every proxy; empty: none. */
  readonly accessLogFile: string;
  readonly clusterId: string;
}

/** What makes the configuration of two proxies differ. Proxies of equal scope share everything. */
export interface Scope {
  readonly kind: "sidecar" | "router";
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Container ports by name, for Services that name their target. */
  readonly podPorts: Readonly<Record<string, number>>;
  /** Whether virtual hosts are sent when they are asked for. */
  readonly isOnDemand: boolean;
}

/** One xDS resource, encoded once for all proxies that get it. */
export interface EncodedResource {
  readonly name: string;
  readonly typeUrl: string;
  /** Content hash: equal bytes, equal version. */
  readonly version: string;
  readonly body: Uint8Array;
  /** Clusters that must be warm before this is sent. */
  readonly clusters: readonly ClusterName[];
}

export function encodedEqual(a: EncodedResource | undefined, b: EncodedResource | undefined): boolean {
  return a === b || (a !== undefined && b !== undefined && a.name === b.name && a.version === b.version);
}

export function outboundCluster(port: number, subset: string, host: Host): ClusterName {
  return `outbound|${port}|${subset}|${host}` as ClusterName;
}

/** The parts of an outbound cluster name; undefined for any other. */
export function parseOutboundCluster(name: string): { port: number; subset: string; host: Host } | undefined {
  const [direction, port, subset, host, ...rest] = name.split("|");
  if (direction !== "outbound" || host === undefined || subset === undefined || rest.length > 0) return undefined;
  return { port: Number(port), subset, host: host as Host };
}

export function inboundCluster(targetPort: number): ClusterName {
  return `inbound|${targetPort}||` as ClusterName;
}

export function spiffeId(trustDomain: string, namespace: string, account: string): SpiffeId {
  return `spiffe://${trustDomain}/ns/${namespace}/sa/${account}` as SpiffeId;
}

export const PASSTHROUGH = "PassthroughCluster" as ClusterName;
export const BLACK_HOLE = "BlackHoleCluster" as ClusterName;
export const INBOUND_PASSTHROUGH = "InboundPassthroughCluster" as ClusterName;
