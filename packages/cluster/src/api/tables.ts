// Tables: what `kubectl get` prints is made by the server, one row of finished cells for each object.
import { formatAge, isObject } from "@lateen/base";
import type { ContainerStatus, Deployment, EndpointSlice, KubeObject, Pod, ReplicaSet, Service } from "./objects.ts";

interface Column {
  readonly name: string;
  readonly type: "string" | "integer" | "date" | "number" | "boolean";
  readonly format: string;
  readonly description: string;
  /** Above 0: only with `-o wide`. */
  readonly priority: number;
}

type Cell = string | number | boolean | null;

interface TableKind {
  readonly columns: readonly Column[];
  readonly cells: (object: KubeObject, now: number) => Cell[];
}

function column(text: string): Column {
  const [name = "", type = "string", priority = "0"] = text.split(":");
  return {
    name,
    type: type as Column["type"],
    format: name === "Name" ? "name" : "",
    description: "",
    priority: Number(priority),
  };
}

const columns = (...texts: readonly string[]): Column[] => texts.map(column);

const age = (time: string | undefined, now: number): string =>
  time === undefined ? "<unknown>" : formatAge(now - Date.parse(time));
const ageOf = (object: KubeObject, now: number): string => age(object.metadata.creationTimestamp, now);
const orNone = (text: string | undefined): string => (text === undefined || text === "" ? "<none>" : text);
const labelText = (labels: Readonly<Record<string, string>> | undefined): string =>
  orNone(
    Object.entries(labels ?? {})
      .map(([key, value]) => `${key}=${value}`)
      .join(","),
  );
const images = (containers: readonly { image: string }[]): string => containers.map(({ image }) => image).join(",");
const names = (containers: readonly { name: string }[]): string => containers.map(({ name }) => name).join(",");

/** The STATUS that kubectl shows for a pod: the most telling reason of its containers. */
function podReason(pod: Pod): string {
  let reason = pod.status.reason ?? pod.status.phase;
  const initial = pod.status.initContainerStatuses ?? [];
  const sidecars = new Set(
    (pod.spec.initContainers ?? []).filter((c) => c.restartPolicy === "Always").map((c) => c.name),
  );
  const stuck = initial.findIndex(
    (status) => status.state.terminated?.exitCode !== 0 && !(sidecars.has(status.name) && status.started),
  );
  if (stuck >= 0) {
    const state = initial[stuck]?.state;
    const failed = state?.terminated;
    const why = failed?.reason ?? state?.waiting?.reason;
    reason = why === undefined || why === "PodInitializing" ? `Init:${stuck}/${initial.length}` : `Init:${why}`;
  } else {
    for (const { state } of (pod.status.containerStatuses ?? []).toReversed()) {
      if (state.waiting?.reason !== undefined) reason = state.waiting.reason;
      else if (state.terminated !== undefined) reason = state.terminated.reason;
    }
    const isUp = (pod.status.containerStatuses ?? []).some((status) => status.ready && status.state.running);
    if (reason === "Completed" && isUp) reason = "Running";
  }
  return pod.metadata.deletionTimestamp === undefined ? reason : "Terminating";
}

function restarts(statuses: readonly ContainerStatus[], now: number): string {
  const count = statuses.reduce((sum, status) => sum + status.restartCount, 0);
  const last = statuses
    .map((status) => status.lastState.terminated?.finishedAt)
    .filter((time) => time !== undefined)
    .sort()
    .at(-1);
  return count === 0 || last === undefined ? String(count) : `${count} (${age(last, now)} ago)`;
}

