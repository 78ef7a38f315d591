// Writes packages/cluster/src/api/facts: what a real Kubernetes says of its built-in kinds. Run it when the Kubernetes version
// that the embedded cluster follows changes:  node test/kubernetes/real/facts.ts
//   kinds.json    every served kind: names, scope, verbs, subresources, table columns (from discovery and empty tables)
//   types.json    every type's fields: JSON name, type, protobuf number, flags (Go reflection, see facts/main.go), and what
//                 OpenAPI adds: defaults, list and map types, strategic merge keys
//   bootstrap.json  the roles, priorities and flow schemas that a server makes by itself
//   openapi.json.gz  the schemas of the OpenAPI v3 documents, for clients that ask for them
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build, RealKubernetes, run } from "./cluster.ts";

type Json = Record<string, any>;

const OUT = join(import.meta.dirname, "../../../packages/cluster/src/api/facts");
const AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io";

/** One entry a line, so that a change can be read. */
function lines(entries: readonly (readonly [string, unknown])[]): string {
  return `{\n${entries.map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(value)}`).join(",\n")}\n}\n`;
}

function shortSchema(schema: Json): Json {
  const extra: Json = {};
  const only = schema["allOf"]?.length === 1 ? { ...schema, ...schema["allOf"][0] } : schema;
  const defaults = only["default"];
  const isEmpty = typeof defaults === "object" && defaults !== null && Object.keys(defaults).length === 0;
  if (defaults !== undefined && !isEmpty && defaults !== "" && defaults !== 0) extra["default"] = defaults;
  for (const [key, short] of [
    ["x-kubernetes-list-type", "list"],
    ["x-kubernetes-list-map-keys", "keys"],
    ["x-kubernetes-map-type", "map"],
    ["x-kubernetes-patch-strategy", "strategy"],
    ["x-kubernetes-patch-merge-key", "mergeKey"],
  ] as const)
    if (only[key] !== undefined) extra[short] = only[key];
  return extra;
}

function typesWith(reflected: Json, schemas: Json): [string, unknown][] {
  return Object.entries(reflected).map(([name, fields]) => {
    const schema: Json = schemas[name] ?? {};
    const isAtomic = schema["x-kubernetes-map-type"] === "atomic";
    const rows = (fields as string[][]).map((field) => {
      const extra = shortSchema(schema["properties"]?.[field[0] ?? ""] ?? {});
      const isRequired = (schema["required"] ?? []).includes(field[0]);
      const row = [field[0], field[1], Number(field[2]), `${field[3]}${isRequired ? "r" : ""}`];
      return Object.keys(extra).length === 0 ? row : [...row, extra];
    });
    return [name, isAtomic ? { atomic: true, fields: rows } : { fields: rows }];
  });
}

const RBAC = "rbac.authorization.k8s.io/v1";
const FLOW = "flowcontrol.apiserver.k8s.io/v1";

/** What a server makes by itself, and clients may rely on. */
const BOOTSTRAP = [
  [`/apis/${RBAC}/clusterroles`, RBAC, "ClusterRole"],
  [`/apis/${RBAC}/clusterrolebindings`, RBAC, "ClusterRoleBinding"],
  [`/apis/${RBAC}/roles`, RBAC, "Role"],
  [`/apis/${RBAC}/rolebindings`, RBAC, "RoleBinding"],
  ["/apis/apiregistration.k8s.io/v1/apiservices", "apiregistration.k8s.io/v1", "APIService"],
  ["/apis/scheduling.k8s.io/v1/priorityclasses", "scheduling.k8s.io/v1", "PriorityClass"],
  [`/apis/${FLOW}/prioritylevelconfigurations`, FLOW, "PriorityLevelConfiguration"],
  [`/apis/${FLOW}/flowschemas`, FLOW, "FlowSchema"],
] as const;

/** The object as a manifest: without what a server adds. */
function plainObject(object: Json, apiVersion: string, kind: string): Json {
  const { name, namespace, labels, annotations } = object["metadata"];
  const { metadata: _metadata, status: _status, ...rest } = object;
  return { apiVersion, kind, metadata: { name, namespace, labels, annotations }, ...rest };
}

async function main(): Promise<void> {
  const program = build("facts", ["build", "./facts"]);
  const real = new RealKubernetes({ isApiOnly: true });
  await real.start();
  try {
    const get = (path: string, accept = "application/json"): Json => {
      const [command, args] = real.inside([
        "curl",
        "-sSf",
        ...real.curlIdentity(),
        "-H",
        `accept: ${accept}`,
        real.url(path),
      ]);
      return JSON.parse(run(command, args)) as Json;
    };
    const kinds: unknown[] = [];
    for (const root of ["/api", "/apis"])
      for (const group of get(root, AGGREGATED)["items"])
        for (const { version, resources } of group.versions)
          for (const resource of resources) {
            const name = group.metadata.name ?? "";
            const path = name === "" ? `/api/${version}` : `/apis/${name}/${version}`;
            const isListed = resource.verbs.includes("list");
            const columns = isListed ? get(`${path}/${resource.resource}`, TABLE)["columnDefinitions"] : [];
            kinds.push({ group: name, version, ...resource, columns });
          }
    const schemas: Json = {};
    for (const { serverRelativeURL } of Object.values<Json>(get("/openapi/v3")["paths"]))
      Object.assign(schemas, get(serverRelativeURL)["components"]?.schemas);
    mkdirSync(OUT, { recursive: true });
    const bootstrap = BOOTSTRAP.flatMap(([path, apiVersion, kind]) =>
      (get(path)["items"] as Json[]).map((object) => plainObject(object, apiVersion, kind)),
    );
    writeFileSync(
      join(OUT, "bootstrap.json"),
      `[\n${bootstrap.map((object) => JSON.stringify(object)).join(",\n")}\n]\n`,
    );
    writeFileSync(join(OUT, "kinds.json"), `[\n${kinds.map((kind) => JSON.stringify(kind)).join(",\n")}\n]\n`);
    writeFileSync(join(OUT, "types.json"), lines(typesWith(JSON.parse(run(program, [])), schemas)));
    const sorted = Object.fromEntries(Object.entries(schemas).toSorted(([a], [b]) => (a < b ? -1 : 1)));
    writeFileSync(join(OUT, "openapi.json.gz"), gzipSync(JSON.stringify(sorted), { level: 9 }));
  } finally {
    await real.stop();
  }
}

await main();
