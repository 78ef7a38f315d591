// Entry of the control plane's container: `pilot-discovery discovery ...` and `pilot-discovery request GET /path`.
import { get } from "node:http";
import { errorText, Failure } from "@lateen/base";
import { DISCOVERY_HELP, readOptions } from "./options.ts";
import { runControlPlane } from "./run.ts";

/** Prints what the monitoring port answers; the CLI calls this through exec. */
function request(path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    get({ host: "127.0.0.1", port: 15014, path: path.startsWith("/") ? path : `/${path}` }, (response) => {
      response.pipe(process.stdout);
      response.once("end", resolve);
    }).on("error", reject);
  });
}

async function main(args: readonly string[]): Promise<void> {
  const [command, ...rest] = args;
  if (command === "request") return request(rest[1] ?? "/");
  if (command !== "discovery") throw new Failure(`unknown command ${command ?? ""}`, DISCOVERY_HELP);
  return runControlPlane(readOptions(rest));
}

main(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(
    `${errorText(error)}\n${error instanceof Failure && error.help !== undefined ? `${error.help}\n` : ""}`,
  );
  process.exit(1);
});
