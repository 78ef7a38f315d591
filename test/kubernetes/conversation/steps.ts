// What the conversation says to the API server: requests in order, each with a name. The answers that a real Kubernetes gives are
// in answers.json; the embedded cluster must give the same (conversation.test.ts).

export interface Step {
  readonly name: string;
  readonly method: string;
  readonly path: string;
  readonly body?: unknown;
  /** Content type of the body; JSON unless given. */
  readonly type?: string;
  readonly accept?: string;
  /** The body is a stream of events: only so many lines of it are read. */
  readonly lines?: number;
}

const TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const JSON_PATCH = "application/json-patch+json";
const MERGE = "application/merge-patch+json";
const STRATEGIC = "application/strategic-merge-patch+json";
const APPLY = "application/apply-patch+yaml";

export const NAMESPACE = "talk";
const NS = `/api/v1/namespaces/${NAMESPACE}`;
const apis = (group: string, rest: string): string => `/apis/${group}/namespaces/${NAMESPACE}/${rest}`;

const steps: Step[] = [];
const say = (name: string, method: string, path: string, rest: Partial<Step> = {}): void => {
  steps.push({ name, method, path, ...rest });
};
const post = (name: string, path: string, body: unknown, rest: Partial<Step> = {}): void =>
  say(name, "POST", path, { body, ...rest });
const patch = (name: string, path: string, type: string, body: unknown): void =>
  say(name, "PATCH", path, { body, type });
const configMap = (name: string, rest: object = {}): object => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name },
  ...rest,
});

// --- the namespace
post("namespace: create", "/api/v1/namespaces", { apiVersion: "v1", kind: "Namespace", metadata: { name: NAMESPACE } });
say("namespace: get", "GET", `/api/v1/namespaces/${NAMESPACE}`);
say("namespace: delete a protected one", "DELETE", "/api/v1/namespaces/kube-system");
post("namespace: bad name", "/api/v1/namespaces", {
  apiVersion: "v1",
  kind: "Namespace",
  metadata: { name: "Not_Good" },
});

// --- discovery
say("discovery: /api", "GET", "/api");
say("discovery: /apis", "GET", "/apis");
say("discovery: /api/v1", "GET", "/api/v1");
for (const group of [
  "apps",
  "batch",
  "autoscaling",
  "policy",
  "rbac.authorization.k8s.io",
  "discovery.k8s.io",
  "events.k8s.io",
])
  say(`discovery: /apis/${group}`, "GET", `/apis/${group}`);
for (const version of [
  "apps/v1",
  "batch/v1",
  "autoscaling/v1",
  "autoscaling/v2",
  "networking.k8s.io/v1",
  "authentication.k8s.io/v1",
  "authorization.k8s.io/v1",
  "storage.k8s.io/v1",
])
  say(`discovery: /apis/${version}`, "GET", `/apis/${version}`);
const AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
say("discovery: aggregated /api", "GET", "/api", { accept: AGGREGATED });
say("discovery: aggregated /apis", "GET", "/apis", { accept: AGGREGATED });
say("discovery: no such group", "GET", "/apis/nosuch.example.com");
say("discovery: no such version", "GET", "/apis/apps/v7");
say("discovery: no such path", "GET", "/nosuch");
say("discovery: no such resource", "GET", apis("apps/v1", "foos"));

