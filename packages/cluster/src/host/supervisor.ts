// The one process of an instance on the host. It opens the 127.0.0.1 ports, forwards those of Services to Unix sockets, hands that
// of the API to the cluster process, and is the parent of everything else: when it ends, however it ends, the kernel ends PID 1 of the instance and all that is inside.
import { type ChildProcess, spawn } from "node:child_process";
import { rmSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { errorCode, errorText } from "@lateen/base";
import { type ClusterOptions, type ForwarderAnswer, type ForwarderRequest, Instance, outliveLog } from "./instance.ts";

const NODE_ADDRESS = "10.244.255.1";
/** Addresses of Services. */
const SERVICES = "10.96.0.0/16";
/** Ports that people know, for what they usually lead to. */
const PREFERRED: Readonly<Record<string, number>> = {
  api: 6443,
  "istio-system/istio-ingressgateway:80": 8080,
  "istio-system/istio-ingressgateway:443": 8443,
};

/** Addresses 127.0.0.N that LoadBalancer Services may get. */
const BALANCERS = { first: 2, last: 254 } as const;
/** Under this and their names the last parts of their addresses are kept with the ports. */
const BALANCER_KEY = "balancer:";
const BALANCER_PREFIX = "127.0.0.";

export interface SupervisorOptions {
  readonly stateFolder: string;
  readonly cluster: Pick<ClusterOptions, "programs" | "sandboxCommand">;
  readonly clusterMain: string;
}

class Forwarder {
  readonly #instance: Instance;
  readonly #ports: Record<string, number>;
  readonly #servers = new Map<string, Server>();
  readonly #balancers = new Map<
    string,
    { readonly form: string; readonly address: string; readonly servers: Server[] }
  >();

  constructor(instance: Instance) {
    this.#instance = instance;
    this.#ports = instance.readPorts();
  }

  /** Listens for `name` on its port of last time, else its preferred one, else any. Connections go to `open`. */
  async listen(name: string, preferred: number, open: () => Socket): Promise<Server> {
    const wanted = [this.#ports[name], PREFERRED[name] ?? preferred, 0].filter((port) => port !== undefined);
    for (const port of wanted) {
      try {
        const server = await listenOn("127.0.0.1", port, open);
        this.#ports[name] = portOf(server);
        this.#instance.writePorts(this.#ports);
        return server;
      } catch (error) {
        if (errorCode(error) !== "EADDRINUSE" && errorCode(error) !== "EACCES") throw error;
      }
    }
    throw new Error(`no port is free for ${name}`);
  }

  /** Makes the listeners of node ports those of `entries`. */
  async setNodePorts(entries: ForwarderRequest["nodePorts"]): Promise<void> {
    const names = new Set(entries.map((entry) => entry.name));
    for (const [name, server] of this.#servers) {
      if (names.has(name)) continue;
      server.close();
      this.#servers.delete(name);
    }
    for (const { name, nodePort } of entries) {
      if (this.#servers.has(name)) continue;
      this.#servers.set(name, await this.listen(name, nodePort, () => this.#dial(NODE_ADDRESS, nodePort)));
    }
  }

  #dial(host: string, port: number): Socket {
    const socket = connect(this.#instance.dialSocket);
    socket.write(`${host} ${port}\n`);
    return socket;
  }

  /** Makes the listeners of LoadBalancer Services those of `entries`. Returns their addresses. */
  async setBalancers(entries: ForwarderRequest["balancers"]): Promise<ForwarderAnswer["balancers"]> {
    const forms = new Map(entries.map((entry) => [entry.name, JSON.stringify(entry)]));
    for (const [name, { form, servers }] of this.#balancers) {
      if (forms.get(name) === form) continue;
      for (const server of servers) server.close();
      this.#balancers.delete(name);
    }
    const addresses: Record<string, string | null> = {};
    for (const entry of entries) {
      const address = this.#balancers.get(entry.name)?.address ?? (await this.#balance(entry));
      addresses[entry.name] = address ?? null;
    }
    return addresses;
  }

  /** Listens for a Service on the first address where all its ports are free: the one it asks for, that of last time, any. */
  async #balance(entry: ForwarderRequest["balancers"][number]): Promise<string | undefined> {
    const { name, host, ports, wanted } = entry;
    const key = `${BALANCER_KEY}${name}`;
    const before = this.#ports[key];
    const others = Array.from({ length: BALANCERS.last - BALANCERS.first + 1 }, (_, i) => BALANCERS.first + i);
    const candidates = wanted?.startsWith(BALANCER_PREFIX)
      ? [Number(wanted.slice(BALANCER_PREFIX.length))]
      : [...(before === undefined ? [] : [before]), ...others];
    for (const last of candidates) {
      const address = `${BALANCER_PREFIX}${last}`;
      const servers: Server[] = [];
      try {
        for (const port of ports) servers.push(await listenOn(address, port, () => this.#dial(host, port)));
      } catch (error) {
        for (const server of servers) server.close();
        if (errorCode(error) === "EADDRINUSE") continue;
        process.stderr.write(`forwarder: ${name}: ${errorText(error)}\n`);
        return undefined;
      }
      this.#balancers.set(name, { form: JSON.stringify(entry), address, servers });
      this.#ports[key] = last;
      this.#instance.writePorts(this.#ports);
      return address;
    }
    return undefined;
  }
}

const portOf = (server: Server): number => (server.address() as AddressInfo).port;

/** The file descriptor of a listening socket, which Node shows on its handle only. */
const fdOf = (server: Server): number => (server as unknown as { _handle: { fd: number } })._handle.fd;

/** Listens on an address of the host; each connection is joined to what `open` gives. */
function listenOn(host: string, port: number, open: () => Socket): Promise<Server> {
  const server = createServer((inbound) => {
    const outbound = open();
    const end = (): void => {
      inbound.destroy();
      outbound.destroy();
    };
    inbound.on("error", end);
    outbound.on("error", end);
    inbound.pipe(outbound);
    outbound.pipe(inbound);
    inbound.once("close", () => outbound.destroy());
    outbound.once("close", () => inbound.destroy());
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port }, () => resolve(server));
  });
}

/** PID 1 of the instance in new namespaces. It dies with us: by pdeathsig of `unshare`, and `--kill-child` of its child. */
function startInside(
  options: SupervisorOptions,
  cluster: ClusterOptions,
  groups: readonly string[],
  apiFd: number,
): ChildProcess {
  const command = [
    ...[
      "--pdeathsig",
      "KILL",
      "--",
      "unshare",
      "--net",
      "--mount",
      "--pid",
      "--ipc",
      "--uts",
      "--fork",
      "--kill-child",
      "--",
    ],
    ...cluster.sandboxCommand,
    ...["init", JSON.stringify({ address: NODE_ADDRESS, services: SERVICES, groups })],
    ...[process.execPath, options.clusterMain, JSON.stringify(cluster)],
  ];
  // 3 is the control channel, which PID 1 makes; 4 (API_FD) the host's socket of the API.
  return spawn("setpriv", command, { stdio: ["ignore", "inherit", "inherit", "ignore", apiFd] });
}

async function main(): Promise<void> {
  const options = JSON.parse(process.argv[2] ?? "{}") as SupervisorOptions;
  process.title = "lateen-supervisor";
  outliveLog();
  const instance = new Instance(options.stateFolder);
  instance.createFolders();
  const forwarder = new Forwarder(instance);
  const api = await forwarder.listen("api", 0, () => connect(instance.apiSocket));
  rmSync(instance.forwarderSocket, { force: true });
  const control = createServer((socket) => {
    socket.on("error", () => {});
    let last: Promise<unknown> = Promise.resolve();
    createInterface({ input: socket }).on("line", (line) => {
      last = last
        .then(async () => {
          const request = JSON.parse(line) as ForwarderRequest;
          await forwarder.setNodePorts(request.nodePorts);
          const answer: ForwarderAnswer = { balancers: await forwarder.setBalancers(request.balancers) };
          socket.write(`${JSON.stringify(answer)}\n`);
        })
        .catch((error) => process.stderr.write(`forwarder: ${errorText(error)}\n`));
    });
  });
  await new Promise<void>((resolve) => control.listen(instance.forwarderSocket, resolve));
  const cluster: ClusterOptions = {
    ...options.cluster,
    stateFolder: instance.stateFolder,
    kubeconfig: instance.kubeconfig,
    apiSocket: instance.apiSocket,
    apiPort: portOf(api),
    dialSocket: instance.dialSocket,
    forwarderSocket: instance.forwarderSocket,
  };
  const groups = instance.controlGroups();
  const inside = startInside(options, cluster, groups, fdOf(api));
  // The cluster process answers it from now on: what lies inside the instance is a socket of the host, and no byte goes through us.
  api.close();
  instance.writeSupervisor(groups);
  const finish = (code: number): void => {
    void instance
      .removeRun()
      .catch((error: unknown) => process.stderr.write(`${errorText(error)}\n`))
      .finally(() => process.exit(code));
  };
  inside.once("exit", (code, signal) => {
    process.stderr.write(`the instance has ended (${signal ?? code})\n`);
    finish(code ?? 1);
  });
  inside.once("error", (error) => {
    process.stderr.write(`${error.message}\n`);
    finish(1);
  });
  process.once("SIGTERM", () => inside.kill("SIGKILL"));
}

await main();
