// OpenAPI documents: v3, one for each group version, and v2 in one piece. Built-in schemas are those of a real server
// (facts/openapi.json.gz), unpacked when first asked for; custom ones come from their definitions.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { contentHash, isObject } from "@lateen/base";
import { isCustom } from "./custom.ts";
import { SERVER_VERSION } from "./discovery.ts";
import { hasSubresource, isStored, type Kind, type KindTable } from "./kinds.ts";
import { listKind } from "./lists.ts";

type Members = Record<string, any>;

let builtInSchemas: Members | undefined;

function schemas(): Members {
  builtInSchemas ??= JSON.parse(
    gunzipSync(readFileSync(join(import.meta.dirname, "facts/openapi.json.gz"))).toString("utf8"),
  ) as Members;
  return builtInSchemas;
}

const REF = "#/components/schemas/";
const META = "io.k8s.apimachinery.pkg.apis.meta.v1";

const pathOf = (kind: Kind): string =>
  kind.group === "" ? `api/${kind.version}` : `apis/${kind.group}/${kind.version}`;
const gvkOf = (kind: Kind): Members => ({ group: kind.group, version: kind.version, kind: kind.kind });

/** Name of a kind's schema. Custom ones are named after their reversed group. */
function schemaName(kind: Kind): string {
  if (!isCustom(kind)) return kind.type.shape === "struct" ? kind.type.name : kind.kind;
  return `${kind.group.split(".").toReversed().join(".")}.${kind.version}.${kind.kind}`;
}

const textSchema = (description: string): Members => ({ description, type: "string" });
const API_VERSION_TEXT =
  "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND_TEXT =
  "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/** The schema of a custom kind with the fields that every object has. Unknown fields of a structural schema stay unknown. */
function customSchema(kind: Kind, schema: Members, isV2: boolean): Members {
  const { properties = {}, ...rest } = schema;
  const ref = `${isV2 ? "#/definitions/" : REF}${META}.ObjectMeta`;
  const metadata = {
    description:
      "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
    ...(isV2 ? { $ref: ref } : { allOf: [{ $ref: ref }] }),
  };
  const own = (isV2 ? withoutV3(rest) : rest) as Members;
  const keepsAll =
    schema["x-kubernetes-preserve-unknown-fields"] === true && Object.keys(properties as object).length === 0;
  // The older form cannot say "anything", so it says nothing.
  if (isV2 && keepsAll) return { type: "object", "x-kubernetes-group-version-kind": [gvkOf(kind)] };
  const members = (isV2 ? (withoutV3({ properties }) as Members)["properties"] : properties) as Members;
  return {
    ...own,
    type: "object",
    properties: { ...members, apiVersion: textSchema(API_VERSION_TEXT), kind: textSchema(KIND_TEXT), metadata },
    "x-kubernetes-group-version-kind": [gvkOf(kind)],
  };
}

/** What OpenAPI v2 cannot say, taken out of a schema. */
function withoutV3(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutV3);
  if (!isObject(value)) return value;
  const result: Members = {};
  for (const [key, member] of Object.entries(value)) {
    if (["nullable", "oneOf", "anyOf", "not", "default"].includes(key) && !isNamed(member)) continue;
    result[key] = withoutV3(member);
  }
  if (value["x-kubernetes-preserve-unknown-fields"] === true) {
    delete result["properties"];
    delete result["items"];
  }
  return result;
}

/** A property may be called like a keyword: then its value is a schema with a type. */
const isNamed = (member: unknown): boolean =>
  isObject(member) && typeof member["type"] === "string" && member["description"] !== undefined;

function listSchema(kind: Kind, ref: string): Members {
  const list = listKind(kind);
  return {
    description: `${list.kind} is a list of ${kind.kind}`,
    type: "object",
    required: ["items"],
    properties: {
      apiVersion: textSchema(API_VERSION_TEXT),
      kind: textSchema(KIND_TEXT),
      items: {
        description: `List of ${kind.plural}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md`,
        type: "array",
        items: { $ref: `${ref}${schemaName(kind)}` },
      },
      metadata: { $ref: `${ref}${META}.ListMeta` },
    },
    "x-kubernetes-group-version-kind": [{ ...gvkOf(kind), kind: list.kind }],
  };
}

