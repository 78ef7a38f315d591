// Expressions at admission: the match conditions of webhooks, and ValidatingAdmissionPolicies with their bindings. Both are
// written in the Common Expression Language and see the object, the object before, and the request.
import { errorText, isObject } from "@lateen/base";
import { type CelProgram, compileMessage, newEnvironment, plainToCel, typeEnvironment } from "./cel.ts";
import { ApiError, type StatusCause } from "./errors.ts";
import { apiVersionOf, type Kind, type KindTable } from "./kinds.ts";
import { invalidValue } from "./metadata.ts";
import type { KubeObject, LabelSelector } from "./objects.ts";
import { selectsLabels } from "./selectors.ts";
import type { Store } from "./store.ts";

type Members = Record<string, any>;

export interface Expression {
  readonly name?: string;
  readonly expression: string;
}

/** What is admitted, as expressions see it. */
export interface Subject {
  readonly kind: Kind;
  readonly operation: string;
  readonly subresource: string;
  readonly name: string;
  readonly namespace: string | undefined;
  readonly object: KubeObject | undefined;
  readonly oldObject: KubeObject | undefined;
  readonly user: { readonly name: string; readonly groups: readonly string[] };
  readonly isDryRun: boolean;
}

const NAMES = ["object", "oldObject", "request", "params", "namespaceObject", "variables", "authorizer"] as const;
const RUNNER = NAMES.reduce((env, name) => env.registerVariable(name, "dyn"), newEnvironment());

const programs = new Map<string, CelProgram>();
/** Expressions are few and live in objects; this bounds what a stream of changed ones can hold. */
const PROGRAMS_MAX = 2000;

function programOf(expression: string): CelProgram {
  let program = programs.get(expression);
  if (program === undefined) {
    if (programs.size >= PROGRAMS_MAX) programs.clear();
    program = RUNNER.parse(expression) as CelProgram;
    programs.set(expression, program);
  }
  return program;
}

/** Why an expression does not compile; undefined: it does. */
function expressionError(expression: string): string | undefined {
  try {
    const { valid, error } = RUNNER.parse(expression).check();
    return valid ? undefined : compileMessage(error);
  } catch (error) {
    return compileMessage(error);
  }
}

function contextOf(subject: Subject, store: Store): Members {
  const { kind, namespace } = subject;
  const gvk = { group: kind.group, version: kind.version, kind: kind.kind };
  const resource = { group: kind.group, version: kind.version, resource: kind.plural };
  const found = namespace === undefined ? undefined : store.get("namespaces", undefined, namespace);
  return {
    object: plainToCel(subject.object ?? null),
    oldObject: plainToCel(subject.oldObject ?? null),
    request: plainToCel({
      kind: gvk,
      resource,
      subResource: subject.subresource,
      requestKind: gvk,
      requestResource: resource,
      requestSubResource: subject.subresource,
      name: subject.name,
      namespace: namespace ?? "",
      operation: subject.operation,
      userInfo: { username: subject.user.name, groups: subject.user.groups },
      dryRun: subject.isDryRun,
    }),
    namespaceObject: plainToCel(found ?? null),
    params: null,
    variables: {},
    authorizer: null,
  };
}

/** Whether all conditions hold. Throws 403 or 500 by the webhook's failure policy when one cannot be worked out. */
export function conditionsHold(conditions: readonly Expression[] | undefined, subject: Subject, store: Store): boolean {
  if (conditions === undefined || conditions.length === 0) return true;
  const context = contextOf(subject, store);
  return conditions.every(({ expression }) => programOf(expression)(context) === true);
}

/** Conditions that do not compile or have no name of their own; `at` is where they stand. */
export function conditionCauses(conditions: readonly Expression[] | undefined, at: string): StatusCause[] {
  return (conditions ?? []).flatMap(({ expression }, i) => {
    const error = expressionError(expression);
    return error === undefined ? [] : [invalidValue(`${at}[${i}].expression`, expression, error)];
  });
}

interface MatchResources {
  readonly resourceRules?: readonly Rule[];
  readonly excludeResourceRules?: readonly Rule[];
  readonly namespaceSelector?: LabelSelector;
  readonly objectSelector?: LabelSelector;
}

interface Rule {
  readonly operations?: readonly string[];
  readonly apiGroups?: readonly string[];
  readonly apiVersions?: readonly string[];
  readonly resources?: readonly string[];
  readonly resourceNames?: readonly string[];
}

const holds = (list: readonly string[] | undefined, value: string): boolean =>
  list?.some((entry) => entry === "*" || entry === value) === true;

