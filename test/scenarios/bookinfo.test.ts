// What a newcomer does, and what must hold meanwhile: Bookinfo in the mesh, rules, faults, mutual TLS, on demand, kills.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { curlStatus, eventually, fetchPage, hostTrace, Load, Mesh, NETWORKING, processesOf } from "../harness.ts";

const mesh = new Mesh();
let traceBefore: Record<string, string> = {};
let firstUp = "";

const page = (headers: Record<string, string> = {}) => fetchPage(mesh.gatewayUrl("/productpage"), { headers });
const file = (name: string): string => join(NETWORKING, name);
const stars = (body: string): string => /font color="(\w+)"/.exec(body)?.[1] ?? "none";

/** Logs in as jason; the cookie of the session. */
async function login(): Promise<Record<string, string>> {
  const answer = await fetchPage(mesh.gatewayUrl("/login"), {
    method: "POST",
    headers: { "content-type": "application/x-www-form-urlencoded" },
    body: "username=jason&passwd=any",
  });
  assert.equal(answer.status, 302);
  return { cookie: answer.headers["set-cookie"]?.[0]?.split(";")[0] ?? "" };
}

async function removeRules(): Promise<void> {
  await mesh.kubectl([
    "delete",
    "virtualservice",
    "details",
    "productpage",
    "ratings",
    "reviews",
    "--ignore-not-found",
  ]);
  await mesh.kubectl(["delete", "destinationrule", "--all"]);
  await mesh.synced();
}

async function podOf(label: string, namespace = "default"): Promise<string> {
  const list = await mesh.json(["get", "pods", "-n", namespace, "-l", label]);
  return list.items.find((pod: any) => pod.metadata.deletionTimestamp === undefined).metadata.name;
}

