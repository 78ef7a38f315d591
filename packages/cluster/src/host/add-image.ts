// Adding images to an instance: a command on the host's skeleton, a folder, or an archive as `docker save` and OCI tools write it.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { Failure, isObject } from "@lateen/base";
import { type Image, ImageTable, normalName } from "../node/images.ts";
import type { Instance } from "./instance.ts";

export interface ImageOptions {
  /** A folder or an archive; absent: the host's programs. */
  readonly root?: string;
  /** Files and folders of this machine, to be read inside. */
  readonly files: readonly { readonly source: string; readonly target: string }[];
  readonly command: readonly string[];
  /** Where the pod says no arguments. */
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly user?: string;
  readonly workdir?: string;
}

interface ArchiveConfig {
  readonly Entrypoint?: readonly string[] | null;
  readonly Cmd?: readonly string[] | null;
  readonly Env?: readonly string[] | null;
  readonly User?: string;
  readonly WorkingDir?: string;
}

const variables = (list: readonly string[]): Record<string, string> =>
  Object.fromEntries(list.map((entry) => [entry.slice(0, entry.indexOf("=")), entry.slice(entry.indexOf("=") + 1)]));

const readJson = (path: string): any => JSON.parse(readFileSync(path, "utf8"));

function tar(args: readonly string[]): void {
  const done = spawnSync("tar", [...args], { encoding: "utf8" });
  if (done.status !== 0)
    throw new Failure(
      `the archive cannot be read: ${(done.stderr ?? "").trim().split("\n").at(-1)}`,
      "It must be an OCI or Docker image archive.",
    );
}

/** Config and layers of an unpacked archive: Docker's manifest.json, or OCI's index.json. */
function partsOf(folder: string): { config: ArchiveConfig; layers: string[] } {
  const blob = (digest: string): string => join(folder, "blobs", ...digest.split(":"));
  if (existsSync(join(folder, "manifest.json"))) {
    const [manifest] = readJson(join(folder, "manifest.json"));
    return {
      config: readJson(join(folder, manifest.Config)).config ?? {},
      layers: manifest.Layers.map((layer: string) => join(folder, layer)),
    };
  }
  if (!existsSync(join(folder, "index.json")))
    throw new Failure(
      "the archive holds neither manifest.json nor index.json",
      "It must be an OCI or Docker image archive.",
    );
  let manifest = readJson(blob(readJson(join(folder, "index.json")).manifests[0].digest));
  if (Array.isArray(manifest.manifests)) {
    const own = process.arch === "arm64" ? "arm64" : "amd64";
    const found =
      manifest.manifests.find((entry: any) => entry.platform?.architecture === own) ?? manifest.manifests[0];
    manifest = readJson(blob(found.digest));
  }
  return {
    config: readJson(blob(manifest.config.digest)).config ?? {},
    layers: manifest.layers.map((layer: { digest: string }) => blob(layer.digest)),
  };
}

/** Unpacks the layers of an archive over each other; a file `.wh.NAME` removes NAME of the layers below. */
function unpack(archive: string, target: string, work: string): ArchiveConfig {
  const raw = join(work, "archive");
  mkdirSync(raw);
  tar(["-xf", archive, "-C", raw]);
  const { config, layers } = partsOf(raw);
  const root = join(work, "root");
  mkdirSync(root);
  for (const layer of layers) {
    tar(["-xf", layer, "-C", root, "--no-same-owner"]);
    removeWhiteouts(root);
  }
  rmSync(target, { recursive: true, force: true });
  renameSync(root, target);
  return config;
}

function removeWhiteouts(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.name.startsWith(".wh.")) continue;
    if (entry.name !== ".wh..wh..opq")
      rmSync(join(entry.parentPath, entry.name.slice(4)), { recursive: true, force: true });
    rmSync(join(entry.parentPath, entry.name), { force: true });
  }
}

/** Adds an image under `name`, or replaces it. It is there for the next container that asks for it. */
export function addImage(instance: Instance, name: string, options: ImageOptions): Image {
  instance.createFolders();
  const table = new ImageTable(instance.stateFolder);
  let config: ArchiveConfig = {};
  let root: string | undefined;
  if (options.root !== undefined) {
    root = resolve(options.root);
    if (!existsSync(root))
      throw new Failure(`${options.root} does not exist`, "Name a folder, or an OCI or Docker archive.");
    if (!statSync(root).isDirectory()) {
      const images = join(instance.stateFolder, "images");
      mkdirSync(images, { recursive: true });
      const target = join(images, createHash("sha256").update(name).digest("hex").slice(0, 16));
      const work = mkdtempSync(join(images, "new-"));
      try {
        config = unpack(root, target, work);
      } finally {
        rmSync(work, { recursive: true, force: true });
      }
      root = target;
    }
  }
  const isOwn = options.command.length + options.args.length > 0;
  const [command, args] = isOwn ? [options.command, options.args] : [config.Entrypoint ?? [], config.Cmd ?? []];
  if (command.length + args.length === 0)
    throw new Failure(`${name} has no command`, `Say what it runs: lateen image add ${name} -- COMMAND`);
  const user = options.user ?? config.User?.split(":")[0] ?? "";
  const cwd = options.workdir ?? (config.WorkingDir || undefined);
  const image: Image = {
    entrypoint: command,
    command: args,
    env: variables([...(config.Env ?? []), ...options.env]),
    uid: /^\d+$/.test(user) ? Number(user) : 0,
    ...(cwd === undefined ? {} : { cwd }),
    ...(root === undefined ? {} : { root }),
    files: options.files.map(({ source, target }) => {
      if (!existsSync(source)) throw new Failure(`${source} does not exist`, "Name a file or folder of this machine.");
      return { source: resolve(source), target };
    }),
  };
  table.write({ ...table.all(), [normalName(name)]: image });
  return image;
}

/** Removes an image that was added. False: there is none of that name. */
export function removeImage(instance: Instance, name: string): boolean {
  const table = new ImageTable(instance.stateFolder);
  const { [normalName(name)]: found, ...others } = table.all();
  if (!isObject(found)) return false;
  table.write(others);
  const own = join(instance.stateFolder, "images");
  if (typeof found["root"] === "string" && found["root"].startsWith(`${own}/`))
    rmSync(found["root"], { recursive: true, force: true });
  return true;
}

/** The images that were added. */
export function listImages(instance: Instance): Readonly<Record<string, Image>> {
  return new ImageTable(instance.stateFolder).all();
}
