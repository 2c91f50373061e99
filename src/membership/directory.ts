import { z } from 'zod';
import { canonicalJson } from '../canonical-json.ts';
import { CodedError } from '../errors.ts';
import { institutionKey } from '../ledger/contract/keys.ts';
import type { InstitutionState } from '../ledger/contract/state.ts';
import { verifyEs256 } from '../ledger/host-crypto.ts';
import { projectedState } from '../ledger/projection-state.ts';
import type { Database, Sql } from '../store/database.ts';
import { sql } from '../store/sql.ts';
import type { Custodian } from '../vault/custodian.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';

const TYPE = 'directory+jws';
const LIFETIME_MS = 90 * 24 * 3600 * 1000;
/** The own one is signed anew after so long; whoever asks more often gets the same. */
const HELD_MS = 30_000;
const MOST_LENGTH = 4 * 1024 * 1024;
/** Private persons who care for one patient are no part of an institution's staff. */
const UNLISTED = ['carer'];

const thumbprint = z.string().regex(/^[A-Za-z0-9_-]{43}$/);
const id = z.string().regex(/^[a-z0-9][a-z0-9-]{0,63}$/);
const person = z.string().min(1).max(200);
const content = z.strictObject({
  encryption: thumbprint,
  expires: z.iso.datetime(),
  institution: id,
  issued: z.iso.datetime(),
  ledger: z.string().max(64),
  members: z
    .array(
      z.strictObject({ encryption: thumbprint.nullable(), id, name: person, role: z.string().max(32), signing: thumbprint.nullable() }),
    )
    .max(50_000),
  name: person,
  signing: thumbprint,
});

/** An institution's directory: who works there under which member id, and the thumbprints of the keys. */
export type Directory = z.infer<typeof content>;

/** A directory with what the ledger says of each of its members. */
export interface DirectoryReport extends Omit<Directory, 'members'> {
  members: readonly (Directory['members'][number] & {
    onLedger: 'as listed' | 'unknown' | 'suspended' | 'expired' | 'other role' | 'other key';
  })[];
}

export interface Directories {
  /** This institution's own: a compact JWS by its signing key. */
  own(): Promise<string>;
  /** The own one, or that which another institution handed over. NOT_FOUND where there is none. Not checked: whoever uses it does. */
  of(institution: string): Promise<string>;
  /** The same for whoever relies on it: only one that the ledger bears out now, its members aside. DIRECTORY_… otherwise. */
  holding(institution: string): Promise<string>;
  /** Institutions of which there is one, the own first. */
  known(): Promise<string[]>;
  /** Takes a directory of another institution in the place of an older one. DIRECTORY_… where it does not hold, CONFLICT where it is older, BAD_REQUEST for the own one. */
  import(jws: string): Promise<DirectoryReport>;
  /** What it says, held against the ledger as it is now. DIRECTORY_… where the directory itself does not hold. */
  report(jws: string): Promise<DirectoryReport>;
}

/**
 * Signed directories of institutions (docs/institutions.md). The ledger holds ids, roles and thumbprints; names stand here only,
 * so a directory says who a member is, and the ledger whether to believe its keys.
 */
export function createDirectories(parts: {
  database: Database;
  custodian: Pick<Custodian, 'institution' | 'institutionKeys' | 'signAsInstitution'>;
  ledgerId: string;
  /** As the institution is called. */
  name: string;
  now?: () => Date;
}): Directories {
  const { database, custodian, ledgerId } = parts;
  const { institution } = custodian;
  const now = parts.now ?? (() => new Date());
  let held: { jws: Promise<string>; kid: string; atMs: number } | undefined;

  async function make(): Promise<string> {
    const { signing, encryption } = await custodian.institutionKeys();
    const issued = now();
    const members = await database.query<Directory['members'][number]>(sql`
      select m.mem as id, m.name, p.role, p.signing_thumbprint as signing, p.encryption_thumbprint as encryption
      from member m join projection.member p on p.inst = ${institution} and p.mem = m.mem
      where p.status = 'active' and p.valid_until > ${issued} and p.role <> all(${UNLISTED}) order by m.mem`);
    const directory: Directory = {
      encryption: jwkThumbprint(encryption),
      expires: new Date(issued.getTime() + LIFETIME_MS).toISOString(),
      institution,
      issued: issued.toISOString(),
      ledger: ledgerId,
      members,
      name: parts.name,
      signing: jwkThumbprint(signing),
    };
    return custodian.signAsInstitution(TYPE, canonicalJson(directory));
  }

  async function report(jws: string): Promise<DirectoryReport> {
    const directory = await openDirectory(database, jws, { ledgerId, now: now() });
    const { institution: inst, members } = directory;
    const rows = await database.query<MemberRow>(sql`
      select mem, role, status, valid_until, signing_thumbprint, encryption_thumbprint from projection.member
      where inst = ${inst} and mem = any(${members.map((member) => member.id)})`);
    const known = new Map(rows.map((row) => [row.mem, row]));
    return { ...directory, members: members.map((member) => ({ ...member, onLedger: standing(member, known.get(member.id), now()) })) };
  }

  return {
    async own() {
      const kid = jwkThumbprint((await custodian.institutionKeys()).signing);
      if (held === undefined || held.kid !== kid || now().getTime() - held.atMs > HELD_MS) {
        const jws = make();
        held = { jws, kid, atMs: now().getTime() };
        jws.catch(() => (held = undefined));
      }
      return held.jws;
    },
    async of(inst) {
      if (inst === institution) return this.own();
      const [row] = await database.query<{ jws: string }>(sql`select jws from directory_of where inst = ${inst}`);
      if (row === undefined) throw new CodedError('NOT_FOUND', { diagnostics: 'No directory of this institution was imported.' });
      return row.jws;
    },
    async holding(inst) {
      const jws = await this.of(inst);
      await openDirectory(database, jws, { ledgerId, now: now() });
      return jws;
    },
    async known() {
      const rows = await database.query<{ inst: string }>(sql`select inst from directory_of order by inst`);
      return [institution, ...rows.map((row) => row.inst)];
    },
    report,
    async import(jws) {
      const found = await report(jws);
      if (found.institution === institution)
        throw new CodedError('BAD_REQUEST', { diagnostics: "It is this institution's own directory." });
      const wrong = found.members.find((member) => member.onLedger !== 'as listed');
      if (wrong !== undefined) throw new CodedError('DIRECTORY_MEMBER', { diagnostics: `${wrong.id}: ${wrong.onLedger}.` });
      const [former] = await database.query<{ jws: string }>(sql`select jws from directory_of where inst = ${found.institution}`);
      if (former !== undefined && read(former.jws).directory.issued > found.issued)
        throw new CodedError('CONFLICT', { diagnostics: 'A newer one of this institution is here already.' });
      await database.query(sql`
        insert into directory_of (inst, jws) values (${found.institution}, ${jws.trim()})
        on conflict (inst) do update set jws = excluded.jws, imported_at = now()`);
      return found;
    },
  };
}

