// The embedded cluster beyond what a real one of one node shows: more nodes, addresses of LoadBalancers on this machine, the host's
// files, states that other versions wrote.
import assert from "node:assert/strict";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { after, before, describe, test } from "node:test";
import { eventually, fetchPage, Mesh } from "../harness.ts";

const FOREVER = ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.2; done"];
const pod = (name: string, spec: object, container: object = {}): string =>
  JSON.stringify({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, labels: { app: name } },
    spec: {
      terminationGracePeriodSeconds: 0,
      containers: [{ name: "main", image: "busybox:1", command: FOREVER, ...container }],
      ...spec,
    },
  });

describe("the embedded cluster", { concurrency: false, timeout: 240_000 }, () => {
  const mesh = new Mesh();
  const ready = (name: string) => mesh.kubectl(["wait", "--for=condition=Ready", `pod/${name}`, "--timeout=30s"]);

  before(async () => {
    const { code, stderr } = await mesh.lateen(["up", "--bare", "--nodes", "3"]);
    assert.equal(code, 0, stderr);
  });
  after(() => mesh.destroy());

  test("--nodes gives nodes in zones of their own, with addresses of their own; pods spread and reach each other", async () => {
    const nodes = (await mesh.json(["get", "nodes"])).items;
    assert.deepEqual(
      nodes.map(({ metadata }: any) => [metadata.name, metadata.labels["topology.kubernetes.io/zone"]]),
      [
        ["lateen-node", "zone-1"],
        ["lateen-node-2", "zone-2"],
        ["lateen-node-3", "zone-3"],
      ],
    );
    const addresses = nodes.map(({ status }: any) => status.addresses[0].address);
    assert.equal(new Set(addresses).size, 3);
    for (const { status } of nodes) assert.equal(status.conditions.at(-1).status, "True");
    const apart = {
      requiredDuringSchedulingIgnoredDuringExecution: [
        { labelSelector: { matchLabels: { app: "web" } }, topologyKey: "topology.kubernetes.io/zone" },
      ],
    };
    const command = [
      "sh",
      "-c",
      "mkdir /tmp/www; hostname > /tmp/www/index.html; exec python3 -m http.server 8080 -d /tmp/www",
    ];
    await mesh.apply(
      JSON.stringify({
        apiVersion: "apps/v1",
        kind: "Deployment",
        metadata: { name: "web" },
        spec: {
          replicas: 3,
          selector: { matchLabels: { app: "web" } },
          template: {
            metadata: { labels: { app: "web" } },
            spec: {
              terminationGracePeriodSeconds: 0,
              affinity: { podAntiAffinity: apart },
              containers: [
                {
                  name: "main",
                  image: "busybox:1",
                  command,
                  readinessProbe: { httpGet: { port: 8080 }, periodSeconds: 1 },
                },
              ],
            },
          },
        },
      }),
    );
    await mesh.kubectl(["rollout", "status", "deployment/web", "--timeout=30s"]);
    const pods = (await mesh.json(["get", "pods", "-l", "app=web"])).items;
    assert.equal(new Set(pods.map(({ spec }: any) => spec.nodeName)).size, 3, "one in each zone");
    for (const { spec, status } of pods) {
      const node = nodes.find(({ metadata }: any) => metadata.name === spec.nodeName);
      assert.equal(status.hostIP, node.status.addresses[0].address);
      assert.ok(
        status.podIP.startsWith(node.spec.podCIDR.replace(/\d+\/24$/, "")),
        `${status.podIP} of ${node.spec.podCIDR}`,
      );
    }
    const slices = (await mesh.json(["get", "endpointslices", "-l", "kubernetes.io/service-name=web"])).items;
    assert.deepEqual(slices, [], "there is no Service yet");
    await mesh.kubectl(["expose", "deployment", "web", "--port=80", "--target-port=8080", "--type=LoadBalancer"]);
    const [slice] = await eventually("the endpoints", async () => {
      const { items } = await mesh.json(["get", "endpointslices", "-l", "kubernetes.io/service-name=web"]);
      return items[0]?.endpoints.length === 3 ? items : undefined;
    });
    assert.deepEqual(slice.endpoints.map(({ zone }: any) => zone).toSorted(), ["zone-1", "zone-2", "zone-3"]);
  });

  test("a LoadBalancer has an address on this machine, with the Service's own ports", async () => {
    const address = await eventually("the address", async () => {
      const { status } = await mesh.json(["get", "service", "web"]);
      return status.loadBalancer.ingress?.[0]?.ip as string | undefined;
    });
    assert.match(address, /^127\.0\.0\.\d+$/);
    assert.notEqual(address, "127.0.0.1");
    const seen = new Set<string>();
    await eventually("all three answer there", async () => {
      // Until its rules are in force a connection is refused inside.
      const page = await fetchPage(`http://${address}/`).catch(() => undefined);
      if (page?.status === 200) seen.add(page.body.trim());
      return seen.size === 3;
    });
    // Another one of the same port has another address; one that is asked for is given.
    await mesh.kubectl(["create", "service", "loadbalancer", "other", "--tcp=80:8080"]);
    const wanted = {
      spec: {
        type: "LoadBalancer",
        loadBalancerIP: "127.0.0.77",
        selector: { app: "web" },
        ports: [{ port: 8099, targetPort: 8080 }],
      },
    };
    await mesh.apply(JSON.stringify({ apiVersion: "v1", kind: "Service", metadata: { name: "wanted" }, ...wanted }));
    const addressOf = (name: string) =>
      eventually("its address", async () => {
        const { status } = await mesh.json(["get", "service", name]);
        return status.loadBalancer.ingress?.[0]?.ip as string | undefined;
      });
    assert.notEqual(await addressOf("other"), address);
    assert.equal(await addressOf("wanted"), "127.0.0.77");
    await eventually("it answers there", async () => {
      const page = await fetchPage("http://127.0.0.77:8099/").catch(() => undefined);
      return page?.status === 200;
    });
    // What is no LoadBalancer any more gives its address back.
    await mesh.kubectl(["patch", "service", "web", "-p", '{"spec":{"type":"ClusterIP"}}']);
    await eventually("the address is gone", async () => {
      const { status } = await mesh.json(["get", "service", "web"]);
      return status.loadBalancer.ingress === undefined;
    });
    await assert.rejects(fetchPage(`http://${address}/`), /ECONNREFUSED/);
  });

  test("a Node of a manifest is one more node; deleted, its pods go, too", async () => {
    const taints = [{ key: "dedicated", value: "gpu", effect: "NoSchedule" }];
    const node = { metadata: { name: "gpu", labels: { disk: "fast" } }, spec: { providerID: "lateen://gpu", taints } };
    await mesh.apply(JSON.stringify({ apiVersion: "v1", kind: "Node", ...node }));
    await mesh.kubectl(["wait", "--for=condition=Ready", "node/gpu", "--timeout=20s"]);
    const tolerations = [{ key: "dedicated", operator: "Exists" }];
    await mesh.apply(pod("there", { nodeSelector: { disk: "fast" }, tolerations }));
    await ready("there");
    assert.equal((await mesh.json(["get", "pod", "there"])).spec.nodeName, "gpu");
    assert.equal((await mesh.exec("pod/there", "main", ["true"])).code, 0);
    await mesh.apply(pod("elsewhere", { nodeSelector: { disk: "fast" } }));
    const message = await eventually("it is held", async () => {
      const { status } = await mesh.json(["get", "pod", "elsewhere"]);
      return status.conditions?.find(({ reason }: any) => reason === "Unschedulable")?.message as string | undefined;
    });
    assert.match(
      message,
      /0\/4 nodes are available: 1 node\(s\) had untolerated taint \{dedicated: gpu\}, 3 node\(s\) didn't match Pod's node affinity\/selector/,
    );
    // Whoever drains a node moves what runs there.
    await mesh.kubectl(["cordon", "lateen-node-2"]);
    assert.match((await mesh.kubectl(["get", "nodes"])).stdout, /lateen-node-2 +Ready,SchedulingDisabled/);
    await mesh.kubectl(["drain", "lateen-node-2", "--force", "--ignore-daemonsets", "--timeout=30s"]);
    await mesh.kubectl(["uncordon", "lateen-node-2"]);
    await mesh.kubectl(["delete", "node", "gpu"]);
    await eventually(
      "the pod is gone",
      async () => (await mesh.kubectl(["get", "pod", "there"], { allowFailure: true })).code !== 0,
    );
    const { stdout } = await mesh.kubectl(["get", "leases", "-n", "kube-node-lease", "-o", "name"]);
    await eventually(
      "its lease, too",
      async () =>
        !(await mesh.kubectl(["get", "leases", "-n", "kube-node-lease", "-o", "name"])).stdout.includes("gpu"),
    );
    assert.match(stdout, /lateen-node-3/);
  });

  test("pods spread over zones as evenly as their rules say; a taint that only asks is heeded while there is room elsewhere", async () => {
    const spread = (whenUnsatisfiable: string, labelSelector: object): object[] => [
      { maxSkew: 1, topologyKey: "topology.kubernetes.io/zone", whenUnsatisfiable, labelSelector },
    ];
    const labelSelector = { matchLabels: { app: "even" } };
    const template = JSON.parse(pod("even", { topologySpreadConstraints: spread("DoNotSchedule", labelSelector) }));
    const set = {
      selector: labelSelector,
      replicas: 6,
      template: { metadata: template.metadata, spec: template.spec },
    };
    await mesh.apply(
      JSON.stringify({ apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "even" }, spec: set }),
    );
    await mesh.kubectl(["rollout", "status", "deployment/even", "--timeout=30s"]);
    const perNode = async (app: string): Promise<number[]> => {
      const names = (await mesh.json(["get", "pods", "-l", `app=${app}`])).items.map(({ spec }: any) => spec.nodeName);
      return ["lateen-node", "lateen-node-2", "lateen-node-3"].map(
        (node) => names.filter((name: string) => name === node).length,
      );
    };
    assert.deepEqual(await perNode("even"), [2, 2, 2]);
    // Two zones closed: the third may have one more than they, and no second.
    await mesh.kubectl(["cordon", "lateen-node", "lateen-node-2"]);
    await mesh.kubectl(["scale", "deployment/even", "--replicas=8"]);
    await eventually("one more runs", async () => (await perNode("even")).join() === "2,2,3");
    const held = await eventually("one is held", async () => {
      const { items } = await mesh.json(["get", "pods", "-l", "app=even", "--field-selector", "status.phase=Pending"]);
      return items[0]?.status.conditions?.find(({ reason }: any) => reason === "Unschedulable")?.message as
        | string
        | undefined;
    });
    assert.match(held, /1 node\(s\) didn't match pod topology spread constraints, 2 node\(s\) were unschedulable/);
    await mesh.kubectl(["uncordon", "lateen-node", "lateen-node-2"]);
    await mesh.kubectl(["delete", "deployment", "even"]);
    await mesh.kubectl(["taint", "node", "lateen-node", "lateen-node-3", "busy=1:PreferNoSchedule"]);
    await mesh.apply(pod("shy", {}));
    await ready("shy");
    assert.equal((await mesh.json(["get", "pod", "shy"])).spec.nodeName, "lateen-node-2");
    await mesh.kubectl(["taint", "node", "lateen-node", "lateen-node-3", "busy-"]);
  });

  test("DNS: ports of Services, names of endpoints, reverse names; over UDP and TCP; what is too long is asked for again", async () => {
    await mesh.apply(pod("named", { hostname: "first", subdomain: "group" }, { ports: [{ containerPort: 8080 }] }));
    const many = Array.from({ length: 60 }, (_, i) => `10.1.0.${i + 1}`);
    const service = (name: string, spec: object): string =>
      JSON.stringify({ apiVersion: "v1", kind: "Service", metadata: { name }, spec });
    const ports = [{ name: "http", port: 80, targetPort: 8080 }];
    await mesh.apply(service("group", { clusterIP: "None", selector: { app: "named" }, ports }));
    await mesh.apply(service("single", { selector: { app: "named" }, ports }));
    await mesh.apply(service("crowd", { clusterIP: "None", ports }));
    const labels = { "kubernetes.io/service-name": "crowd" };
    const endpoints = many.map((address) => ({ addresses: [address], conditions: { ready: true } }));
    const slice = { apiVersion: "discovery.k8s.io/v1", kind: "EndpointSlice", metadata: { name: "crowd", labels } };
    await mesh.apply(JSON.stringify({ ...slice, addressType: "IPv4", endpoints, ports: [{ name: "http", port: 80 }] }));
    await ready("named");
    // A resolver of a few lines: answers as "TYPE TEXT", `TC` where the answer was cut short.
    const resolver = `
import socket, struct, sys
TYPES = {"A": 1, "PTR": 12, "SRV": 33}
def name(m, at):
    parts = []
    while m[at]:
        if m[at] >= 192:
            return ".".join(parts + [name(m, (m[at] & 63) << 8 | m[at + 1])[0]]), at + 2
        parts.append(m[at + 1:at + 1 + m[at]].decode()); at += m[at] + 1
    return ".".join(parts), at + 1
def ask(host, kind, tcp):
    q = struct.pack(">6H", 7, 256, 1, 0, 0, 0) + b"".join(bytes([len(p)]) + p.encode() for p in host.split(".")) + struct.pack(">BHH", 0, TYPES[kind], 1)
    if tcp:
        s = socket.create_connection(("10.96.0.10", 53), 5); s.sendall(struct.pack(">H", len(q)) + q)
        f = s.makefile("rb"); m = f.read(struct.unpack(">H", f.read(2))[0])
    else:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.sendto(q, ("10.96.0.10", 53)); m = s.recv(65535)
    flags, _, count = struct.unpack(">3H", m[2:8]); _, at = name(m, 12); at += 4
    out = ["TC"] if flags & 0x200 else [] if flags & 15 == 0 else ["NXDOMAIN"]
    for _ in range(count):
        _, at = name(m, at); kind, _, _, size = struct.unpack(">HHIH", m[at:at + 10]); at += 10; d = m[at:at + size]
        out.append("A " + socket.inet_ntoa(d) if kind == 1 else "SRV %d %s" % (struct.unpack(">H", d[4:6])[0], name(m, at + 6)[0]) if kind == 33 else "PTR " + name(m, at)[0])
        at += size
    return "|".join(out)
for line in sys.argv[1:]:
    host, kind, how = line.split(","); print(ask(host, kind, how == "tcp"))
`;
    const end = "default.svc.cluster.local";
    const { podIP } = (await mesh.json(["get", "pod", "named"])).status;
    const { clusterIP } = (await mesh.json(["get", "service", "single"])).spec;
    const reverse = (address: string): string => `${address.split(".").toReversed().join(".")}.in-addr.arpa`;
    const expected: Readonly<Record<string, string>> = {
      [`_http._tcp.single.${end},SRV,udp`]: `SRV 80 single.${end}`,
      [`_http._tcp.group.${end},SRV,tcp`]: `SRV 8080 first.group.${end}`,
      [`_none._tcp.single.${end},SRV,udp`]: "NXDOMAIN",
      [`first.group.${end},A,udp`]: `A ${podIP}`,
      [`FIRST.Group.${end},A,tcp`]: `A ${podIP}`,
      [`${reverse(clusterIP)},PTR,udp`]: `PTR single.${end}`,
      [`${reverse(podIP)},PTR,udp`]: `PTR first.group.${end}`,
      [`${reverse("10.99.99.99")},PTR,udp`]: "NXDOMAIN",
      [`single.${end},SRV,udp`]: `SRV 80 single.${end}`,
      [`${podIP.replaceAll(".", "-")}.default.pod.cluster.local,A,udp`]: `A ${podIP}`,
      [`crowd.${end},A,udp`]: "TC",
      [`crowd.${end},A,tcp`]: many.map((address) => `A ${address}`).join("|"),
    };
    const answers = await eventually("the endpoints are known", async () => {
      const { stdout } = await mesh.exec("pod/named", "main", ["python3", "-c", resolver, ...Object.keys(expected)]);
      return stdout.includes("first.group") ? stdout.trim().split("\n") : undefined;
    });
    assert.deepEqual(Object.fromEntries(Object.keys(expected).map((key, i) => [key, answers[i]])), expected);
  });

  test("hostPath shows the host's files for reading, and never the cluster's own state", async () => {
    const shown = join(mesh.state, "..", `shown-${process.pid}`);
    mkdirSync(shown);
    writeFileSync(join(shown, "file"), "of the host\n");
    const mounted = (name: string, path: string, type?: string): string =>
      pod(
        name,
        {
          restartPolicy: "Never",
          volumes: [{ name: "host", hostPath: { path, ...(type === undefined ? {} : { type }) } }],
        },
        {
          command: ["sh", "-c", "cat /host/file; echo x > /host/new"],
          volumeMounts: [{ name: "host", mountPath: "/host" }],
        },
      );
    try {
      await mesh.apply(mounted("reader", shown, "Directory"));
      await eventually(
        "it has ended",
        async () => (await mesh.json(["get", "pod", "reader"])).status.phase === "Failed",
      );
      assert.match((await mesh.kubectl(["logs", "reader"])).stdout, /^of the host\n[\s\S]*Read-only file system/);
      assert.ok(!existsSync(join(shown, "new")));
      const refused: readonly (readonly [name: string, path: string, type: string | undefined, reason: RegExp])[] = [
        ["thief", mesh.state, undefined, /holds the state of the cluster/],
        ["above", "/", undefined, /holds the state of the cluster/],
        ["missing", join(shown, "none"), undefined, /there is no such file or folder/],
        ["wrong", join(shown, "file"), "Directory", /hostPath type check failed/],
      ];
      for (const [name, path, type, reason] of refused) {
        await mesh.apply(mounted(name, path, type));
        await eventually(`${name} is refused`, async () =>
          reason.test(
            (await mesh.kubectl(["get", "events", "--field-selector", `involvedObject.name=${name}`])).stdout,
          ),
        );
        await mesh.kubectl(["delete", "pod", name]);
      }
    } finally {
      rmSync(shown, { recursive: true });
    }
  });

  test("control groups of limits are gone with their containers", async () => {
    await mesh.apply(pod("limited", {}, { resources: { limits: { memory: "64Mi" } } }));
    await ready("limited");
    const groups = await mesh.exec("pod/limited", "main", ["cat", "/proc/self/cgroup"]);
    const line = /^(?:\d+:memory|0:):(\S*lateen-\S+)$/m.exec(groups.stdout)?.[1] ?? "";
    assert.notEqual(line, "", groups.stdout);
    const folder = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
      .map((top) => join(top, line))
      .find((path) => existsSync(path));
    assert.ok(folder !== undefined, line);
    await mesh.kubectl(["delete", "pod", "limited"]);
    await eventually("its group is gone", () => !existsSync(folder));
    await mesh.lateen(["down"]);
    assert.ok(!existsSync(join(folder, "..")), "that of the instance, too");
  });
});

