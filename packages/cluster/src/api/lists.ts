// Lists: selection, versions, chunks. A chunked list shows the state of its first chunk; that state is kept for a while.
import { isObject, lowerBound } from "@lateen/base";
import { isCustom } from "./custom.ts";
import { ApiError, badRequest, expired, invalid } from "./errors.ts";
import { apiVersionOf, type Kind } from "./kinds.ts";
import type { KubeObject } from "./objects.ts";
import type { Registry } from "./registry.ts";
import { metadataOnly, renderingOf } from "./rendering.ts";
import { selectorOf } from "./selectors.ts";
import { type ResourceRequest, sendJson } from "./server.ts";
import { type IncludeObject, renderTable } from "./tables.ts";

/** How long the rest of a chunked list can be asked for, and how many such lists are kept. */
const KEPT_MS = 300_000;
const KEPT_MAX = 100;

interface Kept {
  readonly items: readonly KubeObject[];
  readonly until: number;
}

interface Continuation {
  readonly v: string;
  /** -1: inconsistent, goes on with what there is now. */
  readonly rv: number;
  readonly start: string;
}

/** apiVersion of the list of a kind, and its kind. */
export function listKind(kind: Kind): { kind: string; apiVersion: string } {
  return { kind: isCustom(kind) ? kind.listKind : `${kind.kind}List`, apiVersion: apiVersionOf(kind) };
}

const keyOf = (object: KubeObject): string => `${object.metadata.namespace ?? ""}/${object.metadata.name}\0`;

const encode = (token: Continuation): string => Buffer.from(JSON.stringify(token)).toString("base64url");

function decode(text: string): Continuation {
  try {
    const parsed: unknown = JSON.parse(Buffer.from(text, "base64url").toString("utf8"));
    if (isObject(parsed) && typeof parsed["start"] === "string" && typeof parsed["rv"] === "number")
      return { v: "meta.k8s.io/v1", rv: parsed["rv"], start: parsed["start"] };
  } catch {
    // falls through to the refusal
  }
  throw badRequest("continue key is not valid: couldn't decode the continue token");
}

const MATCHES = ["Exact", "NotOlderThan"];

function invalidListOption(field: string, message: string, reason: string): ApiError {
  return invalid({ group: "meta.k8s.io", plural: "", kind: "ListOptions" }, "", [{ reason, message, field }]);
}

export class ListServer {
  readonly #registry: Registry;
  readonly #kept = new Map<string, Kept>();

  constructor(registry: Registry) {
    this.#registry = registry;
  }

  serve(ask: ResourceRequest): void {
    const { query, kind } = ask;
    const selects = selectorOf(query, kind);
    const limit = Number(query.get("limit") ?? 0);
    const token = query.get("continue") ?? "";
    const asked = query.get("resourceVersion") ?? "";
    this.#checkVersion(query, asked, token);
    const scope = `${kind.group}/${kind.version}/${kind.plural}/${ask.namespace ?? ""}/${query.get("labelSelector") ?? ""}/${query.get("fieldSelector") ?? ""}`;
    let version = this.#registry.store.version;
    let items: readonly KubeObject[];
    let isKept = false;
    if (token === "") items = this.#registry.list(kind, ask.namespace).filter(selects);
    else {
      const { rv, start } = decode(token);
      isKept = rv >= 0;
      if (isKept) version = rv;
      const kept =
        rv < 0 ? this.#registry.list(kind, ask.namespace).filter(selects) : this.#keptItems(`${rv} ${scope}`, start);
      const isSeen = (index: number): boolean => keyOf(kept[index] as KubeObject) <= start;
      items = kept.slice(lowerBound(kept.length, isSeen));
    }
    if (ask.name !== undefined) items = items.filter((item) => item.metadata.name === ask.name);
    // What is worked out on the spot has no version.
    const meta: Record<string, unknown> = kind.verbs.includes("watch") ? { resourceVersion: String(version) } : {};
    // A client that takes any version is served from memory, whole.
    if (limit > 0 && items.length > limit && asked !== "0") {
      // A list that goes on inconsistently is from here on one of this version.
      if (!isKept) this.#keep(`${version} ${scope}`, items);
      const rest = items.length - limit;
      items = items.slice(0, limit);
      const last = items.at(-1);
      if (last !== undefined) meta["continue"] = encode({ v: "meta.k8s.io/v1", rv: version, start: keyOf(last) });
      const isSelected = (query.get("labelSelector") ?? "") !== "" || (query.get("fieldSelector") ?? "") !== "";
      if (!isSelected) meta["remainingItemCount"] = rest;
    }
    this.send(ask, items, meta);
  }

