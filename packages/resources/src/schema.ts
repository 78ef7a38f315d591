// Combinators: one description of a value gives its TypeScript type, a parser that reports mistakes with their field path,
// and the structural OpenAPI schema for the CustomResourceDefinition.
import { isObject, parseDurationMs } from "@lateen/base";

/** The OpenAPI subset of apiextensions/v1. */
export interface OpenApi {
  readonly type?: string;
  readonly format?: string;
  readonly description?: string;
  readonly properties?: Readonly<Record<string, OpenApi>>;
  readonly additionalProperties?: OpenApi;
  readonly items?: OpenApi;
  readonly required?: readonly string[];
  readonly enum?: readonly string[];
  readonly pattern?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minItems?: number;
  readonly minLength?: number;
  readonly oneOf?: readonly OpenApi[];
  readonly "x-kubernetes-preserve-unknown-fields"?: boolean;
}

/** Called for each mistake with the path of the field and what is wrong with it. */
type Report = (path: string, message: string) => void;

/** A described type. `parse` returns undefined only after it has reported why. */
export interface Schema<T> {
  readonly parse: (value: unknown, path: string, report: Report) => T | undefined;
  readonly openApi: OpenApi;
}

/** The type that a schema describes. */
export type Infer<S> = S extends Schema<infer T> ? T : never;

/** A member of an object that may be absent. */
export interface Optional<T> {
  readonly schema: Schema<T>;
  readonly isOptional: true;
}

type Fields = Readonly<Record<string, Schema<unknown> | Optional<unknown>>>;
type RequiredKeys<F extends Fields> = { [K in keyof F]: F[K] extends Optional<unknown> ? never : K }[keyof F];
type OptionalKeys<F extends Fields> = { [K in keyof F]: F[K] extends Optional<unknown> ? K : never }[keyof F];
type ObjectOf<F extends Fields> = { readonly [K in RequiredKeys<F>]: Infer<F[K]> } & {
  readonly [K in OptionalKeys<F>]?: F[K] extends Optional<infer T> ? T : never;
};

const nameOf = (value: unknown): string =>
  value === null
    ? "null"
    : Array.isArray(value)
      ? "a list"
      : typeof value === "object"
        ? "an object"
        : `a ${typeof value}`;

/** `schema` with a sentence for documentation. */
export function described<T>(description: string, schema: Schema<T>): Schema<T> {
  return { ...schema, openApi: { ...schema.openApi, description } };
}

export function optional<T>(schema: Schema<T>): Optional<T> {
  return { schema, isOptional: true };
}

/** Adds a rule that the type cannot say. `check` returns what is wrong: [path below this value, message]. */
export function refine<T>(
  schema: Schema<T>,
  check: (value: T) => readonly (readonly [path: string, message: string])[],
): Schema<T> {
  return {
    openApi: schema.openApi,
    parse: (value, path, report) => {
      const parsed = schema.parse(value, path, report);
      if (parsed === undefined) return undefined;
      const wrong = check(parsed);
      for (const [below, message] of wrong)
        report(below === "" ? path : below.startsWith("[") ? `${path}${below}` : `${path}.${below}`, message);
      return wrong.length === 0 ? parsed : undefined;
    },
  };
}

function scalar<T>(openApi: OpenApi, wanted: string, accepts: (value: unknown) => value is T): Schema<T> {
  return {
    openApi,
    parse: (value, path, report) => {
      if (accepts(value)) return value;
      report(path, `must be ${wanted}, not ${nameOf(value)}`);
      return undefined;
    },
  };
}

export const text: Schema<string> = scalar({ type: "string" }, "a string", (value) => typeof value === "string");
export const flag: Schema<boolean> = scalar(
  { type: "boolean" },
  "true or false",
  (value) => typeof value === "boolean",
);

export const nonEmpty: Schema<string> = {
  openApi: { type: "string", minLength: 1 },
  parse: (value, path, report) => {
    const parsed = text.parse(value, path, report);
    if (parsed !== "") return parsed;
    report(path, "must not be empty");
    return undefined;
  },
};

export function integer(minimum: number, maximum: number): Schema<number> {
  return refine(
    scalar({ type: "integer", minimum, maximum }, "a whole number", (value): value is number =>
      Number.isInteger(value),
    ),
    (value) =>
      value >= minimum && value <= maximum ? [] : [["", `must be between ${minimum} and ${maximum}, not ${value}`]],
  );
}

/** A percentage with fractions. */
export const percent: Schema<number> = refine(
  scalar(
    { type: "number", format: "double", minimum: 0, maximum: 100 },
    "a number",
    (value): value is number => typeof value === "number",
  ),
  (value) => (value >= 0 && value <= 100 ? [] : [["", `must be between 0 and 100, not ${value}`]]),
);

/** A duration as Go writes it; milliseconds when parsed. At least 1 ms. */
export const duration: Schema<number> = {
  openApi: { type: "string" },
  parse: (value, path, report) => {
    const milliseconds = typeof value === "string" ? parseDurationMs(value) : undefined;
    if (milliseconds !== undefined && milliseconds >= 1) return milliseconds;
    report(path, `must be a duration of at least 1ms such as "5s" or "250ms", not ${JSON.stringify(value)}`);
    return undefined;
  },
};