describe("states of other versions", { timeout: 120_000 }, () => {
  /** A state as the first version wrote it: without a format, a node that does not say who runs it. */
  function firstFormat(path: string): void {
    const database = new DatabaseSync(path);
    database.exec(
      "CREATE TABLE objects(resource TEXT, key TEXT, json TEXT, PRIMARY KEY(resource, key)) WITHOUT ROWID;" +
        "CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;" +
        "INSERT INTO meta VALUES('version', '500')",
    );
    const put = database.prepare("INSERT INTO objects VALUES(?, ?, ?)");
    const add = (resource: string, namespace: string, name: string, object: object): void => {
      const metadata = { name, ...(namespace === "" ? {} : { namespace }), uid: `uid-${name}`, resourceVersion: "400" };
      put.run(resource, `${namespace}/${name}`, JSON.stringify({ metadata, ...object }));
    };
    add("nodes", "", "lateen-node", { apiVersion: "v1", kind: "Node", spec: { podCIDR: "10.244.0.0/16" } });
    add("namespaces", "", "default", {
      apiVersion: "v1",
      kind: "Namespace",
      spec: { finalizers: ["kubernetes"] },
      status: { phase: "Active" },
    });
    add("configmaps", "default", "kept", { apiVersion: "v1", kind: "ConfigMap", data: { a: "1" } });
    database.close();
  }

  test("an older one is brought up to date, and a copy of it kept", async () => {
    const mesh = new Mesh();
    const file = join(mesh.state, "state.db");
    firstFormat(file);
    try {
      const { code, stderr } = await mesh.lateen(["up", "--bare"]);
      assert.equal(code, 0, stderr);
      assert.deepEqual((await mesh.json(["get", "configmap", "kept"])).data, { a: "1" });
      const list = JSON.parse((await mesh.kubectl(["get", "--raw", "/api/v1/namespaces"])).stdout);
      assert.ok(Number(list.metadata.resourceVersion) > 500, "versions go on");
      await mesh.apply(pod("runs", {}));
      await mesh.kubectl(["wait", "--for=condition=Ready", "pod/runs", "--timeout=30s"]);
      const copy = new DatabaseSync(`${file}.format-0`, { readOnly: true });
      const node = copy.prepare("SELECT json FROM objects WHERE resource='nodes'").get();
      assert.deepEqual(JSON.parse(String(node?.["json"])).spec, { podCIDR: "10.244.0.0/16" }, "as it was");
      copy.close();
    } finally {
      await mesh.destroy();
    }
  });

  test("a newer one is refused, and left as it is", async () => {
    const mesh = new Mesh();
    const file = join(mesh.state, "state.db");
    firstFormat(file);
    const database = new DatabaseSync(file);
    database.exec("INSERT INTO meta VALUES('format', '99')");
    database.close();
    copyFileSync(file, `${file}.before`);
    const { code, stderr } = await mesh.lateen(["up", "--bare"]);
    assert.equal(code, 1);
    assert.match(
      stderr,
      /was written by a newer version of Lateen \(format 99, this one knows \d+\)\nUse that version/,
    );
    assert.deepEqual(readFileSync(file), readFileSync(`${file}.before`));
    rmSync(mesh.state, { recursive: true });
  });
});
