import { Client, Pool, type PoolClient, types as pgTypes } from 'pg';
import { compile, type SqlFragment } from './sql.ts';

/** What a query runs on: the pool or an open transaction. Rows come back as plain objects; bigint as number, bytea as Buffer, timestamptz as Date. */
export interface Sql {
  query<Row extends object = Record<string, unknown>>(fragment: SqlFragment): Promise<Row[]>;
}

export interface Database extends Sql {
  /**
   * Runs `work` in one transaction; rolls back where it throws. Serialisation is READ COMMITTED unless asked. `unforced`: the
   * commit does not wait for the disk. A crash of the server may lose the newest of these, each as a whole; any later commit that
   * waits makes them durable too. For work that its own rows cause to be done again.
   */
  transaction<T>(work: (tx: Sql) => Promise<T>, mode?: 'repeatable read' | 'serializable' | 'unforced'): Promise<T>;
  /** LISTEN on a channel; the handler gets the payload. Re-established after a lost connection. */
  listen(channel: string, handler: (payload: string) => void): Promise<{ close(): Promise<void> }>;
  readonly url: string;
  close(): Promise<void>;
}

const INT8: number = pgTypes.builtins.INT8;
/** How the columns of rows are read, on every connection: see `Sql`. */
export const rowTypes = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') => {
    // int8 and numeric counts stay far below 2^53 here: block numbers, sequence numbers, byte sizes.
    if (oid === INT8) return Number;
    return pgTypes.getTypeParser(oid as never, format as never);
  }) as never,
};

const UNFORCED = 'begin; set local synchronous_commit = off';

/** A pool of connections to the PostgreSQL at `url`. */
export function createDatabase(options: { url: string; maxConnections?: number; onError?: (error: Error) => void }): Database {
  const onError = options.onError ?? (() => {});
  const pool = new Pool({
    connectionString: options.url,
    max: options.maxConnections ?? 10,
    types: rowTypes,
    application_name: 'oncobridge',
  });
  // A connection that dies while idle must not end the process: the next query takes another.
  pool.on('error', onError);
  // Nor one that dies between two statements of a transaction, when the pool has lent it out and listens no more.
  pool.on('connect', (client) => client.on('error', () => {}));
  const names = new Map<string, string>();

  const on = (client: Pool | PoolClient): Sql => ({
    async query<Row extends object>(fragment: SqlFragment): Promise<Row[]> {
      const { text, values } = compile(fragment);
      if (values.length === 0) return (await client.query(text)).rows as Row[];
      // Statements of the code are few, so each is prepared once per connection; a cap keeps dynamic searches from growing it.
      let name = names.get(text);
      if (name === undefined && names.size < 500) names.set(text, (name = `s${names.size}`));
      return (await client.query({ ...(name === undefined ? {} : { name }), text, values })).rows as Row[];
    },
  });

  return {
    url: options.url,
    query: on(pool).query as Database['query'],
    async transaction(work, mode) {
      const client = await pool.connect();
      let broken: Error | undefined;
      try {
        await client.query(mode === undefined ? 'begin' : mode === 'unforced' ? UNFORCED : `begin isolation level ${mode}`);
        const result = await work(on(client));
        await client.query('commit');
        return result;
      } catch (error) {
        await client.query('rollback').catch((e: Error) => {
          broken = e;
        });
        throw error;
      } finally {
        client.release(broken);
      }
    },
    async listen(channel, handler) {
      let client: Client | undefined;
      let closed = false;
      const connect = async (): Promise<void> => {
        const next = new Client({ connectionString: options.url, keepAlive: true, application_name: 'oncobridge-listen' });
        next.on('error', onError);
        next.on('end', () => {
          if (!closed) setTimeout(() => connect().catch(onError), 500).unref();
        });
        next.on('notification', (message) => handler(message.payload ?? ''));
        await next.connect();
        await next.query(`listen "${channel}"`);
        client = next;
      };
      await connect();
      return {
        async close() {
          closed = true;
          await client?.end().catch(() => {});
        },
      };
    },
    async close() {
      await pool.end();
    },
  };
}
