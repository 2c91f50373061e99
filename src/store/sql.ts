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
  const known = literals.get(text);
  if (known !== undefined) return known;
  const made = new SqlFragment([text], []);
  if (literals.size < MAX_KEPT) literals.set(text, made);
  return made;
}

/** Fragments joined by a separator (` and `, `, `); the empty list gives `whenEmpty`. */
export function join(parts: readonly SqlFragment[], separator: string, whenEmpty = ''): SqlFragment {
  if (parts.length === 0) return raw(whenEmpty);
  const key = `${parts.length}${separator}`;
  let strings = separators.get(key);
  if (strings === undefined) {
    strings = ['', ...Array<string>(parts.length - 1).fill(separator), ''];
    if (separators.size < MAX_KEPT) separators.set(key, strings);
  }
  return new SqlFragment(strings, parts);
}

/**
 * The text with $1..$n, and the values. The same fragment object spliced in twice shares no parameters. The text of a
 * shape is written once: a template's strings are one object per place in the code, so the way through them names the
 * shape, and the readable scope (7 KB of SQL) costs a read a few map lookups.
 */
export function compile(fragment: SqlFragment): { text: string; values: unknown[] } {
  const values: unknown[] = [];
  const shape = walk(fragment, shapes, values);
  shape.text ??= write(fragment);
  return { text: shape.text, values };
}

/** A node of the tree of shapes: what has been walked through so far. */
interface Shape {
  next: Map<readonly string[] | 'value', Shape>;
  text?: string;
}

/** Shapes are as many as the code has statements, times the forms of searches: kept up to a bound, beyond it written anew. */
const MAX_KEPT = 50_000;
const shapes: Shape = { next: new Map() };
const literals = new Map<string, SqlFragment>();
const separators = new Map<string, readonly string[]>();
let kept = 0;

function walk(part: SqlFragment, from: Shape, values: unknown[]): Shape {
  let at = step(from, part.strings);
  for (const hole of part.holes) {
    if (hole instanceof SqlFragment) at = walk(hole, at, values);
    else {
      values.push(hole);
      at = step(at, 'value');
    }
  }
  return at;
}

function step(from: Shape, by: readonly string[] | 'value'): Shape {
  let to = from.next.get(by);
  if (to === undefined) {
    to = { next: new Map() };
    if (kept < MAX_KEPT) {
      kept++;
      from.next.set(by, to);
    }
  }
  return to;
}

/** The text with `name(n)` in place of $n, n as `compile` counts them; written anew each time. */
export function renamed(fragment: SqlFragment, name: (n: number) => string): string {
  return write(fragment, name);
}

function write(fragment: SqlFragment, name = (n: number): string => `$${n}`): string {
  const parts: string[] = [];
  let values = 0;
  const add = (part: SqlFragment): void => {
    part.strings.forEach((text, i) => {
      parts.push(text);
      if (i >= part.holes.length) return;
      const hole = part.holes[i];
      if (hole instanceof SqlFragment) add(hole);
      else parts.push(name(++values));
    });
  };
  add(fragment);
  return parts.join('');
}
