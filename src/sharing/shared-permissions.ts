import * as keys from '../ledger/contract/keys.ts';
import type { CategoryKeyState, PermissionState } from '../ledger/contract/state.ts';
import { projectedState } from '../ledger/projection-state.ts';
import type { Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { LedgerPatient } from '../vault/holder.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';

/** The newest version of a permission, as the projection holds it. */
export interface Head {
  grantor: string;
  grantee: string;
  category: string;
  block: number;
  recordedAt: Date;
  /** A revocation of it was accepted here and has not come back from the ledger yet. */
  revokedHereAt: Date | null;
  state: Pick<PermissionState, 'clauses' | 'envelope' | 'parentGrantee' | 'parentGrantor' | 'statement' | 'status'>;
}

/** Something on the ledger that wraps category keys for this institution. */
export interface NamedEnvelope {
  category: string;
  path: string;
  hash: string;
  recipient: string;
  statement: string;
}

/** What the ledger says of one patient of another institution. */
export interface Granted {
  status: 'active' | 'erased' | 'alarmed' | undefined;
  heads: readonly Head[];
  envelopes: readonly NamedEnvelope[];
}

/** Patient to A, A to B, B to C (the contract's decision.ts). */
const MAX_DEPTH = 3;

/** Whether a permission may let somebody of this institution in. Roles are everybody's. */
export function isGranteeOf(institution: string, grantee: string): boolean {
  return grantee === `organization:${institution}` || grantee.startsWith(`member:${institution}:`) || grantee.startsWith('role:');
}

/**
 * Until when anybody here holds, or will hold, the right to read the category by these heads: milliseconds, infinite where no period
 * ends it, undefined where nobody does. Purposes, data periods and what is denied narrow a reading and end nothing.
 */
export function livesUntil(heads: readonly Head[], institution: string, category: string, now: number): number | undefined {
  const of = heads.filter((head) => head.category === category);
  const ends = of.flatMap((head) => (isGranteeOf(institution, head.grantee) ? (until(of, head, false, now, 1) ?? []) : []));
  return ends.length === 0 ? undefined : Math.max(...ends);
}

/** Whether nothing but a revocation that was accepted here, and is not on the ledger yet, keeps a category from us. */
export function isSuspended(heads: readonly Head[], institution: string, now: number): boolean {
  if (heads.every((head) => head.revokedHereAt === null)) return false;
  const granted = heads.map((head) => ({ ...head, revokedHereAt: null }));
  const categories = new Set(heads.map((head) => head.category));
  return [...categories].some(
    (category) =>
      livesUntil(heads, institution, category, now) === undefined && livesUntil(granted, institution, category, now) !== undefined,
  );
}

function until(heads: readonly Head[], head: Head, share: boolean, now: number, depth: number): number | undefined {
  if (head.revokedHereAt !== null || depth > MAX_DEPTH) return undefined;
  const ends = head.state.clauses
    .filter((clause) => clause.effect === 'permit' && clause.rights.includes('read') && (!share || clause.rights.includes('share')))
    .map((clause) => (clause.periodEnd === null ? Number.POSITIVE_INFINITY : Date.parse(clause.periodEnd)))
    .filter((end) => end >= now);
  if (ends.length === 0) return undefined;
  const own = Math.max(...ends);
  if (head.grantor === 'patient') return own;
  const { parentGrantor, parentGrantee } = head.state;
  const parent = heads.find((one) => one.grantor === parentGrantor && one.grantee === parentGrantee);
  const above = parent === undefined ? undefined : until(heads, parent, true, now, depth + 1);
  return above === undefined ? undefined : Math.min(own, above);
}

export type EndCause = 'revoked' | 'renounced' | 'expired' | 'withdrawn' | 'erased' | 'alarmed' | 'rejected' | 'taken';

/** Why, when and in which block the last permission on a category ended, once `livesUntil` finds none. */
export function endOf(
  heads: readonly Head[],
  institution: string,
  category: string,
  now: number,
): { cause: 'revoked' | 'expired'; endedAt: Date; block: number | null } {
  const ours = heads.filter((head) => head.category === category && isGranteeOf(institution, head.grantee));
  // What stands above ours ends them too.
  const all = ours.some((head) => head.grantor !== 'patient') ? heads.filter((head) => head.category === category) : ours;
  const ends = all.flatMap((head): { cause: 'revoked' | 'expired'; endedAt: Date; block: number | null }[] => {
    const periods = head.state.clauses.flatMap((clause) => (clause.periodEnd === null ? [] : [Date.parse(clause.periodEnd)]));
    const expired = periods.filter((end) => end < now);
    if (head.revokedHereAt !== null) return [{ cause: 'revoked', endedAt: head.revokedHereAt, block: null }];
    if (expired.length > 0) return [{ cause: 'expired', endedAt: new Date(Math.max(...expired)), block: null }];
    return [{ cause: 'revoked', endedAt: head.recordedAt, block: head.block }];
  });
  const last = ends.sort((a, b) => b.endedAt.getTime() - a.endedAt.getTime())[0];
  // Told by the ledger, whose times may lie ahead of ours.
  if (last !== undefined) return { ...last, endedAt: new Date(Math.min(last.endedAt.getTime(), now)) };
  return { cause: 'revoked', endedAt: new Date(now), block: null };
}

/** Thumbprints of every encryption key that the ledger ever named as this institution's. */
export async function ownThumbprints(on: Sql, institution: string): Promise<Set<string>> {
  const rows = await on.query<{ value: string }>(
    sql`select value from projection.state where key = ${keys.institutionKey(institution)} and value is not null`,
  );
  return new Set(
    rows.map(({ value }) => jwkThumbprint((JSON.parse(value) as { encryption: { kty: string; crv: string; x: string } }).encryption)),
  );
}

/** All that the projection holds of the patient's permissions and of envelopes to these keys. */
export async function readGranted(on: Sql, of: LedgerPatient, institution: string, recipients: ReadonlySet<string>): Promise<Granted> {
  const [patient] = await on.query<{ status: Granted['status'] }>(
    sql`select status from projection.patient where inst = ${of.institution} and pat = ${of.patient}`,
  );
  const rows = await on.query<
    Omit<Head, 'state' | 'recordedAt' | 'revokedHereAt'> & { recorded_at: Date; revoked: Date | null; value: string | null }
  >(sql`
    select p.grantor, p.grantee, p.category, p.block, p.recorded_at,
      (select min(v.created_at) from revocation v where v.inst = p.inst and v.pat = p.pat and v.grantor = p.grantor and v.grantee = p.grantee
        and v.category = p.category and not exists (select 1 from projection.state s where s.key = v.used_key)) as revoked,
      (select s.value from projection.state s
        where s.key = 'perm/' || p.inst || '/' || p.pat || '/' || p.grantor || '/' || p.grantee || '/' || p.category || '/v/' || lpad(p.seq::text, 10, '0')
        order by s.block desc, s.tx desc limit 1) as value
    from projection.permission p where p.inst = ${of.institution} and p.pat = ${of.patient}`);
  const heads = rows.flatMap(({ recorded_at, revoked, value, ...row }): Head[] =>
    value === null ? [] : [{ ...row, recordedAt: recorded_at, revokedHereAt: revoked, state: JSON.parse(value) as PermissionState }],
  );
  const envelopes = heads.flatMap(({ grantee, category, revokedHereAt, state: { envelope, statement } }): NamedEnvelope[] =>
    envelope !== null && revokedHereAt === null && isGranteeOf(institution, grantee) && recipients.has(envelope.recipient)
      ? [{ category, path: envelope.path, hash: envelope.hash, recipient: envelope.recipient, statement }]
      : [],
  );
  for (const { key, value } of await projectedState(on).scan(keys.categoryKeys(of.institution, of.patient))) {
    const [category = '', kind] = key.slice(keys.categoryKeys(of.institution, of.patient).length).split('/');
    if (kind !== 'v') continue;
    for (const { path, hash, recipient } of (JSON.parse(value) as CategoryKeyState).envelopes)
      if (recipients.has(recipient)) envelopes.push({ category, path, hash, recipient, statement: key });
  }
  return { status: patient?.status, heads, envelopes };
}
