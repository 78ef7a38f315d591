// Label and field selectors: the texts of queries and the objects of specs.
import { isObject } from "@lateen/base";
import { isCustom } from "./custom.ts";
import { badRequest } from "./errors.ts";
import type { Kind } from "./kinds.ts";
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
  const rest = /^\s*[\w./-]+\s*(?:==|=|!=)\s*[\w.-]*\s*(\S)/.exec(term)?.[1];
  if (rest !== undefined) throw badRequest(`found '${rest}', expected: ',' or 'end of string'`);
  const presence = /^\s*(!?)\s*([\w./-]+)\s*$/.exec(term);
  if (presence === null)
    throw badRequest(
      `unable to parse requirement: found '${term.trim()}', expected: !, identifier, or 'end of string'`,
    );
  const [, not, key = ""] = presence;
  return not === "!" ? (object) => labelOf(object, key) === undefined : (object) => labelOf(object, key) !== undefined;
}

/** Parses a `labelSelector` query. Throws 400 for what is none. */
function parseLabelSelector(text: string): Predicate {
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
  pods: [
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
  ],
  events: ["involvedObject.", "reason", "reportingComponent", "source", "type", "regarding.", "reportingController"],
  secrets: ["type"],
  namespaces: ["status.phase"],
  nodes: ["spec.unschedulable"],
  jobs: ["status.successful"],
  replicasets: ["status.replicas"],
  replicationcontrollers: ["status.replicas"],
  certificatesigningrequests: ["spec.signerName"],
  services: ["spec.clusterIP", "spec.type"],
};

/** Fields whose value is not found at their own path. */
const FIELD_PATHS: Readonly<Record<string, string>> = {
  "events source": "source.component",
  "jobs status.successful": "status.succeeded",
};

/** Parses a `fieldSelector` query for a resource. Throws 400 for a field that it does not support. */
function parseFieldSelector(text: string, kind: Kind): Predicate {
  if (text.trim() === "") return () => true;
  const { plural } = kind;
  const supported = [
    "metadata.name",
    "metadata.namespace",
    ...(isCustom(kind) ? kind.selectable : (FIELDS[plural] ?? [])),
  ];
  const terms = text.split(",").map((term): Predicate => {
    const match = /^([\w.]+)(==|=|!=)(.*)$/.exec(term.trim());
    if (match === null) throw badRequest(`invalid selector: '${text}'; can't understand '${term}'`);
    const [, path = "", operator, value = ""] = match;
    if (!supported.some((field) => path === field || (field.endsWith(".") && path.startsWith(field)))) {
      throw badRequest(
        isCustom(kind) || FIELDS[plural] !== undefined
          ? `field label not supported: ${path}`
          : `"${path}" is not a known field selector: only "metadata.name", "metadata.namespace"`,
      );
    }
    const at = FIELD_PATHS[`${plural} ${path}`] ?? path;
    // Booleans and numbers that are not there are false and 0.
    const isFlag = value === "false" || value === "0";
    const same = (object: KubeObject): boolean => {
      const found = fieldValue(object, at);
      return found === value || (isFlag && found === "");
    };
    return (object) => same(object) === (operator !== "!=");
  });
  return (object) => terms.every((term) => term(object));
}

/** Label and field selectors of a request as one test. */
export function selectorOf(query: URLSearchParams, kind: Kind): Predicate {
  const labels = parseLabelSelector(query.get("labelSelector") ?? "");
  const fields = parseFieldSelector(query.get("fieldSelector") ?? "", kind);
  return (object) => labels(object) && fields(object);
}

/** A spec's selector as the text of a query. */
export function selectorText(selector: LabelSelector | undefined): string {
  const pairs = Object.entries(selector?.matchLabels ?? {}).map(([key, value]) => `${key}=${value}`);
  const terms = (selector?.matchExpressions ?? []).map(({ key, operator, values = [] }) => {
    if (operator === "Exists") return key;
    if (operator === "DoesNotExist") return `!${key}`;
    return `${key} ${operator === "In" ? "in" : "notin"} (${values.join(",")})`;
  });
  return [...pairs.toSorted(), ...terms].join(",");
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
