import type { Sql } from '../store/database.ts';
import { type SqlFragment, sql } from '../store/sql.ts';
import { ownerOf } from './contract/keys.ts';
import { PROJECTION } from './projection-state.ts';

/** Whom nothing is served about or to, since a state key of theirs was written against the rules. */
export interface Denied {
  ledger: boolean;
  institution(institution: string): boolean;
  member(institution: string, member: string): boolean;
  patient(institution: string, patient: string): boolean;
}

/** Before any alarm. */
export const NOBODY: Denied = { ledger: false, institution: () => false, member: () => false, patient: () => false };

/** Alarms stand outside what a rebuild recreates; a cleared one no longer denies from the next rebuild on. */
export async function loadDenied(on: Sql): Promise<Denied> {
  return deniedBy(await doubtfulKeys(on));
}

/** The state keys of `write-set` alarms: those that deny, or the cleared ones too. */
export async function doubtfulKeys(on: Sql, { cleared = false } = {}): Promise<string[]> {
  const rows = await on.query<{ key: string }>(
    sql`select distinct unnest(state_keys) as key from ledger_alarm where kind = 'write-set' and (${cleared} or cleared_at is null)`,
  );
  return rows.map(({ key }) => key);
}

/** Whom doubt about these state keys denies. */
export function deniedBy(stateKeys: readonly string[]): Denied {
  const names = new Set(
    stateKeys.map((key) => {
      const owner = ownerOf(key);
      return `${owner.kind}/${owner.institution}/${owner.id}`;
    }),
  );
  const ledger = names.has('ledger//');
  const institution = (id: string): boolean => ledger || names.has(`institution/${id}/${id}`);
  return {
    ledger,
    institution,
    member: (inst, member) => institution(inst) || names.has(`member/${inst}/${member}`),
    patient: (inst, patient) => institution(inst) || names.has(`patient/${inst}/${patient}`),
  };
}

export interface Alarm {
  kind: 'write-set' | 'entry-conflict' | 'chain' | 'projection' | 'definition' | 'category-key';
  block: number;
  txId?: string;
  stateKeys: readonly string[];
}

/** Alarms that nobody has cleared, by kind. */
export interface OpenAlarms {
  kind: string;
  count: number;
  /** ISO instant of the oldest. */
  since: string;
}

export async function openAlarms(on: Sql): Promise<OpenAlarms[]> {
  const rows = await on.query<{ kind: string; count: number; since: Date }>(
    sql`select kind, count(*) as count, min(at) as since from ledger_alarm where cleared_at is null group by kind order by kind`,
  );
  return rows.map(({ kind, count, since }) => ({ kind, count, since: since.toISOString() }));
}

/** One row an occurrence, under a name that follows from it, so that a rebuild raises none twice. Returns whether it is new. */
export async function raiseAlarm(on: Sql, alarm: Alarm): Promise<boolean> {
  const id = `${alarm.kind}-${alarm.block}-${alarm.txId ?? (alarm.kind === 'category-key' ? alarm.stateKeys.join() : '')}`;
  const rows = await on.query(sql`insert into ledger_alarm (id, kind, block, tx_id, state_keys)
    values (${id}, ${alarm.kind}, ${alarm.block}, ${alarm.txId ?? null}, ${[...alarm.stateKeys]}::text[]) on conflict (id) do nothing returning id`);
  return rows.length > 0;
}

/** Marks the rows of whom these keys belong to, and of the members and patients of an institution with it. */
export async function denyOwners(on: Sql, stateKeys: readonly string[], schema: SqlFragment = PROJECTION): Promise<void> {
  for (const key of stateKeys) {
    const { kind, institution, id } = ownerOf(key);
    if (kind === 'patient') {
      await on.query(sql`update ${schema}.patient set status = 'alarmed' where inst = ${institution} and pat = ${id}`);
    } else if (kind === 'member') {
      await on.query(sql`update ${schema}.member set status = 'alarmed' where inst = ${institution} and mem = ${id}`);
    } else {
      const everyone = kind === 'ledger';
      await on.query(sql`update ${schema}.institution set status = 'alarmed' where ${everyone} or inst = ${institution}`);
      await on.query(sql`update ${schema}.member set status = 'alarmed' where ${everyone} or inst = ${institution}`);
      await on.query(sql`update ${schema}.patient set status = 'alarmed' where ${everyone} or inst = ${institution}`);
    }
  }
}
