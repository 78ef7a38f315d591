// Services and endpoints: from Kubernetes objects to the mesh's own.
import { compareText, jsonEqual } from "@lateen/base";
import { type Endpoint, type Host, type Protocol, type Service, spiffeId } from "@lateen/model";
import { type Db, query } from "@lateen/query";
import type { PodObject, ServiceObject } from "@lateen/resources";
import { ENDPOINT_SLICES, meshConfig, PODS, SERVICES } from "../inputs.ts";
import { peerMode } from "./security.ts";

const WORDS: Readonly<Record<string, Protocol>> = {
  http: "http",
  http_proxy: "http",
  http2: "http2",
  grpc: "http2",
  "grpc-web": "http2",
  https: "tls",
  tls: "tls",
  tcp: "tcp",
  mongo: "tcp",
  redis: "tcp",
  mysql: "tcp",
};
const APP_PROTOCOLS: Readonly<Record<string, Protocol>> = {
  "kubernetes.io/h2c": "http2",
  "kubernetes.io/ws": "http",
  "kubernetes.io/wss": "tls",
};
/** Well-known ports whose servers speak first: sniffing would wait for ever. */
const SERVER_FIRST_PORTS = new Set([25, 53, 3306, 27017]);

/** Istio's protocol selection: appProtocol, else the first word of the port's name. */
function protocolOf(port: { readonly port: number; readonly name?: string; readonly appProtocol?: string }): Protocol {
  const known = APP_PROTOCOLS[port.appProtocol ?? ""];
  if (known !== undefined) return known;
  const name = (port.appProtocol ?? port.name ?? "").toLowerCase();
  const word = name.startsWith("grpc-web") ? "grpc-web" : (name.split("-")[0] ?? "");
  return WORDS[word] ?? (SERVER_FIRST_PORTS.has(port.port) ? "tcp" : "auto");
}

function hostOf(name: string, namespace: string, domainSuffix: string): Host {
  return `${name}.${namespace}.svc.${domainSuffix}` as Host;
}

function lowerService(object: ServiceObject, host: Host): Service {
  const { meta, spec } = object;
  const hasAddress = spec.clusterIP !== undefined && spec.clusterIP !== "None" && spec.clusterIP !== "";
  const ports = (spec.ports ?? []).filter((port) => port.protocol !== "UDP");
  return {
    host,
    name: meta.name,
    namespace: meta.namespace,
    address: hasAddress ? spec.clusterIP : undefined,
    selector: spec.selector,
    ports: ports.map((port) => ({
      number: port.port,
      name: port.name ?? "",
      protocol: protocolOf({
        port: port.port,
        ...(port.name === undefined ? {} : { name: port.name }),
        ...(port.appProtocol === undefined ? {} : { appProtocol: port.appProtocol }),
      }),
      targetPort: port.targetPort ?? port.port,
    })),
  };
}

/** The service of a host, or undefined. ExternalName services have no endpoints of their own and are left out. */
export const serviceOf = query<Service | undefined>(
  "serviceOf",
  (db, host) => {
    const suffix = `.svc.${meshConfig(db).domainSuffix}`;
    if (!host.endsWith(suffix)) return undefined;
    const [name, namespace, ...rest] = host.slice(0, -suffix.length).split(".");
    if (name === undefined || namespace === undefined || rest.length > 0) return undefined;
    const object = db.read(SERVICES, `${namespace}/${name}`);
    return object === undefined || object.spec.type === "ExternalName" ? undefined : lowerService(object, host as Host);
  },
  jsonEqual,
);

/** All hosts of services, sorted. */
export const allHosts = query<readonly Host[]>(
  "allHosts",
  (db) => {
    const { domainSuffix } = meshConfig(db);
    return db.keys(SERVICES).flatMap((key) => {
      const [namespace = "", name = ""] = key.split("/");
      const host = hostOf(name, namespace, domainSuffix);
      return db.get(serviceOf, host) === undefined ? [] : [host];
    });
  },
  jsonEqual,
);

/** Hosts by cluster address. */
export const hostsByAddress = query<ReadonlyMap<string, Host>>("hostsByAddress", (db) => {
  const hosts = db.get(allHosts, "").map((host) => [db.get(serviceOf, host)?.address, host] as const);
  return new Map(hosts.filter((entry): entry is readonly [string, Host] => entry[0] !== undefined));
});

/** Keys of the EndpointSlices of each service, by `namespace/name` of the service. */
const slicesByService = query<ReadonlyMap<string, readonly string[]>>("slicesByService", (db) => {
  const map = new Map<string, string[]>();
  for (const key of db.keys(ENDPOINT_SLICES)) {
    const owner = db.get(serviceOfSlice, key);
    if (owner !== undefined) map.set(owner, [...(map.get(owner) ?? []), key]);
  }
  return map;
});

