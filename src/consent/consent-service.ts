import type { Consent } from 'fhir/r4.js';
import type { Actor } from '../auth/actor.ts';
import { CodedError, codeOf } from '../errors.ts';
import type { ConsentPort, ServedResource } from '../fhir/ports.ts';
import { newId } from '../ids.ts';
import type { Role } from '../ledger/contract/shapes.ts';
import type { Carrier } from '../outbox/await-commit.ts';
import type { Database } from '../store/database.ts';
import { type SqlFragment, sql } from '../store/sql.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { permissionsOf } from './consent-mapping.ts';
import { createConsentMirror } from './consent-mirror.ts';
import {
  type ConsentRow,
  consentHistory,
  consentPlace,
  currentConsents,
  deleteConsent,
  evidencePlace,
  evidenceRow,
  insertConsent,
  stampedConsent,
} from './consent-rows.ts';
import type { EnvelopeKeeping } from './custody-envelopes.ts';
import { ENDED } from './ended.ts';
import { type EvidenceProof, evidenceCommitment, newEvidenceSalt } from './evidence.ts';
import { type ConsentWriter, createGrants, type Written } from './grants.ts';
import { createKeyRotation, type KeyRotation } from './key-rotation.ts';
import { takeLinkCodes } from './linking-codes.ts';
import type { PatientName } from './permissions.ts';

export interface ConsentService extends ConsentPort {
  /** New category key versions after revocations. */
  readonly rotation: KeyRotation;
  /**
   * Source and salt of the evidence of a Consent's version (default: the current one), for whoever may read that Consent.
   * Undefined where it is hidden, missing or without evidence.
   */
  proveEvidence(actor: Actor, id: string, version?: number): Promise<EvidenceProof | undefined>;
  /** Removes local denials that are without effect: the ledger has them, or has refused what they came with. */
  sweep(): Promise<void>;
  /** Grants and revocations came with a block: those that nobody wrote here show as Consents too. Returns at once; a read does it otherwise. */
  wake(): void;
  close(): Promise<void>;
}

export interface ConsentServiceParts extends Carrier {
  database: Database;
  rows: SealedRows;
  custodian: Custodian;
  /** Keeps the envelopes to other institutions that patients in custody let read. */
  envelopes: EnvelopeKeeping;
  ledgerId: string;
  /** MSP of this institution, as it stands on the ledger. */
  msp: string;
  /** Configured categories; no other can be granted. */
  categories: readonly string[];
  /** The role of a member who is active now, by the ledger: `Membership.activeRole`. */
  activeRole(institution: string, member: string): Promise<Role | undefined>;
  /** How long a write waits for the ledger before it answers 202. Default 10 s. */
  waitMs?: number;
  /** Consents that one search may open. Default 1000. */
  maxConsents?: number;
  now?: () => Date;
  onError?: (error: Error) => void;
}

/** A registrar's Consent and the privacy officer's view; a clinician sees none, though it may be about them. */
const OFFICES: readonly Role[] = ['registrar', 'privacy-officer'];

