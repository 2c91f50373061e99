import { createHash } from 'node:crypto';
import { codeOf } from '../errors.ts';
import type { Attachment } from './assembly.ts';
import { objectOf, objectsOf, stringOf } from './elements.ts';
import { type JsonObject, numberOf } from './lossless-json.ts';

/** One file of a note: what the adapter fetched, else what stands inline. */
export interface NoteFile {
  contentIndex: number;
  title: string;
  declaredType: string;
  bytes: Uint8Array;
  /** Why there are no bytes. */
  problem?: string;
  /** As the source states them, to be compared with the bytes. */
  size?: number;
  sha1?: string;
}

/** The files of a DocumentReference in the order of its `content`. */
export function attachmentsOf(resource: JsonObject, fetched: readonly Attachment[]): readonly NoteFile[] {
  return objectsOf(resource['content']).map((content, contentIndex) => {
    const attachment = objectOf(content['attachment']);
    const here = fetched.find((candidate) => candidate.contentIndex === contentIndex);
    const data = stringOf(attachment?.['data']);
    const inline = data === undefined ? undefined : decodeBase64(data);
    const declaredType = stringOf(attachment?.['contentType']) ?? here?.mediaType ?? '';
    const size = numberOf(attachment?.['size']);
    const sha1 = stringOf(attachment?.['hash']);
    const bytes = inline ?? here?.bytes ?? new Uint8Array();
    let problem = here?.problem;
    if (data !== undefined) problem = inline === undefined ? 'its inline data is not base64.' : undefined;
    else if (here === undefined)
      problem = attachment?.['url'] === undefined ? 'the source gives neither data nor an address.' : 'it was not fetched.';
    return {
      contentIndex,
      title: titleOf(attachment, contentIndex),
      declaredType,
      bytes,
      ...(problem === undefined ? {} : { problem }),
      ...(size === undefined ? {} : { size }),
      ...(sha1 === undefined ? {} : { sha1 }),
    };
  });
}

/**
 * Why a file must not be used, else undefined: absent, empty, or not what the source says it sent (FHIR's `hash` is SHA-1,
 * in base64). Edge case 43. Free of patient data.
 */
export function attachmentProblem(file: NoteFile): string | undefined {
  if (file.problem !== undefined) return file.problem;
  if (file.bytes.length === 0) return 'it is empty.';
  if (file.size !== undefined && file.size !== file.bytes.length) return 'its size is not the one that the source states.';
  if (file.sha1 !== undefined && !sameHash(file.sha1, createHash('sha1').update(file.bytes).digest()))
    return 'its hash is not the one that the source states.';
  return undefined;
}

/** Some servers write the hash in hex although R4 says base64: both are taken for what they are. */
function sameHash(stated: string, actual: Buffer): boolean {
  return stated === actual.toString('base64') || stated.toLowerCase() === actual.toString('hex');
}

function decodeBase64(data: string): Uint8Array | undefined {
  const text = data.replace(/\s+/g, '');
  return /^[A-Za-z0-9+/]*={0,2}$/.test(text) && text.length % 4 !== 1 ? Buffer.from(text, 'base64') : undefined;
}

/** A title of the source, never its address: a path names servers and people. */
function titleOf(attachment: JsonObject | undefined, index: number): string {
  const title = stringOf(attachment?.['title']);
  return title === undefined || /[\\/]/.test(title) ? `attachment ${index + 1}` : title;
}

/** The code of an error of the table, for a note to the reader. */
export function codedErrorText(error: unknown): string {
  return codeOf(error) ?? 'unreadable';
}
