// Failures of the world (files, sockets, peers, permissions) that a person must read: a sentence and what to do.

/** An operational failure with advice. Commands print `message` and `help`, never a stack. */
export class Failure extends Error {
  override readonly name = "Failure";
  readonly help: string | undefined;
  constructor(message: string, help?: string, options?: ErrorOptions) {
    super(message, options);
    this.help = help;
  }
}

/** The text of anything thrown. */
export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The `code` of a Node system error (ENOENT, EADDRINUSE ...), or undefined. */
export function errorCode(error: unknown): string | undefined {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  return typeof code === "string" ? code : undefined;
}
