// The embedded cluster, as commands use it: start, stop, find an instance.
export { addImage, listImages, removeImage } from "./host/add-image.ts";
export { cacheFolder, checkMachine, envoyPath, startInstance, stopInstance } from "./host/control.ts";
export { Instance } from "./host/instance.ts";
