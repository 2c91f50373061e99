import { z } from 'zod';
import type { Audit } from '../audit/audit.ts';
import { refusalOf, usedKey, versionKey } from '../consent/permissions.ts';
import { CodedError, codeOf } from '../errors.ts';
import type { Statement } from '../ledger/contract/jws.ts';
import * as keys from '../ledger/contract/keys.ts';
import type { Payloads, SignedTransaction } from '../ledger/contract/shapes.ts';
import type { CategoryKeyState } from '../ledger/contract/state.ts';
import { projectedState } from '../ledger/projection-state.ts';
import type { OutboxItem } from '../outbox/outbox.ts';
import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { LedgerPatient } from '../vault/holder.ts';
import { type Carried, type Carrying, refusedWith } from './carrying.ts';
import { envelopesOfGrant, envelopesOfKey, type KeptEnvelopes, type NamedEnvelope } from './kept-envelopes.ts';
import { patientOrder, readSigned } from './reading.ts';

/** What any gateway carries: a person's own signature is the authority, whoever hands it in (protocol section 1). */
const CARRIED = [
  'grantPermission',
  'revokePermission',
  'publishCategoryKey',
  'rotatePatientKey',
  'delegate',
  'setPrivateInfo',
  'erasePatient',
] as const;
type CarriedTransaction = (typeof CARRIED)[number];

const MOST_ARGUMENT_LENGTH = 16 * 1024;
/** As many as a grant has permissions. */
const MOST_ENVELOPES = 32;

const request = z.strictObject({
  transaction: z.enum(CARRIED),
  /** The signed statement; for `rotatePatientKey` the second one too; the public key of the signer where the ledger holds its thumbprint only. */
  args: z.array(z.string().min(1).max(MOST_ARGUMENT_LENGTH)).min(1).max(3),
  envelopes: z.array(z.string().min(1)).max(MOST_ENVELOPES).default([]),
});

export interface Statements {
  /**
   * Brings what a patient (or a delegate, or whoever else may sign it) signed to the ledger. The same again answers the same.
   * BAD_REQUEST for another form, LEDGER_REFUSED with the contract's code, ENVELOPE_UNFIT; STALE for a grant while the view is
   * too old: then nothing is stored. A revocation denies here from the moment on at which the contract has accepted it locally.
   */
  submit(body: unknown, from: { requestId: string; address?: string }): Promise<Carried>;
}

/** How a statement travels, and what it leaves here. */
interface Plan {
  statement: Statement<SignedTransaction>;
  of: LedgerPatient;
  priority: NonNullable<OutboxItem['priority']>;
  /** One at a time of these. */
  orderKey?: string;
  envelopes: readonly NamedEnvelope[];
  write?(tx: Sql, outbox: string): Promise<void>;
  takesAway?(on: Sql): Promise<boolean>;
  /** State key that exists once it has counted, and whether what lies there is its work. */
  landed?: { key: string; is(value: string): boolean };
  /** The same, of what may only be told to whoever signed, for it is no secret of this one statement. */
  landedSigned?: { key: string; is(value: string): boolean };
}

export function createStatements(parts: {
  database: Database;
  carrying: Carrying;
  envelopes: KeptEnvelopes;
  ledgerId: string;
  /** This institution, and its MSP as it stands on the ledger. */
  institution: string;
  msp: string;
  audit: Pick<Audit, 'record'>;
  /** Whether the view of the ledger is fresh enough to decide on (protocol section 5). */
  fresh(): Promise<boolean>;
  now: () => Date;
}): Statements {
  const { database, carrying, envelopes, ledgerId, audit, now } = parts;
  const caller = { msp: parts.msp, institution: parts.institution };

  async function landed(one: Plan['landed']): Promise<Carried | undefined> {
    if (one === undefined) return undefined;
    const found = await projectedState(database).get(one.key);
    return found !== undefined && one.is(found.value) ? { state: 'committed', txId: null, block: found.version[0] } : undefined;
  }

  async function accept(plan: Plan, name: CarriedTransaction, args: readonly string[], given: readonly string[]): Promise<Carried> {
    const { statement, of } = plan;
    const before = (await carrying.follow(statement.identity)) ?? (await landed(plan.landed));
    if (before !== undefined) return before;
    if (name === 'grantPermission' && !(await parts.fresh())) throw new CodedError('STALE', { retryAfterSeconds: 15 });
    // Signature and all: before this nothing is believed, and nothing is stored after a refusal.
    const refusal = await refusalOf(database, { name, args, caller, now: now() });
    if (refusal !== undefined) throw refusedWith(refusal);
    const done = await landed(plan.landedSigned);
    if (done !== undefined) return done;
    const item = { transaction: name, args, priority: plan.priority, ...(plan.orderKey === undefined ? {} : { orderKey: plan.orderKey }) };
    const { takesAway } = plan;
    const admission = { of, kid: statement.kid, item, ...(takesAway === undefined ? {} : { takesAway }) };
    await carrying.admit(admission);
    const stored = await envelopes.put({ of, statement: statement.identity, named: plan.envelopes, given });
    return carrying.carry({
      ...admission,
      statement: statement.identity,
      item,
      async write(tx, outbox) {
        await envelopes.keep(tx, { of, statement: statement.identity, outbox, stored });
        await plan.write?.(tx, outbox);
      },
    });
  }

  return {
    async submit(body, { requestId, address }) {
      const read = request.safeParse(body);
      if (!read.success) {
        const expression = read.error.issues.slice(0, 5).map((issue) => issue.path.join('.') || 'body');
        throw new CodedError('BAD_REQUEST', { diagnostics: 'The statement must be {transaction, args, envelopes?}.', expression });
      }
      const { transaction, args, envelopes: given } = read.data;
      const event = {
        interaction: 'operation',
        actor: undefined,
        requestId,
        ...(address === undefined ? {} : { address }),
        query: `POST /device/statements#${transaction}`,
      } as const;
      try {
        const plan = await planOf(transaction, args, ledgerId);
        const carried = await accept(plan, transaction, args, given);
        await audit.record({ ...event, outcome: 'permitted', reason: 'SIGNED', patients: [plan.of] });
        return carried;
      } catch (error) {
        // It names nobody: whoever sends forgeries must not write into a patient's own trail.
        const reason = codeOf(error) ?? 'INTERNAL';
        await audit.record({ ...event, outcome: reason === 'LEDGER_REFUSED' ? 'denied' : 'failed', reason, patients: [] });
        throw error;
      }
    },
  };
}

