// The rules by which objects come, change and go, the same for every kind and every caller: defaults, validation,
// admission, conflicts, generation, finalizers. HTTP requests and the cluster's own controllers both come through here.
import { errorText, jsonClone, jsonEqual } from "@lateen/base";
import { Admission, type Operation } from "./admission.ts";
import { allocateService, randomSuffix } from "./allocate.ts";
import type { User } from "./auth.ts";
import { type CustomKind, customKinds, defaultCustom, establishedStatus, isCustom, validateCustom } from "./custom.ts";
import { accountDefaults, applyDefaults, checkRequired } from "./defaults.ts";
import { ApiError, alreadyExists, badRequest, conflict, invalid, notFound } from "./errors.ts";
import { apiVersionOf, builtIn, type Kind, KindTable, tableOf } from "./kinds.ts";
import { type KubeObject, newUid, type Pod, type Service, timestamp } from "./objects.ts";
import type { Store } from "./store.ts";

export interface WriteOptions {
  readonly user?: User;
  readonly isDryRun?: boolean;
  readonly warn?: (text: string) => void;
}

export interface DeleteOptions extends WriteOptions {
  readonly gracePeriodSeconds?: number;
  readonly propagationPolicy?: string;
  readonly uid?: string;
  readonly resourceVersion?: string;
}

/** The user of the cluster's own controllers. */
const CONTROLLERS: User = {
  name: "system:kube-controller-manager",
  groups: ["system:masters", "system:authenticated"],
};
const DNS_LABEL = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;
const DNS_SUBDOMAIN = /^[a-z0-9]([-a-z0-9.:]*[a-z0-9])?$/;
const PROTECTED_NAMESPACES = new Set(["default", "kube-system", "kube-public"]);

export class Registry {
  readonly store: Store;
  readonly kinds = new KindTable();
  readonly #admission: Admission;

  constructor(store: Store) {
    this.store = store;
    this.#admission = new Admission(store);
    const definitions = builtIn("customresourcedefinitions");
    const refresh = (): void => this.kinds.setCustom(this.list(definitions).flatMap(customKinds));
    refresh();
    store.subscribe(tableOf(definitions), refresh);
  }

  /** The custom kinds served now, with their schemas. */
  customKind(kind: Kind): CustomKind | undefined {
    return isCustom(kind) ? kind : undefined;
  }

  find(kind: Kind, namespace: string | undefined, name: string): KubeObject | undefined {
    return this.store.get(tableOf(kind), kind.isNamespaced ? namespace : undefined, name);
  }

  get(kind: Kind, namespace: string | undefined, name: string): KubeObject {
    const found = this.find(kind, namespace, name);
    if (found === undefined) throw notFound(kind, name);
    return found;
  }

  list(kind: Kind, namespace?: string): KubeObject[] {
    return this.store.list(tableOf(kind), namespace);
  }

