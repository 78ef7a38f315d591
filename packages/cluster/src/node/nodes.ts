// The simulated nodes. They share one machine and one node process; each has a name, an address, a range of pod addresses,
// labels and taints of its own, so that scheduling and locality can be tried. A Node whose `spec.providerID` begins with
// `lateen://` is one of them: `kubectl create` makes it, `kubectl delete` removes it.
import { randomInt } from "node:crypto";
import { availableParallelism, release, totalmem } from "node:os";
import { errorText } from "@lateen/base";
import { ApiError } from "../api/errors.ts";
import { builtIn } from "../api/kinds.ts";
import { type KubeObject, newMeta, timestamp } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import type { SandboxClient } from "../sandbox/client.ts";

const NODES = builtIn("nodes");
const LEASES = builtIn("leases");
const LEASE_NAMESPACE = "kube-node-lease";
const PROVIDER = "lateen://";
const PODS_MAX = 250;
const NODES_MAX = 250;
/** Times of the kubelet's node lease. */
const LEASE_SECONDS = 40;
const LEASE_RENEW_MS = 10_000;
const MANAGER = { manager: "kubelet" };
const ARCHITECTURE = process.arch === "arm64" ? "arm64" : "amd64";

interface SimulatedNode {
  readonly name: string;
  readonly address: string;
  /** Its pods' addresses are 10.244.INDEX.2 to .253. */
  readonly index: number;
}

const providerOf = (node: KubeObject): string =>
  String((node.spec as { providerID?: string } | undefined)?.providerID ?? "");

function labelsOf(name: string): Record<string, string> {
  return {
    "beta.kubernetes.io/arch": ARCHITECTURE,
    "beta.kubernetes.io/os": "linux",
    "kubernetes.io/arch": ARCHITECTURE,
    "kubernetes.io/hostname": name,
    "kubernetes.io/os": "linux",
  };
}

