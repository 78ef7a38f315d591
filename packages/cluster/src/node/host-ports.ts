// What the host's forwarder listens for, as Services come and go: node ports on 127.0.0.1, and for each LoadBalancer an address
// 127.0.0.N of its own with its ports. The forwarder answers with the addresses, which become the Services' status.
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { errorText, jsonEqual } from "@lateen/base";
import { ApiError } from "../api/errors.ts";
import { recordEvent } from "../api/events.ts";
import { builtIn } from "../api/kinds.ts";
import type { Service } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import type { ForwarderAnswer, ForwarderRequest } from "../host/instance.ts";

const SERVICES = builtIn("services");

export class HostPorts {
  readonly #registry: Registry;
  readonly #socket: Socket;
  #last = "";

  /** Connects to the forwarder's socket and keeps it up to date from then on. */
  constructor(registry: Registry, path: string) {
    this.#registry = registry;
    this.#socket = connect(path);
    this.#socket.on("error", (error) => process.stderr.write(`forwarder: ${errorText(error)}\n`));
    this.#socket.once("connect", () => this.#announce());
    createInterface({ input: this.#socket }).on("line", (line) => {
      const { balancers } = JSON.parse(line) as ForwarderAnswer;
      for (const [name, address] of Object.entries(balancers)) void this.#write(name, address);
    });
    registry.store.subscribe("services", ({ type, object }) => {
      this.#announce();
      const service = object as Service;
      // One that is no balancer any more has no address.
      const { loadBalancer } = (service.status ?? {}) as { loadBalancer?: { ingress?: unknown } };
      if (type !== "DELETED" && service.spec.type !== "LoadBalancer" && loadBalancer?.ingress !== undefined)
        void this.#write(`${service.metadata.namespace}/${service.metadata.name}`, undefined);
    });
  }

  #announce(): void {
    const nodePorts: ForwarderRequest["nodePorts"][number][] = [];
    const balancers: ForwarderRequest["balancers"][number][] = [];
    for (const { metadata, spec } of this.#registry.list(SERVICES) as Service[]) {
      const name = `${metadata.namespace}/${metadata.name}`;
      const ports = (spec.ports ?? []).filter(({ protocol }) => (protocol ?? "TCP") === "TCP");
      for (const { port, nodePort } of ports)
        if (nodePort !== undefined) nodePorts.push({ name: `${name}:${port}`, nodePort });
      const { loadBalancerIP } = spec as { loadBalancerIP?: string };
      if (spec.type === "LoadBalancer")
        balancers.push({
          name,
          host: spec.clusterIP ?? "",
          ports: ports.map(({ port }) => port),
          ...(loadBalancerIP === undefined ? {} : { wanted: loadBalancerIP }),
        });
    }
    const line = JSON.stringify({ nodePorts, balancers } satisfies ForwarderRequest);
    if (line !== this.#last) this.#socket.write(`${line}\n`);
    this.#last = line;
  }

  /** Writes a Service's address; null: there was none to be had. */
  async #write(key: string, address: string | null | undefined): Promise<void> {
    const [namespace = "", name = ""] = key.split("/");
    const service = this.#registry.find(SERVICES, namespace, name) as Service | undefined;
    if (service === undefined) return;
    if (address === null) {
      const message =
        "no address of 127.0.0.0/24 has all its ports free on this machine; its node ports lead to it, too";
      await recordEvent(this.#registry, service, "service-controller", {
        type: "Warning",
        reason: "SyncLoadBalancerFailed",
        message,
      });
      return;
    }
    const loadBalancer = address === undefined ? {} : { ingress: [{ ip: address, ipMode: "VIP" }] };
    if (jsonEqual(service.status, { loadBalancer })) return;
    try {
      await this.#registry.update(SERVICES, namespace, name, (current) => ({ ...current, status: { loadBalancer } }), {
        subresource: "status",
      });
    } catch (error) {
      if (!(error instanceof ApiError)) process.stderr.write(`forwarder: ${key}: ${errorText(error)}\n`);
    }
  }
}
