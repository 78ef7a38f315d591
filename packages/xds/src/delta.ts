// One proxy's delta stream, as a state machine without I/O: requests and snapshots in, responses out.
// https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#incremental-xds
//
// States of a type: idle -> (something differs) in flight -> ACK -> idle, or NACK -> isolating -> idle.
// At most one unanswered response per type: what changes meanwhile is taken from the newest snapshot after the answer.
// Make before break: what leads to a cluster is sent when the cluster and its endpoints have been acknowledged; a cluster goes
// when nothing that the proxy holds leads to it any more.

import type { DeltaDiscoveryRequest } from "@lateen/envoy-api/discovery";
import type { EncodedResource } from "@lateen/model";

const PREFIX = "type.googleapis.com/envoy.config.";
export const TYPES = {
  cluster: `${PREFIX}cluster.v3.Cluster`,
  endpoint: `${PREFIX}endpoint.v3.ClusterLoadAssignment`,
  listener: `${PREFIX}listener.v3.Listener`,
  route: `${PREFIX}route.v3.RouteConfiguration`,
  virtualHost: `${PREFIX}route.v3.VirtualHost`,
} as const;
export type TypeName = keyof typeof TYPES;

/** The order in which types are sent. */
const ORDER: readonly TypeName[] = ["cluster", "endpoint", "listener", "route", "virtualHost"];
const BY_URL = new Map<string, TypeName>(ORDER.map((type) => [TYPES[type], type]));
/** A virtual host is held back at most this long for its clusters; then Envoy answers 503 until they come. */
export const HOLD_MS_MAX = 1_000;
/** Names that one stream may ask for. */
const NAMES_MAX = 20_000;

export type ResourceMap = ReadonlyMap<string, EncodedResource>;
/** Everything that the proxy should have, by type. */
export type Desired = Readonly<Record<TypeName, ResourceMap>>;

export interface Outgoing {
  readonly type: TypeName;
  readonly nonce: string;
  readonly resources: readonly EncodedResource[];
  readonly removed: readonly string[];
}

interface Held {
  readonly version: string;
  readonly clusters: readonly string[];
}

interface InFlight {
  readonly nonce: string;
  readonly resources: readonly EncodedResource[];
  readonly removed: readonly string[];
}

/** A rejected version: not sent again; the last good one stays. */
export interface Rejection {
  readonly type: TypeName;
  readonly name: string;
  readonly version: string;
  readonly message: string;
}

interface TypeState {
  isSubscribed: boolean;
  isWildcard: boolean;
  /** The proxy holds nothing and does not start before it is answered, be it with nothing. */
  isAwaited: boolean;
  /** Names asked for, beside the wildcard. */
  readonly names: Set<string>;
  /** Names asked for again or for the first time: answered even when they do not exist. */
  readonly asked: Set<string>;
  /** What the proxy has acknowledged or said that it has. */
  readonly held: Map<string, Held>;
  inFlight: InFlight | undefined;
  readonly rejected: Map<string, Rejection>;
  /** Names that are sent one at a time, to find the one that is refused. */
  readonly isolate: Set<string>;
  sentNonce: string;
  ackedNonce: string;
  sentAtMs: number;
  ackedAtMs: number;
}

function newState(): TypeState {
  return {
    isSubscribed: false,
    isWildcard: false,
    isAwaited: false,
    names: new Set(),
    asked: new Set(),
    held: new Map(),
    inFlight: undefined,
    rejected: new Map(),
    isolate: new Set(),
    sentNonce: "",
    ackedNonce: "",
    sentAtMs: 0,
    ackedAtMs: 0,
  };
}

/** Sync state of a type, as proxy-status shows it. */
export interface TypeStatus {
  readonly type: TypeName;
  readonly state: "SYNCED" | "STALE" | "NOT SENT" | "ERROR";
  readonly sentNonce: string;
  readonly ackedNonce: string;
  readonly ackedAtMs: number;
  readonly count: number;
}

