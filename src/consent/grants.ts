import { randomBytes } from 'node:crypto';
import { CodedError } from '../errors.ts';
import { grantPayload, revokePayload, TYP } from '../ledger/contract/payloads.ts';
import { Refusal } from '../ledger/contract/refusals.ts';
import type { Clause } from '../ledger/contract/shapes.ts';
import { awaitCommit, type Carried, type Carrier } from '../outbox/await-commit.ts';
import type { LinkCode } from '../sharing/link-code.ts';
import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { ConsentPermission } from './consent-mapping.ts';
import { createCustodyEnvelopes, type EnvelopeKeeping, namedByGrant } from './custody-envelopes.ts';
import {
  heads,
  identityOf,
  type Pair,
  type PatientName,
  pairKey,
  pairsOf,
  refusalOf,
  refusedBecause,
  usedKey,
  versionKey,
} from './permissions.ts';

/** Who writes for the patient: the patient, or a registrar with evidence; nobody else (architecture section 8). */
export interface ConsentWriter {
  kind: 'patient' | 'registrar';
  /** `pat-…` or `mem-…`. */
  id: string;
}

/** What a transaction leaves behind beside its outbox row, written in the same database transaction. */
export interface Written {
  outbox: string;
  /** Exists in the projection once the transaction counts. */
  stateKey: string;
  statement: string;
  pairs: readonly Pair[];
}

export interface Grants {
  /**
   * Puts a Consent's permissions on the ledger in one transaction, and takes away what this Consent said before and says no more.
   * Clauses of other Consents on the same pairs stay. A pair on which nothing is left denies here from the local commit on; any
   * other change counts once committed. `committed` false: not within the wait; it still may commit.
   */
  submitGrant(request: {
    of: PatientName;
    writer: ConsentWriter;
    consent: string;
    permissions: readonly ConsentPermission[];
    /** Commitment to what the registrar has seen. */
    evidence: string | null;
    /** Linking codes of other institutions that are to read: each goes with the envelopes to its institution, and is kept nowhere else. */
    codes: readonly LinkCode[];
    write(tx: Sql, written: Written): Promise<void>;
    unwrite(tx: Sql): Promise<void>;
  }): Promise<{ committed: boolean }>;
  /** Ends a Consent. It denies here at once, from the moment of the local commit on, and on the ledger as soon as that takes it. */
  revoke(request: {
    of: PatientName;
    writer: ConsentWriter;
    consent: string;
    /** Pairs of versions that are not on the ledger yet: the revoke kills these too. */
    further: readonly Pair[];
    write(tx: Sql, written: Written): Promise<void>;
  }): Promise<{ committed: boolean }>;
  /** Removes local denials that the projection has caught up with, which are without effect anyway, and those of refused grants. */
  sweep(): Promise<void>;
}

const GRANT_LIFE_MS = 10 * 60_000;
const ATTEMPTS = 5;
const MOST_CLAUSES = 16;
const MOST_PAIRS = 32;

