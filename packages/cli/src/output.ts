// What commands print: tables with columns as wide as their content, steps with their time.

/** Rows under a header, three blanks between columns as kubectl and istioctl print them. */
export function renderTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => (row[column] ?? "").length)));
  const last = header.length - 1;
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => (column === last ? cell : cell.padEnd((widths[column] ?? 0) + 3)))
      .join("")
      .trimEnd();
  return `${all.map(line).join("\n")}\n`;
}

export function print(text: string): void {
  process.stdout.write(text.endsWith("\n") ? text : `${text}\n`);
}

/** Shows a step while it runs, then with its time. */
export async function step<T>(title: string, action: () => Promise<T>): Promise<T> {
  const started = performance.now();
  const isTerminal = process.stdout.isTTY;
  if (isTerminal) process.stdout.write(`  ${title} ...`);
  const result = await action();
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  process.stdout.write(`${isTerminal ? "\r" : ""}✔ ${title.padEnd(44)} ${seconds.padStart(5)} s\n`);
  return result;
}
