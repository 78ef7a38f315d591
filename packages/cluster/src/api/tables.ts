// Tables: what `kubectl get` prints is made by the server. Columns of built-in kinds are those of a real server, columns of custom
// kinds their additionalPrinterColumns.
import { isObject } from "@lateen/base";
import { cellsOf } from "./cells.ts";
import { age, ageOf, type Cell } from "./cells-core.ts";
import { isCustom } from "./custom.ts";
import { type Column, type Kind, tableOf } from "./kinds.ts";
import type { KubeObject } from "./objects.ts";

const NAME_TEXT =
  "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";

const column = (name: string, type = "string", format = "", description = ""): Column => ({
  name,
  type,
  format,
  description,
  priority: 0,
});

/** A column of a CustomResourceDefinition's additionalPrinterColumns. */
export interface PrinterColumn {
  readonly name: string;
  readonly type: string;
  readonly jsonPath: string;
  readonly format?: string;
  readonly description?: string;
  readonly priority?: number;
}

function atPath(object: unknown, path: string): unknown {
  let at: unknown = object;
  for (const step of path
    .replaceAll(/\[['"]?([^\]'"]+)['"]?\]/g, ".$1")
    .split(".")
    .filter((part) => part !== "")) {
    at = Array.isArray(at) ? at[Number(step)] : isObject(at) ? at[step] : undefined;
  }
  return at;
}

const DEFAULT_COLUMNS: readonly PrinterColumn[] = [
  { name: "Age", type: "date", jsonPath: ".metadata.creationTimestamp" },
];

function customCell(object: KubeObject, { type, jsonPath }: PrinterColumn, now: number): Cell {
  const value = atPath(object, jsonPath);
  if (value === undefined || value === null) return null;
  if (type === "date") return age(String(value), now);
  if (typeof value === "object") return JSON.stringify(value);
  if (type === "string") return String(value);
  return typeof value === "number" || typeof value === "boolean" ? value : String(value);
}

interface Rules {
  readonly columns: readonly Column[];
  readonly cells: (object: KubeObject, now: number) => Cell[];
}

function rulesOf(kind: Kind): Rules {
  if (!isCustom(kind)) return { columns: kind.columns, cells: (object, now) => cellsOf(tableOf(kind), object, now) };
  const printer = kind.printer.length > 0 ? kind.printer : DEFAULT_COLUMNS;
  return {
    columns: [
      column("Name", "string", "name", NAME_TEXT),
      ...printer.map(
        ({ name, type, format = "", description, priority = 0, jsonPath }): Column => ({
          name,
          type,
          format,
          description: description ?? `Custom resource definition column (in JSONPath format): ${jsonPath}`,
          priority,
        }),
      ),
    ],
    cells: (object, now) => [object.metadata.name, ...printer.map((entry) => customCell(object, entry, now))],
  };
}

/** What the `object` of a row holds: metadata only, the whole, or nothing. */
export type IncludeObject = "Metadata" | "Object" | "None";

function rowObject(object: KubeObject, include: IncludeObject): unknown {
  if (include === "None") return undefined;
  if (include === "Object") return object;
  return { kind: "PartialObjectMetadata", apiVersion: "meta.k8s.io/v1", metadata: object.metadata };
}

/** Kinds without a printer of their own in a real server; their empty tables have null for rows. */
const isPlain = (columns: readonly Column[]): boolean => columns.length === 2 && columns[1]?.name === "Created At";

/** Renders objects of one kind as a meta.k8s.io/v1 Table. `isFirst` false leaves the column definitions out (watches). */
export function renderTable(
  kind: Kind,
  objects: readonly KubeObject[],
  options: {
    readonly listMeta: Readonly<Record<string, unknown>>;
    readonly include: IncludeObject;
    readonly isFirst: boolean;
  },
): Record<string, unknown> {
  const rules = rulesOf(kind);
  const now = Date.now();
  return {
    kind: "Table",
    apiVersion: "meta.k8s.io/v1",
    metadata: options.listMeta,
    columnDefinitions: options.isFirst ? rules.columns : null,
    rows:
      objects.length === 0 && isPlain(rules.columns)
        ? null
        : objects.map((object) => ({ cells: rules.cells(object, now), object: rowObject(object, options.include) })),
  };
}

const CREATED_TEXT =
  "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const SCALE_COLUMNS: readonly Column[] = [
  column("Name", "string", "", NAME_TEXT),
  column("Desired", "integer", "", "replicas is the desired number of instances for the scaled object."),
  column("Available", "integer", "", "replicas is the actual number of observed instances of the scaled object."),
  column("Age", "string", "", CREATED_TEXT),
];

/** The table of a `scale` subresource. */
export function scaleTable(scale: KubeObject): Record<string, unknown> {
  const { spec, status } = scale as unknown as { spec: { replicas?: number }; status: { replicas: number } };
  const cells = [scale.metadata.name, spec.replicas ?? 0, status.replicas, ageOf(scale, Date.now())];
  return {
    kind: "Table",
    apiVersion: "meta.k8s.io/v1",
    metadata: { resourceVersion: scale.metadata.resourceVersion },
    columnDefinitions: SCALE_COLUMNS,
    rows: [{ cells, object: rowObject(scale, "Metadata") }],
  };
}
