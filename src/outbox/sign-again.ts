import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { Outbox } from './outbox.ts';

/**
 * Statements that nobody is there to sign anew: an enrolment, on which a patient's documents wait, and a revocation, which must not
 * be lost. What else the institution signs is answered to whoever asked.
 */
const UNATTENDED = ['enrollPatient', 'revokePermission'];

/**
 * Signed by the institution's former key and refused, because the ledger had the new one when they got there: the same payloads,
 * signed by the key in use, go out again. Their identity is the payload's hash, so nothing is done twice. Returns how many.
 */
export async function signAgain(parts: {
  database: Database;
  custodian: Pick<Custodian, 'signAgain'>;
  outbox: Pick<Outbox, 'wake'>;
}): Promise<number> {
  const { database, custodian, outbox } = parts;
  const refused = await database.query<{ id: string; args: string[] }>(sql`
    select id, args from outbox where state = 'rejected' and error_code = 'JWS_KEY' and transaction = any(${UNATTENDED}) order by seq`);
  let signed = 0;
  for (const { id, args } of refused) {
    const jws = await custodian.signAgain(args[0] ?? '');
    if (jws === undefined) continue;
    await database.query(sql`
      update outbox set state = 'pending', args = ${[jws, ...args.slice(1)]}::text[], batch = null, position = null, settled_at = null,
        error_code = null, tx_id = null, block = null, result = null
      where id = ${id} and state = 'rejected'`);
    signed++;
  }
  if (signed > 0) outbox.wake();
  return signed;
}
