// What makes a pod's spec invalid: containers, ports, variables, mounts, probes, volumes. Rules and words follow Kubernetes'
// pkg/apis/core/validation, for what clients meet.
import { required, type StatusCause } from "./errors.ts";
import { forbiddenField, invalidValue, isSubdomain, labelCauses, labelsCauses, unsupported } from "./metadata.ts";
import { quantityNanos } from "./quantity.ts";

type Members = Record<string, any>;

export const duplicate = (field: string, value: unknown): StatusCause => ({
  reason: "FieldValueDuplicate",
  message: `Duplicate value: ${JSON.stringify(value)}`,
  field,
});
const notFoundAt = (field: string, value: unknown): StatusCause => ({
  reason: "FieldValueNotFound",
  message: `Not found: ${JSON.stringify(value)}`,
  field,
});
export const nonNegative = (value: unknown, field: string): StatusCause[] =>
  typeof value === "number" && value < 0 ? [invalidValue(field, value, "must be greater than or equal to 0")] : [];
const isPort = (port: unknown): boolean =>
  typeof port === "number" && Number.isInteger(port) && port >= 1 && port <= 65_535;
export const portCauses = (port: unknown, field: string): StatusCause[] =>
  isPort(port) ? [] : [invalidValue(field, port, "must be between 1 and 65535, inclusive")];
const PORT_NAME = /^(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$/;
const ENV_NAME = /^[ -<>-~]+$/;

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
