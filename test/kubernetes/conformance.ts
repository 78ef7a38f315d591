// `npm run test:conformance [-- --sig NAME] [--focus TEXT] [--all]`: Kubernetes' own conformance tests, built from its Go module,
// against the embedded cluster. Prints passed and failed for each SIG and compares with conformance-exceptions.json: the tests that do
// not pass, each with its reason. A listed test that passes, and a failure that is not listed, fail the run. `--all` runs the other
// SIGs, too (an hour and more); they are counted, and fail nothing. `--minutes N` ends it sooner; what has not been run is not counted.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { parse as parseYaml } from "yaml";
import { Mesh, run } from "../harness.ts";
import { build, goLacks } from "./real/cluster.ts";

const EXCEPTIONS = join(import.meta.dirname, "conformance-exceptions.json");
/** The SIGs whose tests the embedded cluster is to pass now. */
const SIGS = ["api-machinery", "auth", "cli"];
const SHARDS = 4;
const MINUTES = 100;
const GRACE_MS = 300_000;

interface Outcome {
  readonly name: string;
  readonly sig: string;
  readonly isPassed: boolean;
  readonly message: string;
  readonly seconds: number;
}

interface Spec {
  readonly ContainerHierarchyTexts: readonly string[] | null;
  readonly LeafNodeText: string;
  readonly LeafNodeType: string;
  readonly State: string;
  readonly RunTime: number;
  readonly Failure?: { readonly Message: string };
}

const sigOf = (name: string): string => /^\[sig-([\w-]+)\]/.exec(name)?.[1] ?? "other";
const escaped = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");

function testNames(program: string, folder: string): Promise<string[]> {
  return run(program, ["--list-conformance-tests"], { env: { TMPDIR: folder } }).then(({ stdout }) => {
    const list = parseYaml(stdout.slice(stdout.indexOf("- testname"))) as { codename: string }[];
    return list.map(({ codename }) => codename.replaceAll(/\s+/g, " ").trim());
  });
}

/** Images of the tests: the test server, and stand-ins that answer as the real ones do where a test looks. */
async function addImages(mesh: Mesh, agnhost: string): Promise<void> {
  const file = `${agnhost}:/agnhost`;
  const add = async (name: string, ...rest: readonly string[]): Promise<void> => {
    const { code, stderr } = await mesh.lateen(["image", "add", name, ...rest]);
    if (code !== 0) throw new Error(`image ${name}: ${stderr}`);
  };
  const registry = "registry.k8s.io/e2e-test-images";
  await add(`${registry}/agnhost:2.56`, "--file", file, "--arg", "pause", "--", "/agnhost");
  for (const name of ["busybox:1.37.0-1", "busybox:1.36.1-1"])
    await add(`${registry}/${name}`, "--file", `/bin/bash:${realpathSync("/bin/sh")}`, "--arg", "sh");
  for (const name of ["httpd:2.4.38-4", "httpd:2.4.39-4", "nginx:1.14-4", "nginx:1.15-4"])
    await add(
      `${registry}/${name}`,
      "--file",
      file,
      "--arg",
      "/agnhost",
      "--arg",
      "test-webserver",
      "--arg=--port",
      "--arg",
      "80",
    );
  for (const name of ["nautilus", "kitten"]) {
    const page = JSON.stringify({ image: `${name}.jpg` });
    const script = `mkdir -p /tmp/www && cd /tmp/www && echo '${page}' > data.json && exec python3 -m http.server 80`;
    await add(`${registry}/${name}:1.7`, "--arg", "sh", "--arg=-c", "--arg", script);
  }
  await add("registry.k8s.io/pause:3.10.1", "--file", file, "--arg", "pause", "--", "/agnhost");
}

