// What each verb does on a resource: reading bodies, options and selectors, calling the registry, shaping answers.
import type { IncomingMessage } from "node:http";
import { isObject, jsonClone } from "@lateen/base";
import { parse as parseYaml } from "yaml";
import { type Authenticator, ISSUER, isAllowed, issueToken, type TokenSigner } from "./auth.ts";
import { pruneCustom } from "./custom.ts";
import { listKind } from "./discovery.ts";
import { ApiError, badRequest, expired, methodNotAllowed, resourceNotFound } from "./errors.ts";
import { auxiliaryMessage, checkFields, decodeProtobuf, dropFields } from "./fields.ts";
import { apiVersionOf, type Kind, tableOf } from "./kinds.ts";
import type { KubeObject, Pod } from "./objects.ts";
import { jsonPatch, mergePatch, strategicMerge } from "./patch.ts";
import type { DeleteOptions, Registry, WriteOptions } from "./registry.ts";
import { type Predicate, parseFieldSelector, parseLabelSelector } from "./selectors.ts";
import { type NodePort, type ResourceRequest, sendJson } from "./server.ts";
import { type IncludeObject, renderTable, scaleTable } from "./tables.ts";
import { serveWatch } from "./watch.ts";

/** Bodies above this are refused with 413, as by a real server. */
const BODY_BYTES_MAX = 3 << 20;

type Body = Record<string, unknown>;

async function readBytes(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > BODY_BYTES_MAX) {
      throw new ApiError(413, "RequestEntityTooLarge", `Request entity too large: limit is ${BODY_BYTES_MAX}`, {});
    }
  }
  return Buffer.concat(chunks);
}

const mediaType = (request: IncomingMessage): string =>
  (request.headers["content-type"] ?? "application/json").split(";")[0]?.trim() ?? "";

export type Rendering = "json" | "table" | "metadata";

/** The first form that the client accepts and we can make. */
export function renderingOf(request: IncomingMessage): Rendering {
  const accept = request.headers.accept ?? "*/*";
  for (const range of accept.split(",").map((part) => part.trim())) {
    if (!range.startsWith("application/json") && !range.startsWith("*/*") && !range.startsWith("application/*"))
      continue;
    if (range.includes("as=Table")) return "table";
    if (range.includes("as=PartialObjectMetadata")) return "metadata";
    return "json";
  }
  const accepted = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
  throw new ApiError(406, "NotAcceptable", `only the following media types are accepted: ${accepted}`, {});
}

/** An object as PartialObjectMetadata. */
export function metadataOnly(object: KubeObject): Body {
  return { kind: "PartialObjectMetadata", apiVersion: "meta.k8s.io/v1", metadata: object.metadata };
}

/** Label and field selectors of a request as one test. */
export function selectorOf(query: URLSearchParams, kind: Kind): Predicate {
  const labels = parseLabelSelector(query.get("labelSelector") ?? "");
  const fields = parseFieldSelector(query.get("fieldSelector") ?? "", kind.plural);
  return (object) => labels(object) && fields(object);
}

export class ResourceHandler {
  readonly #registry: Registry;
  readonly #authenticator: Authenticator;
  readonly #signer: TokenSigner;
  readonly #node: NodePort;

  constructor(registry: Registry, authenticator: Authenticator, signer: TokenSigner, node: NodePort) {
    this.#registry = registry;
    this.#authenticator = authenticator;
    this.#signer = signer;
    this.#node = node;
  }

