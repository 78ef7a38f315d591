// Watches: the changes of a resource as a stream of JSON lines. Starts from a version, from now, or from all that exists.
import { toServed } from "./conversion.ts";
import { ApiError, invalid } from "./errors.ts";
import { apiVersionOf, tableOf } from "./kinds.ts";
import type { KubeObject } from "./objects.ts";
import type { Registry } from "./registry.ts";
import { metadataOnly, renderingOf } from "./rendering.ts";
import { selectorOf } from "./selectors.ts";
import type { ResourceRequest } from "./server.ts";
import type { StoreEvent } from "./store.ts";
import { type IncludeObject, renderTable } from "./tables.ts";
import type { WatchBudget } from "./watch-budget.ts";

const TIMEOUT_SECONDS = 1800;
const BOOKMARK_EVERY_MS = 60_000;

/** Lines made of an event, by form, for as long as the event is known. */
const linesOf = new WeakMap<StoreEvent, Map<string, Buffer>>();

function checkWatchOptions(query: URLSearchParams): void {
  const isInitial = query.get("sendInitialEvents") !== null && query.get("sendInitialEvents") !== "";
  const match = query.get("resourceVersionMatch") ?? "";
  if (isInitial === (match === "NotOlderThan")) return;
  const message = isInitial
    ? "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
    : "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
  const cause = { reason: "FieldValueForbidden", message, field: "resourceVersionMatch" };
  throw invalid({ group: "meta.k8s.io", plural: "", kind: "ListOptions" }, "", [cause]);
}

/** Serves one watch until its time is over or the client leaves. */
export async function serveWatch(registry: Registry, budget: WatchBudget, ask: ResourceRequest): Promise<void> {
  const { kind, query, response } = ask;
  const { store } = registry;
  const selects = selectorOf(query, kind);
  const isInitial = query.get("sendInitialEvents") === "true";
  checkWatchOptions(query);
  const asked = query.get("resourceVersion") ?? "";
  if (asked !== "" && !/^\d+$/.test(asked)) {
    const text = JSON.stringify(asked);
    throw new ApiError(
      500,
      "",
      `resourceVersion: Invalid value: ${text}: strconv.ParseUint: parsing ${text}: invalid syntax`,
    );
  }
  const from = Number(asked);
  const rendering = renderingOf(ask.request);
  let isFirst = true;

  const write = (line: string | Buffer): void => {
    response.write(line);
    budget.wrote(response);
  };
  const lineOf = (type: string, object: KubeObject): Buffer => {
    let body: unknown = toServed(kind, object);
    if (rendering === "metadata") body = metadataOnly(object);
    else if (rendering === "table") {
      const include = (query.get("includeObject") ?? "Metadata") as IncludeObject;
      const listMeta = { resourceVersion: object.metadata.resourceVersion };
      body = renderTable(kind, [object], { listMeta, include, isFirst });
      isFirst = false;
    }
    return Buffer.from(`${JSON.stringify({ type, object: body })}\n`);
  };
  const send = (type: string, object: KubeObject): void => write(lineOf(type, object));
  /** The same line goes to every watcher of the same form: it is made, and held in memory, once. */
  const share = (event: StoreEvent, type: string, object: KubeObject): void => {
    if (rendering === "table") return send(type, object);
    const form = `${type} ${rendering} ${apiVersionOf(kind)}`;
    const made = linesOf.get(event) ?? new Map<string, Buffer>();
    linesOf.set(event, made);
    let line = made.get(form);
    if (line === undefined) {
      line = lineOf(type, object);
      made.set(form, line);
    }
    write(line);
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
    if (isIn) share(event, wasIn ? "MODIFIED" : "ADDED", event.object);
    else if (wasIn) {
      const last = event.previous;
      share(event, "DELETED", { ...last, metadata: { ...last.metadata, resourceVersion: String(event.version) } });
    }
  };

  response.writeHead(200, { "content-type": "application/json", "cache-control": "no-cache, private" });
  response.flushHeaders();
  budget.add(response, tableOf(kind));
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