// --- config maps: the life of an object
post("object: create", `${NS}/configmaps`, configMap("one", { data: { b: "2", a: "1" } }));
post("object: create again", `${NS}/configmaps`, configMap("one"));
say("object: get", "GET", `${NS}/configmaps/one`);
say("object: get metadata only", "GET", `${NS}/configmaps/one`, { accept: METADATA });
say("object: get as table", "GET", `${NS}/configmaps/one`, { accept: TABLE });
say("object: get none", "GET", `${NS}/configmaps/none`);
say("object: get with an unknown form", "GET", `${NS}/configmaps/one`, { accept: "application/x-nothing" });
say("object: update", "PUT", `${NS}/configmaps/one`, { body: configMap("one", { data: { a: "3" } }) });
say("object: update with the same content", "PUT", `${NS}/configmaps/one`, {
  body: configMap("one", { data: { a: "3" } }),
});
say("object: update with an old version", "PUT", `${NS}/configmaps/one`, {
  body: { ...configMap("one"), metadata: { name: "one", resourceVersion: "1" } },
});
say("object: update with another uid", "PUT", `${NS}/configmaps/one`, {
  body: { ...configMap("one"), metadata: { name: "one", uid: "00000000-0000-0000-0000-000000000000" } },
});
say("object: update under another name", "PUT", `${NS}/configmaps/one`, { body: configMap("two") });
say("object: update one that is not there", "PUT", `${NS}/configmaps/none`, { body: configMap("none") });
say("object: update in another namespace", "PUT", `${NS}/configmaps/one`, {
  body: { ...configMap("one"), metadata: { name: "one", namespace: "other" } },
});
say("object: update without its kind", "PUT", `${NS}/configmaps/one`, {
  body: { metadata: { name: "one" }, data: { a: "4" } },
});
say("object: update as another kind", "PUT", `${NS}/configmaps/one`, {
  body: { apiVersion: "v1", kind: "Secret", metadata: { name: "one" } },
});
patch("object: merge patch", `${NS}/configmaps/one`, MERGE, {
  data: { a: null, c: "5" },
  metadata: { labels: { x: "y" } },
});
patch("object: JSON patch", `${NS}/configmaps/one`, JSON_PATCH, [
  { op: "add", path: "/data/d", value: "6" },
  { op: "remove", path: "/data/c" },
]);
patch("object: JSON patch, a test fails", `${NS}/configmaps/one`, JSON_PATCH, [
  { op: "test", path: "/data/d", value: "7" },
]);
patch("object: JSON patch that is none", `${NS}/configmaps/one`, JSON_PATCH, { op: "add" });
patch("object: strategic merge patch", `${NS}/configmaps/one`, STRATEGIC, { data: { e: "8" } });
patch("object: patch of an unknown type", `${NS}/configmaps/one`, "application/x-patch", {});
patch("object: patch that changes nothing", `${NS}/configmaps/one`, MERGE, { data: { e: "8" } });
patch("object: patch with an old version", `${NS}/configmaps/one`, MERGE, { metadata: { resourceVersion: "1" } });
patch("object: patch of none", `${NS}/configmaps/none`, MERGE, { data: {} });
post("object: create with generateName, dry run", `${NS}/configmaps?dryRun=All`, {
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { generateName: "gen-" },
});
post("object: create without a name", `${NS}/configmaps`, { apiVersion: "v1", kind: "ConfigMap", metadata: {} });
post("object: create with a bad name", `${NS}/configmaps`, configMap("Bad_Name"));
post("object: create with a bad label", `${NS}/configmaps`, {
  ...configMap("labels"),
  metadata: { name: "labels", labels: { "a b": "c" } },
});
post("object: create with a bad label value", `${NS}/configmaps`, {
  ...configMap("labels"),
  metadata: { name: "labels", labels: { a: "-c-" } },
});
post("object: create with a bad annotation", `${NS}/configmaps`, {
  ...configMap("labels"),
  metadata: { name: "labels", annotations: { "a/b/c": "d" } },
});
post("object: create with a bad key", `${NS}/configmaps`, configMap("key", { data: { "a b": "c" } }));
post("object: create in a namespace that is not there", "/api/v1/namespaces/nowhere/configmaps", configMap("x"));
post("object: create with a version", `${NS}/configmaps`, {
  ...configMap("version"),
  metadata: { name: "version", resourceVersion: "5" },
});
post(
  "object: unknown fields are warned of",
  `${NS}/configmaps?dryRun=All`,
  configMap("unknown", { bogus: 1, data: { a: "b" }, other: {} }),
);
post(
  "object: unknown fields are refused",
  `${NS}/configmaps?fieldValidation=Strict`,
  configMap("unknown", { bogus: 1 }),
);
post(
  "object: unknown fields are ignored",
  `${NS}/configmaps?fieldValidation=Ignore&dryRun=All`,
  configMap("unknown", { bogus: 1 }),
);
post("object: no such field validation", `${NS}/configmaps?fieldValidation=Maybe`, configMap("unknown"));
post("object: no such dry run", `${NS}/configmaps?dryRun=Some`, configMap("unknown"));
post("object: wrong type", `${NS}/configmaps`, configMap("wrong", { data: { a: 1 } }));
post("object: wrong type of metadata", `${NS}/configmaps`, {
  ...configMap("wrong"),
  metadata: { name: "wrong", labels: { a: 1 } },
});
post(
  "object: YAML",
  `${NS}/configmaps?dryRun=All`,
  "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: yaml}\ndata: {a: 'b'}\n",
  { type: "application/yaml" },
);
post("object: unknown content type", `${NS}/configmaps`, "x", { type: "text/x" });
say("object: immutable, create", "POST", `${NS}/configmaps`, {
  body: configMap("fixed", { immutable: true, data: { a: "b" } }),
});
patch("object: immutable, change", `${NS}/configmaps/fixed`, MERGE, { data: { a: "c" } });
patch("object: immutable, make mutable", `${NS}/configmaps/fixed`, MERGE, { immutable: false });
patch("object: finalizer", `${NS}/configmaps/one`, MERGE, { metadata: { finalizers: ["example.com/wait"] } });
say("object: delete, with finalizer", "DELETE", `${NS}/configmaps/one`);
say("object: delete again", "DELETE", `${NS}/configmaps/one`);
patch("object: new finalizer on a deleted one", `${NS}/configmaps/one`, MERGE, {
  metadata: { finalizers: ["example.com/wait", "example.com/more"] },
});
patch("object: remove the finalizer", `${NS}/configmaps/one`, MERGE, { metadata: { finalizers: null } });
say("object: it is gone", "GET", `${NS}/configmaps/one`);
say("object: delete with a wrong uid", "DELETE", `${NS}/configmaps/fixed`, {
  body: { preconditions: { uid: "00000000-0000-0000-0000-000000000000" } },
});
say("object: delete with an unknown policy", "DELETE", `${NS}/configmaps/fixed`, {
  body: { propagationPolicy: "Sideways" },
});
say("object: delete, dry run", "DELETE", `${NS}/configmaps/fixed`, { body: { dryRun: ["All"] } });
say("object: delete", "DELETE", `${NS}/configmaps/fixed`);
say("object: delete none", "DELETE", `${NS}/configmaps/none`);
say("object: method that is none", "OPTIONS", `${NS}/configmaps`);

// --- lists
for (const name of ["a", "b", "c"])
  post(`list: create ${name}`, `${NS}/configmaps`, {
    ...configMap(`item-${name}`),
    metadata: { name: `item-${name}`, labels: { item: name, all: "yes" } },
  });
