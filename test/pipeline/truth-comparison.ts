import type { Truth, TruthRecord } from '../../simulator/truth.ts';
import type { Core } from '../../src/app/core.ts';
import { openVersionName } from '../../src/pipeline/record-seal.ts';
import type { Manifest } from '../../src/records/model.ts';
import { sql } from '../../src/store/sql.ts';

interface Row {
  rec: string;
  source: string;
  stream: string;
  key: string;
  version_id: Buffer;
  current: boolean;
  outcome: string;
  reason: string | null;
  document: string | null;
  document_version: number | null;
}
interface DocumentRow {
  document: string;
  version: number;
  pat: string;
  category: string;
  header: Buffer;
  withdrawn_at: Date | null;
  newest: number;
}

/** Reasons under which a version that is about a subject may stand without a document: a newer one, or the source's own end of it. */
const ENDED = new Set(['WITHDRAWN_AT_SOURCE', 'DELETED_AT_SOURCE']);
const OVERTAKEN = new Set(['SUPERSEDED', 'DUPLICATE_HASH', ...ENDED]);
const DIRECTORY_TYPES = ['Patient', 'Practitioner', 'Organization', 'Appointment'];

/**
 * Everything in which rows, manifests and ledger differ from the simulator's own list; empty where all is as it should be.
 * Reads the database, opens manifests, and reads every block: it believes no counter.
 */
