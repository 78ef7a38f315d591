// DestinationRules: how the clients of a namespace reach a host.
import { jsonEqual } from "@lateen/base";
import type { DestinationPolicy, LoadBalancer } from "@lateen/model";
import { type Db, query } from "@lateen/query";
import type { DestinationRuleSpec, Resource, TrafficPolicy } from "@lateen/resources";
import { DESTINATION_RULES, meshConfig } from "../inputs.ts";
import { byCreation, hostMatches, originOf, resolveHost } from "./names.ts";
import { serviceOf } from "./services.ts";

type Rule = Resource<DestinationRuleSpec>;

const LOAD_BALANCERS: Readonly<Record<string, LoadBalancer>> = {
  ROUND_ROBIN: "round-robin",
  RANDOM: "random",
  PASSTHROUGH: "passthrough",
};

/** The rules of a namespace with their hosts: changes of anything else in a rule stop here. */
const ruleHosts = query<readonly (readonly [key: string, host: string])[]>(
  "ruleHosts",
  (db, namespace) => {
    const { domainSuffix } = meshConfig(db);
    return db
      .keys(DESTINATION_RULES)
      .filter((key) => key.startsWith(`${namespace}/`))
      .map((key) => db.read(DESTINATION_RULES, key))
      .filter((rule) => rule !== undefined)
      .toSorted((a, b) => byCreation(a.meta, b.meta))
      .map(
        (rule) =>
          [
            `${rule.meta.namespace}/${rule.meta.name}`,
            resolveHost(rule.spec.host, rule.meta.namespace, domainSuffix),
          ] as const,
      );
  },
  jsonEqual,
);

/** Keys of the rules in force for `client namespace|host`: of the client's namespace, else the service's, else the root's. */
const rulesOf = query<readonly string[]>(
  "rulesOf",
  (db, key) => {
    const [client = "", host = ""] = key.split("|");
    const own = db.get(serviceOf, host)?.namespace;
    for (const namespace of new Set([client, own ?? client, meshConfig(db).rootNamespace])) {
      const rules = db.get(ruleHosts, namespace);
      const exact = rules.filter(([, pattern]) => pattern === host);
      if (exact.length > 0) return exact.map(([name]) => name);
      const wild = rules
        .filter(([, pattern]) => hostMatches(pattern, host))
        .toSorted((a, b) => b[1].length - a[1].length);
      const [longest] = wild;
      if (longest !== undefined) return wild.filter(([, pattern]) => pattern === longest[1]).map(([name]) => name);
    }
    return [];
  },
  jsonEqual,
);

function readRules(db: Db, key: string): Rule[] {
  return db
    .get(rulesOf, key)
    .map((name) => db.read(DESTINATION_RULES, name))
    .filter((rule) => rule !== undefined);
}

function loadBalancerOf(...policies: readonly (TrafficPolicy | undefined)[]): LoadBalancer {
  const simple = policies.find((policy) => policy?.loadBalancer !== undefined)?.loadBalancer?.simple;
  return LOAD_BALANCERS[simple ?? ""] ?? "least-request";
}

/** The names of the subsets that `client namespace|host` has, in order of declaration. */
export const subsetsOf = query<readonly string[]>(
  "subsetsOf",
  (db, key) => [
    ...new Set(readRules(db, key).flatMap((rule) => (rule.spec.subsets ?? []).map((subset) => subset.name))),
  ],
  jsonEqual,
);

/** The policy of `client namespace|host|subset`; undefined for a subset that no rule declares. */
export const destinationPolicy = query<DestinationPolicy | undefined>(
  "destinationPolicy",
  (db, key) => {
    const [client = "", host = "", subsetName = ""] = key.split("|");
    const rules = readRules(db, `${client}|${host}`);
    // Several rules for one host are merged: the first traffic policy counts, subsets are added.
    const base = rules.find((rule) => rule.spec.trafficPolicy !== undefined) ?? rules[0];
    const origin = base === undefined ? undefined : originOf("DestinationRule", base.meta, "spec");
    if (subsetName === "")
      return { loadBalancer: loadBalancerOf(base?.spec.trafficPolicy), subsetLabels: undefined, origin };
    for (const rule of rules) {
      const index = (rule.spec.subsets ?? []).findIndex((subset) => subset.name === subsetName);
      const subset = rule.spec.subsets?.[index];
      if (subset === undefined) continue;
      return {
        loadBalancer: loadBalancerOf(subset.trafficPolicy, base?.spec.trafficPolicy),
        subsetLabels: subset.labels ?? {},
        origin: originOf("DestinationRule", rule.meta, `spec.subsets[${index}]`),
      };
    }
    return undefined;
  },
  jsonEqual,
);