function podCells(object: KubeObject, now: number): Cell[] {
  const pod = object as Pod;
  const statuses = pod.status.containerStatuses ?? [];
  const sidecars = (pod.spec.initContainers ?? []).filter((container) => container.restartPolicy === "Always");
  const sidecarStatuses = (pod.status.initContainerStatuses ?? []).filter((status) =>
    sidecars.some((container) => container.name === status.name),
  );
  const all = [...statuses, ...sidecarStatuses];
  const total = pod.spec.containers.length + sidecars.length;
  return [
    pod.metadata.name,
    `${all.filter((status) => status.ready).length}/${total}`,
    podReason(pod),
    restarts(all, now),
    ageOf(pod, now),
    orNone(pod.status.podIP),
    orNone(pod.spec.nodeName),
    "<none>",
    "<none>",
  ];
}

function servicePorts(service: Service): string {
  return orNone(
    (service.spec.ports ?? [])
      .map((port) => `${port.port}${port.nodePort === undefined ? "" : `:${port.nodePort}`}/${port.protocol ?? "TCP"}`)
      .join(","),
  );
}

function externalAddress(service: Service): string {
  if (service.spec.type === "ExternalName") return orNone(service.spec.externalName);
  if (service.spec.type !== "LoadBalancer") return orNone(service.spec.externalIPs?.join(","));
  const status =
    isObject(service.status) && isObject(service.status["loadBalancer"]) ? service.status["loadBalancer"] : {};
  const ingress = Array.isArray(status["ingress"]) ? status["ingress"] : [];
  const addresses = ingress.map((entry: { ip?: string; hostname?: string }) => entry.ip ?? entry.hostname);
  return addresses.length === 0 ? "<pending>" : addresses.join(",");
}

function endpointText(addresses: readonly string[]): string {
  const shown = addresses.slice(0, 3).join(",");
  return orNone(addresses.length > 3 ? `${shown} + ${addresses.length - 3} more...` : shown);
}

function selectorText(selector: { matchLabels?: Record<string, string> }): string {
  return labelText(selector.matchLabels);
}

const count = (value: unknown): number =>
  isObject(value) ? Object.keys(value).length : Array.isArray(value) ? value.length : 0;

