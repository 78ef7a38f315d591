// The API server beside Kubernetes' own, on this machine, one after the other, under the same load (bench-load.ts): its start, what it
// does in a second, its memory. The real one is kube-apiserver with an etcd that syncs its writes to disk.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Instance, startInstance, stopInstance } from "@lateen/cluster";
import { RealKubernetes, realKubernetesLacks } from "../test/kubernetes/real/cluster.ts";
import type { Load } from "./bench-load.ts";

const STARTS = 5;

interface Figures {
  readonly readySeconds: number;
  readonly megabytes: number;
  readonly load: Load;
}

/** Proportional set size of a process, in megabytes; 0 when it is gone. */
export function pssMegabytes(pid: number): number {
  try {
    return Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1] ?? 0) / 1024;
  } catch {
    return 0;
  }
}

/** The process and all that come from it. */
export function processTree(root: number): number[] {
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      // it has ended
    }
  }
  const isBelow = (pid: number): boolean => pid === root || (pid > 1 && isBelow(parents.get(pid) ?? 0));
  return [...parents.keys()].filter(isBelow);
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;

function load(kubeconfig: string, inside: (command: readonly string[]) => readonly [string, readonly string[]]): Load {
  const [program, args] = inside([process.execPath, join(import.meta.dirname, "bench-load.ts"), kubeconfig]);
  const done = spawnSync(program, [...args], { encoding: "utf8" });
  if (done.status !== 0) throw new Error(`the load failed: ${done.stderr}`);
  return JSON.parse(done.stdout) as Load;
}

async function measureEmbedded(): Promise<Figures> {
  const seconds: number[] = [];
  for (let i = 1; ; i++) {
    const instance = new Instance(mkdtempSync(join(tmpdir(), "lateen-bench-")));
    try {
      const started = performance.now();
      await startInstance(instance);
      seconds.push((performance.now() - started) / 1000);
      if (i < STARTS) continue;
      const figures = load(instance.kubeconfig, ([program = "", ...args]) => [program, args]);
      const megabytes = sum(processTree(instance.supervisor()?.pid ?? 0).map(pssMegabytes));
      return { readySeconds: median(seconds), megabytes, load: figures };
    } finally {
      await stopInstance(instance);
      rmSync(instance.stateFolder, { recursive: true });
    }
  }
}

async function measureReal(): Promise<Figures> {
  const real = new RealKubernetes({ isDurable: true, isApiOnly: true });
  await real.start();
  try {
    const figures = load(real.kubeconfig, (command) => real.inside(command));
    return { readySeconds: real.readySeconds, megabytes: sum(real.processes().map(pssMegabytes)), load: figures };
  } finally {
    await real.stop();
  }
}

const print = (text: string): void => void process.stdout.write(`${text}\n`);

/** Measures both and prints a line for each figure: ours, the real one's, the target. */
export async function benchApi(): Promise<void> {
  print("\nAPI server, beside kube-apiserver and etcd (which syncs to disk)");
  const ours = await measureEmbedded();
  const lack = realKubernetesLacks();
  if (lack !== undefined) print(`not run: the real one: ${lack}`);
  const real = lack === undefined ? await measureReal() : undefined;
  const row = (name: string, figure: (of: Figures) => number, unit: string, target: string): void => {
    const [own, other] = [figure(ours), real === undefined ? undefined : figure(real)];
    const beside =
      other === undefined ? "" : `${other.toFixed(1).padStart(9)} ${unit} (${(other / own).toFixed(1)} times)`;
    print(
      `${name.padEnd(52)} ${own.toFixed(own < 10 ? 2 : 0).padStart(9)} ${unit.padEnd(3)} ${beside.padEnd(26)} target ${target}`,
    );
  };
  const { objects, watchers, changes } = ours.load;
  row(`start until /readyz, median of ${STARTS}`, ({ readySeconds }) => readySeconds, "s", "0.5 s, a tenth");
  row(`${objects} ConfigMaps created by 8 clients`, (of) => of.load.createSeconds, "s", "at most twice");
  row("all of them listed, in one answer", (of) => of.load.listMs, "ms", "at most twice");
  row("all of them listed, in pages of 500", (of) => of.load.pagesMs, "ms", "at most twice");
  row(`${watchers} watchers see ${changes} changes`, (of) => of.load.watchSeconds, "s", "at most twice");
  row("memory after it (sum of PSS)", ({ megabytes }) => megabytes, "MB", "less");
}
