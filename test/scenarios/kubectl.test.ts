// The embedded cluster as kubectl sees it, without a mesh: objects, tables, rollouts, logs, exec, identity.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { request } from "node:https";
import { after, before, describe, test } from "node:test";
import { Instance, startInstance } from "@lateen/cluster";
import { curlStatus, eventually, Mesh } from "../harness.ts";

const mesh = new Mesh();
const WEB = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: busybox
        command: [sh, -c, "trap 'exit 0' TERM; echo started; python3 -m http.server 8000 & wait"]
        env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: KEY, valueFrom: {configMapKeyRef: {name: settings, key: key}}}]
        ports: [{containerPort: 8000}]
        readinessProbe: {httpGet: {path: /, port: 8000}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}
`;

/** A raw request to the API over its socket, with or without a token. */
function ask(path: string, token?: string, method = "GET", body?: string): Promise<{ status: number; body: string }> {
  const { apiSocket } = new Instance(mesh.state);
  const headers = {
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    ...(body === undefined ? {} : { "content-type": "application/json" }),
  };
  return new Promise((resolve, reject) => {
    const call = request(
      { socketPath: apiSocket, path, method, headers, rejectUnauthorized: false, agent: false },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("end", () =>
          resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString("utf8") }),
        );
      },
    );
    call.on("error", reject);
    call.end(body);
  });
}

describe("kubectl against the embedded cluster", { concurrency: false }, () => {
  before(async () => {
    await startInstance(new Instance(mesh.state));
  });
  after(() => mesh.destroy());

  test("create, with the protobuf bodies of typed commands", async () => {
    assert.match(
      (await mesh.kubectl(["create", "configmap", "settings", "--from-literal=key=value"])).stdout,
      /configmap\/settings created/,
    );
    assert.match((await mesh.kubectl(["create", "namespace", "team"])).stdout, /namespace\/team created/);
    assert.match(
      (await mesh.kubectl(["create", "secret", "generic", "s", "--from-literal=a=b", "-n", "team"])).stdout,
      /secret\/s created/,
    );
    assert.equal((await mesh.json(["get", "secret", "s", "-n", "team"])).data.a, Buffer.from("b").toString("base64"));
    const again = await mesh.kubectl(["create", "namespace", "team"], { allowFailure: true });
    assert.match(again.stderr, /namespaces "team" already exists/);
  });

  test("apply creates, is then unchanged, and changes what differs", async () => {
    assert.match((await mesh.apply(WEB)).stdout, /deployment\.apps\/web created\nservice\/web created/);
    assert.match((await mesh.apply(WEB)).stdout, /deployment\.apps\/web unchanged\nservice\/web unchanged/);
    assert.match(
      (await mesh.apply(WEB.replace("replicas: 2", "replicas: 3"))).stdout,
      /deployment\.apps\/web configured/,
    );
    assert.match(
      (await mesh.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"])).stdout,
      /successfully rolled out/,
    );
  });

  test("tables, wide tables, selectors, jsonpath, yaml", async () => {
    const wide = (await mesh.kubectl(["get", "deploy", "web", "-o", "wide"])).stdout.split("\n");
    assert.deepEqual(wide[0]?.split(/\s+/), [
      "NAME",
      "READY",
      "UP-TO-DATE",
      "AVAILABLE",
      "AGE",
      "CONTAINERS",
      "IMAGES",
      "SELECTOR",
    ]);
    assert.match(wide[1] ?? "", /^web +3\/3 +3 +3 +\d+s +web +busybox +app=web/);
    assert.equal(
      (await mesh.kubectl(["get", "pods", "-l", "app=web", "--no-headers"])).stdout.trim().split("\n").length,
      3,
    );
    assert.equal((await mesh.kubectl(["get", "pods", "-l", "app!=web", "--no-headers"])).stdout, "");
    assert.match(
      (await mesh.kubectl(["get", "svc", "web", "-o", "jsonpath={.spec.ports[0].targetPort}"])).stdout,
      /^8000$/,
    );
    assert.match((await mesh.kubectl(["get", "deploy", "web", "-o", "yaml"])).stdout, /maxSurge: 25%/);
    assert.match((await mesh.kubectl(["get", "all"])).stdout, /replicaset\.apps\/web-\w+ +3 +3 +3/);
    assert.match(
      (await mesh.kubectl(["describe", "deploy", "web"])).stdout,
      /Replicas: +3 desired \| 3 updated \| 3 total \| 3 available/,
    );
  });

  test("patch, label, scale", async () => {
    await mesh.kubectl([
      "patch",
      "deploy",
      "web",
      "-p",
      '{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"NEW","value":"1"}]}]}}}}',
    ]);
    const { spec } = await mesh.json(["get", "deploy", "web"]);
    assert.deepEqual(
      spec.template.spec.containers[0].env.map((entry: any) => entry.name),
      ["NEW", "POD", "KEY"],
    );
    await mesh.kubectl(["label", "deploy", "web", "tier=front"]);
    assert.match(
      (await mesh.kubectl(["get", "deploy", "-l", "tier=front", "-o", "name"])).stdout,
      /deployment\.apps\/web/,
    );
    await mesh.kubectl(["scale", "deploy/web", "--replicas=1"]);
    await mesh.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]);
    await eventually(
      "one pod is left",
      async () => (await mesh.json(["get", "pods", "-l", "app=web"])).items.length === 1,
      60_000,
    );
  });

  test("rollout restart replaces the pods, one new before one old goes", async () => {
    const before = (await mesh.json(["get", "pods", "-l", "app=web"])).items[0].metadata.name;
    await mesh.kubectl(["rollout", "restart", "deploy/web"]);
    await mesh.kubectl(["rollout", "status", "deploy/web", "--timeout=60s"]);
    await eventually(
      "the old pod is gone",
      async () => (await mesh.kubectl(["get", "pod", before], { allowFailure: true })).code !== 0,
      60_000,
    );
    assert.match((await mesh.kubectl(["rollout", "history", "deploy/web"])).stdout, /REVISION/);
  });

  test("exec: output, exit code, standard input, environment", async () => {
    const run = (command: readonly string[], options: { input?: string } = {}) =>
      mesh.kubectl(["exec", ...(options.input === undefined ? [] : ["-i"]), "deploy/web", "--", ...command], {
        ...options,
        allowFailure: true,
      });
    const both = await run(["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert.deepEqual([both.code, both.stdout], [7, "out\n"]);
    assert.match(both.stderr, /err\n/);
    assert.equal((await run(["cat"], { input: "through" })).stdout, "through");
    assert.match((await run(["no-such-program"])).stderr, /No such file|not found/);
  });

  test("a container sees its own processes and files, and cannot reach the machine's switches", async () => {
    const run = async (script: string) =>
      (await mesh.kubectl(["exec", "deploy/web", "--", "sh", "-c", script], { allowFailure: true })).stdout;
    assert.equal(await run("cat /proc/1/comm"), "sh\n");
    assert.equal(await run(`ls ${mesh.state} /home 2>/dev/null | wc -l`), "0\n");
    assert.equal(await run("echo x > /usr/x && echo written"), "");
    assert.equal(await run("echo h > /proc/sysrq-trigger && echo written"), "");
    assert.equal(await run("echo core > /proc/sys/kernel/core_pattern && echo written"), "");
    assert.equal(
      await run("mount -t tmpfs none /mnt 2>/dev/null || mount -t tmpfs none /tmp 2>/dev/null && echo mounted"),
      "",
    );
    assert.match(await run("grep -c : /proc/net/dev; grep NoNewPrivs /proc/self/status"), /^2\nNoNewPrivs:\t1\n$/);
  });

  test("a terminal: exec -it has a real one", async () => {
    const child = spawn("script", ["-qec", "kubectl exec -it deploy/web -- sh -c 'tty; stty size'", "/dev/null"], {
      env: { ...process.env, KUBECONFIG: mesh.kubeconfig },
    });
    let output = "";
    child.stdout.on("data", (data) => {
      output += data;
    });
    await new Promise((resolve) => child.once("close", resolve));
    assert.match(output, /\/dev\/pts\/\d+/);
  });

  test("logs, and logs -f until the container ends", async () => {
    await mesh.kubectl([
      "run",
      "count",
      "--image=busybox",
      "--restart=Never",
      "--",
      "sh",
      "-c",
      "for i in 1 2 3; do echo line $i; sleep 0.2; done",
    ]);
    await eventually("it runs", async () => (await mesh.json(["get", "pod", "count"])).status.phase !== "Pending");
    assert.equal((await mesh.kubectl(["logs", "-f", "count"])).stdout, "line 1\nline 2\nline 3\n");
    await eventually(
      "it has succeeded",
      async () => (await mesh.json(["get", "pod", "count"])).status.phase === "Succeeded",
    );
    assert.equal((await mesh.kubectl(["logs", "count", "--tail=1"])).stdout, "line 3\n");
    assert.match((await mesh.kubectl(["get", "pod", "count"])).stdout, /count +0\/1 +Completed/);
  });

  test("Services are reached by name, and only with ready endpoints", async () => {
    const curl = () =>
      mesh.kubectl(["exec", "deploy/web", "--", ...curlStatus("http://web.default.svc.cluster.local")], {
        allowFailure: true,
      });
    assert.equal((await curl()).stdout, "200");
    assert.match((await mesh.kubectl(["get", "endpoints", "web"])).stdout, /10\.244\.\d+\.\d+:8000/);
  });

  test("an unknown image is ErrImagePull with an event that says why", async () => {
    await mesh.kubectl(["run", "odd", "--image=example.com/nobody/knows:1"]);
    await eventually("the pod waits", async () =>
      /ErrImagePull|ImagePullBackOff/.test((await mesh.kubectl(["get", "pod", "odd"])).stdout),
    );
    assert.match(
      (await mesh.kubectl(["get", "events"])).stdout,
      /example\.com\/nobody\/knows:1" is not in the image table/,
    );
    await mesh.kubectl(["delete", "pod", "odd"]);
  });

  test("a container that fails is started again, with a back-off", async () => {
    await mesh.kubectl(["run", "crash", "--image=busybox", "--", "sh", "-c", "exit 3"]);
    await eventually("CrashLoopBackOff", async () =>
      /CrashLoopBackOff/.test((await mesh.kubectl(["get", "pod", "crash"])).stdout),
    );
    const { status } = await mesh.json(["get", "pod", "crash"]);
    assert.equal(status.containerStatuses[0].lastState.terminated.exitCode, 3);
    assert.ok(status.containerStatuses[0].restartCount >= 1);
    await mesh.kubectl(["delete", "pod", "crash"]);
  });

  test("deleting an owner takes what it owns along; deleting a namespace takes all", async () => {
    await mesh.kubectl(["delete", "deploy", "web"]);
    await eventually(
      "its pods are gone",
      async () => (await mesh.json(["get", "pods", "-l", "app=web"])).items.length === 0,
      60_000,
    );
    assert.equal((await mesh.json(["get", "rs"])).items.length, 0);
    await mesh.kubectl(["delete", "namespace", "team"]);
    assert.equal((await mesh.kubectl(["get", "secret", "s", "-n", "team"], { allowFailure: true })).code, 1);
  });

  test("custom kinds: served at once, checked, with their columns", async () => {
    await mesh.apply(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.lab.example.com}
spec:
  group: lab.example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer, minimum: 1}}}}}}
`);
    const widget = (spec: string): string =>
      `apiVersion: lab.example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: ${spec}\n`;
    await mesh.apply(widget("{size: 3}"));
    assert.match((await mesh.kubectl(["get", "wd"])).stdout, /NAME +SIZE\nw +3/);
    const wrong = await mesh.kubectl(["apply", "-f", "-"], { input: widget("{size: 0}"), allowFailure: true });
    assert.match(wrong.stderr, /spec\.size: Invalid value: 0: spec\.size in body should be greater than or equal to 1/);
    const unknown = await mesh.kubectl(["apply", "-f", "-"], {
      input: widget("{size: 1, zzz: 1}"),
      allowFailure: true,
    });
    assert.match(unknown.stderr, /unknown field "spec\.zzz"/);
  });

  test("anonymous gets health and version, and nothing else; a wrong token is refused", async () => {
    for (const path of ["/livez", "/readyz", "/healthz", "/version"]) assert.equal((await ask(path)).status, 200, path);
    for (const path of ["/api", "/apis", "/api/v1/pods", "/openapi/v3", "/metrics"])
      assert.equal((await ask(path)).status, 403, path);
    assert.equal((await ask("/api/v1/pods", "nonsense")).status, 401);
  });

  test("ServiceAccount tokens: audiences are checked, and an account may do what RBAC says", async () => {
    const { stdout } = await mesh.kubectl(["create", "token", "default"]);
    const token = stdout.trim();
    assert.equal((await ask("/api/v1/namespaces/default/pods", token)).status, 403);
    await mesh.apply(`apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: default, namespace: default}]
`);
    assert.equal((await ask("/api/v1/namespaces/default/pods", token)).status, 200);
    assert.equal((await ask("/api/v1/namespaces/kube-system/pods", token)).status, 403);
    const other = (await mesh.kubectl(["create", "token", "default", "--audience=istio-ca"])).stdout.trim();
    assert.equal(
      (await ask("/api/v1/namespaces/default/pods", other)).status,
      401,
      "a token for others is none for the API",
    );
  });

  test("the kubeconfig is the owner's alone", () => {
    assert.equal(statSync(mesh.kubeconfig).mode & 0o777, 0o600);
    assert.match(readFileSync(mesh.kubeconfig, "utf8"), /client-certificate-data/);
  });
});
