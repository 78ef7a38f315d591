// /ready, /metrics and /debug on the monitoring port: what the CLI and Prometheus ask.
import { createServer, type Server } from "node:http";
import { compareText } from "@lateen/base";
import type { DiscoveryServer, ProxyStatus, TypeName } from "@lateen/xds";
import { TYPES } from "@lateen/xds";
import type { ListenAddress } from "./options.ts";
import type { World } from "./world.ts";

const SYNC_NAMES: Readonly<Record<TypeName, string>> = {
  cluster: "cluster",
  endpoint: "endpoint",
  listener: "listener",
  route: "route",
  virtualHost: "virtual_host",
};

/** One proxy as `/debug/syncz` of Istio shows it, with what we know beyond. */
function syncEntry(proxy: ProxyStatus): Record<string, unknown> {
  const nonces = proxy.types.flatMap(
    ({ type, sentNonce, ackedNonce }) =>
      [
        [`${SYNC_NAMES[type]}_sent`, sentNonce],
        [`${SYNC_NAMES[type]}_acked`, ackedNonce],
      ] as const,
  );
  const resources = proxy.types.map(({ type, sentNonce, ackedNonce, ackedAtMs, state, count }) => [
    TYPES[type],
    {
      sent: sentNonce,
      acked: ackedNonce,
      state,
      count,
      ageSeconds: Math.max(0, Math.round((performance.now() - ackedAtMs) / 1000)),
    },
  ]);
  return {
    cluster_id: proxy.clusterId,
    proxy: proxy.name,
    istio_version: proxy.version,
    ...Object.fromEntries(nonces.filter(([, nonce]) => nonce !== "")),
    resources: Object.fromEntries(resources),
    rejections: proxy.rejections,
    demand: proxy.demand,
  };
}

function metrics(world: World, discovery: DiscoveryServer): string {
  const proxies = discovery.status();
  const lines = [
    "# TYPE pilot_xds gauge",
    `pilot_xds{version="lateen"} ${proxies.length}`,
    "# TYPE pilot_total_xds_rejects gauge",
    `pilot_total_xds_rejects ${proxies.reduce((sum, proxy) => sum + proxy.rejections.length, 0)}`,
    "# TYPE lateen_query_memos gauge",
    `lateen_query_memos ${world.store.memoCount}`,
    "# TYPE lateen_query_runs_total counter",
    "# TYPE lateen_query_hits_total counter",
    ...[...world.store.allStats()]
      .sort(([a], [b]) => compareText(a, b))
      .flatMap(([name, stats]) => [
        `lateen_query_runs_total{query="${name}"} ${stats.runs}`,
        `lateen_query_hits_total{query="${name}"} ${stats.hits}`,
      ]),
    "# TYPE process_resident_memory_bytes gauge",
    `process_resident_memory_bytes ${process.memoryUsage.rss()}`,
  ];
  return `${lines.join("\n")}\n`;
}

/** Serves the monitoring port. */
export function serveMonitoring(
  at: ListenAddress,
  world: World,
  discovery: DiscoveryServer,
  isReady: () => boolean,
): Promise<Server> {
  const server = createServer((request, response) => {
    const path = (request.url ?? "/").split("?")[0];
    const json = (value: unknown): void => {
      response.writeHead(200, { "content-type": "application/json" });
      response.end(`${JSON.stringify(value)}\n`);
    };
    if (path === "/ready") {
      response.writeHead(isReady() ? 200 : 503).end(isReady() ? "ok" : "not ready");
    } else if (path === "/metrics") {
      response.writeHead(200, { "content-type": "text/plain; version=0.0.4" });
      response.end(metrics(world, discovery));
    } else if (path === "/debug/syncz")
      json(
        discovery
          .status()
          .toSorted((a, b) => compareText(a.name, b.name))
          .map(syncEntry),
      );
    else if (path === "/debug/problems") json([...world.problems.values()].flat());
    else response.writeHead(404).end("not found\n");
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ ...at }, () => resolve(server));
  });
}