  async handle(verb: string, ask: ResourceRequest): Promise<void> {
    const { kind, name, subresource } = ask;
    if (kind.isReview) return this.#review(verb, ask);
    if (subresource !== "" && !kind.subresources.includes(subresource)) throw resourceNotFound();
    if (subresource === "log") return this.#node.logs(ask.namespace ?? "", name ?? "", ask.query, ask.response);
    if (subresource === "token") return this.#token(verb, ask);
    if (subresource === "exec") throw badRequest("Upgrade request required");
    if (verb === "watch") return serveWatch(this.#registry, ask);
    if (verb === "list") return this.#list(ask);
    if (verb === "create" && name === undefined) return this.#create(ask);
    if (verb === "deletecollection") return this.#deleteCollection(ask);
    if (name === undefined) throw methodNotAllowed();
    if (verb === "get") return this.#get(ask, name);
    if (verb === "update" || verb === "patch") return this.#change(verb, ask, name);
    if (verb === "delete" && subresource === "") return this.#delete(ask, name);
    throw methodNotAllowed();
  }

  /** The body as an object, decoded by its content type. Empty bodies are an empty object. */
  async #body(ask: ResourceRequest): Promise<Body> {
    const bytes = await readBytes(ask.request);
    if (bytes.length === 0) return {};
    const type = mediaType(ask.request);
    let value: unknown;
    if (type === "application/vnd.kubernetes.protobuf") {
      return decodeProtobuf(bytes, (apiVersion, kindName) => {
        return auxiliaryMessage(kindName) ?? this.#registry.kinds.ofObject(apiVersion, kindName)?.message;
      });
    }
    try {
      if (type === "application/yaml" || type === "application/apply-patch+yaml")
        value = parseYaml(bytes.toString("utf8"), { version: "1.1" });
      else if (type === "" || type.endsWith("json")) value = JSON.parse(bytes.toString("utf8"));
      else {
        const accepted = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
        throw new ApiError(
          415,
          "UnsupportedMediaType",
          `the body of the request was in an unknown format - accepted media types include: ${accepted}`,
          {},
        );
      }
    } catch (error) {
      if (error instanceof ApiError) throw error;
      throw badRequest(
        `the object provided is unrecognized (must be of type ${ask.kind.kind}): ${String((error as Error).message)}`,
      );
    }
    if (!isObject(value) && !Array.isArray(value))
      throw badRequest(`the object provided is unrecognized (must be of type ${ask.kind.kind})`);
    return value as Body;
  }

  /** Unknown fields by `fieldValidation`, wrong types always: what remains may be trusted to have its declared shape. */
  #checkFields(ask: ResourceRequest, object: Body): Body {
    const custom = this.#registry.customKind(ask.kind);
    const unknown: string[] = [];
    let result = object;
    if (custom !== undefined) result = pruneCustom(object, custom, unknown);
    else if (ask.kind.message !== undefined) {
      unknown.push(...this.#checkTypes(object, ask.kind, ask.kind.message));
      dropFields(result, unknown);
    }
    const mode = ask.query.get("fieldValidation") ?? "Warn";
    if (unknown.length === 0 || mode === "Ignore") return result;
    const texts = unknown.map((path) => `unknown field "${path}"`);
    if (mode === "Strict")
      throw badRequest(
        `${ask.kind.kind} in version "${ask.kind.version}" cannot be handled as a ${ask.kind.kind}: strict decoding error: ${texts.join(", ")}`,
      );
    const warn = this.#writeOptions(ask).warn;
    for (const text of texts) warn?.(text);
    return result;
  }

