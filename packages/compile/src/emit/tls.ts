// Mutual TLS between proxies: certificates by SDS from the agent, identities checked on both sides.
import { create } from "@bufbuild/protobuf";
import {
  DownstreamTlsContextSchema,
  RawBufferSchema,
  SubjectAltNameMatcher_SanType,
  TlsParameters_TlsProtocol,
  UpstreamTlsContextSchema,
} from "@lateen/envoy-api";
import type { ClusterName } from "@lateen/model";
import { filter, SDS } from "./common.ts";

/**
 * All that our clients offer. With no name in common nothing is negotiated, and the server tells HTTP/1 from HTTP/2 by the
 * preface; tls_inspector still sees the marker, by which inbound chains know mesh traffic.
 */
const CLIENT_ALPN = ["istio"];

/** What Istio's own clients offer, too: by these the inbound chains know mesh traffic. */
export const MESH_ALPN = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

const OWN_CERTIFICATE = [{ name: "default", sdsConfig: SDS }];

/** `outbound_.9080_.v1_.reviews.default.svc.cluster.local`: how Istio names clusters in SNI. */
function sniOf(cluster: ClusterName): string {
  return cluster.replaceAll("|", "_.");
}

/** Client side: our certificate; the server must show one of `identities`. */
export function upstreamTls(cluster: ClusterName, identities: readonly string[]) {
  return filter("envoy.transport_sockets.tls", UpstreamTlsContextSchema, {
    sni: sniOf(cluster),
    commonTlsContext: {
      tlsParams: {
        tlsMinimumProtocolVersion: TlsParameters_TlsProtocol.TLSv1_2,
        tlsMaximumProtocolVersion: TlsParameters_TlsProtocol.TLSv1_3,
      },
      tlsCertificateSdsSecretConfigs: OWN_CERTIFICATE,
      alpnProtocols: CLIENT_ALPN,
      validationContextType: {
        case: "combinedValidationContext",
        value: {
          defaultValidationContext: {
            matchTypedSubjectAltNames: identities.map((identity) => ({
              sanType: SubjectAltNameMatcher_SanType.URI,
              matcher: { matchPattern: { case: "exact" as const, value: identity } },
            })),
          },
          validationContextSdsSecretConfig: { name: "ROOTCA", sdsConfig: SDS },
        },
      },
    },
  });
}

/** Server side: the client must show a certificate of the trust domain. */
export function downstreamTls(trustDomain: string, alpnProtocols: string[]) {
  return filter("envoy.transport_sockets.tls", DownstreamTlsContextSchema, {
    requireClientCertificate: true,
    commonTlsContext: {
      tlsParams: {
        tlsMinimumProtocolVersion: TlsParameters_TlsProtocol.TLSv1_2,
        tlsMaximumProtocolVersion: TlsParameters_TlsProtocol.TLSv1_3,
      },
      tlsCertificateSdsSecretConfigs: OWN_CERTIFICATE,
      alpnProtocols,
      validationContextType: {
        case: "combinedValidationContext",
        value: {
          defaultValidationContext: {
            matchTypedSubjectAltNames: [
              {
                sanType: SubjectAltNameMatcher_SanType.URI,
                matcher: { matchPattern: { case: "prefix", value: `spiffe://${trustDomain}/` } },
              },
            ],
          },
          validationContextSdsSecretConfig: { name: "ROOTCA", sdsConfig: SDS },
        },
      },
    },
  });
}

export const RAW_BUFFER = filter("envoy.transport_sockets.raw_buffer", RawBufferSchema, create(RawBufferSchema, {}));
