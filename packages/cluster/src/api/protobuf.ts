// Protobuf bodies: typed Kubernetes clients send `k8s\0`, a runtime.Unknown, and in it the object's message. Decoded by the
// field numbers of the types into the same JSON form as a JSON body has.

import { shownValue } from "./decode.ts";
import { badRequest } from "./errors.ts";
import { type Field, type StructType, structType, type Type } from "./types.ts";

class Reader {
  readonly bytes: Uint8Array;
  at = 0;
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  get done(): boolean {
    return this.at >= this.bytes.length;
  }

  varint(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.bytes[this.at++];
      if (byte === undefined) break;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return BigInt.asUintN(64, value);
    }
    throw badRequest("the protobuf body is cut short");
  }

  chunk(): Uint8Array {
    const length = Number(this.varint());
    const end = this.at + length;
    if (end > this.bytes.length) throw badRequest("the protobuf body is cut short");
    const part = this.bytes.subarray(this.at, end);
    this.at = end;
    return part;
  }

  double(): number {
    if (this.at + 8 > this.bytes.length) throw badRequest("the protobuf body is cut short");
    const view = new DataView(this.bytes.buffer, this.bytes.byteOffset + this.at, 8);
    this.at += 8;
    return view.getFloat64(0, true);
  }

  skip(wire: number): void {
    if (wire === 0) this.varint();
    else if (wire === 1) this.at += 8;
    else if (wire === 2) this.chunk();
    else if (wire === 5) this.at += 4;
    else throw badRequest(`the protobuf body has wire type ${wire}`);
  }
}

const utf8 = new TextDecoder();

/** The fields of a small message by number: varints as numbers, the rest as bytes. */
function plainFields(bytes: Uint8Array): Map<number, number | Uint8Array> {
  const reader = new Reader(bytes);
  const fields = new Map<number, number | Uint8Array>();
  while (!reader.done) {
    const tag = Number(reader.varint());
    if ((tag & 7) === 0) fields.set(tag >> 3, Number(BigInt.asIntN(64, reader.varint())));
    else if ((tag & 7) === 2) fields.set(tag >> 3, reader.chunk());
    else reader.skip(tag & 7);
  }
  return fields;
}

const textOf = (value: number | Uint8Array | undefined): string =>
  value instanceof Uint8Array ? utf8.decode(value) : "";
