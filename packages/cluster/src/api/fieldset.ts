// Sets of fields, as managedFields holds them (meta/v1 FieldsV1): a tree whose nodes are path elements. `f:name` is a field,
// `k:{...}` an item of a list by its keys, `v:...` an item of a set by its value. A node is a member of the set, has children,
// or both ("." beside children in the JSON form).
import { compareText, isObject } from "@lateen/base";

export class FieldSet {
  readonly nodes: ReadonlyMap<string, FieldNode>;

  private constructor(nodes: ReadonlyMap<string, FieldNode>) {
    this.nodes = nodes;
  }

  static readonly EMPTY = new FieldSet(new Map());

  static of(nodes: ReadonlyMap<string, FieldNode>): FieldSet {
    const kept = new Map([...nodes].filter(([, node]) => node.isMember || !node.children.isEmpty));
    return kept.size === 0 ? FieldSet.EMPTY : new FieldSet(kept);
  }

  /** Reads fieldsV1. Throws for what is none. */
  static parse(json: unknown): FieldSet {
    if (!isObject(json)) throw new Error("fieldsV1 must be an object");
    const nodes = new Map<string, FieldNode>();
    for (const [element, value] of Object.entries(json)) {
      if (element === ".") continue;
      if (!/^[fkvi]:/.test(element)) throw new Error(`fieldsV1 has the path element ${element}`);
      const children = FieldSet.parse(value);
      nodes.set(element, { isMember: children.isEmpty || (isObject(value) && value["."] !== undefined), children });
    }
    return FieldSet.of(nodes);
  }

  get isEmpty(): boolean {
    return this.nodes.size === 0;
  }

  /** fieldsV1, with its elements in order. */
  toJson(): Record<string, unknown> {
    const entries = [...this.nodes].toSorted(([a], [b]) => compareElements(a, b));
    return Object.fromEntries(
      entries.map(([element, { isMember, children }]) => [
        element,
        children.isEmpty ? {} : isMember ? { ".": {}, ...children.toJson() } : children.toJson(),
      ]),
    );
  }

  #combine(other: FieldSet, keep: (mine: boolean, theirs: boolean) => boolean): FieldSet {
    const nodes = new Map<string, FieldNode>();
    for (const element of new Set([...this.nodes.keys(), ...other.nodes.keys()])) {
      const [mine, theirs] = [this.nodes.get(element), other.nodes.get(element)];
      nodes.set(element, {
        isMember: keep(mine?.isMember === true, theirs?.isMember === true),
        children: (mine?.children ?? FieldSet.EMPTY).#combine(theirs?.children ?? FieldSet.EMPTY, keep),
      });
    }
    return FieldSet.of(nodes);
  }

  union(other: FieldSet): FieldSet {
    return other.isEmpty ? this : this.#combine(other, (mine, theirs) => mine || theirs);
  }

  intersection(other: FieldSet): FieldSet {
    return this.#combine(other, (mine, theirs) => mine && theirs);
  }

  difference(other: FieldSet): FieldSet {
    return this.#combine(other, (mine, theirs) => mine && !theirs);
  }

  /** Without the members of `other` and all that is below them. */
  recursiveDifference(other: FieldSet): FieldSet {
    const nodes = new Map<string, FieldNode>();
    for (const [element, node] of this.nodes) {
      const theirs = other.nodes.get(element);
      if (theirs === undefined) nodes.set(element, node);
      else if (!theirs.isMember)
        nodes.set(element, { ...node, children: node.children.recursiveDifference(theirs.children) });
    }
    return FieldSet.of(nodes);
  }

  /** With every named field and list item that has members below as a member itself. */
  withParents(): FieldSet {
    const nodes = new Map<string, FieldNode>();
    for (const [element, node] of this.nodes)
      nodes.set(element, {
        isMember: node.isMember || !element.startsWith("i:"),
        children: node.children.withParents(),
      });
    return FieldSet.of(nodes);
  }

  equals(other: FieldSet): boolean {
    if (this.nodes.size !== other.nodes.size) return false;
    for (const [element, node] of this.nodes) {
      const theirs = other.nodes.get(element);
      if (theirs?.isMember !== node.isMember || !node.children.equals(theirs.children)) return false;
    }
    return true;
  }

  /** The members as texts, such as `.spec.containers[name="a"].image`, in order. */
  paths(prefix = ""): string[] {
    return [...this.nodes]
      .toSorted(([a], [b]) => compareElements(a, b))
      .flatMap(([element, { isMember, children }]) => {
        const path = `${prefix}${elementText(element)}`;
        return [...(isMember ? [path] : []), ...children.paths(path)];
      });
  }
}

export interface FieldNode {
  readonly isMember: boolean;
  readonly children: FieldSet;
}

export const fieldElement = (name: string): string => `f:${name}`;
export const keyElement = (keys: Readonly<Record<string, unknown>>): string =>
  `k:${JSON.stringify(Object.fromEntries(Object.entries(keys).toSorted(([a], [b]) => compareText(a, b))))}`;
export const valueElement = (value: unknown): string => `v:${JSON.stringify(value)}`;

/** Fields first, then keys, values and indices, each by their text. */
function compareElements(a: string, b: string): number {
  return "fkvi".indexOf(a[0] ?? "") - "fkvi".indexOf(b[0] ?? "") || compareText(a, b);
}

function elementText(element: string): string {
  const rest = element.slice(2);
  if (element.startsWith("f:")) return `.${rest}`;
  if (element.startsWith("v:")) return `[=${rest}]`;
  if (element.startsWith("i:")) return `[${rest}]`;
  const keys = Object.entries(JSON.parse(rest) as Record<string, unknown>);
  return `[${keys.map(([key, value]) => `${key}=${JSON.stringify(value)}`).join(",")}]`;
}

/** Collects members while a value is walked. */
export class FieldSetBuilder {
  readonly #nodes = new Map<string, { isMember: boolean; readonly children: FieldSetBuilder }>();

  /** The builder of what is below `element`. */
  at(element: string): FieldSetBuilder {
    let node = this.#nodes.get(element);
    if (node === undefined) {
      node = { isMember: false, children: new FieldSetBuilder() };
      this.#nodes.set(element, node);
    }
    return node.children;
  }

  add(element: string): void {
    this.at(element);
    const node = this.#nodes.get(element);
    if (node !== undefined) node.isMember = true;
  }

  build(): FieldSet {
    return FieldSet.of(
      new Map(
        [...this.#nodes].map(([element, { isMember, children }]) => [
          element,
          { isMember, children: children.build() },
        ]),
      ),
    );
  }
}
