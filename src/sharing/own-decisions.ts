import { createHash, randomBytes } from 'node:crypto';
import { CodedError } from '../errors.ts';
import * as keys from '../ledger/contract/keys.ts';
import { revokePayload, TYP } from '../ledger/contract/payloads.ts';
import { Refusal } from '../ledger/contract/refusals.ts';
import { projectedState } from '../ledger/projection-state.ts';
import { simulate } from '../ledger/simulation.ts';
import { awaitCommit, type Carrier } from '../outbox/await-commit.ts';
import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { dropRefused } from './backlog.ts';
import type { SharedCategory } from './ending.ts';

/** Permissions of one grantor in one statement. */
const MOST_PAIRS = 32;

export interface Hold {
  institution: string;
  patient: string;
  category: string;
  by: string;
  reason: string;
  placed: string;
  lifted: string | null;
  /** Sealed copies kept after their keys were destroyed. */
  objects: number;
}

/** What the institution itself decides about what it holds: to give it up, or to keep sealed copies for the law. */
export function createOwnDecisions(
  parts: Carrier & {
    database: Database;
    rows: SealedRows;
    custodian: Pick<Custodian, 'institution' | 'signAsInstitution'>;
    ledgerId: string;
    msp: string;
    activeRole(institution: string, member: string): Promise<string | undefined>;
    now: () => Date;
    waitMs?: number;
    /** There is something to end, or to delete. */
    onChanged(): void;
  },
) {
  const { database, rows, custodian, ledgerId, outbox, now, activeRole } = parts;
  const own = custodian.institution;

  async function mustBe(member: string, roles: readonly string[]): Promise<void> {
    const role = await activeRole(own, member);
    if (role === undefined || !roles.includes(role))
      throw new CodedError('FORBIDDEN', { diagnostics: `This takes an active member of this institution who is ${roles.join(' or ')}.` });
  }

  /**
   * Takes back, on the ledger, what was granted to anybody of ours in this category, signed by the institution, which only narrows. It
   * denies here at once; deletion follows. `left`: permissions by role, which are not ours to give up.
   */
  async function renounce(of: SharedCategory, by: string): Promise<{ permissions: number; left: number; state: 'committed' | 'pending' }> {
    await mustBe(by, ['privacy-officer', 'registrar']);
    const { institution: inst, patient: pat, category } = of;
    if (inst === own) throw new CodedError('UNPROCESSABLE', { diagnostics: 'What was granted of our own patient is theirs to revoke.' });
    const found = await database.query<{ grantor: string; grantee: string }>(sql`
      select grantor, grantee from projection.permission where inst = ${inst} and pat = ${pat} and category = ${category} and status = 'active'
        and (grantee = ${`organization:${own}`} or starts_with(grantee, ${`member:${own}:`}) or starts_with(grantee, 'role:')) order by grantor, grantee`);
    const ours = found.filter(({ grantee }) => !grantee.startsWith('role:'));
    if (ours.length === 0)
      throw new CodedError('NOT_FOUND', { diagnostics: 'Nothing of this category is granted to anybody of this institution.' });
    const statements: { jws: string; usedKey: string; grantor: string; grantees: string[] }[] = [];
    for (const grantor of new Set(ours.map((one) => one.grantor))) {
      const grantees = ours.filter((one) => one.grantor === grantor).map((one) => one.grantee);
      for (let i = 0; i < grantees.length; i += MOST_PAIRS) {
        const some = grantees.slice(i, i + MOST_PAIRS);
        const payload = revokePayload({
          institution: inst,
          patient: pat,
          consent: null,
          grantor,
          ledger: ledgerId,
          nonce: randomBytes(16).toString('base64url'),
          onBehalf: null,
          permissions: some.map((grantee) => ({ category, grantee })),
        });
        const jws = await custodian.signAsInstitution(TYP.revokePermission, payload);
        await requireAccepted(jws);
        const identity = createHash('sha256').update(payload).digest('hex');
        statements.push({ jws, usedKey: keys.usedKey(inst, pat, identity), grantor, grantees: some });
      }
    }
    const ids = await database.transaction(async (tx) => {
      const made: string[] = [];
      for (const { jws, usedKey, grantor, grantees } of statements) {
        const id = await outbox.add(tx, { transaction: 'revokePermission', args: [jws], patient: `${inst}/${pat}`, priority: 'urgent' });
        made.push(id);
        await tx.query(sql`
          insert into revocation (inst, pat, grantor, grantee, category, used_key, outbox)
          select ${inst}, ${pat}, ${grantor}, g, ${category}, ${usedKey}, ${id} from unnest(${grantees}::text[]) g`);
      }
      await tx.query(sql`update shared_category set renounced_by = ${by} where inst = ${inst} and pat = ${pat} and category = ${category}`);
      return made;
    });
    outbox.wake();
    parts.onChanged();
    const carried = await Promise.all(ids.map((id) => awaitCommit(parts, id, parts.waitMs ?? 10_000)));
    const rejected = carried.find((one) => one.state === 'rejected');
    if (rejected?.state === 'rejected') {
      await database.transaction((tx) => dropRefused(tx, own, now()));
      parts.onChanged();
      throw new CodedError('LEDGER_REFUSED', { diagnostics: rejected.code });
    }
    const state = carried.every((one) => one.state === 'committed') ? 'committed' : 'pending';
    return { permissions: ours.length, left: found.length - ours.length, state };
  }

  /** Only what the contract accepts may deny here. */
  async function requireAccepted(jws: string): Promise<void> {
    const caller = { msp: parts.msp, institution: own };
    try {
      await database.transaction(
        (tx) => simulate(projectedState(tx), { name: 'revokePermission', args: [jws], caller, time: now().toISOString() }),
        'repeatable read',
      );
    } catch (error) {
      if (error instanceof Refusal) throw new CodedError('LEDGER_REFUSED', { diagnostics: error.code });
      throw error;
    }
  }

  /** From now on the end of this category keeps the sealed copies. Keys go all the same: nobody can read them. */
  async function placeHold(of: SharedCategory, by: string, reason: string): Promise<void> {
    await mustBe(by, ['privacy-officer']);
    const { institution: inst, patient: pat, category } = of;
    if (reason.trim() === '') throw new CodedError('BAD_REQUEST', { diagnostics: 'A legal hold says why.' });
    const [known] = await database.query(sql`
      select 1 from shared_category where inst = ${inst} and pat = ${pat} and category = ${category} and state <> 'ending'`);
    if (known === undefined) throw new CodedError('NOT_FOUND', { diagnostics: 'Nothing of this category is shared here.' });
    const sealed = await rows.sealPurpose('legal-hold', holdPlace(of), Buffer.from(reason));
    await database.query(sql`
      insert into legal_hold (inst, pat, category, by, reason, placed_at) values (${inst}, ${pat}, ${category}, ${by}, ${sealed}, ${now()})
      on conflict (inst, pat, category) do update set by = excluded.by, reason = excluded.reason, placed_at = excluded.placed_at, lifted_at = null`);
  }

  /** What the hold kept is deleted. */
  async function liftHold(of: SharedCategory, by: string): Promise<{ objects: number }> {
    await mustBe(by, ['privacy-officer']);
    const { institution: inst, patient: pat, category } = of;
    const objects = await database.transaction(async (tx) => {
      const [hold] = await tx.query(sql`
        update legal_hold set lifted_at = ${now()} where inst = ${inst} and pat = ${pat} and category = ${category} and lifted_at is null returning by`);
      if (hold === undefined) throw new CodedError('NOT_FOUND', { diagnostics: 'There is no legal hold on this category.' });
      const gone = await tx.query(sql`
        with gone as (delete from held_object where inst = ${inst} and pat = ${pat} and category = ${category} returning pointer)
        insert into shared_removal (pointer) select pointer from gone on conflict (pointer) do nothing returning pointer`);
      return gone.length;
    });
    parts.onChanged();
    return { objects };
  }

  async function listHolds(): Promise<Hold[]> {
    const found = await database.query<{
      inst: string;
      pat: string;
      category: string;
      by: string;
      reason: Buffer;
      placed_at: Date;
      lifted_at: Date | null;
      objects: number;
    }>(sql`
      select h.inst, h.pat, h.category, h.by, h.reason, h.placed_at, h.lifted_at,
        (select count(*) from held_object o where o.inst = h.inst and o.pat = h.pat and o.category = h.category) as objects
      from legal_hold h order by h.placed_at`);
    return Promise.all(
      found.map(async ({ inst, pat, category, by, reason, placed_at, lifted_at, objects }) => {
        const of = { institution: inst, patient: pat, category };
        const words = (await rows.openPurpose('legal-hold', holdPlace(of), reason)).toString('utf8');
        return { ...of, by, reason: words, placed: placed_at.toISOString(), lifted: lifted_at?.toISOString() ?? null, objects };
      }),
    );
  }

  return { renounce, placeHold, liftHold, listHolds };
}

function holdPlace({ institution, patient, category }: SharedCategory): string {
  return `hold/${institution}/${patient}/${category}`;
}
