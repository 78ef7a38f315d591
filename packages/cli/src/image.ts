// `lateen image`: the table of images that the embedded cluster runs.
import { Failure } from "@lateen/base";
import { addImage, type Instance, listImages, removeImage } from "@lateen/cluster";
import { print, renderTable } from "./output.ts";

export const IMAGE_HELP = `lateen image: what the embedded cluster runs under the names of images

  lateen image add NAME [options] -- COMMAND...   a command, with the host's programs around it
  lateen image add NAME --root FOLDER -- COMMAND...
                                                  a command, with the files of a folder
  lateen image add NAME --root FILE.tar           an image archive (docker save, OCI); its own command
  lateen image list
  lateen image remove NAME

  --file SOURCE:TARGET   a file or folder of this machine, to be read at TARGET (may be repeated)
  --arg ARG          an argument where the pod gives none (may be repeated); the pod's args stand behind COMMAND
  --env NAME=VALUE   a variable of its containers (may be repeated)
  --user UID         the user that its containers run as (default: the archive's, else 0)
  --workdir DIR      the folder that its containers start in
  --state DIR        folder of the instance
`;

export interface ImageFlags {
  readonly root?: string;
  readonly arg?: readonly string[];
  readonly file?: readonly string[];
  readonly env?: readonly string[];
  readonly user?: string;
  readonly workdir?: string;
}

/** Runs the command. `args` are what is left of the command line, `command` what stands behind `--`. */
export function image(
  instance: Instance,
  args: readonly string[],
  command: readonly string[],
  flags: ImageFlags,
): void {
  const [action = "list", name] = args;
  if (action === "list") {
    const rows = Object.entries(listImages(instance)).map(([image, { root, entrypoint, command: given, uid }]) => [
      image,
      root ?? "(host)",
      String(uid),
      [...entrypoint, ...given].join(" "),
    ]);
    print(renderTable(["IMAGE", "ROOT", "USER", "COMMAND"], rows));
    return;
  }
  if (name === undefined || (action !== "add" && action !== "remove"))
    throw new Failure("image needs add, list or remove, and a name", IMAGE_HELP);
  if (action === "remove") {
    if (!removeImage(instance, name)) throw new Failure(`there is no image "${name}"`, "See: lateen image list");
    print(`removed ${name}`);
    return;
  }
  if (flags.user !== undefined && !/^\d+$/.test(flags.user))
    throw new Failure(`--user ${flags.user} is not a number`, IMAGE_HELP);
  const bad = (flags.env ?? []).find((entry) => !/^[^=]+=/.test(entry));
  if (bad !== undefined) throw new Failure(`--env ${bad} is not NAME=VALUE`, IMAGE_HELP);
  const files = (flags.file ?? []).map((entry) => {
    const [source = "", target = ""] = entry.split(":");
    if (source === "" || !target.startsWith("/"))
      throw new Failure(`--file ${entry} is not SOURCE:/TARGET`, IMAGE_HELP);
    return { source, target };
  });
  addImage(instance, name, { ...flags, files, args: flags.arg ?? [], env: flags.env ?? [], command });
  print(`added ${name}`);
}
