import type { Actor } from '../auth/actor.ts';

/** The audit port: an access, allowed or denied, is committed (group commit <= 5 ms) before the first byte of its answer leaves. */
export interface Audit {
  record(event: AccessEvent): Promise<void>;
  close(): Promise<void>;
}

export interface AccessEvent {
  /** `aud-…`, where the same event may be recorded again after a crash: it stands once. For one patient at most. */
  id?: string;
  interaction: 'read' | 'vread' | 'history-instance' | 'search-type' | 'create' | 'update' | 'operation';
  actor: Actor | undefined;
  requestId: string;
  /** Client address, for BALP's network element. */
  address?: string;
  outcome: 'permitted' | 'denied' | 'failed';
  /** Coded error, where not permitted; else what permits it, where that is no permission of the patient's. */
  reason?: string;
  /** Patients whose data the answer holds; one BALP event each. Empty: the event names nobody and only the privacy officer sees it. */
  patients: readonly { institution: string; patient: string }[];
  resource?: { type: string; id?: string; versionId?: string };
  /** Path and query as sent; kept sealed, never logged. */
  query?: string;
  purpose?: string;
  /** Permission that permitted, and the height it was decided at. */
  decision?: { consent?: string; height: number };
}
