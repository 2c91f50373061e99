import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Express } from 'express';
import { pino } from 'pino';
import type { AccessEvent } from '../../src/audit/audit.ts';
import type { Actor, MemberActor, PatientActor } from '../../src/auth/actor.ts';
import { scopeAllows } from '../../src/auth/scopes.ts';
import { CodedError } from '../../src/errors.ts';
import { createFacade, type Facade } from '../../src/fhir/facade.ts';
import type { FacadeParts, ServedResource } from '../../src/fhir/ports.ts';
import { createHttpApp, type HttpAppOptions } from '../../src/http/app.ts';
import type { TimeRange } from '../../src/records/fhir-time.ts';
import { createFileBlobs } from '../../src/store/blob-files.ts';
import type { BlobStore } from '../../src/store/blobs.ts';
import type { Database } from '../../src/store/database.ts';
import { createGatheredReads } from '../../src/store/gathered-reads.ts';
import { writeDirectory, writePatients, writeResources } from '../../src/store/resources.ts';
import { sql } from '../../src/store/sql.ts';
import type { Custodian } from '../../src/vault/custodian.ts';
import { createFileCustodian } from '../../src/vault/file-custodian.ts';
import type { SealedRows } from '../../src/vault/sealed-rows.ts';
import { createSealedRows } from '../../src/vault/sealed-rows-store.ts';
import { createSealer } from '../../src/vault/sealer.ts';
import { withTestDatabase } from '../store/test-database.ts';

export const INST = 'inst-aaaaaaaaaaaaaaaaaaaaaaaaaa';
export const BASE = 'http://fhir.test/fhir';
export const NOW = new Date('2026-11-20T12:00:00Z');
const UPDATED = new Date('2026-11-01T08:00:00.123Z');

/** A facade over a real database, real sealing and real objects; only consent is a table of grants that the test fills. */
export interface World {
  app: Express;
  facade: Facade;
  database: Database;
  rows: SealedRows;
  custodian: Custodian;
  blobs: BlobStore;
  parts: FacadeParts;
  audited: AccessEvent[];
  alarms: unknown[];
  logged: string[];
  /** Members by token: `Bearer <name>`. */
  actors: Map<string, Actor>;
  consents: ServedResource[];
  auditEvents: ServedResource[];
  state: { fresh: boolean; now: Date; auditFails: boolean; deny: Set<string>; declared: Set<string> };
  grant(token: string, pat: string, category: string, data?: { start?: string; end?: string }): Promise<void>;
  revoke(token: string, pat: string, category?: string): Promise<void>;
  patient(pat: string, text: object): Promise<void>;
  /** Files a document whose entry stands on the ledger. */
  document(document: NewDocument): Promise<void>;
  directory(resources: readonly { resourceType: string; id: string }[]): Promise<void>;
  withdraw(document: string): Promise<void>;
  /** Withdrawn as filed to the wrong person: its rows go, its object stays. */
  misfile(document: string): Promise<void>;
  remove(document: string): Promise<void>;
  close(): Promise<void>;
}
export interface NewDocument {
  document: string;
  version?: number;
  pat: string;
  category: string;
  /** JSON texts or objects with resourceType and id. */
  resources: readonly (string | { resourceType: string; id: string })[];
  pdf?: Uint8Array;
  covers?: TimeRange;
  /** Not on the ledger (yet), or another hash there. */
  entry?: 'none' | 'other-hash';
}

export function member(name: string, extra: Partial<MemberActor> = {}): MemberActor {
  return {
    kind: 'member',
    institution: INST,
    member: `mem-${name}`,
    role: 'clinician',
    client: `cli-${name}`,
    scopes: ['user/*.rs', 'user/Consent.cu'],
    purpose: 'TREAT',
    tokenId: `jti-${name}`,
    ...extra,
  };
}
export function person(name: string, pat: string): PatientActor {
  return {
    kind: 'patient',
    institution: INST,
    patient: pat,
    client: `cli-${name}`,
    scopes: ['patient/*.rs'],
    purpose: 'PATRQT',
    tokenId: `jti-${name}`,
  };
}

