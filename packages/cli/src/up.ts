// `lateen up`: the cluster, the mesh in it, the sample, a first request.
import { readdirSync, readFileSync } from "node:fs";
import { get } from "node:http";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Failure, isObject } from "@lateen/base";
import { Instance, startInstance } from "@lateen/cluster";
import { DEFAULTS, manifests } from "@lateen/install";
import { KubeClient, KubeError, loadKubeConfig } from "@lateen/kube";
import { parseAllDocuments } from "yaml";
import { print, step } from "./output.ts";

const SAMPLE = join(import.meta.dirname, "../../../samples/bookinfo");
const READY_LIMIT_MS = 90_000;
const FIRST_REQUEST_LIMIT_MS = 30_000;
const POLL_MS = 25;
const GATEWAY_PORT = "istio-system/istio-ingressgateway:80";

/** Collections of the kinds that the sample's files hold. */
const COLLECTIONS: Readonly<Record<string, string>> = {
  Service: "/api/v1/namespaces/default/services",
  ServiceAccount: "/api/v1/namespaces/default/serviceaccounts",
  Deployment: "/apis/apps/v1/namespaces/default/deployments",
  Gateway: "/apis/networking.istio.io/v1/namespaces/default/gateways",
  VirtualService: "/apis/networking.istio.io/v1/namespaces/default/virtualservices",
};

/** Creates what is not there; what is there is the user's and stays as it is. */
async function createMissing(client: KubeClient, collection: string, object: Record<string, unknown>): Promise<void> {
  try {
    await client.json("POST", collection, { body: object });
  } catch (error) {
    if (!(error instanceof KubeError) || error.code !== 409) throw error;
  }
}

async function waitDeployment(client: KubeClient, namespace: string, name: string): Promise<void> {
  const limit = performance.now() + READY_LIMIT_MS;
  for (;;) {
    const found = await client.find(`/apis/apps/v1/namespaces/${namespace}/deployments/${name}`);
    const status = isObject(found?.["status"]) ? found["status"] : {};
    const spec = isObject(found?.["spec"]) ? found["spec"] : {};
    const isDone =
      status["observedGeneration"] === found?.metadata["generation"] &&
      status["updatedReplicas"] === spec["replicas"] &&
      status["availableReplicas"] === spec["replicas"];
    if (found !== undefined && (isDone || spec["replicas"] === 0)) return;
    if (performance.now() > limit) {
      throw new Failure(
        `Deployment ${namespace}/${name} is not ready after ${READY_LIMIT_MS / 1000} s`,
        `Look at: kubectl -n ${namespace} get pods; kubectl -n ${namespace} describe deployment ${name}`,
      );
    }
    await delay(POLL_MS);
  }
}

/** Sees to it that there are so many nodes, each in a zone of its own. Labels that are there stay. */
async function addNodes(instance: Instance, count: number): Promise<void> {
  const client = new KubeClient(loadKubeConfig(instance.kubeconfig));
  try {
    for (let i = 1; i <= count; i++) {
      const name = i === 1 ? "lateen-node" : `lateen-node-${i}`;
      const zone = { "topology.kubernetes.io/region": "region-1", "topology.kubernetes.io/zone": `zone-${i}` };
      const found = await client.find(`/api/v1/nodes/${name}`);
      const labels = { ...zone, ...(found?.metadata["labels"] as Record<string, string> | undefined) };
      const node = {
        apiVersion: "v1",
        kind: "Node",
        metadata: { name, labels },
        spec: { providerID: `lateen://${name}` },
      };
      await client.apply("/api/v1/nodes", node);
    }
  } finally {
    client.close();
  }
}

async function installMesh(client: KubeClient): Promise<void> {
  for (const { objects } of manifests(DEFAULTS)) {
    for (const { collection, object } of objects) {
      // The mesh's settings belong to the user once they are there.
      if (object.kind === "ConfigMap") await createMissing(client, collection, object);
      else await client.apply(collection, object);
    }
  }
}

