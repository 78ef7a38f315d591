// Questions about identity and permission that clients put to the API: TokenReview, SubjectAccessReview and their like, and the
// issue of ServiceAccount tokens.
import { type Authenticator, ISSUER, issueToken, rulesFor, type TokenSigner, type User, whyAllowed } from "./auth.ts";
import type { Body } from "./body.ts";
import { ApiError, invalid } from "./errors.ts";
import type { KubeObject, Pod } from "./objects.ts";
import type { Registry } from "./registry.ts";
import type { ResourceRequest } from "./server.ts";
import type { Store } from "./store.ts";

const SECONDS_MIN = 600;
const SECONDS_MAX = 2 ** 32;
/** Clients of old do not read their token again: theirs lives a year, and says when it should have been renewed. */
const LEGACY_SECONDS = 3607;
const YEAR_SECONDS = 365 * 86_400;

/** Issues a token of the ServiceAccount that the request names. */
export function requestToken(registry: Registry, signer: TokenSigner, ask: ResourceRequest, body: Body): unknown {
  const name = ask.name ?? "";
  const account = registry.get(ask.kind, ask.namespace, name);
  const spec = (body["spec"] ?? {}) as {
    audiences?: string[];
    expirationSeconds?: number;
    boundObjectRef?: { kind: string; name: string; uid?: string } | null;
  };
  const seconds = spec.expirationSeconds ?? 3600;
  const subject = { group: "authentication.k8s.io", plural: "tokenrequests", kind: "TokenRequest" };
  if (seconds < SECONDS_MIN || seconds > SECONDS_MAX) {
    const message = `Invalid value: ${seconds}: may not specify a duration ${seconds < SECONDS_MIN ? "less than 10 minutes" : "larger than 2^32 seconds"}`;
    throw invalid(subject, "", [{ reason: "FieldValueInvalid", message, field: "spec.expirationSeconds" }]);
  }
  const bound = spec.boundObjectRef ?? undefined;
  const found = bound === undefined ? undefined : boundObject(registry.store, ask.namespace, bound, account);
  const isLegacy = seconds === LEGACY_SECONDS && bound?.kind === "Pod";
  const status = issueToken(signer, account, {
    audiences: spec.audiences ?? [],
    expirationSeconds: isLegacy ? YEAR_SECONDS : Math.min(seconds, YEAR_SECONDS),
    ...(isLegacy ? { warnAfterSeconds: LEGACY_SECONDS } : {}),
    ...(found === undefined ? {} : { bound: found }),
  });
  const metadata = { name, namespace: ask.namespace, creationTimestamp: new Date().toISOString().replace(/\.\d+/, "") };
  return {
    kind: "TokenRequest",
    apiVersion: "authentication.k8s.io/v1",
    metadata,
    spec: { audiences: spec.audiences ?? [ISSUER], expirationSeconds: seconds, boundObjectRef: bound ?? null },
    status,
  };
}

function boundObject(
  store: Store,
  namespace: string | undefined,
  ref: { kind: string; name: string; uid?: string },
  account: KubeObject,
) {
  const tables: Readonly<Record<string, string>> = { Pod: "pods", Secret: "secrets", Node: "nodes" };
  const table = tables[ref.kind];
  if (table === undefined)
    throw new ApiError(
      400,
      "BadRequest",
      `cannot bind token for serviceaccount "${account.metadata.name}" to object "${ref.name}" of type ${ref.kind}`,
    );
  const found = store.get(table, ref.kind === "Node" ? undefined : namespace, ref.name);
  if (found === undefined)
    throw new ApiError(404, "NotFound", `${table} "${ref.name}" not found`, { name: ref.name, kind: table });
  if (ref.uid !== undefined && ref.uid !== "" && ref.uid !== found.metadata.uid)
    throw new ApiError(
      409,
      "Conflict",
      `the UID in the bound object reference (${ref.uid}) does not match the UID in record. The object might have been deleted and then recreated`,
    );
  if (ref.kind === "Pod") {
    const { serviceAccountName, nodeName } = (found as Pod).spec;
    if (serviceAccountName !== account.metadata.name)
      throw new ApiError(
        400,
        "BadRequest",
        `cannot bind token for serviceaccount "${account.metadata.name}" to pod running with different serviceaccount name.`,
      );
    return {
      kind: "pod" as const,
      name: ref.name,
      uid: found.metadata.uid,
      ...nodeOf(store, nodeName),
    };
  }
  return { kind: ref.kind.toLowerCase() as "secret" | "node", name: ref.name, uid: found.metadata.uid };
}

