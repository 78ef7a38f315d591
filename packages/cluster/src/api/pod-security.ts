// Pod Security admission: what the labels of a namespace (`pod-security.kubernetes.io/enforce`, `warn`) ask of its pods, by the Pod
// Security Standards `baseline` and `restricted`. https://kubernetes.io/docs/concepts/security/pod-security-standards/
// Pods are refused or warned about; what makes pods (Deployments and the like) is only warned about. `audit` has no log to go to.
import { compareText, jsonEqual } from "@lateen/base";
import type { AdmissionRequest } from "./admission.ts";
import { ApiError, invalid, type StatusCause } from "./errors.ts";
import type { Container, KubeObject } from "./objects.ts";
import type { Store } from "./store.ts";

type Members = Record<string, any>;

const LABEL = "pod-security.kubernetes.io/";
const MODES = ["enforce", "audit", "warn"] as const;
const LEVELS = ["privileged", "baseline", "restricted"] as const;
type Level = (typeof LEVELS)[number];
/** Existing pods that are looked at when a namespace asks for more. */
const EXISTING_MAX = 3_000;

interface Policy {
  readonly level: Level;
  readonly version: string;
}

/** A pod as the checks see it. */
interface Subject {
  readonly spec: Members;
  /** Init containers, containers, ephemeral ones. */
  readonly containers: readonly Container[];
}

interface Check {
  readonly level: "baseline" | "restricted";
  /** From this minor version of the standards on. */
  readonly since: number;
  readonly reason: string;
  /** What is wrong; undefined: nothing. */
  readonly detail: (pod: Subject) => string | undefined;
}

const quoted = (names: readonly string[]): string => names.map((name) => JSON.stringify(name)).join(", ");
const plural = (word: string, count: number): string => (count === 1 ? word : `${word}s`);
const sorted = (values: Iterable<unknown>): string[] => [...new Set([...values].map(String))].toSorted(compareText);
const security = (container: Container): Members => container.securityContext ?? {};
const podSecurity = (pod: Subject): Members => (pod.spec["securityContext"] ?? {}) as Members;

/** `container "a"`, `containers "a", "b"`: those that are bad. */
function named(pod: Subject, isBad: (container: Container) => boolean): string | undefined {
  const names = pod.containers.filter(isBad).map(({ name }) => name);
  return names.length === 0 ? undefined : `${plural("container", names.length)} ${quoted(names)}`;
}

/** Containers that must (not) do something, as a sentence. */
const must =
  (isBad: (container: Container) => boolean, what: string) =>
  (pod: Subject): string | undefined => {
    const who = named(pod, isBad);
    return who === undefined ? undefined : `${who} must ${what}`;
  };

/** Who sets a value that is forbidden: the pod, containers, or both. */
function setters(pod: Subject, isBad: (context: Members) => boolean): string | undefined {
  const who = [isBad(podSecurity(pod)) ? "pod" : undefined, named(pod, (container) => isBad(security(container)))];
  const found = who.filter((entry) => entry !== undefined);
  return found.length === 0 ? undefined : found.join(" and ");
}

const valuesOf = (pod: Subject, value: (context: Members) => unknown): unknown[] =>
  [podSecurity(pod), ...pod.containers.map(security)].map(value);

const DEFAULT_CAPABILITIES = new Set([
  "AUDIT_WRITE",
  "CHOWN",
  "DAC_OVERRIDE",
  "FOWNER",
  "FSETID",
  "KILL",
  "MKNOD",
  "NET_BIND_SERVICE",
  "SETFCAP",
  "SETGID",
  "SETPCAP",
  "SETUID",
  "SYS_CHROOT",
]);
const added = (container: Container): string[] => (security(container)["capabilities"]?.add ?? []) as string[];
const SELINUX_TYPES = new Set(["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"]);
const SYSCTLS = new Set([
  "kernel.shm_rmid_forced",
  "net.ipv4.ip_local_port_range",
  "net.ipv4.ip_local_reserved_ports",
  "net.ipv4.ip_unprivileged_port_start",
  "net.ipv4.ping_group_range",
  "net.ipv4.tcp_fin_timeout",
  "net.ipv4.tcp_keepalive_intvl",
  "net.ipv4.tcp_keepalive_probes",
  "net.ipv4.tcp_keepalive_time",
  "net.ipv4.tcp_rmem",
  "net.ipv4.tcp_syncookies",
  "net.ipv4.tcp_wmem",
]);
const VOLUMES = new Set([
  "configMap",
  "csi",
  "downwardAPI",
  "emptyDir",
  "ephemeral",
  "image",
  "persistentVolumeClaim",
  "projected",
  "secret",
]);
const isWindows = ({ spec }: Subject): boolean => spec["os"]?.name === "windows";
const runsAsOther = ({ spec }: Subject): boolean => spec["hostUsers"] === false;
const isLocal = (host: string): boolean => ["", "localhost", "127.0.0.1", "::1"].includes(host);

