// The types of custom kinds, read from their structural schemas, in the same terms as those of the built-in kinds.
import type { Schema } from "./custom.ts";
import { ANY, type Field, leaf, META, structType, type Type } from "./types.ts";

const field = (name: string, type: Type, rest: Partial<Field> = {}): Field => ({
  name,
  type,
  number: 0,
  isPointer: true,
  dropsEmpty: true,
  isRequired: false,
  default: undefined,
  strategy: "",
  mergeKey: undefined,
  isEmbedded: false,
  ...rest,
});

/** The type that a structural schema describes. Lists are atomic and maps granular unless the schema says otherwise. */
function schemaType(schema: Schema): Type {
  if (schema["x-kubernetes-int-or-string"] === true) return leaf("IntOrString");
  if (schema.type === "array") {
    const list = schema["x-kubernetes-list-type"] ?? "atomic";
    const item = schema.items === undefined ? ANY : schemaType(schema.items);
    return { shape: "list", item, list, keys: schema["x-kubernetes-list-map-keys"] ?? [] };
  }
  const isAtomic = schema["x-kubernetes-map-type"] === "atomic";
  if (schema["x-kubernetes-embedded-resource"] === true) return rootType(schema, "");
  if (schema.properties !== undefined) {
    const fields = new Map(
      Object.entries(schema.properties).map(([name, member]) => [
        name,
        field(name, schemaType(member), { default: member.default }),
      ]),
    );
    const keepsUnknown = schema["x-kubernetes-preserve-unknown-fields"] === true;
    return { shape: "struct", name: "", fields, numbers: new Map(), isAtomic, keepsUnknown };
  }
  if (typeof schema.additionalProperties === "object")
    return { shape: "map", value: schemaType(schema.additionalProperties), isAtomic };
  if (schema.type === "object" || schema.type === undefined)
    return isAtomic ? { shape: "map", value: ANY, isAtomic: true } : ANY;
  return leaf(
    schema.type === "integer"
      ? "int64"
      : schema.type === "number"
        ? "float64"
        : schema.type === "boolean"
          ? "bool"
          : "string",
  );
}

/** The type of a whole custom object: its schema with apiVersion, kind and metadata. */
export function rootType(schema: Schema, name: string): Type {
  const text = leaf("string");
  const own = schema.properties === undefined ? [] : Object.entries(schema.properties);
  const fields = new Map<string, Field>([
    ["apiVersion", field("apiVersion", text)],
    ["kind", field("kind", text)],
    ["metadata", field("metadata", structType(`${META}.ObjectMeta`))],
  ]);
  for (const [key, member] of own)
    if (!fields.has(key)) fields.set(key, field(key, schemaType(member), { default: member.default }));
  const keepsUnknown = schema["x-kubernetes-preserve-unknown-fields"] === true;
  return { shape: "struct", name, fields, numbers: new Map(), isAtomic: false, keepsUnknown };
}
