// `lateen proxy-config`: what a proxy has, read from Envoy itself, in istioctl's columns.
import { X509Certificate } from "node:crypto";
import { compareText, isObject } from "@lateen/base";
import { renderTable } from "./output.ts";

type Members = Record<string, unknown>;
const members = (value: unknown): Members => (isObject(value) ? value : {});
const items = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
const text = (value: unknown): string => (value === undefined || value === null ? "" : String(value));

/** The parts of a config dump of one type. */
function dumps(dump: unknown, type: string): Members[] {
  return items(members(dump)["configs"])
    .map(members)
    .filter((config) => text(config["@type"]).endsWith(type));
}

export function listenersOf(dump: unknown): Members[] {
  return dumps(dump, "ListenersConfigDump").flatMap((config) => [
    ...items(config["dynamic_listeners"]).map((entry) => members(members(members(entry)["active_state"])["listener"])),
    ...items(config["static_listeners"]).map((entry) => members(members(entry)["listener"])),
  ]);
}

export function routesOf(dump: unknown): Members[] {
  return dumps(dump, "RoutesConfigDump").flatMap((config) => [
    ...items(config["dynamic_route_configs"]).map((entry) => members(members(entry)["route_config"])),
    ...items(config["static_route_configs"]).map((entry) => members(members(entry)["route_config"])),
  ]);
}

export function clustersOf(dump: unknown): Members[] {
  return dumps(dump, "ClustersConfigDump").flatMap((config) => [
    ...items(config["dynamic_active_clusters"]).map((entry) => members(members(entry)["cluster"])),
    ...items(config["static_clusters"]).map((entry) => members(members(entry)["cluster"])),
  ]);
}

/** `networking.istio.io/... /virtual-service/reviews` of namespace default -> `reviews.default`. */
function originName(resource: Members): string {
  const config = text(members(members(members(resource["metadata"])["filter_metadata"])["istio"])["config"]);
  const match = /\/namespaces\/([^/]+)\/[^/]+\/([^/]+)$/.exec(config);
  return match === null ? "" : `${match[2]}.${match[1]}`;
}

function chainMatch(chain: Members): string {
  const match = members(chain["filter_chain_match"]);
  const parts: string[] = [];
  if (text(match["transport_protocol"]) !== "") parts.push(`Trans: ${text(match["transport_protocol"])}`);
  const protocols = items(match["application_protocols"]).map(text);
  if (protocols.length > 0) parts.push(`App: ${protocols.join(",")}`);
  const ranges = items(match["prefix_ranges"]).map(
    (range) => `${text(members(range)["address_prefix"])}/${text(members(range)["prefix_len"])}`,
  );
  if (ranges.length > 0) parts.push(`Addr: ${ranges.join(",")}`);
  else if (match["destination_port"] !== undefined) parts.push(`Addr: *:${text(match["destination_port"])}`);
  return parts.length === 0 ? "ALL" : parts.join("; ");
}

function inlineDestination(routeConfig: Members): string {
  const routes = items(routeConfig["virtual_hosts"]).flatMap((host) => items(members(host)["routes"]).map(members));
  const [first] = routes;
  const cluster = text(members(first?.["route"])["cluster"]);
  if (cluster.startsWith("inbound|") || cluster.startsWith("Inbound"))
    return cluster.startsWith("inbound|") ? `Cluster: ${cluster}` : cluster;
  return `Inline Route: ${routes.map((route) => routeMatch(route)).join(", ")}`;
}

function chainDestination(chain: Members): string {
  for (const filter of items(chain["filters"]).map(members)) {
    const config = members(filter["typed_config"]);
    if (filter["name"] === "envoy.filters.network.http_connection_manager") {
      const rds = members(config["rds"]);
      return rds["route_config_name"] === undefined
        ? inlineDestination(members(config["route_config"]))
        : `Route: ${text(rds["route_config_name"])}`;
    }
    if (filter["name"] === "envoy.filters.network.tcp_proxy") {
      const cluster = text(config["cluster"]);
      if (cluster === "BlackHoleCluster") return "Non-HTTP/Non-TCP";
      return cluster.includes("|") ? `Cluster: ${cluster}` : cluster;
    }
  }
  return "";
}

export function renderListeners(dump: unknown): string {
  const rows = listenersOf(dump).flatMap((listener) => {
    const socket = members(members(listener["address"])["socket_address"]);
    const chains = [...items(listener["filter_chains"]), listener["default_filter_chain"]]
      .filter((chain) => chain !== undefined)
      .map(members);
    return chains.map((chain) => [
      text(socket["address"]),
      text(socket["port_value"]),
      chainMatch(chain),
      chainDestination(chain),
    ]);
  });
  const sorted = rows.toSorted((a, b) => Number(a[1]) - Number(b[1]) || compareText(a[0] ?? "", b[0] ?? ""));
  return renderTable(["ADDRESSES", "PORT", "MATCH", "DESTINATION"], sorted);
}

function routeMatch(route: Members): string {
  const match = members(route["match"]);
  if (match["prefix"] !== undefined) return `${text(match["prefix"])}*`;
  if (match["path"] !== undefined) return text(match["path"]);
  const regex = members(match["safe_regex"])["regex"];
  return regex === undefined ? "/*" : `regex ${text(regex)}`;
}

/** `reviews, reviews.default + 1 more...`: the short names first, as istioctl shows them. */
function domainsText(domains: readonly string[]): string {
  const short = domains
    .filter((domain) => !domain.endsWith(".") && !/^\d+\.\d+\.\d+\.\d+$/.test(domain))
    .toSorted((a, b) => a.length - b.length || compareText(a, b));
  const shown = (short.length === 0 ? domains : short).slice(0, 2).join(", ");
  const rest = domains.length - Math.min(2, (short.length === 0 ? domains : short).length);
  return domains.length <= 2 ? domains.join(", ") : `${shown} + ${rest} more...`;
}

