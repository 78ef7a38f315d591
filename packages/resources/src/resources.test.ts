// Rules as users write them, and each way to be wrong with the path of its field.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  CUSTOM_KINDS,
  crdOf,
  DESTINATION_RULE,
  GATEWAY,
  PEER_AUTHENTICATION,
  parseResource,
  VIRTUAL_SERVICE,
} from "./index.ts";

const object = (spec: unknown): unknown => ({ metadata: { name: "x", namespace: "default" }, spec });
const route = [{ destination: { host: "reviews" } }];

test("a rule as users write it is read", () => {
  const { value, diagnostics } = parseResource(
    VIRTUAL_SERVICE,
    object({
      hosts: ["ratings"],
      http: [
        {
          match: [{ headers: { "end-user": { exact: "jason" } } }],
          fault: { delay: { percentage: { value: 100 }, fixedDelay: "7s" } },
          route,
        },
        {
          route: [
            { destination: { host: "ratings", subset: "v1" }, weight: 90 },
            { destination: { host: "ratings" }, weight: 10 },
          ],
          timeout: "0.5s",
          retries: { attempts: 2, retryOn: "5xx,503" },
        },
      ],
    }),
  );
  assert.deepEqual(diagnostics, []);
  assert.equal(value?.spec.http?.[0]?.fault?.delay?.fixedDelay, 7000);
  assert.equal(value?.spec.http?.[1]?.timeout, 500);
});

const wrong: readonly (readonly [string, unknown, string, string])[] = [
  ["VirtualService", { hosts: [] }, "spec.hosts", "must not be empty"],
  ["VirtualService", { hosts: ["a"], htttp: [] }, "spec.htttp", "is not a known field"],
  [
    "VirtualService",
    { hosts: ["a"], http: [{ route: [{ destination: {} }] }] },
    "spec.http[0].route[0].destination.host",
    "is required",
  ],
  ["VirtualService", { hosts: ["a"], http: [{ route, timeout: "5" }] }, "spec.http[0].timeout", "must be a duration"],
  [
    "VirtualService",
    { hosts: ["a"], http: [{ route, retries: { attempts: 2, retryOn: "5x" } }] },
    "spec.http[0].retries.retryOn",
    '"5x" is not a valid',
  ],
  [
    "VirtualService",
    { hosts: ["a"], http: [{ route, match: [{ uri: { exact: "/", prefix: "/" } }] }] },
    "spec.http[0].match[0].uri",
    "exactly one of",
  ],
  [
    "VirtualService",
    { hosts: ["a"], http: [{ route, match: [{ headers: { h: { exact: 1 } } }] }] },
    'spec.http[0].match[0].headers["h"].exact',
    "must be a string",
  ],
  [
    "VirtualService",
    { hosts: ["a"], http: [{ route, fault: { delay: { percentage: { value: 101 }, fixedDelay: "1s" } } }] },
    "spec.http[0].fault.delay.percentage.value",
    "between 0 and 100",
  ],
  [
    "VirtualService",
    { hosts: ["a"], http: [{ route: [...route, ...route] }] },
    "spec.http[0].route",
    "must not all be 0",
  ],
  [
    "DestinationRule",
    { host: "a", subsets: [{ name: "v1" }, { name: "v1" }] },
    "spec.subsets[1].name",
    "declared twice",
  ],
  [
    "DestinationRule",
    { host: "a", trafficPolicy: { loadBalancer: { simple: "BEST" } } },
    "spec.trafficPolicy.loadBalancer.simple",
    "must be one of",
  ],
  [
    "Gateway",
    { servers: [{ port: { number: 80, name: "h", protocol: "SMTP" }, hosts: ["*"] }] },
    "spec.servers[0].port.protocol",
    "must be one of",
  ],
  [
    "Gateway",
    { servers: [{ port: { number: 0, name: "h", protocol: "HTTP" }, hosts: ["*"] }] },
    "spec.servers[0].port.number",
    "between 1 and 65535",
  ],
  ["PeerAuthentication", { mtls: { mode: "MAYBE" } }, "spec.mtls.mode", "must be one of"],
];

const kinds = {
  VirtualService: VIRTUAL_SERVICE,
  DestinationRule: DESTINATION_RULE,
  Gateway: GATEWAY,
  PeerAuthentication: PEER_AUTHENTICATION,
};

for (const [kind, spec, path, message] of wrong) {
  test(`${kind}: ${path} ${message}`, () => {
    const { value, diagnostics } = parseResource(
      kinds[kind as keyof typeof kinds] as typeof VIRTUAL_SERVICE,
      object(spec),
    );
    assert.equal(value, undefined);
    const found = diagnostics.find((entry) => entry.path === path);
    assert.ok(found?.message.includes(message), JSON.stringify(diagnostics));
  });
}

test("every kind gives a definition with a structural schema", () => {
  for (const kind of CUSTOM_KINDS) {
    const crd = crdOf(kind) as {
      spec: {
        versions: { storage: boolean; schema: { openAPIV3Schema: { properties: { spec: { type: string } } } } }[];
      };
    };
    assert.equal(crd.spec.versions.filter((version) => version.storage).length, 1);
    for (const version of crd.spec.versions)
      assert.equal(version.schema.openAPIV3Schema.properties.spec.type, "object");
  }
});
