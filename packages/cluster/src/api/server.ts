// The API server: HTTPS in, the registry behind. Authentication, authorization, content negotiation, routing.
// One request goes: authenticate -> route (path to kind, namespace, name, subresource) -> authorize -> handler -> answer.
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import { contentHash, errorText } from "@lateen/base";
import type { Identity } from "@lateen/x509";
import { type Action, type Authenticator, forbidden, isAllowed, type TokenSigner, type User } from "./auth.ts";
import { aggregated, coreVersions, groupList, oneGroup, resourceList, SERVER_VERSION } from "./discovery.ts";
import { ApiError, methodNotAllowed, resourceNotFound } from "./errors.ts";
import { ResourceHandler } from "./handlers.ts";
import type { Kind } from "./kinds.ts";
import { ApiMetrics } from "./metrics.ts";
import { OpenApi } from "./openapi.ts";
import type { Registry } from "./registry.ts";
import { WatchBudget } from "./watch-budget.ts";

/** What the node does for the API: streams into and out of containers. */
export interface NodePort {
  /** Answers `log` requests on `response`. */
  logs(namespace: string, pod: string, query: URLSearchParams, response: ServerResponse): Promise<void>;
  /** Takes over the socket of an `exec`, `attach` or `portforward` request. */
  stream(
    how: string,
    namespace: string,
    pod: string,
    query: URLSearchParams,
    upgrade: { request: IncomingMessage; socket: Duplex; head: Buffer },
  ): Promise<void>;
  /** Hands a request on to a pod, a Service's endpoint or a node. */
  proxy(ask: ResourceRequest): Promise<void>;
}

/** A request about a resource. */
/** How metrics name the verbs that are not said as they are. */
const METRIC_VERBS: Readonly<Record<string, string>> = {
  create: "POST",
  update: "PUT",
  deletecollection: "DELETECOLLECTION",
};

export interface ResourceRequest {
  readonly kind: Kind;
  readonly namespace: string | undefined;
  readonly name: string | undefined;
  readonly subresource: string;
  /** What follows the subresource in the path (proxy). */
  readonly rest: string;
  readonly query: URLSearchParams;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly user: User;
  /** Paths of fields that the body has twice, and its text; filled when it is read. */
  readonly repeated: string[];
  source: string;
}

export interface ApiServerParts {
  readonly registry: Registry;
  readonly authenticator: Authenticator;
  readonly signer: TokenSigner;
  readonly node: NodePort;
  readonly tls: Identity & { readonly authorityPem: string };
  readonly address: string;
}

const YEAR_MS = 365 * 86_400_000;
const OPEN_PATHS = new Set(["/livez", "/readyz", "/healthz", "/version"]);

export function sendJson(request: IncomingMessage, response: ServerResponse, code: number, body: unknown): void {
  const isForPeople =
    /^(curl|Wget|Mozilla)\b/.test(request.headers["user-agent"] ?? "") || request.url?.includes("pretty=true") === true;
  const text = `${isForPeople ? JSON.stringify(body, null, 2) : JSON.stringify(body)}\n`;
  response.writeHead(code, {
    "content-type": "application/json",
    "cache-control": "no-cache, private",
    "content-length": Buffer.byteLength(text),
  });
  response.end(text);
}

/** Path to kind, namespace, name and subresource; undefined for what is no resource path. */
function parseResourcePath(path: string, find: (group: string, version: string, plural: string) => Kind | undefined) {
  const steps = path
    .split("/")
    .filter((step) => step !== "")
    .map(decodeURIComponent);
  const isCore = steps[0] === "api";
  if (!isCore && steps[0] !== "apis") return undefined;
  const [group = "", version = ""] = isCore ? ["", steps[1]] : [steps[1], steps[2]];
  let rest = steps.slice(isCore ? 2 : 3);
  let namespace: string | undefined;
  if (rest[0] === "namespaces" && rest.length > 2 && rest[2] !== "status" && rest[2] !== "finalize") {
    namespace = rest[1];
    rest = rest.slice(2);
  }
  // The older form of a watch: /api/v1/watch/...
  const isWatch = rest[0] === "watch" && rest.length > 1;
  if (isWatch) rest = rest.slice(1);
  if (isWatch && rest[0] === "namespaces" && rest.length > 2) {
    namespace = rest[1];
    rest = rest.slice(2);
  }
  const [plural, name, subresource = "", ...extra] = rest;
  if (plural === undefined) return undefined;
  const kind = find(group, version, plural);
  const isDeep = extra.length > 0 && subresource !== "proxy";
  if (kind === undefined || isDeep || (namespace !== undefined && !kind.isNamespaced))
    return { kind: undefined, group, version };
  return { kind, namespace, name, subresource, group, version, isWatch, rest: extra.join("/") };
}