export async function createWorld(
  options: { settings?: object; http?: Partial<HttpAppOptions>; parts?: Partial<FacadeParts>; blobs?: BlobStore } = {},
): Promise<World> {
  const { database, url, close } = await withTestDatabase();
  const reads = createGatheredReads({ url });
  const directory = await mkdtemp(join(tmpdir(), 'oncobridge-fhir-'));
  const custodian = await createFileCustodian({
    directory: join(directory, 'keys'),
    passphrase: randomBytes(16).toString('hex'),
    institution: INST,
  });
  const rows = createSealedRows({ custodian });
  const sealer = createSealer({ custodian });
  const blobs = options.blobs ?? createFileBlobs({ directory: join(directory, 'blobs') });
  await database.query(
    sql`create table test_grant (actor text, inst text, pat text, category text, data_start timestamptz, data_end timestamptz)`,
  );
  await database.query(sql`insert into projection.checkpoint (height, tip) values (7, 'tip')`);
  const audited: AccessEvent[] = [];
  const alarms: unknown[] = [];
  const logged: string[] = [];
  const actors = new Map<string, Actor>([
    ['clinician', member('clinician')],
    ['breaker', { ...member('clinician'), purpose: 'BTG' }],
    ['stranger', member('stranger')],
  ]);
  const consents: ServedResource[] = [];
  const auditEvents: ServedResource[] = [];
  const state = { fresh: true, now: NOW, auditFails: false, deny: new Set<string>(), declared: new Set<string>() };
  const parts: FacadeParts = {
    database,
    reads,
    rows,
    sealer,
    custodian,
    blobs,
    institution: INST,
    cursorKey: randomBytes(32),
    audit: {
      async record(event) {
        if (state.auditFails) throw new CodedError('UNAVAILABLE');
        audited.push(event);
      },
      async close() {},
    },
    async verifyToken(token) {
      const actor = actors.get(token);
      if (actor === undefined) throw new CodedError('UNAUTHENTICATED');
      return actor;
    },
    fresh: () => state.fresh,
    allows: (actor, type, interaction) => scopeAllows(actor, type, interaction) && !state.deny.has(`${type}.${interaction}`),
    readableScope: ({ actor, extent }) => {
      const id = actor.kind === 'patient' ? actor.patient : actor.kind === 'member' ? actor.member : actor.institution;
      return sql`select g.inst, g.pat, g.category, g.data_start, g.data_end from test_grant g where g.actor = ${id} and ${extent !== 'emergency' || state.declared.has(id)}`;
    },
    consents: {
      async createConsent(_actor, resource) {
        const made: ServedResource = {
          type: 'Consent',
          id: 'con-new',
          versionId: '1',
          lastUpdated: UPDATED,
          text: JSON.stringify({ ...resource, id: 'con-new', meta: { versionId: '1', lastUpdated: UPDATED.toISOString() } }),
          patients: [],
        };
        return { resource: made, committed: resource.status === 'active' };
      },
      async updateConsent(_actor, id, resource, ifMatch) {
        const former = consents.find((one) => one.id === id);
        if (former === undefined) throw new CodedError('NOT_FOUND');
        if (ifMatch !== former.versionId) throw new CodedError('PRECONDITION_FAILED');
        return { resource: { ...former, versionId: '2', text: JSON.stringify(resource) }, committed: true };
      },
      async readConsent(_actor, id) {
        return consents.find((one) => one.id === id);
      },
      async searchConsents(_actor, { patients }) {
        return consents.filter((one) => patients === undefined || one.patients.some((p) => patients.includes(p.patient)));
      },
    },
    auditEvents: {
      async readAuditEvent(_actor, id) {
        return auditEvents.find((one) => one.id === id);
      },
      async searchAuditEvents(_actor, { patients, from, until, count, after }) {
        const start = after === undefined ? 0 : Number(after);
        const all = auditEvents.filter(
          (one) =>
            (patients === undefined || one.patients.some((p) => patients.includes(p.patient))) &&
            (from === undefined || one.lastUpdated >= from) &&
            (until === undefined || one.lastUpdated <= until),
        );
        const resources = all.slice(start, start + count);
        return { resources, ...(start + count < all.length ? { after: String(start + count) } : {}) };
      },
    },
    onIntegrity: (alarm) => alarms.push(alarm),
    onError: () => {},
    clock: () => state.now,
    ...options.parts,
  };
  const facade = createFacade(parts, {
    baseUrl: BASE,
    software: { name: 'oncobridge', version: '0' },
    smart: {
      issuer: 'http://fhir.test',
      tokenEndpoint: 'http://fhir.test/token',
      scopesSupported: ['system/*.rs'],
      capabilities: ['client-confidential-asymmetric', 'permission-v2'],
    },
    ...options.settings,
  });
  const logger = pino({ level: 'info' }, { write: (line: string) => logged.push(line) });
  const app = createHttpApp({ mounts: [['/fhir', facade.router]], logger, ...options.http });

  const world: World = {
    app,
    facade,
    database,
    rows,
    custodian,
    blobs,
    parts,
    audited,
    alarms,
    logged,
    actors,
    consents,
    auditEvents,
    state,
    async grant(token, pat, category, data = {}) {
      const actor = actors.get(token);
      const id = actor?.kind === 'patient' ? actor.patient : actor?.kind === 'member' ? actor.member : INST;
      await database.query(
        sql`insert into test_grant values (${id}, ${INST}, ${pat}, ${category}, ${data.start ?? null}, ${data.end ?? null})`,
      );
    },
    async revoke(token, pat, category) {
      await database.query(
        sql`delete from test_grant where actor = ${`mem-${token}`} and pat = ${pat} and (category = ${category ?? null} or ${category === undefined})`,
      );
    },
    async patient(pat, text) {
      await database.query(sql`insert into patient (pat) values (${pat}) on conflict do nothing`);
      await custodian.enrollPatient(pat, ['laboratory', 'radiation-dose']);
      await database.transaction((tx) =>
        writePatients(tx, rows, { institution: INST, patients: [{ patient: pat, text: JSON.stringify(text) }], lastUpdated: UPDATED }),
      );
    },
    async document({ document, version = 1, pat, category, resources, pdf, covers, entry }) {
      const key = await custodian.categoryKey(pat, category);
      if (key === undefined) throw new Error('enrol the patient first');
      const texts = resources.map((one) => (typeof one === 'string' ? one : JSON.stringify(one)));
      const sealed = await sealer.seal({
        institution: INST,
        document,
        version,
        patient: pat,
        category,
        categoryKey: key,
        inner: { manifest: {}, resourceIds: {} },
        pdf: pdf ?? Buffer.from('%PDF-1.7 test'),
        bundle: Buffer.from(`{"resourceType":"Bundle","type":"collection"}`),
      });
      const pointer = `${INST}/${sealed.ciphertextHash}`;
      await blobs.put(pointer, sealed.bytes);
      await database.transaction(async (tx) => {
        await tx.query(
          sql`insert into subject (sub, category, key, pat, document, version) values (${`sub-${document}`}, ${category}, ${document}, ${pat}, ${document}, ${version})
            on conflict (sub) do update set version = excluded.version`,
        );
        await tx.query(sql`
          insert into document_version (document, version, sub, pat, category, pointer, ciphertext_hash, commitment, key_version, size_bytes, manifest_hash, outbox, header)
          values (${document}, ${version}, ${`sub-${document}`}, ${pat}, ${category}, ${pointer}, ${sealed.ciphertextHash}, ${sealed.commitment}, 1,
            ${sealed.bytes.length}, '', '', '')`);
        await writeResources(tx, rows, [
          {
            institution: INST,
            patient: pat,
            category,
            document,
            version,
            lastUpdated: UPDATED,
            resources: texts.map((text) => {
              const { resourceType, id } = JSON.parse(text) as { resourceType: string; id: string };
              return { type: resourceType, id, text };
            }),
            ...(covers !== undefined ? { covers } : {}),
          },
        ]);
        if (entry === 'none') return;
        const hash = entry === 'other-hash' ? 'f'.repeat(64) : sealed.ciphertextHash;
        await tx.query(sql`
          insert into projection.document (inst, pat, recorder, doc, category, version, n, ciphertext_hash, commitment, tx_id, block)
          values (${INST}, ${pat}, ${INST}, ${document}, ${category}, ${version}, 0, ${hash}, ${sealed.commitment}, 't', 1)
          on conflict (recorder, doc) do update set version = excluded.version, ciphertext_hash = excluded.ciphertext_hash, commitment = excluded.commitment`);
      });
    },
    async directory(resources) {
      await database.transaction((tx) =>
        writeDirectory(
          tx,
          resources.map((one) => ({ type: one.resourceType, id: one.id, text: JSON.stringify(one) })),
          UPDATED,
        ),
      );
    },
    async withdraw(document) {
      await database.query(sql`update projection.document set withdrawn = true where doc = ${document}`);
    },
    async misfile(document) {
      await database.query(
        sql`update subject set withdrawn_at = ${UPDATED}, withdrawn_reason = 'WRONG_PATIENT' where document = ${document}`,
      );
      await database.query(sql`delete from resource where document = ${document}`);
      await world.withdraw(document);
    },
    async remove(document) {
      await database.query(sql`with gone as (delete from resource where document = ${document} returning id, version)
        delete from resource_date d using gone where d.id = gone.id and d.version = gone.version`);
      await database.query(sql`delete from projection.document where doc = ${document}`);
      await database.query(sql`delete from document_version where document = ${document}`);
      await database.query(sql`delete from subject where document = ${document}`);
    },
    async close() {
      await custodian.close();
      await reads.close();
      await close();
      await rm(directory, { recursive: true, force: true });
    },
  };
  return world;
}

