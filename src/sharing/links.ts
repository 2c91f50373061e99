import { CodedError } from '../errors.ts';
import type { Role } from '../ledger/contract/shapes.ts';
import type { JsonObject } from '../records/lossless-json.ts';
import type { Database, Sql } from '../store/database.ts';
import type { Custodian } from '../vault/custodian.ts';
import type { LedgerPatient } from '../vault/holder.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';
import { formatLinkCode, makeLinkCode, parseLinkCode, secretHash } from './link-code.ts';
import { createLinkComparison, type LinkAnswer, type LinkResolved, type LinkShown } from './link-comparison.ts';
import {
  bind,
  boundBy,
  type CodeRow,
  closeCode,
  countLinks,
  insertCode,
  type LinkRow,
  type LinkState,
  type ListedRow,
  linkOf,
  listCodes,
  lockCodeByHash,
  lockLink,
  rebind,
  spend,
} from './link-rows.ts';

export interface NewCode {
  /** Our own patient. */
  patient: string;
  /** Member of ours whom the patient means to let read. */
  clinician: string;
  /** Who makes it: a registrar or clinician of ours, or the patient. */
  by: string;
  /** Default 7 days, at most 30. */
  expiresInMs?: number;
}
export interface MadeCode {
  link: string;
  /** The code. A secret that is kept nowhere here: shown once. */
  text: string;
  expires: string;
}
export interface Presented {
  state: LinkState;
  ownPatient: string;
}
/** A code and what became of it; without the other institution's pseudonym, which stands beside ours in `show` only. */
export interface ListedLink {
  link: string;
  patient: string;
  clinician: string;
  by: string;
  status: 'open' | 'expired' | 'closed' | 'spent' | LinkState;
  created: string;
  expires: string;
  institution: string | null;
  bound: string | null;
  decided: string | null;
  decidedBy: string | null;
}

export interface Links {
  /**
   * A code for our own patient. NOT_FOUND where we have no such patient, UNPROCESSABLE where `clinician` is no active clinician of
   * ours or the expiry is too far, FORBIDDEN where `by` may not, CONFLICT with five open codes.
   */
  makeCode(of: NewCode): Promise<MadeCode>;
  /**
   * What a grant of another institution's patient brings: binds them to ours by the code, once. Whoever is linked needs none, and
   * is not asked whether it has expired. Throws LINK_MISSING, LINK_MALFORMED, LINK_UNKNOWN, LINK_EXPIRED, LINK_USED, LINK_OTHER.
   */
  present(of: LedgerPatient, codeText: string | undefined): Promise<Presented>;
  /**
   * Compares the Patient resource of a document of theirs with our own patient. Serve nothing before `confirmed`; LINK_MISSING
   * where nobody is linked. Once held, a person decides, whatever later documents say.
   */
  compare(of: LedgerPatient, theirs: JsonObject): Promise<'confirmed' | 'held' | 'rejected'>;
  /** A person's answer. The same again does nothing. */
  resolve(answer: LinkAnswer): Promise<LinkResolved>;
  /** `reveal`: with names and birth dates. NOT_FOUND. */
  show(link: string, reveal: boolean): Promise<ListedLink & LinkShown>;
  list(): Promise<ListedLink[]>;
  counts(): Promise<Record<LinkState | 'open', number>>;
  /** Takes a code back that nobody has used. CONFLICT where somebody has: reject the link. */
  close(link: string, by: string): Promise<{ link: string }>;
}

const DAY_MS = 24 * 3600 * 1000;
const DEFAULT_LIFE_MS = 7 * DAY_MS;
const MOST_LIFE_MS = 30 * DAY_MS;
const MOST_OPEN = 5;
const MAKERS: readonly Role[] = ['registrar', 'clinician'];

/**
 * Links of other institutions' patients with our own (protocol section 8). Every change is one transaction that locks the code or
 * the link, so two presenters of one code are one after another, and a process that dies in between has bound all or nothing.
 */
