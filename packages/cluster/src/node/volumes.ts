// Volumes of a pod as folders below /run/lateen/pods, in the instance's own mount namespace: gone when it is.
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { issueToken, type TokenSigner } from "../api/auth.ts";
import type { Container, KubeObject, Pod, ResourceFieldRef, Volume } from "../api/objects.ts";
import { quantityNanos } from "../api/quantity.ts";
import { nodeOf } from "../api/reviews.ts";
import type { Store } from "../api/store.ts";

export const PODS_FOLDER = "/run/lateen/pods";

/** Tokens are written anew when this share of their life is over. */
const TOKEN_RENEW_SHARE = 0.8;

/** Raised while something a volume needs is missing; the pod waits. */
export class VolumeNotReady extends Error {
  override readonly name = "VolumeNotReady";
}

export function volumeFolder(pod: Pod, volume: string): string {
  return join(PODS_FOLDER, pod.metadata.uid, "volumes", volume);
}

/** A downward API value: `metadata.name`, `metadata.labels['app']`, `status.podIP` ... */
export function downwardValue(pod: Pod, fieldPath: string): string {
  const keyed = /^metadata\.(labels|annotations)\['([^']+)'\]$/.exec(fieldPath);
  if (keyed !== null) return pod.metadata[keyed[1] as "labels" | "annotations"]?.[keyed[2] ?? ""] ?? "";
  const quoted = (record: Readonly<Record<string, string>> | undefined): string =>
    Object.entries(record ?? {})
      .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
      .join("\n");
  switch (fieldPath) {
    case "metadata.name":
      return pod.metadata.name;
    case "metadata.namespace":
      return pod.metadata.namespace ?? "";
    case "metadata.uid":
      return pod.metadata.uid;
    case "metadata.labels":
      return quoted(pod.metadata.labels);
    case "metadata.annotations":
      return quoted(pod.metadata.annotations);
    case "spec.nodeName":
      return pod.spec.nodeName ?? "";
    case "spec.serviceAccountName":
      return pod.spec.serviceAccountName ?? "";
    case "status.podIP":
    case "status.podIPs":
      return pod.status.podIP ?? "";
    case "status.hostIP":
      return pod.status.hostIP ?? "";
    default:
      return "";
  }
}

/** `limits.cpu` and the like, in whole cores or bytes, or in units of `divisor`; what is not limited is the machine's. */
export function resourceValue(container: Container, { resource, divisor }: ResourceFieldRef): string {
  const [list = "", name = ""] = resource.split(".");
  const { requests, limits } = container.resources ?? {};
  const machine: Readonly<Record<string, string>> = { cpu: String(availableParallelism()), memory: String(totalmem()) };
  const value = list === "limits" ? (limits?.[name] ?? machine[name]) : (requests?.[name] ?? limits?.[name]);
  const unit = divisor === undefined || divisor === "0" ? 1_000_000_000n : quantityNanos(divisor);
  // Rounded up, as the kubelet does.
  return String((quantityNanos(value ?? "0") + unit - 1n) / unit);
}

/** The host's files are shown as they are, and never for writing. */
export const isHostPath = (pod: Pod, volume: string): boolean =>
  (pod.spec.volumes ?? []).some(({ name, hostPath }) => name === volume && hostPath !== undefined);

type Files = Map<string, Buffer>;

/** What a hostPath's `type` asks for. */
const TYPES: Readonly<Record<string, (stats: Stats) => boolean>> = {
  Directory: (stats) => stats.isDirectory(),
  File: (stats) => stats.isFile(),
  Socket: (stats) => stats.isSocket(),
  CharDevice: (stats) => stats.isCharacterDevice(),
  BlockDevice: (stats) => stats.isBlockDevice(),
};

export class Volumes {
  readonly #store: Store;
  readonly #signer: TokenSigner;
  readonly #stateFolder: string;

  constructor(store: Store, signer: TokenSigner, stateFolder: string) {
    this.#stateFolder = realpathSync(stateFolder);
    this.#store = store;
    this.#signer = signer;
  }

