// Entry of the proxy's container: `pilot-agent proxy sidecar|router ...`, `pilot-agent istio-iptables ...` (as istio-init) and
// `pilot-agent request GET /path` (what Envoy's admin port answers).
import { chmodSync, rmSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { errorText } from "@lateen/base";
import { GrpcServer } from "@lateen/xds/grpc";
import { drainEnvoy, envoyVersion, startEnvoy, supportsOnDemand } from "./envoy.ts";
import { keepIdentity } from "./identity.ts";
import { applyRedirect } from "./iptables.ts";
import { PATHS, type ProxyOptions, readOptions } from "./options.ts";
import { ADS_METHOD, relayHandler } from "./relay.ts";
import { SDS_METHOD, SecretServer } from "./sds.ts";
import { serveStatus } from "./status.ts";

function log(text: string): void {
  process.stdout.write(`${new Date().toISOString()} agent: ${text}\n`);
}

async function listen(path: string, server: GrpcServer): Promise<void> {
  rmSync(path, { force: true });
  await server.listen({ path });
  chmodSync(path, 0o666);
}

async function runProxy(options: ProxyOptions, args: readonly string[]): Promise<void> {
  process.title = `pilot-agent ${args.join(" ")}`;
  const version = envoyVersion();
  const isOnDemand = options.kind === "sidecar" && supportsOnDemand(version);
  log(
    `${options.kind} ${options.podName}.${options.namespace}, Envoy ${version}${isOnDemand ? ", virtual hosts on demand" : ""}`,
  );
  const secrets = new SecretServer();
  await listen(PATHS.sds, new GrpcServer(new Map([[SDS_METHOD, secrets.handler]]), undefined));
  await listen(PATHS.xds, new GrpcServer(new Map([[ADS_METHOD, relayHandler(options, log)]]), undefined));
  let quit: () => void = () => {};
  await serveStatus(() => quit());
  await keepIdentity(options, (secret) => secrets.set(secret), log);
  const envoy = startEnvoy(options, isOnDemand);
  let isDraining = false;
  quit = () => {
    if (isDraining) return;
    isDraining = true;
    log("draining");
    void drainEnvoy(envoy);
  };
  process.on("SIGTERM", quit);
  process.on("SIGINT", quit);
  envoy.once("error", (error) => {
    log(`Envoy cannot be started: ${errorText(error)}`);
    process.exit(1);
  });
  envoy.once("exit", (code, signal) => {
    if (!isDraining) log(`Envoy has ended (${signal ?? code})`);
    process.exit(isDraining ? 0 : (code ?? 1));
  });
}

function passRequest(method: string, path: string): void {
  const ask = httpRequest(
    { host: "127.0.0.1", port: 15000, method, path: path.startsWith("/") ? path : `/${path}` },
    (response) => {
      response.pipe(process.stdout);
      process.exitCode = response.statusCode === 200 ? 0 : 1;
    },
  );
  ask.on("error", (error) => {
    process.stderr.write(`Envoy's admin port: ${error.message}\n`);
    process.exit(1);
  });
  ask.end();
}

const args = process.argv.slice(2);
try {
  if (args[0] === "istio-iptables") process.exitCode = applyRedirect(args.slice(1));
  else if (args[0] === "request") passRequest(args[1] ?? "GET", args[2] ?? "/");
  else if (args[0] === "proxy") await runProxy(readOptions(args), args);
  else throw new Error(`unknown command ${args[0] ?? ""}: proxy, istio-iptables or request`);
} catch (error) {
  process.stderr.write(`${errorText(error)}\n`);
  process.exitCode = 1;
}
