// The embedded cluster, as commands use it: start, stop, find an instance.
export { cacheFolder, checkMachine, envoyPath, startInstance, stopInstance } from "./host/control.ts";
export { Instance } from "./host/instance.ts";
