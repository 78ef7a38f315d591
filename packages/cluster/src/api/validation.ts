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
import { duplicate, nonNegative, podSpecCauses, portCauses } from "./validation-pods.ts";

type Members = Record<string, any>;
type Check = (object: Members, old: Members | undefined) => StatusCause[];

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
  return CHECKS[kind.plural]?.(object, old) ?? [];
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
