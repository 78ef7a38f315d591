// X.509 certificates (RFC 5280) and PKCS#10 requests (RFC 2986) with P-256 keys, signed by ECDSA with SHA-256.
import { createPublicKey, generateKeyPairSync, type KeyObject, randomBytes, sign, verify } from "node:crypto";
import { isIP } from "node:net";
import {
  bits,
  boolean,
  type Der,
  explicit,
  implicit,
  integer,
  octets,
  oid,
  readDer,
  sequence,
  set,
  time,
  utf8,
} from "./der.ts";

/** Certificate and key of an authority or a server, as PEM. */
export interface Identity {
  readonly certificatePem: string;
  readonly keyPem: string;
}

export interface CertificateOptions {
  readonly commonName?: string;
  readonly organizations?: readonly string[];
  /** Names of the subject: IP addresses, `spiffe://` (any `scheme://`) URIs, otherwise DNS names. */
  readonly altNames?: readonly string[];
  readonly notBefore: Date;
  readonly notAfter: Date;
}

const ECDSA_SHA256 = sequence(oid("1.2.840.10045.4.3.2"));

/** A new P-256 key. */
export function newKey(): { privateKey: KeyObject; publicKey: KeyObject } {
  return generateKeyPairSync("ec", { namedCurve: "P-256" });
}

export function keyToPem(key: KeyObject): string {
  return String(key.export({ type: "pkcs8", format: "pem" }));
}