say("list: by label", "GET", `${NS}/configmaps?labelSelector=item+in+(a,b)`);
say("list: by label, as table", "GET", `${NS}/configmaps?labelSelector=all`, { accept: TABLE });
say("list: by label, metadata", "GET", `${NS}/configmaps?labelSelector=all%3Dyes,item%21%3Dc`, {
  accept: METADATA_LIST,
});
say("list: by field", "GET", `${NS}/configmaps?fieldSelector=metadata.name%3Ditem-b`);
say("list: by an unknown field", "GET", `${NS}/configmaps?fieldSelector=data.a%3Db`);
say("list: bad label selector", "GET", `${NS}/configmaps?labelSelector=a%3Db%3Dc((`);
say("list: bad continue", "GET", `${NS}/configmaps?limit=1&continue=nonsense`);
say("list: bad version", "GET", `${NS}/configmaps?resourceVersion=abc`);
say("list: version far ahead", "GET", `${NS}/configmaps?resourceVersion=99999999999`);
say("list: match without version", "GET", `${NS}/configmaps?resourceVersionMatch=Exact`);
say("list: unknown match", "GET", `${NS}/configmaps?resourceVersion=1&resourceVersionMatch=Other`);
say("list: exactly version 0", "GET", `${NS}/configmaps?resourceVersion=0&resourceVersionMatch=Exact`);
say("list: empty", "GET", `${NS}/secrets?labelSelector=none%3Dhere`);
say("list: empty, as table", "GET", `${NS}/secrets?labelSelector=none%3Dhere`, { accept: TABLE });
say("list: a namespace that is not there", "GET", "/api/v1/namespaces/nowhere/configmaps");
say("list: initial events without match", "GET", `${NS}/configmaps?watch=true&sendInitialEvents=true`);
say("list: watch from an unparsable version", "GET", `${NS}/configmaps?watch=true&resourceVersion=abc`);
say("list: watch what is there", "GET", `${NS}/configmaps?watch=true&labelSelector=all&timeoutSeconds=1`, { lines: 3 });
say("list: watch as table", "GET", `${NS}/configmaps?watch=true&labelSelector=all&timeoutSeconds=1`, {
  lines: 3,
  accept: TABLE,
});
say(
  "list: watch with initial events",
  "GET",
  `${NS}/configmaps?watch=true&labelSelector=all&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true`,
  { lines: 4 },
);
say("list: delete a collection", "DELETE", `${NS}/configmaps?labelSelector=all`);

// --- every kind: columns of its table
const COLUMNS = [
  [
    "/api/v1",
    "componentstatuses endpoints events limitranges namespaces nodes persistentvolumeclaims persistentvolumes pods podtemplates replicationcontrollers resourcequotas secrets serviceaccounts services",
  ],
  ["/apis/apps/v1", "controllerrevisions daemonsets deployments replicasets statefulsets"],
  ["/apis/batch/v1", "cronjobs jobs"],
  ["/apis/networking.k8s.io/v1", "ingressclasses ingresses networkpolicies"],
  ["/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings clusterroles rolebindings roles"],
  ["/apis/storage.k8s.io/v1", "csidrivers storageclasses"],
  ["/apis/policy/v1", "poddisruptionbudgets"],
  ["/apis/autoscaling/v2", "horizontalpodautoscalers"],
  ["/apis/coordination.k8s.io/v1", "leases"],
] as const;
for (const [root, plurals] of COLUMNS)
  for (const plural of plurals.split(" "))
    say(`columns: ${plural}`, "GET", `${root}/${plural}?labelSelector=none%3Dhere`, { accept: TABLE });

