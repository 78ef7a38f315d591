// Golden cases: a file with a scope and objects becomes the model and the xDS resources as text that people can review.
// Used by the tests of this package and by the peers that hand the result to Envoy.
import { createRegistry, type DescMessage, fromBinary, type JsonValue, toJson } from "@bufbuild/protobuf";
import { canonicalJson, isObject } from "@lateen/base";
import * as envoyApi from "@lateen/envoy-api";
import type { EncodedResource, MeshConfig, Scope } from "@lateen/model";
import { Store, type Table } from "@lateen/query";
import {
  DESTINATION_RULE,
  GATEWAY,
  PEER_AUTHENTICATION,
  parseEndpointSlice,
  parsePod,
  parseResource,
  parseService,
  VIRTUAL_SERVICE,
} from "@lateen/resources";
import { parseAllDocuments, stringify } from "yaml";
import { type Snapshot, scopeKey, snapshot } from "./discovery.ts";
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
} from "./inputs.ts";
import { meshRoutes } from "./lower/routes.ts";
import { peerMode } from "./lower/security.ts";
import { allHosts, endpointsOf, peerModeKey, serviceOf } from "./lower/services.ts";

const exported: readonly unknown[] = Object.values(envoyApi);
const schemas = exported.filter((value): value is DescMessage => isObject(value) && value["kind"] === "message");
const registry = createRegistry(...schemas);

/** A resource as protobuf JSON. */
function resourceJson(resource: EncodedResource): JsonValue {
  const schema = registry.getMessage(resource.typeUrl.slice(resource.typeUrl.indexOf("/") + 1));
  if (schema === undefined) throw new Error(`no schema for ${resource.typeUrl}`);
  return toJson(schema, fromBinary(schema, resource.body), { registry });
}

export interface GoldenCase {
  readonly store: Store;
  readonly scope: Scope;
  readonly demand: readonly string[];
  readonly diagnostics: readonly string[];
}

const KINDS: Readonly<Record<string, (store: Store, key: string, object: unknown) => readonly string[]>> = {
  Service: (store, key, object) => plain(store, SERVICES, key, parseService(object)),
  EndpointSlice: (store, key, object) => plain(store, ENDPOINT_SLICES, key, parseEndpointSlice(object)),
  Pod: (store, key, object) => plain(store, PODS, key, parsePod(object)),
  VirtualService: (store, key, object) => custom(store, VIRTUAL_SERVICES, key, parseResource(VIRTUAL_SERVICE, object)),
  DestinationRule: (store, key, object) =>
    custom(store, DESTINATION_RULES, key, parseResource(DESTINATION_RULE, object)),
  Gateway: (store, key, object) => custom(store, GATEWAYS, key, parseResource(GATEWAY, object)),
  PeerAuthentication: (store, key, object) =>
    custom(store, PEER_AUTHENTICATIONS, key, parseResource(PEER_AUTHENTICATION, object)),
};

function plain<V>(store: Store, table: Table<V>, key: string, value: V | undefined): readonly string[] {
  store.set(table, key, value);
  return value === undefined ? [`${table.name} ${key} cannot be read`] : [];
}

function custom<V>(
  store: Store,
  table: Table<V>,
  key: string,
  outcome: { value: V | undefined; diagnostics: readonly { resource: string; path: string; message: string }[] },
): readonly string[] {
  if (outcome.value !== undefined) store.set(table, key, outcome.value);
  return outcome.diagnostics.map(({ resource, path, message }) => `${resource}: ${path} ${message}`);
}

/** Reads a case: documents of kind Case (scope, demand, mesh) and Kubernetes objects. */
export function readCase(text: string): GoldenCase {
  const store = new Store();
  const diagnostics: string[] = [];
  let scope: Scope = { kind: "sidecar", namespace: "default", labels: {}, podPorts: {}, isOnDemand: false };
  let demand: readonly string[] = [];
  for (const document of parseAllDocuments(text)) {
    const object: unknown = document.toJS();
    if (!isObject(object)) continue;
    const kind = String(object["kind"]);
    if (kind === "Case") {
      scope = { ...scope, ...(object["scope"] as Partial<Scope>) };
      demand = (object["demand"] ?? []) as string[];
      store.set(MESH_CONFIG, "", { ...DEFAULT_MESH_CONFIG, ...(object["mesh"] as Partial<MeshConfig> | undefined) });
      continue;
    }
    const metadata = (object["metadata"] ??= {}) as { name: string; namespace?: string };
    metadata.namespace ??= "default";
    const read = KINDS[kind];
    if (read === undefined) throw new Error(`a golden case cannot hold a ${kind}`);
    diagnostics.push(...read(store, `${metadata.namespace}/${metadata.name}`, object));
  }
  return { store, scope, demand, diagnostics };
}

/** The configuration of a case's proxy. */
function snapshotOf(golden: GoldenCase): Snapshot {
  return snapshot(golden.store.root, scopeKey(golden.scope), golden.demand);
}

const yaml = (value: unknown): string =>
  stringify(JSON.parse(canonicalJson(value)), { lineWidth: 0, aliasDuplicateObjects: false });

/** The files of a case's output: name to text. */
export function renderCase(text: string): Map<string, string> {
  const golden = readCase(text);
  const db = golden.store.root;
  const hosts = db.get(allHosts, "");
  const model = {
    services: hosts.map((host) => db.get(serviceOf, host)),
    endpoints: Object.fromEntries(
      hosts.flatMap((host) =>
        (db.get(serviceOf, host)?.ports ?? []).map(({ number }) => [
          `${number}|${host}`,
          db.get(endpointsOf, `${number}|${host}`),
        ]),
      ),
    ),
    routes: Object.fromEntries(
      hosts.flatMap((host) =>
        (db.get(serviceOf, host)?.ports ?? []).map(({ number }) => [
          `${number}|${host}`,
          db.get(meshRoutes, `${number}|${host}`) ?? null,
        ]),
      ),
    ),
    mtls: db.get(peerMode, peerModeKey(golden.scope.namespace, golden.scope.labels)),
  };
  const { clusters, endpoints, listeners, routes, virtualHosts } = snapshotOf(golden);
  const files = new Map([["model.yaml", yaml(model)]]);
  for (const [name, resources] of Object.entries({ clusters, endpoints, listeners, routes, virtualHosts })) {
    if (resources.size > 0) files.set(`${name}.yaml`, yaml([...resources.values()].map(resourceJson)));
  }
  files.set("diagnostics.txt", golden.diagnostics.map((line) => `${line}\n`).join(""));
  return files;
}
