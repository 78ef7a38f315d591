// `npm test`: all lanes, cheapest first, and one closing line. `--checks-only` stops after the checks.
// A lane whose prerequisite is absent prints `not run: reason` and counts nothing; with CI=true that is a failure.
import { spawnSync } from "node:child_process";
import { accessSync, constants, globSync } from "node:fs";
import { delimiter, join } from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { Mesh } from "../test/harness.ts";

const ROOT = join(import.meta.dirname, "..");
const BIN = join(ROOT, "node_modules/.bin");

interface Tally {
  passed: number;
  failed: number;
}

const tally: Tally = { passed: 0, failed: 0 };
const failures: string[] = [];

function note(name: string, isGood: boolean): void {
  if (isGood) tally.passed += 1;
  else {
    tally.failed += 1;
    failures.push(name);
  }
}

/** One check is one program; its output is shown when it fails. */
function check(name: string, program: string, args: readonly string[]): void {
  const started = performance.now();
  const done = spawnSync(program, [...args], { cwd: ROOT, encoding: "utf8", maxBuffer: 64 << 20 });
  const isGood = done.status === 0;
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  process.stdout.write(`${isGood ? "✔" : "✖"} ${name} (${seconds} s)\n`);
  if (!isGood) process.stdout.write(`${done.stdout}${done.stderr}${done.error?.message ?? ""}\n`);
  note(name, isGood);
}

/** Runs test files, each in a process of its own. */
async function lane(
  name: string,
  patterns: readonly string[],
  concurrency: number | boolean,
  timeoutMs: number,
): Promise<void> {
  const files = patterns.flatMap((pattern) => globSync(pattern, { cwd: ROOT, exclude: ["**/node_modules/**"] })).sort();
  process.stdout.write(`\n${name}: ${files.length} files\n`);
  if (files.length === 0) {
    note(`${name}: no test files`, false);
    return;
  }
  const stream = run({
    files: files.map((file) => join(ROOT, file)),
    concurrency,
    timeout: timeoutMs,
    execArgv: ["--test-force-exit"],
  });
  stream.on("test:pass", (event) => {
    if (event.details.type !== "suite") note(event.name, true);
  });
  stream.on("test:fail", (event) => {
    if (event.details.type !== "suite" || event.nesting === 0) note(`${name}: ${event.name}`, false);
  });
  const output = stream.compose(new spec());
  output.pipe(process.stdout, { end: false });
  await new Promise((resolve) => output.once("end", resolve));
}

function isOnPath(tool: string): boolean {
  return (process.env["PATH"] ?? "").split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, tool), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Why the scenarios cannot run here, if so. */
function scenariosLack(): string | undefined {
  const missing = [
    "ip",
    "iptables-restore",
    "iptables-save",
    "unshare",
    "setpriv",
    "python3",
    "kubectl",
    "curl",
  ].filter((tool) => !isOnPath(tool));
  if (missing.length > 0) return `missing on this machine: ${missing.join(", ")}`;
  const probe = spawnSync("unshare", ["--net", "--mount", "--pid", "--fork", "true"]);
  return probe.status === 0 ? undefined : "network namespaces cannot be made (run as root)";
}

/** The tests that also run against a real Kubernetes (npm run test:real), against an embedded cluster of their own. */
async function kubernetes(): Promise<void> {
  const mesh = new Mesh();
  try {
    const { code, stdout, stderr } = await mesh.lateen(["up", "--bare"]);
    if (code !== 0) {
      process.stdout.write(`${stdout}${stderr}\n`);
      note("kubernetes: the embedded cluster starts", false);
      return;
    }
    process.env["KUBECONFIG"] = mesh.kubeconfig;
    await lane("kubernetes", ["test/kubernetes/*.test.ts"], 1, 600_000);
  } finally {
    delete process.env["KUBECONFIG"];
    await mesh.destroy();
  }
}

async function main(): Promise<void> {
  const started = performance.now();
  check("format and imports", join(BIN, "biome"), ["check", "--error-on-warnings", "."]);
  check("types", join(BIN, "tsc"), ["-p", "."]);
  check("lint", join(BIN, "oxlint"), ["--type-aware", "--deny-warnings"]);
  check("dead code", process.execPath, [
    join(ROOT, "node_modules/knip/bin/knip.js"),
    "--no-config-hints",
    "--exclude",
    "binaries",
  ]);
  await lane("tidy", ["tools/tidy.test.ts"], true, 60_000);
  if (!process.argv.includes("--checks-only")) {
    await lane("unit", ["packages/*/src/**/*.test.ts"], true, 120_000);
    await lane("peers", ["test/peers/*.test.ts"], 1, 300_000);
    const lack = scenariosLack();
    if (lack === undefined) {
      await kubernetes();
      await lane("scenarios", ["test/scenarios/*.test.ts"], 1, 900_000);
    } else {
      process.stdout.write(`not run: kubernetes and scenarios: ${lack}\n`);
      if (process.env["CI"] === "true") note(`scenarios: ${lack}`, false);
    }
  }
  for (const failure of failures) process.stdout.write(`failed: ${failure}\n`);
  process.stdout.write(
    `\n${((performance.now() - started) / 1000).toFixed(0)} s\n${tally.passed} passed, ${tally.failed} failed\n`,
  );
  process.exit(tally.failed === 0 ? 0 : 1);
}

await main();
