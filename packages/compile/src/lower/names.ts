// Names in rules: short host names, API paths of objects, creation order.
import { compareText } from "@lateen/base";
import type { Host, Origin } from "@lateen/model";
import type { Meta } from "@lateen/resources";

/** Istio's rule: a name without a dot is a Service of the rule's namespace; anything else is taken as it is. */
export function resolveHost(name: string, namespace: string, domainSuffix: string): Host {
  return (name.includes(".") || name === "*" ? name : `${name}.${namespace}.svc.${domainSuffix}`) as Host;
}

/** `*.example.com` matches `a.example.com`; `*` matches everything. */
export function hostMatches(pattern: string, host: string): boolean {
  if (pattern === "*" || pattern === host) return true;
  return pattern.startsWith("*.") && host.endsWith(pattern.slice(1));
}

const KEBAB: Readonly<Record<string, string>> = {
  VirtualService: "virtual-service",
  DestinationRule: "destination-rule",
  Gateway: "gateway",
};

/** Where a rule comes from, in the form that Istio writes into `istio.config` metadata. */
export function originOf(kind: string, meta: Meta, path: string): Origin {
  return {
    resource: `/apis/networking.istio.io/v1/namespaces/${meta.namespace}/${KEBAB[kind] ?? kind.toLowerCase()}/${meta.name}`,
    path,
  };
}

/** Creation order: time, then name, then namespace. */
export function byCreation(a: Meta, b: Meta): number {
  return (
    compareText(a.creationTimestamp, b.creationTimestamp) ||
    compareText(a.name, b.name) ||
    compareText(a.namespace, b.namespace)
  );
}
