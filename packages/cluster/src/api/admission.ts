// Admission webhooks: objects on their way in are shown to the webhooks that are configured for them.
// Mutating ones first (by name of their configuration), each seeing what the one before it made; then validating ones.
import { randomUUID } from "node:crypto";
import { request } from "node:https";
import { errorText, isObject, jsonEqual } from "@lateen/base";
import type { User } from "./auth.ts";
import { ApiError } from "./errors.ts";
import { apiVersionOf, builtIn, type Kind, type KindTable, tableOf } from "./kinds.ts";
import type { EndpointSlice, KubeObject, LabelSelector, Service } from "./objects.ts";
import { jsonPatch } from "./patch.ts";
import { checkPodSecurity } from "./pod-security.ts";
import { checkPolicies, conditionsHold, type Expression } from "./policies.ts";
import { selectsLabels } from "./selectors.ts";
import type { Store } from "./store.ts";

export type Operation = "CREATE" | "UPDATE" | "DELETE" | "CONNECT";

export interface AdmissionRequest {
  readonly kind: Kind;
  readonly operation: Operation;
  readonly namespace: string | undefined;
  readonly name: string;
  readonly subresource: string;
  readonly object: KubeObject | undefined;
  readonly oldObject: KubeObject | undefined;
  readonly user: User;
  readonly isDryRun: boolean;
}

interface Webhook {
  readonly name: string;
  readonly clientConfig: {
    readonly url?: string;
    readonly caBundle?: string;
    readonly service?: {
      readonly namespace: string;
      readonly name: string;
      readonly path?: string;
      readonly port?: number;
    };
  };
  readonly rules?: readonly {
    readonly operations: readonly string[];
    readonly apiGroups: readonly string[];
    readonly apiVersions: readonly string[];
    readonly resources: readonly string[];
    readonly scope?: string;
  }[];
  readonly failurePolicy?: string;
  readonly sideEffects: string;
  readonly reinvocationPolicy?: string;
  readonly matchConditions?: readonly Expression[];
  readonly timeoutSeconds?: number;
  readonly namespaceSelector?: LabelSelector;
  readonly objectSelector?: LabelSelector;
}

interface Target {
  readonly host: string;
  readonly port: number;
  readonly path: string;
  readonly servername: string;
  readonly shown: string;
}

// Whether a rule names a resource: `pods`, `pods/status`, `pods/*`, `*`, `*/status`, `*/*`.
function ruleNames(resources: readonly string[], plural: string, subresource: string): boolean {
  return resources.some((entry) => {
    const [resource, sub] = entry.split("/");
    if (resource !== "*" && resource !== plural) return false;
    return sub === "*" || (sub ?? "") === subresource;
  });
}

const OPTIONS = { CREATE: "CreateOptions", UPDATE: "UpdateOptions", DELETE: "DeleteOptions" } as const;
const RESPONSE_BYTES_MAX = 3 << 20;
const includes = (list: readonly string[], value: string): boolean => list.includes("*") || list.includes(value);

export class Admission {
  readonly #store: Store;
  readonly #kinds: KindTable;

  constructor(store: Store, kinds: KindTable) {
    this.#store = store;
    this.#kinds = kinds;
  }