function statusOf({ name, address }: SimulatedNode): Record<string, unknown> {
  const now = timestamp();
  const capacity = {
    cpu: String(availableParallelism()),
    "ephemeral-storage": "64Gi",
    memory: `${Math.floor(totalmem() / 1024)}Ki`,
    pods: String(PODS_MAX),
  };
  const condition = (type: string, isTrue: boolean, reason: string, message: string): Record<string, string> => ({
    type,
    status: isTrue ? "True" : "False",
    lastHeartbeatTime: now,
    lastTransitionTime: now,
    reason,
    message,
  });
  return {
    capacity,
    allocatable: capacity,
    addresses: [
      { type: "InternalIP", address },
      { type: "Hostname", address: name },
    ],
    conditions: [
      condition("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
      condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
      condition("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
      condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
    ],
    nodeInfo: {
      kubeletVersion: "v1.34.1+lateen",
      kubeProxyVersion: "v1.34.1+lateen",
      osImage: "Lateen embedded node",
      kernelVersion: release(),
      containerRuntimeVersion: "lateen://0.1.0",
      architecture: ARCHITECTURE,
      operatingSystem: "linux",
      bootID: "",
      machineID: "",
      systemUUID: "",
    },
  };
}

export class SimulatedNodes {
  readonly #registry: Registry;
  readonly #sandbox: SandboxClient;
  /** The address of the first node, which is the machine's; those of the others follow it. */
  readonly #firstAddress: string;
  readonly #nodes = new Map<string, SimulatedNode>();

  constructor(registry: Registry, sandbox: SandboxClient, firstAddress: string) {
    this.#registry = registry;
    this.#sandbox = sandbox;
    this.#firstAddress = firstAddress;
  }

  /** Takes up the nodes that there are, and `first` if there is none of its name. Calls `onChange` when there is one more. */
  async start(first: string, onChange: (name: string) => void): Promise<void> {
    if (this.#registry.find(NODES, undefined, first) === undefined) {
      const metadata = newMeta(first, undefined, { ...labelsOf(first), "node-role.kubernetes.io/control-plane": "" });
      const spec = { providerID: `${PROVIDER}${first}` };
      await this.#registry.create(NODES, undefined, { apiVersion: "v1", kind: "Node", metadata, spec }, MANAGER);
    }
    const firstNode = this.#registry.get(NODES, undefined, first);
    await this.#take(firstNode);
    for (const node of this.#registry.list(NODES)) if (node.metadata.name !== first) await this.#take(node);
    this.#registry.store.subscribe("nodes", ({ type, object }) => {
      const { name } = object.metadata;
      if (type === "DELETED") this.#nodes.delete(name);
      else if (!this.#nodes.has(name))
        void this.#take(object).then((isTaken) => (isTaken ? onChange(name) : undefined));
    });
    setInterval(() => void this.#renewLeases(), LEASE_RENEW_MS).unref();
  }

  /** The address of a node, or undefined where it is none of ours. */
  addressOf(name: string | undefined): string | undefined {
    return this.#nodes.get(name ?? "")?.address;
  }

  /** An address for a pod of a node, which none of `used` is. */
  freePodAddress(name: string, used: ReadonlySet<string>): string {
    const { index } = this.#nodes.get(name) ?? { index: 0 };
    for (;;) {
      const address = `10.244.${index}.${randomInt(2, 254)}`;
      if (!used.has(address)) return address;
    }
  }

  async #take(node: KubeObject): Promise<boolean> {
    const { name } = node.metadata;
    if (!providerOf(node).startsWith(PROVIDER) || this.#nodes.has(name)) return false;
    const used = new Set([...this.#nodes.values()].map(({ index }) => index));
    const asked = /^10\.244\.(\d+)\./.exec(String((node.spec as { podCIDR?: string }).podCIDR ?? ""))?.[1];
    const isFirst = this.#nodes.size === 0;
    const candidates = [
      ...(asked === undefined ? [] : [Number(asked)]),
      ...Array.from({ length: NODES_MAX }, (_, i) => i),
    ];
    const index = isFirst ? 0 : candidates.find((candidate) => candidate > 0 && !used.has(candidate));
    if (index === undefined) {
      process.stderr.write(`node ${name}: there are ${NODES_MAX} nodes already\n`);
      return false;
    }
    const address = isFirst
      ? this.#firstAddress
      : this.#firstAddress.replace(/\d+$/, (last) => String(Number(last) + index));
    const simulated = { name, address, index };
    this.#nodes.set(name, simulated);
    try {
      if (!isFirst) await this.#sandbox.addAddress(address).catch(ignoreExisting);
      await this.#register(simulated);
    } catch (error) {
      process.stderr.write(`node ${name}: ${errorText(error)}\n`);
      if (error instanceof ApiError && error.code === 404) this.#nodes.delete(name);
    }
    return true;
  }

  async #register(node: SimulatedNode): Promise<void> {
    const podCIDR = `10.244.${node.index}.0/24`;
    await this.#registry.update(
      NODES,
      undefined,
      node.name,
      (current) => ({
        ...current,
        metadata: { ...current.metadata, labels: { ...labelsOf(node.name), ...current.metadata.labels } },
        spec: { podCIDR, podCIDRs: [podCIDR], ...(current.spec as object) },
      }),
      MANAGER,
    );
    const status = statusOf(node);
    const write = (current: KubeObject): KubeObject => ({ ...current, status });
    await this.#registry.update(NODES, undefined, node.name, write, { ...MANAGER, subresource: "status" });
    await this.#renewLease(node.name);
  }

  async #renewLeases(): Promise<void> {
    for (const name of this.#nodes.keys()) {
      try {
        await this.#renewLease(name);
      } catch (error) {
        process.stderr.write(`node ${name}: lease: ${errorText(error)}\n`);
      }
    }
  }

  async #renewLease(name: string): Promise<void> {
    const renewTime = new Date().toISOString().replace("Z", "000Z");
    const spec = { holderIdentity: name, leaseDurationSeconds: LEASE_SECONDS, renewTime };
    if (this.#registry.find(LEASES, LEASE_NAMESPACE, name) !== undefined) {
      await this.#registry.update(LEASES, LEASE_NAMESPACE, name, (current) => ({ ...current, spec }), MANAGER);
      return;
    }
    const { uid } = this.#registry.get(NODES, undefined, name).metadata;
    const ownerReferences = [{ apiVersion: "v1", kind: "Node", name, uid }];
    const metadata = { ...newMeta(name, LEASE_NAMESPACE), ownerReferences };
    const lease = { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata, spec };
    await this.#registry.create(LEASES, LEASE_NAMESPACE, lease, MANAGER);
  }
}

/** A node of the same name was here before: its address still is. */
function ignoreExisting(error: unknown): void {
  if (!errorText(error).includes("File exists")) throw error;
}
