// topologySpreadConstraints: how evenly the pods of a kind are to lie over zones or hosts.
import type { KubeObject, Pod } from "../api/objects.ts";
import { selectsLabels } from "../api/selectors.ts";

interface Constraint {
  readonly maxSkew: number;
  readonly topologyKey: string;
  readonly whenUnsatisfiable: string;
  readonly labelSelector?: Parameters<typeof selectsLabels>[0];
  readonly matchLabelKeys?: readonly string[];
  readonly minDomains?: number;
  readonly nodeAffinityPolicy?: string;
}

const constraintsOf = (pod: Pod): Constraint[] =>
  (pod.spec["topologySpreadConstraints"] as Constraint[] | undefined) ?? [];
const valueOf = (node: KubeObject, key: string): string | undefined => node.metadata.labels?.[key];

/** Pods that count, for each place that there is: the values of the key among the nodes that the pod may be on. */
function countsOf(
  pod: Pod,
  constraint: Constraint,
  nodes: readonly KubeObject[],
  placed: readonly Pod[],
): Map<string, number> {
  const { topologyKey, labelSelector = {}, matchLabelKeys = [] } = constraint;
  const selects = selectsLabels(labelSelector);
  const counts = new Map<string, number>();
  for (const node of nodes) {
    const value = valueOf(node, topologyKey);
    if (value !== undefined) counts.set(value, 0);
  }
  const places = new Map(nodes.map((node) => [node.metadata.name, valueOf(node, topologyKey)]));
  for (const other of placed) {
    const place = places.get(other.spec.nodeName ?? "");
    const labels = other.metadata.labels ?? {};
    const isAlike = matchLabelKeys.every((key) => labels[key] === pod.metadata.labels?.[key]);
    const isCounted = other.metadata.namespace === pod.metadata.namespace && isAlike && selects(labels);
    const isOver = other.metadata.deletionTimestamp !== undefined || /^(Succeeded|Failed)$/.test(other.status.phase);
    if (place !== undefined && isCounted && !isOver) counts.set(place, (counts.get(place) ?? 0) + 1);
  }
  return counts;
}

/** Why the pod's rules about evenness keep it from a node; `eligible` are the nodes that it may be on by their own rules. */
export function spreadProblem(
  pod: Pod,
  node: KubeObject,
  eligible: readonly KubeObject[],
  placed: readonly Pod[],
): string | undefined {
  for (const constraint of constraintsOf(pod)) {
    if (constraint.whenUnsatisfiable !== "DoNotSchedule") continue;
    const { topologyKey, maxSkew, minDomains = 1, labelSelector = {} } = constraint;
    const place = valueOf(node, topologyKey);
    if (place === undefined) return "node(s) didn't match pod topology spread constraints (missing required label)";
    const counts = countsOf(pod, constraint, eligible, placed);
    const least = counts.size < minDomains ? 0 : Math.min(...counts.values());
    const own = selectsLabels(labelSelector)(pod.metadata.labels) ? 1 : 0;
    if ((counts.get(place) ?? 0) + own - least > maxSkew) return "node(s) didn't match pod topology spread constraints";
  }
  return undefined;
}

/** How crowded a node's places are by the rules that only ask: less is better. */
export function crowding(pod: Pod, node: KubeObject, nodes: readonly KubeObject[], placed: readonly Pod[]): number {
  return constraintsOf(pod)
    .filter(({ whenUnsatisfiable }) => whenUnsatisfiable === "ScheduleAnyway")
    .reduce((sum, constraint) => {
      const counts = countsOf(pod, constraint, nodes, placed);
      const most = Math.max(0, ...counts.values()) + 1;
      return sum + (counts.get(valueOf(node, constraint.topologyKey) ?? "") ?? most);
    }, 0);
}
