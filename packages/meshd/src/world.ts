// The mesh's view of the cluster: informers feed the query store; objects that cannot be used are named and left out.
import { type Diagnostic, isObject } from "@lateen/base";
import {
  DEFAULT_MESH_CONFIG,
  DESTINATION_RULES,
  ENDPOINT_SLICES,
  GATEWAYS,
  MESH_CONFIG,
  PEER_AUTHENTICATIONS,
  PODS,
  SERVICES,
  VIRTUAL_SERVICES,
} from "@lateen/compile";
import { follow, type KubeClient, type KubeObject } from "@lateen/kube";
import type { MeshConfig } from "@lateen/model";
import { Store, type Table } from "@lateen/query";
import {
  type CustomKind,
  DESTINATION_RULE,
  GATEWAY,
  PEER_AUTHENTICATION,
  parseEndpointSlice,
  parsePod,
  parseResource,
  parseService,
  VIRTUAL_SERVICE,
} from "@lateen/resources";
import { parse } from "yaml";

/** Memos unused for this many changes are dropped. */
const KEEP_REVISIONS = 2_000;

export class World {
  readonly store = new Store();
  /** What is wrong with objects, by `kind key`. */
  readonly problems = new Map<string, readonly Diagnostic[]>();
  readonly #log: (text: string) => void;
  readonly #onChange: () => void;
  #collectedAt = 0;

  constructor(log: (text: string) => void, onChange: () => void) {
    this.#log = log;
    this.#onChange = onChange;
  }

  #set<V>(table: Table<V>, key: string, value: V | undefined): void {
    const before = this.store.revision;
    this.store.set(table, key, value);
    if (this.store.revision === before) return;
    if (this.store.revision - this.#collectedAt > KEEP_REVISIONS) {
      this.store.collect(KEEP_REVISIONS);
      this.#collectedAt = this.store.revision;
    }
    this.#onChange();
  }

  #custom<Spec>(kind: CustomKind<Spec>, table: Table<never>, key: string, object: KubeObject | undefined): void {
    const id = `${kind.kind} ${key}`;
    const { value, diagnostics } =
      object === undefined ? { value: undefined, diagnostics: [] } : parseResource(kind, object);
    if (diagnostics.length > 0) {
      this.problems.set(id, diagnostics);
      for (const { path, message } of diagnostics) this.#log(`${id}: ${path} ${message}`);
      // One bad object harms only itself: the last good state of it stays until it is mended or removed.
      return;
    }
    this.problems.delete(id);
    this.#set(table as Table<unknown>, key, value);
  }

  /** Takes the mesh's settings from the ConfigMap's `mesh` document. */
  #meshConfig(object: KubeObject | undefined): void {
    const data = object?.["data"];
    const text = isObject(data) ? data["mesh"] : undefined;
    let settings: unknown;
    try {
      settings = typeof text === "string" ? parse(text) : {};
    } catch (error) {
      this.#log(`ConfigMap istio: mesh is not YAML: ${String(error)}`);
      return;
    }
    const read = isObject(settings) ? settings : {};
    const outbound = isObject(read["outboundTrafficPolicy"]) ? read["outboundTrafficPolicy"]["mode"] : undefined;
    const string = (name: string, fallback: string): string => (typeof read[name] === "string" ? read[name] : fallback);
    const config: MeshConfig = {
      ...DEFAULT_MESH_CONFIG,
      trustDomain: string("trustDomain", DEFAULT_MESH_CONFIG.trustDomain),
      rootNamespace: string("rootNamespace", DEFAULT_MESH_CONFIG.rootNamespace),
      accessLogFile: string("accessLogFile", ""),
      outbound: outbound === "REGISTRY_ONLY" ? "registry-only" : "allow-any",
    };
    this.#set(MESH_CONFIG, "", config);
  }

  /** Follows everything that the compiler reads. Resolves when all of it is there. */
  async start(client: KubeClient, namespace: string, signal: AbortSignal): Promise<void> {
    const informer = (path: string, onChange: (key: string, object: KubeObject | undefined) => void): Promise<void> =>
      follow({ client, path, onChange, log: this.#log, signal });
    const custom = <Spec>(kind: CustomKind<Spec>, table: Table<never>): Promise<void> =>
      informer(`/apis/${kind.group}/${kind.versions[0]}/${kind.plural}`, (key, object) =>
        this.#custom(kind, table, key, object),
      );
    await Promise.all([
      informer("/api/v1/services", (key, object) => this.#set(SERVICES, key, object && parseService(object))),
      informer("/apis/discovery.k8s.io/v1/endpointslices", (key, object) =>
        this.#set(ENDPOINT_SLICES, key, object && parseEndpointSlice(object)),
      ),
      informer("/api/v1/pods", (key, object) => this.#set(PODS, key, object && parsePod(object))),
      informer(`/api/v1/namespaces/${namespace}/configmaps`, (key, object) => {
        if (key === `${namespace}/istio`) this.#meshConfig(object);
      }),
      custom(VIRTUAL_SERVICE, VIRTUAL_SERVICES as Table<never>),
      custom(DESTINATION_RULE, DESTINATION_RULES as Table<never>),
      custom(GATEWAY, GATEWAYS as Table<never>),
      custom(PEER_AUTHENTICATION, PEER_AUTHENTICATIONS as Table<never>),
    ]);
  }
}
