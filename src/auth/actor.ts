/**
 * Who asks, as a verified token names them (architecture section 8): a person (patient or member), or a system acting
 * as its organisation, or a system acting for a named member by a claim that its registration allows. Audit names both.
 */
export type Actor = PatientActor | MemberActor | SystemActor;

interface TokenFacts {
  /** Registered client (`cli-…`) that presented the token. */
  client: string;
  /** SMART v2 scopes granted, e.g. `user/Observation.rs`. */
  scopes: readonly string[];
  /** HL7 v3 PurposeOfUse: TREAT, HPAYMT, HOPERAT, HRESCH, ETREAT, BTG, PATRQT. From the token, never from a header. */
  purpose: string;
  /** `jti` of the token, for the audit (IHE BALP minimal token use). */
  tokenId: string;
}
export interface PatientActor extends TokenFacts {
  kind: 'patient';
  institution: string;
  patient: string;
}
export interface MemberActor extends TokenFacts {
  kind: 'member';
  institution: string;
  member: string;
  /** As the token says; the decision takes the role from the ledger, not from here. */
  role: string;
  /** Set where a system acts for this member. */
  system?: string;
}
export interface SystemActor extends TokenFacts {
  kind: 'system';
  institution: string;
}
