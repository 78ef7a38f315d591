// The house rules that a program can check. Each message says what to do instead.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { LAYERS, PURE } from "./layers.ts";

const ROOT = join(import.meta.dirname, "..");
const LINES_MAX = 600;
const FILES = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
  cwd: ROOT,
  encoding: "utf8",
})
  .split("\n")
  .filter((name) => name !== "" && existsSync(join(ROOT, name)));
const SOURCES = FILES.filter((name) => /\.(ts|mjs|py)$/.test(name));
const TEXT = new Map(SOURCES.map((name) => [name, readFileSync(join(ROOT, name), "utf8")]));

const packageOf = (name: string): string | undefined => /^packages\/([^/]+)\//.exec(name)?.[1];
const importsOf = (text: string): string[] =>
  [...text.matchAll(/(?:from|import\()\s*"([^"]+)"/g)].map((match) => match[1] ?? "");
const layerOf = (name: string): number => LAYERS.findIndex((layer) => layer.includes(name));
const isTest = (name: string): boolean =>
  name.endsWith(".test.ts") || name.startsWith("test/") || name.startsWith("tools/");

test("every package has a layer", () => {
  const packages = new Set(SOURCES.map(packageOf).filter((name) => name !== undefined));
  assert.deepEqual(
    [...packages].filter((name) => layerOf(name) < 0),
    [],
    "name it in tools/layers.ts",
  );
});

test("imports go up the layers, declared in package.json, through facades", () => {
  const wrong: string[] = [];
  for (const [name, text] of TEXT) {
    const own = packageOf(name);
    if (own === undefined || isTest(name)) continue;
    const manifest = JSON.parse(readFileSync(join(ROOT, "packages", own, "package.json"), "utf8")) as {
      dependencies?: Record<string, string>;
    };
    for (const target of importsOf(text)) {
      const other = /^@lateen\/([^/]+)/.exec(target)?.[1];
      if (other === undefined) continue;
      if (layerOf(other) >= layerOf(own)) wrong.push(`${name}: ${own} may not import ${other}`);
      if (manifest.dependencies?.[`@lateen/${other}`] === undefined)
        wrong.push(`${name}: packages/${own}/package.json does not declare @lateen/${other}`);
    }
    if (importsOf(text).some((target) => target.startsWith("../../") && !target.startsWith("../../node_modules"))) {
      const crossing = importsOf(text).filter(
        (target) => target.startsWith("../") && !join(name, "..", target).startsWith(`packages/${own}/`),
      );
      for (const target of crossing) wrong.push(`${name}: ${target} leaves the package: import its facade`);
    }
  }
  assert.deepEqual(wrong, []);
});

test("inside the compiler, emission cannot see YAML", () => {
  const wrong = [...TEXT].filter(
    ([name, text]) => name.startsWith("packages/compile/src/emit/") && importsOf(text).includes("@lateen/resources"),
  );
  assert.deepEqual(
    wrong.map(([name]) => name),
    [],
    "lower to the model first",
  );
});

test("the pure packages do no input or output and know no clock and no chance", () => {
  const banned =
    /\bnode:(fs|net|http|https|http2|child_process|dns|tls|os|timers)\b|\bprocess\.|\bconsole\.|\bMath\.random\b|\bDate\.now\b|\bnew Date\(\)|\bsetTimeout\b|\bawait\b|\basync\b/;
  const wrong = [...TEXT].filter(
    ([name, text]) =>
      PURE.includes(packageOf(name) ?? "") &&
      !isTest(name) &&
      banned.test(text.replaceAll(/\/\/.*$|\/\*[\s\S]*?\*\//gm, "")),
  );
  assert.deepEqual(
    wrong.map(([name]) => name),
    [],
  );
});

test("sorting does not depend on the locale", () => {
  assert.deepEqual(
    [...TEXT].filter(([name, text]) => !isTest(name) && text.includes("localeCompare")).map(([name]) => name),
    [],
    "use compareText",
  );
});

test("files have a length that one can read", () => {
  const long = [...TEXT].filter(([name, text]) => !isTest(name) && text.split("\n").length > LINES_MAX);
  assert.deepEqual(
    long.map(([name]) => name),
    [],
    `split what is over ${LINES_MAX} lines`,
  );
});

test("every file opens with its role", () => {
  const silent = [...TEXT].filter(([name, text]) => name.endsWith(".ts") && !text.startsWith("//"));
  assert.deepEqual(
    silent.map(([name]) => name),
    [],
  );
});

test("nothing is left for later in code, and no test is left out", () => {
  const later = new RegExp(["TO", "DO|FIX", "ME|X", "XX"].join(""));
  const out = new RegExp(["\\b(test|describe|it)\\.(sk", "ip|on", "ly|to", "do)\\("].join(""));
  assert.deepEqual(
    [...TEXT].filter(([, text]) => later.test(text) || out.test(text)).map(([name]) => name),
    [],
  );
});

test("the architecture document prints the layers as they are", () => {
  const document = readFileSync(join(ROOT, "ARCHITECTURE.md"), "utf8");
  for (const layer of LAYERS)
    for (const name of layer) assert.ok(document.includes(`\`${name}\``), `ARCHITECTURE.md does not name ${name}`);
});

test("every dependency has its reason in docs/dependencies.md", () => {
  const reasons = readFileSync(join(ROOT, "docs/dependencies.md"), "utf8");
  const manifest = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as Record<
    string,
    Record<string, string>
  >;
  const names = ["dependencies", "devDependencies", "optionalDependencies"].flatMap((kind) =>
    Object.keys(manifest[kind] ?? {}),
  );
  assert.deepEqual(
    names.filter((name) => !reasons.includes(`\`${name}\``)),
    [],
  );
});

test("the lock file names no download address", () => {
  assert.doesNotMatch(readFileSync(join(ROOT, "package-lock.json"), "utf8"), /"resolved": "http/);
});
