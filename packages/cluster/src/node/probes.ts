// Probes: whether a container has started, is alive, may get traffic. HTTP, TCP and exec, as the kubelet does them.
import { request } from "node:http";
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

function probeHttp(host: string, port: number, path: string, timeoutMs: number): Promise<ProbeResult> {
  return new Promise((resolve) => {
    const ask = request(
      {
        host,
        port,
        path,
        agent: false,
        signal: AbortSignal.timeout(timeoutMs),
        headers: { "user-agent": "kube-probe/1.34", accept: "*/*" },
      },
      (response) => {
        response.resume();
        const code = response.statusCode ?? 0;
        const ok = code >= 200 && code < 400;
        resolve({ ok, message: ok ? "" : `HTTP probe failed with statuscode: ${code}` });
      },
    );
    ask.on("error", (error) =>
      resolve({ ok: false, message: `Get "http://${host}:${port}${path}": ${error.message}` }),
    );
    ask.end();
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

/** Runs one probe once. */
export async function runProbe(
  probe: Probe,
  container: Container,
  podIp: string,
  exec: (command: readonly string[], timeoutMs: number) => Promise<ProbeResult>,
): Promise<ProbeResult> {
  const timeoutMs = (probe.timeoutSeconds ?? 1) * 1000;
  const { httpGet, tcpSocket } = probe;
  if (httpGet !== undefined) {
    return probeHttp(httpGet.host ?? podIp, portNumber(container, httpGet.port), httpGet.path ?? "/", timeoutMs);
  }
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
