import { createHash } from 'node:crypto';
import type { KeptEnvelopes, NamedEnvelope } from '../device/kept-envelopes.ts';
import { CodedError } from '../errors.ts';
import * as keys from '../ledger/contract/keys.ts';
import type { Clause, Envelope } from '../ledger/contract/shapes.ts';
import { projectedState } from '../ledger/projection-state.ts';
import { institutionOnLedger } from '../membership/directory.ts';
import { formatLinkCode, type LinkCode } from '../sharing/link-code.ts';
import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { Custodian, PublicJwk } from '../vault/custodian.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';
import { type PatientName, refusedBecause } from './permissions.ts';

/** An envelope, and how its statement names it. */
export interface SealedEnvelope {
  text: string;
  envelope: Envelope;
}

/** Where envelopes of our own making are kept: as those that devices bring. */
export type EnvelopeKeeping = Pick<KeptEnvelopes, 'put' | 'keep'>;

/**
 * What a patient's device does for them once they hold their own keys, for a patient in custody: a category's keys to the institution
 * that is to read, by its key on the ledger as our own verified view has it (protocol section 6).
 */
export function createCustodyEnvelopes(parts: { database: Database; custodian: Custodian; now: () => Date }) {
  const { database, custodian, now } = parts;
  const { institution: own } = custodian;

  /** Of all versions up to this one; undefined where the institution is not active on the ledger. */
  async function seal(
    patient: string,
    category: string,
    to: { institution: string; code?: LinkCode; upTo: number },
  ): Promise<SealedEnvelope | undefined> {
    const known = await institutionOnLedger(database, to.institution);
    if (known === undefined) throw refusedBecause('GRANTEE_UNKNOWN');
    if (known.status !== 'active') return undefined;
    const recipient = jwkThumbprint(known.state.encryption);
    if (to.code !== undefined && to.code.key !== recipient)
      throw unprocessable('The linking code names another key of its institution than the ledger has: ask there for a new one.');
    const link = to.code === undefined ? undefined : formatLinkCode(to.code);
    const text = await custodian.sealEnvelope(patient, category, known.state.encryption as PublicJwk, link, to.upTo);
    const hash = createHash('sha256').update(text).digest('hex');
    return { text, envelope: { hash, path: `${own}/envelopes/${hash}`, recipient } };
  }

  return {
    /** For a permission that lets another institution read; undefined where none is needed. UNPROCESSABLE. */
    async forGrant(
      of: PatientName,
      permission: { grantee: string; category: string; clauses: readonly Clause[] },
      codes: readonly LinkCode[],
    ): Promise<SealedEnvelope | undefined> {
      const { grantee, category, clauses } = permission;
      const name = institutionOf(grantee);
      if (name === undefined || name === own || !clauses.some(({ effect, rights }) => effect === 'permit' && rights.includes('read')))
        return undefined;
      const head = await projectedState(database).get(keys.categoryHeadKey(of.institution, of.patient, category));
      if (head === undefined) throw unprocessable('The patient has no key of this category on the ledger yet.');
      const { version } = JSON.parse(head.value) as { version: number };
      const code = codes.find((one) => one.institution === name);
      if (code !== undefined && code.expires <= now().toISOString()) throw unprocessable('The linking code has expired.');
      const sealed = await seal(of.patient, category, { institution: name, upTo: version, ...(code === undefined ? {} : { code }) });
      if (sealed === undefined) throw unprocessable('The other institution is not active on the ledger.');
      return sealed;
    },

    /** For a new version of a category's key: to each other institution that may read it now. */
    async forReaders(of: PatientName, category: string, version: number): Promise<SealedEnvelope[]> {
      const sealed: SealedEnvelope[] = [];
      for (const name of await readingInstitutions(database, of, category, now())) {
        if (name === own) continue;
        const one = await seal(of.patient, category, { institution: name, upTo: version });
        if (one !== undefined) sealed.push(one);
      }
      return sealed;
    },
  };
}

/** How `KeptEnvelopes` knows an envelope of a permission's version. */
export function namedByGrant(
  permissions: readonly { category: string; grantee: string; sequence: number; envelope: Envelope | null }[],
): NamedEnvelope[] {
  return permissions.flatMap(({ category, grantee, sequence, envelope }) =>
    envelope === null ? [] : [{ ...envelope, category, grantee, sequence, keyVersion: null }],
  );
}

/** The institutions of members and organisations with a live permission to read, whoever granted it, that no revocation here denies. */
async function readingInstitutions(on: Sql, of: PatientName, category: string, now: Date): Promise<string[]> {
  const rows = await on.query<{ grantee: string }>(sql`
    select distinct p.grantee from projection.permission p
    join projection.clause c on c.inst = p.inst and c.pat = p.pat and c.grantor = p.grantor and c.grantee = p.grantee and c.category = p.category
    where p.inst = ${of.institution} and p.pat = ${of.patient} and p.category = ${category} and p.status = 'active'
      and c.effect = 'permit' and 'read' = any(c.rights) and (c.period_end is null or c.period_end > ${now})
      and not exists (select 1 from revocation v where v.inst = p.inst and v.pat = p.pat and v.grantor = p.grantor and v.grantee = p.grantee
        and v.category = p.category and not exists (select 1 from projection.state s where s.key = v.used_key))
    order by p.grantee`);
  return [...new Set(rows.flatMap((row) => institutionOf(row.grantee) ?? []))];
}

function institutionOf(grantee: string): string | undefined {
  const [kind, institution] = grantee.split(':');
  return kind === 'role' ? undefined : institution;
}

function unprocessable(diagnostics: string): CodedError {
  return new CodedError('UNPROCESSABLE', { diagnostics, expression: ['Consent.provision.provision.actor'] });
}
