import type { JsonObject } from '../records/lossless-json.ts';
import { patientLinksOf } from '../records/patient-identity.ts';
import { goneInto, type Merge, type MergeState, mergeStateOf } from '../records/patient-merges.ts';
import type { Sql } from '../store/database.ts';
import { mergesAround, setMerges } from '../store/patient-merges.ts';
import type { SourceKeys } from './source-keys.ts';

/** Merges at one source around some of its patients. */
export interface Merges {
  /** Everybody who is named in one, by key. */
  keys: ReadonlySet<string>;
  of(key: string): MergeState;
  /** Goes on as somebody else, or did once. */
  isGone(key: string): boolean;
  /** Those whose chain leads over this patient. */
  goneInto(key: string): readonly string[];
  /** What a decision on this patient's identity depends on, as text; undefined where there is no word of a merge. */
  facts(key: string): string | undefined;
  store(tx: Sql): Promise<void>;
}

/** The stored merges, with what these records say in place of what the same patients' records said before. */
export async function readMerges(
  sqlOn: Sql,
  keys: SourceKeys,
  source: string,
  around: readonly string[],
  records: readonly { key: string; resource: JsonObject }[] = [],
): Promise<Merges> {
  const said = (
    await Promise.all(
      records.map(({ key, resource }) =>
        Promise.all(
          patientLinksOf(resource)
            .filter(({ type, other }) => (type === 'replaced-by' || type === 'replaces') && other.startsWith('Patient/'))
            .map(async ({ type, other }): Promise<Merge> => {
              const otherKey = await keys.ref(source, other);
              const [gone, survivor] = type === 'replaced-by' ? [key, otherKey] : [otherKey, key];
              return { saidBy: key, gone, survivor, standing: true };
            }),
        ),
      ),
    )
  ).flat();
  const speaking = new Set(records.map((record) => record.key));
  const reach = [...new Set([...around, ...speaking, ...said.flatMap(({ gone, survivor }) => [gone, survivor])])];
  const stored = await mergesAround(sqlOn, source, reach);
  const merges = [...stored.map((merge) => (speaking.has(merge.saidBy) ? { ...merge, standing: false } : merge)), ...said];
  return {
    keys: new Set(merges.flatMap(({ gone, survivor }) => [gone, survivor])),
    of: (key) => mergeStateOf(key, merges),
    isGone: (key) => merges.some(({ gone }) => gone === key),
    goneInto: (key) => goneInto(key, merges),
    facts(key) {
      const own = merges.filter(({ gone }) => gone === key);
      if (own.length === 0) return undefined;
      const { survivor, problem } = mergeStateOf(key, merges);
      const stands = new Set(own.flatMap((merge) => (merge.standing ? merge.survivor : [])));
      const ever = [...new Set(own.map((merge) => merge.survivor))].sort();
      return JSON.stringify([survivor ?? problem ?? null, ever.map((one) => [one, stands.has(one)])]);
    },
    async store(tx) {
      await setMerges(tx, source, [...speaking], said);
    },
  };
}
