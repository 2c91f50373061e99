import type { OutboxItem } from '../outbox/outbox.ts';
import type { Authority } from '../records/patient-identity.ts';
import type { CategoryKey } from '../vault/custodian.ts';

/** What a document's entry on the ledger says (protocol section 3, `ent`). */
export interface EntryStatement {
  patient: string;
  document: string;
  version: number;
  category: string;
  pointer: string;
  ciphertextHash: string;
  commitment: string;
  keyVersion: number;
}

/** Turns what the pipeline has done into transactions of the contract; app.ts hands in the ledger's own builders. */
export interface LedgerStatements {
  enrollPatient(patient: string, keys: ReadonlyMap<string, CategoryKey>): Promise<OutboxItem>;
  recordDocument(entry: EntryStatement): OutboxItem;
  withdrawDocument(patient: string, document: string): OutboxItem;
}

export interface CategoryConfig {
  id: string;
  title: string;
  layout: 'laboratory' | 'history-and-physical' | 'radiation-dose';
  loinc: string;
}

/** The part of the configuration that decides what is filed and how. */
export interface FilingConfig {
  institution: string;
  facility: string;
  zone: string;
  page: 'A4' | 'Letter';
  authorities: readonly Authority[];
  excludeTestPatients: boolean;
  categories: readonly CategoryConfig[];
  wrongPatientDelayMs: number;
  configHash: string;
}
