// The discovery service (ADS) over delta xDS.
export { type Desired, type Rejection, type ResourceMap, TYPES, type TypeName, type TypeStatus } from "./delta.ts";
export { type ConfigSource, DELTA_METHOD, DiscoveryServer, type ProxyInfo, type ProxyStatus } from "./server.ts";
