// Envoy's configuration stream, passed on byte for byte: Envoy speaks to a socket in its pod, the agent to the control plane
// with the workload's token. When the control plane is away Envoy's stream ends, and Envoy comes again until it is back; what
// it holds stays in force meanwhile.
import { errorText } from "@lateen/base";
import { frame, type GrpcClient, type Handler, STATUS } from "@lateen/xds/grpc";
import { bearer, connectDiscovery } from "./identity.ts";
import type { ProxyOptions } from "./options.ts";

export const ADS_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/** Relays one stream of Envoy at a time, over one connection that is kept. */
export function relayHandler(options: ProxyOptions, log: (text: string) => void): Handler {
  let client: GrpcClient | undefined;
  let isAway = false;
  return (call) => {
    try {
      if (client === undefined || client.isClosed) client = connectDiscovery(options);
      const upstream = client.open(ADS_METHOD, bearer());
      upstream.onMessage = (message) => {
        if (isAway) log("the control plane is back");
        isAway = false;
        call.send(frame(message));
      };
      upstream.onClose = (error) => {
        if (!isAway && error.status !== STATUS.ok && error.status !== STATUS.cancelled)
          log(`the control plane is away: ${error.message}`);
        isAway = true;
        call.end(STATUS.unavailable, error.message);
      };
      call.onMessage = (message) => upstream.send(frame(message));
      call.onClose = () => upstream.cancel();
    } catch (error) {
      call.end(STATUS.unavailable, errorText(error));
    }
  };
}
