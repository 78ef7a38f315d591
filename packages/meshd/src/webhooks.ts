// The webhooks that the API server calls: injection of sidecars, validation of the mesh's own objects.
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import { errorText, isObject } from "@lateen/base";
import { type InjectionConfig, injectPod } from "@lateen/inject";
import type { KubeClient } from "@lateen/kube";
import { CUSTOM_KINDS, parseResource } from "@lateen/resources";
import type { Identity } from "@lateen/x509";
import type { ListenAddress } from "./options.ts";

const BODY_BYTES_MAX = 4 << 20;

interface Review {
  readonly uid: string;
  readonly namespace: string;
  readonly kind: string;
  readonly object: unknown;
}

async function readReview(request: IncomingMessage): Promise<Review> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > BODY_BYTES_MAX) throw new Error("the review is too large");
    chunks.push(chunk);
  }
  const body: unknown = JSON.parse(Buffer.concat(chunks).toString("utf8"));
  const ask = isObject(body) ? body["request"] : undefined;
  if (!isObject(ask) || typeof ask["uid"] !== "string") throw new Error("not an AdmissionReview");
  const kind = isObject(ask["kind"]) ? String(ask["kind"]["kind"]) : "";
  return { uid: ask["uid"], namespace: String(ask["namespace"] ?? ""), kind, object: ask["object"] };
}

function inject(review: Review, config: InjectionConfig): Record<string, unknown> {
  const injected = injectPod(review.object, review.namespace, config);
  if (injected === undefined) return { uid: review.uid, allowed: true };
  const patch = ["metadata", "spec"].map((part) => ({
    op: "replace",
    path: `/${part}`,
    value: injected[part as "metadata" | "spec"],
  }));
  return {
    uid: review.uid,
    allowed: true,
    patchType: "JSONPatch",
    patch: Buffer.from(JSON.stringify(patch)).toString("base64"),
  };
}

function validate(review: Review): Record<string, unknown> {
  const kind = CUSTOM_KINDS.find((entry) => entry.kind === review.kind);
  const problems =
    kind === undefined || review.object === null
      ? []
      : parseResource(kind, review.object).diagnostics.filter(({ severity }) => severity === "error");
  if (problems.length === 0) return { uid: review.uid, allowed: true };
  const message = `configuration is invalid: ${problems.map(({ path, message: what }) => `${path} ${what}`).join("; ")}`;
  return { uid: review.uid, allowed: false, status: { code: 400, reason: "BadRequest", message } };
}

/** Serves the webhooks. */
export function serveWebhooks(at: ListenAddress, tls: Identity, config: InjectionConfig): Promise<Server> {
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    try {
      const path = (request.url ?? "").split("?")[0] ?? "";
      if (path === "/ready") {
        response.end("ok");
        return;
      }
      const review = await readReview(request);
      const result = path.startsWith("/inject") ? inject(review, config) : validate(review);
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify({ apiVersion: "admission.k8s.io/v1", kind: "AdmissionReview", response: result }));
    } catch (error) {
      response.writeHead(400, { "content-type": "text/plain" });
      response.end(errorText(error));
    }
  };
  const server = createServer(
    { cert: tls.certificatePem, key: tls.keyPem, minVersion: "TLSv1.2" },
    (request, response) => void answer(request, response),
  );
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ ...at }, () => resolve(server));
  });
}

/** Tells the API server when to call, and by which root to know us. */
export async function registerWebhooks(client: KubeClient, namespace: string, rootPem: string): Promise<void> {
  const caBundle = Buffer.from(rootPem).toString("base64");
  const base = { sideEffects: "None", admissionReviewVersions: ["v1"] };
  const service = (path: string): Record<string, unknown> => ({
    service: { name: "istiod", namespace, path, port: 443 },
    caBundle,
  });
  const notFalse = { key: "sidecar.istio.io/inject", operator: "NotIn", values: ["false"] };
  await client.apply("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", {
    apiVersion: "admissionregistration.k8s.io/v1",
    kind: "MutatingWebhookConfiguration",
    metadata: { name: "istio-sidecar-injector", labels: { app: "sidecar-injector", "istio.io/rev": "default" } },
    webhooks: [
      {
        ...base,
        name: "namespace.sidecar-injector.istio.io",
        clientConfig: service("/inject"),
        failurePolicy: "Fail",
        rules: [{ operations: ["CREATE"], apiGroups: [""], apiVersions: ["v1"], resources: ["pods"] }],
        namespaceSelector: { matchExpressions: [{ key: "istio-injection", operator: "In", values: ["enabled"] }] },
        objectSelector: { matchExpressions: [notFalse] },
      },
      {
        ...base,
        name: "object.sidecar-injector.istio.io",
        clientConfig: service("/inject"),
        failurePolicy: "Fail",
        rules: [{ operations: ["CREATE"], apiGroups: [""], apiVersions: ["v1"], resources: ["pods"] }],
        namespaceSelector: { matchExpressions: [{ key: "istio-injection", operator: "DoesNotExist" }] },
        objectSelector: { matchExpressions: [{ key: "sidecar.istio.io/inject", operator: "In", values: ["true"] }] },
      },
    ],
  });
  await client.apply("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", {
    apiVersion: "admissionregistration.k8s.io/v1",
    kind: "ValidatingWebhookConfiguration",
    metadata: { name: "istio-validator-istio-system", labels: { app: "istiod", "istio.io/rev": "default" } },
    webhooks: [
      {
        ...base,
        name: "rev.validation.istio.io",
        clientConfig: service("/validate"),
        // The definitions' schemas go on checking while the control plane is away.
        failurePolicy: "Ignore",
        rules: [
          {
            operations: ["CREATE", "UPDATE"],
            apiGroups: ["networking.istio.io", "security.istio.io"],
            apiVersions: ["*"],
            resources: ["*"],
          },
        ],
      },
    ],
  });
}
