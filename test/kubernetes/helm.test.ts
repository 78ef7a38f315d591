// Helm 3, built from its Go module: the life of a small chart.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { type Output, run } from "../harness.ts";
import { build, goLacks } from "./real/cluster.ts";
import { Target } from "./target.ts";

const NAMESPACE = "helm";
const target = Target.fromEnv();

const FILES: Readonly<Record<string, string>> = {
  "Chart.yaml": "apiVersion: v2\nname: small\nversion: 1.0.0\nappVersion: '1'\n",
  "values.yaml": "replicas: 1\ngreeting: hello\n",
  "crds/things.yaml": `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.helm.example.com}
spec:
  group: helm.example.com
  scope: Namespaced
  names: {plural: things, singular: thing, kind: Thing}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`,
  "templates/thing.yaml":
    'apiVersion: helm.example.com/v1\nkind: Thing\nmetadata: {name: {{ .Release.Name }}}\nspec: {greeting: "{{ .Values.greeting }}"}\n',
  "templates/config.yaml":
    'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata:\n  greeting: "{{ .Values.greeting }}"\n  seen: "{{ (lookup "v1" "Namespace" "" "kube-system").metadata.name }}"\n',
  "templates/service.yaml":
    "apiVersion: v1\nkind: Service\nmetadata: {name: {{ .Release.Name }}}\nspec: {selector: {app: small}, ports: [{port: 80}]}\n",
  "templates/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: small}}
  template:
    metadata: {labels: {app: small}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: main, image: "busybox:1", command: [sh, -c, "while true; do sleep 0.2; done"], env: [{name: GREETING, value: "{{ .Values.greeting }}"}]}
`,
  "templates/hook.yaml": `apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-before
  annotations: {helm.sh/hook: "pre-install,pre-upgrade", helm.sh/hook-delete-policy: "before-hook-creation,hook-succeeded"}
spec:
  backoffLimit: 0
  template: {spec: {restartPolicy: Never, containers: [{name: main, image: "busybox:1", command: ["true"]}]}}
`,
  "templates/test.yaml": `apiVersion: v1
kind: Pod
metadata: {name: {{ .Release.Name }}-test, annotations: {helm.sh/hook: test}}
spec: {restartPolicy: Never, containers: [{name: main, image: "busybox:1", command: [sh, -c, "echo tested"]}]}
`,
};

const lack = goLacks();
if (lack !== undefined) {
  process.stdout.write(`not run: Helm: ${lack}\n`);
  if (process.env["CI"] === "true") test("Helm", () => assert.fail(lack));
} else
  describe("Helm", { timeout: 600_000 }, () => {
    const folder = mkdtempSync(join(tmpdir(), "lateen-helm-"));
    const chart = join(folder, "small");
    let program = "";

    const tryHelm = (args: readonly string[]): Promise<Output> => {
      const env = {
        KUBECONFIG: target.kubeconfig,
        HELM_CACHE_HOME: join(folder, "cache"),
        HELM_CONFIG_HOME: join(folder, "config"),
        HELM_DATA_HOME: join(folder, "data"),
        KUBECACHEDIR: join(folder, "kube"),
        HOME: folder,
      };
      return run(program, ["--namespace", NAMESPACE, ...args], { env });
    };
    const helm = async (...args: readonly string[]): Promise<string> => {
      const { code, stdout, stderr } = await tryHelm(args);
      assert.equal(code, 0, `helm ${args.join(" ")}: ${stdout}${stderr}`);
      return stdout;
    };
    const kubectl = async (...args: readonly string[]): Promise<string> => {
      const { code, stdout, stderr } = await target.kubectl(["-n", NAMESPACE, ...args]);
      assert.equal(code, 0, `kubectl ${args.join(" ")}: ${stdout}${stderr}`);
      return stdout;
    };
    const greeting = (): Promise<string> => kubectl("get", "configmap", "one", "-o", "jsonpath={.data.greeting}");

    before(() => {
      program = build("helm", ["build", "-trimpath", "-ldflags", "-s -w", "helm.sh/helm/v3/cmd/helm"], "../clients");
      for (const [name, content] of Object.entries(FILES)) {
        mkdirSync(join(chart, name, ".."), { recursive: true });
        writeFileSync(join(chart, name), content);
      }
    });

    after(async () => {
      rmSync(folder, { recursive: true, force: true });
      await target.kubectl(["delete", "crd", "things.helm.example.com", "--ignore-not-found"]);
      await target.kubectl(["delete", "namespace", NAMESPACE, "--wait=false"]);
    });

    test("install: definitions, hooks, waiting until all is ready", async () => {
      const output = await helm("install", "one", chart, "--create-namespace", "--wait", "--timeout", "90s");
      assert.match(output, /STATUS: deployed\nREVISION: 1/);
      assert.equal(await greeting(), "hello");
      assert.equal(await kubectl("get", "thing", "one", "-o", "jsonpath={.spec.greeting}"), "hello");
      assert.equal(await kubectl("get", "deployment", "one", "-o", "jsonpath={.status.readyReplicas}"), "1");
      assert.equal(await kubectl("get", "jobs", "-o", "name"), "", "the hook is gone, as its policy says");
      const [release] = JSON.parse(await helm("list", "-o", "json"));
      assert.deepEqual([release.name, release.status, release.chart], ["one", "deployed", "small-1.0.0"]);
    });

    test("a dry run on the server shows what would be, and changes nothing", async () => {
      const output = await helm("upgrade", "one", chart, "--dry-run=server", "--set", "greeting=hi");
      assert.match(output, /seen: "kube-system"/, "lookup asks the cluster");
      assert.match(output, /greeting: "hi"/);
      assert.equal(await greeting(), "hello");
    });

    test("a name that is in use is refused", async () => {
      const { code, stderr } = await tryHelm(["install", "one", chart]);
      assert.equal(code, 1);
      assert.match(stderr, /cannot re-use a name that is still in use/);
    });

    test("upgrade and rollback", async () => {
      const settings = ["--set", "greeting=bonjour,replicas=2"];
      assert.match(await helm("upgrade", "one", chart, ...settings, "--wait", "--timeout", "90s"), /REVISION: 2/);
      assert.equal(await greeting(), "bonjour");
      assert.equal(await kubectl("get", "deployment", "one", "-o", "jsonpath={.status.readyReplicas}"), "2");
      assert.match(await helm("get", "values", "one"), /greeting: bonjour\nreplicas: 2/);
      await helm("rollback", "one", "1", "--wait", "--timeout", "90s");
      assert.equal(await greeting(), "hello");
      const history = JSON.parse(await helm("history", "one", "-o", "json"));
      assert.deepEqual(
        history.map(({ revision, status }: { revision: number; status: string }) => [revision, status]),
        [
          [1, "superseded"],
          [2, "superseded"],
          [3, "deployed"],
        ],
      );
    });

    test("an upgrade that fails is undone when asked to", async () => {
      const broken = ["--set", "replicas=-1", "--atomic", "--timeout", "60s"];
      const { code, stderr } = await tryHelm(["upgrade", "one", chart, ...broken]);
      assert.equal(code, 1);
      assert.match(stderr, /spec\.replicas: Invalid value: -1: must be greater than or equal to 0/);
      assert.equal(JSON.parse(await helm("status", "one", "-o", "json")).info.status, "deployed");
    });

    test("test runs the chart's test and shows its log", async () => {
      const output = await helm("test", "one", "--logs", "--timeout", "90s");
      assert.match(output, /Phase:\s+Succeeded/);
      assert.match(output, /tested/);
    });

    test("uninstall removes everything but definitions", async () => {
      assert.match(await helm("uninstall", "one", "--wait", "--timeout", "90s"), /release "one" uninstalled/);
      assert.equal(await kubectl("get", "deployments,services,things", "-o", "name"), "");
      assert.equal(await kubectl("get", "secrets", "-l", "owner=helm", "-o", "name"), "");
      await target.kubectl(["get", "crd", "things.helm.example.com"]);
      assert.deepEqual(JSON.parse(await helm("list", "-o", "json")), []);
    });
  });
