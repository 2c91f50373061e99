import type { Actor } from '../auth/actor.ts';
import { CodedError } from '../errors.ts';
import type { AuditEventPort, ServedResource } from '../fhir/ports.ts';
import { isId } from '../ids.ts';
import type { Database } from '../store/database.ts';
import { join, type SqlFragment, sql } from '../store/sql.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { cleanQuery, toAuditEvent } from './balp.ts';
import { AUDIT_PURPOSE, decodeEvent, eventPlace, type StoredEvent } from './stored-event.ts';

interface Row {
  id: string;
  recorded: Date;
  inst: string | null;
  pat: string | null;
  detail: Buffer;
}

/**
 * Audit events as FHIR resources (architecture section 8). A patient sees those about themself; a privacy officer of this
 * institution, who is one by the ledger at that moment, sees all; nobody else sees any. Newest first.
 */
export function createAuditSearch(parts: {
  database: Pick<Database, 'query'>;
  rows: Pick<SealedRows, 'openPurpose'>;
  institution: string;
  /** Public address of the FHIR base, as the server's address in the events. */
  baseUrl?: string;
}): AuditEventPort {
  const { database, rows, institution, baseUrl } = parts;

  /** Who may see a row at all; undefined where this actor may see none. In the statement itself: one snapshot for right and rows. */
  function visible(actor: Actor, now: Date): SqlFragment | undefined {
    if (actor.institution !== institution) return undefined;
    if (actor.kind === 'patient') {
      return sql`e.inst = ${institution} and e.pat = ${actor.patient} and exists (
        select 1 from projection.patient p where p.inst = ${institution} and p.pat = ${actor.patient} and p.status = 'active')`;
    }
    if (actor.kind !== 'member') return undefined;
    return sql`exists (
      select 1 from projection.member m join projection.institution i on i.inst = m.inst and i.status = 'active'
      where m.inst = ${institution} and m.mem = ${actor.member} and m.role = 'privacy-officer' and m.status = 'active' and m.valid_until > ${now})`;
  }

  async function serve(actor: Actor, found: readonly Row[]): Promise<ServedResource[]> {
    const events = await Promise.all(
      found.map(async (row) => decodeEvent(await rows.openPurpose(AUDIT_PURPOSE, eventPlace(row), row.detail))),
    );
    const names = await memberNames(events);
    return events.map((event, i) => {
      const shown = actor.kind === 'patient' ? forPatient(event) : event;
      const resource = toAuditEvent(shown, { institution, names, ...(baseUrl !== undefined ? { baseUrl } : {}) });
      return {
        type: 'AuditEvent',
        id: event.id,
        versionId: '1',
        lastUpdated: found[i]?.recorded ?? new Date(event.recorded),
        text: JSON.stringify(resource),
        patients: event.patient === undefined ? [] : [event.patient],
      };
    });
  }

  async function memberNames(events: readonly StoredEvent[]): Promise<Map<string, string>> {
    const members = new Set<string>();
    for (const { actor } of events) if (actor?.kind === 'member' && actor.person !== undefined) members.add(actor.person);
    if (members.size === 0) return new Map();
    const named = await database.query<{ mem: string; name: string }>(
      sql`select mem, name from member where mem = any(${[...members]}::text[])`,
    );
    return new Map(named.map(({ mem, name }) => [mem, name]));
  }

  return {
    async readAuditEvent(actor, id, now) {
      const scope = visible(actor, now);
      if (scope === undefined || !isId('aud', id)) return undefined;
      const found = await database.query<Row>(
        sql`select e.id, e.recorded, e.inst, e.pat, e.detail from audit_event e where e.id = ${id} and ${scope}`,
      );
      return (await serve(actor, found))[0];
    },

    async searchAuditEvents(actor, { patients, from, until, count, after, now }) {
      const scope = visible(actor, now);
      if (scope === undefined || count <= 0 || patients?.length === 0) return { resources: [] };
      const conditions = [scope];
      if (patients !== undefined) {
        // Every institution is named, for the index begins with it.
        conditions.push(sql`e.inst = any(array(select inst from projection.institution)) and e.pat = any(${[...patients]}::text[])`);
      }
      if (from !== undefined) conditions.push(sql`e.recorded >= ${from}`);
      if (until !== undefined) conditions.push(sql`e.recorded <= ${until}`);
      if (after !== undefined) {
        const { recorded, id } = position(after);
        conditions.push(sql`(e.recorded, e.id) < (${recorded}::timestamptz, ${id})`);
      }
      const found = await database.query<Row>(sql`
        select e.id, e.recorded, e.inst, e.pat, e.detail from audit_event e
        where ${join(conditions, ' and ')} order by e.recorded desc, e.id desc limit ${count + 1}`);
      const page = found.slice(0, count);
      const last = page.at(-1);
      const resources = await serve(actor, page);
      return found.length > count && last !== undefined ? { resources, after: `${last.recorded.toISOString()}/${last.id}` } : { resources };
    },
  };
}

/** A query may name other patients, and theirs are not this one's to see. */
function forPatient(event: StoredEvent): StoredEvent {
  return event.query === undefined ? event : { ...event, query: cleanQuery(event.query, event.patient?.patient) };
}

function position(after: string): { recorded: string; id: string } {
  const [recorded = '', id = '', ...more] = after.split('/');
  if (more.length > 0 || Number.isNaN(Date.parse(recorded)) || !isId('aud', id)) {
    throw new CodedError('BAD_REQUEST', { diagnostics: 'The page named does not exist.' });
  }
  return { recorded, id };
}
