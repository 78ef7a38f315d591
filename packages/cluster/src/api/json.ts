// JSON of request bodies, read so that members that occur twice are known: JSON.parse keeps the last and says nothing.

const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
/** Go's decoder refuses deeper nesting; without a bound a small body could exhaust the stack. */
const DEPTH_MAX = 10_000;

/** Paths of members that occur more than once in an object; `text` must be valid JSON. */
export function duplicateMembers(text: string): string[] {
  const found: string[] = [];
  eachMember(text, (path, isRepeated) => {
    if (isRepeated) found.push(path);
  });
  return found;
}

/** Texts about members, in the order in which those stand in a body. */
export function inBodyOrder(
  text: string,
  repeated: readonly string[],
  unknown: readonly string[],
): { readonly path: string; readonly isRepeated: boolean }[] {
  const places: { readonly path: string; readonly isRepeated: boolean }[] = [];
  eachMember(text, (path, isRepeated) => {
    if (isRepeated ? repeated.includes(path) : unknown.includes(path)) places.push({ path, isRepeated });
  });
  return places;
}

function eachMember(text: string, onMember: (path: string, isRepeated: boolean) => void): void {
  let at = 0;

  const matched = (form: RegExp): string => {
    form.lastIndex = at;
    const part = form.exec(text)?.[0] ?? "";
    at += part.length;
    return part;
  };
  const readString = (): string => {
    const start = at;
    at += 1;
    while (text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
    at += 1;
    return JSON.parse(text.slice(start, at)) as string;
  };
  const skip = (path: string, depth: number): void => {
    matched(SPACE);
    const first = text[at];
    if (first === "{" || first === "[") readMembers(path, first === "{", depth);
    else if (first === '"') readString();
    else if (first === "t" || first === "n") at += 4;
    else if (first === "f") at += 5;
    else matched(NUMBER);
    matched(SPACE);
  };
  const readMembers = (path: string, isObject: boolean, depth: number): void => {
    if (depth > DEPTH_MAX) return;
    const seen = new Set<string>();
    at += 1;
    matched(SPACE);
    for (let i = 0; text[at] !== "}" && text[at] !== "]"; i++) {
      let inner = `${path}[${i}]`;
      if (isObject) {
        matched(SPACE);
        const name = readString();
        inner = path === "" ? name : `${path}.${name}`;
        onMember(inner, seen.has(name));
        seen.add(name);
        matched(SPACE);
        at += 1;
      }
      skip(inner, depth + 1);
      if (text[at] === ",") at += 1;
    }
    at += 1;
  };
  skip("", 0);
}
