// What the controllers of workloads share: whose pods are whose, when a pod counts as ready, how pods are made and removed.
import { canonicalJson, compareText, contentHash, errorText } from "@lateen/base";
import { randomSuffix } from "../api/allocate.ts";
import { ApiError } from "../api/errors.ts";
import { recordEvent } from "../api/events.ts";
import { builtIn, type Kind } from "../api/kinds.ts";
import {
  controllerOf,
  type KubeObject,
  type LabelSelector,
  ownedBy,
  type Pod,
  type PodTemplate,
} from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { selectsLabels } from "../api/selectors.ts";

export const PODS = builtIn("pods");
const NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789";

/** Key of the controller of an object, where it is of `kind`. */
export function ownerKey(object: KubeObject, kind: string): string[] {
  const owner = controllerOf(object);
  return owner?.kind === kind ? [`${object.metadata.namespace}/${owner.name}`] : [];
}

export const isOwnedBy = (object: KubeObject, owner: KubeObject): boolean =>
  controllerOf(object)?.uid === owner.metadata.uid;
export const isPodReady = (pod: Pod): boolean =>
  pod.status.conditions?.some((condition) => condition.type === "Ready" && condition.status === "True") === true;
export const isPodActive = (pod: Pod): boolean =>
  pod.metadata.deletionTimestamp === undefined && pod.status.phase !== "Failed" && pod.status.phase !== "Succeeded";

/** Milliseconds until a pod has been ready for `minReadySeconds`; 0: it has, undefined: it is not ready. */
export function availableInMs(pod: Pod, minReadySeconds: number): number | undefined {
  const ready = pod.status.conditions?.find((condition) => condition.type === "Ready" && condition.status === "True");
  if (ready === undefined) return undefined;
  if (minReadySeconds <= 0) return 0;
  return Math.max(0, Date.parse(ready.lastTransitionTime ?? "") + minReadySeconds * 1000 - Date.now());
}

/** Letters that name a template, as Kubernetes puts them into the names of ReplicaSets and ControllerRevisions. */
export function templateHash(template: unknown): string {
  const hash = BigInt(`0x${contentHash(canonicalJson(template))}`);
  return Array.from({ length: 10 }, (_, i) => NAME_LETTERS[Number((hash >> BigInt(i * 5)) % 27n)]).join("");
}

/** Which pods go first when there are too many: those that are least use. */
export function deletionOrder(a: Pod, b: Pod): number {
  const rank = (pod: Pod): number =>
    (pod.spec.nodeName ?? "") === "" ? 0 : pod.status.phase === "Pending" ? 1 : isPodReady(pod) ? 3 : 2;
  const cost = (pod: Pod): number =>
    Number(pod.metadata.annotations?.["controller.kubernetes.io/pod-deletion-cost"] ?? 0);
  const younger = compareText(b.metadata.creationTimestamp ?? "", a.metadata.creationTimestamp ?? "");
  return rank(a) - rank(b) || cost(a) - cost(b) || younger || compareText(a.metadata.name, b.metadata.name);
}

/** The pods of an owner. Matching ones without controller are adopted, own ones that match no longer are released. */
export function claimPods(registry: Registry, owner: KubeObject, selector: LabelSelector | undefined): Promise<Pod[]> {
  return claim(registry, PODS, owner, selector, (pod) => isPodActive(pod as Pod)) as Promise<Pod[]>;
}

/** The objects of a kind that belong to an owner: claimed and released as `claimPods` does. */
export async function claim(
  registry: Registry,
  kind: Kind,
  owner: KubeObject,
  selector: LabelSelector | undefined,
  mayAdopt: (object: KubeObject) => boolean,
): Promise<KubeObject[]> {
  const selects = selectsLabels(selector);
  const isOver = owner.metadata.deletionTimestamp !== undefined;
  const claimed: KubeObject[] = [];
  for (const object of registry.list(kind, owner.metadata.namespace)) {
    const isMatch = selects(object.metadata.labels);
    const controller = controllerOf(object);
    if (controller?.uid === owner.metadata.uid) {
      if (isMatch) claimed.push(object);
      else
        await setOwner(registry, kind, object, (others) => others.filter((entry) => entry.uid !== owner.metadata.uid));
    } else if (isMatch && controller === undefined && mayAdopt(object) && !isOver) {
      const adopted = await setOwner(registry, kind, object, (others) => [...others, ownedBy(owner)]);
      if (adopted !== undefined) claimed.push(adopted);
    }
  }
  return claimed;
}

type Owners = NonNullable<KubeObject["metadata"]["ownerReferences"]>;

async function setOwner(
  registry: Registry,
  kind: Kind,
  { metadata }: KubeObject,
  change: (owners: Owners) => Owners,
): Promise<KubeObject | undefined> {
  try {
    return await registry.update(kind, metadata.namespace, metadata.name, (current) => {
      if (current.metadata.uid !== metadata.uid) return current;
      const ownerReferences = change(current.metadata.ownerReferences ?? []);
      return { ...current, metadata: { ...current.metadata, ownerReferences } };
    });
  } catch (error) {
    if (error instanceof ApiError && error.code === 404) return undefined;
    throw error;
  }
}

/** Makes a pod from a template. `name` where the workload names its pods. Throws what the API says, after telling it of the owner. */
export async function createPod(
  registry: Registry,
  owner: KubeObject,
  template: PodTemplate,
  options: {
    readonly component: string;
    readonly name?: string;
    readonly labels?: Record<string, string>;
    readonly annotations?: Record<string, string>;
    readonly change?: (pod: KubeObject) => void;
  },
): Promise<Pod> {
  const { metadata = {}, spec } = structuredClone(template);
  const base = `${owner.metadata.name}-`.slice(0, 58);
  const labels = { ...metadata.labels, ...options.labels };
  const annotations = { ...metadata.annotations, ...options.annotations };
  const pod: KubeObject = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      ...metadata,
      name: options.name ?? `${base}${randomSuffix(5)}`,
      ...(options.name === undefined ? { generateName: base } : {}),
      labels,
      annotations,
      uid: "",
      ownerReferences: [ownedBy(owner)],
    },
    spec,
  };
  options.change?.(pod);
  try {
    const created = await registry.create(PODS, owner.metadata.namespace, pod);
    const message =
      options.name === undefined
        ? `Created pod: ${created.metadata.name}`
        : `create Pod ${created.metadata.name} in ${owner.kind} ${owner.metadata.name} successful`;
    await recordEvent(registry, owner, options.component, { type: "Normal", reason: "SuccessfulCreate", message });
    return created as Pod;
  } catch (error) {
    const message = `Error creating: ${errorText(error)}`;
    await recordEvent(registry, owner, options.component, { type: "Warning", reason: "FailedCreate", message });
    throw error;
  }
}

export async function deletePod(registry: Registry, owner: KubeObject, pod: Pod, component: string): Promise<void> {
  try {
    await registry.delete(PODS, pod.metadata.namespace, pod.metadata.name, { uid: pod.metadata.uid });
  } catch (error) {
    if (error instanceof ApiError && (error.code === 404 || error.code === 409)) return;
    throw error;
  }
  await recordEvent(registry, owner, component, {
    type: "Normal",
    reason: "SuccessfulDelete",
    message: `Deleted pod: ${pod.metadata.name}`,
  });
}