const TABLES: Readonly<Record<string, TableKind>> = {
  pods: {
    columns: columns(
      "Name",
      "Ready",
      "Status",
      "Restarts",
      "Age",
      "IP:string:1",
      "Node:string:1",
      "Nominated Node:string:1",
      "Readiness Gates:string:1",
    ),
    cells: podCells,
  },
  services: {
    columns: columns("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector:string:1"),
    cells: (object, now) => {
      const service = object as Service;
      const { spec } = service;
      return [
        service.metadata.name,
        spec.type ?? "ClusterIP",
        orNone(spec.clusterIP),
        externalAddress(service),
        servicePorts(service),
        ageOf(service, now),
        labelText(spec.selector),
      ];
    },
  },
  "deployments.apps": {
    columns: columns(
      "Name",
      "Ready",
      "Up-to-date:integer",
      "Available:integer",
      "Age",
      "Containers:string:1",
      "Images:string:1",
      "Selector:string:1",
    ),
    cells: (object, now) => {
      const { metadata, spec, status } = object as Deployment;
      const { containers } = spec.template.spec;
      return [
        metadata.name,
        `${status.readyReplicas ?? 0}/${spec.replicas ?? 1}`,
        status.updatedReplicas ?? 0,
        status.availableReplicas ?? 0,
        ageOf(object, now),
        names(containers),
        images(containers),
        selectorText(spec.selector),
      ];
    },
  },
  "replicasets.apps": {
    columns: columns(
      "Name",
      "Desired:integer",
      "Current:integer",
      "Ready:integer",
      "Age",
      "Containers:string:1",
      "Images:string:1",
      "Selector:string:1",
    ),
    cells: (object, now) => {
      const { metadata, spec, status } = object as ReplicaSet;
      const { containers } = spec.template.spec;
      return [
        metadata.name,
        spec.replicas ?? 1,
        status.replicas ?? 0,
        status.readyReplicas ?? 0,
        ageOf(object, now),
        names(containers),
        images(containers),
        selectorText(spec.selector),
      ];
    },
  },
  namespaces: {
    columns: columns("Name", "Status", "Age"),
    cells: (object, now) => {
      const phase = isObject(object.status) ? String(object.status["phase"]) : "";
      return [object.metadata.name, phase, ageOf(object, now)];
    },
  },
  nodes: {
    columns: columns(
      "Name",
      "Status",
      "Roles",
      "Age",
      "Version",
      "Internal-IP:string:1",
      "External-IP:string:1",
      "OS-Image:string:1",
      "Kernel-Version:string:1",
      "Container-Runtime:string:1",
    ),
    cells: (object, now) => {
      const status = object.status as {
        nodeInfo: { kubeletVersion: string; osImage: string; kernelVersion: string; containerRuntimeVersion: string };
        addresses?: { type: string; address: string }[];
      };
      const roles = Object.keys(object.metadata.labels ?? {})
        .filter((label) => label.startsWith("node-role.kubernetes.io/"))
        .map((label) => label.slice("node-role.kubernetes.io/".length));
      const internal = status.addresses?.find((address) => address.type === "InternalIP")?.address;
      const { kubeletVersion, osImage, kernelVersion, containerRuntimeVersion } = status.nodeInfo;
      const wide = [orNone(internal), "<none>", osImage, kernelVersion, containerRuntimeVersion];
      return [object.metadata.name, "Ready", orNone(roles.join(",")), ageOf(object, now), kubeletVersion, ...wide];
    },
  },
  configmaps: {
    columns: columns("Name", "Data:integer", "Age"),
    cells: (object, now) => [
      object.metadata.name,
      count(object["data"]) + count(object["binaryData"]),
      ageOf(object, now),
    ],
  },
  secrets: {
    columns: columns("Name", "Type", "Data:integer", "Age"),
    cells: (object, now) => [object.metadata.name, String(object["type"]), count(object["data"]), ageOf(object, now)],
  },
  serviceaccounts: {
    columns: columns("Name", "Secrets:integer", "Age"),
    cells: (object, now) => [object.metadata.name, count(object["secrets"]), ageOf(object, now)],
  },
  endpoints: {
    columns: columns("Name", "Endpoints", "Age"),
    cells: (object, now) => {
      const subsets = (object["subsets"] ?? []) as { addresses?: { ip: string }[]; ports?: { port: number }[] }[];
      const all = subsets.flatMap(({ addresses = [], ports = [] }) =>
        ports.flatMap(({ port }) => addresses.map(({ ip }) => `${ip}:${port}`)),
      );
      return [object.metadata.name, endpointText(all), ageOf(object, now)];
    },
  },
  "endpointslices.discovery.k8s.io": {
    columns: columns("Name", "AddressType", "Ports", "Endpoints", "Age"),
    cells: (object, now) => {
      const slice = object as EndpointSlice;
      const ports = slice.ports.map(({ port }) => port).join(",");
      const addresses = slice.endpoints.flatMap((endpoint) => endpoint.addresses);
      return [
        slice.metadata.name,
        slice.addressType,
        ports === "" ? "<unset>" : ports,
        endpointText(addresses),
        ageOf(slice, now),
      ];
    },
  },
  events: {
    columns: columns(
      "Last Seen",
      "Type",
      "Reason",
      "Object",
      "Subobject:string:1",
      "Source:string:1",
      "Message",
      "First Seen:string:1",
      "Count:integer:1",
      "Name:string:1",
    ),
    cells: (object, now) => {
      const involved = object["involvedObject"] as { kind: string; name: string; fieldPath?: string };
      const text = (field: string): string => String(object[field] ?? "");
      const source = isObject(object["source"]) ? String(object["source"]["component"] ?? "") : "";
      return [
        age(text("lastTimestamp") || object.metadata.creationTimestamp, now),
        text("type"),
        text("reason"),
        `${involved.kind.toLowerCase()}/${involved.name}`,
        involved.fieldPath ?? "",
        source,
        text("message").trim(),
        age(text("firstTimestamp") || object.metadata.creationTimestamp, now),
        Number(object["count"] ?? 1),
        object.metadata.name,
      ];
    },
  },
  "customresourcedefinitions.apiextensions.k8s.io": {
    columns: columns("Name", "Created At:date"),
    cells: (object) => [object.metadata.name, object.metadata.creationTimestamp ?? ""],
  },
};