export function oneOfTexts<const V extends readonly string[]>(...values: V): Schema<V[number]> {
  return {
    openApi: { type: "string", enum: values },
    parse: (value, path, report) => {
      const found = values.find((entry) => entry === value);
      if (found === undefined) report(path, `must be one of ${values.join(", ")}, not ${JSON.stringify(value)}`);
      return found;
    },
  };
}

export function listOf<T>(item: Schema<T>, options: { readonly minItems?: number } = {}): Schema<readonly T[]> {
  const { minItems } = options;
  return {
    openApi: { type: "array", items: item.openApi, ...(minItems === undefined ? {} : { minItems }) },
    parse: (value, path, report) => {
      if (!Array.isArray(value)) {
        report(path, `must be a list, not ${nameOf(value)}`);
        return undefined;
      }
      if (minItems !== undefined && value.length < minItems) {
        report(path, minItems === 1 ? "must not be empty" : `must have at least ${minItems} entries`);
        return undefined;
      }
      const items = value.map((entry, i) => item.parse(entry, `${path}[${i}]`, report));
      return items.includes(undefined) ? undefined : (items as T[]);
    },
  };
}

export function mapOf<T>(item: Schema<T>): Schema<Readonly<Record<string, T>>> {
  return {
    openApi: { type: "object", additionalProperties: item.openApi },
    parse: (value, path, report) => {
      if (!isObject(value)) {
        report(path, `must be an object, not ${nameOf(value)}`);
        return undefined;
      }
      const entries = Object.entries(value).map(
        ([key, member]) => [key, item.parse(member, `${path}[${JSON.stringify(key)}]`, report)] as const,
      );
      return entries.some(([, member]) => member === undefined)
        ? undefined
        : (Object.fromEntries(entries) as Record<string, T>);
    },
  };
}

const isOptional = (field: Schema<unknown> | Optional<unknown>): field is Optional<unknown> => "isOptional" in field;
const schemaOf = (field: Schema<unknown> | Optional<unknown>): Schema<unknown> =>
  isOptional(field) ? field.schema : field;

function objectOpenApi(fields: Fields): OpenApi {
  const properties = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, schemaOf(field).openApi]));
  const required = Object.entries(fields)
    .filter(([, field]) => !isOptional(field))
    .map(([name]) => name);
  return { type: "object", properties, ...(required.length > 0 ? { required } : {}) };
}

function parseFields(
  fields: Fields,
  value: Record<string, unknown>,
  path: string,
  report: Report,
): Record<string, unknown> | undefined {
  const result: Record<string, unknown> = {};
  let isGood = true;
  for (const [name, field] of Object.entries(fields)) {
    const at = path === "" ? name : `${path}.${name}`;
    const member = value[name];
    if (member === undefined || member === null) {
      if (!isOptional(field)) {
        report(at, "is required");
        isGood = false;
      }
      continue;
    }
    const parsed = schemaOf(field).parse(member, at, report);
    if (parsed === undefined) isGood = false;
    else result[name] = parsed;
  }
  return isGood ? result : undefined;
}

/** An object with exactly these fields: others are mistakes. */
export function object<F extends Fields>(fields: F): Schema<ObjectOf<F>> {
  return {
    openApi: objectOpenApi(fields),
    parse: (value, path, report) => {
      if (!isObject(value)) {
        report(path, `must be an object, not ${nameOf(value)}`);
        return undefined;
      }
      const unknown = Object.keys(value).filter((key) => !(key in fields) && value[key] !== undefined);
      for (const key of unknown) report(path === "" ? key : `${path}.${key}`, "is not a known field");
      const parsed = parseFields(fields, value, path, report);
      return unknown.length === 0 ? (parsed as ObjectOf<F> | undefined) : undefined;
    },
  };
}

/** An object of which only these fields matter here; what else it has is somebody else's business (Kubernetes' own kinds). */
export function openObject<F extends Fields>(fields: F): Schema<ObjectOf<F>> {
  return {
    openApi: { ...objectOpenApi(fields), "x-kubernetes-preserve-unknown-fields": true },
    parse: (value, path, report) => {
      if (isObject(value)) return parseFields(fields, value, path, report) as ObjectOf<F> | undefined;
      report(path, `must be an object, not ${nameOf(value)}`);
      return undefined;
    },
  };
}

/** An object with exactly one of these fields. */
export function exactlyOne<F extends Fields>(fields: F): Schema<ObjectOf<F>> {
  const names = Object.keys(fields);
  const base = refine(object(fields), (value) => {
    const given = names.filter((name) => (value as Record<string, unknown>)[name] !== undefined);
    return given.length === 1 ? [] : [["", `must have exactly one of ${names.join(", ")}`]];
  });
  return { ...base, openApi: { ...base.openApi, oneOf: names.map((name) => ({ required: [name] })) } };
}
