/** Statuses that end a Consent. An end is taken whatever state the ledger is in: it denies here at once. */
export const ENDED: readonly string[] = ['inactive', 'entered-in-error', 'rejected'];
