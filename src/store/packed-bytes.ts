/**
 * Many byte strings as one parameter. A `bytea[]` goes to PostgreSQL as text, each byte two digits that are escaped here and
 * parsed there; a single `bytea` goes as it is. In the statement: `substring(all from at for size)`.
 */
export function packBytes(parts: readonly Uint8Array[]): { all: Buffer; at: number[]; size: number[] } {
  let next = 1; // SQL counts from one
  const at = parts.map((part) => {
    const start = next;
    next += part.length;
    return start;
  });
  return { all: Buffer.concat(parts), at, size: parts.map((part) => part.length) };
}
