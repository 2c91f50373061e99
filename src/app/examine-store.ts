import { hash, randomBytes, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { connect, rootCertificates } from 'node:tls';
import type { Settings } from '../cli/settings.ts';
import type { ServerConfig } from '../config/schema.ts';
import { codeOf } from '../errors.ts';
import { newId } from '../ids.ts';
import { type Finding, validity } from '../ledger/fabric/finding.ts';
import { createS3Blobs } from '../store/blob-s3.ts';
import type { BlobStore } from '../store/blobs.ts';
import { createS3Requests, type S3Answer } from '../store/s3-requests.ts';
import { openBlobs, s3Options } from './blobs.ts';

const SKEW_WARNING_MS = 60_000;
const TODO: Readonly<Record<string, string>> = {
  InvalidAccessKeyId: 'The store does not know this access key id: ask its operator for a credential, or name the right store.',
  SignatureDoesNotMatch: 'The secret does not belong to the access key id, or region or bucket are written otherwise at the store.',
  RequestTimeTooSkewed: "Set this machine's clock by NTP.",
  ExpiredToken: 'The temporary credential has ended. Take a new one, or a lasting one.',
  NoSuchBucket: 'Have the bucket made, or correct blobs.bucket.',
};

/** What `oncobridge doctor store` finds. It puts random bytes under random names, takes them away again, and lists nothing. */
export async function examineStore({ data, config: { server, file } }: Settings): Promise<readonly Finding[]> {
  const institution =
    server.institution.id ??
    (await readFile(join(data, 'institution'), 'utf8').then(
      (text) => text.trim(),
      () => undefined,
    )) ??
    newId('inst');
  if (server.blobs.kind === 's3') return examineS3(server.blobs, institution);
  const blobs = openBlobs(server, data, file);
  try {
    return [await ownObject(blobs, institution)];
  } finally {
    await blobs.close();
  }
}

async function examineS3(config: Extract<ServerConfig['blobs'], { kind: 's3' }>, institution: string): Promise<Finding[]> {
  const options = { ...s3Options(config), attempts: 2, timeoutMs: 10_000 };
  const findings: Finding[] = [];
  const url = new URL(config.endpoint);
  if (url.protocol === 'https:') findings.push(await certificateOf(url, config));
  else findings.push({ check: 'TLS', state: 'warning', found: 'none, on loopback', todo: 'For trials only.' });
  const requests = createS3Requests(options);
  const blobs = createS3Blobs(options);
  try {
    const reached = await requests.send({ method: 'GET', name: randomName(institution) }).catch((error: unknown) => error);
    if (reached instanceof Error)
      return [...findings, { check: 'store', state: 'failed', found: reached.message, todo: 'Check blobs.endpoint and the network.' }];
    const answer = reached as S3Answer;
    findings.push(clock(answer), ...credential(answer));
    if (findings.some((one) => one.state === 'failed')) return findings;
    findings.push(await ownObject(blobs, institution), await versioning(requests, institution));
    const foreign = randomName(newId('inst'));
    findings.push(await refusal('put elsewhere', () => blobs.put(foreign, Buffer.from(foreign))));
    findings.push(await refusal('delete elsewhere', () => blobs.delete(foreign)));
    return findings;
  } finally {
    requests.close();
    await blobs.close();
  }
}

/** A missing object tells two things: whether the credential is taken, and whether it may list, without listing. */
function credential(answer: S3Answer): Finding[] {
  const taken: Finding = { check: 'credential', state: 'ok', found: 'the store takes it' };
  if (answer.status === 403 && answer.code === 'AccessDenied')
    return [
      taken,
      { check: 'lists', state: 'ok', found: 'a missing object is not told from a hidden one, as it is where nothing may be listed' },
    ];
  if (answer.status === 404 && answer.code !== 'NoSuchBucket')
    return [
      taken,
      {
        check: 'lists',
        state: 'warning',
        found: 'the store says that a missing object is missing; Amazon S3 says it to those who may list',
        todo: 'Make sure that the policy grants no ListBucket: docs/shared-store.md has a command that tries it.',
      },
    ];
  const code = answer.code ?? '';
  return [
    {
      check: 'credential',
      state: 'failed',
      found: `the store answered ${answer.status} ${code}`.trimEnd(),
      todo: TODO[code] ?? 'Check endpoint, region, bucket and credential with the operator of the store.',
    },
  ];
}

function clock({ headers }: S3Answer): Finding {
  const at = Date.parse(headers.date ?? '');
  if (Number.isNaN(at)) return { check: 'clock', state: 'unknown', found: 'the store does not say what time it is' };
  const skewMs = Date.now() - at;
  const found = `${Math.abs(Math.round(skewMs / 1000))} s ${skewMs > 0 ? 'ahead of' : 'behind'} the store's`;
  if (Math.abs(skewMs) < SKEW_WARNING_MS) return { check: 'clock', state: 'ok', found };
  return { check: 'clock', state: 'warning', found, todo: "Set this machine's clock by NTP: at 15 minutes every request is refused." };
}

async function ownObject(blobs: BlobStore, institution: string): Promise<Finding> {
  const bytes = randomBytes(1000);
  const name = `${institution}/${hash('sha256', bytes)}`;
  const check = 'own objects';
  try {
    await blobs.put(name, bytes);
    const same = bytes.equals(await blobs.get(name));
    await blobs.delete(name);
    if (same && (await blobs.head(name)) === undefined) return { check, state: 'ok', found: 'put, got and deleted one' };
    const found = same ? 'a deleted object is still served' : 'what is got is not what was put';
    return { check, state: 'failed', found, todo: 'The store must give back what it took, and forget what is deleted at once.' };
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error);
    return { check, state: 'failed', found, todo: `The policy must grant Get on everything, and Put and Delete on ${institution}/*.` };
  }
}

