// The control plane alone, outside of any pod, against a Kubernetes API: what `lateen discovery` serves, and to whom.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { get } from "node:http";
import { createServer } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Instance, startInstance } from "@lateen/cluster";
import {
  bytesField,
  type ClientCall,
  fields,
  frame,
  GrpcClient,
  GrpcError,
  STATUS,
  stringField,
} from "@lateen/xds/grpc";
import { eventually, Mesh, ROOT } from "../harness.ts";

const mesh = new Mesh();
const ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const CERTIFICATES = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
const CLUSTERS = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
let child: ChildProcess | undefined;
let output = "";
const ports = { grpc: 0, secure: 0, https: 0, monitoring: 0 };

function freePort(): Promise<number> {
  const server = createServer();
  return new Promise((resolve) =>
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    }),
  );
}

/** DeltaDiscoveryRequest { node 1 { id 1 }, type_url 2 }. */
function firstRequest(id: string): Buffer {
  return frame(bytesField(1, stringField(1, id)), stringField(2, CLUSTERS));
}

/** Names of the resources in the first answer. DeltaDiscoveryResponse { resources 2 { name 3 } }. */
function firstAnswer(call: ClientCall): Promise<string[]> {
  return new Promise((resolve, reject) => {
    call.onMessage = (message) =>
      resolve(
        fields(Buffer.from(message))
          .filter(({ number }) => number === 2)
          .map(
            ({ bytes }) =>
              fields(bytes)
                .find(({ number }) => number === 3)
                ?.bytes.toString("utf8") ?? "",
          ),
      );
    call.onClose = reject;
  });
}

describe("lateen discovery", { concurrency: false }, () => {
  before(async () => {
    await startInstance(new Instance(mesh.state));
    await mesh.kubectl(["create", "namespace", "istio-system"]);
    await mesh.kubectl(["create", "service", "clusterip", "web", "--tcp=80:8080"]);
    for (const name of Object.keys(ports) as (keyof typeof ports)[]) ports[name] = await freePort();
    const flags = [
      `--grpcAddr=127.0.0.1:${ports.grpc}`,
      `--secureGRPCAddr=127.0.0.1:${ports.secure}`,
      `--httpsAddr=127.0.0.1:${ports.https}`,
      `--monitoringAddr=127.0.0.1:${ports.monitoring}`,
    ];
    child = spawn(process.execPath, [
      join(ROOT, "packages/cli/src/main.ts"),
      "discovery",
      "--kubeconfig",
      mesh.kubeconfig,
      ...flags,
    ]);
    child.stdout?.on("data", (data) => {
      output += data;
    });
    child.stderr?.on("data", (data) => {
      output += data;
    });
    await eventually("ready", () => output.includes(" ready\n"));
  });
  after(async () => {
    child?.kill("SIGTERM");
    await mesh.destroy();
  });

  test("a proxy on the plaintext port gets its clusters", async () => {
    const client = new GrpcClient({ kind: "plain", host: "127.0.0.1", port: ports.grpc });
    const call = client.open(ADS);
    call.send(firstRequest("sidecar~10.0.0.1~app.default~default.svc.cluster.local"));
    const names = await firstAnswer(call);
    assert.ok(names.includes("outbound|80||web.default.svc.cluster.local"), names.join("\n"));
    assert.ok(names.includes("PassthroughCluster"));
    client.close();
  });

  test("the plaintext port signs no certificates; a node without meaning is refused", async () => {
    const client = new GrpcClient({ kind: "plain", host: "127.0.0.1", port: ports.grpc });
    await assert.rejects(
      client.unary(CERTIFICATES, stringField(1, "csr"), {}, 5000),
      (error) => error instanceof GrpcError && error.status === STATUS.unimplemented,
    );
    const call = client.open(ADS);
    call.send(firstRequest("who knows"));
    await assert.rejects(
      firstAnswer(call),
      (error) => error instanceof GrpcError && error.status === STATUS.invalidArgument,
    );
    client.close();
  });

  test("the TLS port wants an identity, and the proxy that it speaks for", async () => {
    const secret = await mesh.json(["-n", "istio-system", "get", "secret", "istio-ca-secret"]);
    const authorityPem = Buffer.from(secret.data["ca-cert.pem"], "base64").toString("utf8");
    const client = new GrpcClient({
      kind: "tls",
      host: "127.0.0.1",
      port: ports.secure,
      servername: "istiod.istio-system.svc",
      authorityPem,
    });
    const ask = (id: string, headers: Record<string, string> = {}): Promise<string[]> => {
      const call = client.open(ADS, headers);
      call.send(firstRequest(id));
      return firstAnswer(call);
    };
    const refused = (status: number) => (error: unknown) => error instanceof GrpcError && error.status === status;
    const id = "sidecar~10.0.0.1~app.default~default.svc.cluster.local";
    await assert.rejects(ask(id), refused(STATUS.unauthenticated));
    await assert.rejects(ask(id, { authorization: "Bearer nonsense" }), refused(STATUS.unauthenticated));
    const forApi = (await mesh.kubectl(["create", "token", "default"])).stdout.trim();
    await assert.rejects(
      ask(id, { authorization: `Bearer ${forApi}` }),
      refused(STATUS.unauthenticated),
      "the token is for another audience",
    );
    const token = (await mesh.kubectl(["create", "token", "default", "--audience=istio-ca"])).stdout.trim();
    const headers = { authorization: `Bearer ${token}` };
    assert.ok((await ask(id, headers)).length > 0);
    await assert.rejects(
      ask("sidecar~10.0.0.1~app.kube-system~kube-system.svc.cluster.local", headers),
      refused(STATUS.permissionDenied),
    );
    await assert.rejects(
      client.unary(CERTIFICATES, stringField(1, "not a request"), headers, 5000),
      refused(STATUS.invalidArgument),
    );
    client.close();
  });

  test("a change arrives unasked", async () => {
    const client = new GrpcClient({ kind: "plain", host: "127.0.0.1", port: ports.grpc });
    const call = client.open(ADS);
    call.send(firstRequest("sidecar~10.0.0.2~other.default~default.svc.cluster.local"));
    await firstAnswer(call);
    // Without an answer to the first response nothing more comes: acknowledge it.
    const again = client.open(ADS);
    again.send(firstRequest("sidecar~10.0.0.3~third.default~default.svc.cluster.local"));
    const nonce = await new Promise<string>((resolve) => {
      again.onMessage = (message) =>
        resolve(
          fields(Buffer.from(message))
            .find(({ number }) => number === 5)
            ?.bytes.toString("utf8") ?? "",
        );
    });
    again.send(frame(stringField(2, CLUSTERS), stringField(6, nonce)));
    const changed = firstAnswer(again);
    await mesh.kubectl(["create", "service", "clusterip", "late", "--tcp=80:8080"]);
    assert.deepEqual(await changed, ["outbound|80||late.default.svc.cluster.local"]);
    client.close();
  });

  test("monitoring answers", async () => {
    const text = await new Promise<string>((resolve, reject) => {
      get({ host: "127.0.0.1", port: ports.monitoring, path: "/metrics" }, (response) => {
        let body = "";
        response.on("data", (data) => {
          body += data;
        });
        response.on("end", () => resolve(body));
      }).on("error", reject);
    });
    assert.match(text, /^pilot_xds\{version="lateen"\} \d+$/m);
    assert.match(text, /^lateen_query_runs_total\{query="serviceOf"\} \d+$/m);
  });
});
