import { CodedError } from '../errors.ts';
import { newId } from '../ids.ts';
import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import type { AccessEvent, Audit } from './audit.ts';
import { AUDIT_PURPOSE, type EventRow, encodeEvent, eventPlace, storedEvent } from './stored-event.ts';

/** An event waits at most so long for others to share its commit. */
const GROUP_MS = 5;
/** Commits under way at one time, and connections that its database needs: one that hangs must not take every connection of others. */
export const MAX_COMMITS = 3;
const MAX_ROWS = 2000;

interface Waiting {
  rows: readonly EventRow[];
  resolve: () => void;
  reject: (error: CodedError) => void;
}

/**
 * The log of accesses. `record` resolves once its rows (one a patient; one without a patient where none is named) are
 * committed, and rejects with UNAVAILABLE where they cannot be: then nothing is served. Events that come while a commit
 * is under way share the next one; nobody waits longer than 5 ms for it to begin.
 */
export function createAuditLog(parts: {
  database: Pick<Database, 'query'>;
  rows: Pick<SealedRows, 'sealPurpose'>;
  now?: () => Date;
  onError?: (error: Error) => void;
}): Audit {
  const { database, rows } = parts;
  const now = parts.now ?? (() => new Date());
  let queue: Waiting[] = [];
  let timer: NodeJS.Timeout | undefined;
  let scheduled = false;
  let closed = false;
  const commits = new Set<Promise<void>>();
  const recording = new Set<Promise<void>>();

  async function seal(event: AccessEvent): Promise<EventRow[]> {
    const recorded = now();
    const patients = event.patients.length === 0 ? [undefined] : event.patients;
    return await Promise.all(
      patients.map(async (patient) => {
        const id = event.patients.length <= 1 ? (event.id ?? newId('aud')) : newId('aud');
        const { plaintext, leaf } = encodeEvent(storedEvent(event, id, recorded.toISOString(), patient));
        const clear = { id, recorded, inst: patient?.institution ?? null, pat: patient?.patient ?? null };
        return { ...clear, leaf, detail: await rows.sealPurpose(AUDIT_PURPOSE, eventPlace(clear), plaintext) };
      }),
    );
  }

  function schedule(): void {
    if (queue.length === 0) return;
    if (commits.size === 0) {
      // Idle: only what comes in this very turn is gathered.
      if (scheduled) return;
      scheduled = true;
      setImmediate(() => {
        scheduled = false;
        commit();
      });
    } else {
      timer ??= setTimeout(() => {
        timer = undefined;
        if (commits.size < MAX_COMMITS) commit();
      }, GROUP_MS);
    }
  }

  function commit(): void {
    clearTimeout(timer);
    timer = undefined;
    let count = 0;
    let taken = 0;
    while (taken < queue.length && count < MAX_ROWS) count += queue[taken++]?.rows.length ?? 0;
    const batch = queue.splice(0, taken);
    if (batch.length === 0) return;
    const done = insert(batch).finally(() => {
      commits.delete(done);
      // Whoever came meanwhile has waited for this commit already.
      if (queue.length > 0) commit();
    });
    commits.add(done);
  }

  async function insert(batch: readonly Waiting[]): Promise<void> {
    const all = batch.flatMap((one) => one.rows);
    try {
      await database.query(sql`
        insert into audit_event (id, recorded, inst, pat, leaf, detail)
        select * from unnest(${all.map((row) => row.id)}::text[], ${all.map((row) => row.recorded.toISOString())}::timestamptz[],
          ${all.map((row) => row.inst)}::text[], ${all.map((row) => row.pat)}::text[],
          ${all.map((row) => row.leaf)}::bytea[], ${all.map((row) => row.detail)}::bytea[])
        on conflict (id) do nothing`);
      for (const one of batch) one.resolve();
    } catch (error) {
      parts.onError?.(error as Error);
      const refused = new CodedError('UNAVAILABLE', {
        diagnostics: 'The access could not be recorded.',
        retryAfterSeconds: 5,
        cause: error,
      });
      for (const one of batch) one.reject(refused);
    }
  }

  async function record(event: AccessEvent): Promise<void> {
    if (closed) throw new CodedError('UNAVAILABLE', { diagnostics: 'The audit log is closed.' });
    const sealed = await seal(event);
    await new Promise<void>((resolve, reject) => {
      queue.push({ rows: sealed, resolve, reject });
      schedule();
    });
  }

  return {
    async record(event) {
      const one = record(event);
      recording.add(one);
      try {
        await one;
      } finally {
        recording.delete(one);
      }
    },
    async close() {
      closed = true;
      await Promise.allSettled(recording);
    },
  };
}
