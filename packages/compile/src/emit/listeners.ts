// Listeners: outbound by port or address, virtualOutbound, virtualInbound, gateways.
import { create } from "@bufbuild/protobuf";
import {
  CorsSchema,
  HttpConnectionManager_PathWithEscapedSlashesAction as EscapedSlashes,
  FileAccessLogSchema,
  type FilterChainSchema,
  HttpConnectionManager_ForwardClientCertDetails as ForwardCert,
  GrpcStatsSchema,
  HTTPFaultSchema,
  HttpConnectionManagerSchema,
  HttpInspectorSchema,
  ListenerSchema,
  OnDemandSchema,
  OriginalDstSchema,
  RouterSchema,
  TcpProxySchema,
  TlsInspectorSchema,
  TrafficDirection,
  UuidRequestIdConfigSchema,
} from "@lateen/envoy-api";
import {
  BLACK_HOLE,
  type ClusterName,
  type EncodedResource,
  type Host,
  INBOUND_PASSTHROUGH,
  inboundCluster,
  type MtlsMode,
  outboundCluster,
  PASSTHROUGH,
  type ServicePort,
} from "@lateen/model";
import { ADS, duration, encode, filter, type Plain } from "./common.ts";
import { downstreamTls, MESH_ALPN } from "./tls.ts";

type Chain = Plain<typeof FilterChainSchema>;

const OUTBOUND_PORT = 15001;
const INBOUND_PORT = 15006;
/** Limit for a TLS handshake on an accepted connection. */
const HANDSHAKE_TIMEOUT_MS = 15_000;
/** How long inbound connections may stay silent before sniffing gives up and takes them for server-first. */
const INBOUND_SNIFF_MS = 5_000;
const TLS_INSPECTOR_BYTES = 512;
const PLAIN_HTTP = ["http/1.1", "h2c"];

/** Istio's default access log line. */
const ACCESS_LOG_FORMAT =
  '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n';

/** What every listener of a mesh shares. */
export interface ListenerOptions {
  readonly accessLogFile: string;
  readonly outboundCluster: typeof PASSTHROUGH;
}

function accessLog({ accessLogFile }: ListenerOptions) {
  if (accessLogFile === "") return [];
  return [
    filter("envoy.access_loggers.file", FileAccessLogSchema, {
      path: accessLogFile,
      accessLogFormat: {
        case: "logFormat",
        value: {
          format: {
            case: "textFormatSource",
            value: { specifier: { case: "inlineString", value: ACCESS_LOG_FORMAT } },
          },
        },
      },
    }),
  ];
}

/** Connections that matched no chain appear only in the listener's own log. */
function noRouteLog(options: ListenerOptions) {
  return accessLog(options).map((log) => ({
    ...log,
    filter: { filterSpecifier: { case: "responseFlagFilter" as const, value: { flags: ["NR"] } } },
  }));
}

const socket = (address: string, port: number) => ({
  address: {
    case: "socketAddress" as const,
    value: { address, portSpecifier: { case: "portValue" as const, value: port } },
  },
});

function tcpProxy(cluster: ClusterName, options: ListenerOptions) {
  return filter("envoy.filters.network.tcp_proxy", TcpProxySchema, {
    statPrefix: cluster,
    clusterSpecifier: { case: "cluster", value: cluster },
    accessLog: accessLog(options),
  });
}

const ROUTER = filter("envoy.filters.http.router", RouterSchema, {});
const ON_DEMAND = filter("envoy.filters.http.on_demand", OnDemandSchema, {});
/** In this order: what must see a request before its route is known, what counts, what bends it, and the router last. */
const HTTP_FILTERS = [
  filter("envoy.filters.http.grpc_stats", GrpcStatsSchema, {
    emitFilterState: true,
    perMethodStatSpecifier: { case: "statsForAllMethods", value: { value: false } },
  }),
  filter("envoy.filters.http.fault", HTTPFaultSchema, {}),
  filter("envoy.filters.http.cors", CorsSchema, {}),
  ROUTER,
];

type Hcm = Plain<typeof HttpConnectionManagerSchema>;