function isRuled(
  { operations, apiGroups, apiVersions, resources, resourceNames }: Rule,
  { kind, operation, subresource, name }: Subject,
): boolean {
  const full = subresource === "" ? kind.plural : `${kind.plural}/${subresource}`;
  const isNamed = resourceNames === undefined || resourceNames.length === 0 || resourceNames.includes(name);
  const isResource =
    resources?.some(
      (entry) =>
        entry === full || entry === "*/*" || (entry === "*" && subresource === "") || entry === `${kind.plural}/*`,
    ) === true;
  return (
    holds(operations, operation) &&
    holds(apiGroups, kind.group) &&
    holds(apiVersions, kind.version) &&
    isResource &&
    isNamed
  );
}

function isMatched(match: MatchResources | undefined, subject: Subject, store: Store, needsRule: boolean): boolean {
  if (match === undefined) return !needsRule;
  const rules = match.resourceRules ?? [];
  if (rules.length > 0 ? !rules.some((rule) => isRuled(rule, subject)) : needsRule) return false;
  if ((match.excludeResourceRules ?? []).some((rule) => isRuled(rule, subject))) return false;
  const labels =
    subject.namespace === undefined
      ? undefined
      : store.get("namespaces", undefined, subject.namespace)?.metadata.labels;
  if (subject.namespace !== undefined && !selectsLabels(match.namespaceSelector ?? {})(labels)) return false;
  const selects = selectsLabels(match.objectSelector ?? {});
  return (
    selects(subject.object?.metadata?.labels) ||
    (subject.oldObject !== undefined && selects(subject.oldObject.metadata.labels))
  );
}

/** Variables are worked out when they are first read. */
function variablesOf(list: readonly Expression[], context: Members): Members {
  const variables: Members = {};
  for (const { name = "", expression } of list) {
    let value: { readonly found: unknown } | undefined;
    Object.defineProperty(variables, name, {
      enumerable: true,
      get: () => {
        value ??= { found: programOf(expression)(context) };
        return value.found;
      },
    });
  }
  return variables;
}

/** The objects that a binding gives to its policy as `params`: one evaluation for each; none: one without. */
function paramsOf(binding: Members, policy: Members, subject: Subject, store: Store, kinds: KindTable): unknown[] {
  const { paramKind } = policy["spec"];
  const { paramRef } = binding["spec"];
  if (paramKind === undefined || paramRef === undefined) return [null];
  const kind = kinds.ofObject(paramKind.apiVersion, paramKind.kind);
  if (kind === undefined)
    throw new Error(
      `failed to find resource referenced by paramKind: '${paramKind.apiVersion}, Kind=${paramKind.kind}'`,
    );
  const table = kind.group === "" ? kind.plural : `${kind.plural}.${kind.group}`;
  const namespace = kind.isNamespaced ? (paramRef.namespace ?? subject.namespace) : undefined;
  const selects = selectsLabels(paramRef.selector ?? {});
  const found = store
    .list(table, namespace)
    .filter((object) =>
      paramRef.name === undefined ? selects(object.metadata.labels) : object.metadata.name === paramRef.name,
    );
  if (found.length > 0) return found.map((object) => plainToCel(object));
  if (paramRef.parameterNotFoundAction === "Allow") return [];
  throw new Error("no params found for policy binding with `Deny` parameterNotFoundAction");
}

interface Verdict {
  readonly message: string;
  readonly reason: string;
}

function evaluate(policy: Members, context: Members): Verdict[] {
  const { validations = [], variables = [], matchConditions = [], failurePolicy } = policy["spec"];
  const all = { ...context };
  all["variables"] = variablesOf(variables as Expression[], all);
  if (!(matchConditions as Expression[]).every(({ expression }) => programOf(expression)(all) === true)) return [];
  return (validations as Members[]).flatMap((validation): Verdict[] => {
    const expression = String(validation["expression"]);
    const reason = String(validation["reason"] ?? "Invalid");
    try {
      if (programOf(expression)(all) === true) return [];
      return [{ message: messageOf(validation, all), reason }];
    } catch (error) {
      if (failurePolicy === "Ignore") return [];
      const [text = ""] = errorText(error).split("\n");
      return [
        {
          message: `expression '${expression}' resulted in error: ${text.replace(/^No such key/, "no such key")}`,
          reason,
        },
      ];
    }
  });
}

function messageOf(validation: Members, context: Members): string {
  const source = validation["messageExpression"];
  if (typeof source === "string" && source !== "") {
    try {
      const made = programOf(source)(context);
      if (typeof made === "string" && made.trim() !== "") return made;
    } catch {
      // A message that cannot be made is not the reason of the refusal: the plain one stands.
    }
  }
  return String(validation["message"] ?? `failed expression: ${String(validation["expression"])}`);
}

const CODES: Readonly<Record<string, number>> = {
  Invalid: 422,
  Forbidden: 403,
  Unauthorized: 401,
  RequestEntityTooLarge: 413,
};

