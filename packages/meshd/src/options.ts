// What the control plane is told on its command line and by its environment.
import { parseArgs } from "node:util";
import { Failure } from "@lateen/base";

export interface Options {
  readonly kubeconfig: string | undefined;
  /** Addresses as `host:port` or `:port`; undefined: not served. */
  readonly grpc: ListenAddress | undefined;
  readonly secureGrpc: ListenAddress | undefined;
  readonly https: ListenAddress | undefined;
  readonly monitoring: ListenAddress | undefined;
  readonly namespace: string;
  readonly podName: string;
  readonly revision: string;
  readonly proxyImage: string;
}

export interface ListenAddress {
  readonly host?: string;
  readonly port: number;
}

function address(text: string, flag: string): ListenAddress | undefined {
  if (text === "") return undefined;
  const match = /^(.*):(\d+)$/.exec(text);
  const port = Number(match?.[2]);
  if (match === null || port > 65535)
    throw new Failure(
      `${flag}: "${text}" is no address`,
      "Write host:port or :port; an empty value turns the server off.",
    );
  const host = match[1];
  return host === undefined || host === "" ? { port } : { host, port };
}

export const DISCOVERY_HELP = `lateen discovery: runs the control plane

  --kubeconfig FILE       the cluster to read (default: the pod's own account, else KUBECONFIG)
  --grpcAddr ADDR         xDS in plaintext, no secrets (default :15010; "" turns it off)
  --secureGRPCAddr ADDR   xDS and certificates over TLS (default :15012)
  --httpsAddr ADDR        webhooks (default :15017)
  --monitoringAddr ADDR   /metrics, /ready, /debug (default :15014)
`;

/** Reads the command line of `discovery`. Throws Failure for what is wrong. */
export function readOptions(args: readonly string[]): Options {
  const text = () => ({ type: "string" as const });
  const { values } = parseArgs({
    args: [...args],
    options: {
      kubeconfig: text(),
      grpcAddr: { ...text(), default: ":15010" },
      secureGRPCAddr: { ...text(), default: ":15012" },
      httpsAddr: { ...text(), default: ":15017" },
      monitoringAddr: { ...text(), default: ":15014" },
      log_output_level: text(),
      domain: text(),
      keepaliveMaxServerConnectionAge: text(),
    },
  });
  const env = (name: string, fallback: string): string => process.env[name] ?? fallback;
  return {
    kubeconfig: values.kubeconfig,
    grpc: address(values.grpcAddr, "--grpcAddr"),
    secureGrpc: address(values.secureGRPCAddr, "--secureGRPCAddr"),
    https: address(values.httpsAddr, "--httpsAddr"),
    monitoring: address(values.monitoringAddr, "--monitoringAddr"),
    namespace: env("POD_NAMESPACE", "istio-system"),
    podName: env("POD_NAME", "istiod"),
    revision: env("REVISION", "default"),
    proxyImage: env("PROXY_IMAGE", "docker.io/lateen/proxyv2:0.1.0"),
  };
}
