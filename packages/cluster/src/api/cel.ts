// Rules in the Common Expression Language inside custom resources' schemas (x-kubernetes-validations): compiled against the
// types that the schema declares, checked on every write with `self` and, for rules that name it, `oldSelf`.
import { errorText, isObject } from "@lateen/base";
import { Environment } from "@marcbachmann/cel-js";
import type { Schema, ValidationRule } from "./custom.ts";
import type { StatusCause } from "./errors.ts";
import type { KubeObject } from "./objects.ts";
import type { Type } from "./types.ts";

export type CelProgram = (context: Record<string, unknown>) => unknown;

interface Rule {
  readonly source: ValidationRule;
  readonly run: CelProgram | undefined;
  readonly message: CelProgram | undefined;
  readonly error: string | undefined;
  readonly isTransition: boolean;
}

const RESERVED = new Set(
  "true false null in as break const continue else for function if import let loop package namespace return var void while".split(
    " ",
  ),
);

/** A property's name as an identifier of the language. */
function identifier(name: string): string {
  if (RESERVED.has(name)) return `__${name}__`;
  return name
    .replaceAll("__", "__underscores__")
    .replaceAll(".", "__dot__")
    .replaceAll("-", "__dash__")
    .replaceAll("/", "__slash__");
}

const isAny = (schema: Schema): boolean => schema["x-kubernetes-int-or-string"] === true || schema.type === undefined;

/** Declares the types of a schema in `env`; returns the name of its own. */
class TypeNames {
  readonly #env: Environment;
  #count = 0;
  constructor(env: Environment) {
    this.#env = env;
  }

  of(schema: Schema, isRoot = false): string {
    if (isAny(schema)) return "dyn";
    if (schema.type === "array") return `list<${schema.items === undefined ? "dyn" : this.of(schema.items)}>`;
    if (schema.type !== "object") {
      if (schema.type === "string" && schema.format === "date-time") return "google.protobuf.Timestamp";
      if (schema.type === "string" && schema.format === "duration") return "google.protobuf.Duration";
      return { integer: "int", number: "double", boolean: "bool" }[schema.type ?? ""] ?? "string";
    }
    if (typeof schema.additionalProperties === "object") return `map<string, ${this.of(schema.additionalProperties)}>`;
    const { properties } = schema;
    if (properties === undefined && !isRoot) return "dyn";
    const fields: Record<string, string> = {};
    for (const [name, member] of Object.entries(properties ?? {})) fields[identifier(name)] = this.of(member);
    if (isRoot || schema["x-kubernetes-embedded-resource"] === true) {
      const meta = `Metadata${this.#count++}`;
      this.#env.registerType(meta, { fields: { name: "string", generateName: "string" } });
      Object.assign(fields, { apiVersion: "string", kind: "string", metadata: meta });
    }
    const type = `Object${this.#count++}`;
    this.#env.registerType(type, { fields });
    // Only checked with: values are plain maps when rules run.
    this.#env.registerOperator(`${type} == ${type}`, () => false);
    return type;
  }
}

function comparable(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === "bigint" ? `${inner}n` : inner instanceof Map ? Object.fromEntries(inner) : inner,
  );
}

/** A JSON value in the language's terms: integers are apart from doubles. */
function toCel(value: unknown, schema: Schema | undefined, isRoot = false): unknown {
  if (typeof value === "number") return schema?.type === "number" || !Number.isInteger(value) ? value : BigInt(value);
  if (Array.isArray(value)) return value.map((item) => toCel(item, schema?.items));
  if (typeof value === "string") {
    if (schema?.format === "date-time") return new Date(value);
    return value;
  }
  if (!isObject(value)) return value;
  if (isRoot) {
    const { name, generateName } = (value["metadata"] ?? {}) as Record<string, unknown>;
    const { metadata: _metadata, ...rest } = value;
    const members = toCel(rest, schema) as Record<string, unknown>;
    return {
      ...members,
      metadata: { ...(name === undefined ? {} : { name }), ...(generateName === undefined ? {} : { generateName }) },
    };
  }
  const isMap = typeof schema?.additionalProperties === "object" || schema?.properties === undefined;
  const inner = typeof schema?.additionalProperties === "object" ? schema.additionalProperties : undefined;
  return Object.fromEntries(
    Object.entries(value).map(([key, member]) => [
      isMap ? key : identifier(key),
      toCel(member, schema?.properties?.[key] ?? inner),
    ]),
  );
}

/** A JSON value whose types nobody declares. */
export const plainToCel = (value: unknown): unknown => toCel(value, undefined);

/** An environment in which `names` have the declared shape of a kind. */
export function typeEnvironment(type: Type, names: readonly string[]): Environment {
  const env = newEnvironment();
  const known = new Map<string, string>();
  const nameOf = (part: Type): string => {
    if (part.shape === "list") return `list<${nameOf(part.item)}>`;
    if (part.shape === "map") return `map<string, ${nameOf(part.value)}>`;
    if (part.shape === "leaf") return LEAVES[part.leaf] ?? "dyn";
    if (part.fields.size === 0 || part.keepsUnknown) return "dyn";
    const key = part.name;
    const found = known.get(key);
    if (key !== "" && found !== undefined) return found;
    const name = `Type${known.size}`;
    known.set(key === "" ? name : key, name);
    const fields = Object.fromEntries(
      [...part.fields.values()].map((field) => [identifier(field.name), nameOf(field.type)]),
    );
    env.registerType(name, { fields });
    return name;
  };
  const root = nameOf(type);
  for (const name of names) env.registerVariable(name, root);
  return env;
}

