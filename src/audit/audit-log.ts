import { CodedError } from '../errors.ts';
import { newId } from '../ids.ts';
import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import type { AccessEvent, Audit } from './audit.ts';
import { AUDIT_PURPOSE, encodeEvent, eventPlace, storedEvent } from './stored-event.ts';

/** An event waits at most so long for others to share its commit. */
const GROUP_MS = 5;
/** Where the last commit was shared a moment ago, its companions are likely to come again: they are waited for so long. */
const GATHER_MS = 2;
const RECENT_MS = 20;
/** Commits under way at one time: a database that hangs must not take every connection of the pool. */
const MAX_COMMITS = 3;
const MAX_ROWS = 2000;

interface Row {
  id: string;
  recorded: Date;
  inst: string | null;
  pat: string | null;
  leaf: Buffer;
  detail: Buffer;
}
interface Waiting {
  rows: readonly Row[];
  resolve: () => void;
  reject: (error: CodedError) => void;
}

/**
 * The log of accesses. `record` resolves once its rows (one a patient; one without a patient where none is named) are
 * committed, and rejects with UNAVAILABLE where they cannot be: then nothing is served. Events that come while a commit
 * is under way share the next one; nobody waits longer than 5 ms for it to begin, and who is alone does not wait at all. A commit
 * costs a statement, a round trip and a flush whatever it holds: shared by four it costs each a quarter.
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
  /** Requests that shared the last commit, and when one ended. */
  let companions = 1;
  let lastAt = Number.NEGATIVE_INFINITY;
  const commits = new Set<Promise<void>>();
  const recording = new Set<Promise<void>>();

  async function seal(event: AccessEvent): Promise<Row[]> {
    const recorded = now();
    const patients = event.patients.length === 0 ? [undefined] : event.patients;
    return await Promise.all(
      patients.map(async (patient) => {
        const id = newId('aud');
        const { plaintext, leaf } = encodeEvent(storedEvent(event, id, recorded.toISOString(), patient));
        const clear = { id, recorded, inst: patient?.institution ?? null, pat: patient?.patient ?? null };
        return { ...clear, leaf, detail: await rows.sealPurpose(AUDIT_PURPOSE, eventPlace(clear), plaintext) };
      }),
    );
  }

  function schedule(): void {
    if (queue.length === 0) return;
    if (commits.size === 0) {
      if (queue.length < companions && performance.now() - lastAt < RECENT_MS) {
        wait(GATHER_MS);
        return;
      }
      // Idle: only what comes in this very turn is gathered.
      if (scheduled) return;
      scheduled = true;
      setImmediate(() => {
        scheduled = false;
        commit();
      });
    } else {
      wait(GROUP_MS);
    }
  }

  function wait(ms: number): void {
    timer ??= setTimeout(() => {
      timer = undefined;
      if (commits.size < MAX_COMMITS) commit();
    }, ms);
  }

  function commit(): void {
    clearTimeout(timer);
    timer = undefined;
    let count = 0;
    let taken = 0;
    while (taken < queue.length && count < MAX_ROWS) count += queue[taken++]?.rows.length ?? 0;
    const batch = queue.splice(0, taken);
    if (batch.length === 0) return;
    companions = batch.length;
    const done = insert(batch).finally(() => {
      commits.delete(done);
      lastAt = performance.now();
      // Whoever came meanwhile has waited for this commit already.
      if (queue.length > 0) commit();
    });
    commits.add(done);
  }

  async function insert(batch: readonly Waiting[]): Promise<void> {
    const all = batch.flatMap((one) => one.rows);
    let end = 1;
    const starts = all.map((row) => {
      const start = end;
      end += row.detail.length;
      return start;
    });
    try {
      // The bytes of all rows as two values, cut apart there: an array of bytea would go over in hex, each element escaped.
      await database.query(sql`
        insert into audit_event (id, recorded, inst, pat, leaf, detail)
        select id, recorded, inst, pat, substring(${Buffer.concat(all.map((row) => row.leaf))}::bytea from (32 * n - 31)::int for 32),
          substring(${Buffer.concat(all.map((row) => row.detail))}::bytea from start for size)
        from unnest(${all.map((row) => row.id)}::text[], ${all.map((row) => row.recorded.toISOString())}::timestamptz[],
          ${all.map((row) => row.inst)}::text[], ${all.map((row) => row.pat)}::text[], ${starts}::int[], ${all.map((row) => row.detail.length)}::int[])
          with ordinality as t(id, recorded, inst, pat, start, size, n) order by n`);
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