export function createLinks(parts: {
  database: Database;
  rows: SealedRows;
  custodian: Pick<Custodian, 'institution' | 'institutionKeys'>;
  /** By the view of the ledger. */
  activeRole(institution: string, member: string): Promise<Role | undefined>;
  now?: () => Date;
  /** A link is held for a person. */
  onAlarm(alarm: { link: string }): void;
  /** A link came into another state: its patient's sharing is to be looked at again. The rows alone say what is due. */
  onChanged?(of: LedgerPatient, state: LinkState): void;
}): Links {
  const { database, custodian, activeRole } = parts;
  const own = custodian.institution;
  const now = parts.now ?? (() => new Date());
  const onChanged = parts.onChanged ?? (() => {});
  const comparison = createLinkComparison({ ...parts, own, now, onChanged });

  async function mustBe(member: string, roles: readonly Role[]): Promise<void> {
    const role = await activeRole(own, member);
    if (role === undefined || !roles.includes(role))
      throw new CodedError('FORBIDDEN', { diagnostics: `This takes an active member of this institution who is ${roles.join(' or ')}.` });
  }

  async function presentOnce(tx: Sql, of: LedgerPatient, codeText: string | undefined): Promise<Presented | 'again'> {
    const linked = await linkOf(tx, of);
    const code = codeText === undefined ? undefined : parsed(codeText, linked !== undefined);
    if (linked !== undefined) {
      const further = code?.institution === own ? await lockCodeByHash(tx, secretHash(code)) : undefined;
      return presentFurther(tx, linked, further);
    }
    if (code === undefined) throw new CodedError('LINK_MISSING');
    if (code.institution !== own || of.institution === own) throw new CodedError('LINK_OTHER');
    // Looked up by the hash of 128 random bits: what a comparison's time tells of a hash leads to no code.
    const row = await lockCodeByHash(tx, secretHash(code));
    if (row === undefined) {
      const { encryption } = await custodian.institutionKeys();
      throw new CodedError(code.key === jwkThumbprint(encryption) ? 'LINK_UNKNOWN' : 'LINK_OTHER');
    }
    const holder = await boundBy(tx, row.link);
    if (holder !== undefined) {
      // The same pair, bound between the first look and the lock.
      if (isSame(holder, of)) return 'again';
      throw new CodedError('LINK_USED');
    }
    const refused = refusedFor(row);
    if (refused !== undefined) {
      // Linked by another code between the first look and the lock, and this one spent with it.
      if ((await linkOf(tx, of)) !== undefined) return 'again';
      throw new CodedError(refused);
    }
    if (!(await bind(tx, of, row, now()))) return 'again';
    return { state: 'bound', ownPatient: row.pat };
  }

  /** A code that somebody brings who is linked: nobody else shall use it, and it must be of the same patient of ours. */
  async function presentFurther(tx: Sql, linked: LinkRow, code: CodeRow | undefined): Promise<Presented> {
    const as = { state: linked.state, ownPatient: linked.own_pat };
    if (code === undefined) return as;
    const of = { institution: linked.inst, patient: linked.pat };
    const holder = await boundBy(tx, code.link);
    if (holder !== undefined) {
      if (!isSame(holder, of)) throw new CodedError('LINK_USED');
      return as;
    }
    const isOpen = refusedFor(code) === undefined;
    if (linked.state === 'rejected') {
      const locked = isOpen ? await lockLink(tx, of) : undefined;
      if (locked?.state !== 'rejected') return as;
      // Made for the wrong one of our patients, say: only who has a new code begins anew.
      await rebind(tx, locked, code, now());
      return { state: 'bound', ownPatient: code.pat };
    }
    if (code.pat !== linked.own_pat) throw new CodedError('LINK_OTHER');
    if (isOpen) await spend(tx, code.link, now());
    return as;
  }

  function refusedFor({ spent_at, closed_at, expires_at }: CodeRow): 'LINK_USED' | 'LINK_EXPIRED' | undefined {
    if (spent_at !== null) return 'LINK_USED';
    return closed_at !== null || expires_at.getTime() <= now().getTime() ? 'LINK_EXPIRED' : undefined;
  }

  return {
    async makeCode({ patient, clinician, by, expiresInMs = DEFAULT_LIFE_MS }) {
      if (!Number.isFinite(expiresInMs) || expiresInMs < 1000 || expiresInMs > MOST_LIFE_MS)
        throw new CodedError('UNPROCESSABLE', { diagnostics: 'A code is good for 1 second to 30 days.' });
      if (by !== patient) await mustBe(by, MAKERS);
      if ((await activeRole(own, clinician)) !== 'clinician')
        throw new CodedError('UNPROCESSABLE', { diagnostics: 'The code must be meant for an active clinician of this institution.' });
      const { encryption } = await custodian.institutionKeys();
      const made = now();
      const code = makeLinkCode({
        institution: own,
        clinician,
        key: jwkThumbprint(encryption),
        expires: new Date(made.getTime() + expiresInMs),
      });
      const { link, expires } = code;
      const row = { link, pat: patient, clinician, hash: secretHash(code), expires: new Date(expires), by, now: made };
      const result = await database.transaction((tx) => insertCode(tx, row, MOST_OPEN));
      if (result === 'nobody') throw new CodedError('NOT_FOUND', { diagnostics: 'No patient has this pseudonym here.' });
      if (result === 'full')
        throw new CodedError('CONFLICT', { diagnostics: `${MOST_OPEN} codes of this patient are open. Use or close one of them.` });
      return { link, text: formatLinkCode(code), expires };
    },

    async present(of, codeText) {
      for (;;) {
        const presented = await database.transaction((tx) => presentOnce(tx, of, codeText));
        // Bound by somebody else's hand since the first look: it is linked now, and the next look finds it.
        if (presented !== 'again') return presented;
      }
    },

    compare: (of, theirs) => comparison.compare(of, theirs),

    async resolve(answer) {
      await mustBe(answer.by, [...MAKERS, 'privacy-officer']);
      return comparison.resolve(answer);
    },

    async show(link, reveal) {
      const [row] = await listCodes(database, link);
      if (row === undefined) throw notFound();
      return { ...listed(row, now()), ...(await comparison.show(link, reveal)) };
    },

    async list() {
      const at = now();
      return (await listCodes(database)).map((row) => listed(row, at));
    },

    counts: () => countLinks(database, now()),

    async close(link, by) {
      await mustBe(by, [...MAKERS, 'privacy-officer']);
      const closed = await database.transaction((tx) => closeCode(tx, link, now()));
      if (closed === undefined) throw notFound();
      if (!closed)
        throw new CodedError('CONFLICT', { diagnostics: 'The code was used. What it linked ends with `link resolve --reject`.' });
      return { link };
    },
  };
}

/** Whoever is linked needs no code, so one that is none takes nothing from them. */
function parsed(text: string, isLinked: boolean) {
  try {
    return parseLinkCode(text);
  } catch (error) {
    if (isLinked) return undefined;
    throw error;
  }
}

function listed(row: ListedRow, now: Date): ListedLink {
  const status =
    row.state ??
    (row.spent_at !== null ? 'spent' : row.closed_at !== null ? 'closed' : row.expires_at.getTime() <= now.getTime() ? 'expired' : 'open');
  return {
    link: row.link,
    patient: row.pat,
    clinician: row.clinician,
    by: row.created_by,
    status,
    created: row.created_at.toISOString(),
    expires: row.expires_at.toISOString(),
    institution: row.inst,
    bound: row.bound_at?.toISOString() ?? null,
    decided: row.decided_at?.toISOString() ?? null,
    decidedBy: row.decided_by,
  };
}

function isSame(a: LedgerPatient, b: LedgerPatient): boolean {
  return a.institution === b.institution && a.patient === b.patient;
}

function notFound(): CodedError {
  return new CodedError('NOT_FOUND', { diagnostics: 'No link has this id.' });
}
