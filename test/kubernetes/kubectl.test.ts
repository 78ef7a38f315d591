// kubectl's outputs: every line is typed at the embedded cluster, and what it prints compared with what it printed at a real one
// (kubectl/outputs.json; LATEEN_RECORD=1 writes them anew). Names that are made up, ages and addresses do not count.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { eventually, type Output, run } from "../harness.ts";
import { NAMESPACE, STEPS } from "./kubectl/steps.ts";
import { build, goLacks } from "./real/cluster.ts";
import { Target } from "./target.ts";

const OUTPUTS = join(import.meta.dirname, "kubectl/outputs.json");
const DIFFERENCES = join(import.meta.dirname, "kubectl/differences.json");
const target = Target.fromEnv();
const folder = mkdtempSync(join(tmpdir(), "lateen-kubectl-outputs-"));
after(() => rmSync(folder, { recursive: true, force: true }));

/** What is compared of an output: without what is another each time. Columns are as wide as their longest entry: any gap is two spaces. */
function masked(text: string): string {
  return text
    .replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "UID")
    .replaceAll(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, "TIME")
    .replaceAll(/\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}/g, "TIME")
    .replaceAll(/\b(web|made)-[0-9a-z]{6,10}-[0-9a-z]{5}\b/g, "$1-HASH-SUFFIX")
    .replaceAll(/\b(web|made)-(?=[0-9a-z]*\d)[0-9a-z]{6,10}\b/g, "$1-HASH")
    .replaceAll(/\b(web|made)-[0-9a-z]{5}\b/g, "$1-SUFFIX")
    .replaceAll(/pod-template-hash(=|: ?)[0-9a-z]+/g, "pod-template-hash$1HASH")
    .replaceAll(/(controller-uid=)\S+/g, "$1UID")
    .replaceAll(/kube-api-access-\w{5}/g, "kube-api-access-SUFFIX")
    .replaceAll(/\b(10|127)\.\d+\.\d+\.\d+(:\d+)?\b/g, "ADDRESS")
    .replaceAll(/https:\/\/ADDRESS(:\d+)?/g, "https://ADDRESS")
    .replaceAll(/\b(real-node|lateen-node)\b/g, "NODE")
    .replaceAll(/(containerd|lateen):\/\/\S+/g, "CONTAINER")
    .replaceAll(
      /failed to start exec( "[0-9a-f]{64}")?: (OCI runtime exec failed: exec failed: )?/g,
      "failed to start exec: ",
    )
    .replaceAll(/(no such file or directory): unknown$/gm, "$1")
    .replaceAll(/sha256:[0-9a-f]{64}/g, "sha256:DIGEST")
    .replaceAll(/resourceVersion: ?"?\d+"?/g, "resourceVersion: VERSION")
    .replaceAll(/(\\?"resourceVersion\\?": ?\\?")\d+/g, "$1VERSION")
    .replaceAll(/^(Resource Version:|  Resource Version:) +\d+/gm, "$1 VERSION")
    .replaceAll(/\b3[0-2]\d{3}(\/TCP)?\b/g, "PORT$1")
    .replaceAll(/v1\.34\.1\+lateen/g, "v1.34.1")
    .replaceAll(/\b(\d+[dhms]){1,2}( \(x\d+ over (\d+[dhms]){1,2}\))?(?= |$)/gm, "AGE")
    .replaceAll(/ {2,}/g, "  ")
    .replaceAll(/ +$/gm, "")
    .replaceAll(/-{4,}/g, "----");
}

/** Words of a command line; quotes hold words together. */
const words = (line: string): string[] =>
  [...line.matchAll(/'([^']*)'|(?:[^\s']|'[^']*')+/g)].map(([word]) => word.replaceAll(/'([^']*)'/g, "$1"));

const lack = goLacks();
if (lack !== undefined) {
  process.stdout.write(`not run: kubectl's outputs: ${lack}\n`);
  if (process.env["CI"] === "true") test("kubectl's outputs", () => assert.fail(lack));
} else
  test("kubectl prints what it prints with a real Kubernetes", { timeout: 600_000 }, async (t) => {
    const version = ["gitVersion=v1.34.1", "gitMajor=1", "gitMinor=34"];
    const flags = version.map((value) => `-X k8s.io/component-base/version.${value}`).join(" ");
    const program = build("kubectl", ["build", "-trimpath", "-ldflags", `-s -w ${flags}`, "./kubectl"], "../clients");
    const kubectl = (line: string, input?: string): Promise<Output> => {
      const env = {
        KUBECONFIG: target.kubeconfig,
        KUBECACHEDIR: folder,
        KUBE_EDITOR: "sed -i s/b:/c:/",
        NO_COLOR: "1",
      };
      const options = { env, ...(input === undefined ? {} : { input }) };
      return run(program, ["-n", NAMESPACE, ...words(line)], options);
    };
    await kubectl(`delete namespace ${NAMESPACE} --ignore-not-found`);
    await kubectl("delete crd gadgets.typing.example.com --ignore-not-found");
    await kubectl(`create namespace ${NAMESPACE}`);
    const isRecording = process.env["LATEEN_RECORD"] === "1";
    const outputs: Record<string, string> =
      existsSync(OUTPUTS) && !isRecording ? JSON.parse(readFileSync(OUTPUTS, "utf8")) : {};
    const listed: Record<string, string> = target.isReal ? {} : JSON.parse(readFileSync(DIFFERENCES, "utf8"));
    assert.equal(new Set(STEPS.map(({ line }) => line)).size, STEPS.length, "every step is another line");
    for (const { line, input, after: before, keep } of STEPS) {
      await t.test(line, async () => {
        if (before !== undefined)
          await eventually(`${before[0]} says ${before[1]}`, async () =>
            before[1].test((await kubectl(before[0])).stdout),
          );
        const { code, stdout, stderr } = await kubectl(line, input);
        const shown =
          keep === undefined ? stdout : [...stdout.matchAll(new RegExp(keep))].map(([part]) => part).join("\n");
        const said = masked(`${shown}${stderr === "" ? "" : `\n[error]\n${stderr}`}\n[exit ${code}]`);
        if (isRecording) outputs[line] = said;
        const reason = listed[line];
        if (reason === undefined) assert.equal(said, outputs[line]);
        else assert.notEqual(said, outputs[line], `differences.json says "${reason}", but there is none any more`);
      });
    }
    const known = new Set(STEPS.map(({ line }) => line));
    assert.deepEqual(
      Object.keys(listed).filter((line) => !known.has(line)),
      [],
      "differences of steps that there are",
    );
    if (isRecording) writeFileSync(OUTPUTS, `${JSON.stringify(outputs, null, 1)}\n`);
    await kubectl(`delete namespace ${NAMESPACE} --wait=false`);
  });