async function planOf(transaction: CarriedTransaction, args: readonly string[], ledgerId: string): Promise<Plan> {
  const jws = args[0] ?? '';
  switch (transaction) {
    case 'grantPermission':
      return grantPlan(await readSigned(transaction, jws, ledgerId));
    case 'revokePermission':
      return revokePlan(await readSigned(transaction, jws, ledgerId));
    case 'publishCategoryKey':
      return keyPlan(await readSigned(transaction, jws, ledgerId));
    default: {
      const statement = await readSigned(transaction, jws, ledgerId);
      const of = ofPayload(statement.payload);
      const landedSigned = { key: keys.coreKey(of.institution, of.patient), is: (value: string) => /"status":"erased"/.test(value) };
      return {
        statement,
        of,
        envelopes: [],
        // A key that was stolen and a record to be erased wait for nothing.
        priority: transaction === 'rotatePatientKey' || transaction === 'erasePatient' ? 'urgent' : 'live',
        orderKey: patientOrder(of),
        ...(transaction === 'erasePatient' ? { landedSigned } : {}),
      };
    }
  }
}

function grantPlan(statement: Statement<'grantPermission'>): Plan {
  const { payload, identity } = statement;
  const of = ofPayload(payload);
  const [first] = payload.permissions;
  const gone = payload.permissions.filter(({ clauses }) => clauses.length === 0);
  return {
    statement,
    of,
    envelopes: envelopesOfGrant(payload),
    priority: 'live',
    orderKey: `perm/${of.institution}/${of.patient}`,
    ...(first === undefined
      ? {}
      : {
          landed: {
            key: versionKey(of, first, first.sequence),
            is: (value) => (JSON.parse(value) as { statement: string }).statement === identity,
          },
        }),
    write: (tx, outbox) =>
      deny(
        tx,
        of,
        'patient',
        gone.map((one) => ({ ...one, usedKey: versionKey(of, one, one.sequence) })),
        outbox,
      ),
  };
}

function revokePlan(statement: Statement<'revokePermission'>): Plan {
  const { payload, identity } = statement;
  const of = ofPayload(payload);
  const key = usedKey(of, identity);
  return {
    statement,
    of,
    envelopes: [],
    priority: 'urgent',
    landed: { key, is: () => true },
    takesAway: (on) => takesAway(on, of, payload),
    write: (tx, outbox) =>
      deny(
        tx,
        of,
        payload.grantor,
        payload.permissions.map((one) => ({ ...one, usedKey: key })),
        outbox,
      ),
  };
}

function keyPlan(statement: Statement<'publishCategoryKey'>): Plan {
  const { payload } = statement;
  const of = ofPayload(payload);
  const isSame = (value: string): boolean => {
    const { key } = JSON.parse(value) as CategoryKeyState;
    return JSON.stringify(key) === JSON.stringify(payload.key);
  };
  return {
    statement,
    of,
    envelopes: envelopesOfKey(payload),
    // The second message of a revocation.
    priority: 'urgent',
    landedSigned: { key: keys.categoryVersionKey(of.institution, of.patient, payload.category, payload.version), is: isSame },
  };
}

/** Whether one of these permits something now, and no revocation denies it here yet. */
async function takesAway(on: Sql, of: LedgerPatient, { grantor, permissions }: Payloads['revokePermission']): Promise<boolean> {
  const grantees = permissions.map((one) => one.grantee);
  const categories = permissions.map((one) => one.category);
  const found = await on.query(sql`
    select 1 from unnest(${grantees}::text[], ${categories}::text[]) t (grantee, category)
    join projection.clause c on c.inst = ${of.institution} and c.pat = ${of.patient} and c.grantor = ${grantor} and c.grantee = t.grantee
      and c.category = t.category and c.effect = 'permit'
    where not exists (select 1 from revocation v where v.inst = c.inst and v.pat = c.pat and v.grantor = c.grantor and v.grantee = c.grantee
      and v.category = c.category) limit 1`);
  return found.length > 0;
}

/** Local denials: every served query joins them until the projection holds the key (architecture section 7). */
async function deny(
  tx: Sql,
  of: LedgerPatient,
  grantor: string,
  triples: readonly { grantee: string; category: string; usedKey: string }[],
  outbox: string,
): Promise<void> {
  for (const { grantee, category, usedKey: key } of triples)
    await tx.query(sql`
      insert into revocation (inst, pat, grantor, grantee, category, used_key, outbox)
      values (${of.institution}, ${of.patient}, ${grantor}, ${grantee}, ${category}, ${key}, ${outbox})
      on conflict (inst, pat, grantor, grantee, category, used_key) do update set outbox = excluded.outbox`);
}

function ofPayload({ institution, patient }: Pick<Payloads['erasePatient'], 'institution' | 'patient'>): LedgerPatient {
  return { institution, patient };
}
