import { createHash } from 'node:crypto';
import type { RawAttachment, RawRecord } from '../adapters/source.ts';
import { CodedError } from '../errors.ts';
import { objectOf, objectsOf, stringOf } from '../records/elements.ts';
import type { JsonObject } from '../records/lossless-json.ts';

/**
 * A raw record as one run of bytes, so that it can be sealed and replayed: a length, a JSON head, then the record's own
 * bytes and its attachments, untouched.
 */
export interface KeptRecord {
  source: string;
  stream: string;
  record: RawRecord;
}

interface Head {
  source: string;
  stream: string;
  type: string;
  id: string;
  versionId: string;
  lastUpdated?: string;
  deleted?: boolean;
  size: number;
  attachments: { contentIndex: number; url?: string; mediaType: string; problem?: string; size: number }[];
}

export function packRecord(kept: KeptRecord): Buffer {
  const { record } = kept;
  const attachments = record.attachments ?? [];
  const head: Head = {
    source: kept.source,
    stream: kept.stream,
    type: record.type,
    id: record.id,
    versionId: record.versionId,
    ...(record.lastUpdated === undefined ? {} : { lastUpdated: record.lastUpdated }),
    ...(record.deleted === true ? { deleted: true } : {}),
    size: record.bytes.length,
    attachments: attachments.map(({ contentIndex, url, mediaType, problem, bytes }) => ({
      contentIndex,
      mediaType,
      size: bytes.length,
      ...(url === undefined ? {} : { url }),
      ...(problem === undefined ? {} : { problem }),
    })),
  };
  const headBytes = Buffer.from(JSON.stringify(head));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(headBytes.length);
  return Buffer.concat([length, headBytes, record.bytes, ...attachments.map((attachment) => attachment.bytes)]);
}

export function unpackRecord(packed: Buffer): KeptRecord {
  const headLength = packed.readUInt32BE(0);
  let at = 4 + headLength;
  const head = JSON.parse(packed.toString('utf8', 4, at)) as Head;
  const take = (size: number): Buffer => {
    if (at + size > packed.length) throw new CodedError('CONTENT_INVALID', { diagnostics: 'A kept record is shorter than its head says.' });
    const part = packed.subarray(at, at + size);
    at += size;
    return part;
  };
  const bytes = take(head.size);
  const attachments: RawAttachment[] = head.attachments.map(({ size, ...facts }) => ({ ...facts, bytes: take(size) }));
  return {
    source: head.source,
    stream: head.stream,
    record: {
      type: head.type,
      id: head.id,
      versionId: head.versionId,
      mediaType: 'application/fhir+json',
      bytes,
      ...(head.lastUpdated === undefined ? {} : { lastUpdated: head.lastUpdated }),
      ...(head.deleted === true ? { deleted: true } : {}),
      ...(attachments.length > 0 ? { attachments } : {}),
    },
  };
}

/** SHA-256 over everything of the record, hex. */
export function digestRecord(record: RawRecord): string {
  const hash = createHash('sha256').update(record.bytes);
  for (const attachment of record.attachments ?? [])
    hash.update(`\n${attachment.contentIndex}:${attachment.problem ?? ''}\n`).update(attachment.bytes);
  return hash.digest('hex');
}

/**
 * SHA-256 of the bytes of each attachment, fetched or inline. Empty where one of them cannot be had: what is only partly known is
 * the same as nothing.
 */
export function attachmentDigests(record: RawRecord, resource: JsonObject | undefined): string[] {
  const inline = [
    ...objectsOf(resource?.['content']).map((content) => objectOf(content['attachment'])),
    ...objectsOf(resource?.['presentedForm']),
  ].map((attachment) => {
    const data = stringOf(attachment?.['data']);
    return data === undefined ? undefined : Buffer.from(data, 'base64');
  });
  const found = record.attachments?.map(({ bytes, problem }) => (problem === undefined ? bytes : undefined)) ?? inline;
  const all = found.filter((bytes) => bytes !== undefined && bytes.length > 0);
  if (all.length < found.length) return [];
  return [
    ...new Set(
      all.map((bytes) =>
        createHash('sha256')
          .update(bytes ?? '')
          .digest('hex'),
      ),
    ),
  ];
}

/** Without its attachments: a source leaves them out where it knows that the version is stored already. */
export function digestStatement(record: RawRecord): string {
  return createHash('sha256').update(record.bytes).digest('hex');
}
