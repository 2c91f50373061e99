import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import express, { type Router } from 'express';
import { SignJWT } from 'jose';
import { pino } from 'pino';
import { createFreshness } from '../src/app/freshness.ts';
import type { Audit } from '../src/audit/audit.ts';
import { MAX_COMMITS } from '../src/audit/audit-log.ts';
import { scopeAllows } from '../src/auth/scopes.ts';
import { ACCESS_TOKEN_TYPE, createTokenVerifier, type TokenVerifier } from '../src/auth/token-verifier.ts';
import { readableScope } from '../src/consent/readable-scope.ts';
import { createFacade } from '../src/fhir/facade.ts';
import type { FacadeParts } from '../src/fhir/ports.ts';
import { createHttpApp } from '../src/http/app.ts';
import { createHttpServer } from '../src/http/server.ts';
import { createProjection } from '../src/ledger/projection.ts';
import { createFileBlobs } from '../src/store/blob-files.ts';
import { createDatabase, type Database } from '../src/store/database.ts';
import { createEmbeddedPostgres } from '../src/store/embedded-postgres.ts';
import { createGatheredReads } from '../src/store/gathered-reads.ts';
import { migrate } from '../src/store/migrate.ts';
import { insertResources, prepareResources } from '../src/store/resources.ts';
import { sql } from '../src/store/sql.ts';
import { createFileCustodian } from '../src/vault/file-custodian.ts';
import type { SealedRows } from '../src/vault/sealed-rows.ts';
import { createSealedRows } from '../src/vault/sealed-rows-store.ts';
import { createSealer } from '../src/vault/sealer.ts';

export const INSTITUTION = 'inst-bench';
const ISSUER = 'http://127.0.0.1/bench';
const AUDIENCE = `${ISSUER}/fhir`;
const CATEGORIES = ['laboratory', 'radiation-dose', 'history-and-physical'];
/** Results of a document, as a panel has them. */
const RESULTS = 8;
const CHUNK = 200;
/** Nothing anchors here, and seeding a million documents takes its time. */
const MAX_STALENESS_MS = 86_400_000;

/** What a facade is made of, over a seeded database of its own. */
export interface ReadWorld {
  database: Database;
  /** For the audit's commits, as in the server. */
  auditing: Database;
  rows: SealedRows;
  postgresPid: number;
  parts: Omit<FacadeParts, 'audit' | 'readableScope'>;
  /** Bearer token of a clinician who may read the laboratory and dose of half of the patients. */
  token: string;
  /** `Type/id` of rows that this clinician may read. */
  readable: readonly string[];
  close(): Promise<void>;
}

/**
 * A database of so many documents, of four to a patient, under permissions to a hundred clinicians: rows as the pipeline writes them,
 * the projection's tables filled directly. The plain text of the readable rows lies beside them for the baseline. `filler` documents
 * more, of other patients, are copied inside the database: they are in every index and nobody opens them.
 */
