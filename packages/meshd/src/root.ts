// The mesh root in the cluster: kept in Secret istio-ca-secret, published to every namespace as ConfigMap istio-ca-root-cert.
import { errorText, isObject } from "@lateen/base";
import { Authority, createRoot } from "@lateen/ca";
import { follow, type KubeClient, KubeError } from "@lateen/kube";

const SECRET = "istio-ca-secret";
const PUBLISHED = "istio-ca-root-cert";

/** Opens the mesh's authority; makes it when there is none. Of several control planes that start at once one wins. */
export async function openAuthority(client: KubeClient, namespace: string, trustDomain: string): Promise<Authority> {
  const collection = `/api/v1/namespaces/${namespace}/secrets`;
  for (;;) {
    const secret = await client.find(`${collection}/${SECRET}`);
    if (secret !== undefined) {
      const data = isObject(secret["data"]) ? secret["data"] : {};
      const decode = (name: string): string => Buffer.from(String(data[name] ?? ""), "base64").toString("utf8");
      return new Authority({ certificatePem: decode("ca-cert.pem"), keyPem: decode("ca-key.pem") });
    }
    const root = createRoot(trustDomain);
    const encode = (text: string): string => Buffer.from(text).toString("base64");
    const body = {
      apiVersion: "v1",
      kind: "Secret",
      type: "istio.io/ca-root",
      metadata: { name: SECRET, namespace },
      data: { "ca-cert.pem": encode(root.certificatePem), "ca-key.pem": encode(root.keyPem) },
    };
    try {
      await client.json("POST", collection, { body });
    } catch (error) {
      if (!(error instanceof KubeError) || error.code !== 409) throw error;
    }
  }
}

/** Keeps the root's certificate published in every namespace: proxies check the control plane by it. */
export function publishRoot(
  client: KubeClient,
  rootPem: string,
  log: (text: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const publish = async (namespace: string): Promise<void> => {
    const object = {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { name: PUBLISHED, namespace, labels: { "istio.io/config": "true" } },
      data: { "root-cert.pem": rootPem },
    };
    try {
      await client.apply(`/api/v1/namespaces/${namespace}/configmaps`, object);
    } catch (error) {
      // A namespace on its way out takes nothing new.
      if (!(error instanceof KubeError) || (error.code !== 403 && error.code !== 404))
        log(`publishing the root in ${namespace}: ${errorText(error)}`);
    }
  };
  return follow({
    client,
    path: "/api/v1/namespaces",
    onChange: (_, object) => {
      if (object !== undefined && object.metadata["deletionTimestamp"] === undefined)
        void publish(object.metadata.name);
    },
    log,
    signal,
  });
}
