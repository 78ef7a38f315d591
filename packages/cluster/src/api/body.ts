// Bodies and options of requests: JSON, YAML or protobuf in, plain values out.
import type { IncomingMessage } from "node:http";
import { isObject } from "@lateen/base";
import { ApiError, badRequest, invalid, unsupportedMedia } from "./errors.ts";
import { duplicateMembers } from "./json.ts";
import { builtInType, type KindTable } from "./kinds.ts";
import { decodeProtobuf } from "./protobuf.ts";
import type { ResourceRequest } from "./server.ts";

/** Bodies above this are refused with 413, as by a real server. */
const BODY_BYTES_MAX = 3 << 20;
const ACCEPTED = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PROTOBUF = "application/vnd.kubernetes.protobuf";

export type Body = Record<string, unknown>;

/** The media type of a body; one without a type is JSON. */
export function mediaType(request: IncomingMessage): string {
  return (request.headers["content-type"] ?? "application/json").split(";")[0]?.trim() ?? "";
}

async function readBytes(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    // What is too much is read and dropped, so that the client hears the answer.
    if (size <= BODY_BYTES_MAX) chunks.push(chunk);
    else if (size > 4 * BODY_BYTES_MAX) break;
  }
  if (size > BODY_BYTES_MAX)
    throw new ApiError(413, "RequestEntityTooLarge", `Request entity too large: limit is ${BODY_BYTES_MAX}`, {});
  return Buffer.concat(chunks);
}

/** Reads a body. An empty one is an empty object. Fields that occur twice are noted in `ask.repeated`. */
export async function readBody(ask: ResourceRequest, kinds: KindTable): Promise<Body> {
  const bytes = await readBytes(ask.request);
  if (bytes.length === 0) return {};
  const type = mediaType(ask.request);
  const text = bytes.toString("utf8");
  let value: unknown;
  try {
    if (type === PROTOBUF) {
      value = decodeProtobuf(bytes, (apiVersion, kind) => {
        const served = kinds.ofObject(apiVersion, kind)?.type;
        return served?.shape === "struct" && served.numbers.size > 0 ? served : builtInType(apiVersion, kind);
      });
    } else if (type === "application/yaml" || type === "application/apply-patch+yaml") {
      value = text.trimStart().startsWith("{") ? readJson(text, ask) : await readYaml(text, ask);
    } else if (type === "" || type === "application/json" || type.endsWith("+json")) value = readJson(text, ask);
    else throw unsupportedMedia(ACCEPTED);
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw badRequest(
      `the object provided is unrecognized (must be of type ${ask.kind.kind}): ${decodeMessage(error as Error, text)}`,
    );
  }
  if (!isObject(value) && !Array.isArray(value))
    throw badRequest(
      `the object provided is unrecognized (must be of type ${ask.kind.kind}): couldn't get version/kind; json parse error: json: cannot unmarshal ${typeof value} into Go value of type struct`,
    );
  return value as Body;
}

function readJson(text: string, ask: ResourceRequest): unknown {
  const value: unknown = JSON.parse(text);
  ask.source = text;
  ask.repeated.push(...duplicateMembers(text));
  return value;
}

/** YAML 1.1, as Kubernetes reads it. A key that occurs twice is noted in the words of its YAML library. */
async function readYaml(text: string, ask: ResourceRequest): Promise<unknown> {
  // Loaded when it is first needed: a start does not wait for it.
  const { LineCounter, parseDocument } = await import("yaml");
  const lines = new LineCounter();
  const document = parseDocument(text, { version: "1.1", lineCounter: lines });
  for (const error of document.errors) {
    if (error.code !== "DUPLICATE_KEY") throw error;
    const { line } = lines.linePos(error.pos[0]);
    const key = /^\s*(?:- )?"?([^":]+)"?\s*:/.exec(text.split("\n")[line - 1] ?? "")?.[1] ?? "";
    ask.repeated.push(`line ${line}: key ${JSON.stringify(key)} already set in map`);
  }
  return document.toJS({ maxAliasCount: 100 }) as unknown;
}

function decodeMessage(error: Error, text: string): string {
  return `couldn't get version/kind; json parse error: ${error.message} (${Buffer.from(text.slice(0, 32)).toString("hex")} ...)`;
}

export interface RequestOptions {
  readonly isDryRun: boolean;
}

/** The options that every write takes; 422 for values that are none. */
export function checkOptions({ query, request }: ResourceRequest): RequestOptions {
  const kind =
    { POST: "CreateOptions", PUT: "UpdateOptions", PATCH: "PatchOptions" }[request.method ?? ""] ?? "DeleteOptions";
  const subject = { group: "meta.k8s.io", plural: "", kind };
  const dryRun = query.getAll("dryRun").filter((value) => value !== "");
  if (dryRun.some((value) => value !== "All")) {
    const message = `Unsupported value: ${JSON.stringify(dryRun)}: supported values: "All"`;
    throw invalid(subject, "", [{ reason: "FieldValueNotSupported", message, field: "dryRun" }]);
  }
  const validation = query.get("fieldValidation") ?? "";
  if (!["", "Strict", "Warn", "Ignore"].includes(validation)) {
    const message = `Unsupported value: ${JSON.stringify(validation)}: supported values: "", "Ignore", "Strict", "Warn"`;
    throw invalid(subject, "", [{ reason: "FieldValueNotSupported", message, field: "fieldValidation" }]);
  }
  const manager = query.get("fieldManager") ?? "";
  if (manager.length > 128) {
    const message = "Too long: may not be more than 128 bytes";
    throw invalid(subject, "", [{ reason: "FieldValueTooLong", message, field: "fieldManager" }]);
  }
  return { isDryRun: dryRun.length > 0 };
}
