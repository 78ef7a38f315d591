// Custom resources: what a CustomResourceDefinition says of its objects. Structural schemas (the OpenAPI subset of
// apiextensions/v1): validation with field paths, unknown fields, defaults.
import { compareText, isObject, jsonClone, jsonEqual } from "@lateen/base";
import { checkRules, hasRules, ruleErrors } from "./cel.ts";
import { required, type StatusCause } from "./errors.ts";
import type { Kind } from "./kinds.ts";
import type { KubeObject } from "./objects.ts";
import { rootType } from "./schema.ts";
import type { PrinterColumn } from "./tables.ts";

/** The part of JSON schema that a structural schema may use. */
export interface Schema {
  readonly type?: string;
  readonly format?: string;
  readonly description?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: Schema | boolean;
  readonly items?: Schema;
  readonly required?: readonly string[];
  readonly enum?: readonly unknown[];
  readonly pattern?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly default?: unknown;
  readonly nullable?: boolean;
  readonly oneOf?: readonly Schema[];
  readonly anyOf?: readonly Schema[];
  readonly allOf?: readonly Schema[];
  readonly not?: Schema;
  readonly multipleOf?: number;
  readonly exclusiveMinimum?: boolean;
  readonly exclusiveMaximum?: boolean;
  readonly uniqueItems?: boolean;
  readonly minProperties?: number;
  readonly maxProperties?: number;
  readonly "x-kubernetes-embedded-resource"?: boolean;
  readonly "x-kubernetes-list-type"?: "atomic" | "set" | "map";
  readonly "x-kubernetes-list-map-keys"?: readonly string[];
  readonly "x-kubernetes-map-type"?: "atomic" | "granular";
  readonly "x-kubernetes-validations"?: readonly ValidationRule[];
  readonly "x-kubernetes-preserve-unknown-fields"?: boolean;
  readonly "x-kubernetes-int-or-string"?: boolean;
}

/** A rule in the Common Expression Language. */
export interface ValidationRule {
  readonly rule: string;
  readonly message?: string;
  readonly messageExpression?: string;
  readonly reason?: string;
  readonly fieldPath?: string;
  readonly optionalOldSelf?: boolean;
}

interface CrdVersion {
  readonly name: string;
  readonly served: boolean;
  readonly storage: boolean;
  readonly schema?: { readonly openAPIV3Schema?: Schema };
  readonly subresources?: { readonly status?: object; readonly scale?: ScalePaths };
  readonly selectableFields?: readonly { readonly jsonPath: string }[];
  readonly deprecated?: boolean;
  readonly deprecationWarning?: string;
  readonly additionalPrinterColumns?: readonly PrinterColumn[];
}

/** Where a custom kind keeps what its scale subresource shows; JSON paths such as `.spec.replicas`. */
interface ScalePaths {
  readonly specReplicasPath: string;
  readonly statusReplicasPath: string;
  readonly labelSelectorPath?: string;
}

interface CrdSpec {
  readonly group: string;
  readonly scope: "Namespaced" | "Cluster";
  readonly names: {
    readonly plural: string;
    readonly singular?: string;
    readonly kind: string;
    readonly listKind?: string;
    readonly shortNames?: readonly string[];
    readonly categories?: readonly string[];
  };
  readonly versions: readonly CrdVersion[];
}

/** A custom kind with what its definition says. */
export interface CustomKind extends Kind {
  readonly schema: Schema;
  readonly printer: readonly PrinterColumn[];
  readonly listKind: string;
  readonly scale: ScalePaths | undefined;
  /** Paths that field selectors may use, without the leading dot. */
  readonly selectable: readonly string[];
  /** Warning for each use of a deprecated version. */
  readonly deprecation: string | undefined;
}

export function isCustom(kind: Kind): kind is CustomKind {
  return "schema" in kind;
}

const SUB_VERBS = ["get", "patch", "update"];

/** Versions in the order in which clients prefer them: GA before beta before alpha, then by number, then by name. */
function compareVersions(a: string, b: string): number {
  const parse = (version: string): readonly [number, number, number] | undefined => {
    const match = /^v(\d+)(?:(alpha|beta)(\d+))?$/.exec(version);
    if (match === null) return undefined;
    const [, major = "0", stage, minor = "0"] = match;
    return [stage === undefined ? 2 : stage === "beta" ? 1 : 0, Number(major), Number(minor)];
  };
  const [x, y] = [parse(a), parse(b)];
  if (x === undefined || y === undefined) return Number(x === undefined) - Number(y === undefined) || compareText(a, b);
  return y[0] - x[0] || y[1] - x[1] || y[2] - x[2];
}

