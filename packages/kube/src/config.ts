// How to reach a Kubernetes API: a kubeconfig file, or the account of the pod that we run in.
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { Failure, isObject } from "@lateen/base";
import { parse } from "yaml";

export interface KubeConfig {
  readonly server: string;
  readonly authorityPem: string | undefined;
  readonly certificatePem: string | undefined;
  readonly keyPem: string | undefined;
  /** Read again for each request: mounted tokens are replaced while we run. */
  readonly token: () => string | undefined;
  readonly namespace: string;
}

const ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";

/** The configuration of a pod, or undefined outside of one. */
export function inClusterConfig(): KubeConfig | undefined {
  const host = process.env["KUBERNETES_SERVICE_HOST"];
  if (host === undefined || !existsSync(join(ACCOUNT, "token"))) return undefined;
  return {
    server: `https://${host}:${process.env["KUBERNETES_SERVICE_PORT"] ?? "443"}`,
    authorityPem: readFileSync(join(ACCOUNT, "ca.crt"), "utf8"),
    certificatePem: undefined,
    keyPem: undefined,
    token: () => readFileSync(join(ACCOUNT, "token"), "utf8").trim(),
    namespace: readFileSync(join(ACCOUNT, "namespace"), "utf8").trim(),
  };
}

function named(list: unknown, name: unknown, member: string): Record<string, unknown> {
  const found: unknown = Array.isArray(list)
    ? list.find((entry) => isObject(entry) && entry["name"] === name)
    : undefined;
  const value = isObject(found) ? found[member] : undefined;
  return isObject(value) ? value : {};
}

/** Reads a kubeconfig file. Throws Failure when it is missing or unusable. */
export function loadKubeConfig(path: string | undefined): KubeConfig {
  const file = path ?? process.env["KUBECONFIG"] ?? join(homedir(), ".kube", "config");
  if (!existsSync(file))
    throw new Failure(
      `there is no kubeconfig at ${file}`,
      "Name one with --kubeconfig or KUBECONFIG; `lateen up` prints that of the embedded cluster.",
    );
  const config: unknown = parse(readFileSync(file, "utf8"));
  if (!isObject(config)) throw new Failure(`${file} is no kubeconfig`);
  const context = named(config["contexts"], config["current-context"], "context");
  const cluster = named(config["clusters"], context["cluster"], "cluster");
  const user = named(config["users"], context["user"], "user");
  if (typeof cluster["server"] !== "string") throw new Failure(`${file} names no server for its current context`);
  const content = (owner: Record<string, unknown>, name: string): string | undefined => {
    const data = owner[`${name}-data`];
    if (typeof data === "string") return Buffer.from(data, "base64").toString("utf8");
    const at = owner[name];
    return typeof at === "string" ? readFileSync(resolve(dirname(file), at), "utf8") : undefined;
  };
  const token = typeof user["token"] === "string" ? user["token"] : undefined;
  return {
    server: cluster["server"],
    authorityPem: content(cluster, "certificate-authority"),
    certificatePem: content(user, "client-certificate"),
    keyPem: content(user, "client-key"),
    token: () => token,
    namespace: typeof context["namespace"] === "string" ? context["namespace"] : "default",
  };
}
