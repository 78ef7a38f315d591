// What is particular to a kind when its objects are written: which parts a client may set, what the server adds, what admission
// plugins that are compiled into a real API server do, what is refused and what is warned about.
import { jsonClone, jsonEqual } from "@lateen/base";
import { allocateService, randomSuffix } from "./allocate.ts";
import { defaultCustom, initialStatus, isCustom, validateCustom } from "./custom.ts";
import { Decoder } from "./decode.ts";
import { applyDefaults, fill, qosClass } from "./defaults.ts";
import { ApiError, alreadyExists, notFound, refused, type StatusCause } from "./errors.ts";
import { builtIn, hasSubresource, type Kind, tableOf } from "./kinds.ts";
import { metadataCauses } from "./metadata.ts";
import { type KubeObject, newUid, type Pod, type Service } from "./objects.ts";
import { chargeQuota, limitPod } from "./quota.ts";
import type { Store } from "./store.ts";
import { validateBuiltIn, warningsOf } from "./validation.ts";

type Members = Record<string, any>;

interface Strategy {
  /** Clears what a client may not set on a new object. */
  prepareCreate(object: KubeObject): void;
  /** What compiled-in admission adds to a new object, before webhooks see it. */
  admitCreate(object: KubeObject): void;
  defaults(object: KubeObject): void;
  /** Puts back what an update may not change. */
  prepareUpdate(next: KubeObject, old: KubeObject, subresource: string): void;
  /** What a status write may change besides status. */
  prepareStatus(result: KubeObject, next: KubeObject): void;
  validate(object: KubeObject, old: KubeObject | undefined, subresource: string): StatusCause[];
  /** The last step before the object is stored: addresses, statuses that the server makes. */
  complete(object: KubeObject, old: KubeObject | undefined): void;
  warnings(object: KubeObject, old: KubeObject | undefined): string[];
}

const NAMESPACES = builtIn("namespaces");
const PROTECTED_NAMESPACES = new Set(["default", "kube-system", "kube-public"]);

/** Refuses a create into a namespace that is missing or ends, with a version, or of a name that is taken. Sets the namespace. */
export function checkCreatable(store: Store, kind: Kind, object: KubeObject, namespace: string | undefined): void {
  const meta = object.metadata;
  if ((meta.resourceVersion ?? "") !== "") throw versionSet();
  delete meta.resourceVersion;
  if (!kind.isNamespaced) delete meta.namespace;
  else {
    meta.namespace = namespace ?? "default";
    const found = store.get("namespaces", undefined, meta.namespace);
    if (found === undefined) throw notFound(NAMESPACES, meta.namespace);
    if (found.metadata.deletionTimestamp !== undefined) throw terminating(kind, meta.name ?? "", meta.namespace);
  }
  if ((meta.name ?? "") !== "" && store.get(tableOf(kind), meta.namespace, meta.name) !== undefined)
    throw alreadyExists(kind, meta.name);
}

const versionSet = (): ApiError => new ApiError(500, "", "resourceVersion should not be set on objects to be created");

function terminating(kind: Kind, name: string, namespace: string): ApiError {
  const why = `unable to create new content in namespace ${namespace} because it is being terminated`;
  return refused(kind, name, why, [
    {
      reason: "NamespaceTerminating",
      message: `namespace ${namespace} is being terminated`,
      field: "metadata.namespace",
    },
  ]);
}

/** Refuses to delete what the cluster cannot be without. */
export function checkDeletable(kind: Kind, name: string): void {
  if (kind === NAMESPACES && PROTECTED_NAMESPACES.has(name))
    throw refused(kind, name, "this namespace may not be deleted");
}

const ACCOUNT_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";

/** The ServiceAccount admission: the default account, and its token mounted into every container. */
function accountAdmission(store: Store, pod: Pod): void {
  const { spec } = pod;
  fill(spec, "serviceAccountName", "default");
  fill(spec, "serviceAccount", spec.serviceAccountName);
  const account = store.get("serviceaccounts", pod.metadata.namespace, spec.serviceAccountName ?? "");
  if (account === undefined) {
    const why = `error looking up service account ${pod.metadata.namespace}/${spec.serviceAccountName}: serviceaccount "${spec.serviceAccountName}" not found`;
    throw refused(builtIn("pods"), pod.metadata.name ?? "", why);
  }
  if ((spec["imagePullSecrets"] as unknown[] | undefined) === undefined && Array.isArray(account["imagePullSecrets"]))
    spec["imagePullSecrets"] = jsonClone(account["imagePullSecrets"]);
  if (!(spec.automountServiceAccountToken ?? account["automountServiceAccountToken"] !== false)) return;
  const containers = [...(spec.initContainers ?? []), ...(spec.containers ?? [])];
  const missing = containers.filter(
    (container) => !(container.volumeMounts ?? []).some((mount) => mount.mountPath === ACCOUNT_MOUNT),
  );
  if (missing.length === 0) return;
  let name = spec.volumes?.find((volume) => volume.name.startsWith("kube-api-access-"))?.name;
  if (name === undefined) {
    name = `kube-api-access-${randomSuffix(5)}`;
    const namespaceItem = { path: "namespace", fieldRef: { apiVersion: "v1", fieldPath: "metadata.namespace" } };
    const sources = [
      { serviceAccountToken: { expirationSeconds: 3607, path: "token" } },
      { configMap: { name: "kube-root-ca.crt", items: [{ key: "ca.crt", path: "ca.crt" }] } },
      { downwardAPI: { items: [namespaceItem] } },
    ];
    spec.volumes = [...(spec.volumes ?? []), { name, projected: { sources, defaultMode: 420 } as object }];
  }
  for (const container of missing) {
    container.volumeMounts = [...(container.volumeMounts ?? []), { name, readOnly: true, mountPath: ACCOUNT_MOUNT }];
  }
}

