// The kinds that the API server serves: names, scope, verbs, subresources. The built-in ones are those of a real Kubernetes,
// read from facts/kinds.json; one table drives routing, discovery, OpenAPI, decoding and tables. Custom kinds add to it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Subject } from "./errors.ts";
import { hasType, META, type StructType, structType, type Type } from "./types.ts";

export interface GroupVersionKind {
  readonly group: string;
  readonly version: string;
  readonly kind: string;
}

/** `pods/log` and its like: what it reads and writes, and how. */
interface Subresource {
  readonly name: string;
  readonly object: GroupVersionKind;
  readonly verbs: readonly string[];
}

/** A column of the tables that `kubectl get` prints. Above priority 0: only with `-o wide`. */
export interface Column {
  readonly name: string;
  readonly type: string;
  readonly format: string;
  readonly description: string;
  readonly priority: number;
}

/** A served resource. */
export interface Kind extends Subject {
  readonly version: string;
  readonly singular: string;
  readonly isNamespaced: boolean;
  readonly verbs: readonly string[];
  readonly shortNames: readonly string[];
  readonly categories: readonly string[];
  readonly subresources: readonly Subresource[];
  /** The shape of its objects. */
  readonly type: Type;
  readonly columns: readonly Column[];
  /** Whether `metadata.generation` counts changes of the desired state. */
  readonly hasGeneration: boolean;
}

interface Fact {
  readonly group: string;
  readonly version: string;
  readonly resource: string;
  readonly responseKind: GroupVersionKind;
  readonly scope: string;
  readonly singularResource: string;
  readonly verbs: readonly string[];
  readonly shortNames?: readonly string[];
  readonly categories?: readonly string[];
  readonly subresources?: readonly {
    readonly subresource: string;
    readonly responseKind?: GroupVersionKind;
    readonly verbs: readonly string[];
  }[];
  readonly columns: readonly Column[];
}

/** Storage table of a kind: one for all its versions. Both Event kinds are one. */
export function tableOf(kind: Subject): string {
  if (kind.group === "" || kind.group === "events.k8s.io") return kind.plural;
  return `${kind.plural}.${kind.group}`;
}

export function apiVersionOf(kind: Pick<GroupVersionKind, "group" | "version">): string {
  return kind.group === "" ? kind.version : `${kind.group}/${kind.version}`;
}

/** Create-only kinds (TokenReview, Binding ...) are never stored. */
export function isStored(kind: Kind): boolean {
  return kind.verbs.includes("get");
}

export function hasSubresource(kind: Kind, name: string): boolean {
  return kind.subresources.some((sub) => sub.name === name);
}

/** Groups whose Go packages are not named after them. */
const PACKAGES: Readonly<Record<string, string>> = {
  "": "io.k8s.api.core",
  "apiextensions.k8s.io": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
  "apiregistration.k8s.io": "io.k8s.kube-aggregator.pkg.apis.apiregistration",
  "flowcontrol.apiserver.k8s.io": "io.k8s.api.flowcontrol",
  "rbac.authorization.k8s.io": "io.k8s.api.rbac",
};

/** Name of a built-in kind's type, as in OpenAPI documents. */
function typeName({ group, version, kind }: GroupVersionKind): string {
  return `${PACKAGES[group] ?? `io.k8s.api.${group.replace(/\.k8s\.io$/, "")}`}.${version}.${kind}`;
}

/** The type of a built-in object by apiVersion and kind, served or not: bodies such as DeleteOptions, Scale, Eviction. */
export function builtInType(apiVersion: string, kind: string): StructType | undefined {
  const [first = "", second] = apiVersion.split("/");
  const name = typeName(
    second === undefined ? { group: "", version: first, kind } : { group: first, version: second, kind },
  );
  if (hasType(name)) return structType(name);
  return kind.endsWith("Options") && hasType(`${META}.${kind}`) ? structType(`${META}.${kind}`) : undefined;
}

const GENERATION = new Set(
  (
    "deployments replicasets statefulsets daemonsets jobs cronjobs ingresses networkpolicies poddisruptionbudgets pods " +
    "customresourcedefinitions mutatingwebhookconfigurations validatingwebhookconfigurations endpointslices " +
    "replicationcontrollers podtemplates flowschemas prioritylevelconfigurations validatingadmissionpolicies " +
    "validatingadmissionpolicybindings priorityclasses ingressclasses servicecidrs ipaddresses"
  ).split(" "),
);

const FACTS = JSON.parse(readFileSync(join(import.meta.dirname, "facts/kinds.json"), "utf8")) as readonly Fact[];

/** The built-in kinds, in the order of preference of their groups and versions. */
const BUILT_IN_KINDS: readonly Kind[] = FACTS.map(({ group, version, resource, responseKind, ...fact }) => ({
  group,
  version,
  plural: resource,
  kind: responseKind.kind,
  singular: fact.singularResource,
  isNamespaced: fact.scope === "Namespaced",
  verbs: fact.verbs,
  shortNames: fact.shortNames ?? [],
  categories: fact.categories ?? [],
  subresources: (fact.subresources ?? []).map((sub) => ({
    name: sub.subresource,
    object:
      sub.responseKind === undefined || sub.responseKind.version === ""
        ? { group, version, kind: sub.responseKind?.kind ?? responseKind.kind }
        : sub.responseKind,
    verbs: sub.verbs,
  })),
  type: structType(typeName({ group, version, kind: responseKind.kind })),
  columns: fact.columns,
  hasGeneration: GENERATION.has(resource),
}));

/** The kinds served now. */
export class KindTable {
  #byPath = new Map<string, Kind>();
  #byObject = new Map<string, Kind>();
  #all: readonly Kind[] = [];
  /** Grows with every change: discovery documents and ETags depend on it. */
  revision = 0;

  constructor() {
    this.setCustom([]);
  }

  /** Replaces the custom kinds by those of the established CustomResourceDefinitions. */
  setCustom(kinds: readonly Kind[]): void {
    this.#all = [...BUILT_IN_KINDS, ...kinds];
    this.#byPath = new Map(this.#all.map((kind) => [`${kind.group}/${kind.version}/${kind.plural}`, kind]));
    this.#byObject = new Map(this.#all.map((kind) => [`${apiVersionOf(kind)} ${kind.kind}`, kind]));
    this.revision += 1;
  }

  all(): readonly Kind[] {
    return this.#all;
  }

  /** One kind for each storage table: what holds objects. */
  stored(): readonly Kind[] {
    const tables = new Map<string, Kind>();
    for (const kind of this.#all) if (isStored(kind) && !tables.has(tableOf(kind))) tables.set(tableOf(kind), kind);
    return [...tables.values()];
  }

  find(groupName: string, version: string, plural: string): Kind | undefined {
    return this.#byPath.get(`${groupName}/${version}/${plural}`);
  }

  /** The kind that an object names in apiVersion and kind. */
  ofObject(apiVersion: string, kindName: string): Kind | undefined {
    return this.#byObject.get(`${apiVersion} ${kindName}`);
  }
}

/** The kind in whose form objects of `kind` are stored. */
export function storedKind(kind: Kind): Kind {
  return kind.group === "events.k8s.io" || kind.group === "autoscaling" ? builtIn(kind.plural) : kind;
}

/** A built-in kind by plural, of the core group where two have it; throws for a name that is not in the table (a bug). */
export function builtIn(plural: string): Kind {
  const kind = BUILT_IN_KINDS.find((entry) => entry.plural === plural);
  if (kind === undefined) throw new Error(`no built-in kind ${plural}`);
  return kind;
}
