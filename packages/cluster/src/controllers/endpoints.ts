// EndpointSlices and Endpoints of Services: the addresses of the pods that a Service selects, with their readiness.
import { compareText, jsonEqual } from "@lateen/base";
import { builtIn } from "../api/kinds.ts";
import { type EndpointSlice, type KubeObject, newMeta, ownedBy, type Pod, type Service } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { hasLabels } from "../api/selectors.ts";
import { Controller, keyOf } from "./controller.ts";

const SERVICES = builtIn("services");
const SLICES = builtIn("endpointslices");
const ENDPOINTS = builtIn("endpoints");
const PODS = builtIn("pods");
const NODES = builtIn("nodes");
const ZONE = "topology.kubernetes.io/zone";
const SERVICE_NAME = "kubernetes.io/service-name";

/** Starts the controller. */
export function startEndpoints(registry: Registry): void {
  const servicesOf = (pod: KubeObject): string[] =>
    (registry.list(SERVICES, pod.metadata.namespace) as Service[])
      .filter((service) => service.spec.selector !== undefined && hasLabels(pod.metadata.labels, service.spec.selector))
      .map(keyOf);
  // Its zone may have changed.
  const servicesOnNode = (node: KubeObject): string[] =>
    (registry.list(PODS) as Pod[]).filter((pod) => pod.spec.nodeName === node.metadata.name).flatMap(servicesOf);
  new Controller(
    registry,
    "endpoints",
    [
      { kind: SERVICES, keys: (object) => [keyOf(object)] },
      { kind: PODS, keys: servicesOf },
      { kind: NODES, keys: servicesOnNode },
      {
        kind: SLICES,
        keys: (object) => [`${object.metadata.namespace}/${object.metadata.labels?.[SERVICE_NAME] ?? ""}`],
      },
    ],
    (namespace, name) => reconcile(registry, namespace, name),
  );
}

/** The number of a Service port on one pod; names are looked up among its containers' ports. */
function targetPort(target: number | string | undefined, port: number, pod: Pod | undefined): number | undefined {
  if (target === undefined) return port;
  if (typeof target === "number") return target;
  return pod?.spec.containers.flatMap((container) => container.ports ?? []).find((entry) => entry.name === target)
    ?.containerPort;
}

function endpointOf(registry: Registry, pod: Pod, service: Service): EndpointSlice["endpoints"][number] {
  const isReady =
    pod.status.conditions?.some((condition) => condition.type === "Ready" && condition.status === "True") === true;
  const isTerminating = pod.metadata.deletionTimestamp !== undefined;
  const { name, namespace = "", uid } = pod.metadata;
  const { hostname, subdomain } = pod.spec;
  const zone = registry.find(NODES, undefined, pod.spec.nodeName ?? "")?.metadata.labels?.[ZONE];
  return {
    addresses: [pod.status.podIP ?? ""],
    conditions: {
      ready: service.spec.publishNotReadyAddresses === true || (isReady && !isTerminating),
      serving: isReady,
      terminating: isTerminating,
    },
    nodeName: pod.spec.nodeName ?? "",
    targetRef: { kind: "Pod", name, namespace, uid },
    ...(zone === undefined ? {} : { zone }),
    ...(hostname !== undefined && subdomain === service.metadata.name ? { hostname } : {}),
  };
}

async function reconcile(registry: Registry, namespace: string, name: string): Promise<void> {
  const service = registry.find(SERVICES, namespace, name) as Service | undefined;
  const managed = (registry.list(SLICES, namespace) as EndpointSlice[]).find(
    (slice) =>
      slice.metadata.labels?.[SERVICE_NAME] === name &&
      slice.metadata.labels?.["endpointslice.kubernetes.io/managed-by"] === "endpointslice-controller.k8s.io",
  );
  const { selector, type } = service?.spec ?? {};
  if (
    service === undefined ||
    selector === undefined ||
    type === "ExternalName" ||
    service.metadata.deletionTimestamp !== undefined
  ) {
    if (managed !== undefined) await registry.delete(SLICES, namespace, managed.metadata.name);
    if (service === undefined && registry.find(ENDPOINTS, namespace, name) !== undefined)
      await registry.delete(ENDPOINTS, namespace, name);
    return;
  }
  const pods = (registry.list(PODS, namespace) as Pod[])
    .filter((pod) => hasLabels(pod.metadata.labels, selector) && pod.status.podIP !== undefined)
    .filter((pod) => pod.status.phase !== "Failed" && pod.status.phase !== "Succeeded")
    .toSorted((a, b) => compareText(a.metadata.name, b.metadata.name));
  const ports = (service.spec.ports ?? []).flatMap((port) => {
    const number = targetPort(port.targetPort, port.port, pods[0]);
    if (number === undefined) return [];
    const { appProtocol } = port;
    return [
      {
        name: port.name ?? "",
        port: number,
        protocol: port.protocol ?? "TCP",
        ...(appProtocol === undefined ? {} : { appProtocol }),
      },
    ];
  });
  const endpoints = pods.map((pod) => endpointOf(registry, pod, service));
  const trigger = lastChange(service, pods);
  await writeSlice(registry, service, managed, { addressType: "IPv4", endpoints, ports }, trigger);
  await writeEndpoints(registry, service, endpoints, ports, trigger);
}

const TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time";

const headless = ({ spec }: Service): Record<string, string> =>
  spec.clusterIP === "None" ? { "service.kubernetes.io/headless": "" } : {};

const withTrigger = (object: KubeObject, trigger: string): KubeObject => ({
  ...object,
  metadata: { ...object.metadata, annotations: { ...object.metadata.annotations, [TRIGGER]: trigger } },
});

/** When what the endpoints follow from has changed last. */
function lastChange(service: Service, pods: readonly Pod[]): string {
  const times = pods.flatMap(({ metadata, status }) => [
    metadata.deletionTimestamp,
    ...(status.conditions ?? [])
      .filter(({ type }) => type === "Ready")
      .map(({ lastTransitionTime }) => lastTransitionTime),
  ]);
  return (
    [service.metadata.creationTimestamp, ...times]
      .filter((time) => time !== undefined)
      .toSorted()
      .at(-1) ?? ""
  );
}

async function writeSlice(
  registry: Registry,
  service: Service,
  managed: EndpointSlice | undefined,
  content: Pick<EndpointSlice, "addressType" | "endpoints" | "ports">,
  trigger: string,
): Promise<void> {
  const { namespace, name } = service.metadata;
  const { endpoints, ports, addressType } = content;
  if (managed !== undefined) {
    if (jsonEqual({ endpoints: managed.endpoints, ports: managed.ports }, { endpoints, ports })) return;
    await registry.update(SLICES, namespace, managed.metadata.name, (current) => ({
      ...withTrigger(current, trigger),
      endpoints,
      ports,
    }));
    return;
  }
  const labels = {
    ...service.metadata.labels,
    [SERVICE_NAME]: name,
    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    ...headless(service),
  };
  const annotations = { [TRIGGER]: trigger };
  const metadata = {
    ...newMeta("", namespace, labels),
    annotations,
    generateName: `${name}-`,
    ownerReferences: [ownedBy(service)],
  };
  await registry.create(SLICES, namespace, {
    apiVersion: "discovery.k8s.io/v1",
    kind: "EndpointSlice",
    metadata,
    addressType,
    endpoints,
    ports,
  });
}

async function writeEndpoints(
  registry: Registry,
  service: Service,
  endpoints: EndpointSlice["endpoints"],
  ports: EndpointSlice["ports"],
  trigger: string,
): Promise<void> {
  const { namespace, name } = service.metadata;
  const address = (endpoint: EndpointSlice["endpoints"][number]): unknown => ({
    ip: endpoint.addresses[0],
    ...(endpoint.hostname === undefined ? {} : { hostname: endpoint.hostname }),
    nodeName: endpoint.nodeName,
    targetRef: endpoint.targetRef,
  });
  const ready = endpoints.filter((endpoint) => endpoint.conditions?.ready === true).map(address);
  const notReady = endpoints
    .filter((endpoint) => endpoint.conditions?.ready !== true && endpoint.conditions?.terminating !== true)
    .map(address);
  const named = ports.map((port) => (port.name === "" ? { port: port.port, protocol: port.protocol } : port));
  const subset = {
    ...(ready.length > 0 ? { addresses: ready } : {}),
    ...(notReady.length > 0 ? { notReadyAddresses: notReady } : {}),
    ports: named,
  };
  const subsets = ready.length + notReady.length > 0 ? [subset] : [];
  const found = registry.find(ENDPOINTS, namespace, name);
  if (found === undefined) {
    const labels = {
      ...service.metadata.labels,
      "endpoints.kubernetes.io/managed-by": "endpoint-controller",
      ...headless(service),
    };
    const metadata = { ...newMeta(name, namespace, labels), annotations: { [TRIGGER]: trigger } };
    await registry.create(ENDPOINTS, namespace, { apiVersion: "v1", kind: "Endpoints", metadata, subsets });
  } else if (!jsonEqual(found["subsets"], subsets)) {
    await registry.update(ENDPOINTS, namespace, name, (current) => ({
      ...withTrigger(current, trigger),
      subsets,
    }));
  }
}
