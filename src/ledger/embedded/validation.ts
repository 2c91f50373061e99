import type { StateReader, Version } from '../simulation.ts';
import type { Envelope } from './envelope.ts';

/** Fabric's validation codes, as far as this host gives them. */
export type Validation = 'VALID' | 'MVCC_READ_CONFLICT' | 'PHANTOM_READ_CONFLICT' | 'DUPLICATE_TXID' | 'ENDORSEMENT_POLICY_FAILURE';

function same(a: Version | null, b: Version | null): boolean {
  return a === null || b === null ? a === b : a[0] === b[0] && a[1] === b[1];
}

/**
 * Fabric's rule at commit (protocol section 2): a key read whose version has changed since, by an earlier transaction of this
 * block or of another, or a range read whose keys or versions have. The overlay holds the block so far.
 */
export async function validate(envelope: Envelope, state: StateReader): Promise<Validation> {
  for (const [key, version] of envelope.reads) {
    const now = await state.get(key);
    if (!same(version, now?.version ?? null)) return 'MVCC_READ_CONFLICT';
  }
  for (const { prefix, rows } of envelope.ranges) {
    const now = await state.scan(prefix);
    const unchanged =
      now.length === rows.length &&
      now.every(({ key, version }, i) => {
        const row = rows[i];
        return row !== undefined && row[0] === key && row[1] === version[0] && row[2] === version[1];
      });
    if (!unchanged) return 'PHANTOM_READ_CONFLICT';
  }
  return 'VALID';
}
