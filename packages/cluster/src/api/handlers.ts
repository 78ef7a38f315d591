// What each verb does on a resource: reading bodies, options and selectors, calling the registry, shaping answers.
import { canonicalJson, isObject, jsonClone } from "@lateen/base";
import { writeApproval, writeBinding, writeEviction } from "./actions.ts";
import type { Authenticator, TokenSigner } from "./auth.ts";
import { type Body, checkOptions, mediaType, readBody } from "./body.ts";
import {
  ApiError,
  badRequest,
  invalid,
  methodNotAllowed,
  notFound,
  resourceNotFound,
  unknownPatch,
  unsupportedMedia,
} from "./errors.ts";
import { inBodyOrder } from "./json.ts";
import { apiVersionOf, hasSubresource, isStored, type Kind } from "./kinds.ts";
import { ListServer } from "./lists.ts";
import { type KubeObject, timestamp } from "./objects.ts";
import { goMap, jsonPatch, mergePatch, strategicMerge } from "./patch.ts";
import type { ApplyOptions, DeleteOptions, Registry, UpdateOptions } from "./registry.ts";
import { metadataOnly, notAcceptable, renderingOf } from "./rendering.ts";
import { requestToken, reviewAccess, reviewRules, reviewSelf, reviewToken } from "./reviews.ts";
import { scaleOf, withScale } from "./scale.ts";
import { selectorOf } from "./selectors.ts";
import { type NodePort, type ResourceRequest, sendJson } from "./server.ts";
import { type IncludeObject, renderTable, scaleTable } from "./tables.ts";
import { serveWatch } from "./watch.ts";
import type { WatchBudget } from "./watch-budget.ts";

const JSON_PATCH = "application/json-patch+json";
const MERGE_PATCH = "application/merge-patch+json";
const STRATEGIC_PATCH = "application/strategic-merge-patch+json";
const APPLY_PATCH = "application/apply-patch+yaml";
/** Kinds that a PUT creates where there is none. */
const CREATED_BY_UPDATE = new Set(
  "leases services endpoints events limitranges runtimeclasses roles rolebindings clusterroles clusterrolebindings endpointslices".split(
    " ",
  ),
);
/** Kinds of which a PUT must say which version it replaces. */
const NEEDS_VERSION = new Set(
  "leases customresourcedefinitions apiservices mutatingwebhookconfigurations validatingwebhookconfigurations validatingadmissionpolicies validatingadmissionpolicybindings".split(
    " ",
  ),
);
/** Built-in kinds that have a better one by now: every use is answered with a warning. */
const DEPRECATED: Readonly<Record<string, string>> = {
  "/componentstatuses": "v1 ComponentStatus is deprecated in v1.19+",
  "/endpoints": "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
};
const DELETED_AS_OBJECT = new Set([
  "services",
  "serviceaccounts",
  "pods",
  "persistentvolumes",
  "persistentvolumeclaims",
  "podtemplates",
  "resourcequotas",
]);
/** A concurrent write is no reason to refuse a patch: it is worked out again, this often. */
const PATCH_TRIES = 5;

export interface HandlerParts {
  readonly registry: Registry;
  readonly authenticator: Authenticator;
  readonly signer: TokenSigner;
  readonly node: NodePort;
  readonly budget: WatchBudget;
}

export class ResourceHandler {
  readonly #registry: Registry;
  readonly #authenticator: Authenticator;
  readonly #signer: TokenSigner;
  readonly #node: NodePort;
  readonly #budget: WatchBudget;
  readonly #lists: ListServer;

  constructor({ registry, authenticator, signer, node, budget }: HandlerParts) {
    this.#registry = registry;
    this.#authenticator = authenticator;
    this.#signer = signer;
    this.#node = node;
    this.#budget = budget;
    this.#lists = new ListServer(registry);
  }

