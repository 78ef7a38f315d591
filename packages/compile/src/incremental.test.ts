// The compiler is incremental: one edit runs few queries, and whatever the edits, the result is that of a fresh start.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type EndpointSliceObject, parseEndpointSlice, parseResource, VIRTUAL_SERVICE } from "@lateen/resources";
import { type Snapshot, scopeKey, snapshot } from "./discovery.ts";
import {
  DESTINATION_RULES,
  ENDPOINT_SLICES,
  PEER_AUTHENTICATIONS,
  PODS,
  SERVICES,
  VIRTUAL_SERVICES,
} from "./inputs.ts";
import { readCase } from "./render.ts";

const TEXT = readFileSync(join(import.meta.dirname, "../golden/bookinfo-rules/input.yaml"), "utf8");
const SCOPE = scopeKey({
  kind: "sidecar",
  namespace: "default",
  labels: { app: "productpage", version: "v1" },
  podPorts: {},
  isOnDemand: true,
});
const DEMAND = ["9080/reviews:9080", "9080/details:9080"];

function versions(result: Snapshot): string {
  return Object.values(result as unknown as Record<string, Map<string, { version: string }>>)
    .flatMap((map) => [...map].map(([name, { version }]) => `${name}=${version}`))
    .join("\n");
}

const rule = (name: string, subset: string, weight = 0): unknown => {
  const second = weight === 0 ? [] : [{ destination: { host: name, subset: "v1" }, weight }];
  return {
    metadata: { name, namespace: "default" },
    spec: { hosts: [name], http: [{ route: [{ destination: { host: name, subset }, weight: 10 }, ...second] }] },
  };
};

function slice(name: string, address: string, isReady: boolean): EndpointSliceObject | undefined {
  return parseEndpointSlice({
    metadata: { name, namespace: "default", labels: { "kubernetes.io/service-name": "reviews" } },
    addressType: "IPv4",
    endpoints: [
      { addresses: [address], conditions: { ready: isReady }, targetRef: { kind: "Pod", name, namespace: "default" } },
    ],
    ports: [{ name: "http", port: 9080 }],
  });
}

test("one rule edited: the queries of that host run, and none of others", () => {
  const { store } = readCase(TEXT);
  snapshot(store.root, SCOPE, DEMAND);
  store.set(VIRTUAL_SERVICES, "default/reviews", parseResource(VIRTUAL_SERVICE, rule("reviews", "v3")).value);
  store.executed = [];
  snapshot(store.root, SCOPE, DEMAND);
  assert.deepEqual(store.executed, [
    "heads()",
    "meshRoutes(9080|reviews.default.svc.cluster.local)",
    "virtualHost(default|9080/reviews:9080)",
    "destinationPolicy(default|reviews.default.svc.cluster.local|v3)",
    "outboundCluster(default|sidecar|outbound|9080|v3|reviews.default.svc.cluster.local)",
    "assignment(default|outbound|9080|v3|reviews.default.svc.cluster.local)",
  ]);
});

test("one endpoint changed: no route and no listener is computed again", () => {
  const { store } = readCase(TEXT);
  snapshot(store.root, SCOPE, DEMAND);
  store.set(ENDPOINT_SLICES, "default/reviews-v1", slice("reviews-v1", "10.244.0.99", true));
  store.executed = [];
  snapshot(store.root, SCOPE, DEMAND);
  assert.ok(
    !store.executed.some((label) =>
      /^(virtualHost|meshRoutes|portRoutes|outboundListeners|virtualInbound|baseConfig)\(/.test(label),
    ),
    store.executed.join("\n"),
  );
});

test("a thousand random edits: the incremental result is that of a fresh start, byte for byte", (context) => {
  const seed = Number(process.env["LATEEN_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
  context.diagnostic(`seed ${seed} (LATEEN_SEED repeats it)`);
  let state = seed;
  const next = (below: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff;
    return (state >> 8) % below;
  };
  const golden = readCase(TEXT);
  const { store } = golden;
  const tables = [SERVICES, ENDPOINT_SLICES, PODS, VIRTUAL_SERVICES, DESTINATION_RULES, PEER_AUTHENTICATIONS] as const;
  const removed = new Map<string, () => void>();
  const names = ["reviews", "details", "ratings"];
  const subsets = ["v1", "v2", "v3", "missing"];
  for (let i = 0; i < 1000; i++) {
    const dice = next(10);
    if (dice < 5) {
      const name = names[next(names.length)] ?? "";
      store.set(
        VIRTUAL_SERVICES,
        `default/${name}`,
        parseResource(VIRTUAL_SERVICE, rule(name, subsets[next(4)] ?? "", next(3))).value,
      );
    } else if (dice < 7) {
      const name = `reviews-v${1 + next(3)}`;
      store.set(ENDPOINT_SLICES, `default/${name}`, slice(name, `10.244.1.${next(4)}`, next(2) === 0));
    } else {
      const table = tables[next(tables.length)] ?? SERVICES;
      const keys = store.root.keys(table as typeof SERVICES);
      const key = keys[next(Math.max(1, keys.length))];
      const again = [...removed][next(Math.max(1, removed.size))];
      if (dice === 9 && again !== undefined) {
        again[1]();
        removed.delete(again[0]);
      } else if (key !== undefined) {
        const value = store.root.read(table as typeof SERVICES, key);
        removed.set(`${table.name} ${key}`, () => store.set(table as typeof SERVICES, key, value));
        store.set(table as typeof SERVICES, key, undefined);
      }
    }
    if (next(20) === 0) store.collect(10);
    if (next(3) !== 0) continue;
    const fresh = readCase("kind: Case\n").store;
    for (const table of tables)
      for (const key of store.root.keys(table as typeof SERVICES))
        fresh.set(table as typeof SERVICES, key, store.root.read(table as typeof SERVICES, key));
    assert.equal(
      versions(snapshot(store.root, SCOPE, DEMAND)),
      versions(snapshot(fresh.root, SCOPE, DEMAND)),
      `edit ${i} of seed ${seed}`,
    );
  }
});
