import { createHash, createPrivateKey, generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import type { JWK } from 'jose';
import type { DeviceState, InstitutionOnLedger } from '../src/device/state.ts';
import { newId } from '../src/ids.ts';
import type { EcJwk } from '../src/ledger/contract/host.ts';
import * as build from '../src/ledger/contract/payloads.ts';
import { type Clause, type Envelope, type SignedTransaction, TYP } from '../src/ledger/contract/shapes.ts';
import { verifyEs256 } from '../src/ledger/host-crypto.ts';
import type { Directory } from '../src/membership/directory.ts';
import { formatLinkCode, parseLinkCode } from '../src/sharing/link-code.ts';
import { openEnvelope, sealEnvelope } from '../src/vault/envelope.ts';
import { jwkThumbprint } from '../src/vault/thumbprint.ts';

/** Where a statement came to stand. */
export interface Sent {
  txId: string | null;
  block: number;
}

/** Whom a grant is to, as the device shows them before it signs; undefined where no directory says. */
export interface Shown {
  institution: string;
  name: string;
  role: string;
}

export interface GrantWish {
  /** Text of a one-time code of the institution that is to read, or whom else: `member:<inst>:<mem>`, `organization:<inst>`. */
  code?: string;
  grantee?: string;
  categories: readonly string[];
  /** Default: a new one. A Consent of the same name on the same categories is replaced. */
  consent?: string;
  purposes?: readonly string[];
  period?: { start?: string; end?: string };
  /** Origin of the gateway that carries it; default: that of the patient's own institution. */
  via?: string;
}

export interface RevokeWish {
  grantee: string;
  categories: readonly string[];
  /** Only what this Consent grants; default: all. */
  consent?: string;
  via?: string;
  /** Default: a new version of each category's key in the same act, for the readers who stay. */
  rotate?: boolean;
}

/**
 * Everything a device keeps, as JSON: private keys included, for this is the one place where they lie. `unsent`: statements whose
 * answer has not come; the same may be handed in again, anywhere.
 */
export interface DeviceMemory {
  institution: string;
  patient: string;
  ledger: string | null;
  signing: JWK;
  encryption: JWK;
  recovery: JWK;
  claimed: boolean;
  categories: Record<string, { version: number; jwk: JWK }[]>;
  heads: { grantee: string; category: string; sequence: number; clauses: readonly Clause[] }[];
  /** By institution: thumbprint of the encryption key that a code named. */
  pins: Record<string, string>;
  unsent: { id: string; body: Statement }[];
}

interface Statement {
  transaction: SignedTransaction;
  args: string[];
  envelopes: string[];
}

export type PatientDevice = ReturnType<typeof createPatientDevice>;

/** A gateway's refusal, as a device gets it. */
export class DeviceRefused extends Error {
  readonly status: number;
  readonly code: string;
  constructor(status: number, code: string, diagnostics: string) {
    super(`${status} ${code} ${diagnostics}`);
    this.name = 'DeviceRefused';
    this.status = status;
    this.code = code;
  }
}

const GRANT_LIFE_MS = 10 * 60_000;
const ANSWER_MS = 30_000;

/**
 * Plays the device of a patient who holds their own keys, over HTTP as a real one would: `gateway` is the origin of the patient's own
 * institution, `token` the patient's there (or whatever fetches a new one). With `memory` (what JSON.stringify made of one) it is the
 * device that it was before.
 */
export function createPatientDevice(options: {
  gateway: string;
  token: string | (() => Promise<string>);
  institution: string;
  patient: string;
  memory?: DeviceMemory;
  /** How long a statement is handed in again and again until it stands on the ledger. */
  patienceMs?: number;
}) {
  const home = originOf(options.gateway);
  const { institution, patient } = options;
  const of = { institution, patient };
  const patienceMs = options.patienceMs ?? 60_000;
  const memory: DeviceMemory = options.memory ?? {
    ...of,
    ledger: null,
    signing: newPair(),
    encryption: newPair(),
    recovery: newPair(),
    claimed: false,
    categories: {},
    heads: [],
    pins: {},
    unsent: [],
  };
  if (memory.institution !== institution || memory.patient !== patient) throw new Error('this is the memory of another device');

  const bearer = async (): Promise<Record<string, string>> => ({
    authorization: `Bearer ${typeof options.token === 'string' ? options.token : await options.token()}`,
  });
  const facts = () => ({ ...of, ledger: memory.ledger ?? '', nonce: randomBytes(16).toString('base64url') });

  // -- what it learns --

  /** Versions, keys and heads as the own institution has them; what was remembered where that does not answer. */
  async function sync(): Promise<DeviceState | undefined> {
    let state: DeviceState;
    try {
      state = await ask<DeviceState>(`${home}/device/state`, { headers: await bearer() });
    } catch (error) {
      if (error instanceof DeviceRefused && error.status < 500) throw error;
      return undefined;
    }
    memory.ledger = state.ledger;
    memory.heads = state.permissions
      .filter((head) => head.grantor === 'patient')
      .map(({ grantee, category, sequence, clauses }) => ({ grantee, category, sequence, clauses }));
    if (memory.claimed) checkKeys(state);
    return state;
  }

  /** A gateway that names other category keys than this device published would have others seal to a key of its own. */
  function checkKeys(state: DeviceState): void {
    for (const { category, keys } of state.categories)
      for (const { version, key } of keys) {
        const mine = memory.categories[category]?.find((one) => one.version === version);
        if (mine !== undefined && thumb(mine.jwk) !== thumb(key))
          throw new Error(`version ${version} of the key of ${category} is not the one made here`);
      }
  }

  /** An institution's keys on the ledger; refused where they are not those that a code of its own has named. */
  async function recipientOf(name: string, gateway: string, wanted = memory.pins[name]): Promise<InstitutionOnLedger> {
    const found = await ask<InstitutionOnLedger>(`${gateway}/device/institutions/${name}`);
    const thumbprint = thumb(found.encryption);
    if (found.institution !== name || found.status !== 'active' || thumbprint !== found.encryptionThumbprint)
      throw new Error(`${name} is not active, or its keys contradict themselves`);
    if (wanted !== undefined && wanted !== thumbprint) throw new Error(`${name} has another encryption key than its code said`);
    return found;
  }

  /** Who a member is, by the directory that their institution signed; undefined where the gateway has none that holds. */
  async function shown(recipient: InstitutionOnLedger, member: string | undefined, gateway: string): Promise<Shown | undefined> {
    let jws: string;
    try {
      jws = (await ask<{ directory: string }>(`${gateway}/device/directory/${recipient.institution}`)).directory;
    } catch (error) {
      // None, or an old one: after the institution has turned its keys, until it hands over another.
      if (error instanceof DeviceRefused && (error.status === 404 || error.code.startsWith('DIRECTORY_'))) return undefined;
      throw error;
    }
    const [head = '', body = '', tail = ''] = jws.split('.');
    const { kid, typ } = JSON.parse(Buffer.from(head, 'base64url').toString()) as { kid?: string; typ?: string };
    const signed = Buffer.from(`${head}.${body}`);
    const isSigned = kid === thumb(recipient.signing) && typ === 'directory+jws';
    if (!isSigned || !(await verifyEs256(build.ecJwk(recipient.signing as EcJwk), signed, Buffer.from(tail, 'base64url'))))
      throw new Error('the directory is not signed by its institution');
    const directory = JSON.parse(Buffer.from(body, 'base64url').toString()) as Directory;
    if (
      directory.institution !== recipient.institution ||
      directory.ledger !== memory.ledger ||
      directory.signing !== thumb(recipient.signing) ||
      directory.encryption !== thumb(recipient.encryption) ||
      directory.expires < new Date().toISOString()
    )
      throw new Error('the directory names other keys than the ledger, or has expired');
    if (member === undefined) return { institution: directory.name, name: directory.name, role: 'organization' };
    const person = directory.members.find((one) => one.id === member);
    if (person === undefined) throw new Error('the member does not stand in the directory of their institution');
    return { institution: directory.name, name: person.name, role: person.role };
  }

  // -- what it signs and sends --

  const jws = (transaction: SignedTransaction, payload: string, by?: JWK): string => signedAs(TYP[transaction], payload, by);
  function signedAs(typ: string, payload: string, by: JWK = memory.signing): string {
    const head = Buffer.from(JSON.stringify({ alg: 'ES256', kid: thumb(by), typ })).toString('base64url');
    const text = `${head}.${Buffer.from(payload).toString('base64url')}`;
    const key = createPrivateKey({ key: by, format: 'jwk' });
    return `${text}.${sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
  }

  /** Remembers the statement before it goes out, and hands it in until it stands on the ledger: again and again is harmless. */
  async function send(body: Statement, via: string | undefined): Promise<Sent> {
    const id = createHash('sha256').update(JSON.stringify(body.args)).digest('hex');
    if (!memory.unsent.some((one) => one.id === id)) memory.unsent.push({ id, body });
    const forget = (): void => {
      memory.unsent = memory.unsent.filter((one) => one.id !== id);
    };
    try {
      const sent = await insist<Sent>(`${originOf(via ?? home)}/device/statements`, body);
      forget();
      return sent;
    } catch (error) {
      if (isRefusal(error)) {
        forget();
        if (body.transaction === 'publishCategoryKey') dropVersion(body);
      }
      throw error;
    }
  }

  /** What is refused will not be taken by asking again. "On its way" (202) is no refusal: it may stand yet. */
  const isRefusal = (error: unknown): error is DeviceRefused =>
    error instanceof DeviceRefused && error.status >= 400 && error.status < 500 && error.status !== 429;

  /** A version that never came to stand must go into no envelope. */
  function dropVersion({ args: [jws = ''] }: Statement): void {
    const { category, key } = JSON.parse(Buffer.from(jws.split('.')[1] ?? '', 'base64url').toString()) as { category: string; key: object };
    const kept = memory.categories[category] ?? [];
    memory.categories[category] = kept.filter(({ jwk }) => thumb(jwk) !== thumb(key));
  }

  /**
   * Statements whose answer never came, handed in again, before anything new is signed on top of what they may have done. Those that the
   * ledger has refused since are done with.
   */
  async function sendLeft(via: string | undefined): Promise<void> {
    for (const { body } of memory.unsent)
      if (body.transaction !== 'claimPatient')
        await send(body, via).catch((error: unknown) => {
          if (!isRefusal(error)) throw error;
        });
  }

  async function insist<T>(url: string, body: object, headers: Record<string, string> = {}): Promise<T> {
    const until = Date.now() + patienceMs;
    for (;;) {
      const answer = await fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(ANSWER_MS),
      });
      if (answer.status === 200) return (await answer.json()) as T;
      if (answer.status === 204) return undefined as T;
      if (answer.status !== 202 || Date.now() > until) throw await refusal(answer);
      await answer.arrayBuffer();
    }
  }

  /** One envelope of these versions of a category's key. */
  async function envelopeFor(
    category: string,
    keys: readonly { version: number; jwk: JWK }[],
    recipient: InstitutionOnLedger,
    prefix: string,
    link?: string,
  ): Promise<{ text: string; named: Envelope }> {
    if (keys.length === 0) throw new Error(`no key of ${category} is kept here`);
    const { kty, crv, x = '', y } = recipient.encryption as JWK;
    const to = { kty: kty ?? '', crv: crv ?? '', x, ...(y === undefined ? {} : { y }), kid: recipient.encryptionThumbprint };
    const text = await sealEnvelope({ patient: of, category, keys, ...(link === undefined ? {} : { link }) }, to);
    const hash = createHash('sha256').update(text).digest('hex');
    return { text, named: { hash, path: `${prefix}/envelopes/${hash}`, recipient: recipient.encryptionThumbprint } };
  }

  /** The institution of the gateway that carries a statement: envelopes lie under its prefix. */
  async function prefixOf(gateway: string): Promise<string> {
    const about = await ask<{ institution: string; ledger: string }>(`${gateway}/device/`);
    if (memory.ledger !== null && about.ledger !== memory.ledger) throw new Error('this gateway is of another ledger');
    return about.institution;
  }

  async function rotate({ category, via }: { category: string; via?: string }): Promise<Sent> {
    const gateway = originOf(via ?? home);
    const prefix = await prefixOf(gateway);
    await sendLeft(via);
    const versions = memory.categories[category] ?? [];
    const version = (versions.at(-1)?.version ?? 0) + 1;
    const made = { version, jwk: newPair() };
    const readers = memory.heads.filter(
      (head) => head.category === category && head.clauses.some((one) => one.effect === 'permit' && one.rights.includes('read')),
    );
    const names = new Set(readers.flatMap((head) => institutionOf(head.grantee) ?? []));
    const envelopes = await Promise.all(
      [...names].map(async (name) => envelopeFor(category, [...versions, made], await recipientOf(name, gateway), prefix)),
    );
    const payload = build.publishCategoryKeyPayload({
      ...facts(),
      category,
      envelopes: envelopes.map(({ named }) => named),
      key: build.plainJwk(made.jwk),
      onBehalf: null,
      version,
    });
    // Kept before it goes out, for what may stand must never be lost.
    memory.categories[category] = [...versions, made];
    const args = [jws('publishCategoryKey', payload)];
    return send({ transaction: 'publishCategoryKey', args, envelopes: envelopes.map(({ text }) => text) }, via);
  }

  return {
    institution,
    patient,
    /** Keys and all; give it back as `memory`. */
    toJSON: (): DeviceMemory => structuredClone(memory),
    sync,
    /**
     * The own keys take the custodian's place; what the custodian kept is taken over, and destroyed there. A device whose keys stand on
     * the ledger already, for it was put in the place of a lost one, takes over what that one never got.
     */
    async claim(): Promise<Sent> {
      const state = await sync();
      if (state === undefined) throw new Error('the own institution does not answer');
      if (!state.core.custody && state.core.encryption !== null && thumb(state.core.encryption) === thumb(memory.encryption)) {
        const { envelopes } = await insist<{ envelopes: Record<string, string> }>(`${home}/device/claim/envelopes`, {}, await bearer());
        await takeOver(envelopes, state);
        // The lost one's own version is lost with it; whether all that is kept came, the server looks at the list.
        await finish();
        return { txId: null, block: state.height };
      }
      // A claim whose answer was lost: the same keys again bring the envelopes again.
      const last = memory.unsent.find((one) => one.body.transaction === 'claimPatient');
      let proof = last?.body.args[0];
      if (proof === undefined) {
        for (const { category, version } of state.categories) memory.categories[category] = [{ version: version + 1, jwk: newPair() }];
        const payload = build.claimPatientPayload({
          ...facts(),
          encryption: build.plainJwk(memory.encryption),
          keys: state.categories.map(({ category, version }) => ({
            category,
            envelopes: [],
            key: build.plainJwk(memory.categories[category]?.[0]?.jwk ?? {}),
            version: version + 1,
          })),
          onBehalf: patient,
          recovery: thumb(memory.recovery),
          signing: build.ecJwk(memory.signing),
          version: state.core.version + 1,
        });
        proof = jws('claimPatient', payload);
        memory.unsent.push({ id: 'claim', body: { transaction: 'claimPatient', args: [proof], envelopes: [] } });
      }
      const claimed = await insist<{ receipt: Sent; envelopes: Record<string, string> }>(`${home}/device/claim`, { proof }, await bearer());
      await takeOver(claimed.envelopes, state);
      for (const { category, keys } of state.categories)
        for (const { version } of keys)
          if (!memory.categories[category]?.some((one) => one.version === version))
            throw new Error(`version ${version} of ${category} did not come`);
      await finish();
      return claimed.receipt;
    },

    /** Grants reading. With a code: to the clinician whom it names, and the code goes with it inside the envelopes. */
    async grant(wish: GrantWish): Promise<Sent & { grantee: string; consent: string; shown: Shown | undefined }> {
      const gateway = originOf(wish.via ?? home);
      await sendLeft(wish.via);
      await sync();
      const prefix = await prefixOf(gateway);
      const code = wish.code === undefined ? undefined : parseLinkCode(wish.code);
      if (code !== undefined && code.expires < new Date().toISOString()) throw new Error('the code has expired');
      const grantee = code === undefined ? wish.grantee : `member:${code.institution}:${code.clinician}`;
      if (grantee === undefined) throw new Error('neither a code nor a grantee');
      const name = institutionOf(grantee);
      const recipient = name === undefined ? undefined : await recipientOf(name, gateway, code?.key);
      if (code !== undefined) memory.pins[code.institution] = code.key;
      const person = recipient === undefined ? undefined : await shown(recipient, grantee.split(':')[2], gateway);
      if (recipient !== undefined && person === undefined && code === undefined)
        throw new Error('nothing says whose key this is: neither a code nor a directory');
      const consent = wish.consent ?? newId('con');
      const made = build.clause({
        consent,
        rights: ['read'],
        purposes: wish.purposes === undefined ? null : [...wish.purposes],
        periodStart: wish.period?.start ?? null,
        periodEnd: wish.period?.end ?? null,
      });
      const link = code === undefined ? undefined : formatLinkCode(code);
      const envelopes: string[] = [];
      const permissions = await Promise.all(
        wish.categories.map(async (category) => {
          const head = headOf(grantee, category);
          const sealed =
            recipient === undefined ? undefined : await envelopeFor(category, memory.categories[category] ?? [], recipient, prefix, link);
          if (sealed !== undefined) envelopes.push(sealed.text);
          const clauses = [...(head?.clauses ?? []).filter((one) => one.consent !== consent), made];
          return { category, clauses, envelope: sealed?.named ?? null, grantee, sequence: (head?.sequence ?? 0) + 1 };
        }),
      );
      const payload = build.grantPayload({
        ...facts(),
        consent,
        evidence: null,
        grantor: 'patient',
        notAfter: new Date(Date.now() + GRANT_LIFE_MS).toISOString(),
        onBehalf: null,
        permissions,
      });
      const sent = await send({ transaction: 'grantPermission', args: [jws('grantPermission', payload)], envelopes }, wish.via);
      for (const { category, clauses, sequence } of permissions) remember({ grantee, category, sequence, clauses });
      return { ...sent, grantee, consent, shown: person };
    },

    /** Revokes through any gateway; the own institution may be off. The key's new version follows as a message of its own. */
    async revoke(wish: RevokeWish): Promise<Sent> {
      const { grantee, categories, via } = wish;
      const payload = build.revokePayload({
        ...facts(),
        consent: wish.consent ?? null,
        grantor: 'patient',
        onBehalf: null,
        permissions: categories.map((category) => ({ category, grantee })),
      });
      const sent = await send({ transaction: 'revokePermission', args: [jws('revokePermission', payload)], envelopes: [] }, via);
      for (const category of categories) {
        const head = headOf(grantee, category);
        const left = wish.consent === undefined ? [] : (head?.clauses ?? []).filter((one) => one.consent !== wish.consent);
        remember({ grantee, category, sequence: (head?.sequence ?? 0) + 1, clauses: left });
      }
      // Its failure never holds up the revocation.
      if (wish.rotate !== false)
        for (const category of categories) await rotate({ category, ...(via === undefined ? {} : { via }) }).catch(() => undefined);
      return sent;
    },

    /** A new version of a category's key, with an envelope to each institution that may read it now. */
    rotateCategoryKey: rotate,

    /** Statements whose answer never came, handed in again. */
    async resend(via?: string): Promise<Sent[]> {
      const sent: Sent[] = [];
      for (const { body } of memory.unsent) if (body.transaction !== 'claimPatient') sent.push(await send(body, via));
      return sent;
    },

    /** Anything else the device can sign, by the payload's builder. */
    async submit(transaction: SignedTransaction, payload: string, via?: string): Promise<Sent> {
      return send({ transaction, args: [jws(transaction, payload)], envelopes: [] }, via);
    },
    signed: jws,
    /** The word that these category keys came, which lets the custodian destroy its own. */
    finishing,
    facts,
  };

  async function takeOver(envelopes: Record<string, string>, state: DeviceState): Promise<void> {
    const key = createPrivateKey({ key: memory.encryption, format: 'jwk' });
    for (const [category, envelope] of Object.entries(envelopes)) {
      const { keys } = await openEnvelope(envelope, { key, kid: thumb(memory.encryption) }, { patient: of, category });
      const published = state.categories.find((one) => one.category === category)?.keys ?? [];
      for (const one of keys) {
        // Only what the ledger names: a version that never was published is nobody's.
        const onLedger = published.find((other) => other.version === one.version);
        if (onLedger === undefined || thumb(onLedger.key) !== thumb(one.jwk)) continue;
        const kept = (memory.categories[category] ??= []);
        if (!kept.some((other) => other.version === one.version)) kept.push(one);
        kept.sort((a, b) => a.version - b.version);
      }
    }
  }

  async function finish(): Promise<void> {
    const kept = Object.values(memory.categories).flat();
    await insist(`${home}/device/claim/finish`, { proof: finishing(kept.map(({ jwk }) => thumb(jwk))) }, await bearer());
    memory.claimed = true;
    memory.unsent = memory.unsent.filter((one) => one.id !== 'claim');
  }

  function finishing(keys: readonly string[]): string {
    return signedAs('claim-finish+jws', JSON.stringify({ institution, keys, ledger: memory.ledger, patient, type: 'finishClaim' }));
  }

  function headOf(grantee: string, category: string): DeviceMemory['heads'][number] | undefined {
    return memory.heads.find((head) => head.grantee === grantee && head.category === category);
  }
  function remember(head: DeviceMemory['heads'][number]): void {
    memory.heads = [...memory.heads.filter((one) => one.grantee !== head.grantee || one.category !== head.category), head];
  }
}

function originOf(gateway: string): string {
  return new URL(gateway).origin;
}

/** Institution of a grantee; undefined for a role, which has no key. */
function institutionOf(grantee: string): string | undefined {
  const [kind, institution] = grantee.split(':');
  return kind === 'role' ? undefined : institution;
}

function newPair(): JWK {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
}

/** RFC 7638, of a public key or of a private one's public half. */
function thumb(jwk: object): string {
  return jwkThumbprint(build.plainJwk(jwk));
}

async function ask<T>(url: string, init: RequestInit = {}): Promise<T> {
  const answer = await fetch(url, { ...init, signal: AbortSignal.timeout(ANSWER_MS) });
  if (!answer.ok) throw await refusal(answer);
  return (await answer.json()) as T;
}

async function refusal(answer: Response): Promise<DeviceRefused> {
  const text = await answer.text();
  let code = 'UNKNOWN';
  let diagnostics = '';
  try {
    const outcome = JSON.parse(text) as { issue?: { details?: { coding?: { code?: string }[] }; diagnostics?: string }[] };
    code = outcome.issue?.[0]?.details?.coding?.[0]?.code ?? code;
    diagnostics = outcome.issue?.[0]?.diagnostics ?? '';
  } catch {
    // No OperationOutcome: the status says what there is to say.
  }
  return new DeviceRefused(answer.status, code, diagnostics);
}
