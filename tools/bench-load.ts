// The load of the API server's bench, in a process of its own: what it costs is the same for every server. Argument: a
// kubeconfig. Prints one line of JSON.
import { readFileSync } from "node:fs";
import { Agent, request } from "node:https";

const OBJECTS = 10_000;
const CLIENTS = 8;
const WATCHERS = 1_000;
const CHANGES = 1_000;
const LISTS = 3;
const LIMIT_MS = 300_000;

export interface Load {
  readonly objects: number;
  readonly createSeconds: number;
  readonly listMs: number;
  readonly listBytes: number;
  readonly pagesMs: number;
  readonly watchers: number;
  readonly changes: number;
  /** From the first change until every watcher has seen the last. */
  readonly watchSeconds: number;
}

const config = JSON.parse(readFileSync(process.argv[2] ?? "", "utf8"));
const decode = (text: string): Buffer => Buffer.from(text, "base64");
const { user } = config.users[0];
const { cluster } = config.clusters[0];
const identity = {
  ca: decode(cluster["certificate-authority-data"]),
  cert: decode(user["client-certificate-data"]),
  key: decode(user["client-key-data"]),
};
const CONFIGMAPS = "/api/v1/namespaces/bench/configmaps";

/** One request on a client's own connection; its body. */
function call(agent: Agent, method: string, path: string, body?: unknown, type = "application/json"): Promise<string> {
  const text = body === undefined ? undefined : JSON.stringify(body);
  const headers = text === undefined ? {} : { "content-type": type, "content-length": Buffer.byteLength(text) };
  return new Promise((resolve, reject) => {
    const ask = request(`${cluster.server}${path}`, { ...identity, agent, method, headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => {
        const answer = Buffer.concat(chunks).toString("utf8");
        if ((response.statusCode ?? 0) < 400) resolve(answer);
        else reject(new Error(`${method} ${path}: ${response.statusCode} ${answer.slice(0, 300)}`));
      });
    });
    ask.on("error", reject);
    ask.end(text);
  });
}

const agents = Array.from({ length: CLIENTS }, () => new Agent({ keepAlive: true, maxSockets: 1, ...identity }));

/** Does `task` for 0 ... count-1, by all clients at once; the seconds it took. */
async function spread(count: number, task: (agent: Agent, index: number) => Promise<unknown>): Promise<number> {
  const started = performance.now();
  let next = 0;
  const work = async (agent: Agent): Promise<void> => {
    while (next < count) await task(agent, next++);
  };
  await Promise.all(agents.map(work));
  return (performance.now() - started) / 1000;
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;

/** Opens a watch; `onLines` is told how many events have come. Resolves when the server has answered. */
function watch(version: string, onLines: (lines: number) => void): Promise<() => void> {
  const path = `${CONFIGMAPS}?watch=1&resourceVersion=${version}&labelSelector=watched`;
  return new Promise((resolve, reject) => {
    const ask = request(`${cluster.server}${path}`, { ...identity, agent: false }, (response) => {
      response.on("data", (chunk: Buffer) => {
        let lines = 0;
        for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, at + 1)) lines += 1;
        onLines(lines);
      });
      response.on("error", () => {});
      resolve(() => ask.destroy());
    });
    ask.on("error", reject);
    ask.end();
  });
}

async function main(): Promise<void> {
  const timer = setTimeout(() => {
    process.stderr.write("the load does not come to an end\n");
    process.exit(1);
  }, LIMIT_MS);
  const [first = new Agent()] = agents;
  await call(first, "POST", "/api/v1/namespaces", { metadata: { name: "bench" } });
  const data = { key: "v".repeat(400) };
  const createSeconds = await spread(OBJECTS, (agent, index) =>
    call(agent, "POST", CONFIGMAPS, { metadata: { name: `object-${index}`, labels: { app: "bench" } }, data }),
  );
  const listMs: number[] = [];
  const pagesMs: number[] = [];
  let listBytes = 0;
  for (let i = 0; i < LISTS; i++) {
    let started = performance.now();
    listBytes = (await call(first, "GET", CONFIGMAPS)).length;
    listMs.push(performance.now() - started);
    started = performance.now();
    let token = "";
    do {
      const page = await call(first, "GET", `${CONFIGMAPS}?limit=500&continue=${token}`);
      token = encodeURIComponent(JSON.parse(page).metadata.continue ?? "");
    } while (token !== "");
    pagesMs.push(performance.now() - started);
  }
  await spread(CLIENTS, (agent, index) =>
    call(agent, "POST", CONFIGMAPS, { metadata: { name: `watched-${index}`, labels: { watched: "" } }, data }),
  );
  const version = JSON.parse(await call(first, "GET", `${CONFIGMAPS}?limit=1`)).metadata.resourceVersion;
  let missing = WATCHERS;
  let tell: () => void = () => {};
  const all = new Promise<void>((resolve) => {
    tell = resolve;
  });
  const ends: (() => void)[] = [];
  for (let i = 0; i < WATCHERS; i++) {
    let seen = 0;
    ends.push(
      await watch(version, (lines) => {
        seen += lines;
        if (seen === CHANGES && --missing === 0) tell();
      }),
    );
  }
  const started = performance.now();
  // Each client changes an object of its own: nobody waits for anybody.
  await spread(CHANGES, (agent, index) =>
    call(
      agent,
      "PATCH",
      `${CONFIGMAPS}/watched-${agents.indexOf(agent)}`,
      { data: { n: String(index) } },
      "application/merge-patch+json",
    ),
  );
  await all;
  const watchSeconds = (performance.now() - started) / 1000;
  for (const end of ends) end();
  for (const agent of agents) agent.destroy();
  clearTimeout(timer);
  const result: Load = {
    objects: OBJECTS,
    createSeconds,
    listMs: median(listMs),
    listBytes,
    pagesMs: median(pagesMs),
    watchers: WATCHERS,
    changes: CHANGES,
    watchSeconds,
  };
  process.stdout.write(`${JSON.stringify(result)}\n`);
}

await main();
