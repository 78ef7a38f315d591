// A kept copy of a collection: list, then watch, and again from where it was when the watch ends.
import { setTimeout as delay } from "node:timers/promises";
import { errorText, isObject } from "@lateen/base";
import { type KubeClient, KubeError, type KubeObject } from "./client.ts";

const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 10_000;

export interface InformerOptions {
  readonly client: KubeClient;
  /** Path of the collection, over all namespaces. */
  readonly path: string;
  /** An object is there (again), or gone (undefined). Key: `namespace/name`. */
  readonly onChange: (key: string, object: KubeObject | undefined) => void;
  readonly log: (text: string) => void;
  readonly signal: AbortSignal;
}

function keyOf(object: KubeObject): string {
  return `${object.metadata.namespace ?? ""}/${object.metadata.name}`;
}

/** Starts to follow a collection. Resolves when the first list is in; goes on until the signal. */
export function follow(options: InformerOptions): Promise<void> {
  return new Promise((resolve) => void run(options, resolve));
}

async function run(options: InformerOptions, onSynced: () => void): Promise<void> {
  const { signal } = options;
  const known = new Set<string>();
  let version: string | undefined;
  let waitMs = RETRY_FIRST_MS;
  while (!signal.aborted) {
    try {
      version ??= await list(options, known);
      onSynced();
      waitMs = RETRY_FIRST_MS;
      version = await watchFrom(options, known, version);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof KubeError && error.code === 410) {
        version = undefined;
        continue;
      }
      // A kind that is not served (yet) is an empty collection.
      if (error instanceof KubeError && error.code === 404) onSynced();
      else options.log(`watching ${options.path}: ${errorText(error)}`);
      await delay(waitMs, undefined, { signal }).catch(() => {});
      waitMs = Math.min(waitMs * 2, RETRY_MAX_MS);
    }
  }
}

async function list(options: InformerOptions, known: Set<string>): Promise<string> {
  const answer = await options.client.json("GET", options.path);
  const items = Array.isArray(answer["items"]) ? (answer["items"] as KubeObject[]) : [];
  const present = new Set(items.map(keyOf));
  for (const key of known) {
    if (present.has(key)) continue;
    known.delete(key);
    options.onChange(key, undefined);
  }
  for (const item of items) {
    known.add(keyOf(item));
    options.onChange(keyOf(item), item);
  }
  const meta = answer["metadata"];
  return isObject(meta) ? String(meta["resourceVersion"]) : "0";
}

/** Watches until the server ends it; returns the version to go on from. */
async function watchFrom(options: InformerOptions, known: Set<string>, from: string): Promise<string> {
  let version = from;
  const path = `${options.path}?watch=true&allowWatchBookmarks=true&resourceVersion=${from}`;
  await options.client.watch(path, options.signal, (type, raw) => {
    if (type === "ERROR")
      throw new KubeError(
        Number(raw["code"] ?? 500),
        String(raw["reason"] ?? ""),
        String(raw["message"] ?? "watch error"),
      );
    const object = raw as unknown as KubeObject;
    version = object.metadata.resourceVersion ?? version;
    if (type === "BOOKMARK") return;
    const key = keyOf(object);
    if (type === "DELETED") known.delete(key);
    else known.add(key);
    options.onChange(key, type === "DELETED" ? undefined : object);
  });
  return version;
}