export async function compareWithTruth(core: Pick<Core, 'database' | 'rows' | 'ledger' | 'institution'>, truth: Truth): Promise<string[]> {
  const problems: string[] = [];
  const { database, rows, institution } = core;

  const stored = await database.query<Row>(
    sql`select rec, source, stream, key, version_id, current, outcome, reason, document, document_version from record where not (type = any(${DIRECTORY_TYPES}))`,
  );
  const versions = new Map<string, Row>();
  for (const row of stored) {
    const name = await openVersionName(rows, row);
    const version = `${row.source} ${name.type}/${name.id}@${name.versionId}`;
    if (versions.has(version)) problems.push(`${version}: stored twice`);
    versions.set(version, row);
    if (row.outcome === 'pending') problems.push(`${version}: still pending`);
  }

  const documents = await database.query<DocumentRow>(sql`
    select d.document, d.version, d.pat, d.category, d.header, s.withdrawn_at, s.version as newest
    from document_version d join subject s on s.document = d.document order by d.document, d.version`);
  const standing = new Map(documents.filter((d) => d.withdrawn_at === null).map((d) => [d.document, d]));
  const withdrawn = new Map(documents.filter((d) => d.withdrawn_at !== null).map((d) => [d.document, d]));

  // -- every version of a record --
  const documentsOf = new Map<string, Set<string>>();
  const claimed = new Set<string>();
  for (const record of truth.records) {
    if (record.stream === 'directory') continue;
    const version = `${record.source} ${record.type}/${record.id}@${record.deleted ? '' : record.versionId}`;
    const row = versions.get(version);
    const problem = row === undefined ? missing(record) : verdict(record, row);
    if (problem !== undefined) problems.push(`${version}${record.current ? '' : ' (old)'}: ${problem}`);
    if (row !== undefined) claimed.add(version);
    if (row?.outcome === 'own' && row.document !== null && record.expect.outcome === 'own') {
      const set = documentsOf.get(record.expect.subject) ?? new Set();
      documentsOf.set(record.expect.subject, set.add(row.document));
    }
  }
  for (const version of versions.keys()) if (!claimed.has(version)) problems.push(`${version}: the source never said so`);

  // -- subjects and documents, one to one --
  const subjectOf = new Map<string, string>();
  const patients = new Map<string, string>();
  for (const subject of truth.subjects) {
    const found = [...(documentsOf.get(subject.subject) ?? [])];
    for (const document of found) {
      const other = subjectOf.get(document);
      if (other !== undefined && other !== subject.subject) problems.push(`${document}: is about ${other} and ${subject.subject}`);
      subjectOf.set(document, subject.subject);
    }
    const stands = found.filter((document) => standing.has(document));
    // What was withdrawn before any pull saw it never had a document.
    const expected = subject.state === 'filed' ? 1 : 0;
    if (stands.length !== expected) problems.push(`${subject.subject} is ${subject.state}: ${stands.length} documents stand`);
    if (found.length > 1) problems.push(`${subject.subject}: ${found.length} documents`);
    const document = standing.get(stands[0] ?? '');
    if (document === undefined) continue;
    if (document.category !== subject.category) problems.push(`${subject.subject}: filed as ${document.category}`);
    if ((patients.get(subject.patient) ?? document.pat) !== document.pat) problems.push(`${subject.patient}: two pseudonyms`);
    patients.set(subject.patient, document.pat);
  }
  if (new Set(patients.values()).size !== patients.size) problems.push('two patients share a pseudonym');
  for (const document of [...standing.keys(), ...withdrawn.keys()])
    if (!subjectOf.has(document)) problems.push(`${document}: no subject of the source is behind it`);

  // -- manifests: what a document says that it is about, and what the rows say --
  const ownedBy = new Map<string, string>();
  for (const row of documents) {
    const { manifest } = await headerOf(core, row);
    for (const { record } of manifest.own) {
      const owner = ownedBy.get(record) ?? row.document;
      if (owner !== row.document) problems.push(`${record}: own in ${owner} and ${row.document}`);
      ownedBy.set(record, owner);
    }
    if (row.version !== row.newest || row.withdrawn_at !== null) continue;
    const newest = new Set(manifest.own.map(({ record }) => record));
    // A version that says the same in other words (meta alone) belongs to the document without a new manifest.
    for (const one of stored.filter((r) => r.document === row.document && r.outcome === 'own' && r.current))
      if (!newest.has(one.rec) && !stored.some((r) => r.key === one.key && newest.has(r.rec)))
        problems.push(`${one.rec}: not in the manifest of ${row.document}`);
    for (const { record } of manifest.own) {
      const one = stored.find((r) => r.rec === record);
      if (one?.document !== row.document || one.outcome !== 'own')
        problems.push(`${record}: in the manifest of ${row.document}, yet ${one?.outcome}`);
    }
  }
  for (const row of stored)
    if (row.outcome === 'own' && !ownedBy.has(row.rec) && !stored.some((r) => r.key === row.key && ownedBy.has(r.rec)))
      problems.push(`${row.rec}: own, yet in no manifest`);

  // -- the ledger: each version of each document once, withdrawals exactly --
  const entries = new Map<string, number>();
  const withdrawals = new Set<string>();
  for (let number = 0, height = await core.ledger.height(); number < height; ) {
    for await (const block of core.ledger.blocks(number)) {
      for (const transaction of block.transactions.filter((t) => t.validation === 'VALID')) {
        for (const key of transaction.writes.keys()) {
          const [kind, , , recorder, document = '', version = '', n = ''] = key.split('/');
          if (recorder !== institution) continue;
          if (kind === 'ent') {
            const name = `${document}/${Number(version)}/${Number(n)}`;
            entries.set(name, (entries.get(name) ?? 0) + 1);
          }
          if (kind === 'wd') withdrawals.add(document);
        }
      }
      number = block.number + 1;
      if (number >= height) break;
    }
  }
  for (const [name, count] of entries) if (count !== 1) problems.push(`ledger: ${name} was entered ${count} times`);
  for (const row of documents)
    if (!entries.has(`${row.document}/${row.version}/0`)) problems.push(`ledger: ${row.document} version ${row.version} is missing`);
  const filed = new Set(documents.map((row) => `${row.document}/${row.version}`));
  for (const name of entries.keys()) {
    const [document, version] = name.split('/');
    if (!filed.has(`${document}/${version}`)) problems.push(`ledger: ${name} has no document here`);
  }
  for (const document of withdrawn.keys())
    if (!withdrawals.has(document)) problems.push(`ledger: the withdrawal of ${document} is missing`);
  for (const document of withdrawals) if (!withdrawn.has(document)) problems.push(`ledger: ${document} is withdrawn, and stands here`);

  // -- counts of each stream --
  for (const [stream, expected] of Object.entries(truth.counts)) {
    if (stream === 'directory') continue;
    const mine = new Set(stored.filter((row) => `${row.source}/${row.stream}` === stream).map((row) => row.key));
    if (mine.size !== expected.current) problems.push(`${stream}: ${mine.size} records, the source has ${expected.current}`);
    const of = new Set(truth.records.filter((r) => r.stream === stream).map((r) => (r.expect.outcome === 'own' ? r.expect.subject : '')));
    const count = [...subjectOf].filter(([document, subject]) => standing.has(document) && of.has(subject)).length;
    if (count !== expected.filed) problems.push(`${stream}: ${count} documents stand, the source has ${expected.filed}`);
    const gone = [...subjectOf].filter(([document, subject]) => withdrawn.has(document) && of.has(subject)).length;
    if (gone > expected.withdrawn) problems.push(`${stream}: ${gone} documents withdrawn, the source has ${expected.withdrawn}`);
  }
  return problems;
}