  #keyed(kind: "configmaps" | "secrets", pod: Pod, name: string, isOptional: boolean): Record<string, Buffer> {
    const object: KubeObject | undefined = this.#store.get(kind, pod.metadata.namespace, name);
    if (object === undefined) {
      if (isOptional) return {};
      throw new VolumeNotReady(`${kind.slice(0, -1)} "${name}" not found`);
    }
    const data = (object["data"] ?? {}) as Record<string, string>;
    const binary = (object["binaryData"] ?? {}) as Record<string, string>;
    const entries = Object.entries(data).map(
      ([key, value]) => [key, Buffer.from(value, kind === "secrets" ? "base64" : "utf8")] as const,
    );
    return Object.fromEntries([
      ...entries,
      ...Object.entries(binary).map(([key, value]) => [key, Buffer.from(value, "base64")] as const),
    ]);
  }

  #select(
    files: Files,
    data: Readonly<Record<string, Buffer>>,
    items: readonly { key: string; path: string }[] | undefined,
  ): void {
    const chosen = items ?? Object.keys(data).map((key) => ({ key, path: key }));
    for (const { key, path } of chosen) {
      const content = data[key];
      if (content === undefined) throw new VolumeNotReady(`references non-existent key: ${key}`);
      files.set(path, content);
    }
  }

  /** The files of a volume, and after how many seconds they must be written again (tokens). */
  #files(pod: Pod, volume: Volume): { files: Files; renewSeconds: number | undefined } {
    const files: Files = new Map();
    let renewSeconds: number | undefined;
    const downward = (items: NonNullable<NonNullable<Volume["downwardAPI"]>["items"]>): void => {
      for (const { path, fieldRef, resourceFieldRef } of items) {
        const container = pod.spec.containers.find(({ name }) => name === resourceFieldRef?.containerName);
        const value =
          resourceFieldRef === undefined || container === undefined
            ? downwardValue(pod, fieldRef?.fieldPath ?? "")
            : resourceValue(container, resourceFieldRef);
        files.set(path, Buffer.from(value));
      }
    };
    const { configMap, secret, downwardAPI, projected } = volume;
    if (configMap !== undefined) {
      this.#select(
        files,
        this.#keyed("configmaps", pod, configMap.name ?? "", configMap.optional === true),
        configMap.items,
      );
    } else if (secret !== undefined) {
      this.#select(files, this.#keyed("secrets", pod, secret.secretName ?? "", secret.optional === true), secret.items);
    } else if (downwardAPI !== undefined) downward(downwardAPI.items ?? []);
    for (const source of projected?.sources ?? []) {
      if (source.configMap !== undefined) {
        this.#select(
          files,
          this.#keyed("configmaps", pod, source.configMap.name, source.configMap.optional === true),
          source.configMap.items,
        );
      } else if (source.secret !== undefined)
        this.#select(files, this.#keyed("secrets", pod, source.secret.name, false), source.secret.items);
      else if (source.downwardAPI !== undefined) downward(source.downwardAPI.items);
      else if (source.serviceAccountToken !== undefined) {
        const { audience, expirationSeconds = 3600, path } = source.serviceAccountToken;
        files.set(path, Buffer.from(this.#token(pod, audience, expirationSeconds)));
        const renew = expirationSeconds * TOKEN_RENEW_SHARE;
        renewSeconds = Math.min(renewSeconds ?? renew, renew);
      }
    }
    return { files, renewSeconds };
  }

  #token(pod: Pod, audience: string | undefined, expirationSeconds: number): string {
    const { namespace, name, uid } = pod.metadata;
    const account = this.#store.get("serviceaccounts", namespace, pod.spec.serviceAccountName ?? "default");
    if (account === undefined) throw new VolumeNotReady(`serviceaccount "${pod.spec.serviceAccountName}" not found`);
    const { nodeName } = pod.spec;
    return issueToken(this.#signer, account, {
      audiences: audience === undefined ? [] : [audience],
      expirationSeconds,
      bound: { kind: "pod", name, uid, ...nodeOf(this.#store, nodeName) },
    }).token;
  }

  /** Creates or refreshes all volumes of a pod. Returns the seconds until the next refresh is due, if any. */
  prepare(pod: Pod): number | undefined {
    let next: number | undefined;
    const group = pod.spec.securityContext?.fsGroup;
    for (const volume of pod.spec.volumes ?? []) {
      const folder = volumeFolder(pod, volume.name);
      if (volume.hostPath !== undefined) {
        this.#hostPath(folder, volume.hostPath.path, volume.hostPath.type ?? "");
        continue;
      }
      if (volume.emptyDir !== undefined || Object.keys(volume).length === 1) {
        mkdirSync(folder, { recursive: true });
        chmodSync(folder, 0o777);
        if (group !== undefined) chownSync(folder, 0, group);
        continue;
      }
      const { files, renewSeconds } = this.#files(pod, volume);
      writeAtomically(folder, files);
      if (renewSeconds !== undefined) next = Math.min(next ?? renewSeconds, renewSeconds);
    }
    return next;
  }

  /** A link to a place of the host. Nothing is made there, and the state folder, with the cluster's keys, is not shown. */
  #hostPath(link: string, path: string, type: string): void {
    const real = existsSync(path) ? realpathSync(path) : undefined;
    if (real === undefined)
      throw new VolumeNotReady(`hostPath ${path}: there is no such file or folder on this machine`);
    const state = this.#stateFolder;
    if (`${state}/`.startsWith(`${real.replace(/\/$/, "")}/`) || `${real}/`.startsWith(`${state}/`))
      throw new VolumeNotReady(`hostPath ${path}: it holds the state of the cluster itself, which no pod may see`);
    const isOf = TYPES[type.replace(/OrCreate$/, "")];
    if (isOf !== undefined && !isOf(statSync(real)))
      throw new VolumeNotReady(`hostPath type check failed: ${path} is not a ${type.toLowerCase()}`);
    mkdirSync(dirname(link), { recursive: true });
    rmSync(link, { force: true });
    symlinkSync(real, link);
  }

  remove(pod: Pod): void {
    rmSync(join(PODS_FOLDER, pod.metadata.uid), { recursive: true, force: true });
  }
}

/** Kubernetes' layout: readers go through `..data`, which is swapped in one step. */
function writeAtomically(folder: string, files: Files): void {
  const generation = `..${Date.now().toString(36)}${Math.floor(performance.now() * 1000)}`;
  mkdirSync(join(folder, generation), { recursive: true });
  for (const [path, content] of files) {
    const at = join(folder, generation, path);
    mkdirSync(dirname(at), { recursive: true });
    writeFileSync(at, content, { mode: 0o644 });
  }
  symlinkSync(generation, join(folder, "..data.new"));
  renameSync(join(folder, "..data.new"), join(folder, "..data"));
  for (const top of new Set([...files.keys()].map((path) => path.split("/")[0] ?? path))) {
    rmSync(join(folder, top), { force: true, recursive: true });
    symlinkSync(join("..data", top), join(folder, top));
  }
}
