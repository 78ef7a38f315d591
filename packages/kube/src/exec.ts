// Running a command in a container, over the API's WebSocket.

import { isObject } from "@lateen/base";
import { WebSocket } from "ws";
import type { KubeClient } from "./client.ts";

const PROTOCOL = "v5.channel.k8s.io";
const STDOUT = 1;
const STDERR = 2;
const STATUS = 3;

/** Runs `command` and resolves with what it printed. Rejects when it fails or the pod cannot be reached. */
export function exec(
  client: KubeClient,
  target: { readonly namespace: string; readonly pod: string; readonly container: string },
  command: readonly string[],
): Promise<string> {
  const { config } = client;
  const query = new URLSearchParams([
    ...command.map((part): [string, string] => ["command", part]),
    ["container", target.container],
    ["stdout", "true"],
    ["stderr", "true"],
  ]);
  const url = new URL(
    `/api/v1/namespaces/${target.namespace}/pods/${target.pod}/exec?${query}`,
    config.server.replace(/^http/, "ws"),
  );
  const token = config.token();
  const socket = new WebSocket(url, PROTOCOL, {
    ...(config.authorityPem === undefined ? {} : { ca: config.authorityPem }),
    ...(config.certificatePem === undefined ? {} : { cert: config.certificatePem }),
    ...(config.keyPem === undefined ? {} : { key: config.keyPem }),
    headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
    maxPayload: 64 << 20,
  });
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let errors = "";
    let status: unknown;
    socket.on("message", (data: Buffer) => {
      const content = data.subarray(1);
      if (data[0] === STDOUT) chunks.push(content);
      else if (data[0] === STDERR) errors += content.toString("utf8");
      else if (data[0] === STATUS) status = JSON.parse(content.toString("utf8"));
    });
    socket.on("error", reject);
    socket.on("unexpected-response", (_request, response) => {
      response.resume();
      reject(new Error(`exec in ${target.namespace}/${target.pod}: status ${response.statusCode}`));
      socket.terminate();
    });
    socket.on("close", () => {
      if (isObject(status) && status["status"] === "Success") resolve(Buffer.concat(chunks).toString("utf8"));
      else
        reject(new Error(errors.trim() || (isObject(status) ? String(status["message"]) : "the connection was lost")));
    });
  });
}