const LEAVES: Readonly<Record<string, string>> = {
  string: "string",
  bytes: "bytes",
  bool: "bool",
  int32: "int",
  int64: "int",
  uint8: "int",
  float64: "double",
  Time: "google.protobuf.Timestamp",
  MicroTime: "google.protobuf.Timestamp",
};

const compare = (a: any, b: any): number => (a < b ? -1 : a > b ? 1 : 0);

/** The functions that Kubernetes adds to the language's own. */
function withLibrary(env: Environment): Environment {
  const sum = (list: readonly any[]): unknown => (list.length === 0 ? 0n : list.reduce((total, item) => total + item));
  const extreme = (list: readonly any[], sign: number): unknown => {
    if (list.length === 0) throw new Error("min/max called on empty list");
    return list.reduce((best, item) => (compare(item, best) * sign > 0 ? item : best));
  };
  return env
    .registerFunction("list.sum(): dyn", sum)
    .registerFunction("list.min(): dyn", (list: readonly unknown[]) => extreme(list, -1))
    .registerFunction("list.max(): dyn", (list: readonly unknown[]) => extreme(list, 1))
    .registerFunction("list.isSorted(): bool", (list: readonly unknown[]) =>
      list.every((item, i) => i === 0 || compare(list[i - 1], item) <= 0),
    )
    .registerFunction("list.indexOf(dyn): int", (list: readonly unknown[], item: unknown) =>
      BigInt(list.findIndex((entry) => comparable(entry) === comparable(item))),
    )
    .registerFunction("list.lastIndexOf(dyn): int", (list: readonly unknown[], item: unknown) =>
      BigInt(list.findLastIndex((entry) => comparable(entry) === comparable(item))),
    )
    .registerFunction(
      "string.find(string): string",
      (text: string, pattern: string) => new RegExp(pattern, "u").exec(text)?.[0] ?? "",
    )
    .registerFunction("string.findAll(string): list<string>", (text: string, pattern: string) =>
      [...text.matchAll(new RegExp(pattern, "gu"))].map(([found]) => found),
    );
}

/** What the language's errors are called in Kubernetes' messages. */
export function compileMessage(error: unknown): string {
  const [text = ""] = errorText(error).split("\n");
  const missing = /^No such key: (.+)$/.exec(text)?.[1];
  if (missing !== undefined) return `compilation failed: ERROR: <input>:1:1: undefined field '${missing}'`;
  const unknown = /^Unknown variable: (.+)$/.exec(text)?.[1];
  if (unknown !== undefined)
    return `compilation failed: ERROR: <input>:1:1: undeclared reference to '${unknown}' (in container '')`;
  const overload = /^no such overload: (\S+) (\S+) (\S+)$/.exec(text);
  if (overload !== null) {
    const [, left, operator, right] = overload;
    return `compilation failed: ERROR: <input>:1:1: found no matching overload for '_${operator}_' applied to '(${left}, ${right})'`;
  }
  if (/^Unexpected|^Expected|Unterminated/.test(text))
    return `compilation failed: ERROR: <input>:1:1: Syntax error: ${text}`;
  return `compilation failed: ERROR: <input>:1:1: ${text}`;
}

const compiled = new WeakMap<Schema, readonly Rule[]>();

function rulesOf(schema: Schema, isRoot: boolean): readonly Rule[] {
  let rules = compiled.get(schema);
  if (rules !== undefined) return rules;
  const sources = schema["x-kubernetes-validations"] ?? [];
  if (sources.length === 0) return [];
  const checker = newEnvironment();
  const type = new TypeNames(checker).of(schema, isRoot);
  checker.registerVariable("self", type).registerVariable("oldSelf", type);
  rules = sources.map((source) => compileRule(checker, source));
  compiled.set(schema, rules);
  return rules;
}

export const newEnvironment = (): Environment =>
  withLibrary(new Environment({ enableOptionalTypes: true, homogeneousAggregateLiterals: false }));
/** Rules run on plain values; what the types say was checked when they were compiled. */
const RUNNER = newEnvironment().registerVariable("self", "dyn").registerVariable("oldSelf", "dyn");

function compileRule(checker: Environment, source: ValidationRule): Rule {
  const isTransition = /\boldSelf\b/.test(source.rule);
  const refused = (error: string): Rule => ({ source, run: undefined, message: undefined, error, isTransition });
  try {
    const { valid, error, type } = checker.parse(source.rule).check();
    if (!valid) return refused(compileMessage(error));
    if (type !== "bool" && type !== "dyn") return refused("cel expression must evaluate to a bool");
    const message = source.messageExpression === undefined ? undefined : RUNNER.parse(source.messageExpression);
    return { source, run: RUNNER.parse(source.rule), message, error: undefined, isTransition };
  } catch (error) {
    return refused(compileMessage(error));
  }
}

