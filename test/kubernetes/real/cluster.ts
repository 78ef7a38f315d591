// A real Kubernetes 1.34 on this machine, without Docker: the partner that the embedded cluster is held against.
// kube-apiserver, controllers, scheduler, kubelet and proxy come from one Go module as one binary, etcd and CoreDNS from
// theirs, containerd, runc and the CNI plugins from Debian. All of it runs in a network namespace of its own; clients run
// inside it too (`inside`). Binaries are built once (minutes) and kept in the user's cache, by version.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createHash, createPrivateKey } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { createAuthority, type Identity, issueIdentity } from "@lateen/x509";

const VERSION = "1.34.1";
const CACHE = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "lateen", `kubernetes-${VERSION}`);
const NODE_ADDRESS = "10.250.0.1";
const DNS_SERVICE = "10.96.0.10";
const READY_LIMIT_MS = 90_000;
const POLL_MS = 20;
const STOP_LIMIT_MS = 20_000;
const PAUSE_IMAGE = "registry.k8s.io/pause:3.10";

/** Programs that must be on the machine, with the Debian packages that bring them. */
const TOOLS: readonly (readonly [program: string, package_: string])[] = [
  ["containerd", "containerd"],
  ["runc", "runc"],
  ["iptables", "iptables"],
  ["conntrack", "conntrack"],
  ["busybox", "busybox-static"],
  ["/usr/lib/cni/bridge", "containernetworking-plugins"],
  ["ip", "iproute2"],
  ["nsenter", "util-linux"],
  ["kubectl", "kubectl"],
];

function isThere(program: string): boolean {
  if (program.startsWith("/")) return existsSync(program);
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  return folders.some((folder) => existsSync(join(folder, program)));
}

/** Why Kubernetes' own programs cannot be built here; undefined when they can. */
export function goLacks(): string | undefined {
  return isThere("go") ? undefined : "Go is not installed: Kubernetes' programs are built from its Go module";
}

/** Why a real Kubernetes cannot run here; undefined when it can. With CI=true, as root, packages are installed first. */
export function realKubernetesLacks(): string | undefined {
  if (process.getuid?.() !== 0) return "a real Kubernetes needs root";
  const lack = goLacks();
  if (lack !== undefined) return lack;
  const missing = (): string[] => TOOLS.filter(([program]) => !isThere(program)).map(([, name]) => name);
  const installable = missing().filter((name) => name !== "kubectl");
  if (installable.length > 0 && process.env["CI"] === "true" && existsSync("/usr/bin/apt-get")) {
    spawnSync("apt-get", ["update", "-qq"]);
    spawnSync("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...installable]);
  }
  return missing().length === 0 ? undefined : `missing packages: ${missing().join(" ")} (apt-get install)`;
}

/** Runs a program to its end; throws with what it said when it fails. Resolves with its standard output. */
export function run(program: string, args: readonly string[], options: { cwd?: string; input?: string } = {}): string {
  const done = spawnSync(program, [...args], {
    encoding: "utf8",
    maxBuffer: 64 << 20,
    env: { ...process.env, CGO_ENABLED: "0" },
    ...options,
  });
  if (done.status === 0) return done.stdout;
  throw new Error(`${program} ${args.join(" ")}: ${done.error?.message ?? done.stderr.trim().slice(-2000)}`);
}

/** Network namespaces that the CNI plugins have made. */
function podNetworks(): string[] {
  return run("ip", ["netns", "list"])
    .split("\n")
    .map((line) => line.split(" ")[0] ?? "")
    .filter((name) => name.startsWith("cni-"));
}

/** Builds a Go program of this folder into the cache, unless it is there; returns its path. */
export function build(name: string, args: readonly string[], folder = "."): string {
  const source = join(import.meta.dirname, folder);
  const program = join(source, name, "main.go");
  const sources = existsSync(program) ? readFileSync(program) : "";
  const stamp = createHash("sha256")
    .update(readFileSync(join(source, "go.sum")))
    .update(sources)
    .digest("hex")
    .slice(0, 12);
  const target = join(CACHE, `${name}-${stamp}`);
  if (existsSync(target)) return target;
  mkdirSync(CACHE, { recursive: true });
  process.stdout.write(`building ${name} (once; takes minutes)\n`);
  const work = `${target}.${process.pid}`;
  const [verb = "build", ...rest] = args;
  run("go", [verb, "-o", work, ...rest], { cwd: source });
  renameSync(work, target);
  return target;
}

function buildKube(): string {
  const version = `-X k8s.io/component-base/version.gitVersion=v${VERSION} -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34`;
  return build("kube", ["build", "-trimpath", "-ldflags", `-s -w ${version}`, "./kube"]);
}

export interface RealOptions {
  /** Whether etcd syncs its writes to disk, as in production. Without it tests are faster. */
  readonly isDurable?: boolean;
  /** Only etcd and the API server: no controllers, no node. */
  readonly isApiOnly?: boolean;
}

/** Kills the processes whose command line holds the text. */
function killProcessesNaming(text: string): void {
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    try {
      if (readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(text)) process.kill(pid, "SIGKILL");
    } catch {
      // It has just ended.
    }
  }
}

