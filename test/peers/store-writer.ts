// The child of store-kill.test.ts: several clients write to a store at once and print each write when it begins and when it is
// acknowledged.
import { writeSync } from "node:fs";
import { newMeta } from "../../packages/cluster/src/api/objects.ts";
import { Store } from "../../packages/cluster/src/api/store.ts";

const [, , path = "", round = "0"] = process.argv;
const CLIENTS = 8;
const KEYS = 20;
const store = new Store(path);
let count = 0;

/** Straight to the pipe: what is printed has been handed over when the process dies. */
const say = (entry: object): void => void writeSync(1, `${JSON.stringify(entry)}\n`);

async function client(id: number): Promise<void> {
  for (;;) {
    // Each client has keys of its own, so that what it said last of one is what must be there.
    const key = `c${id}-${Math.floor(Math.random() * KEYS)}`;
    count += 1;
    if (Math.random() < 0.2 && store.get("configmaps", "default", key) !== undefined) {
      say({ key, isAcknowledged: false });
      await store.remove("configmaps", "default", key);
      say({ key, isAcknowledged: true, version: store.version });
      continue;
    }
    const value = `${round}-${Number(round) * 1_000_000 + count}`;
    const object = {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: newMeta(key, "default"),
      data: { a: value, b: value },
    };
    say({ key, value, isAcknowledged: false });
    await store.put("configmaps", object);
    say({ key, value, isAcknowledged: true, version: Number(object.metadata.resourceVersion) });
  }
}

say({ key: "ready", isAcknowledged: true, version: 0 });
await Promise.all(Array.from({ length: CLIENTS }, (_, id) => client(id)));
