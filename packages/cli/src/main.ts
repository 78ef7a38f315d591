// The `lateen` command: reads the command line, calls the command, turns failures into sentences and exit codes.
import { existsSync, rmSync } from "node:fs";
import { parseArgs } from "node:util";
import { errorCode, errorText, Failure, formatAge, isObject } from "@lateen/base";
import { Instance, stopInstance } from "@lateen/cluster";
import { KubeClient, KubeError, loadKubeConfig } from "@lateen/kube";
import { DISCOVERY_HELP, readOptions, runControlPlane } from "@lateen/meshd";
import { IMAGE_HELP, image } from "./image.ts";
import { print, renderTable } from "./output.ts";
import {
  bootstrapOf,
  clustersOf,
  filterClusters,
  listenersOf,
  renderClusters,
  renderEndpoints,
  renderListeners,
  renderRoutes,
  renderSecrets,
  routesOf,
  secretsOf,
} from "./proxy-config.ts";
import { askControlPlane, askEnvoy, findTarget } from "./target.ts";
import { up } from "./up.ts";

const HELP = `lateen: a service mesh in TypeScript

  lateen up [--sample bookinfo|none]     start the embedded cluster with the mesh
  lateen down [--purge]                  stop it; --purge deletes its state, too
  lateen status                          what runs, where, and what is wrong
  lateen image add|list|remove           what it runs under the names of images
  lateen discovery                       run the control plane alone
  lateen proxy-status (ps)               are the proxies up to date
  lateen proxy-config (pc) TYPE PROXY    what a proxy has: listener, route, cluster, endpoint, secret, all, bootstrap

  --state DIR     the instance (default: LATEEN_STATE, else ~/.lateen/default)
  --help          help of a command
`;

const COMMAND_HELP: Readonly<Record<string, string>> = {
  up: `lateen up: starts the embedded cluster with the mesh, in the background

  --sample bookinfo|none   what to deploy (default bookinfo)
  --bare                   only Kubernetes: no mesh and no sample
  --nodes N                at least so many nodes, each in a zone of its own (default 1)
  --state DIR              folder of the instance
`,
  down: `lateen down: ends every process, namespace and mount of the instance; its objects stay

  --purge       deletes the state folder as well, after naming it
  --state DIR   folder of the instance
`,
  status: `lateen status: what runs, its addresses, its proxies, and what is wrong with objects or refused by proxies

  --state DIR   folder of the instance
`,
  "proxy-status": `lateen proxy-status: for each proxy and type, whether it has acknowledged what it was last sent

  --kubeconfig FILE   the cluster (default: that of the running instance, else KUBECONFIG)
  -o json             everything that is known
`,
  "proxy-config": `lateen proxy-config TYPE PROXY: what a proxy has, read from Envoy

  TYPE    listener, route, cluster, endpoint, secret, all, bootstrap
  PROXY   POD[.NAMESPACE] or deploy/NAME[.NAMESPACE]

  -n NAMESPACE                                  namespace of the proxy
  -o json                                       as Envoy has it
  --name NAME                                   (route) one route configuration
  --fqdn, --port, --subset, --direction VALUE   (cluster) only these
  --cluster NAME                                (endpoint) of one cluster
  --kubeconfig FILE                             the cluster
`,
  image: IMAGE_HELP,
  discovery: DISCOVERY_HELP,
};

const NODES_MAX = 100;

interface Flags {
  readonly state?: string;
  readonly kubeconfig?: string;
  readonly namespace?: string;
  readonly output?: string;
  readonly sample?: string;
  readonly purge?: boolean;
  readonly name?: string;
  readonly fqdn?: string;
  readonly port?: string;
  readonly subset?: string;
  readonly direction?: string;
  readonly cluster?: string;
  readonly bare?: boolean;
  readonly nodes?: string;
  readonly root?: string;
  readonly file?: string[];
  readonly arg?: string[];
  readonly env?: string[];
  readonly user?: string;
  readonly workdir?: string;
}

const OPTIONS = {
  state: { type: "string" },
  kubeconfig: { type: "string" },
  namespace: { type: "string", short: "n" },
  output: { type: "string", short: "o" },
  sample: { type: "string" },
  purge: { type: "boolean" },
  name: { type: "string" },
  fqdn: { type: "string" },
  port: { type: "string" },
  subset: { type: "string" },
  direction: { type: "string" },
  cluster: { type: "string" },
  bare: { type: "boolean" },
  nodes: { type: "string" },
  root: { type: "string" },
  file: { type: "string", multiple: true },
  arg: { type: "string", multiple: true },
  env: { type: "string", multiple: true },
  user: { type: "string" },
  workdir: { type: "string" },
} as const;

