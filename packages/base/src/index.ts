// Outcomes, durations, hashes and text order: what every layer shares. No I/O.
export { formatAge, parseDurationMs } from "./duration.ts";
export { errorCode, errorText, Failure } from "./failure.ts";
export { contentHash } from "./hash.ts";
export { canonicalJson, isObject, type Json, type JsonObject, jsonClone, jsonEqual } from "./json.ts";
export type { Diagnostic, Outcome } from "./outcome.ts";
export { compareText, lowerBound, sortedKeys } from "./text.ts";
