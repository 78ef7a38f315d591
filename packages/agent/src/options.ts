// Who this proxy is: from the pod's environment, its labels and annotations, and the command line.
import { existsSync, readFileSync } from "node:fs";
import { isObject } from "@lateen/base";

export interface ProxyOptions {
  readonly kind: "sidecar" | "router";
  readonly podName: string;
  readonly namespace: string;
  readonly address: string;
  readonly account: string;
  readonly domain: string;
  readonly trustDomain: string;
  readonly discovery: { readonly host: string; readonly port: number };
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly logLevel: string;
  readonly componentLogLevel: string;
  readonly concurrency: number;
}

export const PATHS = {
  root: "/var/run/secrets/istio/root-cert.pem",
  token: "/var/run/secrets/tokens/istio-token",
  config: "/etc/istio/proxy",
  podInfo: "/etc/istio/pod",
  xds: "/etc/istio/proxy/XDS",
  sds: "/var/run/secrets/workload-spiffe-uds/socket",
} as const;

export const VERSION = "0.1.0";
export const ENVOY = process.env["ENVOY_PATH"] ?? "/opt/runtime/envoy";
const CONCURRENCY = 2;

/** The downward API's form: `key="value"` a line. */
function readPairs(file: string): Record<string, string> {
  if (!existsSync(file)) return {};
  const lines = readFileSync(file, "utf8")
    .split("\n")
    .filter((line) => line.includes("="));
  return Object.fromEntries(
    lines.map((line) => {
      const at = line.indexOf("=");
      const raw = line.slice(at + 1);
      return [line.slice(0, at), raw.startsWith('"') ? String(JSON.parse(raw)) : raw] as const;
    }),
  );
}

function flag(args: readonly string[], name: string): string | undefined {
  const joined = args.find((arg) => arg.startsWith(`--${name}=`));
  if (joined !== undefined) return joined.slice(name.length + 3);
  const at = args.indexOf(`--${name}`);
  return at < 0 ? undefined : args[at + 1];
}

/** Reads everything that tells this proxy from others. Throws when the pod's environment is not there. */
export function readOptions(args: readonly string[]): ProxyOptions {
  const env = (name: string): string => {
    const value = process.env[name];
    if (value === undefined || value === "")
      throw new Error(`environment variable ${name} is not set: the agent runs in a pod that was injected`);
    return value;
  };
  const config: unknown = JSON.parse(process.env["PROXY_CONFIG"] ?? "{}");
  const discovery =
    isObject(config) && typeof config["discoveryAddress"] === "string"
      ? config["discoveryAddress"]
      : (process.env["CA_ADDR"] ?? "istiod.istio-system.svc:15012");
  const colon = discovery.lastIndexOf(":");
  const meta = Object.entries(process.env).filter(
    (entry): entry is [string, string] => entry[0].startsWith("ISTIO_META_") && entry[1] !== undefined,
  );
  const namespace = env("POD_NAMESPACE");
  return {
    kind: args[1] === "router" ? "router" : "sidecar",
    podName: env("POD_NAME"),
    namespace,
    address: env("INSTANCE_IP"),
    account: env("SERVICE_ACCOUNT"),
    domain: flag(args, "domain") ?? `${namespace}.svc.cluster.local`,
    trustDomain: process.env["TRUST_DOMAIN"] ?? "cluster.local",
    discovery: { host: discovery.slice(0, colon), port: Number(discovery.slice(colon + 1)) },
    labels: readPairs(`${PATHS.podInfo}/labels`),
    annotations: readPairs(`${PATHS.podInfo}/annotations`),
    metadata: Object.fromEntries(meta.map(([name, value]) => [name.slice("ISTIO_META_".length), value])),
    logLevel: flag(args, "proxyLogLevel") ?? "warning",
    componentLogLevel: flag(args, "proxyComponentLogLevel") ?? "misc:error",
    concurrency: CONCURRENCY,
  };
}