/** The kinds that a CustomResourceDefinition serves, the preferred version first. */
export function customKinds(definition: KubeObject): CustomKind[] {
  const spec = definition.spec as CrdSpec;
  const conditions = (definition.status as { conditions?: { type: string; status: string }[] } | undefined)?.conditions;
  if (conditions?.some(({ type, status }) => type === "Established" && status === "True") !== true) return [];
  const versions = spec.versions.filter((version) => version.served);
  return versions
    .toSorted((a, b) => compareVersions(a.name, b.name))
    .map((version) => {
      const schema = version.schema?.openAPIV3Schema ?? {
        type: "object",
        "x-kubernetes-preserve-unknown-fields": true,
      };
      const object = { group: spec.group, version: version.name, kind: spec.names.kind };
      const { status, scale } = version.subresources ?? {};
      const text = `${spec.group}/${version.name} ${spec.names.kind} is deprecated`;
      return {
        ...object,
        plural: spec.names.plural,
        singular: spec.names.singular ?? spec.names.kind.toLowerCase(),
        listKind: spec.names.listKind ?? `${spec.names.kind}List`,
        isNamespaced: spec.scope === "Namespaced",
        verbs: ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"],
        shortNames: spec.names.shortNames ?? [],
        categories: spec.names.categories ?? [],
        subresources: [
          ...(status === undefined ? [] : [{ name: "status", object, verbs: SUB_VERBS }]),
          ...(scale === undefined
            ? []
            : [{ name: "scale", object: { group: "autoscaling", version: "v1", kind: "Scale" }, verbs: SUB_VERBS }]),
        ],
        type: rootType(schema, `${spec.group}.${version.name}.${spec.names.kind}`),
        columns: [],
        hasGeneration: true,
        schema,
        printer: version.additionalPrinterColumns ?? [],
        scale,
        selectable: (version.selectableFields ?? []).map(({ jsonPath }) => jsonPath.replace(/^\./, "")),
        deprecation: version.deprecated === true ? (version.deprecationWarning ?? text) : undefined,
      };
    });
}

const TYPE_TESTS: Readonly<Record<string, (value: unknown) => boolean>> = {
  object: isObject,
  array: Array.isArray,
  string: (value) => typeof value === "string",
  boolean: (value) => typeof value === "boolean",
  number: (value) => typeof value === "number",
  integer: (value) => Number.isInteger(value),
};

function typeName(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return Number.isInteger(value) ? "integer" : typeof value;
}

function wrongValue(field: string, value: unknown, message: string): StatusCause {
  const shown = typeof value === "object" ? JSON.stringify(typeName(value)) : JSON.stringify(value);
  return { reason: "FieldValueInvalid", message: `Invalid value: ${shown}: ${message}`, field };
}

const patterns = new Map<string, RegExp | undefined>();

/**
 * The expression of a schema's `pattern`, which is written in Go's syntax (RE2): read without the Unicode flag where its
 * stricter escapes refuse it, and with leading flags, `(?i)`, around the whole. Undefined: not an expression.
 */
function patternOf(source: string): RegExp | undefined {
  if (!patterns.has(source)) {
    const text = source.replace(/^\(\?([ims]+)\)(.*)$/s, "(?$1:$2)");
    patterns.set(source, compiled(text, "u") ?? compiled(text, ""));
  }
  return patterns.get(source);
}

function compiled(source: string, flags: string): RegExp | undefined {
  try {
    return new RegExp(source, flags);
  } catch {
    return undefined;
  }
}

