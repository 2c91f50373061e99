import {
  createPrivateKey,
  createPublicKey,
  createSecretKey,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  randomBytes,
  sign,
} from 'node:crypto';
import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { compactDecrypt } from 'jose';
import { canonicalJson } from '../canonical-json.ts';
import { CodedError } from '../errors.ts';
import { takePidLock } from '../store/pid-lock.ts';
import type { CategoryKey, Custodian, DocumentKeyWrap, PublicJwk } from './custodian.ts';
import { refuseOnBehalf, requireOnBehalf } from './custody.ts';
import { envelopeRecipient, openEnvelope, sealEnvelope } from './envelope.ts';
import { createInstitutionKeyRing } from './institution-key-ring.ts';
import { openKeyLog } from './key-log.ts';
import { gcmOpen, gcmSeal, openDirectJwe, sealDirectJwe } from './key-wrap.ts';
import { deriveFromPassphrase, type KdfParameters, newKdfParameters, requireStrongPassphrase } from './passphrase.ts';
import { jwkThumbprint } from './thumbprint.ts';

/** What the file custodian can do beyond the port. */
export interface FileCustodian extends Custodian {
  /** Destroys a month's intake key, once no raw record lies under it any more. */
  destroyIntakeKey(month: string): Promise<void>;
}

/** First line of `keys.log`. `master` is wrapped by the key derived from the passphrase, so a passphrase can change. */
interface Header {
  format: 'oncobridge-keys/1';
  institution: string;
  kdf: KdfParameters;
  master: string;
}

/** One key. `wrapped` is under the master key, or (private halves of category pairs) under the patient's key. */
interface Entry {
  wrapped: string;
  under: 'master' | 'patient';
  publicJwk?: PublicJwk;
  key?: KeyObject;
  /** Set until the record is on the disk: nobody gets a key before that. */
  durable?: Promise<void>;
}

/** Unwrapped keys kept in memory; the oldest used go first. */
const MAX_UNWRAPPED = 50_000;

/**
 * The custodian over one file under a passphrase: `<directory>/keys.log` (docs/sealed-object.md, "The key store"). One
 * process at a time (KEYS_BUSY). KEYS_LOCKED for a wrong passphrase, KEYS_BROKEN for a damaged store, SECRET_WEAK for a
 * weak passphrase.
 */
export async function createFileCustodian(options: { directory: string; passphrase: string; institution: string }): Promise<FileCustodian> {
  const { directory, passphrase, institution } = options;
  requireStrongPassphrase(passphrase);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await chmod(directory, 0o700);
  const lock = await takePidLock(join(directory, 'keys.lock'));
  if ('heldBy' in lock) throw new CodedError('KEYS_BUSY', { diagnostics: lock.heldBy });
  try {
    const log = await openKeyLog(join(directory, 'keys.log'), () => makeHeader(institution, passphrase));
    try {
      const master = await openMaster(log.header, institution, passphrase);
      const custodian = build(institution, master, log);
      await custodian.finishReleases();
      return { ...custodian, close: () => log.close().finally(() => lock.release()) };
    } catch (error) {
      await log.close();
      throw error;
    }
  } catch (error) {
    await lock.release();
    throw error;
  }
}

async function makeHeader(institution: string, passphrase: string): Promise<string> {
  const kdf = newKdfParameters();
  const bound = canonicalJson({ format: 'oncobridge-keys/1', institution, kdf });
  const master = randomBytes(32);
  const wrapped = gcmSeal(await deriveFromPassphrase(passphrase, kdf), master, bound);
  master.fill(0);
  return canonicalJson({ format: 'oncobridge-keys/1', institution, kdf, master: wrapped } satisfies Header);
}

async function openMaster(line: string, institution: string, passphrase: string): Promise<KeyObject> {
  const header = parseLine(line) as Header;
  if (header.format !== 'oncobridge-keys/1' || typeof header.kdf !== 'object' || header.kdf === null || typeof header.master !== 'string') {
    throw new CodedError('KEYS_BROKEN', { diagnostics: 'The header of the key store is of another format.' });
  }
  if (header.institution !== institution) throw new CodedError('KEYS_BROKEN', { diagnostics: 'It is the store of another institution.' });
  const { master: wrapped, ...bound } = header;
  const kek = await deriveFromPassphrase(passphrase, header.kdf);
  const master = gcmOpen(kek, wrapped, canonicalJson(bound));
  if (master === undefined) throw new CodedError('KEYS_LOCKED');
  return createSecretKey(master);
}

