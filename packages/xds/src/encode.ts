// Responses as bytes. A resource's entry is encoded once and shared by all streams that get it.
import type { EncodedResource } from "@lateen/model";
import { type Outgoing, TYPES } from "./delta.ts";
import { bytesField, frame, stringField } from "./grpc/index.ts";

const entries = new WeakMap<EncodedResource, Buffer>();

/** Field 2 of DeltaDiscoveryResponse: Resource { version 1, resource 2, name 3, aliases 4 }. */
function entry(resource: EncodedResource): Buffer {
  let bytes = entries.get(resource);
  if (bytes === undefined) {
    const any = Buffer.concat([stringField(1, resource.typeUrl), bytesField(2, resource.body)]);
    const parts = [stringField(1, resource.version), bytesField(2, any), stringField(3, resource.name)];
    // A virtual host that was asked for must come under the name by which it was.
    if (resource.typeUrl === TYPES.virtualHost) parts.push(stringField(4, resource.name));
    bytes = bytesField(2, Buffer.concat(parts));
    entries.set(resource, bytes);
  }
  return bytes;
}

/** A framed DeltaDiscoveryResponse { resources 2, type_url 4, nonce 5, removed_resources 6 }. */
export function encodeResponse(response: Outgoing): Buffer {
  const removed = response.removed.map((name) => stringField(6, name));
  return frame(
    ...response.resources.map(entry),
    stringField(4, TYPES[response.type]),
    stringField(5, response.nonce),
    ...removed,
  );
}