function tolerationAdmission(spec: Members): void {
  const present: Members[] = spec["tolerations"] ?? [];
  const missing = ["not-ready", "unreachable"]
    .map((name) => `node.kubernetes.io/${name}`)
    .filter(
      (key) =>
        !present.some(
          (entry) =>
            (entry["key"] === key || (entry["key"] ?? "") === "") &&
            ["NoExecute", undefined, ""].includes(entry["effect"]),
        ),
    );
  const added = missing.map((key) => ({ key, operator: "Exists", effect: "NoExecute", tolerationSeconds: 300 }));
  if (present.length + added.length > 0) spec["tolerations"] = [...present, ...added];
}

/** The Priority admission: a class by name, else the default one, else 0. */
function priorityAdmission(store: Store, pod: Pod): void {
  const { spec } = pod as { spec: Members };
  const classes = store.list("priorityclasses.scheduling.k8s.io") as Members[];
  const name = spec["priorityClassName"] ?? "";
  const found =
    name === ""
      ? classes.find((entry) => entry["globalDefault"] === true)
      : classes.find((entry) => entry["metadata"].name === name);
  if (name !== "" && found === undefined)
    throw refused(builtIn("pods"), pod.metadata.name ?? "", `no PriorityClass with name ${name} was found`);
  if (found !== undefined) spec["priorityClassName"] = found["metadata"].name;
  spec["priority"] = found?.["value"] ?? 0;
  fill(spec, "preemptionPolicy", found?.["preemptionPolicy"] ?? "PreemptLowerPriority");
}

/** A Job's pods are told apart by the Job's uid, which is in its selector. */
function jobLabels(job: Members): void {
  const { spec, metadata } = job as { spec: Members; metadata: Members };
  if (spec["manualSelector"] === true) return;
  const labels = {
    "batch.kubernetes.io/controller-uid": metadata["uid"],
    "batch.kubernetes.io/job-name": metadata["name"],
    "controller-uid": metadata["uid"],
    "job-name": metadata["name"],
  };
  const template = (spec["template"].metadata ??= {});
  template.labels = { ...template.labels, ...labels };
  metadata["labels"] ??= template.labels;
  spec["selector"] = { matchLabels: { "batch.kubernetes.io/controller-uid": metadata["uid"] } };
}

class BuiltInStrategy implements Strategy {
  readonly #kind: Kind;
  readonly #store: Store;

  constructor(kind: Kind, store: Store) {
    this.#kind = kind;
    this.#store = store;
  }

