// What makes an object of a built-in kind invalid beyond its types: required fields, values, what may not change. Rules and
// words follow Kubernetes' pkg/apis/*/validation, for what clients meet; see docs/kubernetes.md for what is not checked.
import { isObject, jsonEqual } from "@lateen/base";
import { checkDefinition } from "./custom.ts";
import { required, type StatusCause } from "./errors.ts";
import type { Kind } from "./kinds.ts";
import { forbiddenField, invalidValue, isSubdomain, labelCauses, labelsCauses, unsupported } from "./metadata.ts";
import type { KubeObject } from "./objects.ts";
import { conditionCauses, policyCauses } from "./policies.ts";
import { quantityNanos } from "./quantity.ts";

type Members = Record<string, any>;
type Check = (object: Members, old: Members | undefined) => StatusCause[];

const duplicate = (field: string, value: unknown): StatusCause => ({
  reason: "FieldValueDuplicate",
  message: `Duplicate value: ${JSON.stringify(value)}`,
  field,
});
const notFoundAt = (field: string, value: unknown): StatusCause => ({
  reason: "FieldValueNotFound",
  message: `Not found: ${JSON.stringify(value)}`,
  field,
});
const nonNegative = (value: unknown, field: string): StatusCause[] =>
  typeof value === "number" && value < 0 ? [invalidValue(field, value, "must be greater than or equal to 0")] : [];
const isPort = (port: unknown): boolean =>
  typeof port === "number" && Number.isInteger(port) && port >= 1 && port <= 65_535;
const portCauses = (port: unknown, field: string): StatusCause[] =>
  isPort(port) ? [] : [invalidValue(field, port, "must be between 1 and 65535, inclusive")];
