// SPDY/3.1, the server's side of one connection: what kubectl before 1.30 and other clients speak for exec, attach and
// port-forward, and what newer ones send inside a WebSocket for port-forward. Only what they use: streams with headers, data,
// half-closing, resets and pings. (Draft 3.1 of the protocol; flow control is left to the connection below, as clients do.)
import { Duplex } from "node:stream";
import { constants, createDeflate, createInflate, type Deflate, type Inflate } from "node:zlib";

const SYN_STREAM = 1;
const SYN_REPLY = 2;
const RST_STREAM = 3;
const PING = 6;
const GOAWAY = 7;
const FIN = 1;
const CANCEL = 5;
const VERSION = 0x8003;
const FRAME_BYTES_MAX = 1 << 24;
const DATA_BYTES = 1 << 15;
const STREAMS_MAX = 1000;

/** The dictionary of header blocks (section 2.6.10.1): words with their length, then a text. */
const WORDS =
  "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow " +
  "authorization cache-control connection content-base content-encoding content-language content-length content-location " +
  "content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match " +
  "if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range " +
  "referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get " +
  "status";
const MORE_WORDS = ["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"];
const TEXT =
  "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information" +
  "204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error" +
  "501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, " +
  "Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain," +
  "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

function withLength(text: string): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(Buffer.byteLength(text));
  return Buffer.concat([length, Buffer.from(text)]);
}

const DICTIONARY = Buffer.concat([...[...WORDS.split(" "), ...MORE_WORDS].map(withLength), Buffer.from(TEXT)]);

/** Feeds one header block through a compressor that lives as long as the connection. */
function through(codec: Inflate | Deflate, parts: Buffer[], block: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    codec.once("error", reject);
    codec.write(block, () =>
      codec.flush(constants.Z_SYNC_FLUSH, () =>
        setImmediate(() => {
          codec.off("error", reject);
          resolve(Buffer.concat(parts.splice(0)));
        }),
      ),
    );
  });
}

function parseHeaders(block: Buffer): Map<string, string> {
  const headers = new Map<string, string>();
  let at = 4;
  const read = (): string => {
    const length = block.readUInt32BE(at);
    const text = block.toString("utf8", at + 4, at + 4 + length);
    at += 4 + length;
    return text;
  };
  for (let left = block.readUInt32BE(0); left > 0; left--) {
    const name = read();
    headers.set(name.toLowerCase(), read());
  }
  return headers;
}

/** One stream. Writing sends data, `end` half-closes, `destroy` resets. */
export class SpdyStream extends Duplex {
  readonly id: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly #session: SpdySession;

  constructor(session: SpdySession, id: number, headers: ReadonlyMap<string, string>) {
    super({ allowHalfOpen: true });
    this.#session = session;
    this.id = id;
    this.headers = headers;
    this.on("error", () => {});
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    for (let at = 0; at < chunk.length; at += DATA_BYTES)
      this.#session.sendData(this.id, chunk.subarray(at, at + DATA_BYTES), 0);
    this.#session.whenWritable(done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#session.sendData(this.id, Buffer.alloc(0), FIN);
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.writableFinished) this.#session.reset(this.id);
    this.#session.forget(this.id);
    done(error);
  }
}

export class SpdySession {
  readonly #transport: Duplex;
  readonly #onStream: (stream: SpdyStream) => void;
  readonly #streams = new Map<number, SpdyStream>();
  readonly #inflate = createInflate({ dictionary: DICTIONARY });
  readonly #inflated: Buffer[] = [];
  readonly #deflate = createDeflate({ dictionary: DICTIONARY });
  readonly #deflated: Buffer[] = [];
  #rest: Buffer = Buffer.alloc(0);
  #work: Promise<void> = Promise.resolve();

