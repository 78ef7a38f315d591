// gRPC as thin as the mesh needs it: for the discovery server, the agent, and tests. Loads no message definitions.
export { type ClientCall, GrpcClient, type GrpcTarget } from "./client.ts";
export { frame, GrpcError, STATUS } from "./frames.ts";
export { GrpcServer, type Handler, type ServerCall, type ServerTls } from "./server.ts";
export { bytesField, fields, stringField, varintField } from "./wire.ts";