/** The cluster that a command is about: a file that is named, else the running instance, else KUBECONFIG. */
function connect(flags: Flags): KubeClient {
  const instance = Instance.find(flags.state);
  const useInstance =
    flags.kubeconfig === undefined &&
    (flags.state !== undefined || process.env["KUBECONFIG"] === undefined) &&
    instance.supervisor() !== undefined;
  return new KubeClient(loadKubeConfig(useInstance ? instance.kubeconfig : flags.kubeconfig));
}

interface SyncEntry {
  readonly proxy: string;
  readonly cluster_id: string;
  readonly istio_version: string;
  readonly resources: Readonly<Record<string, { readonly state: string; readonly ageSeconds: number }>>;
  readonly rejections: readonly { readonly type: string; readonly name: string; readonly message: string }[];
}

const COLUMNS = [
  ["CDS", "Cluster"],
  ["LDS", "Listener"],
  ["EDS", "ClusterLoadAssignment"],
  ["RDS", "RouteConfiguration"],
] as const;

async function proxyStatus(flags: Flags): Promise<void> {
  const client = connect(flags);
  const answers = await askControlPlane(client, "/debug/syncz");
  client.close();
  if (flags.output === "json") {
    print(
      JSON.stringify(
        answers.flatMap(({ answer }) => answer),
        null,
        2,
      ),
    );
    return;
  }
  const rows = answers.flatMap(({ pod, answer }) =>
    (answer as SyncEntry[]).map((entry) => {
      const cells = COLUMNS.map(([, type]) => {
        const found = Object.entries(entry.resources).find(([url]) => url.endsWith(`.${type}`))?.[1];
        if (found === undefined || found.state === "NOT SENT") return "NOT SENT";
        return `${found.state} (${formatAge(found.ageSeconds * 1000)})`;
      });
      return [entry.proxy, entry.cluster_id, ...cells, "IGNORED", pod, entry.istio_version];
    }),
  );
  print(renderTable(["NAME", "CLUSTER", ...COLUMNS.map(([name]) => name), "ECDS", "ISTIOD", "VERSION"], rows));
}

async function proxyConfig(args: readonly string[], flags: Flags): Promise<void> {
  const [type = "", target] = args;
  const kind = type.replace(/s$/, "");
  const known = ["listener", "route", "cluster", "endpoint", "secret", "all", "bootstrap"];
  if (!known.includes(kind) || target === undefined)
    throw new Failure(`proxy-config needs a type (${known.join(", ")}) and a proxy`, COMMAND_HELP["proxy-config"]);
  const client = connect(flags);
  try {
    const proxy = await findTarget(client, target, flags.namespace);
    const ask = (path: string): Promise<unknown> => askEnvoy(client, proxy, path);
    const filter = { fqdn: flags.fqdn, port: flags.port, subset: flags.subset, direction: flags.direction };
    const json = (value: unknown): void => print(JSON.stringify(value, null, 4));
    if (kind === "endpoint") {
      const status = await ask("/clusters?format=json");
      if (flags.output !== "json") print(renderEndpoints(status, flags.cluster));
      else {
        const all = isObject(status) && Array.isArray(status["cluster_statuses"]) ? status["cluster_statuses"] : [];
        json(
          all.filter(
            (entry: unknown) => flags.cluster === undefined || (isObject(entry) && entry["name"] === flags.cluster),
          ),
        );
      }
      return;
    }
    const dump = await ask("/config_dump");
    if (flags.output === "json") {
      const values: Readonly<Record<string, () => unknown>> = {
        listener: () => listenersOf(dump),
        route: () => routesOf(dump).filter((route) => flags.name === undefined || route["name"] === flags.name),
        cluster: () => filterClusters(clustersOf(dump), filter),
        secret: () => secretsOf(dump),
        bootstrap: () => bootstrapOf(dump),
        all: () => dump,
      };
      json(values[kind]?.());
      return;
    }
    if (kind === "listener") print(renderListeners(dump));
    else if (kind === "route") print(renderRoutes(dump, flags.name));
    else if (kind === "cluster") print(renderClusters(dump, filter));
    else if (kind === "secret") print(renderSecrets(dump));
    else if (kind === "bootstrap") json(bootstrapOf(dump));
    else
      print(
        [renderClusters(dump, filter), renderListeners(dump), renderRoutes(dump, undefined), renderSecrets(dump)].join(
          "\n",
        ),
      );
  } finally {
    client.close();
  }
}

