// A small Kubernetes client: JSON in and out over keep-alive HTTPS, and watches.
import type { IncomingMessage } from "node:http";
import { Agent, request } from "node:https";
import { createInterface } from "node:readline";
import { isObject } from "@lateen/base";
import type { KubeConfig } from "./config.ts";

/** An answer of the API other than success. */
export class KubeError extends Error {
  override readonly name = "KubeError";
  readonly code: number;
  readonly reason: string;
  constructor(code: number, reason: string, message: string) {
    super(message);
    this.code = code;
    this.reason = reason;
  }
}

export interface KubeObject {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly resourceVersion?: string;
    readonly [key: string]: unknown;
  };
  readonly [key: string]: unknown;
}

const REQUEST_TIMEOUT_MS = 30_000;
const JSON_TYPE = "application/json";

export interface RequestOptions {
  readonly body?: unknown;
  readonly contentType?: string;
  readonly signal?: AbortSignal;
}

export class KubeClient {
  readonly config: KubeConfig;
  readonly #agent: Agent;

  constructor(config: KubeConfig) {
    this.config = config;
    this.#agent = new Agent({
      keepAlive: true,
      ...(config.authorityPem === undefined ? {} : { ca: config.authorityPem }),
      ...(config.certificatePem === undefined ? {} : { cert: config.certificatePem }),
      ...(config.keyPem === undefined ? {} : { key: config.keyPem }),
    });
  }

  /** Sends a request and resolves with the response once its head is here. */
  send(method: string, path: string, options: RequestOptions = {}): Promise<IncomingMessage> {
    const body = options.body === undefined ? undefined : JSON.stringify(options.body);
    const token = this.config.token();
    return new Promise((resolve, reject) => {
      const ask = request(
        new URL(path, this.config.server),
        {
          method,
          agent: this.#agent,
          headers: {
            accept: JSON_TYPE,
            "user-agent": "lateen",
            ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
            ...(body === undefined
              ? {}
              : { "content-type": options.contentType ?? JSON_TYPE, "content-length": Buffer.byteLength(body) }),
          },
          ...(options.signal === undefined ? {} : { signal: options.signal }),
        },
        resolve,
      );
      ask.on("error", reject);
      ask.end(body);
    });
  }

  /** A request whose answer is JSON. Throws KubeError when the API refuses. */
  async json(method: string, path: string, options: RequestOptions = {}): Promise<Record<string, unknown>> {
    const response = await this.send(method, path, { signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS), ...options });
    const chunks: Buffer[] = [];
    for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString("utf8");
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      value = { message: text.slice(0, 500) };
    }
    const answer = isObject(value) ? value : {};
    const code = response.statusCode ?? 0;
    if (code >= 400)
      throw new KubeError(code, String(answer["reason"] ?? ""), String(answer["message"] ?? `status ${code}`));
    return answer;
  }

  /** The object at `path`, or undefined when there is none. */
  async find(path: string): Promise<KubeObject | undefined> {
    try {
      return (await this.json("GET", path)) as unknown as KubeObject;
    } catch (error) {
      if (error instanceof KubeError && error.code === 404) return undefined;
      throw error;
    }
  }

  /** Creates the object in `collection`, or replaces what differs by a merge patch. */
  async apply(collection: string, object: KubeObject): Promise<"created" | "configured"> {
    try {
      await this.json("POST", collection, { body: object });
      return "created";
    } catch (error) {
      if (!(error instanceof KubeError) || error.code !== 409) throw error;
    }
    await this.json("PATCH", `${collection}/${object.metadata.name}`, {
      body: object,
      contentType: "application/merge-patch+json",
    });
    return "configured";
  }

  /** Reads the events of a watch until it ends. */
  async watch(
    path: string,
    signal: AbortSignal,
    onEvent: (type: string, object: Record<string, unknown>) => void,
  ): Promise<void> {
    const response = await this.send("GET", path, { signal });
    if (response.statusCode !== 200) {
      response.resume();
      throw new KubeError(response.statusCode ?? 0, "", `watch ${path}: status ${response.statusCode}`);
    }
    for await (const line of createInterface({ input: response })) {
      const event: unknown = JSON.parse(line);
      if (isObject(event) && isObject(event["object"])) onEvent(String(event["type"]), event["object"]);
    }
  }

  close(): void {
    this.#agent.destroy();
  }
}
