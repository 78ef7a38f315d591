// The rules by which objects come, change and go, the same for every kind and every caller: decoding, defaults, field
// managers, admission, validation, conflicts, generation, finalizers. HTTP requests and the cluster's own controllers both
// come through here.
import { jsonClone, jsonEqual } from "@lateen/base";
import { Admission, type AdmissionRequest, type Operation } from "./admission.ts";
import { randomSuffix } from "./allocate.ts";
import type { User } from "./auth.ts";
import { toServed, toStored } from "./conversion.ts";
import { type CustomKind, customKinds, isCustom, pruneCustom } from "./custom.ts";
import { Decoder, WrongType } from "./decode.ts";
import {
  alreadyExists,
  badRequest,
  conflict,
  conflictOfUids,
  conflictOfVersions,
  invalid,
  notFound,
  recreated,
  type StatusCause,
} from "./errors.ts";
import { apiVersionOf, builtIn, hasSubresource, type Kind, KindTable, storedKind, tableOf } from "./kinds.ts";
import { applyObject, trackUpdate, type Writer } from "./managed.ts";
import { type KubeObject, type ManagedFieldsEntry, newUid, type Pod, timestamp } from "./objects.ts";
import type { Store } from "./store.ts";
import { checkCreatable, checkDeletable, type Strategies, strategies } from "./strategy.ts";

export interface WriteOptions {
  readonly user?: User;
  readonly isDryRun?: boolean;
  readonly warn?: (text: string) => void;
  /** Owner of what this write changes, in managedFields. */
  readonly manager?: string;
}

interface CreateOptions extends WriteOptions {
  /** Who manages its fields, where an apply has already said so. */
  readonly tracked?: readonly ManagedFieldsEntry[];
}

export interface UpdateOptions extends WriteOptions {
  /** "status": only status; "": all but status where the kind has that subresource. Others write the whole object. */
  readonly subresource?: string;
}

export interface ApplyOptions extends UpdateOptions {
  readonly isForced?: boolean;
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
const CONTROLLER_MANAGER = "kube-controller-manager";
const NAME_TRIES = 8;
/** Of the built-in kinds these keep their labels when their status is written. */
const STATUS_KEEPS_LABELS = new Set(["deployments"]);
/** Subresources through which status changes along with the rest. */
const WRITES_STATUS_TOO = new Set(["binding", "approval"]);

export class Registry {
  readonly store: Store;
  readonly kinds = new KindTable();
  readonly #admission: Admission;
  readonly #strategies: Strategies;

  constructor(store: Store) {
    this.store = store;
    this.#admission = new Admission(store, this.kinds);
    this.#strategies = strategies(store);
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
    const found = this.store.get(tableOf(kind), kind.isNamespaced ? namespace : undefined, name);
    return found === undefined ? undefined : toServed(kind, found);
  }

  get(kind: Kind, namespace: string | undefined, name: string): KubeObject {
    const found = this.find(kind, namespace, name);
    if (found === undefined) throw notFound(kind, name);
    return found;
  }

  list(kind: Kind, namespace?: string): KubeObject[] {
    return this.store.list(tableOf(kind), namespace).map((object) => toServed(kind, object));
  }

  /**
   * Reads `raw` as an object of `kind`: paths of fields that the kind does not know go to `unknown`. Throws 400 for values of
   * a wrong type. The result is a copy.
   */
  decode(kind: Kind, raw: Record<string, unknown>, unknown: string[] = []): KubeObject {
    const decoder = new Decoder();
    try {
      const custom = this.customKind(kind);
      if (custom !== undefined) {
        const { metadata = {}, ...rest } = pruneCustom(jsonClone(raw), custom, unknown);
        const meta = builtIn("pods").type;
        const type = meta.shape === "struct" ? meta.fields.get("metadata")?.type : undefined;
        const at = { struct: kind.kind, path: "metadata" };
        const read = type === undefined ? metadata : decoder.read(metadata, type, "metadata", at);
        unknown.push(...decoder.unknown);
        const { apiVersion, kind: name, ...members } = rest as Record<string, unknown>;
        return { apiVersion, kind: name, metadata: read, ...members } as KubeObject;
      }
      const { apiVersion, kind: name, ...members } = raw;
      const read = decoder.read(members, kind.type, "", { struct: kind.kind, path: "" }) as Record<string, unknown>;
      unknown.push(...decoder.unknown);
      return { apiVersion, kind: name, ...read } as unknown as KubeObject;
    } catch (error) {
      if (!(error instanceof WrongType)) throw error;
      throw badRequest(
        `${kind.kind} in version "${kind.version}" cannot be handled as a ${kind.kind}: ${error.message}`,
      );
    }
  }

