// Reading objects of the built-in kinds as Kubernetes' Go types do: unknown fields are named, wrong types refused with Go's
// words, and what comes out has the shape that a real server answers: fields in the order of the type, empty values left out
// or present as declared, quantities and times in their canonical form.
import { isObject } from "@lateen/base";
import { canonicalQuantity } from "./quantity.ts";
import { type Field, goName, type LeafType, type StructType, type Type } from "./types.ts";

/** A value of a wrong type. The message is Go's. */
export class WrongType extends Error {}

const QUANTITY_FORM = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$";
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
const INTEGER_LIMITS: Readonly<Record<string, number>> = {
  int32: 2 ** 31,
  int64: 2 ** 63,
  uint32: 2 ** 32,
  uint64: 2 ** 64,
  uint8: 256,
};

interface Position {
  /** The innermost struct, by its type or its name ("": none), and the path of field names from the root. */
  readonly struct: StructType | string;
  readonly path: string;
}

function jsonName(value: unknown): string {
  if (Array.isArray(value)) return "array";
  if (typeof value === "boolean") return "bool";
  return value !== null && typeof value === "object" ? "object" : typeof value;
}

function wrong(value: unknown, type: string, at: Position): WrongType {
  const got = typeof value === "number" && type.includes("int") ? `number ${value}` : jsonName(value);
  // Only here, where something is wrong: every struct of every object passes through the decoder.
  const struct = typeof at.struct === "string" ? at.struct : goName(at.struct).replace(/^v\d+\w*\./, "");
  const where = struct === "" ? "value" : `struct field ${struct}.${at.path}`;
  return new WrongType(`json: cannot unmarshal ${got} into Go ${where} of type ${type}`);
}

function readTime(value: unknown, at: Position, isMicro: boolean): string {
  if (typeof value !== "string") throw wrong(value, isMicro ? "v1.MicroTime" : "string", at);
  const form = isMicro ? "2006-01-02T15:04:05.000000Z07:00" : "2006-01-02T15:04:05Z07:00";
  const match = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(\d+))?(?:Z|[+-]\d\d:\d\d)$/.exec(value);
  const date = new Date(value);
  if (match === null || Number.isNaN(date.getTime()))
    throw new WrongType(
      `parsing time ${JSON.stringify(value)} as "${form}": cannot parse ${JSON.stringify(value)} as "2006"`,
    );
  const seconds = date.toISOString().slice(0, 19);
  return isMicro ? `${seconds}.${(match[1] ?? "").padEnd(6, "0").slice(0, 6)}Z` : `${seconds}Z`;
}

function readNumber(value: unknown, type: string, at: Position): number {
  if (typeof value !== "number") throw wrong(value, type, at);
  const limit = INTEGER_LIMITS[type];
  if (limit !== undefined && (!Number.isInteger(value) || value >= limit || value < -limit))
    throw wrong(value, type, at);
  return value;
}

function readLeaf(value: unknown, type: LeafType, at: Position): unknown {
  switch (type.leaf) {
    case "string":
      if (typeof value !== "string") throw wrong(value, "string", at);
      return value;
    case "bool":
      if (typeof value !== "boolean") throw wrong(value, "bool", at);
      return value;
    case "bytes": {
      if (typeof value !== "string") throw wrong(value, "[]uint8", at);
      const text = value.replaceAll(/[\r\n]/g, "");
      if (!BASE64.test(text)) throw new WrongType(`illegal base64 data at input byte ${firstWrongByte(text)}`);
      return text;
    }
    case "Time":
      return readTime(value, at, false);
    case "MicroTime":
      return readTime(value, at, true);
    case "Quantity": {
      const isText = typeof value === "string" || typeof value === "number";
      const canonical = isText ? canonicalQuantity(value) : undefined;
      if (canonical === undefined)
        throw new WrongType(`quantities must match the regular expression '${QUANTITY_FORM}'`);
      return canonical;
    }
    case "IntOrString":
      if (typeof value === "string") return value;
      return readNumber(value, "int32", at);
    case "Duration":
      if (typeof value !== "string") throw wrong(value, "string", at);
      return value;
    case "any":
    case "RawExtension":
    case "FieldsV1":
    case "JSON":
    case "JSONSchemaPropsOrArray":
    case "JSONSchemaPropsOrBool":
    case "JSONSchemaPropsOrStringArray":
      return value;
    default:
      return readNumber(value, type.leaf, at);
  }
}

