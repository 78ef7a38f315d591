// Certificates and signing requests, checked by Node's own parser.
import assert from "node:assert/strict";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { test } from "node:test";
import {
  createAuthority,
  createSigningRequest,
  fromPem,
  issueIdentity,
  newKey,
  readSigningRequest,
  signCertificate,
} from "./index.ts";

const notBefore = new Date(Date.now() - 60_000);
const notAfter = new Date(Date.now() + 3_600_000);
const root = createAuthority({ organizations: ["cluster.local"], notBefore, notAfter });
const authority = { certificatePem: root.certificatePem, key: createPrivateKey(root.keyPem) };

test("a request is signed for its key and nothing else", () => {
  const { privateKey } = newKey();
  const spki = readSigningRequest(createSigningRequest(privateKey, "spiffe://elsewhere/ns/a/sa/b"));
  const pem = signCertificate({
    options: { altNames: ["spiffe://cluster.local/ns/default/sa/x"], notBefore, notAfter },
    spki,
    authorityCertificatePem: root.certificatePem,
    authorityKey: authority.key,
  });
  const certificate = new X509Certificate(pem);
  assert.equal(certificate.subjectAltName, "URI:spiffe://cluster.local/ns/default/sa/x");
  assert.ok(certificate.checkPrivateKey(privateKey));
  assert.ok(certificate.verify(new X509Certificate(root.certificatePem).publicKey));
  assert.equal(certificate.ca, false);
});

test("a request with a wrong signature, or that is none, is refused", () => {
  const pem = createSigningRequest(newKey().privateKey, "spiffe://cluster.local/ns/a/sa/b");
  const der = Buffer.from(fromPem(pem));
  der[der.length - 3] = (der[der.length - 3] ?? 0) ^ 1;
  assert.throws(() => readSigningRequest(`-----BEGIN X-----\n${der.toString("base64")}\n-----END X-----\n`));
  assert.throws(() => readSigningRequest("hello"), /not a PEM block/);
  assert.throws(() => readSigningRequest("-----BEGIN X-----\nMAA=\n-----END X-----\n"));
});

test("addresses, names and URIs become alternative names", () => {
  const { certificatePem } = issueIdentity(
    { commonName: "server", altNames: ["10.96.0.1", "fd00::1", "istiod.istio-system.svc"], notBefore, notAfter },
    authority,
  );
  assert.equal(
    new X509Certificate(certificatePem).subjectAltName,
    "IP Address:10.96.0.1, IP Address:FD00:0:0:0:0:0:0:1, DNS:istiod.istio-system.svc",
  );
  assert.equal(new X509Certificate(certificatePem).subject, "CN=server");
});