describe("Bookinfo in the mesh", { concurrency: false }, () => {
  before(async () => {
    traceBefore = hostTrace();
    firstUp = (await mesh.up("bookinfo")).stdout;
  });

  after(() => mesh.destroy());

  test("up prints the address of the product page, the kubeconfig and what to try", () => {
    assert.match(firstUp, /http:\/\/127\.0\.0\.1:\d+\/productpage/);
    assert.match(firstUp, new RegExp(`export KUBECONFIG=${mesh.kubeconfig}`));
    assert.match(firstUp, /Try next:/);
    assert.match(firstUp, /✔ pods ready +\d+\.\d s/);
  });

  test("a second up finds everything running and says so", async () => {
    assert.match((await mesh.up("bookinfo")).stdout, /Everything was running already/);
  });

  test("the product page comes through gateway and sidecars, with title and reviews", async () => {
    const { status, body } = await page();
    assert.equal(status, 200);
    assert.match(body, /<title>Simple Bookstore App<\/title>/);
    assert.match(body, /An extremely entertaining play by Shakespeare/);
    assert.match(body, /Book Details/);
  });

  test("Bookinfo pods are 2/2, istiod and the gateway 1/1", async () => {
    const { stdout } = await mesh.kubectl(["get", "pods", "-A", "--no-headers"]);
    const rows = stdout
      .trim()
      .split("\n")
      .map((line) => line.split(/\s+/));
    assert.equal(rows.filter(([namespace]) => namespace === "default").length, 6);
    for (const [namespace, name, ready, status] of rows)
      assert.deepEqual([name, ready, status], [name, namespace === "default" ? "2/2" : "1/1", "Running"]);
  });

  test("each hop is mutual TLS: every service sees its caller's SPIFFE id", async () => {
    await eventually("reviews with stars", async () => stars((await page()).body) !== "none");
    const callers: Record<string, string> = {
      productpage: "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account",
      details: "spiffe://cluster.local/ns/default/sa/bookinfo-productpage",
      reviews: "spiffe://cluster.local/ns/default/sa/bookinfo-productpage",
      ratings: "spiffe://cluster.local/ns/default/sa/bookinfo-reviews",
    };
    for (const [service, caller] of Object.entries(callers)) {
      const { stdout } = await mesh.kubectl(["logs", "-l", `app=${service}`, "-c", service, "--tail=-1"]);
      const seen = [...stdout.matchAll(/caller=(\S+)/g)].map((match) => match[1]);
      assert.ok(seen.length > 0, `${service} was called`);
      assert.deepEqual([...new Set(seen)], [caller], service);
    }
  });

  test("bodies and headers are those of the original services", async () => {
    const details = await mesh.exec("deploy/ratings-v1", "ratings", ["curl", "-sS", "details:9080/details/0"]);
    assert.equal(details.stdout.length, 178);
    const ratings = await mesh.exec("deploy/details-v1", "details", ["curl", "-sS", "ratings:9080/health"]);
    assert.equal(ratings.stdout, '{"status":"Ratings is healthy"}');
    const sizes = new Set<number>();
    await eventually("all three versions of reviews", async () => {
      const { stdout } = await mesh.exec("deploy/ratings-v1", "ratings", ["curl", "-sSi", "reviews:9080/reviews/0"]);
      assert.match(stdout, /x-powered-by: Servlet\/3\.1/i);
      sizes.add(Number(/content-length: (\d+)/i.exec(stdout)?.[1]));
      return sizes.size === 3;
    });
    assert.deepEqual([...sizes].sort(), [295, 375, 379]);
  });

  test("istio-init programmed the nat rules and printed them", async () => {
    const { stdout } = await mesh.kubectl(["logs", "deploy/details-v1", "-c", "istio-init"]);
    assert.equal(stdout, readFileSync(join(import.meta.dirname, "istio-init.txt"), "utf8"));
  });

  test("injected pods carry Istio's labels", async () => {
    const { metadata } = await mesh.json(["get", "pod", await podOf("app=reviews,version=v2")]);
    assert.equal(metadata.labels["security.istio.io/tlsMode"], "istio");
    assert.equal(metadata.labels["service.istio.io/canonical-name"], "reviews");
    assert.equal(metadata.labels["service.istio.io/canonical-revision"], "v2");
    assert.equal(JSON.parse(metadata.annotations["sidecar.istio.io/status"]).containers[0], "istio-proxy");
  });

  test("on demand: a sidecar holds only what its application asked for", async () => {
    const { stdout } = await mesh.lateen([
      "proxy-config",
      "cluster",
      "deploy/productpage-v1",
      "--direction",
      "outbound",
      "--port",
      "9080",
    ]);
    const hosts = stdout
      .trim()
      .split("\n")
      .slice(1)
      .map((line) => line.split(/\s+/)[0]);
    assert.deepEqual(hosts, ["details.default.svc.cluster.local", "reviews.default.svc.cluster.local"]);
  });

  test("on demand: first requests to unseen hosts succeed, without and with a body", async () => {
    const ask = (args: readonly string[]) =>
      mesh.exec("deploy/details-v1", "details", ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", ...args]);
    assert.equal((await ask(["http://reviews.default:9080/health"])).stdout, "200");
    const post =
      "head -c 300000 /dev/zero | curl -sS -o /dev/null -w '%{http_code}' --data-binary @- http://productpage.default.svc:9080/login";
    assert.equal((await mesh.exec("deploy/details-v1", "details", ["sh", "-c", post])).stdout, "302");
    assert.equal((await ask(["http://productpage.default.svc.cluster.local:9080/health"])).stdout, "200");
  });

  test("on demand: a service's own address and names without meaning are told apart", async () => {
    const { spec } = await mesh.json(["get", "service", "ratings"]);
    const ask = (url: string) => mesh.exec("deploy/details-v1", "details", curlStatus(url));
    assert.equal((await ask(`http://${spec.clusterIP}:9080/health`)).stdout, "200");
  });

  test("on demand: clients that give up while they wait harm nothing", async () => {
    const script =
      "for i in 1 2 3 4 5 6 7 8; do curl -sS -m 0.001 -o /dev/null http://reviews.default.svc.cluster.local:9080/health; done; curl -sS -o /dev/null -w '%{http_code}' http://reviews.default.svc.cluster.local:9080/health";
    const { stdout } = await mesh.exec("deploy/ratings-v1", "ratings", ["sh", "-c", script], true);
    assert.match(stdout, /200$/);
    assert.equal((await page()).status, 200);
  });

  test("on demand: a reconnect keeps what is held and sends nothing that is unchanged", async () => {
    const stat = async (name: string): Promise<number> => {
      const { stdout } = await mesh.exec("deploy/productpage-v1", "istio-proxy", [
        "pilot-agent",
        "request",
        "GET",
        `/stats?filter=${name}`,
      ]);
      return Number(/: (\d+)/.exec(stdout)?.[1] ?? "0");
    };
    await mesh.synced();
    const held = (await mesh.lateen(["proxy-config", "cluster", "deploy/productpage-v1"])).stdout;
    const updates = await stat("^cluster_manager.cds.update_success$");
    const before = await podOf("app=istiod", "istio-system");
    mesh.killInside(/pilot-discovery/);
    await eventually("istiod is back", async () => {
      const pod = await mesh.json(["-n", "istio-system", "get", "pod", before]);
      return pod.status.containerStatuses[0].restartCount > 0 && pod.status.containerStatuses[0].ready;
    });
    await eventually("proxies are back", async () =>
      (await mesh.lateen(["proxy-status"])).stdout.includes("productpage-v1"),
    );
    await mesh.synced();
    assert.equal((await mesh.lateen(["proxy-config", "cluster", "deploy/productpage-v1"])).stdout, held);
    assert.equal(await stat("^cluster_manager.cds.update_success$"), updates, "clusters were sent again");
    assert.equal((await page()).status, 200);
  });

  test("all traffic to v1, then jason to v2, with the rules as they are in the sample", async () => {
    await mesh.kubectl(["apply", "-f", file("destination-rule-all.yaml"), "-f", file("virtual-service-all-v1.yaml")]);
    await mesh.synced();
    for (let i = 0; i < 10; i++) assert.equal(stars((await page()).body), "none");
    await mesh.kubectl(["apply", "-f", file("virtual-service-reviews-test-v2.yaml")]);
    await mesh.synced();
    const jason = await login();
    for (let i = 0; i < 5; i++) {
      assert.equal(stars((await page(jason)).body), "black");
      assert.equal(stars((await page()).body), "none");
    }
  });

  test("proxy-status shows SYNCED for all, in Istio's columns", async () => {
    await mesh.synced();
    const { stdout } = await mesh.lateen(["ps"]);
    const [header, ...rows] = stdout.trim().split("\n");
    assert.deepEqual(header?.split(/\s{2,}/), [
      "NAME",
      "CLUSTER",
      "CDS",
      "LDS",
      "EDS",
      "RDS",
      "ECDS",
      "ISTIOD",
      "VERSION",
    ]);
    assert.equal(rows.length, 7);
    for (const row of rows) assert.match(row, /Kubernetes +(SYNCED \(\w+\) +){4}IGNORED +istiod-\S+ +\S+$/);
  });

  test("proxy-config prints Istio's tables", async () => {
    const table = async (type: string, ...more: readonly string[]): Promise<string[]> =>
      (await mesh.lateen(["pc", type, "deploy/productpage-v1.default", ...more])).stdout.trimEnd().split("\n");
    const header = (lines: readonly string[]): string[] => lines[0]?.split(/\s{2,}/) ?? [];
    const listeners = await table("listeners");
    assert.deepEqual(header(listeners), ["ADDRESSES", "PORT", "MATCH", "DESTINATION"]);
    assert.ok(
      listeners.some((line) => /^0\.0\.0\.0 +9080 +Trans: raw_buffer; App: http\/1\.1,h2c +Route: 9080$/.test(line)),
      listeners.join("\n"),
    );
    assert.ok(
      listeners.some((line) =>
        /15006 +Trans: tls; App: istio,istio-peer-exchange,istio-http\/1\.0,istio-http\/1\.1,istio-h2; Addr: \*:9080 +Cluster: inbound\|9080\|\|$/.test(
          line,
        ),
      ),
    );
    const routes = await table("route", "--name", "9080");
    assert.deepEqual(header(routes), ["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"]);
    assert.ok(
      routes.some((line) => /^9080 .*reviews:9080.* reviews\.default$/.test(line)),
      routes.join("\n"),
    );
    const clusters = await table("cluster", "--fqdn", "reviews.default.svc.cluster.local");
    assert.deepEqual(header(clusters), ["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"]);
    assert.ok(
      clusters.some((line) =>
        /reviews\.default\.svc\.cluster\.local +9080 +v2 +outbound +EDS +reviews\.default/.test(line),
      ),
      clusters.join("\n"),
    );
    const endpoints = await table("endpoint", "--cluster", "outbound|9080|v2|reviews.default.svc.cluster.local");
    assert.deepEqual(header(endpoints), ["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"]);
    assert.match(endpoints[1] ?? "", /^10\.244\.\d+\.\d+:9080 +HEALTHY +OK +outbound\|9080\|v2\|/);
    const secrets = await table("secret");
    assert.deepEqual(header(secrets), [
      "RESOURCE NAME",
      "TYPE",
      "STATUS",
      "VALID CERT",
      "SERIAL NUMBER",
      "NOT AFTER",
      "NOT BEFORE",
    ]);
    assert.match(secrets.join("\n"), /default +Cert Chain +ACTIVE +true/);
    const { stdout } = await mesh.lateen(["pc", "route", "deploy/productpage-v1", "--name", "9080", "-o", "json"]);
    assert.match(stdout, /\/apis\/networking\.istio\.io\/v1\/namespaces\/default\/virtual-service\/reviews/);
    const bootstrap = JSON.parse((await mesh.lateen(["pc", "bootstrap", "deploy/productpage-v1"])).stdout);
    assert.match(
      bootstrap.node.id,
      /^sidecar~10\.244\.\d+\.\d+~productpage-v1-\S+\.default~default\.svc\.cluster\.local$/,
    );
  });

  test("weights 90/10 hold within five standard deviations over 1,000 requests", async () => {
    await mesh.kubectl(["apply", "-f", file("virtual-service-reviews-90-10.yaml")]);
    await mesh.synced();
    const script =
      "const http=require('http');const a=new http.Agent({keepAlive:true,maxSockets:8});let v2=0,bad=0,n=0;const one=()=>new Promise(r=>http.get({host:'reviews',port:9080,path:'/reviews/0',agent:a},s=>{let b='';s.on('data',d=>b+=d);s.on('end',()=>{n++;if(s.statusCode!==200)bad++;if(b.includes('stars'))v2++;r()})}).on('error',()=>{bad++;r()}));(async()=>{await Promise.all(Array.from({length:8},async()=>{for(let i=0;i<125;i++)await one()}));console.log(JSON.stringify({n,v2,bad}));process.exit()})()";
    const { stdout } = await mesh.exec("deploy/productpage-v1", "productpage", ["node", "-e", script]);
    const { n, v2, bad } = JSON.parse(stdout);
    assert.deepEqual([n, bad], [1000, 0]);
    const deviation = Math.sqrt(1000 * 0.1 * 0.9);
    assert.ok(Math.abs(v2 - 100) < 5 * deviation, `${v2} of 1000 went to v2`);
  });

  test("fault injection: a delay of 7 s for jason makes the page come after about 6 s without reviews; others do not notice", async () => {
    await mesh.kubectl([
      "apply",
      "-f",
      file("virtual-service-all-v1.yaml"),
      "-f",
      file("virtual-service-reviews-test-v2.yaml"),
      "-f",
      file("virtual-service-ratings-test-delay.yaml"),
    ]);
    await mesh.synced();
    const jason = await login();
    const started = performance.now();
    const [slow, quick] = await Promise.all([page(jason), page()]);
    const seconds = (performance.now() - started) / 1000;
    assert.equal(slow.status, 200);
    assert.match(slow.body, /Error fetching product reviews!/);
    assert.ok(seconds > 5.9 && seconds < 7, `${seconds} s`);
    assert.match(quick.body, /An extremely entertaining play/);
    await eventually("the access log", async () =>
      /"GET \/reviews\/0 HTTP\/1\.1" 0 DC downstream_remote_disconnect/.test(
        (await mesh.kubectl(["logs", "deploy/productpage-v1", "-c", "istio-proxy"])).stdout,
      ),
    );
  });

  test("fault injection: an abort with 500 for jason leaves the page without stars", async () => {
    await mesh.kubectl(["apply", "-f", file("virtual-service-ratings-test-abort.yaml")]);
    await mesh.synced();
    const { status, body } = await page(await login());
    assert.equal(status, 200);
    assert.match(body, /Ratings service is currently unavailable/);
    // Envoy writes its access log once a second.
    await eventually("the access log", async () => {
      const { stdout } = await mesh.kubectl(["logs", "-l", "app=reviews,version=v2", "-c", "istio-proxy", "--tail=-1"]);
      return /"GET \/ratings\/0 HTTP\/1\.1" 500 FI fault_filter_abort - "-" 0 18 /.test(stdout);
    });
  });

  test("with the rules removed all three versions answer again", async () => {
    await removeRules();
    const seen = new Set<string>();
    await eventually("none, black and red", async () => {
      seen.add(stars((await page()).body));
      return seen.size === 3;
    });
  });

  test("a rule that cannot be meant is refused with the path of the field", async () => {
    const rule = (http: string): string =>
      `apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad}\nspec: {hosts: [reviews], http: [${http}]}\n`;
    const apply = async (http: string): Promise<string> =>
      (await mesh.kubectl(["apply", "-f", "-"], { input: rule(http), allowFailure: true })).stderr;
    assert.match(await apply("{rout: [{destination: {host: reviews}}]}"), /unknown field "spec\.http\[0\]\.rout"/);
    assert.match(await apply("{route: [{destination: {host: reviews}}], timeout: 5}"), /spec\.http\[0\]\.timeout/);
    assert.match(
      await apply("{route: [{destination: {host: reviews}}], retries: {attempts: 2, retryOn: 5x}}"),
      /spec\.http\[0\]\.retries\.retryOn "5x" is not a valid retryOn policy/,
    );
  });

  test("what Envoy refuses is named with Envoy's words; the last good rule stays, and the rest goes on", async () => {
    const rule = (regex: string): string =>
      `apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec: {hosts: [reviews], http: [{match: [{uri: {regex: "${regex}"}}], route: [{destination: {host: reviews}}]}]}\n`;
    await mesh.apply(rule("/reviews/[0-9]+"));
    await mesh.synced();
    await mesh.apply(rule("/reviews/(["));
    const status = await eventually("the refusal", async () => {
      const { stdout } = await mesh.lateen(["status"]);
      return stdout.includes("refused:") && stdout;
    });
    assert.match(status, /refused: +productpage-v1-\S+\.default: virtualHost 9080\/reviews:9080: .*(regex|missing|\[)/);
    assert.match((await mesh.lateen(["ps"])).stdout, /ERROR|SYNCED/);
    assert.match(
      (await mesh.kubectl(["-n", "istio-system", "logs", "deploy/istiod"])).stdout,
      /refuses virtualHost 9080\/reviews:9080, the last good one stays/,
    );
    assert.match((await page()).body, /An extremely entertaining play/);
    await mesh.kubectl(["delete", "virtualservice", "reviews"]);
    await eventually("it heals", async () => (await mesh.lateen(["status"])).stdout.includes("problems:    none"));
  });

  test("certificates are renewed before they are over, and traffic goes on", async (context) => {
    await mesh.apply(`apiVersion: v1
kind: Pod
metadata: {name: short-lived, annotations: {proxy.istio.io/config: "proxyMetadata: {SECRET_TTL: 12s}"}}
spec: {containers: [{name: app, image: nicolaka/netshoot, command: [tail, -f, /dev/null]}]}
`);
    await mesh.kubectl(["wait", "--for=condition=Ready", "pod/short-lived", "--timeout=60s"]);
    context.after(() => mesh.kubectl(["delete", "pod", "short-lived", "--force", "--grace-period=0"]));
    const serial = async (): Promise<string> =>
      /default +Cert Chain +ACTIVE +true +(\w+)/.exec(
        (await mesh.lateen(["pc", "secret", "short-lived"])).stdout,
      )?.[1] ?? "";
    const first = await serial();
    const seen = new Set([first]);
    await eventually("two renewals", async () => {
      const { stdout } = await mesh.exec("short-lived", "app", [
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "http://ratings:9080/health",
      ]);
      assert.equal(stdout, "200");
      seen.add(await serial());
      return seen.size >= 3;
    });
  });

  test("plaintext from outside the mesh works under PERMISSIVE and is reset under STRICT", async () => {
    await mesh.kubectl(["create", "namespace", "outside"]);
    await mesh.kubectl([
      "run",
      "netpod",
      "-n",
      "outside",
      "--image=nicolaka/netshoot",
      "--command",
      "--",
      "tail",
      "-f",
      "/dev/null",
    ]);
    await mesh.kubectl(["wait", "-n", "outside", "--for=condition=Ready", "pod/netpod", "--timeout=30s"]);
    const ask = () =>
      mesh.kubectl(
        ["exec", "-n", "outside", "netpod", "--", "curl", "-sS", "-m", "5", "http://ratings.default:9080/health"],
        { allowFailure: true },
      );
    assert.equal((await ask()).stdout, '{"status":"Ratings is healthy"}');
    await mesh.apply(
      "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {name: default-strict}\nspec: {mtls: {mode: STRICT}}\n",
    );
    await mesh.synced();
    const refused = await eventually("the reset", async () => {
      const answer = await ask();
      return answer.code !== 0 && answer;
    });
    assert.match(refused.stderr, /Connection reset by peer|curl: \((52|56)\)/);
    assert.equal((await page()).status, 200);
    await eventually("the access log", async () =>
      /"- - -" 0 NR filter_chain_not_found/.test(
        (await mesh.kubectl(["logs", "deploy/ratings-v1", "-c", "istio-proxy"])).stdout,
      ),
    );
    assert.match((await mesh.kubectl(["get", "peerauthentication"])).stdout, /default-strict +STRICT/);
    await mesh.kubectl(["delete", "peerauthentication", "default-strict"]);
    await mesh.synced();
    assert.equal(
      (await eventually("plaintext again", async () => (await ask()).code === 0 && (await ask()))).stdout,
      '{"status":"Ratings is healthy"}',
    );
  });

  test("a caller without a certificate cannot claim one", async () => {
    const forged = "By=x;URI=spiffe://cluster.local/ns/default/sa/admin";
    await mesh.kubectl([
      "exec",
      "-n",
      "outside",
      "netpod",
      "--",
      "curl",
      "-sS",
      "-H",
      `x-forwarded-client-cert: ${forged}`,
      "http://ratings.default:9080/ratings/77",
    ]);
    const { stdout } = await mesh.kubectl(["logs", "deploy/ratings-v1", "-c", "ratings"]);
    assert.match(stdout, /"GET \/ratings\/77 HTTP\/1\.1" 200 \d+ caller=-/);
  });

  test("scaling reviews-v2 to 3: the new endpoints get traffic", async () => {
    await mesh.kubectl(["scale", "deploy/reviews-v2", "--replicas=3"]);
    await mesh.kubectl(["rollout", "status", "deploy/reviews-v2", "--timeout=60s"]);
    const list = await mesh.json(["get", "pods", "-l", "app=reviews,version=v2"]);
    const pods: string[] = list.items.map((pod: any) => pod.metadata.name);
    assert.equal(pods.length, 3);
    await eventually("all three have answered", async () => {
      for (let i = 0; i < 10; i++) await page();
      const logs = await Promise.all(pods.map((pod) => mesh.kubectl(["logs", pod, "-c", "reviews"])));
      return logs.every(({ stdout }) => stdout.includes("GET /reviews/0"));
    });
    await mesh.kubectl(["scale", "deploy/reviews-v2", "--replicas=1"]);
    await mesh.kubectl(["rollout", "status", "deploy/reviews-v2", "--timeout=60s"]);
    await mesh.synced();
  });

  test("kill a pod's process: it restarts, and no request to others fails", async (context) => {
    const load = new Load(mesh.gatewayUrl("/api/v1/products/0"));
    context.after(() => load.stop());
    await load.more(20);
    const pod = await podOf("app=ratings");
    mesh.killInside(/bookinfo\/src\/ratings/);
    await eventually("ratings is back", async () => {
      const { status } = await mesh.json(["get", "pod", pod]);
      const container = status.containerStatuses.find((entry: any) => entry.name === "ratings");
      return container.restartCount === 1 && container.ready;
    });
    await load.more(50);
    await load.stop();
    assert.deepEqual(load.failures, []);
    assert.match((await mesh.kubectl(["get", "pods"])).stdout, /ratings-v1-\S+ +2\/2 +Running +1 \(\d+s ago\)/);
  });

  test("kill -9 of the control plane under traffic: no request fails, and it catches up", async (context) => {
    const load = new Load(mesh.gatewayUrl("/productpage"));
    context.after(() => load.stop());
    await load.more(20);
    const pod = await podOf("app=istiod", "istio-system");
    const restarts = async (): Promise<number> =>
      (await mesh.json(["-n", "istio-system", "get", "pod", pod])).status.containerStatuses[0].restartCount;
    const earlier = await restarts();
    mesh.killInside(/pilot-discovery/);
    // A rule that changes while it is away arrives once it is back.
    await mesh.kubectl(["apply", "-f", file("destination-rule-all.yaml"), "-f", file("virtual-service-all-v1.yaml")]);
    await load.more(50);
    await eventually(
      "the control plane is back",
      async () => (await restarts()) > earlier && (await mesh.lateen(["ps"])).code === 0,
      60_000,
    );
    await eventually(
      "the rule has arrived",
      async () =>
        stars((await page()).body) === "none" &&
        stars((await page()).body) === "none" &&
        stars((await page()).body) === "none",
    );
    await load.more(50);
    await load.stop();
    assert.deepEqual(load.failures, []);
    await removeRules();
  });

  test("a rolling restart of an application loses no request", async (context) => {
    const load = new Load(mesh.gatewayUrl("/api/v1/products/0"));
    context.after(() => load.stop());
    await load.more(20);
    await mesh.kubectl(["rollout", "restart", "deploy/details-v1"]);
    await mesh.kubectl(["rollout", "status", "deploy/details-v1", "--timeout=60s"]);
    await load.more(50);
    await load.stop();
    assert.deepEqual(load.failures, []);
  });

  test("kill -9 of the whole instance: nothing runs on, and the next start has the state", async () => {
    await mesh.kubectl(["create", "configmap", "mine", "--from-literal=key=value"]);
    process.kill(mesh.supervisorPid, "SIGKILL");
    await eventually(
      "everything is gone",
      () => processesOf(mesh).length === 0 && hostTrace()["namespaces"] === traceBefore["namespaces"],
    );
    await mesh.up("bookinfo");
    assert.equal((await mesh.json(["get", "configmap", "mine"])).data.key, "value");
    assert.equal((await page()).status, 200);
  });

  test("down leaves nothing behind and keeps the state", async () => {
    const { stdout } = await mesh.lateen(["down"]);
    assert.match(stdout, /kept for the next start/);
    await eventually(
      "the kernel has taken everything down",
      () => processesOf(mesh).length === 0 && hostTrace()["namespaces"] === traceBefore["namespaces"],
    );
    assert.deepEqual(hostTrace(), traceBefore);
    assert.equal((await mesh.lateen(["status"])).code, 3);
    await mesh.up("none");
    assert.equal((await mesh.json(["get", "configmap", "mine"])).data.key, "value");
  });

  test("down --purge names and deletes the state", async () => {
    const { stdout } = await mesh.lateen(["down", "--purge"]);
    assert.match(stdout, new RegExp(`deleting ${mesh.state}`));
    assert.match((await mesh.lateen(["down", "--purge"])).stdout, /there is no state/);
  });
});
