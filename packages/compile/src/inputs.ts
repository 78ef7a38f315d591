// The inputs of the compiler: the objects of the cluster, the mesh's settings. Keys of objects are `namespace/name`.
import { jsonEqual } from "@lateen/base";
import type { MeshConfig } from "@lateen/model";
import { type Db, table } from "@lateen/query";
import type {
  DestinationRuleSpec,
  EndpointSliceObject,
  GatewaySpec,
  PeerAuthenticationSpec,
  PodObject,
  Resource,
  ServiceObject,
  VirtualServiceSpec,
} from "@lateen/resources";

export const SERVICES = table<ServiceObject>("services", jsonEqual);
export const ENDPOINT_SLICES = table<EndpointSliceObject>("endpointslices", jsonEqual);
export const PODS = table<PodObject>("pods", jsonEqual);
export const VIRTUAL_SERVICES = table<Resource<VirtualServiceSpec>>("virtualservices", jsonEqual);
export const DESTINATION_RULES = table<Resource<DestinationRuleSpec>>("destinationrules", jsonEqual);
export const GATEWAYS = table<Resource<GatewaySpec>>("gateways", jsonEqual);
export const PEER_AUTHENTICATIONS = table<Resource<PeerAuthenticationSpec>>("peerauthentications", jsonEqual);
export const MESH_CONFIG = table<MeshConfig>("meshconfig", jsonEqual);

export const DEFAULT_MESH_CONFIG: MeshConfig = {
  trustDomain: "cluster.local",
  rootNamespace: "istio-system",
  domainSuffix: "cluster.local",
  outbound: "allow-any",
  accessLogFile: "",
  clusterId: "Kubernetes",
};

export function meshConfig(db: Db): MeshConfig {
  return db.read(MESH_CONFIG, "") ?? DEFAULT_MESH_CONFIG;
}
