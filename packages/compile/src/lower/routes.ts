// VirtualServices: which rules decide for a host, and what they say. Sidecars take the first rule set for a host in creation
// order; gateways join all that are bound to them.
import { compareText, jsonEqual } from "@lateen/base";
import {
  type Backend,
  type FaultPolicy,
  type Host,
  outboundCluster,
  type RetryPolicy,
  type RouteMatch,
  type RouteRule,
  type TextMatch,
} from "@lateen/model";
import { type Db, query } from "@lateen/query";
import type {
  Fault,
  HttpMatch,
  HttpRoute,
  Resource,
  Retries,
  StringMatch,
  VirtualServiceSpec,
} from "@lateen/resources";
import { meshConfig, VIRTUAL_SERVICES } from "../inputs.ts";
import { byCreation, hostMatches, originOf, resolveHost } from "./names.ts";
import { serviceOf } from "./services.ts";

type VirtualService = Resource<VirtualServiceSpec>;

/** Istio's default: two more attempts for what cannot have reached the server, on another endpoint. */
const DEFAULT_RETRY: RetryPolicy = {
  attempts: 2,
  conditions: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
  statusCodes: [],
  perTryTimeoutMs: undefined,
};

/** What places a VirtualService: everything but its rules. */
interface Head {
  readonly key: string;
  readonly hosts: readonly Host[];
  readonly gateways: readonly string[];
}

/** Names of gateways as `namespace/name`; `mesh` is itself. */
function gatewayName(reference: string, namespace: string): string {
  if (reference === "mesh") return "mesh";
  const [first = "", second] = reference.split("/");
  if (second === undefined) return `${namespace}/${reference}`;
  return first === "." ? `${namespace}/${second}` : reference;
}

/** All VirtualServices in creation order, without their rules: an edit of a rule stops here. */
const heads = query<readonly Head[]>(
  "heads",
  (db) => {
    const { domainSuffix } = meshConfig(db);
    return db
      .keys(VIRTUAL_SERVICES)
      .map((key) => db.read(VIRTUAL_SERVICES, key))
      .filter((rule) => rule !== undefined)
      .toSorted((a, b) => byCreation(a.meta, b.meta))
      .map(({ meta, spec }) => ({
        key: `${meta.namespace}/${meta.name}`,
        hosts: spec.hosts.map((host) => resolveHost(host, meta.namespace, domainSuffix)),
        gateways: (spec.gateways ?? ["mesh"]).map((gateway) => gatewayName(gateway, meta.namespace)),
      }));
  },
  jsonEqual,
);

/** Key of the VirtualService that decides for a host in the mesh: an exact host before the longest wildcard, the oldest first. */
const meshRuleOf = query<string | undefined>("meshRuleOf", (db, host) => {
  const all = db.get(heads, "").filter((head) => head.gateways.includes("mesh"));
  const exact = all.find((head) => head.hosts.includes(host as Host));
  if (exact !== undefined) return exact.key;
  const wild = all.flatMap((head) =>
    head.hosts.filter((pattern) => hostMatches(pattern, host)).map((pattern) => ({ key: head.key, pattern })),
  );
  return wild.toSorted((a, b) => b.pattern.length - a.pattern.length)[0]?.key;
});

/** Hosts that rules of the mesh name and that are no services: they get virtual hosts on port 80. */
export const ruleOnlyHosts = query<readonly Host[]>(
  "ruleOnlyHosts",
  (db) => {
    const hosts = db
      .get(heads, "")
      .filter((head) => head.gateways.includes("mesh"))
      .flatMap((head) => head.hosts);
    return [...new Set(hosts)]
      .filter((host) => db.get(serviceOf, host) === undefined && !host.startsWith("*"))
      .sort(compareText);
  },
  jsonEqual,
);

/** Bindings of a gateway `namespace/name`: keys of VirtualServices with their hosts, in creation order. */
export const gatewayBindings = query<readonly Head[]>(
  "gatewayBindings",
  (db, gateway) => db.get(heads, "").filter((head) => head.gateways.includes(gateway)),
  jsonEqual,
);

function lowerText(match: StringMatch): TextMatch {
  if (match.exact !== undefined) return { kind: "exact", value: match.exact };
  if (match.prefix !== undefined) return { kind: "prefix", value: match.prefix };
  return match.regex === "*" ? { kind: "present" } : { kind: "regex", value: match.regex ?? "" };
}

function lowerMatch(match: HttpMatch | undefined): RouteMatch {
  const headers = Object.entries(match?.headers ?? {})
    .sort(([a], [b]) => compareText(a, b))
    .map(([name, value]) => ({ name: name.toLowerCase(), match: lowerText(value) }));
  if (match?.method !== undefined) headers.push({ name: ":method", match: lowerText(match.method) });
  return { path: match?.uri === undefined ? undefined : lowerText(match.uri), headers, isGiven: match !== undefined };
}