const PLAIN: TableKind = {
  columns: columns("Name", "Age"),
  cells: (object, now) => [object.metadata.name, ageOf(object, now)],
};

/** A column of a CustomResourceDefinition's additionalPrinterColumns. */
export interface PrinterColumn {
  readonly name: string;
  readonly type: string;
  readonly jsonPath: string;
  readonly description?: string;
  readonly priority?: number;
}

function atPath(object: unknown, path: string): unknown {
  let at: unknown = object;
  for (const step of path
    .replaceAll(/\[['"]?([^\]'"]+)['"]?\]/g, ".$1")
    .split(".")
    .filter((part) => part !== "")) {
    at = Array.isArray(at) ? at[Number(step)] : isObject(at) ? at[step] : undefined;
  }
  return at;
}

function customTable(printer: readonly PrinterColumn[]): TableKind {
  const shown = printer.length > 0 ? printer : [{ name: "Age", type: "date", jsonPath: ".metadata.creationTimestamp" }];
  return {
    columns: [
      column("Name"),
      ...shown.map(
        (entry): Column => ({
          name: entry.name,
          type: entry.type as Column["type"],
          format: "",
          description: "description" in entry ? (entry.description ?? "") : "",
          priority: "priority" in entry ? (entry.priority ?? 0) : 0,
        }),
      ),
    ],
    cells: (object, now) => [
      object.metadata.name,
      ...shown.map((entry): Cell => {
        const value = atPath(object, entry.jsonPath);
        if (value === undefined || value === null) return null;
        if (entry.type === "date") return age(String(value), now);
        if (typeof value === "object") return JSON.stringify(value);
        return typeof value === "number" || typeof value === "boolean" ? value : String(value);
      }),
    ],
  };
}

/** What the `object` of a row holds: metadata only, the whole, or nothing. */
export type IncludeObject = "Metadata" | "Object" | "None";

function rowObject(object: KubeObject, include: IncludeObject): unknown {
  if (include === "None") return undefined;
  if (include === "Object") return object;
  return { kind: "PartialObjectMetadata", apiVersion: "meta.k8s.io/v1", metadata: object.metadata };
}

/** Renders objects of one kind as a meta.k8s.io/v1 Table. `isFirst` false leaves the column definitions out (watches). */
export function renderTable(
  table: string,
  objects: readonly KubeObject[],
  options: {
    readonly listMeta: Readonly<Record<string, unknown>>;
    readonly include: IncludeObject;
    readonly printer: readonly PrinterColumn[] | undefined;
    readonly isFirst: boolean;
  },
): Record<string, unknown> {
  const rules = options.printer === undefined ? (TABLES[table] ?? PLAIN) : customTable(options.printer);
  const now = Date.now();
  return {
    kind: "Table",
    apiVersion: "meta.k8s.io/v1",
    metadata: options.listMeta,
    columnDefinitions: options.isFirst ? rules.columns : null,
    rows: objects.map((object) => ({ cells: rules.cells(object, now), object: rowObject(object, options.include) })),
  };
}

/** The table of a `scale` subresource. */
export function scaleTable(scale: KubeObject): Record<string, unknown> {
  const { spec, status } = scale as unknown as { spec: { replicas: number }; status: { replicas: number } };
  return {
    kind: "Table",
    apiVersion: "meta.k8s.io/v1",
    metadata: { resourceVersion: scale.metadata.resourceVersion },
    columnDefinitions: columns("Name", "Desired:integer", "Available:integer", "Age"),
    rows: [
      {
        cells: [scale.metadata.name, spec.replicas, status.replicas, ageOf(scale, Date.now())],
        object: rowObject(scale, "Metadata"),
      },
    ],
  };
}