  #matches(webhook: Webhook, ask: AdmissionRequest): boolean {
    const { kind } = ask;
    const isRuled = (webhook.rules ?? []).some(
      (rule) =>
        includes(rule.operations, ask.operation) &&
        includes(rule.apiGroups, kind.group) &&
        includes(rule.apiVersions, kind.version) &&
        ruleNames(rule.resources, kind.plural, ask.subresource) &&
        (rule.scope === undefined || rule.scope === "*" || (rule.scope === "Namespaced") === kind.isNamespaced),
    );
    if (!isRuled) return false;
    if (ask.namespace !== undefined) {
      const labels = this.#store.get("namespaces", undefined, ask.namespace)?.metadata.labels;
      if (!selectsLabels(webhook.namespaceSelector ?? {})(labels)) return false;
    }
    const selects = selectsLabels(webhook.objectSelector ?? {});
    return (
      selects(ask.object?.metadata?.labels) || (ask.oldObject !== undefined && selects(ask.oldObject.metadata.labels))
    );
  }

  #webhooks(plural: string, ask: AdmissionRequest): Webhook[] {
    // Webhooks do not see their own configurations: a broken one must be removable.
    if (/^(mutating|validating)webhookconfigurations$/.test(ask.kind.plural)) return [];
    const all = this.#store.list(tableOf(builtIn(plural))).flatMap((entry) => (entry["webhooks"] ?? []) as Webhook[]);
    return all.filter((webhook) => this.#matches(webhook, ask) && this.#isConditioned(webhook, ask));
  }

  #isConditioned(webhook: Webhook, ask: AdmissionRequest): boolean {
    try {
      return conditionsHold(webhook.matchConditions, ask, this.#store);
    } catch (error) {
      if (webhook.failurePolicy === "Ignore") return false;
      const message = `admission webhook "${webhook.name}": match conditions: ${errorText(error).split("\n")[0]}`;
      throw new ApiError(403, "Forbidden", message, {});
    }
  }

  /** Where a webhook listens: a ready endpoint of its Service, resolved here as the API server has no cluster DNS. */
  #target(webhook: Webhook): Target {
    const { service, url } = webhook.clientConfig;
    if (url !== undefined) {
      const parsed = new URL(url);
      const port = parsed.port === "" ? 443 : Number(parsed.port);
      return { host: parsed.hostname, port, path: parsed.pathname, servername: parsed.hostname, shown: url };
    }
    if (service === undefined) throw new Error("the webhook has neither url nor service");
    const { namespace, name, path = "/", port: servicePort = 443 } = service;
    const shown = `https://${name}.${namespace}.svc:${servicePort}${path}`;
    const found = this.#store.get("services", namespace, name) as Service | undefined;
    if (found === undefined) throw new Error(`service "${name}" not found`);
    const portName = found.spec.ports?.find((port) => port.port === servicePort)?.name;
    const slices = this.#store.list(tableOf(builtIn("endpointslices")), namespace) as EndpointSlice[];
    for (const slice of slices) {
      if (slice.metadata.labels?.["kubernetes.io/service-name"] !== name) continue;
      const port = slice.ports.find((entry) => (entry.name ?? "") === (portName ?? ""))?.port;
      const ready = slice.endpoints.find((endpoint) => endpoint.conditions?.ready === true)?.addresses[0];
      if (port !== undefined && ready !== undefined)
        return { host: ready, port, path, servername: `${name}.${namespace}.svc`, shown };
    }
    throw new Error(`no endpoints available for service "${name}"`);
  }

  async #call(webhook: Webhook, ask: AdmissionRequest, uid: string): Promise<Record<string, unknown>> {
    const { kind } = ask;
    const gvk = { group: kind.group, version: kind.version, kind: kind.kind };
    const resource = { group: kind.group, version: kind.version, resource: kind.plural };
    const full = (object: KubeObject | undefined): unknown =>
      object === undefined
        ? null
        : ask.operation === "CONNECT"
          ? object
          : { ...object, apiVersion: apiVersionOf(kind), kind: kind.kind };
    const body = JSON.stringify({
      kind: "AdmissionReview",
      apiVersion: "admission.k8s.io/v1",
      request: {
        uid,
        kind: gvk,
        resource,
        ...(ask.subresource === "" ? {} : { subResource: ask.subresource, requestSubResource: ask.subresource }),
        requestKind: gvk,
        requestResource: resource,
        ...(ask.name === "" ? {} : { name: ask.name }),
        ...(ask.namespace === undefined ? {} : { namespace: ask.namespace }),
        operation: ask.operation,
        userInfo: {
          username: ask.user.name,
          ...(ask.user.uid === undefined ? {} : { uid: ask.user.uid }),
          groups: ask.user.groups,
        },
        object: full(ask.object),
        oldObject: full(ask.oldObject),
        dryRun: ask.isDryRun,
        options: ask.operation === "CONNECT" ? null : { kind: OPTIONS[ask.operation], apiVersion: "meta.k8s.io/v1" },
      },
    });
    const answer: unknown = JSON.parse(await post(this.#target(webhook), webhook, body));
    const response = isObject(answer) ? answer["response"] : undefined;
    if (!isObject(response) || response["uid"] !== uid)
      throw new Error("the answer is not an AdmissionReview of this request");
    return response;
  }

  async #review(
    webhook: Webhook,
    ask: AdmissionRequest,
    warn: (text: string) => void,
  ): Promise<Record<string, unknown> | undefined> {
    if (ask.isDryRun && webhook.sideEffects !== "None" && webhook.sideEffects !== "NoneOnDryRun") {
      throw new ApiError(400, "BadRequest", `admission webhook "${webhook.name}" does not support dry run`);
    }
    let response: Record<string, unknown>;
    try {
      response = await this.#call(webhook, ask, randomUUID());
    } catch (error) {
      if (webhook.failurePolicy === "Ignore") {
        process.stderr.write(
          `admission: webhook ${webhook.name} failed, which its policy ignores: ${errorText(error)}\n`,
        );
        return undefined;
      }
      const message = `Internal error occurred: failed calling webhook "${webhook.name}": failed to call webhook: ${errorText(error)}`;
      throw new ApiError(500, "InternalError", message, { causes: [{ message }] });
    }
    for (const warning of Array.isArray(response["warnings"]) ? response["warnings"] : []) warn(String(warning));
    if (response["allowed"] === true) return response;
    const status = isObject(response["status"]) ? response["status"] : {};
    const why = status["message"] === undefined || status["message"] === "" ? "" : `: ${String(status["message"])}`;
    const code = Number(status["code"] ?? 0) || 400;
    const reason = String(status["reason"] ?? "");
    const text = why || (reason === "" ? " without explanation" : `: ${reason}`);
    throw new ApiError(code, reason, `admission webhook "${webhook.name}" denied the request${text}`);
  }

  /** Runs the mutating webhooks; returns the object that they leave. Throws when one refuses. */
  async mutate(ask: AdmissionRequest, warn: (text: string) => void): Promise<KubeObject | undefined> {
    let { object } = ask;
    const called: { readonly webhook: Webhook; readonly result: KubeObject | undefined }[] = [];
    const call = async (webhook: Webhook): Promise<void> => {
      const response = await this.#review(webhook, { ...ask, object }, warn);
      const patch = response?.["patch"];
      if (typeof patch === "string" && object !== undefined) object = patched(webhook, object, patch);
      called.push({ webhook, result: object });
    };
    for (const webhook of this.#webhooks("mutatingwebhookconfigurations", ask)) await call(webhook);
    // Those that ask for it see the object once more when others changed it after them.
    for (const { webhook, result } of [...called])
      if (webhook.reinvocationPolicy === "IfNeeded" && !jsonEqual(result, object)) await call(webhook);
    return object;
  }

  /** Runs Pod Security, the policies and the validating webhooks. Throws when one refuses. */
  async validate(ask: AdmissionRequest, warn: (text: string) => void): Promise<void> {
    checkPodSecurity(this.#store, ask, warn);
    checkPolicies(this.#store, this.#kinds, ask, warn);
    for (const webhook of this.#webhooks("validatingwebhookconfigurations", ask))
      await this.#review(webhook, ask, warn);
  }
}

/** The object with a webhook's patch. Throws 500 for a patch that is none. */
function patched(webhook: Webhook, object: KubeObject, patch: string): KubeObject {
  try {
    return jsonPatch(object, JSON.parse(Buffer.from(patch, "base64").toString("utf8"))) as KubeObject;
  } catch (error) {
    throw new ApiError(
      500,
      "InternalError",
      `Internal error occurred: admission webhook "${webhook.name}" sent a patch that cannot be applied: ${errorText(error)}`,
    );
  }
}

function post(target: Target, webhook: Webhook, body: string): Promise<string> {
  const timeoutSeconds = webhook.timeoutSeconds ?? 10;
  const bundle = webhook.clientConfig.caBundle;
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => reject(new Error(`Post "${target.shown}?timeout=${timeoutSeconds}s": ${why}`));
    const call = request(
      {
        host: target.host,
        port: target.port,
        servername: target.servername,
        path: `${target.path}?timeout=${timeoutSeconds}s`,
        method: "POST",
        agent: false,
        signal: AbortSignal.timeout(timeoutSeconds * 1000),
        ...(bundle === undefined ? {} : { ca: Buffer.from(bundle, "base64") }),
        headers: {
          "content-type": "application/json",
          accept: "application/json, */*",
          "user-agent": "kube-apiserver-admission",
          "content-length": Buffer.byteLength(body),
        },
      },
      (response) => {
        const chunks: Buffer[] = [];
        let size = 0;
        response.on("data", (chunk: Buffer) => {
          chunks.push(chunk);
          size += chunk.length;
          if (size > RESPONSE_BYTES_MAX) call.destroy(new Error("the answer is too large"));
        });
        response.on("end", () => {
          const text = Buffer.concat(chunks).toString("utf8");
          if (response.statusCode === 200) resolve(text);
          else fail(`status ${response.statusCode}: ${text.slice(0, 200)}`);
        });
        response.on("error", (error) => fail(error.message));
      },
    );
    call.on("error", (error) =>
      fail(/^(TimeoutError|AbortError)$/.test(error.name) ? "context deadline exceeded" : error.message),
    );
    call.end(body);
  });
}
