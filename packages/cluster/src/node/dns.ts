// Cluster DNS (RFC 1035, over UDP and TCP), by Kubernetes' DNS specification 1.1.0: Services, their ports (SRV), endpoints of
// headless ones, reverse names. All else does not exist here.
import { createSocket, type Socket } from "node:dgram";
import { type Socket as Connection, createServer, type Server } from "node:net";
import { builtIn, tableOf } from "../api/kinds.ts";
import type { EndpointSlice, Service } from "../api/objects.ts";
import type { Store } from "../api/store.ts";

const DOMAIN = "cluster.local";
const REVERSE = "in-addr.arpa";
const TYPE = { A: 1, CNAME: 5, PTR: 12, TXT: 16, SRV: 33, OPT: 41 } as const;
const CLASS_IN = 1;
const TTL_SECONDS = 5;
const CODE_OK = 0;
const CODE_NO_NAME = 3;
/** Bytes of an answer over UDP where the client does not say how many it takes (RFC 6891). */
const UDP_BYTES = 512;
const SPECIFICATION = "1.1.0";
/** An alias may name an alias; no more than so many in a row. */
const ALIASES_MAX = 8;
const IDLE_MS = 30_000;
const SLICES = tableOf(builtIn("endpointslices"));

type Endpoint = EndpointSlice["endpoints"][number];

interface DnsRecord {
  readonly name: string;
  readonly type: number;
  readonly data: Buffer;
}

interface Answer {
  readonly code: number;
  readonly answers: readonly DnsRecord[];
  readonly additional: readonly DnsRecord[];
}

interface Question {
  readonly name: string;
  readonly type: number;
  readonly bytes: Buffer;
  readonly udpBytes: number;
}

const NO_NAME: Answer = { code: CODE_NO_NAME, answers: [], additional: [] };
const found = (answers: readonly DnsRecord[], additional: readonly DnsRecord[] = []): Answer => ({
  code: CODE_OK,
  answers,
  additional,
});

function encodeName(name: string): Buffer {
  const labels = name.split(".").filter((label) => label !== "");
  return Buffer.concat([
    ...labels.map((label) => Buffer.concat([Buffer.from([label.length]), Buffer.from(label, "latin1")])),
    Buffer.from([0]),
  ]);
}

const addressRecord = (name: string, address: string): DnsRecord => ({
  name,
  type: TYPE.A,
  data: Buffer.from(address.split(".").map(Number)),
});

/** Priority 0, weight 100, as CoreDNS answers. */
function serviceRecord(name: string, port: number, target: string): DnsRecord {
  const head = Buffer.alloc(6);
  head.writeUInt16BE(100, 2);
  head.writeUInt16BE(port, 4);
  return { name, type: TYPE.SRV, data: Buffer.concat([head, encodeName(target)]) };
}

/** What an endpoint is called below its headless Service. */
const hostOf = (endpoint: Endpoint, address: string): string => endpoint.hostname ?? address.replaceAll(".", "-");

export class ClusterDns {
  readonly #store: Store;
  readonly #socket: Socket = createSocket("udp4");
  readonly #server: Server;

