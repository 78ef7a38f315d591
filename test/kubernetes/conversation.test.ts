// One long conversation with the API server, the same with a real Kubernetes and with the embedded cluster. The real one's
// answers are kept in conversation/answers.json (LATEEN_RECORD=1 writes them anew); differences.json names those that the
// embedded cluster answers otherwise, each with the reason. A listed difference that is none any more fails.
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { eventually } from "../harness.ts";
import { ESTABLISHED, NAMESPACE, STEPS, type Step } from "./conversation/steps.ts";
import { Target } from "./target.ts";

const ANSWERS = join(import.meta.dirname, "conversation/answers.json");
const DIFFERENCES = join(import.meta.dirname, "conversation/differences.json");
const HEADERS = ["content-type", "warning", "retry-after"];
const UID = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;
const TIME = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g;
const AGE = /^(\d+d)?(\d+h)?(\d+m)?\d+(\.\d+)?s$|^\d+m$/;

interface Kept {
  readonly status: number;
  readonly headers: Record<string, unknown>;
  readonly body: unknown;
}

const target = Target.fromEnv();

/** Replaces what is different each time: versions, identities, times, addresses, chosen names. */
function masked(value: unknown, key = ""): unknown {
  if (Array.isArray(value)) return value.map((item) => masked(item));
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value).map(([name, member]) => [name, masked(member, name)] as const);
    // Entries of managedFields are ordered by time, which may or may not be the same second.
    const sorted = entries.map(([name, member]) => [
      name,
      name === "managedFields" && Array.isArray(member) ? member.toSorted(byOwner) : member,
    ]);
    return Object.fromEntries(sorted);
  }
  if (typeof value === "number") return key === "nodePort" || key === "healthCheckNodePort" ? "PORT" : value;
  if (typeof value !== "string") return value;
  if (key === "resourceVersion") return value === "" ? "" : "VERSION";
  if (key === "hash" || key === "serverRelativeURL" || key === "serverAddress") return key.toUpperCase();
  if (AGE.test(value)) return "AGE";
  return (
    value
      .replaceAll(UID, "UID")
      .replaceAll(TIME, "TIME")
      .replaceAll(/10\.96\.\d+\.\d+/g, "SERVICE-ADDRESS")
      .replaceAll(/:3\d{4}\/TCP/g, ":PORT/TCP")
      .replaceAll(/kube-api-access-\w{5}/g, "kube-api-access-MASKED")
      .replaceAll(/\bgen-\w{5}\b/g, "gen-MASKED")
      .replaceAll(/current: \d+/g, "current: VERSION")
      .replaceAll(/v1\.34\.1\+lateen/g, "v1.34.1")
      .replaceAll(/X509SHA256=[0-9a-f]{64}/g, "X509SHA256=HASH")
      // A real server's components are one binary here, named after its file.
      .replaceAll(/^(kube-[0-9a-f]{12}|kube-controller-manager|kube-scheduler|kube-apiserver)$/g, "COMPONENT")
  );
}

const ownerOf = (entry: any): string => JSON.stringify([entry.operation, entry.manager, entry.subresource ?? ""]);
const byOwner = (a: unknown, b: unknown): number => (ownerOf(a) < ownerOf(b) ? -1 : 1);

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    const lines = text.split("\n").filter((line) => line !== "");
    try {
      return lines.map((line) => JSON.parse(line) as unknown);
    } catch {
      return text;
    }
  }
}

async function say(step: Step): Promise<Kept> {
  const headers: Record<string, string> = { accept: step.accept ?? "application/json" };
  if (step.body !== undefined) headers["content-type"] = step.type ?? "application/json";
  const body =
    step.body === undefined ? undefined : typeof step.body === "string" ? step.body : JSON.stringify(step.body);
  const options = {
    headers,
    ...(body === undefined ? {} : { body }),
    ...(step.lines === undefined ? {} : { lines: step.lines }),
  };
  const answer = await target.ask(step.method, step.path, options);
  const kept = Object.fromEntries(
    HEADERS.flatMap((name) => (answer.headers[name] === undefined ? [] : [[name, masked(answer.headers[name])]])),
  );
  return { status: answer.status, headers: kept, body: masked(parsed(answer.text)) };
}

