// Service addresses by nat in the outer network namespace: what kube-proxy does. The whole table is written in one
// transaction on each change (iptables-restore), so there is never a half of it; established connections keep their path.
import { spawn } from "node:child_process";
import { errorText } from "@lateen/base";
import { builtIn, tableOf } from "../api/kinds.ts";
import type { EndpointSlice, Service, ServicePort } from "../api/objects.ts";
import type { Store } from "../api/store.ts";

/** Marks a connection of a pod to itself through a Service: its source must become the node's for the answer to return. */
const HAIRPIN_MARK = "0x4000/0x4000";

interface Backend {
  readonly address: string;
  readonly port: number;
}

export class ServiceNat {
  readonly #store: Store;
  #isDirty = false;
  #running = false;
  #applied = "";
  /** Called after each change that is in force. */
  onApplied: () => void = () => {};

  constructor(store: Store) {
    this.#store = store;
    for (const kind of ["services", "endpointslices"]) store.subscribe(tableOf(builtIn(kind)), () => this.refresh());
  }

  /** Brings the table up to date, soon. */
  refresh(): void {
    this.#isDirty = true;
    if (!this.#running) void this.#apply();
  }

  async #apply(): Promise<void> {
    this.#running = true;
    while (this.#isDirty) {
      this.#isDirty = false;
      const services = this.#store.list("services") as Service[];
      const slices = this.#store.list(tableOf(builtIn("endpointslices"))) as EndpointSlice[];
      const rules = renderRules(services, slices, true);
      if (rules === this.#applied) continue;
      try {
        await restore(rules).catch((error: unknown) => {
          if (!rules.includes("-m recent")) throw error;
          process.stderr.write(`services: without session affinity, which this kernel refuses: ${errorText(error)}\n`);
          return restore(renderRules(services, slices, false));
        });
        this.#applied = rules;
        this.onApplied();
      } catch (error) {
        process.stderr.write(`services: iptables-restore: ${errorText(error)}\n`);
      }
    }
    this.#running = false;
  }
}

function restore(rules: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn("iptables-restore", ["-w", "5"], { stdio: ["pipe", "ignore", "pipe"] });
    let errors = "";
    child.stderr.on("data", (chunk) => {
      errors += chunk;
    });
    child.once("error", reject);
    child.once("close", (code) => (code === 0 ? resolve() : reject(new Error(errors.trim()))));
    child.stdin.on("error", () => {});
    child.stdin.end(rules);
  });
}

function backendsOf(slices: readonly EndpointSlice[], service: Service, port: ServicePort): Backend[] {
  const { name, namespace } = service.metadata;
  return slices
    .filter(
      (slice) =>
        slice.metadata.namespace === namespace && slice.metadata.labels?.["kubernetes.io/service-name"] === name,
    )
    .flatMap((slice) => {
      const target = slice.ports.find((entry) => (entry.name ?? "") === (port.name ?? ""));
      if (target === undefined) return [];
      const ready = slice.endpoints.filter((endpoint) => endpoint.conditions?.ready !== false);
      return ready.flatMap((endpoint) => endpoint.addresses.map((address) => ({ address, port: target.port })));
    });
}

/** For how long a client keeps its endpoint; undefined: each connection may go to another one. */
function affinitySeconds(service: Service): number | undefined {
  if (service.spec["sessionAffinity"] !== "ClientIP") return undefined;
  const config = service.spec["sessionAffinityConfig"] as { clientIP?: { timeoutSeconds?: number } } | undefined;
  return config?.clientIP?.timeoutSeconds ?? 10_800;
}

/** The nat and filter tables of all Services, as iptables-restore reads them. */
function renderRules(services: readonly Service[], slices: readonly EndpointSlice[], hasAffinity: boolean): string {
  const chains: string[] = [];
  const entries: string[] = [];
  const bodies: string[] = [];
  const rejects: string[] = [];
  for (const service of services) {
    const { clusterIP } = service.spec;
    if (clusterIP === undefined || clusterIP === "None" || clusterIP === "") continue;
    for (const port of service.spec.ports ?? []) {
      const protocol = (port.protocol ?? "TCP").toLowerCase();
      const match = `-d ${clusterIP}/32 -p ${protocol} -m ${protocol} --dport ${port.port}`;
      const nodeMatch =
        port.nodePort === undefined
          ? undefined
          : `-p ${protocol} -m ${protocol} --dport ${port.nodePort} -m addrtype --dst-type LOCAL`;
      const backends = backendsOf(slices, service, port);
      if (backends.length === 0) {
        for (const chain of ["FORWARD", "OUTPUT"]) rejects.push(`-A ${chain} ${match} -j REJECT`);
        continue;
      }
      const chain = `SVC-${chains.length}`;
      chains.push(chain);
      entries.push(`-A LATEEN-SERVICES ${match} -j ${chain}`);
      if (nodeMatch !== undefined) entries.push(`-A LATEEN-SERVICES ${nodeMatch} -j ${chain}`);
      const seconds = hasAffinity ? affinitySeconds(service) : undefined;
      // The kernel's list of an endpoint's clients: its name outlasts the table, which is written anew.
      const clientsOf = ({ address, port: to }: Backend): string =>
        `-m recent --rsource --name ${service.metadata.uid.slice(0, 8)}-${address}-${to}`;
      if (seconds !== undefined)
        backends.forEach((backend, i) => {
          bodies.push(`-A ${chain} ${clientsOf(backend)} --rcheck --seconds ${seconds} --reap -j ${chain}-${i}`);
        });
      backends.forEach((backend, i) => {
        const endpoint = `${chain}-${i}`;
        chains.push(endpoint);
        const rest = backends.length - i;
        const share = rest === 1 ? "" : ` -m statistic --mode random --probability ${(1 / rest).toFixed(8)}`;
        bodies.push(`-A ${chain}${share} -j ${endpoint}`);
        bodies.push(`-A ${endpoint} -s ${backend.address}/32 -j MARK --set-xmark ${HAIRPIN_MARK}`);
        bodies.push(
          `-A ${endpoint}${seconds === undefined ? "" : ` ${clientsOf(backend)} --set`} -p ${protocol} -m ${protocol} -j DNAT --to-destination ${backend.address}:${backend.port}`,
        );
      });
    }
  }
  return [
    "*filter",
    ":INPUT ACCEPT [0:0]",
    ":FORWARD ACCEPT [0:0]",
    ":OUTPUT ACCEPT [0:0]",
    ...rejects,
    "COMMIT",
    "*nat",
    ":PREROUTING ACCEPT [0:0]",
    ":INPUT ACCEPT [0:0]",
    ":OUTPUT ACCEPT [0:0]",
    ":POSTROUTING ACCEPT [0:0]",
    ":LATEEN-SERVICES - [0:0]",
    ...chains.map((chain) => `:${chain} - [0:0]`),
    "-A PREROUTING -j LATEEN-SERVICES",
    "-A OUTPUT -j LATEEN-SERVICES",
    `-A POSTROUTING -m mark --mark ${HAIRPIN_MARK} -j MASQUERADE`,
    ...entries,
    ...bodies,
    "COMMIT",
    "",
  ].join("\n");
}
