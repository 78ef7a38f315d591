// What no client should send: bodies that are none, wrong types, too much, wrong content types, odd paths and verbs, watches that
// nobody reads. The server answers each with a proper Status, keeps running, and its memory stays bounded.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { connect } from "node:tls";
import { eventually } from "../harness.ts";
import { Target } from "./target.ts";

const target = Target.fromEnv();
const NS = "/api/v1/namespaces/default";
const STATUS_MAX = 504;
const SEED = 20_261_121;
const ROUNDS = 600;

/** Numbers that look random and are the same each time (mulberry32). */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

const random = randomNumbers(SEED);
const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;

function isStatus(text: string): boolean {
  try {
    const body = JSON.parse(text) as { kind?: unknown; status?: unknown; code?: unknown };
    return body.kind === "Status" && body.status === "Failure" && typeof body.code === "number";
  } catch {
    return false;
  }
}

/** Sends it; the answer must be a refusal with a Status, or a success. Never a 500 that names an error of the program. */
async function refused(method: string, path: string, body: string | undefined, type: string): Promise<void> {
  const headers = { accept: "application/json", ...(body === undefined ? {} : { "content-type": type }) };
  const answer = await target.ask(method, path, { headers, ...(body === undefined ? {} : { body }) });
  const what = `${method} ${path} ${type} ${(body ?? "").slice(0, 120)}: ${answer.status} ${answer.text.slice(0, 300)}`;
  assert.ok(answer.status >= 200 && answer.status <= STATUS_MAX, what);
  if (answer.status < 400) return;
  // Outside the API's groups a real server has no Status for what is not there: Go's line, or (OpenAPI) nothing.
  const nothing = answer.status === 404 && (answer.text === "404 page not found\n" || answer.text === "");
  assert.ok(nothing || isStatus(answer.text), what);
  assert.doesNotMatch(
    answer.text,
    /Cannot read properties|is not a function|is not iterable|undefined \(reading|\.ts:\d+/,
    what,
  );
}

async function isWell(): Promise<void> {
  const { status } = await target.ask("GET", "/readyz");
  assert.equal(status, 200, "the server is ready");
}

after(async () => {
  await target.kubectl([
    "delete",
    "configmaps,pods,services,deployments",
    "-n",
    "default",
    "-l",
    "fuzz=yes",
    "--wait=false",
  ]);
});

const PODS = {
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "fuzz", labels: { fuzz: "yes" } },
  spec: {
    containers: [{ name: "a", image: "b", ports: [{ containerPort: 1 }], env: [{ name: "A", value: "b" }] }],
    volumes: [{ name: "v", emptyDir: {} }],
  },
};
const SEEDS: readonly (readonly [string, object])[] = [
  [`${NS}/pods`, PODS],
  [
    `${NS}/configmaps`,
    { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "fuzz", labels: { fuzz: "yes" } }, data: { a: "b" } },
  ],
  [
    `${NS}/services`,
    {
      apiVersion: "v1",
      kind: "Service",
      metadata: { name: "fuzz", labels: { fuzz: "yes" } },
      spec: { ports: [{ port: 80 }] },
    },
  ],
  [
    "/apis/apps/v1/namespaces/default/deployments",
    {
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: { name: "fuzz", labels: { fuzz: "yes" } },
      spec: {
        replicas: 0,
        selector: { matchLabels: { a: "b" } },
        template: { metadata: { labels: { a: "b" } }, spec: PODS.spec },
      },
    },
  ],
  [
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    {
      apiVersion: "apiextensions.k8s.io/v1",
      kind: "CustomResourceDefinition",
      metadata: { name: "fuzzes.fuzz.example" },
      spec: {
        group: "fuzz.example",
        scope: "Namespaced",
        names: { plural: "fuzzes", kind: "Fuzz" },
        versions: [
          {
            name: "v1",
            served: false,
            storage: true,
            schema: { openAPIV3Schema: { type: "object", properties: { a: { type: "string" } } } },
          },
        ],
      },
    },
  ],
];
const ODD = [
  null,
  0,
  -1,
  1.5,
  1e308,
  "",
  "x",
  "\u0000",
  "../..",
  true,
  [],
  {},
  [null],
  [[]],
  { "": {} },
  "a".repeat(300),
  Number.MAX_SAFE_INTEGER,
];

/** A copy with one part of it replaced by something odd. */
function spoiled(value: unknown): unknown {
  if (typeof value !== "object" || value === null || random() < 0.15) return pick(ODD);
  if (Array.isArray(value))
    return value.length === 0
      ? pick(ODD)
      : value.map((item, i) => (i === Math.floor(random() * value.length) ? spoiled(item) : item));
  const chosen = pick(Object.keys(value));
  if (random() < 0.1) return { ...value, [pick(["zzz", "__proto__", "constructor", "", "metadata"])]: pick(ODD) };
  return Object.fromEntries(
    Object.entries(value).map(([key, member]) => [key, key === chosen ? spoiled(member) : member]),
  );
}

test("objects with odd parts are refused by a Status, or taken", async () => {
  for (let i = 0; i < ROUNDS; i++) {
    const [path, seed] = pick(SEEDS);
    await refused("POST", `${path}?dryRun=All`, JSON.stringify(spoiled(seed)), "application/json");
  }
  await isWell();
});

