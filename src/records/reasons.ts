/**
 * Why a record was skipped or set aside: the one table of codes, in the code and in the docs (config-and-operations.md
 * section 3 item 11). A skip is a recorded decision, a quarantine waits for a person. Texts hold nothing of a patient.
 */
export const REASONS = {
  // -- skips --
  NO_RULE_MATCH: { kind: 'either', text: 'No classification rule matched; the default of the source applies.' },
  STATUS_NOT_FINAL: { kind: 'skip', text: 'A draft: taken when the source makes it final.' },
  DUPLICATE_HASH: { kind: 'skip', text: 'The same content is filed already.' },
  SAME_SCAN: { kind: 'skip', text: 'A report whose scan is taken as a DocumentReference of the same patient: one record.' },
  TEST_PATIENT: { kind: 'skip', text: 'A test patient, excluded in production mode.' },
  OUT_OF_WINDOW: { kind: 'skip', text: 'Older than the configured window.' },
  SUPERSEDED: { kind: 'skip', text: 'A newer version of the same fact is filed.' },
  NOT_CLINICAL: { kind: 'skip', text: 'Holds nothing clinical (directory, scheduling, billing).' },
  SUPPORTING: { kind: 'skip', text: 'Drawn into documents of other records; no document of its own.' },
  CATEGORY_NOT_CONFIGURED: { kind: 'skip', text: 'A known kind of record that no configured category covers.' },
  CONSENT_DENIED: { kind: 'skip', text: 'The patient does not permit it to be filed.' },
  PATIENT_REJECTED: { kind: 'skip', text: 'A person decided that nothing of this patient of the source is taken.' },
  ERASED: { kind: 'skip', text: 'The person was erased here; nothing of them is taken.' },
  DELETED_AT_SOURCE: { kind: 'skip', text: 'Gone at the source before it was filed.' },
  WITHDRAWN_AT_SOURCE: { kind: 'skip', text: 'Entered in error or cancelled before it was filed.' },
  NOT_DELIVERED: { kind: 'skip', text: 'Planned or prescribed only: taken into the course when treatment is recorded.' },
  // -- quarantine --
  UNMAPPED_CODE: {
    kind: 'quarantine',
    text: 'A local code without an entry in the mapping table. Add one and replay, or wait for the next version.',
  },
  DOCUMENT_TYPE_UNKNOWN: {
    kind: 'quarantine',
    text: 'A document type that no rule and no mapping table names. Map it and replay, or wait for the next version.',
  },
  PATIENT_UNKNOWN: {
    kind: 'quarantine',
    text: 'The patient cannot be found at the source, or has no identifier of a configured authority.',
  },
  PATIENT_AMBIGUOUS: { kind: 'quarantine', text: 'The identifiers lead to more than one patient. Decide with `quarantine resolve`.' },
  PATIENT_MISMATCH: {
    kind: 'quarantine',
    text: 'The identifiers match, name or birth date do not. Decide with `quarantine resolve`.',
  },
  PATIENT_LINK: {
    kind: 'quarantine',
    text: 'The patient was merged at the source into one who is not known yet, or into several; or a merge was taken back. It goes on by itself when the survivor comes; else decide with `quarantine resolve`.',
  },
  PATIENT_LINK_CIRCULAR: {
    kind: 'quarantine',
    text: 'The merges that the source names lead in a circle. Have them put right at the source, or decide with `quarantine resolve`.',
  },
  PATIENT_LINK_STRICTER: {
    kind: 'quarantine',
    text: 'Merged at the source into a patient whose permissions let in somebody whom those under the former pseudonym keep out, or the former pseudonym’s keys are the patient’s own. Decide with `quarantine resolve`.',
  },
  CONTENT_INVALID: { kind: 'quarantine', text: 'The content cannot be read as the kind of record it claims to be.' },
  TOO_LARGE: { kind: 'quarantine', text: 'Larger than the configured limit.' },
  MODIFIER_UNKNOWN: {
    kind: 'quarantine',
    text: 'Carries a modifier extension or implicit rules that change its meaning in a way not known here.',
  },
  ATTACHMENT_UNAVAILABLE: { kind: 'quarantine', text: 'An attachment could not be fetched, or its size or hash does not match.' },
  ATTACHMENT_REFUSED: { kind: 'quarantine', text: 'An attachment lies at an address that must not be opened.' },
  CATEGORY_KEY_UNPUBLISHED: {
    kind: 'quarantine',
    text: 'The ledger has no key of the patient’s for this category, which was added after their claim or enrolment. Kept under the institution’s own key, and filed by itself once the patient’s device has published one.',
  },
  CATEGORY_KEY_DIFFERS: {
    kind: 'quarantine',
    text: 'The ledger names a category key that is not the key store’s. Put the key store right and replay.',
  },
  LINK_UNRESOLVED: { kind: 'quarantine', text: 'A record that it is part of has not arrived.' },
} as const satisfies Record<string, { kind: 'skip' | 'quarantine' | 'either'; text: string }>;

export type Reason = keyof typeof REASONS;

export function isReason(text: string): text is Reason {
  return Object.hasOwn(REASONS, text);
}
