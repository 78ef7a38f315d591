// The mesh's certificate authority: a self-signed root, and short-lived certificates for workloads.
import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { Failure } from "@lateen/base";
import { createAuthority, type Identity, issueIdentity, readSigningRequest, signCertificate } from "@lateen/x509";

const DAY_MS = 86_400_000;
const ROOT_DAYS = 3650;
/** Clocks differ: certificates are valid from a little before now. */
const BACKDATE_MS = 120_000;
/** How long workload certificates live, unless less is asked for. */
export const WORKLOAD_TTL_SECONDS = 86_400;
const TTL_SECONDS_MIN = 10;

/** A new self-signed root for a trust domain. */
export function createRoot(trustDomain: string): Identity {
  const now = Date.now();
  return createAuthority({
    organizations: [trustDomain],
    notBefore: new Date(now - BACKDATE_MS),
    notAfter: new Date(now + ROOT_DAYS * DAY_MS),
  });
}

export class Authority {
  readonly rootPem: string;
  readonly #key: KeyObject;

  /** Throws Failure when certificate and key do not belong together or the certificate is over. */
  constructor(root: Identity) {
    this.rootPem = root.certificatePem;
    this.#key = createPrivateKey(root.keyPem);
    const certificate = new X509Certificate(root.certificatePem);
    if (!certificate.checkPrivateKey(this.#key))
      throw new Failure(
        "the mesh root's certificate and key do not belong together",
        "Look at Secret istio-ca-secret in the root namespace.",
      );
    if (Date.parse(certificate.validTo) < Date.now())
      throw new Failure(
        `the mesh root expired on ${certificate.validTo}`,
        "Replace Secret istio-ca-secret in the root namespace.",
      );
  }

  /** Signs a request for an identity. The caller has authenticated it; what the request itself names is not looked at. */
  sign(requestPem: string, spiffeId: string, ttlSeconds: number): string {
    const spki = readSigningRequest(requestPem);
    const now = Date.now();
    const life = Math.min(Math.max(ttlSeconds, TTL_SECONDS_MIN), WORKLOAD_TTL_SECONDS);
    const options = {
      altNames: [spiffeId],
      notBefore: new Date(now - BACKDATE_MS),
      notAfter: new Date(now + life * 1000),
    };
    return signCertificate({ options, spki, authorityCertificatePem: this.rootPem, authorityKey: this.#key });
  }

  /** A server certificate for the control plane itself. */
  issueServer(names: readonly string[], spiffeId: string): Identity {
    const now = Date.now();
    const options = {
      altNames: [spiffeId, ...names],
      notBefore: new Date(now - BACKDATE_MS),
      notAfter: new Date(now + 365 * DAY_MS),
    };
    return issueIdentity(options, { certificatePem: this.rootPem, key: this.#key });
  }
}
