// The API server's parts by themselves: store, registry, bodies, patches, selectors, custom kinds.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { customKinds, pruneCustom, validateCustom } from "./custom.ts";
import { ApiError } from "./errors.ts";
import { builtIn } from "./kinds.ts";
import { type KubeObject, newMeta } from "./objects.ts";
import { jsonPatch, mergePatch, strategicMerge } from "./patch.ts";
import { decodeProtobuf } from "./protobuf.ts";
import { canonicalQuantity } from "./quantity.ts";
import { Registry } from "./registry.ts";
import { selectorOf } from "./selectors.ts";
import { Store } from "./store.ts";

const folder = mkdtempSync(join(tmpdir(), "lateen-api-"));
after(() => rmSync(folder, { recursive: true, force: true }));
let files = 0;
const newStore = (): Store => new Store(join(folder, `${files++}.db`));
const configMap = (name: string, data: Record<string, string> = {}): KubeObject => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: newMeta(name, "default"),
  data,
});

async function newRegistry(): Promise<Registry> {
  const registry = new Registry(newStore());
  await registry.create(builtIn("namespaces"), undefined, {
    apiVersion: "v1",
    kind: "Namespace",
    metadata: newMeta("default"),
  });
  const account = { apiVersion: "v1", kind: "ServiceAccount", metadata: newMeta("default", "default") };
  await registry.create(builtIn("serviceaccounts"), "default", account);
  return registry;
}

test("a write is kept, and versions go on after the store is opened again", async () => {
  const path = join(folder, "again.db");
  const first = new Store(path);
  await first.put("configmaps", configMap("a", { k: "1" }));
  const { version } = first;
  first.close();
  const second = new Store(path);
  assert.equal(
    (second.get("configmaps", "default", "a") as { data?: Record<string, string> } | undefined)?.data?.["k"],
    "1",
  );
  assert.equal(second.version, version);
  await second.put("configmaps", configMap("b"));
  assert.ok(second.version > version);
  second.close();
});

test("watchers see every change once, in order, and only what is durable", async () => {
  const store = newStore();
  const seen: string[] = [];
  store.subscribe("configmaps", ({ type, object }) => seen.push(`${type} ${object.metadata.name}`));
  const writes = [
    store.put("configmaps", configMap("a")),
    store.put("configmaps", configMap("a", { k: "2" })),
    store.put("configmaps", configMap("b")),
    store.remove("configmaps", "default", "a"),
  ];
  assert.deepEqual(seen, []);
  await Promise.all(writes);
  assert.deepEqual(seen, ["ADDED a", "MODIFIED a", "ADDED b", "DELETED a"]);
  assert.deepEqual(
    store.eventsSince("configmaps", store.version - 1)?.map(({ type }) => type),
    ["DELETED"],
  );
});

test("stale updates conflict; updates that change nothing keep the version", async () => {
  const registry = await newRegistry();
  const kind = builtIn("configmaps");
  const made = await registry.create(kind, "default", configMap("a", { k: "1" }));
  const version = made.metadata.resourceVersion;
  const same = await registry.update(kind, "default", "a", (object) => object);
  assert.equal(same.metadata.resourceVersion, version);
  await registry.update(kind, "default", "a", (object) => ({ ...object, data: { k: "2" } }));
  await assert.rejects(
    registry.update(kind, "default", "a", (object) => ({
      ...object,
      metadata: { ...object.metadata, resourceVersion: version ?? "" },
      data: {},
    })),
    (error) => error instanceof ApiError && error.code === 409,
  );
  await assert.rejects(
    registry.create(kind, "default", configMap("a")),
    (error) => error instanceof ApiError && error.message === 'configmaps "a" already exists',
  );
  await assert.rejects(
    registry.create(kind, "nope", configMap("a")),
    (error) => error instanceof ApiError && error.code === 404,
  );
});

test("finalizers keep an object until the last one goes", async () => {
  const registry = await newRegistry();
  const kind = builtIn("configmaps");
  const object = configMap("a");
  object.metadata.finalizers = ["example.com/hold"];
  await registry.create(kind, "default", object);
  const { isGone } = await registry.delete(kind, "default", "a");
  assert.equal(isGone, false);
  assert.ok(registry.get(kind, "default", "a").metadata.deletionTimestamp !== undefined);
  await registry.update(kind, "default", "a", (current) => ({
    ...current,
    metadata: { ...current.metadata, finalizers: [] },
  }));
  assert.equal(registry.find(kind, "default", "a"), undefined);
});

