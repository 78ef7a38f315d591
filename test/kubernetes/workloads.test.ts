// Workloads and streams as kubectl uses them, on the embedded cluster and on a real one: every test is the same for both.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { eventually, fetchPage, type Output } from "../harness.ts";
import { Space, Target } from "./target.ts";

const target = Target.fromEnv();
const NAMESPACE = "work";
const IMAGE = "busybox:1";
const folder = mkdtempSync(join(tmpdir(), "lateen-workloads-"));

const space = new Space(target, NAMESPACE);
const tryKubectl = space.tryKubectl.bind(space);
const kubectl = space.kubectl.bind(space);
const json = space.json.bind(space);
const apply = space.apply.bind(space);
const names = async (args: readonly string[]): Promise<string[]> =>
  (await json(args)).items.map((item: any) => item.metadata.name).toSorted();

const container = (command: string, rest: object = {}): object => ({
  name: "main",
  image: IMAGE,
  command: ["sh", "-c", command],
  imagePullPolicy: "IfNotPresent",
  ...rest,
});
const template = (app: string, command: string, rest: object = {}): object => ({
  metadata: { labels: { app } },
  spec: { terminationGracePeriodSeconds: 1, containers: [container(command, rest)] },
});
const workload = (kind: string, name: string, spec: object): object => ({
  apiVersion: kind === "Job" ? "batch/v1" : "apps/v1",
  kind,
  metadata: { name },
  spec,
});
const REVISION = "deployment.kubernetes.io/revision";
const FOREVER = "trap 'exit 0' TERM; while true; do sleep 0.2; done";