function capabilities(pod: Subject, allowed: ReadonlySet<string>): string | undefined {
  const who = named(pod, (container) => added(container).some((name) => !allowed.has(name)));
  const names = sorted(pod.containers.flatMap(added).filter((name) => !allowed.has(name)));
  return who === undefined ? undefined : `${who} must not include ${quoted(names)} in securityContext.capabilities.add`;
}

function probeHosts(container: Container): string[] {
  const { livenessProbe, readinessProbe, startupProbe, lifecycle } = container;
  const handlers = [livenessProbe, readinessProbe, startupProbe, lifecycle?.postStart, lifecycle?.preStop];
  return handlers
    .flatMap((handler) => [handler?.httpGet?.host, handler?.tcpSocket?.host])
    .filter((host) => host !== undefined && !isLocal(host)) as string[];
}

function volumes(pod: Subject, isBad: (type: string) => boolean): { names: string[]; types: string[] } {
  const found = ((pod.spec["volumes"] ?? []) as Members[]).flatMap((volume) => {
    const type = Object.keys(volume).find((key) => key !== "name") ?? "emptyDir";
    return isBad(type) ? [{ name: String(volume["name"]), type }] : [];
  });
  return { names: found.map(({ name }) => name), types: sorted(found.map(({ type }) => type)) };
}

const hostPorts = (container: Container): number[] =>
  ((container.ports ?? []) as Members[]).map(({ hostPort }) => Number(hostPort ?? 0)).filter((port) => port !== 0);

function seLinux(pod: Subject): string | undefined {
  const isBad = ({ seLinuxOptions: options }: Members): boolean =>
    options !== undefined &&
    (!SELINUX_TYPES.has(options.type ?? "") || (options.user ?? "") !== "" || (options.role ?? "") !== "");
  const who = setters(pod, isBad);
  if (who === undefined) return undefined;
  const all = valuesOf(pod, (context) => context["seLinuxOptions"]).filter((entry) => entry !== undefined) as Members[];
  const types = sorted(all.map(({ type }) => type ?? "").filter((type) => !SELINUX_TYPES.has(type)));
  const data = [
    ...(types.length === 0 ? [] : [`${plural("type", types.length)} ${quoted(types)}`]),
    ...(all.some(({ user }) => (user ?? "") !== "") ? ["user may not be set"] : []),
    ...(all.some(({ role }) => (role ?? "") !== "") ? ["role may not be set"] : []),
  ];
  return `${who} set forbidden securityContext.seLinuxOptions: ${data.join("; ")}`;
}

/** Settings that a profile type has: of the pod, or of each container, which goes first. */
function profile(pod: Subject, field: "seccompProfile" | "appArmorProfile", what: string): string | undefined {
  const isBad = (context: Members): boolean => {
    const type = context[field]?.type;
    return type !== undefined && !["RuntimeDefault", "Localhost"].includes(type);
  };
  const who = setters(pod, isBad);
  const types = sorted(
    valuesOf(pod, (context) => (isBad(context) ? context[field].type : undefined)).filter((type) => type !== undefined),
  );
  return who === undefined ? undefined : `${who} must not set ${what} to ${quoted(types)}`;
}

