import { createHash } from 'node:crypto';
import type { Attachment, Binary, DiagnosticReport, DocumentReference, DomainResource, Resource } from 'fhir/r4.js';
import { codeOf } from '../../errors.ts';
import type { RawAttachment } from '../source.ts';
import type { AttachmentProblem } from './origin-guard.ts';
import { countBytes, type PullMeter } from './page-chain.ts';
import { refusal, type Session } from './session.ts';
import { sniffMediaType } from './sniff.ts';

/**
 * The bytes of a resource's attachments, in the order of its `content` (or `presentedForm`): inline data decoded, URLs read
 * under the guard. What is wrong for good is said in `problem` beside empty or unfit bytes; what may pass (the server is
 * down) is thrown, so that the page is read again.
 */
export async function fetchAttachments(
  session: Session,
  resource: Resource,
  meter: PullMeter,
  signal: AbortSignal,
): Promise<RawAttachment[]> {
  return Promise.all(
    attachmentsOf(resource).map(async (attachment, contentIndex): Promise<RawAttachment> => {
      const got = await contentOf(session, resource, attachment, meter, signal);
      const bytes = 'bytes' in got ? got.bytes : new Uint8Array();
      const problem = 'bytes' in got ? mismatch(attachment, bytes) : got.problem;
      return {
        contentIndex,
        ...(attachment.url === undefined ? {} : { url: attachment.url }),
        mediaType: sniffMediaType(bytes, ('mediaType' in got ? got.mediaType : undefined) ?? attachment.contentType),
        bytes,
        ...(problem === undefined ? {} : { problem }),
      };
    }),
  );
}

/** True where `fetchAttachments` would have something to do. */
export function hasAttachments(resource: Resource): boolean {
  return attachmentsOf(resource).length > 0;
}

function attachmentsOf(resource: Resource): readonly Attachment[] {
  if (resource.resourceType === 'DocumentReference')
    return ((resource as DocumentReference).content ?? []).map((content) => content?.attachment ?? {});
  if (resource.resourceType === 'DiagnosticReport') return (resource as DiagnosticReport).presentedForm ?? [];
  return [];
}

type Content = { bytes: Uint8Array; mediaType?: string } | { problem: AttachmentProblem };

async function contentOf(
  session: Session,
  resource: Resource,
  attachment: Attachment,
  meter: PullMeter,
  signal: AbortSignal,
): Promise<Content> {
  if (typeof attachment.data === 'string') return decodeBase64(attachment.data);
  if (typeof attachment.url !== 'string' || attachment.url.trim() === '') return { problem: 'no-content' };
  const target = session.guard.attachment(attachment.url);
  if ('problem' in target) return target;
  if ('contained' in target) {
    const contained = (resource as DomainResource).contained?.find((one) => one.id === target.contained);
    const data = contained?.resourceType === 'Binary' ? (contained as Binary).data : undefined;
    return typeof data === 'string' ? decodeBase64(data) : { problem: 'no-content' };
  }
  try {
    // Asked by its own type: a FHIR server then sends the bytes themselves and not a Binary in JSON (R4 2.42).
    const accept = `${attachment.contentType ?? 'application/octet-stream'}, */*;q=0.5`;
    const answer = await session.get(target.open, {
      signal,
      accept,
      withToken: target.withToken,
      maxBytes: session.limits.maxAttachmentBytes,
    });
    countBytes(session, meter, answer);
    const mediaType = answer.headers['content-type']?.split(';')[0]?.trim().toLowerCase();
    return unwrapBinary(answer.bytes, mediaType) ?? { bytes: answer.bytes, ...(attachment.contentType || !mediaType ? {} : { mediaType }) };
  } catch (error) {
    const refused = refusal(error);
    if (refused?.status === 404 || refused?.status === 410) return { problem: 'not-found' };
    if (refused?.status === 403) return { problem: 'forbidden' };
    if (refused && refused.status !== 401) return { problem: 'refused' };
    if (codeOf(error) === 'SOURCE_TOO_LARGE' && meter.bytes <= session.limits.maxPullBytes) return { problem: 'too-large' };
    if (codeOf(error) === 'SOURCE_ORIGIN') return { problem: 'origin-refused' };
    throw error;
  }
}

/** The content of a Binary that came as JSON after all. */
function unwrapBinary(bytes: Uint8Array, mediaType: string | undefined): Content | undefined {
  if (mediaType !== 'application/fhir+json' && mediaType !== 'application/json') return undefined;
  try {
    const resource = JSON.parse(new TextDecoder().decode(bytes)) as Partial<Binary>;
    if (resource.resourceType !== 'Binary' || typeof resource.data !== 'string') return undefined;
    const decoded = decodeBase64(resource.data);
    return 'bytes' in decoded && resource.contentType ? { ...decoded, mediaType: resource.contentType } : decoded;
  } catch {
    return undefined;
  }
}

function decodeBase64(text: string): Content {
  // FHIR's base64Binary may hold white space (R4 datatypes); Buffer would skip any stray character in silence.
  const compact = text.replace(/\s+/g, '');
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(compact) || compact.length % 4 !== 0) return { problem: 'bad-base64' };
  return { bytes: new Uint8Array(Buffer.from(compact, 'base64')) };
}

/** Attachment.size and Attachment.hash against the bytes that came. */
function mismatch(attachment: Attachment, bytes: Uint8Array): AttachmentProblem | undefined {
  if (bytes.length === 0) return 'no-content';
  if (typeof attachment.size === 'number' && attachment.size !== bytes.length) return 'size-mismatch';
  if (typeof attachment.hash === 'string' && !hashFits(attachment.hash, bytes)) return 'hash-mismatch';
  return undefined;
}

/** R4 says SHA-1 in base64. Some servers send its hex text, some SHA-256: told apart by length, so nothing is weakened. */
function hashFits(written: string, bytes: Uint8Array): boolean {
  const text = written.trim();
  const hex = (algorithm: string): string => createHash(algorithm).update(bytes).digest('hex');
  if (/^[0-9a-f]{40}$/i.test(text)) return hex('sha1') === text.toLowerCase();
  if (/^[0-9a-f]{64}$/i.test(text)) return hex('sha256') === text.toLowerCase();
  const raw = Buffer.from(text, 'base64');
  return raw.toString('hex') === hex(raw.length === 32 ? 'sha256' : 'sha1');
}
