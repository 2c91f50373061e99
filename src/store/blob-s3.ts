import { createHash, hash } from 'node:crypto';
import { CodedError } from '../errors.ts';
import { BLOB_NAME, type BlobStore } from './blobs.ts';
import { createS3Requests, type S3Answer, type S3Options } from './s3-requests.ts';

/**
 * Blobs in a bucket of S3 or a compatible store, under their names. It lists nothing and asks for one object at a time, so
 * the credential needs GetObject on everything and PutObject and DeleteObject on the own prefix, and nothing else.
 *
 * Missing and hidden look alike: to a credential that may not list, S3 answers a missing object with 403 AccessDenied, as it
 * answers one that the policy hides. So AccessDenied on a read is BLOB_MISSING, the usual reason by far; both are
 * tried again and raise the same alarm, nothing is ever deleted because of either, and `oncobridge doctor store` tells them
 * apart. Every other refusal (a wrong secret, a clock that is off, no bucket) has a code of its own at the store and is STORE_REFUSED.
 */
export function createS3Blobs(options: S3Options): BlobStore {
  const requests = createS3Requests(options);
  const { attempts = 4 } = options;

  async function read(name: string): Promise<Uint8Array | undefined> {
    const answer = await requests.send({ method: 'GET', name });
    if (answer.status === 200) return answer.bytes;
    if (isMissing(answer)) return undefined;
    throw refused(answer);
  }

  /** Whether the store has the bytes: by the checksum it computed, by its ETag where that is the MD5, else by reading them back. */
  async function kept(name: string, bytes: Uint8Array, sha256: string, { headers }: S3Answer): Promise<boolean> {
    const checksum = headers['x-amz-checksum-sha256'];
    if (checksum !== undefined) return checksum === sha256;
    if (headers.etag?.replaceAll('"', '') === createHash('md5').update(bytes).digest('hex')) return true;
    return Buffer.from((await read(name)) ?? []).equals(bytes);
  }

  return {
    async put(name, bytes) {
      check(name);
      const digest = hash('sha256', bytes, 'buffer');
      const checksum = digest.toString('base64');
      const request = {
        method: 'PUT' as const,
        name,
        headers: { 'content-type': 'application/octet-stream', 'x-amz-checksum-sha256': checksum },
        body: bytes,
        bodySha256: digest.toString('hex'),
      };
      for (let attempt = 1; attempt <= attempts; attempt++) {
        const answer = await requests.send(request);
        if (answer.status < 200 || answer.status >= 300) throw refused(answer);
        if (await kept(name, bytes, checksum, answer)) return;
      }
      throw new CodedError('UNAVAILABLE', { diagnostics: 'The object store did not keep what was put.' });
    },
    async get(name) {
      check(name);
      const bytes = await read(name);
      if (bytes === undefined) throw new CodedError('BLOB_MISSING');
      return bytes;
    },
    async head(name) {
      check(name);
      let answer = await requests.send({ method: 'HEAD', name });
      if (answer.status === 200) return { sizeBytes: Number(answer.headers['content-length']) };
      // An answer to HEAD has no body, and so no code: the first byte is asked for, to hear which refusal this is.
      if (answer.status !== 404) answer = await requests.send({ method: 'GET', name, headers: { range: 'bytes=0-0' } });
      if (isMissing(answer)) return undefined;
      throw refused(answer);
    },
    async delete(name) {
      check(name);
      const answer = await requests.send({ method: 'DELETE', name });
      if ((answer.status >= 200 && answer.status < 300) || answer.code === 'NoSuchKey') return;
      throw refused(answer);
    },
    close() {
      requests.close();
      return Promise.resolve();
    },
  };
}

function check(name: string): void {
  if (!BLOB_NAME.test(name)) throw new CodedError('BLOB_NAME');
}

function isMissing({ status, code }: S3Answer): boolean {
  return (status === 404 && (code === undefined || code === 'NoSuchKey')) || (status === 403 && code === 'AccessDenied');
}

function refused({ status, code }: S3Answer): CodedError {
  return new CodedError('STORE_REFUSED', { diagnostics: `It answered ${status}${code === undefined ? '' : ` ${code}`}.` });
}
