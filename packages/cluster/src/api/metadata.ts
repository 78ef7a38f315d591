// What holds for the metadata of every object: names, labels, annotations, finalizers, owners. Rules and words are those of
// Kubernetes' API machinery (apimachinery/pkg/api/validation).

import { isCustom } from "./custom.ts";
import type { StatusCause } from "./errors.ts";
import type { Kind } from "./kinds.ts";
import type { KubeObject } from "./objects.ts";

const LABEL = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;
const LABEL_1035 = /^[a-z]([-a-z0-9]*[a-z0-9])?$/;
const SUBDOMAIN = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const QUALIFIED = /^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$/;
const ANNOTATIONS_BYTES_MAX = 256 << 10;

const LABEL_TEXT =
  "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035_TEXT =
  "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_TEXT =
  "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_TEXT =
  "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_TEXT =
  "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

export function invalidValue(field: string, value: unknown, message: string): StatusCause {
  const shown = typeof value === "string" || typeof value === "object" ? JSON.stringify(value) : String(value);
  return { reason: "FieldValueInvalid", message: `Invalid value: ${shown}: ${message}`, field };
}

export const forbiddenField = (field: string, message: string): StatusCause => ({
  reason: "FieldValueForbidden",
  message: `Forbidden: ${message}`,
  field,
});

export function unsupported(field: string, value: unknown, allowed: readonly string[]): StatusCause {
  const list = allowed.map((entry) => JSON.stringify(entry)).join(", ");
  return {
    reason: "FieldValueNotSupported",
    message: `Unsupported value: ${JSON.stringify(value)}: supported values: ${list}`,
    field,
  };
}

export const isSubdomain = (text: string): boolean => text.length <= 253 && SUBDOMAIN.test(text);

const tooLong = (length: number): string => `must be no more than ${length} characters`;

export function labelCauses(text: string, field: string): StatusCause[] {
  return [
    ...(text.length > 63 ? [invalidValue(field, text, tooLong(63))] : []),
    ...(LABEL.test(text) ? [] : [invalidValue(field, text, LABEL_TEXT)]),
  ];
}

function subdomainCauses(text: string, field: string): StatusCause[] {
  return [
    ...(text.length > 253 ? [invalidValue(field, text, tooLong(253))] : []),
    ...(SUBDOMAIN.test(text) ? [] : [invalidValue(field, text, SUBDOMAIN_TEXT)]),
  ];
}

/** Kinds whose names are path segments, free of `/` and `%`, not DNS names. */
const PATH_NAMES = new Set([
  "apiservices",
  "roles",
  "rolebindings",
  "clusterroles",
  "clusterrolebindings",
  "certificatesigningrequests",
]);

function nameCauses(kind: Kind, name: string): StatusCause[] {
  const field = "metadata.name";
  if (kind.group === "rbac.authorization.k8s.io" || PATH_NAMES.has(kind.plural)) {
    const bad = [".", ".."].includes(name)
      ? [`may not be '${name}'`]
      : ["/", "%"].filter((sign) => name.includes(sign)).map((sign) => `may not contain '${sign}'`);
    return bad.map((message) => invalidValue(field, name, message));
  }
  if (kind.group === "" && kind.plural === "services") {
    return [
      ...(name.length > 63 ? [invalidValue(field, name, tooLong(63))] : []),
      ...(LABEL_1035.test(name) ? [] : [invalidValue(field, name, LABEL_1035_TEXT)]),
    ];
  }
  if (kind.plural === "namespaces") return labelCauses(name, field);
  if (kind.group === "flowcontrol.apiserver.k8s.io" || isCustom(kind) || kind.plural !== "ipaddresses")
    return subdomainCauses(name, field);
  return [];
}

function keyCauses(key: string, field: string): StatusCause[] {
  const [name = "", prefix, ...rest] = key.split("/").toReversed();
  if (rest.length > 0)
    return [
      invalidValue(
        field,
        key,
        "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
      ),
    ];
  const causes: StatusCause[] = [];
  if (prefix === "") causes.push(invalidValue(field, key, "prefix part must be non-empty"));
  else if (prefix !== undefined && !isSubdomain(prefix))
    causes.push(invalidValue(field, key, `prefix part ${SUBDOMAIN_TEXT}`));
  if (name === "") causes.push(invalidValue(field, key, "name part must be non-empty"));
  else if (name.length > 63) causes.push(invalidValue(field, key, `name part ${tooLong(63)}`));
  if (!QUALIFIED.test(name)) causes.push(invalidValue(field, key, QUALIFIED_TEXT));
  return causes;
}

/** What is wrong with labels at `field`. */
export function labelsCauses(labels: Readonly<Record<string, string>> | undefined, field: string): StatusCause[] {
  return Object.entries(labels ?? {}).flatMap(([key, value]) => [
    ...keyCauses(key, field),
    ...(value.length > 63 ? [invalidValue(field, value, tooLong(63))] : []),
    ...(value !== "" && !QUALIFIED.test(value) ? [invalidValue(field, value, VALUE_TEXT)] : []),
  ]);
}

/** What is wrong with the metadata of a new or changed object. */
export function metadataCauses(kind: Kind, object: KubeObject): StatusCause[] {
  const { name, generateName, labels, annotations, finalizers, ownerReferences } = object.metadata;
  const causes: StatusCause[] = [];
  if ((name ?? "") === "") {
    if ((generateName ?? "") === "")
      causes.push({
        reason: "FieldValueRequired",
        message: "Required value: name or generateName is required",
        field: "metadata.name",
      });
  } else causes.push(...nameCauses(kind, name));
  causes.push(...labelsCauses(labels, "metadata.labels"));
  const keys = Object.keys(annotations ?? {});
  causes.push(...keys.flatMap((key) => keyCauses(key.toLowerCase(), "metadata.annotations")));
  const size = Object.entries(annotations ?? {}).reduce((sum, [key, value]) => sum + key.length + value.length, 0);
  if (size > ANNOTATIONS_BYTES_MAX)
    causes.push({
      reason: "FieldValueTooLong",
      message: `Too long: may not be more than ${ANNOTATIONS_BYTES_MAX} bytes`,
      field: "metadata.annotations",
    });
  for (const [i, finalizer] of (finalizers ?? []).entries()) {
    const isKnown = ["foregroundDeletion", "orphan", "kubernetes"].includes(finalizer);
    if (!isKnown && !finalizer.includes("/") && kind.group === "")
      causes.push(
        invalidValue(
          `metadata.finalizers[${i}]`,
          finalizer,
          "name is neither a standard finalizer name nor is it fully qualified",
        ),
      );
    else causes.push(...keyCauses(finalizer, "metadata.finalizers"));
  }
  const owners = ownerReferences ?? [];
  owners.forEach((owner, i) => {
    for (const key of ["apiVersion", "kind", "name", "uid"] as const)
      if (owner[key] === "")
        causes.push(invalidValue(`metadata.ownerReferences[${i}].${key}`, "", `must not be empty`));
  });
  const controllers = owners.filter((owner) => owner.controller === true);
  if (controllers.length > 1) {
    const [first, second] = controllers;
    causes.push(
      invalidValue(
        "metadata.ownerReferences",
        owners,
        `Only one reference can have Controller set to true. Found "true" in references for ${first?.kind}/${first?.name} and ${second?.kind}/${second?.name}`,
      ),
    );
  }
  return causes;
}
