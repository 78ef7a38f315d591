// What people type: kubectl's verbs in the forms that they use every day, in the order of a session.

export interface Step {
  /** The command line after `kubectl`; names the step, so no two are the same. */
  readonly line: string;
  readonly input?: string;
  /** Before: a kubectl command whose output comes to match. */
  readonly after?: readonly [line: string, output: RegExp];
  /** Only these parts of the output are compared. */
  readonly keep?: RegExp;
}

export const NAMESPACE = "typing";

const WEB = `apiVersion: v1
kind: ServiceAccount
metadata: {name: web}
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: red, file.txt: "two\\nlines\\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: secrets}
stringData: {password: hidden}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      terminationGracePeriodSeconds: 0
      serviceAccountName: web
      containers:
      - name: main
        image: busybox:1
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "echo started; trap 'exit 0' TERM; while true; do sleep 0.2; done"]
        ports: [{containerPort: 8080, name: http}]
        env:
        - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: secrets, key: password}}}
        - {name: PLAIN, value: "1"}
        resources: {limits: {memory: 64Mi, cpu: 500m}}
        readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}
        volumeMounts: [{name: settings, mountPath: /settings, readOnly: true}, {name: scratch, mountPath: /scratch}]
      volumes:
      - {name: settings, configMap: {name: settings}}
      - {name: scratch, emptyDir: {}}
`;