const STREAMS = new Set(["exec", "attach", "portforward"]);

const CONNECT_KINDS: Readonly<Record<string, string>> = {
  exec: "PodExecOptions",
  attach: "PodAttachOptions",
  portforward: "PodPortForwardOptions",
};

/** The query of a connection as the object that admission sees. */
function connectOptions(subresource: string, query: URLSearchParams): Record<string, unknown> {
  const flags = ["stdin", "stdout", "stderr", "tty"].filter(
    (name) => query.get(name) === "true" || query.get(name) === "1",
  );
  const command = query.getAll("command");
  const container = query.get("container");
  return {
    kind: CONNECT_KINDS[subresource],
    ...Object.fromEntries(flags.map((name) => [name, true])),
    ...(container === null ? {} : { container }),
    ...(command.length === 0 ? {} : { command }),
  };
}

const METHOD_VERBS: Readonly<Record<string, string>> = {
  POST: "create",
  PUT: "update",
  PATCH: "patch",
  DELETE: "delete",
};

function verbOf(method: string, query: URLSearchParams, name: string | undefined): string | undefined {
  if (method !== "GET") {
    const verb = METHOD_VERBS[method];
    return verb === "delete" && name === undefined ? "deletecollection" : verb;
  }
  const watch = query.get("watch");
  const isWatch = watch !== null && watch !== "0" && watch.toLowerCase() !== "false";
  return isWatch ? "watch" : name === undefined ? "list" : "get";
}

export class ApiServer {
  readonly #parts: ApiServerParts;
  readonly #handler: ResourceHandler;
  readonly #metrics = new ApiMetrics();
  readonly #openApi: OpenApi;
  readonly servers: Server[] = [];
  #isReady = false;

  constructor(parts: ApiServerParts) {
    this.#parts = parts;
    this.#openApi = new OpenApi(parts.registry.kinds);
    this.#handler = new ResourceHandler({ ...parts, budget: new WatchBudget(this.#metrics) });
  }

  /** From now on /readyz says ok. */
  setReady(): void {
    this.#isReady = true;
  }

  /** Listens on one more address. */
  listen(
    where: { readonly path: string } | { readonly fd: number } | { readonly host: string; readonly port: number },
  ): Promise<void> {
    const { tls } = this.#parts;
    const server = createServer({
      cert: tls.certificatePem,
      key: tls.keyPem,
      ca: tls.authorityPem,
      requestCert: true,
      rejectUnauthorized: false,
      minVersion: "TLSv1.2",
      ALPNProtocols: ["http/1.1"],
      keepAliveTimeout: 120_000,
    });
    server.on("request", (request, response) => void this.#serve(request, response));
    server.on("upgrade", (request, socket, head) => void this.#upgrade(request, socket, head));
    server.on("tlsClientError", () => {});
    this.servers.push(server);
    return new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen({ ...where, backlog: 4096 }, resolve);
    });
  }

  close(): void {
    for (const server of this.servers) {
      server.close();
      server.closeAllConnections();
    }
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const url = new URL(request.url ?? "/", "https://api");
      if (await this.#serveOpen(url.pathname, request, response)) return;
      const user = this.#userOf(request);
      await this.#route(url, user, request, response);
    } catch (error) {
      this.#fail(request, response, error);
    }
  }

