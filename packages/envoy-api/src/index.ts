// Envoy's configuration messages, generated from the descriptors in the Envoy binary itself. `npm run setup` makes gen/.

export type { AccessLog } from "../gen/envoy/config/accesslog/v3/accesslog_pb.js";
export { AccessLogSchema } from "../gen/envoy/config/accesslog/v3/accesslog_pb.js";
export {
  type CircuitBreakers_Thresholds,
  CircuitBreakersSchema,
} from "../gen/envoy/config/cluster/v3/circuit_breaker_pb.js";
export {
  type Cluster,
  Cluster_DiscoveryType,
  Cluster_LbPolicy,
  ClusterSchema,
} from "../gen/envoy/config/cluster/v3/cluster_pb.js";
export {
  HeaderValueOption_HeaderAppendAction,
  type Metadata,
  MetadataSchema,
  RoutingPriority,
  TrafficDirection,
} from "../gen/envoy/config/core/v3/base_pb.js";
export {
  AggregatedConfigSourceSchema,
  ApiConfigSource_ApiType,
  ApiConfigSourceSchema,
  ApiVersion,
  ConfigSourceSchema,
} from "../gen/envoy/config/core/v3/config_source_pb.js";
export { HealthStatus } from "../gen/envoy/config/core/v3/health_check_pb.js";
export { ClusterLoadAssignmentSchema } from "../gen/envoy/config/endpoint/v3/endpoint_pb.js";
export {
  type Filter,
  type FilterChain,
  FilterChainSchema,
  FilterSchema,
  type ListenerFilter,
  ListenerFilterSchema,
} from "../gen/envoy/config/listener/v3/listener_components_pb.js";
export { ListenerSchema } from "../gen/envoy/config/listener/v3/listener_pb.js";
export {
  type HeaderMatcher,
  HeaderMatcherSchema,
  type Route,
  RouteSchema,
  type VirtualHost,
  VirtualHostSchema,
} from "../gen/envoy/config/route/v3/route_components_pb.js";
export { type RouteConfiguration, RouteConfigurationSchema } from "../gen/envoy/config/route/v3/route_pb.js";
export { FileAccessLogSchema } from "../gen/envoy/extensions/access_loggers/file/v3/file_pb.js";
export { FaultDelaySchema } from "../gen/envoy/extensions/filters/common/fault/v3/fault_pb.js";
export { CorsSchema } from "../gen/envoy/extensions/filters/http/cors/v3/cors_pb.js";
export { HTTPFaultSchema } from "../gen/envoy/extensions/filters/http/fault/v3/fault_pb.js";
export { FilterConfigSchema as GrpcStatsSchema } from "../gen/envoy/extensions/filters/http/grpc_stats/v3/config_pb.js";
export { OnDemandSchema } from "../gen/envoy/extensions/filters/http/on_demand/v3/on_demand_pb.js";
export { RouterSchema } from "../gen/envoy/extensions/filters/http/router/v3/router_pb.js";
export { HttpInspectorSchema } from "../gen/envoy/extensions/filters/listener/http_inspector/v3/http_inspector_pb.js";
export { OriginalDstSchema } from "../gen/envoy/extensions/filters/listener/original_dst/v3/original_dst_pb.js";
export { TlsInspectorSchema } from "../gen/envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector_pb.js";
export {
  HttpConnectionManager_ForwardClientCertDetails,
  HttpConnectionManager_PathWithEscapedSlashesAction,
  HttpConnectionManagerSchema,
  type HttpFilter,
  HttpFilterSchema,
} from "../gen/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager_pb.js";
export { TcpProxySchema } from "../gen/envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy_pb.js";
export { UuidRequestIdConfigSchema } from "../gen/envoy/extensions/request_id/uuid/v3/uuid_pb.js";
export { PreviousHostsPredicateSchema } from "../gen/envoy/extensions/retry/host/previous_hosts/v3/previous_hosts_pb.js";
export { RawBufferSchema } from "../gen/envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer_pb.js";
export {
  SubjectAltNameMatcher_SanType,
  TlsParameters_TlsProtocol,
} from "../gen/envoy/extensions/transport_sockets/tls/v3/common_pb.js";
export {
  DownstreamTlsContextSchema,
  UpstreamTlsContextSchema,
} from "../gen/envoy/extensions/transport_sockets/tls/v3/tls_pb.js";
export { HttpProtocolOptionsSchema } from "../gen/envoy/extensions/upstreams/http/v3/http_protocol_options_pb.js";
export { FractionalPercent_DenominatorType } from "../gen/envoy/type/v3/percent_pb.js";
