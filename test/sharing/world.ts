import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import type { AccessEvent } from '../../src/audit/audit.ts';
import { createAuditLog } from '../../src/audit/audit-log.ts';
import { newId } from '../../src/ids.ts';
import * as build from '../../src/ledger/contract/payloads.ts';
import { type Clause, TYP } from '../../src/ledger/contract/shapes.ts';
import { createProjection } from '../../src/ledger/projection.ts';
import { documentReference } from '../../src/records/fhir-out.ts';
import type { Manifest } from '../../src/records/model.ts';
import { createLinks } from '../../src/sharing/links.ts';
import type { SharingAlarm, SharingParts } from '../../src/sharing/parts.ts';
import { createSharing } from '../../src/sharing/sharing.ts';
import { createFileBlobs } from '../../src/store/blob-files.ts';
import type { BlobStore } from '../../src/store/blobs.ts';
import type { Sql } from '../../src/store/database.ts';
import { sql } from '../../src/store/sql.ts';
import { createFileCustodian, type FileCustodian } from '../../src/vault/file-custodian.ts';
import { createSealedRows } from '../../src/vault/sealed-rows-store.ts';
import { createSealer } from '../../src/vault/sealer.ts';
import { createChain, type Gateway, newGateway } from '../ledger/block-maker.ts';
import { withTestDatabase } from '../store/test-database.ts';

export const CATEGORIES = ['laboratory', 'radiation-dose'];
const LEDGER = 'ledger-sharing01';

/** One other institution: keys, sealing, gateway; its database is nobody's concern. */
export interface Other {
  institution: string;
  custodian: FileCustodian;
  gateway: Gateway;
}
export interface Filed {
  document: string;
  version: number;
  n: number;
  pointer: string;
  ciphertextHash: string;
  commitment: string;
}
export interface FileOptions {
  document?: string;
  version?: number;
  category?: string;
  patient?: string;
  /** Whose patient; who records, where that is another. */
  of?: Other;
  recorder?: Other;
  value?: string;
  name?: string;
  birthDate?: string;
  asOf?: string;
  covers?: { start: string; end: string };
  context?: boolean;
  /** Seal and put, but enter nothing. */
  entered?: boolean;
  put?: boolean;
  /** What a hostile institution does to the Bundle or the header before it seals. */
  spoil?: (parts: { bundle: Bundle; resourceIds: Record<string, string>; manifest: Record<string, unknown> }) => void;
  /** Entered with another commitment, key version, or category than what was sealed. */
  entry?: { commitment?: string; keyVersion?: number; ciphertextHash?: string; pointer?: string };
  sealedAs?: { document?: string; patient?: string; version?: number };
}
export interface Bundle {
  resourceType: 'Bundle';
  type: 'collection';
  entry: { resource: Record<string, unknown> & { resourceType: string; id: string } }[];
}

export const OWN_PERSON = { resourceType: 'Patient', name: [{ family: 'Nguyen', given: ['Lan'] }], birthDate: '1958-03-14' };
/** An MRN of the other institution: it must be found nowhere here. */
export const CANARY_MRN = 'MRN-CANARY-7781';