/** Runs the policies that are bound to what is admitted. Throws when one denies it. */
export function checkPolicies(store: Store, kinds: KindTable, subject: Subject, warn: (text: string) => void): void {
  if (subject.kind.group === "admissionregistration.k8s.io") return;
  const bindings = store.list("validatingadmissionpolicybindings.admissionregistration.k8s.io") as Members[];
  if (bindings.length === 0) return;
  let context: Members | undefined;
  for (const binding of bindings) {
    const policy = store.get(
      "validatingadmissionpolicies.admissionregistration.k8s.io",
      undefined,
      binding["spec"].policyName,
    ) as Members | undefined;
    if (policy === undefined) continue;
    if (
      !isMatched(policy["spec"].matchConstraints, subject, store, true) ||
      !isMatched(binding["spec"].matchResources, subject, store, false)
    )
      continue;
    context ??= contextOf(subject, store);
    const verdicts = verdictsOf(policy, binding, context, subject, { store, kinds });
    const actions: string[] = binding["spec"].validationActions ?? ["Deny"];
    for (const { message, reason } of verdicts) {
      const text = `ValidatingAdmissionPolicy '${policy["metadata"].name}' with binding '${binding["metadata"].name}' denied request: ${message}`;
      if (actions.includes("Warn"))
        warn(
          `Validation failed for ValidatingAdmissionPolicy '${policy["metadata"].name}' with binding '${binding["metadata"].name}': ${message}`,
        );
      if (!actions.includes("Deny")) continue;
      const { kind, name } = subject;
      const full = kind.group === "" ? kind.plural : `${kind.plural}.${kind.group}`;
      const details = {
        name,
        ...(kind.group === "" ? {} : { group: kind.group }),
        kind: kind.plural,
        causes: [{ message: text }],
      };
      throw new ApiError(CODES[reason] ?? 422, reason, `${full} "${name}" is forbidden: ${text}`, details);
    }
  }
}

function verdictsOf(
  policy: Members,
  binding: Members,
  context: Members,
  subject: Subject,
  parts: { store: Store; kinds: KindTable },
): Verdict[] {
  try {
    const params = paramsOf(binding, policy, subject, parts.store, parts.kinds);
    return params.flatMap((entry) => evaluate(policy, { ...context, params: entry }));
  } catch (error) {
    if (policy["spec"].failurePolicy === "Ignore") return [];
    return [{ message: errorText(error), reason: "Invalid" }];
  }
}

/** What the types of the kinds that a policy matches say of its expressions: for its status. */
export function typeWarnings(policy: KubeObject, kinds: KindTable): { fieldRef: string; warning: string }[] {
  const { matchConstraints, validations = [] } = policy.spec as Members;
  const matched = ((matchConstraints?.resourceRules ?? []) as Rule[]).flatMap((rule) =>
    kinds
      .all()
      .filter(
        (kind) =>
          [rule.apiGroups, rule.apiVersions, rule.resources].every((list) => !(list ?? []).includes("*")) &&
          holds(rule.apiGroups, kind.group) &&
          holds(rule.apiVersions, kind.version) &&
          holds(rule.resources, kind.plural),
      ),
  );
  const warnings: { fieldRef: string; warning: string }[] = [];
  (validations as Members[]).forEach((validation, i) => {
    for (const field of ["expression", "messageExpression"]) {
      const source = validation[field];
      if (typeof source !== "string" || source === "") continue;
      const texts = matched.flatMap((kind) => {
        const error = typeError(kind, source);
        return error === undefined ? [] : [`${apiVersionOf(kind)}, Kind=${kind.kind}: ${error}\n`];
      });
      if (texts.length > 0) warnings.push({ fieldRef: `spec.validations[${i}].${field}`, warning: texts.join("\n") });
    }
  });
  return warnings;
}

function typeError(kind: Kind, source: string): string | undefined {
  try {
    const env = typeEnvironment(kind.type, ["object", "oldObject"]);
    for (const name of NAMES) if (name !== "object" && name !== "oldObject") env.registerVariable(name, "dyn");
    const { valid, error } = env.parse(source).check();
    return valid ? undefined : compileMessage(error).replace(/^compilation failed: /, "");
  } catch (error) {
    return compileMessage(error).replace(/^compilation failed: /, "");
  }
}

/** What is wrong with the expressions of a policy. */
export function policyCauses(policy: KubeObject): StatusCause[] {
  const spec = (policy.spec ?? {}) as Members;
  const of = (list: unknown, at: string): StatusCause[] =>
    (Array.isArray(list) ? list : []).flatMap((entry: unknown, i) => {
      if (!isObject(entry)) return [];
      return ["expression", "messageExpression", "valueExpression"].flatMap((field) => {
        const source = entry[field];
        if (typeof source !== "string" || source === "") return [];
        const error = expressionError(source);
        return error === undefined ? [] : [invalidValue(`${at}[${i}].${field}`, source, error)];
      });
    });
  return [
    ...of(spec["validations"], "spec.validations"),
    ...of(spec["variables"], "spec.variables"),
    ...of(spec["matchConditions"], "spec.matchConditions"),
    ...of(spec["auditAnnotations"], "spec.auditAnnotations"),
  ];
}