  #fail(request: IncomingMessage, response: ServerResponse, error: unknown): void {
    let failure = error;
    if (error instanceof URIError) failure = new ApiError(400, "BadRequest", "the path is not valid");
    if (!(failure instanceof ApiError)) {
      const text = errorText(error);
      process.stderr.write(`api: ${request.method} ${request.url}: ${error instanceof Error ? error.stack : text}\n`);
      failure = new ApiError(500, "InternalError", `Internal error occurred: ${text}`, { causes: [{ message: text }] });
    }
    const { code, details } = failure as ApiError;
    if (response.headersSent) {
      response.destroy();
      return;
    }
    if (failure instanceof PageNotFound) {
      response.writeHead(404, { "content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff" });
      response.end("404 page not found\n");
      return;
    }
    if (details?.retryAfterSeconds !== undefined) response.setHeader("retry-after", String(details.retryAfterSeconds));
    sendJson(request, response, code, (failure as ApiError).toStatus());
  }

  /** What everybody may ask: health and version. */
  async #serveOpen(path: string, request: IncomingMessage, response: ServerResponse): Promise<boolean> {
    if (!OPEN_PATHS.has(path)) return false;
    if (path === "/version") sendJson(request, response, 200, SERVER_VERSION);
    else {
      const isUp = path !== "/readyz" || this.#isReady;
      response.writeHead(isUp ? 200 : 500, { "content-type": "text/plain; charset=utf-8" });
      response.end(isUp ? "ok" : "not ready");
    }
    return true;
  }

  async #route(url: URL, user: User, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { registry } = this.#parts;
    const found = parseResourcePath(url.pathname, (group, version, plural) =>
      registry.kinds.find(group, version, plural),
    );
    if (found === undefined) {
      this.#authorize(user, {
        verb: (request.method ?? "get").toLowerCase(),
        group: "",
        resource: "",
        subresource: "",
        namespace: "",
        name: "",
        path: url.pathname,
      });
      if (url.pathname === "/metrics") {
        response.writeHead(200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" });
        response.end(this.#metrics.text(registry.store));
      } else await this.#serveDiscovery(url, request, response);
      return;
    }
    const { kind } = found;
    if (kind === undefined) {
      if (registry.kinds.all().some((entry) => entry.group === found.group && entry.version === found.version))
        throw resourceNotFound();
      throw pageNotFound();
    }
    if (found.isWatch) url.searchParams.set("watch", "true");
    let verb = verbOf(request.method ?? "GET", url.searchParams, found.name);
    if (found.subresource === "proxy" && verb === undefined) verb = "get";
    if (verb === undefined) throw methodNotAllowed();
    const { namespace, name, subresource } = found;
    const action = {
      verb,
      group: kind.group,
      resource: kind.plural,
      subresource,
      namespace: namespace ?? "",
      name: name ?? "",
    };
    this.#count(action, kind, response);
    this.#authorize(user, action);
    await this.#handler.handle(verb, {
      kind,
      namespace,
      name,
      subresource,
      rest: found.rest ?? "",
      query: url.searchParams,
      request,
      response,
      user,
      repeated: [],
      source: "",
    });
  }

  /** Counts the request under its status when it has been answered. */
  #count({ verb, group, resource, subresource }: Action, { version }: Kind, response: ServerResponse): void {
    const labels = { verb: METRIC_VERBS[verb] ?? verb.toUpperCase(), group, version, resource, subresource };
    const isWatch = verb === "watch";
    if (isWatch) this.#metrics.watches.add(labels);
    response.once("close", () => {
      if (isWatch) this.#metrics.watches.add(labels, -1);
      this.#metrics.requests.add({ ...labels, code: String(response.statusCode) });
    });
  }

  /** Who asks: the user behind the request, or the one that they may impersonate. */
  #userOf(request: IncomingMessage): User {
    const { authenticator } = this.#parts;
    const user = authenticator.authenticate(request.socket as TLSSocket, request.headers.authorization);
    const other = impersonated(request);
    if (other === undefined) return user;
    const may = (resource: string, name: string, group = ""): void =>
      this.#authorize(user, { verb: "impersonate", group, resource, subresource: "", namespace: "", name });
    const account = /^system:serviceaccount:([^:]+):([^:]+)$/.exec(other.name);
    if (account === null) may("users", other.name);
    else {
      const [, namespace = "", name = ""] = account;
      this.#authorize(user, {
        verb: "impersonate",
        group: "",
        resource: "serviceaccounts",
        subresource: "",
        namespace,
        name,
      });
    }
    const given = new Set([request.headers["impersonate-group"] ?? []].flat().flatMap((text) => text.split(/,\s*/)));
    for (const group of given) may("groups", group);
    return other;
  }

  #authorize(user: User, action: Action): void {
    if (!isAllowed(this.#parts.registry.store, user, action)) throw forbidden(user, action);
  }

  async #serveDiscovery(url: URL, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { kinds } = this.#parts.registry;
    const steps = url.pathname.split("/").filter((step) => step !== "");
    const [root, first, second] = steps;
    let body: unknown;
    if (root === "openapi") {
      return this.#sendOpenApi(url, steps.slice(1), request, response);
    }
    if (root === ".well-known" || (root === "openid" && first === "v1")) {
      this.#sendKeys(root, second, response);
      return;
    }
    if (root === undefined) body = { paths: this.#paths() };
    else if ((root === "api" || root === "apis") && first === undefined) {
      if ((request.headers.accept ?? "").includes("as=APIGroupDiscoveryList")) {
        this.#sendAggregated(aggregated(kinds, root === "api"), request, response);
        return;
      }
      body = root === "api" ? coreVersions(this.#parts.address) : groupList(kinds);
    } else if (root === "api" && second === undefined) body = resourceList(kinds, "", first ?? "");
    else if (root === "apis" && second === undefined) body = oneGroup(kinds, first ?? "");
    else if (root === "apis") body = resourceList(kinds, first ?? "", second ?? "");
    if (body === undefined) {
      const isGroup = root === "apis" && kinds.all().some(({ group }) => group === first);
      throw isGroup ? resourceNotFound() : pageNotFound();
    }
    sendJson(request, response, 200, body);
  }

  #paths(): string[] {
    const { kinds } = this.#parts.registry;
    const groups = kinds
      .all()
      .flatMap(({ group, version }) => (group === "" ? [] : [`/apis/${group}`, `/apis/${group}/${version}`]));
    const others = [
      "/api",
      "/api/v1",
      "/apis",
      "/healthz",
      "/livez",
      "/metrics",
      "/openapi/v2",
      "/openapi/v3",
      "/readyz",
      "/version",
    ];
    return [...new Set([...others, ...groups])].toSorted();
  }

  async #sendOpenApi(
    url: URL,
    steps: readonly string[],
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const [version, ...rest] = steps;
    const path = rest.join("/");
    const head = { "content-type": "application/json", vary: "Accept" };
    if (version === "v3" && path === "") {
      response.writeHead(200, head).end(this.#openApi.index());
      return;
    }
    const found =
      version === "v2" && path === ""
        ? this.#openApi.swagger()
        : version === "v3"
          ? this.#openApi.document(path)
          : undefined;
    if (found === undefined) throw pageNotFound();
    if (version === "v2" && /^application\/com\.github\.[^,]*protobuf/.test(request.headers.accept ?? "")) {
      const type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
      response.writeHead(200, { ...head, "content-type": type }).end(await this.#openApi.swaggerProtobuf());
      return;
    }
    const asked = url.searchParams.get("hash");
    if (version === "v3" && asked !== null && asked !== found.hash) {
      response.writeHead(301, { location: `/openapi/v3/${path}?hash=${found.hash}` }).end();
      return;
    }
    const etag = `"${found.hash}"`;
    if (request.headers["if-none-match"] === etag) {
      response.writeHead(304, { etag }).end();
      return;
    }
    const caching: Record<string, string> =
      asked === null
        ? {}
        : { "cache-control": "public, immutable", expires: new Date(Date.now() + YEAR_MS).toUTCString() };
    response.writeHead(200, { ...head, etag, ...caching }).end(found.text);
  }

  /** What others need to check ServiceAccount tokens: OpenID discovery and the public key. */
  #sendKeys(root: string, second: string | undefined, response: ServerResponse): void {
    const { signer } = this.#parts;
    if (root === "openid" && second !== "jwks") throw pageNotFound();
    const type = root === "openid" ? "application/jwk-set+json" : "application/json";
    response.writeHead(200, { "content-type": type, "cache-control": "public, max-age=3600" });
    response.end(JSON.stringify(root === "openid" ? signer.keySet() : signer.discovery()));
  }

  #sendAggregated(body: unknown, request: IncomingMessage, response: ServerResponse): void {
    const text = `${JSON.stringify(body)}\n`;
    const etag = `"${contentHash(text).toUpperCase()}"`;
    const accept = request.headers.accept ?? "";
    const version = accept.includes("v=v2;") || accept.includes("v=v2,") ? "v2" : "v2beta1";
    const head = { etag, vary: "Accept", "cache-control": "public" };
    if (request.headers["if-none-match"] === etag) {
      response.writeHead(304, head).end();
      return;
    }
    const type = `application/json;g=apidiscovery.k8s.io;v=${version};as=APIGroupDiscoveryList`;
    response.writeHead(200, { ...head, "content-type": type });
    response.end(version === "v2" ? text : text.replace("apidiscovery.k8s.io/v2", "apidiscovery.k8s.io/v2beta1"));
  }

  async #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    socket.on("error", () => {});
    try {
      const url = new URL(request.url ?? "/", "https://api");
      const user = this.#userOf(request);
      const { registry, node } = this.#parts;
      const found = parseResourcePath(url.pathname, (group, version, plural) =>
        registry.kinds.find(group, version, plural),
      );
      const { kind, namespace = "", name = "", subresource = "" } = found ?? {};
      if (kind?.plural !== "pods" || !STREAMS.has(subresource) || name === "") throw resourceNotFound();
      const verb = request.method === "POST" ? "create" : "get";
      this.#authorize(user, { verb, group: "", resource: "pods", subresource, namespace, name });
      const options = connectOptions(subresource, url.searchParams);
      await registry.admitConnect(kind, { namespace, name, subresource, options }, user);
      await node.stream(subresource, namespace, name, url.searchParams, { request, socket, head });
    } catch (error) {
      const failure = error instanceof ApiError ? error : new ApiError(500, "InternalError", errorText(error));
      const body = JSON.stringify(failure.toStatus());
      socket.end(
        `HTTP/1.1 ${failure.code} ${failure.reason}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
      );
    }
  }
}

/** The user that a request asks to act as (Impersonate-User, -Group, -Uid, -Extra-*). */
function impersonated(request: IncomingMessage): User | undefined {
  const { headers } = request;
  const name = headers["impersonate-user"];
  if (typeof name !== "string" || name === "") return undefined;
  const groups = [headers["impersonate-group"] ?? []].flat().flatMap((text) => text.split(/,\s*/));
  const account = /^system:serviceaccount:([^:]+):/.exec(name)?.[1];
  const own = account === undefined ? [] : ["system:serviceaccounts", `system:serviceaccounts:${account}`];
  const base = name === "system:anonymous" ? "system:unauthenticated" : "system:authenticated";
  const uid = headers["impersonate-uid"];
  const extra = Object.entries(headers).flatMap(([key, value]) =>
    key.startsWith("impersonate-extra-") && value !== undefined
      ? [[decodeURIComponent(key.slice(18)), [value].flat()] as const]
      : [],
  );
  return {
    name,
    groups: [...new Set([...(groups.length > 0 ? groups : own), base])],
    ...(typeof uid === "string" ? { uid } : {}),
    ...(extra.length > 0 ? { extra: Object.fromEntries(extra) } : {}),
  };
}

/** Paths that are not served at all are answered in plain text. */
class PageNotFound extends ApiError {}

function pageNotFound(): ApiError {
  return new PageNotFound(404, "NotFound", "404 page not found", {});
}