function nonRoot(pod: Subject): string | undefined {
  if (runsAsOther(pod)) return undefined;
  const who = setters(pod, (context) => context["runAsNonRoot"] === false);
  if (who !== undefined) return `${who} must not set securityContext.runAsNonRoot=false`;
  if (podSecurity(pod)["runAsNonRoot"] === true) return undefined;
  const missing = named(pod, (container) => security(container)["runAsNonRoot"] === undefined);
  return missing === undefined ? undefined : `pod or ${missing} must set securityContext.runAsNonRoot=true`;
}

function seccompSet(pod: Subject): string | undefined {
  if (isWindows(pod)) return undefined;
  const wrong = profile(pod, "seccompProfile", "securityContext.seccompProfile.type");
  if (wrong !== undefined) return wrong;
  if (podSecurity(pod)["seccompProfile"] !== undefined) return undefined;
  const missing = named(pod, (container) => security(container)["seccompProfile"] === undefined);
  const what = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"';
  return missing === undefined ? undefined : `pod or ${missing} ${what}`;
}

/** In the order in which a real server tells them. */
const CHECKS: readonly Check[] = [
  {
    level: "baseline",
    since: 0,
    reason: "forbidden AppArmor profile",
    detail: (pod) => profile(pod, "appArmorProfile", "AppArmor profile type"),
  },
  {
    level: "baseline",
    since: 0,
    reason: "non-default capabilities",
    detail: (pod) => capabilities(pod, DEFAULT_CAPABILITIES),
  },
  {
    level: "baseline",
    since: 0,
    reason: "host namespaces",
    detail: ({ spec }) => {
      const used = ["hostNetwork", "hostPID", "hostIPC"].filter((name) => spec[name] === true);
      return used.length === 0 ? undefined : used.map((name) => `${name}=true`).join(", ");
    },
  },
  {
    level: "baseline",
    since: 0,
    reason: "hostPath volumes",
    detail: (pod) => {
      const { names } = volumes(pod, (type) => type === "hostPath");
      return names.length === 0 ? undefined : `${plural("volume", names.length)} ${quoted(names)}`;
    },
  },
  {
    level: "baseline",
    since: 0,
    reason: "hostPort",
    detail: (pod) => {
      const who = named(pod, (container) => hostPorts(container).length > 0);
      const ports = sorted(pod.containers.flatMap(hostPorts));
      const isOne = pod.containers.filter((container) => hostPorts(container).length > 0).length === 1;
      return who === undefined
        ? undefined
        : `${who} ${isOne ? "uses" : "use"} ${plural("hostPort", ports.length)} ${ports.join(", ")}`;
    },
  },
  {
    level: "baseline",
    since: 34,
    reason: "probe or lifecycle host",
    detail: (pod) => {
      const bad = pod.containers.filter((container) => probeHosts(container).length > 0).map(({ name }) => name);
      const hosts = sorted(pod.containers.flatMap(probeHosts));
      const who = `${plural("container", bad.length)} ${quoted(bad.toSorted(compareText))}`;
      const what = `${plural("probe or lifecycle host", hosts.length)} ${quoted(hosts)}`;
      return bad.length === 0 ? undefined : `${who} ${bad.length === 1 ? "uses" : "use"} ${what}`;
    },
  },
  {
    level: "baseline",
    since: 0,
    reason: "privileged",
    detail: must((container) => security(container)["privileged"] === true, "not set securityContext.privileged=true"),
  },
  {
    level: "baseline",
    since: 0,
    reason: "procMount",
    detail: (pod) => {
      const isBad = (container: Container): boolean => (security(container)["procMount"] ?? "Default") !== "Default";
      const types = sorted(pod.containers.filter(isBad).map((container) => security(container)["procMount"]));
      return runsAsOther(pod) ? undefined : must(isBad, `not set securityContext.procMount to ${quoted(types)}`)(pod);
    },
  },
  { level: "baseline", since: 0, reason: "seLinuxOptions", detail: seLinux },
  {
    level: "baseline",
    since: 19,
    reason: "seccompProfile",
    detail: (pod) => profile(pod, "seccompProfile", "securityContext.seccompProfile.type"),
  },
  {
    level: "baseline",
    since: 0,
    reason: "forbidden sysctls",
    detail: (pod) => {
      const names = ((podSecurity(pod)["sysctls"] ?? []) as Members[]).map(({ name }) => String(name));
      const bad = names.filter((name) => !SYSCTLS.has(name));
      return bad.length === 0 ? undefined : bad.join(", ");
    },
  },
  {
    level: "restricted",
    since: 8,
    reason: "allowPrivilegeEscalation != false",
    detail: (pod) =>
      isWindows(pod)
        ? undefined
        : must(
            (container) => security(container)["allowPrivilegeEscalation"] !== false,
            "set securityContext.allowPrivilegeEscalation=false",
          )(pod),
  },
  {
    level: "restricted",
    since: 22,
    reason: "unrestricted capabilities",
    detail: (pod) => {
      if (isWindows(pod)) return undefined;
      const dropsAll = (container: Container): boolean =>
        ((security(container)["capabilities"]?.drop ?? []) as string[]).includes("ALL");
      const parts = [
        must((container) => !dropsAll(container), 'set securityContext.capabilities.drop=["ALL"]')(pod),
        capabilities(pod, new Set(["NET_BIND_SERVICE"])),
      ].filter((part) => part !== undefined);
      return parts.length === 0 ? undefined : parts.join("; ");
    },
  },
  {
    level: "restricted",
    since: 0,
    reason: "restricted volume types",
    detail: (pod) => {
      const { names, types } = volumes(pod, (type) => !VOLUMES.has(type));
      const what = `${plural("restricted volume type", types.length)} ${quoted(types)}`;
      return names.length === 0
        ? undefined
        : `${plural("volume", names.length)} ${quoted(names)} ${names.length === 1 ? "uses" : "use"} ${what}`;
    },
  },
  { level: "restricted", since: 0, reason: "runAsNonRoot != true", detail: nonRoot },
  {
    level: "restricted",
    since: 23,
    reason: "runAsUser=0",
    detail: (pod) => {
      const who = runsAsOther(pod) ? undefined : setters(pod, (context) => context["runAsUser"] === 0);
      return who === undefined ? undefined : `${who} must not set runAsUser=0`;
    },
  },
  { level: "restricted", since: 19, reason: "seccompProfile", detail: seccompSet },
];