const serviceOfSlice = query<string | undefined>("serviceOfSlice", (db, key) => {
  const meta = db.read(ENDPOINT_SLICES, key)?.meta;
  const name = meta?.labels["kubernetes.io/service-name"];
  return meta === undefined || name === undefined ? undefined : `${meta.namespace}/${name}`;
});

const slicesOf = query<readonly string[]>(
  "slicesOf",
  (db, service) => db.get(slicesByService, "").get(service) ?? [],
  jsonEqual,
);

const HASH_SUFFIX = /-[a-z0-9]{5,10}$/;

/** `name;namespace;canonical service;canonical revision;cluster`. */
function workloadText(pod: PodObject | undefined, clusterId: string): string {
  if (pod === undefined) return `;;;;${clusterId}`;
  const { labels, name, namespace } = pod.meta;
  const workload = pod.ownerKind === "ReplicaSet" ? pod.ownerName.replace(HASH_SUFFIX, "") : pod.ownerName || name;
  const service =
    labels["service.istio.io/canonical-name"] ?? labels["app.kubernetes.io/name"] ?? labels["app"] ?? workload;
  const revision =
    labels["service.istio.io/canonical-revision"] ??
    labels["app.kubernetes.io/version"] ??
    labels["version"] ??
    "latest";
  return `${workload};${namespace};${service};${revision};${clusterId}`;
}

function lowerEndpoint(
  db: Db,
  at: { address: string; port: number; isHealthy: boolean; podKey: string | undefined },
): Endpoint {
  const pod = at.podKey === undefined ? undefined : db.read(PODS, at.podKey);
  const { trustDomain, clusterId } = meshConfig(db);
  const labels = pod?.meta.labels ?? {};
  const accepts =
    pod !== undefined &&
    labels["security.istio.io/tlsMode"] === "istio" &&
    db.get(peerMode, peerModeKey(pod.meta.namespace, labels)) !== "disable";
  return {
    address: at.address,
    port: at.port,
    isHealthy: at.isHealthy,
    identity:
      pod === undefined
        ? undefined
        : spiffeId(trustDomain, pod.meta.namespace, pod.spec.serviceAccountName ?? "default"),
    isMeshed: accepts,
    labels,
    workload: workloadText(pod, clusterId),
  };
}

/** Key of `peerMode` for a workload. */
export function peerModeKey(namespace: string, labels: Readonly<Record<string, string>>): string {
  return JSON.stringify([namespace, Object.entries(labels).sort(([a], [b]) => compareText(a, b))]);
}

/** The endpoints of `port|host`, sorted by address. Terminating ones are left out; not ready ones are there, unhealthy. */
export const endpointsOf = query<readonly Endpoint[]>(
  "endpointsOf",
  (db, key) => {
    const [number = "", host = ""] = key.split("|");
    const service = db.get(serviceOf, host);
    const port = service?.ports.find((entry) => entry.number === Number(number));
    if (service === undefined || port === undefined) return [];
    const endpoints = new Map<string, Endpoint>();
    for (const sliceKey of db.get(slicesOf, `${service.namespace}/${service.name}`)) {
      const body = db.read(ENDPOINT_SLICES, sliceKey)?.body;
      const target = body?.ports?.find((entry) => (entry.name ?? "") === port.name)?.port;
      if (body === undefined || target === undefined || body.addressType === "FQDN") continue;
      for (const endpoint of body.endpoints ?? []) {
        const { ready = true, terminating = false } = endpoint.conditions ?? {};
        if (!ready && terminating) continue;
        const { targetRef } = endpoint;
        const podKey =
          targetRef?.kind === "Pod" ? `${targetRef.namespace ?? service.namespace}/${targetRef.name}` : undefined;
        for (const address of endpoint.addresses) {
          endpoints.set(`${address}:${target}`, lowerEndpoint(db, { address, port: target, isHealthy: ready, podKey }));
        }
      }
    }
    return [...endpoints].sort(([a], [b]) => compareText(a, b)).map(([, endpoint]) => endpoint);
  },
  jsonEqual,
);

/** The identities that the endpoints of `port|host` may show, sorted. */
export const identitiesOf = query<readonly string[]>(
  "identitiesOf",
  (db, key) =>
    [
      ...new Set(
        db
          .get(endpointsOf, key)
          .flatMap(({ identity, isMeshed }) => (isMeshed && identity !== undefined ? [identity as string] : [])),
      ),
    ].sort(compareText),
  jsonEqual,
);
