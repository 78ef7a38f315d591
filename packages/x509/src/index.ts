// X.509 certificates, keys and signing requests.
export {
  type CertificateOptions,
  createAuthority,
  createSigningRequest,
  fromPem,
  type Identity,
  issueIdentity,
  keyToPem,
  newKey,
  readSigningRequest,
  signCertificate,
} from "./certificate.ts";