// --- defaults and tables of built-in kinds. Nothing of it runs: no node is fit, replicas are 0.
const container = { name: "c", image: "registry.example/none:1" };
const nowhere = { nodeSelector: { nowhere: "at-all" }, containers: [container] };
const template = { metadata: { labels: { app: "x" } }, spec: nowhere };
const selector = { matchLabels: { app: "x" } };
const kinds: readonly (readonly [string, string, string, object])[] = [
  ["pod", `${NS}/pods`, "x", { apiVersion: "v1", kind: "Pod", spec: nowhere }],
  [
    "pod, rich",
    `${NS}/pods`,
    "rich",
    {
      apiVersion: "v1",
      kind: "Pod",
      spec: {
        nodeSelector: { nowhere: "at-all" },
        initContainers: [{ name: "i", image: "busybox", restartPolicy: "Always" }],
        containers: [
          {
            ...container,
            ports: [{ containerPort: 80 }],
            env: [
              { name: "A", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } },
              { name: "B", valueFrom: { resourceFieldRef: { resource: "limits.cpu" } } },
            ],
            livenessProbe: { exec: { command: ["a"] } },
            readinessProbe: { httpGet: { port: 80 } },
            startupProbe: { grpc: { port: 1 } },
            lifecycle: { preStop: { httpGet: { port: 80 } } },
            resources: { limits: { cpu: "1000m", memory: "1024Mi" } },
            volumeMounts: [{ name: "a", mountPath: "/a" }],
          },
        ],
        volumes: [
          { name: "a", configMap: { name: "x" } },
          { name: "b", secret: { secretName: "x" } },
          { name: "c" },
          { name: "d", downwardAPI: { items: [{ path: "l", fieldRef: { fieldPath: "metadata.labels" } }] } },
          { name: "e", hostPath: { path: "/x" } },
          { name: "f", projected: { sources: [{ serviceAccountToken: { path: "t" } }] } },
        ],
      },
    },
  ],
  [
    "deployment",
    apis("apps/v1", "deployments"),
    "x",
    { apiVersion: "apps/v1", kind: "Deployment", spec: { replicas: 0, paused: true, selector, template } },
  ],
  [
    "replicaset",
    apis("apps/v1", "replicasets"),
    "x",
    { apiVersion: "apps/v1", kind: "ReplicaSet", spec: { replicas: 0, selector, template } },
  ],
  [
    "statefulset",
    apis("apps/v1", "statefulsets"),
    "x",
    { apiVersion: "apps/v1", kind: "StatefulSet", spec: { replicas: 0, serviceName: "x", selector, template } },
  ],
  [
    "daemonset",
    apis("apps/v1", "daemonsets"),
    "x",
    { apiVersion: "apps/v1", kind: "DaemonSet", spec: { selector, template } },
  ],
  [
    "replicationcontroller",
    `${NS}/replicationcontrollers`,
    "x",
    { apiVersion: "v1", kind: "ReplicationController", spec: { replicas: 0, template } },
  ],
  [
    "job",
    apis("batch/v1", "jobs"),
    "x",
    {
      apiVersion: "batch/v1",
      kind: "Job",
      spec: { suspend: true, template: { spec: { ...nowhere, restartPolicy: "Never" } } },
    },
  ],
  [
    "cronjob",
    apis("batch/v1", "cronjobs"),
    "x",
    {
      apiVersion: "batch/v1",
      kind: "CronJob",
      spec: {
        schedule: "0 0 1 1 *",
        suspend: true,
        jobTemplate: { spec: { template: { spec: { ...nowhere, restartPolicy: "Never" } } } },
      },
    },
  ],
  [
    "service",
    `${NS}/services`,
    "x",
    { apiVersion: "v1", kind: "Service", spec: { selector: { app: "none" }, ports: [{ port: 80 }] } },
  ],
  [
    "service, headless",
    `${NS}/services`,
    "headless",
    {
      apiVersion: "v1",
      kind: "Service",
      spec: { clusterIP: "None", selector: { app: "none" }, ports: [{ port: 80 }] },
    },
  ],
  [
    "service, node port",
    `${NS}/services`,
    "nodeport",
    {
      apiVersion: "v1",
      kind: "Service",
      spec: { type: "NodePort", selector: { app: "none" }, ports: [{ port: 80, targetPort: "http" }] },
    },
  ],
  [
    "service, external name",
    `${NS}/services`,
    "external",
    { apiVersion: "v1", kind: "Service", spec: { type: "ExternalName", externalName: "x.example.com" } },
  ],
  [
    "service, session affinity",
    `${NS}/services`,
    "sticky",
    { apiVersion: "v1", kind: "Service", spec: { sessionAffinity: "ClientIP", ports: [{ port: 80 }] } },
  ],
  ["secret", `${NS}/secrets`, "x", { apiVersion: "v1", kind: "Secret", stringData: { a: "b" } }],
  ["serviceaccount", `${NS}/serviceaccounts`, "x", { apiVersion: "v1", kind: "ServiceAccount" }],
  [
    "persistentvolumeclaim",
    `${NS}/persistentvolumeclaims`,
    "x",
    {
      apiVersion: "v1",
      kind: "PersistentVolumeClaim",
      spec: { accessModes: ["ReadWriteOnce"], storageClassName: "none", resources: { requests: { storage: "1Gi" } } },
    },
  ],
  [
    "limitrange",
    `${NS}/limitranges`,
    "x",
    {
      apiVersion: "v1",
      kind: "LimitRange",
      spec: { limits: [{ type: "PersistentVolumeClaim", max: { storage: "5Gi" } }] },
    },
  ],
  [
    "endpoints",
    `${NS}/endpoints`,
    "own",
    { apiVersion: "v1", kind: "Endpoints", subsets: [{ addresses: [{ ip: "10.9.0.1" }], ports: [{ port: 80 }] }] },
  ],
  [
    "endpointslice",
    apis("discovery.k8s.io/v1", "endpointslices"),
    "own",
    {
      apiVersion: "discovery.k8s.io/v1",
      kind: "EndpointSlice",
      addressType: "IPv4",
      endpoints: [{ addresses: ["10.9.0.1"] }],
      ports: [{ port: 80 }],
    },
  ],
  [
    "lease",
    apis("coordination.k8s.io/v1", "leases"),
    "x",
    {
      apiVersion: "coordination.k8s.io/v1",
      kind: "Lease",
      spec: { holderIdentity: "me", renewTime: "2026-01-02T03:04:05.123456Z" },
    },
  ],
  [
    "event",
    `${NS}/events`,
    "x",
    {
      apiVersion: "v1",
      kind: "Event",
      involvedObject: { kind: "Pod", name: "x", namespace: NAMESPACE },
      reason: "R",
      message: "m",
      type: "Normal",
    },
  ],
  ["podtemplate", `${NS}/podtemplates`, "x", { apiVersion: "v1", kind: "PodTemplate", template }],
  [
    "poddisruptionbudget",
    apis("policy/v1", "poddisruptionbudgets"),
    "x",
    {
      apiVersion: "policy/v1",
      kind: "PodDisruptionBudget",
      spec: { minAvailable: 1, selector: { matchLabels: { app: "none" } } },
    },
  ],
  [
    "horizontalpodautoscaler",
    apis("autoscaling/v2", "horizontalpodautoscalers"),
    "x",
    {
      apiVersion: "autoscaling/v2",
      kind: "HorizontalPodAutoscaler",
      spec: { maxReplicas: 3, scaleTargetRef: { apiVersion: "apps/v1", kind: "Deployment", name: "none" } },
    },
  ],
  [
    "ingress",
    apis("networking.k8s.io/v1", "ingresses"),
    "x",
    {
      apiVersion: "networking.k8s.io/v1",
      kind: "Ingress",
      spec: {
        rules: [
          {
            host: "a.example",
            http: {
              paths: [{ path: "/", pathType: "Prefix", backend: { service: { name: "x", port: { number: 80 } } } }],
            },
          },
        ],
      },
    },
  ],
  [
    "networkpolicy",
    apis("networking.k8s.io/v1", "networkpolicies"),
    "x",
    {
      apiVersion: "networking.k8s.io/v1",
      kind: "NetworkPolicy",
      spec: { podSelector: {}, ingress: [{ ports: [{ port: 80 }] }] },
    },
  ],
  [
    "role",
    apis("rbac.authorization.k8s.io/v1", "roles"),
    "x",
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "Role",
      rules: [{ apiGroups: [""], resources: ["pods"], verbs: ["get"] }],
    },
  ],
  [
    "rolebinding",
    apis("rbac.authorization.k8s.io/v1", "rolebindings"),
    "x",
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "RoleBinding",
      roleRef: { kind: "Role", name: "x" },
      subjects: [
        { kind: "User", name: "u" },
        { kind: "ServiceAccount", name: "s", namespace: NAMESPACE },
      ],
    },
  ],
];
for (const [name, path, object, body] of kinds) {
  const full = { ...body, metadata: { name: object } };
  post(`kind: ${name}`, `${path}?fieldManager=talk`, full);
  say(`kind: ${name}, as table`, "GET", `${path}/${object}`, { accept: TABLE });
}

