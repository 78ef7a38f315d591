// Writes gen/: TypeScript declarations and JavaScript for the Envoy messages that Lateen uses.
// The source is the Envoy binary itself: it carries the serialized FileDescriptorProtos of exactly its API,
// which no published package does. Called by setup when the binary or this file changes.
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  CodeGeneratorRequestSchema,
  CodeGeneratorResponseSchema,
  type FileDescriptorProto,
  FileDescriptorProtoSchema,
  file_google_protobuf_descriptor,
} from "@bufbuild/protobuf/wkt";

/** The files whose messages our code names; everything they import is generated with them. */
const ROOTS = [
  "envoy/service/discovery/v3/discovery.proto",
  "envoy/config/listener/v3/listener.proto",
  "envoy/config/route/v3/route.proto",
  "envoy/config/cluster/v3/cluster.proto",
  "envoy/config/endpoint/v3/endpoint.proto",
  "envoy/extensions/access_loggers/file/v3/file.proto",
  "envoy/extensions/filters/http/cors/v3/cors.proto",
  "envoy/extensions/filters/http/fault/v3/fault.proto",
  "envoy/extensions/filters/http/grpc_stats/v3/config.proto",
  "envoy/extensions/filters/http/on_demand/v3/on_demand.proto",
  "envoy/extensions/filters/http/router/v3/router.proto",
  "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
  "envoy/extensions/filters/listener/original_dst/v3/original_dst.proto",
  "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
  "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
  "envoy/extensions/filters/network/set_filter_state/v3/set_filter_state.proto",
  "envoy/extensions/filters/http/set_filter_state/v3/set_filter_state.proto",
  "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
  "envoy/extensions/request_id/uuid/v3/uuid.proto",
  "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
  "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto",
  "envoy/extensions/transport_sockets/tls/v3/tls.proto",
  "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
];

/** Reads one base-128 varint; undefined where the bytes end. */
function varint(bytes: Buffer, at: number): [value: number, next: number] | undefined {
  let value = 0;
  let scale = 1;
  for (let i = at; i < at + 10; i++) {
    const byte = bytes[i];
    if (byte === undefined) return undefined;
    value += (byte & 127) * scale;
    if (byte < 128) return [value, i + 1];
    scale *= 128;
  }
  return undefined;
}

/**
 * The end of the FileDescriptorProto that starts at `at`: behind its last top-level field, which are in ascending
 * order. proto3 files end with field 12, `syntax`; proto2 files where no further field follows.
 */
function descriptorEnd(bytes: Buffer, at: number): number | undefined {
  let position = at;
  let last = 0;
  for (;;) {
    const tag = varint(bytes, position);
    if (tag === undefined) return undefined;
    const field = Math.floor(tag[0] / 8);
    const wire = tag[0] % 8;
    const value = varint(bytes, tag[1]);
    const isField =
      field >= Math.max(last, 1) && field <= 12 && (wire === 0 || wire === 2) && !(field === 1 && last === 1);
    if (!isField || value === undefined) return last > 1 ? position : undefined;
    position = wire === 2 ? value[1] + value[0] : value[1];
    if (field === 12) return position;
    last = field;
  }
}

/** All file descriptors in the binary, by file name. */
function scan(binary: Buffer): Map<string, FileDescriptorProto> {
  const files = new Map<string, FileDescriptorProto>();
  const suffix = Buffer.from(".proto\x12");
  for (let at = binary.indexOf(suffix); at >= 0; at = binary.indexOf(suffix, at + 1)) {
    const nameEnd = at + suffix.length - 1;
    for (let length = 8; length < 128; length++) {
      const start = nameEnd - length - 2;
      if (start < 0 || binary[start] !== 0x0a || binary[start + 1] !== length) continue;
      const name = binary.toString("latin1", start + 2, nameEnd);
      if (!/^[\w\-/]+\.proto$/.test(name)) continue;
      const end = descriptorEnd(binary, start);
      if (end === undefined || files.has(name)) continue;
      files.set(name, fromBinary(FileDescriptorProtoSchema, binary.subarray(start, end)));
    }
  }
  return files;
}

/** `roots` and everything they import, imports first. */
function closure(files: Map<string, FileDescriptorProto>, roots: readonly string[]): FileDescriptorProto[] {
  const ordered: FileDescriptorProto[] = [];
  const seen = new Set<string>();
  const add = (name: string): void => {
    if (seen.has(name)) return;
    seen.add(name);
    const file = files.get(name);
    if (file === undefined) throw new Error(`this Envoy binary has no descriptor of ${name}`);
    for (const dependency of file.dependency) add(dependency);
    ordered.push(file);
  };
  for (const root of roots) add(root);
  return ordered;
}

function main(): void {
  const [binaryPath, outDir] = process.argv.slice(2);
  if (binaryPath === undefined || outDir === undefined) throw new Error("usage: generate.ts ENVOY OUT");
  const found = scan(readFileSync(binaryPath));
  // Linked into protobuf's own library in another form.
  found.set("google/protobuf/descriptor.proto", file_google_protobuf_descriptor.proto);
  const files = closure(found, ROOTS);
  const request = create(CodeGeneratorRequestSchema, {
    fileToGenerate: files.map((file) => file.name).filter((name) => !name.startsWith("google/protobuf/")),
    parameter: "target=js+dts,import_extension=js",
    protoFile: files,
  });
  const plugin = join(import.meta.dirname, "../../node_modules/.bin/protoc-gen-es");
  const run = spawnSync(process.execPath, [plugin], {
    input: toBinary(CodeGeneratorRequestSchema, request),
    maxBuffer: 1 << 30,
  });
  if (run.status !== 0) throw new Error(`protoc-gen-es failed: ${run.stderr}`);
  const response = fromBinary(CodeGeneratorResponseSchema, run.stdout);
  if (response.error !== "") throw new Error(`protoc-gen-es: ${response.error}`);
  const temporary = `${outDir}.new`;
  rmSync(temporary, { recursive: true, force: true });
  for (const file of response.file) {
    const path = join(temporary, file.name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, file.content);
  }
  rmSync(outDir, { recursive: true, force: true });
  renameSync(temporary, outDir);
  process.stdout.write(`${response.file.length} files\n`);
}

main();
