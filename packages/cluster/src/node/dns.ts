// Cluster DNS (RFC 1035 over UDP): Services and headless endpoints of `cluster.local`; all else does not exist here.
import { createSocket, type Socket } from "node:dgram";
import { builtIn, tableOf } from "../api/kinds.ts";
import type { EndpointSlice, Pod, Service } from "../api/objects.ts";
import type { Store } from "../api/store.ts";

const DOMAIN = "cluster.local";
const TYPE_A = 1;
const TYPE_CNAME = 5;
const TTL_SECONDS = 5;
const CODE_OK = 0;
const CODE_NO_NAME = 3;

interface Answer {
  readonly code: number;
  readonly addresses: readonly string[];
  readonly alias?: string;
}

export class ClusterDns {
  readonly #store: Store;
  readonly #socket: Socket = createSocket("udp4");

  constructor(store: Store) {
    this.#store = store;
    this.#socket.on("message", (query, peer) => {
      const reply = this.#reply(query);
      if (reply !== undefined) this.#socket.send(reply, peer.port, peer.address);
    });
  }

  listen(address: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.once("error", reject);
      this.#socket.bind(53, address, () => resolve());
    });
  }

  close(): void {
    this.#socket.close();
  }

  /** The addresses of a name, by the rules of Kubernetes' DNS specification. */
  resolve(name: string): Answer {
    const labels = name.toLowerCase().replace(/\.$/, "").split(".");
    const isService = labels.slice(-3).join(".") === `svc.${DOMAIN}`;
    const isPod = labels.slice(-3).join(".") === `pod.${DOMAIN}`;
    if (isPod) {
      const address = labels.at(-5)?.replaceAll("-", ".") ?? "";
      return { code: CODE_OK, addresses: /^\d+(\.\d+){3}$/.test(address) ? [address] : [] };
    }
    const [serviceName, namespace] = [labels.at(-5), labels.at(-4)];
    if (!isService || serviceName === undefined || labels.length < 5) return { code: CODE_NO_NAME, addresses: [] };
    const service = this.#store.get("services", namespace, serviceName) as Service | undefined;
    if (service === undefined) return { code: CODE_NO_NAME, addresses: [] };
    const { spec } = service;
    if (spec.type === "ExternalName") return { code: CODE_OK, addresses: [], alias: spec.externalName ?? "" };
    const host = labels.length === 6 ? labels[0] : undefined;
    if (spec.clusterIP !== "None") {
      if (host !== undefined) return { code: CODE_NO_NAME, addresses: [] };
      return { code: CODE_OK, addresses: [spec.clusterIP ?? ""] };
    }
    const addresses = this.#headless(namespace ?? "", service, host);
    return { code: addresses.length === 0 ? CODE_NO_NAME : CODE_OK, addresses };
  }

  #headless(namespace: string, service: Service, host: string | undefined): string[] {
    const slices = this.#store.list(tableOf(builtIn("endpointslices")), namespace) as EndpointSlice[];
    return slices
      .filter((slice) => slice.metadata.labels?.["kubernetes.io/service-name"] === service.metadata.name)
      .flatMap((slice) => slice.endpoints)
      .filter((endpoint) => endpoint.conditions?.ready !== false || service.spec.publishNotReadyAddresses === true)
      .filter((endpoint) => host === undefined || this.#hostOf(namespace, endpoint.targetRef?.name) === host)
      .flatMap((endpoint) => endpoint.addresses);
  }

  #hostOf(namespace: string, pod: string | undefined): string | undefined {
    if (pod === undefined) return undefined;
    const found = this.#store.get("pods", namespace, pod) as Pod | undefined;
    return found?.spec.subdomain === undefined ? undefined : (found.spec.hostname ?? pod);
  }

  #reply(query: Buffer): Buffer | undefined {
    if (query.length < 17 || query.readUInt16BE(4) !== 1) return undefined;
    const labels: string[] = [];
    let at = 12;
    for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
      if (length > 63 || at + length + 1 >= query.length) return undefined;
      labels.push(query.toString("latin1", at + 1, at + 1 + length));
      at += length + 1;
    }
    if (at + 5 > query.length) return undefined;
    const type = query.readUInt16BE(at + 1);
    const question = query.subarray(12, at + 5);
    const { code, addresses, alias } = this.resolve(labels.join("."));
    const records =
      type === TYPE_A ? addresses.map((address) => record(TYPE_A, Buffer.from(address.split(".").map(Number)))) : [];
    if (alias !== undefined) records.push(record(TYPE_CNAME, encodeName(alias)));
    const head = Buffer.alloc(12);
    query.copy(head, 0, 0, 2);
    // Response, authoritative, recursion as asked and available.
    head.writeUInt16BE(0x8480 | (query.readUInt16BE(2) & 0x0100) | code, 2);
    head.writeUInt16BE(1, 4);
    head.writeUInt16BE(records.length, 6);
    return Buffer.concat([head, question, ...records]);
  }
}

function encodeName(name: string): Buffer {
  const labels = name.replace(/\.$/, "").split(".");
  return Buffer.concat([
    ...labels.map((label) => Buffer.concat([Buffer.from([label.length]), Buffer.from(label)])),
    Buffer.from([0]),
  ]);
}

/** A resource record whose name points at the question. */
function record(type: number, data: Buffer): Buffer {
  const head = Buffer.alloc(12);
  head.writeUInt16BE(0xc00c, 0);
  head.writeUInt16BE(type, 2);
  head.writeUInt16BE(1, 4);
  head.writeUInt32BE(TTL_SECONDS, 6);
  head.writeUInt16BE(data.length, 10);
  return Buffer.concat([head, data]);
}
