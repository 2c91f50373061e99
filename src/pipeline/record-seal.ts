import type { RecordRow } from '../store/records.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { type KeptRecord, packRecord, unpackRecord } from './raw-record.ts';

/** Under which key a raw record lies: a patient's category, the directory, or the month's intake key. */
export type SealedFor = { patient: string; category: string } | 'directory' | 'intake';

/** How `record.sealed_for` says it. */
export function sealedForText(sealedFor: SealedFor): string | null {
  if (sealedFor === 'intake') return null;
  return sealedFor === 'directory' ? 'directory' : `${sealedFor.patient}/${sealedFor.category}`;
}

function place(rec: string): string {
  return `record/${rec}`;
}

export async function sealRecord(rows: SealedRows, rec: string, sealedFor: SealedFor, kept: KeptRecord): Promise<Buffer> {
  const packed = packRecord(kept);
  if (sealedFor === 'intake') return rows.sealIntake(place(rec), packed);
  if (sealedFor === 'directory') return rows.sealPurpose('directory', place(rec), packed);
  return rows.seal(sealedFor.patient, sealedFor.category, place(rec), packed);
}

export async function openRecord(rows: SealedRows, row: Pick<RecordRow, 'rec' | 'raw' | 'sealed_for'>): Promise<KeptRecord> {
  if (row.sealed_for === null) return unpackRecord(await rows.openIntake(place(row.rec), row.raw));
  if (row.sealed_for === 'directory') return unpackRecord(await rows.openPurpose('directory', place(row.rec), row.raw));
  const [patient, category] = row.sealed_for.split('/') as [string, string];
  return unpackRecord(await rows.open(patient, category, place(row.rec), row.raw));
}

/** What a source calls a version; kept apart from its bytes, so that a sweep can ask without opening them. */
export interface VersionName {
  type: string;
  id: string;
  versionId: string;
}

export function sealVersionName(rows: SealedRows, rec: string, name: VersionName): Promise<Buffer> {
  return rows.sealPurpose('marks', `version/${rec}`, Buffer.from(JSON.stringify(name)));
}

export async function openVersionName(rows: SealedRows, row: { rec: string; version_id: Buffer }): Promise<VersionName> {
  return JSON.parse((await rows.openPurpose('marks', `version/${row.rec}`, row.version_id)).toString()) as VersionName;
}
