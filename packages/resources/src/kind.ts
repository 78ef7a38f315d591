// A kind of resource: names for the API, the schema of its spec, and how its objects are read.
import type { Diagnostic, Outcome } from "@lateen/base";
import { isObject } from "@lateen/base";
import { mapOf, type OpenApi, openObject, optional, type Schema, text } from "./schema.ts";

/** What every object carries, as far as the mesh reads it. */
export interface Meta {
  readonly name: string;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly creationTimestamp: string;
}

export interface Resource<Spec> {
  readonly kind: string;
  readonly meta: Meta;
  readonly spec: Spec;
}

interface PrinterColumn {
  readonly name: string;
  readonly type: string;
  readonly jsonPath: string;
  readonly description: string;
}

/** A kind of Istio's API. */
export interface CustomKind<Spec> {
  readonly group: string;
  /** Served versions, the storage version first. */
  readonly versions: readonly string[];
  readonly kind: string;
  readonly plural: string;
  readonly shortNames: readonly string[];
  readonly printer: readonly PrinterColumn[];
  readonly spec: Schema<Spec>;
}

const META = openObject({
  name: text,
  namespace: optional(text),
  labels: optional(mapOf(text)),
  annotations: optional(mapOf(text)),
  creationTimestamp: optional(text),
});

/** Reads `metadata`; undefined when it is unusable. */
export function parseMeta(object: unknown): Meta | undefined {
  const parsed = META.parse(isObject(object) ? object["metadata"] : undefined, "metadata", () => {});
  if (parsed === undefined) return undefined;
  const { name, namespace = "", labels = {}, annotations = {}, creationTimestamp = "" } = parsed;
  return { name, namespace, labels, annotations, creationTimestamp };
}

/** Reads an object of a kind. The value is undefined when the object cannot be used; the diagnostics then say why. */
export function parseResource<Spec>(kind: CustomKind<Spec>, object: unknown): Outcome<Resource<Spec> | undefined> {
  const meta = parseMeta(object);
  const name = meta === undefined ? kind.kind : `${kind.kind} ${meta.namespace}/${meta.name}`;
  const diagnostics: Diagnostic[] = [];
  const report = (path: string, message: string): void =>
    void diagnostics.push({ severity: "error", resource: name, path, message });
  const spec = kind.spec.parse(isObject(object) ? (object["spec"] ?? {}) : undefined, "spec", report);
  if (meta === undefined) report("metadata", "is not usable");
  return { value: meta === undefined || spec === undefined ? undefined : { kind: kind.kind, meta, spec }, diagnostics };
}

/** The CustomResourceDefinition of a kind. */
export function crdOf(kind: CustomKind<unknown>): Record<string, unknown> {
  const age: PrinterColumn = {
    name: "Age",
    type: "date",
    jsonPath: ".metadata.creationTimestamp",
    description: "Time since the object was created",
  };
  const schema: OpenApi = {
    type: "object",
    properties: { spec: kind.spec.openApi, status: { type: "object", "x-kubernetes-preserve-unknown-fields": true } },
  };
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: {
      name: `${kind.plural}.${kind.group}`,
      labels: { app: "istio-pilot", istio: "security", release: "istio" },
    },
    spec: {
      group: kind.group,
      scope: "Namespaced",
      names: {
        kind: kind.kind,
        listKind: `${kind.kind}List`,
        plural: kind.plural,
        singular: kind.kind.toLowerCase(),
        shortNames: kind.shortNames,
        categories: ["istio-io", kind.group.replaceAll(".", "-")],
      },
      versions: kind.versions.map((name, i) => ({
        name,
        served: true,
        storage: i === 0,
        schema: { openAPIV3Schema: schema },
        subresources: { status: {} },
        additionalPrinterColumns: [...kind.printer, age],
      })),
    },
  };
}