  async handle(verb: string, ask: ResourceRequest): Promise<void> {
    const { kind, name, subresource } = ask;
    const deprecation = this.#registry.customKind(kind)?.deprecation;
    const old = deprecation ?? DEPRECATED[`${kind.group}/${kind.plural}`];
    if (old !== undefined) warner(ask)(old);
    if (!isStored(kind)) return this.#action(verb, ask);
    if (subresource !== "") {
      if (!hasSubresource(kind, subresource)) throw resourceNotFound();
      if (await this.#subresource(verb, ask)) return;
    }
    if (verb === "watch") return serveWatch(this.#registry, this.#budget, ask);
    if (verb === "list") return this.#lists.serve(ask);
    if (verb === "create" && name === undefined) return this.#create(ask);
    if (verb === "deletecollection" && kind.verbs.includes(verb)) return this.#deleteCollection(ask);
    if (name === undefined) throw methodNotAllowed();
    if (verb === "get") return this.#get(ask, name);
    if (verb === "update") return this.#update(ask, name);
    if (verb === "patch") return this.#patch(ask, name);
    if (verb === "delete" && subresource === "") return this.#delete(ask, name);
    throw methodNotAllowed();
  }

  /** Subresources that are not parts of the object. False: it is one, and served as the object is. */
  async #subresource(verb: string, ask: ResourceRequest): Promise<boolean> {
    const { subresource, name = "", namespace = "" } = ask;
    switch (subresource) {
      case "log":
        if (verb !== "get") throw methodNotAllowed();
        await this.#node.logs(namespace, name, ask.query, ask.response);
        return true;
      case "token":
        if (verb !== "create") throw methodNotAllowed();
        sendJson(
          ask.request,
          ask.response,
          201,
          requestToken(this.#registry, this.#signer, ask, await this.#body(ask)),
        );
        return true;
      case "exec":
      case "attach":
      case "portforward":
        throw badRequest("Upgrade request required");
      case "eviction":
        if (verb !== "create") throw methodNotAllowed();
        sendJson(
          ask.request,
          ask.response,
          201,
          await writeEviction(this.#registry, ask, await this.#body(ask), writeOptions(ask)),
        );
        return true;
      case "binding":
        if (verb !== "create") throw methodNotAllowed();
        sendJson(
          ask.request,
          ask.response,
          201,
          await writeBinding(this.#registry, ask, await this.#body(ask), writeOptions(ask)),
        );
        return true;
      case "proxy":
        await this.#node.proxy(ask);
        return true;
      case "scale":
        await this.#scale(verb, ask, name);
        return true;
      case "approval":
        if (verb !== "update" && verb !== "patch") return false;
        await writeApproval(ask);
        return false;
      default:
        return false;
    }
  }

  #body(ask: ResourceRequest): Promise<Body> {
    return readBody(ask, this.#registry.kinds);
  }

  /** Unknown and repeated fields, by `fieldValidation`; what comes back has its declared shape. */
  #decoded(
    ask: ResourceRequest,
    body: Body,
    repeated: readonly string[] = [],
    refusal: (texts: readonly string[]) => ApiError = (texts) => badRequest(strictRefusal(ask.kind, texts)),
  ): KubeObject {
    const { kind } = ask;
    this.#checkNames(ask, body);
    const unknown: string[] = [];
    const mode = ask.query.get("fieldValidation") ?? "Warn";
    const object = this.#registry.decode(kind, body, unknown);
    const texts = strictTexts(ask, repeated, unknown);
    if (texts.length === 0 || mode === "Ignore") return object;
    if (mode === "Strict") throw refusal(texts);
    for (const text of texts) warner(ask)(text);
    return object;
  }

  /** The kind, name and namespace that a body claims must be those of the path. */
  #checkNames({ kind, namespace, name }: ResourceRequest, body: Body): void {
    const given = { kind: body["kind"] ?? kind.kind, apiVersion: body["apiVersion"] ?? apiVersionOf(kind) };
    if (given.apiVersion === "") given.apiVersion = apiVersionOf(kind);
    if (given.kind === "") given.kind = kind.kind;
    if (given.kind !== kind.kind || given.apiVersion !== apiVersionOf(kind)) {
      const what = `${String(given.kind)} in version "${String(given.apiVersion)}" cannot be handled as a ${kind.kind}`;
      const isOther = given.apiVersion !== apiVersionOf(kind);
      throw badRequest(
        isOther
          ? `the API version in the data (${String(given.apiVersion)}) does not match the expected API version (${apiVersionOf(kind)})`
          : `${what}: converting (${kind.version}.${String(given.kind)}) to (${kind.group === "" ? "core" : kind.group}.${kind.kind}): unknown conversion`,
      );
    }
    body["kind"] = kind.kind;
    body["apiVersion"] = apiVersionOf(kind);
    if (body["metadata"] === undefined || body["metadata"] === null) body["metadata"] = {};
    const { metadata } = body;
    if (!isObject(metadata)) return;
    if (name !== undefined) {
      const claimed = metadata["name"];
      if (claimed === undefined || claimed === "" || claimed === null) metadata["name"] = name;
      else if (typeof claimed === "string" && claimed !== name)
        throw badRequest(`the name of the object (${claimed}) does not match the name on the URL (${name})`);
    }
    const inBody = metadata["namespace"];
    if (kind.isNamespaced && typeof inBody === "string" && inBody !== "" && inBody !== (namespace ?? "default"))
      throw badRequest(`the namespace of the provided object does not match the namespace sent on the request`);
  }

  #send(ask: ResourceRequest, code: number, object: KubeObject): void {
    const rendering = renderingOf(ask.request);
    if (rendering === "table") {
      const table = renderTable(ask.kind, [object], {
        listMeta: { resourceVersion: object.metadata.resourceVersion },
        include: (ask.query.get("includeObject") ?? "Metadata") as IncludeObject,
        isFirst: true,
      });
      sendJson(ask.request, ask.response, code, table);
    } else sendJson(ask.request, ask.response, code, rendering === "metadata" ? metadataOnly(object) : object);
  }

  #get(ask: ResourceRequest, name: string): void {
    this.#send(ask, 200, this.#registry.get(ask.kind, ask.namespace, name));
  }

