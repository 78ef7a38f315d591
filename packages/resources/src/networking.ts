// networking.istio.io: VirtualService, DestinationRule, Gateway. Field semantics: the reference of Istio's API,
// https://istio.io/latest/docs/reference/config/networking/
import type { CustomKind } from "./kind.ts";
import {
  described,
  duration,
  exactlyOne,
  type Infer,
  integer,
  listOf,
  mapOf,
  nonEmpty,
  object,
  oneOfTexts,
  optional,
  percent,
  refine,
  text,
} from "./schema.ts";

const GROUP = "networking.istio.io";
const VERSIONS = ["v1", "v1beta1", "v1alpha3"] as const;

const stringMatch = described(
  "Exactly one of exact, prefix, regex (RE2, the whole value).",
  exactlyOne({ exact: optional(text), prefix: optional(nonEmpty), regex: optional(nonEmpty) }),
);
export type StringMatch = Infer<typeof stringMatch>;

const destination = object({
  host: described("A Service name (short names are of the rule's namespace) or a full host name.", nonEmpty),
  subset: optional(described("A subset that a DestinationRule of the host declares.", nonEmpty)),
  port: optional(object({ number: integer(1, 65535) })),
});

const httpMatch = object({
  name: optional(text),
  uri: optional(stringMatch),
  method: optional(stringMatch),
  headers: optional(mapOf(stringMatch)),
});
export type HttpMatch = Infer<typeof httpMatch>;

const httpRouteDestination = object({
  destination,
  weight: optional(described("Share of the requests, relative to the sum of all weights.", integer(0, 1_000_000))),
});

/** The words of retryOn: Envoy's conditions for HTTP and gRPC, and HTTP status codes. */
const RETRY_WORDS = new Set([
  ..."5xx gateway-error reset reset-before-request connect-failure envoy-ratelimited retriable-4xx refused-stream".split(
    " ",
  ),
  ..."retriable-status-codes retriable-headers http3-post-connect-failure".split(" "),
  ..."cancelled deadline-exceeded internal resource-exhausted unavailable".split(" "),
]);

const retries = refine(
  object({
    attempts: integer(0, 1000),
    perTryTimeout: optional(duration),
    retryOn: optional(described("Conditions, comma-separated; HTTP status codes count as conditions.", text)),
  }),
  ({ retryOn = "" }) =>
    retryOn
      .split(",")
      .map((word) => word.trim())
      .filter((word) => word !== "" && !RETRY_WORDS.has(word) && !/^[1-5]\d\d$/.test(word))
      .map((word) => ["retryOn", `"${word}" is not a valid retryOn policy`] as const),
);
export type Retries = Infer<typeof retries>;

const fault = object({
  delay: optional(object({ percentage: optional(object({ value: percent })), fixedDelay: duration })),
  abort: optional(object({ percentage: optional(object({ value: percent })), httpStatus: integer(200, 599) })),
});
export type Fault = Infer<typeof fault>;

const httpRoute = refine(
  object({
    name: optional(text),
    match: optional(described("Any of these; each with all of its fields. Absent: every request.", listOf(httpMatch))),
    route: described(
      "Where to: one destination, or several with weights.",
      listOf(httpRouteDestination, { minItems: 1 }),
    ),
    timeout: optional(duration),
    retries: optional(retries),
    fault: optional(fault),
  }),
  ({ route }) => {
    if (route.length < 2) return [];
    return route.every((entry) => (entry.weight ?? 0) === 0)
      ? [["route", "the weights of several destinations must not all be 0"]]
      : [];
  },
);
export type HttpRoute = Infer<typeof httpRoute>;

const virtualServiceSpec = object({
  hosts: described("The hosts that the rules are for.", listOf(nonEmpty, { minItems: 1 })),
  gateways: optional(
    described("Gateways where the rules apply; `mesh` is all sidecars. Absent: mesh.", listOf(nonEmpty)),
  ),
  http: optional(described("Rules in order; the first whose match fits decides.", listOf(httpRoute))),
});
export type VirtualServiceSpec = Infer<typeof virtualServiceSpec>;

export const VIRTUAL_SERVICE: CustomKind<VirtualServiceSpec> = {
  group: GROUP,
  versions: VERSIONS,
  kind: "VirtualService",
  plural: "virtualservices",
  shortNames: ["vs"],
  printer: [
    {
      name: "Gateways",
      type: "string",
      jsonPath: ".spec.gateways",
      description: "The names of gateways and sidecars that should apply these routes",
    },
    {
      name: "Hosts",
      type: "string",
      jsonPath: ".spec.hosts",
      description: "The destination hosts to which traffic is being sent",
    },
  ],
  spec: virtualServiceSpec,
};

const loadBalancer = object({
  simple: described(
    "How an endpoint is chosen. LEAST_CONN is the old name of LEAST_REQUEST, which is the default.",
    oneOfTexts("UNSPECIFIED", "LEAST_CONN", "LEAST_REQUEST", "RANDOM", "ROUND_ROBIN", "PASSTHROUGH"),
  ),
});
const trafficPolicy = object({ loadBalancer: optional(loadBalancer) });
export type TrafficPolicy = Infer<typeof trafficPolicy>;

const subset = object({ name: nonEmpty, labels: optional(mapOf(text)), trafficPolicy: optional(trafficPolicy) });
export type Subset = Infer<typeof subset>;

const destinationRuleSpec = object({
  host: nonEmpty,
  trafficPolicy: optional(trafficPolicy),
  subsets: optional(
    refine(listOf(subset), (subsets) => {
      const names = subsets.map(({ name }) => name);
      return names.flatMap((name, i) =>
        names.indexOf(name) < i ? [[`[${i}].name`, `"${name}" is declared twice`] as const] : [],
      );
    }),
  ),
});
export type DestinationRuleSpec = Infer<typeof destinationRuleSpec>;

export const DESTINATION_RULE: CustomKind<DestinationRuleSpec> = {
  group: GROUP,
  versions: VERSIONS,
  kind: "DestinationRule",
  plural: "destinationrules",
  shortNames: ["dr"],
  printer: [
    {
      name: "Host",
      type: "string",
      jsonPath: ".spec.host",
      description: "The name of a service from the service registry",
    },
  ],
  spec: destinationRuleSpec,
};

const server = object({
  port: object({ number: integer(1, 65535), name: nonEmpty, protocol: oneOfTexts("HTTP", "http") }),
  hosts: listOf(nonEmpty, { minItems: 1 }),
  name: optional(text),
});

const gatewaySpec = object({
  selector: optional(described("Labels of the gateway pods; absent: every gateway.", mapOf(text))),
  servers: listOf(server, { minItems: 1 }),
});
export type GatewaySpec = Infer<typeof gatewaySpec>;

export const GATEWAY: CustomKind<GatewaySpec> = {
  group: GROUP,
  versions: VERSIONS,
  kind: "Gateway",
  plural: "gateways",
  shortNames: ["gw"],
  printer: [],
  spec: gatewaySpec,
};