function firstWrongByte(text: string): number {
  const at = text.search(/[^A-Za-z0-9+/]/);
  return at < 0 ? text.length - (text.length % 4) : at;
}

export class Decoder {
  /** Paths of fields that the type does not know. */
  readonly unknown: string[] = [];

  /** The value in the form of its type; throws WrongType. `path` is how messages name it. */
  read(value: unknown, type: Type, path: string, at: Position): unknown {
    if (type.shape === "struct") {
      if (!isObject(value)) throw wrong(value, goName(type), at);
      return this.#struct(value, type, path, at.path);
    }
    if (type.shape === "list") {
      if (!Array.isArray(value)) throw wrong(value, goName(type), at);
      return value.map((item, i) =>
        item === null ? emptyOf(type.item) : this.read(item, type.item, `${path}[${i}]`, at),
      );
    }
    if (type.shape === "map") {
      if (!isObject(value)) throw wrong(value, goName(type), at);
      const entries = Object.keys(value).map((key) => {
        const member = value[key];
        return [
          key,
          member === null ? emptyOf(type.value) : this.read(member, type.value, `${path}.${key}`, at),
        ] as const;
      });
      // Go writes maps in the order of their keys.
      return Object.fromEntries(entries.toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
    }
    return readLeaf(value, type, at);
  }

  #struct(value: Record<string, unknown>, type: StructType, path: string, fieldPath: string): Record<string, unknown> {
    for (const key of Object.keys(value))
      if (!type.fields.has(key)) this.unknown.push(path === "" ? key : `${path}.${key}`);
    const result: Record<string, unknown> = {};
    for (const field of type.fields.values()) {
      const given = value[field.name];
      const inner = fieldPath === "" ? field.name : `${fieldPath}.${field.name}`;
      const read =
        given === undefined || given === null
          ? undefined
          : this.read(given, field.type, path === "" ? field.name : `${path}.${field.name}`, {
              struct: type,
              path: inner,
            });
      const shown = shownValue(read, field);
      if (shown !== undefined) result[field.name] = shown;
    }
    return result;
  }
}

/** What Go makes of a null where a value must be. */
function emptyOf(type: Type): unknown {
  if (type.shape === "struct") {
    const result: Record<string, unknown> = {};
    for (const field of type.fields.values()) {
      const shown = shownValue(undefined, field);
      if (shown !== undefined) result[field.name] = shown;
    }
    return result;
  }
  if (type.shape !== "leaf") return null;
  if (type.leaf === "string" || type.leaf === "bytes" || type.leaf === "Duration") return "";
  if (type.leaf === "bool") return false;
  if (type.leaf === "Quantity") return "0";
  return type.leaf.includes("int") || type.leaf.includes("float") || type.leaf === "IntOrString" ? 0 : null;
}

function isEmptyValue(value: unknown): boolean {
  if (value === undefined || value === null || value === "" || value === 0 || value === false) return true;
  return typeof value === "object" && Object.keys(value).length === 0;
}

/** What JSON shows of a field with this value; undefined: nothing. */
export function shownValue(value: unknown, field: Field): unknown {
  if (field.isPointer) return value ?? (field.dropsEmpty ? undefined : null);
  if (field.dropsEmpty) {
    if (field.type.shape === "leaf" && field.type.leaf === "IntOrString") return value;
    return isEmptyValue(value) ? undefined : value;
  }
  return value ?? emptyOf(field.type);
}
