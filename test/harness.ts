// What the scenario tests share: instances of their own, kubectl, requests, waiting for what can be observed.
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { type IncomingHttpHeaders, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Instance } from "@lateen/cluster";

export const ROOT = join(import.meta.dirname, "..");
export const NETWORKING = join(ROOT, "samples/bookinfo/networking");
const CLI = join(ROOT, "packages/cli/src/main.ts");

export interface Output {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end. */
export function run(
  command: string,
  args: readonly string[],
  options: { readonly env?: Record<string, string>; readonly input?: string; readonly timeoutMs?: number } = {},
): Promise<Output> {
  return new Promise((resolve) => {
    const child = execFile(
      command,
      [...args],
      { env: { ...process.env, ...options.env }, timeout: options.timeoutMs ?? 120_000, maxBuffer: 64 << 20 },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : 1;
        resolve({ code, stdout, stderr });
      },
    );
    // A program may end without reading what it is given.
    child.stdin?.on("error", () => {});
    child.stdin?.end(options.input ?? "");
  });
}

/** The command that prints the HTTP status of `url`, for a container with curl; gives up after 5 s. */
export function curlStatus(url: string): string[] {
  return ["curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url];
}

/** Calls `probe` until it gives something other than undefined or false; fails after the limit. */
export async function eventually<T>(
  what: string,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  limitMs = 30_000,
): Promise<T> {
  const limit = performance.now() + limitMs;
  for (;;) {
    const found = await probe();
    if (found !== undefined && found !== false) return found;
    assert.ok(performance.now() < limit, `${what}: not within ${limitMs} ms`);
    await delay(20);
  }
}

export interface Page {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** One HTTP request over a connection of its own. */
export function fetchPage(
  url: string,
  options: {
    readonly method?: string;
    readonly headers?: Record<string, string>;
    readonly body?: string;
    readonly timeoutMs?: number;
  } = {},
): Promise<Page> {
  return new Promise((resolve, reject) => {
    const ask = request(
      url,
      {
        agent: false,
        method: options.method ?? "GET",
        headers: options.headers ?? {},
        signal: AbortSignal.timeout(options.timeoutMs ?? 30_000),
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("error", reject);
        response.on("end", () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: Buffer.concat(chunks).toString("utf8"),
          }),
        );
      },
    );
    ask.on("error", reject);
    ask.end(options.body);
  });
}

/** An instance of its own, in a temporary state folder. */
export class Mesh {
  readonly state = mkdtempSync(join(tmpdir(), "lateen-test-"));

  get kubeconfig(): string {
    return join(this.state, "kubeconfig");
  }

  lateen(args: readonly string[], env: Record<string, string> = {}): Promise<Output> {
    return run(process.execPath, [CLI, ...args], { env: { LATEEN_STATE: this.state, ...env } });
  }

  /** `lateen up`; fails the test when it fails. */
  async up(sample: "bookinfo" | "none"): Promise<Output> {
    const output = await this.lateen(["up", "--sample", sample]);
    assert.equal(output.code, 0, `lateen up: ${output.stdout}${output.stderr}`);
    return output;
  }

  /** kubectl against the instance; fails the test when it fails, unless `allowFailure`. */
  async kubectl(
    args: readonly string[],
    options: { readonly input?: string; readonly allowFailure?: boolean } = {},
  ): Promise<Output> {
    const output = await run("kubectl", args, {
      env: { KUBECONFIG: this.kubeconfig, KUBECACHEDIR: join(this.state, "kube-cache") },
      ...(options.input === undefined ? {} : { input: options.input }),
    });
    if (options.allowFailure !== true)
      assert.equal(output.code, 0, `kubectl ${args.join(" ")}: ${output.stdout}${output.stderr}`);
    return output;
  }

  async json(args: readonly string[]): Promise<any> {
    return JSON.parse((await this.kubectl([...args, "-o", "json"])).stdout);
  }

  apply(input: string): Promise<Output> {
    return this.kubectl(["apply", "-f", "-"], { input });
  }

  /** Host port of the ingress gateway's HTTP port. */
  gatewayUrl(path: string): string {
    const ports = JSON.parse(readFileSync(join(this.state, "ports.json"), "utf8")) as Record<string, number>;
    return `http://127.0.0.1:${ports["istio-system/istio-ingressgateway:80"]}${path}`;
  }