/** Whether a schema has rules anywhere. */
export function hasRules(schema: Schema): boolean {
  if ((schema["x-kubernetes-validations"] ?? []).length > 0) return true;
  const others = schema.additionalProperties;
  const inner = [...Object.values(schema.properties ?? {}), ...(schema.items === undefined ? [] : [schema.items])];
  return inner.some(hasRules) || (typeof others === "object" && hasRules(others));
}

/** Rules of a schema that do not compile; `path` is where the schema stands in its definition. */
export function ruleErrors(schema: Schema, path: string, isRoot = true): StatusCause[] {
  const own = rulesOf(schema, isRoot).flatMap((rule, i): StatusCause[] =>
    rule.error === undefined
      ? []
      : [
          {
            reason: "FieldValueInvalid",
            message: `Invalid value: ${JSON.stringify(rule.source)}: ${rule.error}`,
            field: `${path}.x-kubernetes-validations[${i}].rule`,
          },
        ],
  );
  const inner = Object.entries(schema.properties ?? {}).flatMap(([name, member]) =>
    ruleErrors(member, `${path}.properties[${name}]`, false),
  );
  const items = schema.items === undefined ? [] : ruleErrors(schema.items, `${path}.items`, false);
  const others = schema.additionalProperties;
  const values = typeof others === "object" ? ruleErrors(others, `${path}.additionalProperties`, false) : [];
  return [...own, ...inner, ...items, ...values];
}

const REASONS: Readonly<Record<string, string>> = {
  FieldValueRequired: "Required value: ",
  FieldValueForbidden: "Forbidden: ",
  FieldValueDuplicate: "Duplicate value: ",
};

function failure(rule: Rule, schema: Schema, path: string, context: Record<string, unknown>): StatusCause {
  const { source } = rule;
  let message = source.message ?? `failed rule: ${source.rule.trim()}`;
  try {
    const made = rule.message?.(context);
    if (typeof made === "string" && made.trim() !== "") message = made;
  } catch {
    // A message that cannot be made is not the reason why the rule failed: the plain one stands.
  }
  const reason = source.reason ?? "FieldValueInvalid";
  const shown = REASONS[reason] ?? `Invalid value: ${JSON.stringify(schema.type ?? "object")}: `;
  const field = source.fieldPath === undefined ? path : `${path}${source.fieldPath}`.replace(/^\./, "");
  return { reason, message: `${shown}${message}`, field: field === "" ? "<nil>" : field };
}

function checkOwn(value: unknown, old: unknown, schema: Schema, path: string): StatusCause[] {
  const causes: StatusCause[] = [];
  for (const rule of rulesOf(schema, path === "")) {
    if (rule.run === undefined || (rule.isTransition && old === undefined && rule.source.optionalOldSelf !== true))
      continue;
    const context = {
      self: toCel(value, schema, path === ""),
      ...(old === undefined ? {} : { oldSelf: toCel(old, schema, path === "") }),
    };
    try {
      if (rule.run(context) !== true) causes.push(failure(rule, schema, path, context));
    } catch (error) {
      const [text = ""] = errorText(error).split("\n");
      const message = `Invalid value: ${JSON.stringify(schema.type ?? "object")}: rule evaluation error: ${text.replace(/^No such key/, "no such key")}`;
      causes.push({ reason: "FieldValueInvalid", message, field: path === "" ? "<nil>" : path });
    }
  }
  return causes;
}

const itemKey = (item: unknown, keys: readonly string[]): string =>
  JSON.stringify(isObject(item) ? keys.map((key) => item[key]) : item);

function walk(value: unknown, old: unknown, schema: Schema, path: string): StatusCause[] {
  if (value === undefined || value === null) return [];
  const causes = checkOwn(value, old, schema, path);
  if (Array.isArray(value) && schema.items !== undefined) {
    const { items } = schema;
    const keys = schema["x-kubernetes-list-map-keys"];
    // Only items that can be found again have an old self.
    const before = new Map(
      keys !== undefined && Array.isArray(old) ? old.map((item) => [itemKey(item, keys), item]) : [],
    );
    value.forEach((item, i) =>
      causes.push(
        ...walk(item, keys === undefined ? undefined : before.get(itemKey(item, keys)), items, `${path}[${i}]`),
      ),
    );
  } else if (isObject(value)) {
    const others = typeof schema.additionalProperties === "object" ? schema.additionalProperties : undefined;
    for (const [key, member] of Object.entries(value)) {
      const inner = schema.properties?.[key] ?? others;
      if (inner === undefined) continue;
      const at = path === "" ? key : others === undefined ? `${path}.${key}` : `${path}[${key}]`;
      causes.push(...walk(member, isObject(old) ? old[key] : undefined, inner, at));
    }
  }
  return causes;
}

/** The rules of a custom kind that an object breaks; `old` is the object before an update. */
export function checkRules(object: KubeObject, schema: Schema, old: KubeObject | undefined): StatusCause[] {
  return walk(object, old, schema, "");
}