  /** Refuses values of a wrong type; returns the paths of unknown fields. */
  #checkTypes(object: Body, { kind, version }: Pick<Kind, "kind" | "version">, message: string): readonly string[] {
    const { unknown, wrong } = checkFields(object, message);
    if (wrong.length === 0) return unknown;
    throw badRequest(`${kind} in version "${version}" cannot be handled as a ${kind}: ${wrong.join(", ")}`);
  }

  #writeOptions(ask: ResourceRequest, body: Body = {}): WriteOptions {
    const inBody = Array.isArray(body["dryRun"]) && body["dryRun"].includes("All");
    return {
      user: ask.user,
      isDryRun: inBody || ask.query.get("dryRun") === "All",
      warn: (text) => ask.response.appendHeader("warning", `299 - ${JSON.stringify(text)}`),
    };
  }

  #send(ask: ResourceRequest, code: number, object: KubeObject): void {
    const rendering = renderingOf(ask.request);
    if (rendering === "table")
      sendJson(
        ask.request,
        ask.response,
        code,
        this.#table(ask, [object], { resourceVersion: object.metadata.resourceVersion }),
      );
    else sendJson(ask.request, ask.response, code, rendering === "metadata" ? metadataOnly(object) : object);
  }

  #table(ask: ResourceRequest, objects: readonly KubeObject[], listMeta: Body): unknown {
    return renderTable(tableOf(ask.kind), objects, {
      listMeta,
      include: (ask.query.get("includeObject") ?? "Metadata") as IncludeObject,
      printer: this.#registry.customKind(ask.kind)?.printer,
      isFirst: true,
    });
  }

  #get(ask: ResourceRequest, name: string): void {
    const found = this.#registry.get(ask.kind, ask.namespace, name);
    if (ask.subresource !== "scale") {
      this.#send(ask, 200, this.#presented(ask.kind, found));
      return;
    }
    const scale = scaleOf(found);
    sendJson(ask.request, ask.response, 200, renderingOf(ask.request) === "table" ? scaleTable(scale) : scale);
  }

  /** Custom objects are stored once and served in every version. */
  #presented(kind: Kind, object: KubeObject): KubeObject {
    const apiVersion = apiVersionOf(kind);
    return object.apiVersion === apiVersion ? object : { ...object, apiVersion };
  }

  #list(ask: ResourceRequest): void {
    const { kind, query } = ask;
    const selects = selectorOf(query, kind);
    const asked = Number(query.get("resourceVersion") ?? 0);
    if (Number.isNaN(asked)) throw badRequest(`invalid resourceVersion: ${query.get("resourceVersion")}`);
    if (query.get("resourceVersionMatch") === "Exact" && asked < this.#registry.store.version)
      throw expired(asked, this.#registry.store.version);
    let items = this.#registry.list(kind, ask.namespace).filter(selects);
    if (ask.name !== undefined) items = items.filter((item) => item.metadata.name === ask.name);
    const version = String(this.#registry.store.version);
    const start = continuation(query.get("continue"));
    if (start !== undefined)
      items = items.filter((item) => `${item.metadata.namespace ?? ""}/${item.metadata.name}` > start);
    const limit = Number(query.get("limit") ?? 0);
    const meta: Body = { resourceVersion: version };
    if (limit > 0 && items.length > limit && asked !== 0)
      throw badRequest("limit with a resourceVersion is not supported");
    if (limit > 0 && items.length > limit) {
      meta["remainingItemCount"] = items.length - limit;
      items = items.slice(0, limit);
      const last = items.at(-1);
      meta["continue"] = Buffer.from(
        JSON.stringify({
          v: "meta.k8s.io/v1",
          rv: Number(version),
          start: `${last?.metadata.namespace ?? ""}/${last?.metadata.name}`,
        }),
      ).toString("base64url");
    }
    const shown = items.map((item) => this.#presented(kind, item));
    const rendering = renderingOf(ask.request);
    if (rendering === "table") sendJson(ask.request, ask.response, 200, this.#table(ask, shown, meta));
    else if (rendering === "metadata") {
      sendJson(ask.request, ask.response, 200, {
        kind: "PartialObjectMetadataList",
        apiVersion: "meta.k8s.io/v1",
        metadata: meta,
        items: shown.map(metadataOnly),
      });
    } else {
      const isCustom = this.#registry.customKind(kind) !== undefined;
      const plain = isCustom ? shown : shown.map(({ kind: _kind, apiVersion: _apiVersion, ...rest }) => rest);
      sendJson(ask.request, ask.response, 200, { ...listKind(kind), metadata: meta, items: plain });
    }
  }

  async #create(ask: ResourceRequest): Promise<void> {
    const body = await this.#body(ask);
    const checked = this.#registry.checkBody(ask.kind, this.#checkFields(ask, body), ask.namespace, undefined);
    const created = await this.#registry.create(ask.kind, ask.namespace, checked, this.#writeOptions(ask));
    this.#send(ask, 201, created);
  }

  async #change(verb: string, ask: ResourceRequest, name: string): Promise<void> {
    const { kind, namespace, subresource } = ask;
    const body = await this.#body(ask);
    const type = mediaType(ask.request);
    const options = this.#writeOptions(ask);
    if (subresource === "scale") {
      const current = this.#registry.get(kind, namespace, name);
      const next = (verb === "update" ? body : this.#patched(kind, scaleOf(current), body, type)) as KubeObject;
      const { replicas = 0 } = next.spec as { replicas?: number };
      const changed = await this.#registry.update(
        kind,
        namespace,
        name,
        (object) => ({ ...object, spec: { ...(object.spec as object), replicas } }),
        options,
      );
      sendJson(ask.request, ask.response, 200, scaleOf(changed));
      return;
    }
    const change = (current: KubeObject): KubeObject => {
      const next = verb === "update" ? body : (this.#patched(kind, this.#presented(kind, current), body, type) as Body);
      return this.#registry.checkBody(kind, this.#checkFields(ask, next), namespace, name);
    };
    const changed = await this.#registry.update(kind, namespace, name, change, {
      ...options,
      subresource: subresource === "finalize" ? "" : subresource,
    });
    this.#send(ask, 200, this.#presented(kind, changed));
  }

  #patched(kind: Kind, current: unknown, patch: unknown, type: string): unknown {
    const target = jsonClone(current);
    if (type === "application/json-patch+json") return jsonPatch(target, patch);
    if (type === "application/merge-patch+json") return mergePatch(target, patch);
    if (type === "application/strategic-merge-patch+json" && kind.message !== undefined)
      return strategicMerge(target, patch);
    const accepted =
      "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";
    throw new ApiError(
      415,
      "UnsupportedMediaType",
      `the body of the request was in an unknown format - accepted media types include: ${accepted}`,
      {},
    );
  }

  #deleteOptions(ask: ResourceRequest, body: Body): DeleteOptions {
    const preconditions = isObject(body["preconditions"]) ? body["preconditions"] : {};
    const grace = body["gracePeriodSeconds"] ?? ask.query.get("gracePeriodSeconds");
    const propagation = body["propagationPolicy"] ?? ask.query.get("propagationPolicy");
    return {
      ...this.#writeOptions(ask, body),
      ...(grace === undefined || grace === null ? {} : { gracePeriodSeconds: Number(grace) }),
      ...(typeof propagation === "string" ? { propagationPolicy: propagation } : {}),
      ...(typeof preconditions["uid"] === "string" ? { uid: preconditions["uid"] } : {}),
      ...(typeof preconditions["resourceVersion"] === "string"
        ? { resourceVersion: preconditions["resourceVersion"] }
        : {}),
    };
  }

  async #delete(ask: ResourceRequest, name: string): Promise<void> {
    const { kind } = ask;
    const { object, isGone } = await this.#registry.delete(
      kind,
      ask.namespace,
      name,
      this.#deleteOptions(ask, await this.#body(ask)),
    );
    if (!isGone || ["services", "serviceaccounts", "pods"].includes(kind.plural)) {
      this.#send(ask, 200, object);
      return;
    }
    const details = {
      name,
      ...(kind.group === "" ? {} : { group: kind.group }),
      kind: kind.plural,
      uid: object.metadata.uid,
    };
    sendJson(ask.request, ask.response, 200, {
      kind: "Status",
      apiVersion: "v1",
      metadata: {},
      status: "Success",
      details,
    });
  }

  async #deleteCollection(ask: ResourceRequest): Promise<void> {
    const options = this.#deleteOptions(ask, await this.#body(ask));
    const items = this.#registry.list(ask.kind, ask.namespace).filter(selectorOf(ask.query, ask.kind));
    for (const item of items)
      await this.#registry.delete(ask.kind, item.metadata.namespace, item.metadata.name, options);
    sendJson(ask.request, ask.response, 200, {
      ...listKind(ask.kind),
      metadata: { resourceVersion: String(this.#registry.store.version) },
      items,
    });
  }

  async #token(verb: string, ask: ResourceRequest): Promise<void> {
    if (verb !== "create" || ask.name === undefined) throw methodNotAllowed();
    const account = this.#registry.get(ask.kind, ask.namespace, ask.name);
    const body = await this.#body(ask);
    this.#checkTypes(body, { kind: "TokenRequest", version: "v1" }, auxiliaryMessage("TokenRequest") as string);
    const spec = (body["spec"] ?? {}) as {
      audiences?: string[];
      expirationSeconds?: number;
      boundObjectRef?: { kind: string; name: string };
    };
    const expirationSeconds = Math.max(600, Math.min(spec.expirationSeconds ?? 3600, 365 * 86_400));
    const bound =
      spec.boundObjectRef?.kind === "Pod"
        ? (this.#registry.store.get("pods", ask.namespace, spec.boundObjectRef.name) as Pod | undefined)
        : undefined;
    const pod = bound === undefined ? {} : { pod: { name: bound.metadata.name, uid: bound.metadata.uid } };
    const status = issueToken(this.#signer, account, { audiences: spec.audiences ?? [], expirationSeconds, ...pod });
    const metadata = { name: ask.name, namespace: ask.namespace };
    sendJson(ask.request, ask.response, 201, {
      kind: "TokenRequest",
      apiVersion: "authentication.k8s.io/v1",
      metadata,
      spec: { ...spec, audiences: spec.audiences ?? [ISSUER], expirationSeconds },
      status,
    });
  }

  async #review(verb: string, ask: ResourceRequest): Promise<void> {
    if (verb !== "create") throw methodNotAllowed();
    const spec = (this.#checkFields(ask, await this.#body(ask))["spec"] ?? {}) as Body;
    const status = ask.kind.kind === "TokenReview" ? this.#reviewToken(spec) : this.#reviewAccess(ask, spec);
    sendJson(ask.request, ask.response, 201, {
      kind: ask.kind.kind,
      apiVersion: apiVersionOf(ask.kind),
      metadata: {},
      spec,
      status,
    });
  }

  #reviewToken(spec: Body): Body {
    const audiences = Array.isArray(spec["audiences"]) ? spec["audiences"].map(String) : [ISSUER];
    const found = this.#authenticator.review(String(spec["token"] ?? ""), audiences);
    if (found === undefined) return { user: {}, error: "[invalid bearer token, token audiences or expiry]" };
    const { name, uid, groups, extra } = found.user;
    return {
      authenticated: true,
      user: { username: name, uid, groups, ...(extra === undefined ? {} : { extra }) },
      audiences: found.audiences,
    };
  }

  #reviewAccess(ask: ResourceRequest, spec: Body): Body {
    const { name, groups } = ask.user;
    if (ask.kind.kind === "SelfSubjectReview") return { userInfo: { username: name, groups } };
    const isOther = ask.kind.kind === "SubjectAccessReview";
    const user = isOther ? { name: String(spec["user"] ?? ""), groups: (spec["groups"] ?? []) as string[] } : ask.user;
    const resource = (spec["resourceAttributes"] ?? {}) as Record<string, string | undefined>;
    const other = spec["nonResourceAttributes"] as { path?: string; verb?: string } | undefined;
    const allowed = isAllowed(this.#registry.store, user, {
      verb: other?.verb ?? resource["verb"] ?? "",
      group: resource["group"] ?? "",
      resource: resource["resource"] ?? "",
      subresource: resource["subresource"] ?? "",
      namespace: resource["namespace"] ?? "",
      name: resource["name"] ?? "",
      ...(other?.path === undefined ? {} : { path: other.path }),
    });
    return { allowed };
  }
}

