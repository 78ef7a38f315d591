// The root of the compiler: what the proxies of a scope get. Everything is a query; `snapshot` only collects results.
import { canonicalJson, compareText, jsonEqual } from "@lateen/base";
import {
  BLACK_HOLE,
  type ClusterName,
  type EncodedResource,
  encodedEqual,
  type Host,
  INBOUND_PASSTHROUGH,
  inboundCluster,
  type MeshConfig,
  outboundCluster,
  PASSTHROUGH,
  parseOutboundCluster,
  type Scope,
  type Service,
} from "@lateen/model";
import { type Db, query } from "@lateen/query";
import {
  BLACK_HOLE_CLUSTER,
  emitAssignment,
  emitInboundCluster,
  emitOutboundCluster,
  INBOUND_PASSTHROUGH_CLUSTER,
  PASSTHROUGH_CLUSTER,
} from "./emit/clusters.ts";
import {
  emitHttpOutbound,
  emitTcpOutbound,
  emitVirtualInbound,
  emitVirtualOutbound,
  type InboundPort,
  type ListenerOptions,
} from "./emit/listeners.ts";
import {
  emitOnDemandConfiguration,
  emitRouteConfiguration,
  emitVirtualHost,
  type Fallback,
  type VirtualHostDraft,
} from "./emit/routes.ts";
import { gatewayConfig } from "./gateways.ts";
import { meshConfig } from "./inputs.ts";
import { destinationPolicy, subsetsOf } from "./lower/destinations.ts";
import { meshRoutes, ruleOnlyHosts } from "./lower/routes.ts";
import { peerMode } from "./lower/security.ts";
import { allHosts, endpointsOf, hostsByAddress, identitiesOf, peerModeKey, serviceOf } from "./lower/services.ts";

/** A host that nobody can ask for (RFC 2606). */
const SENTINEL = "sentinel.invalid";

/** The part of a configuration that does not depend on demand. */
export interface BaseConfig {
  readonly clusters: readonly ClusterName[];
  readonly listeners: readonly EncodedResource[];
  readonly routes: readonly EncodedResource[];
}

/** Everything for one proxy: resources by name, per xDS type. */
export interface Snapshot {
  readonly clusters: ReadonlyMap<string, EncodedResource>;
  readonly endpoints: ReadonlyMap<string, EncodedResource>;
  readonly listeners: ReadonlyMap<string, EncodedResource>;
  readonly routes: ReadonlyMap<string, EncodedResource>;
  readonly virtualHosts: ReadonlyMap<string, EncodedResource>;
}

export function scopeKey(scope: Scope): string {
  return canonicalJson(scope);
}

export function parseScope(key: string): Scope {
  return JSON.parse(key) as Scope;
}

function listenerOptions(config: MeshConfig): ListenerOptions {
  return {
    accessLogFile: config.accessLogFile,
    outboundCluster: config.outbound === "allow-any" ? PASSTHROUGH : BLACK_HOLE,
  };
}

/** Which ports there are in the mesh, without their rules: what decides about outbound listeners. */
interface Ports {
  readonly http: readonly number[];
  readonly direct: readonly { readonly host: Host; readonly number: number }[];
}

const outboundPorts = query<Ports>(
  "outboundPorts",
  (db) => {
    const http = new Set<number>();
    const direct: { host: Host; number: number }[] = [];
    if (db.get(ruleOnlyHosts, "").length > 0) http.add(80);
    for (const host of db.get(allHosts, "")) {
      const service = db.get(serviceOf, host);
      for (const port of service?.ports ?? []) {
        if (port.protocol === "http" || port.protocol === "http2") http.add(port.number);
        else if (service?.address !== undefined) direct.push({ host, number: port.number });
      }
    }
    return { http: [...http].sort((a, b) => a - b), direct };
  },
  jsonEqual,
);

const hasHttp = (service: Service | undefined, number: number): boolean =>
  service?.ports.some((port) => port.number === number && (port.protocol === "http" || port.protocol === "http2")) ===
  true;

/** Names that reach a host from a namespace, as Istio orders them. */
function domainsOf(service: Service, clientNamespace: string): string[] {
  const { host, name, namespace, address } = service;
  const short =
    namespace === clientNamespace
      ? [name, `${name}.${namespace}.svc`, `${name}.${namespace}`]
      : [`${name}.${namespace}`, `${name}.${namespace}.svc`];
  return [host, `${host}.`, ...short, ...(address === undefined ? [] : [address])];
}

