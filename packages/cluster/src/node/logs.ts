// Logs of containers: files that PID 1 writes line by line (`TIME STREAM F text`), read back for `kubectl logs` and attach.
import { createReadStream, existsSync, statSync, watch } from "node:fs";
import type { ServerResponse } from "node:http";
import type { Writable } from "node:stream";

/** The watcher tells of lines; only the end of a container, which writes nothing, is waited for this way. */
const END_POLL_MS = 200;

/** From when on lines are wanted; undefined: all. */
function sinceTime(query: URLSearchParams): number | undefined {
  const seconds = query.get("sinceSeconds");
  if (seconds !== null) return Date.now() - Number(seconds) * 1000;
  const time = query.get("sinceTime");
  return time === null ? undefined : Date.parse(time);
}

/** What the client is shown of a line. */
function plainLine(line: string, withTime: boolean): string {
  const time = line.indexOf(" ");
  const text = line.slice(line.indexOf(" F ", time) + 3);
  return withTime ? `${line.slice(0, time)} ${text}` : text;
}

const streamOf = (line: string): string => line.split(" ", 2)[1] ?? "stdout";

async function readLines(file: string): Promise<{ lines: string[]; bytes: number }> {
  const chunks: Buffer[] = [];
  for await (const chunk of createReadStream(file)) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks);
  const lines = text.toString("utf8").split("\n");
  lines.pop();
  return { lines, bytes: text.lastIndexOf(10) + 1 };
}

/** Calls `onLines` with lines as they are written, until the container has ended or `isOver`. */
async function followLines(
  file: string,
  from: number,
  isLive: () => boolean,
  until: { readonly isOver: () => boolean; readonly onOver: (wake: () => void) => void },
  onLines: (lines: readonly string[]) => void,
): Promise<void> {
  let position = from;
  let wake: () => void = () => {};
  const watcher = watch(file, () => wake());
  watcher.on("error", () => {});
  until.onOver(() => wake());
  try {
    while (!until.isOver() && existsSync(file)) {
      const wasLive = isLive();
      if (statSync(file).size < position) position = 0;
      const chunks: Buffer[] = [];
      for await (const chunk of createReadStream(file, { start: position })) chunks.push(chunk as Buffer);
      const data = Buffer.concat(chunks);
      const end = data.lastIndexOf(10) + 1;
      if (end > 0) {
        position += end;
        onLines(data.subarray(0, end).toString("utf8").split("\n").slice(0, -1));
        continue;
      }
      if (!wasLive) break;
      await new Promise<void>((resolve) => {
        wake = resolve;
        setTimeout(resolve, END_POLL_MS);
      });
    }
  } finally {
    watcher.close();
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
  const present = await readLines(file);
  const wanted = present.lines.filter((line) => since === undefined || Date.parse(line.slice(0, 30)) >= since);
  const tail = query.get("tailLines");
  const shown = tail === null ? wanted : wanted.slice(Math.max(0, wanted.length - Number(tail)));
  const limit = Number(query.get("limitBytes") ?? 0);
  response.writeHead(200, { "content-type": "text/plain", "cache-control": "no-cache, private" });
  const text = shown.map((line) => `${plainLine(line, withTime)}\n`).join("");
  response.write(limit > 0 ? Buffer.from(text).subarray(0, limit) : text);
  if (query.get("follow") === "true") {
    const until = { isOver: () => response.destroyed, onOver: (wake: () => void) => void response.once("close", wake) };
    await followLines(file, present.bytes, isLive, until, (lines) => {
      response.write(lines.map((line) => `${plainLine(line, withTime)}\n`).join(""));
    });
  }
  response.end();
}

/** Sends the lines that a container writes from now on to the streams of an attached client. */
export function followOutput(
  file: string,
  isLive: () => boolean,
  stdout: Writable | undefined,
  stderr: Writable | undefined,
) {
  let isOver = false;
  let wake: () => void = () => {};
  const until = {
    isOver: () => isOver,
    onOver: (callback: () => void) => {
      wake = callback;
    },
  };
  const from = existsSync(file) ? statSync(file).size : 0;
  const ended = followLines(file, from, isLive, until, (lines) => {
    for (const line of lines) (streamOf(line) === "stderr" ? stderr : stdout)?.write(`${plainLine(line, false)}\n`);
  });
  return {
    ended,
    stop: (): void => {
      isOver = true;
      wake();
    },
  };
}
