// Probes: whether a container has started, is alive, may get traffic. HTTP, TCP, gRPC and exec, as the kubelet does them.
import { request as httpRequest } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { request as httpsRequest } from "node:https";
import { connect } from "node:net";
import type { Container, Probe } from "../api/objects.ts";

export interface ProbeResult {
  readonly ok: boolean;
  readonly message: string;
}

/** The number of a port that may be given by the name of a container port. */
function portNumber(container: Container, port: number | string): number {
  if (typeof port === "number") return port;
  return container.ports?.find((entry) => entry.name === port)?.containerPort ?? Number(port);
}

interface HttpProbe {
  readonly scheme: string;
  readonly host: string;
  readonly port: number;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
}

function probeHttp({ scheme, host, port, path, headers }: HttpProbe, timeoutMs: number): Promise<ProbeResult> {
  const send = scheme === "HTTPS" ? httpsRequest : httpRequest;
  return new Promise((resolve) => {
    const ask = send(
      {
        host,
        port,
        path,
        agent: false,
        // A pod's certificate is for its clients; the kubelet does not check it.
        rejectUnauthorized: false,
        signal: AbortSignal.timeout(timeoutMs),
        headers: { "user-agent": "kube-probe/1.34", accept: "*/*", ...headers },
      },
      (response) => {
        response.resume();
        const code = response.statusCode ?? 0;
        const ok = code >= 200 && code < 400;
        resolve({ ok, message: ok ? "" : `HTTP probe failed with statuscode: ${code}` });
      },
    );
    ask.on("error", (error) => {
      const why =
        error.name === "TimeoutError"
          ? "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
          : error.message;
      resolve({ ok: false, message: `Get "${scheme.toLowerCase()}://${host}:${port}${path}": ${why}` });
    });
    ask.end();
  });
}

/** A gRPC health check (grpc.health.v1.Health/Check): one request, of which only the status is read. */
function probeGrpc(host: string, port: number, service: string, timeoutMs: number): Promise<ProbeResult> {
  return new Promise((resolve) => {
    const session = connectHttp2(`http://${host}:${port}`);
    const end = (ok: boolean, message: string): void => {
      clearTimeout(timer);
      session.destroy();
      resolve({ ok, message });
    };
    const timer = setTimeout(
      () => end(false, `timeout: failed to connect service "${host}:${port}" within ${timeoutMs / 1000}s`),
      timeoutMs,
    );
    session.on("error", (error) => end(false, `failed to connect service "${host}:${port}": ${error.message}`));
    const call = session.request({
      ":method": "POST",
      ":path": "/grpc.health.v1.Health/Check",
      "content-type": "application/grpc",
      te: "trailers",
    });
    const name = Buffer.from(service);
    const message = name.length === 0 ? Buffer.alloc(0) : Buffer.concat([Buffer.of(0x0a, name.length), name]);
    const head = Buffer.alloc(5);
    head.writeUInt32BE(message.length, 1);
    const chunks: Buffer[] = [];
    call.on("data", (chunk: Buffer) => chunks.push(chunk));
    call.on("error", (error) => end(false, error.message));
    call.on("end", () => {
      // The message is one varint: field 1, ServingStatus; 1 is SERVING.
      const status = Buffer.concat(chunks).subarray(5)[1];
      end(
        status === 1,
        status === 1 ? "" : `service unhealthy (responded with "${status === 2 ? "NOT_SERVING" : "UNKNOWN"}")`,
      );
    });
    call.end(Buffer.concat([head, message]));
  });
}

function probeTcp(host: string, port: number, timeoutMs: number): Promise<ProbeResult> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: timeoutMs });
    const end = (ok: boolean, message: string): void => {
      socket.destroy();
      resolve({ ok, message });
    };
    socket.once("connect", () => end(true, ""));
    socket.once("timeout", () => end(false, `dial tcp ${host}:${port}: i/o timeout`));
    socket.once("error", (error) => end(false, error.message));
  });
}

function httpProbe(httpGet: NonNullable<Probe["httpGet"]>, container: Container, podIp: string): HttpProbe {
  const { host = podIp, port, path = "/", scheme = "HTTP", httpHeaders = [] } = httpGet;
  const headers = Object.fromEntries(httpHeaders.map(({ name, value }) => [name.toLowerCase(), value]));
  return { scheme, host, port: portNumber(container, port), path, headers };
}

/** Runs one probe, or the handler of a lifecycle hook, once. */
export async function runProbe(
  probe: Probe,
  container: Container,
  podIp: string,
  exec: (command: readonly string[], timeoutMs: number) => Promise<ProbeResult>,
): Promise<ProbeResult> {
  const timeoutMs = (probe.timeoutSeconds ?? 1) * 1000;
  const { httpGet, tcpSocket, grpc } = probe;
  if (httpGet !== undefined) return probeHttp(httpProbe(httpGet, container, podIp), timeoutMs);
  if (grpc !== undefined) return probeGrpc(podIp, grpc.port, grpc.service ?? "", timeoutMs);
  if (tcpSocket !== undefined)
    return probeTcp(tcpSocket.host ?? podIp, portNumber(container, tcpSocket.port), timeoutMs);
  return exec(probe.exec?.command ?? ["false"], timeoutMs);
}

/** Until a container has been well once it is asked this often: start-up should not wait for a period. */
const EAGER_MS = 50;

/** Runs a probe at its period until stopped; calls `changed` when the thresholds are crossed. */
export class Prober {
  readonly #probe: Probe;
  readonly #run: () => Promise<ProbeResult>;
  readonly #changed: (ok: boolean, message: string) => void;
  #timer: NodeJS.Timeout | undefined;
  #good = 0;
  #bad = 0;
  #wasWell = false;
  #countedAt = Number.NEGATIVE_INFINITY;
  #stopped = false;

  constructor(probe: Probe, run: () => Promise<ProbeResult>, changed: (ok: boolean, message: string) => void) {
    this.#probe = probe;
    this.#run = run;
    this.#changed = changed;
    this.#timer = setTimeout(() => void this.#tick(), (probe.initialDelaySeconds ?? 0) * 1000);
  }

  async #tick(): Promise<void> {
    const { ok, message } = await this.#run();
    if (this.#stopped) return;
    // The quick attempts before the first success count as one each period.
    const periodMs = (this.#probe.periodSeconds ?? 10) * 1000;
    if (!ok && !this.#wasWell && performance.now() - this.#countedAt < periodMs) {
      this.#timer = setTimeout(() => void this.#tick(), Math.min(periodMs, EAGER_MS));
      return;
    }
    this.#countedAt = performance.now();
    this.#wasWell ||= ok;
    this.#good = ok ? this.#good + 1 : 0;
    this.#bad = ok ? 0 : this.#bad + 1;
    if (this.#good === (this.#probe.successThreshold ?? 1)) this.#changed(true, message);
    if (this.#bad > 0 && this.#bad % (this.#probe.failureThreshold ?? 3) === 0) this.#changed(false, message);
    if (!this.#stopped)
      this.#timer = setTimeout(() => void this.#tick(), this.#wasWell ? periodMs : Math.min(periodMs, EAGER_MS));
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }
}