/** All virtual hosts of an HTTP port for the clients of a namespace: key `namespace|port`. */
const portHosts = query<readonly VirtualHostDraft[]>(
  "portHosts",
  (db, key) => {
    const [namespace = "", number = ""] = key.split("|");
    const port = Number(number);
    const hosts: VirtualHostDraft[] = [];
    for (const host of db.get(allHosts, "")) {
      const service = db.get(serviceOf, host);
      if (service === undefined || !hasHttp(service, port)) continue;
      hosts.push({
        name: `${host}:${port}`,
        domains: domainsOf(service, namespace),
        rules: db.get(meshRoutes, `${port}|${host}`) ?? [],
      });
    }
    for (const host of db.get(ruleOnlyHosts, "")) {
      const rules = db.get(meshRoutes, `${port}|${host}`);
      if (rules !== undefined) hosts.push({ name: `${host}:${port}`, domains: [host], rules });
    }
    return hosts.toSorted((a, b) => compareText(a.name, b.name));
  },
  jsonEqual,
);

const fallbackOf = (config: MeshConfig): Fallback => config.outbound;

const portRoutes = query<EncodedResource>(
  "portRoutes",
  (db, key) => emitRouteConfiguration(key.split("|")[1] ?? "", db.get(portHosts, key), fallbackOf(meshConfig(db))),
  encodedEqual,
);

/** Route configuration of a sniffed port: key `namespace|host:port`. Its one virtual host takes every name. */
const sniffedRoutes = query<EncodedResource>(
  "sniffedRoutes",
  (db, key) => {
    const [, name = ""] = key.split("|");
    const host = name.slice(0, name.lastIndexOf(":"));
    const port = name.slice(name.lastIndexOf(":") + 1);
    const rules = db.get(meshRoutes, `${port}|${host}`) ?? [];
    return emitRouteConfiguration(name, [{ name, domains: ["*"], rules }], undefined);
  },
  encodedEqual,
);

/** The hosts that an authority can mean for a client namespace: short names, full names, addresses; with or without port. */
export const hostOfAuthority = query<Host | undefined>("hostOfAuthority", (db, key) => {
  const [namespace = "", authority = ""] = key.split("|");
  const bare = authority.replace(/:\d+$/, "").replace(/\.$/, "").toLowerCase();
  const { domainSuffix } = meshConfig(db);
  const labels = bare.split(".");
  const candidates = [bare];
  if (labels.length === 1) candidates.push(`${bare}.${namespace}.svc.${domainSuffix}`);
  if (labels.length === 2) candidates.push(`${bare}.svc.${domainSuffix}`);
  if (labels.length === 3 && labels[2] === "svc") candidates.push(`${bare}.${domainSuffix}`);
  const found = candidates.find((host) => db.get(serviceOf, host) !== undefined);
  if (found !== undefined) return found as Host;
  const byAddress = db.get(hostsByAddress, "").get(bare);
  return byAddress ?? db.get(ruleOnlyHosts, "").find((host) => host === bare);
});

/** A virtual host on demand: key `namespace|<route configuration>/<authority>`. */
export const virtualHost = query<EncodedResource>(
  "virtualHost",
  (db, key) => {
    const bar = key.indexOf("|");
    const [namespace, name] = [key.slice(0, bar), key.slice(bar + 1)];
    const port = name.slice(0, name.indexOf("/"));
    const authority = name.slice(name.indexOf("/") + 1);
    if (authority === SENTINEL) return emitVirtualHost(name, undefined, "not-found");
    const host = db.get(hostOfAuthority, `${namespace}|${authority}`);
    const rules = host === undefined ? undefined : db.get(meshRoutes, `${port}|${host}`);
    // A service of the mesh that has no such port: never passed through in plaintext.
    const fallback: Fallback = host === undefined ? fallbackOf(meshConfig(db)) : "not-found";
    return emitVirtualHost(name, rules === undefined ? undefined : { name, domains: [], rules }, fallback);
  },
  encodedEqual,
);

/** An outbound cluster: key `namespace|sidecar or router|cluster name`. */
const outboundClusterResource = query<EncodedResource | undefined>(
  "outboundCluster",
  (db, key) => {
    const [namespace = "", kind = "", ...rest] = key.split("|");
    const name = rest.join("|") as ClusterName;
    const parts = parseOutboundCluster(name);
    if (parts === undefined) return undefined;
    const service = db.get(serviceOf, parts.host);
    const port = service?.ports.find((entry) => entry.number === parts.port);
    const policy = db.get(destinationPolicy, `${namespace}|${parts.host}|${parts.subset}`);
    if (service === undefined || port === undefined || policy === undefined) return undefined;
    const identities = db.get(identitiesOf, `${parts.port}|${parts.host}`);
    return emitOutboundCluster({
      name,
      service,
      port,
      subset: parts.subset,
      policy,
      identities,
      isRouter: kind === "router",
    });
  },
  encodedEqual,
);

