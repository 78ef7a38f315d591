// `npm run test:kubernetes`: the tests of this folder against the embedded cluster. `npm run test:real`: the same against a real
// Kubernetes, which is built (once), started and taken down. `--record`: the real one's answers become the expected ones.
import { execFileSync, spawn } from "node:child_process";
import { copyFileSync, globSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Mesh } from "../harness.ts";
import { RealKubernetes, realKubernetesLacks } from "./real/cluster.ts";

const files = globSync(join(import.meta.dirname, "*.test.ts")).toSorted();
const isReal = process.argv.includes("--real");

function runTests(command: readonly string[], env: Record<string, string>): Promise<number> {
  const [program = "", ...args] = [
    ...command,
    process.execPath,
    "--test",
    "--test-concurrency=1",
    "--test-force-exit",
    ...files,
  ];
  const child = spawn(program, args, { stdio: "inherit", env: { ...process.env, ...env } });
  return new Promise((resolve) => child.once("close", (code) => resolve(code ?? 1)));
}

/** The image that the tests' pods run: busybox with a link for each of its programs. */
function addBusybox(real: RealKubernetes): void {
  const root = mkdtempSync(join(tmpdir(), "lateen-busybox-"));
  const bin = join(root, "bin");
  mkdirSync(bin);
  mkdirSync(join(root, "tmp"), { mode: 0o1777 });
  copyFileSync(execFileSync("which", ["busybox"], { encoding: "utf8" }).trim(), join(bin, "busybox"));
  const programs = execFileSync(join(bin, "busybox"), ["--list"], { encoding: "utf8" }).trim().split("\n");
  for (const program of programs) if (program !== "busybox") symlinkSync("busybox", join(bin, program));
  real.image("docker.io/library/busybox:1", root, [], ["sh"]);
  rmSync(root, { recursive: true });
}

async function againstReal(): Promise<number> {
  const lack = realKubernetesLacks();
  if (lack !== undefined) {
    process.stdout.write(`not run: real Kubernetes: ${lack}\n`);
    return process.env["CI"] === "true" ? 1 : 0;
  }
  const real = new RealKubernetes();
  await real.start();
  addBusybox(real);
  try {
    const [program, args] = real.inside([]);
    const env = { KUBECONFIG: real.kubeconfig, LATEEN_TEST_TARGET: "real" };
    return await runTests([program, ...args], process.argv.includes("--record") ? { ...env, LATEEN_RECORD: "1" } : env);
  } finally {
    await real.stop();
  }
}

async function againstEmbedded(): Promise<number> {
  const given = process.env["KUBECONFIG"];
  if (given !== undefined) return runTests([], { KUBECONFIG: given });
  const mesh = new Mesh();
  try {
    const { code, stderr } = await mesh.lateen(["up", "--bare"]);
    if (code !== 0) throw new Error(stderr);
    return await runTests([], { KUBECONFIG: mesh.kubeconfig });
  } finally {
    await mesh.destroy();
  }
}

process.exitCode = await (isReal ? againstReal() : againstEmbedded());
