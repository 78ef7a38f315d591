// `istio-iptables`: sends a pod's TCP traffic through its proxy. Table nat only; run as istio-init before the application.
// The rules and their order are those that Istio's istio-init programs.
import { spawnSync } from "node:child_process";

interface RedirectOptions {
  readonly outboundPort: string;
  readonly inboundPort: string;
  readonly proxyId: string;
  /** `*`, or ports. */
  readonly includeInbound: string;
  readonly excludeInbound: readonly string[];
  readonly includeRanges: string;
  readonly excludeRanges: readonly string[];
  readonly excludeOutbound: readonly string[];
}

const list = (text: string | undefined): string[] => (text ?? "").split(",").filter((part) => part !== "");

/** Reads Istio's flags: -p -z -u -i -x -b -d -o. */
export function readRedirectOptions(args: readonly string[]): RedirectOptions {
  const value = (flag: string): string | undefined => {
    const at = args.indexOf(flag);
    return at < 0 ? undefined : args[at + 1];
  };
  return {
    outboundPort: value("-p") ?? "15001",
    inboundPort: value("-z") ?? "15006",
    proxyId: value("-u") ?? "1337",
    includeInbound: value("-b") ?? "*",
    excludeInbound: list(value("-d") ?? "15090,15021,15020"),
    includeRanges: value("-i") ?? "*",
    excludeRanges: list(value("-x")),
    excludeOutbound: list(value("-o")),
  };
}

/** The rules as iptables-restore reads them. */
export function renderRules(options: RedirectOptions): string {
  const {
    outboundPort,
    inboundPort,
    proxyId,
    includeInbound,
    excludeInbound,
    includeRanges,
    excludeRanges,
    excludeOutbound,
  } = options;
  const inbound =
    includeInbound === "*"
      ? [
          "-A PREROUTING -p tcp -j ISTIO_INBOUND",
          // 22 stays open for people.
          ...["22", ...excludeInbound].map((port) => `-A ISTIO_INBOUND -p tcp --dport ${port} -j RETURN`),
          "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",
        ]
      : includeInbound === ""
        ? []
        : [
            "-A PREROUTING -p tcp -j ISTIO_INBOUND",
            ...list(includeInbound).map((port) => `-A ISTIO_INBOUND -p tcp --dport ${port} -j ISTIO_IN_REDIRECT`),
          ];
  const owner = (kind: "uid" | "gid"): string[] => [
    `-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -m owner --${kind}-owner ${proxyId} -j ISTIO_IN_REDIRECT`,
    `-A ISTIO_OUTPUT -o lo -m owner ! --${kind}-owner ${proxyId} -j RETURN`,
    `-A ISTIO_OUTPUT -m owner --${kind}-owner ${proxyId} -j RETURN`,
  ];
  const outbound =
    includeRanges === "*"
      ? ["-A ISTIO_OUTPUT -j ISTIO_REDIRECT"]
      : list(includeRanges).map((range) => `-A ISTIO_OUTPUT -d ${range} -j ISTIO_REDIRECT`);
  return [
    "* nat",
    "-N ISTIO_INBOUND",
    "-N ISTIO_REDIRECT",
    "-N ISTIO_IN_REDIRECT",
    "-N ISTIO_OUTPUT",
    "-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN",
    `-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports ${outboundPort}`,
    `-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports ${inboundPort}`,
    ...inbound,
    "-A OUTPUT -p tcp -j ISTIO_OUTPUT",
    ...excludeOutbound.map((port) => `-A ISTIO_OUTPUT -p tcp --dport ${port} -j RETURN`),
    "-A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN",
    ...owner("uid"),
    ...owner("gid"),
    "-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN",
    ...excludeRanges.map((range) => `-A ISTIO_OUTPUT -d ${range} -j RETURN`),
    ...outbound,
    "COMMIT",
    "",
  ].join("\n");
}

/** Prints the rules and puts them in force. Rules of an earlier run of the same pod are replaced. */
export function applyRedirect(args: readonly string[]): number {
  const rules = renderRules(readRedirectOptions(args));
  process.stdout.write(rules);
  // Without --noflush the table is first emptied: running twice is as running once.
  const run = spawnSync("iptables-restore", ["-w", "30"], { input: rules.replace("* nat", "*nat"), encoding: "utf8" });
  if (run.status !== 0) process.stderr.write(`iptables-restore: ${run.error?.message ?? run.stderr}\n`);
  return run.status ?? 1;
}