function build(institution: string, master: KeyObject, log: Awaited<ReturnType<typeof openKeyLog>>) {
  const entries = new Map<string, Entry>();
  /** Newest version of each category key, by `<patient>/<category>`. */
  const heads = new Map<string, number>();
  /** Names of each patient's records, so that an erasure does not walk the whole store. */
  const ofPatient = new Map<string, Set<string>>();
  const unwrapped = new Map<string, Entry>();

  const remember = (name: string, entry: Entry): void => {
    entries.set(name, entry);
    const [kind, patient, what, category, version] = name.split('/');
    if (kind !== 'pat' || patient === undefined) return;
    const names = ofPatient.get(patient);
    if (names) names.add(name);
    else ofPatient.set(patient, new Set([name]));
    if (what === 'ck') heads.set(`${patient}/${category}`, Math.max(Number(version), heads.get(`${patient}/${category}`) ?? 0));
  };
  const lineOf = (name: string, entry: Entry): string =>
    canonicalJson({ k: name, w: entry.wrapped, u: entry.under === 'patient' ? 'patient' : undefined, p: entry.publicJwk });

  const seen = new Map<string, string>();
  for (const line of log.lines) {
    const record = parseLine(line) as { k: string; w: string; u?: 'patient'; p?: PublicJwk };
    if (typeof record.k !== 'string' || typeof record.w !== 'string')
      throw new CodedError('KEYS_BROKEN', { diagnostics: 'A record is malformed.' });
    // A compaction may write a record that was waiting to be appended; the same bytes again say nothing new.
    if (seen.has(record.k) && seen.get(record.k) !== line)
      throw new CodedError('KEYS_BROKEN', { diagnostics: 'Two records bear one name.' });
    seen.set(record.k, line);
    remember(record.k, { wrapped: record.w, under: record.u ?? 'master', ...(record.p === undefined ? {} : { publicJwk: record.p }) });
  }
  seen.clear();

  /** What a record is bound to: neither names nor public halves can be exchanged in the file. */
  const bound = (name: string, publicJwk?: PublicJwk): string => canonicalJson(['oncobridge-keys/1', institution, name, publicJwk ?? null]);

  const cache = (name: string, entry: Entry, key: KeyObject): KeyObject => {
    entry.key = key;
    unwrapped.delete(name);
    unwrapped.set(name, entry);
    if (unwrapped.size > MAX_UNWRAPPED) {
      for (const [oldName, old] of unwrapped) {
        delete old.key;
        unwrapped.delete(oldName);
        break;
      }
    }
    return key;
  };
  const kekOf = (name: string, entry: Entry): KeyObject => {
    if (entry.under === 'master') return master;
    const patientName = `${name.split('/').slice(0, 2).join('/')}/key/1`;
    const patientEntry = entries.get(patientName);
    if (patientEntry === undefined) throw new CodedError('KEY_MISSING');
    return unwrap(patientName, patientEntry);
  };
  const unwrap = (name: string, entry: Entry): KeyObject => {
    if (entry.key) return entry.key;
    const bytes = gcmOpen(kekOf(name, entry), entry.wrapped, bound(name, entry.publicJwk));
    if (bytes === undefined) throw new CodedError('KEYS_BROKEN', { diagnostics: 'A record does not open under the key it names.' });
    const key = entry.publicJwk ? createPrivateKey({ key: bytes, format: 'der', type: 'pkcs8' }) : createSecretKey(bytes);
    bytes.fill(0);
    return cache(name, entry, key);
  };

  /** The entry of this name; made, and on its way to the disk, where there is none. Callers await `durable`. */
  const ensure = (name: string, kind: 'secret' | 'pair', under: Entry['under'] = 'master'): Entry => {
    const existing = entries.get(name);
    if (existing) return existing;
    const made = kind === 'secret' ? newSecret() : newPair();
    const entry: Entry = { wrapped: '', under, ...(made.publicJwk ? { publicJwk: made.publicJwk } : {}) };
    entry.wrapped = gcmSeal(kekOf(name, entry), made.bytes, bound(name, entry.publicJwk));
    made.bytes.fill(0);
    remember(name, entry);
    cache(name, entry, made.key);
    entry.durable = log.append(lineOf(name, entry)).then(
      () => {
        delete entry.durable;
      },
      (error: unknown) => {
        if (entries.get(name) === entry) entries.delete(name);
        throw error;
      },
    );
    entry.durable.catch(() => {}); // whoever waits hears of it
    return entry;
  };
  const secret = async (name: string, use?: 'open'): Promise<KeyObject> => {
    if (use === 'open' && !entries.has(name)) throw new CodedError('KEY_MISSING');
    const entry = ensure(name, 'secret');
    if (entry.durable) await entry.durable;
    return unwrap(name, entry);
  };
  const pair = async (name: string): Promise<{ key: KeyObject; publicJwk: PublicJwk }> => {
    const entry = ensure(name, 'pair');
    if (entry.durable) await entry.durable;
    const key = unwrap(name, entry); // also proves that the public half is the one that was written with it
    if (entry.publicJwk === undefined) throw new CodedError('KEYS_BROKEN');
    return { key, publicJwk: entry.publicJwk };
  };
  const ring = createInstitutionKeyRing({ pair, secret, has: (name) => entries.has(name) });

  const isReleased = (patient: string): boolean => entries.has(releasedName(patient));
  const requireCustody = (patient: string): void => {
    if (isReleased(patient) || !entries.has(`pat/${patient}/key/1`))
      throw new CodedError('CUSTODY_REFUSED', { diagnostics: 'The patient is not in custody here.' });
  };
  /** What a release destroys: the patient key and every category pair. */
  const custodyNames = (patient: string): string[] =>
    [...(ofPatient.get(patient) ?? [])].filter((name) => /^(key|ck)$/.test(name.split('/')[2] ?? ''));
  const versionsOf = (patient: string, category: string): number[] =>
    Array.from({ length: heads.get(`${patient}/${category}`) ?? 0 }, (_, i) => i + 1).filter((version) =>
      entries.has(`pat/${patient}/ck/${category}/${version}`),
    );

  const categoryEntry = async (patient: string, category: string, version: number): Promise<CategoryKey | undefined> => {
    const name = `pat/${patient}/ck/${category}/${version}`;
    const entry = entries.get(name);
    if (entry?.publicJwk === undefined) return undefined;
    if (entry.durable) await entry.durable;
    unwrap(name, entry);
    return { patient, category, version, publicJwk: entry.publicJwk };
  };
  const ownWrapKey = async (patient: string, category: string): Promise<KeyObject> => {
    const rowKey = await secret(rowName(patient, category));
    return createSecretKey(Buffer.from(hkdfSync('sha256', rowKey, '', 'oncobridge-keys/1 document keys', 32)));
  };
  const jws = async (typ: string, payload: string, version?: number): Promise<string> => {
    if (!/^[a-z][a-z-]{0,40}\+jws$/.test(typ))
      throw new CodedError('CUSTODY_REFUSED', { diagnostics: 'The type of the statement is malformed.' });
    const { key, publicJwk } = await ring.signing(version);
    const header = canonicalJson({ alg: 'ES256', kid: jwkThumbprint(publicJwk), typ });
    const text = `${Buffer.from(header).toString('base64url')}.${Buffer.from(payload).toString('base64url')}`;
    return `${text}.${es256(key, Buffer.from(text)).toString('base64url')}`;
  };
  const forget = async (names: readonly string[]): Promise<void> => {
    for (const name of names) {
      entries.delete(name);
      unwrapped.delete(name);
      const [kind, patient, what, category] = name.split('/');
      if (kind === 'pat' && patient !== undefined) ofPatient.get(patient)?.delete(name);
      if (what === 'ck') heads.delete(`${patient}/${category}`);
    }
    // Not conditional on `names`: a repeat after a failed compaction must compact.
    await log.rewrite(function* () {
      for (const [name, entry] of entries) yield lineOf(name, entry);
    });
  };

  return {
    institution,
    institutionKeys: async () => ring.current(),
    nextInstitutionKeys: async () => ring.next(),
    keptInstitutionKeys: async () => ring.all(),
    useInstitutionKeys: async (version) => ring.use(version),
    async signAsInstitution(typ, payload, version) {
      refuseOnBehalf(payload);
      return jws(typ, payload, version);
    },
    async signAgain(statement) {
      const former = await ring.formerlySigned(statement);
      return former === undefined ? undefined : jws(former.typ, former.payload);
    },
    async signBytes(bytes, publicKey) {
      const { key } = publicKey === undefined ? await ring.signing() : await ring.signingOf(publicKey);
      return es256(key, bytes);
    },

    async enrollPatient(patient, categories) {
      if (isReleased(patient)) throw new CodedError('CUSTODY_REFUSED', { diagnostics: 'The patient holds their own keys.' });
      const keys = new Map<string, CategoryKey>();
      const made = [ensure(`pat/${part(patient)}/key/1`, 'secret')];
      for (const category of categories) {
        if (!heads.has(`${patient}/${category}`)) made.push(ensure(`pat/${patient}/ck/${part(category)}/1`, 'pair', 'patient'));
      }
      await Promise.all(made.map(async (entry) => entry.durable));
      for (const category of categories) {
        const key = await categoryEntry(patient, category, heads.get(`${patient}/${category}`) ?? 1);
        if (key) keys.set(category, key);
      }
      return keys;
    },
    async categoryKey(patient, category, wanted) {
      const version = wanted ?? heads.get(`${patient}/${category}`);
      return version === undefined || isReleased(patient) ? undefined : categoryEntry(patient, category, version);
    },
    async rotateCategoryKey(patient, category) {
      requireCustody(patient);
      const version = (heads.get(`${patient}/${part(category)}`) ?? 0) + 1;
      const entry = ensure(`pat/${patient}/ck/${category}/${version}`, 'pair', 'patient');
      if (entry.durable) await entry.durable;
      if (entry.publicJwk === undefined) throw new CodedError('KEYS_BROKEN');
      return { patient, category, version, publicJwk: entry.publicJwk };
    },
    async signForPatient({ patient, actor, typ, payload }) {
      requireCustody(patient);
      requireOnBehalf({ institution, patient, actor, payload });
      return jws(typ, payload);
    },

    async heldCategories(patient) {
      if (isReleased(patient)) return [];
      const names = [...(ofPatient.get(patient) ?? [])].flatMap((name) => /^pat\/[^/]+\/ck\/([^/]+)\//.exec(name)?.[1] ?? []);
      return [...new Set(names)].sort();
    },
    async release(patient) {
      const mark = ensure(releasedName(patient), 'secret');
      if (mark.durable) await mark.durable;
      await forget(custodyNames(patient));
    },
    isReleased: async (patient) => isReleased(patient),
    /** A release that was killed between its mark and its end. */
    async finishReleases() {
      const left = [...ofPatient.keys()].filter(isReleased).flatMap(custodyNames);
      if (left.length > 0) await forget(left);
    },

    async unwrapDocumentKey(wrap: DocumentKeyWrap) {
      const { patient, category } = wrap;
      let bytes: Uint8Array | undefined;
      if (wrap.institution === institution && entries.has(rowName(patient, category))) {
        bytes = openDirectJwe(await ownWrapKey(patient, category), wrap.toInstitution, `${patient}/${category}`);
      } else {
        const name = `pat/${patient}/ck/${category}/${wrap.categoryKeyVersion}`;
        const entry = entries.get(name);
        if (entry === undefined) throw new CodedError('KEY_MISSING');
        const algorithms = { keyManagementAlgorithms: ['ECDH-ES+A256KW'], contentEncryptionAlgorithms: ['A256GCM'] };
        const opened = await compactDecrypt(wrap.toCategory, unwrap(name, entry), algorithms).catch(() => undefined);
        bytes = opened?.plaintext;
      }
      if (bytes?.length !== 32) throw new CodedError('SEAL_BROKEN', { diagnostics: 'The wrapped key does not open.' });
      return createSecretKey(bytes);
    },
    async wrapOwn(patient, category, key) {
      return sealDirectJwe(await ownWrapKey(patient, category), key.export(), `${patient}/${category}`);
    },

    rowKey: async (patient, category, use) => secret(rowName(patient, category), use),
    intakeKey: async (month, use) => secret(intakeName(month), use),
    purposeKey: async (purpose) => secret(`purpose/${purpose}`),
    hmacKey: async (purpose) => secret(`hmac/${purpose}`),

    async destroy(patient, category) {
      const names = [...(ofPatient.get(patient) ?? [])];
      const doomed =
        category === undefined
          ? names
          : names.filter((name) => name === rowName(patient, category) || name.startsWith(`pat/${patient}/ck/${category}/`));
      if (category === undefined) ofPatient.delete(patient);
      await forget(doomed);
    },
    async destroyIntakeKey(month) {
      await forget([intakeName(month)]);
    },
    async sealEnvelope(patient, category, recipient, link, upTo = Number.MAX_SAFE_INTEGER) {
      const keys = [];
      for (const version of isReleased(patient) ? [] : versionsOf(patient, category)) {
        const name = `pat/${patient}/ck/${category}/${version}`;
        const entry = entries.get(name);
        if (entry === undefined || version > upTo) continue;
        if (entry.durable) await entry.durable;
        keys.push({ version, jwk: unwrap(name, entry).export({ format: 'jwk' }) });
      }
      if (keys.length === 0) throw new CodedError('KEY_MISSING');
      const content = { patient: { institution, patient }, category, keys, ...(link === undefined ? {} : { link }) };
      return sealEnvelope(content, { ...recipient, kid: jwkThumbprint(recipient) });
    },
    async openEnvelope(envelope, expect) {
      const recipient = await ring.encryptionOf(envelopeRecipient(envelope) ?? '');
      if (recipient === undefined) throw new CodedError('SEAL_BROKEN', { diagnostics: 'An envelope does not open.' });
      const patient = { institution: expect.institution, patient: expect.patient };
      return openEnvelope(envelope, recipient, { patient, category: expect.category });
    },
  } satisfies Omit<FileCustodian, 'close'> & { finishReleases(): Promise<void> };
}

/** Members are checked where they are used. */
function parseLine(line: string): object {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value === 'object' && value !== null) return value;
  } catch {
    // falls through: what was written is never shown
  }
  throw new CodedError('KEYS_BROKEN', { diagnostics: 'A line of the key store cannot be read.' });
}