  /** Says who manages the fields of an object that is never stored: the answer to a review. */
  track(kind: Kind, object: KubeObject, manager: string | undefined): void {
    const options = manager === undefined ? {} : { manager };
    trackUpdate(this.#empty(kind), object, kind.type, { ...writerOf(kind, options, ""), ignoresStatus: true });
  }

  /** Creates an object. Resolves with the stored one once it is durable. */
  async create(
    kind: Kind,
    namespace: string | undefined,
    input: KubeObject,
    options: CreateOptions = {},
  ): Promise<KubeObject> {
    const strategy = this.#strategies.of(kind);
    let object = this.decode(kind, { ...input, apiVersion: apiVersionOf(kind), kind: kind.kind });
    checkCreatable(this.store, kind, object, namespace);
    const isGenerated = (object.metadata.name ?? "") === "" && (object.metadata.generateName ?? "") !== "";
    if (isGenerated) object.metadata.name = this.#freeName(kind, object);
    this.#default(kind, object);
    if (options.tracked === undefined) {
      delete object.metadata.managedFields;
      trackUpdate(this.#empty(kind), object, kind.type, writerOf(kind, options, ""));
    } else object.metadata.managedFields = [...options.tracked];
    strategy.prepareCreate(object);
    this.#default(kind, object);
    const tracked = object.metadata.managedFields;
    strategy.admitCreate(object);
    const ask = asked("CREATE", kind, object, undefined, options);
    object = await this.#mutate(ask, object, options);
    restoreManaged(object, tracked);
    this.#default(kind, object);
    this.#validate(kind, object, undefined, "");
    await this.#admission.validate({ ...ask, object }, options.warn ?? (() => {}));
    // Webhooks were waited for: another create may have come first.
    if (this.find(kind, object.metadata.namespace, object.metadata.name) !== undefined)
      throw alreadyExists(kind, object.metadata.name);
    object.metadata.uid = newUid();
    object.metadata.creationTimestamp = timestamp();
    delete object.metadata.deletionTimestamp;
    delete object.metadata.deletionGracePeriodSeconds;
    if (kind.hasGeneration) object.metadata.generation = 1;
    else delete object.metadata.generation;
    strategy.complete(object, undefined);
    for (const text of strategy.warnings(object, undefined)) options.warn?.(text);
    if (options.isDryRun === true) return ordered(kind, object);
    // It gets its value when it is stored, and its place now.
    object.metadata.resourceVersion = "";
    const stored = ordered(storedKind(kind), toStored(kind, object));
    await this.store.put(tableOf(kind), stored);
    return toServed(kind, stored);
  }

  /** A generated name that nobody has. */
  #freeName(kind: Kind, { metadata }: KubeObject): string {
    let name = "";
    for (let tries = 0; tries < NAME_TRIES; tries++) {
      name = `${metadata.generateName}${randomSuffix(5)}`;
      if (this.find(kind, metadata.namespace, name) === undefined) break;
    }
    return name;
  }

  /** An object of the kind before anything is said about it. */
  #empty(kind: Kind): KubeObject {
    if (isCustom(kind)) return { metadata: {} } as unknown as KubeObject;
    return new Decoder().read({}, kind.type, "", { struct: "", path: "" }) as KubeObject;
  }

  #default(kind: Kind, object: KubeObject): void {
    this.#strategies.of(kind).defaults(object);
  }

