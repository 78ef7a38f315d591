// The state machine of a delta stream, step by step, without sockets.
import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { DeltaDiscoveryRequestSchema } from "@lateen/envoy-api/discovery";
import type { ClusterName, EncodedResource } from "@lateen/model";
import { DeltaStream, type Desired, HOLD_MS_MAX, type Outgoing, TYPES, type TypeName } from "./delta.ts";

function resource(type: TypeName, name: string, version: string, clusters: readonly string[] = []): EncodedResource {
  return {
    name,
    typeUrl: TYPES[type],
    version,
    body: Buffer.from(`${name}@${version}`),
    clusters: clusters as ClusterName[],
  };
}

function desired(...resources: readonly EncodedResource[]): Desired {
  const of = (type: TypeName): Map<string, EncodedResource> =>
    new Map(resources.filter((entry) => entry.typeUrl === TYPES[type]).map((entry) => [entry.name, entry]));
  return {
    cluster: of("cluster"),
    endpoint: of("endpoint"),
    listener: of("listener"),
    route: of("route"),
    virtualHost: of("virtualHost"),
  };
}

/** A proxy that asks and answers. */
class Peer {
  nonce = 0;
  clock = 0;
  readonly stream = new DeltaStream({ nextNonce: () => String(++this.nonce), now: () => this.clock });

  ask(type: TypeName, names: readonly string[] = [], versions: Record<string, string> = {}): void {
    this.stream.receive(
      create(DeltaDiscoveryRequestSchema, {
        typeUrl: TYPES[type],
        resourceNamesSubscribe: [...names],
        initialResourceVersions: versions,
      }),
    );
  }

  answer(response: Outgoing, error?: string) {
    const detail = error === undefined ? {} : { errorDetail: { code: 3, message: error } };
    return this.stream.receive(
      create(DeltaDiscoveryRequestSchema, { typeUrl: TYPES[response.type], responseNonce: response.nonce, ...detail }),
    );
  }

  /** What goes out now, as `type: names -removed`. */
  pump(state: Desired): { texts: string[]; responses: Outgoing[] } {
    const { outgoing } = this.stream.pump(state);
    return {
      responses: outgoing,
      texts: outgoing.map(({ type, resources, removed }) =>
        [
          `${type}:`,
          ...resources.map(({ name, version }) => `${name}@${version}`),
          ...removed.map((name) => `-${name}`),
        ].join(" "),
      ),
    };
  }

  /** Acknowledges everything until nothing goes out any more. */
  settle(state: Desired): string[] {
    const all: string[] = [];
    for (;;) {
      const { texts, responses } = this.pump(state);
      if (texts.length === 0) return all;
      all.push(...texts);
      for (const response of responses) this.answer(response);
    }
  }
}

const c = (version: string): EncodedResource => resource("cluster", "c", version);
const e = (version: string): EncodedResource => resource("endpoint", "c", version);

test("a proxy that is to have nothing is told so, once: it does not start before", () => {
  const peer = new Peer();
  peer.ask("listener");
  const { texts, responses } = peer.pump(desired());
  assert.deepEqual(texts, ["listener:"]);
  peer.answer(responses[0] as Outgoing);
  assert.deepEqual(peer.pump(desired()).texts, []);
  assert.equal(peer.stream.status(desired())[0]?.state, "SYNCED");
  const back = new Peer();
  back.ask("listener", [], { a: "1" });
  assert.deepEqual(back.pump(desired(resource("listener", "a", "1"))).texts, []);
});

test("what leads to a cluster goes when the cluster and its endpoints have been acknowledged", () => {
  const peer = new Peer();
  const state = desired(c("1"), e("1"), resource("virtualHost", "80/a", "1", ["c"]));
  peer.ask("cluster");
  peer.ask("virtualHost", ["80/a"]);
  const first = peer.pump(state);
  assert.deepEqual(first.texts, ["cluster: c@1"]);
  peer.ask("endpoint", ["c"]);
  const second = peer.pump(state);
  assert.deepEqual(second.texts, ["endpoint: c@1"]);
  for (const response of [...first.responses, ...second.responses]) peer.answer(response);
  assert.deepEqual(peer.pump(state).texts, ["virtualHost: 80/a@1"]);
});

