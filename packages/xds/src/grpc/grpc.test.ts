// gRPC over a real socket, and the framing byte by byte.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:http2";
import { connect as connectSocket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { FrameReader } from "./frames.ts";
import {
  bytesField,
  fields,
  frame,
  GrpcClient,
  GrpcError,
  GrpcServer,
  type Handler,
  STATUS,
  stringField,
  varintField,
} from "./index.ts";

const folder = mkdtempSync(join(tmpdir(), "lateen-grpc-"));
const path = join(folder, "socket");
const echo: Handler = (call) => {
  call.onMessage = (message) => call.send(frame(message));
};
const refuse: Handler = () => {
  throw new GrpcError(STATUS.permissionDenied, "not you");
};
const server = new GrpcServer(
  new Map([
    ["/test/Echo", echo],
    ["/test/Refuse", refuse],
  ]),
  undefined,
);
await server.listen({ path });
const client = new GrpcClient({ kind: "unix", path });
after(async () => {
  client.close();
  await server.close();
  rmSync(folder, { recursive: true, force: true });
});

test("messages come out as they went in, large ones too, in order", async () => {
  const call = client.open("/test/Echo");
  const sizes = [0, 1, 70_000, 3_000_000, 5];
  const got: number[] = [];
  const done = new Promise<void>((resolve) => {
    call.onMessage = (message) => {
      got.push(message.length);
      if (got.length === sizes.length) resolve();
    };
  });
  for (const size of sizes) call.send(frame(Buffer.alloc(size, 7)));
  await done;
  assert.deepEqual(got, sizes);
  call.cancel();
});

test("a refusal arrives with its status and text", async () => {
  await assert.rejects(
    client.unary("/test/Refuse", Buffer.alloc(0), {}, 5000),
    (error) => error instanceof GrpcError && error.status === STATUS.permissionDenied && error.message === "not you",
  );
});

test("an unknown method is unimplemented", async () => {
  await assert.rejects(
    client.unary("/test/None", Buffer.alloc(0), {}, 5000),
    (error) => error instanceof GrpcError && error.status === STATUS.unimplemented,
  );
});

test("what is not gRPC is refused", async () => {
  const session = connect("http://localhost", { createConnection: () => connectSocket(path) });
  const stream = session.request({ ":method": "POST", ":path": "/test/Echo", "content-type": "text/plain" });
  const status = await new Promise((resolve) => stream.once("response", (headers) => resolve(headers[":status"])));
  assert.equal(status, 415);
  session.destroy();
});

test("frames are cut anywhere", () => {
  const data = Buffer.concat([frame(Buffer.from("ab")), frame(Buffer.from("")), frame(Buffer.from("cde"))]);
  for (let cut = 0; cut <= data.length; cut++) {
    const reader = new FrameReader();
    const messages = [...reader.push(data.subarray(0, cut)), ...reader.push(data.subarray(cut))].map(String);
    assert.deepEqual(messages, ["ab", "", "cde"]);
  }
});

test("compressed and oversize messages are refused", () => {
  assert.throws(() => new FrameReader().push(Buffer.from([1, 0, 0, 0, 0])), GrpcError);
  assert.throws(() => new FrameReader().push(Buffer.from([0, 255, 255, 255, 255])), GrpcError);
});

test("the wire format by hand reads what it writes, and refuses what is cut short", () => {
  const message = Buffer.concat([stringField(1, "é"), varintField(3, 86_400), bytesField(20, Buffer.from([1, 2]))]);
  assert.deepEqual(
    fields(message).map(({ number, bytes, value }) => [number, bytes.toString("hex"), value]),
    [
      [1, "c3a9", 0],
      [3, "", 86_400],
      [20, "0102", 0],
    ],
  );
  assert.throws(() => fields(message.subarray(0, message.length - 1)), RangeError);
});
