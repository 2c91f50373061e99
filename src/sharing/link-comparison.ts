import { canonicalJson } from '../canonical-json.ts';
import { CodedError, codeOf } from '../errors.ts';
import { type JsonObject, parseResource } from '../records/lossless-json.ts';
import { compareDemographics, type Demographics, demographicsOf } from '../records/patient-identity.ts';
import type { Database } from '../store/database.ts';
import { getPatients } from '../store/patients.ts';
import { holderName, type LedgerPatient } from '../vault/holder.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { type LinkRow, type LinkState, linkOf, lockLink, reopenEnvelopes, setLink } from './link-rows.ts';

/** Why two records are not taken for one person's: what differs, and what one of them does not say. */
export interface Difference {
  field: 'name' | 'birthDate';
  how: 'differs' | 'missing';
}
/** Who somebody is, as a person compares it. Shown to whoever decides and to nobody else. */
export interface LinkedPerson {
  name: string;
  birthDate?: string;
  sex?: string;
}
/** What is known of a link, beside its row. */
export interface LinkShown {
  /** Their pseudonym; null where the code was not used. */
  theirs: LedgerPatient | null;
  /** What differed, one entry for each set of facts that was met and not accepted. */
  held: readonly { differs: readonly Difference[]; theirs?: LinkedPerson; ours?: LinkedPerson }[];
  /** Names this state of things: an answer holds for it alone. */
  seen: string | null;
  /** A person's last answer, with its words. */
  answered: { answer: string; by: string; reason: string; at: string } | null;
}
/** A person's answer to a held link. */
export interface LinkAnswer {
  link: string;
  answer: 'accept' | 'reject';
  /** Code of what was shown (`show`); for `accept` alone. */
  seen?: string;
  /** Why, in words; kept sealed. */
  reason: string;
  /** mem-… */
  by: string;
}
export interface LinkResolved {
  link: string;
  state: LinkState;
  /** It had been answered so before; nothing was written. */
  already: boolean;
}

/** What lies sealed at a link. */
interface Detail {
  held: readonly { facts: string; differs: readonly Difference[]; theirs: LinkedPerson; ours: LinkedPerson }[];
}
const EMPTY: Detail = { held: [] };
/** Sets of facts that one question holds; whoever sends more is asked about the rest later. */
const MOST_HELD = 10;

/**
 * Whether whom a code has bound is our own patient, by name and birth date; where that is not plain, a person says so. A person's
 * "yes" holds for exactly the facts that were shown: their HMAC is kept, and other facts are a new question.
 */
