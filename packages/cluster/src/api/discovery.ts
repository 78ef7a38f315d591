// Discovery and OpenAPI: how clients learn which kinds are served. Aggregated (apidiscovery.k8s.io/v2) and legacy documents.
import { contentHash } from "@lateen/base";
import { apiVersionOf, type Kind, type KindTable, verbsOf } from "./kinds.ts";

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

const SUB_VERBS: Readonly<Record<string, readonly string[]>> = {
  status: ["get", "patch", "update"],
  scale: ["get", "patch", "update"],
  finalize: ["update"],
  log: ["get"],
  exec: ["create", "get"],
  token: ["create"],
};

/** Kind of what a subresource reads and writes. */
function subKind(kind: Kind, sub: string): { group: string; version: string; kind: string } {
  if (sub === "scale") return { group: "autoscaling", version: "v1", kind: "Scale" };
  if (sub === "token") return { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest" };
  if (sub === "exec") return { group: "", version: "v1", kind: "PodExecOptions" };
  return { group: kind.group, version: kind.version, kind: kind.kind };
}

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

function aggregatedResource(kind: Kind): Record<string, unknown> {
  return {
    resource: kind.plural,
    responseKind: { group: "", version: "", kind: kind.kind },
    scope: kind.isNamespaced ? "Namespaced" : "Cluster",
    singularResource: kind.singular,
    verbs: verbsOf(kind),
    ...(kind.shortNames.length > 0 ? { shortNames: kind.shortNames } : {}),
    ...(kind.categories.length > 0 ? { categories: kind.categories } : {}),
    ...(kind.subresources.length > 0
      ? {
          subresources: kind.subresources.map((sub) => ({
            subresource: sub,
            responseKind: subKind(kind, sub),
            verbs: SUB_VERBS[sub] ?? ["get"],
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
      verbs: verbsOf(kind),
      ...(kind.shortNames.length > 0 ? { shortNames: kind.shortNames } : {}),
      ...(kind.categories.length > 0 ? { categories: kind.categories } : {}),
    },
    ...kind.subresources.map((sub) => {
      const of = subKind(kind, sub);
      return {
        name: `${kind.plural}/${sub}`,
        singularName: "",
        namespaced: kind.isNamespaced,
        ...(of.group === kind.group ? {} : { group: of.group, version: of.version }),
        kind: of.kind,
        verbs: SUB_VERBS[sub] ?? ["get"],
      };
    }),
  ]);
  const groupVersion = group === "" ? version : `${group}/${version}`;
  return { kind: "APIResourceList", ...(group === "" ? {} : { apiVersion: "v1" }), groupVersion, resources };
}

const openApiPath = (kind: Kind): string =>
  kind.group === "" ? `api/${kind.version}` : `apis/${kind.group}/${kind.version}`;

/**
 * The OpenAPI v3 document of one group version. kubectl and Helm read of it, for apply and create, whether a kind has a
 * PATCH that takes `fieldValidation`; `schemas` adds those of custom resources for `explain`.
 */
export function openApiDocument(
  table: KindTable,
  path: string,
  schemas: (kind: Kind) => unknown,
): Record<string, unknown> | undefined {
  const kinds = table.all().filter((kind) => openApiPath(kind) === path);
  if (kinds.length === 0) return undefined;
  const query = (name: string): Record<string, unknown> => ({ name, in: "query", schema: { type: "string" } });
  const parameters = ["dryRun", "fieldManager", "fieldValidation"].map(query);
  const paths = kinds.map((kind) => {
    const gvk = { group: kind.group, version: kind.version, kind: kind.kind };
    const operation = (action: string): Record<string, unknown> => ({
      "x-kubernetes-action": action,
      "x-kubernetes-group-version-kind": gvk,
      parameters,
      responses: { 200: { description: "OK" } },
    });
    const scope = kind.isNamespaced ? "/namespaces/{namespace}" : "";
    return [
      `/${path}${scope}/${kind.plural}/{name}`,
      { get: operation("get"), put: operation("put"), patch: operation("patch"), delete: operation("delete") },
    ];
  });
  const components = kinds.map((kind) => {
    const reversed = kind.group === "" ? "core" : kind.group.split(".").toReversed().join(".");
    const gvk = [{ group: kind.group, version: kind.version, kind: kind.kind }];
    const schema = schemas(kind) ?? { type: "object" };
    return [`${reversed}.${kind.version}.${kind.kind}`, { ...schema, "x-kubernetes-group-version-kind": gvk }];
  });
  return {
    openapi: "3.0.0",
    info: { title: "Kubernetes", version: SERVER_VERSION.gitVersion },
    paths: Object.fromEntries(paths),
    components: { schemas: Object.fromEntries(components) },
  };
}

/** `/openapi/v3`: the index of documents, each with the hash of its content. */
export function openApiIndex(table: KindTable, schemas: (kind: Kind) => unknown): Record<string, unknown> {
  const paths = [...new Set(table.all().map(openApiPath))].map((path) => {
    const hash = contentHash(JSON.stringify(openApiDocument(table, path, schemas)));
    return [path, { serverRelativeURL: `/openapi/v3/${path}?hash=${hash}` }];
  });
  return { paths: Object.fromEntries(paths) };
}

/** apiVersion of the list of a kind, and its kind. */
export function listKind(kind: Kind): { kind: string; apiVersion: string } {
  return { kind: `${kind.kind}List`, apiVersion: apiVersionOf(kind) };
}
