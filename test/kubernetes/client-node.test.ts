// The JavaScript client of the Kubernetes project, used as programs use it: typed and dynamic calls, an informer, exec, logs.
import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import {
  ApiException,
  AppsV1Api,
  CoordinationV1Api,
  CoreV1Api,
  Exec,
  KubeConfig,
  KubernetesObjectApi,
  Log,
  makeInformer,
  PatchStrategy,
  type V1ConfigMap,
  V1MicroTime,
  type V1Status,
} from "@kubernetes/client-node";
import { eventually } from "../harness.ts";
import { Target } from "./target.ts";

const NAMESPACE = "client-node";
const config = new KubeConfig();
config.loadFromFile(Target.fromEnv().kubeconfig);
const core = config.makeApiClient(CoreV1Api);

const codeOf = (code: number) => (error: unknown) => error instanceof ApiException && error.code === code;

function configMap(name: string, data: Record<string, string>, labels: Record<string, string> = {}): V1ConfigMap {
  return { apiVersion: "v1", kind: "ConfigMap", metadata: { name, namespace: NAMESPACE, labels }, data };
}

describe("@kubernetes/client-node", { timeout: 120_000 }, () => {
  before(async () => {
    await core.createNamespace({ body: { metadata: { name: NAMESPACE } } });
  });

  after(async () => {
    await core.deleteNamespace({ name: NAMESPACE });
  });

  test("typed calls: create, read, replace, conflict, delete, not found", async () => {
    const made = await core.createNamespacedConfigMap({ namespace: NAMESPACE, body: configMap("typed", { a: "1" }) });
    assert.ok(made.metadata?.creationTimestamp instanceof Date);
    const changed = await core.readNamespacedConfigMap({ namespace: NAMESPACE, name: "typed" });
    changed.data = { a: "2" };
    const replaced = await core.replaceNamespacedConfigMap({ namespace: NAMESPACE, name: "typed", body: changed });
    assert.deepEqual(replaced.data, { a: "2" });
    await assert.rejects(
      core.replaceNamespacedConfigMap({ namespace: NAMESPACE, name: "typed", body: made }),
      codeOf(409),
    );
    await core.deleteNamespacedConfigMap({ namespace: NAMESPACE, name: "typed" });
    await assert.rejects(core.readNamespacedConfigMap({ namespace: NAMESPACE, name: "typed" }), codeOf(404));
  });

  test("a list in pages has everything once", async () => {
    for (let index = 0; index < 7; index++)
      await core.createNamespacedConfigMap({
        namespace: NAMESPACE,
        body: configMap(`page-${index}`, {}, { of: "pages" }),
      });
    const found: (string | undefined)[] = [];
    let next: string | undefined;
    do {
      const page = await core.listNamespacedConfigMap({
        namespace: NAMESPACE,
        labelSelector: "of=pages",
        limit: 3,
        ...(next === undefined ? {} : { _continue: next }),
      });
      found.push(...page.items.map(({ metadata }) => metadata?.name));
      next = page.metadata?._continue;
    } while (next !== undefined && next !== "");
    assert.deepEqual(
      found,
      [0, 1, 2, 3, 4, 5, 6].map((index) => `page-${index}`),
    );
  });

  test("an informer sees what is there, what comes, what changes, what goes", async () => {
    const labelSelector = "of=informer";
    const create = (name: string): Promise<V1ConfigMap> =>
      core.createNamespacedConfigMap({ namespace: NAMESPACE, body: configMap(name, { a: "1" }, { of: "informer" }) });
    await create("early");
    const seen: string[] = [];
    const informer = makeInformer<V1ConfigMap>(
      config,
      `/api/v1/namespaces/${NAMESPACE}/configmaps`,
      () => core.listNamespacedConfigMap({ namespace: NAMESPACE, labelSelector }),
      labelSelector,
    );
    for (const verb of ["add", "update", "delete"] as const)
      informer.on(verb, ({ metadata, data }) => void seen.push(`${verb} ${metadata?.name} ${data?.["a"]}`));
    const failures: unknown[] = [];
    informer.on("error", (error) => void failures.push(error));
    await informer.start();
    try {
      const late = await create("late");
      late.data = { a: "2" };
      await core.replaceNamespacedConfigMap({ namespace: NAMESPACE, name: "late", body: late });
      await core.deleteNamespacedConfigMap({ namespace: NAMESPACE, name: "early" });
      await eventually("four events", () => seen.length >= 4);
      assert.deepEqual(seen, ["add early 1", "add late 1", "update late 2", "delete early 1"]);
      assert.deepEqual(
        informer.list().map(({ metadata }) => metadata?.name),
        ["late"],
      );
      assert.equal(informer.get("late", NAMESPACE)?.data?.["a"], "2");
      assert.deepEqual(failures, []);
    } finally {
      await informer.stop();
    }
  });

  test("objects of any kind: server-side apply, its conflict, force", async () => {
    const objects = KubernetesObjectApi.makeApiClient(config);
    const apply = (value: string, manager: string, force: boolean): Promise<V1ConfigMap> =>
      objects.patch(
        configMap("applied", { a: value }),
        undefined,
        undefined,
        manager,
        force,
        PatchStrategy.ServerSideApply,
      );
    await apply("1", "one", false);
    await assert.rejects(apply("2", "two", false), codeOf(409));
    const forced = await apply("2", "two", true);
    assert.equal(forced.data?.["a"], "2");
    const owners = forced.metadata?.managedFields?.filter(({ fieldsV1 }) =>
      JSON.stringify(fieldsV1).includes("f:data"),
    );
    assert.deepEqual(
      owners?.map(({ manager }) => manager),
      ["two"],
    );
  });

  test("a lease keeps its times to the microsecond", async () => {
    const leases = config.makeApiClient(CoordinationV1Api);
    const renewTime = new V1MicroTime("2026-01-02T03:04:05.678Z");
    const body = { metadata: { name: "leader" }, spec: { holderIdentity: "one", leaseDurationSeconds: 15, renewTime } };
    const made = await leases.createNamespacedLease({ namespace: NAMESPACE, body });
    assert.equal(String(made.spec?.renewTime), "2026-01-02T03:04:05.678000Z");
    const taken = await leases.readNamespacedLease({ namespace: NAMESPACE, name: "leader" });
    taken.spec = { ...body.spec, holderIdentity: "two" };
    await leases.replaceNamespacedLease({ namespace: NAMESPACE, name: "leader", body: taken });
    await assert.rejects(
      leases.replaceNamespacedLease({ namespace: NAMESPACE, name: "leader", body: made }),
      codeOf(409),
    );
  });

  test("a Deployment scales; its pod runs commands and has logs", async () => {
    const apps = config.makeApiClient(AppsV1Api);
    const labels = { app: "talker" };
    const container = { name: "main", image: "busybox:1", command: ["sh", "-c", "echo up; exec sleep 600"] };
    const template = { metadata: { labels }, spec: { terminationGracePeriodSeconds: 0, containers: [container] } };
    await apps.createNamespacedDeployment({
      namespace: NAMESPACE,
      body: { metadata: { name: "talker" }, spec: { selector: { matchLabels: labels }, template } },
    });
    const scale = await apps.readNamespacedDeploymentScale({ namespace: NAMESPACE, name: "talker" });
    assert.equal(scale.spec?.replicas, 1);
    // Without a version: controllers write the Deployment's status at the same time.
    const twice = { metadata: { name: "talker", namespace: NAMESPACE }, spec: { replicas: 2 } };
    await apps.replaceNamespacedDeploymentScale({ namespace: NAMESPACE, name: "talker", body: twice });
    await eventually("two pods ready", async () => {
      const { status } = await apps.readNamespacedDeployment({ namespace: NAMESPACE, name: "talker" });
      return status?.readyReplicas === 2;
    });
    const [pod] = (await core.listNamespacedPod({ namespace: NAMESPACE, labelSelector: "app=talker" })).items;
    const name = pod?.metadata?.name ?? "";

    const output = new PassThrough();
    const status = await new Promise<V1Status>((resolve, reject) => {
      const command = ["sh", "-c", "cat; exit 3"];
      const input = new PassThrough();
      new Exec(config)
        .exec(NAMESPACE, name, "main", command, output, null, input, false, resolve)
        .then(() => input.end("said\n"), reject);
    });
    assert.equal(status.reason, "NonZeroExitCode");
    assert.equal(status.details?.causes?.[0]?.message, "3");
    assert.equal(String(output.read()), "said\n");

    const lines = new PassThrough();
    await new Log(config).log(NAMESPACE, name, "main", lines, { follow: false });
    assert.equal(await text(lines), "up\n");
  });
});
