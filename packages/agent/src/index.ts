// The agent's parts that others use: rules and bootstrap, pure.
export { renderBootstrap } from "./bootstrap.ts";
export { readRedirectOptions, renderRules } from "./iptables.ts";
