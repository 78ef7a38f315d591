// What is known of the built-in kinds' types, from Kubernetes itself (facts/types.json): the fields with JSON names, types,
// protobuf numbers, and how lists and maps merge. Custom kinds give the same description of theirs (schema.ts), so that
// server-side apply, strategic merge and decoding are written once.
import { readFileSync } from "node:fs";
import { join } from "node:path";

/** How the elements of a list are told apart: not at all, by value, by the fields `keys`. */
type ListKind = "atomic" | "set" | "map";

export interface ListType {
  readonly shape: "list";
  readonly item: Type;
  readonly list: ListKind;
  readonly keys: readonly string[];
}

interface MapType {
  readonly shape: "map";
  readonly value: Type;
  readonly isAtomic: boolean;
}

export interface StructType {
  readonly shape: "struct";
  /** As in OpenAPI: io.k8s.api.core.v1.Pod. */
  readonly name: string;
  readonly fields: ReadonlyMap<string, Field>;
  /** The same by protobuf number; an embedded struct is one field here. */
  readonly numbers: ReadonlyMap<number, Field>;
  readonly isAtomic: boolean;
  /** Fields that the type does not know are kept (custom kinds only). */
  readonly keepsUnknown: boolean;
}

/** Leaves. `any` is arbitrary JSON; the others are the names of Go's types, or of Kubernetes' types with a form of their own. */
export interface LeafType {
  readonly shape: "leaf";
  readonly leaf: string;
}

export type Type = ListType | MapType | StructType | LeafType;

export interface Field {
  readonly name: string;
  readonly type: Type;
  /** Protobuf number; 0: none. */
  readonly number: number;
  /** Absent and empty differ. */
  readonly isPointer: boolean;
  /** An empty value is left out in JSON. */
  readonly dropsEmpty: boolean;
  readonly isRequired: boolean;
  /** Default that OpenAPI declares (used for the keys of list items). */
  readonly default: unknown;
  /** Strategic merge: `merge`, `replace`, `retainKeys`, joined by commas. */
  readonly strategy: string;
  readonly mergeKey: string | undefined;
  /** An embedded struct: its fields are the outer one's own in JSON, a message of its own in protobuf. */
  readonly isEmbedded: boolean;
}

interface Extra {
  readonly default?: unknown;
  readonly list?: ListKind;
  readonly keys?: readonly string[];
  readonly map?: string;
  readonly strategy?: string;
  readonly mergeKey?: string;
}

type Row = readonly [name: string, type: string, number: number | null, flags: string, extra?: Extra];
type Table = Readonly<Record<string, { readonly atomic?: boolean; readonly fields: readonly Row[] }>>;

const TABLE: Table = JSON.parse(readFileSync(join(import.meta.dirname, "facts/types.json"), "utf8"));

export const META = "io.k8s.apimachinery.pkg.apis.meta.v1";

/** Types whose JSON form is not an object with their fields. */
const SPECIAL = new Set([
  "Time",
  "MicroTime",
  "Quantity",
  "IntOrString",
  "FieldsV1",
  "RawExtension",
  "Duration",
  "JSON",
  "JSONSchemaPropsOrArray",
  "JSONSchemaPropsOrBool",
  "JSONSchemaPropsOrStringArray",
]);

export const leaf = (name: string): LeafType => ({ shape: "leaf", leaf: name });
export const ANY = leaf("any");

const structs = new Map<string, StructType>();

function typeOf(text: string, extra: Extra): Type {
  if (text.startsWith("[]")) {
    const list =
      extra.list ??
      (extra.strategy?.includes("merge") === true ? (extra.mergeKey === undefined ? "set" : "map") : "atomic");
    const keys = extra.keys ?? (extra.mergeKey === undefined ? [] : [extra.mergeKey]);
    return { shape: "list", item: typeOf(text.slice(2), {}), list, keys };
  }
  if (text.startsWith("map:"))
    return { shape: "map", value: typeOf(text.slice(4), {}), isAtomic: extra.map === "atomic" };
  if (!text.includes(".")) return leaf(text);
  const short = text.slice(text.lastIndexOf(".") + 1);
  if (SPECIAL.has(short)) return leaf(short);
  return structType(text, extra.map === "atomic");
}

interface Members {
  readonly fields: ReadonlyMap<string, Field>;
  readonly numbers: ReadonlyMap<number, Field>;
}

/** The fields of a type, those of its embedded structs among them. */
function membersOf(rows: readonly Row[]): Members {
  const fields = new Map<string, Field>();
  const numbers = new Map<number, Field>();
  for (const [name, type, number, flags, extra = {}] of rows) {
    const field: Field = {
      name,
      type: typeOf(type, extra),
      number: number ?? 0,
      isPointer: flags.includes("p"),
      dropsEmpty: flags.includes("z"),
      isRequired: flags.includes("r"),
      default: extra.default,
      strategy: extra.strategy ?? "",
      mergeKey: extra.mergeKey,
      isEmbedded: flags.includes("i"),
    };
    if (field.number > 0) numbers.set(field.number, field);
    if (!field.isEmbedded) fields.set(name, field);
    else if (field.type.shape === "struct")
      for (const inner of field.type.fields.values()) fields.set(inner.name, inner);
  }
  return { fields, numbers };
}

/** The description of a built-in type; it resolves its fields when they are first asked for, as types refer to themselves. */
export function structType(name: string, isAtomic = false): StructType {
  const key = isAtomic ? `${name} atomic` : name;
  let struct = structs.get(key);
  if (struct === undefined) {
    const entry = TABLE[name];
    if (entry === undefined) throw new Error(`no type ${name} in facts/types.json`);
    let members: Members | undefined;
    const resolved = (): Members => {
      members ??= membersOf(entry.fields);
      return members;
    };
    struct = {
      shape: "struct",
      name,
      get fields() {
        return resolved().fields;
      },
      get numbers() {
        return resolved().numbers;
      },
      isAtomic: isAtomic || entry.atomic === true,
      keepsUnknown: false,
    };
    structs.set(key, struct);
  }
  return struct;
}

export function hasType(name: string): boolean {
  return TABLE[name] !== undefined;
}

/** Go's short name of a type, as its error messages show it: v1.Container. */
export function goName(type: Type): string {
  if (type.shape === "list") return `[]${goName(type.item)}`;
  if (type.shape === "map") return `map[string]${goName(type.value)}`;
  if (type.shape === "struct") return type.name.split(".").slice(-2).join(".");
  const names: Readonly<Record<string, string>> = {
    bytes: "[]uint8",
    Quantity: "resource.Quantity",
    IntOrString: "intstr.IntOrString",
  };
  return names[type.leaf] ?? type.leaf;
}