export async function createReadWorld(documents: number, filler = 0): Promise<ReadWorld> {
  const directory = await mkdtemp(join(tmpdir(), 'oncobridge-bench-'));
  const postgres = await createEmbeddedPostgres({ directory: join(directory, 'postgres') });
  const database = createDatabase({ url: postgres.url, maxConnections: 16 });
  const auditing = createDatabase({ url: postgres.url, maxConnections: MAX_COMMITS });
  const reads = createGatheredReads({ url: postgres.url });
  const custodian = await createFileCustodian({
    directory: join(directory, 'keys'),
    passphrase: randomBytes(24).toString('hex'),
    institution: INSTITUTION,
  });
  const close = async (): Promise<void> => {
    await reads.close();
    await auditing.close();
    await database.close();
    await custodian.close();
    await postgres.stop();
    await rm(directory, { recursive: true, force: true });
  };
  try {
    await migrate(database);
    const rows = createSealedRows({ custodian });
    const readable = await seed(database, rows, documents);
    if (filler > 0) await fill(database, documents, filler);
    const { verifier, token } = await signIn();
    // Asked as the server asks it; nothing follows a ledger here.
    const ledger = { async *blocks() {}, height: async () => 1 };
    const projection = createProjection({ database, ledger, institution: INSTITUTION });
    return {
      database,
      auditing,
      rows,
      postgresPid: (await postgres.pid()) ?? 0,
      token,
      readable,
      close,
      parts: {
        database,
        reads,
        rows,
        sealer: createSealer({ custodian }),
        custodian,
        blobs: createFileBlobs({ directory: join(directory, 'blobs') }),
        institution: INSTITUTION,
        cursorKey: randomBytes(32),
        verifyToken: (given) => verifier.verify(`Bearer ${given}`),
        fresh: createFreshness({ projection, reads, maxStalenessMs: MAX_STALENESS_MS }),
        allows: scopeAllows,
        consents: { createConsent: never, updateConsent: never, readConsent: never, searchConsents: never },
        auditEvents: { readAuditEvent: never, searchAuditEvents: never },
        onIntegrity: () => {},
        onError: () => {},
        clock: () => new Date(),
      },
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** No Consent and no AuditEvent is asked for here. */
const never = async (): Promise<never> => {
  throw new Error('the bench reads clinical rows only');
};

/** The facade behind the server's own HTTP stack. */
export function serveFacade(
  world: ReadWorld,
  chosen: { audit: Audit; scope: typeof readableScope },
): Promise<{ url: string; close(): Promise<void> }> {
  const facade = createFacade(
    { ...world.parts, audit: chosen.audit, readableScope: chosen.scope },
    {
      baseUrl: AUDIENCE,
      software: { name: 'oncobridge', version: '0' },
      smart: { issuer: ISSUER, tokenEndpoint: `${ISSUER}/token`, scopesSupported: [], capabilities: [] },
    },
  );
  return serve(facade.router);
}

/** The same stack and token check; the row's plain text by its id, for whoever asks. */
export function servePlain(world: ReadWorld): Promise<{ url: string; close(): Promise<void> }> {
  const router = express.Router({ caseSensitive: true, strict: true });
  router.get('/:type/:id', async (req, res) => {
    res.set('Cache-Control', 'private, no-store').set('Vary', 'Accept, Authorization');
    await world.parts.verifyToken((req.get('authorization') ?? '').slice('Bearer '.length));
    const { type, id } = req.params;
    const [row] = await world.database.query<{ version: number; last_updated: Date; body: string }>(
      sql`select version, last_updated, body from plain_resource where id = ${id} and type = ${type}`,
    );
    if (row === undefined) {
      res.status(404).end();
      return;
    }
    const body = Buffer.from(row.body);
    res.status(200).setHeader('ETag', `W/"${row.version}"`);
    res.setHeader('Last-Modified', row.last_updated.toUTCString());
    res.setHeader('Content-Type', 'application/fhir+json; charset=utf-8');
    res.setHeader('Content-Length', body.length);
    res.end(body);
  });
  return serve(router);
}

function serve(router: Router): Promise<{ url: string; close(): Promise<void> }> {
  const logger = pino({ level: 'info' }, { write: () => {} });
  return createHttpServer({ handler: createHttpApp({ mounts: [['/fhir', router]], logger }), port: 0 });
}

async function signIn(): Promise<{ verifier: TokenVerifier; token: string }> {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
  const verifier = createTokenVerifier({
    issuerUrl: ISSUER,
    audience: AUDIENCE,
    institution: INSTITUTION,
    keyOf: async () => publicKey,
  });
  const claims = {
    client_id: 'cli-bench',
    scope: 'user/*.rs',
    purpose_of_use: 'TREAT',
    institution: INSTITUTION,
    actor: 'member',
    role: 'clinician',
  };
  const token = await new SignJWT(claims)
    .setProtectedHeader({ alg: 'ES384', kid: 'bench', typ: ACCESS_TOKEN_TYPE })
    .setIssuer(ISSUER)
    .setAudience(AUDIENCE)
    .setSubject(member(0))
    .setJti('bench')
    .setIssuedAt()
    .setExpirationTime('2h')
    .sign(privateKey);
  return { verifier, token };
}

/** Returns what clinician 0 may read. */
async function seed(database: Database, rows: SealedRows, documents: number): Promise<string[]> {
  const patients = Math.max(2, Math.ceil(documents / 4));
  await seedProjection(database, patients, 0);
  await seedInstitution(database);
  await database.query(sql`create table plain_resource (id text collate "C" primary key, type text not null, version integer not null,
    last_updated timestamptz not null, body text not null)`);
  const lastUpdated = new Date('2026-03-01T12:00:00Z');
  const readable: string[] = [];
  for (let start = 0; start < documents; start += CHUNK) {
    const chunk = Array.from({ length: Math.min(CHUNK, documents - start) }, (_, n) => document(start + n, patients));
    const prepared = await Promise.all(
      chunk.map((one) => prepareResources(rows, { ...one, institution: INSTITUTION, version: 1, lastUpdated })),
    );
    await database.transaction(async (tx) => {
      await insertResources(tx, prepared);
      const column = (of: (one: NewDocument) => string): string[] => chunk.map(of);
      await tx.query(sql`insert into patient (pat) select unnest(${column((d) => d.patient)}::text[]) on conflict do nothing`);
      await tx.query(sql`insert into subject (sub, category, key, pat, document, version)
        select 'sub-' || document, category, document, pat, document, 1 from unnest(${column((d) => d.document)}::text[], ${column((d) => d.category)}::text[],
          ${column((d) => d.patient)}::text[]) as t(document, category, pat)`);
      await tx.query(sql`insert into document_version (document, version, sub, pat, category, pointer, ciphertext_hash, commitment, key_version, size_bytes, manifest_hash, outbox, header)
        select document, 1, 'sub-' || document, pat, category, 'bench/' || document, hash, hash, 1, 100000, hash, '', '' from unnest(${column((d) => d.document)}::text[],
          ${column((d) => d.category)}::text[], ${column((d) => d.patient)}::text[], ${column((d) => hashOf(d.document))}::text[]) as t(document, category, pat, hash)`);
      await tx.query(sql`insert into projection.document (inst, pat, recorder, doc, category, version, n, ciphertext_hash, commitment, tx_id, block)
        select ${INSTITUTION}, pat, ${INSTITUTION}, document, category, 1, 0, hash, hash, 't', 1 from unnest(${column((d) => d.document)}::text[],
          ${column((d) => d.category)}::text[], ${column((d) => d.patient)}::text[], ${column((d) => hashOf(d.document))}::text[]) as t(document, category, pat, hash)`);
      const plain = chunk.filter((d) => d.readable).flatMap((d) => d.resources);
      readable.push(...plain.map(({ type, id }) => `${type}/${id}`));
      await tx.query(sql`insert into plain_resource (id, type, version, last_updated, body)
        select id, type, 1, ${lastUpdated}, body from unnest(${plain.map((r) => r.id)}::text[], ${plain.map((r) => r.type)}::text[], ${plain.map((r) => r.text)}::text[]) as t(id, type, body)`);
    });
  }
  await settle(database);
  return readable;
}

const FILLER_CHUNK = 50_000;

/** Two rows a document, under permissions as everybody has them; half of the patients are clinician 0's, as in `seed`. */
async function fill(database: Database, documents: number, filler: number): Promise<void> {
  const patients = Math.ceil(documents / 4);
  await seedProjection(database, Math.ceil(filler / 4), patients);
  for (let start = documents; start < documents + filler; start += FILLER_CHUNK) {
    const end = Math.min(start + FILLER_CHUNK, documents + filler) - 1;
    // Each copies a row of a document that is there, under names of its own.
    const copies = sql`generate_series(${start}::int, ${end}::int) as g(n), lateral (select 'pat-' || (${patients}::int + (n - ${documents}::int) / 4) as pat, 'doc-' || n as document, md5(n::text) as hash) as f`;
    await database.transaction(async (tx) => {
      await tx.query(sql`insert into patient (pat) select distinct f.pat from ${copies} on conflict do nothing`);
      await tx.query(
        sql`insert into subject (sub, category, key, pat, document, version) select 'sub-' || f.document, 'laboratory', f.document, f.pat, f.document, 1 from ${copies}`,
      );
      await tx.query(sql`insert into document_version (document, version, sub, pat, category, pointer, ciphertext_hash, commitment, key_version, size_bytes, manifest_hash, outbox, header)
        select f.document, 1, 'sub-' || f.document, f.pat, 'laboratory', 'bench/' || f.document, f.hash, f.hash, 1, 100000, f.hash, '', '' from ${copies}`);
      await tx.query(sql`insert into projection.document (inst, pat, recorder, doc, category, version, n, ciphertext_hash, commitment, tx_id, block)
        select ${INSTITUTION}, f.pat, ${INSTITUTION}, f.document, 'laboratory', 1, 0, f.hash, f.hash, 't', 1 from ${copies}`);
      await tx.query(sql`insert into resource (id, version, type, inst, pat, category, recorder, document, document_version, last_updated, clinical_start, clinical_end, elements, body)
        select 'res-' || n || '-' || substr(r.id, 7), 1, r.type, r.inst, f.pat, 'laboratory', r.recorder, f.document, 1, r.last_updated, r.clinical_start, r.clinical_end, r.elements, r.body
        from ${copies} cross join (select * from resource where id in ('res-0-0', 'res-0-r')) r`);
    }, 'unforced');
  }
  await settle(database);
}

/** What seeding leaves to be done later is done now, so that it is neither written nor vacuumed while reads are measured. */
async function settle(database: Database): Promise<void> {
  await database.query(sql`vacuum analyze`);
  await database.query(sql`checkpoint`);
}

interface NewDocument {
  document: string;
  patient: string;
  category: string;
  readable: boolean;
  resources: { type: string; id: string; text: string }[];
}

function document(n: number, patients: number): NewDocument {
  const patient = n % patients;
  const category = CATEGORIES[Math.floor(n / patients) % CATEGORIES.length] ?? '';
  const subject = { reference: `Patient/pat-${patient}` };
  const at = new Date(Date.UTC(2026, 0, 1) + (n % 5000) * 3_600_000).toISOString();
  const observations = Array.from({ length: RESULTS }, (_, i) => ({
    resourceType: 'Observation',
    id: `res-${n}-${i}`,
    status: 'final',
    category: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/observation-category', code: 'laboratory' }] }],
    identifier: [{ system: 'urn:lab', value: `ACC-${n}-${i}` }],
    code: { coding: [{ system: 'http://loinc.org', code: `${1000 + i}-0`, display: 'A laboratory result' }], text: 'A laboratory result' },
    subject,
    effectiveDateTime: at,
    performer: [{ reference: `Practitioner/prac-${n % 40}` }],
    valueQuantity: { value: 10 + (n % 50) / 10, unit: 'g/dL', system: 'http://unitsofmeasure.org', code: 'g/dL' },
    referenceRange: [{ low: { value: 12, unit: 'g/dL' }, high: { value: 16, unit: 'g/dL' } }],
  }));
  const report = {
    resourceType: 'DiagnosticReport',
    id: `res-${n}-r`,
    status: 'final',
    code: { coding: [{ system: 'http://loinc.org', code: '58410-2' }] },
    subject,
    effectiveDateTime: at,
    result: observations.map(({ id }) => ({ reference: `Observation/${id}` })),
  };
  return {
    document: `doc-${n}`,
    patient: `pat-${patient}`,
    category,
    readable: patient % 2 === 0 && category !== 'history-and-physical',
    resources: [...observations, report].map((one) => ({ type: one.resourceType, id: one.id, text: JSON.stringify(one) })),
  };
}

async function seedInstitution(database: Database): Promise<void> {
  const members = 100;
  await database.query(sql`insert into projection.checkpoint (height, tip, own_seen_at) values (1, 'tip', now())`);
  await database.query(
    sql`insert into projection.institution (inst, msp, status, signing_jwk, encryption_jwk, block) values (${INSTITUTION}, 'msp', 'active', '{}', '{}', 0)`,
  );
  await database.query(sql`insert into projection.member (inst, mem, role, status, valid_until, block)
    select ${INSTITUTION}, 'mem-' || n, 'clinician', 'active', now() + interval '1 year', 0 from generate_series(0, ${members - 1}::int) as m(n)`);
}

/** Each patient has granted two categories to clinician 0 or 1 and to two others. */
async function seedProjection(database: Database, patients: number, first: number): Promise<void> {
  const numbers = sql`generate_series(${first}::int, ${first + patients - 1}::int) as p(n)`;
  await database.query(sql`insert into projection.patient (inst, pat, custody, status, block)
    select ${INSTITUTION}, 'pat-' || n, true, 'active', 0 from ${numbers}`);
  await database.query(sql`insert into projection.category_key (inst, pat, category, version, public_jwk, block)
    select ${INSTITUTION}, 'pat-' || n, category, 1, '{}', 0 from ${numbers} cross join unnest(${CATEGORIES}::text[]) as c(category)`);
  await database.query(sql`insert into projection.permission (inst, pat, grantor, grantee, category, seq, status, recorded_at, tx_id, block)
    select ${INSTITUTION}, 'pat-' || n, 'patient', 'member:' || ${INSTITUTION}::text || ':mem-' || mem, category, 1, 'active', now(), 't', 0
    from ${numbers} cross join lateral (values (n % 2), (2 + n % 49), (51 + n % 49)) as g(mem)
    cross join unnest(${CATEGORIES.slice(0, 2)}::text[]) as c(category)`);
  await database.query(sql`insert into projection.clause (inst, pat, grantor, grantee, category, n, effect, rights, purposes, period_start, period_end, consent)
    select inst, pat, grantor, grantee, category, 0, 'permit', '{read}', '{TREAT,HOPERAT}', now() - interval '1 day', now() + interval '30 days', 'con-' || pat
    from projection.permission on conflict do nothing`);
}

function member(n: number): string {
  return `mem-${n}`;
}
function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
