// security.istio.io: PeerAuthentication. https://istio.io/latest/docs/reference/config/security/peer_authentication/
import type { CustomKind } from "./kind.ts";
import { described, type Infer, mapOf, object, oneOfTexts, optional, text } from "./schema.ts";

const mode = oneOfTexts("UNSET", "DISABLE", "PERMISSIVE", "STRICT");

const peerAuthenticationSpec = object({
  selector: optional(object({ matchLabels: optional(mapOf(text)) })),
  mtls: optional(
    object({
      mode: optional(
        described("What a workload accepts: plaintext (DISABLE), both (PERMISSIVE), mTLS only (STRICT).", mode),
      ),
    }),
  ),
});
export type PeerAuthenticationSpec = Infer<typeof peerAuthenticationSpec>;

export const PEER_AUTHENTICATION: CustomKind<PeerAuthenticationSpec> = {
  group: "security.istio.io",
  versions: ["v1", "v1beta1"],
  kind: "PeerAuthentication",
  plural: "peerauthentications",
  shortNames: ["pa"],
  printer: [
    {
      name: "Mode",
      type: "string",
      jsonPath: ".spec.mtls.mode",
      description: "Defines the mTLS mode used for peer authentication.",
    },
  ],
  spec: peerAuthenticationSpec,
};
