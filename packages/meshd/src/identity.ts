// Who calls: workload certificates and ServiceAccount tokens, and what a proxy says of itself in its node.
import { createHash } from "node:crypto";
import { isObject } from "@lateen/base";
import { scopeKey } from "@lateen/compile";
import type { Node } from "@lateen/envoy-api/discovery";
import type { KubeClient } from "@lateen/kube";
import type { Scope } from "@lateen/model";
import type { ProxyInfo } from "@lateen/xds";
import { GrpcError, type ServerCall, STATUS } from "@lateen/xds/grpc";

/** Audience of the tokens that agents bring. */
const AUDIENCE = "istio-ca";
/** How long a review of a token counts. */
const REVIEW_MS = 60_000;
const REVIEWS_MAX = 10_000;

/** A workload whose namespace and account have been proved. */
export interface Caller {
  readonly namespace: string;
  readonly account: string;
}

export class Authentication {
  readonly #client: KubeClient;
  readonly #trustDomain: string;
  readonly #reviews = new Map<string, { readonly caller: Caller; readonly untilMs: number }>();

  constructor(client: KubeClient, trustDomain: string) {
    this.#client = client;
    this.#trustDomain = trustDomain;
  }

  /** The caller behind a TLS call: client certificate first, then token. Throws GrpcError when there is neither. */
  async authenticate(call: Pick<ServerCall, "headers" | "peerUris">): Promise<Caller> {
    for (const uri of call.peerUris) {
      const match = /^spiffe:\/\/([^/]+)\/ns\/([^/]+)\/sa\/([^/]+)$/.exec(uri);
      if (match !== null && match[1] === this.#trustDomain)
        return { namespace: match[2] ?? "", account: match[3] ?? "" };
    }
    const { authorization } = call.headers;
    if (authorization?.startsWith("Bearer ") !== true)
      throw new GrpcError(STATUS.unauthenticated, "no client certificate and no token");
    return this.#review(authorization.slice("Bearer ".length));
  }

  async #review(token: string): Promise<Caller> {
    const key = createHash("sha256").update(token).digest("base64");
    const known = this.#reviews.get(key);
    if (known !== undefined && known.untilMs > Date.now()) return known.caller;
    const body = {
      apiVersion: "authentication.k8s.io/v1",
      kind: "TokenReview",
      spec: { token, audiences: [AUDIENCE] },
    };
    const answer = await this.#client.json("POST", "/apis/authentication.k8s.io/v1/tokenreviews", { body });
    const status = isObject(answer["status"]) ? answer["status"] : {};
    const user = isObject(status["user"]) ? String(status["user"]["username"] ?? "") : "";
    const match = /^system:serviceaccount:([^:]+):([^:]+)$/.exec(user);
    if (status["authenticated"] !== true || match === null)
      throw new GrpcError(STATUS.unauthenticated, "the token is not valid for the mesh");
    const caller = { namespace: match[1] ?? "", account: match[2] ?? "" };
    if (this.#reviews.size >= REVIEWS_MAX) this.#reviews.clear();
    this.#reviews.set(key, { caller, untilMs: Date.now() + REVIEW_MS });
    return caller;
  }
}

function record(value: unknown): Record<string, string> {
  return isObject(value) ? Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, String(entry)])) : {};
}

function podPorts(value: unknown): Record<string, number> {
  if (typeof value !== "string" || value === "") return {};
  const ports: unknown = JSON.parse(value);
  if (!Array.isArray(ports)) return {};
  const named = ports.filter(
    (port): port is { name: string; containerPort: number } =>
      isObject(port) && typeof port["name"] === "string" && typeof port["containerPort"] === "number",
  );
  return Object.fromEntries(named.map((port) => [port.name, port.containerPort]));
}

/** A proxy by its node: `type~ip~pod.namespace~domain` and metadata. `caller` must be the one that the node speaks of. */
export function describeProxy(node: Node, caller: Caller | undefined): ProxyInfo {
  const [type = "", , name = "", domain = ""] = node.id.split("~");
  if (type !== "sidecar" && type !== "router")
    throw new GrpcError(STATUS.invalidArgument, `node id "${node.id}" is not type~ip~pod.namespace~domain`);
  const metadata = (node.metadata ?? {}) as Record<string, unknown>;
  const namespace = String(metadata["NAMESPACE"] ?? domain.split(".")[0] ?? "");
  const account = String(metadata["SERVICE_ACCOUNT"] ?? "");
  if (caller !== undefined && (caller.namespace !== namespace || (account !== "" && caller.account !== account))) {
    throw new GrpcError(
      STATUS.permissionDenied,
      `identity ${caller.namespace}/${caller.account} may not speak for ${namespace}/${account}`,
    );
  }
  const annotations = record(metadata["ANNOTATIONS"]);
  const scope: Scope = {
    kind: type,
    namespace,
    labels: record(metadata["LABELS"]),
    podPorts: podPorts(metadata["POD_PORTS"]),
    isOnDemand:
      type === "sidecar" && metadata["LATEEN_ON_DEMAND"] === "true" && annotations["lateen.dev/on-demand"] !== "false",
  };
  return {
    name,
    scope: scopeKey(scope),
    clusterId: String(metadata["CLUSTER_ID"] ?? "Kubernetes"),
    version: String(metadata["ISTIO_VERSION"] ?? ""),
  };
}
