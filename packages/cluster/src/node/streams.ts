// exec, attach and port-forward: bytes between a client and a container, over WebSocket or SPDY. The protocols are Kubernetes'
// remote command (v4 and v5.channel.k8s.io) and port-forward; kubectl uses WebSockets from 1.30, others and older ones SPDY.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { createServer, type Socket } from "node:net";
import { Duplex, type Readable, type Writable } from "node:stream";
import { WebSocket, WebSocketServer } from "ws";
import { ApiError, badRequest } from "../api/errors.ts";
import type { SandboxCommand } from "../sandbox/client.ts";
import { SpdySession, type SpdyStream } from "./spdy.ts";

/** A request to be taken over. */
export interface Upgrade {
  readonly request: IncomingMessage;
  readonly socket: Duplex;
  readonly head: Buffer;
}

/** WebSocket channels of the remote command protocol. 255 (v5): the client has closed the channel that follows. */
const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 } as const;
const COMMAND_PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const TUNNEL_PROTOCOL = "SPDY/3.1+portforward.k8s.io";
/** How long a SPDY client may take to open its streams. */
const STREAMS_LIMIT_MS = 30_000;

export interface CommandStreams {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
}

/** The client's end of a remote command. */
interface Remote {
  readonly stdin: Readable | undefined;
  readonly stdout: Writable | undefined;
  readonly stderr: Writable | undefined;
  readonly onResize: (listener: (line: string) => void) => void;
  /** Tells how it ended, and closes. */
  finish(status: Record<string, unknown>): void;
  readonly onClose: (listener: () => void) => void;
}

export function streamsOf(query: URLSearchParams): CommandStreams {
  const is = (name: string): boolean => query.get(name) === "true" || query.get(name) === "1";
  return { stdin: is("stdin"), stdout: is("stdout"), stderr: is("stderr") && !is("tty"), tty: is("tty") };
}

/** The Status that ends a remote command. */
function exitStatus(code: number): Record<string, unknown> {
  if (code === 0) return { metadata: {}, status: "Success" };
  return {
    metadata: {},
    status: "Failure",
    message: `command terminated with non-zero exit code: exit status ${code}`,
    reason: "NonZeroExitCode",
    details: { causes: [{ reason: "ExitCode", message: String(code) }] },
  };
}

const sockets = new WebSocketServer({ noServer: true });
/** The protocol chosen for a request. `SPDY/3.1+...` has a character that RFC 6455 does not allow: it is not for `ws` to read. */
const protocols = new WeakMap<IncomingMessage, string>();
sockets.on("headers", (lines, request) => {
  lines.push(`Sec-WebSocket-Protocol: ${protocols.get(request)}`);
});

const isSpdy = (request: IncomingMessage): boolean => /^spdy\/3\.1$/i.test(String(request.headers.upgrade ?? ""));

/** Accepts a WebSocket with the best of the protocols that the client offers. */
function openWebSocket({ request, socket, head }: Upgrade): Promise<{ socket: WebSocket; protocol: string }> {
  const { "sec-websocket-protocol": header = "", ...others } = request.headers;
  const offered = header.split(",").map((name) => name.trim());
  const protocol = [...COMMAND_PROTOCOLS, TUNNEL_PROTOCOL].find((name) => offered.includes(name));
  if (protocol === undefined)
    throw badRequest(
      `unable to upgrade: none of ${header || "(no protocol)"} is one of ${COMMAND_PROTOCOLS.join(", ")}`,
    );
  request.headers = others;
  protocols.set(request, protocol);
  return new Promise((resolve) =>
    sockets.handleUpgrade(request, socket, head, (opened) => resolve({ socket: opened, protocol })),
  );
}

