import type { Sql } from '../store/database.ts';
import { type SqlFragment, sql } from '../store/sql.ts';
import type {
  AnchorState,
  CategoryKeyState,
  EmergencyState,
  EntryState,
  InstitutionState,
  MemberState,
  PatientState,
  PermissionState,
} from './contract/state.ts';
import type { Denied } from './projection-alarms.ts';
import { PROJECTION } from './projection-state.ts';
import type { Replayed } from './replay.ts';

/** One write with where it stands on the ledger. */
export interface Write {
  key: string;
  parts: string[];
  value: string | null;
  block: number;
  n: number;
  txId: string;
  time: string;
}

/** The writes of a block's transactions, in their order. */
export function writesOf(block: number, transactions: readonly Pick<Replayed, 'n' | 'transaction' | 'writes'>[]): Write[] {
  return transactions.flatMap(({ n, transaction, writes }) =>
    [...writes].map(([key, value]) => ({
      key,
      parts: key.split('/'),
      value,
      block,
      n,
      txId: transaction.txId,
      time: transaction.time,
    })),
  );
}

/**
 * Advances the rows that follow from these writes, of one block or of several in their order: the raw state with its history, and
 * the tables of the readable scope. Each kind of row goes in one statement. Returns the keys of entries that contradict one that stands.
 */
export async function writeRows(on: Sql, writes: readonly Write[], denied: Denied, schema: SqlFragment = PROJECTION): Promise<Write[]> {
  if (writes.length === 0) return [];
  await on.query(sql`insert into ${schema}.state (key, block, tx, value)
    select s.key, s.block, s.tx, s.value
    from unnest(${writes.map((w) => w.key)}::text[], ${writes.map((w) => w.block)}::bigint[], ${writes.map((w) => w.n)}::integer[],
      ${writes.map((w) => w.value)}::text[]) s (key, block, tx, value)`);
  const newest = new Map(writes.map((write) => [write.key, write]));
  const group = (...names: string[]): Write[] => [...newest.values()].filter(({ parts }) => names.includes(parts[0] ?? ''));

  await writeParties(on, group('inst', 'mem', 'anchor'), denied, schema);
  await writePatients(on, group('pat', 'emg'), denied, schema);
  await writePermissions(on, group('perm'), schema);
  return writeEntries(on, writes, schema);
}

function parse(write: Write): unknown {
  // Only the contract writes, and it never deletes what these tables show.
  return JSON.parse(write.value ?? 'null');
}

async function writeParties(on: Sql, writes: readonly Write[], denied: Denied, schema: SqlFragment): Promise<void> {
  for (const write of writes) {
    const { block } = write;
    const [kind, inst = '', mem = ''] = write.parts;
    if (kind === 'inst') {
      const v = parse(write) as InstitutionState;
      const status = denied.institution(inst) ? 'alarmed' : v.status;
      await on.query(sql`insert into ${schema}.institution (inst, msp, status, signing_jwk, encryption_jwk, block)
        values (${inst}, ${v.msp}, ${status}, ${JSON.stringify(v.signing)}::jsonb, ${JSON.stringify(v.encryption)}::jsonb, ${block})
        on conflict (inst) do update set msp = excluded.msp, status = excluded.status, signing_jwk = excluded.signing_jwk,
          encryption_jwk = excluded.encryption_jwk, block = excluded.block`);
    } else if (kind === 'mem') {
      const v = parse(write) as MemberState;
      const status = denied.member(inst, mem) ? 'alarmed' : v.status;
      await on.query(sql`insert into ${schema}.member (inst, mem, role, signing_thumbprint, encryption_thumbprint, status, valid_until, block)
        values (${inst}, ${mem}, ${v.role}, ${v.signing}, ${v.encryption}, ${status}, ${v.validUntil}::timestamptz, ${block})
        on conflict (inst, mem) do update set role = excluded.role, signing_thumbprint = excluded.signing_thumbprint,
          encryption_thumbprint = excluded.encryption_thumbprint, status = excluded.status, valid_until = excluded.valid_until, block = excluded.block`);
    } else {
      const v = parse(write) as AnchorState;
      await on.query(sql`insert into ${schema}.anchor (inst, number, root, time, block) values (${inst}, ${v.number}, ${v.root}, ${v.time}::timestamptz, ${block})
        on conflict (inst) do update set number = excluded.number, root = excluded.root, time = excluded.time, block = excluded.block`);
    }
  }
}

