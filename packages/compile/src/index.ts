// The compiler: from the objects of the cluster to Envoy configuration. Pure, synchronous, deterministic.
export { hostOfAuthority, parseScope, type Snapshot, scopeKey, snapshot, virtualHost } from "./discovery.ts";
export {
  DEFAULT_MESH_CONFIG,
  DESTINATION_RULES,
  ENDPOINT_SLICES,
  GATEWAYS,
  MESH_CONFIG,
  PEER_AUTHENTICATIONS,
  PODS,
  SERVICES,
  VIRTUAL_SERVICES,
} from "./inputs.ts";
