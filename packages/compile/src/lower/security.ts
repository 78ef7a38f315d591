// PeerAuthentication: what a workload accepts. Workload policy, else its namespace's, else the root namespace's, else both.
import { compareText } from "@lateen/base";
import type { MtlsMode } from "@lateen/model";
import { query } from "@lateen/query";
import { meshConfig, PEER_AUTHENTICATIONS } from "../inputs.ts";

const MODES: Readonly<Record<string, MtlsMode>> = { DISABLE: "disable", PERMISSIVE: "permissive", STRICT: "strict" };

/** Keys of the policies of a namespace, oldest first. */
const policiesOf = query<readonly string[]>(
  "policiesOf",
  (db, namespace) => {
    const keys = db.keys(PEER_AUTHENTICATIONS).filter((key) => key.startsWith(`${namespace}/`));
    const created = (key: string): string => db.read(PEER_AUTHENTICATIONS, key)?.meta.creationTimestamp ?? "";
    return keys.toSorted((a, b) => compareText(created(a), created(b)) || compareText(a, b));
  },
  (a, b) => a.length === b.length && a.every((key, i) => key === b[i]),
);

/** The mode of a workload; key made by peerModeKey: [namespace, sorted label pairs]. */
export const peerMode = query<MtlsMode>("peerMode", (db, key) => {
  const [namespace, pairs] = JSON.parse(key) as [string, [string, string][]];
  const labels = Object.fromEntries(pairs);
  const find = (at: string, wantsSelector: boolean): MtlsMode | undefined => {
    for (const policyKey of db.get(policiesOf, at)) {
      const policy = db.read(PEER_AUTHENTICATIONS, policyKey);
      const selector = policy?.spec.selector?.matchLabels;
      const hasSelector = selector !== undefined && Object.keys(selector).length > 0;
      if (hasSelector !== wantsSelector || policy === undefined) continue;
      if (hasSelector && !Object.entries(selector).every(([name, value]) => labels[name] === value)) continue;
      return MODES[policy.spec.mtls?.mode ?? "UNSET"];
    }
    return undefined;
  };
  const { rootNamespace } = meshConfig(db);
  const workload = namespace === rootNamespace ? undefined : find(namespace, true);
  return workload ?? find(namespace, false) ?? find(rootNamespace, false) ?? "permissive";
});
