import { createPrivateKey, generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { CodedError, codeOf } from '../errors.ts';
import { isId, newId } from '../ids.ts';
import { memberKey } from '../ledger/contract/keys.ts';
import {
  ecJwk,
  memberProofPayload,
  registerMemberArgument,
  renewMemberPayload,
  suspendMemberPayload,
  TYP,
} from '../ledger/contract/payloads.ts';
import { ROLES, type Role } from '../ledger/contract/shapes.ts';
import type { MemberState } from '../ledger/contract/state.ts';
import { projectedState } from '../ledger/projection-state.ts';
import { type Carrier, mustCommit } from '../outbox/await-commit.ts';
import type { OutboxItem } from '../outbox/outbox.ts';
import type { Database } from '../store/database.ts';
import { writeDirectory } from '../store/resources.ts';
import { sql } from '../store/sql.ts';
import type { Custodian, PublicJwk } from '../vault/custodian.ts';
import type { SealedRows } from '../vault/sealed-rows.ts';
import { jwkThumbprint } from '../vault/thumbprint.ts';
import { type CredentialAdapter, createNpiCheck } from './credentials.ts';

export interface NewMember {
  /** As in the directory; stays here, in clear. */
  name: string;
  role: string;
  /** Default: a year from now. */
  validUntil?: Date;
  /** US National Provider Identifier, checked for its form only. */
  npi?: string;
  /** The member's own key, with the proof over `proofPayload`'s text; without it a key is made and kept here. */
  ownKey?: { member: string; publicJwk: PublicJwk; proof: string };
}
export interface MemberRow {
  member: string;
  name: string;
  role: string;
  /** `registering` until the ledger has it. */
  status: 'active' | 'suspended' | 'expired' | 'alarmed' | 'registering';
  validUntil: Date | null;
  signingThumbprint: string | null;
}

export interface Membership {
  /** Registers a person on the ledger; resolves once committed and projected. UNPROCESSABLE for a role or number that cannot be. */
  registerMember(facts: NewMember): Promise<{ member: string }>;
  /** For a member who keeps the key: a new member id, and the text to sign with it as a compact JWS of typ `register-member+jws`. */
  proofPayload(publicJwk: PublicJwk): { member: string; typ: string; payload: string };
  suspend(member: string): Promise<void>;
  /** Also makes a suspended member active again. */
  renew(member: string, validUntil: Date): Promise<void>;
  list(): Promise<MemberRow[]>;
  /** The role of a member who is active now, by the ledger. */
  activeRole(institution: string, member: string): Promise<Role | undefined>;
  /** Compact JWS by a member's key that is kept here. Undefined where the member keeps it. */
  signAsMember(member: string, typ: string, payload: string): Promise<{ jws: string; publicJwk: PublicJwk } | undefined>;
}

const YEAR_MS = 365 * 24 * 3600 * 1000;
const place = (member: string): string => `member-key/${member}`;

/**
 * Registered persons of this institution. A key that is made here is kept sealed in the database under a key of the
 * custodian: development custody, fit for trials; a production site hands in public keys of its members' own devices.
 */
export function createMembership(
  parts: Carrier & {
    database: Database;
    rows: SealedRows;
    custodian: Custodian;
    ledgerId: string;
    npi?: CredentialAdapter;
    timeoutMs?: number;
    now?: () => Date;
  },
): Membership {
  const { database, rows, custodian, ledgerId, outbox } = parts;
  const { institution } = custodian;
  const now = parts.now ?? (() => new Date());
  const timeoutMs = parts.timeoutMs ?? 15_000;
  const npi = parts.npi ?? createNpiCheck(now);

  const proofText = (member: string, publicJwk: PublicJwk): string =>
    memberProofPayload({ encryption: null, institution, ledger: ledgerId, member, nonce: nonce(), signing: ecJwk(publicJwk) });

  async function ledgerState(member: string): Promise<MemberState> {
    const found = await projectedState(database).get(memberKey(institution, member));
    if (found === undefined) throw new CodedError('NOT_FOUND', { diagnostics: 'No such member is registered here.' });
    return JSON.parse(found.value) as MemberState;
  }

  async function carry(item: OutboxItem): Promise<void> {
    const id = await database.transaction((tx) => outbox.add(tx, item));
    await mustCommit(parts, id, timeoutMs);
  }

  async function forget(member: string): Promise<void> {
    await database.transaction(async (tx) => {
      await tx.query(sql`delete from member_key where mem = ${member}`);
      await tx.query(sql`delete from member where mem = ${member}`);
    });
  }

  async function describe(member: string, active: boolean): Promise<void> {
    const [row] = await database.query<{ name: string; credential_number: string | null }>(
      sql`select name, credential_number from member where mem = ${member}`,
    );
    if (row === undefined) return;
    const practitioner = {
      resourceType: 'Practitioner',
      ...(row.credential_number === null
        ? {}
        : { identifier: [{ system: 'http://hl7.org/fhir/sid/us-npi', value: row.credential_number }] }),
      active,
      name: [{ text: row.name }],
    };
    await database.transaction((tx) =>
      writeDirectory(tx, [{ type: 'Practitioner', id: member, text: JSON.stringify(practitioner) }], now()),
    );
  }

  async function change(member: string, type: 'suspendMember' | 'renewMember', payloadOf: (version: number) => string): Promise<void> {
    const { version } = await ledgerState(member);
    const jws = await custodian.signAsInstitution(TYP[type], payloadOf(version + 1));
    await carry({
      transaction: type,
      args: [jws],
      orderKey: `mem/${institution}/${member}`,
      priority: type === 'suspendMember' ? 'urgent' : 'live',
    });
    await describe(member, type === 'renewMember');
  }

  return {
    proofPayload(publicJwk) {
      const member = newId('mem');
      return { member, typ: TYP.registerMember, payload: proofText(member, publicJwk) };
    },

    async registerMember(facts) {
      const role = ROLES.find((one) => one === facts.role);
      const name = facts.name.trim();
      if (role === undefined) throw unprocessable(`The role must be one of ${ROLES.join(', ')}.`);
      if (name === '' || name.length > 200) throw unprocessable('The name must have 1 to 200 characters.');
      const credential = facts.npi === undefined ? undefined : await npi.check(facts.npi);
      if (credential?.status === 'malformed') throw unprocessable('The NPI has a wrong form or check digit.');
      const { ownKey } = facts;
      if (ownKey !== undefined && !isId('mem', ownKey.member)) throw unprocessable('The member id was not made here.');
      const member = ownKey?.member ?? newId('mem');
      const made = ownKey === undefined ? newSigningKey() : undefined;
      const proof =
        made === undefined ? (ownKey?.proof ?? '') : jws(made.pkcs8, made.publicJwk, TYP.registerMember, proofText(member, made.publicJwk));
      const validUntil = (facts.validUntil ?? new Date(now().getTime() + YEAR_MS)).toISOString();
      const argument = registerMemberArgument({ member, proof, role, validUntil });
      const sealed = made === undefined ? undefined : await rows.sealPurpose('member-signing', place(member), made.pkcs8);
      const id = await database.transaction(async (tx) => {
        const item = await outbox.add(tx, { transaction: 'registerMember', args: [argument], orderKey: `mem/${institution}/${member}` });
        await tx.query(sql`
          insert into member (mem, name, role, outbox, credential, credential_number, credential_status, credential_checked_at)
          values (${member}, ${name}, ${role}, ${item}, ${credential === undefined ? null : npi.kind}, ${facts.npi ?? null}, ${credential?.status ?? null}, ${credential?.checkedAt ?? null})`);
        if (made !== undefined && sealed !== undefined) {
          await tx.query(
            sql`insert into member_key (mem, public_jwk, private_key) values (${member}, ${JSON.stringify(made.publicJwk)}::jsonb, ${sealed})`,
          );
        }
        return item;
      });
      try {
        await mustCommit(parts, id, timeoutMs);
      } catch (error) {
        // Refused for good: nobody was registered.
        if (codeOf(error) === 'LEDGER_REFUSED') await forget(member);
        throw error;
      }
      await describe(member, true);
      return { member };
    },

    suspend: (member) =>
      change(member, 'suspendMember', (version) =>
        suspendMemberPayload({ institution, ledger: ledgerId, member, nonce: nonce(), version }),
      ),
    renew: (member, validUntil) =>
      change(member, 'renewMember', (version) =>
        renewMemberPayload({ institution, ledger: ledgerId, member, nonce: nonce(), validUntil: validUntil.toISOString(), version }),
      ),

    async list() {
      const found = await database.query<{
        mem: string;
        name: string;
        role: string;
        status: string | null;
        valid_until: Date | null;
        signing_thumbprint: string | null;
      }>(sql`
        select m.mem, m.name, m.role, p.status, p.valid_until, p.signing_thumbprint
        from member m left join projection.member p on p.inst = ${institution} and p.mem = m.mem order by m.created_at, m.mem`);
      return found.map((row) => ({
        member: row.mem,
        name: row.name,
        role: row.role,
        status: statusOf(row.status, row.valid_until, now()),
        validUntil: row.valid_until,
        signingThumbprint: row.signing_thumbprint,
      }));
    },

    async activeRole(inst, member) {
      const [row] = await database.query<{ role: Role }>(sql`
        select m.role from projection.member m join projection.institution i on i.inst = m.inst and i.status = 'active'
        where m.inst = ${inst} and m.mem = ${member} and m.status = 'active' and m.valid_until > ${now()}`);
      return row?.role;
    },

    async signAsMember(member, typ, payload) {
      const [row] = await database.query<{ public_jwk: PublicJwk; private_key: Buffer }>(
        sql`select public_jwk, private_key from member_key where mem = ${member}`,
      );
      if (row === undefined) return undefined;
      const pkcs8 = await rows.openPurpose('member-signing', place(member), row.private_key);
      return { jws: jws(pkcs8, row.public_jwk, typ, payload), publicJwk: row.public_jwk };
    },
  };
}

function statusOf(status: string | null, validUntil: Date | null, now: Date): MemberRow['status'] {
  if (status === null || validUntil === null) return 'registering';
  if (status === 'suspended' || status === 'alarmed') return status;
  return validUntil.getTime() <= now.getTime() ? 'expired' : 'active';
}

function newSigningKey(): { pkcs8: Buffer; publicJwk: PublicJwk } {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const { crv, kty, x, y } = ecJwk(publicKey.export({ format: 'jwk' }));
  return { pkcs8: privateKey.export({ format: 'der', type: 'pkcs8' }), publicJwk: { kty, crv, x, y } };
}

/** Compact JWS, ES256, exactly alg, kid and typ in its header (protocol section 1). */
function jws(pkcs8: Buffer, publicJwk: PublicJwk, typ: string, payload: string): string {
  const header = JSON.stringify({ alg: 'ES256', kid: jwkThumbprint(publicJwk), typ });
  const text = `${Buffer.from(header).toString('base64url')}.${Buffer.from(payload).toString('base64url')}`;
  const key = createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' });
  return `${text}.${sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
}

function nonce(): string {
  return randomBytes(16).toString('base64url');
}

function unprocessable(diagnostics: string): CodedError {
  return new CodedError('UNPROCESSABLE', { diagnostics });
}