  #validate(kind: Kind, object: KubeObject, old: KubeObject | undefined, subresource: string): void {
    const causes: StatusCause[] = this.#strategies.of(kind).validate(object, old, subresource);
    if (causes.length > 0) throw invalid(kind, object.metadata.name ?? "", causes);
  }

  /** The object as the mutating webhooks leave it. */
  async #mutate(ask: AdmissionRequest, object: KubeObject, options: WriteOptions): Promise<KubeObject> {
    const mutated = (await this.#admission.mutate(ask, options.warn ?? (() => {}))) ?? object;
    return mutated === object ? object : this.decode(ask.kind, mutated);
  }

  /**
   * Changes an object: `change` gets a copy of the stored one and returns what it shall be. `subresource` limits what may
   * change. A change that changes nothing is no write.
   */
  async update(
    kind: Kind,
    namespace: string | undefined,
    name: string,
    change: (current: KubeObject) => KubeObject,
    options: UpdateOptions = {},
  ): Promise<KubeObject> {
    const old = this.get(kind, namespace, name);
    const stored = this.store.get(tableOf(kind), kind.isNamespaced ? namespace : undefined, name);
    const subresource = options.subresource ?? "";
    const changed = this.decode(kind, change(jsonClone(old)));
    let next = this.#reconcile(kind, old, changed, subresource);
    this.#default(kind, next);
    // Scaling a custom object makes nobody the owner of its replicas.
    if (subresource === "scale" && isCustom(kind)) restoreManaged(next, old.metadata.managedFields);
    else trackUpdate(old, next, kind.type, writerOf(kind, options, subresource));
    return this.#finishUpdate(kind, { old, stored, next }, options);
  }

  /** Server-side apply of what `applied` says; creates the object where there is none. */
  async apply(
    kind: Kind,
    namespace: string | undefined,
    name: string,
    applied: KubeObject,
    options: ApplyOptions,
  ): Promise<{ object: KubeObject; isNew: boolean }> {
    const subresource = options.subresource ?? "";
    const live = this.find(kind, namespace, name);
    if (live === undefined && subresource !== "") throw notFound(kind, name);
    const stored = this.store.get(tableOf(kind), kind.isNamespaced ? namespace : undefined, name);
    const writer = writerOf(kind, options, subresource);
    const empty = this.#empty(kind);
    const isForced = options.isForced === true;
    const merged = applyObject({ live, applied, empty, type: kind.type, writer, isForced });
    if (live === undefined) {
      if (applied.metadata.uid !== undefined && applied.metadata.uid !== "")
        throw conflictOfUids(kind, name, applied.metadata.uid, "");
      const tracked = merged.metadata.managedFields ?? [];
      return { object: await this.create(kind, namespace, merged, { ...options, tracked }), isNew: true };
    }
    const tracked = merged.metadata.managedFields;
    const next = this.#reconcile(kind, live, this.decode(kind, merged), subresource);
    this.#default(kind, next);
    restoreManaged(next, tracked);
    keepTimes(live, next);
    return { object: await this.#finishUpdate(kind, { old: live, stored, next }, options), isNew: false };
  }

  async #finishUpdate(
    kind: Kind,
    state: { readonly old: KubeObject; readonly stored: KubeObject | undefined; readonly next: KubeObject },
    options: UpdateOptions,
  ): Promise<KubeObject> {
    const { old, stored } = state;
    let { next } = state;
    const subresource = options.subresource ?? "";
    const strategy = this.#strategies.of(kind);
    const { name, namespace } = old.metadata;
    const tracked = next.metadata.managedFields;
    const ask = asked("UPDATE", kind, next, old, options);
    const admitted = await this.#mutate(ask, next, options);
    if (admitted !== next) {
      next = this.#reconcile(kind, old, admitted, subresource);
      this.#default(kind, next);
      restoreManaged(next, tracked);
    }
    this.#validate(kind, next, old, subresource);
    await this.#admission.validate({ ...ask, object: next }, options.warn ?? (() => {}));
    if (this.store.get(tableOf(kind), namespace, name) !== stored) throw conflict(kind, name);
    strategy.complete(next, old);
    for (const text of strategy.warnings(next, old)) options.warn?.(text);
    next = ordered(kind, next);
    if (jsonEqual(old, next)) return old;
    if (options.isDryRun === true) return next;
    const isDeleted = next.metadata.deletionTimestamp !== undefined && (next.metadata.finalizers ?? []).length === 0;
    if (isDeleted && isFinished(next)) {
      await this.store.remove(tableOf(kind), namespace, name);
      return next;
    }
    const result = ordered(storedKind(kind), toStored(kind, next));
    await this.store.put(tableOf(kind), result);
    return toServed(kind, result);
  }

  /** Takes from `next` what a write through `subresource` may change; keeps the rest of `old`. */
  #reconcile(kind: Kind, old: KubeObject, next: KubeObject, subresource: string): KubeObject {
    const { name } = old.metadata;
    const asked = next.metadata.resourceVersion;
    if (next.metadata.uid !== undefined && next.metadata.uid !== "" && next.metadata.uid !== old.metadata.uid)
      throw conflictOfUids(kind, name, next.metadata.uid, old.metadata.uid, old.metadata.namespace);
    if (asked !== undefined && asked !== "" && asked !== old.metadata.resourceVersion) throw conflict(kind, name);
    const { managedFields } = next.metadata;
    const metadata = { ...next.metadata, ...fixedMetadata(old) };
    for (const key of Object.keys(metadata) as (keyof typeof metadata)[])
      if (metadata[key] === undefined) delete metadata[key];
    let result: KubeObject = { ...next, apiVersion: apiVersionOf(kind), kind: kind.kind, metadata };
    if (subresource === "status") {
      const kept = isCustom(kind) ? {} : { labels: next.metadata.labels, annotations: next.metadata.annotations };
      if (STATUS_KEEPS_LABELS.has(kind.plural)) delete kept.labels;
      result = {
        ...old,
        metadata: { ...old.metadata, ...kept, managedFields } as KubeObject["metadata"],
        status: next.status,
      };
      if (result.status === undefined) delete result.status;
      if (managedFields === undefined) delete result.metadata.managedFields;
      this.#strategies.of(kind).prepareStatus(result, next);
      return result;
    }
    if (hasSubresource(kind, "status") && !WRITES_STATUS_TOO.has(subresource)) {
      if (old.status === undefined) delete result.status;
      else result.status = old.status;
    }
    this.#strategies.of(kind).prepareUpdate(result, old, subresource);
    // A pod that gets its node has been asked for nothing new.
    if (kind.hasGeneration && subresource !== "binding" && this.#changesDesiredState(kind, old, result))
      result.metadata.generation = (old.metadata.generation ?? 1) + 1;
    return result;
  }

  #changesDesiredState(kind: Kind, old: KubeObject, next: KubeObject): boolean {
    const desired = (object: KubeObject): unknown => {
      const { metadata: _metadata, status, ...rest } = object;
      return hasSubresource(kind, "status") || !isCustom(kind) ? rest : { ...rest, status };
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
    this.#checkPreconditions(kind, object, options);
    checkDeletable(kind, name);
    await this.#admitDelete(kind, object, options);
    // Webhooks were waited for.
    const current = this.get(kind, namespace, name);
    this.#checkPreconditions(kind, current, options);
    const graceSeconds = this.#graceSeconds(kind, current, options);
    const finalizers = this.#finalizersFor(kind, current, options);
    const mustStay = finalizers.length > 0 || graceSeconds > 0 || kind.plural === "namespaces";
    if (!mustStay) {
      if (options.isDryRun !== true) await this.store.remove(tableOf(kind), current.metadata.namespace, name);
      return { object: current, isGone: true };
    }
    const before = current.metadata.deletionGracePeriodSeconds ?? 0;
    if (current.metadata.deletionTimestamp !== undefined && graceSeconds >= before)
      return { object: current, isGone: false };
    const next = jsonClone(current);
    const { metadata } = next;
    const since =
      current.metadata.deletionTimestamp === undefined
        ? Date.now()
        : Date.parse(current.metadata.deletionTimestamp) - before * 1000;
    metadata.deletionTimestamp = timestamp(new Date(since + graceSeconds * 1000));
    if (kind.plural === "customresourcedefinitions") next.status = terminating(next.status);
    else metadata.deletionGracePeriodSeconds = graceSeconds;
    if (metadata.generation !== undefined && kind.plural !== "customresourcedefinitions") metadata.generation += 1;
    if (finalizers.length > 0) metadata.finalizers = finalizers;
    if (kind.plural === "namespaces") next.status = { ...(next.status as object), phase: "Terminating" };
    if (options.isDryRun === true) return { object: next, isGone: false };
    const stored = ordered(storedKind(kind), toStored(kind, next));
    await this.store.put(tableOf(kind), stored);
    return { object: toServed(kind, stored), isGone: false };
  }

  #checkPreconditions(kind: Kind, object: KubeObject, options: DeleteOptions): void {
    const { name, uid, resourceVersion = "" } = object.metadata;
    if (options.uid !== undefined && options.uid !== uid) throw recreated(kind, name, options.uid, uid);
    if (options.resourceVersion !== undefined && options.resourceVersion !== resourceVersion)
      throw conflictOfVersions(kind, name, options.resourceVersion, resourceVersion);
  }

  /** Shows a connection to a container (exec, attach, port-forward) to admission. Throws when it is refused. */
  async admitConnect(
    kind: Kind,
    at: {
      readonly namespace: string;
      readonly name: string;
      readonly subresource: string;
      readonly options: Record<string, unknown>;
    },
    user: User,
  ): Promise<void> {
    const { namespace, name, subresource, options } = at;
    const object = { apiVersion: "v1", ...options } as unknown as KubeObject;
    const ask = {
      kind,
      operation: "CONNECT" as const,
      namespace,
      name,
      subresource,
      object,
      oldObject: undefined,
      user,
      isDryRun: false,
    };
    await this.#admission.mutate(ask, () => {});
    await this.#admission.validate(ask, () => {});
  }

  async #admitDelete(kind: Kind, object: KubeObject, options: DeleteOptions): Promise<void> {
    if (kind.group === "admissionregistration.k8s.io") return;
    const ask = {
      kind,
      operation: "DELETE" as const,
      namespace: kind.isNamespaced
        ? object.metadata.namespace
        : kind.plural === "namespaces"
          ? object.metadata.name
          : undefined,
      name: object.metadata.name,
      subresource: "",
      object: undefined,
      oldObject: object,
      user: options.user ?? CONTROLLERS,
      isDryRun: options.isDryRun === true,
    };
    const warn = options.warn ?? (() => {});
    await this.#admission.mutate(ask, warn);
    await this.#admission.validate(ask, warn);
  }

  #graceSeconds(kind: Kind, object: KubeObject, options: DeleteOptions): number {
    if (kind.plural !== "pods") return 0;
    const { spec, status } = object as Pod;
    const isOver = status.phase === "Succeeded" || status.phase === "Failed";
    if ((spec.nodeName ?? "") === "" || isOver) return 0;
    const asked = options.gracePeriodSeconds ?? spec.terminationGracePeriodSeconds ?? 30;
    return asked < 0 ? 1 : asked;
  }

  #finalizersFor(kind: Kind, object: KubeObject, options: DeleteOptions): string[] {
    const present = object.metadata.finalizers ?? [];
    if (kind.plural === "customresourcedefinitions" && object.metadata.deletionTimestamp === undefined)
      return [...present, "customresourcecleanup.apiextensions.k8s.io"];
    // The policy of the request decides; without one, what an earlier request decided, then the kind's default.
    const chosen =
      options.propagationPolicy ??
      (kind.plural === "replicationcontrollers" && !present.includes("foregroundDeletion") ? "Orphan" : undefined);
    if (chosen === undefined) return present;
    const others = present.filter((finalizer) => finalizer !== "orphan" && finalizer !== "foregroundDeletion");
    if (chosen === "Foreground") return [...others, "foregroundDeletion"];
    if (chosen === "Orphan") return [...others, "orphan"];
    return others;
  }
}

