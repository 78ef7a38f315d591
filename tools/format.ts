// `npm run format`: formats the sources and orders their imports.
import { spawnSync } from "node:child_process";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
process.exitCode =
  spawnSync(join(root, "node_modules/.bin/biome"), ["check", "--write", "."], { cwd: root, stdio: "inherit" }).status ??
  1;
