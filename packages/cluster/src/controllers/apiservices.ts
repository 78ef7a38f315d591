// APIServices: one for each group version that is served. Those of the built-in kinds are there from the start (facts), those of
// custom kinds come and go with their definitions; both are always available. One that names a Service would have its requests
// passed on, which is not done: its status says so.
import { jsonEqual } from "@lateen/base";
import { builtIn } from "../api/kinds.ts";
import { type Condition, type KubeObject, newMeta, timestamp } from "../api/objects.ts";
import type { Registry } from "../api/registry.ts";
import { Controller } from "./controller.ts";

const SERVICES = builtIn("apiservices");
const DEFINITIONS = builtIn("customresourcedefinitions");
const AUTOMANAGED = "kube-aggregator.kubernetes.io/automanaged";
const OPTIONS = { manager: "kube-apiserver" };
/** Where custom groups stand among others, as a real server has them. */
const CUSTOM = { groupPriorityMinimum: 1000, versionPriority: 100 };

interface DefinitionSpec {
  readonly group: string;
  readonly versions: readonly { readonly name: string; readonly served: boolean }[];
}

/** Names of the APIServices of a definition: `VERSION.GROUP`. */
function namesOf(definition: KubeObject): string[] {
  const { group, versions } = definition.spec as DefinitionSpec;
  return versions.filter(({ served }) => served).map(({ name }) => `${name}.${group}`);
}

/** Starts the controller. */
export function startApiServices(registry: Registry): void {
  new Controller(
    registry,
    "apiservice",
    [
      { kind: SERVICES, keys: ({ metadata }) => [`/${metadata.name}`] },
      { kind: DEFINITIONS, keys: (definition) => namesOf(definition).map((name) => `/${name}`) },
    ],
    (_, name) => reconcile(registry, name),
  );
}

async function reconcile(registry: Registry, name: string): Promise<void> {
  const service = registry.find(SERVICES, undefined, name);
  const isCustom = registry.list(DEFINITIONS).some((definition) => namesOf(definition).includes(name));
  if (service === undefined) {
    if (isCustom) await register(registry, name);
    return;
  }
  const isOurs = service.metadata.labels?.[AUTOMANAGED] === "true";
  if (isOurs && !isCustom) {
    await registry.delete(SERVICES, undefined, name);
    return;
  }
  await tellAvailable(registry, service);
}

async function register(registry: Registry, name: string): Promise<void> {
  const [version = "", ...group] = name.split(".");
  const metadata = newMeta(name, undefined, { [AUTOMANAGED]: "true" });
  const spec = { group: group.join("."), version, ...CUSTOM };
  await registry.create(
    SERVICES,
    undefined,
    { apiVersion: "apiregistration.k8s.io/v1", kind: "APIService", metadata, spec },
    OPTIONS,
  );
}

async function tellAvailable(registry: Registry, service: KubeObject): Promise<void> {
  const isLocal = (service.spec as { service?: unknown }).service === undefined;
  const [status, reason, message] = isLocal
    ? (["True", "Local", "Local APIServices are always available"] as const)
    : (["False", "NotServed", "the embedded cluster does not pass requests on to API servers in its pods"] as const);
  const old = (service.status as { conditions?: Condition[] } | undefined)?.conditions?.[0];
  const condition: Condition = { type: "Available", status, reason, message };
  condition.lastTransitionTime = old?.status === status ? (old.lastTransitionTime ?? timestamp()) : timestamp();
  if (old !== undefined && jsonEqual({ ...old }, { ...condition })) return;
  const write = (current: KubeObject): KubeObject => ({ ...current, status: { conditions: [condition] } });
  await registry.update(SERVICES, undefined, service.metadata.name, write, { ...OPTIONS, subresource: "status" });
}
