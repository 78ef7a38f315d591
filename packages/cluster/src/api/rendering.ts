// The form of an answer: the whole object, a Table, or metadata only, by what the client accepts.
import type { IncomingMessage } from "node:http";
import { ApiError } from "./errors.ts";
import type { KubeObject } from "./objects.ts";

export type Rendering = "json" | "table" | "metadata";

export function notAcceptable(): ApiError {
  const accepted = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
  return new ApiError(406, "NotAcceptable", `406: Not Acceptable\n\nAvailable representations: ${accepted}`, {});
}

/** The first form that the client accepts and we can make. Throws 406 where there is none. */
export function renderingOf(request: IncomingMessage): Rendering {
  const accept = request.headers.accept ?? "*/*";
  for (const range of accept.split(",").map((part) => part.trim())) {
    if (!range.startsWith("application/json") && !range.startsWith("*/*") && !range.startsWith("application/*"))
      continue;
    const group = /;\s*g=([^;]+)/.exec(range)?.[1];
    if (group !== undefined && group !== "meta.k8s.io") continue;
    if (range.includes("as=Table")) return "table";
    if (range.includes("as=PartialObjectMetadata")) return "metadata";
    if (/[;\s]as=/.test(range)) continue;
    return "json";
  }
  throw notAcceptable();
}

/** An object as PartialObjectMetadata. */
export function metadataOnly(object: KubeObject): Record<string, unknown> {
  return { kind: "PartialObjectMetadata", apiVersion: "meta.k8s.io/v1", metadata: object.metadata };
}
