// What every emitted message needs: durations, Any, encoding, the references to ADS and SDS.
import { create, type DescMessage, type MessageInitShape, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { type Any, anyPack, type Duration, DurationSchema } from "@bufbuild/protobuf/wkt";
import { contentHash, type JsonObject } from "@lateen/base";
import {
  AggregatedConfigSourceSchema,
  ApiConfigSource_ApiType,
  ApiConfigSourceSchema,
  ApiVersion,
  ConfigSourceSchema,
  type Metadata,
  MetadataSchema,
} from "@lateen/envoy-api";
import type { ClusterName, EncodedResource, Origin } from "@lateen/model";

/** What a message is made from, without the messages themselves: this can be spread. */
export type Plain<D extends DescMessage> = Extract<MessageInitShape<D>, { readonly $typeName?: never }>;

/** A message packed into Any. Deterministic: map fields of our messages have one entry or are sorted by their maker. */
export function pack<D extends DescMessage>(schema: D, init: MessageInitShape<D>): Any {
  return anyPack(schema, create(schema, init));
}

export function duration(milliseconds: number): Duration {
  const seconds = Math.floor(milliseconds / 1000);
  return create(DurationSchema, { seconds: BigInt(seconds), nanos: Math.round((milliseconds - seconds * 1000) * 1e6) });
}

/** A named extension: the shape that filters, loggers, transport sockets and predicates share. */
export function filter<D extends DescMessage>(name: string, schema: D, init: MessageInitShape<D>) {
  return { name, configType: { case: "typedConfig" as const, value: pack(schema, init) } };
}

/** "Over this same stream." */
export const ADS = create(ConfigSourceSchema, {
  configSourceSpecifier: { case: "ads", value: create(AggregatedConfigSourceSchema, {}) },
  initialFetchTimeout: duration(0),
  resourceApiVersion: ApiVersion.V3,
});

/** Secrets come from the agent, over its socket (bootstrap cluster `sds-grpc`). */
export const SDS = create(ConfigSourceSchema, {
  configSourceSpecifier: {
    case: "apiConfigSource",
    value: create(ApiConfigSourceSchema, {
      apiType: ApiConfigSource_ApiType.GRPC,
      transportApiVersion: ApiVersion.V3,
      setNodeOnFirstMessageOnly: true,
      grpcServices: [{ targetSpecifier: { case: "envoyGrpc", value: { clusterName: "sds-grpc" } } }],
    }),
  },
  initialFetchTimeout: duration(0),
  resourceApiVersion: ApiVersion.V3,
});

/** `filter_metadata.istio`, where Istio's tools look for the origin of things. */
export function istioMetadata(values: JsonObject): Metadata {
  return create(MetadataSchema, { filterMetadata: { istio: values as never } });
}

export function originMetadata(origin: Origin | undefined): { metadata?: Metadata } {
  return origin === undefined ? {} : { metadata: istioMetadata({ config: origin.resource }) };
}

/** Encodes one resource. */
export function encode<D extends DescMessage>(
  schema: D,
  name: string,
  message: MessageShape<D>,
  clusters: readonly ClusterName[] = [],
): EncodedResource {
  const body = toBinary(schema, message);
  return { name, typeUrl: `type.googleapis.com/${schema.typeName}`, version: contentHash(body), body, clusters };
}
