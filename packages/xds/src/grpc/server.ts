// A gRPC server over node:http2, thin on purpose: it hands out messages as bytes and takes framed bytes.
import {
  createSecureServer,
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import type { TLSSocket } from "node:tls";
import { errorText } from "@lateen/base";
import { FrameReader, FrameWriter, GrpcError, STATUS } from "./frames.ts";

const WINDOW_BYTES = 1 << 20;
const STREAMS_MAX = 10_000;
const PING_EVERY_MS = 30_000;
const PING_LIMIT_MS = 10_000;

/** One call, as its handler sees it. */
export interface ServerCall {
  readonly headers: IncomingHttpHeaders;
  /** Address of the peer. */
  readonly peer: string;
  /** URIs of the client certificate that TLS has verified. */
  readonly peerUris: readonly string[];
  /** Whether the call came over TLS. */
  readonly isSecure: boolean;
  /** Set by the handler: called for each message. */
  onMessage: (message: Buffer) => void;
  /** Set by the handler: called once when the call is over. */
  onClose: () => void;
  /** Sends a framed message. */
  send(frame: Buffer): void;
  /** Ends the call. */
  end(status: number, message?: string): void;
}

export type Handler = (call: ServerCall) => void;

export interface ServerTls {
  readonly certificatePem: string;
  readonly keyPem: string;
  readonly authorityPem: string;
}

function urisOf(socket: unknown): string[] {
  const tls = socket as Partial<TLSSocket>;
  if (tls.authorized !== true || tls.getPeerCertificate === undefined) return [];
  const names = tls.getPeerCertificate().subjectaltname ?? "";
  return names
    .split(", ")
    .filter((name) => name.startsWith("URI:"))
    .map((name) => name.slice("URI:".length));
}

export class GrpcServer {
  readonly #handlers: ReadonlyMap<string, Handler>;
  readonly #server: Http2Server;
  readonly #sessions = new Set<ServerHttp2Session>();
  readonly #isSecure: boolean;

  /** `handlers` by path, such as `/package.Service/Method`. */
  constructor(handlers: ReadonlyMap<string, Handler>, tls: ServerTls | undefined) {
    this.#handlers = handlers;
    this.#isSecure = tls !== undefined;
    const settings = { initialWindowSize: WINDOW_BYTES, maxConcurrentStreams: STREAMS_MAX };
    this.#server =
      tls === undefined
        ? createServer({ settings })
        : createSecureServer({
            settings,
            cert: tls.certificatePem,
            key: tls.keyPem,
            ca: tls.authorityPem,
            requestCert: true,
            rejectUnauthorized: false,
            minVersion: "TLSv1.2",
            allowHTTP1: false,
          });
    this.#server.on("session", (session) => this.#onSession(session));
    this.#server.on("stream", (stream, headers) => this.#onStream(stream as ServerHttp2Stream, headers));
    this.#server.on("sessionError", () => {});
  }

  #onSession(session: ServerHttp2Session): void {
    this.#sessions.add(session);
    session.setLocalWindowSize(WINDOW_BYTES);
    session.on("error", () => {});
    const ticker = setInterval(
      () => {
        const limit = setTimeout(() => session.destroy(), PING_LIMIT_MS);
        session.ping(() => clearTimeout(limit));
      },
      PING_EVERY_MS * (0.9 + Math.random() / 5),
    );
    session.once("close", () => {
      clearInterval(ticker);
      this.#sessions.delete(session);
    });
  }

  #onStream(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
    stream.on("error", () => {});
    const handler = this.#handlers.get(String(headers[":path"]));
    const isGrpc = String(headers["content-type"] ?? "").startsWith("application/grpc");
    if (handler === undefined || !isGrpc) {
      const status = isGrpc ? { "grpc-status": String(STATUS.unimplemented), "grpc-message": "unknown method" } : {};
      stream.respond(
        { ":status": isGrpc ? 200 : 415, "content-type": "application/grpc", ...status },
        { endStream: true },
      );
      return;
    }
    const socket = stream.session?.socket;
    const writer = new FrameWriter(stream);
    const reader = new FrameReader();
    let trailers: Record<string, string> = { "grpc-status": String(STATUS.ok) };
    let isOver = false;
    stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers(trailers));
    const call: ServerCall = {
      headers,
      peer: `${socket?.remoteAddress ?? "socket"}:${socket?.remotePort ?? 0}`,
      peerUris: urisOf(socket),
      isSecure: this.#isSecure,
      onMessage: () => {},
      onClose: () => {},
      send: (data) => {
        if (!isOver && !stream.destroyed) writer.send(data);
      },
      end: (status, message) => {
        if (isOver) return;
        isOver = true;
        trailers = {
          "grpc-status": String(status),
          ...(message === undefined ? {} : { "grpc-message": encodeURIComponent(message) }),
        };
        writer.whenIdle(() => stream.end());
      },
    };
    const fail = (error: unknown): void =>
      call.end(error instanceof GrpcError ? error.status : STATUS.unknown, errorText(error));
    stream.on("data", (chunk: Buffer) => {
      try {
        for (const message of reader.push(chunk)) if (!isOver) call.onMessage(message);
      } catch (error) {
        fail(error);
      }
    });
    stream.once("end", () => call.end(STATUS.ok));
    stream.once("close", () => {
      isOver = true;
      call.onClose();
    });
    try {
      handler(call);
    } catch (error) {
      fail(error);
    }
  }

  listen(where: { readonly path: string } | { readonly port: number; readonly host?: string }): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen({ ...where, backlog: 4096 }, () => resolve());
    });
  }

  /** Asks clients to go elsewhere, then ends what is left. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const session of this.#sessions) session.destroy();
    await closed;
  }
}
