// gRPC messages on an HTTP/2 stream: a flag byte, four bytes of length, the message.
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

/** Messages above this are refused: nothing that a proxy sends comes near. */
const MESSAGE_BYTES_MAX = 16 << 20;
/** TLS copies what is written: in slices of this size a stalled reader parks little memory. */
const SLICE_BYTES = 65_536;
const HEAD_BYTES = 5;

/** gRPC status codes that we use. https://grpc.github.io/grpc/core/md_doc_statuscodes.html */
export const STATUS = {
  ok: 0,
  cancelled: 1,
  unknown: 2,
  invalidArgument: 3,
  permissionDenied: 7,
  unimplemented: 12,
  unavailable: 14,
  unauthenticated: 16,
} as const;

/** A refusal or end that is no success, with its gRPC status. */
export class GrpcError extends Error {
  override readonly name = "GrpcError";
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** Prefixes a message. Takes its parts so that shared bytes are copied once. */
export function frame(...parts: readonly Uint8Array[]): Buffer {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const buffer = Buffer.allocUnsafe(HEAD_BYTES + length);
  buffer[0] = 0;
  buffer.writeUInt32BE(length, 1);
  let at = HEAD_BYTES;
  for (const part of parts) {
    buffer.set(part, at);
    at += part.length;
  }
  return buffer;
}

/** Cuts a byte stream into messages: several in one chunk, one over several. */
export class FrameReader {
  #rest: Buffer = Buffer.alloc(0);

  /** The messages that `chunk` completes. Throws GrpcError for what cannot be read. */
  push(chunk: Buffer): Buffer[] {
    let data = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const messages: Buffer[] = [];
    while (data.length >= HEAD_BYTES) {
      if (data[0] !== 0) throw new GrpcError(STATUS.unimplemented, "compressed messages are not supported");
      const length = data.readUInt32BE(1);
      if (length > MESSAGE_BYTES_MAX)
        throw new GrpcError(STATUS.invalidArgument, `a message of ${length} bytes is too large`);
      if (data.length < HEAD_BYTES + length) break;
      messages.push(data.subarray(HEAD_BYTES, HEAD_BYTES + length));
      data = data.subarray(HEAD_BYTES + length);
    }
    this.#rest = Buffer.from(data);
    return messages;
  }
}

interface Writable {
  readonly destroyed: boolean;
  write(chunk: Uint8Array, done: () => void): boolean;
}

/** Writes frames one after the other, in slices, one write in flight. */
export class FrameWriter {
  readonly #stream: Writable;
  readonly #queue: Buffer[] = [];
  #current: Buffer | undefined;
  #offset = 0;
  #onIdle: (() => void) | undefined;

  constructor(stream: Writable) {
    this.#stream = stream;
  }

  send(data: Buffer): void {
    if (this.#current !== undefined) {
      this.#queue.push(data);
      return;
    }
    this.#current = data;
    this.#offset = 0;
    this.#next();
  }

  /** Calls `done` when everything has been handed over. */
  whenIdle(done: () => void): void {
    if (this.#current === undefined) done();
    else this.#onIdle = done;
  }

  readonly #next = (): void => {
    if (this.#stream.destroyed) return;
    if (this.#current === undefined) {
      this.#onIdle?.();
      return;
    }
    const end = Math.min(this.#current.length, this.#offset + SLICE_BYTES);
    const part = this.#current.subarray(this.#offset, end);
    if (end === this.#current.length) {
      this.#current = this.#queue.shift();
      this.#offset = 0;
    } else this.#offset = end;
    this.#stream.write(part, this.#next);
  };
}
