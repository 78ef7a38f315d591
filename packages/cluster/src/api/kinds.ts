// The kinds that the API server serves: names, scope, verbs, what counts as desired state.
// One table drives routing, discovery, OpenAPI and decoding; custom resources add to it at run time.
import type { Subject } from "./errors.ts";

/** A served resource. */
export interface Kind extends Subject {
  readonly version: string;
  readonly singular: string;
  readonly isNamespaced: boolean;
  readonly shortNames: readonly string[];
  readonly categories: readonly string[];
  /** Subresources with their own verbs, such as `status`, `scale`, `log`. */
  readonly subresources: readonly string[];
  /** Message name in the field table; absent for custom resources. */
  readonly message: string | undefined;
  /** Whether `metadata.generation` counts changes of the desired state. */
  readonly hasGeneration: boolean;
  /** Create-only review kinds (TokenReview ...) are never stored. */
  readonly isReview: boolean;
}

/** Storage table of a kind: one for all its versions. */
export function tableOf(kind: Subject): string {
  return kind.group === "" ? kind.plural : `${kind.plural}.${kind.group}`;
}

export function apiVersionOf(kind: Kind): string {
  return kind.group === "" ? kind.version : `${kind.group}/${kind.version}`;
}

const VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"] as const;

/** The verbs that discovery shows. */
export function verbsOf(kind: Kind): readonly string[] {
  return kind.isReview ? ["create"] : VERBS;
}

interface Entry {
  readonly plural: string;
  readonly kind: string;
  readonly singular?: string;
  readonly short?: readonly string[];
  readonly cluster?: true;
  readonly all?: true;
  readonly generation?: true;
  readonly review?: true;
  readonly sub?: readonly string[];
}

function group(name: string, version: string, package_: string, entries: readonly Entry[]): Kind[] {
  return entries.map((entry) => ({
    group: name,
    version,
    plural: entry.plural,
    kind: entry.kind,
    singular: entry.singular ?? entry.kind.toLowerCase(),
    isNamespaced: entry.cluster !== true,
    shortNames: entry.short ?? [],
    categories: entry.all === true ? ["all"] : [],
    subresources: entry.sub ?? [],
    message: `k8s.io.${package_}.${entry.kind}`,
    hasGeneration: entry.generation === true,
    isReview: entry.review === true,
  }));
}

/** The built-in kinds. */
const BUILT_IN_KINDS: readonly Kind[] = [
  ...group("", "v1", "api.core.v1", [
    { plural: "configmaps", kind: "ConfigMap", short: ["cm"] },
    { plural: "endpoints", kind: "Endpoints", singular: "endpoints", short: ["ep"] },
    { plural: "events", kind: "Event", short: ["ev"] },
    { plural: "namespaces", kind: "Namespace", short: ["ns"], cluster: true, sub: ["finalize", "status"] },
    { plural: "nodes", kind: "Node", short: ["no"], cluster: true, sub: ["status"] },
    {
      plural: "pods",
      kind: "Pod",
      short: ["po"],
      all: true,
      generation: true,
      sub: ["exec", "log", "status"],
    },
    { plural: "secrets", kind: "Secret" },
    { plural: "serviceaccounts", kind: "ServiceAccount", short: ["sa"], sub: ["token"] },
    { plural: "services", kind: "Service", short: ["svc"], all: true, sub: ["status"] },
  ]),
  ...group("apps", "v1", "api.apps.v1", [
    {
      plural: "deployments",
      kind: "Deployment",
      short: ["deploy"],
      all: true,
      generation: true,
      sub: ["scale", "status"],
    },
    { plural: "replicasets", kind: "ReplicaSet", short: ["rs"], all: true, generation: true, sub: ["scale", "status"] },
  ]),
  ...group("discovery.k8s.io", "v1", "api.discovery.v1", [
    { plural: "endpointslices", kind: "EndpointSlice", generation: true },
  ]),
  ...group("coordination.k8s.io", "v1", "api.coordination.v1", [{ plural: "leases", kind: "Lease" }]),
  ...group("admissionregistration.k8s.io", "v1", "api.admissionregistration.v1", [
    {
      plural: "mutatingwebhookconfigurations",
      kind: "MutatingWebhookConfiguration",
      cluster: true,
      generation: true,
    },
    {
      plural: "validatingwebhookconfigurations",
      kind: "ValidatingWebhookConfiguration",
      cluster: true,
      generation: true,
    },
  ]),
  ...group("apiextensions.k8s.io", "v1", "apiextensions_apiserver.pkg.apis.apiextensions.v1", [
    {
      plural: "customresourcedefinitions",
      kind: "CustomResourceDefinition",
      short: ["crd", "crds"],
      cluster: true,
      generation: true,
      sub: ["status"],
    },
  ]),
  ...group("rbac.authorization.k8s.io", "v1", "api.rbac.v1", [
    { plural: "clusterrolebindings", kind: "ClusterRoleBinding", cluster: true },
    { plural: "clusterroles", kind: "ClusterRole", cluster: true },
    { plural: "rolebindings", kind: "RoleBinding" },
    { plural: "roles", kind: "Role" },
  ]),
  ...group("authentication.k8s.io", "v1", "api.authentication.v1", [
    { plural: "selfsubjectreviews", kind: "SelfSubjectReview", cluster: true, review: true },
    { plural: "tokenreviews", kind: "TokenReview", cluster: true, review: true },
  ]),
  ...group("authorization.k8s.io", "v1", "api.authorization.v1", [
    { plural: "selfsubjectaccessreviews", kind: "SelfSubjectAccessReview", cluster: true, review: true },
    { plural: "subjectaccessreviews", kind: "SubjectAccessReview", cluster: true, review: true },
  ]),
];

/** The kinds served now. */
export class KindTable {
  #byPath = new Map<string, Kind>();
  #custom: readonly Kind[] = [];
  /** Grows with every change: discovery documents and ETags depend on it. */
  revision = 0;

  constructor() {
    this.setCustom([]);
  }

  /** Replaces the custom kinds by those of the established CustomResourceDefinitions. */
  setCustom(kinds: readonly Kind[]): void {
    this.#custom = kinds;
    this.#byPath = new Map(this.all().map((kind) => [`${kind.group}/${kind.version}/${kind.plural}`, kind]));
    this.revision += 1;
  }

  all(): readonly Kind[] {
    return [...BUILT_IN_KINDS, ...this.#custom];
  }

  find(groupName: string, version: string, plural: string): Kind | undefined {
    return this.#byPath.get(`${groupName}/${version}/${plural}`);
  }

  /** The kind that an object names in apiVersion and kind. */
  ofObject(apiVersion: string, kindName: string): Kind | undefined {
    return this.all().find((kind) => apiVersionOf(kind) === apiVersion && kind.kind === kindName);
  }
}

/** A built-in kind by plural; throws for a name that is not in the table (a bug). */
export function builtIn(plural: string): Kind {
  const kind = BUILT_IN_KINDS.find((entry) => entry.plural === plural);
  if (kind === undefined) throw new Error(`no built-in kind ${plural}`);
  return kind;
}
