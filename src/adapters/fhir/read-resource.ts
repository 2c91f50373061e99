import type { Resource } from 'fhir/r4.js';
import { CodedError } from '../../errors.ts';
import type { RawRecord } from '../source.ts';
import { countBytes, type ParsedRecord, type PullMeter, toRecord } from './page-chain.ts';
import { refusal, type Session } from './session.ts';

export type ReadResult = { found: ParsedRecord } | { gone: true } | { refused: string };

/** Reads one resource by id. 404 and 410 are `gone`, 403 and its like `refused`; the rest throws. */
export async function readResource(session: Session, type: string, id: string, meter: PullMeter, signal: AbortSignal): Promise<ReadResult> {
  try {
    const url = new URL(`${type}/${encodeURIComponent(id)}`, session.base);
    const answer = await session.get(url, { signal, maxBytes: session.limits.maxPageBytes });
    countBytes(session, meter, answer);
    const hasMark = answer.bytes[0] === 0xef && answer.bytes[1] === 0xbb && answer.bytes[2] === 0xbf;
    const bytes = hasMark ? answer.bytes.subarray(3) : answer.bytes;
    const resource = parse(bytes);
    if (resource.resourceType !== type || resource.id !== id) return { refused: 'another resource came in its place' };
    return { found: { record: toRecord(type, id, resource, bytes), resource } };
  } catch (error) {
    const refused = refusal(error);
    if (!refused || refused.status === 401) throw error;
    if (refused.status === 404 || refused.status === 410) return { gone: true };
    return { refused: [refused.status, ...refused.issues].join(', ') };
  }
}

/** Says that a record is gone at its source; versions before it stay where they are stored. */
export function tombstone(type: string, id: string): RawRecord {
  return { type, id, versionId: '', mediaType: 'application/fhir+json', bytes: new Uint8Array(), deleted: true };
}

function parse(bytes: Uint8Array): Resource {
  try {
    const value = JSON.parse(new TextDecoder().decode(bytes)) as unknown;
    if (typeof value === 'object' && value !== null) return value as Resource;
  } catch {
    // below
  }
  throw new CodedError('SOURCE_RESPONSE', { diagnostics: 'The answer is not a resource.' });
}