async function deploySample(client: KubeClient): Promise<string[]> {
  await client.json("PATCH", "/api/v1/namespaces/default", {
    body: { metadata: { labels: { "istio-injection": "enabled" } } },
    contentType: "application/merge-patch+json",
  });
  const folder = join(SAMPLE, "platform/kube");
  const files = [
    ...readdirSync(folder).map((name) => join(folder, name)),
    join(SAMPLE, "networking/bookinfo-gateway.yaml"),
  ];
  const deployments: string[] = [];
  for (const file of files) {
    for (const document of parseAllDocuments(readFileSync(file, "utf8"))) {
      const object: unknown = document.toJS();
      if (!isObject(object) || !isObject(object["metadata"])) continue;
      const collection = COLLECTIONS[String(object["kind"])];
      if (collection === undefined)
        throw new Failure(`${file} holds a ${String(object["kind"])}, which the sample does not know`);
      const version = /\/apis\/networking\.istio\.io\/v1\//.test(collection)
        ? { apiVersion: "networking.istio.io/v1" }
        : {};
      await createMissing(client, collection, { ...object, ...version });
      if (object["kind"] === "Deployment") deployments.push(String(object["metadata"]["name"]));
    }
  }
  return deployments;
}

/** One GET: status and body. */
function fetchPage(url: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    get(url, { agent: false, signal: AbortSignal.timeout(10_000) }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString("utf8") }),
      );
    }).on("error", reject);
  });
}

async function firstRequest(url: string): Promise<void> {
  const limit = performance.now() + FIRST_REQUEST_LIMIT_MS;
  let last = "no answer";
  while (performance.now() < limit) {
    try {
      const { status, body } = await fetchPage(url);
      if (status === 200 && body.includes("Simple Bookstore App")) return;
      last = `status ${status}`;
    } catch (error) {
      last = error instanceof Error ? error.message : String(error);
    }
    await delay(POLL_MS);
  }
  throw new Failure(`the product page does not answer: ${last}`, "Look at: kubectl get pods -A; lateen status");
}

/** Runs `lateen up`. */
export async function up(options: {
  readonly state: string | undefined;
  readonly sample: "bookinfo" | "none";
  /** Only Kubernetes. */
  readonly isBare: boolean;
  /** How many nodes there are to be at least. */
  readonly nodes: number;
}): Promise<void> {
  const instance = Instance.find(options.state);
  const started = performance.now();
  const wasStarted = await step("embedded Kubernetes", () => startInstance(instance));
  if (options.nodes > 1) await step(`${options.nodes} nodes`, () => addNodes(instance, options.nodes));
  if (options.isBare) {
    print(`\nkubectl:  export KUBECONFIG=${instance.kubeconfig}`);
    return;
  }
  const client = new KubeClient(loadKubeConfig(instance.kubeconfig));
  try {
    await step("mesh: istiod and ingress gateway", async () => {
      await installMesh(client);
      // The webhook must be there before pods are made that want a sidecar.
      await waitDeployment(client, "istio-system", "istiod");
      await waitWebhook(client);
    });
    let deployments: string[] = [];
    if (options.sample === "bookinfo") deployments = await step("sample: Bookinfo", () => deploySample(client));
    await step("pods ready", () =>
      Promise.all([
        waitDeployment(client, "istio-system", "istio-ingressgateway"),
        ...deployments.map((name) => waitDeployment(client, "default", name)),
      ]),
    );
    const port = instance.readPorts()[GATEWAY_PORT];
    const page = `http://127.0.0.1:${port}/productpage`;
    if (options.sample === "bookinfo")
      await step("first request through gateway and sidecars", () => firstRequest(page));
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    print(`\n${wasStarted ? `Ready in ${seconds} s.` : "Everything was running already."}\n`);
    print(summary(instance, options.sample === "bookinfo" ? page : `http://127.0.0.1:${port}/`, options.sample));
  } finally {
    client.close();
  }
}

/** Waits until the injector is registered: pods made before it would have no sidecar. */
async function waitWebhook(client: KubeClient): Promise<void> {
  const limit = performance.now() + READY_LIMIT_MS;
  while (
    (await client.find(
      "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/istio-sidecar-injector",
    )) === undefined
  ) {
    if (performance.now() > limit)
      throw new Failure(
        "istiod has not registered its webhooks",
        "Look at: kubectl -n istio-system logs deploy/istiod",
      );
    await delay(POLL_MS);
  }
}

function summary(instance: Instance, url: string, sample: string): string {
  const lines = [
    `${sample === "bookinfo" ? "Product page" : "Gateway"}:  ${url}`,
    `kubectl:       export KUBECONFIG=${instance.kubeconfig}`,
    "",
    "Try next:",
    "  kubectl get pods -A",
    "  npx lateen proxy-status",
    ...(sample === "bookinfo"
      ? [
          "  kubectl apply -f samples/bookinfo/networking/destination-rule-all.yaml",
          "  kubectl apply -f samples/bookinfo/networking/virtual-service-all-v1.yaml     (no more stars)",
          "  npx lateen proxy-config route deploy/productpage-v1",
        ]
      : []),
    "  npm stop",
    "",
  ];
  return lines.join("\n");
}