/** FHIR Consents, whose truth is the permissions on the ledger (fhir-facade.md 2.5, docs/consent.md). */
export function createConsentService(parts: ConsentServiceParts): ConsentService {
  const { database, rows, custodian, categories, activeRole } = parts;
  const { institution } = custodian;
  const now = parts.now ?? (() => new Date());
  const rotation = createKeyRotation(parts);
  const grants = createGrants({ ...parts, waitMs: parts.waitMs ?? 10_000, now, onLost: () => rotation.wake() });
  const mirror = createConsentMirror({
    database,
    rows,
    institution,
    onFailed: (patient, error) =>
      parts.onError?.(new Error(`Consents of ${patient} could not be taken from the ledger: ${codeOf(error) ?? 'INTERNAL'}`)),
  });
  rotation.wake();
  let mirrored: Promise<void> = Promise.resolve();
  let closed = false;
  // What was projected while nobody looked.
  const swept = grants.sweep().catch((error: unknown) => parts.onError?.(error as Error));

  /** Whose Consents the actor may see, as a condition on `v`; undefined: nobody's. */
  async function visible(actor: Actor): Promise<SqlFragment | undefined> {
    if (actor.kind === 'patient') return sql`v.inst = ${actor.institution} and v.pat = ${actor.patient}`;
    if (actor.kind !== 'member') return undefined;
    const role = await activeRole(actor.institution, actor.member);
    return role !== undefined && OFFICES.includes(role) ? sql`v.inst = ${institution}` : undefined;
  }

  /** FORBIDDEN from the request alone; NOT_FOUND where it is about a patient whom this actor cannot know. */
  async function writerFor(actor: Actor, patient: string): Promise<ConsentWriter> {
    if (actor.institution !== institution || actor.kind === 'system')
      throw new CodedError('FORBIDDEN', { diagnostics: 'A Consent is written by the patient, or by a registrar.' });
    if (actor.kind === 'patient') {
      if (actor.patient !== patient) throw new CodedError('NOT_FOUND');
    } else if ((await activeRole(actor.institution, actor.member)) !== 'registrar') {
      throw new CodedError('FORBIDDEN', { diagnostics: 'A Consent is written by the patient, or by a registrar.' });
    }
    const [row] = await database.query<{ custody: boolean }>(
      sql`select custody from projection.patient where inst = ${institution} and pat = ${patient} and status = 'active'`,
    );
    if (row === undefined) throw new CodedError('NOT_FOUND');
    if (!row.custody)
      throw new CodedError('CUSTODY_REFUSED', { diagnostics: 'The patient holds their own keys: the Consent is signed on their device.' });
    return actor.kind === 'patient' ? { kind: 'patient', id: patient } : { kind: 'registrar', id: actor.member };
  }

  /** What a registrar has seen: on the ledger stands a commitment to it. The patient's own act needs none. */
  function evidenceOf(resource: Consent, writer: ConsentWriter): { salt: string; commitment: string } | undefined {
    const source = resource.sourceAttachment ?? resource.sourceReference;
    if (source !== undefined) {
      const salt = newEvidenceSalt();
      return { salt, commitment: evidenceCommitment(source, salt) };
    }
    if (writer.kind === 'patient') return undefined;
    throw new CodedError('UNPROCESSABLE', { diagnostics: 'A registrar names the evidence that was seen.', expression: ['Consent.source'] });
  }

  async function served(row: Pick<ConsentRow, 'consent' | 'version' | 'inst' | 'pat' | 'last_updated' | 'body'>): Promise<ServedResource> {
    const text = await rows.open(row.pat, 'core', consentPlace(row.consent, row.version), row.body);
    return {
      type: 'Consent',
      id: row.consent,
      versionId: String(row.version),
      lastUpdated: row.last_updated,
      text: text.toString('utf8'),
      patients: [{ institution: row.inst, patient: row.pat }],
    };
  }

  async function find(actor: Actor, id: string): Promise<ConsentRow | undefined> {
    const condition = await visible(actor);
    if (condition === undefined) return undefined;
    await mirror.pass();
    const [row] = await currentConsents(database, sql`v.consent = ${id} and ${condition}`, 1);
    if (row !== undefined) await mustBeCurrent([row.pat]);
    return row;
  }

  /** UNAVAILABLE where the ledger may say more of one of these patients than what is served of them. */
  async function mustBeCurrent(patients: readonly string[]): Promise<void> {
    if (patients.length > 0 && (await mirror.behind(patients)).length > 0) throw new CodedError('UNAVAILABLE');
  }

  /** Text and row of one new version. */
  async function draft(of: PatientName, consent: string, version: number, resource: Consent, salt?: string) {
    const lastUpdated = now();
    const text = stampedConsent(resource, { consent, version, lastUpdated });
    const body = await rows.seal(of.patient, 'core', consentPlace(consent, version), Buffer.from(text));
    const evidence = salt === undefined ? null : await rows.seal(of.patient, 'core', evidencePlace(consent, version), Buffer.from(salt));
    const write = (tx: Parameters<typeof insertConsent>[0], written: Written): Promise<void> =>
      insertConsent(tx, { ...of, ...written, consent, version, status: resource.status, lastUpdated, body, evidence });
    const answer: ServedResource = {
      type: 'Consent',
      id: consent,
      versionId: String(version),
      lastUpdated,
      text,
      patients: [{ institution: of.institution, patient: of.patient }],
    };
    return { write, answer };
  }

  async function grant(of: PatientName, writer: ConsentWriter, consent: string, sent: Consent) {
    const permissions = permissionsOf(sent, { institution, consent, categories });
    const { resource, codes } = takeLinkCodes(sent, permissions);
    const evidence = evidenceOf(resource, writer);
    const version = (await consentHistory(database, consent)).next;
    const { write, answer } = await draft(of, consent, version, resource, evidence?.salt);
    const { committed } = await grants
      .submitGrant({
        of,
        writer,
        consent,
        permissions,
        evidence: evidence?.commitment ?? null,
        codes,
        write,
        unwrite: (tx) => deleteConsent(tx, consent, version),
      })
      .catch(raced);
    return { resource: answer, committed };
  }

  return {
    rotation,

    async createConsent(actor, resource) {
      const writer = await writerFor(actor, patientOf(resource));
      if (resource.status !== 'active') throw notEnforced(resource.status);
      return grant({ institution, patient: patientOf(resource) }, writer, newId('con'), resource);
    },

    async updateConsent(actor, id, resource, ifMatch) {
      const current = await find(actor, id);
      if (current === undefined) throw new CodedError('NOT_FOUND');
      if (ifMatch === undefined)
        throw new CodedError('PRECONDITION_FAILED', { diagnostics: 'Say in If-Match which version you have read.' });
      if (ifMatch !== String(current.version)) throw new CodedError('PRECONDITION_FAILED');
      const of = { institution: current.inst, patient: current.pat };
      const writer = await writerFor(actor, current.pat);
      if (patientOf(resource) !== current.pat) {
        throw new CodedError('UNPROCESSABLE', { diagnostics: 'A Consent stays with its patient.', expression: ['Consent.patient'] });
      }
      if (resource.status === 'active') return grant(of, writer, id, resource);
      if (!ENDED.includes(resource.status)) throw notEnforced(resource.status);
      const history = await consentHistory(database, id);
      // What it said stays as it was; only the status is new, so nothing unenforced can enter with the end.
      const former = JSON.parse((await served(current)).text) as Consent;
      const { write, answer } = await draft(of, id, history.next, { ...former, status: resource.status });
      const { committed } = await grants.revoke({ of, writer, consent: id, further: history.pairs, write }).catch(raced);
      return { resource: answer, committed };
    },

    async readConsent(actor, id) {
      const row = await find(actor, id);
      return row === undefined ? undefined : served(row);
    },

    async searchConsents(actor, query) {
      const condition = await visible(actor);
      if (condition === undefined) return [];
      await mirror.pass();
      await mustBeCurrent([...(query.patients ?? []), ...(actor.kind === 'patient' ? [actor.patient] : [])]);
      const most = parts.maxConsents ?? 1000;
      const named = query.patients === undefined ? condition : sql`${condition} and v.pat = any(${[...query.patients]}::text[])`;
      const found = await currentConsents(database, named, most + 1);
      if (found.length > most) throw new CodedError('TOO_COSTLY');
      return Promise.all(found.map(served));
    },

    async proveEvidence(actor, id, version) {
      const current = await find(actor, id);
      if (current === undefined) return undefined;
      const row = await evidenceRow(database, id, version ?? current.version);
      if (row === undefined) return undefined;
      const salt = (await rows.open(row.pat, 'core', evidencePlace(id, row.version), row.evidence)).toString('utf8');
      const { sourceAttachment, sourceReference } = JSON.parse((await served(row)).text) as Consent;
      const source = sourceAttachment ?? sourceReference;
      if (source === undefined) return undefined;
      return { consent: id, version: row.version, source, salt, commitment: evidenceCommitment(source, salt), stateKey: row.state_key };
    },

    sweep: () => grants.sweep(),
    wake() {
      if (closed) return;
      mirrored = mirrored.then(() => (closed ? undefined : mirror.pass())).catch((error: unknown) => parts.onError?.(error as Error));
    },

    async close() {
      closed = true;
      await mirrored;
      await swept;
      await rotation.close();
    },
  };
}

/** Two writers made the same version: one of them has not seen the other's. */
function raced(error: unknown): never {
  if ((error as { code?: string }).code === '23505') throw new CodedError('CONFLICT');
  throw error;
}

function patientOf(resource: Consent): string {
  const reference: unknown = resource.patient?.reference;
  const id = typeof reference === 'string' ? /^Patient\/(pat-[a-z0-9-]{1,59})$/.exec(reference)?.[1] : undefined;
  if (id === undefined)
    throw new CodedError('UNPROCESSABLE', { diagnostics: 'Patient/pat-… is expected.', expression: ['Consent.patient'] });
  return id;
}

function notEnforced(status: unknown): CodedError {
  const known = ['draft', 'proposed', ...ENDED].includes(String(status));
  return new CodedError('UNPROCESSABLE', {
    diagnostics: known ? 'Only an active Consent can be written anew, and only an end can follow it.' : 'The status is none of FHIR R4.',
    expression: ['Consent.status'],
  });
}