/** In a bucket with versions a delete hides and keeps. */
async function versioning(requests: ReturnType<typeof createS3Requests>, institution: string): Promise<Finding> {
  const { headers } = await requests.send({ method: 'DELETE', name: randomName(institution) });
  if (headers['x-amz-delete-marker'] !== 'true' && headers['x-amz-version-id'] === undefined)
    return { check: 'versions', state: 'ok', found: 'a delete leaves no mark of a version' };
  return {
    check: 'versions',
    state: 'warning',
    found: 'the bucket keeps versions: what is deleted stays as an older one',
    todo: 'Suspend versioning, or let a lifecycle rule end old versions soon: docs/shared-store.md.',
  };
}

async function refusal(check: string, attempt: () => Promise<void>): Promise<Finding> {
  try {
    await attempt();
    const todo = "Have the policy corrected at once: Put and Delete only under the institution's own prefix (docs/shared-store.md).";
    return { check, state: 'failed', found: 'this credential may do it', todo };
  } catch (error) {
    if (codeOf(error) === 'STORE_REFUSED') return { check, state: 'ok', found: 'refused, as it must be' };
    return { check, state: 'unknown', found: error instanceof Error ? error.message : String(error) };
  }
}

function certificateOf(
  url: URL,
  { tlsRootCertificate, addressing, bucket }: Extract<ServerConfig['blobs'], { kind: 's3' }>,
): Promise<Finding> {
  const host = addressing === 'virtual-host' ? `${bucket}.${url.hostname}` : url.hostname;
  const todo = "Have the store's certificate renewed, or name its authority in blobs.tlsRootCertificate.";
  return new Promise((resolve) => {
    const ca = tlsRootCertificate === undefined ? {} : { ca: [...rootCertificates, tlsRootCertificate] };
    const socket = connect({
      host,
      port: Number(url.port || 443),
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ...ca,
      timeout: 10_000,
    });
    const failed = (found: string): void => {
      socket.destroy();
      resolve({ check: 'TLS', state: 'failed', found, todo });
    };
    socket.on('secureConnect', () => {
      const { raw } = socket.getPeerCertificate();
      socket.end();
      resolve(validity('TLS', new X509Certificate(raw), new Date(), todo));
    });
    socket.on('timeout', () => failed('no answer in 10 s'));
    socket.on('error', (error) => failed(error.message));
  });
}

function randomName(institution: string): string {
  return `${institution}/${randomBytes(32).toString('hex')}`;
}