  #checkNamespace(namespace: string, kind: Kind): void {
    const found = this.store.get("namespaces", undefined, namespace);
    if (found === undefined) throw notFound(builtIn("namespaces"), namespace);
    if (found.metadata.deletionTimestamp === undefined) return;
    const why = `unable to create new content in namespace ${namespace} because it is being terminated`;
    throw new ApiError(403, "Forbidden", `${kind.plural} is forbidden: ${why}`, {
      causes: [
        {
          reason: "NamespaceTerminating",
          message: `namespace ${namespace} is being terminated`,
          field: "metadata.namespace",
        },
      ],
    });
  }

  /** Creates `input` (taken over, not copied). Resolves with the stored object once it is durable. */
  async create(
    kind: Kind,
    namespace: string | undefined,
    input: KubeObject,
    options: WriteOptions = {},
  ): Promise<KubeObject> {
    let object = input;
    object.apiVersion = apiVersionOf(kind);
    object.kind = kind.kind;
    const meta = object.metadata;
    if (meta.resourceVersion !== undefined && meta.resourceVersion !== "") {
      throw new ApiError(500, "", "resourceVersion should not be set on objects to be created");
    }
    if (kind.isNamespaced) {
      meta.namespace = namespace ?? "default";
      this.#checkNamespace(meta.namespace, kind);
    } else delete meta.namespace;
    if ((meta.name ?? "") === "" && meta.generateName !== undefined)
      meta.name = `${meta.generateName}${randomSuffix(5)}`;
    this.#checkName(kind, meta.name);
    if (this.find(kind, meta.namespace, meta.name) !== undefined) throw alreadyExists(kind, meta.name);
    this.#prepare(kind, object);
    object = await this.#admit("CREATE", kind, object, undefined, options);
    this.#prepare(kind, object);
    // Webhooks were waited for: another create may have come first.
    if (this.find(kind, object.metadata.namespace, object.metadata.name) !== undefined)
      throw alreadyExists(kind, object.metadata.name);
    this.#complete(kind, object);
    if (options.isDryRun !== true) await this.store.put(tableOf(kind), object);
    return object;
  }

  #checkName(kind: Kind, name: string | undefined): void {
    if (name === undefined || name === "") {
      throw invalid(kind, "", [
        {
          reason: "FieldValueRequired",
          message: "Required value: name or generateName is required",
          field: "metadata.name",
        },
      ]);
    }
    const isLabel = kind.plural === "namespaces" || kind.plural === "services";
    if ((isLabel ? DNS_LABEL : DNS_SUBDOMAIN).test(name) && name.length <= (isLabel ? 63 : 253)) return;
    const rule = isLabel ? "RFC 1123 label" : "RFC 1123 subdomain";
    const message = `Invalid value: "${name}": a lowercase ${rule} must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character`;
    throw invalid(kind, name, [{ reason: "FieldValueInvalid", message, field: "metadata.name" }]);
  }

  /** Defaults and validation; done before and after mutation. */
  #prepare(kind: Kind, object: KubeObject): void {
    const custom = this.customKind(kind);
    const missing = checkRequired(object);
    if (missing.length > 0) throw invalid(kind, object.metadata.name, missing);
    if (custom !== undefined) {
      defaultCustom(object, custom.schema);
      const causes = validateCustom(object, custom);
      if (causes.length > 0) throw invalid(kind, object.metadata.name, causes);
    } else applyDefaults(object);
    if (object.kind === "Pod") accountDefaults(object as Pod, randomSuffix(5));
  }

  /** What the server sets on a new object. */
  #complete(kind: Kind, object: KubeObject): void {
    const { metadata } = object;
    metadata.uid = newUid();
    metadata.creationTimestamp = timestamp();
    delete metadata.deletionTimestamp;
    if (kind.hasGeneration) metadata.generation = 1;
    if (this.customKind(kind)?.hasStatus === true) delete object.status;
    if (kind.plural === "services") allocateService(this.store, object as Service, undefined);
    if (kind.plural === "customresourcedefinitions") object.status = establishedStatus(object, timestamp());
    if (kind.plural === "pods") object.status = { phase: "Pending", qosClass: "BestEffort" };
  }

  async #admit(
    operation: Operation,
    kind: Kind,
    object: KubeObject,
    oldObject: KubeObject | undefined,
    options: WriteOptions,
  ): Promise<KubeObject> {
    const ask = {
      kind,
      operation,
      namespace: kind.isNamespaced
        ? object.metadata.namespace
        : kind.plural === "namespaces"
          ? object.metadata.name
          : undefined,
      name: object.metadata.name,
      oldObject,
      user: options.user ?? CONTROLLERS,
      isDryRun: options.isDryRun === true,
    };
    const warn = options.warn ?? (() => {});
    const mutated = (await this.#admission.mutate({ ...ask, object }, warn)) ?? object;
    await this.#admission.validate({ ...ask, object: mutated }, warn);
    return mutated;
  }

  /**
   * Changes an object: `change` gets a copy of the stored one and returns what it shall be. `subresource` limits what may
   * change ("status": only status; "": all but status where the kind has that subresource).
   */
  async update(
    kind: Kind,
    namespace: string | undefined,
    name: string,
    change: (current: KubeObject) => KubeObject,
    options: WriteOptions & { readonly subresource?: string } = {},
  ): Promise<KubeObject> {
    const old = this.get(kind, namespace, name);
    let next = this.#reconcile(kind, old, change(jsonClone(old)), options.subresource ?? "");
    if (options.subresource === undefined || options.subresource === "") {
      this.#prepare(kind, next);
      const admitted = await this.#admit("UPDATE", kind, next, old, options);
      if (admitted !== next) {
        next = this.#reconcile(kind, old, admitted, "");
        this.#prepare(kind, next);
      }
      if (this.find(kind, namespace, name) !== old) throw conflict(kind, name);
      if (kind.plural === "services") allocateService(this.store, next as Service, old as Service);
    }
    if (jsonEqual(old, next)) return old;
    if (options.isDryRun === true) return next;
    if (
      next.metadata.deletionTimestamp !== undefined &&
      (next.metadata.finalizers ?? []).length === 0 &&
      this.#isFinished(next)
    ) {
      await this.store.remove(tableOf(kind), next.metadata.namespace, name);
      return next;
    }
    await this.store.put(tableOf(kind), next);
    return next;
  }

  /** Whether nothing but finalizers kept a deleted object: pods are removed by their node, namespaces by their controller. */
  #isFinished(object: KubeObject): boolean {
    if (object.kind === "Pod") return object.metadata.deletionGracePeriodSeconds === 0;
    if (object.kind === "Namespace") return ((object.spec as { finalizers?: string[] }).finalizers ?? []).length === 0;
    return true;
  }

  /** Takes from `next` what a write through `subresource` may change; keeps the rest of `old`. */
  #reconcile(kind: Kind, old: KubeObject, next: KubeObject, subresource: string): KubeObject {
    const { name } = old.metadata;
    const asked = next.metadata?.resourceVersion;
    if (asked !== undefined && asked !== "" && asked !== old.metadata.resourceVersion) throw conflict(kind, name);
    if (next.metadata?.uid !== undefined && next.metadata.uid !== "" && next.metadata.uid !== old.metadata.uid) {
      const why = `Precondition failed: UID in precondition: ${next.metadata.uid}, UID in object meta: ${old.metadata.uid}`;
      throw conflict(kind, name, why);
    }
    if (subresource === "status") {
      const status: KubeObject = { ...old, metadata: { ...old.metadata } };
      if (next.status === undefined) delete status.status;
      else status.status = next.status;
      return status;
    }
    const {
      uid,
      creationTimestamp,
      namespace,
      resourceVersion,
      generation,
      deletionTimestamp,
      deletionGracePeriodSeconds,
    } = old.metadata;
    const fixed = {
      name,
      namespace,
      uid,
      resourceVersion,
      generation,
      creationTimestamp,
      deletionTimestamp,
      deletionGracePeriodSeconds,
    };
    const metadata: Record<string, unknown> = { ...next.metadata, ...fixed };
    delete metadata["managedFields"];
    for (const key of Object.keys(metadata)) if (metadata[key] === undefined) delete metadata[key];
    const result: KubeObject = {
      ...next,
      apiVersion: apiVersionOf(kind),
      kind: kind.kind,
      metadata: metadata as unknown as KubeObject["metadata"],
    };
    if (kind.subresources.includes("status")) {
      if (old.status === undefined) delete result.status;
      else result.status = old.status;
    }
    if (kind.hasGeneration && this.#changesDesiredState(kind, old, result)) {
      result.metadata.generation = (old.metadata.generation ?? 1) + 1;
    }
    return result;
  }

  #changesDesiredState(kind: Kind, old: KubeObject, next: KubeObject): boolean {
    const desired = (object: KubeObject): unknown => {
      const { metadata: _metadata, status: _status, ...rest } = object;
      return rest;
    };
    if (!jsonEqual(desired(old), desired(next))) return true;
    return kind.plural === "deployments" && !jsonEqual(old.metadata.annotations, next.metadata.annotations);
  }

  /** Deletes an object, or marks it as being deleted when finalizers or a grace period keep it. Returns its last state. */
  async delete(
    kind: Kind,
    namespace: string | undefined,
    name: string,
    options: DeleteOptions = {},
  ): Promise<{ object: KubeObject; isGone: boolean }> {
    const object = this.get(kind, namespace, name);
    if (options.uid !== undefined && options.uid !== object.metadata.uid) {
      throw conflict(
        kind,
        name,
        `Precondition failed: UID in precondition: ${options.uid}, UID in object meta: ${object.metadata.uid}`,
      );
    }
    if (options.resourceVersion !== undefined && options.resourceVersion !== object.metadata.resourceVersion)
      throw conflict(kind, name);
    if (kind.plural === "namespaces" && PROTECTED_NAMESPACES.has(name)) {
      throw new ApiError(403, "Forbidden", `namespaces "${name}" is forbidden: this namespace may not be deleted`, {
        name,
        kind: "namespaces",
      });
    }
    if (options.isDryRun === true) return { object, isGone: false };
    const graceSeconds = this.#graceSeconds(kind, object, options);
    const finalizers = this.#finalizersFor(object, options);
    const mustStay = finalizers.length > 0 || graceSeconds > 0 || kind.plural === "namespaces";
    if (!mustStay) {
      await this.store.remove(tableOf(kind), object.metadata.namespace, name);
      return { object, isGone: true };
    }
    if (
      object.metadata.deletionTimestamp !== undefined &&
      graceSeconds >= (object.metadata.deletionGracePeriodSeconds ?? 0)
    ) {
      return { object, isGone: false };
    }
    const next = jsonClone(object);
    next.metadata.deletionTimestamp = timestamp(new Date(Date.now() + graceSeconds * 1000));
    next.metadata.deletionGracePeriodSeconds = graceSeconds;
    if (next.metadata.generation !== undefined) next.metadata.generation += 1;
    if (finalizers.length > 0) next.metadata.finalizers = finalizers;
    if (kind.plural === "namespaces") next.status = { ...(next.status as object), phase: "Terminating" };
    await this.store.put(tableOf(kind), next);
    return { object: next, isGone: false };
  }

  #graceSeconds(kind: Kind, object: KubeObject, options: DeleteOptions): number {
    if (kind.plural !== "pods") return 0;
    const { spec, status } = object as Pod;
    const isOver = status.phase === "Succeeded" || status.phase === "Failed";
    if (spec.nodeName === undefined || isOver) return 0;
    return options.gracePeriodSeconds ?? spec.terminationGracePeriodSeconds ?? 30;
  }

  #finalizersFor(object: KubeObject, options: DeleteOptions): string[] {
    const present = object.metadata.finalizers ?? [];
    if (object.metadata.deletionTimestamp !== undefined) return present;
    if (options.propagationPolicy === "Foreground") return [...new Set([...present, "foregroundDeletion"])];
    if (options.propagationPolicy === "Orphan") return [...new Set([...present, "orphan"])];
    return present;
  }

  /** Writes an Event about `about`; equal ones are counted up on the one that exists. */
  async event(
    about: KubeObject,
    component: string,
    entry: { readonly type: "Normal" | "Warning"; readonly reason: string; readonly message: string },
  ): Promise<void> {
    try {
      await this.#recordEvent(about, component, entry);
    } catch (error) {
      // An event tells what happened; that it cannot be kept must not stop what it tells of.
      process.stderr.write(`event ${entry.reason} of ${about.metadata.name}: ${errorText(error)}\n`);
    }
  }

  async #recordEvent(
    about: KubeObject,
    component: string,
    entry: { readonly type: "Normal" | "Warning"; readonly reason: string; readonly message: string },
  ): Promise<void> {
    const kind = builtIn("events");
    const namespace = about.metadata.namespace ?? "default";
    const now = timestamp();
    const same = this.list(kind, namespace).find((event) => {
      const involved = event["involvedObject"] as { uid?: string };
      return (
        involved.uid === about.metadata.uid && event["reason"] === entry.reason && event["message"] === entry.message
      );
    });
    if (same !== undefined) {
      const counted = (event: KubeObject): KubeObject => ({
        ...event,
        count: Number(event["count"] ?? 1) + 1,
        lastTimestamp: now,
      });
      await this.update(kind, namespace, same.metadata.name, counted);
      return;
    }
    const { name, uid, resourceVersion } = about.metadata;
    await this.create(kind, namespace, {
      apiVersion: "v1",
      kind: "Event",
      metadata: { name: `${name}.${Date.now().toString(16)}${randomSuffix(5)}`, uid: "" },
      involvedObject: {
        kind: about.kind,
        namespace: about.metadata.namespace,
        name,
        uid,
        apiVersion: about.apiVersion,
        resourceVersion,
      },
      reason: entry.reason,
      message: entry.message,
      type: entry.type,
      source: { component },
      firstTimestamp: now,
      lastTimestamp: now,
      count: 1,
      reportingComponent: component,
      reportingInstance: "",
      eventTime: null,
    });
  }

  /** The kind that a body claims to be must be the one of the path. */
  checkBody(
    kind: Kind,
    object: Record<string, unknown>,
    namespace: string | undefined,
    name: string | undefined,
  ): KubeObject {
    const given = { kind: object["kind"] ?? kind.kind, apiVersion: object["apiVersion"] ?? apiVersionOf(kind) };
    if (given.kind !== kind.kind || given.apiVersion !== apiVersionOf(kind)) {
      throw badRequest(
        `${String(given.kind)} in version "${String(given.apiVersion)}" cannot be handled as a ${kind.kind}`,
      );
    }
    const metadata = (object["metadata"] ??= {}) as Record<string, unknown>;
    if (name !== undefined && metadata["name"] !== undefined && metadata["name"] !== name) {
      throw badRequest(
        `the name of the object (${String(metadata["name"])}) does not match the name on the URL (${name})`,
      );
    }
    const inBody = metadata["namespace"];
    if (namespace !== undefined && inBody !== undefined && inBody !== "" && inBody !== namespace) {
      throw badRequest("the namespace of the provided object does not match the namespace sent on the request");
    }
    if (name !== undefined) metadata["name"] = name;
    if (metadata["creationTimestamp"] === null) delete metadata["creationTimestamp"];
    delete metadata["managedFields"];
    return object as unknown as KubeObject;
  }
}
