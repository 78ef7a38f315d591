// Routes, virtual hosts and route configurations.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  FractionalPercent_DenominatorType,
  type HeaderMatcher,
  HeaderMatcherSchema,
  HTTPFaultSchema,
  PreviousHostsPredicateSchema,
  RouteConfigurationSchema,
  type RouteSchema,
  VirtualHostSchema,
} from "@lateen/envoy-api";
import {
  type ClusterName,
  type EncodedResource,
  type FaultPolicy,
  PASSTHROUGH,
  type RetryPolicy,
  type RouteRule,
  type TextMatch,
} from "@lateen/model";
import { ADS, duration, encode, filter, originMetadata, pack } from "./common.ts";

type RouteInit = MessageInitShape<typeof RouteSchema>;

const MILLION = 10_000;
const DIRECT_RESPONSE_BYTES_MAX = 1_048_576;
const HOST_SELECTION_ATTEMPTS = 5n;
const FAULT_FILTER = "envoy.filters.http.fault";

/** A virtual host before it is encoded. */
export interface VirtualHostDraft {
  readonly name: string;
  readonly domains: readonly string[];
  readonly rules: readonly RouteRule[];
}

function stringMatch(match: Exclude<TextMatch, { kind: "present" }>) {
  if (match.kind === "regex") return { matchPattern: { case: "safeRegex" as const, value: { regex: match.value } } };
  return { matchPattern: { case: match.kind, value: match.value } };
}

function headerMatcher(name: string, match: TextMatch): HeaderMatcher {
  if (match.kind === "present")
    return create(HeaderMatcherSchema, { name, headerMatchSpecifier: { case: "presentMatch", value: true } });
  return create(HeaderMatcherSchema, {
    name,
    headerMatchSpecifier: { case: "stringMatch", value: stringMatch(match) },
  });
}

function pathSpecifier(path: TextMatch | undefined) {
  if (path === undefined || path.kind === "present") return { case: "prefix" as const, value: "/" };
  if (path.kind === "exact") return { case: "path" as const, value: path.value };
  if (path.kind === "prefix") return { case: "prefix" as const, value: path.value };
  return { case: "safeRegex" as const, value: { regex: path.value } };
}

function retryPolicy(policy: RetryPolicy) {
  return {
    retryOn: policy.conditions,
    numRetries: policy.attempts,
    retryHostPredicate: [filter("envoy.retry_host_predicates.previous_hosts", PreviousHostsPredicateSchema, {})],
    hostSelectionRetryMaxAttempts: HOST_SELECTION_ATTEMPTS,
    ...(policy.perTryTimeoutMs === undefined ? {} : { perTryTimeout: duration(policy.perTryTimeoutMs) }),
    ...(policy.statusCodes.length === 0 ? {} : { retriableStatusCodes: [...policy.statusCodes] }),
  };
}

const fraction = (percent: number) => ({
  numerator: Math.round(percent * MILLION),
  denominator: FractionalPercent_DenominatorType.MILLION,
});

function faultConfig(fault: FaultPolicy) {
  const { delay, abort } = fault;
  return pack(HTTPFaultSchema, {
    ...(delay === undefined
      ? {}
      : {
          delay: {
            faultDelaySecifier: { case: "fixedDelay" as const, value: duration(delay.durationMs) },
            percentage: fraction(delay.percent),
          },
        }),
    ...(abort === undefined
      ? {}
      : {
          abort: {
            errorType: { case: "httpStatus" as const, value: abort.status },
            // Without a percentage Envoy aborts nothing; so does Istio.
            ...(abort.percent === undefined ? {} : { percentage: fraction(abort.percent) }),
          },
        }),
  });
}

function clusterSpecifier(rule: RouteRule) {
  const [first] = rule.backends;
  if (rule.backends.length === 1 && first !== undefined)
    return { case: "cluster" as const, value: first.cluster as string };
  return {
    case: "weightedClusters" as const,
    value: { clusters: rule.backends.map((backend) => ({ name: backend.cluster as string, weight: backend.weight })) },
  };
}

