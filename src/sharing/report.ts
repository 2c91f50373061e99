import type { Database } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import { isGranteeOf, livesUntil, readGranted } from './shared-permissions.ts';

/** A permission on which something is held. */
export interface StandingPermission {
  grantor: string;
  grantee: string;
  consents: readonly string[];
  /** SHA-256 of the signed statement. */
  statement: string;
  recorded: string;
  until: string | null;
}
/** A category of another institution's patient, and what of it is here. */
export interface SharedCategoryReport {
  institution: string;
  patient: string;
  category: string;
  state: string;
  /** Why it waits, was refused, or is not whole. */
  code: string | null;
  link: string | null;
  since: string;
  documents: number;
  bytes: number;
  /** Still to be fetched; `missing`: given up for now. */
  wanted: number;
  missing: number;
  permissions: readonly StandingPermission[];
}
export interface SharingEndReport {
  end: string;
  institution: string;
  patient: string;
  category: string;
  document: string | null;
  cause: string;
  block: number | null;
  ended: string;
  /** Null: still being deleted. */
  deleted: string | null;
  documents: number;
  rows: number;
  objects: number;
  bytes: number;
  keys: number;
  held: number;
  /** The event of the same facts, and the anchor on the ledger whose tree holds it; null: with the next one. */
  audit: string;
  anchor: number | null;
}
export interface SharedDocumentReport {
  document: string;
  version: number;
  category: string;
  recorder: string;
  state: 'held' | 'wanted' | 'missing' | 'refused';
  code: string | null;
  attempts: number;
  since: string;
  bytes: number | null;
  /** Of the entry that it was fetched by. */
  block: number | null;
}

/** What is held of other institutions' patients, on which permission, and what was ended and deleted: for the privacy officer. Opens nothing. */
export function createSharingReport(parts: { database: Database; institution: string; now: () => Date }) {
  const { database, institution: own, now } = parts;

  async function categories(of?: { institution: string; patient: string }): Promise<SharedCategoryReport[]> {
    const rows = await database.query<
      Omit<SharedCategoryReport, 'since' | 'permissions' | 'institution' | 'patient'> & { inst: string; pat: string; since: Date }
    >(sql`
      select s.inst, s.pat, s.category, s.state, s.code, l.state as link, coalesce(h.since, s.noticed_at) as since,
        coalesce(h.documents, 0)::int as documents, coalesce(h.bytes, 0)::bigint as bytes, coalesce(w.wanted, 0)::int as wanted, coalesce(w.missing, 0)::int as missing
      from shared_category s left join patient_link l on l.inst = s.inst and l.pat = s.pat
        left join lateral (select min(v.fetched_at) as since, count(*) as documents, sum(v.size_bytes) as bytes from shared_version v
          where v.inst = s.inst and v.pat = s.pat and v.category = s.category) h on true
        left join lateral (select count(*) filter (where o.state = 'wanted') as wanted, count(*) filter (where o.state <> 'wanted') as missing from shared_object o
          where o.inst = s.inst and o.pat = s.pat and o.category = s.category) w on true
      where ${of === undefined ? sql`true` : sql`s.inst = ${of.institution} and s.pat = ${of.patient}`}
      order by s.inst, s.pat, s.category`);
    const permissions = new Map<string, Awaited<ReturnType<typeof readGranted>>>();
    const reports: SharedCategoryReport[] = [];
    for (const { inst, pat, since, ...row } of rows) {
      const name = `${inst}/${pat}`;
      const granted = permissions.get(name) ?? (await readGranted(database, { institution: inst, patient: pat }, own, new Set()));
      permissions.set(name, granted);
      const standing = granted.heads.flatMap((head): StandingPermission[] => {
        if (head.category !== row.category || !isGranteeOf(own, head.grantee)) return [];
        const others = granted.heads.filter((one) => one === head || !isGranteeOf(own, one.grantee));
        const until = livesUntil(others, own, row.category, now().getTime());
        if (until === undefined) return [];
        return [
          {
            grantor: head.grantor,
            grantee: head.grantee,
            consents: [...new Set(head.state.clauses.map((clause) => clause.consent))],
            statement: head.state.statement,
            recorded: head.recordedAt.toISOString(),
            until: Number.isFinite(until) ? new Date(until).toISOString() : null,
          },
        ];
      });
      reports.push({ institution: inst, patient: pat, ...row, since: since.toISOString(), permissions: standing });
    }
    return reports;
  }

  async function ends(of?: { institution: string; patient: string }): Promise<SharingEndReport[]> {
    const rows = await database.query<
      Omit<SharingEndReport, 'institution' | 'patient' | 'end' | 'ended' | 'deleted'> & {
        id: string;
        inst: string;
        pat: string;
        ended_at: Date;
        deleted_at: Date | null;
      }
    >(sql`
      select e.id, e.inst, e.pat, e.category, e.document, e.cause, e.block, e.ended_at, e.deleted_at, e.documents, e.rows, e.objects, e.bytes, e.keys, e.held,
        e.audit, a.anchor
      from sharing_end e left join audit_event a on a.id = e.audit
      where ${of === undefined ? sql`true` : sql`e.inst = ${of.institution} and e.pat = ${of.patient}`} order by e.ended_at, e.id`);
    return rows.map(({ id, inst, pat, ended_at, deleted_at, ...row }) => ({
      end: id,
      institution: inst,
      patient: pat,
      ...row,
      ended: ended_at.toISOString(),
      deleted: deleted_at?.toISOString() ?? null,
    }));
  }

  async function documents(of: { institution: string; patient: string }): Promise<SharedDocumentReport[]> {
    const rows = await database.query<Omit<SharedDocumentReport, 'since'> & { since: Date }>(sql`
      select v.document, v.version, v.category, v.recorder, 'held' as state, null as code, 0 as attempts, v.fetched_at as since, v.size_bytes as bytes,
        (select e.block from projection.entry e where e.inst = v.inst and e.pat = v.pat and e.recorder = v.recorder and e.doc = v.document and e.version = v.version
          and e.n = v.n and e.standing) as block
      from shared_version v where v.inst = ${of.institution} and v.pat = ${of.patient}
      union all select o.document, o.version, o.category, o.recorder, o.state, o.code, o.attempts, o.wanted_at, null, null
      from shared_object o where o.inst = ${of.institution} and o.pat = ${of.patient} order by category, document, version`);
    return rows.map((row) => ({ ...row, since: row.since.toISOString() }));
  }

  return { categories, ends, documents };
}
