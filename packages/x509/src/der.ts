// ASN.1 DER (X.690): the writer and reader that certificates and signing requests need, no more.

/** One encoded value. */
export type Der = Uint8Array;

function tagged(tag: number, content: Uint8Array): Der {
  const length = content.length;
  const head =
    length < 0x80 ? [tag, length] : length < 0x100 ? [tag, 0x81, length] : [tag, 0x82, length >> 8, length & 0xff];
  return Buffer.concat([Uint8Array.from(head), content]);
}

export const sequence = (...items: readonly Der[]): Der => tagged(0x30, Buffer.concat(items));
export const set = (...items: readonly Der[]): Der => tagged(0x31, Buffer.concat(items));
export const octets = (content: Uint8Array): Der => tagged(0x04, content);
export const bits = (content: Uint8Array, unused = 0): Der =>
  tagged(0x03, Buffer.concat([Uint8Array.of(unused), content]));
export const boolean = (value: boolean): Der => tagged(0x01, Uint8Array.of(value ? 0xff : 0));
export const utf8 = (text: string): Der => tagged(0x0c, Buffer.from(text, "utf8"));
/** Context-specific [n], constructed. */
export const explicit = (n: number, ...items: readonly Der[]): Der => tagged(0xa0 | n, Buffer.concat(items));
/** Context-specific [n], primitive. */
export const implicit = (n: number, content: Uint8Array): Der => tagged(0x80 | n, content);

/** An unsigned integer from big-endian bytes. */
export function integer(bytes: Uint8Array): Der {
  let start = 0;
  while (start < bytes.length - 1 && bytes[start] === 0) start++;
  const body = bytes.subarray(start);
  const needsZero = ((body[0] ?? 0) & 0x80) !== 0;
  return tagged(0x02, needsZero ? Buffer.concat([Uint8Array.of(0), body]) : body);
}

/** An object identifier in dotted form. */
export function oid(dotted: string): Der {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number);
  const bytes: number[] = [first * 40 + second];
  for (const arc of rest) {
    const groups = [arc & 0x7f];
    for (let high = Math.floor(arc / 128); high > 0; high = Math.floor(high / 128))
      groups.unshift((high & 0x7f) | 0x80);
    bytes.push(...groups);
  }
  return tagged(0x06, Uint8Array.from(bytes));
}

/** UTCTime until 2049, GeneralizedTime after (RFC 5280, 4.1.2.5). */
export function time(date: Date): Der {
  const text = date.toISOString().replaceAll(/[-:T]/g, "").slice(0, 14);
  return date.getUTCFullYear() < 2050
    ? tagged(0x17, Buffer.from(`${text.slice(2)}Z`))
    : tagged(0x18, Buffer.from(`${text}Z`));
}

/** One value as read: tag, content, the whole encoding, and where the next one starts. */
export interface DerNode {
  readonly tag: number;
  readonly content: Uint8Array;
  readonly encoding: Uint8Array;
}

/** Reads the values that lie one after the other in `bytes`. Throws on anything malformed. */
export function readDer(bytes: Uint8Array): DerNode[] {
  const nodes: DerNode[] = [];
  let at = 0;
  while (at < bytes.length) {
    const start = at;
    const tag = bytes[at++] ?? 0;
    let length = bytes[at++] ?? 0;
    if (length >= 0x80) {
      const count = length & 0x7f;
      if (count === 0 || count > 3) throw new Error("DER: unsupported length");
      length = 0;
      for (let i = 0; i < count; i++) length = length * 256 + (bytes[at++] ?? 0);
    }
    if (at + length > bytes.length) throw new Error("DER: value is cut short");
    nodes.push({ tag, content: bytes.subarray(at, at + length), encoding: bytes.subarray(start, at + length) });
    at += length;
  }
  return nodes;
}
