// Secret discovery for Envoy over a Unix socket: `default` (certificate and key) and `ROOTCA`. State-of-the-world protocol.
// https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret
import { bytesField, fields, frame, type Handler, stringField } from "@lateen/xds/grpc";
import type { WorkloadSecret } from "./identity.ts";

export const SDS_METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
const SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/** DataSource { inline_bytes 2 }. */
const inline = (text: string): Buffer => bytesField(2, Buffer.from(text));

/** Secret { name 1, tls_certificate 2 { chain 1, key 2 } | validation_context 4 { trusted_ca 1 } } in an Any. */
function encodeSecret(name: string, secret: WorkloadSecret): Buffer | undefined {
  const body =
    name === "default"
      ? bytesField(2, Buffer.concat([bytesField(1, inline(secret.chainPem)), bytesField(2, inline(secret.keyPem))]))
      : name === "ROOTCA"
        ? bytesField(4, bytesField(1, inline(secret.rootPem)))
        : undefined;
  if (body === undefined) return undefined;
  return Buffer.concat([stringField(1, SECRET_TYPE), bytesField(2, Buffer.concat([stringField(1, name), body]))]);
}

export class SecretServer {
  #secret: WorkloadSecret | undefined;
  #version = 0;
  readonly #streams = new Set<() => void>();

  /** Replaces the secret and sends it to all who hold the old one. */
  set(secret: WorkloadSecret): void {
    this.#secret = secret;
    this.#version += 1;
    for (const push of this.#streams) push();
  }

  /** DiscoveryRequest { resource_names 3, response_nonce 5, error_detail 6 } -> DiscoveryResponse { version 1, resources 2, type 4, nonce 5 }. */
  readonly handler: Handler = (call) => {
    let names: string[] = [];
    let sent = -1;
    const push = (): void => {
      const secret = this.#secret;
      if (secret === undefined || names.length === 0 || sent === this.#version) return;
      sent = this.#version;
      const resources = names.map((name) => encodeSecret(name, secret)).filter((entry) => entry !== undefined);
      const version = String(this.#version);
      call.send(
        frame(
          stringField(1, version),
          ...resources.map((entry) => bytesField(2, entry)),
          stringField(4, SECRET_TYPE),
          stringField(5, version),
        ),
      );
    };
    this.#streams.add(push);
    call.onClose = () => void this.#streams.delete(push);
    call.onMessage = (message) => {
      const parts = fields(Buffer.from(message));
      const asked = parts.filter((field) => field.number === 3).map((field) => field.bytes.toString("utf8"));
      // Other names are a new question; the same ones with a nonce are an answer to what was sent.
      if (asked.join() !== names.join()) sent = -1;
      names = asked;
      push();
    };
  };
}
