/** A patient as the ledger names them: nobody can take another's name by being first (protocol section 3). */
export interface LedgerPatient {
  institution: string;
  patient: string;
}

/**
 * The name under which an institution keeps keys and sealed rows of a patient: of its own the pseudonym, of another institution's
 * both parts, for that institution chose the pseudonym and may have chosen one of ours.
 */
export function holderName(own: string, { institution, patient }: LedgerPatient): string {
  return institution === own ? patient : `${institution}.${patient}`;
}