export function createGrants(
  parts: Carrier & {
    database: Database;
    custodian: Custodian;
    envelopes: EnvelopeKeeping;
    ledgerId: string;
    msp: string;
    waitMs: number;
    now: () => Date;
    /** Told after somebody may have lost something: key versions may be due. */
    onLost(): void;
  },
): Grants {
  const { database, custodian, ledgerId, outbox, now, waitMs } = parts;
  const custodyEnvelopes = createCustodyEnvelopes(parts);
  const caller = { msp: parts.msp, institution: custodian.institution };

  const onBehalf = (writer: ConsentWriter): string =>
    writer.kind === 'patient' ? writer.id : `member:${custodian.institution}:${writer.id}`;
  const sign = (of: PatientName, writer: ConsentWriter, typ: string, payload: string): Promise<string> =>
    custodian.signForPatient({ patient: of.patient, actor: writer, typ, payload });

  /** The whole list in force from then on: of other Consents as they stand, of this one as it says now. */
  async function lists(of: PatientName, consent: string, permissions: readonly ConsentPermission[]) {
    const mine = new Map(permissions.map((one) => [pairKey(one), one.clauses]));
    const pairs = [...new Map([...permissions, ...(await pairsOf(database, of, consent))].map((pair) => [pairKey(pair), pair])).values()];
    if (pairs.length > MOST_PAIRS) throw unprocessable(`More than ${MOST_PAIRS} pairs of grantee and category, former ones counted.`);
    const found = await heads(database, of, pairs);
    return pairs.map(({ grantee, category }, i) => {
      const head = found[i];
      const others: readonly Clause[] = head?.state?.clauses.filter((clause) => clause.consent !== consent) ?? [];
      const clauses = [...others, ...(mine.get(pairKey({ grantee, category })) ?? [])];
      if (clauses.length > MOST_CLAUSES)
        throw unprocessable(`More than ${MOST_CLAUSES} clauses for one grantee and category, those of other Consents counted.`);
      return { category, clauses, grantee, sequence: (head?.sequence ?? 0) + 1 };
    });
  }

  /** Whoever loses a category shall not open what is filed under it from now on: its key gets a new version. */
  async function dueKeys(tx: Sql, of: PatientName, writer: ConsentWriter, lost: readonly Pair[]): Promise<void> {
    if (lost.length === 0) return;
    await tx.query(sql`
      insert into key_rotation (pat, category, actor_kind, actor_id)
      select ${of.patient}, c, ${writer.kind}, ${writer.id} from unnest(${[...new Set(lost.map((pair) => pair.category))]}::text[]) as t(c)
      on conflict (pat, category) do nothing`);
  }

  async function grantOnce(request: Parameters<Grants['submitGrant']>[0]): Promise<Carried> {
    const { of, writer, consent, evidence } = request;
    const listed = await lists(of, consent, request.permissions);
    const sealed = await Promise.all(listed.map((one) => custodyEnvelopes.forGrant(of, one, request.codes)));
    const permissions = listed.map((one, i) => ({ ...one, envelope: sealed[i]?.envelope ?? null }));
    const payload = payloadOf(() =>
      grantPayload({
        ...of,
        consent,
        evidence,
        grantor: 'patient',
        ledger: ledgerId,
        nonce: nonce(),
        notAfter: new Date(now().getTime() + GRANT_LIFE_MS).toISOString(),
        onBehalf: onBehalf(writer),
        permissions,
      }),
    );
    const jws = await sign(of, writer, TYP.grantPermission, payload);
    const refusal = await refusalOf(database, { name: 'grantPermission', args: [jws], caller, now: now() });
    if (refusal !== undefined) return { state: 'rejected', code: refusal };
    const [first] = permissions;
    if (first === undefined) throw unprocessable('The Consent grants nothing.');
    const statement = identityOf(payload);
    const given = sealed.flatMap((one) => one?.text ?? []);
    const stored = await parts.envelopes.put({ of, statement, named: namedByGrant(permissions), given });
    const id = await database.transaction(async (tx) => {
      const row = await outbox.add(tx, {
        transaction: 'grantPermission',
        args: [jws],
        orderKey: `perm/${of.institution}/${of.patient}`,
        patient: `${of.institution}/${of.patient}`,
        priority: 'live',
      });
      const pairs = permissions.map(({ grantee, category }) => ({ grantee, category }));
      await parts.envelopes.keep(tx, { of, statement, outbox: row, stored });
      await request.write(tx, { outbox: row, stateKey: versionKey(of, first, first.sequence), statement, pairs });
      // Whole triples only: a denial of one knows no clauses, and would take what other Consents grant.
      const gone = permissions.filter(({ clauses }) => clauses.length === 0);
      await tx.query(sql`
        insert into revocation (inst, pat, grantor, grantee, category, used_key, outbox)
        select ${of.institution}, ${of.patient}, 'patient', g, c, k, ${row}
        from unnest(${gone.map((p) => p.grantee)}::text[], ${gone.map((p) => p.category)}::text[],
          ${gone.map((p) => versionKey(of, p, p.sequence))}::text[]) as t(g, c, k)
        on conflict do nothing`);
      const kept = new Set(request.permissions.map(pairKey));
      await dueKeys(
        tx,
        of,
        writer,
        pairs.filter((pair) => !kept.has(pairKey(pair))),
      );
      return row;
    });
    const carried = await awaitCommit(parts, id, waitMs);
    if (carried.state === 'rejected') {
      await database.transaction(async (tx) => {
        await tx.query(sql`delete from revocation where outbox = ${id}`);
        await request.unwrite(tx);
      });
    }
    return carried;
  }

  return {
    async submitGrant(request) {
      for (let attempt = 1; ; attempt++) {
        const carried = await grantOnce(request);
        if (carried.state !== 'rejected') {
          if (carried.state === 'committed') await this.sweep();
          parts.onLost();
          return { committed: carried.state === 'committed' };
        }
        // Another statement about one of the triples was first: signed anew on its heads. Or an institution has another key by now.
        if (!['SEQUENCE_STALE', 'JWS_KEY', 'ENVELOPE_RECIPIENT'].includes(carried.code) || attempt === ATTEMPTS)
          throw refusedBecause(carried.code);
        await new Promise((done) => setTimeout(done, 20 * attempt));
      }
    },

    async revoke(request) {
      const { of, writer, consent } = request;
      const known = await pairsOf(database, of, consent);
      const pairs = [...new Map([...known, ...request.further].map((pair) => [pairKey(pair), pair])).values()];
      const statements: { jws: string; payload: string; pairs: Pair[] }[] = [];
      for (let i = 0; i < pairs.length; i += MOST_PAIRS) {
        const some = pairs.slice(i, i + MOST_PAIRS);
        const payload = revokePayload({
          ...of,
          consent,
          grantor: 'patient',
          ledger: ledgerId,
          nonce: nonce(),
          onBehalf: onBehalf(writer),
          permissions: some.map(({ grantee, category }) => ({ category, grantee })),
        });
        const jws = await sign(of, writer, TYP.revokePermission, payload);
        // Only what the contract accepts may deny here: else anybody could keep a reader out by asking.
        const refusal = await refusalOf(database, { name: 'revokePermission', args: [jws], caller, now: now() });
        if (refusal !== undefined) throw refusedBecause(refusal);
        statements.push({ jws, payload, pairs: some });
      }
      const rows = await database.transaction(async (tx) => {
        const ids: string[] = [];
        for (const one of statements) {
          const row = await outbox.add(tx, {
            transaction: 'revokePermission',
            args: [one.jws],
            patient: `${of.institution}/${of.patient}`,
            priority: 'urgent',
          });
          ids.push(row);
          const statement = identityOf(one.payload);
          const stateKey = usedKey(of, statement);
          await tx.query(sql`
            insert into revocation (inst, pat, grantor, grantee, category, used_key, outbox)
            select ${of.institution}, ${of.patient}, 'patient', g, c, ${stateKey}, ${row}
            from unnest(${one.pairs.map((p) => p.grantee)}::text[], ${one.pairs.map((p) => p.category)}::text[]) as t(g, c)`);
          // The last of several statements is the one that the version waits for.
          if (one === statements.at(-1)) await request.write(tx, { outbox: row, stateKey, statement, pairs });
        }
        await dueKeys(tx, of, writer, pairs);
        return ids;
      });
      outbox.wake();
      const carried = await Promise.all(rows.map((id) => awaitCommit(parts, id, waitMs)));
      await this.sweep();
      // Its failure is a matter of its own and never holds up the revoke.
      parts.onLost();
      return { committed: carried.every((one) => one.state === 'committed') };
    },

    async sweep() {
      await database.query(sql`
        delete from revocation v where exists (select 1 from projection.state s where s.key = v.used_key)
          or (v.used_key like 'perm/%' and not exists (
            select 1 from outbox o where o.id = v.outbox and (o.settled_at is null or o.state = 'committed')))`);
    },
  };
}

function payloadOf(build: () => string): string {
  try {
    return build();
  } catch (error) {
    if (error instanceof Refusal) throw unprocessable(`The Consent does not fit the ledger (${error.where ?? 'form'}).`);
    throw error;
  }
}

function nonce(): string {
  return randomBytes(16).toString('base64url');
}

function unprocessable(diagnostics: string): CodedError {
  return new CodedError('UNPROCESSABLE', { diagnostics, expression: ['Consent.provision'] });
}