// --- wrong objects
const wrong: readonly (readonly [string, string, object])[] = [
  ["pod without containers", `${NS}/pods`, { apiVersion: "v1", kind: "Pod", metadata: { name: "w" }, spec: {} }],
  [
    "pod with a nameless container",
    `${NS}/pods`,
    { apiVersion: "v1", kind: "Pod", metadata: { name: "w" }, spec: { containers: [{ image: "a" }] } },
  ],
  [
    "pod with two containers of one name",
    `${NS}/pods`,
    { apiVersion: "v1", kind: "Pod", metadata: { name: "w" }, spec: { containers: [container, container] } },
  ],
  [
    "pod that mounts nothing",
    `${NS}/pods`,
    {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "w" },
      spec: { containers: [{ ...container, volumeMounts: [{ name: "v", mountPath: "/v" }] }] },
    },
  ],
  [
    "pod with a bad restart policy",
    `${NS}/pods`,
    {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "w" },
      spec: { restartPolicy: "Sometimes", containers: [container] },
    },
  ],
  [
    "pod with a bad port",
    `${NS}/pods`,
    {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "w" },
      spec: { containers: [{ ...container, ports: [{ containerPort: 70_000 }] }] },
    },
  ],
  [
    "pod with requests above limits",
    `${NS}/pods`,
    {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "w" },
      spec: { containers: [{ ...container, resources: { requests: { cpu: "2" }, limits: { cpu: "1" } } }] },
    },
  ],
  [
    "pod with a bad quantity",
    `${NS}/pods`,
    {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "w" },
      spec: { containers: [{ ...container, resources: { requests: { cpu: "much" } } }] },
    },
  ],
  [
    "pod of an account that is not there",
    `${NS}/pods`,
    {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "w" },
      spec: { serviceAccountName: "nobody", containers: [container] },
    },
  ],
  [
    "pod of a priority that is not there",
    `${NS}/pods`,
    {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "w" },
      spec: { priorityClassName: "none", containers: [container] },
    },
  ],
  [
    "deployment without a selector",
    apis("apps/v1", "deployments"),
    { apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "w" }, spec: { template } },
  ],
  [
    "deployment whose selector does not fit",
    apis("apps/v1", "deployments"),
    {
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: { name: "w" },
      spec: { selector: { matchLabels: { app: "y" } }, template },
    },
  ],
  [
    "deployment with replicas as text",
    apis("apps/v1", "deployments"),
    { apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "w" }, spec: { replicas: "3", selector, template } },
  ],
  [
    "deployment with fewer than no replicas",
    apis("apps/v1", "deployments"),
    { apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "w" }, spec: { replicas: -1, selector, template } },
  ],
  [
    "job that restarts always",
    apis("batch/v1", "jobs"),
    {
      apiVersion: "batch/v1",
      kind: "Job",
      metadata: { name: "w" },
      spec: { template: { spec: { containers: [container] } } },
    },
  ],
  ["service without ports", `${NS}/services`, { apiVersion: "v1", kind: "Service", metadata: { name: "w" }, spec: {} }],
  [
    "service with a bad port",
    `${NS}/services`,
    { apiVersion: "v1", kind: "Service", metadata: { name: "w" }, spec: { ports: [{ port: 0 }] } },
  ],
  [
    "service with nameless ports",
    `${NS}/services`,
    { apiVersion: "v1", kind: "Service", metadata: { name: "w" }, spec: { ports: [{ port: 80 }, { port: 81 }] } },
  ],
  [
    "service with a bad name",
    `${NS}/services`,
    { apiVersion: "v1", kind: "Service", metadata: { name: "1w" }, spec: { ports: [{ port: 80 }] } },
  ],
  [
    "service with a bad type",
    `${NS}/services`,
    { apiVersion: "v1", kind: "Service", metadata: { name: "w" }, spec: { type: "Other", ports: [{ port: 80 }] } },
  ],
  [
    "secret that is not base64",
    `${NS}/secrets`,
    { apiVersion: "v1", kind: "Secret", metadata: { name: "w" }, data: { a: "?" } },
  ],
  [
    "TLS secret without a key",
    `${NS}/secrets`,
    {
      apiVersion: "v1",
      kind: "Secret",
      metadata: { name: "w" },
      type: "kubernetes.io/tls",
      data: { "tls.crt": "YQ==" },
    },
  ],
  [
    "role without verbs",
    apis("rbac.authorization.k8s.io/v1", "roles"),
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "Role",
      metadata: { name: "w" },
      rules: [{ apiGroups: [""], resources: ["pods"] }],
    },
  ],
  [
    "role binding to nothing",
    apis("rbac.authorization.k8s.io/v1", "rolebindings"),
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "RoleBinding",
      metadata: { name: "w" },
      roleRef: { kind: "Thing", name: "" },
    },
  ],
  [
    "two controllers",
    `${NS}/configmaps`,
    {
      ...configMap("w"),
      metadata: {
        name: "w",
        ownerReferences: ["a", "b"].map((name) => ({
          apiVersion: "v1",
          kind: "Pod",
          name,
          uid: name,
          controller: true,
        })),
      },
    },
  ],
];
for (const [name, path, body] of wrong) post(`wrong: ${name}`, path, body);
patch("wrong: pod spec changes", `${NS}/pods/x`, STRATEGIC, { spec: { hostname: "other" } });
patch("wrong: selector changes", apis("apps/v1", "deployments/x"), MERGE, {
  spec: { selector: { matchLabels: { app: "x", more: "y" } }, template: { metadata: { labels: { more: "y" } } } },
});
patch("wrong: role reference changes", apis("rbac.authorization.k8s.io/v1", "rolebindings/x"), MERGE, {
  roleRef: { name: "other" },
});
say("wrong: lease without a version", "PUT", apis("coordination.k8s.io/v1", "leases/x"), {
  body: { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata: { name: "x" }, spec: {} },
});

