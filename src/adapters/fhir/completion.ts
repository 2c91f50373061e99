import type { PullContext, RawRecord } from '../source.ts';
import { fetchAttachments, hasAttachments } from './attachments.ts';
import type { FollowOptions } from './options.ts';
import type { ParsedRecord, PullMeter } from './page-chain.ts';
import { readResource, tombstone } from './read-resource.ts';
import { referencesIn } from './references.ts';
import type { Session } from './session.ts';

/** Makes the records of a page whole: what they refer to, once per pull, and their attachments. One per pull. */
export interface Completion {
  /**
   * The page in parts, each small enough in memory: referenced resources first, then the records. Parts but the last must
   * be yielded without a mark.
   */
  parts(matches: readonly ParsedRecord[], included: readonly ParsedRecord[]): AsyncGenerator<CompletedPart>;
}
export interface CompletedPart {
  records: readonly RawRecord[];
  warnings: readonly string[];
  last: boolean;
}

// Attachment bytes that may gather before a part is handed on.
const PART_BYTES = 32 * 2 ** 20;

export function createCompletion(session: Session, follow: FollowOptions, meter: PullMeter, context: PullContext): Completion {
  const followed = new Set<string>();
  const refusedTypes = new Set<string>();
  const types = new Set<string>(follow.types);

  /** The resources behind the references of `records`, and those behind theirs (a patient's managing organisation). */
  const referenced = async (
    records: readonly ParsedRecord[],
    included: readonly ParsedRecord[],
  ): Promise<{ records: RawRecord[]; warnings: string[] }> => {
    const found: RawRecord[] = [];
    const warnings: string[] = [];
    let layer: readonly ParsedRecord[] = [...records, ...included];
    for (const { record } of included) {
      if (!types.has(record.type) || followed.has(`${record.type}/${record.id}`)) continue;
      followed.add(`${record.type}/${record.id}`);
      found.push(record);
    }
    // What is itself in the page need not be read again.
    for (const { record } of records) followed.add(`${record.type}/${record.id}`);
    while (layer.length > 0) {
      const wanted = new Map<string, { type: string; id: string }>();
      for (const { resource } of layer) {
        for (const reference of referencesIn(resource, session.base)) {
          const name = `${reference.type}/${reference.id}`;
          if (types.has(reference.type) && !refusedTypes.has(reference.type) && !followed.has(name)) wanted.set(name, reference);
        }
      }
      const read = await Promise.all(
        [...wanted].map(async ([name, { type, id }]) => {
          followed.add(name);
          return { type, id, result: await readResource(session, type, id, meter, context.signal) };
        }),
      );
      layer = [];
      for (const { type, id, result } of read) {
        if ('found' in result) layer = [...layer, result.found];
        else if ('refused' in result) {
          if (!refusedTypes.has(type)) warnings.push(`Reading ${type} is refused (${result.refused}); it is left out in this pull.`);
          refusedTypes.add(type);
        } else if ((await context.knownVersion(type, id)) !== undefined) found.unshift(tombstone(type, id));
        else warnings.push(`A reference to a ${type} leads nowhere.`);
      }
      // Deeper layers go in front: an organisation before the patient that names it.
      found.unshift(...layer.map(({ record }) => record));
    }
    return { records: found, warnings };
  };

  const withAttachments = async ({ record, resource }: ParsedRecord): Promise<RawRecord> => {
    if (!follow.attachments || !resource || !hasAttachments(resource)) return record;
    const stored = record.versionId === '' ? undefined : await context.knownVersion(record.type, record.id);
    if (stored !== undefined && stored === record.versionId) return record;
    return { ...record, attachments: await fetchAttachments(session, resource, meter, context.signal) };
  };

  return {
    async *parts(matches, included) {
      const before = await referenced(matches, included);
      let records: RawRecord[] = before.records;
      let warnings: readonly string[] = before.warnings;
      let gathered = 0;
      // As many at a time as may be under way; more would only wait, holding bytes.
      for (let at = 0; at < matches.length; at += session.limits.concurrency) {
        if (gathered > PART_BYTES) {
          yield { records, warnings, last: false };
          records = [];
          warnings = [];
          gathered = 0;
        }
        const group = await Promise.all(matches.slice(at, at + session.limits.concurrency).map(withAttachments));
        for (const record of group) {
          records.push(record);
          for (const attachment of record.attachments ?? []) gathered += attachment.bytes.length;
        }
      }
      yield { records, warnings, last: true };
    },
  };
}
