// The layers, top to bottom: a package imports only from layers above its own; siblings do not import each other.
// The only place that says it; ARCHITECTURE.md prints it, the tidy test enforces it.
export const LAYERS: readonly (readonly string[])[] = [
  ["base"],
  ["resources", "model", "envoy-api", "query", "x509"],
  ["compile"],
  ["kube"],
  ["xds", "ca", "inject", "cluster"],
  ["meshd", "agent", "install"],
  ["cli"],
];

/** Packages whose code is pure: no input or output, no clock, no chance, nothing asynchronous. */
export const PURE: readonly string[] = ["base", "resources", "model", "query", "compile"];
