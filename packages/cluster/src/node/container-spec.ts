// From a pod's container to what PID 1 starts: image, command, environment, user, mounts.
import { join } from "node:path";
import { builtIn } from "../api/kinds.ts";
import type { Container, EnvVar, Pod, Service } from "../api/objects.ts";
import { quantityNanos } from "../api/quantity.ts";
import type { Store } from "../api/store.ts";
import type { ContainerSpec, Mount } from "../sandbox/client.ts";
import { BASE_ENV, type ImageTable, type Programs, skeleton } from "./images.ts";
import { downwardValue, isHostPath, PODS_FOLDER, resourceValue, VolumeNotReady, volumeFolder } from "./volumes.ts";

/** Raised for an image name that stands for nothing. */
export class UnknownImage extends Error {
  override readonly name = "UnknownImage";
}

/** What the pod calls itself. */
export function hostnameOf(pod: Pod): string {
  const { hostname, nodeName, hostNetwork } = pod.spec;
  return (hostNetwork === true ? nodeName : hostname) ?? pod.metadata.name;
}

function keyValue(
  store: Store,
  pod: Pod,
  kind: "configmaps" | "secrets",
  ref: { name: string; key: string; optional?: boolean },
): string | undefined {
  const object = store.get(kind, pod.metadata.namespace, ref.name);
  const value = ((object?.["data"] ?? {}) as Record<string, string>)[ref.key];
  if (value !== undefined) return kind === "secrets" ? Buffer.from(value, "base64").toString("utf8") : value;
  if (ref.optional === true) return undefined;
  if (object === undefined) throw new VolumeNotReady(`${builtIn(kind).singular} "${ref.name}" not found`);
  throw new VolumeNotReady(
    `couldn't find key ${ref.key} in ${builtIn(kind).kind} ${pod.metadata.namespace}/${ref.name}`,
  );
}

function envValue(store: Store, pod: Pod, container: Container, entry: EnvVar): string | undefined {
  const from = entry.valueFrom;
  if (from === undefined) return entry.value ?? "";
  if (from.fieldRef !== undefined) return downwardValue(pod, from.fieldRef.fieldPath);
  if (from.configMapKeyRef !== undefined) return keyValue(store, pod, "configmaps", from.configMapKeyRef);
  if (from.secretKeyRef !== undefined) return keyValue(store, pod, "secrets", from.secretKeyRef);
  return from.resourceFieldRef === undefined ? "" : resourceValue(container, from.resourceFieldRef);
}

/** What the kernel is to limit, of a container's `resources.limits`. */
function limitsOf(container: Container): NonNullable<ContainerSpec["limits"]> | undefined {
  const { memory, cpu } = container.resources?.limits ?? {};
  if (memory === undefined && cpu === undefined) return undefined;
  return {
    ...(memory === undefined ? {} : { memoryBytes: Number(quantityNanos(memory) / 1_000_000_000n) }),
    ...(cpu === undefined ? {} : { cpuMillis: Number(quantityNanos(cpu) / 1_000_000n) }),
  };
}

/** `$(NAME)` in values, commands and arguments; `$$` stands for `$`. */
function expand(text: string, env: Readonly<Record<string, string>>): string {
  return text.replaceAll(/\$\$|\$\(([\w.-]+)\)/g, (all, name: string | undefined) =>
    name === undefined ? "$" : (env[name] ?? all),
  );
}

/** Variables that name the Services of the pod's namespace and the API itself. */
function serviceEnv(store: Store, pod: Pod): Record<string, string> {
  const env: Record<string, string> = {};
  const add = (service: Service | undefined): void => {
    const port = service?.spec.ports?.[0];
    if (service === undefined || port === undefined || service.spec.clusterIP === "None") return;
    const prefix = service.metadata.name.toUpperCase().replaceAll("-", "_");
    env[`${prefix}_SERVICE_HOST`] = service.spec.clusterIP ?? "";
    env[`${prefix}_SERVICE_PORT`] = String(port.port);
    env[`${prefix}_PORT`] = `tcp://${service.spec.clusterIP}:${port.port}`;
  };
  if (pod.spec["enableServiceLinks"] !== false) {
    for (const service of store.list("services", pod.metadata.namespace)) add(service as Service);
  }
  add(store.get("services", "default", "kubernetes") as Service | undefined);
  return env;
}

