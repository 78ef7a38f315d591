// The workload's key and certificate: made here, signed by the control plane, renewed before they are over.
// The key never leaves this process but for Envoy, over the SDS socket.
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { errorText, parseDurationMs } from "@lateen/base";
import { createSigningRequest, keyToPem, newKey } from "@lateen/x509";
import { fields, GrpcClient, stringField, varintField } from "@lateen/xds/grpc";
import { PATHS, type ProxyOptions } from "./options.ts";

const METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/** Life of certificates to ask for: SECRET_TTL, as Istio's agent reads it. */
const TTL_SECONDS = Math.round((parseDurationMs(process.env["SECRET_TTL"] ?? "24h") ?? 86_400_000) / 1000);
const CALL_TIMEOUT_MS = 10_000;
const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 5_000;
/** Renewal is due when half of the life is over, spread so that a mesh does not renew at once. */
const RENEW_SHARE = 0.5;
const RENEW_SPREAD = 0.1;
/** Node's longest timer. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export interface WorkloadSecret {
  readonly chainPem: string;
  readonly keyPem: string;
  readonly rootPem: string;
}

/** A connection to the control plane, checked by the published root. */
export function connectDiscovery(options: ProxyOptions): GrpcClient {
  const { host, port } = options.discovery;
  return new GrpcClient({ kind: "tls", host, port, servername: host, authorityPem: readFileSync(PATHS.root, "utf8") });
}

export function bearer(): Record<string, string> {
  return { authorization: `Bearer ${readFileSync(PATHS.token, "utf8").trim()}` };
}

async function requestOnce(options: ProxyOptions): Promise<WorkloadSecret> {
  const { privateKey } = newKey();
  const csr = createSigningRequest(
    privateKey,
    `spiffe://${options.trustDomain}/ns/${options.namespace}/sa/${options.account}`,
  );
  const client = connectDiscovery(options);
  try {
    const answer = await client.unary(
      METHOD,
      Buffer.concat([stringField(1, csr), varintField(3, TTL_SECONDS)]),
      bearer(),
      CALL_TIMEOUT_MS,
    );
    const chain = fields(answer)
      .filter((field) => field.number === 1)
      .map((field) => field.bytes.toString("utf8"));
    const rootPem = chain.at(-1);
    if (rootPem === undefined || chain.length < 2)
      throw new Error("the control plane's answer has no certificate chain");
    return { chainPem: chain.slice(0, -1).join(""), keyPem: keyToPem(privateKey), rootPem };
  } finally {
    client.close();
  }
}

/** Keeps a valid secret; calls `onSecret` with the first and each renewed one. Resolves with the first. */
export async function keepIdentity(
  options: ProxyOptions,
  onSecret: (secret: WorkloadSecret) => void,
  log: (text: string) => void,
): Promise<void> {
  const obtain = async (): Promise<WorkloadSecret> => {
    for (let waitMs = RETRY_FIRST_MS; ; waitMs = Math.min(waitMs * 2, RETRY_MAX_MS)) {
      try {
        return await requestOnce(options);
      } catch (error) {
        if (waitMs > RETRY_FIRST_MS * 4)
          log(`no certificate from ${options.discovery.host}:${options.discovery.port} yet: ${errorText(error)}`);
        await delay(waitMs * (0.75 + Math.random() / 2));
      }
    }
  };
  const schedule = (secret: WorkloadSecret): void => {
    const lifeMs = Date.parse(new X509Certificate(secret.chainPem).validTo) - Date.now();
    const dueMs = lifeMs * (RENEW_SHARE + (Math.random() * 2 - 1) * RENEW_SPREAD);
    setTimeout(() => void renew(), Math.min(Math.max(dueMs, 1_000), TIMER_MS_MAX)).unref();
  };
  const renew = async (): Promise<void> => {
    const secret = await obtain();
    log("the certificate has been renewed");
    onSecret(secret);
    schedule(secret);
  };
  const first = await obtain();
  onSecret(first);
  schedule(first);
}