/** Names of the schemas that `value` refers to. */
function refsOf(value: unknown, into: Set<string>): void {
  if (Array.isArray(value)) for (const item of value) refsOf(item, into);
  else if (isObject(value))
    for (const [key, member] of Object.entries(value))
      if (key === "$ref" && typeof member === "string") into.add(member.slice(member.lastIndexOf("/") + 1));
      else refsOf(member, into);
}

function closure(roots: Members): Members {
  const result: Members = { ...roots };
  const todo = [...Object.values(roots)];
  for (const schema of todo) {
    const refs = new Set<string>();
    refsOf(schema, refs);
    for (const name of refs) {
      const found = schemas()[name];
      if (found === undefined || result[name] !== undefined) continue;
      result[name] = found;
      todo.push(found);
    }
  }
  return result;
}

const query = (name: string): Members => ({ name, in: "query", schema: { type: "string", uniqueItems: true } });
const WRITE_PARAMETERS = ["dryRun", "fieldManager", "fieldValidation"].map(query);
const ACTIONS: Readonly<Record<string, string>> = {
  get: "get",
  put: "put",
  patch: "patch",
  delete: "delete",
  post: "post",
};

function operation(kind: Kind, method: string, isV2: boolean, action = ACTIONS[method] ?? method): Members {
  const ref = `${isV2 ? "#/definitions/" : REF}${schemaName(kind)}`;
  const content = isV2 ? { schema: { $ref: ref } } : { content: { "application/json": { schema: { $ref: ref } } } };
  const isWrite = method !== "get" && method !== "delete";
  const plain = WRITE_PARAMETERS.map(({ name }) => ({ name, in: "query", type: "string", uniqueItems: true }));
  const body = isV2 && isWrite ? [{ name: "body", in: "body", required: true, schema: { $ref: ref } }] : [];
  return {
    description: `${action} ${kind.kind}`,
    operationId: `${action}${kind.group}${kind.version}${kind.kind}`,
    ...(isWrite ? { parameters: [...(isV2 ? plain : WRITE_PARAMETERS), ...body] } : {}),
    ...(isWrite && !isV2 ? { requestBody: { content: { "application/json": { schema: { $ref: ref } } } } } : {}),
    responses: { 200: { description: "OK", ...content } },
    "x-kubernetes-action": action,
    "x-kubernetes-group-version-kind": gvkOf(kind),
  };
}

function pathItems(kind: Kind, isV2: boolean): [string, Members][] {
  const scope = kind.isNamespaced ? "/namespaces/{namespace}" : "";
  const all = `/${pathOf(kind)}${scope}/${kind.plural}`;
  if (!isStored(kind)) return [[all, { post: operation(kind, "post", isV2) }]];
  const one = {
    get: operation(kind, "get", isV2),
    put: operation(kind, "put", isV2),
    patch: operation(kind, "patch", isV2),
    delete: operation(kind, "delete", isV2),
  };
  const items: [string, Members][] = [
    [all, { get: operation(kind, "get", isV2, "list"), post: operation(kind, "post", isV2) }],
    [`${all}/{name}`, one],
  ];
  if (hasSubresource(kind, "status"))
    items.push([`${all}/{name}/status`, { get: one.get, put: one.put, patch: one.patch }]);
  return items;
}

