/** State keys (protocol section 3). Names hold no '/', so a key splits back into its parts; numbers take ten digits. */
export function ten(number: number): string {
  return String(number).padStart(10, '0');
}
export const LEDGER = 'ledger';
export const INSTITUTIONS = 'inst/';
export const ANCHORS = 'anchor/';

export function institutionKey(institution: string): string {
  return `inst/${institution}`;
}
export function memberKey(institution: string, member: string): string {
  return `mem/${institution}/${member}`;
}
/** `member:<inst>:<mem>` -> its state key. */
export function memberKeyOf(name: string): string {
  const [, institution = '', member = ''] = name.split(':');
  return memberKey(institution, member);
}
export function coreKey(institution: string, patient: string): string {
  return `pat/${institution}/${patient}/core`;
}
export function categoryKeys(institution: string, patient: string): string {
  return `pat/${institution}/${patient}/ck/`;
}
export function categoryHeadKey(institution: string, patient: string, category: string): string {
  return `pat/${institution}/${patient}/ck/${category}/head`;
}
export function categoryVersionKey(institution: string, patient: string, category: string, version: number): string {
  return `pat/${institution}/${patient}/ck/${category}/v/${ten(version)}`;
}
export function permissions(institution: string, patient: string): string {
  return `perm/${institution}/${patient}/`;
}

/** What names a permission: one head each. */
export interface Triple {
  readonly grantor: string;
  readonly grantee: string;
  readonly category: string;
}
function permissionPrefix(institution: string, patient: string, t: Triple): string {
  return `perm/${institution}/${patient}/${t.grantor}/${t.grantee}/${t.category}/`;
}
export function permissionHeadKey(institution: string, patient: string, t: Triple): string {
  return `${permissionPrefix(institution, patient, t)}head`;
}
export function permissionVersionKey(institution: string, patient: string, t: Triple, sequence: number): string {
  return `${permissionPrefix(institution, patient, t)}v/${ten(sequence)}`;
}
export interface EntryName {
  readonly institution: string;
  readonly patient: string;
  readonly document: string;
  readonly version: number;
}
export function entries(recorder: string, of: EntryName): string {
  return `ent/${of.institution}/${of.patient}/${recorder}/${of.document}/${ten(of.version)}/`;
}
export function entryKey(recorder: string, of: EntryName, n: number, entryHash: string): string {
  return `${entries(recorder, of)}${ten(n)}/${entryHash}`;
}
export function withdrawalKey(institution: string, patient: string, recorder: string, document: string): string {
  return `wd/${institution}/${patient}/${recorder}/${document}`;
}
export function usedKey(institution: string, patient: string, payloadHash: string): string {
  return `used/${institution}/${patient}/${payloadHash}`;
}
export function emergencies(institution: string, patient: string): string {
  return `emg/${institution}/${patient}/`;
}
export function anchorKey(institution: string): string {
  return `anchor/${institution}`;
}

/** Whom a state key belongs to: what is denied where its value is in doubt (protocol section 4). */
export function ownerOf(key: string): { kind: 'ledger' | 'institution' | 'member' | 'patient'; institution: string; id: string } {
  const [group = '', institution = '', id = ''] = key.split('/');
  if (group === 'inst' || group === 'anchor') return { kind: 'institution', institution, id: institution };
  if (group === 'mem') return { kind: 'member', institution, id };
  if (group === 'ledger') return { kind: 'ledger', institution: '', id: '' };
  return { kind: 'patient', institution, id };
}
