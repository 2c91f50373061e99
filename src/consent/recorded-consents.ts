import { createHash } from 'node:crypto';
import type { Consent } from 'fhir/r4.js';
import * as keys from '../ledger/contract/keys.ts';
import type { Clause } from '../ledger/contract/shapes.ts';
import type { PermissionState } from '../ledger/contract/state.ts';
import { type ConsentPermission, provisionOf } from './consent-mapping.ts';
import { type PatientName, pairKey } from './permissions.ts';

/** A transaction on the ledger that changed what one Consent says. */
export interface ConsentChange {
  /** The Consent's name on the ledger. */
  name: string;
  /** SHA-256 of the payload, and a state key that it wrote. */
  statement: string;
  stateKey: string;
  at: string;
  /** Whom a custodian signed for; null: the patient's own key, or that of whoever gave up what was theirs. */
  onBehalf: string | null;
  before: readonly ConsentPermission[];
  /** All that the Consent says from then on; empty: it has ended. */
  after: readonly ConsentPermission[];
}

/** What of each Consent a patient's permissions on the ledger tell, in the ledger's order: from the values of `perm/…/patient/…`. Pure. */
export function consentChanges(
  of: PatientName,
  values: readonly { key: string; value: string; version: readonly [number, number] }[],
): ConsentChange[] {
  const prefix = `${keys.permissions(of.institution, of.patient)}patient/`;
  const transactions = new Map<string, { place: readonly [number, number]; writes: Write[] }>();
  for (const { key, value, version } of values) {
    if (!key.startsWith(prefix)) continue;
    const [grantee = '', category = '', kind] = key.slice(prefix.length).split('/');
    if (kind !== 'v') continue;
    const name = version.join('/');
    const one = transactions.get(name) ?? { place: version, writes: [] };
    one.writes.push({ key, grantee, category, state: JSON.parse(value) as PermissionState });
    transactions.set(name, one);
  }
  const changes: ConsentChange[] = [];
  const current = new Map<string, Pick<Write, 'grantee' | 'category'> & { clauses: readonly Clause[] }>();
  const said = (name: string): ConsentPermission[] =>
    [...current.values()].flatMap(({ grantee, category, clauses }) => {
      const mine = clauses.filter((clause) => clause.consent === name);
      return mine.length === 0 ? [] : [{ grantee, category, clauses: mine }];
    });
  for (const { writes } of [...transactions.values()].sort((a, b) => a.place[0] - b.place[0] || a.place[1] - b.place[1])) {
    const [first] = writes;
    if (first === undefined) continue;
    const named = new Set(
      writes.flatMap((write) => [...write.state.clauses, ...(current.get(pairKey(write))?.clauses ?? [])]).map((clause) => clause.consent),
    );
    const before = new Map([...named].map((name) => [name, said(name)]));
    for (const { grantee, category, state } of writes)
      current.set(pairKey({ grantee, category }), { grantee, category, clauses: state.clauses });
    for (const name of named) {
      const after = said(name);
      const was = before.get(name) ?? [];
      if (JSON.stringify(after) === JSON.stringify(was)) continue;
      const { statement, at, onBehalf } = first.state;
      changes.push({ name, statement, stateKey: first.key, at, onBehalf, before: was, after });
    }
  }
  return changes;
}

interface Write {
  key: string;
  grantee: string;
  category: string;
  state: PermissionState;
}

/** Whether a change gives anything that was not given before. */
export function gives({ before, after }: ConsentChange): boolean {
  const had = new Set(before.flatMap((one) => one.clauses.map((clause) => JSON.stringify([pairKey(one), clause]))));
  return after.some((one) => one.clauses.some((clause) => !had.has(JSON.stringify([pairKey(one), clause]))));
}

/** The FHIR id under which a Consent shows whose name on the ledger another patient had first: names are the signers' choice. */
export function otherId(of: PatientName, name: string): string {
  return `con-${createHash('sha256')
    .update(JSON.stringify([of.institution, of.patient, name]))
    .digest('hex')
    .slice(0, 40)}`;
}

/** A Consent as the ledger alone has it: always the same text for the same change. */
export function recordedConsent(of: PatientName, change: ConsentChange): Consent {
  const ended = change.after.length === 0;
  const [, inst, member] = /^member:([^:]+):([^:]+)$/.exec(change.onBehalf ?? '') ?? [];
  return {
    resourceType: 'Consent',
    status: ended ? 'inactive' : 'active',
    scope: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentscope', code: 'patient-privacy' }] },
    category: [{ coding: [{ system: 'http://loinc.org', code: '59284-0' }] }],
    patient: { reference: `Patient/${of.patient}` },
    dateTime: change.at,
    performer: [{ reference: inst === of.institution && member !== undefined ? `Practitioner/${member}` : `Patient/${of.patient}` }],
    policyRule: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v3-ActCode', code: 'OPTIN' }] },
    provision: provisionOf(
      ended ? change.before : change.after,
      { institution: of.institution, consent: change.name, categories: [] },
      'recorded',
    ),
  };
}
