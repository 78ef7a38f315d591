// The API's proxy: requests handed on to a pod or to an endpoint of a Service (`.../proxy/path`), whatever their method.
import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { ApiError, badRequest, notFound } from "../api/errors.ts";
import { builtIn } from "../api/kinds.ts";
import type { EndpointSlice, Pod, Service } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import type { ResourceRequest } from "../api/server.ts";

interface Target {
  readonly scheme: string;
  readonly host: string;
  readonly port: number;
}

/** `[https:]name[:port]`, as the path names what is proxied. */
function parseName(text: string): { scheme: string; name: string; port: string } {
  const parts = text.split(":");
  if (parts.length === 3) return { scheme: parts[0] || "http", name: parts[1] ?? "", port: parts[2] ?? "" };
  return { scheme: "http", name: parts[0] ?? "", port: parts[1] ?? "" };
}

function podTarget(registry: Registry, ask: ResourceRequest): Target {
  const { scheme, name, port } = parseName(ask.name ?? "");
  const pod = registry.get(builtIn("pods"), ask.namespace, name) as Pod;
  const ports = pod.spec.containers.flatMap((container) => container.ports ?? []);
  const number =
    Number(port) || ports.find((entry) => entry.name === port)?.containerPort || ports[0]?.containerPort || 80;
  if (pod.status.podIP === undefined) throw badRequest(`address not allowed: pod ${name} has no address`);
  return { scheme, host: pod.status.podIP, port: number };
}

function serviceTarget(registry: Registry, ask: ResourceRequest): Target {
  const { scheme, name, port } = parseName(ask.name ?? "");
  const service = registry.get(builtIn("services"), ask.namespace, name) as Service;
  const ports = service.spec.ports ?? [];
  const wanted =
    port === "" && ports.length === 1
      ? ports[0]
      : ports.find((entry) => entry.name === port || String(entry.port) === port);
  if (wanted === undefined)
    throw new ApiError(503, "ServiceUnavailable", `no service port "${port}" found for service "${name}"`);
  const slices = registry.list(builtIn("endpointslices"), ask.namespace) as EndpointSlice[];
  for (const slice of slices) {
    if (slice.metadata.labels?.["kubernetes.io/service-name"] !== name) continue;
    const number = (slice.ports ?? []).find((entry) => (entry.name ?? "") === (wanted.name ?? ""))?.port;
    const host = (slice.endpoints ?? []).find((endpoint) => endpoint.conditions?.ready !== false)?.addresses[0];
    if (number !== undefined && host !== undefined) return { scheme, host, port: number };
  }
  throw new ApiError(503, "ServiceUnavailable", `no endpoints available for service "${ask.name}"`, {});
}

const HOP_HEADERS = [
  "authorization",
  "connection",
  "host",
  "keep-alive",
  "proxy-authorization",
  "te",
  "transfer-encoding",
  "upgrade",
];

/** Serves one proxied request. */
export function serveProxy(registry: Registry, ask: ResourceRequest): Promise<void> {
  const { kind, request, response } = ask;
  if (kind.plural !== "pods" && kind.plural !== "services") throw notFound(kind, ask.name ?? "");
  const target = kind.plural === "pods" ? podTarget(registry, ask) : serviceTarget(registry, ask);
  const search = new URL(request.url ?? "/", "https://api").search;
  const path = `/${ask.rest.split("/").map(encodeURIComponent).join("/")}${search}`;
  const headers = Object.fromEntries(Object.entries(request.headers).filter(([name]) => !HOP_HEADERS.includes(name)));
  const send = target.scheme === "https" ? httpsRequest : httpRequest;
  return new Promise((resolve, reject) => {
    const call = send(
      {
        host: target.host,
        port: target.port,
        path,
        method: request.method,
        headers,
        rejectUnauthorized: false,
        agent: false,
      },
      (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
        answer.once("close", resolve);
      },
    );
    call.once("error", (error) => {
      const message = `error trying to reach service: ${error.message}`;
      if (response.headersSent) response.destroy();
      else reject(new ApiError(503, "ServiceUnavailable", message, {}));
    });
    response.once("close", () => call.destroy());
    request.pipe(call);
  });
}