test("Services get addresses of their own and keep them; node ports are not given twice", async () => {
  const registry = await newRegistry();
  const kind = builtIn("services");
  const service = (name: string, nodePort?: number): KubeObject => ({
    apiVersion: "v1",
    kind: "Service",
    metadata: newMeta(name, "default"),
    spec: { type: "NodePort", ports: [{ port: 80, ...(nodePort === undefined ? {} : { nodePort }) }] },
  });
  const first = (await registry.create(kind, "default", service("a"))) as { spec: any } & KubeObject;
  assert.match(first.spec.clusterIP, /^10\.96\./);
  const changed = (await registry.update(kind, "default", "a", (current) => ({
    ...current,
    spec: { ports: [{ port: 80 }], type: "NodePort" },
  }))) as { spec: any } & KubeObject;
  assert.equal(changed.spec.clusterIP, first.spec.clusterIP);
  assert.equal(changed.spec.ports[0].nodePort, first.spec.ports[0].nodePort);
  await assert.rejects(
    registry.create(kind, "default", service("b", first.spec.ports[0].nodePort)),
    /provided port is already allocated/,
  );
});

test("protobuf bodies of typed clients are read", () => {
  const body = Buffer.from("azhzAAoPCgJ2MRIJQ29uZmlnTWFwEhwKEgoCYzISABoAIgAqADIAOABCABIGCgFrEgF2GgAiAA==", "base64");
  const { type } = builtIn("configmaps");
  assert.ok(type.shape === "struct");
  const value = decodeProtobuf(body, () => type);
  assert.deepEqual(value, { kind: "ConfigMap", apiVersion: "v1", metadata: { name: "c2" }, data: { k: "v" } });
  assert.throws(() => decodeProtobuf(body.subarray(0, 30), () => type), ApiError);
  assert.throws(() => decodeProtobuf(Buffer.from("nonsense"), () => undefined), ApiError);
});

test("unknown fields and wrong types of built-in kinds are named as Kubernetes names them", () => {
  const registry = new Registry(newStore());
  const deployment = (replicas: unknown): Record<string, unknown> => ({
    metadata: { name: "a" },
    spec: { replicas, template: { spec: { containers: [{ name: "a", imag: "b" }] } } },
  });
  const unknown: string[] = [];
  const read = registry.decode(builtIn("deployments"), deployment(3), unknown);
  assert.deepEqual(unknown, ["spec.template.spec.containers[0].imag"]);
  assert.doesNotMatch(JSON.stringify(read), /imag/);
  assert.throws(
    () => registry.decode(builtIn("deployments"), deployment("3")),
    /Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec\.spec\.replicas of type int32/,
  );
});

test("quantities are written in one form", () => {
  const forms = {
    "1000m": "1",
    "0.5": "500m",
    "1024Mi": "1Gi",
    "1500Mi": "1500Mi",
    "1e3": "1e3",
    "1000": "1k",
    "0.5Gi": "512Mi",
    "-1.5": "-1500m",
    "0": "0",
  };
  for (const [given, canonical] of Object.entries(forms)) assert.equal(canonicalQuantity(given), canonical, given);
  assert.equal(canonicalQuantity("1x"), undefined);
});

test("patches: merge, strategic merge, JSON patch", () => {
  assert.deepEqual(mergePatch({ a: 1, b: { c: 2, d: 3 } }, { a: null, b: { c: 4 } }), { b: { c: 4, d: 3 } });
  const pod = {
    spec: {
      containers: [
        { name: "a", image: "1" },
        { name: "b", image: "1" },
      ],
    },
  };
  const { type } = builtIn("pods");
  const merged = (spec: object): unknown => (strategicMerge(pod, { spec }, type) as typeof pod).spec.containers;
  const [a, b, c] = ["a", "b", "c"].map((name) => ({ name, image: "1" }));
  const changed = [{ name: "b", image: "2" }, c];
  assert.deepEqual(merged({ containers: changed }), [a, ...changed]);
  assert.deepEqual(merged({ containers: [c] }), [c, a, b], "a new item goes before those that the patch does not name");
  assert.deepEqual(merged({ containers: [c], "$setElementOrder/containers": [{ name: "b" }, { name: "c" }] }), [
    a,
    b,
    c,
  ]);
  assert.deepEqual(merged({ containers: [{ name: "a", $patch: "delete" }] }), [b]);
  assert.deepEqual(jsonPatch({ a: [1, 2] }, [{ op: "add", path: "/a/-", value: 3 }]), { a: [1, 2, 3] });
  assert.throws(
    () => jsonPatch({ a: 1 }, [{ op: "test", path: "/a", value: 2 }]),
    (error) => error instanceof ApiError && error.code === 422,
  );
});