/** The newest version of a document, with the simulator's own name of what it is about. */
export interface FiledDocument {
  document: string;
  version: number;
  pat: string;
  category: string;
  /** Why it is withdrawn, or null. */
  withdrawn: string | null;
  subject: string;
  /** `Type/id` of the records that its manifest names. */
  own: readonly string[];
  transactions: readonly (string | null)[];
}

export async function filedDocuments(core: Pick<Core, 'database' | 'rows'>, truth: Truth): Promise<FiledDocument[]> {
  const subjects = new Map<string, string>();
  for (const { source, type, id, versionId, expect } of truth.records)
    if (expect.outcome === 'own') subjects.set(`${source} ${type}/${id}@${versionId}`, expect.subject);
  const found = await core.database.query<DocumentRow & { withdrawn_reason: string | null; transactions: (string | null)[] }>(sql`
    select distinct on (d.document) d.document, d.version, d.pat, d.category, d.header, s.withdrawn_at, s.withdrawn_reason, s.version as newest,
      (select array_agg(o.tx_id) from outbox o where o.args::text like '%' || d.document || '%') as transactions
    from document_version d join subject s on s.document = d.document order by d.document, d.version desc`);
  return Promise.all(
    found.map(async (row) => {
      const { manifest } = await headerOf(core, row);
      const [first] = manifest.own;
      return {
        document: row.document,
        version: row.version,
        pat: row.pat,
        category: row.category,
        withdrawn: row.withdrawn_reason,
        subject: subjects.get(`${first?.source} ${first?.type}/${first?.id}@${first?.versionId}`) ?? '',
        own: manifest.own.map(({ type, id }) => `${type}/${id}`),
        transactions: row.transactions,
      };
    }),
  );
}

async function headerOf(core: Pick<Core, 'rows'>, row: DocumentRow): Promise<{ manifest: Manifest }> {
  const header = await core.rows.open(row.pat, row.category, `header/${row.document}/${row.version}`, row.header);
  return JSON.parse(header.toString()) as { manifest: Manifest };
}

/** A version that two steps in a row replaced may never be seen; a tombstone of what was never seen is none. */
function missing(record: TruthRecord): string | undefined {
  return record.current && !record.deleted ? `not stored, expected ${JSON.stringify(record.expect)}` : undefined;
}

function verdict(record: TruthRecord, row: Row): string | undefined {
  const { expect } = record;
  const is = `${row.outcome} ${row.reason ?? ''}`.trim();
  switch (expect.outcome) {
    case 'own':
      if (row.outcome === 'own') return row.document === null ? 'own of nothing' : undefined;
      if (row.outcome !== 'skip') return `${is}, expected own of ${expect.subject}`;
      if (expect.withdraws === true && ENDED.has(row.reason ?? '')) return undefined;
      if (!record.current && OVERTAKEN.has(row.reason ?? '')) return undefined;
      // The same content under another version: its first version is the document's.
      if (row.reason === 'DUPLICATE_HASH') return undefined;
      return `${is}, expected own of ${expect.subject}`;
    case 'skip':
    case 'quarantine':
      if (!record.current && row.reason === 'SUPERSEDED') return undefined;
      return row.outcome === expect.outcome && row.reason === expect.why ? undefined : `${is}, expected ${expect.outcome} ${expect.why}`;
    case 'directory':
      return undefined;
  }
}
