import { createHash } from 'node:crypto';
import type { Actor } from '../auth/actor.ts';
import { CodedError } from '../errors.ts';
import { random128 } from '../ids.ts';
import type { AccessEvent } from './audit.ts';

export interface PatientName {
  institution: string;
  patient: string;
}

/** One row of the log: an access, and the one patient that this row is about. */
export interface StoredEvent extends Omit<AccessEvent, 'patients' | 'actor'> {
  id: string;
  /** ISO instant, milliseconds. */
  recorded: string;
  patient?: PatientName;
  /** Without the scopes: what was asked for says enough, and a row stays small. */
  actor?: StoredActor;
}
export interface StoredActor {
  kind: Actor['kind'];
  institution: string;
  /** The patient's or member's id; absent where a system acts as its organisation. */
  person?: string;
  role?: string;
  system?: string;
  client: string;
  purpose: string;
  tokenId: string;
}

/** Of `random128`. */
const SALT_BYTES = 16;

export function storedEvent(event: AccessEvent, id: string, recorded: string, patient: PatientName | undefined): StoredEvent {
  const { patients: _patients, actor, ...facts } = event;
  return {
    ...facts,
    id,
    recorded,
    ...(patient !== undefined ? { patient: { institution: patient.institution, patient: patient.patient } } : {}),
    ...(actor !== undefined ? { actor: storedActor(actor) } : {}),
  };
}

function storedActor(actor: Actor): StoredActor {
  const { kind, institution, client, purpose, tokenId } = actor;
  const facts = { kind, institution, client, purpose, tokenId };
  if (actor.kind === 'patient') return { ...facts, person: actor.patient };
  if (actor.kind === 'system') return facts;
  return { ...facts, person: actor.member, role: actor.role, ...(actor.system !== undefined ? { system: actor.system } : {}) };
}

/** What is sealed: salt, then JSON. Its hash is the row's leaf in the anchored tree; the salt keeps the leaf from being guessed. */
export function encodeEvent(event: StoredEvent): { plaintext: Buffer; leaf: Buffer } {
  const plaintext = Buffer.concat([random128(), Buffer.from(JSON.stringify(event))]);
  return { plaintext, leaf: leafOf(plaintext) };
}

/** SHA-256 under the prefix 0x00, so that a leaf is never taken for an inner node (RFC 9162 section 2.1.1). */
export function leafOf(plaintext: Uint8Array): Buffer {
  return createHash('sha256').update(Buffer.of(0)).update(plaintext).digest();
}

export function decodeEvent(plaintext: Buffer): StoredEvent {
  try {
    return JSON.parse(plaintext.toString('utf8', SALT_BYTES)) as StoredEvent;
  } catch (error) {
    throw new CodedError('SEAL_BROKEN', { diagnostics: 'An audit row holds no event.', cause: error });
  }
}

/** A row of the log; `leaf` is its leaf in the anchored tree, `detail` the sealed event. */
export interface EventRow {
  id: string;
  recorded: Date;
  inst: string | null;
  pat: string | null;
  leaf: Buffer;
  detail: Buffer;
}

/** The place that a row is sealed to: its clear columns, so that none of them can be changed. */
export function eventPlace(row: { id: string; recorded: Date; inst: string | null; pat: string | null }): string {
  return `audit/${row.id}/${row.recorded.toISOString()}/${row.inst ?? ''}/${row.pat ?? ''}`;
}
/** Purpose key of the institution under which the log is sealed. */
export const AUDIT_PURPOSE = 'audit';
