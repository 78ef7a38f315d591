// The client's half: one HTTP/2 connection, streaming and unary calls with bytes in and out.
import { type ClientHttp2Session, connect as connectHttp2 } from "node:http2";
import { connect as connectSocket } from "node:net";
import { connect as connectTls } from "node:tls";
import { FrameReader, FrameWriter, frame, GrpcError, STATUS } from "./frames.ts";

const WINDOW_BYTES = 1 << 20;

/** Where to connect. */
export type GrpcTarget =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "plain"; readonly host: string; readonly port: number }
  | {
      readonly kind: "tls";
      readonly host: string;
      readonly port: number;
      readonly authorityPem: string;
      readonly servername: string;
    };

export interface ClientCall {
  onMessage: (message: Buffer) => void;
  /** Called once; with status 0 when the server ended the call well. */
  onClose: (error: GrpcError) => void;
  send(frame: Buffer): void;
  cancel(): void;
}

function session(target: GrpcTarget): ClientHttp2Session {
  const settings = { initialWindowSize: WINDOW_BYTES };
  if (target.kind === "tls") {
    const { host, port, authorityPem, servername } = target;
    const createConnection = () =>
      connectTls({ host, port, ca: authorityPem, servername, ALPNProtocols: ["h2"], minVersion: "TLSv1.2" });
    return connectHttp2(`https://${servername}:${port}`, { settings, createConnection });
  }
  const createConnection = () =>
    target.kind === "unix" ? connectSocket(target.path) : connectSocket(target.port, target.host);
  return connectHttp2("http://localhost", { settings, createConnection });
}

export class GrpcClient {
  readonly #session: ClientHttp2Session;

  constructor(target: GrpcTarget) {
    this.#session = session(target);
    this.#session.on("error", () => {});
    this.#session.on("connect", () => this.#session.setLocalWindowSize(WINDOW_BYTES));
  }

  get isClosed(): boolean {
    return this.#session.closed || this.#session.destroyed;
  }

  /** Opens a streaming call. */
  open(path: string, headers: Readonly<Record<string, string>> = {}): ClientCall {
    const stream = this.#session.request({
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc",
      te: "trailers",
      ...headers,
    });
    const writer = new FrameWriter(stream);
    const reader = new FrameReader();
    let status = new GrpcError(STATUS.unavailable, "the connection was lost");
    let isOver = false;
    const call: ClientCall = {
      onMessage: () => {},
      onClose: () => {},
      send: (data) => {
        if (!isOver) writer.send(data);
      },
      cancel: () => stream.close(),
    };
    const note = (fields: Record<string, unknown>): void => {
      if (fields["grpc-status"] === undefined) return;
      status = new GrpcError(Number(fields["grpc-status"]), decodeURIComponent(String(fields["grpc-message"] ?? "")));
    };
    stream.on("response", (fields) => {
      note(fields);
      if (fields[":status"] !== 200) status = new GrpcError(STATUS.unavailable, `HTTP status ${fields[":status"]}`);
    });
    stream.on("trailers", note);
    stream.on("data", (chunk: Buffer) => {
      try {
        for (const message of reader.push(chunk)) if (!isOver) call.onMessage(message);
      } catch (error) {
        if (error instanceof GrpcError) status = error;
        stream.close();
      }
    });
    stream.on("error", (error: Error) => {
      status = new GrpcError(STATUS.unavailable, error.message);
    });
    // The server has ended the call: so do we, else the stream would stay half open.
    stream.once("end", () => stream.end());
    stream.once("close", () => {
      isOver = true;
      call.onClose(status);
    });
    return call;
  }

  /** One request, one answer. Rejects with GrpcError. */
  unary(
    path: string,
    message: Uint8Array,
    headers: Readonly<Record<string, string>>,
    timeoutMs: number,
  ): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const call = this.open(path, headers);
      const timer = setTimeout(() => {
        call.cancel();
        reject(new GrpcError(STATUS.unavailable, `no answer within ${timeoutMs} ms`));
      }, timeoutMs);
      let answer: Buffer | undefined;
      call.onMessage = (data) => {
        answer = Buffer.from(data);
        clearTimeout(timer);
        resolve(answer);
        call.cancel();
      };
      call.onClose = (error) => {
        clearTimeout(timer);
        if (answer === undefined) reject(error);
      };
      call.send(frame(message));
    });
  }

  close(): void {
    this.#session.destroy();
  }
}
