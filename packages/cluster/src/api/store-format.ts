// The file that keeps the cluster's objects: its tables, its format, and the way from older formats to this one.
import { existsSync, rmSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { errorText, Failure, isObject } from "@lateen/base";

/** What this version writes. A file without a format is of format 0. */
const FORMAT = 1;

/** The step from format N (its place in the list) to N + 1. It runs inside a transaction. */
const STEPS: readonly ((database: DatabaseSync) => void)[] = [claimNodes];

/** Format 1: a node says by `providerID` that the embedded cluster runs it, and has a range of pod addresses of its own. */
function claimNodes(database: DatabaseSync): void {
  const nodes = database.prepare("SELECT key, json FROM objects WHERE resource='nodes'").all();
  const write = database.prepare("UPDATE objects SET json=? WHERE resource='nodes' AND key=?");
  for (const { key, json } of nodes) {
    const node = JSON.parse(String(json)) as { metadata: { name: string }; spec?: unknown };
    const podCIDR = "10.244.0.0/24";
    const spec = { ...(isObject(node.spec) ? node.spec : {}), podCIDR, podCIDRs: [podCIDR] };
    write.run(
      JSON.stringify({ ...node, spec: { ...spec, providerID: `lateen://${node.metadata.name}` } }),
      String(key),
    );
  }
}

/** Opens or creates the file. What is older is copied (`FILE.format-N`) and brought up to date; what cannot be used is left as it is. */
export function openDatabase(path: string): DatabaseSync {
  const isNew = !existsSync(path);
  try {
    const database = new DatabaseSync(path);
    // Reading comes first: what is no database of ours is not written to.
    const tables = database.prepare("SELECT name FROM sqlite_schema WHERE type='table'").all();
    const hasObjects = tables.some(({ name }) => name === "objects");
    const format = isNew || !hasObjects ? FORMAT : formatOf(database);
    if (format > FORMAT)
      throw new Failure(
        `${path} was written by a newer version of Lateen (format ${format}, this one knows ${FORMAT})`,
        "Use that version, or another folder with --state.",
      );
    database.exec("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=2000");
    database.exec(
      "CREATE TABLE IF NOT EXISTS objects(resource TEXT, key TEXT, json TEXT, PRIMARY KEY(resource, key)) WITHOUT ROWID;" +
        "CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    );
    if (format < FORMAT) migrate(database, path, format);
    else if (!hasObjects) writeFormat(database);
    return database;
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw new Failure(
      `${path} cannot be used: ${errorText(error)}`,
      "Nothing in it was changed. If it is damaged, start with another folder (--state), or delete this one with: lateen down --purge",
    );
  }
}

function formatOf(database: DatabaseSync): number {
  const row = database.prepare("SELECT value FROM meta WHERE name='format'").get();
  return row === undefined ? 0 : Number(row["value"]);
}

function writeFormat(database: DatabaseSync): void {
  database.prepare("INSERT OR REPLACE INTO meta VALUES('format', ?)").run(String(FORMAT));
}

/** All steps or none. */
function migrate(database: DatabaseSync, path: string, from: number): void {
  const copy = `${path}.format-${from}`;
  // One of an attempt that did not come to its end.
  rmSync(copy, { force: true });
  database.prepare("VACUUM INTO ?").run(copy);
  database.exec("BEGIN IMMEDIATE");
  try {
    for (const step of STEPS.slice(from)) step(database);
    writeFormat(database);
    database.exec("COMMIT");
  } catch (error) {
    database.exec("ROLLBACK");
    throw error;
  }
}