const GADGETS = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.typing.example.com}
spec:
  group: typing.example.com
  scope: Namespaced
  names: {plural: gadgets, singular: gadget, kind: Gadget, shortNames: [gd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size, description: how big it is}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    - {name: Note, type: string, jsonPath: .spec.note, priority: 1}
    schema:
      openAPIV3Schema:
        type: object
        description: A gadget does things.
        properties:
          spec:
            type: object
            description: What it should be.
            required: [size]
            properties:
              size: {type: integer, minimum: 1, description: How big it is.}
              note: {type: string}
              weight: {type: number}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
`;

const gadget = (size: number | string, weight: string): string =>
  `apiVersion: typing.example.com/v1\nkind: Gadget\nmetadata: {name: one, labels: {kind: test}}\nspec: {size: ${size}, weight: ${weight}}\n`;

const ready: Step["after"] = ["get deploy web -o jsonpath={.status.readyReplicas}", /^2$/];

/** Verbs with the same arguments, one after the other. */
const each = (lines: readonly string[], rest: Omit<Step, "line"> = {}): Step[] =>
  lines.map((line) => ({ line, ...rest }));

export const STEPS: readonly Step[] = [
  // apply, create
  { line: "apply -f -", input: WEB },
  { line: "apply -f - --server-side --force-conflicts --field-manager=other", input: WEB, after: ready },
  { line: "apply -f - -o name", input: WEB },
  { line: "apply -f - --dry-run=server", input: WEB.replace("replicas: 2", "replicas: 3") },
  { line: "diff -f -", input: WEB.replace("replicas: 2", "replicas: 3"), keep: /^[-+] .*$/gm },
  { line: "create -f -", input: WEB },
  { line: "apply -f - --wait", input: GADGETS },
  {
    line: "create -f - -o name",
    input: gadget(3, "100.0"),
    after: ["get crd gadgets.typing.example.com -o jsonpath={.status.conditions[*].type}", /Established/],
  },
  { line: "apply -f - --validate=strict", input: gadget(3, "100.0").replace("spec: {", "spec: {typo: 1, ") },
  { line: "apply -f - --validate=warn", input: gadget(3, "100.0").replace("spec: {", "spec: {typo: 1, ") },
  { line: "apply -f - --overwrite", input: gadget(0, "1") },
  { line: "apply -f - --validate=false", input: gadget('"x"', "1") },
  { line: "diff -f - --server-side=false", input: gadget(4, "100.0"), keep: /^[-+] .*$/gm },
  { line: "apply -f - --validate=true", input: "apiVersion: v1\nkind: Nothing\nmetadata: {name: x}\n" },
  { line: "apply -f - --prune=false", input: "this is not yaml: {" },
  ...each([
    "create configmap made --from-literal=a=1 --from-literal=b=2",
    "create secret generic made --from-literal=a=1",
    "create secret tls bad --cert=/none --key=/none",
    "create secret docker-registry registry --docker-server=r.example.com --docker-username=u --docker-password=p",
    "create serviceaccount made",
    "create role made --verb=get,list --resource=pods,deployments.apps",
    "create rolebinding made --role=made --serviceaccount=typing:made",
    "create quota made --hard=pods=50,configmaps=50",
    "create poddisruptionbudget made --selector=app=web --min-available=1",
    "create service nodeport made --tcp=80:8080",
    "create service externalname outside --external-name=example.com",
    "create ingress made --rule=a.example.com/x*=web:80",
    "create cronjob made --image=busybox:1 --schedule='0 0 1 1 *' -- true",
    "create job made --image=busybox:1 -- sh -c 'echo done'",
    "create deployment made --image=busybox:1 --replicas=0",
    "create deployment made --image=busybox:1",
    "create deployment dry --image=busybox:1 --dry-run=client -o yaml",
    "create deployment dry --image=busybox:1 --dry-run=server -o name",
    "create token made --duration=10m --audience=x -o jsonpath={.kind}",
    "create priorityclass typing --value=10 --dry-run=server",
  ]),
  // get
  ...each(
    [
      "get deploy",
      "get deploy web -o wide",
      "get deployments.v1.apps web",
      "get pods",
      "get pods -o wide",
      "get pods -l app=web --show-labels",
      "get pods -L app,tier",
      "get po,svc,ep",
      "get deploy,rs,cm,secret,sa",
      "get all",
      "get services -o wide",
      "get endpoints web",
      "get endpointslices -l kubernetes.io/service-name=web",
      "get ns typing",
      "get configmap settings -o yaml",
      "get secret secrets -o json",
      "get deploy web -o yaml",
      "get service web -o yaml",
      "get pods -o name",
      "get pods --field-selector=status.phase=Running -o name",
      "get pods --field-selector=status.phase=Failed",
      "get pods --field-selector=spec.nothing=1",
      "get pods -l 'app in (web,other),!canary' -o name",
      "get pods -l 'app=='",
      "get pods --sort-by=.metadata.name -o custom-columns=APP:.metadata.labels.app,IMAGE:.spec.containers[*].image",
      "get pods --no-headers --limit=1 --chunk-size=1 -o custom-columns=A:.kind",
      "get deploy web -o jsonpath={.spec.template.spec.containers[0].image}",
      "get pods -o jsonpath='{range .items[*]}{.metadata.labels.app}{\"\\n\"}{end}'",
      "get deploy web -o go-template='{{.spec.replicas}}'",
      "get cm settings -o jsonpath='{.data.file\\.txt}'",
      "get deploy web --subresource=status -o jsonpath={.status.readyReplicas}",
      "get deploy web --subresource=scale",
      "get --raw /api/v1/namespaces/typing/configmaps/made?pretty=false",
      "get gadgets",
      "get gd -o wide",
      "get gadget one -o yaml --show-managed-fields=false",
      "get crd gadgets.typing.example.com",
      "get job,cronjob",
      "get pdb,quota,ingress,role,rolebinding",
      "get nodes",
      "get sc,pv,pvc",
      "get pod nothing",
      "get nothing",
      "get pods,nothing",
      "get deploy web nothing",
      "get pods -n empty-one",
      "get leases -n kube-node-lease",
      "get apiservices v1.apps",
      "get priorityclasses",
      "get runtimeclass",
      "get --ignore-not-found pod nothing",
      "get clusterrole view -o jsonpath={.metadata.labels}",
    ],
    { after: ["get pods -l job-name=made -o jsonpath={.items[0].status.phase}", /Succeeded/] },
  ),
  // describe
  ...each([
    "describe deploy web",
    "describe rs -l app=web",
    "describe pods -l app=web",
    "describe service web",
    "describe configmap settings",
    "describe secret secrets",
    "describe sa web",
    "describe ns typing",
    "describe endpoints web",
    "describe job made",
    "describe cronjob made",
    "describe quota made",
    "describe pdb made",
    "describe role made",
    "describe rolebinding made",
    "describe ingress made",
    "describe gadget one",
    "describe pod nothing",
    "describe nothing one",
  ]),
  {
    line: "describe node",
    keep: /^(Conditions|Addresses|Capacity|Allocatable|System Info|Non-terminated Pods|Allocated resources|Taints|Unschedulable|Lease|  HolderIdentity|Roles|PodCIDR|  (Memory|Disk|PID)Pressure|  Ready ).*$/gm,
  },
  { line: "events --for deployment/web" },
  { line: "get events --field-selector involvedObject.kind=Deployment,involvedObject.name=web" },
  // changes
  ...each([
    "label deploy web tier=front",
    "label deploy web tier=back",
    "label deploy web tier=back --overwrite",
    "label deploy web tier-",
    "label pods -l app=web color=red",
    "label deploy web bad=/value",
    "annotate deploy web note=hello",
    "annotate deploy web note-",
    'patch service web -p \'{"spec":{"type":"NodePort"}}\'',
    'patch service web --type=merge -p \'{"spec":{"externalTrafficPolicy":"Local"}}\'',
    'patch service web --type=json -p \'[{"op":"replace","path":"/spec/type","value":"ClusterIP"}]\'',
    'patch service web --type=json -p \'[{"op":"replace","path":"/spec/none/x","value":1}]\'',
    'patch gadget one --type=json -p \'[{"op":"add","path":"/spec/note","value":"n"}]\'',
    'patch gadget one --type=merge -p \'{"spec":{"size":5}}\'',
    'patch gadget one -p \'{"spec":{"size":6}}\'',
    'patch gadget one --type=merge -p \'{"spec":{"size":6}}\' --dry-run=server -o jsonpath={.spec.size}',
    'patch gadget one --subresource=status --type=merge -p \'{"status":{"phase":"ok"}}\'',
    'patch gadget one --type=merge -p \'{"spec":{"size":"x"}}\'',
    "patch deploy nothing -p '{}'",
    "set image deploy/web main=busybox:1.36",
    "set image deploy/web main=busybox:1",
    "set env deploy/web ADDED=1 PLAIN-",
    "set env deploy/web --list",
    "set resources deploy/made --limits=cpu=100m",
    "set serviceaccount deploy made made",
    "scale deploy web --replicas=3",
    "scale deploy/web --replicas=2 --current-replicas=9",
    "scale deploy nothing --replicas=1",
  ]),
  { line: "rollout status deploy/web --timeout=60s", keep: /^.*rolled out$/gm },
  ...each([
    "rollout history deploy/web",
    "rollout history deploy/web --revision=1",
    "rollout pause deploy/web",
    "rollout pause deploy/web --field-manager=x",
    "rollout undo deploy/web",
    "rollout resume deploy/web",
    "rollout restart deploy/web",
    "rollout undo deploy/web --to-revision=99",
    "autoscale deploy made --min=1 --max=3",
    "expose deploy web --port=81 --target-port=8080 --name=exposed",
    "expose deploy web --port=81 --name=exposed",
    "run ran --image=busybox:1 --restart=Never --image-pull-policy=IfNotPresent --command -- sh -c 'echo ran; sleep 100'",
    "run ran --image=busybox:1",
    "wait --for=condition=Ready pod/ran --timeout=60s",
    "wait --for=jsonpath={.status.phase}=Failed pod/ran --timeout=1s",
    "wait --for=delete pod/nothing --timeout=1s",
    "wait --for=create gadget/one --timeout=5s",
    "logs ran",
    "logs -l run=ran --prefix",
    "logs job/made",
    "logs ran -c nothing",
    "logs ran --previous",
    "logs nothing",
    "exec ran -- echo hello",
    "exec ran -- sh -c 'exit 9'",
    "exec ran -c nothing -- true",
    "exec nothing -- true",
    "exec deploy/nothing -- true",
    "exec ran -- /nothing",
    "cp /none ran:/tmp/none",
    "replace -f - --force",
    "edit cm made",
    "cordon -l kubernetes.io/os=none",
    "drain nothing",
    "taint node --all typing=1:PreferNoSchedule",
    "taint node --all typing-",
    "taint node --all typing=1:Nonsense",
    "top pods",
    "certificate approve nothing",
  ]),
  // what there is
  ...each([
    "auth can-i create pods",
    "auth can-i create pods --as=system:serviceaccount:typing:made",
    "auth can-i list pods --as=system:serviceaccount:typing:made",
    "auth can-i --list --as=system:serviceaccount:typing:made",
    "auth whoami -o jsonpath={.status.userInfo.groups}",
    "get pods --as=nobody",
    "api-versions",
    "api-resources --api-group=apps",
    "api-resources --api-group=typing.example.com",
    "api-resources --namespaced=false -o name",
    "api-resources --verbs=deletecollection --categories=all -o name --sort-by=name",
    "explain deployment.spec.strategy",
    "explain deploy --recursive",
    "explain gadget.spec",
    "explain gadget",
    "explain pod.spec.containers.livenessProbe",
    "explain deployment.nothing",
    "explain nothing",
    "version -o json",
    "cluster-info",
  ]),
  // delete
  ...each([
    "delete pod ran --grace-period=0 --force",
    "delete pod ran",
    "delete pod ran --ignore-not-found",
    "delete cm made settings-not-there",
    "delete job,cronjob --all",
    "delete deploy made -o name",
    "delete deploy web --dry-run=server",
    "delete deploy web --cascade=foreground --timeout=60s",
    "delete pods --all --timeout=60s",
    "delete pods --all=true -l app=none",
    "delete gd one --wait=false",
    "delete nothing one",
    "delete svc -l app=web",
  ]),
  { line: "delete -f -", input: GADGETS },
  { line: "delete -f - --ignore-not-found", input: GADGETS },
];