function connectionManager(
  statPrefix: string,
  routes: Hcm["routeSpecifier"],
  options: ListenerOptions,
  extra: Partial<Hcm>,
  isOnDemand = false,
) {
  return filter("envoy.filters.network.http_connection_manager", HttpConnectionManagerSchema, {
    statPrefix,
    ...(routes === undefined ? {} : { routeSpecifier: routes }),
    httpFilters: isOnDemand ? [ON_DEMAND, ...HTTP_FILTERS] : HTTP_FILTERS,
    streamIdleTimeout: duration(0),
    accessLog: accessLog(options),
    useRemoteAddress: false,
    proxy100Continue: true,
    upgradeConfigs: [{ upgradeType: "websocket" }],
    normalizePath: true,
    pathWithEscapedSlashesAction: EscapedSlashes.KEEP_UNCHANGED,
    requestIdExtension: {
      typedConfig: filter("", UuidRequestIdConfigSchema, { useRequestIdForTraceSampling: true }).configType.value,
    },
    ...extra,
  });
}

const rds = (name: string): Hcm["routeSpecifier"] => ({
  case: "rds",
  value: { configSource: ADS, routeConfigName: name },
});

const HTTP_INSPECTOR = filter("envoy.filters.listener.http_inspector", HttpInspectorSchema, {});
const ORIGINAL_DST = filter("envoy.filters.listener.original_dst", OriginalDstSchema, {});

function outbound(
  name: string,
  address: string,
  port: number,
  rest: Plain<typeof ListenerSchema>,
  clusters: readonly ClusterName[],
): EncodedResource {
  const listener = create(ListenerSchema, {
    name,
    address: socket(address, port),
    bindToPort: false,
    trafficDirection: TrafficDirection.OUTBOUND,
    listenerFiltersTimeout: duration(0),
    continueOnListenerFiltersTimeout: true,
    ...rest,
  });
  return encode(ListenerSchema, name, listener, clusters);
}

const passthroughChain = (options: ListenerOptions): Chain => ({
  name: "PassthroughFilterChain",
  filters: [tcpProxy(options.outboundCluster, options)],
});

/** All HTTP services of a port: their hosts are told apart by route configuration `<port>`. */
export function emitHttpOutbound(port: number, options: ListenerOptions, isOnDemand: boolean): EncodedResource {
  const name = `0.0.0.0_${port}`;
  return outbound(
    name,
    "0.0.0.0",
    port,
    {
      filterChains: [
        {
          filterChainMatch: { transportProtocol: "raw_buffer", applicationProtocols: PLAIN_HTTP },
          filters: [connectionManager(`outbound_${name};`, rds(String(port)), options, {}, isOnDemand)],
          transportSocketConnectTimeout: duration(HANDSHAKE_TIMEOUT_MS),
        },
      ],
      defaultFilterChain: passthroughChain(options),
      listenerFilters: [HTTP_INSPECTOR],
    },
    [],
  );
}

/** A TCP (or sniffed) port of one service, by the service's address. */
export function emitTcpOutbound(
  host: Host,
  address: string,
  port: ServicePort,
  options: ListenerOptions,
): EncodedResource {
  const name = `${address}_${port.number}`;
  const cluster = outboundCluster(port.number, "", host);
  const tcp: Chain = {
    filters: [tcpProxy(cluster, options)],
    transportSocketConnectTimeout: duration(HANDSHAKE_TIMEOUT_MS),
  };
  if (port.protocol !== "auto") return outbound(name, address, port.number, { filterChains: [tcp] }, [cluster]);
  const http: Chain = {
    filterChainMatch: { transportProtocol: "raw_buffer", applicationProtocols: PLAIN_HTTP },
    filters: [connectionManager(`outbound_${name};`, rds(`${host}:${port.number}`), options, {})],
    transportSocketConnectTimeout: duration(HANDSHAKE_TIMEOUT_MS),
  };
  return outbound(
    name,
    address,
    port.number,
    { filterChains: [http], defaultFilterChain: tcp, listenerFilters: [HTTP_INSPECTOR] },
    [cluster],
  );
}

/** Where all outbound connections arrive first; goes on to the listener of their original destination. */
export function emitVirtualOutbound(options: ListenerOptions): EncodedResource {
  const listener = create(ListenerSchema, {
    name: "virtualOutbound",
    address: socket("0.0.0.0", OUTBOUND_PORT),
    useOriginalDst: true,
    trafficDirection: TrafficDirection.OUTBOUND,
    filterChains: [
      {
        name: "virtualOutbound-blackhole",
        filterChainMatch: { destinationPort: OUTBOUND_PORT },
        filters: [tcpProxy(BLACK_HOLE, { ...options, accessLogFile: "" })],
      },
      { name: "virtualOutbound-catchall-tcp", filters: [tcpProxy(options.outboundCluster, options)] },
    ],
    accessLog: noRouteLog(options),
    maxConnectionsToAcceptPerSocketEvent: 1,
  });
  return encode(ListenerSchema, "virtualOutbound", listener);
}

