// Discovery: how clients learn which kinds are served. Aggregated (apidiscovery.k8s.io/v2) and legacy documents.
import { createHash } from "node:crypto";
import { type GroupVersionKind, isStored, type Kind, type KindTable, storedKind } from "./kinds.ts";

export const SERVER_VERSION = {
  major: "1",
  minor: "34",
  emulationMajor: "1",
  emulationMinor: "34",
  minCompatibilityMajor: "1",
  minCompatibilityMinor: "33",
  gitVersion: "v1.34.1+lateen",
  gitCommit: "",
  gitTreeState: "clean",
  buildDate: "2026-11-21T00:00:00Z",
  goVersion: "node",
  compiler: "node",
  platform: `linux/${process.arch === "arm64" ? "arm64" : "amd64"}`,
} as const;

/** Kinds by group, then version, in the order of the table. */
function grouped(kinds: readonly Kind[]): Map<string, Map<string, Kind[]>> {
  const groups = new Map<string, Map<string, Kind[]>>();
  for (const kind of kinds) {
    const versions = groups.get(kind.group) ?? new Map<string, Kind[]>();
    groups.set(kind.group, versions);
    versions.set(kind.version, [...(versions.get(kind.version) ?? []), kind]);
  }
  return groups;
}

const isSame = (a: GroupVersionKind, b: GroupVersionKind): boolean => a.group === b.group && a.version === b.version;

function aggregatedResource(kind: Kind): Record<string, unknown> {
  return {
    resource: kind.plural,
    responseKind: { group: "", version: "", kind: kind.kind },
    scope: kind.isNamespaced ? "Namespaced" : "Cluster",
    singularResource: kind.singular,
    verbs: kind.verbs,
    ...(kind.shortNames.length > 0 ? { shortNames: kind.shortNames } : {}),
    ...(kind.categories.length > 0 ? { categories: kind.categories } : {}),
    ...(kind.subresources.length > 0
      ? {
          subresources: kind.subresources.map((sub) => ({
            subresource: sub.name,
            responseKind: isSame(sub.object, kind) ? { group: "", version: "", kind: sub.object.kind } : sub.object,
            verbs: sub.verbs,
          })),
        }
      : {}),
  };
}

/** `/api` or `/apis` as APIGroupDiscoveryList. */
export function aggregated(table: KindTable, isCore: boolean): Record<string, unknown> {
  const items = [...grouped(table.all())]
    .filter(([group]) => (group === "") === isCore)
    .map(([group, versions]) => ({
      metadata: group === "" ? {} : { name: group },
      versions: [...versions].map(([version, kinds]) => ({
        version,
        resources: kinds.map(aggregatedResource),
        freshness: "Current",
      })),
    }));
  return { kind: "APIGroupDiscoveryList", apiVersion: "apidiscovery.k8s.io/v2", metadata: {}, items };
}

function groupDocument(group: string, versions: ReadonlyMap<string, unknown>): Record<string, unknown> {
  const all = [...versions.keys()].map((version) => ({ groupVersion: `${group}/${version}`, version }));
  return { name: group, versions: all, preferredVersion: all[0] };
}

/** `/apis` as APIGroupList. */
export function groupList(table: KindTable): Record<string, unknown> {
  const groups = [...grouped(table.all())].filter(([group]) => group !== "");
  return {
    kind: "APIGroupList",
    apiVersion: "v1",
    groups: groups.map(([group, versions]) => groupDocument(group, versions)),
  };
}

/** `/apis/GROUP`, or undefined where the group is not served. */
export function oneGroup(table: KindTable, group: string): Record<string, unknown> | undefined {
  const versions = grouped(table.all()).get(group);
  return versions === undefined ? undefined : { kind: "APIGroup", apiVersion: "v1", ...groupDocument(group, versions) };
}

/** `/api` as APIVersions. */
export function coreVersions(address: string): Record<string, unknown> {
  return {
    kind: "APIVersions",
    versions: ["v1"],
    serverAddressByClientCIDRs: [{ clientCIDR: "0.0.0.0/0", serverAddress: address }],
  };
}

/** Kinds that a real server of this version stores in another version than it serves. */
const STORED_VERSIONS: Readonly<Record<string, string>> = { VolumeAttributesClass: "v1beta1" };

/** Names the form in which a kind is stored: clients see by it when that changes. */
function storageHash(kind: Kind): string {
  const { group, version: served, kind: name } = storedKind(kind);
  const version = STORED_VERSIONS[name] ?? served;
  return createHash("sha256").update(`${group}/${version}/${name}`).digest().subarray(0, 8).toString("base64");
}

/** `/api/v1` or `/apis/G/V` as APIResourceList, or undefined where it is not served. */
export function resourceList(table: KindTable, group: string, version: string): Record<string, unknown> | undefined {
  const kinds = grouped(table.all()).get(group)?.get(version);
  if (kinds === undefined) return undefined;
  const resources = kinds.flatMap((kind) => [
    {
      name: kind.plural,
      singularName: kind.singular,
      namespaced: kind.isNamespaced,
      kind: kind.kind,
      verbs: kind.verbs,
      ...(kind.shortNames.length > 0 ? { shortNames: kind.shortNames } : {}),
      ...(kind.categories.length > 0 ? { categories: kind.categories } : {}),
      ...(isStored(kind) && kind.plural !== "componentstatuses" ? { storageVersionHash: storageHash(kind) } : {}),
    },
    ...kind.subresources.map((sub) => {
      const of = sub.object;
      return {
        name: `${kind.plural}/${sub.name}`,
        singularName: "",
        namespaced: kind.isNamespaced,
        ...(isSame(of, kind) ? {} : { group: of.group, version: of.version }),
        kind: of.kind,
        verbs: sub.verbs,
      };
    }),
  ]);
  const groupVersion = group === "" ? version : `${group}/${version}`;
  return { kind: "APIResourceList", ...(group === "" ? {} : { apiVersion: "v1" }), groupVersion, resources };
}