function lowerRetry(retries: Retries | undefined): RetryPolicy | undefined {
  if (retries === undefined) return DEFAULT_RETRY;
  if (retries.attempts === 0) return undefined;
  const words = (retries.retryOn ?? DEFAULT_RETRY.conditions)
    .split(",")
    .map((word) => word.trim())
    .filter((word) => word !== "");
  const statusCodes = words.filter((word) => /^\d+$/.test(word)).map(Number);
  const conditions = words.filter((word) => !/^\d+$/.test(word));
  if (statusCodes.length > 0 && !conditions.includes("retriable-status-codes"))
    conditions.push("retriable-status-codes");
  return {
    attempts: retries.attempts,
    conditions: conditions.join(","),
    statusCodes,
    perTryTimeoutMs: retries.perTryTimeout,
  };
}

function lowerFault(fault: Fault | undefined): FaultPolicy | undefined {
  if (fault === undefined) return undefined;
  const { delay, abort } = fault;
  return {
    delay: delay === undefined ? undefined : { percent: delay.percentage?.value ?? 0, durationMs: delay.fixedDelay },
    abort: abort === undefined ? undefined : { percent: abort.percentage?.value, status: abort.httpStatus },
  };
}

function lowerBackends(db: Db, route: HttpRoute, namespace: string, listenerPort: number): Backend[] {
  const { domainSuffix } = meshConfig(db);
  const isWeighted = route.route.length > 1;
  return route.route
    .filter((entry) => !isWeighted || (entry.weight ?? 0) > 0)
    .map(({ destination, weight }) => {
      const host = resolveHost(destination.host, namespace, domainSuffix);
      const ports = db.get(serviceOf, host)?.ports ?? [];
      const only = ports.length === 1 ? ports[0]?.number : undefined;
      const port = destination.port?.number ?? only ?? listenerPort;
      return {
        cluster: outboundCluster(port, destination.subset ?? "", host),
        host,
        port,
        weight: isWeighted ? (weight ?? 0) : 1,
      };
    });
}

function pathText(match: RouteMatch): string {
  if (match.path === undefined || match.path.kind === "present") return "/*";
  return match.path.kind === "prefix" ? `${match.path.value}*` : match.path.value;
}

const isCatchAll = (match: RouteMatch): boolean =>
  match.headers.length === 0 &&
  (match.path === undefined ||
    (match.path.kind === "prefix" && match.path.value === "/") ||
    (match.path.kind === "regex" && match.path.value === ".*"));

/** The rules of one VirtualService on a port. What follows a rule that takes everything is left out. */
export function lowerRules(db: Db, rule: VirtualService, port: number): RouteRule[] {
  const rules: RouteRule[] = [];
  for (const [i, route] of (rule.spec.http ?? []).entries()) {
    const matches = route.match === undefined || route.match.length === 0 ? [undefined] : route.match;
    for (const match of matches) {
      const lowered = lowerMatch(match);
      const backends = lowerBackends(db, route, rule.meta.namespace, port);
      const [first] = backends;
      const subject =
        backends.length === 1 && first !== undefined ? `${first.host}:${first.port}` : `${rule.meta.name}:${port}`;
      rules.push({
        name: [route.name, match?.name].filter((part) => part !== undefined).join("."),
        match: lowered,
        backends,
        timeoutMs: route.timeout ?? 0,
        retry: lowerRetry(route.retries),
        fault: lowerFault(route.fault),
        operation: `${subject}${pathText(lowered)}`,
        origin: originOf("VirtualService", rule.meta, `spec.http[${i}]`),
      });
      if (isCatchAll(lowered)) return rules;
    }
  }
  return rules;
}

/** The one route of a service without rules. */
function defaultRule(host: Host, port: number): RouteRule {
  return {
    name: "default",
    match: { path: undefined, headers: [], isGiven: false },
    backends: [{ cluster: outboundCluster(port, "", host), host, port, weight: 1 }],
    timeoutMs: 0,
    retry: DEFAULT_RETRY,
    fault: undefined,
    operation: `${host}:${port}/*`,
    origin: undefined,
  };
}

/** The routes of `port|host` for clients in the mesh. Undefined for a host that is neither a service on the port nor in a rule. */
export const meshRoutes = query<readonly RouteRule[] | undefined>(
  "meshRoutes",
  (db, key) => {
    const [number = "", host = ""] = key.split("|");
    const port = Number(number);
    const service = db.get(serviceOf, host);
    const isServed =
      service?.ports.some((entry) => entry.number === port && entry.protocol !== "tcp" && entry.protocol !== "tls") ===
      true;
    const ruleKey = db.get(meshRuleOf, host);
    const rule = ruleKey === undefined ? undefined : db.read(VIRTUAL_SERVICES, ruleKey);
    if (!isServed && (service !== undefined || rule === undefined || port !== 80)) return undefined;
    if (rule?.spec.http !== undefined) return lowerRules(db, rule, port);
    return isServed ? [defaultRule(host as Host, port)] : undefined;
  },
  jsonEqual,
);
