// The API's failures as Kubernetes Status objects. Shape and texts: the API conventions, "Response Status Kind".

export interface StatusCause {
  readonly reason?: string;
  readonly message: string;
  readonly field?: string;
}

/** The cause of a refusal: a field that must be set is not. */
export const required = (field: string): StatusCause => ({
  reason: "FieldValueRequired",
  message: "Required value",
  field,
});

export interface StatusDetails {
  readonly name?: string;
  readonly group?: string;
  readonly kind?: string;
  readonly uid?: string;
  readonly causes?: readonly StatusCause[];
  readonly retryAfterSeconds?: number;
}

/** An answer other than success. `code` is the HTTP status. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly code: number;
  readonly reason: string;
  readonly details: StatusDetails | undefined;
  /** metadata of the Status, such as a token to go on with. */
  readonly metadata: Readonly<Record<string, unknown>>;
  constructor(
    code: number,
    reason: string,
    message: string,
    details?: StatusDetails,
    metadata: Readonly<Record<string, unknown>> = {},
  ) {
    super(message);
    this.code = code;
    this.reason = reason;
    this.details = details;
    this.metadata = metadata;
  }

  /** The Status object that goes over the wire. */
  toStatus(): Record<string, unknown> {
    return {
      kind: "Status",
      apiVersion: "v1",
      metadata: this.metadata,
      status: "Failure",
      message: this.message,
      ...(this.reason === "" ? {} : { reason: this.reason }),
      ...(this.details === undefined ? {} : { details: this.details }),
      code: this.code,
    };
  }
}

/** What an error is about: the plural with its group, such as `deployments.apps`. */
export interface Subject {
  readonly group: string;
  readonly plural: string;
  readonly kind: string;
}

function qualified(subject: Subject): string {
  return subject.group === "" ? subject.plural : `${subject.plural}.${subject.group}`;
}

function details(subject: Subject, name: string): StatusDetails {
  return { name, ...(subject.group === "" ? {} : { group: subject.group }), kind: subject.plural };
}

export const badRequest = (message: string): ApiError => new ApiError(400, "BadRequest", message);

export const notFound = (subject: Subject, name: string): ApiError =>
  new ApiError(404, "NotFound", `${qualified(subject)} "${name}" not found`, details(subject, name));

export const alreadyExists = (subject: Subject, name: string): ApiError =>
  new ApiError(409, "AlreadyExists", `${qualified(subject)} "${name}" already exists`, details(subject, name));

export const conflict = (subject: Subject, name: string, why?: string): ApiError =>
  new ApiError(
    409,
    "Conflict",
    `Operation cannot be fulfilled on ${qualified(subject)} "${name}": ${why ?? "the object has been modified; please apply your changes to the latest version and try again"}`,
    details(subject, name),
  );

/** An update of an object that is another one by now; worded as by the store of a real server. */
export const conflictOfUids = (
  subject: Subject,
  name: string,
  asked: string,
  found: string,
  namespace?: string,
): ApiError => {
  const key = `/registry/${subject.plural}/${namespace === undefined ? "" : `${namespace}/`}${name}`;
  const why = `Precondition failed: UID in precondition: ${asked}, UID in object meta: ${found}`;
  return conflict(
    subject,
    name,
    `StorageError: invalid object, Code: 4, Key: ${key}, ResourceVersion: 0, AdditionalErrorMsg: ${why}`,
  );
};

/** A deletion of an object that is another one by now. */
export const recreated = ({ group, kind }: Subject, name: string, asked: string, found: string): ApiError =>
  conflict(
    { group, kind, plural: kind },
    name,
    `the UID in the precondition (${asked}) does not match the UID in record (${found}). The object might have been deleted and then recreated`,
  );

export const conflictOfVersions = (subject: Subject, name: string, asked: string, found: string): ApiError =>
  conflict(
    subject,
    name,
    `Precondition failed: ResourceVersion in precondition: ${asked}, ResourceVersion in object meta: ${found}`,
  );

/** 403 by a rule of the server, not by RBAC. */
export const refused = (subject: Subject, name: string, why: string, causes?: readonly StatusCause[]): ApiError =>
  new ApiError(403, "Forbidden", `${qualified(subject)} "${name}" is forbidden: ${why}`, {
    ...details(subject, name),
    ...(causes === undefined ? {} : { causes }),
  });

export const expired = (asked: number, oldest: number): ApiError =>
  new ApiError(410, "Expired", `too old resource version: ${asked} (${oldest})`);

export const methodNotAllowed = (): ApiError =>
  new ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {});

export const unsupportedMedia = (accepted: readonly string[]): ApiError =>
  new ApiError(
    415,
    "UnsupportedMediaType",
    `the body of the request was in an unknown format - accepted media types include: ${accepted.join(", ")}`,
  );

/** A patch of a type that is not known at all. */
export const unknownPatch = (): ApiError =>
  new ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {});

export const resourceNotFound = (): ApiError =>
  new ApiError(404, "NotFound", "the server could not find the requested resource", {});

/** 422 with one cause for each wrong field, worded as Kubernetes words them. */
export function invalid(subject: Subject, name: string, causes: readonly StatusCause[]): ApiError {
  const texts = [...new Set(causes.map((cause) => `${cause.field}: ${cause.message}`))];
  const list = texts.length === 1 ? texts[0] : `[${texts.join(", ")}]`;
  const who = subject.group === "" ? subject.kind : `${subject.kind}.${subject.group}`;
  return new ApiError(422, "Invalid", `${who} "${name}" is invalid: ${list}`, {
    ...(name === "" ? {} : { name }),
    ...(subject.group === "" ? {} : { group: subject.group }),
    kind: subject.kind,
    causes,
  });
}