  constructor(store: Store) {
    this.#store = store;
    this.#socket.on("message", (query, peer) => {
      const question = readQuestion(query);
      if (question === undefined) return;
      const reply = this.#reply(query, question);
      const isWhole = reply.length <= question.udpBytes;
      this.#socket.send(isWhole ? reply : truncated(reply, question), peer.port, peer.address);
    });
    this.#server = createServer((connection) => this.#serve(connection));
  }

  async listen(address: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#socket.once("error", reject);
      this.#socket.bind(53, address, resolve);
    });
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(53, address, resolve);
    });
  }

  /** Over TCP each message begins with its length. */
  #serve(connection: Connection): void {
    let rest = Buffer.alloc(0);
    connection.setTimeout(IDLE_MS, () => connection.destroy());
    connection.on("error", () => connection.destroy());
    connection.on("data", (data: Buffer) => {
      rest = Buffer.concat([rest, data]);
      while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
        const query = rest.subarray(2, 2 + rest.readUInt16BE(0));
        rest = rest.subarray(2 + query.length);
        const question = readQuestion(query);
        if (question === undefined) {
          connection.destroy();
          return;
        }
        const reply = this.#reply(query, question);
        const length = Buffer.alloc(2);
        length.writeUInt16BE(reply.length);
        connection.write(Buffer.concat([length, reply]));
      }
    });
  }

  /** What there is under a name. A name that exists without records of the type has no answers, and no error. */
  #lookup(name: string, type: number): Answer {
    if (name.endsWith(`.${REVERSE}`)) return this.#reverse(name);
    if (name === `dns-version.${DOMAIN}`) {
      const text = Buffer.concat([Buffer.from([SPECIFICATION.length]), Buffer.from(SPECIFICATION)]);
      return found(type === TYPE.TXT ? [{ name, type: TYPE.TXT, data: text }] : []);
    }
    if (!name.endsWith(`.${DOMAIN}`)) return NO_NAME;
    const labels = name.slice(0, -DOMAIN.length - 1).split(".");
    const kind = labels.pop();
    const namespace = labels.pop();
    if (namespace === undefined) return NO_NAME;
    if (kind === "pod") {
      const address = labels.pop()?.replaceAll("-", ".") ?? "";
      return /^\d+(\.\d+){3}$/.test(address) ? found(type === TYPE.A ? [addressRecord(name, address)] : []) : NO_NAME;
    }
    const service = this.#store.get("services", namespace, labels.pop() ?? "") as Service | undefined;
    if (kind !== "svc" || service === undefined) return NO_NAME;
    return this.#ofService(service, labels, name, type);
  }

  /** Names of a Service: its own (no labels before it), those of its ports (`_http._tcp`), those of a headless one's endpoints. */
  #ofService(service: Service, labels: readonly string[], name: string, type: number): Answer {
    const { spec, metadata } = service;
    if (spec.type === "ExternalName") {
      if (labels.length > 0) return NO_NAME;
      return found([{ name, type: TYPE.CNAME, data: encodeName(spec.externalName ?? "") }]);
    }
    const own = `${metadata.name}.${metadata.namespace}.svc.${DOMAIN}`;
    const isHeadless = spec.clusterIP === "None";
    const endpoints = isHeadless ? this.#endpoints(service) : [];
    const [first, second] = labels;
    if (first?.startsWith("_") === true && second?.startsWith("_") === true && labels.length === 2) {
      const isAsked = (port: { name?: string; protocol?: string }): boolean =>
        `_${port.name ?? ""}` === first && `_${(port.protocol ?? "TCP").toLowerCase()}` === second;
      return this.#ports(service, endpoints, { name, type, own }, isAsked);
    }
    if (labels.length > 1) return NO_NAME;
    if (first === undefined && type === TYPE.SRV)
      return this.#ports(service, endpoints, { name, type, own }, () => true);
    const addresses = isHeadless
      ? endpoints.flatMap(({ endpoint }) =>
          endpoint.addresses.filter((address) => first === undefined || hostOf(endpoint, address) === first),
        )
      : first === undefined
        ? [spec.clusterIP ?? ""]
        : [];
    if (addresses.length === 0) return NO_NAME;
    return found(type === TYPE.A ? [...new Set(addresses)].map((address) => addressRecord(name, address)) : []);
  }

  #ports(
    service: Service,
    endpoints: readonly { readonly endpoint: Endpoint; readonly slice: EndpointSlice }[],
    asked: { readonly name: string; readonly type: number; readonly own: string },
    isAsked: (port: { name?: string; protocol?: string }) => boolean,
  ): Answer {
    const { name, type, own } = asked;
    const targets =
      service.spec.clusterIP === "None"
        ? endpoints.flatMap(({ endpoint, slice }) =>
            slice.ports
              .filter(isAsked)
              .flatMap(({ port }) =>
                endpoint.addresses.map((address) => ({ port, address, target: `${hostOf(endpoint, address)}.${own}` })),
              ),
          )
        : (service.spec.ports ?? [])
            .filter(isAsked)
            .map(({ port }) => ({ port, address: service.spec.clusterIP ?? "", target: own }));
    if (targets.length === 0) return NO_NAME;
    if (type !== TYPE.SRV) return found([]);
    return found(
      targets.map(({ port, target }) => serviceRecord(name, port, target)),
      targets.map(({ address, target }) => addressRecord(target, address)),
    );
  }

  #reverse(name: string): Answer {
    const address = name
      .slice(0, -REVERSE.length - 1)
      .split(".")
      .toReversed()
      .join(".");
    const pointer = (target: string): Answer => found([{ name, type: TYPE.PTR, data: encodeName(target) }]);
    const services = this.#store.list("services") as Service[];
    const service = services.find(({ spec }) => spec.clusterIP === address);
    if (service !== undefined) return pointer(`${service.metadata.name}.${service.metadata.namespace}.svc.${DOMAIN}`);
    for (const slice of this.#store.list(SLICES) as EndpointSlice[]) {
      const endpoint = slice.endpoints.find(({ addresses }) => addresses.includes(address));
      const owner = slice.metadata.labels?.["kubernetes.io/service-name"];
      if (endpoint?.hostname !== undefined && owner !== undefined)
        return pointer(`${endpoint.hostname}.${owner}.${slice.metadata.namespace}.svc.${DOMAIN}`);
    }
    return NO_NAME;
  }

  #endpoints(service: Service): { endpoint: Endpoint; slice: EndpointSlice }[] {
    const { name, namespace } = service.metadata;
    return (this.#store.list(SLICES, namespace) as EndpointSlice[])
      .filter((slice) => slice.metadata.labels?.["kubernetes.io/service-name"] === name)
      .flatMap((slice) => slice.endpoints.map((endpoint) => ({ endpoint, slice })))
      .filter(
        ({ endpoint }) => endpoint.conditions?.ready !== false || service.spec["publishNotReadyAddresses"] === true,
      );
  }

  #reply(query: Buffer, question: Question): Buffer {
    let { code, answers, additional } = this.#lookup(question.name, question.type);
    // An alias of a name in the cluster comes with what that name has.
    for (let i = 0; i < ALIASES_MAX && question.type !== TYPE.CNAME; i++) {
      const last = answers.at(-1);
      if (last?.type !== TYPE.CNAME) break;
      const target = this.#lookup(readName(last.data, 0)?.name ?? "", question.type);
      answers = [...answers, ...target.answers];
      additional = [...additional, ...target.additional];
    }
    const head = Buffer.alloc(12);
    query.copy(head, 0, 0, 2);
    // Response, authoritative, recursion as asked and available.
    head.writeUInt16BE(0x8480 | (query.readUInt16BE(2) & 0x0100) | code, 2);
    head.writeUInt16BE(1, 4);
    head.writeUInt16BE(answers.length, 6);
    head.writeUInt16BE(additional.length, 10);
    const records = [...answers, ...additional].map((record) => encodeRecord(record, question.name));
    return Buffer.concat([head, question.bytes, ...records]);
  }
}

