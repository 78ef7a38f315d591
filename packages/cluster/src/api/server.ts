// The API server: HTTPS in, the registry behind. Authentication, authorization, content negotiation, routing.
// One request goes: authenticate -> route (path to kind, namespace, name, subresource) -> authorize -> handler -> answer.
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import { contentHash, errorText } from "@lateen/base";
import type { Identity } from "@lateen/x509";
import { type Action, type Authenticator, forbidden, isAllowed, type TokenSigner, type User } from "./auth.ts";
import type { CustomKind } from "./custom.ts";
import {
  aggregated,
  coreVersions,
  groupList,
  oneGroup,
  openApiDocument,
  openApiIndex,
  resourceList,
  SERVER_VERSION,
} from "./discovery.ts";
import { ApiError, methodNotAllowed, resourceNotFound } from "./errors.ts";
import { ResourceHandler } from "./handlers.ts";
import type { Kind } from "./kinds.ts";
import type { Registry } from "./registry.ts";

/** What the node does for the API: streams into and out of containers. */
export interface NodePort {
  /** Answers `log` requests on `response`. */
  logs(namespace: string, pod: string, query: URLSearchParams, response: ServerResponse): Promise<void>;
  /** Takes over the socket of an `exec` request. */
  exec(
    namespace: string,
    pod: string,
    query: URLSearchParams,
    upgrade: { request: IncomingMessage; socket: Duplex; head: Buffer },
  ): Promise<void>;
}

/** A request about a resource. */
export interface ResourceRequest {
  readonly kind: Kind;
  readonly namespace: string | undefined;
  readonly name: string | undefined;
  readonly subresource: string;
  readonly query: URLSearchParams;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly user: User;
}

export interface ApiServerParts {
  readonly registry: Registry;
  readonly authenticator: Authenticator;
  readonly signer: TokenSigner;
  readonly node: NodePort;
  readonly tls: Identity & { readonly authorityPem: string };
  readonly address: string;
}

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
  const [plural, name, subresource = "", ...extra] = rest;
  if (plural === undefined) return undefined;
  const kind = find(group, version, plural);
  if (kind === undefined || extra.length > 0 || (namespace !== undefined && !kind.isNamespaced))
    return { kind: undefined, group, version };
  return { kind, namespace, name, subresource, group, version };
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
  const isWatch = query.get("watch") === "true" || query.get("watch") === "1";
  return isWatch ? "watch" : name === undefined ? "list" : "get";
}

export class ApiServer {
  readonly #parts: ApiServerParts;
  readonly #handler: ResourceHandler;
  readonly servers: Server[] = [];
  #isReady = false;

  constructor(parts: ApiServerParts) {
    this.#parts = parts;
    this.#handler = new ResourceHandler(parts.registry, parts.authenticator, parts.signer, parts.node);
  }

  /** From now on /readyz says ok. */
  setReady(): void {
    this.#isReady = true;
  }

  /** Listens on one more address. */
  listen(where: { readonly path: string } | { readonly host: string; readonly port: number }): Promise<void> {
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
      const user = this.#parts.authenticator.authenticate(request.socket as TLSSocket, request.headers.authorization);
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
    const { code } = failure as ApiError;
    if (response.headersSent) response.destroy();
    else sendJson(request, response, code, (failure as ApiError).toStatus());
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
      this.#serveDiscovery(url, request, response);
      return;
    }
    const { kind } = found;
    if (kind === undefined) {
      if (registry.kinds.all().some((entry) => entry.group === found.group && entry.version === found.version))
        throw resourceNotFound();
      throw pageNotFound();
    }
    const verb = verbOf(request.method ?? "GET", url.searchParams, found.name);
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
    this.#authorize(user, action);
    await this.#handler.handle(verb, {
      kind,
      namespace,
      name,
      subresource,
      query: url.searchParams,
      request,
      response,
      user,
    });
  }

  #authorize(user: User, action: Action): void {
    if (!isAllowed(this.#parts.registry.store, user, action)) throw forbidden(user, action);
  }

  #serveDiscovery(url: URL, request: IncomingMessage, response: ServerResponse): void {
    const { kinds } = this.#parts.registry;
    const steps = url.pathname.split("/").filter((step) => step !== "");
    const [root, first, second] = steps;
    const schemas = (kind: Kind): unknown => (kind as Partial<CustomKind>).schema;
    let body: unknown;
    if (root === "openapi" && first === "v3") {
      const path = steps.slice(2).join("/");
      body = path === "" ? openApiIndex(kinds, schemas) : openApiDocument(kinds, path, schemas);
    } else if ((root === "api" || root === "apis") && first === undefined) {
      if ((request.headers.accept ?? "").includes("as=APIGroupDiscoveryList")) {
        this.#sendAggregated(aggregated(kinds, root === "api"), request, response);
        return;
      }
      body = root === "api" ? coreVersions(this.#parts.address) : groupList(kinds);
    } else if (root === "api" && second === undefined) body = resourceList(kinds, "", first ?? "");
    else if (root === "apis" && second === undefined) body = oneGroup(kinds, first ?? "");
    else if (root === "apis") body = resourceList(kinds, first ?? "", second ?? "");
    if (body === undefined) throw pageNotFound();
    sendJson(request, response, 200, body);
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
      const user = this.#parts.authenticator.authenticate(request.socket as TLSSocket, request.headers.authorization);
      const { registry, node } = this.#parts;
      const found = parseResourcePath(url.pathname, (group, version, plural) =>
        registry.kinds.find(group, version, plural),
      );
      if (found?.kind?.plural !== "pods" || found.subresource !== "exec" || found.name === undefined)
        throw resourceNotFound();
      const { namespace = "", name } = found;
      this.#authorize(user, { verb: "create", group: "", resource: "pods", subresource: "exec", namespace, name });
      await node.exec(namespace, name, url.searchParams, { request, socket, head });
    } catch (error) {
      const failure = error instanceof ApiError ? error : new ApiError(500, "InternalError", errorText(error));
      const body = JSON.stringify(failure.toStatus());
      socket.end(
        `HTTP/1.1 ${failure.code} ${failure.reason}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
      );
    }
  }
}

/** Real servers answer unknown paths in plain text; as a Status the message is the same. */
function pageNotFound(): ApiError {
  return new ApiError(404, "NotFound", "404 page not found", {});
}
