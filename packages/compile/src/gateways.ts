// Gateways: which Gateway objects a gateway pod serves, on which of its ports, and which rules are bound to them.
import { compareText } from "@lateen/base";
import type { RouteRule, Scope, Service } from "@lateen/model";
import { BLACK_HOLE } from "@lateen/model";
import type { Db } from "@lateen/query";
import type { BaseConfig } from "./discovery.ts";
import { emitGatewayListener, type ListenerOptions } from "./emit/listeners.ts";
import { emitEmptyRouteConfiguration, emitRouteConfiguration, type VirtualHostDraft } from "./emit/routes.ts";
import { GATEWAYS, VIRTUAL_SERVICES } from "./inputs.ts";
import { byCreation, hostMatches } from "./lower/names.ts";
import { gatewayBindings, lowerRules } from "./lower/routes.ts";
import { allHosts, serviceOf } from "./lower/services.ts";

interface ServerPort {
  /** As the Gateway says. */
  readonly number: number;
  /** As the pod listens. */
  readonly targetPort: number;
  /** Gateways with the hosts that they serve on this port. */
  readonly servers: readonly { readonly gateway: string; readonly hosts: readonly string[] }[];
}

const selects = (
  selector: Readonly<Record<string, string>> | undefined,
  labels: Readonly<Record<string, string>>,
): boolean => Object.entries(selector ?? {}).every(([name, value]) => labels[name] === value);

/** The Services in front of a gateway pod. */
function servicesInFront(db: Db, scope: Scope): Service[] {
  return db
    .get(allHosts, "")
    .map((host) => db.get(serviceOf, host))
    .filter(
      (service): service is Service =>
        service?.namespace === scope.namespace &&
        service.selector !== undefined &&
        selects(service.selector, scope.labels),
    );
}

/** A Gateway's port number is that of the Service; the pod listens on its target port. */
function targetPort(services: readonly Service[], number: number, podPorts: Readonly<Record<string, number>>): number {
  for (const service of services) {
    const target = service.ports.find((port) => port.number === number)?.targetPort;
    const resolved = typeof target === "string" ? podPorts[target] : target;
    if (resolved !== undefined) return resolved;
  }
  return number;
}

function serverPorts(db: Db, scope: Scope): ServerPort[] {
  const services = servicesInFront(db, scope);
  const gateways = db
    .keys(GATEWAYS)
    .map((key) => db.read(GATEWAYS, key))
    .filter((gateway) => gateway !== undefined && selects(gateway.spec.selector, scope.labels))
    .filter((gateway) => gateway !== undefined)
    .toSorted((a, b) => byCreation(a.meta, b.meta));
  const ports = new Map<
    number,
    { number: number; targetPort: number; servers: { gateway: string; hosts: readonly string[] }[] }
  >();
  for (const { meta, spec } of gateways) {
    for (const { port, hosts } of spec.servers) {
      const target = targetPort(services, port.number, scope.podPorts);
      const entry = ports.get(target) ?? { number: port.number, targetPort: target, servers: [] };
      entry.servers.push({ gateway: `${meta.namespace}/${meta.name}`, hosts });
      ports.set(target, entry);
    }
  }
  return [...ports.values()].sort((a, b) => a.targetPort - b.targetPort);
}

/** The host under which a rule for `ruleHost` appears on a server for `serverHost`: the more specific of the two, if they meet. */
function commonHost(
  serverHost: string,
  ruleHost: string,
  ruleNamespace: string,
  gatewayNamespace: string,
): string | undefined {
  const [scopeOrHost = "", rest] = serverHost.split("/");
  const host = rest ?? scopeOrHost;
  const allowed =
    rest === undefined || scopeOrHost === "*" ? undefined : scopeOrHost === "." ? gatewayNamespace : scopeOrHost;
  if (allowed !== undefined && allowed !== ruleNamespace) return undefined;
  if (hostMatches(host, ruleHost)) return ruleHost;
  return hostMatches(ruleHost, host) ? host : undefined;
}

const isCatchAll = (rule: RouteRule): boolean => rule.match.path === undefined && rule.match.headers.length === 0;

/** The virtual hosts of a gateway's port. Rules of several VirtualServices for a host are joined, catch-alls last. */
function virtualHosts(db: Db, port: ServerPort): VirtualHostDraft[] {
  const byHost = new Map<string, RouteRule[]>();
  for (const { gateway, hosts } of port.servers) {
    const gatewayNamespace = gateway.split("/")[0] ?? "";
    for (const binding of db.get(gatewayBindings, gateway)) {
      const rule = db.read(VIRTUAL_SERVICES, binding.key);
      if (rule === undefined) continue;
      const common = binding.hosts.flatMap((ruleHost) =>
        hosts.map((serverHost) => commonHost(serverHost, ruleHost, rule.meta.namespace, gatewayNamespace)),
      );
      const rules = lowerRules(db, rule, port.number);
      for (const host of new Set(common.filter((entry) => entry !== undefined)))
        byHost.set(host, [...(byHost.get(host) ?? []), ...rules]);
    }
  }
  return [...byHost]
    .sort(([a], [b]) => compareText(a, b))
    .map(([host, rules]) => ({
      name: `${host}:${port.number}`,
      domains: [host],
      rules: rules.toSorted((a, b) => Number(isCatchAll(a)) - Number(isCatchAll(b))),
    }));
}

/** Configuration of a gateway's proxy. */
export function gatewayConfig(db: Db, scope: Scope, options: ListenerOptions): BaseConfig {
  const ports = serverPorts(db, scope);
  return {
    clusters: [BLACK_HOLE],
    listeners: ports.map((port) => emitGatewayListener(port.targetPort, options)),
    routes: ports.map((port) => {
      const name = `http.${port.targetPort}`;
      const hosts = virtualHosts(db, port);
      return hosts.length === 0
        ? emitEmptyRouteConfiguration(name, port.number)
        : emitRouteConfiguration(name, hosts, undefined);
    }),
  };
}