/** Where a chunked list goes on: behind this namespace/name. */
function continuation(token: string | null): string | undefined {
  if (token === null || token === "") return undefined;
  try {
    const parsed: unknown = JSON.parse(Buffer.from(token, "base64url").toString("utf8"));
    if (isObject(parsed) && typeof parsed["start"] === "string") return parsed["start"];
  } catch {
    // falls through to the refusal
  }
  throw badRequest("continue key is not valid");
}

/** The autoscaling/v1 Scale of a Deployment or ReplicaSet. */
function scaleOf(object: KubeObject): KubeObject {
  const spec = object.spec as { replicas?: number; selector?: { matchLabels?: Record<string, string> } };
  const status = (object.status ?? {}) as { replicas?: number };
  const selector = Object.entries(spec.selector?.matchLabels ?? {})
    .map(([key, value]) => `${key}=${value}`)
    .join(",");
  const { name, namespace, uid, resourceVersion, creationTimestamp } = object.metadata;
  return {
    kind: "Scale",
    apiVersion: "autoscaling/v1",
    metadata: { name, namespace, uid, resourceVersion, creationTimestamp } as KubeObject["metadata"],
    spec: { replicas: spec.replicas ?? 1 },
    status: { replicas: status.replicas ?? 0, selector },
  };
}