describe("workloads", { timeout: 300_000 }, () => {
  before(async () => {
    await space.create();
  });

  after(async () => {
    rmSync(folder, { recursive: true, force: true });
    await target.kubectl(["delete", "namespace", NAMESPACE, "--wait=false"]);
  });

  test("a Deployment rolls, remembers its revisions and goes back", async () => {
    const deployment = (version: string): object =>
      workload("Deployment", "web", {
        replicas: 2,
        selector: { matchLabels: { app: "web" } },
        template: template("web", FOREVER, { env: [{ name: "VERSION", value: version }] }),
      });
    await apply(deployment("1"));
    assert.match(await kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]), /successfully rolled out/);
    await apply(deployment("2"));
    await kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert.match(
      await kubectl(["rollout", "history", "deployment/web"]),
      /REVISION\s+CHANGE-CAUSE\n1\s+<none>\n2\s+<none>/,
    );
    await kubectl(["rollout", "undo", "deployment/web"]);
    await kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]);
    const { spec } = await json(["get", "deployment", "web"]);
    assert.equal(spec.template.spec.containers[0].env[0].value, "1");
    const sets = (await json(["get", "replicasets", "-l", "app=web"])).items;
    assert.deepEqual(sets.map((set: any) => set.spec.replicas).toSorted(), [0, 2]);
    await kubectl(["scale", "deployment/web", "--replicas=1"]);
    await eventually("one pod is left", async () => (await names(["get", "pods", "-l", "app=web"])).length === 1);
    const row = (await kubectl(["get", "deployment", "web", "--no-headers"])).trim().split(/\s+/);
    assert.deepEqual(row.slice(0, 4), ["web", "1/1", "1", "1"]);
  });

  test("a rollout that is stuck keeps enough pods; scaled meanwhile, each version has its part", async () => {
    const stuck = (image: string): object => {
      const set = template("stuck", FOREVER, { image });
      return workload("Deployment", "stuck", {
        replicas: 4,
        selector: { matchLabels: { app: "stuck" } },
        template: set,
      });
    };
    await apply(stuck(IMAGE));
    await kubectl(["rollout", "status", "deployment/stuck", "--timeout=60s"]);
    await apply(stuck("registry.invalid/none:1"));
    const sizes = async (): Promise<string> =>
      (await json(["get", "replicasets", "-l", "app=stuck"])).items
        .toSorted((a: any, b: any) => (a.metadata.annotations[REVISION] < b.metadata.annotations[REVISION] ? -1 : 1))
        .map((set: any) => set.spec.replicas)
        .join();
    await eventually("three of the old and two of the new", async () => (await sizes()) === "3,2", 60_000);
    await kubectl(["scale", "deployment/stuck", "--replicas=8"]);
    await eventually("both have grown", async () => (await sizes()) === "6,4", 60_000);
    const events = await kubectl([
      "get",
      "events",
      "--field-selector",
      "reason=ScalingReplicaSet,involvedObject.name=stuck",
    ]);
    assert.match(events, /Scaled down replica set stuck-\S+ from 4 to 3/);
    assert.match(events, /Scaled up replica set stuck-\S+ from 3 to 6/);
    await kubectl(["delete", "deployment", "stuck"]);
  });

  test("a Deployment adopts a ReplicaSet that it selects, and passes minReadySeconds on to its own", async () => {
    const selector = { matchLabels: { app: "adopted" } };
    const stray = workload("ReplicaSet", "stray", { replicas: 1, selector, template: template("adopted", FOREVER) });
    await apply({ ...stray, metadata: { name: "stray", labels: { app: "adopted" } } });
    await kubectl(["wait", "--for=jsonpath={.status.availableReplicas}=1", "replicaset/stray", "--timeout=60s"]);
    const rollingUpdate = { maxSurge: 1, maxUnavailable: 0 };
    const spec = { replicas: 1, selector, minReadySeconds: 3, strategy: { rollingUpdate } };
    await apply(workload("Deployment", "adopter", { ...spec, template: template("adopted", `${FOREVER} # other`) }));
    await kubectl(["rollout", "status", "deployment/adopter", "--timeout=60s"]);
    const { metadata, spec: strayed } = await json(["get", "replicaset", "stray"]);
    assert.equal(metadata.ownerReferences[0].name, "adopter");
    assert.equal(strayed.replicas, 0);
    const sets = (await json(["get", "replicasets", "-l", "app=adopted"])).items;
    const made = sets.find((set: any) => set.metadata.name !== "stray");
    assert.deepEqual([made.spec.replicas, made.spec.minReadySeconds, made.status.availableReplicas], [1, 3, 1]);
    await kubectl(["delete", "deployment", "adopter"]);
  });

  test("an image that is not there is told of, and the rollout says so", async () => {
    await apply({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "noimage" },
      spec: { containers: [{ name: "c", image: "registry.invalid/none:1" }] },
    });
    await eventually(
      "the reason shows",
      async () => /ErrImagePull|ImagePullBackOff/.test(await kubectl(["get", "pod", "noimage"])),
      60_000,
    );
    await kubectl(["delete", "pod", "noimage", "--grace-period=0", "--force"]);
  });

  test("a StatefulSet makes its pods in order, with names that DNS knows", async () => {
    await apply({
      apiVersion: "v1",
      kind: "Service",
      metadata: { name: "db" },
      spec: { clusterIP: "None", selector: { app: "db" }, ports: [{ port: 80 }] },
    });
    const set = (replicas: number): object =>
      workload("StatefulSet", "db", {
        serviceName: "db",
        replicas,
        selector: { matchLabels: { app: "db" } },
        template: template("db", FOREVER),
      });
    await apply(set(2));
    await kubectl(["rollout", "status", "statefulset/db", "--timeout=60s"]);
    assert.deepEqual(await names(["get", "pods", "-l", "app=db"]), ["db-0", "db-1"]);
    const first = await json(["get", "pod", "db-0"]);
    assert.equal(first.metadata.labels["statefulset.kubernetes.io/pod-name"], "db-0");
    // The programs differ: busybox has one of them, the host that the embedded cluster shows its pods the other.
    const name = `db-0.db.${NAMESPACE}.svc.cluster.local`;
    const found = await eventually("db-0 has a name", async () => {
      const { stdout } = await tryKubectl([
        "exec",
        "db-1",
        "--",
        "sh",
        "-c",
        `nslookup ${name} || getent hosts ${name}`,
      ]);
      return stdout.includes(first.status.podIP) ? stdout : undefined;
    });
    assert.match(found, new RegExp(first.status.podIP.replaceAll(".", "\\.")));
    assert.equal((await kubectl(["exec", "db-1", "--", "hostname"])).trim(), "db-1");
    await apply(set(1));
    await eventually("the last one goes", async () => (await names(["get", "pods", "-l", "app=db"])).join() === "db-0");
    await kubectl(["delete", "statefulset", "db", "--cascade=orphan"]);
    await eventually("the set is gone", async () => (await tryKubectl(["get", "statefulset", "db"])).code !== 0);
    const orphan = await json(["get", "pod", "db-0"]);
    assert.equal(orphan.metadata.ownerReferences, undefined, "its pod stays, free");
    await apply(set(1));
    await eventually(
      "the new set adopts it",
      async () => (await json(["get", "pod", "db-0"])).metadata.ownerReferences?.length === 1,
    );
    assert.equal((await json(["get", "pod", "db-0"])).metadata.uid, orphan.metadata.uid);
    await kubectl(["delete", "statefulset", "db"]);
  });

  test("a DaemonSet has one pod on each node", async () => {
    await apply(
      workload("DaemonSet", "agent", {
        selector: { matchLabels: { app: "agent" } },
        template: template("agent", FOREVER),
      }),
    );
    await kubectl(["rollout", "status", "daemonset/agent", "--timeout=60s"]);
    const nodes = (await json(["get", "nodes"])).items.length;
    assert.equal((await names(["get", "pods", "-l", "app=agent"])).length, nodes);
    const { status } = await json(["get", "daemonset", "agent"]);
    assert.equal(status.numberReady, nodes);
    await kubectl(["delete", "daemonset", "agent"]);
  });

  test("a Job runs to its end, as often as asked; one that fails says so", async () => {
    const job = (name: string, command: string, rest: object): object =>
      workload("Job", name, {
        ...rest,
        template: { spec: { restartPolicy: "Never", containers: [container(command)] } },
      });
    await apply(job("sum", "echo done", { completions: 3, parallelism: 2 }));
    await kubectl(["wait", "--for=condition=complete", "job/sum", "--timeout=60s"]);
    const { status } = await json(["get", "job", "sum"]);
    assert.equal(status.succeeded, 3);
    assert.match(await kubectl(["logs", "job/sum"]), /done/);
    assert.match(await kubectl(["get", "job", "sum"]), /sum\s+Complete\s+3\/3/);
    await apply(job("broken", "exit 3", { backoffLimit: 0 }));
    await kubectl(["wait", "--for=condition=failed", "job/broken", "--timeout=60s"]);
    const failed = (await json(["get", "job", "broken"])).status.conditions.find(
      (condition: any) => condition.type === "Failed",
    );
    assert.equal(failed.reason, "BackoffLimitExceeded");
    await apply(
      job("indexed", "echo index $JOB_COMPLETION_INDEX", { completions: 2, parallelism: 2, completionMode: "Indexed" }),
    );
    await kubectl(["wait", "--for=condition=complete", "job/indexed", "--timeout=60s"]);
    assert.equal((await json(["get", "job", "indexed"])).status.completedIndexes, "0,1");
    const logs = await kubectl(["logs", "-l", "job-name=indexed"]);
    assert.deepEqual(logs.trim().split("\n").toSorted(), ["index 0", "index 1"]);
    await kubectl(["delete", "jobs", "--all"]);
    await eventually("its pods go, too", async () => (await names(["get", "pods", "-l", "job-name"])).length === 0);
  });

  test("a Job that is deleted takes its running pods along, or sets them free", async () => {
    const forever = (name: string): object =>
      workload("Job", name, {
        template: {
          spec: { restartPolicy: "Never", terminationGracePeriodSeconds: 0, containers: [container(FOREVER)] },
        },
      });
    const podsOf = (name: string): Promise<string[]> => names(["get", "pods", "-l", `job-name=${name}`]);
    await apply(forever("taken"));
    await apply(forever("freed"));
    for (const name of ["taken", "freed"])
      await eventually(`the pod of ${name} runs`, async () => {
        const { items } = await json(["get", "pods", "-l", `job-name=${name}`]);
        return items[0]?.status.phase === "Running";
      });
    await kubectl(["delete", "job", "taken"]);
    await eventually("its pod goes", async () => (await podsOf("taken")).length === 0, 60_000);
    await kubectl(["delete", "job", "freed", "--cascade=orphan"]);
    const isFree = async (): Promise<boolean> => {
      const { metadata } = (await json(["get", "pods", "-l", "job-name=freed"])).items[0];
      return metadata.ownerReferences === undefined && metadata.finalizers === undefined;
    };
    await eventually("its pod is nobody's", isFree, 60_000);
    await kubectl(["delete", "pods", "-l", "job-name=freed"]);
    await eventually("it may go", async () => (await podsOf("freed")).length === 0, 60_000);
  });

  test("a success policy ends a Job before all its indexes are done", async () => {
    await apply(
      workload("Job", "early", {
        completions: 3,
        parallelism: 3,
        completionMode: "Indexed",
        successPolicy: { rules: [{ succeededIndexes: "0-1", succeededCount: 1 }] },
        template: {
          spec: {
            restartPolicy: "Never",
            terminationGracePeriodSeconds: 0,
            containers: [container(`[ $JOB_COMPLETION_INDEX = 1 ] || { ${FOREVER}; }`)],
          },
        },
      }),
    );
    await kubectl(["wait", "--for=condition=complete", "job/early", "--timeout=60s"]);
    const { status } = await json(["get", "job", "early"]);
    assert.equal(status.completedIndexes, "1");
    const { reason, message } = status.conditions.find(({ type }: any) => type === "Complete");
    assert.deepEqual([reason, message], ["SuccessPolicy", "Matched rules at index 0"]);
    await kubectl(["delete", "job", "early"]);
  });

  test("a CronJob's Job is made by hand from it", async () => {
    const jobTemplate = {
      spec: { template: { spec: { restartPolicy: "Never", containers: [container("echo tick")] } } },
    };
    await apply({
      apiVersion: "batch/v1",
      kind: "CronJob",
      metadata: { name: "clock" },
      spec: { schedule: "0 0 1 1 *", jobTemplate },
    });
    await kubectl(["create", "job", "now", "--from=cronjob/clock"]);
    await kubectl(["wait", "--for=condition=complete", "job/now", "--timeout=60s"]);
    assert.match(await kubectl(["logs", "job/now"]), /tick/);
    assert.match(await kubectl(["get", "cronjob", "clock"]), /clock\s+0 0 1 1 \*\s+<none>\s+False/);
    await kubectl(["delete", "cronjob", "clock"]);
  });

  test("init containers, sidecars, hooks and probes keep their order", async () => {
    const log = "/log/order";
    const say = (text: string): string => `echo ${text} >> ${log}`;
    const volumeMounts = [{ name: "log", mountPath: "/log" }];
    const part = (name: string, command: string, rest: object = {}): object => ({
      ...container(command, rest),
      name,
      volumeMounts,
    });
    await apply({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "order" },
      spec: {
        terminationGracePeriodSeconds: 1,
        volumes: [{ name: "log", emptyDir: {} }],
        initContainers: [
          part("first", say("first")),
          part("side", `${say("side")}; ${FOREVER}`, {
            restartPolicy: "Always",
            startupProbe: { exec: { command: ["test", "-f", log] }, periodSeconds: 1 },
          }),
          part("second", say("second")),
        ],
        containers: [
          part("main", `${say("main")}; touch /tmp/up; ${FOREVER}`, {
            lifecycle: { postStart: { exec: { command: ["sh", "-c", "sleep 0.1; echo hook > /log/hook"] } } },
            readinessProbe: { exec: { command: ["test", "-f", "/tmp/up"] }, periodSeconds: 1 },
          }),
        ],
      },
    });
    await kubectl(["wait", "--for=condition=Ready", "pod/order", "--timeout=60s"]);
    assert.deepEqual((await kubectl(["exec", "order", "-c", "main", "--", "cat", log])).trim().split("\n"), [
      "first",
      "side",
      "second",
      "main",
    ]);
    assert.equal((await kubectl(["exec", "order", "-c", "main", "--", "cat", "/log/hook"])).trim(), "hook");
    assert.match(await kubectl(["get", "pod", "order"]), /order\s+2\/2\s+Running/);
    await kubectl(["delete", "pod", "order"]);
  });

  describe("streams", () => {
    before(async () => {
      const serve =
        "mkdir -p /tmp/www && echo hello > /tmp/www/index.html; trap 'exit 0' TERM; while true; do echo line; sleep 0.3; done";
      await apply({
        apiVersion: "v1",
        kind: "Pod",
        metadata: { name: "shell" },
        spec: { terminationGracePeriodSeconds: 1, containers: [container(serve)] },
      });
      await kubectl(["wait", "--for=condition=Ready", "pod/shell", "--timeout=60s"]);
    });

    for (const [protocol, env] of [
      ["WebSocket", {}],
      ["SPDY", { KUBECTL_REMOTE_COMMAND_WEBSOCKETS: "false", KUBECTL_PORT_FORWARD_WEBSOCKETS: "false" }],
    ] as const) {
      test(`exec over ${protocol}: output, input, exit code`, async () => {
        const exec = (args: readonly string[], input?: string): Promise<Output> =>
          target.kubectl(["-n", NAMESPACE, "exec", ...args], input, env);
        const both = await exec(["shell", "--", "sh", "-c", "echo out; echo err >&2"]);
        assert.deepEqual([both.stdout, both.stderr], ["out\n", "err\n"]);
        const piped = await exec(["-i", "shell", "--", "sh", "-c", "wc -c"], "x".repeat(200_000));
        assert.equal(piped.stdout.trim(), "200000", piped.stderr);
        const failed = await exec(["shell", "--", "sh", "-c", "exit 7"]);
        assert.equal(failed.code, 7);
        assert.match(failed.stderr, /command terminated with exit code 7/);
      });

      test(`port-forward over ${protocol}`, async () => {
        const serve = "cd /tmp/www && (httpd -f -p 127.0.0.1:8080 || python3 -m http.server --bind 127.0.0.1 8080)";
        const server = spawn("kubectl", ["-n", NAMESPACE, "exec", "shell", "--", "sh", "-c", serve], {
          env: { ...process.env, KUBECONFIG: target.kubeconfig },
          stdio: "ignore",
        });
        // kubectl ends the forward when the first connection finds nobody.
        const ask = "wget -qO- http://127.0.0.1:8080/ || curl -sf http://127.0.0.1:8080/";
        await eventually(
          "the server is up",
          async () => (await tryKubectl(["exec", "shell", "--", "sh", "-c", ask])).code === 0,
        );
        const child = spawn("kubectl", ["-n", NAMESPACE, "port-forward", "pod/shell", ":8080"], {
          env: { ...process.env, ...env, KUBECONFIG: target.kubeconfig },
          stdio: ["ignore", "pipe", "pipe"],
        });
        try {
          const [line] = (await new Promise<string[]>((resolve) =>
            createInterface({ input: child.stdout }).once("line", (text) => resolve([text])),
          )) as [string];
          const port = /127\.0\.0\.1:(\d+)/.exec(line)?.[1];
          const page = await eventually("the page comes through", async () => {
            try {
              return await fetchPage(`http://127.0.0.1:${port}/index.html`);
            } catch {
              return undefined;
            }
          });
          assert.equal(page.body, "hello\n");
        } finally {
          child.kill();
          server.kill();
          await tryKubectl(["exec", "shell", "--", "sh", "-c", "kill $(pidof httpd python3)"]);
        }
      });
    }

    test("cp there and back", async () => {
      const file = join(folder, "file");
      writeFileSync(file, "copied\n");
      await kubectl(["cp", file, "shell:/tmp/file"]);
      await kubectl(["cp", "shell:/tmp/file", `${file}.back`]);
      assert.equal(readFileSync(`${file}.back`, "utf8"), "copied\n");
    });

    test("attach shows what the container writes", async () => {
      const child = spawn("kubectl", ["-n", NAMESPACE, "attach", "shell"], {
        env: { ...process.env, KUBECONFIG: target.kubeconfig },
        stdio: ["ignore", "pipe", "ignore"],
      });
      const line = await new Promise<string>((resolve) =>
        createInterface({ input: child.stdout }).once("line", resolve),
      );
      child.kill();
      assert.equal(line, "line");
    });

    test("logs of the container before, after it was killed", async () => {
      await apply({
        apiVersion: "v1",
        kind: "Pod",
        metadata: { name: "again" },
        spec: { terminationGracePeriodSeconds: 1, containers: [container("echo run; sleep 1; exit 1")] },
      });
      await eventually(
        "it runs again",
        async () => (await json(["get", "pod", "again"])).status.containerStatuses?.[0]?.restartCount > 0,
        60_000,
      );
      assert.match(await kubectl(["logs", "again", "--previous"]), /run/);
      const { lastState } = (await json(["get", "pod", "again"])).status.containerStatuses[0];
      assert.equal(lastState.terminated.exitCode, 1);
      await kubectl(["delete", "pod", "again"]);
    });
  });

  test("a quota limits what a namespace may hold, and counts it", async () => {
    await kubectl(["create", "quota", "few", "--hard=configmaps=3"]);
    await eventually(
      "it is counted",
      async () => (await json(["get", "quota", "few"])).status.used?.configmaps === "1",
    );
    await kubectl(["create", "configmap", "one"]);
    await kubectl(["create", "configmap", "two"]);
    await eventually(
      "both are counted",
      async () => (await json(["get", "quota", "few"])).status.used?.configmaps === "3",
    );
    const { code, stderr } = await tryKubectl(["create", "configmap", "three"]);
    assert.equal(code, 1);
    assert.match(
      stderr,
      /configmaps "three" is forbidden: exceeded quota: few, requested: configmaps=1, used: configmaps=3, limited: configmaps=3/,
    );
    await kubectl(["delete", "quota", "few"]);
  });

  test("a disruption budget holds an eviction back until it may go", async () => {
    await apply({
      apiVersion: "policy/v1",
      kind: "PodDisruptionBudget",
      metadata: { name: "web" },
      spec: { minAvailable: 1, selector: { matchLabels: { app: "web" } } },
    });
    const [pod = ""] = await names(["get", "pods", "-l", "app=web"]);
    await eventually(
      "the budget is worked out",
      async () => (await json(["get", "pdb", "web"])).status.currentHealthy === 1,
    );
    const body = JSON.stringify({ apiVersion: "policy/v1", kind: "Eviction", metadata: { name: pod } });
    const evict = () =>
      target.ask("POST", `/api/v1/namespaces/${NAMESPACE}/pods/${pod}/eviction`, {
        body,
        headers: { "content-type": "application/json" },
      });
    const held = await evict();
    assert.equal(held.status, 429);
    assert.match(held.text, /violate the pod's disruption budget/);
    await kubectl(["scale", "deployment/web", "--replicas=2"]);
    await eventually(
      "one may go",
      async () => (await json(["get", "pdb", "web"])).status.disruptionsAllowed === 1,
      60_000,
    );
    assert.equal((await evict()).status, 201);
  });

  test("a pod that fits nowhere says why", async () => {
    await apply({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "nowhere" },
      spec: { nodeSelector: { no: "where" }, containers: [container("true")] },
    });
    const message = await eventually(
      "the scheduler says why",
      async () =>
        (await json(["get", "pod", "nowhere"])).status.conditions?.find(
          (condition: any) => condition.reason === "Unschedulable",
        )?.message,
    );
    assert.match(message, /0\/1 nodes are available: 1 node\(s\) didn't match Pod's node affinity\/selector/);
    await kubectl(["delete", "pod", "nowhere"]);
  });

  test("a namespace goes with all that is in it", async () => {
    await target.kubectl(["delete", "namespace", NAMESPACE, "--timeout=90s"]);
    assert.notEqual((await target.kubectl(["get", "namespace", NAMESPACE])).code, 0);
  });
});
