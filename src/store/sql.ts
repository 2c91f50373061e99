/**
 * Composable SQL: text with holes, values apart. A hole takes a value (which becomes a parameter) or another fragment
 * (which is spliced in), so that the readable scope can be put into any query without string concatenation.
 */
export class SqlFragment {
  readonly strings: readonly string[];
  readonly holes: readonly unknown[];
  constructor(strings: readonly string[], holes: readonly unknown[]) {
    this.strings = strings;
    this.holes = holes;
  }
}

/** `sql\`select * from t where a = ${1} and ${other}\`` */
export function sql(strings: TemplateStringsArray, ...holes: unknown[]): SqlFragment {
  return new SqlFragment(strings, holes);
}

/** Literal SQL text of our own making: an identifier or keyword, never input. */
export function raw(text: string): SqlFragment {
  return new SqlFragment([text], []);
}

/** Fragments joined by a separator (` and `, `, `); the empty list gives `whenEmpty`. */
export function join(parts: readonly SqlFragment[], separator: string, whenEmpty = ''): SqlFragment {
  if (parts.length === 0) return raw(whenEmpty);
  return new SqlFragment(['', ...Array<string>(parts.length - 1).fill(separator), ''], parts);
}

/** The text with $1..$n, and the values. The same fragment object spliced in twice shares no parameters. */
export function compile(fragment: SqlFragment): { text: string; values: unknown[] } {
  const values: unknown[] = [];
  const parts: string[] = [];
  const write = (part: SqlFragment): void => {
    part.strings.forEach((text, i) => {
      parts.push(text);
      if (i >= part.holes.length) return;
      const hole = part.holes[i];
      if (hole instanceof SqlFragment) write(hole);
      else parts.push(`$${values.push(hole)}`);
    });
  };
  write(fragment);
  return { text: parts.join(''), values };
}
