// Content hashes: versions of xDS resources, names of revisions.
import { createHash } from "node:crypto";

/** 16 hexadecimal digits of the SHA-256 of `content`. */
export function contentHash(content: string | Uint8Array): string {
  return createHash("sha256").update(content).digest("hex").slice(0, 16);
}
