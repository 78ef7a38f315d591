// The one process of an instance on the host. It holds the 127.0.0.1 ports, forwards them to Unix sockets, and is the
// parent of everything else: when it ends, however it ends, the kernel ends PID 1 of the instance and all that is inside.
import { type ChildProcess, spawn } from "node:child_process";
import { rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { errorCode, errorText } from "@lateen/base";
import type { ClusterOptions } from "./instance.ts";
import { Instance, outliveLog } from "./instance.ts";

const NODE_ADDRESS = "10.244.255.1";
/** Ports that people know, for what they usually lead to. */
const PREFERRED: Readonly<Record<string, number>> = {
  api: 6443,
  "istio-system/istio-ingressgateway:80": 8080,
  "istio-system/istio-ingressgateway:443": 8443,
};

interface NodePortEntry {
  readonly name: string;
  readonly nodePort: number;
}

export interface SupervisorOptions {
  readonly stateFolder: string;
  readonly cluster: Pick<ClusterOptions, "programs" | "sandboxScript">;
  readonly clusterMain: string;
}

class Forwarder {
  readonly #instance: Instance;
  readonly #ports: Record<string, number>;
  readonly #servers = new Map<string, Server>();

  constructor(instance: Instance) {
    this.#instance = instance;
    this.#ports = instance.readPorts();
  }

  /** Listens for `name` on its port of last time, else its preferred one, else any. Connections go to `open`. */
  async listen(name: string, preferred: number, open: () => Socket): Promise<number> {
    const wanted = [this.#ports[name], PREFERRED[name] ?? preferred, 0].filter((port) => port !== undefined);
    for (const port of wanted) {
      try {
        const actual = await this.#tryListen(name, port, open);
        this.#ports[name] = actual;
        this.#instance.writePorts(this.#ports);
        return actual;
      } catch (error) {
        if (errorCode(error) !== "EADDRINUSE" && errorCode(error) !== "EACCES") throw error;
      }
    }
    throw new Error(`no port is free for ${name}`);
  }

  #tryListen(name: string, port: number, open: () => Socket): Promise<number> {
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
      server.listen({ host: "127.0.0.1", port }, () => {
        this.#servers.set(name, server);
        const address = server.address();
        resolve(typeof address === "object" && address !== null ? address.port : port);
      });
    });
  }

  /** Makes the listeners of node ports those of `entries`. */
  async setNodePorts(entries: readonly NodePortEntry[]): Promise<void> {
    const names = new Set(entries.map((entry) => entry.name));
    for (const [name, server] of this.#servers) {
      if (name === "api" || names.has(name)) continue;
      server.close();
      this.#servers.delete(name);
    }
    for (const { name, nodePort } of entries) {
      if (this.#servers.has(name)) continue;
      await this.listen(name, nodePort, () => {
        const socket = connect(this.#instance.dialSocket);
        socket.write(`${NODE_ADDRESS} ${nodePort}\n`);
        return socket;
      });
    }
  }
}

/** PID 1 of the instance in new namespaces. It dies with us: by pdeathsig of `unshare`, and `--kill-child` of its child. */
function startInside(options: SupervisorOptions, cluster: ClusterOptions): ChildProcess {
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
    ...["python3", "-I", "-S", cluster.sandboxScript, "init", NODE_ADDRESS],
    ...[process.execPath, options.clusterMain, JSON.stringify(cluster)],
  ];
  return spawn("setpriv", command, { stdio: ["ignore", "inherit", "inherit"] });
}

async function main(): Promise<void> {
  const options = JSON.parse(process.argv[2] ?? "{}") as SupervisorOptions;
  process.title = "lateen-supervisor";
  outliveLog();
  const instance = new Instance(options.stateFolder);
  instance.createFolders();
  const forwarder = new Forwarder(instance);
  const apiPort = await forwarder.listen("api", 0, () => connect(instance.apiSocket));
  rmSync(instance.forwarderSocket, { force: true });
  const control = createServer((socket) => {
    socket.on("error", () => {});
    let last: Promise<unknown> = Promise.resolve();
    createInterface({ input: socket }).on("line", (line) => {
      last = last
        .then(() => forwarder.setNodePorts(JSON.parse(line) as NodePortEntry[]))
        .catch((error) => process.stderr.write(`forwarder: ${errorText(error)}\n`));
    });
  });
  await new Promise<void>((resolve) => control.listen(instance.forwarderSocket, resolve));
  const cluster: ClusterOptions = {
    ...options.cluster,
    stateFolder: instance.stateFolder,
    kubeconfig: instance.kubeconfig,
    apiSocket: instance.apiSocket,
    apiPort,
    dialSocket: instance.dialSocket,
    forwarderSocket: instance.forwarderSocket,
  };
  const inside = startInside(options, cluster);
  instance.writeSupervisor();
  const finish = (code: number): void => {
    rmSync(instance.runFolder, { recursive: true, force: true });
    process.exit(code);
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
