// Every golden configuration is accepted by the real Envoy: clusters, listeners and routes in one bootstrap, `--mode validate`.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { envoyPath } from "@lateen/cluster";
import { parse } from "yaml";

const GOLDEN = join(import.meta.dirname, "../../packages/compile/golden");
const HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const HTTP2 = {
  "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    explicit_http_config: { http2_protocol_options: {} },
  },
};

const socketCluster = (name: string): unknown => ({
  name,
  type: "STATIC",
  typed_extension_protocol_options: HTTP2,
  load_assignment: {
    cluster_name: name,
    endpoints: [{ lb_endpoints: [{ endpoint: { address: { pipe: { path: `./${name}` } } } }] }],
  },
});

/** A listener around a route configuration, so that its routes are checked, too. */
function routeListener(config: unknown, i: number): unknown {
  const manager = {
    "@type": HCM,
    stat_prefix: "r",
    route_config: config,
    http_filters: [{ name: "envoy.filters.http.router", typed_config: { "@type": ROUTER } }],
  };
  const address = { socket_address: { address: "127.0.0.1", port_value: 20_000 + i } };
  return { name: `routes-${i}`, address, filter_chains: [{ filters: [{ name: "hcm", typed_config: manager }] }] };
}

for (const name of readdirSync(GOLDEN)) {
  test(`Envoy accepts golden ${name}`, () => {
    const out = join(GOLDEN, name, "out");
    const read = (file: string): any[] =>
      readdirSync(out).includes(file) ? parse(readFileSync(join(out, file), "utf8")) : [];
    const routes = read("routes.yaml").filter((route) => route.vhds === undefined);
    const virtualHosts = read("virtualHosts.yaml");
    const onDemand = virtualHosts.length === 0 ? [] : [{ name: "on-demand", virtualHosts, validateClusters: false }];
    const bootstrap = {
      node: { id: "n", cluster: "c" },
      dynamic_resources: {
        ads_config: {
          api_type: "DELTA_GRPC",
          transport_api_version: "V3",
          grpc_services: [{ envoy_grpc: { cluster_name: "xds-grpc" } }],
        },
      },
      static_resources: {
        clusters: [socketCluster("xds-grpc"), socketCluster("sds-grpc"), ...read("clusters.yaml")],
        listeners: [...read("listeners.yaml"), ...[...routes, ...onDemand].map(routeListener)],
      },
    };
    const folder = mkdtempSync(join(tmpdir(), "lateen-validate-"));
    try {
      writeFileSync(join(folder, "bootstrap.json"), JSON.stringify(bootstrap));
      const run = spawnSync(
        envoyPath(),
        ["--mode", "validate", "-c", join(folder, "bootstrap.json"), "-l", "warning"],
        { cwd: folder, encoding: "utf8" },
      );
      assert.equal(run.status, 0, run.stderr);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}

test("Envoy refuses a configuration that is wrong, so that accepting means something", () => {
  const folder = mkdtempSync(join(tmpdir(), "lateen-validate-"));
  try {
    writeFileSync(
      join(folder, "bootstrap.json"),
      JSON.stringify({ static_resources: { clusters: [{ name: "x", type: "EDS" }] } }),
    );
    const run = spawnSync(envoyPath(), ["--mode", "validate", "-c", join(folder, "bootstrap.json"), "-l", "warning"], {
      cwd: folder,
      encoding: "utf8",
    });
    assert.notEqual(run.status, 0);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