test("patches of every type with odd parts", async () => {
  const created = await target.ask("POST", `${NS}/configmaps`, {
    body: JSON.stringify(SEEDS[1]?.[1]),
    headers: { "content-type": "application/json" },
  });
  assert.ok(created.status === 201 || created.status === 409);
  const types = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
  ];
  for (let i = 0; i < ROUNDS / 2; i++) {
    const type = pick(types);
    const operations = [
      {
        op: pick(["add", "remove", "replace", "move", "copy", "test", "zzz"]),
        path: pick(["/data/a", "/metadata", "", "/", "/data/-", "//", "/metadata/labels/x~1y", 5]),
        from: "/data/a",
        value: pick(ODD),
      },
    ];
    const body = type.startsWith("application/json-patch") ? operations : spoiled(SEEDS[1]?.[1]);
    await refused(
      "PATCH",
      `${NS}/configmaps/fuzz?dryRun=All&fieldManager=fuzz&force=true`.replace(
        "&force=true",
        type.includes("apply") ? "&force=true" : "",
      ),
      JSON.stringify(body),
      type,
    );
  }
  await isWell();
});

test("bodies that are no JSON, no YAML, no protobuf", async () => {
  const texts = [
    "{",
    "[",
    "nul",
    "\u0000\u0001\u0002",
    "{}{}",
    '{"a":',
    "<xml/>",
    "k8s\u0000",
    "k8s\u0000\u000a\u00ff\u00ff\u00ff\u00ff\u000f",
    `k8s\u0000${"\u000a\u0001a".repeat(50)}`,
    "- a\n-b: {",
    "a: *x",
    "&a [*a]",
    "%",
    "[".repeat(20_000),
    `{"a":`.repeat(20_000),
  ];
  const types = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/apply-patch+yaml",
    "text/plain",
    "multipart/form-data",
    "",
    "/",
    "application/json; charset=x",
  ];
  for (const text of texts) for (const type of types) await refused("POST", `${NS}/configmaps`, text, type);
  for (const text of texts) await refused("PATCH", `${NS}/configmaps/fuzz`, text, "application/merge-patch+json");
  for (const text of texts) await refused("DELETE", `${NS}/configmaps/none`, text, "application/json");
  await isWell();
});

test("bodies above 3 MiB are answered 413", async () => {
  const body = JSON.stringify({
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: "big" },
    data: { a: "x".repeat(3 << 20) },
  });
  const answer = await target.ask("POST", `${NS}/configmaps`, {
    body,
    headers: { "content-type": "application/json" },
  });
  assert.equal(answer.status, 413);
  assert.ok(isStatus(answer.text));
});

test("paths and verbs that mean nothing", async () => {
  const paths = [
    "/api/v1/namespaces/default/pods/../../../..",
    "/api//v1",
    "/api/v1/%00",
    "/api/v1/namespaces/%2e%2e/pods",
    "/apis/%ff",
    "/api/v1/namespaces/default/pods/a/b/c/d/e",
    "/api/v1/namespaces/default/pods/x/nosuch",
    `/${"a/".repeat(500)}`,
    "/api/v1/pods?limit=-1",
    "/api/v1/pods?limit=x",
    "/openapi/v3/nosuch",
    "/openapi/v9",
    "/api/v1/namespaces/default/services/x:y:z:w/proxy/",
    "/__proto__",
    "/apis/__proto__/constructor",
  ];
  for (const path of paths)
    for (const method of ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
      await refused(
        method,
        path,
        method === "GET" || method === "OPTIONS" || method === "PROPFIND" ? undefined : "{}",
        "application/json",
      );
  await isWell();
});

const WATCHES = 3_000;
/** All that the watches were sent, each for itself, would be 12 GB. */
const GROWTH_MAX_MB = 1_000;

/** Resident memory of the server, as it says itself. */
async function residentMegabytes(): Promise<number> {
  const { text } = await target.ask("GET", "/metrics");
  const bytes = /^process_resident_memory_bytes (\S+)$/m.exec(text)?.[1];
  assert.ok(bytes !== undefined, "the server tells its memory");
  return Number(bytes) / 2 ** 20;
}

test("thousands of watches that nobody reads do not stop the server, and end with their connections", async () => {
  const before = await residentMegabytes();
  const config = JSON.parse(readFileSync(target.kubeconfig, "utf8"));
  const { user } = config.users[0];
  const url = new URL(config.clusters[0].cluster.server);
  const decode = (text: string): Buffer => Buffer.from(text, "base64");
  const tls = {
    host: url.hostname,
    port: Number(url.port),
    rejectUnauthorized: false,
    cert: decode(user["client-certificate-data"]),
    key: decode(user["client-key-data"]),
  };
  const sockets = await Promise.all(
    Array.from(
      { length: WATCHES },
      () =>
        new Promise<ReturnType<typeof connect>>((resolve, reject) => {
          const socket = connect(tls, () => {
            socket.write(`GET ${NS}/configmaps?watch=true HTTP/1.1\r\nHost: api\r\n\r\n`);
            socket.pause();
            resolve(socket);
          });
          socket.on("error", reject);
        }),
    ),
  );
  try {
    const data = { blob: "x".repeat(100_000) };
    for (let i = 0; i < 40; i++) {
      const body = JSON.stringify({ metadata: { labels: { fuzz: "yes" } }, data: { ...data, i: String(i) } });
      const { status } = await target.ask("PATCH", `${NS}/configmaps/fuzz`, {
        body,
        headers: { "content-type": "application/merge-patch+json" },
      });
      assert.equal(status, 200, `write ${i} goes through while nobody reads`);
    }
    await isWell();
    const grown = (await residentMegabytes()) - before;
    assert.ok(grown < GROWTH_MAX_MB, `${WATCHES} watches of which nobody reads cost ${grown.toFixed(0)} MB`);
  } finally {
    for (const socket of sockets) socket.destroy();
  }
  await eventually("the server is ready", async () => (await target.ask("GET", "/readyz")).status === 200);
});
