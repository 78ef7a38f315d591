// What the four services share: an HTTP server with a log line for each request, calls with propagated headers, shutdown.
import { createServer, type IncomingHttpHeaders, type IncomingMessage, request, type ServerResponse } from "node:http";

const PORT = 9080;
const BODY_BYTES_MAX = 1 << 20;
/** How long requests are still taken after SIGTERM: longer than the proxy in front of us takes them. */
const GRACE_MS = 3_000;

/** Headers that every service passes on, so that traces hold together and rules see the user. */
const PROPAGATED = [
  "x-request-id",
  "x-ot-span-context",
  "x-datadog-trace-id",
  "x-datadog-parent-id",
  "x-datadog-sampling-priority",
  "traceparent",
  "tracestate",
  "x-cloud-trace-context",
  "grpc-trace-bin",
  "x-b3-traceid",
  "x-b3-spanid",
  "x-b3-parentspanid",
  "x-b3-sampled",
  "x-b3-flags",
  "sw8",
  "end-user",
  "user-agent",
  "cookie",
  "authorization",
  "jwt",
] as const;

export interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
  readonly body: string;
}

export type Handler = (ask: {
  readonly method: string;
  readonly url: URL;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}) => Promise<Answer> | Answer;

export function json(status: number, value: unknown, headers: Readonly<Record<string, string>> = {}): Answer {
  return {
    status,
    headers: { "content-type": "application/json", ...headers },
    body: typeof value === "string" ? value : JSON.stringify(value),
  };
}

/** The part of a request's headers that goes along with the calls it causes. */
export function propagated(headers: IncomingHttpHeaders): Record<string, string> {
  const entries = PROPAGATED.map((name) => [name, headers[name]] as const);
  return Object.fromEntries(
    entries.filter((entry): entry is [(typeof PROPAGATED)[number], string] => typeof entry[1] === "string"),
  );
}

/** Where another service of the application is; overridden by NAME_HOSTNAME and NAME_SERVICE_PORT. */
export function address(name: string): string {
  const upper = name.toUpperCase();
  const domain = process.env["SERVICES_DOMAIN"];
  const host = process.env[`${upper}_HOSTNAME`] ?? name;
  return `${host}${domain === undefined ? "" : `.${domain}`}:${process.env[`${upper}_SERVICE_PORT`] ?? PORT}`;
}

/** One GET. Rejects when there is no complete answer within `timeoutMs`. */
export function call(url: string, headers: Readonly<Record<string, string>>, timeoutMs: number): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const ask = request(url, { headers, agent: false, signal: AbortSignal.timeout(timeoutMs) }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString("utf8") }),
      );
    });
    ask.on("error", reject);
    ask.end();
  });
}

async function readBody(ask: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of ask as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > BODY_BYTES_MAX) throw new Error("the body is too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** The identity that the mesh vouches for: the URI of the last certificate in X-Forwarded-Client-Cert. */
function caller(headers: IncomingHttpHeaders): string {
  const certificate = headers["x-forwarded-client-cert"];
  return typeof certificate === "string" ? (/.*URI=([^;,]+)/.exec(certificate)?.[1] ?? "-") : "-";
}

/** Serves `handler` on port 9080 until SIGTERM. */
export function serve(name: string, handler: Handler): void {
  let isEnding = false;
  const serveOne = async (ask: IncomingMessage, answer: ServerResponse): Promise<void> => {
    let result: Answer;
    try {
      const url = new URL(ask.url ?? "/", `http://${name}`);
      result = await handler({ method: ask.method ?? "GET", url, headers: ask.headers, body: await readBody(ask) });
    } catch (error) {
      process.stderr.write(`${name}: ${error instanceof Error ? error.message : String(error)}\n`);
      result = json(500, { error: "internal error" });
    }
    const length = Buffer.byteLength(result.body);
    if (isEnding) answer.setHeader("connection", "close");
    answer.writeHead(result.status, { ...result.headers, "content-length": length } as Record<
      string,
      string | string[] | number
    >);
    answer.end(ask.method === "HEAD" ? undefined : result.body);
    process.stdout.write(
      `${ask.socket.remoteAddress} "${ask.method} ${ask.url} HTTP/${ask.httpVersion}" ${result.status} ${length} caller=${caller(ask.headers)}\n`,
    );
  };
  const server = createServer((ask, answer) => void serveOne(ask, answer));
  server.keepAliveTimeout = 65_000;
  server.listen(PORT, "0.0.0.0", () => process.stdout.write(`${name} listens on ${PORT}\n`));
  process.once("SIGTERM", () => {
    // Callers learn of the end a moment after we do: those who have not yet heard are still served.
    isEnding = true;
    setTimeout(() => {
      server.close(() => process.exit(0));
      server.closeIdleConnections();
    }, GRACE_MS);
  });
}
