// Images without a registry: a name stands for a root and a command. The root of all built-in ones is a skeleton of the
// host: its programs and libraries read-only, nothing else of it. The samples run under their public image names; users add
// images of their own, on the host's skeleton or with files of their own.
import {
  existsSync,
  lstatSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { isObject } from "@lateen/base";
import type { Mount } from "../sandbox/client.ts";

/** Where programs of Lateen lie inside every container. */
const PROJECT = "/opt/lateen";
const RUNTIME = "/opt/runtime";
const BIN = "/opt/bin";

export interface Image {
  readonly entrypoint: readonly string[];
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly uid: number;
  readonly cwd?: string;
  /** Files of the machine that are in it, too. */
  readonly files?: readonly { readonly source: string; readonly target: string }[];
  /** Folder with the image's own files; absent: the host's skeleton. */
  readonly root?: string;
}

/** The images that users have added, by full name: a file in the state folder, read again when it has changed. */
export class ImageTable {
  readonly #path: string;
  #stamp = -1;
  #images: Readonly<Record<string, Image>> = {};

  constructor(stateFolder: string) {
    this.#path = join(stateFolder, IMAGE_FILE);
  }

  /** The image of a name, or undefined: the user's own first, then those that come along. */
  find(name: string): Image | undefined {
    this.#refresh();
    return this.#images[name] ?? this.#images[normalName(name)] ?? builtInImage(name);
  }

  /** The user's images. */
  all(): Readonly<Record<string, Image>> {
    this.#refresh();
    return this.#images;
  }

  #refresh(): void {
    const stamp = existsSync(this.#path) ? statSync(this.#path).mtimeMs : 0;
    if (stamp === this.#stamp) return;
    this.#stamp = stamp;
    const read: unknown = stamp === 0 ? {} : JSON.parse(readFileSync(this.#path, "utf8"));
    this.#images = isObject(read) ? (read as Record<string, Image>) : {};
  }

  /** Replaces the user's images. */
  write(images: Readonly<Record<string, Image>>): void {
    writeFileSync(`${this.#path}.new`, `${JSON.stringify(images, null, 2)}\n`);
    renameSync(`${this.#path}.new`, this.#path);
    this.#stamp = -1;
  }
}

const IMAGE_FILE = "images.json";

/** A name with its tag: without one it is `latest`; Docker's registry may be left out. */
export function normalName(name: string): string {
  const short = name.replace(/^docker\.io\/(library\/)?/, "");
  return /(:[\w.-]+|@sha256:\w+)$/.test(short.split("/").at(-1) ?? "") ? short : `${short}:latest`;
}

/** A name with registry and tag, as container runtimes write it. */
export function fullName(name: string): string {
  const normal = normalName(name);
  const [first = "", ...rest] = normal.split("/");
  if (rest.length > 0 && /[.:]|^localhost$/.test(first)) return normal;
  return rest.length > 0 ? `docker.io/${normal}` : `docker.io/library/${normal}`;
}

/** Where the host keeps what containers run. */
export interface Programs {
  readonly project: string;
  readonly node: string;
  readonly envoy: string;
}

const NODE = [`${RUNTIME}/node`];
const SHELL: Image = { entrypoint: [], command: ["/bin/sh"], env: {}, uid: 0 };

/** busybox' and alpine's shell knows `[[` and more; on the host that is bash's, where there is one. */
function ashLike(): Image {
  const isThere = existsSync("/bin/bash") && existsSync("/bin/sh");
  return isThere ? { ...SHELL, files: [{ source: "/bin/bash", target: realpathSync("/bin/sh") }] } : SHELL;
}

function script(path: string, env: Readonly<Record<string, string>> = {}): Image {
  return { entrypoint: [...NODE, `${PROJECT}/${path}`], command: [], env, uid: 0 };
}

/** Name patterns (without registry and tag) and what they mean. */
const IMAGES: readonly (readonly [RegExp, (match: RegExpExecArray) => Image])[] = [
  [
    /^istio\/examples-bookinfo-(productpage|details|ratings|reviews)-(v[123])$/,
    ([, service, version]) => script(`samples/bookinfo/src/${service}.ts`, { SERVICE_VERSION: String(version) }),
  ],
  [/^lateen\/pilot$/, () => ({ ...script("packages/meshd/src/main.ts"), uid: 1337 })],
  [/^lateen\/proxyv2$/, () => ({ ...script("packages/agent/src/main.ts"), uid: 1337 })],
  [/^(library\/)?(busybox|alpine)$/, ashLike],
  [/^(library\/)?(debian|ubuntu)$/, () => SHELL],
  [/^(curlimages\/curl|nicolaka\/netshoot)$/, () => SHELL],
];

/** The image of a name such as `docker.io/istio/examples-bookinfo-details-v1:1.20.3`, or undefined. */
function builtInImage(name: string): Image | undefined {
  const bare = name
    .replace(/@sha256:.*$/, "")
    .replace(/:[\w.-]+$/, "")
    .replace(/^(docker\.io|registry\.istio\.io|quay\.io)\//, "");
  for (const [pattern, make] of IMAGES) {
    const match = pattern.exec(bare.replace(/^release\//, "istio/"));
    if (match !== null) return make(match);
  }
  return undefined;
}

const HOST_FOLDERS = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
const HOST_FILES = [
  "/etc/alternatives",
  "/etc/ca-certificates",
  "/etc/ethertypes",
  "/etc/ld.so.cache",
  "/etc/ld.so.conf",
  "/etc/ld.so.conf.d",
  "/etc/localtime",
  "/etc/mime.types",
  "/etc/nsswitch.conf",
  "/etc/protocols",
  "/etc/services",
  "/etc/ssl",
];

const PASSWD = `root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
istio-proxy:x:1337:1337:istio-proxy:/var/lib/istio:/bin/bash
`;
const GROUP = `root:x:0:
daemon:x:1:
tty:x:5:
nogroup:x:65534:
istio-proxy:x:1337:
`;

/** The mounts, links and files that every container's root starts with. */
export function skeleton(
  programs: Programs,
  image: Image,
): {
  mounts: Mount[];
  links: Record<string, string>;
  files: Record<string, string>;
} {
  const mounts: Mount[] = [];
  const links: Record<string, string> = {};
  const add = (source: string, target: string): void => void mounts.push({ source, target, readOnly: true });
  for (const folder of image.root === undefined ? HOST_FOLDERS : []) {
    if (!existsSync(folder)) continue;
    if (lstatSync(folder).isSymbolicLink()) links[folder] = readlinkSync(folder);
    else add(folder, folder);
  }
  for (const { source, target } of image.files ?? []) add(source, target);
  if (image.root !== undefined) return { mounts, links, files: {} };
  for (const file of HOST_FILES) if (existsSync(file)) add(file, file);
  add(programs.project, PROJECT);
  add(programs.node, `${RUNTIME}/node`);
  add(programs.envoy, `${RUNTIME}/envoy`);
  const program = (path: string): string => `#!/bin/sh\nexec ${RUNTIME}/node ${PROJECT}/${path} "$@"\n`;
  const files = {
    "/etc/passwd": PASSWD,
    "/etc/group": GROUP,
    // The commands that people and istioctl run in proxies and in the control plane.
    [`${BIN}/pilot-agent`]: program("packages/agent/src/main.ts"),
    [`${BIN}/pilot-discovery`]: program("packages/meshd/src/main.ts"),
  };
  return { mounts, links, files };
}

/** Environment of every container, before the image's and the pod's own. */
export const BASE_ENV: Readonly<Record<string, string>> = {
  PATH: `/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${RUNTIME}:${BIN}`,
  HOME: "/root",
};
