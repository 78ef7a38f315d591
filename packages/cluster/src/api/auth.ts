// Who asks and what they may: client certificates and ServiceAccount tokens in, RBAC decisions out.
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  type KeyObject,
  randomUUID,
  sign,
  verify,
} from "node:crypto";
import type { TLSSocket } from "node:tls";
import { promisify } from "node:util";
import { isObject } from "@lateen/base";
import { ApiError } from "./errors.ts";
import { builtIn, tableOf } from "./kinds.ts";
import type { KubeObject } from "./objects.ts";
import type { Store } from "./store.ts";

export interface User {
  readonly name: string;
  readonly uid?: string;
  readonly groups: readonly string[];
  readonly extra?: Readonly<Record<string, readonly string[]>>;
}

const ANONYMOUS: User = { name: "system:anonymous", groups: ["system:unauthenticated"] };
export const ISSUER = "https://kubernetes.default.svc.cluster.local";

/** Signs and checks ServiceAccount tokens (JWT, RS256). */
export class TokenSigner {
  readonly #key: KeyObject;
  readonly #public: KeyObject;
  readonly #keyId: string;

  constructor(keyPem: string) {
    this.#key = createPrivateKey(keyPem);
    this.#public = createPublicKey(this.#key);
    this.#keyId = createHash("sha256")
      .update(this.#public.export({ type: "spki", format: "der" }))
      .digest("base64url");
  }

  static async newKeyPem(): Promise<string> {
    const { privateKey } = await promisify(generateKeyPair)("rsa", { modulusLength: 2048 });
    return String(privateKey.export({ type: "pkcs8", format: "pem" }));
  }

  sign(claims: Readonly<Record<string, unknown>>): string {
    const encode = (part: unknown): string => Buffer.from(JSON.stringify(part)).toString("base64url");
    const body = `${encode({ alg: "RS256", kid: this.#keyId })}.${encode(claims)}`;
    return `${body}.${sign("RSA-SHA256", Buffer.from(body), this.#key).toString("base64url")}`;
  }

  /** The public key, for those who check tokens themselves (RFC 7517). */
  keySet(): unknown {
    const { n, e, kty } = this.#public.export({ format: "jwk" });
    return { keys: [{ use: "sig", kty, kid: this.#keyId, alg: "RS256", n, e }] };
  }

  /** OpenID discovery of the issuer. */
  discovery(): unknown {
    return {
      issuer: ISSUER,
      jwks_uri: `${ISSUER}/openid/v1/jwks`,
      response_types_supported: ["id_token"],
      subject_types_supported: ["public"],
      id_token_signing_alg_values_supported: ["RS256"],
    };
  }

  /** The claims of a token with a good signature that has not expired, else undefined. */
  claims(token: string): Record<string, unknown> | undefined {
    const [head, body, signature, ...rest] = token.split(".");
    if (head === undefined || body === undefined || signature === undefined || rest.length > 0) return undefined;
    const isSigned = verify(
      "RSA-SHA256",
      Buffer.from(`${head}.${body}`),
      this.#public,
      Buffer.from(signature, "base64url"),
    );
    if (!isSigned) return undefined;
    const claims: unknown = JSON.parse(Buffer.from(body, "base64url").toString("utf8"));
    return isObject(claims) && Number(claims["exp"]) * 1000 > Date.now() ? claims : undefined;
  }
}

/** What a token lives and dies with. */
export interface BoundObject {
  readonly kind: "pod" | "secret" | "node";
  readonly name: string;
  readonly uid: string;
  readonly nodeName?: string;
  readonly nodeUid?: string;
}

/** Issues a token of a ServiceAccount. `expirationSeconds` at least 600. */
export function issueToken(
  signer: TokenSigner,
  account: KubeObject,
  options: {
    readonly audiences: readonly string[];
    readonly expirationSeconds: number;
    /** When its holder should have asked for a new one, in seconds from now. */
    readonly warnAfterSeconds?: number;
    readonly bound?: BoundObject;
  },
): { token: string; expirationTimestamp: string } {
  const now = Math.floor(Date.now() / 1000);
  const { name, namespace = "", uid } = account.metadata;
  const { bound, warnAfterSeconds } = options;
  const expires = now + options.expirationSeconds;
  const token = signer.sign({
    aud: options.audiences.length === 0 ? [ISSUER] : options.audiences,
    exp: expires,
    iat: now,
    iss: ISSUER,
    jti: randomUUID(),
    "kubernetes.io": {
      namespace,
      ...(bound?.nodeName === undefined ? {} : { node: { name: bound.nodeName, uid: bound.nodeUid } }),
      ...(bound === undefined ? {} : { [bound.kind]: { name: bound.name, uid: bound.uid } }),
      serviceaccount: { name, uid },
      ...(warnAfterSeconds === undefined ? {} : { warnafter: now + warnAfterSeconds }),
    },
    nbf: now,
    sub: `system:serviceaccount:${namespace}:${name}`,
  });
  return { token, expirationTimestamp: new Date(expires * 1000).toISOString().replace(".000", "") };
}

interface AccountClaims {
  readonly namespace: string;
  readonly serviceaccount: { readonly name: string; readonly uid: string };
  readonly pod?: { readonly name: string; readonly uid: string };
  readonly secret?: { readonly name: string; readonly uid: string };
  readonly node?: { readonly name: string; readonly uid?: string };
}

/** Checks tokens against the store: the account, and the pod that a token is bound to, must still exist. */
export class Authenticator {
  readonly #store: Store;
  readonly #signer: TokenSigner;
  /** Users by connection: a certificate is shown once. */
  readonly #certified = new WeakMap<TLSSocket, User>();

  constructor(store: Store, signer: TokenSigner) {
    this.#store = store;
    this.#signer = signer;
  }

  /** The user of a token that is meant for one of `audiences`, with those of them that it is meant for. */
  review(token: string, audiences: readonly string[]): { user: User; audiences: string[] } | undefined {
    const claims = this.#signer.claims(token);
    if (claims === undefined || claims["iss"] !== ISSUER) return undefined;
    const own = Array.isArray(claims["aud"]) ? claims["aud"].map(String) : [];
    const shared = audiences.filter((audience) => own.includes(audience));
    if (shared.length === 0) return undefined;
    const { namespace, serviceaccount, pod, secret, node } = claims["kubernetes.io"] as AccountClaims;
    const account = this.#store.get("serviceaccounts", namespace, serviceaccount.name);
    if (account?.metadata.uid !== serviceaccount.uid) return undefined;
    if (pod !== undefined && this.#store.get("pods", namespace, pod.name)?.metadata.uid !== pod.uid) return undefined;
    if (secret !== undefined && this.#store.get("secrets", namespace, secret.name)?.metadata.uid !== secret.uid)
      return undefined;
    const extra = {
      extra: {
        "authentication.kubernetes.io/credential-id": [`JTI=${String(claims["jti"])}`],
        ...(node === undefined
          ? {}
          : {
              "authentication.kubernetes.io/node-name": [node.name],
              ...(node.uid === undefined ? {} : { "authentication.kubernetes.io/node-uid": [node.uid] }),
            }),
        ...(pod === undefined
          ? {}
          : {
              "authentication.kubernetes.io/pod-name": [pod.name],
              "authentication.kubernetes.io/pod-uid": [pod.uid],
            }),
      },
    };
    const groups = ["system:serviceaccounts", `system:serviceaccounts:${namespace}`, "system:authenticated"];
    const user = { name: `system:serviceaccount:${namespace}:${serviceaccount.name}`, uid: serviceaccount.uid, groups };
    return { user: { ...user, ...extra }, audiences: shared };
  }

  /** The user behind a request. A token that is presented and wrong is 401; neither token nor certificate is anonymous. */
  authenticate(socket: TLSSocket, authorization: string | undefined): User {
    if (authorization?.startsWith("Bearer ") === true) {
      const found = this.review(authorization.slice("Bearer ".length), [ISSUER]);
      if (found === undefined) throw new ApiError(401, "Unauthorized", "Unauthorized");
      return found.user;
    }
    if (!socket.authorized) return ANONYMOUS;
    const known = this.#certified.get(socket);
    if (known !== undefined) return known;
    const { subject, raw } = socket.getPeerCertificate();
    const { CN, O } = subject;
    const organizations = O === undefined ? [] : Array.isArray(O) ? O : [O];
    const id = `X509SHA256=${createHash("sha256").update(raw).digest("hex")}`;
    const extra = { "authentication.kubernetes.io/credential-id": [id] };
    const user = { name: String(CN), groups: [...organizations, "system:authenticated"], extra };
    this.#certified.set(socket, user);
    return user;
  }
}

/** What is asked for. */
export interface Action {
  readonly verb: string;
  readonly group: string;
  readonly resource: string;
  readonly subresource: string;
  readonly namespace: string;
  readonly name: string;
  /** For requests that are not about a resource. */
  readonly path?: string;
}

export interface Rule {
  readonly [field: string]: unknown;
  readonly verbs?: readonly string[];
  readonly apiGroups?: readonly string[];
  readonly resources?: readonly string[];
  readonly resourceNames?: readonly string[];
  readonly nonResourceURLs?: readonly string[];
}

const holds = (list: readonly string[] | undefined, value: string): boolean =>
  list?.some((entry) => entry === "*" || entry === value) === true;

function ruleAllows(rule: Rule, action: Action): boolean {
  if (!holds(rule.verbs, action.verb)) return false;
  if (action.path !== undefined) {
    return (
      rule.nonResourceURLs?.some(
        (url) => url === action.path || (url.endsWith("*") && action.path?.startsWith(url.slice(0, -1))),
      ) === true
    );
  }
  const resource = action.subresource === "" ? action.resource : `${action.resource}/${action.subresource}`;
  const isNamed =
    rule.resourceNames === undefined || rule.resourceNames.length === 0 || rule.resourceNames.includes(action.name);
  return (
    holds(rule.apiGroups, action.group) &&
    isNamed &&
    (holds(rule.resources, resource) || rule.resources?.includes(`*/${action.subresource}`) === true)
  );
}

interface Binding extends KubeObject {
  readonly subjects?: readonly { kind: string; name: string; namespace?: string }[];
  readonly roleRef: { kind: string; name: string };
}

type RbacSubject = NonNullable<Binding["subjects"]>[number];

/** The subject of a binding that is the user. */
function subjectOf(binding: Binding, user: User): RbacSubject | undefined {
  return (binding.subjects ?? []).find((subject) => {
    if (subject.kind === "User") return subject.name === user.name;
    if (subject.kind === "Group") return user.groups.includes(subject.name);
    return user.name === `system:serviceaccount:${subject.namespace ?? binding.metadata.namespace}:${subject.name}`;
  });
}

/** Paths open to everybody who is authenticated, as Kubernetes' system:discovery role opens them. */
const DISCOVERY = /^\/(api|apis|openapi|version|healthz|livez|readyz)(\/|$)/;

/** Whether RBAC lets `user` do `action`. Members of system:masters may do everything. */
export function isAllowed(store: Store, user: User, action: Action): boolean {
  return whyAllowed(store, user, action) !== undefined;
}

/** What lets `user` do `action`: a binding, in RBAC's words; empty where it needs none; undefined: nothing does. */
export function whyAllowed(store: Store, user: User, action: Action): string | undefined {
  if (user.groups.includes("system:masters")) return "";
  const isKnown = user.groups.includes("system:authenticated");
  if (isKnown && action.path !== undefined && action.verb === "get" && DISCOVERY.test(action.path)) return "";
  if (isKnown && action.verb === "create" && action.resource.startsWith("selfsubject")) return "";
  return grantsFor(store, user, action.namespace).find(({ rules }) => rules.some((rule) => ruleAllows(rule, action)))
    ?.reason;
}

interface Grant {
  readonly rules: readonly Rule[];
  readonly reason: string;
}

/** What bindings give to a user: of the whole cluster, and of a namespace where one is named. */
function grantsFor(store: Store, user: User, namespace: string): Grant[] {
  const roles = tableOf(builtIn("roles"));
  const clusterRoles = tableOf(builtIn("clusterroles"));
  const of = (kind: string, table: string, within?: string): Grant[] =>
    (store.list(table, within) as Binding[]).flatMap((binding) => {
      const subject = subjectOf(binding, user);
      if (subject === undefined) return [];
      const { roleRef, metadata } = binding;
      const role =
        roleRef.kind === "Role"
          ? store.get(roles, metadata.namespace, roleRef.name)
          : store.get(clusterRoles, undefined, roleRef.name);
      const name = metadata.namespace === undefined ? metadata.name : `${metadata.name}/${metadata.namespace}`;
      const who =
        subject.kind === "ServiceAccount" ? `${subject.name}/${subject.namespace ?? metadata.namespace}` : subject.name;
      const reason = `RBAC: allowed by ${kind} "${name}" of ${roleRef.kind} "${roleRef.name}" to ${subject.kind} "${who}"`;
      return [{ rules: (role?.["rules"] ?? []) as Rule[], reason }];
    });
  const everywhere = of("ClusterRoleBinding", tableOf(builtIn("clusterrolebindings")));
  return namespace === ""
    ? everywhere
    : [...everywhere, ...of("RoleBinding", tableOf(builtIn("rolebindings")), namespace)];
}

/** The rules that bindings give to a user. */
export function rulesFor(store: Store, user: User, namespace: string): Rule[] {
  return grantsFor(store, user, namespace).flatMap(({ rules }) => rules);
}

/** The 403 of a refused action. */
export function forbidden(user: User, action: Action): ApiError {
  if (action.path !== undefined) {
    const message = `forbidden: User "${user.name}" cannot ${action.verb} path "${action.path}"`;
    return new ApiError(403, "Forbidden", message, {});
  }
  const resource = action.group === "" ? action.resource : `${action.resource}.${action.group}`;
  const full = action.subresource === "" ? action.resource : `${action.resource}/${action.subresource}`;
  const who = action.name === "" ? resource : `${resource} "${action.name}"`;
  const scope = action.namespace === "" ? "at the cluster scope" : `in the namespace "${action.namespace}"`;
  const message = `${who} is forbidden: User "${user.name}" cannot ${action.verb} resource "${full}" in API group "${action.group}" ${scope}`;
  return new ApiError(403, "Forbidden", message, {
    ...(action.name === "" ? {} : { name: action.name }),
    ...(action.group === "" ? {} : { group: action.group }),
    kind: action.resource,
  });
}