  prepareCreate(object: KubeObject): void {
    const { plural } = this.#kind;
    if (plural === "namespaces") object.spec = { finalizers: ["kubernetes"] };
    if (plural === "persistentvolumeclaims") addFinalizer(object, "kubernetes.io/pvc-protection");
    if (plural === "persistentvolumes") addFinalizer(object, "kubernetes.io/pv-protection");
    if (hasSubresource(this.#kind, "status") && plural !== "nodes") this.#clearStatus(object);
    if (plural === "pods") object.status = { phase: "Pending", qosClass: qosClass(object.spec as Members) };
    if (plural === "certificatesigningrequests") object.status = {};
  }

  #clearStatus(object: KubeObject): void {
    const { type } = this.#kind;
    const field = type.shape === "struct" ? type.fields.get("status") : undefined;
    if (field === undefined) return;
    object.status = new Decoder().read({}, field.type, "", { struct: "", path: "" });
  }

  admitCreate(object: KubeObject): void {
    if (this.#kind.plural === "jobs") object.metadata.uid = newUid();
    if (this.#kind.plural === "jobs") jobLabels(object);
    if (this.#kind.plural === "pods") {
      const pod = object as Pod;
      accountAdmission(this.#store, pod);
      tolerationAdmission(pod.spec);
      priorityAdmission(this.#store, pod);
      limitPod(this.#store, pod);
      pod.status.qosClass = qosClass(pod.spec);
    }
    if (this.#kind.isNamespaced) chargeQuota(this.#store, this.#kind, object);
  }

  defaults(object: KubeObject): void {
    if (this.#kind.plural === "secrets") mergeStringData(object);
    applyDefaults(object, this.#kind.type);
  }

  prepareUpdate(next: KubeObject, old: KubeObject, subresource: string): void {
    const { plural } = this.#kind;
    if (plural === "namespaces") {
      if (subresource !== "finalize") next.spec = old.spec;
    } else if (
      plural === "daemonsets" &&
      !jsonEqual((next.spec as Members)["template"], (old.spec as Members)["template"])
    ) {
      const before = Number((old.metadata.annotations ?? {})["deprecated.daemonset.template.generation"] ?? 1);
      next.metadata.annotations = {
        ...next.metadata.annotations,
        "deprecated.daemonset.template.generation": String(before + 1),
      };
    } else if (plural === "certificatesigningrequests") next.spec = old.spec;
  }

  prepareStatus(result: KubeObject, next: KubeObject): void {
    // A write of status may change metadata, too; of these kinds not all of it.
    const kept = { deployments: "labels", pods: "ownerReferences" }[this.#kind.plural];
    for (const name of ["labels", "annotations", "finalizers", "ownerReferences"] as const) {
      if (name === kept) continue;
      if (next.metadata[name] === undefined) delete result.metadata[name];
      else Object.assign(result.metadata, { [name]: next.metadata[name] });
    }
  }

  validate(object: KubeObject, old: KubeObject | undefined, subresource: string): StatusCause[] {
    return [
      ...metadataCauses(this.#kind, object),
      ...deletionCauses(object, old),
      ...validateBuiltIn(this.#kind, object, old, subresource),
    ];
  }

  complete(object: KubeObject, old: KubeObject | undefined): void {
    const { plural } = this.#kind;
    if (plural === "services") allocateService(this.#store, object as Service, old as Service | undefined);
    if (plural === "customresourcedefinitions" && old === undefined) object.status = initialStatus(object);
    if (plural === "jobs" && old === undefined) {
      // The selector names the uid that the labels were made of.
      const selected = (object.spec as Members)["selector"]?.matchLabels?.["batch.kubernetes.io/controller-uid"];
      if (selected !== undefined && (object.spec as Members)["manualSelector"] !== true) object.metadata.uid = selected;
    }
  }

  warnings(object: KubeObject, old: KubeObject | undefined): string[] {
    return warningsOf(this.#kind, object, old);
  }
}

const addFinalizer = (object: KubeObject, name: string): void => {
  object.metadata.finalizers = [...new Set([...(object.metadata.finalizers ?? []), name])];
};

function mergeStringData(secret: KubeObject): void {
  const plain = secret["stringData"] as Record<string, string> | undefined;
  if (plain === undefined) return;
  const encoded = Object.entries(plain).map(([key, value]) => [key, Buffer.from(value).toString("base64")]);
  const data = Object.entries({ ...(secret["data"] as object | undefined), ...Object.fromEntries(encoded) });
  secret["data"] = Object.fromEntries(data.toSorted(([a], [b]) => (a < b ? -1 : 1)));
  delete secret["stringData"];
}

/** An object that is being deleted takes no new finalizers. */
function deletionCauses(object: KubeObject, old: KubeObject | undefined): StatusCause[] {
  if (old?.metadata.deletionTimestamp === undefined) return [];
  const before = old.metadata.finalizers ?? [];
  const added = (object.metadata.finalizers ?? []).filter((finalizer) => !before.includes(finalizer));
  if (added.length === 0) return [];
  const message = `no new finalizers can be added if the object is being deleted, found new finalizers []string{${added.map((name) => JSON.stringify(name)).join(", ")}}`;
  const cause = { reason: "FieldValueForbidden", message: `Forbidden: ${message}`, field: "metadata.finalizers" };
  // A real server looks twice, and says it twice.
  return [cause, cause];
}

class CustomStrategy implements Strategy {
  readonly #kind: Kind;

  constructor(kind: Kind) {
    this.#kind = kind;
  }

  prepareCreate(object: KubeObject): void {
    if (hasSubresource(this.#kind, "status")) delete object.status;
  }

  admitCreate(): void {}

  defaults(object: KubeObject): void {
    if (isCustom(this.#kind)) defaultCustom(object, this.#kind.schema);
  }

  prepareUpdate(): void {}
  prepareStatus(): void {}

  validate(object: KubeObject, old: KubeObject | undefined): StatusCause[] {
    if (!isCustom(this.#kind)) return [];
    return [
      ...metadataCauses(this.#kind, object),
      ...deletionCauses(object, old),
      ...validateCustom(object, this.#kind, old),
    ];
  }

  complete(): void {}

  warnings(): string[] {
    return [];
  }
}

export interface Strategies {
  of(kind: Kind): Strategy;
}

/** The strategies of all kinds, made when first needed. */
export function strategies(store: Store): Strategies {
  const made = new WeakMap<Kind, Strategy>();
  return {
    of(kind) {
      let strategy = made.get(kind);
      if (strategy === undefined) {
        strategy = isCustom(kind) ? new CustomStrategy(kind) : new BuiltInStrategy(kind, store);
        made.set(kind, strategy);
      }
      return strategy;
    },
  };
}
