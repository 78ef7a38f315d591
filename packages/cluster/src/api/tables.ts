// Tables: what `kubectl get` prints is made by the server. Columns of built-in kinds are those of a real server, columns of custom
// kinds their additionalPrinterColumns.
import { isObject } from "@lateen/base";
import { age, ageOf, type Cell, cellsOf } from "./cells.ts";
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
        ({ name, type, format = "", description = "", priority = 0 }): Column => ({
          name,
          type,
          format,
          description,
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
    rows: objects.map((object) => ({ cells: rules.cells(object, now), object: rowObject(object, options.include) })),
  };
}

/** The table of a `scale` subresource. */
export function scaleTable(scale: KubeObject): Record<string, unknown> {
  const { spec, status } = scale as unknown as { spec: { replicas?: number }; status: { replicas: number } };
  return {
    kind: "Table",
    apiVersion: "meta.k8s.io/v1",
    metadata: { resourceVersion: scale.metadata.resourceVersion },
    columnDefinitions: [
      column("Name", "string", "name"),
      column("Desired", "integer"),
      column("Available", "integer"),
      column("Age"),
    ],
    rows: [
      {
        cells: [scale.metadata.name, spec.replicas ?? 0, status.replicas, ageOf(scale, Date.now())],
        object: rowObject(scale, "Metadata"),
      },
    ],
  };
}
