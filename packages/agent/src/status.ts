// The agent's own port, 15020: readiness (Envoy's listener on 15021 leads here), statistics of proxy and application.
import { createServer, get, type IncomingMessage, type Server } from "node:http";

const ADMIN_PORT = 15000;
const STATUS_PORT = 15020;
const TIMEOUT_MS = 3_000;

function fetchText(port: number, path: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    get({ host: "127.0.0.1", port, path, signal: AbortSignal.timeout(TIMEOUT_MS) }, (response: IncomingMessage) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString("utf8") }),
      );
    }).on("error", reject);
  });
}

/** What the annotations say of the application's own statistics, unless they are ours. */
function applicationMetrics(): { port: number; path: string } | undefined {
  const saved = process.env["ISTIO_PROMETHEUS_ANNOTATIONS"];
  if (saved === undefined) return undefined;
  const { port, path } = JSON.parse(saved) as { port?: string; path?: string };
  return port === undefined ? undefined : { port: Number(port), path: path ?? "/metrics" };
}

/** Serves port 15020 on all addresses. */
export function serveStatus(onQuit: () => void): Promise<Server> {
  const server = createServer((request, response) => {
    const path = (request.url ?? "/").split("?")[0];
    const answer = async (): Promise<void> => {
      if (path === "/healthz/ready") {
        // LIVE: Envoy has its first listeners and clusters and has warmed them.
        const { status, body } = await fetchText(ADMIN_PORT, "/ready");
        response.writeHead(status === 200 ? 200 : 503).end(status === 200 ? "" : `Envoy is ${body.trim()}\n`);
      } else if (path === "/stats/prometheus") {
        const own = await fetchText(ADMIN_PORT, "/stats/prometheus");
        const application = applicationMetrics();
        const theirs =
          application === undefined
            ? undefined
            : await fetchText(application.port, application.path).catch(() => undefined);
        response
          .writeHead(200, { "content-type": "text/plain; version=0.0.4" })
          .end(`${own.body}${theirs?.body ?? ""}`);
      } else if (path === "/quitquitquit" && request.method === "POST") {
        response.end("ok\n");
        onQuit();
      } else response.writeHead(404).end("not found\n");
    };
    answer().catch((error: unknown) => response.writeHead(503).end(`${String(error)}\n`));
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(STATUS_PORT, () => resolve(server));
  });
}