/** An id or category as part of a record's name. */
function part(text: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,149}$/.test(text))
    throw new CodedError('INTERNAL', { diagnostics: 'A key was asked for by a malformed name.' });
  return text;
}
function releasedName(patient: string): string {
  return `pat/${part(patient)}/released/1`;
}
function rowName(patient: string, category: string): string {
  return `pat/${part(patient)}/row/${part(category)}`;
}
function intakeName(month: string): string {
  if (!/^\d{4}-(0[1-9]|1[0-2])$/.test(month)) throw new CodedError('INTERNAL', { diagnostics: 'An intake key is named by its month.' });
  return `intake/${month}`;
}

interface NewKey {
  bytes: Buffer;
  key: KeyObject;
  publicJwk?: PublicJwk;
}
function newSecret(): NewKey {
  const bytes = randomBytes(32);
  return { bytes, key: createSecretKey(bytes) };
}
function newPair(): NewKey {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const { kty, crv, x, y } = createPublicKey(privateKey).export({ format: 'jwk' });
  if (kty === undefined || crv === undefined || x === undefined || y === undefined) throw new CodedError('INTERNAL');
  return { bytes: privateKey.export({ format: 'der', type: 'pkcs8' }), key: privateKey, publicJwk: { kty, crv, x, y } };
}

/** ES256 as JWS has it: r||s, 64 bytes. */
function es256(key: KeyObject, bytes: Uint8Array): Buffer {
  return sign('sha256', bytes, { key, dsaEncoding: 'ieee-p1363' });
}
