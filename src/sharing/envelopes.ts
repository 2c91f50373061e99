import { hash } from 'node:crypto';
import type { JWK } from 'jose';
import { CodedError, type ErrorCode } from '../errors.ts';
import type { Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { PublicJwk } from '../vault/custodian.ts';
import { MAX_ENVELOPE_LENGTH } from '../vault/envelope.ts';
import { belongsTo } from '../vault/foreign-wrap.ts';
import { holderName } from '../vault/holder.ts';
import type { createEnding } from './ending.ts';
import { faultOf, placeOf } from './faults.ts';
import { keyPlace, retryAt, type SharingParts } from './parts.ts';

interface EnvelopeRow {
  inst: string;
  pat: string;
  category: string;
  path: string;
  hash: string;
  statement: string;
  attempts: number;
  /** Of the category: another one where it has ended and begun again. */
  began: string;
}

/** What no further try changes; another statement of the patient may. */
const FINAL = new Set<ErrorCode>(['ENVELOPE_KEY', 'SEAL_BROKEN', 'BLOB_NAME']);
const NEVER = sql`'infinity'::timestamptz`;

/**
 * Opens envelopes: the private halves of a category's key versions, each checked against the public key on the ledger. A live code must
 * link the patient first, and no object is asked for before that (protocol section 8).
 */
export function createEnvelopes(
  parts: Pick<SharingParts, 'database' | 'rows' | 'custodian' | 'blobs' | 'links' | 'retry' | 'now' | 'onAlarm' | 'log'> & {
    requireView(tx: Sql): Promise<void>;
    ending: Pick<ReturnType<typeof createEnding>, 'dropKeys'>;
  },
) {
  const { database, rows, custodian, blobs, links, now, onAlarm, log } = parts;

  /** Some of what is due, the institutions by turns; the patients of whom something was opened. */
  async function openSome(): Promise<readonly { institution: string; patient: string }[]> {
    const due = await database.query<EnvelopeRow>(sql`
      select inst, pat, category, path, hash, statement, attempts, began from (
        select e.*, c.noticed_at::text as began, row_number() over (partition by e.inst order by e.retry_at, e.path) as turn
        from shared_envelope e join shared_category c on c.inst = e.inst and c.pat = e.pat and c.category = e.category
        where e.state <> 'opened' and e.retry_at <= ${now()} and c.state <> 'ending') t
      order by turn, inst limit 100`);
    const opened: { institution: string; patient: string }[] = [];
    for (const row of due) {
      try {
        await open(row);
        opened.push({ institution: row.inst, patient: row.pat });
      } catch (error) {
        await failed(row, error);
      }
    }
    return opened;
  }

  async function open(row: EnvelopeRow): Promise<void> {
    const of = { institution: row.inst, patient: row.pat };
    const { category } = row;
    const envelope = await fetch(row);
    const content = await custodian.openEnvelope(envelope, { ...of, category });
    const { state } = await links.present(of, content.link);
    if (state === 'rejected') throw new CodedError('LINK_REJECTED');
    const keys = await database.transaction(async (tx) => {
      await parts.requireView(tx);
      return tx.query<{ version: number; public_jwk: PublicJwk }>(sql`
        select version, public_jwk from projection.category_key where inst = ${row.inst} and pat = ${row.pat} and category = ${category}`);
    });
    const named = new Map(keys.map((key) => [key.version, key.public_jwk]));
    for (const { version, jwk } of content.keys) {
      const publicJwk = named.get(version);
      if (publicJwk === undefined || !belongsTo(jwk, publicJwk)) throw new CodedError('ENVELOPE_KEY');
    }
    const holder = holderName(custodian.institution, of);
    // From here on there may be a key of ours for the category: should we be killed, its end destroys it.
    await database.query(sql`
      update shared_envelope set state = 'opening' where inst = ${row.inst} and pat = ${row.pat} and category = ${category} and path = ${row.path} and state <> 'opened'`);
    const sealed = await Promise.all(
      content.keys.map(async ({ version, jwk }: { version: number; jwk: JWK }) => ({
        version,
        jwk: await rows.seal(holder, category, keyPlace(version), Buffer.from(JSON.stringify(jwk))),
      })),
    );
    const kept = await database.transaction(async (tx) => {
      const at = sql`inst = ${row.inst} and pat = ${row.pat} and category = ${category}`;
      const [shared] = await tx.query<{ state: string; began: string }>(
        sql`select state, noticed_at::text as began from shared_category where ${at} for update`,
      );
      // Ended meanwhile: what was sealed here may lie under a key that is gone.
      if (shared?.began !== row.began || shared.state === 'ending') return false;
      for (const { version, jwk } of sealed) {
        await tx.query(sql`
          insert into shared_key (inst, pat, category, version, jwk) values (${row.inst}, ${row.pat}, ${category}, ${version}, ${jwk}) on conflict do nothing`);
      }
      await tx.query(sql`update shared_envelope set state = 'opened', code = null where ${at} and path = ${row.path}`);
      await tx.query(sql`update shared_category set state = 'live', code = null, statement = ${row.statement} where ${at}`);
      // Linked now: what came without a code, or with another one, may be opened too; and objects wait for these keys.
      await tx.query(sql`
        update shared_envelope set state = 'wanted', attempts = 0, retry_at = ${now()}
        where inst = ${row.inst} and pat = ${row.pat} and starts_with(code, 'LINK_')`);
      await tx.query(sql`update shared_object set retry_at = ${now()} where ${at} and code = 'SHARED_KEY'`);
      return true;
    });
    if (!kept) return parts.ending.dropKeys({ ...of, category });
    log.info({ inst: row.inst, pat: row.pat, category, versions: content.keys.length }, 'keys of a shared category received');
  }

  async function fetch(row: EnvelopeRow): Promise<string> {
    if (!row.path.endsWith(`/${row.hash}`)) throw new CodedError('BLOB_NAME');
    const size = (await blobs.head(row.path))?.sizeBytes;
    if (size === undefined) throw new CodedError('BLOB_MISSING');
    if (size > MAX_ENVELOPE_LENGTH) throw new CodedError('ENVELOPE_BROKEN');
    const bytes = await blobs.get(row.path);
    if (bytes.length > MAX_ENVELOPE_LENGTH || hash('sha256', bytes) !== row.hash) throw new CodedError('ENVELOPE_BROKEN');
    return Buffer.from(bytes).toString('utf8');
  }

  async function failed(row: EnvelopeRow, error: unknown): Promise<void> {
    const code = faultOf(error);
    if (code === 'STALE') return;
    const { inst, pat, category } = row;
    const attempts = row.attempts + 1;
    const final = FINAL.has(code) || code.startsWith('LINK_');
    const at = sql`inst = ${inst} and pat = ${pat} and category = ${category}`;
    await database.transaction(async (tx) => {
      await tx.query(sql`
        update shared_envelope set state = ${final ? 'refused' : 'wanted'}, code = ${code}, attempts = ${attempts},
          retry_at = ${final ? NEVER : sql`${retryAt(parts, attempts)}::timestamptz`}
        where ${at} and path = ${row.path} and state <> 'opened'`);
      // A category that some envelope has opened stays live.
      await tx.query(sql`
        update shared_category set state = ${final && code !== 'LINK_MISSING' ? 'refused' : 'waiting'}, code = ${code}, statement = ${row.statement}
        where ${at} and state in ('waiting', 'refused')`);
    });
    log.warn({ inst, pat, category, code, attempts }, 'an envelope cannot be opened');
    if (code !== 'INTERNAL' ? (final && !code.startsWith('LINK_')) || attempts === parts.retry.maxAttempts : attempts === 1)
      onAlarm({ code, inst, pat, category });
    if (code === 'INTERNAL') log.error(placeOf(error), 'an envelope failed for no coded reason');
  }

  return { openSome };
}