const PORT_NAME = /^(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$/;
const ENV_NAME = /^[^\0-\x1f\x7f=]+$/;
const CONFIG_KEY = /^[-._a-zA-Z0-9]+$/;
const DATA_BYTES_MAX = 1 << 20;

function selectorCauses(selector: Members | undefined, field: string): StatusCause[] {
  if (selector === undefined) return [];
  const operators = ["In", "NotIn", "Exists", "DoesNotExist"];
  const terms = (selector["matchExpressions"] ?? []) as Members[];
  return [
    ...labelsCauses(selector["matchLabels"], `${field}.matchLabels`),
    ...terms.flatMap((term, i) => {
      const at = `${field}.matchExpressions[${i}]`;
      if (!operators.includes(term["operator"]))
        return [invalidValue(`${at}.operator`, term["operator"], "not a valid selector operator")];
      const needsValues = term["operator"] === "In" || term["operator"] === "NotIn";
      const count = (term["values"] ?? []).length;
      if (needsValues && count === 0)
        return [
          {
            ...required(`${at}.values`),
            message: "Required value: must be specified when `operator` is 'In' or 'NotIn'",
          },
        ];
      return !needsValues && count > 0
        ? [forbiddenField(`${at}.values`, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")]
        : [];
    }),
  ];
}

function resourceCauses(resources: Members | undefined, at: string): StatusCause[] {
  const causes: StatusCause[] = [];
  for (const list of ["limits", "requests"])
    for (const [key, value] of Object.entries(resources?.[list] ?? {}))
      if (quantityNanos(String(value)) < 0n)
        causes.push(invalidValue(`${at}.${list}[${key}]`, value, "must be greater than or equal to 0"));
  for (const [key, value] of Object.entries(resources?.["requests"] ?? {})) {
    const limit = resources?.["limits"]?.[key];
    if (limit !== undefined && quantityNanos(String(value)) > quantityNanos(limit))
      causes.push(invalidValue(`${at}.requests`, value, `must be less than or equal to ${key} limit of ${limit}`));
  }
  return causes;
}

const HANDLERS = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

function handlerCauses(handler: Members, at: string): StatusCause[] {
  const said = HANDLERS.filter((name) => handler[name] !== undefined);
  if (said.length === 0) return [{ ...required(at), message: "Required value: must specify a handler type" }];
  const causes = said
    .slice(1)
    .map((name) => forbiddenField(`${at}.${name}`, "may not specify more than 1 handler type"));
  const [name = ""] = said;
  if (name === "exec" && (handler["exec"].command ?? []).length === 0) causes.push(required(`${at}.exec.command`));
  if (name === "httpGet" || name === "tcpSocket") {
    const { port } = handler[name];
    if (typeof port === "number") causes.push(...portCauses(port, `${at}.${name}.port`));
    else if (!PORT_NAME.test(String(port)))
      causes.push(
        invalidValue(
          `${at}.${name}.port`,
          port,
          "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
      );
  }
  return causes;
}

function probeCauses(probe: Members | undefined, at: string, kind: string): StatusCause[] {
  if (probe === undefined) return [];
  const numbers = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
  const causes = [...handlerCauses(probe, at), ...numbers.flatMap((name) => nonNegative(probe[name], `${at}.${name}`))];
  if (kind !== "readinessProbe" && (probe["successThreshold"] ?? 1) !== 1)
    causes.push(invalidValue(`${at}.successThreshold`, probe["successThreshold"], "must be 1"));
  return causes;
}

function envCauses(container: Members, at: string): StatusCause[] {
  return ((container["env"] ?? []) as Members[]).flatMap((entry, i) => {
    const field = `${at}.env[${i}]`;
    const causes: StatusCause[] = [];
    if ((entry["name"] ?? "") === "") causes.push(required(`${field}.name`));
    else if (!ENV_NAME.test(entry["name"]))
      causes.push(
        invalidValue(
          `${field}.name`,
          entry["name"],
          "a valid environment variable name must consist only of printable ASCII characters other than '='",
        ),
      );
    const from = entry["valueFrom"];
    if (from === undefined) return causes;
    const sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"].filter(
      (name) => from[name] !== undefined,
    );
    if (sources.length === 0)
      causes.push(
        invalidValue(
          `${field}.valueFrom`,
          "",
          "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        ),
      );
    if ((entry["value"] ?? "") !== "" && sources.length > 0)
      causes.push(invalidValue(`${field}.valueFrom`, "", "may not be specified when `value` is not empty"));
    return causes;
  });
}

function mountCauses(container: Members, at: string, volumes: ReadonlySet<string>): StatusCause[] {
  const seen = new Set<string>();
  return ((container["volumeMounts"] ?? []) as Members[]).flatMap((mount, i) => {
    const field = `${at}.volumeMounts[${i}]`;
    const causes: StatusCause[] = [];
    if ((mount["name"] ?? "") === "") causes.push(required(`${field}.name`));
    else if (!volumes.has(mount["name"])) causes.push(notFoundAt(`${field}.name`, mount["name"]));
    if ((mount["mountPath"] ?? "") === "") causes.push(required(`${field}.mountPath`));
    else if (seen.has(mount["mountPath"]))
      causes.push(invalidValue(`${field}.mountPath`, mount["mountPath"], "must be unique"));
    seen.add(mount["mountPath"]);
    const sub = String(mount["subPath"] ?? "");
    if (sub.startsWith("/")) causes.push(invalidValue(`${field}.subPath`, sub, "must be a relative path"));
    if (sub.split("/").includes("..")) causes.push(invalidValue(`${field}.subPath`, sub, "must not contain '..'"));
    return causes;
  });
}

function containerCauses(container: Members, at: string, volumes: ReadonlySet<string>): StatusCause[] {
  const causes: StatusCause[] = [];
  if ((container["name"] ?? "") === "") causes.push(required(`${at}.name`));
  else causes.push(...labelCauses(container["name"], `${at}.name`));
  if ((container["image"] ?? "") === "") causes.push(required(`${at}.image`));
  else if (String(container["image"]).trim() !== container["image"])
    causes.push(invalidValue(`${at}.image`, container["image"], "must not have leading or trailing whitespace"));
  const names = new Set<string>();
  for (const [i, port] of ((container["ports"] ?? []) as Members[]).entries()) {
    const field = `${at}.ports[${i}]`;
    if ((port["name"] ?? "") !== "") {
      if (!PORT_NAME.test(port["name"]))
        causes.push(
          invalidValue(
            `${field}.name`,
            port["name"],
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
          ),
        );
      if (names.has(port["name"])) causes.push(duplicate(`${field}.name`, port["name"]));
      names.add(port["name"]);
    }
    if ((port["containerPort"] ?? 0) === 0) causes.push(required(`${field}.containerPort`));
    else causes.push(...portCauses(port["containerPort"], `${field}.containerPort`));
    if (port["hostPort"] !== undefined) causes.push(...portCauses(port["hostPort"], `${field}.hostPort`));
    if (!["TCP", "UDP", "SCTP"].includes(port["protocol"]))
      causes.push(unsupported(`${field}.protocol`, port["protocol"], ["SCTP", "TCP", "UDP"]));
  }
  causes.push(
    ...envCauses(container, at),
    ...mountCauses(container, at, volumes),
    ...resourceCauses(container["resources"], `${at}.resources`),
  );
  for (const name of ["livenessProbe", "readinessProbe", "startupProbe"])
    causes.push(...probeCauses(container[name], `${at}.${name}`, name));
  for (const name of ["postStart", "preStop"]) {
    const handler = container["lifecycle"]?.[name];
    if (handler !== undefined) causes.push(...handlerCauses(handler, `${at}.lifecycle.${name}`));
  }
  const policies = ["Always", "IfNotPresent", "Never"];
  if (!policies.includes(container["imagePullPolicy"]))
    causes.push(unsupported(`${at}.imagePullPolicy`, container["imagePullPolicy"], policies));
  return causes;
}

function volumeCauses(spec: Members, at: string): StatusCause[] {
  const seen = new Set<string>();
  return ((spec["volumes"] ?? []) as Members[]).flatMap((volume, i) => {
    const field = `${at}.volumes[${i}]`;
    const causes: StatusCause[] = [];
    if ((volume["name"] ?? "") === "") causes.push(required(`${field}.name`));
    else causes.push(...labelCauses(volume["name"], `${field}.name`));
    if (seen.has(volume["name"])) causes.push(duplicate(`${field}.name`, volume["name"]));
    seen.add(volume["name"]);
    const sources = Object.keys(volume).filter((key) => key !== "name");
    for (const extra of sources.slice(1))
      causes.push(forbiddenField(`${field}.${extra}`, "may not specify more than 1 volume type"));
    return causes;
  });
}

/** What is wrong with a pod's spec at `at`. */
export function podSpecCauses(spec: Members, at: string): StatusCause[] {
  const volumes = new Set(((spec["volumes"] ?? []) as Members[]).map((volume) => String(volume["name"])));
  const causes = volumeCauses(spec, at);
  if ((spec["containers"] ?? []).length === 0) causes.push(required(`${at}.containers`));
  const names = new Set<string>();
  for (const list of ["containers", "initContainers", "ephemeralContainers"])
    for (const [i, container] of ((spec[list] ?? []) as Members[]).entries()) {
      causes.push(...containerCauses(container, `${at}.${list}[${i}]`, volumes));
      if (names.has(container["name"])) causes.push(duplicate(`${at}.${list}[${i}].name`, container["name"]));
      names.add(String(container["name"]));
      const policy = container["restartPolicy"];
      if (list === "initContainers" && policy !== undefined && !["Always", "OnFailure", "Never"].includes(policy))
        causes.push(unsupported(`${at}.${list}[${i}].restartPolicy`, policy, ["Always"]));
    }
  const choices: readonly (readonly [string, readonly string[]])[] = [
    ["restartPolicy", ["Always", "OnFailure", "Never"]],
    ["dnsPolicy", ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]],
  ];
  for (const [name, allowed] of choices)
    if (!allowed.includes(spec[name])) causes.push(unsupported(`${at}.${name}`, spec[name], allowed));
  for (const name of ["serviceAccountName", "nodeName"])
    if ((spec[name] ?? "") !== "" && !isSubdomain(spec[name]))
      causes.push(
        invalidValue(
          `${at}.${name}`,
          spec[name],
          "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        ),
      );
  for (const name of ["hostname", "subdomain"])
    if ((spec[name] ?? "") !== "") causes.push(...labelCauses(spec[name], `${at}.${name}`));
  causes.push(
    ...labelsCauses(spec["nodeSelector"], `${at}.nodeSelector`),
    ...nonNegative(spec["terminationGracePeriodSeconds"], `${at}.terminationGracePeriodSeconds`),
  );
  const deadline = spec["activeDeadlineSeconds"];
  if (deadline !== undefined && (deadline < 1 || deadline > 2_147_483_647))
    causes.push(invalidValue(`${at}.activeDeadlineSeconds`, deadline, "must be between 1 and 2147483647, inclusive"));
  return causes;
}

const POD_MUTABLE =
  "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/** The part of a pod's spec that may not change. */
function fixedPodSpec(spec: Members): unknown {
  const imageless = (list: Members[] | undefined): unknown => list?.map(({ image: _image, ...rest }) => rest);
  const {
    activeDeadlineSeconds: _deadline,
    tolerations: _tolerations,
    nodeName: _node,
    schedulingGates: _gates,
    ...rest
  } = spec;
  return {
    ...rest,
    containers: imageless(spec["containers"]),
    initContainers: imageless(spec["initContainers"]),
    ephemeralContainers: undefined,
  };
}

const podCauses: Check = (pod, old) => {
  const causes = podSpecCauses(pod["spec"], "spec");
  const isGated = (old?.["spec"].schedulingGates ?? []).length > 0;
  if (old !== undefined && !isGated && !jsonEqual(fixedPodSpec(pod["spec"]), fixedPodSpec(old["spec"])))
    causes.push(forbiddenField("spec", POD_MUTABLE));
  return causes;
};

function templateCauses(spec: Members, at: string, allowed?: readonly string[]): StatusCause[] {
  const template: Members = spec["template"] ?? {};
  const causes = [
    ...labelsCauses(template["metadata"]?.labels, `${at}.template.metadata.labels`),
    ...podSpecCauses(template["spec"] ?? {}, `${at}.template.spec`),
  ];
  const policy = template["spec"]?.restartPolicy;
  if (allowed !== undefined && !allowed.includes(policy)) {
    const field = `${at}.template.spec.restartPolicy`;
    const list = allowed.map((name) => JSON.stringify(name)).join(", ");
    if (allowed.length === 1) causes.push(unsupported(field, policy, allowed));
    else causes.push({ ...required(field), message: `Required value: valid values: ${list}` });
  }
  return causes;
}

/** Selector and template of a workload: they must fit, and the selector stays. */
const workloadCauses: Check = ({ spec }, old) => {
  const causes: StatusCause[] = [
    ...nonNegative(spec["replicas"], "spec.replicas"),
    ...nonNegative(spec["minReadySeconds"], "spec.minReadySeconds"),
  ];
  const selector: Members | undefined = spec["selector"] ?? undefined;
  if (selector === undefined) {
    const labels: Members = spec["template"]?.metadata?.labels ?? {};
    causes.push(
      required("spec.selector"),
      invalidValue("spec.template.metadata.labels", labels, "`selector` does not match template `labels`"),
    );
  } else {
    causes.push(...selectorCauses(selector, "spec.selector"));
    if (Object.keys(selector).length === 0)
      causes.push(invalidValue("spec.selector", selector, "empty selector is invalid for deployment"));
    const labels: Members = spec["template"]?.metadata?.labels ?? {};
    const isFit =
      Object.entries(selector["matchLabels"] ?? {}).every(([key, value]) => labels[key] === value) &&
      ((selector["matchExpressions"] ?? []) as Members[]).every((term) => {
        const value = labels[term["key"]];
        if (term["operator"] === "Exists") return value !== undefined;
        if (term["operator"] === "DoesNotExist") return value === undefined;
        return (term["values"] ?? []).includes(value) === (term["operator"] === "In");
      });
    if (!isFit)
      causes.push(invalidValue("spec.template.metadata.labels", labels, "`selector` does not match template `labels`"));
  }
  if (old !== undefined && !jsonEqual(spec["selector"], old["spec"].selector))
    causes.push(invalidValue("spec.selector", spec["selector"], "field is immutable"));
  return [...causes, ...templateCauses(spec, "spec", ["Always"])];
};

const STATEFUL_MUTABLE =
  "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

const statefulCauses: Check = (object, old) => {
  const causes = [...workloadCauses(object, undefined)];
  const fixed = (spec: Members): unknown => ({
    s: spec["selector"],
    n: spec["serviceName"] ?? "",
    p: spec["podManagementPolicy"],
    v: spec["volumeClaimTemplates"],
  });
  if (old !== undefined && !jsonEqual(fixed(object["spec"]), fixed(old["spec"])))
    causes.push(forbiddenField("spec", STATEFUL_MUTABLE));
  return causes;
};

const jobCauses: Check = ({ spec }, old) => {
  const causes = [
    ...["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"].flatMap(
      (name) => nonNegative(spec[name], `spec.${name}`),
    ),
    ...templateCauses(spec, "spec", ["OnFailure", "Never"]),
  ];
  if (old !== undefined) {
    if (!jsonEqual(spec["selector"], old["spec"].selector))
      causes.push(invalidValue("spec.selector", spec["selector"], "field is immutable"));
    const isSuspended = old["spec"].suspend === true;
    if (!isSuspended && !jsonEqual(spec["template"], old["spec"].template))
      causes.push(invalidValue("spec.template", spec["template"], "field is immutable"));
    if (spec["completionMode"] !== "Indexed" && spec["completions"] !== old["spec"].completions)
      causes.push(invalidValue("spec.completions", spec["completions"], "field is immutable"));
  }
  return causes;
};

const CRON_FIELD = /^(@(yearly|annually|monthly|weekly|daily|midnight|hourly|every .+)|(\S+\s+){4}\S+)$/;

const cronCauses: Check = ({ spec, metadata }) => {
  const causes: StatusCause[] = [];
  if ((spec["schedule"] ?? "") === "") causes.push(required("spec.schedule"));
  else if (!CRON_FIELD.test(spec["schedule"]))
    causes.push(
      invalidValue(
        "spec.schedule",
        spec["schedule"],
        `expected exactly 5 fields, found ${String(spec["schedule"]).split(/\s+/).length}: [${String(spec["schedule"]).split(/\s+/).join(" ")}]`,
      ),
    );
  if ((metadata.name ?? "").length > 52)
    causes.push(invalidValue("metadata.name", metadata.name, "must be no more than 52 characters"));
  return [...causes, ...templateCauses(spec["jobTemplate"].spec, "spec.jobTemplate.spec", ["OnFailure", "Never"])];
};

const serviceCauses: Check = ({ spec }) => {
  const causes: StatusCause[] = [];
  const types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
  if (!types.includes(spec["type"])) causes.push(unsupported("spec.type", spec["type"], types));
  const ports = (spec["ports"] ?? []) as Members[];
  if (ports.length === 0 && spec["type"] !== "ExternalName" && spec["clusterIP"] !== "None")
    causes.push(required("spec.ports"));
  if (spec["type"] === "ExternalName") {
    if ((spec["externalName"] ?? "") === "") causes.push(required("spec.externalName"));
    else if (!isSubdomain(String(spec["externalName"]).replace(/\.$/, "")))
      causes.push(
        invalidValue(
          "spec.externalName",
          spec["externalName"],
          "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        ),
      );
  }
  const [names, numbers] = [new Set<string>(), new Set<string>()];
  ports.forEach((port, i) => {
    const at = `spec.ports[${i}]`;
    const name = String(port["name"] ?? "");
    if (ports.length > 1 && name === "") causes.push(required(`${at}.name`));
    if (name !== "") {
      causes.push(...labelCauses(name, `${at}.name`));
      if (names.has(name)) causes.push(duplicate(`${at}.name`, name));
      names.add(name);
    }
    causes.push(...portCauses(port["port"], `${at}.port`));
    if (typeof port["targetPort"] === "number") causes.push(...portCauses(port["targetPort"], `${at}.targetPort`));
    if (!["TCP", "UDP", "SCTP"].includes(port["protocol"]))
      causes.push(unsupported(`${at}.protocol`, port["protocol"], ["SCTP", "TCP", "UDP"]));
    const key = `${port["protocol"]}/${port["port"]}`;
    if (numbers.has(key)) causes.push(duplicate(at, { name, protocol: port["protocol"], port: port["port"] }));
    numbers.add(key);
  });
  causes.push(...labelsCauses(spec["selector"], "spec.selector"));
  if (!["None", "ClientIP"].includes(spec["sessionAffinity"]))
    causes.push(unsupported("spec.sessionAffinity", spec["sessionAffinity"], ["ClientIP", "None"]));
  return causes;
};

function keyCauses(data: Members | undefined, field: string): StatusCause[] {
  return Object.keys(data ?? {})
    .filter((key) => !CONFIG_KEY.test(key) || key.length > 253 || key === "." || key.startsWith(".."))
    .map((key) =>
      invalidValue(
        `${field}[${key}]`,
        key,
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
      ),
    );
}

function immutableCauses(object: Members, old: Members | undefined, fields: readonly string[]): StatusCause[] {
  if (old?.["immutable"] !== true) return [];
  const causes =
    object["immutable"] === true ? [] : [forbiddenField("immutable", "field is immutable when `immutable` is set")];
  return [
    ...causes,
    ...fields
      .filter((name) => !jsonEqual(object[name] ?? {}, old[name] ?? {}))
      .map((name) => forbiddenField(name, "field is immutable when `immutable` is set")),
  ];
}

const sizeOf = (data: Members | undefined): number =>
  Object.values(data ?? {}).reduce((sum: number, value) => sum + Buffer.byteLength(String(value)), 0);
const tooLarge = (field: string): StatusCause => ({
  reason: "FieldValueTooLong",
  message: `Too long: may not be more than ${DATA_BYTES_MAX} bytes`,
  field,
});

const configMapCauses: Check = (object, old) => {
  const both = Object.keys(object["data"] ?? {}).filter((key) => Object.hasOwn(object["binaryData"] ?? {}, key));
  return [
    ...keyCauses(object["data"], "data"),
    ...keyCauses(object["binaryData"], "binaryData"),
    ...both.map((key) => invalidValue(`data[${key}]`, key, "duplicate of key present in binaryData")),
    ...(sizeOf(object["data"]) + sizeOf(object["binaryData"]) * 0.75 > DATA_BYTES_MAX ? [tooLarge("")] : []),
    ...immutableCauses(object, old, ["data", "binaryData"]),
  ];
};

const SECRET_KEYS: Readonly<Record<string, readonly string[]>> = {
  "kubernetes.io/tls": ["tls.crt", "tls.key"],
  "kubernetes.io/dockerconfigjson": [".dockerconfigjson"],
  "kubernetes.io/dockercfg": [".dockercfg"],
  "kubernetes.io/ssh-auth": ["ssh-privatekey"],
};

const secretCauses: Check = (object, old) => [
  ...keyCauses(object["data"], "data"),
  ...(sizeOf(object["data"]) * 0.75 > DATA_BYTES_MAX ? [tooLarge("data")] : []),
  ...(SECRET_KEYS[object["type"]] ?? [])
    .filter((key) => object["data"]?.[key] === undefined)
    .map((key) => required(`data[${key}]`)),
  ...(old !== undefined && old["type"] !== object["type"]
    ? [invalidValue("type", object["type"], "field is immutable")]
    : []),
  ...immutableCauses(object, old, ["data"]),
];

const roleRefCauses: Check = (object, old) => {
  const ref: Members = object["roleRef"] ?? {};
  const causes: StatusCause[] = [];
  if (!["Role", "ClusterRole"].includes(ref["kind"]))
    causes.push(unsupported("roleRef.kind", ref["kind"], ["Role", "ClusterRole"]));
  if ((ref["name"] ?? "") === "") causes.push(required("roleRef.name"));
  if (old !== undefined && !jsonEqual(ref, old["roleRef"])) {
    const shown = { APIGroup: ref["apiGroup"], Kind: ref["kind"], Name: ref["name"] };
    causes.push(invalidValue("roleRef", shown, "cannot change roleRef"));
  }
  for (const [i, subject] of ((object["subjects"] ?? []) as Members[]).entries()) {
    if ((subject["name"] ?? "") === "") causes.push(required(`subjects[${i}].name`));
    const kinds = ["ServiceAccount", "User", "Group"];
    if (!kinds.includes(subject["kind"])) causes.push(unsupported(`subjects[${i}].kind`, subject["kind"], kinds));
  }
  return causes;
};

const roleCauses: Check = (object) =>
  ((object["rules"] ?? []) as Members[]).flatMap((rule, i) => {
    const at = `rules[${i}]`;
    const causes =
      (rule["verbs"] ?? []).length === 0
        ? [{ ...required(`${at}.verbs`), message: "Required value: verbs must contain at least one value" }]
        : [];
    if ((rule["nonResourceURLs"] ?? []).length > 0) return causes;
    if ((rule["apiGroups"] ?? []).length === 0)
      causes.push({
        ...required(`${at}.apiGroups`),
        message: "Required value: resource rules must supply at least one api group",
      });
    if ((rule["resources"] ?? []).length === 0)
      causes.push({
        ...required(`${at}.resources`),
        message: "Required value: resource rules must supply at least one resource",
      });
    return causes;
  });

const webhookCauses: Check = (object) =>
  ((object["webhooks"] ?? []) as Members[]).flatMap((webhook, i) => {
    const at = `webhooks[${i}]`;
    const causes: StatusCause[] = [];
    if (String(webhook["name"] ?? "").split(".").length < 3)
      causes.push(
        invalidValue(
          `${at}.name`,
          webhook["name"],
          "should be a domain with at least three segments separated by dots",
        ),
      );
    if ((webhook["admissionReviewVersions"] ?? []).length === 0)
      causes.push({
        ...required(`${at}.admissionReviewVersions`),
        message: "Required value: must specify one of v1, v1beta1",
      });
    const effects = ["None", "NoneOnDryRun"];
    if (webhook["sideEffects"] === undefined)
      causes.push({
        ...required(`${at}.sideEffects`),
        message: "Required value: must specify one of None, NoneOnDryRun",
      });
    else if (!effects.includes(webhook["sideEffects"]))
      causes.push(unsupported(`${at}.sideEffects`, webhook["sideEffects"], effects));
    causes.push(...conditionCauses(webhook["matchConditions"], `${at}.matchConditions`));
    const { url, service } = (webhook["clientConfig"] ?? {}) as Members;
    if ((url === undefined) === (service === undefined))
      causes.push({
        ...required(`${at}.clientConfig`),
        message: "Required value: exactly one of url or service is required",
      });
    const seconds = webhook["timeoutSeconds"];
    if (seconds < 1 || seconds > 30)
      causes.push(
        invalidValue(
          `${at}.timeoutSeconds`,
          seconds,
          seconds < 1
            ? "the timeout value must be between 1 and 30 seconds"
            : "the timeout value must be between 1 and 30 seconds",
        ),
      );
    return causes;
  });

const quotaCauses: Check = ({ spec }) =>
  Object.entries(spec?.["hard"] ?? {}).flatMap(([key, value]) =>
    quantityNanos(String(value)) < 0n
      ? [invalidValue(`spec.hard[${key}]`, value, "must be greater than or equal to 0")]
      : [],
  );

const leaseCauses: Check = ({ spec }) => {
  const seconds = spec?.["leaseDurationSeconds"];
  return typeof seconds === "number" && seconds <= 0
    ? [invalidValue("spec.leaseDurationSeconds", seconds, "must be greater than 0")]
    : [];
};

const priorityCauses: Check = (object, old) => {
  const fixed = ["value", "preemptionPolicy"].filter(
    (name) => old !== undefined && !jsonEqual(object[name], old[name]),
  );
  const causes = fixed.map((name) => forbiddenField(name, "may not be changed in an update."));
  const isSystem = String(object["metadata"].name).startsWith("system-");
  if (!isSystem && object["value"] > 1_000_000_000)
    causes.push(forbiddenField("value", "maximum allowed value of a user defined priority is 1000000000"));
  return causes;
};

const eventCauses: Check = (object) => {
  const namespace: string = object["involvedObject"]?.namespace ?? "";
  const own: string = object["metadata"].namespace ?? "";
  const isRight = namespace === "" ? own === "default" || own === "" || own === "kube-system" : namespace === own;
  return isRight ? [] : [invalidValue("involvedObject.namespace", namespace, "does not match event.namespace")];
};

const ingressCauses: Check = ({ spec }) => {
  const rules = (spec?.["rules"] ?? []) as Members[];
  if (rules.length === 0 && spec?.["defaultBackend"] === undefined)
    return [invalidValue("spec", "", "either `defaultBackend` or `rules` must be specified")];
  const kinds = ["Exact", "ImplementationSpecific", "Prefix"];
  return rules.flatMap((rule, i) =>
    ((rule["http"]?.paths ?? []) as Members[]).flatMap((path, j) => {
      const at = `spec.rules[${i}].http.paths[${j}]`;
      if (path["pathType"] === undefined)
        return [{ ...required(`${at}.pathType`), message: "Required value: pathType must be specified" }];
      return kinds.includes(path["pathType"]) ? [] : [unsupported(`${at}.pathType`, path["pathType"], kinds)];
    }),
  );
};

const CHECKS: Readonly<Record<string, Check>> = {
  pods: podCauses,
  deployments: workloadCauses,
  replicasets: workloadCauses,
  daemonsets: workloadCauses,
  statefulsets: statefulCauses,
  jobs: jobCauses,
  cronjobs: cronCauses,
  services: serviceCauses,
  configmaps: configMapCauses,
  secrets: secretCauses,
  rolebindings: roleRefCauses,
  clusterrolebindings: roleRefCauses,
  roles: roleCauses,
  clusterroles: roleCauses,
  mutatingwebhookconfigurations: webhookCauses,
  validatingwebhookconfigurations: webhookCauses,
  customresourcedefinitions: (object) => checkDefinition(object as unknown as KubeObject),
  validatingadmissionpolicies: (object) => policyCauses(object as unknown as KubeObject),
  resourcequotas: quotaCauses,
  leases: leaseCauses,
  priorityclasses: priorityCauses,
  events: eventCauses,
  ingresses: ingressCauses,
  podtemplates: (object) => templateCauses(object, ""),
};

/** What is wrong with an object of a built-in kind. */
export function validateBuiltIn(
  kind: Kind,
  object: KubeObject,
  old: KubeObject | undefined,
  subresource: string,
): StatusCause[] {
  if (subresource === "status") return [];
  if (kind.plural === "events" && kind.group === "events.k8s.io") return [];
  return CHECKS[kind.plural]?.(object as unknown as Members, old as unknown as Members | undefined) ?? [];
}

/** Warnings for what works and should be written otherwise. */
export function warningsOf(kind: Kind, object: KubeObject, old: KubeObject | undefined): string[] {
  const spec = isObject(object.spec) ? (object.spec as Members) : {};
  if (kind.plural === "pods" && old === undefined && (object.metadata.name ?? "").includes("."))
    return [
      "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
    ];
  if (kind.plural === "services" && spec["clusterIP"] === "None" && spec["sessionAffinity"] !== undefined)
    return ["spec.SessionAffinity is ignored for headless services"];
  return [];
}