  async #create(ask: ResourceRequest): Promise<void> {
    const options = writeOptions(ask);
    const body = await this.#body(ask);
    const object = this.#decoded(ask, body, ask.repeated);
    if (ask.kind.plural === "certificatesigningrequests") nameRequester(ask, object);
    this.#send(ask, 201, await this.#registry.create(ask.kind, ask.namespace, object, options));
  }

  async #update(ask: ResourceRequest, name: string): Promise<void> {
    const { kind, namespace } = ask;
    const body = await this.#body(ask);
    const options = writeOptions(ask);
    const object = this.#decoded(ask, body, ask.repeated);
    const version = object.metadata.resourceVersion ?? "";
    const found = this.#registry.find(kind, namespace, name);
    if (found === undefined && ask.subresource === "" && CREATED_BY_UPDATE.has(kind.plural) && version === "") {
      this.#send(ask, 201, await this.#registry.create(kind, namespace, object, options));
      return;
    }
    if (found === undefined) throw notFound(kind, name);
    if (version === "" && (NEEDS_VERSION.has(kind.plural) || this.#registry.customKind(kind) !== undefined)) {
      const message = "Invalid value: 0: must be specified for an update";
      throw invalid({ ...kind, kind: kind.plural }, name, [
        { reason: "FieldValueInvalid", message, field: "metadata.resourceVersion" },
      ]);
    }
    const changed = await this.#registry.update(kind, namespace, name, () => jsonClone(object), options);
    this.#send(ask, 200, changed);
  }

  async #patch(ask: ResourceRequest, name: string): Promise<void> {
    const { kind, namespace } = ask;
    const type = mediaType(ask.request);
    if (![JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH].includes(type)) throw unknownPatch();
    const isCustom = this.#registry.customKind(kind) !== undefined;
    if (type === STRATEGIC_PATCH && isCustom) throw unsupportedMedia([JSON_PATCH, MERGE_PATCH, APPLY_PATCH]);
    const patch = await this.#body(ask);
    const options = writeOptions(ask);
    if (type === APPLY_PATCH) return this.#apply(ask, name, patch, options);
    if (ask.query.get("force") !== null)
      throw invalidOptions(
        "PatchOptions",
        "force",
        "Forbidden: may not be specified for non-apply patch",
        "FieldValueForbidden",
      );
    const change = (current: KubeObject): KubeObject => {
      const patched = patchedObject(kind, current, patch, type) as Body;
      return this.#decoded(ask, patched, ask.repeated, (texts) => {
        const value = type === STRATEGIC_PATCH ? goMap(patch) : JSON.stringify(canonicalJson(patched));
        const message = `Invalid value: ${value}: strict decoding error: ${texts.join(", ")}`;
        return invalid({ group: "", plural: "", kind: "" }, "", [
          { reason: "FieldValueInvalid", message, field: "patch" },
        ]);
      });
    };
    for (let tries = 1; ; tries++) {
      try {
        this.#send(ask, 200, await this.#registry.update(kind, namespace, name, change, options));
        return;
      } catch (error) {
        const isRace = error instanceof ApiError && error.code === 409 && error.reason === "Conflict";
        const isPinned = isObject(patch["metadata"]) && patch["metadata"]["resourceVersion"] !== undefined;
        if (!isRace || isPinned || tries >= PATCH_TRIES) throw error;
      }
    }
  }

  async #apply(ask: ResourceRequest, name: string, applied: Body, options: ApplyOptions): Promise<void> {
    if (!isObject(applied)) throw badRequest("the apply patch must be an object");
    if ((ask.query.get("fieldManager") ?? "") === "")
      throw invalidOptions(
        "PatchOptions",
        "fieldManager",
        "Required value: is required for apply patch",
        "FieldValueRequired",
      );
    if (applied["kind"] === undefined || applied["apiVersion"] === undefined)
      throw badRequest(`Object 'Kind' is missing in '${JSON.stringify(applied).slice(0, 200)}'`);
    // The shape is checked; but what is applied are the fields that were sent, without defaults.
    const unknown: string[] = [];
    this.#checkNames(ask, applied);
    const shaped = this.#registry.decode(ask.kind, jsonClone(applied), unknown);
    this.#checkRepeated(ask);
    if (unknown.length > 0) throw undeclared(ask, applied, unknown);
    const sent = {
      ...onlySent(applied, shaped),
      kind: ask.kind.kind,
      apiVersion: apiVersionOf(ask.kind),
    } as unknown as KubeObject;
    sent.metadata = { ...sent.metadata, name };
    const isForced = ask.query.get("force") === "true";
    const { object, isNew } = await this.#registry.apply(ask.kind, ask.namespace, name, sent, { ...options, isForced });
    this.#send(ask, isNew ? 201 : 200, object);
  }

  #checkRepeated(ask: ResourceRequest): void {
    const mode = ask.query.get("fieldValidation") ?? "Warn";
    const texts = ask.repeated.map((path) => (path.startsWith("line ") ? path : `duplicate field "${path}"`));
    if (texts.length === 0 || mode === "Ignore") return;
    if (mode !== "Strict") for (const text of texts) warner(ask)(text);
    else {
      const isYaml = texts.some((text) => text.startsWith("line "));
      const { kind, version } = ask.kind;
      const what =
        this.#registry.customKind(ask.kind) === undefined
          ? `${kind} in version "${version}" cannot be handled as a ${kind}: `
          : "";
      throw badRequest(
        isYaml
          ? `error decoding YAML: yaml: unmarshal errors:\n  ${texts.join("\n  ")}`
          : `${what}strict decoding error: ${texts.join(", ")}`,
      );
    }
  }

  async #scale(verb: string, ask: ResourceRequest, name: string): Promise<void> {
    const { kind, namespace } = ask;
    const current = scaleOf(kind, this.#registry.get(kind, namespace, name));
    let answer = current;
    if (verb === "update" || verb === "patch") {
      const body = await this.#body(ask);
      const type = mediaType(ask.request);
      const next = (verb === "update" ? body : patchedScale(current, body, type)) as KubeObject;
      const version = next.metadata?.resourceVersion;
      const changed = await this.#registry.update(
        kind,
        namespace,
        name,
        (object) =>
          withScale(
            kind,
            {
              ...object,
              metadata: { ...object.metadata, ...(version === undefined ? {} : { resourceVersion: version }) },
            },
            next,
          ),
        writeOptions(ask),
      );
      answer = scaleOf(kind, changed);
    } else if (verb !== "get") throw methodNotAllowed();
    sendJson(ask.request, ask.response, 200, renderingOf(ask.request) === "table" ? scaleTable(answer) : answer);
  }

  async #delete(ask: ResourceRequest, name: string): Promise<void> {
    const { kind } = ask;
    const options = deleteOptions(ask, await this.#body(ask));
    const { object, isGone } = await this.#registry.delete(kind, ask.namespace, name, options);
    if (!isGone || DELETED_AS_OBJECT.has(kind.plural)) {
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
    const { kind } = ask;
    const options = deleteOptions(ask, await this.#body(ask));
    const selects = selectorOf(ask.query, kind);
    const items = this.#registry.list(kind, ask.namespace).filter(selects);
    for (const item of items) {
      try {
        await this.#registry.delete(kind, item.metadata.namespace, item.metadata.name, options);
      } catch (error) {
        if (!(error instanceof ApiError) || error.code !== 404) throw error;
      }
    }
    this.#lists.send(ask, items, { resourceVersion: String(this.#registry.store.version) });
  }

  /** Create-only kinds: a question, or an act on another object. */
  async #action(verb: string, ask: ResourceRequest): Promise<void> {
    if (verb !== "create") throw methodNotAllowed();
    const { kind } = ask;
    // Nothing of it is kept: there is no metadata to show, and no row of a table.
    if (renderingOf(ask.request) !== "json") throw notAcceptable();
    const object = this.#decoded(ask, await this.#body(ask));
    if (kind.plural === "bindings") {
      sendJson(
        ask.request,
        ask.response,
        201,
        await writeBinding(this.#registry, { ...ask, name: object.metadata.name }, object, writeOptions(ask)),
      );
      return;
    }
    const status = this.#review(ask, object);
    object.metadata = {} as KubeObject["metadata"];
    if (kind.kind === "SelfSubjectReview") object.metadata.creationTimestamp = timestamp();
    else this.#registry.track(kind, object, writeOptions(ask).manager);
    sendJson(ask.request, ask.response, 201, { ...object, status });
  }

  #review(ask: ResourceRequest, object: KubeObject): Body {
    const spec = (object.spec ?? {}) as Body;
    switch (ask.kind.kind) {
      case "TokenReview":
        return reviewToken(this.#authenticator, spec);
      case "SelfSubjectReview":
        return reviewSelf(ask.user);
      case "SelfSubjectRulesReview":
        return reviewRules(this.#registry.store, ask.user, String(spec["namespace"] ?? ""));
      default:
        return reviewAccess(this.#registry.store, ask, spec);
    }
  }
}

const strictRefusal = ({ kind, version }: Kind, texts: readonly string[]): string =>
  `${kind} in version "${version}" cannot be handled as a ${kind}: strict decoding error: ${texts.join(", ")}`;

/** What strict decoding says, in the order of the body. */
function strictTexts(ask: ResourceRequest, repeated: readonly string[], unknown: readonly string[]): string[] {
  const say = (path: string, isRepeated: boolean): string => {
    if (path.startsWith("line ")) return path;
    return `${isRepeated ? "duplicate" : "unknown"} field "${path}"`;
  };
  if (repeated.length > 0 && unknown.length > 0 && ask.source !== "") {
    const places = inBodyOrder(ask.source, repeated, unknown);
    if (places.length >= repeated.length + unknown.length)
      return places.map(({ path, isRepeated }) => say(path, isRepeated));
  }
  return [...repeated.map((path) => say(path, true)), ...unknown.map((path) => say(path, false))];
}

function warner(ask: ResourceRequest): (text: string) => void {
  return (text) => {
    const header = `299 - ${JSON.stringify(text.replaceAll(/[^\x20-\x7e]/g, "?"))}`;
    const present = ask.response.getHeader("warning");
    if (!(Array.isArray(present) ? present : [present]).includes(header)) ask.response.appendHeader("warning", header);
  };
}

/** How the user writes: who they are, whether for real, under which field manager. */
function writeOptions(ask: ResourceRequest): UpdateOptions {
  const options = checkOptions(ask);
  const agent = (ask.request.headers["user-agent"] ?? "").split("/")[0] ?? "";
  return {
    user: ask.user,
    isDryRun: options.isDryRun,
    warn: warner(ask),
    manager: ask.query.get("fieldManager") || agent.slice(0, 128) || "unknown",
    subresource: ask.subresource,
  };
}

function invalidOptions(kind: string, field: string, message: string, reason: string): ApiError {
  return invalid({ group: "meta.k8s.io", plural: "", kind }, "", [{ reason, message, field }]);
}

const POLICIES = ["Foreground", "Background", "Orphan"];

function deleteOptions(ask: ResourceRequest, body: Body): DeleteOptions {
  const preconditions = isObject(body["preconditions"]) ? body["preconditions"] : {};
  const grace = body["gracePeriodSeconds"] ?? ask.query.get("gracePeriodSeconds");
  const orphan = body["orphanDependents"] ?? ask.query.get("orphanDependents");
  let propagation = body["propagationPolicy"] ?? ask.query.get("propagationPolicy");
  if (propagation === undefined || propagation === null || propagation === "") {
    if (orphan === true || orphan === "true") propagation = "Orphan";
    else if (orphan === false || orphan === "false") propagation = "Background";
  } else if (!POLICIES.includes(String(propagation))) {
    const message = `Unsupported value: ${JSON.stringify(propagation)}: supported values: ${POLICIES.map((name) => `"${name}"`).join(", ")}, "nil"`;
    throw invalidOptions("DeleteOptions", "propagationPolicy", message, "FieldValueNotSupported");
  }
  const dryRun = Array.isArray(body["dryRun"]) && body["dryRun"].includes("All");
  const seconds = Number(grace);
  if (grace !== undefined && grace !== null && !Number.isInteger(seconds))
    throw badRequest(`gracePeriodSeconds ${String(grace)} is not a number`);
  return {
    ...writeOptions(ask),
    ...(dryRun ? { isDryRun: true } : {}),
    ...(grace === undefined || grace === null ? {} : { gracePeriodSeconds: seconds }),
    ...(typeof propagation === "string" ? { propagationPolicy: propagation } : {}),
    ...(typeof preconditions["uid"] === "string" ? { uid: preconditions["uid"] } : {}),
    ...(typeof preconditions["resourceVersion"] === "string"
      ? { resourceVersion: preconditions["resourceVersion"] }
      : {}),
  };
}

function patchedObject(kind: Kind, current: KubeObject, patch: unknown, type: string): unknown {
  const target = jsonClone(current);
  if (type === JSON_PATCH) return jsonPatch(target, patch);
  if (!isObject(patch)) throw badRequest("the patch must be an object");
  if (type === MERGE_PATCH) return mergePatch(target, patch);
  return strategicMerge(target, patch, kind.type);
}

function patchedScale(current: KubeObject, patch: unknown, type: string): unknown {
  if (type === JSON_PATCH) return jsonPatch(jsonClone(current), patch);
  return mergePatch(jsonClone(current), patch);
}

/** An apply of fields that the kind does not know. */
function undeclared(ask: ResourceRequest, applied: Body, unknown: readonly string[]): ApiError {
  const { namespace = "", name = "" } = (applied["metadata"] ?? {}) as { namespace?: string; name?: string };
  const texts = unknown.map((path) => `.${path.replaceAll(/\[(\d+)\]/g, "[$1]")}: field not declared in schema`);
  const list = texts.length === 1 ? texts[0] : `errors:\n  ${texts.join("\n  ")}`;
  return new ApiError(
    500,
    "",
    `failed to create typed patch object (${namespace}/${name}; ${apiVersionOf(ask.kind)}, Kind=${ask.kind.kind}): ${list}`,
  );
}

/** Of the decoded object only what the body has: decoding adds what Go shows of a type. */
function onlySent(sent: unknown, decoded: unknown): any {
  if (Array.isArray(sent) && Array.isArray(decoded)) return sent.map((item, i) => onlySent(item, decoded[i]));
  if (isObject(sent) && isObject(decoded)) {
    const entries = Object.keys(sent)
      .filter((key) => sent[key] !== null)
      // What the type leaves out as empty was said all the same.
      .map((key) => [
        key,
        decoded[key] === undefined || decoded[key] === null ? sent[key] : onlySent(sent[key], decoded[key]),
      ]);
    return Object.fromEntries(entries);
  }
  return decoded;
}

/** Who asks for a certificate is what the server knows of them. */
function nameRequester(ask: ResourceRequest, request: KubeObject): void {
  const { name, uid, groups, extra } = ask.user;
  request.spec = {
    ...(request.spec as object),
    username: name,
    groups,
    ...(uid === undefined ? {} : { uid }),
    ...(extra === undefined ? {} : { extra }),
  };
}