async function writePatients(on: Sql, writes: readonly Write[], denied: Denied, schema: SqlFragment): Promise<void> {
  const cores = writes.filter(({ parts }) => parts[0] === 'pat' && parts[3] === 'core');
  if (cores.length > 0) {
    const values = cores.map((write) => ({
      inst: write.parts[1] ?? '',
      pat: write.parts[2] ?? '',
      core: parse(write) as PatientState,
      block: write.block,
    }));
    await on.query(sql`insert into ${schema}.patient (inst, pat, custody, status, block)
      select p.inst, p.pat, p.custody, p.status, p.block
      from unnest(${values.map((v) => v.inst)}::text[], ${values.map((v) => v.pat)}::text[], ${values.map((v) => v.core.custody)}::boolean[],
        ${values.map((v) => (denied.patient(v.inst, v.pat) ? 'alarmed' : v.core.status))}::text[],
        ${values.map((v) => v.block)}::bigint[]) p (inst, pat, custody, status, block)
      on conflict (inst, pat) do update set custody = excluded.custody, status = excluded.status, block = excluded.block`);
  }
  const keys = writes.filter(({ parts }) => parts[0] === 'pat' && parts[5] === 'v');
  if (keys.length > 0) {
    await on.query(sql`insert into ${schema}.category_key (inst, pat, category, version, public_jwk, block)
      select k.inst, k.pat, k.category, k.version, k.jwk::jsonb, k.block
      from unnest(${keys.map((w) => w.parts[1])}::text[], ${keys.map((w) => w.parts[2])}::text[], ${keys.map((w) => w.parts[4])}::text[],
        ${keys.map((w) => Number(w.parts[6]))}::integer[], ${keys.map((w) => JSON.stringify((parse(w) as CategoryKeyState).key))}::text[],
        ${keys.map((w) => w.block)}::bigint[]) k (inst, pat, category, version, jwk, block)
      on conflict (inst, pat, category, version) do update set public_jwk = excluded.public_jwk, block = excluded.block`);
  }
  for (const write of writes.filter(({ parts }) => parts[0] === 'emg')) {
    const v = parse(write) as EmergencyState;
    await on.query(sql`insert into ${schema}.emergency (inst, pat, id, member, from_time, until_time, block)
      values (${write.parts[1]}, ${write.parts[2]}, ${write.parts[3]}, ${v.member}, ${v.from}::timestamptz, ${v.until}::timestamptz, ${write.block})
      on conflict (inst, pat, id) do nothing`);
  }
}

/** Heads only: the newest version written, with its whole list of clauses. */
async function writePermissions(on: Sql, writes: readonly Write[], schema: SqlFragment): Promise<void> {
  const heads = new Map<string, Write>();
  // Versions of one triple come in the order of the block, so the last is the head.
  for (const write of writes) if (write.parts[6] === 'v') heads.set(write.parts.slice(1, 6).join('/'), write);
  for (const write of heads.values()) {
    const [, inst, pat, grantor, grantee, category, , seq] = write.parts;
    const v = parse(write) as PermissionState;
    await on.query(sql`insert into ${schema}.permission (inst, pat, grantor, grantee, category, seq, status, parent_grantor, parent_grantee, recorded_at, tx_id, block)
      values (${inst}, ${pat}, ${grantor}, ${grantee}, ${category}, ${Number(seq)}, ${v.status}, ${v.parentGrantor}, ${v.parentGrantee}, ${v.at}::timestamptz, ${write.txId}, ${write.block})
      on conflict (inst, pat, grantor, grantee, category) do update set seq = excluded.seq, status = excluded.status, parent_grantor = excluded.parent_grantor,
        parent_grantee = excluded.parent_grantee, recorded_at = excluded.recorded_at, tx_id = excluded.tx_id, block = excluded.block`);
    await on.query(
      sql`delete from ${schema}.clause where inst = ${inst} and pat = ${pat} and grantor = ${grantor} and grantee = ${grantee} and category = ${category}`,
    );
    for (const [n, c] of v.clauses.entries()) {
      await on.query(sql`insert into ${schema}.clause (inst, pat, grantor, grantee, category, n, effect, rights, purposes, period_start, period_end, data_start, data_end, consent, emergency)
        values (${inst}, ${pat}, ${grantor}, ${grantee}, ${category}, ${n}, ${c.effect}, ${[...c.rights]}::text[], ${c.purposes === null ? null : [...c.purposes]}::text[],
          ${c.periodStart}::timestamptz, ${c.periodEnd}::timestamptz, ${c.dataStart}::timestamptz, ${c.dataEnd}::timestamptz, ${c.consent}, ${c.emergency})`);
    }
  }
}

/**
 * Entries and the documents that stand on them. Of two hashes at one (document, version, n) the first in block order stands;
 * the later one is kept and reported (protocol section 3). The subqueries with a limit are looked up by index: without one a plan
 * that was made while the tables were empty reads them whole at every block, until the first analyze.
 */