export class DeltaStream {
  readonly #types: Readonly<Record<TypeName, TypeState>> = {
    cluster: newState(),
    endpoint: newState(),
    listener: newState(),
    route: newState(),
    virtualHost: newState(),
  };
  readonly #nextNonce: () => string;
  readonly #now: () => number;
  /** Since when a virtual host waits for its clusters. */
  readonly #heldSince = new Map<string, number>();

  constructor(options: { readonly nextNonce: () => string; readonly now: () => number }) {
    this.#nextNonce = options.nextNonce;
    this.#now = options.now;
  }

  /** The virtual hosts that the proxy has asked for. */
  get demand(): ReadonlySet<string> {
    return this.#types.virtualHost.names;
  }

  /** Takes one request in. Returns what the proxy refused, if it did. Throws RangeError when a limit is exceeded. */
  receive(request: DeltaDiscoveryRequest): Rejection[] {
    const type = BY_URL.get(request.typeUrl);
    if (type === undefined) return [];
    const state = this.#types[type];
    const isFirst = !state.isSubscribed;
    state.isSubscribed = true;
    const { resourceNamesSubscribe, resourceNamesUnsubscribe, initialResourceVersions } = request;
    // Without names the first request means everything; later ones say `*`.
    if (isFirst && resourceNamesSubscribe.length === 0) state.isWildcard = true;
    for (const name of resourceNamesSubscribe) {
      if (name === "*") state.isWildcard = true;
      else {
        state.names.add(name);
        state.asked.add(name);
      }
    }
    if (state.names.size > NAMES_MAX) throw new RangeError(`more than ${NAMES_MAX} names of one type`);
    for (const name of resourceNamesUnsubscribe) {
      if (name === "*") state.isWildcard = false;
      state.names.delete(name);
      state.asked.delete(name);
      state.held.delete(name);
    }
    if (isFirst) {
      for (const [name, version] of Object.entries(initialResourceVersions)) {
        state.held.set(name, { version, clusters: [] });
        state.asked.delete(name);
      }
      state.isAwaited = state.isWildcard && state.held.size === 0;
    }
    return this.#answered(type, state, request);
  }

  #answered(type: TypeName, state: TypeState, request: DeltaDiscoveryRequest): Rejection[] {
    const { inFlight } = state;
    if (inFlight === undefined || request.responseNonce !== inFlight.nonce) return [];
    state.inFlight = undefined;
    if (request.errorDetail === undefined) {
      for (const { name, version, clusters } of inFlight.resources) {
        state.held.set(name, { version, clusters });
        state.rejected.delete(name);
        state.isolate.delete(name);
      }
      for (const name of inFlight.removed) state.held.delete(name);
      state.ackedNonce = inFlight.nonce;
      state.ackedAtMs = this.#now();
      return [];
    }
    const [only, ...others] = inFlight.resources;
    if (only === undefined) return [];
    if (others.length > 0) {
      for (const { name } of inFlight.resources) state.isolate.add(name);
      return [];
    }
    const rejection = { type, name: only.name, version: only.version, message: request.errorDetail.message };
    state.rejected.set(only.name, rejection);
    state.isolate.delete(only.name);
    return [rejection];
  }

  /** Whether the proxy should have `name` of a type. */
  #wants(state: TypeState, name: string): boolean {
    return state.isWildcard || state.names.has(name);
  }

  /** Whether a cluster may be led to: acknowledged with its endpoints, or not to be had at all. */
  #isWarm(name: string, desired: Desired): boolean {
    const { cluster, endpoint } = this.#types;
    if (!desired.cluster.has(name)) return true;
    if (cluster.rejected.has(name)) return true;
    if (!cluster.held.has(name)) return false;
    return !desired.endpoint.has(name) || endpoint.held.has(name);
  }

  /** Clusters that something the proxy holds, or is being sent, leads to. */
  #clustersInUse(): Set<string> {
    const used = new Set<string>();
    for (const type of ["listener", "route", "virtualHost"] as const) {
      const { held, inFlight } = this.#types[type];
      for (const { clusters } of held.values()) for (const name of clusters) used.add(name);
      for (const { clusters } of inFlight?.resources ?? []) for (const name of clusters) used.add(name);
    }
    return used;
  }

  /** Responses that are due. `waitMs` is set when something is held back and must be looked at again. */
  pump(desired: Desired): { readonly outgoing: Outgoing[]; readonly waitMs: number | undefined } {
    const outgoing: Outgoing[] = [];
    let waitMs: number | undefined;
    for (const type of ORDER) {
      const state = this.#types[type];
      if (!state.isSubscribed || state.inFlight !== undefined) continue;
      const { resources, held } = this.#due(type, state, desired);
      if (held !== undefined) waitMs = Math.min(waitMs ?? held, held);
      const removed = this.#removals(type, state, desired);
      // What is held back for its clusters comes as the first answer.
      const mustAnswer = state.isAwaited && held === undefined;
      if (resources.length === 0 && removed.length === 0 && !mustAnswer) continue;
      state.isAwaited = false;
      const nonce = this.#nextNonce();
      state.inFlight = { nonce, resources, removed };
      state.sentNonce = nonce;
      state.sentAtMs = this.#now();
      for (const { name } of resources) {
        state.asked.delete(name);
        // A changed cluster warms anew, and Envoy waits for its endpoints without asking for them again.
        if (type === "cluster" && state.held.has(name) && this.#types.endpoint.held.has(name))
          this.#types.endpoint.asked.add(name);
      }
      for (const name of removed) state.asked.delete(name);
      outgoing.push({ type, nonce, resources, removed });
    }
    return { outgoing, waitMs };
  }

  #due(type: TypeName, state: TypeState, desired: Desired): { resources: EncodedResource[]; held: number | undefined } {
    const resources: EncodedResource[] = [];
    let held: number | undefined;
    for (const resource of desired[type].values()) {
      const { name, version, clusters } = resource;
      if (!this.#wants(state, name)) continue;
      const present = state.held.get(name);
      if (present?.version === version) {
        // Known by its version alone after a reconnect: now it is known where it leads.
        if (present.clusters !== clusters) state.held.set(name, { version, clusters });
        if (!state.asked.has(name)) continue;
      }
      if (state.rejected.get(name)?.version === version) continue;
      const remaining = this.#mustWait(resource, desired);
      if (remaining > 0) {
        held = Math.min(held ?? remaining, remaining);
        continue;
      }
      resources.push(resource);
    }
    const alone = resources.find(({ name }) => state.isolate.has(name));
    return { resources: alone === undefined ? resources : [alone], held };
  }

  /** Milliseconds that a resource may still be held back for its clusters; 0 when it goes now. */
  #mustWait(resource: EncodedResource, desired: Desired): number {
    if (resource.clusters.every((name) => this.#isWarm(name, desired))) {
      this.#heldSince.delete(resource.name);
      return 0;
    }
    const now = this.#now();
    const since = this.#heldSince.get(resource.name) ?? now;
    this.#heldSince.set(resource.name, since);
    return Math.max(0, since + HOLD_MS_MAX - now);
  }

  #removals(type: TypeName, state: TypeState, desired: Desired): string[] {
    const gone = [...state.held.keys()].filter((name) => !desired[type].has(name));
    // Asked for and not there: said so, once.
    const absent =
      type === "virtualHost" || type === "cluster" || type === "listener"
        ? []
        : [...state.asked].filter((name) => !desired[type].has(name));
    if (type !== "cluster") return [...new Set([...gone, ...absent])];
    const used = this.#clustersInUse();
    const isSettled = (["listener", "route", "virtualHost"] as const).every(
      (other) => this.#types[other].inFlight === undefined,
    );
    return gone.filter((name) => isSettled && !used.has(name));
  }

  /** Sync state by type, of the types that the proxy has subscribed to. */
  status(desired: Desired | undefined): TypeStatus[] {
    return ORDER.filter((type) => this.#types[type].isSubscribed).map((type) => {
      const { inFlight, sentNonce, ackedNonce, ackedAtMs, held, rejected } = this.#types[type];
      const isBehind = inFlight !== undefined || this.#isBehind(type, desired);
      const state =
        rejected.size > 0 ? "ERROR" : isBehind ? "STALE" : sentNonce === "" && held.size === 0 ? "NOT SENT" : "SYNCED";
      return { type, state, sentNonce, ackedNonce, ackedAtMs, count: held.size };
    });
  }

  #isBehind(type: TypeName, desired: Desired | undefined): boolean {
    if (desired === undefined) return false;
    const state = this.#types[type];
    return [...desired[type].values()].some(
      ({ name, version }) => this.#wants(state, name) && state.held.get(name)?.version !== version,
    );
  }

  /** What the proxy refuses now. */
  rejections(): Rejection[] {
    return ORDER.flatMap((type) => [...this.#types[type].rejected.values()]);
  }

  /** Names of what the proxy holds of a type. */
  heldNames(type: TypeName): string[] {
    return [...this.#types[type].held.keys()];
  }
}