async function status(flags: Flags): Promise<void> {
  const instance = Instance.find(flags.state);
  if (instance.supervisor() === undefined) {
    print(`not running: no instance in ${instance.stateFolder} (start it with: npm start)`);
    process.exitCode = 3;
    return;
  }
  print(`running:     ${instance.stateFolder}`);
  print(`kubeconfig:  ${instance.kubeconfig}`);
  const ports = instance.readPorts();
  for (const [name, port] of Object.entries(ports)) print(`127.0.0.1:${port}  ->  ${name}`);
  const client = new KubeClient(loadKubeConfig(instance.kubeconfig));
  try {
    const problems = (await askControlPlane(client, "/debug/problems")).flatMap(
      ({ answer }) => answer as { resource: string; path: string; message: string }[],
    );
    const entries = (await askControlPlane(client, "/debug/syncz")).flatMap(({ answer }) => answer as SyncEntry[]);
    print(`proxies:     ${entries.length}`);
    for (const { resource, path, message } of problems) print(`problem:     ${resource}: ${path} ${message}`);
    for (const entry of entries)
      for (const { type, name, message } of entry.rejections)
        print(`refused:     ${entry.proxy}: ${type} ${name}: ${message}`);
    if (problems.length === 0 && entries.every(({ rejections }) => rejections.length === 0)) print("problems:    none");
  } finally {
    client.close();
  }
}

async function down(flags: Flags): Promise<void> {
  const instance = Instance.find(flags.state);
  const wasRunning = await stopInstance(instance);
  print(wasRunning ? "stopped; the cluster's objects are kept for the next start" : "nothing was running");
  if (flags.purge !== true) return;
  if (!existsSync(instance.stateFolder)) {
    print(`there is no state in ${instance.stateFolder}`);
    return;
  }
  print(`deleting ${instance.stateFolder}`);
  rmSync(instance.stateFolder, { recursive: true, force: true });
}

/** Reads flags and what is left. Throws Failure with the command's help. */
function readFlags(args: readonly string[], help: string): { flags: Flags; positionals: string[] } {
  try {
    const { values, positionals } = parseArgs({ args: [...args], options: OPTIONS, allowPositionals: true });
    return { flags: values, positionals };
  } catch (error) {
    throw new Failure(errorText(error), help);
  }
}

const ALIASES: Readonly<Record<string, string>> = { ps: "proxy-status", pc: "proxy-config" };

async function run(args: readonly string[]): Promise<void> {
  const [first, ...rest] = args;
  const command = ALIASES[first ?? ""] ?? first ?? "--help";
  if (command === "--help" || command === "-h" || command === "help") {
    print(HELP);
    return;
  }
  const help = COMMAND_HELP[command];
  if (help === undefined) throw new Failure(`there is no command "${command}"`, HELP);
  if (rest.includes("--help") || rest.includes("-h")) {
    print(help);
    return;
  }
  if (command === "discovery") return runControlPlane(readOptions(rest));
  // What an image runs is not ours to read.
  const end = command === "image" ? rest.indexOf("--") : -1;
  const { flags, positionals } = readFlags(end < 0 ? rest : rest.slice(0, end), help);
  if (command === "image")
    return image(Instance.find(flags.state), positionals, end < 0 ? [] : rest.slice(end + 1), flags);
  if (flags.output !== undefined && flags.output !== "json") throw new Failure(`-o ${flags.output} is not known`, help);
  if (command === "up") {
    const sample = flags.sample ?? "bookinfo";
    if (sample !== "bookinfo" && sample !== "none") throw new Failure(`there is no sample "${sample}"`, help);
    const nodes = Number(flags.nodes ?? 1);
    if (!Number.isInteger(nodes) || nodes < 1 || nodes > NODES_MAX)
      throw new Failure(`--nodes ${flags.nodes} is not a number from 1 to ${NODES_MAX}`, help);
    return up({ state: flags.state, sample, isBare: flags.bare === true, nodes });
  }
  if (command === "down") return down(flags);
  if (command === "status") return status(flags);
  if (command === "proxy-status") return proxyStatus(flags);
  return proxyConfig(positionals, flags);
}

run(process.argv.slice(2)).catch((error: unknown) => {
  const isRefused = errorCode(error) === "ECONNREFUSED" || error instanceof KubeError;
  const help =
    error instanceof Failure ? error.help : isRefused ? "Is the cluster running? See: lateen status" : undefined;
  process.stderr.write(`lateen: ${errorText(error)}\n${help === undefined ? "" : `${help.trimEnd()}\n`}`);
  // Anything else is a bug of ours: the stack helps who reports it.
  if (!(error instanceof Failure) && !isRefused && process.env["LATEEN_DEBUG"] !== undefined && error instanceof Error)
    process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
});
