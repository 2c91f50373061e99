import type { JWK } from 'jose';
import type { Logger } from 'pino';
import type { Audit } from '../audit/audit.ts';
import type { ErrorCode } from '../errors.ts';
import type { JsonObject } from '../records/lossless-json.ts';
import type { BlobStore } from '../store/blobs.ts';
import type { Database } from '../store/database.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { LedgerPatient } from '../vault/holder.ts';
import type { Sealer } from '../vault/sealed-object.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';

/** What the patient of another institution is to a patient of ours: links.ts. */
export interface LinkPort {
  /** Throws a CodedError LINK_… where neither the code nor an earlier one links this patient. Idempotent. */
  present(of: LedgerPatient, code: string | undefined): Promise<{ state: LinkState }>;
  /** Name and birth date of theirs against our own patient's. */
  compare(of: LedgerPatient, theirs: JsonObject): Promise<unknown>;
}
export type LinkState = 'bound' | 'confirmed' | 'held' | 'rejected';

/** What one other institution and one patient of theirs may take here; more waits. */
export interface SharingQuotas {
  /** Linked patients of one other institution. */
  maxPatients: number;
  maxDocumentsPerPatient: number;
  maxBytesPerPatient: number;
  maxObjectBytes: number;
  /** Categories of one other institution that wait for an envelope or a code. */
  maxPendingPerInstitution: number;
}

export interface SharingRetry {
  firstMs: number;
  mostMs: number;
  /** After so many it is alarmed and tried every `slowMs` only. */
  maxAttempts: number;
  slowMs: number;
}

/** Something of another institution that cannot be had or is refused. Free of patient data. */
export interface SharingAlarm {
  code: ErrorCode;
  inst: string;
  pat: string;
  category: string;
  document?: string;
  version?: number;
}

interface EnvelopeOpener {
  openEnvelope(
    envelope: string,
    expect: { institution: string; patient: string; category: string },
  ): Promise<{ keys: readonly { version: number; jwk: JWK }[]; link?: string }>;
}

export interface SharingParts {
  database: Database;
  rows: SealedRows;
  custodian: Pick<Custodian, 'institution' | 'wrapOwn' | 'rowKey' | 'destroy'> & EnvelopeOpener;
  sealer: Sealer;
  blobs: BlobStore;
  links: LinkPort;
  audit: Pick<Audit, 'record'>;
  /** Printed in the Provenance of what is received. */
  facility: string;
  quotas: SharingQuotas;
  retry: SharingRetry;
  now: () => Date;
  onAlarm(alarm: SharingAlarm): void;
  log: Logger;
}

/** When it is tried again after so many failed attempts. */
export function retryAt({ retry, now }: Pick<SharingParts, 'retry' | 'now'>, attempts: number): Date {
  const delay = attempts >= retry.maxAttempts ? retry.slowMs : Math.min(retry.mostMs, retry.firstMs * 2 ** Math.min(20, attempts - 1));
  return new Date(now().getTime() + delay);
}

/** Where a private half of a category key is sealed to, under the holder's row key of the category. */
export function keyPlace(version: number): string {
  return `shared-key/${version}`;
}
