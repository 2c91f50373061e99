import { codeOf, type ErrorCode } from '../errors.ts';

/**
 * The code of whatever went wrong with something of another institution. What the database refuses to store (a time that is none, an
 * index term too long, an id that came meanwhile) is its content; what the database has of its own (a deadlock, no connection) passes.
 */
export function faultOf(error: unknown): ErrorCode {
  const code = codeOf(error);
  if (code !== undefined) return code;
  const name = nameOf(error);
  if (/^(?:22|23|54)[0-9A-Z]{3}$/.test(name)) return 'SHARED_CONTENT';
  return /^(?:08|25|40|53|55|57|58)[0-9A-Z]{3}$|^E[A-Z]{4,}$/.test(name) ? 'UNAVAILABLE' : 'INTERNAL';
}

/** Where an error with no code came from, without its words: they may repeat what another institution's document says. */
export function placeOf(error: unknown): { error: string; at: string[] } {
  const { name = 'Error', stack = '' } = error instanceof Error ? error : {};
  const at = stack.split('\n').flatMap((line) => (/^ {4}at /.test(line) ? [line.trim()] : []));
  return { error: `${name} ${nameOf(error)}`.trim(), at: at.slice(0, 12) };
}

function nameOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : '';
}