/** A port of the application, as its Services declare it. */
export interface InboundPort {
  readonly targetPort: number;
  readonly servicePort: number;
  readonly host: Host;
  readonly protocol: ServicePort["protocol"];
}

function inboundRoutes(
  cluster: ClusterName,
  servicePort: number,
  host: string,
  isGrpc: boolean,
): Hcm["routeSpecifier"] {
  return {
    case: "routeConfig",
    value: {
      name: cluster,
      validateClusters: false,
      virtualHosts: [
        {
          name: `inbound|http|${servicePort}`,
          domains: ["*"],
          routes: [
            {
              name: "default",
              match: { pathSpecifier: { case: "prefix", value: "/" } },
              action: {
                case: "route",
                value: {
                  clusterSpecifier: { case: "cluster", value: cluster },
                  timeout: duration(0),
                  maxStreamDuration: { maxStreamDuration: duration(0), grpcTimeoutHeaderMax: duration(0) },
                  ...(isGrpc ? {} : { retryPolicy: { retryOn: "reset-before-request", numRetries: 2 } }),
                },
              },
              decorator: { operation: `${host}:${servicePort}/*` },
            },
          ],
        },
      ],
    },
  };
}

const CLIENT_CERT_DETAILS = { subject: true, dns: true, uri: true };

/** The HTTP filter of an inbound port. Plaintext callers have no identity: what they claim in X-Forwarded-Client-Cert goes. */
function inboundManager(statPrefix: string, routes: Hcm["routeSpecifier"], options: ListenerOptions, isMtls: boolean) {
  return connectionManager(statPrefix, routes, options, {
    serverName: "istio-envoy",
    forwardClientCertDetails: isMtls ? ForwardCert.APPEND_FORWARD : ForwardCert.SANITIZE,
    ...(isMtls ? { setCurrentClientCertDetails: CLIENT_CERT_DETAILS } : {}),
  });
}

/** The chains of one port (or, without `port`, of all others) for a mode. Order and matches: Istio's. */
function inboundChains(
  mode: MtlsMode,
  trustDomain: string,
  name: string,
  port: number | undefined,
  kind: "http" | "tcp" | "auto",
  http: (isMtls: boolean) => NonNullable<Chain["filters"]>,
  tcp: NonNullable<Chain["filters"]>,
): Chain[] {
  const at = port === undefined ? {} : { destinationPort: port };
  const base = { name, transportSocketConnectTimeout: duration(HANDSHAKE_TIMEOUT_MS) };
  const mtls = (filters: NonNullable<Chain["filters"]>, isHttp: boolean, applicationProtocols?: string[]): Chain => ({
    ...base,
    filterChainMatch: {
      ...at,
      transportProtocol: "tls",
      ...(applicationProtocols === undefined ? {} : { applicationProtocols }),
    },
    filters,
    // A server that names a protocol in common with an HTTP/2 client other than h2 would force HTTP/1: offer the real ones.
    transportSocket: downstreamTls(
      trustDomain,
      isHttp ? ["h2", "http/1.1"] : ["istio-peer-exchange", "h2", "http/1.1"],
    ),
  });
  const plain = (filters: NonNullable<Chain["filters"]>, applicationProtocols?: string[]): Chain => ({
    ...base,
    filterChainMatch: {
      ...at,
      transportProtocol: "raw_buffer",
      ...(applicationProtocols === undefined ? {} : { applicationProtocols }),
    },
    filters,
  });
  const foreignTls: Chain = { ...base, filterChainMatch: { ...at, transportProtocol: "tls" }, filters: tcp };
  const httpAlpn = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
  const isHttp = kind === "http";
  const main = (isMtls: boolean): NonNullable<Chain["filters"]> => (isHttp ? http(isMtls) : tcp);
  if (kind === "auto") {
    const secure = [mtls(http(true), true, httpAlpn)];
    if (mode === "strict") return [...secure, mtls(tcp, false)];
    const open = [plain(http(false), PLAIN_HTTP), plain(tcp)];
    return mode === "disable"
      ? open
      : [...secure, ...open, mtls(tcp, false, ["istio-peer-exchange", "istio"]), foreignTls];
  }
  if (mode === "strict") return [mtls(main(true), isHttp)];
  if (mode === "disable") return [plain(main(false))];
  return [mtls(main(true), isHttp, MESH_ALPN), ...(isHttp ? [] : [foreignTls]), plain(main(false))];
}

