// The protobuf wire format by hand, for the few messages where generated code would cost more than it gives.
// https://protobuf.dev/programming-guides/encoding/

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 128) {
    bytes.push((rest % 128) | 128);
    rest = Math.floor(rest / 128);
  }
  bytes.push(rest);
  return Buffer.from(bytes);
}

/** A length-delimited field. */
export function bytesField(number: number, content: Uint8Array): Buffer {
  return Buffer.concat([varint(number * 8 + 2), varint(content.length), content]);
}

export function stringField(number: number, text: string): Buffer {
  return bytesField(number, Buffer.from(text, "utf8"));
}

export function varintField(number: number, value: number): Buffer {
  return Buffer.concat([varint(number * 8), varint(value)]);
}

/** One field of a message as read; varints as numbers, other fixed-size fields skipped. */
export interface WireField {
  readonly number: number;
  readonly bytes: Buffer;
  readonly value: number;
}

/** The fields of a message, in order. Throws RangeError when it is cut short. */
export function fields(message: Buffer): WireField[] {
  const found: WireField[] = [];
  let at = 0;
  const read = (): number => {
    let value = 0;
    let scale = 1;
    for (;;) {
      const byte = message[at++];
      if (byte === undefined) throw new RangeError("the message is cut short");
      value += (byte & 127) * scale;
      if (byte < 128) return value;
      scale *= 128;
    }
  };
  while (at < message.length) {
    const tag = read();
    const number = Math.floor(tag / 8);
    const wire = tag % 8;
    if (wire === 0) found.push({ number, bytes: Buffer.alloc(0), value: read() });
    else if (wire === 2) {
      const length = read();
      if (at + length > message.length) throw new RangeError("the message is cut short");
      found.push({ number, bytes: message.subarray(at, at + length), value: 0 });
      at += length;
    } else if (wire === 1 || wire === 5) at += wire === 1 ? 8 : 4;
    else throw new RangeError(`wire type ${wire} is not known`);
  }
  return found;
}
