// From a pod's container to what PID 1 starts: image, command, environment, user, mounts.
import { join } from "node:path";
import { builtIn } from "../api/kinds.ts";
import type { Container, EnvVar, Pod, Service } from "../api/objects.ts";
import type { Store } from "../api/store.ts";
import type { ContainerSpec, Mount } from "../sandbox/client.ts";
import { BASE_ENV, type ImageTable, type Programs, skeleton } from "./images.ts";
import { downwardValue, PODS_FOLDER, VolumeNotReady, volumeFolder } from "./volumes.ts";

/** Raised for an image name that stands for nothing. */
export class UnknownImage extends Error {
  override readonly name = "UnknownImage";
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
  return resourceValue(container, from.resourceFieldRef?.resource ?? "");
}

/** `limits.cpu` and the like, in whole cores or bytes; what is not limited is the whole machine's. */
function resourceValue(container: Container, resource: string): string {
  const [list = "", name = ""] = resource.split(".");
  const quantity = container.resources?.[list as "limits" | "requests"]?.[name];
  if (quantity === undefined) return "0";
  if (quantity.endsWith("m")) return String(Math.ceil(Number(quantity.slice(0, -1)) / 1000));
  const units: Readonly<Record<string, number>> = { Ki: 1 << 10, Mi: 1 << 20, Gi: 1 << 30, k: 1e3, M: 1e6, G: 1e9 };
  const unit = /(Ki|Mi|Gi|k|M|G)$/.exec(quantity)?.[1];
  return String(unit === undefined ? Number(quantity) : Number(quantity.slice(0, -unit.length)) * (units[unit] ?? 1));
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
    HOSTNAME: pod.spec.hostname ?? pod.metadata.name,
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
    return {
      source: mount.subPath === undefined ? source : join(source, mount.subPath),
      target: mount.mountPath,
      readOnly: mount.readOnly === true,
    };
  });
  const security = container.securityContext ?? {};
  const group = pod.spec.securityContext?.fsGroup;
  return {
    container: parts.id,
    sandbox: parts.sandbox,
    hostname: pod.spec.hostname ?? pod.metadata.name,
    args: [...entrypoint, ...given].map((arg) => expand(arg, env)),
    env,
    cwd: container.workingDir ?? image.cwd ?? "/",
    ...(image.root === undefined ? {} : { lower: image.root }),
    uid: security.runAsUser ?? pod.spec.securityContext?.runAsUser ?? image.uid,
    gid: security.runAsGroup ?? pod.spec.securityContext?.runAsGroup ?? security.runAsUser ?? image.uid,
    groups: group === undefined ? [] : [group],
    addCapabilities: security.capabilities?.add ?? [],
    dropCapabilities: security.capabilities?.drop ?? [],
    privileged: security.privileged === true,
    readOnlyRoot: security.readOnlyRootFilesystem === true,
    mounts: [...base.mounts, ...files, ...volumes.toSorted((a, b) => a.target.length - b.target.length)],
    links: base.links,
    files: base.files,
    log: parts.log,
  };
}
