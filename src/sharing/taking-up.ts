import { CodedError } from '../errors.ts';
import type { Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { LedgerPatient } from '../vault/holder.ts';
import { dropRefused, putOff } from './backlog.ts';
import { type createEnding, lockPatient } from './ending.ts';
import { countDocuments } from './held-totals.ts';
import type { LinkState, SharingParts } from './parts.ts';
import { endOf, type Granted, isSuspended, livesUntil, ownThumbprints, readGranted } from './shared-permissions.ts';

interface CategoryRow {
  category: string;
  state: 'waiting' | 'live' | 'refused' | 'ending';
  code: string | null;
  renounced_by: string | null;
}

/** Patients of one institution's backlog that one look takes up. */
const MAX_BACKLOG = 500;
/** So long after searches were held up by a patient's documents, more of them hold up none that does not name the patient. */
const HOLD_EVERY_MS = 600_000;

/**
 * From the ledger to rows that say what is to be done: categories granted and ended, envelopes to open, objects to fetch, documents that
 * stand no more. What it writes follows from the projection and these rows alone, so that it may be done again at any time.
 */
export function createTakingUp(
  parts: Pick<SharingParts, 'database' | 'custodian' | 'quotas' | 'retry' | 'now' | 'onAlarm' | 'log'> & {
    ending: ReturnType<typeof createEnding>;
  },
) {
  const { database, quotas, retry, now, ending, log } = parts;
  const { institution } = parts.custodian;
  const organization = `organization:${institution}`;
  const members = `member:${institution}:`;
  let recipients: ReadonlySet<string> | undefined;
  /** Every shared category is looked at once after the start: what ended while nobody watched the clock. */
  let whole = true;
  /** When the next period of a permission ends. */
  let nextEnd = 0;
  let begun = false;

  /** Blocks that have been looked at, and blocks that there are. `behind`: a rebuild is under way, and nothing can be said of permissions. */
  async function heights(on: Sql, lock = false): Promise<{ seen: number; height: number; behind: boolean }> {
    // The lock keeps a rebuild from emptying the tables between two of our questions.
    const [row] = await on.query<{ seen: number | null; height: number }>(sql`
      select (select block from sharing_cursor) + 1 as seen, height from projection.checkpoint ${lock ? sql`for share` : sql``}`);
    const height = row?.height ?? 0;
    const seen = row?.seen ?? 0;
    return { seen, height, behind: height < seen };
  }

  /** Looks at what changed since the last time; true where it changed anything. `behind`: the view is being made anew. */
  async function scan(): Promise<boolean | 'behind'> {
    const at = await heights(database);
    if (at.behind) return 'behind';
    const moment = now();
    await database.transaction((tx) => dropRefused(tx, institution, moment));
    const rounds = await backlog(moment);
    const dirty = await changed(at.seen, moment);
    if (dirty.length === 0 && rounds.length === 0 && at.height === at.seen) {
      // Something may have begun beside a scan, with an end that nobody waits for yet.
      if (begun) await planEnds(moment);
      return false;
    }
    let any = false;
    for (const of of dirty) any = (await refresh(of)) || any;
    for (const round of rounds) any = (await lookAgain(round)) || any;
    await database.query(sql`
      insert into sharing_cursor (block) values (${at.height - 1}) on conflict (one) do update set block = greatest(sharing_cursor.block, excluded.block)`);
    // After the cursor: should this have been cut short, the next start looks at everything.
    whole = false;
    await planEnds(moment);
    return any || at.height > at.seen;
  }

  function backlog(moment: Date): Promise<{ inst: string; after: string }[]> {
    return database.query(sql`select inst, after from sharing_backlog where retry_at <= ${moment}`);
  }

  /** Some of an institution's permissions that nothing has begun of. Rounds go on by name: no number of them keeps others waiting. */
  async function lookAgain({ inst, after }: { inst: string; after: string }): Promise<boolean> {
    const waiting = await database.query<{ pat: string }>(sql`
      select distinct p.pat from projection.permission p
      where p.inst = ${inst} and p.pat > ${after} and p.status = 'active' and (p.grantee = ${organization} or starts_with(p.grantee, ${members}))
        and not exists (select 1 from shared_category s where s.inst = p.inst and s.pat = p.pat and s.category = p.category)
      order by p.pat limit ${MAX_BACKLOG}`);
    for (const { pat } of waiting) await refresh({ institution: inst, patient: pat });
    const last = waiting.length === MAX_BACKLOG ? waiting.at(-1) : undefined;
    const at = sql`inst = ${inst} and after = ${after}`;
    if (last !== undefined) await database.query(sql`update sharing_backlog set after = ${last.pat} where ${at}`);
    else
      await database.transaction(async (tx) => {
        await tx.query(sql`delete from sharing_backlog where ${at} and next_at is null`);
        await tx.query(sql`update sharing_backlog set after = '', retry_at = next_at, next_at = null where ${at}`);
      });
    return last !== undefined;
  }

  async function changed(seen: number, moment: Date): Promise<LedgerPatient[]> {
    const time = whole || moment.getTime() > nextEnd;
    const rows = await database.query<{ inst: string; pat: string }>(sql`
      select p.inst, p.pat from projection.permission p where p.block >= ${seen} and p.inst <> ${institution}
        and (p.grantee = ${organization} or starts_with(p.grantee, ${members}) or exists (select 1 from shared_category s where s.inst = p.inst and s.pat = p.pat))
      union select k.inst, k.pat from projection.category_key k where k.block >= ${seen} and k.inst <> ${institution} and k.version > 1
        and exists (select 1 from projection.permission p where p.inst = k.inst and p.pat = k.pat)
      union select d.inst, d.pat from projection.document d join shared_category s on s.inst = d.inst and s.pat = d.pat where d.block >= ${seen}
      union select s.inst, s.pat from shared_category s left join projection.patient p on p.inst = s.inst and p.pat = s.pat
        where s.state <> 'ending' and p.status is distinct from 'active'
      union select s.inst, s.pat from shared_category s join patient_link l on l.inst = s.inst and l.pat = s.pat where s.state = 'live' and l.state = 'rejected'
      union select s.inst, s.pat from shared_category s join revocation v on v.inst = s.inst and v.pat = s.pat and v.category = s.category
        where s.state <> 'ending' and not exists (select 1 from projection.state k where k.key = v.used_key)
      union select s.inst, s.pat from shared_category s where ${whole} or (${time} and exists (
        select 1 from projection.clause c where c.inst = s.inst and c.pat = s.pat and c.category = s.category and c.period_end < ${moment}))`);
    return rows.map(({ inst, pat }) => ({ institution: inst, patient: pat })).filter((of) => of.institution !== institution);
  }

  async function planEnds(moment: Date): Promise<void> {
    begun = false;
    const [row] = await database.query<{ next: Date | null }>(sql`
      select min(c.period_end) as next from shared_category s join projection.clause c on c.inst = s.inst and c.pat = s.pat and c.category = s.category
      where c.period_end >= ${moment}`);
    nextEnd = row?.next?.getTime() ?? Number.POSITIVE_INFINITY;
  }

  /** One patient of another institution, whole; true where anything came of it. */
  async function refresh(of: LedgerPatient): Promise<boolean> {
    return database.transaction(async (tx) => {
      const at = await heights(tx, true);
      if (at.behind) return false;
      await lockPatient(tx, of);
      if (recipients === undefined || at.height > at.seen) recipients = await ownThumbprints(tx, institution);
      const granted = await readGranted(tx, of, institution, recipients);
      const rows = await tx.query<CategoryRow>(sql`
        select category, state, code, renounced_by from shared_category where inst = ${of.institution} and pat = ${of.patient} for update`);
      const [link] = await tx.query<{ state: LinkState }>(
        sql`select state from patient_link where inst = ${of.institution} and pat = ${of.patient}`,
      );
      const known = new Map(rows.map((row) => [row.category, row]));
      const categories = new Set([...known.keys(), ...granted.envelopes.map(({ category }) => category)]);
      let any = false;
      for (const category of categories) {
        const row = known.get(category);
        const ends = livesUntil(granted.heads, institution, category, now().getTime());
        // Whoever was rejected may come with a new code: only what was taken ends.
        const lives = granted.status === 'active' && !(link?.state === 'rejected' && row?.state === 'live') && ends !== undefined;
        if (row?.state === 'ending') continue;
        if (!lives) {
          if (row !== undefined) any = (await end(tx, of, row, granted, link?.state)) || any;
        } else if (row === undefined) any = (await begin(tx, of, category, granted, link !== undefined)) || any;
        else {
          any = (await nameEnvelopes(tx, of, category, granted)) || any;
          if (row.state === 'live') any = (await want(tx, of, row)) || any;
        }
      }
      // The ledger may refuse a revocation yet that we took at its word: then it begins again.
      if (granted.status === 'active' && isSuspended(granted.heads, institution, now().getTime()))
        await putOff(tx, of.institution, new Date(now().getTime() + retry.mostMs));
      return any;
    });
  }

  async function end(tx: Sql, of: LedgerPatient, row: CategoryRow, granted: Granted, link: LinkState | undefined): Promise<boolean> {
    const { cause, endedAt, block } = endOf(granted.heads, institution, row.category, now().getTime());
    const other =
      granted.status === 'erased'
        ? 'erased'
        : granted.status === 'alarmed'
          ? 'alarmed'
          : link === 'rejected'
            ? 'rejected'
            : row.renounced_by !== null && cause === 'revoked'
              ? 'renounced'
              : undefined;
    const at = other === undefined || other === 'renounced' ? { endedAt, block } : { endedAt: now(), block: null };
    await ending.endCategory(tx, { ...of, category: row.category }, { cause: other ?? cause, ...at });
    return true;
  }

  async function begin(tx: Sql, of: LedgerPatient, category: string, granted: Granted, linked: boolean): Promise<boolean> {
    const { institution: inst, patient: pat } = of;
    const [counts] = await tx.query<{ patients: number; pending: number }>(sql`
      select (select count(*) from patient_link l where l.inst = ${inst} and l.pat <> ${pat}
          and exists (select 1 from shared_category s where s.inst = l.inst and s.pat = l.pat)) as patients,
        (select count(*) from shared_category where inst = ${inst} and state in ('waiting', 'refused')) as pending`);
    if ((counts?.pending ?? 0) >= quotas.maxPendingPerInstitution || (counts?.patients ?? 0) >= quotas.maxPatients) {
      // Nothing is kept of each: a flood would be one of rows here. They stand on the ledger.
      const [noted] = await tx.query<{ over: boolean }>(sql`select over from sharing_backlog where inst = ${inst} for update`);
      await putOff(tx, inst, new Date(now().getTime() + retry.slowMs));
      if (noted?.over !== true) {
        await tx.query(sql`update sharing_backlog set over = true where inst = ${inst}`);
        log.warn({ inst, linked }, 'more is granted here by an institution than the quotas take; it waits');
        parts.onAlarm({ code: 'SHARED_QUOTA', inst, pat, category });
      }
      return false;
    }
    const statement = granted.envelopes.find((one) => one.category === category)?.statement ?? null;
    await tx.query(sql`
      insert into shared_category (inst, pat, category, state, statement) values (${inst}, ${pat}, ${category}, 'waiting', ${statement}) on conflict do nothing`);
    await nameEnvelopes(tx, of, category, granted);
    await holdUp(tx, of);
    begun = true;
    log.info({ inst, pat, category }, 'a category is shared with us');
    return true;
  }

  /** Searches that do not name the patient wait for what is fetched, for a moment, and not again for a while, whatever more is filed. */
  async function holdUp(tx: Sql, { institution: inst, patient: pat }: LedgerPatient): Promise<void> {
    const at = now();
    await tx.query(sql`
      update patient_link set held_up_at = ${at} where inst = ${inst} and pat = ${pat} and (held_up_at is null or held_up_at < ${new Date(at.getTime() - HOLD_EVERY_MS)})`);
  }

  /** Envelopes that count now; those that no statement in force names any more are forgotten, unless they were opened. */
  async function nameEnvelopes(tx: Sql, of: LedgerPatient, category: string, granted: Granted): Promise<boolean> {
    const named = granted.envelopes.filter((one) => one.category === category);
    const paths = named.map(({ path }) => path);
    await tx.query(sql`
      delete from shared_envelope where inst = ${of.institution} and pat = ${of.patient} and category = ${category} and state <> 'opened' and path <> all(${paths}::text[])`);
    const added = await tx.query(sql`
      insert into shared_envelope (inst, pat, category, path, hash, recipient, statement, retry_at)
      select distinct on (t.path) ${of.institution}, ${of.patient}, ${category}, t.path, t.hash, t.recipient, t.statement, ${now()}::timestamptz
      from unnest(${paths}::text[], ${named.map((one) => one.hash)}::text[], ${named.map((one) => one.recipient)}::text[], ${named.map((one) => one.statement)}::text[])
        as t(path, hash, recipient, statement)
      on conflict (inst, pat, category, path) do update set statement = excluded.statement, state = 'wanted', code = null, attempts = 0, retry_at = excluded.retry_at
        where shared_envelope.statement <> excluded.statement and shared_envelope.state = 'refused'
      returning path`);
    return added.length > 0;
  }

  /** The newest entry of each document that is not held, as far as the quota goes; and the end of documents that stand no more. */
  async function want(tx: Sql, of: LedgerPatient, row: CategoryRow): Promise<boolean> {
    const { institution: inst, patient: pat } = of;
    const { category } = row;
    let any = await ending.endDocuments(tx, { ...of, category });
    await tx.query(sql`
      delete from shared_object o where o.inst = ${inst} and o.pat = ${pat} and o.category = ${category}
        and not exists (select 1 from projection.document d where d.recorder = o.recorder and d.doc = o.document and d.inst = o.inst and d.pat = o.pat
          and d.category = o.category and not d.withdrawn)`);
    const missing = sql`select d.recorder, d.doc, d.version, d.n, d.block,
        exists (select 1 from shared_version v where v.recorder = d.recorder and v.document = d.doc)
          or exists (select 1 from shared_object o where o.recorder = d.recorder and o.document = d.doc and o.code is distinct from 'SHARED_QUOTA') as has_room
      from projection.document d
      where d.inst = ${inst} and d.pat = ${pat} and d.category = ${category} and not d.withdrawn
        and not exists (select 1 from shared_version v where v.recorder = d.recorder and v.document = d.doc and v.version = d.version and v.ciphertext_hash = d.ciphertext_hash)
        and not exists (select 1 from shared_object o where o.recorder = d.recorder and o.document = d.doc and o.version = d.version and o.n = d.n)`;
    const room = Math.max(0, quotas.maxDocumentsPerPatient - (await countDocuments(tx, of)));
    // What found no room is looked at again once there is some, and not by the clock: it may be any number.
    const freed = await tx.query(sql`
      update shared_object o set state = 'wanted', code = null, retry_at = ${now()} from (select recorder, document from shared_object
        where inst = ${inst} and pat = ${pat} and category = ${category} and code = 'SHARED_QUOTA' and retry_at = 'infinity' order by wanted_at, document limit ${room}) f
      where o.recorder = f.recorder and o.document = f.document returning 1`);
    const left = room - freed.length;
    const added = await tx.query<{ code: string | null }>(sql`
      insert into shared_object (recorder, document, version, n, inst, pat, category, state, code, retry_at, wanted_at)
      select m.recorder, m.doc, m.version, m.n, ${inst}, ${pat}, ${category}, case when m.fits then 'wanted' else 'refused' end,
        case when m.fits then null else 'SHARED_QUOTA' end, case when m.fits then ${now()}::timestamptz else 'infinity' end, ${now()}::timestamptz
      from (select f.*, f.has_room or row_number() over (partition by f.has_room order by f.block, f.doc) <= ${left} as fits from (${missing}) f) m
      -- What was given up of one version stays so until something of the document comes: new versions keep nobody waiting.
      on conflict (recorder, document) do update set version = excluded.version, n = excluded.n, category = excluded.category, retry_at = excluded.retry_at,
        state = case when excluded.code is null and shared_object.code is distinct from 'SHARED_QUOTA' then shared_object.state else excluded.state end,
        code = case when excluded.code is null and shared_object.code is distinct from 'SHARED_QUOTA' then shared_object.code else excluded.code end
      returning code`);
    if (added.length + freed.length > 0) await holdUp(tx, of);
    const over = added.some(({ code }) => code === 'SHARED_QUOTA');
    if (over) {
      if (row.code !== 'SHARED_QUOTA') parts.onAlarm({ code: 'SHARED_QUOTA', inst, pat, category });
      await tx.query(
        sql`update shared_category set code = 'SHARED_QUOTA' where inst = ${inst} and pat = ${pat} and category = ${category}`,
      );
    }
    any ||= added.length + freed.length > 0;
    return any;
  }

  return {
    scan,
    refresh,
    /** The next moment at which time alone changes something; milliseconds. */
    nextEnd: () => nextEnd,
    /** STALE while the view is being made anew; keeps that from beginning until the transaction ends. */
    async requireView(tx: Sql): Promise<void> {
      if ((await heights(tx, true)).behind) throw new CodedError('STALE', { retryAfterSeconds: 5 });
    },
  };
}