export async function createWorld(options: { parts?: Partial<SharingParts>; quotas?: Partial<SharingParts['quotas']> } = {}) {
  const { database, close } = await withTestDatabase();
  const directory = await mkdtemp(join(tmpdir(), 'oncobridge-sharing-'));
  const chain = createChain();
  const store = createFileBlobs({ directory: join(directory, 'blobs') });
  const newOther = async (name: string): Promise<Other> => {
    const institution = newId('inst');
    const passphrase = randomBytes(16).toString('hex');
    const custodian = await createFileCustodian({ directory: join(directory, name), passphrase, institution });
    return { institution, custodian, gateway: await newGateway(`${name}-msp`, institution) };
  };
  const a = await newOther('a');
  const b = await newOther('b');
  const c = await newOther('c');
  const base = () => ({ ledger: LEDGER, nonce: randomBytes(16).toString('base64url') });
  const submit = (by: Other, name: string, args: readonly string[], time?: string) => chain.submit(by.gateway, name, args, time);

  const founders: string[] = [];
  for (const one of [a, b, c]) {
    const { signing, encryption } = await one.custodian.institutionKeys();
    const payload = build.initPayload({
      ...base(),
      institution: one.institution,
      msp: one.gateway.msp,
      signing: build.ecJwk(signing),
      encryption: build.plainJwk(encryption),
    });
    founders.push(await one.custodian.signAsInstitution(TYP.init, payload));
  }
  await submit(a, 'init', [LEDGER, ...founders]);
  for (const one of [a, b, c]) await submit(one, 'anchorAudit', [build.anchorAuditArgument({ number: 1, root: '0'.repeat(64) })]);
  const clinician = newId('mem');
  const validUntil = '2099-01-01T00:00:00.000Z';
  const officer = newId('mem');
  await submit(b, 'registerMember', [build.registerMemberArgument({ member: clinician, role: 'clinician', validUntil, proof: null })]);
  await submit(b, 'registerMember', [build.registerMemberArgument({ member: officer, role: 'privacy-officer', validUntil, proof: null })]);

  const enroll = async (of: Other = a, patient = newId('pat')): Promise<string> => {
    const keys = await of.custodian.enrollPatient(patient, CATEGORIES);
    const payload = build.enrollPatientPayload({
      ...base(),
      institution: of.institution,
      patient,
      keys: [...keys.values()].map(({ category, publicJwk }) => ({ category, key: build.plainJwk(publicJwk) })),
    });
    await submit(of, 'enrollPatient', [await of.custodian.signAsInstitution(TYP.enrollPatient, payload)]);
    return patient;
  };

  const rows = createSealedRows({ custodian: b.custodian });
  const sealer = createSealer({ custodian: b.custodian });
  const projection = createProjection({ database, ledger: chain.ledger, institution: b.institution, msp: b.gateway.msp });
  const alarms: SharingAlarm[] = [];
  const linkAlarms: unknown[] = [];
  const clock = { at: undefined as Date | undefined };
  const now = (): Date => clock.at ?? new Date();
  const activeRole = async (_institution: string, member: string) =>
    member === clinician ? ('clinician' as const) : member === officer ? ('privacy-officer' as const) : undefined;
  const links = createLinks({ database, rows, custodian: b.custodian, activeRole, onAlarm: (alarm) => linkAlarms.push(alarm), now });
  const log = pino({ level: process.env['TEST_LOG'] ?? 'silent' });
  const audit = createAuditLog({ database, rows });
  const parts: SharingParts = {
    database,
    rows,
    custodian: b.custodian,
    sealer,
    blobs: store,
    links,
    audit,
    facility: 'Receiving Hospital',
    quotas: {
      maxPatients: 100,
      maxDocumentsPerPatient: 1000,
      maxBytesPerPatient: 1e9,
      maxObjectBytes: 1e8,
      maxPendingPerInstitution: 100,
      ...options.quotas,
    },
    retry: { firstMs: 10, mostMs: 100, maxAttempts: 3, slowMs: 60_000 },
    now,
    onAlarm: (alarm) => alarms.push(alarm),
    log,
    ...options.parts,
  };

  const ownPatient = async (person: object = OWN_PERSON): Promise<string> => {
    const pat = newId('pat');
    const sealed = await rows.seal(pat, 'core', `demographics/${pat}`, Buffer.from(JSON.stringify(person)));
    await database.query(sql`insert into patient (pat, demographics) values (${pat}, ${sealed})`);
    return pat;
  };

  await projection.start();
  const caughtUp = async (): Promise<void> => {
    await projection.waitFor((await chain.ledger.height()) - 1, 10_000);
  };

  const world = {
    database,
    chain,
    store,
    directory,
    a,
    b,
    c,
    clinician,
    officer,
    rows,
    sealer,
    projection,
    links,
    audit,
    alarms,
    linkAlarms,
    clock,
    parts,
    enroll,
    ownPatient,
    caughtUp,
    ledgerId: LEDGER,
    /** A code of ours for our own patient, as text. */
    async code(own: string): Promise<string> {
      return (await links.makeCode({ patient: own, clinician, by: clinician })).text;
    },
    /** An envelope of the patient's category to the institution, in the store. */
    async envelope(of: Other, patient: string, category: string, link?: string, to: Other = b) {
      const { encryption } = await to.custodian.institutionKeys();
      const text = await of.custodian.sealEnvelope(patient, category, encryption, link);
      const hash = createHash('sha256').update(text).digest('hex');
      const path = `${of.institution}/envelopes/${hash}`;
      await store.put(path, Buffer.from(text));
      const { kty, crv, x, y } = encryption;
      const recipient = createHash('sha256').update(JSON.stringify({ crv, kty, x, y })).digest('base64url');
      return { hash, path, recipient };
    },
    async grant(
      patient: string,
      request: {
        of?: Other;
        categories?: readonly string[];
        link?: string;
        grantee?: string;
        sequence?: number;
        clause?: Partial<Clause>;
        envelope?: { hash: string; path: string; recipient: string } | null;
      } = {},
    ): Promise<void> {
      const of = request.of ?? a;
      const grantee = request.grantee ?? `member:${b.institution}:${clinician}`;
      const permissions = [];
      for (const category of request.categories ?? ['laboratory']) {
        const envelope = request.envelope === undefined ? await world.envelope(of, patient, category, request.link) : request.envelope;
        const clauses = [build.clause({ consent: 'con-1', rights: ['read'], ...request.clause })];
        permissions.push({ category, clauses, envelope, grantee, sequence: request.sequence ?? 1 });
      }
      const payload = build.grantPayload({
        ...base(),
        institution: of.institution,
        patient,
        consent: 'con-1',
        evidence: null,
        grantor: 'patient',
        notAfter: '2099-01-01T00:00:00.000Z',
        onBehalf: patient,
        permissions,
      });
      const jws = await of.custodian.signForPatient({
        patient,
        actor: { kind: 'patient', id: patient },
        typ: TYP.grantPermission,
        payload,
      });
      await submit(of, 'grantPermission', [jws]);
      await caughtUp();
    },
    async revoke(
      patient: string,
      request: { of?: Other; categories?: readonly string[]; grantee?: string; via?: Other } = {},
    ): Promise<void> {
      const of = request.of ?? a;
      const grantee = request.grantee ?? `member:${b.institution}:${clinician}`;
      const payload = build.revokePayload({
        ...base(),
        institution: of.institution,
        patient,
        consent: null,
        grantor: 'patient',
        onBehalf: patient,
        permissions: (request.categories ?? ['laboratory']).map((category) => ({ category, grantee })),
      });
      const jws = await of.custodian.signForPatient({
        patient,
        actor: { kind: 'patient', id: patient },
        typ: TYP.revokePermission,
        payload,
      });
      await submit(request.via ?? of, 'revokePermission', [jws]);
      await caughtUp();
    },
    async publishKey(patient: string, category = 'laboratory', envelopeTo: readonly Other[] = [b]): Promise<number> {
      const key = await a.custodian.rotateCategoryKey(patient, category);
      const envelopes = [];
      for (const to of envelopeTo) envelopes.push(await world.envelope(a, patient, category, undefined, to));
      const payload = build.publishCategoryKeyPayload({
        ...base(),
        institution: a.institution,
        patient,
        category,
        envelopes,
        key: build.plainJwk(key.publicJwk),
        onBehalf: patient,
        version: key.version,
      });
      const jws = await a.custodian.signForPatient({
        patient,
        actor: { kind: 'patient', id: patient },
        typ: TYP.publishCategoryKey,
        payload,
      });
      await submit(a, 'publishCategoryKey', [jws]);
      await caughtUp();
      return key.version;
    },
    async erase(patient: string): Promise<void> {
      const payload = build.erasePatientPayload({ ...base(), institution: a.institution, patient, onBehalf: patient });
      const actor = { kind: 'patient' as const, id: patient };
      await submit(a, 'erasePatient', [await a.custodian.signForPatient({ patient, actor, typ: TYP.erasePatient, payload })]);
      await caughtUp();
    },
    async withdraw(patient: string, document: string): Promise<void> {
      const argument = build.withdrawDocumentArgument({ document, institution: a.institution, patient });
      await submit(a, 'withdrawDocument', [argument]);
      await caughtUp();
    },
    /** The Bundle of one laboratory document, as A's assembler makes it. */
    bundleOf(
      patient: string,
      document: string,
      version: number,
      facts: FileOptions,
    ): { bundle: Bundle; resourceIds: Record<string, string>; manifest: Record<string, unknown> } {
      const category = facts.category ?? 'laboratory';
      const asOf = facts.asOf ?? '2026-11-01T08:00:00.000Z';
      const record = { source: 'ehr', type: 'Observation', id: 'src-1', versionId: '1', record: 'rec-1', sha256: 'f'.repeat(64) };
      const manifest = {
        format: 1,
        layout: 'test',
        category,
        subject: 'sub-1',
        document,
        version,
        patient,
        demographics: { recordSha256: 'e'.repeat(64) },
        own: [record],
        context: facts.context === true ? [{ ...record, id: 'src-0' }] : [],
        zone: 'UTC',
        asOf,
        facility: 'Sending Hospital',
        configHash: 'd'.repeat(64),
      } satisfies Manifest;
      const observation = `res-${document.slice(4)}`;
      const practitioner = `res-${'p'.repeat(26)}`;
      const header = { title: 'Laboratory report', status: 'final', dateOfService: '2026-10-30' };
      const reference = documentReference({
        manifest,
        document: { header } as never,
        identities: { patient, resourceId: () => undefined },
        binaryId: `${document}-pdf`,
      }) as Bundle['entry'][number]['resource'];
      const bundle: Bundle = {
        resourceType: 'Bundle',
        type: 'collection',
        entry: [
          {
            resource: {
              resourceType: 'Patient',
              id: patient,
              identifier: [{ system: 'urn:mrn:a', value: CANARY_MRN }],
              name: [{ family: facts.name ?? 'Nguyen', given: ['Lan'] }],
              birthDate: facts.birthDate ?? '1958-03-14',
            },
          },
          { resource: reference },
          {
            resource: {
              resourceType: 'Provenance',
              id: `prov-${document.slice(4)}-${version}`,
              target: [{ reference: `DocumentReference/${document}` }],
              recorded: asOf,
              agent: [{ who: { display: 'oncobridge at Sending Hospital' } }],
              entity: [{ role: 'source', what: { reference: `Observation/${observation}` } }],
            },
          },
          {
            resource: {
              resourceType: 'Observation',
              id: observation,
              status: 'final',
              code: { coding: [{ system: 'http://loinc.org', code: '718-7' }] },
              subject: { reference: `Patient/${patient}`, type: 'Patient' },
              effectiveDateTime: '2026-10-30',
              performer: [{ reference: `Practitioner/${practitioner}`, type: 'Practitioner', display: 'Dr. Example' }],
              valueQuantity: { value: facts.value ?? 13.2, unit: 'g/dL' },
            },
          },
        ],
      };
      return { bundle, resourceIds: { 'Observation/src-1': observation, 'Practitioner/src-p': practitioner }, manifest };
    },
    /** Seals a document at A, puts it and enters it on the ledger. */
    async file(patient: string, facts: FileOptions = {}): Promise<Filed> {
      const of = facts.of ?? a;
      const recorder = facts.recorder ?? of;
      const document = facts.document ?? newId('doc');
      const version = facts.version ?? 1;
      const category = facts.category ?? 'laboratory';
      const made = world.bundleOf(patient, document, version, facts);
      facts.spoil?.(made);
      const key = await of.custodian.categoryKey(patient, category);
      if (key === undefined) throw new Error('no key');
      const sealed = await createSealer({ custodian: recorder.custodian }).seal({
        institution: recorder.institution,
        document: facts.sealedAs?.document ?? document,
        version: facts.sealedAs?.version ?? version,
        patient: facts.sealedAs?.patient ?? patient,
        category,
        categoryKey: key,
        inner: { manifest: made.manifest, resourceIds: made.resourceIds, ...(facts.covers === undefined ? {} : { covers: facts.covers }) },
        pdf: Buffer.from(`%PDF-1.7 ${document} ${version} ${facts.value ?? ''}`),
        bundle: Buffer.from(JSON.stringify(made.bundle)),
      });
      const pointer = `${recorder.institution}/${sealed.ciphertextHash}`;
      if (facts.put !== false) await store.put(pointer, sealed.bytes);
      const filed = {
        document,
        version,
        n: 0,
        pointer,
        ciphertextHash: sealed.ciphertextHash,
        commitment: sealed.commitment,
        bytes: sealed.bytes,
      };
      if (facts.entered !== false) await world.enter(patient, filed, { category, keyVersion: key.version, of, recorder, ...facts.entry });
      return filed;
    },
    async enter(
      patient: string,
      filed: Filed,
      facts: {
        category?: string;
        keyVersion?: number;
        of?: Other;
        recorder?: Other;
        commitment?: string;
        ciphertextHash?: string;
        pointer?: string;
      } = {},
    ): Promise<void> {
      const of = facts.of ?? a;
      const recorder = facts.recorder ?? of;
      const argument = build.recordDocumentsArgument([
        {
          institution: of.institution,
          patient,
          category: facts.category ?? 'laboratory',
          ciphertextHash: facts.ciphertextHash ?? filed.ciphertextHash,
          clinician: null,
          commitment: facts.commitment ?? filed.commitment,
          document: filed.document,
          keyVersion: facts.keyVersion ?? 1,
          permission: null,
          pointer: facts.pointer ?? filed.pointer,
          version: filed.version,
        },
      ]);
      await submit(recorder, 'recordDocuments', [argument]);
      await caughtUp();
    },
    /** Seals the same content again under the present category key and enters it as n + 1. */
    async reseal(patient: string, filed: Filed): Promise<Filed> {
      const bytes = await store.get(filed.pointer);
      const sealerA = createSealer({ custodian: a.custodian });
      const expect = {
        document: filed.document,
        version: filed.version,
        patient,
        category: 'laboratory',
        ciphertextHash: filed.ciphertextHash,
        commitment: filed.commitment,
      };
      const opened = await sealerA.open(bytes, expect);
      const key = await a.custodian.categoryKey(patient, 'laboratory');
      if (key === undefined) throw new Error('no key');
      const { document, version } = filed;
      const sealed = await sealerA.seal({
        institution: a.institution,
        document,
        version,
        patient,
        category: 'laboratory',
        categoryKey: key,
        inner: opened.inner,
        pdf: opened.pdf,
        bundle: opened.bundle,
      });
      const pointer = `${a.institution}/${sealed.ciphertextHash}`;
      await store.put(pointer, sealed.bytes);
      const [former] = await database.query<{ entry_hash: string }>(sql`
        select entry_hash from projection.entry where doc = ${document} and version = ${version} and n = ${filed.n}`);
      const argument = build.resealDocumentsArgument([
        {
          institution: a.institution,
          patient,
          category: 'laboratory',
          ciphertextHash: sealed.ciphertextHash,
          clinician: null,
          commitment: sealed.commitment,
          document,
          keyVersion: key.version,
          n: filed.n + 1,
          pointer,
          previous: former?.entry_hash ?? '',
          version,
        },
      ]);
      await submit(a, 'resealDocuments', [argument]);
      await caughtUp();
      return { ...filed, n: filed.n + 1, pointer, ciphertextHash: sealed.ciphertextHash, commitment: sealed.commitment };
    },
    /** A linked patient of A with a grant and one document, not looked at yet. */
    async granted(own?: string): Promise<{ patient: string; own: string; filed: Filed }> {
      const of = own ?? (await world.ownPatient());
      const patient = await enroll();
      const filed = await world.file(patient);
      await world.grant(patient, { link: await world.code(of) });
      return { patient, own: of, filed };
    },
    sharing(over: Partial<SharingParts> = {}) {
      return createSharing({ ...parts, ...over });
    },
    async pass(over: Partial<SharingParts> = {}): Promise<void> {
      const one = createSharing({ ...parts, ...over });
      try {
        await one.pass();
      } finally {
        await one.close();
      }
    },
    async count(table: string, patient?: string): Promise<number> {
      return countRows(database, table, patient);
    },
    async auditEvents(): Promise<AccessEvent[]> {
      const found = await database.query<{ id: string; recorded: Date; inst: string | null; pat: string | null; detail: Buffer }>(
        sql`select id, recorded, inst, pat, detail from audit_event order by seq`,
      );
      return Promise.all(
        found.map(async (row) => {
          const place = `audit/${row.id}/${row.recorded.toISOString()}/${row.inst ?? ''}/${row.pat ?? ''}`;
          return JSON.parse((await rows.openPurpose('audit', place, row.detail)).toString('utf8', 16)) as AccessEvent;
        }),
      );
    },
    async close(): Promise<void> {
      await projection.close();
      await audit.close();
      for (const one of [a, b, c]) await one.custodian.close();
      await close();
      await rm(directory, { recursive: true, force: true });
    },
  };
  return world;
}
export type World = Awaited<ReturnType<typeof createWorld>>;

async function countRows(on: Sql, table: string, patient?: string): Promise<number> {
  const { raw } = await import('../../src/store/sql.ts');
  const where = patient === undefined ? sql`true` : sql`t.pat = ${patient}`;
  const [row] = await on.query<{ n: number }>(sql`select count(*) as n from ${raw(table)} t where ${where}`);
  return row?.n ?? 0;
}

/** Counts what is asked of a store, and answers as told. */
export function watchedBlobs(
  inner: BlobStore,
  answer: {
    get?: (name: string) => Promise<Uint8Array | undefined>;
    head?: (name: string) => Promise<{ sizeBytes: number } | undefined>;
  } = {},
): BlobStore & { asked: string[] } {
  const asked: string[] = [];
  return {
    asked,
    put: (name, bytes) => inner.put(name, bytes),
    async get(name) {
      asked.push(name);
      return (await answer.get?.(name)) ?? inner.get(name);
    },
    async head(name) {
      asked.push(name);
      return (await answer.head?.(name)) ?? inner.head(name);
    },
    delete: (name) => inner.delete(name),
    close: async () => {},
  };
}