  /** Takes the connection over; `onStream` is called for each stream that the client opens. */
  constructor(transport: Duplex, onStream: (stream: SpdyStream) => void) {
    this.#transport = transport;
    this.#onStream = onStream;
    this.#inflate.on("data", (part: Buffer) => this.#inflated.push(part));
    this.#deflate.on("data", (part: Buffer) => this.#deflated.push(part));
    transport.on("data", (data: Buffer) => {
      this.#work = this.#work.then(() => this.#feed(data)).catch(() => this.close());
    });
    transport.once("close", () => this.close());
    transport.on("error", () => this.close());
  }

  close(): void {
    for (const stream of this.#streams.values()) stream.destroy();
    this.#streams.clear();
    this.#inflate.close();
    this.#deflate.close();
    if (!this.#transport.destroyed) this.#transport.end();
  }

  /** Calls back when what was written has left this process's buffers enough to take more. */
  whenWritable(done: () => void): void {
    if (this.#transport.writableNeedDrain) this.#transport.once("drain", done);
    else done();
  }

  #write(...parts: readonly Buffer[]): void {
    if (this.#transport.writable) this.#transport.write(Buffer.concat(parts));
  }

  #sendControl(type: number, flags: number, body: Buffer): void {
    const head = Buffer.alloc(8);
    head.writeUInt16BE(VERSION, 0);
    head.writeUInt16BE(type, 2);
    head.writeUInt32BE(body.length, 4);
    head[4] = flags;
    this.#write(head, body);
  }

  sendData(id: number, data: Buffer, flags: number): void {
    const head = Buffer.alloc(8);
    head.writeUInt32BE(id, 0);
    head.writeUInt32BE(data.length, 4);
    head[4] = flags;
    this.#write(head, data);
  }

  reset(id: number): void {
    const body = Buffer.alloc(8);
    body.writeUInt32BE(id, 0);
    body.writeUInt32BE(CANCEL, 4);
    this.#sendControl(RST_STREAM, 0, body);
  }

  forget(id: number): void {
    this.#streams.delete(id);
  }

  async #feed(data: Buffer): Promise<void> {
    this.#rest = this.#rest.length === 0 ? data : Buffer.concat([this.#rest, data]);
    while (this.#rest.length >= 8) {
      const length = this.#rest.readUIntBE(5, 3);
      if (length > FRAME_BYTES_MAX) throw new Error("the frame is too large");
      if (this.#rest.length < 8 + length) return;
      const head = this.#rest.subarray(0, 8);
      const body = this.#rest.subarray(8, 8 + length);
      this.#rest = this.#rest.subarray(8 + length);
      if ((head[0] ?? 0) & 0x80) await this.#control(head.readUInt16BE(2), head[4] ?? 0, body);
      else this.#data(head.readUInt32BE(0), head[4] ?? 0, body);
    }
  }

  #data(id: number, flags: number, body: Buffer): void {
    const stream = this.#streams.get(id);
    if (stream === undefined) return;
    if (body.length > 0) stream.push(Buffer.from(body));
    if (flags & FIN) stream.push(null);
  }

  async #control(type: number, flags: number, body: Buffer): Promise<void> {
    if (type === SYN_STREAM) {
      const id = body.readUInt32BE(0) & 0x7fffffff;
      if (this.#streams.size >= STREAMS_MAX) throw new Error("there are too many streams");
      const headers = parseHeaders(await through(this.#inflate, this.#inflated, body.subarray(10)));
      const stream = new SpdyStream(this, id, headers);
      this.#streams.set(id, stream);
      const reply = Buffer.alloc(4);
      reply.writeUInt32BE(id);
      this.#sendControl(
        SYN_REPLY,
        0,
        Buffer.concat([reply, await through(this.#deflate, this.#deflated, Buffer.alloc(4))]),
      );
      if (flags & FIN) stream.push(null);
      this.#onStream(stream);
    } else if (type === RST_STREAM) {
      this.#streams.get(body.readUInt32BE(0))?.destroy();
    } else if (type === PING) this.#sendControl(PING, 0, body);
    else if (type === GOAWAY) this.close();
  }
}