/** The OpenAPI v3 document of one group version; undefined where it is not served. */
function documentV3(table: KindTable, path: string): Members | undefined {
  const kinds = table.all().filter((kind) => pathOf(kind) === path);
  if (kinds.length === 0) return undefined;
  const roots: Members = {};
  for (const kind of kinds) {
    const name = schemaName(kind);
    roots[name] = isCustom(kind) ? customSchema(kind, kind.schema, false) : schemas()[name];
    if (!isStored(kind)) continue;
    const list = isCustom(kind) ? listSchema(kind, REF) : schemas()[`${name}List`];
    if (list !== undefined) roots[isCustom(kind) ? name.replace(kind.kind, listKind(kind).kind) : `${name}List`] = list;
  }
  const extras = ["DeleteOptions", "Status", "Patch", "APIResourceList", "WatchEvent"].map((name) => `${META}.${name}`);
  for (const name of extras) if (schemas()[name] !== undefined) roots[name] = schemas()[name];
  return {
    openapi: "3.0.0",
    info: { title: "Kubernetes", version: SERVER_VERSION.gitVersion },
    paths: Object.fromEntries(kinds.flatMap((kind) => pathItems(kind, false))),
    components: { schemas: closure(roots) },
  };
}

/** A schema in the terms of v2: references stand alone, without `allOf`. */
function toV2(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(toV2);
  if (!isObject(value)) return value;
  const only = Array.isArray(value["allOf"]) && value["allOf"].length === 1 ? value["allOf"][0] : undefined;
  if (isObject(only) && typeof only["$ref"] === "string") {
    const { allOf: _allOf, default: _default, ...rest } = value;
    return toV2({ ...rest, $ref: only["$ref"] });
  }
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key]) => key !== "oneOf" && key !== "default")
      .map(([key, member]) => [
        key,
        key === "$ref" && typeof member === "string" ? member.replace(REF, "#/definitions/") : toV2(member),
      ]),
  );
}

/** Documents, made anew when the served kinds have changed. */
export class OpenApi {
  readonly #table: KindTable;
  readonly #documents = new Map<string, { readonly text: string; readonly hash: string }>();
  #revision = -1;

  constructor(table: KindTable) {
    this.#table = table;
  }

  #made(key: string, make: () => unknown): { text: string; hash: string } | undefined {
    if (this.#revision !== this.#table.revision) {
      this.#documents.clear();
      this.#revision = this.#table.revision;
    }
    const known = this.#documents.get(key);
    if (known !== undefined) return known;
    const value = make();
    if (value === undefined) return undefined;
    const text = JSON.stringify(value);
    const made = { text, hash: contentHash(text).toUpperCase() };
    this.#documents.set(key, made);
    return made;
  }

  /** `/openapi/v3`: the index of documents, each with the hash of its content. */
  index(): string {
    const paths = [...new Set(this.#table.all().map(pathOf))].toSorted();
    const made = this.#made("", () => ({
      paths: Object.fromEntries(
        paths.map((path) => [path, { serverRelativeURL: `/openapi/v3/${path}?hash=${this.document(path)?.hash}` }]),
      ),
    }));
    return made?.text ?? "{}";
  }

  document(path: string): { readonly text: string; readonly hash: string } | undefined {
    return this.#made(`v3 ${path}`, () => documentV3(this.#table, path));
  }

  /** `/openapi/v2` in protobuf. Asked for rarely: not kept. */
  async swaggerProtobuf(): Promise<Uint8Array> {
    const { encodeSwagger } = await import("./openapi-protobuf.ts");
    return encodeSwagger(JSON.parse(this.swagger().text) as Members);
  }

  /** `/openapi/v2`. */
  swagger(): { readonly text: string; readonly hash: string } {
    const made = this.#made("v2", () => {
      const kinds = this.#table.all();
      const definitions = toV2(schemas()) as Members;
      for (const kind of kinds)
        if (isCustom(kind)) {
          definitions[schemaName(kind)] = customSchema(kind, kind.schema, true);
          definitions[schemaName(kind).replace(kind.kind, listKind(kind).kind)] = listSchema(kind, "#/definitions/");
        }
      const info = { title: "Kubernetes", version: SERVER_VERSION.gitVersion };
      return {
        swagger: "2.0",
        info,
        paths: Object.fromEntries(kinds.flatMap((kind) => pathItems(kind, true))),
        definitions,
      };
    });
    return made as { text: string; hash: string };
  }
}
