// The messages of the discovery service alone: what the server and the tests' clients speak.
export type { Node } from "../gen/envoy/config/core/v3/base_pb.js";
export {
  type DeltaDiscoveryRequest,
  DeltaDiscoveryRequestSchema,
  DeltaDiscoveryResponseSchema,
  ResourceSchema,
} from "../gen/envoy/service/discovery/v3/discovery_pb.js";
