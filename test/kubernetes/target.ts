// The cluster that the tests in this folder talk to: the one that KUBECONFIG names, whichever it is.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { request } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually, type Output, run } from "../harness.ts";

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
}

interface Ask {
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  /** Stop after so many lines of a stream. */
  readonly lines?: number;
}

const LIMIT_MS = 30_000;
/** kubectl keeps discovery here, for one run of tests only. */
const KUBECTL_CACHE = mkdtempSync(join(tmpdir(), "lateen-kubectl-"));
process.once("exit", () => rmSync(KUBECTL_CACHE, { recursive: true, force: true }));

export class Target {
  readonly kubeconfig: string;
  readonly #server: string;
  readonly #tls: { readonly ca: Buffer; readonly cert: Buffer; readonly key: Buffer };

  constructor(kubeconfig: string) {
    this.kubeconfig = kubeconfig;
    const config = JSON.parse(readFileSync(kubeconfig, "utf8"));
    const decode = (text: string): Buffer => Buffer.from(text, "base64");
    const { user } = config.users[0];
    this.#server = config.clusters[0].cluster.server;
    this.#tls = {
      ca: decode(config.clusters[0].cluster["certificate-authority-data"]),
      cert: decode(user["client-certificate-data"]),
      key: decode(user["client-key-data"]),
    };
  }

  /** The cluster of KUBECONFIG. */
  static fromEnv(): Target {
    const path = process.env["KUBECONFIG"];
    if (path === undefined)
      throw new Error("KUBECONFIG names the cluster to test: use npm run test:kubernetes or test:real");
    return new Target(path);
  }

  /** Whether it is the real one, of which answers are recorded. */
  get isReal(): boolean {
    return process.env["LATEEN_TEST_TARGET"] === "real";
  }

  ask(method: string, path: string, options: Ask = {}): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const call = request(
        `${this.#server}${path}`,
        {
          ...this.#tls,
          method,
          agent: false,
          signal: AbortSignal.timeout(LIMIT_MS),
          headers: {
            "user-agent": "conversation",
            ...options.headers,
            ...(options.body === undefined ? {} : { "content-length": Buffer.byteLength(options.body) }),
          },
        },
        (response) => {
          let text = "";
          const end = (): void => resolve({ status: response.statusCode ?? 0, headers: response.headers, text });
          response.setEncoding("utf8");
          response.on("data", (part: string) => {
            text += part;
            if (options.lines === undefined || text.split("\n").length <= options.lines) return;
            text = text.split("\n").slice(0, options.lines).join("\n");
            end();
            call.destroy();
          });
          response.on("end", end);
          response.on("error", reject);
        },
      );
      call.on("error", reject);
      call.end(options.body);
    });
  }

  kubectl(args: readonly string[], input?: string, more: Record<string, string> = {}): Promise<Output> {
    const env = { ...more, KUBECONFIG: this.kubeconfig, KUBECACHEDIR: KUBECTL_CACHE };
    return run("kubectl", args, { env, ...(input === undefined ? {} : { input }) });
  }
}

/** kubectl in a namespace of a test's own. */
export class Space {
  readonly target: Target;
  readonly namespace: string;

  constructor(target: Target, namespace: string) {
    this.target = target;
    this.namespace = namespace;
  }

  /** Makes the namespace anew; it has its account when this returns. */
  async create(): Promise<void> {
    await this.target.kubectl(["delete", "namespace", this.namespace, "--ignore-not-found"]);
    await this.target.kubectl(["create", "namespace", this.namespace]);
    await eventually(
      "the default account",
      async () => (await this.tryKubectl(["get", "serviceaccount", "default"])).code === 0,
    );
  }

  tryKubectl(args: readonly string[], input?: string): Promise<Output> {
    return this.target.kubectl(["-n", this.namespace, ...args], input);
  }

  /** What it prints; fails the test when it fails. */
  async kubectl(args: readonly string[], input?: string): Promise<string> {
    const output = await this.tryKubectl(args, input);
    assert.equal(output.code, 0, `kubectl ${args.join(" ")}: ${output.stdout}${output.stderr}`);
    return output.stdout;
  }

  async json(args: readonly string[]): Promise<any> {
    return JSON.parse(await this.kubectl([...args, "-o", "json"]));
  }

  apply(object: object): Promise<string> {
    return this.kubectl(["apply", "-f", "-"], JSON.stringify(object));
  }
}