function checkScalar(value: unknown, schema: Schema, path: string, causes: StatusCause[]): void {
  const add = (message: string): void => void causes.push(wrongValue(path, value, `${path} in body ${message}`));
  if (schema.enum !== undefined && !schema.enum.some((allowed) => jsonEqual(allowed, value))) {
    const allowed = schema.enum.map((entry) => JSON.stringify(entry)).join(", ");
    const message = `Unsupported value: ${JSON.stringify(value)}: supported values: ${allowed}`;
    causes.push({ reason: "FieldValueNotSupported", message, field: path });
  }
  if (typeof value === "number") {
    const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = schema;
    if (minimum !== undefined && exclusiveMinimum === true && value <= minimum)
      add(`should be greater than ${minimum}`);
    else if (minimum !== undefined && value < minimum) add(`should be greater than or equal to ${minimum}`);
    if (maximum !== undefined && exclusiveMaximum === true && value >= maximum) add(`should be less than ${maximum}`);
    else if (maximum !== undefined && value > maximum) add(`should be less than or equal to ${maximum}`);
    if (multipleOf !== undefined && !Number.isInteger(value / multipleOf)) add(`should be a multiple of ${multipleOf}`);
  } else if (typeof value === "string") {
    if (schema.minLength !== undefined && value.length < schema.minLength)
      add(`should be at least ${schema.minLength} chars long`);
    if (schema.maxLength !== undefined && value.length > schema.maxLength)
      add(`should be at most ${schema.maxLength} chars long`);
    if (schema.pattern !== undefined && patternOf(schema.pattern)?.test(value) === false)
      add(`should match '${schema.pattern}'`);
  }
}

function checkAlternatives(value: unknown, schema: Schema, path: string, causes: StatusCause[]): void {
  const fits = (alternative: Schema): boolean => {
    const found: StatusCause[] = [];
    check(value, alternative, path, found);
    return found.length === 0;
  };
  if (schema.oneOf !== undefined && schema.oneOf.filter(fits).length !== 1) {
    causes.push(wrongValue(path, value, `${path} in body must validate one and only one schema (oneOf)`));
  }
  if (schema.anyOf !== undefined && !schema.anyOf.some(fits)) {
    causes.push(wrongValue(path, value, `${path} in body must validate at least one schema (anyOf)`));
  }
  for (const part of schema.allOf ?? []) check(value, part, path, causes);
  if (schema.not !== undefined && fits(schema.not)) {
    causes.push(wrongValue(path, value, `${path} in body must not validate the schema (not)`));
  }
}

function check(value: unknown, schema: Schema, path: string, causes: StatusCause[]): void {
  if (value === null && schema.nullable === true) return;
  if (schema["x-kubernetes-int-or-string"] === true) {
    if (typeof value !== "string" && !Number.isInteger(value))
      causes.push(wrongValue(path, value, `${path} must be of type integer or string`));
    return;
  }
  const test = schema.type === undefined ? undefined : TYPE_TESTS[schema.type];
  if (test !== undefined && !test(value)) {
    const got = JSON.stringify(typeName(value));
    const message = `Invalid value: ${got}: ${path} in body must be of type ${schema.type}: ${got}`;
    causes.push({ reason: "FieldValueTypeInvalid", message, field: path });
    return;
  }
  checkScalar(value, schema, path, causes);
  checkAlternatives(value, schema, path, causes);
  if (Array.isArray(value)) {
    if (schema.minItems !== undefined && value.length < schema.minItems) {
      causes.push(wrongValue(path, value.length, `${path} in body should have at least ${schema.minItems} items`));
    }
    if (schema.maxItems !== undefined && value.length > schema.maxItems) {
      causes.push(wrongValue(path, value.length, `${path} in body should have at most ${schema.maxItems} items`));
    }
    checkDistinct(value, schema, path, causes);
    if (schema.items !== undefined)
      value.forEach((item, i) => check(item, schema.items as Schema, `${path}[${i}]`, causes));
  } else if (isObject(value)) checkMembers(value, schema, path, causes);
}

/** The items of sets and of lists with keys must differ. */
function checkDistinct(items: readonly unknown[], schema: Schema, path: string, causes: StatusCause[]): void {
  const list = schema["x-kubernetes-list-type"];
  if (list !== "set" && list !== "map" && schema.uniqueItems !== true) return;
  const keys = schema["x-kubernetes-list-map-keys"] ?? [];
  const seen = new Set<string>();
  items.forEach((item, i) => {
    const known = list === "map" && isObject(item) ? Object.fromEntries(keys.map((key) => [key, item[key]])) : item;
    const text = JSON.stringify(known);
    if (seen.has(text))
      causes.push({ reason: "FieldValueDuplicate", message: `Duplicate value: ${text}`, field: `${path}[${i}]` });
    seen.add(text);
  });
}