/** What the stricter level says otherwise than the weaker one is said once. */
const OVERRIDDEN = new Set(["non-default capabilities", "hostPath volumes", "seccompProfile"]);

function policyOf(labels: Readonly<Record<string, string>>, mode: string): Policy {
  const level = labels[`${LABEL}${mode}`];
  const isLevel = (LEVELS as readonly (string | undefined)[]).includes(level);
  return { level: isLevel ? (level as Level) : "privileged", version: labels[`${LABEL}${mode}-version`] ?? "latest" };
}

interface Violation {
  readonly reason: string;
  readonly detail: string;
}

function violations(spec: Members, { level, version }: Policy): Violation[] {
  if (level === "privileged") return [];
  const minor = version === "latest" ? Number.POSITIVE_INFINITY : Number(/^v1\.(\d+)$/.exec(version)?.[1] ?? Infinity);
  const { initContainers = [], containers = [], ephemeralContainers = [] } = spec;
  const pod: Subject = { spec, containers: [...initContainers, ...containers, ...ephemeralContainers] };
  return CHECKS.flatMap((check) => {
    const isAsked =
      check.since <= minor && (check.level === level || (level === "restricted" && !OVERRIDDEN.has(check.reason)));
    const detail = isAsked ? check.detail(pod) : undefined;
    return detail === undefined ? [] : [{ reason: check.reason, detail }];
  });
}

const told = (found: readonly Violation[]): string =>
  found.map(({ reason, detail }) => `${reason} (${detail})`).join(", ");

/** The pod's spec in an object that is a pod or makes some. */
function podSpecOf({ kind }: AdmissionRequest, object: KubeObject): Members | undefined {
  const spec = (object.spec ?? {}) as Members;
  switch (`${kind.group}/${kind.plural}`) {
    case "/pods":
      return spec;
    case "batch/cronjobs":
      return spec["jobTemplate"]?.spec?.template?.spec;
    case "/podtemplates":
      return (object["template"] as Members | undefined)?.["spec"];
    case "/replicationcontrollers":
    case "apps/deployments":
    case "apps/replicasets":
    case "apps/daemonsets":
    case "apps/statefulsets":
    case "batch/jobs":
      return spec["template"]?.spec;
    default:
      return undefined;
  }
}