test("selectors", () => {
  const selects = (how: string, text: string, plural: string): boolean =>
    selectorOf(new URLSearchParams({ [how]: text }), builtIn(plural))(object);
  const object = { ...configMap("a"), metadata: { ...newMeta("a", "default", { app: "web", tier: "front" }) } };
  for (const [text, expected] of [
    ["app=web", true],
    ["app in (web,p1),!zz", true],
    ["app notin (web)", false],
    ["tier,app!=db", true],
    ["zz", false],
  ] as const) {
    assert.equal(selects("labelSelector", text, "configmaps"), expected, text);
  }
  assert.throws(() => selects("labelSelector", "a=b=c((", "pods"), ApiError);
  assert.equal(selects("fieldSelector", "metadata.name=a,metadata.namespace!=x", "configmaps"), true);
  assert.throws(() => selects("fieldSelector", "spec.foo=1", "pods"), /field label not supported: spec\.foo/);
});

test("custom objects are checked and pruned by their schema", () => {
  const schema = {
    type: "object",
    properties: {
      spec: {
        type: "object",
        required: ["size"],
        properties: { size: { type: "integer", minimum: 1 }, mode: { type: "string", enum: ["A", "B"] } },
      },
    },
  };
  const [kind] = customKinds({
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: newMeta("w.x"),
    spec: {
      group: "x",
      scope: "Namespaced",
      names: { plural: "w", kind: "W" },
      versions: [{ name: "v1", served: true, storage: true, schema: { openAPIV3Schema: schema } }],
    },
    status: { conditions: [{ type: "Established", status: "True" }] },
  });
  assert.ok(kind !== undefined);
  const object = (spec: unknown): KubeObject => ({
    apiVersion: "x/v1",
    kind: "W",
    metadata: newMeta("a", "default"),
    spec,
  });
  assert.deepEqual(validateCustom(object({ size: 2, mode: "A" }), kind), []);
  assert.deepEqual(
    validateCustom(object({ size: 0, mode: "C" }), kind).map(({ field }) => field),
    ["spec.size", "spec.mode"],
  );
  assert.deepEqual(
    validateCustom(object({}), kind).map(({ field, message }) => [field, message]),
    [["spec.size", "Required value"]],
  );
  const unknown: string[] = [];
  assert.deepEqual(pruneCustom({ ...object({ size: 1, zzz: 1 }) }, kind, unknown)["spec"], { size: 1 });
  assert.deepEqual(unknown, ["spec.zzz"]);
});

test("what cannot mean anything is refused with the field's name", async () => {
  const registry = await newRegistry();
  const causes = async (plural: string, namespace: string | undefined, object: object): Promise<string[]> => {
    const kind = builtIn(plural);
    try {
      await registry.create(kind, namespace, { metadata: newMeta("a", namespace), ...object } as KubeObject);
    } catch (error) {
      assert.ok(error instanceof ApiError && error.code === 422, String(error));
      return (error.details?.causes ?? []).map(({ field }) => field ?? "");
    }
    return [];
  };
  const pod = { apiVersion: "v1", kind: "Pod" };
  assert.deepEqual(await causes("pods", "default", { ...pod, spec: null }), ["spec.containers"]);
  assert.deepEqual(await causes("pods", "default", { ...pod, spec: { containers: [null] } }), [
    "spec.containers[0].name",
    "spec.containers[0].image",
  ]);
  const service = (ports: object[]): object => ({ apiVersion: "v1", kind: "Service", spec: { ports } });
  const portAndTarget = ["spec.ports[0].port", "spec.ports[0].targetPort"];
  assert.deepEqual(await causes("services", "default", service([{}])), portAndTarget);
  assert.deepEqual(await causes("services", "default", service([{ port: 0, name: "a" }, { port: 80 }])), [
    "spec.ports[0].port",
    "spec.ports[0].targetPort",
    "spec.ports[1].name",
  ]);
  const definition = (spec: object): object => ({
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    spec,
  });
  assert.deepEqual(await causes("customresourcedefinitions", undefined, definition({})), [
    "metadata.name",
    "spec.group",
    "spec.scope",
    "spec.versions",
    "spec.names.plural",
    "spec.names.singular",
    "spec.names.kind",
    "spec.names.listKind",
    "status.storedVersions",
  ]);
  const properties = {
    bad: { type: "string", pattern: "(" },
    flags: { type: "string", pattern: "(?i)^a\\-b$" },
  };
  const version = {
    name: "v1",
    served: true,
    storage: true,
    schema: { openAPIV3Schema: { type: "object", properties } },
  };
  const names = { plural: "things", kind: "Thing" };
  const thing = definition({ group: "a.b", scope: "Namespaced", names, versions: [version] });
  const at = "spec.versions[0].schema.openAPIV3Schema.properties";
  assert.deepEqual(await causes("customresourcedefinitions", undefined, thing), [
    "metadata.name",
    `${at}[bad].pattern`,
  ]);
});
