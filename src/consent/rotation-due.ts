import * as keys from '../ledger/contract/keys.ts';
import type { Clause } from '../ledger/contract/shapes.ts';
import type { PermissionState } from '../ledger/contract/state.ts';
import { projectedState } from '../ledger/projection-state.ts';
import type { Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { PatientName } from './permissions.ts';

/**
 * Categories of a patient who holds their own keys whose key wants a new version: somebody who could read has lost that since the
 * newest one was published, and nobody signed the next (architecture section 5; computed when asked, protocol section 4). The
 * patient's device does it at its next sign-in. Sorted; none for a patient in custody, where the custodian does it.
 */
export async function rotationDue(on: Sql, of: PatientName, now: Date): Promise<string[]> {
  const published = await on.query<{ category: string; block: number; known_at: string | null }>(sql`
    select k.category, k.block, t.known_at from projection.patient p
    cross join lateral (select distinct on (category) category, block from projection.category_key
      where inst = p.inst and pat = p.pat order by category, version desc) k
    cross join lateral (select max(s.value::jsonb ->> 'time') as known_at from projection.anchor a
      cross join lateral (select value from projection.state where key = 'anchor/' || a.inst and block <= k.block
        order by block desc, tx desc limit 1) s) t
    where p.inst = ${of.institution} and p.pat = ${of.patient} and not p.custody and p.status = 'active'`);
  if (published.length === 0) return [];
  const lapsed = await lapsedMembers(on, of, now);
  const chains = await permissionChains(on, of);
  return published
    .filter(({ category, block, known_at: knownAt }) =>
      chains.some(
        (chain) =>
          chain.category === category &&
          hasEnded(chain.versions, { block, at: knownAt ?? '' }, now.toISOString(), lapsed.get(chain.grantee)),
      ),
    )
    .map(({ category }) => category)
    .sort();
}

interface Version {
  state: PermissionState;
  block: number;
}

/** Every version of every permission of the patient, those of one triple together and in their order. */
async function permissionChains(on: Sql, of: PatientName): Promise<{ grantee: string; category: string; versions: Version[] }[]> {
  const prefix = keys.permissions(of.institution, of.patient);
  const chains = new Map<string, { grantee: string; category: string; versions: Version[] }>();
  // Keys come in order, and the sequence is the last part of a version's.
  for (const { key, value, version } of await projectedState(on).scan(prefix)) {
    const [, grantee = '', category = '', kind] = key.slice(prefix.length).split('/');
    if (kind !== 'v') continue;
    const name = key.slice(0, key.lastIndexOf('/'));
    const chain = chains.get(name) ?? { grantee, category, versions: [] };
    chain.versions.push({ state: JSON.parse(value) as PermissionState, block: version[0] });
    chains.set(name, chain);
  }
  return [...chains.values()];
}

/** Members with a permission who are active no more: when they lapsed, or the block that suspended them. */
async function lapsedMembers(on: Sql, of: PatientName, now: Date): Promise<Map<string, { at: string } | { block: number }>> {
  const rows = await on.query<{ inst: string; mem: string; status: string; valid_until: Date; block: number }>(sql`
    select distinct m.inst, m.mem, m.status, m.valid_until, m.block from projection.permission p
    join projection.member m on p.grantee = 'member:' || m.inst || ':' || m.mem
    where p.inst = ${of.institution} and p.pat = ${of.patient} and (m.status <> 'active' or m.valid_until <= ${now})`);
  return new Map(
    rows.map((row) => [
      `member:${row.inst}:${row.mem}`,
      row.status === 'active' ? { at: row.valid_until.toISOString() } : { block: row.block },
    ]),
  );
}

/** Whether a reader had the key version that was published then, or a later permission, and reads no more. */
function hasEnded(
  versions: readonly Version[],
  published: { block: number; at: string },
  now: string,
  lapsed: { at: string } | { block: number } | undefined,
): boolean {
  const head = versions.at(-1)?.state;
  if (head === undefined) return false;
  // What was replaced before the key was published gave no key; nor did what had run out by then.
  const opened = versions.some(({ state }, i) => {
    const replacedIn = versions[i + 1]?.block;
    return (replacedIn === undefined || replacedIn > published.block) && reads(state, published.at);
  });
  if (!opened) return false;
  if (!reads(head, now)) return true;
  if (lapsed === undefined) return false;
  return 'at' in lapsed ? lapsed.at > published.at : lapsed.block > published.block;
}

/** Whether it lets anybody read at this instant or later. */
function reads(state: PermissionState, at: string): boolean {
  const open = (clause: Clause): boolean => clause.rights.includes('read') && (clause.periodEnd === null || clause.periodEnd >= at);
  const denies = (clause: Clause): boolean =>
    clause.effect === 'deny' && clause.purposes === null && (clause.periodStart === null || clause.periodStart <= at);
  return (
    state.status === 'active' &&
    state.clauses.some((clause) => clause.effect === 'permit' && open(clause)) &&
    !state.clauses.some((clause) => denies(clause) && open(clause))
  );
}