  #checkVersion(query: URLSearchParams, asked: string, token: string): void {
    const match = query.get("resourceVersionMatch") ?? "";
    if (match !== "" && asked === "")
      throw invalidListOption(
        "resourceVersionMatch",
        "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        "FieldValueForbidden",
      );
    if (match !== "" && !MATCHES.includes(match))
      throw invalidListOption(
        "resourceVersionMatch",
        `Unsupported value: ${JSON.stringify(match)}: supported values: "Exact", "NotOlderThan", ""`,
        "FieldValueNotSupported",
      );
    if (match === "Exact" && asked === "0")
      throw invalidListOption(
        "resourceVersionMatch",
        'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"',
        "FieldValueForbidden",
      );
    if (token !== "" && asked !== "" && asked !== "0")
      throw badRequest("specifying resource version is not allowed when using continue");
    if (asked === "") return;
    if (!/^\d+$/.test(asked))
      throw badRequest(
        `invalid resource version: resourceVersion: Invalid value: ${JSON.stringify(asked)}: strconv.ParseUint: parsing ${JSON.stringify(asked)}: invalid syntax`,
      );
    const current = this.#registry.store.version;
    if (Number(asked) > current) {
      const causes = [{ reason: "ResourceVersionTooLarge", message: "Too large resource version" }];
      throw new ApiError(504, "Timeout", `Timeout: Too large resource version: ${asked}, current: ${current}`, {
        causes,
        retryAfterSeconds: 1,
      });
    }
    if (match === "Exact" && Number(asked) < current) throw expired(Number(asked), current);
  }

  #keep(key: string, items: readonly KubeObject[]): void {
    const now = Date.now();
    for (const [old, { until }] of this.#kept) if (until < now || this.#kept.size >= KEPT_MAX) this.#kept.delete(old);
    this.#kept.set(key, { items, until: now + KEPT_MS });
  }

  #keptItems(key: string, start: string): readonly KubeObject[] {
    const kept = this.#kept.get(key);
    if (kept !== undefined && kept.until >= Date.now()) return kept.items;
    const message =
      "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
    throw new ApiError(410, "Expired", message, undefined, {
      continue: encode({ v: "meta.k8s.io/v1", rv: -1, start }),
    });
  }

  /** Answers a list in the form that the client accepts. */
  send(ask: ResourceRequest, items: readonly KubeObject[], metadata: Record<string, unknown>): void {
    const rendering = renderingOf(ask.request);
    if (rendering === "table") {
      const include = (ask.query.get("includeObject") ?? "Metadata") as IncludeObject;
      sendJson(
        ask.request,
        ask.response,
        200,
        renderTable(ask.kind, items, { listMeta: metadata, include, isFirst: true }),
      );
    } else if (rendering === "metadata") {
      const head = { kind: "PartialObjectMetadataList", apiVersion: "meta.k8s.io/v1", metadata };
      sendJson(ask.request, ask.response, 200, { ...head, items: items.map(metadataOnly) });
    } else {
      // Custom lists always say whether they go on.
      const meta = isCustom(ask.kind) ? { continue: "", ...metadata } : metadata;
      const plain = isCustom(ask.kind) ? items : items.map(({ kind: _kind, apiVersion: _apiVersion, ...rest }) => rest);
      sendJson(ask.request, ask.response, 200, { ...listKind(ask.kind), metadata: meta, items: plain });
    }
  }
}
