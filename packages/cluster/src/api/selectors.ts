// Label and field selectors: the texts of queries and the objects of specs.
import { isObject } from "@lateen/base";
import { badRequest } from "./errors.ts";
import type { KubeObject, LabelSelector } from "./objects.ts";

export type Predicate = (object: KubeObject) => boolean;

const labelOf = (object: KubeObject, key: string): string | undefined => object.metadata.labels?.[key];

/** Whether `labels` satisfies every pair of `wanted`. */
export function hasLabels(
  labels: Readonly<Record<string, string>> | undefined,
  wanted: Readonly<Record<string, string>>,
) {
  return Object.entries(wanted).every(([key, value]) => labels?.[key] === value);
}

function labelTerm(term: string): Predicate {
  const set = /^\s*([\w./-]+)\s+(in|notin)\s*\(([^)]*)\)\s*$/.exec(term);
  if (set !== null) {
    const [, key = "", operator, list = ""] = set;
    const values = new Set(list.split(",").map((value) => value.trim()));
    return operator === "in"
      ? (object) => values.has(labelOf(object, key) ?? "\0")
      : (object) => !values.has(labelOf(object, key) ?? "\0");
  }
  const comparison = /^\s*([\w./-]+)\s*(==|=|!=)\s*([\w.-]*)\s*$/.exec(term);
  if (comparison !== null) {
    const [, key = "", operator, value = ""] = comparison;
    return operator === "!=" ? (object) => labelOf(object, key) !== value : (object) => labelOf(object, key) === value;
  }
  const presence = /^\s*(!?)\s*([\w./-]+)\s*$/.exec(term);
  if (presence === null) throw badRequest(`unable to parse requirement: found '${term.trim()}', expected: identifier`);
  const [, not, key = ""] = presence;
  return not === "!" ? (object) => labelOf(object, key) === undefined : (object) => labelOf(object, key) !== undefined;
}

/** Parses a `labelSelector` query. Throws 400 for what is none. */
export function parseLabelSelector(text: string): Predicate {
  if (text.trim() === "") return () => true;
  const terms = text.split(/,(?![^(]*\))/).map(labelTerm);
  return (object) => terms.every((term) => term(object));
}

function fieldValue(object: unknown, path: string): string | undefined {
  let at: unknown = object;
  for (const step of path.split(".")) at = isObject(at) ? at[step] : undefined;
  return at === undefined ? "" : typeof at === "object" ? undefined : String(at);
}

const FIELDS: Readonly<Record<string, readonly string[]>> = {
  pods: ["spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "status.phase", "status.podIP"],
  events: ["involvedObject.", "reason", "reportingComponent", "source", "type"],
  secrets: ["type"],
  namespaces: ["status.phase"],
};

/** Parses a `fieldSelector` query for a resource. Throws 400 for a field that it does not support. */
export function parseFieldSelector(text: string, plural: string): Predicate {
  if (text.trim() === "") return () => true;
  const terms = text.split(",").map((term): Predicate => {
    const match = /^([\w.]+)(==|=|!=)(.*)$/.exec(term.trim());
    if (match === null) throw badRequest(`invalid selector: '${text}'; can't understand '${term}'`);
    const [, path = "", operator, value = ""] = match;
    const supported = ["metadata.name", "metadata.namespace", ...(FIELDS[plural] ?? [])];
    if (!supported.some((field) => path === field || (field.endsWith(".") && path.startsWith(field)))) {
      throw badRequest(`field label not supported: ${path}`);
    }
    return (object) => (fieldValue(object, path) === value) === (operator !== "!=");
  });
  return (object) => terms.every((term) => term(object));
}

/** A spec's selector as a predicate on labels. An absent selector selects nothing, an empty one everything. */
export function selectsLabels(
  selector: LabelSelector | undefined,
): (labels: Readonly<Record<string, string>> | undefined) => boolean {
  if (selector === undefined) return () => false;
  return (labels) =>
    hasLabels(labels, selector.matchLabels ?? {}) &&
    (selector.matchExpressions ?? []).every(({ key, operator, values = [] }) => {
      const value = labels?.[key];
      if (operator === "Exists") return value !== undefined;
      if (operator === "DoesNotExist") return value === undefined;
      return values.includes(value ?? "\0") === (operator === "In");
    });
}
