// Which proxy a command means: `pod`, `pod.namespace`, `deploy/name`, `deploy/name.namespace`, with -n.
import { Failure, isObject } from "@lateen/base";
import { exec, type KubeClient, type KubeObject } from "@lateen/kube";

export interface ProxyTarget {
  readonly namespace: string;
  readonly pod: string;
}

async function podsOf(client: KubeClient, namespace: string, name: string): Promise<KubeObject[]> {
  const deployment = await client.find(`/apis/apps/v1/namespaces/${namespace}/deployments/${name}`);
  if (deployment === undefined)
    throw new Failure(`there is no Deployment ${namespace}/${name}`, `See: kubectl -n ${namespace} get deployments`);
  const spec = isObject(deployment["spec"]) ? deployment["spec"] : {};
  const selector =
    isObject(spec["selector"]) && isObject(spec["selector"]["matchLabels"]) ? spec["selector"]["matchLabels"] : {};
  const text = Object.entries(selector)
    .map(([key, value]) => `${key}=${String(value)}`)
    .join(",");
  const answer = await client.json(
    "GET",
    `/api/v1/namespaces/${namespace}/pods?labelSelector=${encodeURIComponent(text)}`,
  );
  return Array.isArray(answer["items"]) ? (answer["items"] as KubeObject[]) : [];
}

/** Finds the pod that a command's argument names. Throws Failure when there is none. */
export async function findTarget(
  client: KubeClient,
  text: string,
  namespace: string | undefined,
): Promise<ProxyTarget> {
  const [kind, rest] = text.includes("/") ? text.split("/", 2) : ["pod", text];
  const dot = (rest ?? "").lastIndexOf(".");
  const name = dot > 0 ? (rest ?? "").slice(0, dot) : (rest ?? "");
  const where = dot > 0 ? (rest ?? "").slice(dot + 1) : (namespace ?? client.config.namespace);
  if (kind === "deploy" || kind === "deployment" || kind === "deployments") {
    const pods = (await podsOf(client, where, name)).filter((pod) => pod.metadata["deletionTimestamp"] === undefined);
    const [first] = pods;
    if (first === undefined) throw new Failure(`Deployment ${where}/${name} has no pods`);
    return { namespace: where, pod: first.metadata.name };
  }
  if (kind !== "pod" && kind !== "pods")
    throw new Failure(`"${text}" is no proxy`, "Name a pod or deploy/NAME, with .NAMESPACE or -n NAMESPACE.");
  const pod = await client.find(`/api/v1/namespaces/${where}/pods/${name}`);
  if (pod === undefined) throw new Failure(`there is no pod ${where}/${name}`, `See: kubectl -n ${where} get pods`);
  return { namespace: where, pod: name };
}

/** What Envoy's admin port of a proxy answers. */
export async function askEnvoy(client: KubeClient, target: ProxyTarget, path: string): Promise<unknown> {
  try {
    return JSON.parse(
      await exec(client, { ...target, container: "istio-proxy" }, ["pilot-agent", "request", "GET", path]),
    );
  } catch (error) {
    throw new Failure(
      `the proxy of ${target.namespace}/${target.pod} does not answer: ${error instanceof Error ? error.message : String(error)}`,
      "Has the pod a sidecar (2/2), and is it ready?",
    );
  }
}

/** What the control plane's monitoring port answers, from each of its pods. */
export async function askControlPlane(
  client: KubeClient,
  path: string,
): Promise<{ readonly pod: string; readonly answer: unknown }[]> {
  const answer = await client.json("GET", "/api/v1/namespaces/istio-system/pods?labelSelector=app%3Distiod");
  const items = Array.isArray(answer["items"]) ? (answer["items"] as KubeObject[]) : [];
  const running = items.filter(
    (pod) =>
      isObject(pod["status"]) &&
      pod["status"]["phase"] === "Running" &&
      pod.metadata["deletionTimestamp"] === undefined,
  );
  if (running.length === 0)
    throw new Failure("the control plane is not running", "See: kubectl -n istio-system get pods");
  return Promise.all(
    running.map(async (pod) => {
      const target = { namespace: "istio-system", pod: pod.metadata.name, container: "discovery" };
      return {
        pod: pod.metadata.name,
        answer: JSON.parse(await exec(client, target, ["pilot-discovery", "request", "GET", path])) as unknown,
      };
    }),
  );
}