async function writeEntries(on: Sql, all: readonly Write[], schema: SqlFragment): Promise<Write[]> {
  const entries = new Map<string, Write & { first: boolean }>();
  const places = new Set<string>();
  const documents = new Map<string, string[]>();
  for (const write of all) {
    const [kind, ...name] = write.parts;
    if (kind !== 'ent' && kind !== 'wd') continue;
    const document = name.slice(0, 4);
    documents.set(document.join('/'), document);
    if (kind === 'wd' || entries.has(write.key)) continue;
    const place = write.parts.slice(1, 7).join('/');
    entries.set(write.key, { ...write, first: !places.has(place) });
    places.add(place);
  }
  if (documents.size === 0) return [];
  const rows = [...entries.values()];
  const values = rows.map((row) => parse(row) as EntryState);
  const part = (i: number): string[] => rows.map((row) => row.parts[i] ?? '');
  let contradicting: Write[] = [];
  if (rows.length > 0) {
    const inserted = await on.query<{ key: string; standing: boolean }>(sql`
      insert into ${schema}.entry (inst, pat, recorder, doc, version, n, entry_hash, clinician, category, pointer, ciphertext_hash, commitment, key_version, tx_id, block, tx, recorded_at, standing)
      select e.inst, e.pat, e.recorder, e.doc, e.version, e.n, e.entry_hash, e.clinician, e.category, e.pointer, e.ciphertext_hash, e.commitment, e.key_version,
        e.tx_id, e.block, e.tx, e.at, e.first and (select true from ${schema}.entry o where o.inst = e.inst and o.pat = e.pat
          and o.recorder = e.recorder and o.doc = e.doc and o.version = e.version and o.n = e.n limit 1) is null
      from unnest(${part(1)}::text[], ${part(2)}::text[], ${part(3)}::text[], ${part(4)}::text[], ${part(5).map(Number)}::integer[], ${part(6).map(Number)}::integer[],
        ${part(7)}::text[], ${values.map((v) => v.clinician)}::text[], ${values.map((v) => v.category)}::text[], ${values.map((v) => v.pointer)}::text[],
        ${values.map((v) => v.ciphertextHash)}::text[], ${values.map((v) => v.commitment)}::text[], ${values.map((v) => v.keyVersion)}::integer[],
        ${rows.map((row) => row.txId)}::text[], ${rows.map((row) => row.block)}::bigint[], ${rows.map((row) => row.n)}::integer[], ${rows.map((row) => row.time)}::timestamptz[], ${rows.map((row) => row.first)}::boolean[])
        e (inst, pat, recorder, doc, version, n, entry_hash, clinician, category, pointer, ciphertext_hash, commitment, key_version, tx_id, block, tx, at, first)
      on conflict (inst, pat, recorder, doc, version, n, entry_hash) do nothing
      returning 'ent/' || inst || '/' || pat || '/' || recorder || '/' || doc || '/' || lpad(version::text, 10, '0') || '/' || lpad(n::text, 10, '0') || '/' || entry_hash as key, standing`);
    contradicting = inserted.flatMap(({ key, standing }) => (standing ? [] : (entries.get(key) ?? [])));
  }
  const named = [...documents.values()];
  const column = (i: number): string[] => named.map((one) => one[i] ?? '');
  await on.query(sql`
    insert into ${schema}.document (inst, pat, recorder, doc, category, version, n, ciphertext_hash, commitment, withdrawn, tx_id, block)
    select distinct on (e.recorder, e.doc) e.inst, e.pat, e.recorder, e.doc, e.category, e.version, e.n, e.ciphertext_hash, e.commitment,
      (select true from ${schema}.state w where w.key = 'wd/' || e.inst || '/' || e.pat || '/' || e.recorder || '/' || e.doc limit 1) is not null, e.tx_id, e.block
    from unnest(${column(0)}::text[], ${column(1)}::text[], ${column(2)}::text[], ${column(3)}::text[]) a (inst, pat, recorder, doc)
    cross join lateral (select * from ${schema}.entry o where o.inst = a.inst and o.pat = a.pat and o.recorder = a.recorder and o.doc = a.doc
      and o.standing order by o.version desc, o.n desc, o.block, o.tx limit 1) e
    order by e.recorder, e.doc, e.version desc, e.n desc, e.block, e.tx
    on conflict (recorder, doc) do update set category = excluded.category, version = excluded.version, n = excluded.n, ciphertext_hash = excluded.ciphertext_hash,
      commitment = excluded.commitment, withdrawn = excluded.withdrawn, tx_id = excluded.tx_id, block = excluded.block
    where document.inst = excluded.inst and document.pat = excluded.pat`);
  return contradicting;
}
