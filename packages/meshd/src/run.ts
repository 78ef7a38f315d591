// The control plane: parts built, then started in order.
import { Buffer } from "node:buffer";
import { errorText } from "@lateen/base";
import { type Authority, WORKLOAD_TTL_SECONDS } from "@lateen/ca";
import { DEFAULT_MESH_CONFIG, snapshot } from "@lateen/compile";
import { inClusterConfig, KubeClient, loadKubeConfig } from "@lateen/kube";
import { spiffeId } from "@lateen/model";
import { DELTA_METHOD, DiscoveryServer } from "@lateen/xds";
import { fields, frame, GrpcError, GrpcServer, type Handler, STATUS, stringField } from "@lateen/xds/grpc";
import { Authentication, describeProxy } from "./identity.ts";
import { serveMonitoring } from "./monitoring.ts";
import type { ListenAddress, Options } from "./options.ts";
import { openAuthority, publishRoot } from "./root.ts";
import { registerWebhooks, serveWebhooks } from "./webhooks.ts";
import { World } from "./world.ts";

const CERTIFICATE_METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

function log(text: string): void {
  process.stdout.write(`${new Date().toISOString()} ${text}\n`);
}

/** IstioCertificateRequest { csr 1, validity_duration 3 } -> IstioCertificateResponse { cert_chain 1 }. */
function certificateHandler(authentication: Authentication, authority: Authority, trustDomain: string): Handler {
  return (call) => {
    const sign = async (message: Buffer): Promise<void> => {
      const caller = await authentication.authenticate(call);
      const parts = fields(message);
      const csr = parts.find((field) => field.number === 1)?.bytes.toString("utf8") ?? "";
      const seconds = parts.find((field) => field.number === 3)?.value ?? WORKLOAD_TTL_SECONDS;
      let certificate: string;
      try {
        certificate = authority.sign(csr, spiffeId(trustDomain, caller.namespace, caller.account), seconds);
      } catch (error) {
        throw new GrpcError(STATUS.invalidArgument, errorText(error));
      }
      call.send(frame(stringField(1, certificate), stringField(1, authority.rootPem)));
      call.end(STATUS.ok);
    };
    call.onMessage = (message) => {
      sign(Buffer.from(message)).catch((error: unknown) =>
        call.end(error instanceof GrpcError ? error.status : STATUS.unknown, errorText(error)),
      );
    };
  };
}

function shown(at: ListenAddress): string {
  return `${at.host ?? ""}:${at.port}`;
}

/** Runs until a signal ends it. */
export async function runControlPlane(options: Options): Promise<void> {
  process.title = "pilot-discovery discovery";
  const stop = new AbortController();
  const account = options.kubeconfig === undefined ? inClusterConfig() : undefined;
  const client = new KubeClient(account ?? loadKubeConfig(options.kubeconfig));
  let discovery: DiscoveryServer | undefined;
  const world = new World(log, () => discovery?.changed());
  const { trustDomain, clusterId, domainSuffix } = DEFAULT_MESH_CONFIG;
  const authentication = new Authentication(client, trustDomain);
  const source = {
    identify: async (node: Parameters<typeof describeProxy>[0], call: Parameters<Handler>[0]) =>
      describeProxy(node, call.isSecure ? await authentication.authenticate(call) : undefined),
    desired: (scope: string, demand: Iterable<string>) => {
      const { clusters, endpoints, listeners, routes, virtualHosts } = snapshot(world.store.root, scope, demand);
      return { cluster: clusters, endpoint: endpoints, listener: listeners, route: routes, virtualHost: virtualHosts };
    },
  };
  const [authority] = await Promise.all([
    openAuthority(client, options.namespace, trustDomain),
    world.start(client, options.namespace, stop.signal),
  ]);
  log(`the cluster is known: ${world.store.revision} objects`);
  discovery = new DiscoveryServer(source, log);
  const published = publishRoot(client, authority.rootPem, log, stop.signal);
  const names = [
    "istiod",
    `istiod.${options.namespace}`,
    `istiod.${options.namespace}.svc`,
    `istiod.${options.namespace}.svc.${domainSuffix}`,
    "localhost",
    "127.0.0.1",
  ];
  const server = authority.issueServer(names, spiffeId(trustDomain, options.namespace, "istiod"));
  const grpcServers: GrpcServer[] = [];
  if (options.grpc !== undefined) {
    // Plaintext: configuration without secrets, and no certificates.
    const plain = new GrpcServer(new Map([[DELTA_METHOD, discovery.handler]]), undefined);
    await plain.listen(options.grpc);
    grpcServers.push(plain);
    log(`xDS in plaintext on ${shown(options.grpc)}`);
  }
  if (options.secureGrpc !== undefined) {
    const handlers = new Map([
      [DELTA_METHOD, discovery.handler],
      [CERTIFICATE_METHOD, certificateHandler(authentication, authority, trustDomain)],
    ]);
    const secure = new GrpcServer(handlers, { ...server, authorityPem: authority.rootPem });
    await secure.listen(options.secureGrpc);
    grpcServers.push(secure);
    log(`xDS and certificates over TLS on ${shown(options.secureGrpc)}`);
  }
  await published;
  if (options.https !== undefined) {
    const discoveryAddress = `istiod.${options.namespace}.svc:15012`;
    await serveWebhooks(options.https, server, {
      proxyImage: options.proxyImage,
      discoveryAddress,
      trustDomain,
      clusterDomain: domainSuffix,
      clusterId,
      revision: options.revision,
    });
    // Run from elsewhere, the API server could not reach us.
    if (account !== undefined) await registerWebhooks(client, options.namespace, authority.rootPem);
    log(`webhooks on ${shown(options.https)}`);
  }
  let isReady = true;
  if (options.monitoring !== undefined) {
    await serveMonitoring(options.monitoring, world, discovery, () => isReady);
    log(`monitoring on ${shown(options.monitoring)}`);
  }
  log("ready");
  await new Promise<void>((resolve) => {
    process.once("SIGTERM", resolve);
    process.once("SIGINT", resolve);
  });
  isReady = false;
  stop.abort();
  discovery.close();
  await Promise.all(grpcServers.map((entry) => entry.close()));
  process.exit(0);
}