/** Too long for UDP: the client asks again over TCP. */
function truncated(reply: Buffer, question: Question): Buffer {
  const short = Buffer.from(reply.subarray(0, 12 + question.bytes.length));
  short.writeUInt16BE(short.readUInt16BE(2) | 0x0200, 2);
  for (const count of [6, 8, 10]) short.writeUInt16BE(0, count);
  return short;
}

/** A name in a message, without compression, in lower case; `end` is where what follows it begins. */
function readName(message: Buffer, start: number): { readonly name: string; readonly end: number } | undefined {
  const labels: string[] = [];
  let at = start;
  for (let length = message[at] ?? 0; length > 0; length = message[at] ?? 0) {
    if (length > 63 || at + length + 1 >= message.length) return undefined;
    labels.push(message.toString("latin1", at + 1, at + 1 + length));
    at += length + 1;
  }
  return { name: labels.join(".").toLowerCase(), end: at + 1 };
}

/** The one question of a query; undefined for what is none. */
function readQuestion(query: Buffer): Question | undefined {
  if (query.length < 17 || query.readUInt16BE(4) !== 1) return undefined;
  const read = readName(query, 12);
  if (read === undefined || read.end + 4 > query.length) return undefined;
  const { name, end } = read;
  // An OPT record in the additional section: its class is the number of bytes that the client takes.
  const option = end + 4;
  const hasOption = query.length >= option + 11 && query[option] === 0 && query.readUInt16BE(option + 1) === TYPE.OPT;
  const udpBytes = hasOption ? Math.max(UDP_BYTES, query.readUInt16BE(option + 3)) : UDP_BYTES;
  return { name, type: query.readUInt16BE(end), bytes: query.subarray(12, end + 4), udpBytes };
}

/** A resource record; one of the name that was asked for points at the question. */
function encodeRecord({ name, type, data }: DnsRecord, asked: string): Buffer {
  const head = Buffer.alloc(10);
  head.writeUInt16BE(type, 0);
  head.writeUInt16BE(CLASS_IN, 2);
  head.writeUInt32BE(TTL_SECONDS, 4);
  head.writeUInt16BE(data.length, 8);
  return Buffer.concat([name === asked ? Buffer.from([0xc0, 0x0c]) : encodeName(name), head, data]);
}
