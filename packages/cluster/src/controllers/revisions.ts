// ControllerRevisions: what the templates of StatefulSets and DaemonSets have been, for rollouts and for going back.
import { canonicalJson, jsonEqual } from "@lateen/base";
import { builtIn } from "../api/kinds.ts";
import { controllerOf, type DaemonSet, type KubeObject, ownedBy, type StatefulSet } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { isOwnedBy, templateHash } from "./pods.ts";

export const REVISIONS = builtIn("controllerrevisions");
/** Label of revisions and of the pods made from them. */
export const REVISION_LABEL = "controller-revision-hash";

/** The revisions of a set, the oldest first. */
export function revisionsOf(registry: Registry, set: KubeObject): KubeObject[] {
  return registry
    .list(REVISIONS, set.metadata.namespace)
    .filter((revision) => isOwnedBy(revision, set))
    .toSorted((a, b) => Number(a["revision"]) - Number(b["revision"]));
}

/** Takes over a revision that a set of the same name left behind. False: there is none. */
async function adoptRevision(registry: Registry, owner: KubeObject, name: string): Promise<boolean> {
  const found = registry.find(REVISIONS, owner.metadata.namespace, name);
  if (found === undefined || controllerOf(found) !== undefined) return false;
  await registry.update(REVISIONS, owner.metadata.namespace, name, (current) => ({
    ...current,
    metadata: { ...current.metadata, ownerReferences: [ownedBy(owner)] },
  }));
  return true;
}

/** The revision of the set's template; made where it is new, counted up where an old one comes back. */
export async function currentRevision(
  registry: Registry,
  set: StatefulSet | DaemonSet,
  annotations?: Readonly<Record<string, string>>,
): Promise<{ readonly name: string; readonly hash: string }> {
  // In the order of names: clients compare it byte by byte with what they work out themselves.
  const data: unknown = JSON.parse(canonicalJson({ spec: { template: { ...set.spec.template, $patch: "replace" } } }));
  const all = revisionsOf(registry, set);
  const next = Number(all.at(-1)?.["revision"] ?? 0) + 1;
  const same = all.find((revision) => jsonEqual(revision["data"], data));
  if (same !== undefined) {
    if (same !== all.at(-1))
      await registry.update(REVISIONS, set.metadata.namespace, same.metadata.name, (current) => ({
        ...current,
        revision: next,
      }));
    return { name: same.metadata.name, hash: same.metadata.labels?.[REVISION_LABEL] ?? "" };
  }
  // A set of another kind may have the same name and template.
  const hash = templateHash([set.kind, data]);
  const name = `${set.metadata.name}-${hash}`;
  if (!(await adoptRevision(registry, set, name)))
    await registry.create(REVISIONS, set.metadata.namespace, {
      apiVersion: "apps/v1",
      kind: "ControllerRevision",
      metadata: {
        name,
        uid: "",
        labels: { ...set.spec.template.metadata?.labels, [REVISION_LABEL]: hash },
        ...(annotations === undefined ? {} : { annotations }),
        ownerReferences: [ownedBy(set)],
      },
      data,
      revision: next,
    });
  return { name, hash };
}
