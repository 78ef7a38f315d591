// The cluster process: API server, controllers and node in one, inside the instance's namespaces. Started by sandbox.py.
import { createPrivateKey } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { Failure } from "@lateen/base";
import { createAuthority, type Identity, issueIdentity } from "@lateen/x509";
import { Authenticator, TokenSigner } from "./api/auth.ts";
import { builtIn } from "./api/kinds.ts";
import { newMeta } from "./api/objects.ts";
import { Registry } from "./api/registry.ts";
import { ApiServer } from "./api/server.ts";
import { Store } from "./api/store.ts";
import { startApiServices } from "./controllers/apiservices.ts";
import { startCronJobs } from "./controllers/cronjobs.ts";
import { startDaemonSets } from "./controllers/daemons.ts";
import { startDefinitions } from "./controllers/definitions.ts";
import { startDeployments } from "./controllers/deployments.ts";
import { startBudgets } from "./controllers/disruption.ts";
import { startEndpoints } from "./controllers/endpoints.ts";
import { startGarbageCollector } from "./controllers/garbage.ts";
import { startJobs } from "./controllers/jobs.ts";
import { ensureSystem, startLifecycle } from "./controllers/lifecycle.ts";
import { startPolicies } from "./controllers/policies.ts";
import { startQuotas } from "./controllers/quota.ts";
import { startReplicas } from "./controllers/replicas.ts";
import { startScheduler } from "./controllers/scheduler.ts";
import { startStatefulSets } from "./controllers/stateful.ts";
import { startTaintEviction } from "./controllers/taints.ts";
import { API_FD, type ClusterOptions, outliveLog } from "./host/instance.ts";
import { ClusterDns } from "./node/dns.ts";
import { HostPorts } from "./node/host-ports.ts";
import { ImageTable } from "./node/images.ts";
import { Kubelet } from "./node/kubelet.ts";
import { ServiceNat } from "./node/services.ts";
import { Volumes } from "./node/volumes.ts";
import { SandboxClient } from "./sandbox/client.ts";

const NODE_ADDRESS = "10.244.255.1";
const GATEWAY = "169.254.1.1";
const API_SERVICE = "10.96.0.1";
const DNS_SERVICE = "10.96.0.10";
const NODE_NAME = "lateen-node";
const CONTROL_FD = 3;
const DAY_MS = 86_400_000;

/** Reads a file, or makes its content and keeps it, readable by the owner only. */
function keep(path: string, make: () => string): string {
  if (!existsSync(path)) writeFileSync(path, make(), { mode: 0o600 });
  return readFileSync(path, "utf8");
}

/** The cluster's authority, and what it signs anew at each start. */
function identities(folder: string): { authorityPem: string; server: Identity; admin: Identity } {
  const now = Date.now();
  const span = (days: number): { notBefore: Date; notAfter: Date } => ({
    notBefore: new Date(now - 3_600_000),
    notAfter: new Date(now + days * DAY_MS),
  });
  const made = (): string => JSON.stringify(createAuthority({ commonName: "kubernetes", ...span(3650) }));
  const authority = JSON.parse(keep(join(folder, "authority.json"), made)) as Identity;
  const signer = { certificatePem: authority.certificatePem, key: createPrivateKey(authority.keyPem) };
  const names = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    NODE_ADDRESS,
    API_SERVICE,
  ];
  return {
    authorityPem: authority.certificatePem,
    server: issueIdentity({ commonName: "kube-apiserver", altNames: names, ...span(365) }, signer),
    admin: issueIdentity({ commonName: "kubernetes-admin", organizations: ["system:masters"], ...span(365) }, signer),
  };
}

/** The key that signs the tokens of ServiceAccounts. */
async function tokenKeyOf(path: string): Promise<string> {
  const made = existsSync(path) ? "" : await TokenSigner.newKeyPem();
  return keep(path, () => made);
}

function writeKubeconfig(path: string, port: number, ids: ReturnType<typeof identities>): void {
  const encode = (text: string): string => Buffer.from(text).toString("base64");
  const config = {
    apiVersion: "v1",
    kind: "Config",
    clusters: [
      {
        name: "lateen",
        cluster: { server: `https://127.0.0.1:${port}`, "certificate-authority-data": encode(ids.authorityPem) },
      },
    ],
    users: [
      {
        name: "lateen-admin",
        user: {
          "client-certificate-data": encode(ids.admin.certificatePem),
          "client-key-data": encode(ids.admin.keyPem),
        },
      },
    ],
    contexts: [{ name: "lateen", context: { cluster: "lateen", user: "lateen-admin" } }],
    "current-context": "lateen",
  };
  writeFileSync(path, `${JSON.stringify(config, null, 2)}\n`, { mode: 0o600 });
  chmodSync(path, 0o600);
}

