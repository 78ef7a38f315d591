// Logs of containers: files that PID 1 writes line by line (`TIME STREAM F text`), read back for `kubectl logs`.
import { watch } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import type { ServerResponse } from "node:http";

/** The watcher tells of lines; only the end of a container, which writes nothing, is waited for this way. */
const END_POLL_MS = 200;
/** Longer than any line: PID 1 breaks them at 64 KiB. */
const READ_BYTES = 1 << 18;

/** From when on lines are wanted; undefined: all. */
function sinceTime(query: URLSearchParams): number | undefined {
  const seconds = query.get("sinceSeconds");
  if (seconds !== null) return Date.now() - Number(seconds) * 1000;
  const time = query.get("sinceTime");
  return time === null ? undefined : Date.parse(time);
}

/** What the client is shown of a line. */
export function plainLine(line: string, withTime: boolean): string {
  const time = line.indexOf(" ");
  const text = line.slice(line.indexOf(" F ", time) + 3);
  return withTime ? `${line.slice(0, time)} ${text}` : text;
}

async function readLines(handle: FileHandle): Promise<{ lines: string[]; bytes: number }> {
  const text = await handle.readFile();
  const lines = text.toString("utf8").split("\n");
  lines.pop();
  return { lines, bytes: text.lastIndexOf(10) + 1 };
}

/** Calls `onLines` with lines as they are written, through rotations, until the container has ended or `isOver`. */
async function followLines(
  opened: FileHandle,
  file: string,
  from: number,
  isLive: () => boolean,
  until: { readonly isOver: () => boolean; readonly onOver: (wake: () => void) => void },
  onLines: (lines: readonly string[]) => void,
): Promise<void> {
  let handle = opened;
  let position = from;
  let wake: () => void = () => {};
  until.onOver(() => wake());
  const buffer = Buffer.alloc(READ_BYTES);
  let watcher = watch(file, () => wake());
  watcher.on("error", () => {});
  try {
    while (!until.isOver()) {
      // Asked before reading: what was written until then is read.
      const wasLive = isLive();
      const current = await stat(file).catch(() => undefined);
      const { bytesRead } = await handle.read(buffer, 0, READ_BYTES, position);
      const end = buffer.subarray(0, bytesRead).lastIndexOf(10) + 1;
      if (end > 0) {
        position += end;
        onLines(buffer.subarray(0, end).toString("utf8").split("\n").slice(0, -1));
        continue;
      }
      // The file has been turned over, and all of the old one is read.
      if (current !== undefined && current.ino !== (await handle.stat()).ino) {
        await handle.close();
        handle = await open(file);
        position = 0;
        watcher.close();
        watcher = watch(file, () => wake());
        watcher.on("error", () => {});
        continue;
      }
      // Between the turn and the next line there is no file.
      if (!wasLive) break;
      await new Promise<void>((resolve) => {
        wake = resolve;
        setTimeout(resolve, END_POLL_MS);
      });
    }
  } finally {
    watcher.close();
    await handle.close();
  }
}

/** Serves a log: what there is, by the query's limits, and what comes, where it asks to follow. */
export async function serveLog(
  file: string,
  query: URLSearchParams,
  isLive: () => boolean,
  response: ServerResponse,
): Promise<void> {
  const since = sinceTime(query);
  const withTime = query.get("timestamps") === "true";
  const handle = await open(file);
  const present = await readLines(handle);
  const wanted = present.lines.filter((line) => since === undefined || Date.parse(line.slice(0, 30)) >= since);
  const tail = query.get("tailLines");
  const shown = tail === null ? wanted : wanted.slice(Math.max(0, wanted.length - Number(tail)));
  const limit = Number(query.get("limitBytes") ?? 0);
  response.writeHead(200, { "content-type": "text/plain", "cache-control": "no-cache, private" });
  const text = shown.map((line) => `${plainLine(line, withTime)}\n`).join("");
  response.write(limit > 0 ? Buffer.from(text).subarray(0, limit) : text);
  if (query.get("follow") === "true") {
    const until = { isOver: () => response.destroyed, onOver: (wake: () => void) => void response.once("close", wake) };
    await followLines(handle, file, present.bytes, isLive, until, (lines) => {
      response.write(lines.map((line) => `${plainLine(line, withTime)}\n`).join(""));
    });
  } else await handle.close();
  response.end();
}
