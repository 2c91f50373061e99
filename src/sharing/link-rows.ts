import type { Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { LedgerPatient } from '../vault/holder.ts';

/** Rows of linking codes and of what was bound by them. */
export type LinkState = 'bound' | 'confirmed' | 'held' | 'rejected';
export interface CodeRow {
  link: string;
  pat: string;
  clinician: string;
  expires_at: Date;
  created_by: string;
  created_at: Date;
  spent_at: Date | null;
  closed_at: Date | null;
}
export interface LinkRow {
  inst: string;
  pat: string;
  link: string;
  own_pat: string;
  state: LinkState;
  bound_at: Date;
  decided_at: Date | null;
  decided_by: string | null;
  accepted: string[];
  detail: Buffer | null;
  reason: Buffer | null;
}
/** A code, and where somebody is bound by it that somebody. */
export interface ListedRow extends CodeRow {
  inst: string | null;
  theirs: string | null;
  state: LinkState | null;
  bound_at: Date | null;
  decided_at: Date | null;
  decided_by: string | null;
}

/**
 * Adds a code unless the patient has `most` open ones or does not exist: undefined then tells `full` or `nobody`. Codes of one
 * patient are made one after another.
 */
export async function insertCode(
  tx: Sql,
  code: { link: string; pat: string; clinician: string; hash: string; expires: Date; by: string; now: Date },
  most: number,
): Promise<'made' | 'full' | 'nobody'> {
  const { link, pat, clinician, hash, expires, by, now } = code;
  const known = await tx.query(sql`select 1 from patient where pat = ${pat} for no key update`);
  if (known.length === 0) return 'nobody';
  const [open] = await tx.query<{ n: number }>(sql`
    select count(*) as n from link_code c where c.pat = ${pat} and c.closed_at is null and c.spent_at is null and c.expires_at > ${now}
      and not exists (select 1 from patient_link p where p.link = c.link)`);
  if ((open?.n ?? 0) >= most) return 'full';
  await tx.query(sql`
    insert into link_code (link, pat, clinician, secret_hash, expires_at, created_by, created_at)
    values (${link}, ${pat}, ${clinician}, ${hash}, ${expires}, ${by}, ${now})`);
  return 'made';
}

/** The code of this hash, locked against other presenters until the transaction ends. */
export async function lockCodeByHash(tx: Sql, hash: string): Promise<CodeRow | undefined> {
  const [row] = await tx.query<CodeRow>(sql`
    select link, pat, clinician, expires_at, created_by, created_at, spent_at, closed_at from link_code where secret_hash = ${hash} for update`);
  return row;
}

export async function linkOf(sqlOn: Sql, of: LedgerPatient): Promise<LinkRow | undefined> {
  const [row] = await sqlOn.query<LinkRow>(sql`
    select inst, pat, link, own_pat, state, bound_at, decided_at, decided_by, accepted, detail, reason from patient_link
    where inst = ${of.institution} and pat = ${of.patient}`);
  return row;
}

/** By either name, locked until the transaction ends. */
export async function lockLink(tx: Sql, named: LedgerPatient | string): Promise<LinkRow | undefined> {
  const which = typeof named === 'string' ? sql`link = ${named}` : sql`inst = ${named.institution} and pat = ${named.patient}`;
  const [row] = await tx.query<LinkRow>(sql`
    select inst, pat, link, own_pat, state, bound_at, decided_at, decided_by, accepted, detail, reason from patient_link where ${which} for update`);
  return row;
}

/** Who is bound by this code, if anybody. */
export async function boundBy(tx: Sql, link: string): Promise<LedgerPatient | undefined> {
  const [row] = await tx.query<{ inst: string; pat: string }>(sql`select inst, pat from patient_link where link = ${link}`);
  return row === undefined ? undefined : { institution: row.inst, patient: row.pat };
}

/** False where this patient of theirs was bound meanwhile, by another code. */
export async function bind(tx: Sql, of: LedgerPatient, code: CodeRow, now: Date): Promise<boolean> {
  const bound = await tx.query(sql`
    insert into patient_link (inst, pat, link, own_pat, state, bound_at)
    values (${of.institution}, ${of.patient}, ${code.link}, ${code.pat}, 'bound', ${now}) on conflict (inst, pat) do nothing returning link`);
  return bound.length > 0;
}

/** Whoever was rejected brings a code that is good: bound anew by it, as if for the first time. The code before is used up. */
export async function rebind(tx: Sql, row: LinkRow, code: CodeRow, now: Date): Promise<void> {
  await spend(tx, row.link, now);
  await tx.query(sql`
    update patient_link set link = ${code.link}, own_pat = ${code.pat}, state = 'bound', bound_at = ${now}, decided_at = null, decided_by = null,
      accepted = '{}', detail = null, reason = null where inst = ${row.inst} and pat = ${row.pat}`);
}

export async function spend(tx: Sql, link: string, now: Date): Promise<void> {
  await tx.query(sql`update link_code set spent_at = coalesce(spent_at, ${now}) where link = ${link}`);
}

/** True where it is closed now, by this call or before; false where it was used. Undefined: there is none. */
export async function closeCode(tx: Sql, link: string, now: Date): Promise<boolean | undefined> {
  const [row] = await tx.query<{ closed: boolean; spent: boolean }>(sql`
    select closed_at is not null as closed, spent_at is not null as spent from link_code where link = ${link} for update`);
  if (row === undefined) return undefined;
  if (row.closed) return true;
  // A statement of its own, after the lock: it sees whom the presenter before us has bound.
  if (row.spent || (await boundBy(tx, link)) !== undefined) return false;
  await tx.query(sql`update link_code set closed_at = ${now} where link = ${link}`);
  return true;
}

/** What a comparison or a person's answer leaves. */
export async function setLink(
  tx: Sql,
  row: Pick<LinkRow, 'link' | 'state' | 'accepted' | 'detail' | 'reason' | 'decided_at' | 'decided_by'>,
): Promise<void> {
  await tx.query(sql`
    update patient_link set state = ${row.state}, accepted = ${row.accepted}, detail = ${row.detail}, reason = ${row.reason}, decided_at = ${row.decided_at},
      decided_by = ${row.decided_by} where link = ${row.link}`);
}

/** Envelopes that were not opened because the link was rejected are to be opened after all. */
export async function reopenEnvelopes(tx: Sql, { inst, pat }: LinkRow, now: Date): Promise<void> {
  await tx.query(sql`
    update shared_envelope set state = 'wanted', attempts = 0, retry_at = ${now}
    where inst = ${inst} and pat = ${pat} and state = 'refused' and code = 'LINK_REJECTED'`);
}

/** Every code, newest first; `link` one of them. */
export async function listCodes(sqlOn: Sql, link?: string): Promise<ListedRow[]> {
  return sqlOn.query<ListedRow>(sql`
    select c.link, c.pat, c.clinician, c.expires_at, c.created_by, c.created_at, c.spent_at, c.closed_at,
      p.inst, p.pat as theirs, p.state, p.bound_at, p.decided_at, p.decided_by
    from link_code c left join patient_link p on p.link = c.link
    where ${link ?? null}::text is null or c.link = ${link ?? null} order by c.created_at desc, c.link`);
}

/** How many are in each state, and codes that somebody may still present. */
export async function countLinks(sqlOn: Sql, now: Date): Promise<Record<LinkState | 'open', number>> {
  const [open] = await sqlOn.query<{ n: number }>(sql`
    select count(*) as n from link_code c where c.closed_at is null and c.spent_at is null and c.expires_at > ${now}
      and not exists (select 1 from patient_link p where p.link = c.link)`);
  const states = await sqlOn.query<{ state: LinkState; n: number }>(sql`select state, count(*) as n from patient_link group by state`);
  const of = (state: LinkState): number => states.find((one) => one.state === state)?.n ?? 0;
  return { open: open?.n ?? 0, bound: of('bound'), confirmed: of('confirmed'), held: of('held'), rejected: of('rejected') };
}
