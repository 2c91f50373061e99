import { createHash } from 'node:crypto';
import { CodedError } from '../errors.ts';
import type { Payloads } from '../ledger/contract/shapes.ts';
import type { BlobStore } from '../store/blobs.ts';
import type { Database, Sql } from '../store/database.ts';
import { announcePuts, forgetPuts } from '../store/documents.ts';
import { sql } from '../store/sql.ts';
import { isEnvelopeTo, longestEnvelope, MAX_ENVELOPE_LENGTH } from '../vault/envelope.ts';
import type { LedgerPatient } from '../vault/holder.ts';
import { type EnvelopeQuotas, takeIn } from './envelope-intake.ts';

/** An envelope as a statement names it: by a permission's version, or by a category key's. */
export interface NamedEnvelope {
  category: string;
  hash: string;
  path: string;
  recipient: string;
  grantee: string | null;
  sequence: number | null;
  keyVersion: number | null;
}

export function envelopesOfGrant(payload: Payloads['grantPermission']): NamedEnvelope[] {
  return payload.permissions.flatMap(({ category, grantee, sequence, envelope }) =>
    envelope === null ? [] : [{ ...envelope, category, grantee, sequence, keyVersion: null }],
  );
}
export function envelopesOfKey({ category, version, envelopes }: Payloads['publishCategoryKey']): NamedEnvelope[] {
  return envelopes.map((envelope) => ({ ...envelope, category, grantee: null, sequence: null, keyVersion: version }));
}

/** One that lies under our own prefix. */
type StoredEnvelope = NamedEnvelope & { sizeBytes: number };

export interface KeptEnvelopes {
  /**
   * Stores the envelopes that came with a statement. Each must be one that the payload names under our own prefix; one that it
   * names there and that did not come must lie there already. ENVELOPE_UNFIT, TOO_LARGE or ENVELOPE_QUOTA otherwise, and nothing is
   * stored. Resolves to those under our own prefix.
   */
  put(facts: {
    of: LedgerPatient;
    statement: string;
    named: readonly NamedEnvelope[];
    given: readonly string[];
    /** Made here, by the custodian: counted, and never refused for its number. */
    isOwn?: boolean;
  }): Promise<readonly StoredEnvelope[]>;
  /** Their rows, in the transaction that brings the statement on its way: from then on no sweep takes them. */
  keep(tx: Sql, facts: { of: LedgerPatient; statement: string; outbox: string; stored: readonly StoredEnvelope[] }): Promise<void>;
  /** Gives up envelopes that nothing on the ledger names any more; their objects go with the next sweep an hour later. Resolves to their number. */
  sweep(): Promise<number>;
}

/** Characters: of some thirty versions of a category key. More only where the ledger has more of them. */
const ALWAYS_FITS = 16 * 1024;
const NOT_SEEN_YET = 8;
/** Times of the quotas up to which the envelopes of a new key version are taken. */
const KEY_RESERVE = 2;