export function createLinkComparison(parts: {
  database: Database;
  rows: SealedRows;
  own: string;
  now: () => Date;
  onAlarm(alarm: { link: string }): void;
  onChanged(of: LedgerPatient, state: LinkState): void;
}) {
  const { database, rows, own, now, onAlarm, onChanged } = parts;

  const holder = (row: LinkRow): string => holderName(own, namesOf(row));
  const place = (row: LinkRow): string => `link/${row.link}`;

  async function opened(row: LinkRow): Promise<Detail> {
    if (row.detail === null) return EMPTY;
    try {
      return JSON.parse((await rows.open(holder(row), 'core', place(row), row.detail)).toString('utf8')) as Detail;
    } catch (error) {
      // The keys of their data went when it was deleted, and with them what was shown of it.
      if (codeOf(error) === 'KEY_MISSING' || codeOf(error) === 'SEAL_BROKEN') return EMPTY;
      throw error;
    }
  }
  const sealed = (row: LinkRow, detail: Detail): Promise<Buffer> =>
    rows.seal(holder(row), 'core', place(row), Buffer.from(JSON.stringify(detail)));

  async function ours(pat: string): Promise<Demographics> {
    const kept = (await getPatients(database, [pat])).get(pat)?.demographics;
    const resource = kept ? parseResource(await rows.open(pat, 'core', `demographics/${pat}`, kept)) : {};
    return demographicsOf(resource, [], now().toISOString());
  }

  async function factsOf(theirs: Demographics, mine: Demographics): Promise<string> {
    const said = ({ nameTokens, birthDate }: Demographics) => [nameTokens, birthDate ?? null];
    return rows.blind('link-facts', canonicalJson([said(theirs), said(mine)]));
  }

  function seenOf(row: LinkRow, detail: Detail): Promise<string> {
    return rows
      .blind('link-facts', canonicalJson([row.link, row.state, detail.held.map(({ facts }) => facts)]))
      .then((mac) => mac.slice(0, 8));
  }

  async function compare(of: LedgerPatient, resource: JsonObject): Promise<'confirmed' | 'held' | 'rejected'> {
    const linked = await linkOf(database, of);
    if (linked === undefined) throw new CodedError('LINK_MISSING');
    const theirs = demographicsOf(resource['resourceType'] === 'Patient' ? resource : {}, [], now().toISOString());
    const mine = await ours(linked.own_pat);
    const differs = differencesOf(theirs, mine);
    // Most documents: confirmed before, and this one says the same.
    if (linked.state === 'confirmed' && differs.length === 0) return 'confirmed';
    const facts = await factsOf(theirs, mine);
    const done = await database.transaction(async (tx) => {
      const row = await lockLink(tx, of);
      if (row === undefined) throw new CodedError('LINK_MISSING');
      if (row.state === 'rejected') return { state: 'rejected', is: 'as before' } as const;
      const isKnown = differs.length === 0 || row.accepted.includes(facts);
      if (isKnown) {
        // Never over a question that is open: another document may have been of somebody else.
        if (row.state !== 'bound') return { state: row.state, is: 'as before' } as const;
        await setLink(tx, { ...row, state: 'confirmed', decided_at: now() });
        return { state: 'confirmed', is: 'new' } as const;
      }
      const detail = await opened(row);
      if (row.state === 'held' && (detail.held.some((one) => one.facts === facts) || detail.held.length >= MOST_HELD))
        return { state: 'held', is: 'as before' } as const;
      const further = { facts, differs, theirs: shown(theirs), ours: shown(mine) };
      // What an earlier question held was answered: only what is open is shown again.
      const held = [...(row.state === 'held' ? detail.held : []), further];
      await setLink(tx, { ...row, state: 'held', detail: await sealed(row, { held }) });
      return { state: 'held', is: row.state === 'held' ? 'another' : 'new' } as const;
    });
    if (done.is !== 'as before' && done.state === 'held') onAlarm({ link: linked.link });
    if (done.is === 'new') onChanged(of, done.state);
    return done.state;
  }

  async function resolve({ link, answer, seen, reason, by }: LinkAnswer): Promise<LinkResolved> {
    if (reason.trim() === '') throw new CodedError('BAD_REQUEST', { diagnostics: 'Say why: --reason "…". It is kept sealed.' });
    const done = await database.transaction(async (tx) => {
      const row = await lockLink(tx, link);
      if (row === undefined) throw new CodedError('NOT_FOUND', { diagnostics: 'Nobody is linked by a code of this id.' });
      const of = namesOf(row);
      if (answer === 'reject' ? row.state === 'rejected' : row.state === 'confirmed') return { of, state: row.state, already: true };
      const detail = await opened(row);
      let { state, accepted } = row;
      if (answer === 'reject') state = 'rejected';
      else if (state === 'bound')
        throw new CodedError('CONFLICT', { diagnostics: 'Nothing of theirs was compared yet, so there is nothing to accept.' });
      else {
        if (seen !== undefined && seen !== (await seenOf(row, detail)))
          throw new CodedError('CONFLICT', {
            diagnostics: 'This is not what was shown: `link show` shows what is known now, and the code for --seen.',
          });
        accepted = [...new Set([...accepted, ...detail.held.map(({ facts }) => facts)])];
        // What was rejected is deleted: it is fetched and compared anew, and its facts are accepted already. The same where
        // what was shown is gone with its keys.
        state = row.state === 'held' && detail.held.length > 0 ? 'confirmed' : 'bound';
      }
      const at = now();
      const answered = Buffer.from(JSON.stringify({ answer, by, reason, at: at.toISOString() }));
      const sealedReason = await rows.sealPurpose('identity', place(row), answered);
      const held = state === 'confirmed' ? [] : detail.held;
      if (row.state === 'rejected') await reopenEnvelopes(tx, row, at);
      const left = held.length === 0 ? null : await sealed(row, { held });
      await setLink(tx, { ...row, state, accepted, decided_at: at, decided_by: by, detail: left, reason: sealedReason });
      return { of, state, already: false };
    });
    if (!done.already) onChanged(done.of, done.state);
    return { link, state: done.state, already: done.already };
  }

  async function show(link: string, reveal: boolean): Promise<LinkShown> {
    return database.transaction(async (tx) => {
      const row = await lockLink(tx, link);
      if (row === undefined) return { theirs: null, held: [], seen: null, answered: null };
      const detail = await opened(row);
      return {
        theirs: namesOf(row),
        held: detail.held.map(({ differs, theirs, ours: mine }) => ({ differs, ...(reveal ? { theirs, ours: mine } : {}) })),
        seen: await seenOf(row, detail),
        answered:
          row.reason === null
            ? null
            : (JSON.parse((await rows.openPurpose('identity', place(row), row.reason)).toString('utf8')) as NonNullable<
                LinkShown['answered']
              >),
      };
    });
  }

  return { compare, resolve, show };
}

/**
 * A code alone is not enough where we cannot see that it is the same person: a name or birth date that one of them lacks, a birth
 * date without a day included, is a question too. Within one institution it is none (edge case 23), for there an identifier agrees.
 */
function differencesOf(theirs: Demographics, ours: Demographics): readonly Difference[] {
  const compared = compareDemographics(theirs, ours);
  const on = compared.result === 'differs' ? compared.on : [];
  const isFull = (date: string | undefined): boolean => date?.length === 10;
  const missing = {
    name: theirs.nameTokens.length === 0 || ours.nameTokens.length === 0,
    birthDate: !isFull(theirs.birthDate) || !isFull(ours.birthDate),
  };
  return (['name', 'birthDate'] as const).flatMap((field): Difference[] =>
    on.includes(field) ? [{ field, how: 'differs' }] : missing[field] ? [{ field, how: 'missing' }] : [],
  );
}

function shown({ name, birthDate, sex }: Demographics): LinkedPerson {
  return { name, ...(birthDate === undefined ? {} : { birthDate }), ...(sex === undefined ? {} : { sex }) };
}

function namesOf({ inst, pat }: LinkRow): LedgerPatient {
  return { institution: inst, patient: pat };
}
