import { CodedError } from '../errors.ts';
import type { Database, Sql } from './database.ts';
import { sql } from './sql.ts';

/** Marks of streams, sealed by the caller, and the lease that lets one puller work at a time. */
export interface StreamState {
  mark: Buffer | undefined;
  lastSuccess: Date | undefined;
  lastError: string | undefined;
}

/**
 * Takes the lease for `leaseMs`; false where another process holds it. `holder` names this process: a lease of its own that
 * it could not give back, because the database was away, is taken anew. Who holds it knows himself whether he is pulling.
 */
export async function leaseStream(database: Database, source: string, stream: string, leaseMs: number, holder: string): Promise<boolean> {
  const rows = await database.query(sql`
    insert into stream (source, stream, running_until, holder) values (${source}, ${stream}, now() + ${leaseMs} * interval '1 ms', ${holder})
    on conflict (source, stream) do update set running_until = excluded.running_until, holder = excluded.holder
      where stream.running_until is null or stream.running_until < now() or stream.holder = excluded.holder
    returning source`);
  return rows.length > 0;
}

/**
 * Prolongs the lease and stores the mark, inside the transaction that stored the page. Until the release it is incomplete.
 * Throws STREAM_BUSY where another has taken the lease meanwhile: the page is his, and rolls back here.
 */
export async function advanceStream(
  tx: Sql,
  source: string,
  stream: string,
  mark: Buffer | undefined,
  leaseMs: number,
  holder: string,
): Promise<void> {
  const rows = await tx.query(sql`
    update stream set mark = coalesce(${mark ?? null}, mark), complete = false, running_until = now() + ${leaseMs} * interval '1 ms'
    where source = ${source} and stream = ${stream} and holder = ${holder} returning source`);
  if (rows.length === 0) throw new CodedError('STREAM_BUSY', { diagnostics: `${source}/${stream}` });
}

/**
 * `completed`: it was read to its end. `stopped`: it was a dry run, or we are stopping, which is no fault. Else the code of what
 * went wrong.
 */
export async function releaseStream(
  sqlOn: Sql,
  source: string,
  stream: string,
  holder: string,
  end: 'completed' | 'stopped' | { error: string },
): Promise<void> {
  const completed = end === 'completed';
  const error = typeof end === 'string' ? null : end.error;
  await sqlOn.query(sql`
    update stream set running_until = null, holder = null, complete = complete or ${completed},
      last_error = case when ${end === 'stopped'} then last_error else ${error}::text end,
      last_success = case when ${completed} then now() else last_success end
    where source = ${source} and stream = ${stream} and holder = ${holder}`);
}

/** At a start nobody holds a lease: who holds the keys is alone, and has not pulled yet. */
export async function freeLeases(sqlOn: Sql): Promise<void> {
  await sqlOn.query(sql`update stream set running_until = null, holder = null where running_until is not null`);
}

export async function readStream(sqlOn: Sql, source: string, stream: string): Promise<StreamState | undefined> {
  const [row] = await sqlOn.query<{ mark: Buffer | null; last_success: Date | null; last_error: string | null }>(
    sql`select mark, last_success, last_error from stream where source = ${source} and stream = ${stream}`,
  );
  if (row === undefined) return undefined;
  return { mark: row.mark ?? undefined, lastSuccess: row.last_success ?? undefined, lastError: row.last_error ?? undefined };
}

export async function listStreams(
  sqlOn: Sql,
): Promise<{ source: string; stream: string; last_success: Date | null; last_error: string | null; running: boolean }[]> {
  return sqlOn.query(
    sql`select source, stream, last_success, last_error, coalesce(running_until > now(), false) as running from stream order by 1, 2`,
  );
}