/** Envelopes under our own prefix: we alone may put there, so whichever gateway carries a statement keeps its envelopes. */
export function createKeptEnvelopes(parts: {
  database: Database;
  blobs: Pick<BlobStore, 'put' | 'head'>;
  institution: string;
  quotas: EnvelopeQuotas;
}): KeptEnvelopes {
  const { database, blobs, institution, quotas } = parts;
  const prefix = `${institution}/envelopes/`;
  const isOurs = (one: NamedEnvelope): boolean => one.path.startsWith(prefix);

  /** How long an envelope may be: that of all versions of the category's key, those that our view does not show yet included. */
  async function longest(of: LedgerPatient, category: string): Promise<number> {
    const [head] = await database.query<{ version: number | null }>(sql`
      select max(version) as version from projection.category_key
      where inst = ${of.institution} and pat = ${of.patient} and category = ${category}`);
    return Math.min(Math.max(ALWAYS_FITS, longestEnvelope((head?.version ?? 0) + NOT_SEEN_YET)), MAX_ENVELOPE_LENGTH);
  }

  return {
    async put({ of, statement, named, given, isOwn = false }) {
      for (const one of named) if (!one.path.endsWith(`/envelopes/${one.hash}`)) throw unfit('A path does not end in the hash beside it.');
      const texts = new Map<string, string>();
      const limits = new Map<string, number>();
      for (const text of given) {
        if (text.length > MAX_ENVELOPE_LENGTH) throw new CodedError('TOO_LARGE');
        const hash = createHash('sha256').update(text).digest('hex');
        const naming = named.filter((one) => isOurs(one) && one.hash === hash);
        if (naming.length === 0) throw unfit("The statement does not name one of them under this institution's prefix.");
        for (const { category, recipient } of naming) {
          const limit = limits.get(category) ?? (await longest(of, category));
          limits.set(category, limit);
          if (text.length > limit) throw new CodedError('TOO_LARGE');
          if (!isEnvelopeTo(text, { patient: of, category, recipient }))
            throw unfit('One of them is none, or is of another patient, category or recipient than the statement says.');
        }
        texts.set(hash, text);
      }
      const stored: StoredEnvelope[] = [];
      let sizeBytes = 0;
      for (const one of named.filter(isOurs)) {
        const there = await blobs.head(one.path);
        const size = texts.get(one.hash)?.length ?? there?.sizeBytes;
        if (size === undefined) throw unfit('One of them is missing.');
        if (there === undefined && !stored.some(({ hash }) => hash === one.hash)) sizeBytes += size;
        stored.push({ ...one, sizeBytes: size });
      }
      if (texts.size === 0) return stored;
      if (sizeBytes > 0) {
        // A new key version shuts out a former reader: grants that used up what there is must not keep it away.
        const isOfKey = named.every((one) => one.keyVersion !== null);
        const times = isOwn ? Number.MAX_SAFE_INTEGER : isOfKey ? KEY_RESERVE : 1;
        await takeIn(database, { of, statement, sizeBytes, isForeign: of.institution !== institution, quotas, times });
      }
      await announcePuts(
        database,
        [...texts.keys()].map((hash) => prefix + hash),
      );
      for (const [hash, text] of texts) await blobs.put(prefix + hash, Buffer.from(text));
      return stored;
    },

    async keep(tx, { of, statement, outbox, stored }) {
      for (const one of stored)
        await tx.query(sql`
          insert into device_envelope (name, statement, inst, pat, category, recipient, grantee, sequence, key_version, size_bytes, outbox)
          values (${one.path}, ${statement}, ${of.institution}, ${of.patient}, ${one.category}, ${one.recipient}, ${one.grantee}, ${one.sequence},
            ${one.keyVersion}, ${one.sizeBytes}, ${outbox})
          on conflict (name, statement) do update set outbox = excluded.outbox`);
      await forgetPuts(
        tx,
        stored.map((one) => one.path),
      );
    },

    async sweep() {
      // An erased patient's: at once. A permission's: once that version is not the live head any more. A key version's: once no permission of the category is live.
      const live = sql`p.inst = v.inst and p.pat = v.pat and p.category = v.category and p.status = 'active'
        and not exists (select 1 from projection.patient e where e.inst = v.inst and e.pat = v.pat and e.status = 'erased')
        and exists (select 1 from projection.clause c where c.inst = p.inst and c.pat = p.pat and c.grantor = p.grantor and c.grantee = p.grantee
          and c.category = p.category and c.effect = 'permit' and (c.period_end is null or c.period_end > now()))`;
      const version = sql`exists (select 1 from projection.state s where strpos(s.value, '"path":' || to_json(v.name)::text) > 0
        and s.key = 'pat/' || v.inst || '/' || v.pat || '/ck/' || v.category || '/v/' || lpad(v.key_version::text, 10, '0'))`;
      const named = sql`((v.key_version is not null and ${version}) or (p.grantor = 'patient' and p.grantee = v.grantee and p.seq = v.sequence and exists (
        select 1 from projection.state s where s.value::jsonb ->> 'statement' = v.statement
          and s.key = 'perm/' || v.inst || '/' || v.pat || '/patient/' || v.grantee || '/' || v.category || '/v/' || lpad(v.sequence::text, 10, '0'))))`;
      // Refused here is not refused everywhere: another gateway may have carried the same statement first, which our view may not show yet.
      const underWay = sql`exists (select 1 from outbox o where o.id = v.outbox and (o.settled_at is null
        or (o.state <> 'committed' and o.settled_at > now() - interval '1 hour')
        or (o.state = 'committed' and o.block >= (select height from projection.checkpoint))))`;
      await database.query(sql`delete from device_envelope_intake where taken_at < now() - interval '1 day'`);
      return database.transaction(async (tx) => {
        const gone = await tx.query<{ name: string }>(sql`
          delete from device_envelope v
          where not ${underWay} and not exists (select 1 from projection.permission p where ${live} and ${named})
          returning v.name`);
        const names = [...new Set(gone.map((row) => row.name))];
        await announcePuts(tx, names);
        return names.length;
      });
    },
  };
}

function unfit(diagnostics: string): CodedError {
  return new CodedError('ENVELOPE_UNFIT', { diagnostics });
}
