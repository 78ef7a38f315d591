// Addresses and ports of Services, and the random ends of generated names.
import { randomInt } from "node:crypto";
import { invalid } from "./errors.ts";
import { builtIn } from "./kinds.ts";
import type { Service } from "./objects.ts";
import type { Store } from "./store.ts";

/** Without vowels and look-alikes, so that no words appear (Kubernetes' util/rand). */
const SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789";

export function randomSuffix(length: number): string {
  return Array.from({ length }, () => SUFFIX_LETTERS[randomInt(SUFFIX_LETTERS.length)]).join("");
}

/** Services get addresses of 10.96.0.0/16. */
const SERVICE_PREFIX = "10.96.";
const NODE_PORT_MIN = 30_000;
const NODE_PORT_MAX = 32_767;

function freeAddress(services: readonly Service[]): string {
  const used = new Set(services.map((service) => service.spec.clusterIP));
  for (let tries = 0; tries < 10_000; tries++) {
    const address = `${SERVICE_PREFIX}${randomInt(1, 255)}.${randomInt(1, 255)}`;
    if (!used.has(address)) return address;
  }
  throw new Error("no Service address is free");
}

/** Gives a Service its cluster address and node ports; keeps those it had. Throws 422 for ones that are taken. */
export function allocateService(store: Store, service: Service, previous: Service | undefined): void {
  const { spec } = service;
  if (spec.type === "ExternalName") {
    for (const key of ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"])
      delete spec[key];
    return;
  }
  spec["ipFamilies"] ??= ["IPv4"];
  spec["ipFamilyPolicy"] ??= "SingleStack";
  const others = (store.list("services") as Service[]).filter((other) => other.metadata.uid !== service.metadata.uid);
  const kept = previous?.spec.type === "ExternalName" ? undefined : previous?.spec.clusterIP;
  if (spec.clusterIP === undefined || spec.clusterIP === "") spec.clusterIP = kept ?? freeAddress(others);
  const field = "spec.clusterIPs[0]";
  if (kept !== undefined && kept !== spec.clusterIP) {
    const message = `Invalid value: ["${spec.clusterIP}"]: may not change once set`;
    throw invalid(builtIn("services"), service.metadata.name, [{ reason: "FieldValueInvalid", message, field }]);
  }
  if (spec.clusterIP !== "None" && others.some((other) => other.spec.clusterIP === spec.clusterIP)) {
    const message = `Invalid value: ["${spec.clusterIP}"]: failed to allocate IP ${spec.clusterIP}: provided IP is already allocated`;
    throw invalid(builtIn("services"), service.metadata.name, [{ reason: "FieldValueInvalid", message, field }]);
  }
  spec.clusterIPs = [spec.clusterIP];
  if (spec.type === "NodePort" || spec.type === "LoadBalancer") allocateNodePorts(others, service, previous);
  else for (const port of spec.ports ?? []) delete port.nodePort;
  if (spec.type !== "LoadBalancer" || spec["externalTrafficPolicy"] !== "Local") delete spec["healthCheckNodePort"];
  else {
    const used = new Set(
      [...others, service].flatMap((other) => (other.spec.ports ?? []).map((port) => port.nodePort)),
    );
    spec["healthCheckNodePort"] ??= previous?.spec["healthCheckNodePort"] ?? freePort(used);
  }
}

function allocateNodePorts(others: readonly Service[], service: Service, previous: Service | undefined): void {
  const used = new Set(others.flatMap((other) => (other.spec.ports ?? []).map((port) => port.nodePort)));
  for (const [i, port] of (service.spec.ports ?? []).entries()) {
    if (service.spec["allocateLoadBalancerNodePorts"] === false && (port.nodePort ?? 0) === 0) continue;
    if (port.nodePort === undefined || port.nodePort === 0) {
      const before = previous?.spec.ports?.find((old) => old.port === port.port && old.name === port.name)?.nodePort;
      port.nodePort = before ?? freePort(used);
    } else if (used.has(port.nodePort) || port.nodePort < NODE_PORT_MIN || port.nodePort > NODE_PORT_MAX) {
      const why = used.has(port.nodePort)
        ? "provided port is already allocated"
        : `provided port is not in the valid range. The range of valid ports is ${NODE_PORT_MIN}-${NODE_PORT_MAX}`;
      const message = `Invalid value: ${port.nodePort}: ${why}`;
      const cause = { reason: "FieldValueInvalid", message, field: `spec.ports[${i}].nodePort` };
      throw invalid(builtIn("services"), service.metadata.name, [cause]);
    }
    used.add(port.nodePort);
  }
}

function freePort(used: ReadonlySet<number | undefined>): number {
  for (let tries = 0; tries < 10_000; tries++) {
    const port = randomInt(NODE_PORT_MIN, NODE_PORT_MAX + 1);
    if (!used.has(port)) return port;
  }
  throw new Error("no node port is free");
}
