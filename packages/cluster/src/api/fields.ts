// What is known of the built-in kinds' messages: field names, numbers and types, from Kubernetes' generated.proto files.
// Two uses: typed clients send protobuf bodies (decodeProtobuf), and every body is checked for unknown fields and wrong
// types (checkFields). protobuf-fields.json maps message -> field number -> [name, type].
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { isObject } from "@lateen/base";
import { badRequest } from "./errors.ts";

type FieldTable = Readonly<Record<string, Readonly<Record<string, readonly [name: string, type: string]>>>>;

const TABLE: FieldTable = JSON.parse(readFileSync(join(import.meta.dirname, "protobuf-fields.json"), "utf8"));
const META = "k8s.io.apimachinery.pkg.apis.meta.v1";
const TIME_TYPES = new Set([`${META}.Time`, `${META}.MicroTime`]);
const SCALARS = new Set(["string", "bytes", "bool", "int32", "int64", "uint32", "uint64", "double"]);

/** Structs that Go embeds: a field of their own in protobuf, their members one level up in JSON. */
const EMBEDDED = new Set(
  "volumeSource handler localObjectReference ephemeralContainerCommon persistentVolumeSource rule ruleWithOperations".split(
    " ",
  ),
);

/** Field types of a message by JSON name, built when first needed. */
const byName = new Map<string, ReadonlyMap<string, string>>();
function fieldsOf(message: string): ReadonlyMap<string, string> {
  let fields = byName.get(message);
  if (fields === undefined) {
    const entries = Object.values(TABLE[message] ?? {});
    fields = new Map(
      entries.flatMap(([name, type]) =>
        EMBEDDED.has(name) && !SCALARS.has(type) ? [...fieldsOf(type)] : [[name, type] as const],
      ),
    );
    byName.set(message, fields);
  }
  return fields;
}

/**
 * Go sends every field that is not a pointer, set or not; JSON leaves the empty ones out. Empty strings never mean more
 * than absent; of numbers and booleans only these are not pointers.
 */
const ZERO_IS_ABSENT = new Set(
  (
    "hostPort initialDelaySeconds timeoutSeconds periodSeconds successThreshold failureThreshold weight nodePort " +
    "generation observedGeneration minReadySeconds hostNetwork hostPID hostIPC stdin stdinOnce tty " +
    "paused readOnly publishNotReadyAddresses count ready unavailableReplicas"
  ).split(" "),
);

const mapValueType = (type: string): string | undefined => /^map<string,(.+)>$/.exec(type)?.[1];

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

  skip(wire: number): void {
    if (wire === 0) this.varint();
    else if (wire === 1) this.at += 8;
    else if (wire === 2) this.chunk();
    else if (wire === 5) this.at += 4;
    else throw badRequest(`the protobuf body has wire type ${wire}`);
  }
}

const text = new TextDecoder();

function readScalar(reader: Reader, type: string): unknown {
  switch (type) {
    case "string":
      return text.decode(reader.chunk());
    case "bytes":
      return Buffer.from(reader.chunk()).toString("base64");
    case "bool":
      return reader.varint() !== 0n;
    case "double": {
      const view = new DataView(reader.bytes.buffer, reader.bytes.byteOffset + reader.at, 8);
      reader.at += 8;
      return view.getFloat64(0, true);
    }
    default:
      return Number(BigInt.asIntN(64, reader.varint()));
  }
}

