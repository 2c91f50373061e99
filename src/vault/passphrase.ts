import { argon2, createSecretKey, type KeyObject, randomBytes } from 'node:crypto';
import { open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CodedError } from '../errors.ts';

/** argon2id parameters as they stand in the key store's header (RFC 9106). */
export interface KdfParameters {
  name: 'argon2id';
  memoryKib: number;
  passes: number;
  parallelism: number;
  /** base64url, 16 bytes. */
  nonce: string;
}

/** RFC 9106 section 4, second recommended option: 64 MiB, 3 passes, 4 lanes. */
export function newKdfParameters(): KdfParameters {
  return { name: 'argon2id', memoryKib: 64 * 1024, passes: 3, parallelism: 4, nonce: randomBytes(16).toString('base64url') };
}

/** The key that wraps the store's master key. Parameters beyond 1 GiB or 20 passes are refused: they come from a file. */
export function deriveFromPassphrase(passphrase: string, kdf: KdfParameters): Promise<KeyObject> {
  const { promise, resolve, reject } = Promise.withResolvers<KeyObject>();
  const nonce = Buffer.from(kdf.nonce, 'base64url');
  const whole = [kdf.memoryKib, kdf.passes, kdf.parallelism].every((n) => Number.isInteger(n) && n >= 1);
  if (kdf.name !== 'argon2id' || !whole || nonce.length < 8 || kdf.memoryKib > 1 << 20 || kdf.passes > 20 || kdf.parallelism > 64) {
    throw new CodedError('KEYS_BROKEN', { diagnostics: 'The header of the key store names unusable argon2id parameters.' });
  }
  const options = { message: passphrase.normalize('NFC'), nonce, memory: kdf.memoryKib, passes: kdf.passes, parallelism: kdf.parallelism };
  argon2('argon2id', { ...options, tagLength: 32 }, (error, derived) => {
    if (error) return reject(error);
    resolve(createSecretKey(derived));
    derived.fill(0);
  });
  return promise;
}

/** What people type first. Compared without case and without what is not a letter or digit. */
const DEFAULTS = [
  'changeme',
  'password',
  'passphrase',
  'secret',
  'oncobridge',
  'default',
  'example',
  'letmein',
  'administrator',
  'qwertyuiop',
];

/**
 * Throws SECRET_WEAK for a passphrase shorter than 16 characters, of fewer than 8 different ones, that repeats one short
 * piece, or that is a well-known default with digits around it.
 */
export function requireStrongPassphrase(passphrase: string): void {
  const plain = passphrase.toLowerCase().replace(/[^\p{L}\p{N}]/gu, '');
  const rest = DEFAULTS.reduce((text, word) => text.replaceAll(word, ''), plain).replace(/\d/g, '');
  const reason =
    passphrase.length < 16
      ? 'It is shorter than 16 characters.'
      : new Set(passphrase).size < 8
        ? 'It has fewer than 8 different characters.'
        : /^(.{1,12})\1+.{0,11}$/su.test(passphrase)
          ? 'It repeats itself.'
          : /\p{L}/u.test(plain) && rest.length < 4
            ? 'It is a default.'
            : undefined;
  if (reason !== undefined) throw new CodedError('SECRET_WEAK', { diagnostics: `The custodian's passphrase: ${reason}` });
}

/**
 * Makes a passphrase of 256 random bits and writes it to a new file that only its user can read. The file must not
 * exist. Returns the passphrase.
 */
export async function makePassphraseFile(path: string): Promise<string> {
  const passphrase = randomBytes(32).toString('base64url');
  const file = await open(path, 'wx', 0o600);
  try {
    await file.chmod(0o600); // an odd umask must not decide
    await file.writeFile(`${passphrase}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await syncDirectory(dirname(path));
  return passphrase;
}

/** Makes names in a directory durable: a rename or a new file survives a power loss only after this. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
