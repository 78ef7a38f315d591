// Quantities of resources ("500m", "1.5Gi") in their canonical form, as Kubernetes' resource.Quantity writes them: no
// fraction, the largest suffix that loses nothing, the family of suffixes kept. Values are exact, in billionths.

const FORM = /^([+-]?)(\d*)(?:\.(\d*))?(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d+))?$/;
const DECIMAL = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const NANO = 1_000_000_000n;

type Family = "decimal" | "binary" | "exponent";

interface Parsed {
  /** In billionths; finer parts are rounded up, away from zero. */
  readonly nanos: bigint;
  readonly family: Family;
}

function parse(text: string): Parsed | undefined {
  const match = FORM.exec(text);
  if (match === null) return undefined;
  const [, sign = "", whole = "", fraction = "", suffix = "", exponent] = match;
  if (whole === "" && fraction === "") return undefined;
  let scale = 9 - fraction.length;
  let factor = 1n;
  if (suffix.endsWith("i")) factor = 1024n ** BigInt(BINARY.indexOf(suffix));
  else if (exponent !== undefined) scale += Number(exponent);
  else scale += (DECIMAL.indexOf(suffix) - 3) * 3;
  if (Math.abs(scale) > 60) return undefined;
  let nanos = BigInt(`${whole}${fraction}`) * factor;
  if (scale >= 0) nanos *= 10n ** BigInt(scale);
  else {
    const divisor = 10n ** BigInt(-scale);
    nanos = (nanos + divisor - 1n) / divisor;
  }
  const family = suffix.endsWith("i") ? "binary" : exponent === undefined ? "decimal" : "exponent";
  return { nanos: sign === "-" ? -nanos : nanos, family };
}

function print(nanos: bigint, family: Family): string {
  if (nanos === 0n) return "0";
  const size = nanos < 0n ? -nanos : nanos;
  const sign = nanos < 0n ? "-" : "";
  if (family === "binary" && size >= 1024n * NANO) {
    let value = (size + NANO - 1n) / NANO;
    let step = 0;
    while (value % 1024n === 0n && step < BINARY.length - 1) {
      value /= 1024n;
      step += 1;
    }
    return `${sign}${value}${BINARY[step]}`;
  }
  let value = size;
  let step = 0;
  const last = family === "exponent" ? Number.MAX_SAFE_INTEGER : DECIMAL.length - 1;
  while (value % 1000n === 0n && step < last) {
    value /= 1000n;
    step += 1;
  }
  if (family !== "exponent") return `${sign}${value}${DECIMAL[step]}`;
  return step === 3 ? `${sign}${value}` : `${sign}${value}e${(step - 3) * 3}`;
}

/** The canonical text of a quantity, or undefined for what is none. */
export function canonicalQuantity(value: string | number): string | undefined {
  const parsed = parse(String(value).trim());
  return parsed === undefined ? undefined : print(parsed.nanos, parsed.family);
}

/** The value of a quantity in billionths of its unit; 0 for what is none. */
export function quantityNanos(value: string | number | undefined): bigint {
  return value === undefined ? 0n : (parse(String(value).trim())?.nanos ?? 0n);
}

/** The sum of quantities, in the family of the first. */
export function addQuantities(values: readonly (string | number)[]): string {
  const parsed = values.map((value) => parse(String(value))).filter((entry) => entry !== undefined);
  return print(
    parsed.reduce((sum, { nanos }) => sum + nanos, 0n),
    parsed.find(({ nanos }) => nanos !== 0n)?.family ?? "decimal",
  );
}