const join = (path: string, key: string): string => (path === "" ? key : `${path}.${key}`);

function checkMembers(value: Record<string, unknown>, schema: Schema, path: string, causes: StatusCause[]): void {
  const size = Object.keys(value).length;
  if (schema.minProperties !== undefined && size < schema.minProperties)
    causes.push(wrongValue(path, size, `${path} in body should have at least ${schema.minProperties} properties`));
  if (schema.maxProperties !== undefined && size > schema.maxProperties)
    causes.push(wrongValue(path, size, `${path} in body should have at most ${schema.maxProperties} properties`));
  for (const name of schema.required ?? []) {
    if (value[name] === undefined)
      causes.push({ reason: "FieldValueRequired", message: "Required value", field: join(path, name) });
  }
  for (const [key, member] of Object.entries(value)) {
    if (member === undefined) continue;
    const known = schema.properties?.[key];
    if (known !== undefined) check(member, known, join(path, key), causes);
    else if (typeof schema.additionalProperties === "object")
      check(member, schema.additionalProperties, join(path, key), causes);
  }
}

/** Said where rules were not looked at because the object does not fit its schema. */
const UNCHECKED: StatusCause = {
  reason: "FieldValueInvalid",
  message:
    "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
  field: "<nil>",
};

/** What is wrong with a custom object: its schema, then the rules in it. */
export function validateCustom(object: KubeObject, kind: CustomKind, old?: KubeObject): StatusCause[] {
  const causes: StatusCause[] = [];
  const { metadata: _metadata, ...rest } = object;
  const needed = (kind.schema.required ?? []).filter((name) => name !== "metadata");
  check(rest, { ...kind.schema, required: needed }, "", causes);
  const isBroken = causes.some(({ reason }) => reason !== "FieldValueDuplicate");
  if (!isBroken) return [...causes, ...checkRules(object, kind.schema, old)];
  return hasRules(kind.schema) ? [...causes, UNCHECKED] : causes;
}

function prune(value: unknown, schema: Schema, path: string, unknown: string[]): unknown {
  if (Array.isArray(value)) {
    return schema.items === undefined
      ? value
      : value.map((item, i) => prune(item, schema.items as Schema, `${path}[${i}]`, unknown));
  }
  if (!isObject(value)) return value;
  const keepsAll = schema["x-kubernetes-preserve-unknown-fields"] === true || schema.additionalProperties === true;
  const result: Record<string, unknown> = {};
  for (const [key, member] of Object.entries(value)) {
    const at = join(path, key);
    const known =
      schema.properties?.[key] ??
      (typeof schema.additionalProperties === "object" ? schema.additionalProperties : undefined);
    if (known !== undefined) result[key] = prune(member, known, at, unknown);
    else if (keepsAll) result[key] = member;
    else unknown.push(at);
  }
  return result;
}

/** A custom object without the fields that its schema does not know; their paths go to `unknown`. */
export function pruneCustom(
  object: Record<string, unknown>,
  kind: CustomKind,
  unknown: string[],
): Record<string, unknown> {
  const { apiVersion, kind: kindName, metadata, ...rest } = object;
  const pruned = prune(rest, kind.schema, "", unknown) as Record<string, unknown>;
  return { apiVersion, kind: kindName, metadata, ...pruned };
}

const withDefaults = new WeakMap<Schema, boolean>();

/** Whether a schema has defaults anywhere. */
export function hasDefaults(schema: Schema): boolean {
  let found = withDefaults.get(schema);
  if (found === undefined) {
    const others = schema.additionalProperties;
    const inner = [...Object.values(schema.properties ?? {}), ...(schema.items === undefined ? [] : [schema.items])];
    found =
      schema.default !== undefined || inner.some(hasDefaults) || (typeof others === "object" && hasDefaults(others));
    withDefaults.set(schema, found);
  }
  return found;
}

/** Sets the schema's defaults in place. */
export function defaultCustom(value: unknown, schema: Schema): void {
  if (Array.isArray(value)) {
    if (schema.items !== undefined) for (const item of value) defaultCustom(item, schema.items);
    return;
  }
  if (!isObject(value)) return;
  for (const [key, member] of Object.entries(schema.properties ?? {})) {
    if (value[key] === undefined && member.default !== undefined) value[key] = jsonClone(member.default);
    if (value[key] !== undefined) defaultCustom(value[key], member);
  }
  if (typeof schema.additionalProperties === "object") {
    for (const member of Object.values(value)) defaultCustom(member, schema.additionalProperties);
  }
}