function environment(
  store: Store,
  pod: Pod,
  container: Container,
  imageEnv: Readonly<Record<string, string>>,
): Record<string, string> {
  const env: Record<string, string> = {
    ...BASE_ENV,
    ...imageEnv,
    HOSTNAME: hostnameOf(pod),
    ...serviceEnv(store, pod),
  };
  for (const source of container.envFrom ?? []) {
    const kind = source.configMapRef === undefined ? "secrets" : "configmaps";
    const name = (source.configMapRef ?? source.secretRef)?.name ?? "";
    const data = (store.get(kind, pod.metadata.namespace, name)?.["data"] ?? {}) as Record<string, string>;
    for (const [key, value] of Object.entries(data)) {
      env[`${source.prefix ?? ""}${key}`] = kind === "secrets" ? Buffer.from(value, "base64").toString("utf8") : value;
    }
  }
  for (const entry of container.env ?? []) {
    const value = envValue(store, pod, container, entry);
    if (value !== undefined) env[entry.name] = entry.valueFrom === undefined ? expand(value, env) : value;
  }
  return env;
}

/** What PID 1 needs to start `container`. Throws UnknownImage and VolumeNotReady. */
export function containerSpec(parts: {
  readonly store: Store;
  readonly programs: Programs;
  readonly images: ImageTable;
  readonly pod: Pod;
  readonly container: Container;
  readonly sandbox: string;
  readonly id: string;
  readonly log: string;
  /** The container whose processes it is to see. */
  readonly target: string | undefined;
  /** Where the container may say why it ends. */
  readonly messageFile: string;
}): ContainerSpec {
  const { store, programs, pod, container } = parts;
  const image = parts.images.find(container.image);
  if (image === undefined) throw new UnknownImage(container.image);
  const env = environment(store, pod, container, image.env);
  const entrypoint = container.command ?? image.entrypoint;
  const given = container.args ?? (container.command === undefined ? image.command : []);
  const base = skeleton(programs, image);
  const etc = join(PODS_FOLDER, pod.metadata.uid, "etc");
  const files: Mount[] = ["hosts", "resolv.conf", "hostname"].map((name) => ({
    source: join(etc, name),
    target: `/etc/${name}`,
    readOnly: true,
  }));
  const volumes = (container.volumeMounts ?? []).map((mount): Mount => {
    const source = volumeFolder(pod, mount.name);
    const target = mount.mountPath;
    const beneath = (mount.subPathExpr === undefined ? mount.subPath : expand(mount.subPathExpr, env)) ?? "";
    // Nothing is made on the host, and what its links lead to is its own choice.
    if (isHostPath(pod, mount.name)) return { source: join(source, beneath), target, readOnly: true };
    return { source, target, readOnly: mount.readOnly === true, ...(beneath === "" ? {} : { beneath }) };
  });
  const message: Mount = {
    source: parts.messageFile,
    target: container.terminationMessagePath ?? "/dev/termination-log",
    readOnly: false,
  };
  const security = container.securityContext ?? {};
  const group = pod.spec.securityContext?.fsGroup;
  const limits = limitsOf(container);
  const processes = parts.target ?? (pod.spec["shareProcessNamespace"] === true ? "" : undefined);
  return {
    container: parts.id,
    sandbox: parts.sandbox,
    hostname: hostnameOf(pod),
    args: [...entrypoint, ...given].map((arg) => expand(arg, env)),
    env,
    cwd: container.workingDir ?? image.cwd ?? "/",
    ...(image.root === undefined ? {} : { lower: image.root }),
    uid: security.runAsUser ?? pod.spec.securityContext?.runAsUser ?? image.uid,
    gid: security.runAsGroup ?? pod.spec.securityContext?.runAsGroup ?? security.runAsUser ?? image.uid,
    groupIds: group === undefined ? [] : [group],
    addCapabilities: security.capabilities?.add ?? [],
    dropCapabilities: security.capabilities?.drop ?? [],
    privileged: security.privileged === true,
    readOnlyRoot: security.readOnlyRootFilesystem === true,
    mounts: [...base.mounts, ...files, message, ...volumes.toSorted((a, b) => a.target.length - b.target.length)],
    links: base.links,
    files: base.files,
    log: parts.log,
    stdin: container.stdin === true,
    stdinOnce: container.stdinOnce === true,
    tty: container.tty === true,
    ...(processes === undefined ? {} : { processesOf: processes }),
    ...(limits === undefined ? {} : { limits }),
  };
}