/** Services without selector whose one endpoint is the node itself. */
async function ensureNodeService(
  registry: Registry,
  at: {
    namespace: string;
    name: string;
    clusterIP: string;
    ports: { name: string; port: number; targetPort: number; protocol: string }[];
  },
): Promise<void> {
  const { namespace, name, clusterIP, ports } = at;
  const services = builtIn("services");
  const slices = builtIn("endpointslices");
  if (registry.find(services, namespace, name) === undefined) {
    await registry.create(services, namespace, {
      apiVersion: "v1",
      kind: "Service",
      metadata: newMeta(name, namespace),
      spec: { clusterIP, ports },
    });
  }
  if (registry.find(slices, namespace, name) !== undefined) return;
  await registry.create(slices, namespace, {
    apiVersion: "discovery.k8s.io/v1",
    kind: "EndpointSlice",
    metadata: newMeta(name, namespace, { "kubernetes.io/service-name": name }),
    addressType: "IPv4",
    endpoints: [{ addresses: [NODE_ADDRESS], conditions: { ready: true } }],
    ports: ports.map(({ name: portName, targetPort, protocol }) => ({ name: portName, port: targetPort, protocol })),
  });
}

/** Connections from the forwarder: a line `HOST PORT`, then bytes both ways. */
function serveDialer(path: string): Promise<void> {
  rmSync(path, { force: true });
  const server = createServer({ pauseOnConnect: false }, (inbound) => {
    inbound.on("error", () => inbound.destroy());
    inbound.once("data", (first: Buffer) => {
      inbound.pause();
      const end = first.indexOf(10);
      const [host = "", port = ""] = first.subarray(0, Math.max(end, 0)).toString("latin1").split(" ");
      const outbound = connect({ host, port: Number(port) });
      outbound.on("error", () => inbound.destroy());
      outbound.once("connect", () => {
        outbound.write(first.subarray(end + 1));
        inbound.pipe(outbound);
        outbound.pipe(inbound);
        inbound.resume();
      });
      inbound.once("close", () => outbound.destroy());
      outbound.once("close", () => inbound.destroy());
    });
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
}

async function main(): Promise<void> {
  const options = JSON.parse(process.argv[2] ?? "{}") as ClusterOptions;
  process.title = "lateen-cluster";
  outliveLog();
  const pki = join(options.stateFolder, "pki");
  mkdirSync(pki, { recursive: true, mode: 0o700 });
  // Made, the first time, while other things are done.
  const tokenKey = tokenKeyOf(join(pki, "token-key.pem"));
  const ids = identities(pki);
  const store = new Store(join(options.stateFolder, "state.db"));
  const registry = new Registry(store);
  await ensureSystem(registry);
  const signer = new TokenSigner(await tokenKey);
  const authenticator = new Authenticator(store, signer);
  const sandbox = new SandboxClient(CONTROL_FD);
  const kubelet = new Kubelet({
    registry,
    sandbox,
    programs: options.programs,
    images: new ImageTable(options.stateFolder),
    volumes: new Volumes(store, signer, options.stateFolder),
    logsFolder: join(options.stateFolder, "logs"),
    address: NODE_ADDRESS,
    gateway: GATEWAY,
    dnsAddress: DNS_SERVICE,
    nodeName: NODE_NAME,
    sandboxCommand: options.sandboxCommand,
  });
  const tls = { ...ids.server, authorityPem: ids.authorityPem };
  const api = new ApiServer({ registry, authenticator, signer, node: kubelet, tls, address: `${NODE_ADDRESS}:6443` });
  rmSync(options.apiSocket, { force: true });
  await api.listen({ path: options.apiSocket });
  await api.listen({ fd: API_FD });
  await api.listen({ host: NODE_ADDRESS, port: 6443 });
  await serveDialer(options.dialSocket);
  startGarbageCollector(registry);
  startLifecycle(registry, ids.authorityPem);
  const https = { name: "https", port: 443, targetPort: 6443, protocol: "TCP" };
  await ensureNodeService(registry, {
    namespace: "default",
    name: "kubernetes",
    clusterIP: API_SERVICE,
    ports: [https],
  });
  const dnsPorts = ["UDP", "TCP"].map((protocol) => ({
    name: protocol === "UDP" ? "dns" : "dns-tcp",
    port: 53,
    targetPort: 53,
    protocol,
  }));
  await ensureNodeService(registry, {
    namespace: "kube-system",
    name: "kube-dns",
    clusterIP: DNS_SERVICE,
    ports: dnsPorts,
  });
  await new ClusterDns(store).listen(NODE_ADDRESS);
  new ServiceNat(store).refresh();
  const controllers = [
    startDefinitions,
    startApiServices,
    startScheduler,
    startDeployments,
    startReplicas,
    startStatefulSets,
    startDaemonSets,
    startJobs,
    startCronJobs,
    startBudgets,
    startQuotas,
    startPolicies,
    startTaintEviction,
  ];
  for (const start of controllers) start(registry);
  startEndpoints(registry);
  await kubelet.start();
  new HostPorts(registry, options.forwarderSocket);
  writeKubeconfig(options.kubeconfig, options.apiPort, ids);
  api.setReady();
  const stop = (): void => {
    store.close();
    process.exit(0);
  };
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
}

try {
  await main();
} catch (error) {
  // What can be said in a sentence is; anything else is a bug of ours, and the stack helps.
  if (!(error instanceof Failure)) throw error;
  process.stderr.write(`${error.message}\n${error.help ?? ""}\n`);
  process.exit(1);
}