/** The endpoints of an outbound cluster: key `namespace|cluster name`. */
const assignmentResource = query<EncodedResource>(
  "assignment",
  (db, key) => {
    const bar = key.indexOf("|");
    const [namespace, name] = [key.slice(0, bar), key.slice(bar + 1) as ClusterName];
    const { port, host, subset } = parseOutboundCluster(name) ?? { port: 0, host: "", subset: "" };
    const wanted = db.get(destinationPolicy, `${namespace}|${host}|${subset}`)?.subsetLabels ?? {};
    const endpoints = db
      .get(endpointsOf, `${port}|${host}`)
      .filter(({ labels }) => Object.entries(wanted).every(([label, value]) => labels[label] === value));
    return emitAssignment(name, endpoints);
  },
  encodedEqual,
);

/** The ports of the application behind a sidecar, by target port: from the Services of its namespace that select it. */
const inboundPorts = query<readonly (InboundPort & { readonly services: readonly Host[] })[]>(
  "inboundPorts",
  (db, key) => {
    const { namespace, labels, podPorts } = parseScope(key);
    const ports = new Map<number, InboundPort & { services: Host[] }>();
    for (const host of db.get(allHosts, "")) {
      const service = db.get(serviceOf, host);
      if (
        service?.namespace !== namespace ||
        service.selector === undefined ||
        Object.keys(service.selector).length === 0
      )
        continue;
      if (!Object.entries(service.selector).every(([label, value]) => labels[label] === value)) continue;
      for (const port of service.ports) {
        const targetPort = typeof port.targetPort === "number" ? port.targetPort : podPorts[port.targetPort];
        if (targetPort === undefined) continue;
        const found = ports.get(targetPort);
        if (found !== undefined) found.services.push(host);
        else
          ports.set(targetPort, {
            targetPort,
            servicePort: port.number,
            host,
            protocol: port.protocol,
            services: [host],
          });
      }
    }
    return [...ports.values()].sort((a, b) => a.targetPort - b.targetPort);
  },
  jsonEqual,
);

const inboundClusterResource = query<EncodedResource | undefined>(
  "inboundCluster",
  (db, key) => {
    const at = key.lastIndexOf("#");
    const port = db.get(inboundPorts, key.slice(0, at)).find((entry) => entry.targetPort === Number(key.slice(at + 1)));
    if (port === undefined) return undefined;
    const services = port.services.map((host) => db.get(serviceOf, host)).filter((service) => service !== undefined);
    return emitInboundCluster(port.targetPort, services, port.protocol);
  },
  encodedEqual,
);

const virtualInbound = query<EncodedResource>(
  "virtualInbound",
  (db, key) => {
    const { namespace, labels } = parseScope(key);
    const config = meshConfig(db);
    return emitVirtualInbound(
      db.get(inboundPorts, key),
      db.get(peerMode, peerModeKey(namespace, labels)),
      config.trustDomain,
      listenerOptions(config),
    );
  },
  encodedEqual,
);

/** Outbound listeners, the same for every sidecar of a kind: key `on-demand` or `all`. */
const outboundListeners = query<readonly EncodedResource[]>(
  "outboundListeners",
  (db, key) => {
    const options = listenerOptions(meshConfig(db));
    const ports = db.get(outboundPorts, "");
    const direct = ports.direct.flatMap(({ host, number }) => {
      const service = db.get(serviceOf, host);
      const port = service?.ports.find((entry) => entry.number === number);
      return service?.address === undefined || port === undefined
        ? []
        : [emitTcpOutbound(host, service.address, port, options)];
    });
    return [
      ...ports.http.map((port) => emitHttpOutbound(port, options, key === "on-demand")),
      ...direct,
      emitVirtualOutbound(options),
    ];
  },
  (a, b) => a.length === b.length && a.every((entry, i) => encodedEqual(entry, b[i])),
);

/** Clusters of everything that clients of a namespace may reach, subsets included. */
const allClusters = query<readonly ClusterName[]>(
  "allClusters",
  (db, namespace) =>
    db.get(allHosts, "").flatMap((host) => {
      const subsets = ["", ...db.get(subsetsOf, `${namespace}|${host}`)];
      return (db.get(serviceOf, host)?.ports ?? []).flatMap((port) =>
        subsets.map((subset) => outboundCluster(port.number, subset, host)),
      );
    }),
  jsonEqual,
);