/** Labels of a namespace that name no level or version. */
function labelCauses(labels: Readonly<Record<string, string>>): StatusCause[] {
  return MODES.flatMap((mode) => {
    const causes: StatusCause[] = [];
    const add = (key: string, why: string): void => {
      const message = `Invalid value: ${JSON.stringify(labels[key])}: ${why}`;
      causes.push({ reason: "FieldValueInvalid", message, field: `metadata.labels[${key}]` });
    };
    const [level, version] = [`${LABEL}${mode}`, `${LABEL}${mode}-version`];
    if (labels[level] !== undefined && !(LEVELS as readonly string[]).includes(labels[level]))
      add(level, `must be one of ${LEVELS.join(", ")}`);
    if (labels[version] !== undefined && !/^(latest|v1\.\d+)$/.test(labels[version]))
      add(version, 'must be "latest" or "v1.x"');
    return causes;
  });
}

/** A namespace that asks for more says which of its pods do not have it. */
function checkNamespace(store: Store, ask: AdmissionRequest, object: KubeObject, warn: (text: string) => void): void {
  const labels = object.metadata.labels ?? {};
  const causes = labelCauses(labels);
  if (causes.length > 0) throw invalid({ ...ask.kind }, object.metadata.name, causes);
  const before = policyOf(ask.oldObject?.metadata.labels ?? {}, "enforce");
  const policy = policyOf(labels, "enforce");
  const isLess = LEVELS.indexOf(policy.level) < LEVELS.indexOf(before.level);
  if (ask.operation !== "UPDATE" || policy.level === "privileged" || isLess || jsonEqual(before, policy)) return;
  const groups = new Map<string, string[]>();
  for (const pod of store.list("pods", object.metadata.name).slice(0, EXISTING_MAX)) {
    const reasons = violations(pod.spec as Members, policy).map(({ reason }) => reason);
    if (reasons.length === 0) continue;
    const text = reasons.join(", ");
    groups.set(text, [...(groups.get(text) ?? []), pod.metadata.name]);
  }
  if (groups.size === 0) return;
  const shown = `${policy.level}:${policy.version}`;
  warn(`existing pods in namespace "${object.metadata.name}" violate the new PodSecurity enforce level "${shown}"`);
  for (const [text, [first = "", ...others]] of groups) {
    const rest = others.length === 0 ? "" : ` (and ${others.length} other ${plural("pod", others.length)})`;
    warn(`${first}${rest}: ${text}`);
  }
}

/** Refuses pods, and warns of them and of what makes them, as their namespace asks. */
export function checkPodSecurity(store: Store, ask: AdmissionRequest, warn: (text: string) => void): void {
  const { kind, object, oldObject } = ask;
  if (object === undefined || (ask.operation !== "CREATE" && ask.operation !== "UPDATE")) return;
  if (kind.group === "" && kind.plural === "namespaces" && ask.subresource === "") {
    checkNamespace(store, ask, object, warn);
    return;
  }
  const spec = podSpecOf(ask, object);
  if (spec === undefined || (ask.subresource !== "" && ask.subresource !== "ephemeralcontainers")) return;
  if (oldObject !== undefined && jsonEqual(podSpecOf(ask, oldObject), spec)) return;
  const labels = store.get("namespaces", undefined, ask.namespace ?? "")?.metadata.labels ?? {};
  const tell = (policy: Policy): string | undefined => {
    const found = violations(spec, policy);
    return found.length === 0 ? undefined : `PodSecurity "${policy.level}:${policy.version}": ${told(found)}`;
  };
  const isPod = kind.plural === "pods";
  const refused = isPod ? tell(policyOf(labels, "enforce")) : undefined;
  if (refused !== undefined) {
    const { name, generateName = "" } = object.metadata;
    const message = `pods "${name === "" ? generateName : name}" is forbidden: violates ${refused}`;
    throw new ApiError(403, "Forbidden", message, { name, kind: "pods" });
  }
  const warned = tell(policyOf(labels, "warn"));
  if (warned !== undefined) warn(`would violate ${warned}`);
}