/** A laboratory document of three results, as the pipeline files one. */
export function laboratory(pat: string, n: string, date: string, values: readonly [string, string][] = [['718-7', '13.20']]): NewDocument {
  const subject = { reference: `Patient/${pat}` };
  const category = [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/observation-category', code: 'laboratory' }] }];
  const observations = values.map(
    ([code, value], i) =>
      `{"resourceType":"Observation","id":"obs-${n}-${i}","status":"final","category":${JSON.stringify(category)},` +
      `"identifier":[{"system":"urn:lab","value":"ACC-${n}-${i}"}],` +
      `"code":{"coding":[{"system":"http://loinc.org","code":"${code}","display":"Name of ${code}"}]},"subject":${JSON.stringify(subject)},` +
      `"effectiveDateTime":"${date}","performer":[{"reference":"Practitioner/prac-${n}"}],` +
      `"valueQuantity":{"value":${value},"unit":"g/dL","system":"http://unitsofmeasure.org","code":"g/dL"}}`,
  );
  return {
    document: `doc-${n}`,
    pat,
    category: 'laboratory',
    resources: [
      ...observations,
      {
        resourceType: 'DiagnosticReport',
        id: `rep-${n}`,
        status: 'final',
        code: { coding: [{ system: 'http://loinc.org', code: '58410-2' }] },
        subject,
        effectiveDateTime: date,
        result: values.map((_, i) => ({ reference: `Observation/obs-${n}-${i}` })),
      } as { resourceType: string; id: string },
      {
        resourceType: 'DocumentReference',
        id: `ref-${n}`,
        status: 'current',
        type: { coding: [{ system: 'http://loinc.org', code: '11502-2' }] },
        subject,
        date: `${date}T12:00:00Z`,
        content: [
          { attachment: { contentType: 'application/pdf', url: `Binary/pdf-${n}` } },
          { attachment: { contentType: 'application/fhir+json', url: `Binary/json-${n}` } },
        ],
      } as { resourceType: string; id: string },
      { resourceType: 'Binary', id: `pdf-${n}`, contentType: 'application/pdf' } as { resourceType: string; id: string },
      { resourceType: 'Binary', id: `json-${n}`, contentType: 'application/fhir+json' } as { resourceType: string; id: string },
      {
        resourceType: 'Provenance',
        id: `prov-${n}`,
        target: [{ reference: `DocumentReference/ref-${n}` }, { reference: `Patient/${pat}` }],
        recorded: `${date}T12:00:00Z`,
        agent: [{ who: { reference: `Practitioner/prac-${n}` } }],
      } as { resourceType: string; id: string },
    ],
  };
}

/** A course of radiotherapy with a phase and a volume. */
export function course(pat: string, n: string, start: string, end: string): NewDocument {
  const subject = { reference: `Patient/${pat}` };
  const made = (resource: { resourceType: string; id: string; [key: string]: unknown }) => resource;
  return {
    document: `doc-${n}`,
    pat,
    category: 'radiation-dose',
    resources: [
      made({
        resourceType: 'BodyStructure',
        id: `vol-${n}`,
        patient: subject,
        morphology: { coding: [{ system: 'http://snomed.info/sct', code: '228793007' }] },
      }),
      made({
        resourceType: 'Procedure',
        id: `course-${n}`,
        status: 'completed',
        code: { coding: [{ system: 'http://snomed.info/sct', code: '1217123003' }] },
        subject,
        performedPeriod: { start, end },
      }),
      made({
        resourceType: 'Procedure',
        id: `phase-${n}`,
        status: 'completed',
        code: { coding: [{ system: 'http://snomed.info/sct', code: '1222565005' }] },
        subject,
        partOf: [{ reference: `Procedure/course-${n}` }],
        performedPeriod: { start: end, end },
      }),
      made({
        resourceType: 'ServiceRequest',
        id: `plan-${n}`,
        status: 'completed',
        intent: 'order',
        subject,
        authoredOn: start,
        code: { coding: [{ system: 'http://snomed.info/sct', code: '1255724003' }] },
      }),
    ],
  };
}