/** Status of a definition that is to go. */
function terminating(status: unknown): unknown {
  const { conditions, ...rest } = status as { conditions?: object[] | null };
  const condition = {
    type: "Terminating",
    status: "True",
    lastTransitionTime: timestamp(),
    reason: "InstanceDeletionPending",
    message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
  };
  return { conditions: [...(conditions ?? []), condition], ...rest };
}

function writerOf(kind: Kind, options: UpdateOptions, subresource: string): Writer {
  const ignoresStatus = subresource !== "status" && hasSubresource(kind, "status");
  return { manager: options.manager ?? CONTROLLER_MANAGER, apiVersion: apiVersionOf(kind), subresource, ignoresStatus };
}

/** Admission must not change who manages what. */
function restoreManaged(object: KubeObject, tracked: ManagedFieldsEntry[] | undefined): void {
  if (tracked === undefined) delete object.metadata.managedFields;
  else object.metadata.managedFields = tracked;
}

/** An apply that changes nothing but times in managedFields changes nothing. */
function keepTimes(live: KubeObject, next: KubeObject): void {
  const timeless = (object: KubeObject): unknown => ({
    ...object,
    metadata: {
      ...object.metadata,
      managedFields: (object.metadata.managedFields ?? []).map(({ time: _time, ...entry }) => entry),
    },
  });
  if (live.metadata.managedFields !== undefined && jsonEqual(timeless(live), timeless(next)))
    next.metadata.managedFields = live.metadata.managedFields;
}

