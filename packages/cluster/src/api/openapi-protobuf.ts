// The OpenAPI v2 document in protobuf, as client-go's `OpenAPISchema()` and what is built on it ask for it. The messages are those
// of gnostic's OpenAPIv2.proto; only what the document holds is written.
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { isObject } from "@lateen/base";

type Members = Record<string, any>;
/** Writes the fields of one message. */
type Fill = (to: BinaryWriter, value: any) => void;

function text(to: BinaryWriter, field: number, value: unknown): void {
  if (typeof value === "string") to.tag(field, WireType.LengthDelimited).string(value);
}

function texts(to: BinaryWriter, field: number, values: readonly unknown[] | undefined): void {
  for (const value of values ?? []) text(to, field, value);
}

function integer(to: BinaryWriter, field: number, value: unknown): void {
  if (typeof value === "number") to.tag(field, WireType.Varint).int64(value);
}

function double(to: BinaryWriter, field: number, value: unknown): void {
  if (typeof value === "number") to.tag(field, WireType.Bit64).double(value);
}

function bool(to: BinaryWriter, field: number, value: unknown): void {
  if (typeof value === "boolean") to.tag(field, WireType.Varint).bool(value);
}

function message(to: BinaryWriter, field: number, value: unknown, fill: Fill): void {
  if (value === undefined) return;
  to.tag(field, WireType.LengthDelimited).fork();
  fill(to, value);
  to.join();
}

/** Entries of a map, as the messages have them: a name and a value. */
function named(to: BinaryWriter, field: number, values: Members, fill: Fill): void {
  for (const [name, value] of Object.entries(values))
    message(to, field, value, () => {
      text(to, 1, name);
      message(to, 2, value, fill);
    });
}

/** A value of any form: as YAML, of which JSON is a part. */
const any: Fill = (to, value) => text(to, 2, JSON.stringify(value));

function extensions(to: BinaryWriter, field: number, value: Members): void {
  named(to, field, Object.fromEntries(Object.entries(value).filter(([key]) => key.startsWith("x-"))), any);
}

const schema: Fill = (to, value: Members) => {
  text(to, 1, value["$ref"]);
  text(to, 2, value["format"]);
  text(to, 3, value["title"]);
  text(to, 4, value["description"]);
  message(to, 5, value["default"], any);
  double(to, 6, value["multipleOf"]);
  double(to, 7, value["maximum"]);
  bool(to, 8, value["exclusiveMaximum"]);
  double(to, 9, value["minimum"]);
  bool(to, 10, value["exclusiveMinimum"]);
  integer(to, 11, value["maxLength"]);
  integer(to, 12, value["minLength"]);
  text(to, 13, value["pattern"]);
  integer(to, 14, value["maxItems"]);
  integer(to, 15, value["minItems"]);
  bool(to, 16, value["uniqueItems"]);
  integer(to, 17, value["maxProperties"]);
  integer(to, 18, value["minProperties"]);
  texts(to, 19, value["required"]);
  for (const item of value["enum"] ?? []) message(to, 20, item, any);
  message(to, 21, value["additionalProperties"], (_, inner) => {
    if (isObject(inner)) message(to, 1, inner, schema);
    else bool(to, 2, inner);
  });
  message(to, 22, value["type"], (_, type) => texts(to, 1, [type].flat()));
  message(to, 23, value["items"], (_, items) => {
    for (const item of [items].flat()) message(to, 1, item, schema);
  });
  for (const part of value["allOf"] ?? []) message(to, 24, part, schema);
  message(to, 25, value["properties"], (_, properties) => named(to, 1, properties, schema));
  extensions(to, 31, value);
};

/** A parameter of a body, or of the query. */
const parameter: Fill = (to, value: Members) =>
  message(to, 1, value, () => {
    if (value["in"] === "body") {
      message(to, 1, value, () => {
        text(to, 2, value["name"]);
        text(to, 3, "body");
        bool(to, 4, value["required"]);
        message(to, 5, value["schema"], schema);
      });
      return;
    }
    message(to, 2, value, () =>
      message(to, 3, value, () => {
        text(to, 2, value["in"]);
        text(to, 4, value["name"]);
        text(to, 6, value["type"]);
        bool(to, 20, value["uniqueItems"]);
      }),
    );
  });

const response: Fill = (to, value: Members) =>
  message(to, 1, value, () => {
    text(to, 1, value["description"]);
    message(to, 2, value["schema"], () => message(to, 1, value["schema"], schema));
  });

const operation: Fill = (to, value: Members) => {
  text(to, 3, value["description"]);
  text(to, 5, value["operationId"]);
  for (const one of value["parameters"] ?? []) message(to, 8, one, parameter);
  message(to, 9, value["responses"], (_, responses) => named(to, 1, responses, response));
  extensions(to, 13, value);
};

const METHODS = { get: 2, put: 3, post: 4, delete: 5, patch: 8 } as const;

const pathItem: Fill = (to, value: Members) => {
  for (const [method, field] of Object.entries(METHODS)) message(to, field, value[method], operation);
};

/** Encodes an OpenAPI v2 document. */
export function encodeSwagger(document: Members): Uint8Array {
  const to = new BinaryWriter();
  text(to, 1, document["swagger"]);
  message(to, 2, document["info"], (_, info) => {
    text(to, 1, info.title);
    text(to, 2, info.version);
  });
  message(to, 8, document["paths"], (_, paths) => named(to, 2, paths, pathItem));
  message(to, 9, document["definitions"], (_, definitions) => named(to, 1, definitions, schema));
  return to.finish();
}