/** One real cluster. `start`, then `inside`, then `stop`. */
export class RealKubernetes {
  readonly #folder = mkdtempSync(join(tmpdir(), "lateen-real-"));
  readonly #namespace = `lateen-real-${process.pid}`;
  readonly #children = new Map<string, ChildProcess>();
  readonly #options: RealOptions;
  #readySeconds = 0;
  /** Networks of pods that are not ours. */
  readonly #others = new Set(podNetworks());

  constructor(options: RealOptions = {}) {
    this.#options = options;
  }

  /** From the start of etcd until the API server said that it is ready. */
  get readySeconds(): number {
    return this.#readySeconds;
  }

  /** The processes of its components. */
  processes(): number[] {
    return [...this.#children.values()].flatMap(({ pid }) => pid ?? []);
  }

  get kubeconfig(): string {
    return join(this.#folder, "kubeconfig");
  }

  /** Where the API server answers `path`, from inside the cluster's network. */
  url(path: string): string {
    return `https://${NODE_ADDRESS}:6443${path}`;
  }

  /** curl's arguments for the administrator's identity. */
  curlIdentity(): readonly string[] {
    const at = (name: string): string => join(this.#folder, name);
    return ["--cacert", at("ca.crt"), "--cert", at("admin.crt"), "--key", at("admin.key")];
  }

  /** Arguments that run a command in the cluster's network. */
  inside(command: readonly string[]): readonly [program: string, args: readonly string[]] {
    return ["nsenter", [`--net=/run/netns/${this.#namespace}`, ...command]];
  }

  #spawn(name: string, command: readonly string[]): ChildProcess {
    const log = openSync(join(this.#folder, `${name}.log`), "a");
    const [program, args] = this.inside(command);
    const child = spawn(program, [...args], { stdio: ["ignore", log, log] });
    this.#children.set(name, child);
    return child;
  }

  /** The end of a component's log, for messages. */
  #log(name: string): string {
    return readFileSync(join(this.#folder, `${name}.log`), "utf8").slice(-2000);
  }

  async #until(component: string, command: readonly string[]): Promise<void> {
    const limit = performance.now() + READY_LIMIT_MS;
    const [program, args] = this.inside(command);
    while (spawnSync(program, [...args], { env: { ...process.env, KUBECONFIG: this.kubeconfig } }).status !== 0) {
      const isOver = this.#children.get(component)?.exitCode !== null;
      if (isOver || performance.now() > limit)
        throw new Error(`${component} ${isOver ? "has ended" : "does not answer"}:\n${this.#log(component)}`);
      await delay(POLL_MS);
    }
  }

  #network(): void {
    const [, prefix] = this.inside([]);
    const ip = (...args: string[]): string => run("nsenter", [...prefix, "ip", ...args]);
    run("ip", ["netns", "add", this.#namespace]);
    ip("link", "set", "lo", "up");
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "uplink");
    ip("addr", "add", `${NODE_ADDRESS}/24`, "dev", "eth0");
    ip("link", "set", "uplink", "up");
    ip("link", "set", "eth0", "up");
    ip("route", "add", "default", "dev", "eth0");
    run("nsenter", [...prefix, "sysctl", "-qw", "net.ipv4.ip_forward=1"]);
  }

  #identities(): void {
    const now = Date.now();
    const span = { notBefore: new Date(now - 3_600_000), notAfter: new Date(now + 86_400_000) };
    const authority = createAuthority({ commonName: "kubernetes", ...span });
    const signer = { certificatePem: authority.certificatePem, key: createPrivateKey(authority.keyPem) };
    const names = [
      "kubernetes",
      "kubernetes.default",
      "kubernetes.default.svc",
      NODE_ADDRESS,
      "10.96.0.1",
      "127.0.0.1",
    ];
    const keep = (name: string, identity: Identity): void => {
      writeFileSync(join(this.#folder, `${name}.crt`), identity.certificatePem);
      writeFileSync(join(this.#folder, `${name}.key`), identity.keyPem, { mode: 0o600 });
    };
    keep("ca", authority);
    keep("apiserver", issueIdentity({ commonName: "kube-apiserver", altNames: names, ...span }, signer));
    const admin = issueIdentity({ commonName: "kubernetes-admin", organizations: ["system:masters"], ...span }, signer);
    keep("admin", admin);
    run("openssl", ["genrsa", "-out", join(this.#folder, "sa.key"), "2048"]);
    run("openssl", ["rsa", "-in", join(this.#folder, "sa.key"), "-pubout", "-out", join(this.#folder, "sa.pub")]);
    const encode = (text: string): string => Buffer.from(text).toString("base64");
    const server = `https://${NODE_ADDRESS}:6443`;
    const config = {
      apiVersion: "v1",
      kind: "Config",
      clusters: [{ name: "real", cluster: { server, "certificate-authority-data": encode(authority.certificatePem) } }],
      users: [
        {
          name: "admin",
          user: { "client-certificate-data": encode(admin.certificatePem), "client-key-data": encode(admin.keyPem) },
        },
      ],
      contexts: [{ name: "real", context: { cluster: "real", user: "admin" } }],
      "current-context": "real",
    };
    writeFileSync(this.kubeconfig, JSON.stringify(config), { mode: 0o600 });
  }

  async start(): Promise<void> {
    try {
      await this.#start();
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  async #start(): Promise<void> {
    const kube = buildKube();
    const etcd = build("etcd", ["build", "-trimpath", "-ldflags", "-s -w", "."], "etcd");
    const at = (name: string): string => join(this.#folder, name);
    this.#network();
    this.#identities();
    const url = "http://127.0.0.1:2379";
    const peer = "http://127.0.0.1:2380";
    const started = performance.now();
    this.#spawn("etcd", [
      etcd,
      `--data-dir=${at("etcd")}`,
      ...(this.#options.isDurable === true ? [] : ["--unsafe-no-fsync"]),
      `--listen-client-urls=${url}`,
      `--advertise-client-urls=${url}`,
      `--listen-peer-urls=${peer}`,
    ]);
    this.#spawn("apiserver", [
      kube,
      "apiserver",
      `--etcd-servers=${url}`,
      `--bind-address=${NODE_ADDRESS}`,
      "--secure-port=6443",
      `--tls-cert-file=${at("apiserver.crt")}`,
      `--tls-private-key-file=${at("apiserver.key")}`,
      `--client-ca-file=${at("ca.crt")}`,
      `--cert-dir=${at("pki")}`,
      "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
      `--service-account-key-file=${at("sa.pub")}`,
      `--service-account-signing-key-file=${at("sa.key")}`,
      "--authorization-mode=Node,RBAC",
      "--service-cluster-ip-range=10.96.0.0/16",
      "--allow-privileged=true",
      // The node's name is in no DNS.
      "--kubelet-preferred-address-types=InternalIP",
      ...(this.#options.isApiOnly === true ? ["--disable-admission-plugins=ServiceAccount"] : []),
    ]);
    await this.#until("apiserver", ["curl", "-sf", ...this.curlIdentity(), this.url("/readyz")]);
    this.#readySeconds = (performance.now() - started) / 1000;
    if (this.#options.isApiOnly !== true) await this.#startNode(kube, at);
  }

  async #startNode(kube: string, at: (name: string) => string): Promise<void> {
    const coredns = build("coredns", ["build", "-trimpath", "-ldflags", "-s -w", "."], "coredns");
    const config = `--kubeconfig=${this.kubeconfig}`;
    this.#spawn("controller-manager", [
      kube,
      "controller-manager",
      config,
      `--service-account-private-key-file=${at("sa.key")}`,
      `--root-ca-file=${at("ca.crt")}`,
      `--cluster-signing-cert-file=${at("ca.crt")}`,
      `--cluster-signing-key-file=${at("ca.key")}`,
      "--leader-elect=false",
      `--cert-dir=${at("pki-controllers")}`,
      "--controllers=*,-nodeipam",
    ]);
    this.#spawn("scheduler", [kube, "scheduler", config, "--leader-elect=false", `--cert-dir=${at("pki-scheduler")}`]);
    await this.#startContainerd(at);
    const kubelet = {
      apiVersion: "kubelet.config.k8s.io/v1beta1",
      kind: "KubeletConfiguration",
      authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
      authorization: { mode: "AlwaysAllow" },
      cgroupDriver: "cgroupfs",
      cgroupsPerQOS: false,
      enforceNodeAllocatable: [],
      failCgroupV1: false,
      failSwapOn: false,
      localStorageCapacityIsolation: false,
      containerRuntimeEndpoint: `unix://${at("containerd.sock")}`,
      clusterDNS: [DNS_SERVICE],
      clusterDomain: "cluster.local",
      resolvConf: "",
      evictionHard: {},
      syncFrequency: "5s",
      // Without cgroupsPerQOS it looks for the pod's own group in the wrong place, and crashes.
      featureGates: { InPlacePodVerticalScaling: false },
    };
    writeFileSync(at("kubelet.json"), JSON.stringify(kubelet));
    this.#spawn("kubelet", [
      kube,
      "kubelet",
      `--config=${at("kubelet.json")}`,
      config,
      "--hostname-override=real-node",
      `--node-ip=${NODE_ADDRESS}`,
      `--root-dir=${at("kubelet")}`,
      `--cert-dir=${at("pki-kubelet")}`,
      "--node-labels=topology.kubernetes.io/region=region-a,topology.kubernetes.io/zone=zone-a",
    ]);
    this.#spawn("proxy", [
      kube,
      "proxy",
      config,
      "--hostname-override=real-node",
      "--proxy-mode=iptables",
      "--cluster-cidr=10.244.0.0/16",
      "--conntrack-max-per-core=0",
    ]);
    writeFileSync(
      at("Corefile"),
      `.:53 {\n bind ${NODE_ADDRESS}\n kubernetes cluster.local in-addr.arpa {\n  kubeconfig ${this.kubeconfig}\n }\n}\n`,
    );
    this.#spawn("coredns", [coredns, "-conf", at("Corefile")]);
    this.#publishDns();
    await this.#until("kubelet", ["kubectl", "wait", "--for=condition=Ready", "node/real-node", "--timeout=1s"]);
  }

  async #startContainerd(at: (name: string) => string): Promise<void> {
    mkdirSync(at("cni"));
    const network = {
      cniVersion: "0.4.0",
      name: "pods",
      plugins: [
        {
          type: "bridge",
          bridge: "cni0",
          isGateway: true,
          hairpinMode: true,
          ipam: { type: "host-local", ranges: [[{ subnet: "10.244.0.0/24" }]], routes: [{ dst: "0.0.0.0/0" }] },
        },
        { type: "portmap", capabilities: { portMappings: true } },
      ],
    };
    writeFileSync(join(at("cni"), "10-bridge.conflist"), JSON.stringify(network));
    const plugin = 'plugins."io.containerd.grpc.v1.cri"';
    // Without CAP_SYS_RESOURCE a process cannot lower its oom score: containerd is told to leave it.
    const toml = [
      "version = 2",
      `root = "${at("containerd")}"`,
      `state = "${at("containerd-state")}"`,
      `[grpc]\naddress = "${at("containerd.sock")}"`,
      `[${plugin}]\nsandbox_image = "${PAUSE_IMAGE}"\nrestrict_oom_score_adj = true`,
      `[${plugin}.cni]\nbin_dir = "/usr/lib/cni"\nconf_dir = "${at("cni")}"`,
      `[${plugin}.containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"`,
    ];
    writeFileSync(at("containerd.toml"), toml.join("\n"));
    this.#spawn("containerd", ["containerd", "-c", at("containerd.toml")]);
    await this.#until("containerd", ["ctr", "-a", at("containerd.sock"), "version"]);
    const pause = at("pause");
    mkdirSync(join(pause, "bin"), { recursive: true });
    copyFileSync(run("which", ["busybox"]).trim(), join(pause, "bin/sleep"));
    this.image(PAUSE_IMAGE, pause, ["/bin/sleep", "2147483647"]);
  }

  /** Loads a container image made of one folder. */
  image(name: string, rootFolder: string, entrypoint: readonly string[], cmd: readonly string[] = []): void {
    const work = mkdtempSync(join(this.#folder, "image-"));
    run("tar", ["-C", rootFolder, "-cf", join(work, "layer.tar"), "."]);
    const digest = createHash("sha256")
      .update(readFileSync(join(work, "layer.tar")))
      .digest("hex");
    const config = {
      architecture: process.arch === "arm64" ? "arm64" : "amd64",
      os: "linux",
      config: {
        Entrypoint: entrypoint,
        Cmd: cmd,
        Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
      },
      rootfs: { type: "layers", diff_ids: [`sha256:${digest}`] },
      history: [],
    };
    writeFileSync(join(work, "config.json"), JSON.stringify(config));
    const manifest = [{ Config: "config.json", RepoTags: [name], Layers: ["layer.tar"] }];
    writeFileSync(join(work, "manifest.json"), JSON.stringify(manifest));
    run("tar", ["-C", work, "-cf", `${work}.tar`, "config.json", "manifest.json", "layer.tar"]);
    this.#ctr("images", "import", `${work}.tar`);
    rmSync(work, { recursive: true });
    rmSync(`${work}.tar`);
  }

  #ctr(...args: readonly string[]): string {
    return run("ctr", ["-a", join(this.#folder, "containerd.sock"), "-n", "k8s.io", ...args]);
  }

  #publishDns(): void {
    const ports = [
      { name: "dns", port: 53, protocol: "UDP" },
      { name: "dns-tcp", port: 53, protocol: "TCP" },
    ];
    const metadata = { name: "kube-dns", namespace: "kube-system" };
    const objects = [
      { apiVersion: "v1", kind: "Service", metadata, spec: { clusterIP: DNS_SERVICE, ports } },
      {
        apiVersion: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        metadata: { ...metadata, labels: { "kubernetes.io/service-name": "kube-dns" } },
        addressType: "IPv4",
        endpoints: [{ addresses: [NODE_ADDRESS] }],
        ports,
      },
    ];
    const [program, args] = this.inside(["kubectl", "--kubeconfig", this.kubeconfig, "apply", "-f", "-"]);
    run(program, args, { input: JSON.stringify({ apiVersion: "v1", kind: "List", items: objects }) });
  }

  /** Ends all of it and removes what it made; the built binaries stay. */
  async stop(): Promise<void> {
    const { kubeconfig } = this;
    if (this.#options.isApiOnly !== true && existsSync(join(this.#folder, "containerd.sock"))) {
      const remove = ["delete", "pods", "--all", "-A", "--force", "--grace-period=0", "--timeout=20s"];
      const [program, args] = this.inside(["kubectl", "--kubeconfig", kubeconfig, ...remove]);
      spawnSync(program, [...args]);
      const others = [...this.#children].filter(([name]) => name !== "containerd").map(([, child]) => child);
      await this.#endAll(others);
      for (const id of this.#ctr("tasks", "ls", "-q")
        .split("\n")
        .filter((line) => line !== ""))
        spawnSync("ctr", ["-a", join(this.#folder, "containerd.sock"), "-n", "k8s.io", "tasks", "rm", "-f", id]);
    }
    await this.#endAll([...this.#children.values()]);
    // containerd's shims leave its process tree; one whose task was just being made is in no list of tasks.
    killProcessesNaming(`${this.#folder}/`);
    // What is left of pods' networks when their node goes before them.
    for (const name of podNetworks()) if (!this.#others.has(name)) spawnSync("ip", ["netns", "del", name]);
    spawnSync("ip", ["netns", "del", this.#namespace]);
    const mounts = readFileSync("/proc/mounts", "utf8")
      .split("\n")
      .map((line) => line.split(" ")[1] ?? "")
      .filter((target) => target.startsWith(`${this.#folder}/`));
    for (const target of mounts.toSorted().toReversed()) spawnSync("umount", ["-l", target]);
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #endAll(children: readonly ChildProcess[]): Promise<void> {
    const live = children.filter((child) => child.exitCode === null && child.signalCode === null);
    const gone = live.map((child) => new Promise((resolve) => child.once("exit", resolve)));
    for (const child of live) child.kill("SIGTERM");
    const timer = setTimeout(() => {
      for (const child of live) child.kill("SIGKILL");
    }, STOP_LIMIT_MS);
    await Promise.all(gone);
    clearTimeout(timer);
  }
}