/** The node of a pod, for its tokens. */
export function nodeOf(store: Store, nodeName: string | undefined): { nodeName?: string; nodeUid?: string } {
  if (nodeName === undefined || nodeName === "") return {};
  const nodeUid = store.get("nodes", undefined, nodeName)?.metadata.uid;
  return nodeUid === undefined ? { nodeName } : { nodeName, nodeUid };
}

/** Status of a TokenReview. */
export function reviewToken(authenticator: Authenticator, spec: Body): Body {
  const audiences = Array.isArray(spec["audiences"]) ? spec["audiences"].map(String) : [];
  const found = authenticator.review(String(spec["token"] ?? ""), audiences.length === 0 ? [ISSUER] : audiences);
  if (found === undefined) return { user: {}, error: "invalid bearer token" };
  const { name, uid, groups, extra } = found.user;
  const user = {
    username: name,
    ...(uid === undefined ? {} : { uid }),
    groups,
    ...(extra === undefined ? {} : { extra }),
  };
  return { authenticated: true, user, audiences: found.audiences };
}

/** Status of a SelfSubjectReview. */
export function reviewSelf({ name, uid, groups, extra }: User): Body {
  return {
    userInfo: {
      username: name,
      ...(uid === undefined ? {} : { uid }),
      groups,
      ...(extra === undefined ? {} : { extra }),
    },
  };
}

/** Status of a SelfSubjectRulesReview: what the user may do in a namespace. */
export function reviewRules(store: Store, user: User, namespace: string): Body {
  const rules = rulesFor(store, user, namespace);
  const plain = (rule: Body, names: readonly string[]): Body =>
    Object.fromEntries(names.filter((name) => rule[name] !== undefined).map((name) => [name, rule[name]]));
  return {
    resourceRules: rules
      .filter((rule) => rule["resources"] !== undefined)
      .map((rule) => plain(rule, ["verbs", "apiGroups", "resources", "resourceNames"])),
    nonResourceRules: rules
      .filter((rule) => rule["nonResourceURLs"] !== undefined)
      .map((rule) => plain(rule, ["verbs", "nonResourceURLs"])),
    incomplete: false,
  };
}

/** Status of the access reviews. */
export function reviewAccess(store: Store, ask: ResourceRequest, spec: Body): Body {
  const isSelf = ask.kind.kind === "SelfSubjectAccessReview";
  const user = isSelf ? ask.user : { name: String(spec["user"] ?? ""), groups: (spec["groups"] ?? []) as string[] };
  if ((spec["resourceAttributes"] === undefined) === (spec["nonResourceAttributes"] === undefined)) {
    const message = `Invalid value: ${JSON.stringify(spec["nonResourceAttributes"] ?? null)}: exactly one of nonResourceAttributes or resourceAttributes must be specified`;
    throw invalid(ask.kind, "", [{ reason: "FieldValueInvalid", message, field: "spec.resourceAttributes" }]);
  }
  const resource = (spec["resourceAttributes"] ?? {}) as Record<string, string | undefined>;
  const other = spec["nonResourceAttributes"] as { path?: string; verb?: string } | undefined;
  const [given = "", sub] = (resource["resource"] ?? "").split("/");
  const action = {
    verb: other?.verb ?? resource["verb"] ?? "",
    group: resource["group"] ?? "",
    resource: given,
    subresource: resource["subresource"] ?? sub ?? "",
    namespace: resource["namespace"] ?? (ask.kind.kind === "LocalSubjectAccessReview" ? (ask.namespace ?? "") : ""),
    name: resource["name"] ?? "",
    ...(other?.path === undefined ? {} : { path: other.path }),
  };
  const reason = whyAllowed(store, user, action);
  return reason === undefined ? { allowed: false } : { allowed: true, ...(reason === "" ? {} : { reason }) };
}