interface MemberRow {
  mem: string;
  role: string;
  status: string;
  valid_until: Date;
  signing_thumbprint: string | null;
  encryption_thumbprint: string | null;
}

function standing(
  listed: Directory['members'][number],
  row: MemberRow | undefined,
  now: Date,
): DirectoryReport['members'][number]['onLedger'] {
  if (row === undefined) return 'unknown';
  if (row.status !== 'active') return 'suspended';
  if (row.valid_until <= now) return 'expired';
  if (row.role !== listed.role) return 'other role';
  return row.signing_thumbprint === listed.signing && row.encryption_thumbprint === listed.encryption ? 'as listed' : 'other key';
}

/**
 * What a directory says, once the ledger bears it out: signed by the institution's key there, naming its keys there, not expired.
 * DIRECTORY_MALFORMED, DIRECTORY_SIGNATURE, DIRECTORY_KEY, DIRECTORY_EXPIRED otherwise. Its members are not looked at.
 */
export async function openDirectory(on: Sql, jws: string, expect: { ledgerId: string; now: Date }): Promise<Directory> {
  const { directory, kid, signed, signature } = read(jws);
  if (directory.ledger !== expect.ledgerId) throw malformed('It was made for another ledger.');
  const known = await institutionOnLedger(on, directory.institution);
  if (known === undefined) throw malformed('The institution does not stand on the ledger.');
  const { status, state } = known;
  if (status !== 'active' || kid !== jwkThumbprint(state.signing) || !(await verifyEs256(state.signing, signed, signature)))
    throw new CodedError('DIRECTORY_SIGNATURE');
  if (directory.signing !== kid || directory.encryption !== jwkThumbprint(state.encryption)) throw new CodedError('DIRECTORY_KEY');
  if (directory.expires <= expect.now.toISOString()) throw new CodedError('DIRECTORY_EXPIRED');
  return directory;
}

/** An institution in the verified view of the ledger; `alarmed` where its state there does not follow from the contract. */
export async function institutionOnLedger(on: Sql, institution: string): Promise<{ status: string; state: InstitutionState } | undefined> {
  const found = await projectedState(on).get(institutionKey(institution));
  const [row] = await on.query<{ status: string }>(sql`select status from projection.institution where inst = ${institution}`);
  return found === undefined || row === undefined ? undefined : { status: row.status, state: JSON.parse(found.value) as InstitutionState };
}

function read(jws: string): { directory: Directory; kid: string; signed: Buffer; signature: Buffer } {
  const parts = jws.trim().split('.');
  const [head = '', body = '', tail = ''] = parts;
  if (jws.length > MOST_LENGTH || parts.length !== 3) throw malformed();
  try {
    const header = JSON.parse(Buffer.from(head, 'base64url').toString()) as Record<string, unknown>;
    const { alg, kid, typ, ...more } = header;
    if (alg !== 'ES256' || typ !== TYPE || typeof kid !== 'string' || Object.keys(more).length > 0) throw malformed();
    const text = Buffer.from(body, 'base64url').toString();
    const directory = content.parse(JSON.parse(text));
    if (canonicalJson(directory) !== text) throw malformed();
    return { directory, kid, signed: Buffer.from(`${head}.${body}`), signature: Buffer.from(tail, 'base64url') };
  } catch (error) {
    throw error instanceof CodedError ? error : malformed();
  }
}

function malformed(diagnostics?: string): CodedError {
  return new CodedError('DIRECTORY_MALFORMED', diagnostics === undefined ? {} : { diagnostics });
}
