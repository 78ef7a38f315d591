// The control plane process.
export { DISCOVERY_HELP, readOptions } from "./options.ts";
export { runControlPlane } from "./run.ts";
