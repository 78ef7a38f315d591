// `npm run bench`: what people feel, measured on this machine, each figure beside its target.
// start: `lateen up` with everything set up until the first 200 through gateway and sidecars.
// memory: the proportional set size (PSS) of every process of the instance, with Bookinfo, after the first requests.
// api: the API server beside a real one (bench-api.ts).
// edit: from the API's answer to a changed VirtualService until the gateway answers by the new rule; 200 edits.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { Agent, get } from "node:http";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { Instance } from "@lateen/cluster";
import { KubeClient, loadKubeConfig } from "@lateen/kube";
import { benchApi, processTree, pssMegabytes } from "./bench-api.ts";

const STARTS = 3;
const EDITS = 200;
const CLI = join(import.meta.dirname, "../packages/cli/src/main.ts");
const RULES = "/apis/networking.istio.io/v1/namespaces/default/virtualservices";

const state = mkdtempSync(join(tmpdir(), "lateen-bench-"));
const instance = new Instance(state);

function lateen(...args: readonly string[]): void {
  const done = spawnSync(process.execPath, [CLI, ...args], {
    env: { ...process.env, LATEEN_STATE: state },
    encoding: "utf8",
  });
  if (done.status !== 0) throw new Error(`lateen ${args.join(" ")}: ${done.stdout}${done.stderr}`);
}

function line(name: string, figure: string, target: string): void {
  process.stdout.write(`${name.padEnd(52)} ${figure.padStart(12)}   target ${target}\n`);
}

const quantile = (values: readonly number[], share: number): number =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.ceil(values.length * share) - 1)] ?? Number.NaN;

/** Seconds of each start; the last instance stays. */
function measureStarts(): number[] {
  const seconds: number[] = [];
  for (let i = 0; i < STARTS; i++) {
    if (i > 0) lateen("down", "--purge");
    const started = performance.now();
    lateen("up");
    seconds.push((performance.now() - started) / 1000);
  }
  return seconds;
}

/** Megabytes of PSS by kind of process. */
function measureMemory(): Map<string, number> {
  const kinds = new Map<string, number>();
  for (const pid of processTree(instance.supervisor()?.pid ?? 0)) {
    const megabytes = pssMegabytes(pid);
    const command = readFileSync(`/proc/${pid}/cmdline`, "utf8");
    const kind = /envoy-rev/.test(command)
      ? "Envoy"
      : /pilot-agent/.test(command)
        ? "agents"
        : /pilot-discovery/.test(command)
          ? "control plane"
          : /bookinfo/.test(command)
            ? "Bookinfo"
            : "cluster and host";
    kinds.set(kind, (kinds.get(kind) ?? 0) + megabytes);
  }
  return kinds;
}

const agent = new Agent({ keepAlive: true, maxSockets: 1 });

/** What the gateway answers for the bench's host. */
function probe(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    get({ host: "127.0.0.1", port, path: "/health", agent, headers: { host: "bench.example" } }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () => resolve(Buffer.concat(chunks).toString("utf8")));
    }).on("error", reject);
  });
}

async function measureEdits(): Promise<number[]> {
  const client = new KubeClient(loadKubeConfig(instance.kubeconfig));
  const port = instance.readPorts()["istio-system/istio-ingressgateway:80"] ?? 0;
  const to = (host: string): unknown => ({ route: [{ destination: { host, port: { number: 9080 } } }] });
  // Both destinations stay in use by other routes: an edit is a change of a route, as a shift of weights is.
  const rules = (host: string): unknown[] => [
    { match: [{ uri: { prefix: "/details" } }], ...(to("details") as object) },
    { match: [{ uri: { prefix: "/ratings" } }], ...(to("ratings") as object) },
    to(host),
  ];
  const object = {
    apiVersion: "networking.istio.io/v1",
    kind: "VirtualService",
    metadata: { name: "bench" },
    spec: { hosts: ["bench.example"], gateways: ["bookinfo-gateway"], http: rules("details") },
  };
  await client.json("POST", RULES, { body: object });
  while (!(await probe(port)).includes("Details is healthy")) await new Promise((resolve) => setImmediate(resolve));
  const times: number[] = [];
  for (let i = 0; i < EDITS; i++) {
    const [host, expected] = i % 2 === 0 ? ["ratings", "Ratings is healthy"] : ["details", "Details is healthy"];
    await client.json("PATCH", `${RULES}/bench`, {
      body: { spec: { http: rules(host ?? "") } },
      contentType: "application/merge-patch+json",
    });
    const answered = performance.now();
    while (!(await probe(port)).includes(expected ?? "")) await new Promise((resolve) => setImmediate(resolve));
    times.push(performance.now() - answered);
  }
  client.close();
  agent.destroy();
  return times;
}

try {
  process.stdout.write(`${cpus().length} cores, Node ${process.versions.node}\n\n`);
  const starts = measureStarts();
  line(`start until the first 200, ${STARTS} runs: median`, `${quantile(starts, 0.5).toFixed(1)} s`, "10 s");
  process.stdout.write(`  each: ${starts.map((seconds) => seconds.toFixed(1)).join(", ")} s\n`);
  const memory = measureMemory();
  line(
    "memory of everything with Bookinfo (sum of PSS)",
    `${([...memory.values()].reduce((a, b) => a + b, 0) / 1000).toFixed(2)} GB`,
    "1.0 GB",
  );
  for (const [kind, megabytes] of memory) process.stdout.write(`  ${kind}: ${megabytes.toFixed(0)} MB\n`);
  const edits = await measureEdits();
  line(`VirtualService edit until it answers, ${EDITS}: p99`, `${quantile(edits, 0.99).toFixed(1)} ms`, "50 ms");
  process.stdout.write(`  p50 ${quantile(edits, 0.5).toFixed(1)} ms, max ${Math.max(...edits).toFixed(1)} ms\n`);
} finally {
  lateen("down", "--purge");
  rmSync(state, { recursive: true, force: true });
}
await benchApi();