// --- status, scale, strategic merge
patch("status: of a deployment", `${apis("apps/v1", "deployments/x")}/status?fieldManager=talk`, MERGE, {
  status: { conditions: [{ type: "X", status: "True" }] },
  metadata: { labels: { ignored: "yes" } },
});
say("scale: get", "GET", `${apis("apps/v1", "deployments/x")}/scale`);
say("scale: get as table", "GET", `${apis("apps/v1", "statefulsets/x")}/scale`, { accept: TABLE });
patch("scale: bad", `${apis("apps/v1", "deployments/x")}/scale`, MERGE, { spec: { replicas: -1 } });
const STRATEGIC_TARGET = apis("apps/v1", "replicasets/x");
patch("strategic: add a container", STRATEGIC_TARGET, STRATEGIC, {
  spec: { template: { spec: { containers: [{ name: "d", image: "d:1", env: [{ name: "E", value: "1" }] }] } } },
});
patch("strategic: change one, order given", STRATEGIC_TARGET, STRATEGIC, {
  spec: {
    template: {
      spec: {
        "$setElementOrder/containers": [{ name: "d" }, { name: "c" }],
        containers: [{ name: "c", image: "c:2", ports: [{ containerPort: 80 }] }],
      },
    },
  },
});
patch("strategic: remove one", STRATEGIC_TARGET, STRATEGIC, {
  spec: { template: { spec: { containers: [{ name: "d", $patch: "delete" }] } } },
});
patch("strategic: without the key", STRATEGIC_TARGET, STRATEGIC, {
  spec: { template: { spec: { containers: [{ image: "x" }] } } },
});
patch("strategic: replace a map", STRATEGIC_TARGET, STRATEGIC, {
  metadata: { labels: { $patch: "replace", only: "this" } },
});

// --- server-side apply
const deployment = (spec: object, labels?: object): object => ({
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name: "applied", ...(labels === undefined ? {} : { labels }) },
  spec,
});
const APPLIED = apis("apps/v1", "deployments/applied");
const ports = [{ containerPort: 80 }];
const full = {
  replicas: 0,
  paused: true,
  selector,
  template: {
    metadata: template.metadata,
    spec: { containers: [{ ...container, ports, env: [{ name: "A", value: "1" }] }] },
  },
};
patch("apply: without a manager", APPLIED, APPLY, deployment(full));
patch("apply: creates", `${APPLIED}?fieldManager=one&force=true`, APPLY, deployment(full, { x: "1" }));
patch("apply: again", `${APPLIED}?fieldManager=one&force=true`, APPLY, deployment(full, { x: "1" }));
patch("apply: conflict", `${APPLIED}?fieldManager=two`, APPLY, deployment({ paused: false }));
patch("apply: shared", `${APPLIED}?fieldManager=two`, APPLY, deployment({ paused: true }));
patch(
  "apply: forced",
  `${APPLIED}?fieldManager=three&force=true`,
  APPLY,
  deployment({ revisionHistoryLimit: 3 }, { x: "2" }),
);
patch(
  "apply: gives up a label and a container's variable",
  `${APPLIED}?fieldManager=one&force=true`,
  APPLY,
  deployment({ ...full, template: { metadata: template.metadata, spec: { containers: [{ ...container, ports }] } } }),
);
patch("apply: a merge patch by another", `${APPLIED}?fieldManager=four`, MERGE, {
  metadata: { annotations: { a: "b" } },
  spec: { progressDeadlineSeconds: 500 },
});
patch(
  "apply: conflict with an update",
  `${APPLIED}?fieldManager=one`,
  APPLY,
  deployment({ ...full, progressDeadlineSeconds: 400 }),
);
patch(
  "apply: unknown field",
  `${APPLIED}?fieldManager=one&force=true&fieldValidation=Strict`,
  APPLY,
  deployment({ ...full, bogus: 1 }),
);
patch("apply: managed fields in the body", `${APPLIED}?fieldManager=one`, APPLY, {
  ...deployment(full),
  metadata: { name: "applied", managedFields: [{ manager: "x", operation: "Apply", apiVersion: "apps/v1" }] },
});
patch("apply: everything is given up", `${APPLIED}?fieldManager=two&force=true`, APPLY, deployment({}));
patch("apply: reset", `${APPLIED}?fieldManager=four`, MERGE, { metadata: { managedFields: [{}] } });
patch("apply: after the reset", `${APPLIED}?fieldManager=one&force=true`, APPLY, deployment(full));
patch("apply: config map by set", `${NS}/configmaps/applied?fieldManager=one`, APPLY, {
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name: "applied", finalizers: ["a.example/one"] },
  data: { a: "1" },
});
patch("apply: config map by another", `${NS}/configmaps/applied?fieldManager=two`, APPLY, {
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name: "applied", finalizers: ["a.example/two"] },
  data: { b: "2" },
});
patch("apply: config map without its entry", `${NS}/configmaps/applied?fieldManager=one`, APPLY, {
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name: "applied" },
});
patch("apply: the rest", `${NS}/configmaps/applied`, MERGE, { metadata: { finalizers: null } });

