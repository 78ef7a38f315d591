// What containers meet on a node: terminals, input, limits, volumes, logs, taints. The same on the embedded cluster and a real one.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { after, before, describe, test } from "node:test";
import { eventually } from "../harness.ts";
import { Space, Target } from "./target.ts";

const target = Target.fromEnv();
const NAMESPACE = "node-test";
const IMAGE = "busybox:1";
const LIMIT_MS = 60_000;

const space = new Space(target, NAMESPACE);
const tryKubectl = space.tryKubectl.bind(space);
const kubectl = space.kubectl.bind(space);
const json = space.json.bind(space);
const apply = space.apply.bind(space);
const pod = (name: string, command: string, container: object = {}, spec: object = {}): object => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, labels: { app: name } },
  spec: {
    terminationGracePeriodSeconds: 0,
    restartPolicy: "Never",
    containers: [{ name: "main", image: IMAGE, command: ["sh", "-c", command], ...container }],
    ...spec,
  },
});
/** A shell asks for input; busybox asks the terminal where its cursor is, too. */
const PROMPT = /[#$] (?:\[\d*[nJ])*$/;
const FOREVER = "trap 'exit 0' TERM; while true; do sleep 0.2; done";

/** The last state of the pod's container, once it has ended. */
function ended(name: string): Promise<any> {
  return eventually(
    `${name} ends`,
    async () => (await json(["get", "pod", name])).status.containerStatuses?.[0]?.state.terminated,
    LIMIT_MS,
  );
}

const sessions = new Set<ChildProcess>();

/** A program of the tests' own machine whose output is awaited. */
class Session {
  readonly child: ChildProcess;
  output = "";
  readonly #ended: Promise<number>;

  constructor(program: string, args: readonly string[]) {
    this.child = spawn(program, args, {
      env: { ...process.env, KUBECONFIG: target.kubeconfig },
      stdio: ["pipe", "pipe", "pipe"],
    });
    sessions.add(this.child);
    this.child.once("close", () => sessions.delete(this.child));
    for (const stream of [this.child.stdout, this.child.stderr])
      stream?.on("data", (part: Buffer) => {
        this.output += part.toString("utf8").replaceAll("\u001b", "");
      });
    this.#ended = new Promise((resolve) => this.child.once("close", (code) => resolve(code ?? 1)));
  }

  says(pattern: RegExp): Promise<unknown> {
    return eventually(`${String(pattern)} in the output`, () => pattern.exec(this.output) ?? undefined, LIMIT_MS);
  }

  type(text: string): void {
    this.child.stdin?.write(text);
  }

  exitCode(): Promise<number> {
    return this.#ended;
  }
}

describe("containers on a node", { timeout: 420_000 }, () => {
  before(async () => {
    await space.create();
  });

  after(async () => {
    for (const child of sessions) child.kill("SIGKILL");
    await target.kubectl(["delete", "namespace", NAMESPACE, "--wait=false"]);
  });

  test("run -it: a real terminal, its size, the exit code", async () => {
    const command = `stty rows 30 cols 100; kubectl -n ${NAMESPACE} run term --image ${IMAGE} --restart=Never -it --rm -- sh`;
    const session = new Session("script", ["-qec", command, "/dev/null"]);
    await session.says(/command prompt|[#$] /);
    session.type("\n");
    await session.says(PROMPT);
    session.type("tty; stty size; echo $((40+2)); exit 3\n");
    assert.equal(await session.exitCode(), 3, session.output);
    assert.match(session.output, /\/dev\/pts\/\d/);
    assert.match(session.output, /\b30 100\b/);
    assert.match(session.output, /\b42\b/);
    assert.match(session.output, /pod "term" deleted/);
  });

  test("exec -it: a real terminal", async () => {
    await apply(pod("shell", FOREVER));
    await kubectl(["wait", "--for=condition=Ready", "pod/shell", "--timeout=60s"]);
    const command = `stty rows 31 cols 101; kubectl -n ${NAMESPACE} exec -it shell -- sh`;
    const session = new Session("script", ["-qec", command, "/dev/null"]);
    await session.says(PROMPT);
    session.type("tty; stty size; exit 4\n");
    assert.equal(await session.exitCode(), 4, session.output);
    assert.match(session.output, /\/dev\/pts\/\d/);
    assert.match(session.output, /\b31 101\b/);
  });

  test("run -i: input is the container's, and its end too", async () => {
    const text = "a line\n".repeat(20_000);
    const output = await kubectl(
      ["run", "count", "--image", IMAGE, "--restart=Never", "-i", "--rm", "--quiet", "--", "wc", "-c"],
      text,
    );
    assert.equal(output.trim(), String(text.length));
  });

  test("attach -i reaches a container that reads; another client sees what it writes", async () => {
    await apply(pod("echo", 'while read line; do echo "got $line"; done', { stdin: true }));
    await kubectl(["wait", "--for=condition=Ready", "pod/echo", "--timeout=60s"]);
    const listener = new Session("kubectl", ["-n", NAMESPACE, "attach", "echo"]);
    const writer = new Session("kubectl", ["-n", NAMESPACE, "attach", "-i", "echo"]);
    await eventually("both are attached", () => {
      writer.type("hello\n");
      return /got hello/.test(writer.output) && /got hello/.test(listener.output);
    });
    writer.child.kill();
    listener.child.kill();
    // Its input goes on: `stdinOnce` is not set.
    assert.ok((await json(["get", "pod", "echo"])).status.containerStatuses[0].state.running);
    await kubectl(["delete", "pod", "echo"]);
  });

  test("a container that takes more memory than its limit is ended, and its status says why", async () => {
    await apply(pod("eater", "tail /dev/zero", { resources: { limits: { memory: "64Mi" } } }));
    const { reason, exitCode } = await ended("eater");
    assert.deepEqual([reason, exitCode], ["OOMKilled", 137]);
    assert.match(await kubectl(["get", "pod", "eater"]), /eater\s+0\/1\s+OOMKilled/);
  });

  test("a limit of the processor holds", async () => {
    const spin = "i=0; end=$(($(date +%s)+3)); while [ $(date +%s) -lt $end ]; do :; done; cat /proc/self/stat; times";
    await apply(pod("spinner", spin, { resources: { limits: { cpu: "200m" } } }));
    await ended("spinner");
    // `times`: user and system time of the shell, then of its children.
    const times = [...(await kubectl(["logs", "spinner"])).matchAll(/(\d+)m([\d.]+)s/g)];
    const seconds = times.reduce((sum, [, minutes, part]) => sum + Number(minutes) * 60 + Number(part), 0);
    assert.ok(seconds > 0.2 && seconds < 1.6, `${seconds} s of the processor in 3 s at 0.2 of one`);
  });

  test("resources and fields come as variables and files", async () => {
    const resource = (name: string, divisor: string): object => ({ containerName: "main", resource: name, divisor });
    const show = "echo $CPU $MEMORY $NODE $IP; cat /info/limit; echo; cat /info/labels";
    await apply(
      pod(
        "downward",
        show,
        {
          resources: { limits: { cpu: "1500m", memory: "64Mi" }, requests: { cpu: "10m", memory: "16Mi" } },
          env: [
            { name: "CPU", valueFrom: { resourceFieldRef: resource("limits.cpu", "1m") } },
            { name: "MEMORY", valueFrom: { resourceFieldRef: resource("requests.memory", "1Mi") } },
            { name: "NODE", valueFrom: { fieldRef: { fieldPath: "spec.nodeName" } } },
            { name: "IP", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } },
          ],
          volumeMounts: [{ name: "info", mountPath: "/info" }],
        },
        {
          volumes: [
            {
              name: "info",
              downwardAPI: {
                items: [
                  { path: "limit", resourceFieldRef: resource("limits.cpu", "1") },
                  { path: "labels", fieldRef: { fieldPath: "metadata.labels" } },
                ],
              },
            },
          ],
        },
      ),
    );
    await ended("downward");
    const { spec, status } = await json(["get", "pod", "downward"]);
    const [first, second, third] = (await kubectl(["logs", "downward"])).split("\n");
    assert.equal(first, `1500 16 ${spec.nodeName} ${status.podIP}`);
    assert.equal(second, "2", "rounded up");
    assert.equal(third, 'app="downward"');
  });

  test("subPath: a folder that is made, a file of a ConfigMap, a name from a variable; no way out", async () => {
    await kubectl(["create", "configmap", "files", "--from-literal=one=1", "--from-literal=two=2"]);
    const volumes = [
      { name: "data", emptyDir: {} },
      { name: "files", configMap: { name: "files" } },
    ];
    const mounts = [
      { name: "data", mountPath: "/deep", subPath: "a/b" },
      { name: "data", mountPath: "/named", subPathExpr: "of-$(POD)" },
      { name: "files", mountPath: "/etc/one.conf", subPath: "one" },
      { name: "data", mountPath: "/data" },
    ];
    const env = [{ name: "POD", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } }];
    const command =
      "echo x > /deep/file; echo y > /named/file; cat /data/a/b/file /data/of-sub/file /etc/one.conf; echo";
    await apply(pod("sub", command, { volumeMounts: mounts, env }, { volumes }));
    await ended("sub");
    assert.equal(await kubectl(["logs", "sub"]), "x\ny\n1\n");
    // An init container plants a link to the machine's own files.
    const plant = {
      name: "plant",
      image: IMAGE,
      command: ["sh", "-c", "ln -s /etc /data/out; ln -s ../../../../../../etc /data/up"],
      volumeMounts: [{ name: "data", mountPath: "/data" }],
    };
    for (const link of ["out", "up"]) {
      const volumeMounts = [{ name: "data", mountPath: "/stolen", subPath: `${link}/hostname` }];
      await apply(pod(`escape-${link}`, "cat /stolen", { volumeMounts }, { volumes, initContainers: [plant] }));
      await eventually(
        "it is refused",
        async () => {
          const [state] = (await json(["get", "pod", `escape-${link}`])).status.containerStatuses;
          return /CreateContainerConfigError|RunContainerError/.test(state.state.waiting?.reason ?? "");
        },
        LIMIT_MS,
      );
    }
    await kubectl(["delete", "pod", "escape-out", "escape-up"]);
  });

  test("a log is followed through its rotation, line by line", async () => {
    const lines = 250_000;
    // Slow enough for the one who rotates, more than 10 MiB in all.
    const write = `i=0; while [ $i -lt 50 ]; do seq $((i*5000+1)) $((i*5000+5000)) | sed 's/$/ ${"x".repeat(60)}/'; sleep 0.4; i=$((i+1)); done`;
    await apply(pod("writer", write));
    await kubectl(["wait", "--for=jsonpath={.status.phase}=Running", "pod/writer", "--timeout=60s"]);
    const session = new Session("kubectl", ["-n", NAMESPACE, "logs", "-f", "writer"]);
    assert.equal(await session.exitCode(), 0);
    const numbers = session.output
      .split("\n")
      .slice(0, -1)
      .map((line) => Number(line.split(" ")[0]));
    assert.ok(target.isReal || numbers.length === lines, `${numbers.length} lines of ${lines}`);
    assert.equal(numbers.at(-1), lines);
    // A real kubelet now and then repeats or mixes lines at the turn; here each line comes once, in its place.
    assert.ok(target.isReal || numbers.every((number, i) => number === i + 1));
    assert.equal((await kubectl(["logs", "writer", "--tail=1"])).split(" ")[0], String(lines));
  });

  test("a container may say why it ends", async () => {
    await apply(pod("said", "echo because > /dev/termination-log; exit 2"));
    assert.deepEqual((({ message, exitCode, reason }) => [message, exitCode, reason])(await ended("said")), [
      "because\n",
      2,
      "Error",
    ]);
    await apply(pod("logged", "echo from the log; exit 2", { terminationMessagePolicy: "FallbackToLogsOnError" }));
    assert.equal((await ended("logged")).message, "from the log\n");
  });

  test("debug adds a container to a running pod", async () => {
    const session = new Session("kubectl", [
      ...["-n", NAMESPACE, "debug", "shell", "--image", IMAGE, "--container", "look", "-i"],
      ...["--", "sh", "-c", "echo here; hostname"],
    ]);
    await session.exitCode();
    const status = await eventually(
      "it has run",
      async () => (await json(["get", "pod", "shell"])).status.ephemeralContainerStatuses?.[0]?.state.terminated,
      LIMIT_MS,
    );
    assert.equal(status.exitCode, 0);
    assert.equal(await kubectl(["logs", "shell", "-c", "look"]), "here\nshell\n");
  });

  test("debug sees the processes of its target; a copy's containers see each other's", async () => {
    const look = ["--image", IMAGE, "-i", "--container", "see", "--", "sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '"];
    await new Session("kubectl", ["-n", NAMESPACE, "debug", "shell", "--target", "main", ...look]).exitCode();
    assert.match(await kubectl(["logs", "shell", "-c", "see"]), /^sh -c trap/);
    const copy = [
      "debug",
      "shell",
      "--copy-to",
      "copied",
      "--share-processes",
      "--image",
      IMAGE,
      "--container",
      "side",
    ];
    await kubectl([...copy, "--", "sh", "-c", FOREVER]);
    await kubectl(["wait", "--for=condition=Ready", "pod/copied", "--timeout=60s"]);
    const names = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done";
    const seen = await kubectl(["exec", "copied", "-c", "side", "--", "sh", "-c", names]);
    assert.equal(seen.split("\n").filter((line) => line.startsWith("sh -c trap")).length, 2, seen);
    await kubectl(["delete", "pod", "copied"]);
  });

  test("a pod of the host's network has the node's address", async () => {
    await apply(pod("outer", FOREVER, {}, { hostNetwork: true }));
    await kubectl(["wait", "--for=condition=Ready", "pod/outer", "--timeout=60s"]);
    const { status } = await json(["get", "pod", "outer"]);
    assert.equal(status.podIP, status.hostIP);
    await kubectl(["delete", "pod", "outer"]);
  });

  test("names of Services: search paths, headless, ExternalName", async () => {
    const service = (name: string, spec: object): object => ({
      apiVersion: "v1",
      kind: "Service",
      metadata: { name },
      spec,
    });
    await apply(service("plain", { selector: { app: "shell" }, ports: [{ port: 80 }] }));
    await apply(service("bare", { clusterIP: "None", selector: { app: "shell" }, ports: [{ port: 80 }] }));
    await apply(service("alias", { type: "ExternalName", externalName: `plain.${NAMESPACE}.svc.cluster.local` }));
    const address = (await json(["get", "service", "plain"])).spec.clusterIP;
    const podAddress = (await json(["get", "pod", "shell"])).status.podIP;
    // busybox has no resolver of its own that knows all search paths: it is asked for whole names, and for the shortest.
    const look = (name: string): Promise<string> =>
      kubectl([
        "exec",
        "shell",
        "--",
        "sh",
        "-c",
        `getent ahostsv4 ${name} || nslookup ${name} | grep -A2 ^Name || true`,
      ]);
    const finds = (name: string, wanted: string): Promise<unknown> =>
      eventually(`${name} is ${wanted}`, async () => (await look(name)).includes(wanted));
    const whole = `plain.${NAMESPACE}.svc.cluster.local`;
    const partial = target.isReal ? [] : [`plain.${NAMESPACE}`, `plain.${NAMESPACE}.svc`];
    for (const name of ["plain", ...partial, whole]) await finds(name, address);
    await finds("bare", podAddress);
    await finds("alias", address);
    const { spec } = await json(["get", "service", "kubernetes", "-n", "default"]);
    await finds("kubernetes.default.svc.cluster.local", spec.clusterIP);
    assert.equal(await look(`nobody.${NAMESPACE}.svc.cluster.local`), "");
  });

  test("session affinity keeps a client with one endpoint", async () => {
    const serve =
      "mkdir /tmp/www; hostname > /tmp/www/index.html; httpd -f -p 8080 -h /tmp/www || python3 -m http.server 8080 -d /tmp/www";
    const template = { metadata: { labels: { app: "sticky" } }, spec: (pod("sticky", serve) as any).spec };
    delete template.spec.restartPolicy;
    await apply({
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: { name: "sticky" },
      spec: { replicas: 3, selector: { matchLabels: { app: "sticky" } }, template },
    });
    const service = (name: string, rest: object): object => ({
      apiVersion: "v1",
      kind: "Service",
      metadata: { name },
      spec: { selector: { app: "sticky" }, ports: [{ port: 80, targetPort: 8080 }], ...rest },
    });
    await apply(service("sticky", { sessionAffinity: "ClientIP" }));
    await apply(service("loose", {}));
    await kubectl(["rollout", "status", "deployment/sticky", "--timeout=60s"]);
    const ask = (name: string): Promise<string> => {
      const url = `http://${name}.${NAMESPACE}.svc.cluster.local/`;
      const loop = `for i in $(seq 30); do wget -qO- ${url} || curl -s ${url}; done`;
      return kubectl(["exec", "shell", "--", "sh", "-c", loop]);
    };
    await eventually("all three answer", async () => new Set((await ask("loose")).trim().split("\n")).size === 3);
    const answers = (await ask("sticky")).trim().split("\n");
    assert.equal(answers.length, 30);
    assert.equal(new Set(answers).size, 1, "always the same");
    await kubectl(["delete", "deployment", "sticky"]);
  });

  test("taints and labels of a node decide who may be there", async () => {
    const [node = ""] = (await json(["get", "nodes"])).items.map((item: any) => item.metadata.name);
    const isScheduled = async (name: string): Promise<boolean> =>
      (await json(["get", "pod", name])).spec.nodeName !== undefined;
    const unschedulable = (name: string): Promise<unknown> =>
      eventually("it is held", async () =>
        (await json(["get", "pod", name])).status.conditions?.some(
          (condition: any) => condition.reason === "Unschedulable",
        ),
      );
    try {
      await apply(pod("picky", FOREVER, {}, { nodeSelector: { disk: "fast" } }));
      await unschedulable("picky");
      await kubectl(["label", "node", node, "disk=fast"]);
      await eventually("the label lets it in", () => isScheduled("picky"), LIMIT_MS);
      await kubectl(["taint", "node", node, "team=red:NoSchedule"]);
      await apply(pod("outsider", FOREVER));
      await unschedulable("outsider");
      const tolerations = [{ key: "team", operator: "Equal", value: "red" }];
      await apply(pod("member", FOREVER, {}, { tolerations }));
      await eventually("who tolerates it is let in", () => isScheduled("member"), LIMIT_MS);
      assert.ok(await isScheduled("picky"), "who was there stays");
      await kubectl(["taint", "node", node, "team=red:NoExecute"]);
      await eventually(
        "who does not tolerate it must go",
        async () => (await tryKubectl(["get", "pod", "picky"])).code !== 0,
        LIMIT_MS,
      );
      assert.ok((await json(["get", "pod", "member"])).status);
      const events = await kubectl(["get", "events", "--field-selector", "reason=TaintManagerEviction"]);
      assert.match(events, /pod\/picky/);
    } finally {
      await tryKubectl(["label", "node", node, "disk-"]);
      await tryKubectl(["taint", "node", node, "team-"]);
    }
    await eventually("the way is free again", () => isScheduled("outsider"), LIMIT_MS);
  });
});
