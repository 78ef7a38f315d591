// Go's client of Kubernetes, which controllers, kubectl and Helm are built on: the program clients/client-go, built once.
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { run } from "../harness.ts";
import { build, goLacks } from "./real/cluster.ts";
import { Target } from "./target.ts";

/** What the program checks, in its words; it must have said something of each. */
const CHECKS = [
  "discovery, the version, OpenAPI documents",
  "typed calls in protobuf: conflicts, patches, preconditions",
  "a list in pages",
  "server-side apply from typed configurations",
  "the dynamic client and a custom kind",
  "a shared informer sees each change once",
  "leader election passes the lease on",
  "events that are told again are counted",
  "exec, logs and port-forward over SPDY and WebSocket",
];

const lack = goLacks();
if (lack !== undefined) {
  process.stdout.write(`not run: client-go: ${lack}\n`);
  if (process.env["CI"] === "true") test("client-go", () => assert.fail(lack));
} else
  describe("client-go", { timeout: 600_000 }, () => {
    const errors = new Map<string, string | undefined>();

    before(async () => {
      const program = build("client-go", ["build", "-trimpath", "-ldflags", "-s -w", "./client-go"], "../clients");
      const env = { KUBECONFIG: Target.fromEnv().kubeconfig };
      const { stdout, stderr } = await run(program, ["-image", "busybox:1"], { env, timeoutMs: 300_000 });
      for (const line of stdout.trim().split("\n")) {
        assert.match(line, /^\{/, stderr);
        const { name, error } = JSON.parse(line) as { name: string; error?: string };
        errors.set(name, error);
      }
    });

    for (const name of CHECKS)
      test(name, () => {
        assert.ok(errors.has(name), "the program has not come to it");
        assert.equal(errors.get(name), undefined);
      });
  });