/** The paths at which two values differ, with both. */
function differences(real: unknown, ours: unknown, path: string): string[] {
  if (real === ours) return [];
  const isTree = (value: unknown): value is object => typeof value === "object" && value !== null;
  if (isTree(real) && isTree(ours) && Array.isArray(real) === Array.isArray(ours)) {
    const keys = [...new Set([...Object.keys(real), ...Object.keys(ours)])];
    return keys.flatMap((key) => differences((real as any)[key], (ours as any)[key], `${path}.${key}`));
  }
  const shown = (value: unknown): string =>
    value === undefined ? "absent" : (JSON.stringify(value) ?? "").slice(0, 600);
  return [`${path}\n      real:     ${shown(real)}\n      embedded: ${shown(ours)}`];
}

/** What must have happened before a step makes sense: what the server does in its own time. */
async function prepare(step: Step): Promise<void> {
  const json = async (path: string): Promise<any> => parsed((await target.ask("GET", path)).text);
  if (step.name === ESTABLISHED) {
    await eventually("the definition is served", async () => {
      const { status } = await target.ask("GET", `/apis/talk.example.com/v1/namespaces/${NAMESPACE}/widgets`);
      return status === 200;
    });
  }
  if (step.name === "discovery: /api")
    await eventually(
      "the default account",
      async () => (await json(`/api/v1/namespaces/${NAMESPACE}/serviceaccounts/default`)).kind === "ServiceAccount",
    );
  // The controllers have looked at it: their entry is in managedFields.
  const seen =
    /^kind: (deployment|replicaset|statefulset|daemonset|replicationcontroller|job|poddisruptionbudget), as table$/.test(
      step.name,
    );
  const isSeen = ({ observedGeneration, conditions }: any): boolean =>
    observedGeneration !== undefined || conditions !== undefined;
  if (seen) await eventually("its controller has seen it", async () => isSeen((await json(step.path)).status));
  if (
    step.path.includes("/deployments/applied?") &&
    step.name !== "apply: without a manager" &&
    step.name !== "apply: creates"
  )
    await eventually("the controller is up to date", async () => {
      const { metadata, status } = await json(step.path.replace(/\?.*/, ""));
      return status?.observedGeneration === metadata?.generation;
    });
  if (/^kind: pod(, rich)?, as table$/.test(step.name))
    await eventually(
      "the pod is found unschedulable",
      async () => (await json(step.path)).status.conditions !== undefined,
    );
}

test("the conversation goes as with a real Kubernetes", async (t) => {
  await target.kubectl(["delete", "namespace", NAMESPACE, "--ignore-not-found"]);
  await target.kubectl(["delete", "crd", "widgets.talk.example.com", "--ignore-not-found"]);
  const isRecording = process.env["LATEEN_RECORD"] === "1";
  const answers: Record<string, Kept> =
    existsSync(ANSWERS) && !isRecording ? JSON.parse(readFileSync(ANSWERS, "utf8")) : {};
  const listed: Record<string, string> = target.isReal ? {} : JSON.parse(readFileSync(DIFFERENCES, "utf8"));
  const names = new Set(STEPS.map(({ name }) => name));
  assert.equal(names.size, STEPS.length, "every step has a name of its own");
  for (const step of STEPS) {
    await prepare(step);
    const said = await say(step);
    if (isRecording) answers[step.name] = said;
    await t.test(step.name, () => {
      const found = differences(answers[step.name], said, "");
      const reason = listed[step.name];
      if (reason === undefined)
        assert.ok(found.length === 0, `answers differ:\n    ${found.slice(0, 12).join("\n    ")}`);
      else assert.ok(found.length > 0, `differences.json says "${reason}", but there is no difference any more`);
    });
  }
  assert.deepEqual(
    Object.keys(listed).filter((name) => !names.has(name)),
    [],
    "differences of steps that there are",
  );
  if (isRecording)
    writeFileSync(
      ANSWERS,
      `{\n${Object.entries(answers)
        .map(([name, kept]) => `${JSON.stringify(name)}: ${JSON.stringify(kept)}`)
        .join(",\n")}\n}\n`,
    );
  await target.kubectl(["delete", "namespace", NAMESPACE, "--wait=false"]);
});