/** Messages whose JSON form is not an object with their fields. */
function readSpecial(type: string, bytes: Uint8Array): unknown {
  if (TIME_TYPES.has(type)) {
    const time = readMessage(bytes, type);
    if (time["seconds"] === undefined && time["nanos"] === undefined) return null;
    const date = new Date(Number(time["seconds"] ?? 0) * 1000 + Math.floor(Number(time["nanos"] ?? 0) / 1e6));
    const iso = date.toISOString();
    if (type.endsWith("MicroTime")) {
      const micros = String(Math.floor(Number(time["nanos"] ?? 0) / 1000)).padStart(6, "0");
      return `${iso.slice(0, 19)}.${micros}Z`;
    }
    return `${iso.slice(0, 19)}Z`;
  }
  if (type === "k8s.io.apimachinery.pkg.api.resource.Quantity") return readMessage(bytes, type)["string"] ?? "0";
  if (type === "k8s.io.apimachinery.pkg.util.intstr.IntOrString") {
    const value = readMessage(bytes, type);
    return value["type"] === 1 ? (value["strVal"] ?? "") : (value["intVal"] ?? 0);
  }
  if (type === `${META}.FieldsV1`) {
    const raw = readMessage(bytes, type)["Raw"];
    return typeof raw === "string" ? JSON.parse(Buffer.from(raw, "base64").toString("utf8")) : {};
  }
  if (type.endsWith("runtime.RawExtension")) {
    const raw = readMessage(bytes, type)["raw"];
    return typeof raw === "string" ? JSON.parse(Buffer.from(raw, "base64").toString("utf8")) : null;
  }
  return undefined;
}

function readValue(reader: Reader, type: string): unknown {
  if (SCALARS.has(type)) return readScalar(reader, type);
  const bytes = reader.chunk();
  const special = readSpecial(type, bytes);
  return special === undefined ? readMessage(bytes, type) : special;
}

function readMessage(bytes: Uint8Array, message: string): Record<string, unknown> {
  const fields = TABLE[message];
  if (fields === undefined) throw badRequest(`protobuf message ${message} is not known`);
  const reader = new Reader(bytes);
  const value: Record<string, unknown> = {};
  while (!reader.done) {
    const tag = Number(reader.varint());
    const field = fields[String(tag >> 3)];
    if (field === undefined) {
      reader.skip(tag & 7);
      continue;
    }
    const [name, type] = field;
    const valueType = mapValueType(type);
    if (valueType !== undefined) {
      const entry = new Reader(reader.chunk());
      let key = "";
      let item: unknown = valueType === "string" || valueType === "bytes" ? "" : {};
      while (!entry.done) {
        const entryTag = Number(entry.varint());
        if (entryTag >> 3 === 1) key = text.decode(entry.chunk());
        else item = readValue(entry, valueType);
      }
      value[name] = { ...(value[name] as Record<string, unknown> | undefined), [key]: item };
    } else if (type.endsWith("[]")) {
      const items = (value[name] ??= []) as unknown[];
      items.push(readValue(reader, type.slice(0, -2)));
    } else {
      const item = readValue(reader, type);
      if (EMBEDDED.has(name) && isObject(item)) Object.assign(value, item);
      else if (item !== null && item !== "" && !((item === 0 || item === false) && ZERO_IS_ABSENT.has(name))) {
        value[name] = item;
      }
    }
  }
  return value;
}

/**
 * Decodes a Kubernetes protobuf body: `k8s\0` and a runtime.Unknown around the object's message.
 * `messageFor` names the message of an apiVersion and kind.
 */
export function decodeProtobuf(
  body: Uint8Array,
  messageFor: (apiVersion: string, kind: string) => string | undefined,
): Record<string, unknown> {
  if (Buffer.from(body.subarray(0, 4)).toString("latin1") !== "k8s\0") {
    throw badRequest("the body does not start with the protobuf magic number");
  }
  const unknown = new Reader(body.subarray(4));
  let apiVersion = "";
  let kind = "";
  let raw: Uint8Array = new Uint8Array();
  while (!unknown.done) {
    const tag = Number(unknown.varint());
    if (tag >> 3 === 1) {
      const typeMeta = new Reader(unknown.chunk());
      while (!typeMeta.done) {
        const field = Number(typeMeta.varint()) >> 3;
        const value = text.decode(typeMeta.chunk());
        if (field === 1) apiVersion = value;
        else kind = value;
      }
    } else if (tag >> 3 === 2) raw = unknown.chunk();
    else unknown.skip(tag & 7);
  }
  const message = messageFor(apiVersion, kind);
  if (message === undefined) throw badRequest(`no kind "${kind}" is registered for version "${apiVersion}"`);
  const value = readMessage(raw, message);
  return { kind, apiVersion, ...value };
}