test("a virtual host is not held back for ever", () => {
  const peer = new Peer();
  const state = desired(c("1"), e("1"), resource("virtualHost", "80/a", "1", ["c"]));
  peer.ask("cluster");
  peer.ask("virtualHost", ["80/a"]);
  peer.pump(state);
  peer.clock = HOLD_MS_MAX - 1;
  assert.deepEqual(peer.pump(state).texts, []);
  peer.clock = HOLD_MS_MAX;
  assert.deepEqual(peer.pump(state).texts, ["virtualHost: 80/a@1"]);
});

test("a cluster goes only when nothing that the proxy holds leads to it", () => {
  const peer = new Peer();
  const before = desired(c("1"), e("1"), resource("route", "80", "1", ["c"]));
  for (const type of ["cluster", "listener"] as const) peer.ask(type);
  peer.ask("endpoint", ["c"]);
  peer.ask("route", ["80"]);
  peer.settle(before);
  const after = desired(resource("route", "80", "2"));
  const { texts, responses } = peer.pump(after);
  assert.deepEqual(
    texts,
    ["endpoint: -c", "route: 80@2"].filter((text) => texts.includes(text)),
  );
  assert.ok(!texts.some((text) => text.startsWith("cluster:")), "the route that leads there has not been answered");
  for (const response of responses) peer.answer(response);
  assert.deepEqual(peer.settle(after), ["cluster: -c"]);
});

test("at most one unanswered response per type; what changed meanwhile is taken from the newest state", () => {
  const peer = new Peer();
  peer.ask("cluster");
  const [first] = peer.pump(desired(c("1"))).responses;
  assert.deepEqual(peer.pump(desired(c("2"))).texts, []);
  assert.ok(first !== undefined);
  peer.answer(first);
  assert.deepEqual(peer.pump(desired(c("3"))).texts, ["cluster: c@3"]);
});

test("endpoints of a changed cluster are sent again, as it warms anew", () => {
  const peer = new Peer();
  peer.ask("cluster");
  peer.ask("endpoint", ["c"]);
  peer.settle(desired(c("1"), e("1")));
  assert.deepEqual(peer.settle(desired(c("2"), e("1"))), ["cluster: c@2", "endpoint: c@1"]);
});

test("a refusal keeps the last good version and finds the guilty one; the others arrive", () => {
  const peer = new Peer();
  peer.ask("cluster");
  const good = resource("cluster", "good", "1");
  const state = desired(good, resource("cluster", "bad", "1"));
  const [both] = peer.pump(state).responses;
  assert.ok(both !== undefined);
  assert.deepEqual(peer.answer(both, "bad is bad"), []);
  const [first] = peer.pump(state).responses;
  assert.deepEqual(
    first?.resources.map(({ name }) => name),
    ["good"],
  );
  peer.answer(first);
  const [second] = peer.pump(state).responses;
  assert.deepEqual(
    second?.resources.map(({ name }) => name),
    ["bad"],
  );
  assert.deepEqual(
    peer.answer(second, "bad is bad").map(({ name, message }) => [name, message]),
    [["bad", "bad is bad"]],
  );
  assert.deepEqual(peer.pump(state).texts, []);
  assert.equal(peer.stream.status(state)[0]?.state, "ERROR");
  assert.deepEqual(peer.settle(desired(good, resource("cluster", "bad", "2"))), ["cluster: bad@2"]);
  assert.deepEqual(peer.stream.rejections(), []);
});

test("a reconnect that names what it holds is sent only what differs", () => {
  const peer = new Peer();
  const state = desired(c("1"), resource("cluster", "d", "2"), e("1"), resource("virtualHost", "80/a", "1", ["c"]));
  peer.ask("cluster", ["*"], { c: "1", d: "1", gone: "1" });
  peer.ask("endpoint", ["c"], { c: "1" });
  peer.ask("virtualHost", ["*", "80/a"], { "80/a": "1" });
  assert.deepEqual(peer.settle(state), ["cluster: d@2 -gone"]);
});

test("names are bounded", () => {
  const peer = new Peer();
  assert.throws(
    () =>
      peer.ask(
        "virtualHost",
        Array.from({ length: 20_001 }, (_, i) => `80/${i}`),
      ),
    RangeError,
  );
});
