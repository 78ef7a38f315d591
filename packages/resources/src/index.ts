// The kinds of Istio's and Kubernetes' APIs that the mesh reads: one source each for type, validation and CRD.
import type { CustomKind } from "./kind.ts";
import { DESTINATION_RULE, GATEWAY, VIRTUAL_SERVICE } from "./networking.ts";
import { PEER_AUTHENTICATION } from "./security.ts";

export { type CustomKind, crdOf, type Meta, parseMeta, parseResource, type Resource } from "./kind.ts";
export {
  type EndpointSliceObject,
  type PodObject,
  parseEndpointSlice,
  parsePod,
  parseService,
  type ServiceObject,
} from "./kubernetes.ts";
export {
  DESTINATION_RULE,
  type DestinationRuleSpec,
  type Fault,
  GATEWAY,
  type GatewaySpec,
  type HttpMatch,
  type HttpRoute,
  type Retries,
  type StringMatch,
  type Subset,
  type TrafficPolicy,
  VIRTUAL_SERVICE,
  type VirtualServiceSpec,
} from "./networking.ts";
export { PEER_AUTHENTICATION, type PeerAuthenticationSpec } from "./security.ts";

/** All custom kinds. */
export const CUSTOM_KINDS: readonly CustomKind<unknown>[] = [
  DESTINATION_RULE,
  GATEWAY,
  PEER_AUTHENTICATION,
  VIRTUAL_SERVICE,
];
