import type { SealedRows } from '../vault/sealed-rows.ts';

/**
 * Source ids and content are looked up by HMAC: a source's id can be an MRN or a serial (architecture section 3, step 9).
 * `ref` is `Type/id` at the source, or any other name that a link may have.
 */
export interface SourceKeys {
  ref(source: string, ref: string): Promise<string>;
  version(source: string, ref: string, versionId: string, digest: string): Promise<string>;
  content(text: string): Promise<string>;
  /** What gives a source resource its lasting id of ours, per subject. */
  resource(source: string, ref: string, subject: string): Promise<string>;
}

export function createSourceKeys(rows: SealedRows): SourceKeys {
  return {
    ref: (source, ref) => rows.blind('source-ids', `ref|${source}|${ref}`),
    version: (source, ref, versionId, digest) => rows.blind('source-ids', `version|${source}|${ref}|${versionId}|${digest}`),
    content: (text) => rows.blind('content', text),
    resource: (source, ref, subject) => rows.blind('source-ids', `resource|${source}|${ref}|${subject}`),
  };
}