const baseEqual = (a: BaseConfig, b: BaseConfig): boolean => {
  const same = (x: readonly EncodedResource[], y: readonly EncodedResource[]): boolean =>
    x.length === y.length && x.every((entry, i) => encodedEqual(entry, y[i]));
  return jsonEqual(a.clusters, b.clusters) && same(a.listeners, b.listeners) && same(a.routes, b.routes);
};

function sidecarConfig(db: Db, key: string, scope: Scope): BaseConfig {
  const { namespace, isOnDemand } = scope;
  const ports = db.get(outboundPorts, "");
  const sniffed = ports.direct.filter(
    ({ host, number }) => db.get(serviceOf, host)?.ports.find((port) => port.number === number)?.protocol === "auto",
  );
  const byPort = ports.http.map((port) =>
    isOnDemand ? emitOnDemandConfiguration(String(port)) : db.get(portRoutes, `${namespace}|${port}`),
  );
  const inbound = db.get(inboundPorts, key).map((port) => inboundCluster(port.targetPort));
  return {
    clusters: [
      BLACK_HOLE,
      PASSTHROUGH,
      INBOUND_PASSTHROUGH,
      ...inbound,
      ...(isOnDemand ? [] : db.get(allClusters, namespace)),
    ],
    listeners: [...db.get(outboundListeners, isOnDemand ? "on-demand" : "all"), db.get(virtualInbound, key)],
    routes: [...byPort, ...sniffed.map(({ host, number }) => db.get(sniffedRoutes, `${namespace}|${host}:${number}`))],
  };
}

/** What a scope gets whatever it asks for. */
const baseConfig = query<BaseConfig>(
  "baseConfig",
  (db, key) => {
    const scope = parseScope(key);
    return scope.kind === "router"
      ? gatewayConfig(db, scope, listenerOptions(meshConfig(db)))
      : sidecarConfig(db, key, scope);
  },
  baseEqual,
);

const FIXED: ReadonlyMap<string, EncodedResource> = new Map(
  [BLACK_HOLE_CLUSTER, PASSTHROUGH_CLUSTER, INBOUND_PASSTHROUGH_CLUSTER].map((cluster) => [cluster.name, cluster]),
);

function clusterResource(db: Db, key: string, scope: Scope, name: ClusterName): EncodedResource | undefined {
  const fixed = FIXED.get(name);
  if (fixed !== undefined) return fixed;
  const inbound = /^inbound\|(\d+)\|\|$/.exec(name)?.[1];
  if (inbound !== undefined) return db.get(inboundClusterResource, `${key}#${inbound}`);
  return db.get(outboundClusterResource, `${scope.namespace}|${scope.kind}|${name}`);
}

/** The whole configuration of a proxy of scope `key` that has asked for the virtual hosts in `demand`. */
export function snapshot(db: Db, key: string, demand: Iterable<string>): Snapshot {
  const scope = parseScope(key);
  const base = db.get(baseConfig, key);
  const virtualHosts = new Map<string, EncodedResource>();
  if (scope.isOnDemand) {
    // Envoy waits for a first answer for each route configuration before it takes traffic.
    const ports = base.routes.filter(({ name }) => /^\d+$/.test(name));
    for (const { name } of ports)
      virtualHosts.set(`${name}/${SENTINEL}`, db.get(virtualHost, `${scope.namespace}|${name}/${SENTINEL}`));
  }
  for (const name of demand) virtualHosts.set(name, db.get(virtualHost, `${scope.namespace}|${name}`));
  const names = new Set<ClusterName>(base.clusters);
  for (const resource of [...base.listeners, ...base.routes, ...virtualHosts.values()])
    for (const name of resource.clusters) names.add(name);
  const clusters = new Map<string, EncodedResource>();
  const endpoints = new Map<string, EncodedResource>();
  for (const name of [...names].sort(compareText)) {
    const cluster = clusterResource(db, key, scope, name);
    if (cluster === undefined) continue;
    clusters.set(name, cluster);
    if (parseOutboundCluster(name) !== undefined)
      endpoints.set(name, db.get(assignmentResource, `${scope.namespace}|${name}`));
  }
  const byName = (list: readonly EncodedResource[]): Map<string, EncodedResource> =>
    new Map(list.map((resource) => [resource.name, resource]));
  return { clusters, endpoints, listeners: byName(base.listeners), routes: byName(base.routes), virtualHosts };
}
