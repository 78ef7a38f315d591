#!/usr/bin/env node
// `npx lateen ...` in a clone: set-up where it is needed, then the command on the newer Node.
import { realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = join(dirname(realpathSync(fileURLToPath(import.meta.url))), "../../..");
process.argv.splice(2, 0, "lateen");
await import(pathToFileURL(join(root, "setup.mjs")).href);
