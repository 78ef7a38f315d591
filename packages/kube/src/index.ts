// The Kubernetes API as a client sees it.
export { KubeClient, KubeError, type KubeObject } from "./client.ts";
export { inClusterConfig, type KubeConfig, loadKubeConfig } from "./config.ts";
export { exec } from "./exec.ts";
export { follow } from "./informer.ts";