/** Where all inbound connections arrive. */
export function emitVirtualInbound(
  ports: readonly InboundPort[],
  mode: MtlsMode,
  trustDomain: string,
  options: ListenerOptions,
): EncodedResource {
  const passthroughHttp = (isMtls: boolean) => [
    inboundManager(`${INBOUND_PASSTHROUGH};`, inboundRoutes(INBOUND_PASSTHROUGH, 0, "", false), options, isMtls),
  ];
  const chains: Chain[] = [
    {
      name: "virtualInbound-blackhole",
      filterChainMatch: { destinationPort: INBOUND_PORT },
      filters: [tcpProxy(BLACK_HOLE, { ...options, accessLogFile: "" })],
    },
    ...inboundChains(mode, trustDomain, "virtualInbound", undefined, "auto", passthroughHttp, [
      tcpProxy(INBOUND_PASSTHROUGH, options),
    ]),
  ];
  for (const port of ports) {
    const cluster = inboundCluster(port.targetPort);
    const isHttp = port.protocol === "http" || port.protocol === "http2";
    const kind = isHttp ? "http" : port.protocol === "auto" ? "auto" : "tcp";
    const routes = inboundRoutes(cluster, port.servicePort, port.host, port.protocol === "http2");
    const http = (isMtls: boolean) => [inboundManager(`inbound_0.0.0.0_${port.targetPort};`, routes, options, isMtls)];
    chains.push(
      ...inboundChains(mode, trustDomain, `0.0.0.0_${port.targetPort}`, port.targetPort, kind, http, [
        tcpProxy(cluster, options),
      ]),
    );
  }
  const listener = create(ListenerSchema, {
    name: "virtualInbound",
    address: socket("0.0.0.0", INBOUND_PORT),
    trafficDirection: TrafficDirection.INBOUND,
    filterChains: chains,
    listenerFilters: [
      ORIGINAL_DST,
      filter("envoy.filters.listener.tls_inspector", TlsInspectorSchema, {
        initialReadBufferSize: TLS_INSPECTOR_BYTES,
      }),
      { ...HTTP_INSPECTOR, ...httpInspectorLimits(ports) },
    ],
    listenerFiltersTimeout: duration(INBOUND_SNIFF_MS),
    continueOnListenerFiltersTimeout: true,
    accessLog: noRouteLog(options),
    maxConnectionsToAcceptPerSocketEvent: 1,
  });
  return encode(ListenerSchema, "virtualInbound", listener);
}

/** On ports whose protocol is declared nothing needs to be sniffed. */
function httpInspectorLimits(ports: readonly InboundPort[]) {
  const declared = [...ports.filter((port) => port.protocol !== "auto").map((port) => port.targetPort), INBOUND_PORT];
  const rules = declared.map((port) => ({
    rule: { case: "destinationPortRange" as const, value: { start: port, end: port + 1 } },
  }));
  const [only] = rules;
  if (rules.length === 1 && only !== undefined) return { filterDisabled: only };
  return { filterDisabled: { rule: { case: "orMatch" as const, value: { rules } } } };
}

/** A plaintext HTTP port of a gateway. The client's own X-Forwarded-Client-Cert is removed. */
export function emitGatewayListener(port: number, options: ListenerOptions): EncodedResource {
  const name = `0.0.0.0_${port}`;
  const listener = create(ListenerSchema, {
    name,
    address: socket("0.0.0.0", port),
    trafficDirection: TrafficDirection.OUTBOUND,
    filterChains: [
      {
        filters: [
          connectionManager(`outbound_${name};`, rds(`http.${port}`), options, {
            serverName: "istio-envoy",
            useRemoteAddress: true,
            forwardClientCertDetails: ForwardCert.SANITIZE_SET,
            setCurrentClientCertDetails: { ...CLIENT_CERT_DETAILS, cert: true },
            httpProtocolOptions: {},
          }),
        ],
        transportSocketConnectTimeout: duration(HANDSHAKE_TIMEOUT_MS),
      },
    ],
    accessLog: noRouteLog(options),
    maxConnectionsToAcceptPerSocketEvent: 1,
  });
  return encode(ListenerSchema, name, listener);
}
