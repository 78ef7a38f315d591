// The discovery server: streams of proxies, and the one loop that brings them up to date.
// What a proxy should have comes through a port (ConfigSource); this package knows no mesh rules.
import { fromBinary } from "@bufbuild/protobuf";
import { errorText } from "@lateen/base";
import { type DeltaDiscoveryRequest, DeltaDiscoveryRequestSchema, type Node } from "@lateen/envoy-api/discovery";
import { DeltaStream, type Desired, type Rejection, type TypeStatus } from "./delta.ts";
import { encodeResponse } from "./encode.ts";
import { GrpcError, type Handler, type ServerCall, STATUS } from "./grpc/index.ts";

/** What the server asks the mesh. */
export interface ConfigSource {
  /** Who this proxy is and which scope it is of. Throws GrpcError to refuse it. */
  identify(node: Node, call: Pick<ServerCall, "headers" | "peerUris" | "isSecure">): Promise<ProxyInfo>;
  /** What a scope's proxy that asked for `demand` should have. Synchronous, and cheap when nothing changed. */
  desired(scope: string, demand: Iterable<string>): Desired;
}

export interface ProxyInfo {
  /** `pod.namespace`. */
  readonly name: string;
  readonly scope: string;
  readonly clusterId: string;
  readonly version: string;
}

/** One connected proxy, for status. */
export interface ProxyStatus extends ProxyInfo {
  readonly connectedAtMs: number;
  readonly types: readonly TypeStatus[];
  readonly rejections: readonly Rejection[];
  readonly demand: readonly string[];
}

export const DELTA_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const STREAMS_MAX = 5_000;
/** Names kept for the siblings to come, for each scope. */
const SIBLING_NAMES_MAX = 2_000;

interface Connection {
  readonly call: ServerCall;
  readonly stream: DeltaStream;
  readonly connectedAtMs: number;
  info: ProxyInfo | undefined;
  /** Requests that came before the proxy was identified. */
  early: DeltaDiscoveryRequest[] | undefined;
  desired: Desired | undefined;
  /** Names that the scope's other proxies had asked for when this one came. */
  siblings: ReadonlySet<string> | undefined;
  timer: NodeJS.Timeout | undefined;
  isClosed: boolean;
}

export class DiscoveryServer {
  readonly #source: ConfigSource;
  readonly #log: (text: string) => void;
  readonly #connections = new Set<Connection>();
  /** What proxies of a scope have asked for: a new replica gets it first. */
  readonly #wanted = new Map<string, Set<string>>();
  #isPushing = false;
  #isDirty = false;
  static #nonce = 0;

  constructor(source: ConfigSource, log: (text: string) => void) {
    this.#source = source;
    this.#log = log;
  }

  /** Handler of the delta method. */
  readonly handler: Handler = (call) => {
    if (this.#connections.size >= STREAMS_MAX)
      throw new GrpcError(STATUS.unavailable, `more than ${STREAMS_MAX} proxies`);
    const nextNonce = (): string => (++DiscoveryServer.#nonce).toString(36);
    const stream = new DeltaStream({ nextNonce, now: () => performance.now() });
    const connection: Connection = {
      call,
      stream,
      connectedAtMs: Date.now(),
      info: undefined,
      early: undefined,
      desired: undefined,
      siblings: undefined,
      timer: undefined,
      isClosed: false,
    };
    this.#connections.add(connection);
    call.onMessage = (message) => this.#receive(connection, fromBinary(DeltaDiscoveryRequestSchema, message));
    call.onClose = () => {
      connection.isClosed = true;
      clearTimeout(connection.timer);
      this.#connections.delete(connection);
    };
  };

  #receive(connection: Connection, request: DeltaDiscoveryRequest): void {
    if (connection.info !== undefined) {
      this.#take(connection, request);
      this.#serve(connection);
      return;
    }
    if (connection.early !== undefined) {
      connection.early.push(request);
      return;
    }
    if (request.node === undefined || request.node.id === "")
      throw new GrpcError(STATUS.invalidArgument, "the first request has no node id");
    connection.early = [request];
    void this.#identify(connection, request.node);
  }

  async #identify(connection: Connection, node: Node): Promise<void> {
    try {
      connection.info = await this.#source.identify(node, connection.call);
    } catch (error) {
      this.#log(`refused ${node.id}: ${errorText(error)}`);
      connection.call.end(error instanceof GrpcError ? error.status : STATUS.unknown, errorText(error));
      return;
    }
    for (const request of connection.early ?? []) this.#take(connection, request);
    connection.early = undefined;
    this.#serve(connection);
  }

  #take(connection: Connection, request: DeltaDiscoveryRequest): void {
    for (const { type, name, message } of connection.stream.receive(request)) {
      this.#log(`${connection.info?.name} refuses ${type} ${name}, the last good one stays: ${message}`);
    }
  }

  /** Sends one proxy what it lacks. A failure to compile for a scope keeps that scope's last good configuration. */
  #serve(connection: Connection): void {
    const { info, stream, call } = connection;
    if (info === undefined || connection.isClosed) return;
    try {
      connection.desired = this.#source.desired(info.scope, this.#demandOf(connection, info.scope));
    } catch (error) {
      this.#log(
        `configuration of ${info.name} cannot be computed: ${error instanceof Error ? error.stack : errorText(error)}`,
      );
      if (connection.desired === undefined) return;
    }
    const { outgoing, waitMs } = stream.pump(connection.desired);
    for (const response of outgoing) call.send(encodeResponse(response));
    clearTimeout(connection.timer);
    if (waitMs !== undefined) connection.timer = setTimeout(() => this.#serve(connection), waitMs + 1);
  }

  /** What the proxy asked for, and what its siblings had asked for when it came: so a new replica has no cold start. */
  #demandOf(connection: Connection, scope: string): ReadonlySet<string> {
    let wanted = this.#wanted.get(scope);
    if (wanted === undefined) {
      wanted = new Set();
      this.#wanted.set(scope, wanted);
    }
    connection.siblings ??= new Set(wanted);
    const { demand } = connection.stream;
    for (const name of demand) if (wanted.size < SIBLING_NAMES_MAX) wanted.add(name);
    return connection.siblings.size === 0 ? demand : new Set([...connection.siblings, ...demand]);
  }

  /** Something changed: brings all proxies up to date, one after the other, yielding between them. */
  changed(): void {
    this.#isDirty = true;
    if (!this.#isPushing) void this.#push();
  }

  async #push(): Promise<void> {
    this.#isPushing = true;
    while (this.#isDirty) {
      this.#isDirty = false;
      for (const connection of [...this.#connections]) {
        this.#serve(connection);
        // A long round must not starve answers and new changes.
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    this.#isPushing = false;
  }

  /** All connected proxies. */
  status(): ProxyStatus[] {
    return [...this.#connections].flatMap(({ info, stream, connectedAtMs, desired }) =>
      info === undefined
        ? []
        : [
            {
              ...info,
              connectedAtMs,
              types: stream.status(desired),
              rejections: stream.rejections(),
              demand: [...stream.demand].sort(),
            },
          ],
    );
  }

  /** Ends all streams; proxies go to another replica or come back. */
  close(): void {
    for (const { call } of this.#connections) call.end(STATUS.unavailable, "the control plane is going away");
  }
}