function fixedMetadata(old: KubeObject): Partial<KubeObject["metadata"]> {
  const { name, namespace, uid, resourceVersion, generation, generateName, creationTimestamp } = old.metadata;
  const { deletionTimestamp, deletionGracePeriodSeconds } = old.metadata;
  return {
    name,
    ...(namespace === undefined ? {} : { namespace }),
    uid,
    resourceVersion,
    generation,
    generateName,
    creationTimestamp,
    deletionTimestamp,
    deletionGracePeriodSeconds,
  } as Partial<KubeObject["metadata"]>;
}

/** Whether nothing but finalizers kept a deleted object: pods are removed by their node, namespaces by their controller. */
function isFinished(object: KubeObject): boolean {
  if (object.kind === "Pod") return object.metadata.deletionGracePeriodSeconds === 0;
  if (object.kind === "Namespace") return ((object.spec as { finalizers?: string[] }).finalizers ?? []).length === 0;
  return true;
}

/** The fields of an object in the order of its type, as a real server writes them. */
function ordered(kind: Kind, object: KubeObject): KubeObject {
  if (kind.type.shape !== "struct" || isCustom(kind)) return object;
  const result: Record<string, unknown> = { kind: kind.kind, apiVersion: apiVersionOf(kind) };
  for (const name of kind.type.fields.keys()) if (object[name] !== undefined) result[name] = object[name];
  const meta = kind.type.fields.get("metadata")?.type;
  if (meta?.shape === "struct") {
    const from = object.metadata as unknown as Record<string, unknown>;
    const metadata: Record<string, unknown> = {};
    for (const name of meta.fields.keys()) if (from[name] !== undefined) metadata[name] = from[name];
    result["metadata"] = metadata;
  }
  return result as unknown as KubeObject;
}

/** What admission is asked about a write. */
function asked(
  operation: Operation,
  kind: Kind,
  object: KubeObject,
  oldObject: KubeObject | undefined,
  options: UpdateOptions,
): AdmissionRequest {
  const subject = object.metadata;
  return {
    kind,
    operation,
    namespace: kind.isNamespaced ? subject.namespace : kind.plural === "namespaces" ? subject.name : undefined,
    name: subject.name,
    subresource: options.subresource ?? "",
    object,
    oldObject,
    user: options.user ?? CONTROLLERS,
    isDryRun: options.isDryRun === true,
  };
}