/** PEM text of a DER value. */
function toPem(label: string, der: Uint8Array): string {
  const lines =
    Buffer.from(der)
      .toString("base64")
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join("\n")}\n-----END ${label}-----\n`;
}

/** The first PEM block of `pem` as DER. */
export function fromPem(pem: string): Uint8Array {
  const body = /-----BEGIN [^-]+-----([^-]+)-----END/.exec(pem)?.[1];
  if (body === undefined) throw new Error("not a PEM block");
  return Buffer.from(body, "base64");
}

function name(options: { commonName?: string; organizations?: readonly string[] }): Der {
  const attribute = (id: string, value: string): Der => set(sequence(oid(id), utf8(value)));
  const organizations = (options.organizations ?? []).map((value) => attribute("2.5.4.10", value));
  const common = options.commonName === undefined ? [] : [attribute("2.5.4.3", options.commonName)];
  return sequence(...organizations, ...common);
}

function ipBytes(address: string): Uint8Array {
  if (isIP(address) === 4) return Uint8Array.from(address.split(".").map(Number));
  const [head = "", tail] = address.split("::");
  const words = (text: string): number[] =>
    text === "" ? [] : text.split(":").map((word) => Number.parseInt(word, 16));
  const left = words(head);
  const right = tail === undefined ? [] : words(tail);
  const all = [...left, ...new Array<number>(8 - left.length - right.length).fill(0), ...right];
  return Uint8Array.from(all.flatMap((word) => [word >> 8, word & 0xff]));
}

function altNames(names: readonly string[]): Der {
  return sequence(
    ...names.map((value) => {
      if (value.includes("://")) return implicit(6, Buffer.from(value));
      return isIP(value) === 0 ? implicit(2, Buffer.from(value)) : implicit(7, ipBytes(value));
    }),
  );
}

const extension = (id: string, isCritical: boolean, value: Der): Der =>
  sequence(oid(id), ...(isCritical ? [boolean(true)] : []), octets(value));

function spkiOf(key: KeyObject): Uint8Array {
  return key.export({ type: "spki", format: "der" });
}

function build(parts: {
  readonly options: CertificateOptions;
  readonly spki: Uint8Array;
  readonly issuer: Der;
  readonly signer: KeyObject;
  readonly isCa: boolean;
}): string {
  const { options, spki, issuer, signer, isCa } = parts;
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
  const usage = isCa ? bits(Uint8Array.of(0x06), 1) : bits(Uint8Array.of(0xa0), 5);
  const names = options.altNames ?? [];
  const hasSubject = options.commonName !== undefined || (options.organizations ?? []).length > 0;
  const extensions = [
    extension("2.5.29.19", true, isCa ? sequence(boolean(true)) : sequence()),
    extension("2.5.29.15", true, usage),
    ...(isCa ? [] : [extension("2.5.29.37", false, sequence(oid("1.3.6.1.5.5.7.3.1"), oid("1.3.6.1.5.5.7.3.2")))]),
    // RFC 5280, 4.2.1.6: critical when the subject is empty.
    ...(names.length === 0 ? [] : [extension("2.5.29.17", !hasSubject, altNames(names))]),
  ];
  const body = sequence(
    explicit(0, integer(Uint8Array.of(2))),
    integer(serial),
    ECDSA_SHA256,
    issuer,
    sequence(time(options.notBefore), time(options.notAfter)),
    name(options),
    spki,
    explicit(3, sequence(...extensions)),
  );
  return toPem("CERTIFICATE", sequence(body, ECDSA_SHA256, bits(sign("sha256", body, signer))));
}

/** A new self-signed authority. */
export function createAuthority(options: CertificateOptions): Identity {
  const { privateKey, publicKey } = newKey();
  const certificatePem = build({
    options,
    spki: spkiOf(publicKey),
    issuer: name(options),
    signer: privateKey,
    isCa: true,
  });
  return { certificatePem, keyPem: keyToPem(privateKey) };
}

/** The encoded subject of a certificate, to be used as issuer of what it signs. */
function subjectOf(certificatePem: string): Der {
  const [certificate] = readDer(fromPem(certificatePem));
  const [body] = readDer(certificate?.content ?? new Uint8Array());
  const fields = readDer(body?.content ?? new Uint8Array());
  // version [0], serial, algorithm, issuer, validity, subject
  const subject = fields[fields[0]?.tag === 0xa0 ? 5 : 4];
  if (subject === undefined) throw new Error("the authority's certificate has no subject");
  return subject.encoding;
}

/** Signs a certificate for `spki` (DER SubjectPublicKeyInfo). */
export function signCertificate(parts: {
  readonly options: CertificateOptions;
  readonly spki: Uint8Array;
  readonly authorityCertificatePem: string;
  readonly authorityKey: KeyObject;
}): string {
  const issuer = subjectOf(parts.authorityCertificatePem);
  return build({ options: parts.options, spki: parts.spki, issuer, signer: parts.authorityKey, isCa: false });
}

/** A new key with a certificate for it. */
export function issueIdentity(
  options: CertificateOptions,
  authority: { readonly certificatePem: string; readonly key: KeyObject },
): Identity {
  const { privateKey, publicKey } = newKey();
  const certificatePem = signCertificate({
    options,
    spki: spkiOf(publicKey),
    authorityCertificatePem: authority.certificatePem,
    authorityKey: authority.key,
  });
  return { certificatePem, keyPem: keyToPem(privateKey) };
}

/** A PKCS#10 request for `privateKey` that names `uri`. PEM. */
export function createSigningRequest(privateKey: KeyObject, uri: string): string {
  const requested = sequence(extension("2.5.29.17", true, altNames([uri])));
  const attributes = explicit(0, sequence(oid("1.2.840.113549.1.9.14"), set(requested)));
  const spki = spkiOf(createPublicKey(privateKey));
  const body = sequence(integer(Uint8Array.of(0)), name({}), spki, attributes);
  return toPem("CERTIFICATE REQUEST", sequence(body, ECDSA_SHA256, bits(sign("sha256", body, privateKey))));
}

/**
 * The public key (DER SubjectPublicKeyInfo) of a PKCS#10 request whose signature proves that the sender has its private key.
 * Throws when the request is malformed, the key too weak or the signature wrong.
 */
export function readSigningRequest(pem: string): Uint8Array {
  const [request] = readDer(fromPem(pem));
  const [body, , signature] = readDer(request?.content ?? new Uint8Array());
  if (body === undefined || signature === undefined || signature.tag !== 0x03) throw new Error("not a signing request");
  const spki = readDer(body.content)[2]?.encoding;
  if (spki === undefined) throw new Error("the signing request has no public key");
  const key = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
  const details = key.asymmetricKeyDetails;
  const isStrong =
    key.asymmetricKeyType === "ec" ? details?.namedCurve !== undefined : (details?.modulusLength ?? 0) >= 2048;
  if (!isStrong) throw new Error("the key of the signing request is too weak");
  if (!verify("sha256", body.encoding, key, signature.content.subarray(1))) {
    throw new Error("the signature of the signing request is wrong");
  }
  return spki;
}
