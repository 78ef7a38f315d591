// Every folder below golden/ is a case: input.yaml, and what becomes of it. UPDATE_GOLDEN=1 rewrites the output.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { renderCase } from "./render.ts";

const ROOT = join(import.meta.dirname, "../golden");

for (const name of readdirSync(ROOT)) {
  test(`golden ${name}`, () => {
    const out = join(ROOT, name, "out");
    const files = renderCase(readFileSync(join(ROOT, name, "input.yaml"), "utf8"));
    if (process.env["UPDATE_GOLDEN"] === "1") {
      rmSync(out, { recursive: true, force: true });
      mkdirSync(out);
      for (const [file, text] of files) writeFileSync(join(out, file), text);
    }
    assert.deepEqual(
      existsSync(out) ? readdirSync(out).sort() : [],
      [...files.keys()].sort(),
      "UPDATE_GOLDEN=1 writes new cases",
    );
    for (const [file, text] of files) assert.equal(text, readFileSync(join(out, file), "utf8"), file);
  });
}
