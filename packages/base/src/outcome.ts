// The user's mistakes are values: what was understood, beside what was wrong and where.

/** One finding about one field of one resource. */
export interface Diagnostic {
  readonly severity: "error" | "warning";
  /** `Kind namespace/name`. */
  readonly resource: string;
  /** The field, such as `spec.http[1].route[0].weight`. */
  readonly path: string;
  readonly message: string;
}

/** A value with the diagnostics met on the way to it. */
export interface Outcome<T> {
  readonly value: T;
  readonly diagnostics: readonly Diagnostic[];
}