/** Answers 101 and starts SPDY on the socket. `protocols` are those of the server, best first. */
function openSpdy(upgrade: Upgrade, protocols: readonly string[], onStream: (stream: SpdyStream) => void): SpdySession {
  const { request, socket, head } = upgrade;
  const offered = [request.headers["x-stream-protocol-version"] ?? []].flat().flatMap((text) => text.split(/,\s*/));
  const chosen = protocols.find((name) => offered.includes(name));
  if (chosen === undefined)
    throw new ApiError(
      403,
      "Forbidden",
      `unable to upgrade: unable to negotiate protocol: client supports ${offered.join(", ")}`,
    );
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: ${chosen}\r\n\r\n`,
  );
  const session = new SpdySession(socket, onStream);
  if (head.length > 0) socket.unshift(head);
  return session;
}

/** A remote command over a WebSocket: every message begins with the number of its channel. */
function webSocketRemote(socket: WebSocket, streams: CommandStreams): Remote {
  const stdin = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() });
  const send = (channel: number, data: Buffer, done: () => void): void => {
    if (socket.readyState === WebSocket.OPEN) socket.send(Buffer.concat([Buffer.of(channel), data]), () => done());
    else done();
  };
  const output = (channel: number): Duplex =>
    new Duplex({ read() {}, write: (chunk: Buffer, _encoding, done) => send(channel, chunk, done) });
  let onResize: (line: string) => void = () => {};
  socket.on("message", (data: Buffer) => {
    const [channel] = data;
    if (channel === CHANNEL.stdin) stdin.push(data.subarray(1));
    else if (channel === CHANNEL.resize) onResize(data.subarray(1).toString("utf8").trim());
    else if (channel === CHANNEL.close && data[1] === CHANNEL.stdin) stdin.push(null);
  });
  socket.on("error", () => socket.terminate());
  return {
    stdin: streams.stdin ? stdin : undefined,
    stdout: streams.stdout ? output(CHANNEL.stdout) : undefined,
    stderr: streams.stderr ? output(CHANNEL.stderr) : undefined,
    onResize: (listener) => {
      onResize = listener;
    },
    finish: (status) => {
      send(CHANNEL.error, Buffer.from(JSON.stringify(status)), () => socket.close(1000));
    },
    onClose: (listener) => void socket.once("close", listener),
  };
}

/** A remote command over SPDY: the client opens one stream for each direction, named by its header. */
function spdyRemote(upgrade: Upgrade, streams: CommandStreams): Promise<Remote> {
  const wanted = new Set([
    "error",
    ...(["stdin", "stdout", "stderr"] as const).filter((name) => streams[name]),
    ...(streams.tty ? ["resize"] : []),
  ]);
  return new Promise((resolve, reject) => {
    const found = new Map<string, SpdyStream>();
    const timer = setTimeout(() => {
      session.close();
      reject(new Error("the client did not open its streams"));
    }, STREAMS_LIMIT_MS);
    const session = openSpdy(upgrade, ["v4.channel.k8s.io"], (stream) => {
      found.set(stream.headers.get("streamtype") ?? "", stream);
      if (![...wanted].every((name) => found.has(name))) return;
      clearTimeout(timer);
      resolve({
        stdin: found.get("stdin"),
        stdout: found.get("stdout"),
        stderr: found.get("stderr"),
        onResize: (listener) =>
          found.get("resize")?.on("data", (data: Buffer) => listener(data.toString("utf8").trim())),
        finish: (status) => {
          found.get("error")?.end(JSON.stringify(status));
          for (const name of ["stdout", "stderr"]) found.get(name)?.end();
          setImmediate(() => session.close());
        },
        onClose: (listener) => void upgrade.socket.once("close", listener),
      });
    });
  });
}

async function openRemote(upgrade: Upgrade, streams: CommandStreams): Promise<Remote> {
  return isSpdy(upgrade.request)
    ? spdyRemote(upgrade, streams)
    : webSocketRemote((await openWebSocket(upgrade)).socket, streams);
}

/** Runs a helper process (sandbox.py exec) for the client: its streams are the command's, its exit code too. */
export async function serveCommand(
  upgrade: Upgrade,
  streams: CommandStreams,
  start: () => ChildProcess,
): Promise<void> {
  const remote = await openRemote(upgrade, streams);
  const child = start();
  const { stdin, stdout, stderr } = child;
  const control = child.stdio[3] as Duplex;
  for (const stream of [stdin, control]) stream?.on("error", () => {});
  let failure = "";
  control.on("data", (text: Buffer) => {
    failure += text.toString("utf8");
  });
  if (remote.stdin === undefined) stdin?.end();
  else if (stdin !== null) remote.stdin.pipe(stdin);
  forward(stdout, remote.stdout);
  forward(stderr, remote.stderr);
  remote.onResize((line) => control.write(`${line}\n`));
  remote.onClose(() => child.kill("SIGKILL"));
  await new Promise<void>((resolve) => {
    child.once("error", () => resolve());
    remote.onClose(resolve);
    child.once("close", (code, signal) => {
      const status = failure === "" ? exitStatus(code ?? (signal === null ? 1 : 137)) : startFailure(failure);
      void flushed(remote)
        .then(() => remote.finish(status))
        .finally(resolve);
    });
  });
}

/** Waits until the client has been sent all that was written for it. */
async function flushed({ stdout, stderr }: Remote): Promise<void> {
  const outputs = [stdout, stderr].filter((output) => output !== undefined);
  await Promise.all(outputs.map((output) => new Promise((resolve) => output.end(resolve))));
}

/** The Status for a command that could not be started. */
function startFailure(why: string): Record<string, unknown> {
  const message = `error executing command in container: failed to exec in container: failed to start exec: ${why}`;
  return new ApiError(500, "InternalError", `Internal error occurred: Internal error occurred: ${message}`, {
    causes: [{ message }],
  }).toStatus();
}

function forward(from: Readable | null, to: Writable | undefined): void {
  if (from === null) return;
  if (to === undefined) from.resume();
  else from.pipe(to, { end: false });
}

/** Numbers of the outputs in the frames that PID 1 sends to an attached client: one byte, four of the length, the bytes. */
const FRAME = { stdout: 1, stderr: 2, head: 5 } as const;
let attachments = 0;

/**
 * Joins a client to a running container. `attach` has PID 1 connect to the socket at a path, `resize` sets the size of the
 * container's terminal.
 */
export async function serveAttach(
  upgrade: Upgrade,
  streams: CommandStreams,
  attach: (path: string) => Promise<void>,
  resize: (rows: number, columns: number) => void,
): Promise<void> {
  const path = `/run/lateen/attach-${++attachments}.sock`;
  const server = createServer();
  try {
    const joined = once(server, "connection") as Promise<[Socket]>;
    server.listen(path);
    await once(server, "listening");
    await attach(path);
    const [container] = await joined;
    container.on("error", () => container.destroy());
    const remote = await openRemote(upgrade, streams);
    const outputs = new Map([
      [FRAME.stdout as number, remote.stdout],
      // A terminal has one output.
      [FRAME.stderr as number, remote.stderr],
    ]);
    let rest = Buffer.alloc(0);
    container.on("data", (data: Buffer) => {
      rest = Buffer.concat([rest, data]);
      while (rest.length >= FRAME.head && rest.length >= FRAME.head + rest.readUInt32BE(1)) {
        const end = FRAME.head + rest.readUInt32BE(1);
        const output = outputs.get(rest[0] ?? 0);
        // Who does not read is not read for: PID 1 cuts it off when too much waits.
        if (output?.write(rest.subarray(FRAME.head, end)) === false) {
          container.pause();
          output.once("drain", () => container.resume());
        }
        rest = rest.subarray(end);
      }
    });
    remote.stdin?.pipe(container, { end: true });
    remote.onResize((line) => {
      const { Height, Width } = JSON.parse(line) as { Height: number; Width: number };
      resize(Height, Width);
    });
    remote.onClose(() => container.destroy());
    await once(container, "close");
    await Promise.race([flushed(remote), new Promise<void>((resolve) => remote.onClose(resolve))]);
    remote.finish(exitStatus(0));
  } finally {
    server.close();
  }
}

/** A WebSocket as a stream of bytes: port-forward's SPDY inside binary messages. */
function tunnel(socket: WebSocket): Duplex {
  const stream = new Duplex({
    read() {},
    write: (chunk: Buffer, _encoding, done) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(chunk, () => done());
      else done();
    },
    final: (done) => {
      socket.close(1000);
      done();
    },
  });
  socket.on("message", (data: Buffer) => stream.push(data));
  socket.on("close", () => stream.destroy());
  socket.on("error", () => stream.destroy());
  stream.on("error", () => socket.terminate());
  return stream;
}

/** Joins connections of the client to ports of a pod. `dial` opens one from inside the pod; it fails with the reason. */
export async function servePortForward(upgrade: Upgrade, dial: (port: number) => ChildProcess): Promise<void> {
  const waiting = new Map<string, Map<string, SpdyStream>>();
  const onStream = (stream: SpdyStream): void => {
    const id = stream.headers.get("requestid") ?? String(stream.id);
    const pair = waiting.get(id) ?? new Map<string, SpdyStream>();
    waiting.set(id, pair);
    pair.set(stream.headers.get("streamtype") ?? "", stream);
    const [data, error] = [pair.get("data"), pair.get("error")];
    if (data === undefined || error === undefined) return;
    waiting.delete(id);
    joinPort(dial, Number(data.headers.get("port")), data, error);
  };
  if (isSpdy(upgrade.request)) {
    openSpdy(upgrade, ["portforward.k8s.io"], onStream);
    return;
  }
  const { socket, protocol } = await openWebSocket(upgrade);
  if (protocol === TUNNEL_PROTOCOL) new SpdySession(tunnel(socket), onStream);
  else servePorts(socket, upgrade.request, dial);
}

function joinPort(dial: (port: number) => ChildProcess, port: number, data: SpdyStream, error: SpdyStream): void {
  const child = dial(port);
  let why = "";
  child.stderr?.on("data", (text: Buffer) => {
    why += text.toString("utf8");
  });
  child.stdin?.on("error", () => {});
  if (child.stdin !== null) data.pipe(child.stdin);
  if (child.stdout !== null) child.stdout.pipe(data, { end: false });
  data.once("close", () => child.kill("SIGKILL"));
  child.once("error", (failure) => error.end(failure.message));
  child.once("close", (code) => {
    if (code !== 0 && why !== "") error.end(`an error occurred forwarding ${port} -> ${port}: ${why.trim()}`);
    else error.end();
    data.end();
  });
}

/** The older form, which browsers use: two channels for each port of the query, each opened by the port's number. */
function servePorts(socket: WebSocket, request: IncomingMessage, dial: (port: number) => ChildProcess): void {
  const ports = new URL(request.url ?? "/", "https://api").searchParams
    .getAll("ports")
    .flatMap((text) => text.split(","))
    .map(Number);
  const children = ports.map((port, i) => {
    const child = dial(port);
    const send = (channel: number, data: Buffer): void => {
      if (socket.readyState === WebSocket.OPEN) socket.send(Buffer.concat([Buffer.of(channel), data]));
    };
    const opening = Buffer.alloc(2);
    opening.writeUInt16LE(port);
    send(i * 2, opening);
    send(i * 2 + 1, opening);
    child.stdout?.on("data", (data: Buffer) => send(i * 2, data));
    child.stderr?.on("data", (data: Buffer) => send(i * 2 + 1, data));
    child.stdin?.on("error", () => {});
    return child;
  });
  socket.on("message", (data: Buffer) => {
    const [channel = 0] = data;
    if (channel % 2 === 0) children[channel / 2]?.stdin?.write(data.subarray(1));
  });
  const end = (): void => {
    for (const child of children) child.kill("SIGKILL");
  };
  socket.on("close", end);
  socket.on("error", end);
}

/** A helper process with the streams that the functions above use; 3 carries resize lines. */
export function helper([program, ...fixed]: SandboxCommand, args: readonly string[]): ChildProcess {
  return spawn(program, [...fixed, ...args], { stdio: ["pipe", "pipe", "pipe", "pipe"] });
}
