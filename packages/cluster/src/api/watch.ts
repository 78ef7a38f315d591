// Watches: the changes of a resource as a stream of JSON lines. Starts from a version, from now, or from all that exists.
import { ApiError, badRequest } from "./errors.ts";
import { metadataOnly, renderingOf, selectorOf } from "./handlers.ts";
import { apiVersionOf, tableOf } from "./kinds.ts";
import type { KubeObject } from "./objects.ts";
import type { Registry } from "./registry.ts";
import type { ResourceRequest } from "./server.ts";
import type { StoreEvent } from "./store.ts";
import { type IncludeObject, renderTable } from "./tables.ts";

/** A watcher that is this far behind is cut off; it lists again. */
const QUEUED_BYTES_MAX = 16 << 20;
const TIMEOUT_SECONDS = 1800;
const BOOKMARK_EVERY_MS = 60_000;

/** Serves one watch until its time is over or the client leaves. */
export async function serveWatch(registry: Registry, ask: ResourceRequest): Promise<void> {
  const { kind, query, response } = ask;
  const { store } = registry;
  const selects = selectorOf(query, kind);
  const isInitial = query.get("sendInitialEvents") === "true";
  if (isInitial !== (query.get("resourceVersionMatch") === "NotOlderThan")) {
    const message = "sendInitialEvents and resourceVersionMatch=NotOlderThan must be given together";
    throw new ApiError(422, "Invalid", `ListOptions.meta.k8s.io "" is invalid: ${message}`, {});
  }
  const asked = query.get("resourceVersion") ?? "";
  const from = Number(asked);
  if (Number.isNaN(from)) throw badRequest(`invalid resource version "${asked}"`);
  const rendering = renderingOf(ask.request);
  const custom = registry.customKind(kind);
  let isFirst = true;

  const send = (type: string, object: KubeObject): void => {
    let body: unknown = { ...object, apiVersion: apiVersionOf(kind) };
    if (rendering === "metadata") body = metadataOnly(object);
    else if (rendering === "table") {
      const include = (query.get("includeObject") ?? "Metadata") as IncludeObject;
      const listMeta = { resourceVersion: object.metadata.resourceVersion };
      body = renderTable(tableOf(kind), [object], { listMeta, include, printer: custom?.printer, isFirst });
      isFirst = false;
    }
    response.write(`${JSON.stringify({ type, object: body })}\n`);
    if (response.writableLength > QUEUED_BYTES_MAX) response.destroy();
  };
  const bookmark = (annotations?: Record<string, string>): void => {
    if (query.get("allowWatchBookmarks") !== "true" && annotations === undefined) return;
    const metadata = { resourceVersion: String(store.version), ...(annotations === undefined ? {} : { annotations }) };
    response.write(
      `${JSON.stringify({ type: "BOOKMARK", object: { kind: kind.kind, apiVersion: apiVersionOf(kind), metadata } })}\n`,
    );
  };
  const deliver = (event: StoreEvent): void => {
    if (ask.namespace !== undefined && event.object.metadata.namespace !== ask.namespace) return;
    if (ask.name !== undefined && event.object.metadata.name !== ask.name) return;
    const isIn = event.type !== "DELETED" && selects(event.object);
    const wasIn = event.previous !== undefined && selects(event.previous);
    if (isIn) send(wasIn ? "MODIFIED" : "ADDED", event.object);
    else if (wasIn) {
      const last = event.previous;
      send("DELETED", { ...last, metadata: { ...last.metadata, resourceVersion: String(event.version) } });
    }
  };

  response.writeHead(200, { "content-type": "application/json", "cache-control": "no-cache, private" });
  response.flushHeaders();
  if (isInitial || asked === "" || from === 0) {
    const present = registry.list(kind, ask.namespace).filter(selects);
    for (const object of present)
      if (ask.name === undefined || object.metadata.name === ask.name) send("ADDED", object);
    if (isInitial || query.get("allowWatchBookmarks") === "true") bookmark({ "k8s.io/initial-events-end": "true" });
  } else {
    const missed = store.eventsSince(tableOf(kind), from);
    if (missed === undefined) {
      const status = new ApiError(
        410,
        "Expired",
        `too old resource version: ${from} (${store.oldestVersion})`,
      ).toStatus();
      response.end(`${JSON.stringify({ type: "ERROR", object: status })}\n`);
      return;
    }
    for (const event of missed) deliver(event);
  }
  const unsubscribe = store.subscribe(tableOf(kind), deliver);
  const ticker = setInterval(() => bookmark(), BOOKMARK_EVERY_MS);
  const seconds = Number(query.get("timeoutSeconds") ?? TIMEOUT_SECONDS);
  const end = setTimeout(() => {
    bookmark();
    response.end();
  }, seconds * 1000);
  await new Promise<void>((resolve) => response.once("close", resolve));
  unsubscribe();
  clearInterval(ticker);
  clearTimeout(end);
}