/** Where a schema, free-form in the definition's message, is not one. */
function checkSchema(schema: unknown, path: string, causes: StatusCause[]): void {
  const bad = (field: string, value: unknown, message: string): void =>
    void causes.push(wrongValue(field, value, message));
  if (!isObject(schema)) return bad(path, schema, "must be a schema");
  const { properties, type, pattern, additionalProperties: others } = schema;
  if (isObject(properties))
    for (const [name, member] of Object.entries(properties)) checkSchema(member, `${path}.properties[${name}]`, causes);
  else if (properties !== undefined) bad(join(path, "properties"), properties, "must be a map of schemas");
  for (const key of ["oneOf", "anyOf", "allOf"]) {
    const members = schema[key];
    if (members === undefined) continue;
    if (Array.isArray(members)) members.forEach((member, i) => checkSchema(member, `${path}.${key}[${i}]`, causes));
    else bad(join(path, key), members, "must be a list of schemas");
  }
  for (const key of ["items", "not"]) if (schema[key] !== undefined) checkSchema(schema[key], join(path, key), causes);
  if (isObject(others)) checkSchema(others, join(path, "additionalProperties"), causes);
  if (type !== undefined && !(typeof type === "string" && Object.hasOwn(TYPE_TESTS, type)))
    bad(join(path, "type"), type, `must be one of ${Object.keys(TYPE_TESTS).join(", ")}`);
  if (pattern !== undefined && (typeof pattern !== "string" || patternOf(pattern) === undefined))
    bad(join(path, "pattern"), pattern, "must be a valid regular expression");
  for (const key of ["enum", "required"])
    if (schema[key] !== undefined && !Array.isArray(schema[key])) bad(join(path, key), schema[key], "must be a list");
}

/** What is wrong with a CustomResourceDefinition whose fields have their declared types. */
export function checkDefinition(definition: KubeObject): StatusCause[] {
  const spec = (definition.spec ?? {}) as Partial<CrdSpec>;
  const { plural, kind, singular, listKind } = spec.names ?? {};
  const needed = {
    group: spec.group,
    scope: spec.scope,
    "names.plural": plural,
    "names.kind": kind,
    "names.singular": singular,
    "names.listKind": listKind,
  };
  const causes: StatusCause[] = [];
  if (definition.metadata.name !== `${plural}.${spec.group}`)
    causes.push(wrongValue("metadata.name", definition.metadata.name, 'must be spec.names.plural+"."+spec.group'));
  const missing = (field: string): void => {
    if ((needed[field as keyof typeof needed] ?? "") === "") causes.push(required(`spec.${field}`));
  };
  missing("group");
  missing("scope");
  const versions = spec.versions ?? [];
  if (versions.filter(({ storage }) => storage).length !== 1) {
    const shown = spec.versions === undefined || spec.versions === null ? "null" : JSON.stringify(versions);
    causes.push({
      reason: "FieldValueInvalid",
      message: `Invalid value: ${shown}: must have exactly one version marked as storage version`,
      field: "spec.versions",
    });
  }
  missing("names.plural");
  missing("names.singular");
  missing("names.kind");
  missing("names.listKind");
  if (!versions.some(({ storage }) => storage))
    causes.push({
      reason: "FieldValueInvalid",
      message: "Invalid value: null: must have at least one stored version",
      field: "status.storedVersions",
    });
  versions.forEach(({ name, schema }, i) => {
    if ((name ?? "") === "") causes.push(required(`spec.versions[${i}].name`));
    const at = `spec.versions[${i}].schema.openAPIV3Schema`;
    if (schema?.openAPIV3Schema === undefined) return;
    const before = causes.length;
    checkSchema(schema.openAPIV3Schema, at, causes);
    if (causes.length === before) causes.push(...ruleErrors(schema.openAPIV3Schema, at));
  });
  return causes;
}

/** Status of a new definition: nothing is accepted yet. */
export function initialStatus(definition: KubeObject): Record<string, unknown> {
  const { versions } = definition.spec as CrdSpec;
  const storedVersions = versions.filter((version) => version.storage).map((version) => version.name);
  return { conditions: null, acceptedNames: { plural: "", kind: "" }, storedVersions };
}