  exec(target: string, container: string, command: readonly string[], allowFailure = false): Promise<Output> {
    return this.kubectl(["exec", target, "-c", container, "--", ...command], { allowFailure });
  }

  /** Waits until every proxy has acknowledged what it was last sent. */
  synced(): Promise<unknown> {
    return eventually("all proxies SYNCED", async () => {
      const { code, stdout } = await this.lateen(["proxy-status"]);
      return code === 0 && !/STALE|ERROR/.test(stdout) && stdout.split("\n").length > 2;
    });
  }

  /** The one process of the instance on the host. */
  get supervisorPid(): number {
    const pid = new Instance(this.state).supervisor()?.pid;
    assert.ok(pid !== undefined, "the instance runs");
    return pid;
  }

  /** Ends the first process inside the instance whose command line matches, from outside and without warning. */
  killInside(pattern: RegExp): void {
    const parents = new Map<number, number>();
    const lines = new Map<number, string>();
    for (const name of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, "utf8");
        parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
        lines.set(Number(name), readFileSync(`/proc/${name}/cmdline`, "utf8").replaceAll("\0", " "));
      } catch {
        // it has ended meanwhile
      }
    }
    const supervisor = this.supervisorPid;
    const isInside = (pid: number): boolean =>
      pid === supervisor || (parents.has(pid) && isInside(parents.get(pid) ?? 0));
    const found = [...lines].find(([pid, line]) => pattern.test(line) && isInside(pid));
    assert.ok(found !== undefined, `a process like ${pattern} runs in the instance`);
    process.kill(found[0], "SIGKILL");
  }

  /** Ends and forgets the instance. */
  async destroy(): Promise<void> {
    await this.lateen(["down", "--purge"]);
    rmSync(this.state, { recursive: true, force: true });
  }
}

/** Processes that belong to an instance: their command line names its folder. */
export function processesOf(mesh: Mesh): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap((pid) => {
      try {
        const line = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
        return line.includes(mesh.state) ? [`${pid} ${line}`] : [];
      } catch {
        return [];
      }
    });
}

/** What an instance could leave behind on the host: namespaces, links, rules, mounts, control groups, sockets. */
export function hostTrace(): Record<string, string> {
  const text = (command: string, args: readonly string[]): string =>
    spawnSync(command, args, { encoding: "utf8" }).stdout ?? "";
  const namespaces = new Set<string>();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    const found = text("readlink", [`/proc/${pid}/ns/net`]).trim();
    if (found !== "") namespaces.add(found);
  }
  return {
    netns: text("ip", ["netns", "list"]),
    links: text("ip", ["-o", "link"]).replaceAll(/(qlen|state) \S+/g, ""),
    rules: text("iptables-save", [])
      .replaceAll(/^#.*$/gm, "")
      .replaceAll(/\[\d+:\d+\]/g, ""),
    mounts: readFileSync("/proc/self/mounts", "utf8"),
    namespaces: [...namespaces].sort().join(),
    groups: text("find", ["/sys/fs/cgroup", "-maxdepth", "6", "-type", "d", "-name", "lateen-*"]),
    sockets: readdirSync(tmpdir())
      .filter((name) => /^lateen-\d+-/.test(name))
      .join(),
  };
}

/** Steady requests, one after the other on each of a few lines; counts what is not 200. */
export class Load {
  readonly failures: string[] = [];
  count = 0;
  #isOver = false;
  readonly #lines: Promise<void>[];

  constructor(url: string, lines = 4) {
    const one = async (): Promise<void> => {
      while (!this.#isOver) {
        try {
          const { status } = await fetchPage(url);
          this.count += 1;
          if (status !== 200) this.failures.push(`status ${status}`);
        } catch (error) {
          this.failures.push(String(error));
        }
      }
    };
    this.#lines = Array.from({ length: lines }, one);
  }

  /** Waits until this many more requests have been answered. */
  more(requests: number): Promise<unknown> {
    const goal = this.count + requests;
    return eventually(`${requests} more requests`, () => this.count >= goal || this.failures.length > 0);
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#lines);
  }
}