// --- reviews and tokens
const review = (group: string, kind: string, spec: object): object => ({ apiVersion: `${group}/v1`, kind, spec });
post("review: self", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {
  apiVersion: "authentication.k8s.io/v1",
  kind: "SelfSubjectReview",
});
post(
  "review: self access",
  "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
  review("authorization.k8s.io", "SelfSubjectAccessReview", {
    resourceAttributes: { verb: "get", resource: "pods", namespace: NAMESPACE },
  }),
);
post(
  "review: access of another",
  "/apis/authorization.k8s.io/v1/subjectaccessreviews",
  review("authorization.k8s.io", "SubjectAccessReview", {
    user: "nobody",
    resourceAttributes: { verb: "get", resource: "pods", namespace: NAMESPACE },
  }),
);
post(
  "review: access by role",
  "/apis/authorization.k8s.io/v1/subjectaccessreviews",
  review("authorization.k8s.io", "SubjectAccessReview", {
    user: "u",
    resourceAttributes: { verb: "get", resource: "pods", namespace: NAMESPACE },
  }),
);
post(
  "review: bad token",
  "/apis/authentication.k8s.io/v1/tokenreviews",
  review("authentication.k8s.io", "TokenReview", { token: "nonsense" }),
);
post("token: too short", `${NS}/serviceaccounts/x/token`, {
  apiVersion: "authentication.k8s.io/v1",
  kind: "TokenRequest",
  spec: { expirationSeconds: 10 },
});
post("token: of nobody", `${NS}/serviceaccounts/nobody/token`, {
  apiVersion: "authentication.k8s.io/v1",
  kind: "TokenRequest",
  spec: {},
});
post("eviction: of none", `${NS}/pods/none/eviction`, {
  apiVersion: "policy/v1",
  kind: "Eviction",
  metadata: { name: "none" },
});
post("eviction: dry run", `${NS}/pods/x/eviction`, {
  apiVersion: "policy/v1",
  kind: "Eviction",
  metadata: { name: "x" },
  deleteOptions: { dryRun: ["All"] },
});
say("log: of a pod that waits", "GET", `${NS}/pods/x/log`);
say("log: of a container that is not there", "GET", `${NS}/pods/x/log?container=none`);

// --- custom kinds
const schema = {
  type: "object",
  properties: {
    spec: {
      type: "object",
      required: ["size"],
      "x-kubernetes-validations": [
        { rule: "self.size != 7", message: "seven is unlucky" },
        { rule: "!has(oldSelf.fixed) || self.fixed == oldSelf.fixed" },
      ],
      properties: {
        size: { type: "integer", minimum: 1, maximum: 10 },
        color: { type: "string", default: "red", enum: ["red", "blue"] },
        fixed: { type: "string", maxLength: 5 },
        replicas: { type: "integer" },
        list: {
          type: "array",
          "x-kubernetes-list-type": "map",
          "x-kubernetes-list-map-keys": ["name"],
          items: {
            type: "object",
            required: ["name"],
            properties: { name: { type: "string" }, v: { type: "string" } },
          },
        },
        free: { type: "object", "x-kubernetes-preserve-unknown-fields": true },
        either: { "x-kubernetes-int-or-string": true },
      },
    },
    status: { type: "object", properties: { replicas: { type: "integer" }, ready: { type: "boolean" } } },
  },
};
const version = {
  name: "v1",
  served: true,
  storage: true,
  schema: { openAPIV3Schema: schema },
  subresources: { status: {}, scale: { specReplicasPath: ".spec.replicas", statusReplicasPath: ".status.replicas" } },
  additionalPrinterColumns: [
    { name: "Size", type: "integer", jsonPath: ".spec.size" },
    { name: "Color", type: "string", jsonPath: ".spec.color", priority: 1, description: "its color" },
  ],
};
const definition = (rest: object = {}): object => ({
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "widgets.talk.example.com" },
  spec: {
    group: "talk.example.com",
    scope: "Namespaced",
    names: { plural: "widgets", kind: "Widget", shortNames: ["wd"], categories: ["all"] },
    versions: [version],
    ...rest,
  },
});
const CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
post("custom: definition with nothing in it", CRDS, {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "x.y" },
  spec: {},
});
post("custom: definition with a wrong name", CRDS, { ...definition(), metadata: { name: "other.talk.example.com" } });
post("custom: definition", CRDS, definition());
/** The server has to take the definition up; a test waits for it here. */
export const ESTABLISHED = "custom: the definition is served";
say(ESTABLISHED, "GET", `${CRDS}/widgets.talk.example.com`);
const WIDGETS = apis("talk.example.com/v1", "widgets");
const widget = (name: string, spec: object, rest: object = {}): object => ({
  apiVersion: "talk.example.com/v1",
  kind: "Widget",
  metadata: { name },
  spec,
  ...rest,
});
say("custom: discovery", "GET", "/apis/talk.example.com/v1");
post(
  "custom: create",
  `${WIDGETS}?fieldManager=talk`,
  widget("one", { size: 3, fixed: "a", either: "x", free: { any: [1] } }, { status: { ready: true } }),
);
say("custom: get as table", "GET", `${WIDGETS}/one`, { accept: TABLE });
say("custom: list", "GET", WIDGETS);
post("custom: unknown fields are refused", `${WIDGETS}?fieldValidation=Strict`, widget("w", { size: 1, zzz: 1 }));
post("custom: unknown fields are warned of", `${WIDGETS}?dryRun=All`, widget("w", { size: 1, zzz: 1 }));
post("custom: too big, wrong color", WIDGETS, widget("w", { size: 11, color: "green" }));
post("custom: wrong type", WIDGETS, widget("w", { size: "3" }));
post("custom: without what is required", WIDGETS, widget("w", {}));
post("custom: a rule is broken", WIDGETS, widget("w", { size: 7 }));
post("custom: two items of one name", WIDGETS, widget("w", { size: 1, list: [{ name: "a" }, { name: "a" }] }));
patch("custom: a transition rule is broken", `${WIDGETS}/one`, MERGE, { spec: { fixed: "b" } });
patch("custom: strategic merge is refused", `${WIDGETS}/one`, STRATEGIC, { spec: { size: 4 } });
patch("custom: status", `${WIDGETS}/one/status?fieldManager=talk`, MERGE, {
  status: { replicas: 2 },
  spec: { size: 9 },
});
patch("custom: scale", `${WIDGETS}/one/scale`, MERGE, { spec: { replicas: 5 } });
say("custom: scaled", "GET", `${WIDGETS}/one`);
say("custom: update without a version", "PUT", `${WIDGETS}/one`, { body: widget("one", { size: 5 }) });
patch(
  "custom: apply",
  `${WIDGETS}/applied?fieldManager=one`,
  APPLY,
  widget("applied", { size: 1, list: [{ name: "a", v: "1" }, { name: "b" }] }),
);
patch(
  "custom: apply an item",
  `${WIDGETS}/applied?fieldManager=two`,
  APPLY,
  widget("applied", { size: 1, list: [{ name: "c", v: "1" }] }),
);
patch(
  "custom: apply drops an item",
  `${WIDGETS}/applied?fieldManager=one`,
  APPLY,
  widget("applied", { size: 1, list: [{ name: "b" }] }),
);
say("custom: delete", "DELETE", `${WIDGETS}/one`);
say("custom: delete the definition", "DELETE", `${CRDS}/widgets.talk.example.com`);