export function renderRoutes(dump: unknown, name: string | undefined): string {
  const rows = routesOf(dump)
    .filter((config) => name === undefined || text(config["name"]) === name)
    .flatMap((config) =>
      items(config["virtual_hosts"])
        .map(members)
        .flatMap((host) =>
          items(host["routes"])
            .map(members)
            .map((route) => [
              text(config["name"]),
              text(host["name"]),
              domainsText(items(host["domains"]).map(text)),
              routeMatch(route),
              originName(route),
            ]),
        ),
    );
  const sorted = rows.toSorted(
    (a, b) => Number(a[0]) - Number(b[0]) || compareText(a[0] ?? "", b[0] ?? "") || compareText(a[1] ?? "", b[1] ?? ""),
  );
  return renderTable(["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"], sorted);
}

export interface ClusterFilter {
  readonly fqdn: string | undefined;
  readonly port: string | undefined;
  readonly subset: string | undefined;
  readonly direction: string | undefined;
}

/** Direction, port, subset and host of a cluster name; others are named by themselves. */
function clusterParts(name: string): { direction: string; port: string; subset: string; fqdn: string } {
  const [direction = "", port = "", subset = "", fqdn = "", ...rest] = name.split("|");
  if (fqdn === "" && direction !== "inbound") return { direction: "-", port: "-", subset: "-", fqdn: name };
  if (rest.length > 0) return { direction: "-", port: "-", subset: "-", fqdn: name };
  return { direction, port, subset: subset === "" ? "-" : subset, fqdn };
}

export function filterClusters(clusters: readonly Members[], filter: ClusterFilter): Members[] {
  return clusters.filter((cluster) => {
    const parts = clusterParts(text(cluster["name"]));
    return (
      (filter.fqdn === undefined || parts.fqdn === filter.fqdn) &&
      (filter.port === undefined || parts.port === filter.port) &&
      (filter.subset === undefined || parts.subset === filter.subset) &&
      (filter.direction === undefined || parts.direction === filter.direction)
    );
  });
}

export function renderClusters(dump: unknown, filter: ClusterFilter): string {
  const rows = filterClusters(clustersOf(dump), filter).map((cluster) => {
    const { fqdn, port, subset, direction } = clusterParts(text(cluster["name"]));
    // Envoy leaves its defaults out of the dump: STATIC is one.
    return [fqdn, port, subset, direction, text(cluster["type"]) || "STATIC", originName(cluster)];
  });
  const sorted = rows.toSorted(
    (a, b) => compareText(a[0] ?? "", b[0] ?? "") || Number(a[1]) - Number(b[1]) || compareText(a[2] ?? "", b[2] ?? ""),
  );
  return renderTable(["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"], sorted);
}

function endpointAddress(host: Members): string {
  const address = members(host["address"]);
  const socket = members(address["socket_address"]);
  if (socket["address"] !== undefined) return `${text(socket["address"])}:${text(socket["port_value"])}`;
  return `unix://${text(members(address["pipe"])["path"])}`;
}

export function renderEndpoints(status: unknown, cluster: string | undefined): string {
  const rows = items(members(status)["cluster_statuses"])
    .map(members)
    .filter((entry) => cluster === undefined || text(entry["name"]) === cluster)
    .flatMap((entry) =>
      items(entry["host_statuses"])
        .map(members)
        .map((host) => {
          const health = members(host["health_status"]);
          return [
            endpointAddress(host),
            text(health["eds_health_status"]) || "HEALTHY",
            health["failed_outlier_check"] === true ? "FAILED" : "OK",
            text(entry["name"]),
          ];
        }),
    );
  const sorted = rows.toSorted((a, b) => compareText(a[0] ?? "", b[0] ?? "") || compareText(a[3] ?? "", b[3] ?? ""));
  return renderTable(["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"], sorted);
}

/** The secrets of a dump; private keys come redacted from Envoy. */
export function secretsOf(dump: unknown): Members[] {
  return dumps(dump, "SecretsConfigDump").flatMap((config) =>
    [...items(config["dynamic_active_secrets"]), ...items(config["dynamic_warming_secrets"])].map(members),
  );
}

export function renderSecrets(dump: unknown, now: number = Date.now()): string {
  const rows = secretsOf(dump).map((entry) => {
    const secret = members(entry["secret"]);
    const chain = members(members(secret["tls_certificate"])["certificate_chain"])["inline_bytes"];
    const root = members(members(secret["validation_context"])["trusted_ca"])["inline_bytes"];
    const data = chain ?? root;
    const type = chain === undefined ? "CA" : "Cert Chain";
    if (typeof data !== "string") return [text(entry["name"]), type, "WARMING", "false", "", "", ""];
    const certificate = new X509Certificate(Buffer.from(data, "base64"));
    const [from, until] = [Date.parse(certificate.validFrom), Date.parse(certificate.validTo)];
    const time = (at: number): string => new Date(at).toISOString().replace(".000", "");
    return [
      text(entry["name"]),
      type,
      "ACTIVE",
      String(from <= now && now < until),
      certificate.serialNumber.toLowerCase(),
      time(until),
      time(from),
    ];
  });
  return renderTable(
    ["RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"],
    rows.toSorted((a, b) => compareText(b[0] ?? "", a[0] ?? "")),
  );
}

/** The bootstrap part of a dump. */
export function bootstrapOf(dump: unknown): unknown {
  return dumps(dump, "BootstrapConfigDump")[0]?.["bootstrap"] ?? {};
}