/** Message of an object that may come as a protobuf body without being a served kind. */
export function auxiliaryMessage(kind: string): string | undefined {
  if (kind === "DeleteOptions") return `${META}.DeleteOptions`;
  if (kind === "Scale") return "k8s.io.api.autoscaling.v1.Scale";
  if (kind === "TokenRequest") return "k8s.io.api.authentication.v1.TokenRequest";
  return undefined;
}

const SCALAR_CHECKS: Readonly<Record<string, (value: unknown) => boolean>> = {
  string: (value) => typeof value === "string",
  bytes: (value) => typeof value === "string",
  bool: (value) => typeof value === "boolean",
};

function wrongType(path: string, value: unknown, expected: string): string {
  const got = value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
  return `json: cannot unmarshal ${got} into Go struct field ${path} of type ${expected}`;
}

function checkValue(value: unknown, type: string, path: string, unknown: string[], wrong: string[]): void {
  const item = mapValueType(type);
  if (item !== undefined) {
    if (!isObject(value)) wrong.push(wrongType(path, value, `map[string]${item}`));
    else for (const key of Object.keys(value)) checkValue(value[key], item, `${path}.${key}`, unknown, wrong);
  } else if (type.endsWith("[]")) {
    if (!Array.isArray(value)) wrong.push(wrongType(path, value, `[]${type.slice(0, -2)}`));
    else value.forEach((entry, i) => checkValue(entry, type.slice(0, -2), `${path}[${i}]`, unknown, wrong));
  } else if (SCALARS.has(type)) {
    const check = SCALAR_CHECKS[type] ?? ((entry: unknown) => typeof entry === "number");
    if (!check(value)) wrong.push(wrongType(path, value, type));
  } else if (type.endsWith(".Quantity") || type.endsWith(".IntOrString")) {
    if (typeof value !== "string" && typeof value !== "number") wrong.push(wrongType(path, value, type));
  } else if (TIME_TYPES.has(type)) {
    if (typeof value !== "string") wrong.push(wrongType(path, value, "Time"));
  } else if (!isFreeForm(type)) {
    checkMessage(value, type, path, unknown, wrong);
  }
}

/** Types whose JSON is arbitrary. */
function isFreeForm(type: string): boolean {
  return type.endsWith(".FieldsV1") || type.endsWith("RawExtension") || /\.JSON(Schema.*)?$/.test(type);
}

function checkMessage(value: unknown, message: string, path: string, unknown: string[], wrong: string[]): void {
  if (!isObject(value)) {
    wrong.push(wrongType(path, value, message.split(".").at(-1) ?? message));
    return;
  }
  const fields = fieldsOf(message);
  for (const key of Object.keys(value)) {
    const at = path === "" ? key : `${path}.${key}`;
    const type = fields.get(key);
    // Typed readers take null for a field that is not set.
    if (value[key] === null || value[key] === undefined) delete value[key];
    else if (type === undefined) {
      if (path !== "" || (key !== "kind" && key !== "apiVersion")) unknown.push(at);
    } else checkValue(value[key], type, at, unknown, wrong);
  }
}

/**
 * What `object` holds that `message` does not know, and what has a wrong type (texts for the user). Members that are null
 * are removed from it: what is neither named here nor absent has its declared shape.
 */
export function checkFields(object: unknown, message: string): { unknown: string[]; wrong: string[] } {
  const unknown: string[] = [];
  const wrong: string[] = [];
  checkMessage(object, message, "", unknown, wrong);
  return { unknown, wrong };
}

/** Removes the fields at `paths` (as checkFields names them). */
export function dropFields(object: Record<string, unknown>, paths: readonly string[]): void {
  for (const path of paths) {
    const steps = path.replaceAll(/\[(\d+)\]/g, ".$1").split(".");
    const last = steps.pop();
    let at: unknown = object;
    for (const step of steps) {
      at = Array.isArray(at) ? at[Number(step)] : isObject(at) ? at[step] : undefined;
    }
    if (last !== undefined && isObject(at)) delete at[last];
  }
}