// Pod Security: what a namespace's labels ask of pods and of what makes them.
const asking = (labels: Record<string, string | null>): object => ({
  metadata: {
    labels: Object.fromEntries(
      Object.entries(labels).map(([mode, level]) => [`pod-security.kubernetes.io/${mode}`, level]),
    ),
  },
});
const THIS_NAMESPACE = `/api/v1/namespaces/${NAMESPACE}`;
const guarded = (name: string, spec: object, container: object = {}): object => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name },
  spec: { containers: [{ name: "a", image: "busybox", ...container }], ...spec },
});
const strict = {
  securityContext: {
    allowPrivilegeEscalation: false,
    capabilities: { drop: ["ALL"] },
    runAsNonRoot: true,
    seccompProfile: { type: "RuntimeDefault" },
  },
};
const wild = {
  securityContext: {
    privileged: true,
    runAsUser: 0,
    runAsNonRoot: false,
    capabilities: { add: ["NET_ADMIN", "SYS_TIME", "CHOWN"] },
    seLinuxOptions: { type: "other_t", user: "u" },
    seccompProfile: { type: "Unconfined" },
    appArmorProfile: { type: "Unconfined" },
  },
  ports: [
    { containerPort: 80, hostPort: 80 },
    { containerPort: 81, hostPort: 81 },
  ],
  livenessProbe: { httpGet: { port: 80, host: "example.com" } },
  lifecycle: { preStop: { tcpSocket: { port: 80, host: "other.example.com" } } },
};
const everything = {
  hostNetwork: true,
  hostPID: true,
  hostUsers: true,
  securityContext: {
    sysctls: [{ name: "kernel.msgmax", value: "1" }],
    runAsUser: 0,
  },
  initContainers: [{ name: "b", image: "busybox", securityContext: { privileged: true } }],
  volumes: [
    { name: "host", hostPath: { path: "/" } },
    { name: "nfs", nfs: { server: "s", path: "/" } },
    { name: "empty", emptyDir: {} },
  ],
};
patch("security: a level that there is not", THIS_NAMESPACE, MERGE, asking({ enforce: "strict", "warn-version": "1" }));
patch("security: restricted, with pods that are not", THIS_NAMESPACE, MERGE, asking({ enforce: "restricted" }));
post("security: a plain pod", `${NS}/pods?dryRun=All`, guarded("plain", {}));
post("security: all that is wrong", `${NS}/pods?dryRun=All`, guarded("wild", everything, wild));
post("security: a pod that is as asked", `${NS}/pods?dryRun=All`, guarded("strict", {}, strict));
post(
  "security: two containers, one bad",
  `${NS}/pods?dryRun=All`,
  guarded("two", { initContainers: [{ name: "b", image: "x", ...strict }] }),
);
post(
  "security: root in words",
  `${NS}/pods?dryRun=All`,
  guarded("root", { securityContext: { runAsNonRoot: false } }, strict),
);
patch(
  "security: baseline, and a warning of more",
  THIS_NAMESPACE,
  MERGE,
  asking({ enforce: "baseline", warn: "restricted", "warn-version": "v1.20" }),
);
post("security: a warning of an older standard", `${NS}/pods?dryRun=All`, guarded("plain", {}));
post("security: baseline refuses", `${NS}/pods?dryRun=All`, guarded("wild", everything, wild));
post("security: what makes pods is warned about", `/apis/apps/v1/namespaces/${NAMESPACE}/deployments?dryRun=All`, {
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name: "wild" },
  spec: {
    selector: { matchLabels: { a: "b" } },
    template: { metadata: { labels: { a: "b" } }, spec: (guarded("", { hostNetwork: true }) as { spec: object }).spec },
  },
});
patch(
  "security: nothing asked any more",
  THIS_NAMESPACE,
  MERGE,
  asking({ enforce: null, warn: null, "warn-version": null }),
);

/** The conversation, in order. */
export const STEPS: readonly Step[] = steps;