async function runShard(
  program: string,
  mesh: Mesh,
  names: readonly string[],
  { folder, minutes }: { readonly folder: string; readonly minutes: number },
): Promise<Outcome[]> {
  if (names.length === 0) return [];
  mkdirSync(folder, { recursive: true });
  const report = join(folder, "report.json");
  const log = openSync(join(folder, "log"), "w");
  const child = spawn(
    program,
    [
      `--kubeconfig=${mesh.kubeconfig}`,
      "--provider=skeleton",
      "--ginkgo.no-color",
      "--ginkgo.silence-skips",
      `--ginkgo.timeout=${minutes}m`,
      `--ginkgo.focus= (${names.map(escaped).join("|")})$`,
      `--ginkgo.json-report=${report}`,
      "--allowed-not-ready-nodes=-1",
      "--disable-log-dump",
    ],
    {
      stdio: ["ignore", log, log],
      cwd: folder,
      env: { ...process.env, KUBECONFIG: mesh.kubeconfig, TMPDIR: folder },
    },
  );
  const timer = setTimeout(() => child.kill("SIGKILL"), minutes * 60_000 + GRACE_MS);
  await new Promise((resolve) => child.once("close", resolve));
  clearTimeout(timer);
  if (!existsSync(report))
    return names.map((name) => ({
      name,
      sig: sigOf(name),
      isPassed: false,
      message: "the test program wrote no report",
      seconds: 0,
    }));
  const [suite] = JSON.parse(readFileSync(report, "utf8")) as { SpecReports: Spec[] }[];
  return (suite?.SpecReports ?? [])
    .filter(({ LeafNodeType, State }) => LeafNodeType === "It" && State !== "skipped")
    .map((spec) => {
      const name = [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeText].join(" ");
      const isPassed = spec.State === "passed";
      return {
        name,
        sig: sigOf(name),
        isPassed,
        message: spec.Failure?.Message ?? spec.State,
        seconds: spec.RunTime / 1e9,
      };
    });
}

/** Runs the chosen tests; returns what became of each. */
async function runTests(
  sigs: readonly string[] | undefined,
  focus: string | undefined,
  minutes: number,
): Promise<Outcome[]> {
  const program = build("e2e.test", ["test", "-c", "k8s.io/kubernetes/test/e2e"], "e2e");
  const agnhost = build("agnhost", ["build", "k8s.io/kubernetes/test/images/agnhost"], "e2e");
  const folder = mkdtempSync(join(tmpdir(), "lateen-conformance-"));
  const mesh = new Mesh();
  try {
    const all = (await testNames(program, folder)).filter((name) => sigs?.includes(sigOf(name)) ?? true);
    const names = focus === undefined ? all : all.filter((name) => name.includes(focus));
    const up = await mesh.lateen(["up", "--bare"]);
    if (up.code !== 0) throw new Error(up.stderr);
    await addImages(mesh, agnhost);
    const serial = names.filter((name) => name.includes("[Serial]"));
    const others = names.filter((name) => !name.includes("[Serial]"));
    const shards = Array.from({ length: SHARDS }, (_, i) => others.filter((__, j) => j % SHARDS === i));
    const found = await Promise.all(
      shards.map((shard, i) => runShard(program, mesh, shard, { folder: join(folder, `shard-${i}`), minutes })),
    );
    return [...found.flat(), ...(await runShard(program, mesh, serial, { folder: join(folder, "serial"), minutes }))];
  } finally {
    await mesh.destroy();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      sig: { type: "string" },
      focus: { type: "string" },
      verbose: { type: "boolean" },
      all: { type: "boolean" },
      minutes: { type: "string" },
    },
  });
  const lack = goLacks();
  if (lack !== undefined) {
    process.stdout.write(`not run: conformance: ${lack}\n`);
    process.exitCode = process.env["CI"] === "true" ? 1 : 0;
    return;
  }
  const listed = JSON.parse(readFileSync(EXCEPTIONS, "utf8")) as Record<string, string>;
  const sigs = values.all === true ? undefined : values.sig === undefined ? SIGS : [values.sig];
  const outcomes = await runTests(sigs, values.focus, Number(values.minutes ?? MINUTES));
  const problems: string[] = [];
  for (const { name, sig, isPassed, message, seconds } of outcomes) {
    const reason = listed[name];
    if (values.verbose === true) process.stdout.write(`${isPassed ? "✔" : "✖"} ${seconds.toFixed(1)} s ${name}\n`);
    if (!SIGS.includes(sig)) {
      if (!isPassed && values.verbose === true) process.stdout.write(`${message.split("\n").slice(0, 6).join("\n")}\n`);
      continue;
    }
    if (isPassed && reason !== undefined) problems.push(`passes, but is listed as an exception: ${name}`);
    if (!isPassed && reason === undefined)
      problems.push(`failed: ${name}\n    ${message.split("\n").slice(0, 6).join("\n    ")}`);
  }
  for (const problem of problems) process.stdout.write(`${problem}\n`);
  for (const sig of new Set(outcomes.map((outcome) => outcome.sig))) {
    const own = outcomes.filter((outcome) => outcome.sig === sig);
    const passed = own.filter(({ isPassed }) => isPassed).length;
    process.stdout.write(
      `sig-${sig}: ${passed} passed, ${own.length - passed} failed, ${((100 * passed) / own.length).toFixed(1)} %\n`,
    );
  }
  process.exitCode = problems.length === 0 && outcomes.length > 0 ? 0 : 1;
}

await main();
