import { createHmac, randomBytes } from 'node:crypto';
import type { Attachment, Reference } from 'fhir/r4.js';
import { canonicalJson } from '../canonical-json.ts';

/**
 * What a registrar has seen (`Consent.source[x]`), bound to the grant without showing it: on the ledger stands
 * HMAC-SHA-256(salt, JCS of the source), for no hash of plaintext goes there (architecture section 4). A form can be guessed; a
 * salt of 256 bits cannot. The salt lies sealed in the Consent's row.
 */
export type EvidenceSource = Attachment | Reference;

export function newEvidenceSalt(): string {
  return randomBytes(32).toString('base64url');
}

/** The commitment as it stands on the ledger, 64 hex digits. Whoever is shown source and salt computes it anew and compares. */
export function evidenceCommitment(source: EvidenceSource, salt: string): string {
  return createHmac('sha256', Buffer.from(salt, 'base64url')).update(canonicalJson(source)).digest('hex');
}

/** What proves the evidence of one version of a Consent to somebody else. */
export interface EvidenceProof {
  consent: string;
  version: number;
  source: EvidenceSource;
  salt: string;
  commitment: string;
  /** The permission's version on the ledger whose `evidence` the commitment is. */
  stateKey: string;
}