const jsonOf = (value: number | Uint8Array | undefined): unknown => {
  const text = textOf(value);
  if (text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch {
    throw badRequest("the protobuf body holds JSON that is not valid");
  }
};

/** Types that are messages in protobuf and something else in JSON. */
function readSpecial(leaf: string, bytes: Uint8Array): unknown {
  const fields = plainFields(bytes);
  switch (leaf) {
    case "Time":
    case "MicroTime": {
      if (fields.size === 0) return undefined;
      const nanos = Number(fields.get(2) ?? 0);
      const date = new Date(Number(fields.get(1) ?? 0) * 1000);
      if (Number.isNaN(date.getTime())) throw badRequest("the protobuf body holds a time that is none");
      const seconds = date.toISOString().slice(0, 19);
      return leaf === "Time" ? `${seconds}Z` : `${seconds}.${String(Math.floor(nanos / 1000)).padStart(6, "0")}Z`;
    }
    case "Quantity":
      return textOf(fields.get(1)) || "0";
    case "IntOrString":
      return fields.get(1) === 1 ? textOf(fields.get(3)) : Number(fields.get(2) ?? 0);
    case "Duration":
      return `${Number(fields.get(1) ?? 0) / 1e9}s`;
    case "JSONSchemaPropsOrBool":
      return fields.get(2) === undefined ? fields.get(1) === 1 : schemaOf(fields.get(2));
    case "JSONSchemaPropsOrArray":
      return fields.get(1) === undefined ? [] : schemaOf(fields.get(1));
    case "JSONSchemaPropsOrStringArray":
      return fields.get(1) === undefined ? repeatedTexts(bytes) : schemaOf(fields.get(1));
    default:
      // RawExtension, FieldsV1, JSON: the JSON text itself.
      return jsonOf(fields.get(1));
  }
}

const SCHEMA = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
const schemaOf = (value: number | Uint8Array | undefined): unknown =>
  value instanceof Uint8Array ? readMessage(new Reader(value), structType(SCHEMA)) : {};

/** The texts of a message with one repeated string field. */
function repeatedTexts(bytes: Uint8Array): string[] {
  const reader = new Reader(bytes);
  const texts: string[] = [];
  while (!reader.done) {
    const tag = Number(reader.varint());
    if ((tag & 7) === 2) texts.push(utf8.decode(reader.chunk()));
    else reader.skip(tag & 7);
  }
  return texts;
}

function readValue(reader: Reader, type: Type): unknown {
  if (type.shape === "struct") return readMessage(new Reader(reader.chunk()), type);
  if (type.shape !== "leaf") throw badRequest("the protobuf body nests lists");
  switch (type.leaf) {
    case "string":
      return utf8.decode(reader.chunk());
    case "bytes":
      return Buffer.from(reader.chunk()).toString("base64");
    case "bool":
      return reader.varint() !== 0n;
    case "float64":
      return reader.double();
    case "int32":
    case "int64":
    case "uint8":
    case "uint32":
    case "uint64":
      return Number(BigInt.asIntN(64, reader.varint()));
    default:
      return readSpecial(type.leaf, reader.chunk());
  }
}

function readEntry(bytes: Uint8Array, type: Type): readonly [string, unknown] {
  const entry = new Reader(bytes);
  let key = "";
  let value: unknown;
  while (!entry.done) {
    const tag = Number(entry.varint());
    if (tag >> 3 === 1) key = utf8.decode(entry.chunk());
    // A map of lists is a map of messages with one repeated field.
    else if (type.shape === "list") value = repeatedTexts(entry.chunk());
    else value = readValue(entry, type);
  }
  return [key, value ?? (type.shape === "leaf" && (type.leaf === "string" || type.leaf === "bytes") ? "" : {})];
}

function readField(reader: Reader, field: Field, raw: Map<string, unknown>): void {
  const { name, type } = field;
  if (field.isEmbedded && type.shape === "struct") {
    for (const [key, value] of readRaw(new Reader(reader.chunk()), type)) raw.set(key, value);
  } else if (type.shape === "map") {
    const map = (raw.get(name) ?? {}) as Record<string, unknown>;
    const [key, value] = readEntry(reader.chunk(), type.value);
    Object.defineProperty(map, key, { value, enumerable: true, configurable: true, writable: true });
    raw.set(name, map);
  } else if (type.shape === "list") {
    const list = (raw.get(name) ?? []) as unknown[];
    list.push(readValue(reader, type.item));
    raw.set(name, list);
  } else raw.set(name, readValue(reader, type));
}

function readRaw(reader: Reader, type: StructType): Map<string, unknown> {
  const raw = new Map<string, unknown>();
  while (!reader.done) {
    const tag = Number(reader.varint());
    const field = type.numbers.get(tag >> 3);
    if (field === undefined) reader.skip(tag & 7);
    else readField(reader, field, raw);
  }
  return raw;
}

function readMessage(reader: Reader, type: StructType): Record<string, unknown> {
  const raw = readRaw(reader, type);
  const result: Record<string, unknown> = {};
  for (const field of type.fields.values()) {
    const shown = shownValue(raw.get(field.name), field);
    if (shown !== undefined) result[field.name] = shown;
  }
  return result;
}

/**
 * Decodes a Kubernetes protobuf body. `typeFor` names the type of an apiVersion and kind. Throws 400 for what is none.
 */
export function decodeProtobuf(
  body: Uint8Array,
  typeFor: (apiVersion: string, kind: string) => StructType | undefined,
): Record<string, unknown> {
  if (Buffer.from(body.subarray(0, 4)).toString("latin1") !== "k8s\0")
    throw badRequest("the body does not start with the protobuf magic number");
  const unknown = plainFields(body.subarray(4));
  const typeMeta = unknown.get(1);
  const raw = unknown.get(2);
  const names = typeMeta instanceof Uint8Array ? plainFields(typeMeta) : new Map<number, never>();
  const [apiVersion, kind] = [textOf(names.get(1)), textOf(names.get(2))];
  const type = typeFor(apiVersion, kind);
  if (type === undefined) throw badRequest(`no kind "${kind}" is registered for version "${apiVersion}"`);
  return { ...readMessage(new Reader(raw instanceof Uint8Array ? raw : new Uint8Array()), type), kind, apiVersion };
}
