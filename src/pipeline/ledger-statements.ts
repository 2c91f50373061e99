import { randomBytes } from 'node:crypto';
import { enrollPatientPayload, plainJwk, recordDocumentsArgument, TYP, withdrawDocumentArgument } from '../ledger/contract/payloads.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { LedgerStatements } from './parts.ts';

/** The pipeline's transactions, in the contract's own words. Enrolment is signed by the institution; entries by its certificate. */
export function createLedgerStatements(parts: { custodian: Custodian; ledgerId: string }): LedgerStatements {
  const { custodian, ledgerId } = parts;
  const institution = custodian.institution;
  return {
    async enrollPatient(patient, keys) {
      const payload = enrollPatientPayload({
        institution,
        patient,
        keys: [...keys.values()]
          .map(({ category, publicJwk }) => ({ category, key: plainJwk(publicJwk) }))
          .sort((a, b) => (a.category < b.category ? -1 : 1)),
        ledger: ledgerId,
        nonce: randomBytes(16).toString('base64url'),
      });
      return {
        transaction: 'enrollPatient',
        args: [await custodian.signAsInstitution(TYP.enrollPatient, payload)],
        patient: `${institution}/${patient}`,
        priority: 'live',
      };
    },
    recordDocument(entry) {
      return {
        transaction: 'recordDocuments',
        args: [recordDocumentsArgument([{ institution, clinician: null, permission: null, ...entry }])],
        patient: `${institution}/${entry.patient}`,
        priority: 'live',
      };
    },
    withdrawDocument(patient, document) {
      return {
        transaction: 'withdrawDocument',
        args: [withdrawDocumentArgument({ institution, patient, document })],
        patient: `${institution}/${patient}`,
        priority: 'urgent',
      };
    },
  };
}