function route(rule: RouteRule): RouteInit {
  return {
    name: rule.name,
    match: {
      pathSpecifier: pathSpecifier(rule.match.path),
      ...(rule.match.isGiven ? { caseSensitive: true } : {}),
      headers: rule.match.headers.map(({ name, match }) => headerMatcher(name, match)),
    },
    action: {
      case: "route",
      value: {
        clusterSpecifier: clusterSpecifier(rule),
        timeout: duration(rule.timeoutMs),
        ...(rule.retry === undefined ? {} : { retryPolicy: retryPolicy(rule.retry) }),
        // Istio bounds gRPC's own timeout by the route's; newer Envoys say so here.
        maxStreamDuration: { grpcTimeoutHeaderMax: duration(rule.timeoutMs) },
      },
    },
    decorator: { operation: rule.operation },
    ...originMetadata(rule.origin),
    ...(rule.fault === undefined ? {} : { typedPerFilterConfig: { [FAULT_FILTER]: faultConfig(rule.fault) } }),
  };
}

function virtualHost(draft: VirtualHostDraft) {
  return {
    name: draft.name,
    domains: [...draft.domains],
    routes: draft.rules.map(route),
    includeRequestAttemptCount: true,
  };
}

/** What happens to hosts that are not of the mesh. */
export type Fallback = "allow-any" | "registry-only" | "not-found";

function fallbackRoute(fallback: Fallback): RouteInit {
  if (fallback === "allow-any") {
    return {
      name: "allow_any",
      match: { pathSpecifier: { case: "prefix", value: "/" } },
      action: {
        case: "route",
        value: {
          clusterSpecifier: { case: "cluster", value: PASSTHROUGH },
          timeout: duration(0),
          maxStreamDuration: { grpcTimeoutHeaderMax: duration(0) },
        },
      },
    };
  }
  const status = fallback === "registry-only" ? 502 : 404;
  return {
    name: fallback === "registry-only" ? "block_all" : "not_found",
    match: { pathSpecifier: { case: "prefix", value: "/" } },
    action: { case: "directResponse", value: { status } },
  };
}

/** The virtual host for everything else, or (on demand) for one name that is known not to be of the mesh. */
function fallbackHost(fallback: Fallback, domains: readonly string[]) {
  return {
    name: fallback === "allow-any" ? "allow_any" : fallback === "registry-only" ? "block_all" : "not_found",
    domains: [...domains],
    routes: [fallbackRoute(fallback)],
    includeRequestAttemptCount: true,
  };
}

/** The clusters that rules lead to, without repetition. */
function clustersOf(rules: readonly RouteRule[]): ClusterName[] {
  return [...new Set(rules.flatMap((rule) => rule.backends.map((backend) => backend.cluster)))];
}

/** A route configuration with all its virtual hosts. */
export function emitRouteConfiguration(
  name: string,
  hosts: readonly VirtualHostDraft[],
  fallback: Fallback | undefined,
): EncodedResource {
  const configuration = create(RouteConfigurationSchema, {
    name,
    virtualHosts: [...hosts.map(virtualHost), ...(fallback === undefined ? [] : [fallbackHost(fallback, ["*"])])],
    validateClusters: false,
    maxDirectResponseBodySizeBytes: DIRECT_RESPONSE_BYTES_MAX,
    ignorePortInHostMatching: true,
  });
  return encode(RouteConfigurationSchema, name, configuration, clustersOf(hosts.flatMap((host) => host.rules)));
}

/** A gateway's port without any host: 404 for everything. */
export function emitEmptyRouteConfiguration(name: string, port: number): EncodedResource {
  const configuration = create(RouteConfigurationSchema, {
    name,
    virtualHosts: [{ name: `blackhole:${port}`, domains: ["*"] }],
    validateClusters: false,
    ignorePortInHostMatching: true,
  });
  return encode(RouteConfigurationSchema, name, configuration);
}

/** A route configuration whose virtual hosts come when they are asked for. */
export function emitOnDemandConfiguration(name: string): EncodedResource {
  const configuration = create(RouteConfigurationSchema, {
    name,
    validateClusters: false,
    maxDirectResponseBodySizeBytes: DIRECT_RESPONSE_BYTES_MAX,
    vhds: { configSource: ADS },
  });
  return encode(RouteConfigurationSchema, name, configuration);
}

/** One virtual host that was asked for: resource name `<route configuration>/<authority>`, domain the authority. */
export function emitVirtualHost(
  resourceName: string,
  draft: VirtualHostDraft | undefined,
  fallback: Fallback,
): EncodedResource {
  const authority = resourceName.slice(resourceName.indexOf("/") + 1);
  const host =
    draft === undefined ? fallbackHost(fallback, [authority]) : virtualHost({ ...draft, domains: [authority] });
  const message = create(VirtualHostSchema, { ...host, name: resourceName });
  return encode(VirtualHostSchema, resourceName, message, draft === undefined ? [] : clustersOf(draft.rules));
}
