// What the mesh reads of Kubernetes' own kinds. Unknown fields are none of our business here.
import { isObject } from "@lateen/base";
import { type Meta, parseMeta } from "./kind.ts";
import { flag, type Infer, integer, listOf, mapOf, openObject, optional, type Schema, text } from "./schema.ts";

const intOrText: Schema<number | string> = {
  openApi: {},
  parse: (value) => (typeof value === "number" || typeof value === "string" ? value : undefined),
};

const serviceSpec = openObject({
  type: optional(text),
  clusterIP: optional(text),
  selector: optional(mapOf(text)),
  ports: optional(
    listOf(
      openObject({
        name: optional(text),
        port: integer(1, 65535),
        targetPort: optional(intOrText),
        protocol: optional(text),
        appProtocol: optional(text),
      }),
    ),
  ),
});
type ServiceSpec = Infer<typeof serviceSpec>;

const slice = openObject({
  addressType: optional(text),
  endpoints: optional(
    listOf(
      openObject({
        addresses: listOf(text),
        conditions: optional(
          openObject({ ready: optional(flag), serving: optional(flag), terminating: optional(flag) }),
        ),
        targetRef: optional(openObject({ kind: optional(text), name: optional(text), namespace: optional(text) })),
        nodeName: optional(text),
      }),
    ),
  ),
  ports: optional(
    listOf(openObject({ name: optional(text), port: optional(integer(0, 65535)), protocol: optional(text) })),
  ),
});
type EndpointSliceBody = Infer<typeof slice>;

const podSpec = openObject({
  serviceAccountName: optional(text),
  nodeName: optional(text),
  containers: listOf(
    openObject({
      name: text,
      ports: optional(listOf(openObject({ name: optional(text), containerPort: integer(1, 65535) }))),
    }),
  ),
});
type PodSpec = Infer<typeof podSpec>;

export interface ServiceObject {
  readonly meta: Meta;
  readonly spec: ServiceSpec;
}
export interface EndpointSliceObject {
  readonly meta: Meta;
  readonly body: EndpointSliceBody;
}
export interface PodObject {
  readonly meta: Meta;
  readonly spec: PodSpec;
  readonly ownerKind: string;
  readonly ownerName: string;
}

const silent = (): void => {};
const member = (object: unknown, name: string): unknown => (isObject(object) ? object[name] : undefined);

export function parseService(object: unknown): ServiceObject | undefined {
  const meta = parseMeta(object);
  const spec = serviceSpec.parse(member(object, "spec"), "spec", silent);
  return meta === undefined || spec === undefined ? undefined : { meta, spec };
}

export function parseEndpointSlice(object: unknown): EndpointSliceObject | undefined {
  const meta = parseMeta(object);
  const body = slice.parse(object, "", silent);
  return meta === undefined || body === undefined ? undefined : { meta, body };
}

export function parsePod(object: unknown): PodObject | undefined {
  const meta = parseMeta(object);
  const spec = podSpec.parse(member(object, "spec"), "spec", silent);
  if (meta === undefined || spec === undefined) return undefined;
  const owners = member(member(object, "metadata"), "ownerReferences");
  const owner: unknown = Array.isArray(owners) ? owners[0] : undefined;
  return { meta, spec, ownerKind: String(member(owner, "kind") ?? ""), ownerName: String(member(owner, "name") ?? "") };
}
