import { CodedError, codeOf, type ErrorCode } from '../errors.ts';
import { isObject, type Json, parseResource, textOf } from '../records/lossless-json.ts';
import { raw, type SqlFragment, sql } from '../store/sql.ts';
import { ownWrap } from '../vault/foreign-wrap.ts';
import { holderName } from '../vault/holder.ts';
import { access, patientsOf, RESOURCE_ID, textOfRow } from './access.ts';
import { createCompleteReads } from './complete-reads.ts';
import { findMisfiled, MISFILED_REVIEW, partOfDocument } from './misfiled.ts';
import { binaryForm } from './negotiate.ts';
import type { Answer, Caller, FacadeParts, PatientKey } from './ports.ts';
import { type Conditions, FHIR_JSON, notModified, versionHeaders } from './read.ts';
import { doubt, type ReadableRow } from './readable.ts';

export interface BinaryRequest extends Conditions {
  accept?: string;
  format?: string;
  range?: string;
}

export interface BinaryReader {
  /**
   * A document's PDF or FHIR Bundle out of its sealed object, checked against the ledger's hash and commitment. Raw bytes
   * or a Binary resource. Throws NOT_FOUND for hidden and missing alike, INTEGRITY where the object does not match.
   */
  read(caller: Caller, id: string, request: BinaryRequest): Promise<Answer>;
}

type BinaryRow = ReadableRow & {
  document: string;
  recorder: string;
  pointer: string;
  ciphertext_hash: string;
  commitment: string;
  /** Of what another institution recorded: the document key under our own key. */
  wrap: string | null;
};

/** What is served: where its bytes are, of which kind, and what the resource says beside them. */
interface FoundBinary {
  row: Pick<
    BinaryRow,
    'id' | 'version' | 'last_updated' | 'pat' | 'category' | 'height' | 'document' | 'pointer' | 'ciphertext_hash' | 'commitment'
  > & { shared?: Pick<BinaryRow, 'inst' | 'recorder' | 'wrap'> };
  contentType: string;
  meta: Json | undefined;
  /** Nobody's whom the audit could name, and what permits it. */
  misfiled: boolean;
  patients: readonly PatientKey[];
}

const PARTS: Readonly<Record<string, { part: 'pdf' | 'bundle'; extension: string }>> = {
  'application/pdf': { part: 'pdf', extension: 'pdf' },
  'application/fhir+json': { part: 'bundle', extension: 'json' },
};

/** What is stored is not what the ledger names; anything else, a store that does not answer for one, passes. */
const NOT_AS_ENTERED: ReadonlySet<string> = new Set(['SEAL_BROKEN', 'BLOB_MISSING', 'BLOB_TOO_LARGE', 'KEY_MISSING'] satisfies ErrorCode[]);

export function createBinaryReader(parts: FacadeParts): BinaryReader {
  const complete = createCompleteReads(parts);

  async function find(caller: Caller, id: string): Promise<FoundBinary> {
    const row = await readable(caller, id);
    if (row !== undefined) {
      const resource = parseResource(await textOfRow(parts, row));
      return {
        row: row.recorder === parts.institution ? row : { ...row, shared: row },
        contentType: textOf(resource['contentType']) ?? '',
        meta: resource['meta'],
        misfiled: false,
        patients: patientsOf([row]),
      };
    }
    const part = partOfDocument(id);
    const misfiled = part === undefined || caller.breakGlass === true ? undefined : await findMisfiled(parts, caller, part.document);
    if (part === undefined || misfiled === undefined) throw new CodedError('NOT_FOUND');
    const lastUpdated = misfiled.withdrawn_at;
    const meta = { versionId: String(misfiled.version), lastUpdated: lastUpdated.toISOString() };
    return { row: { ...misfiled, id, last_updated: lastUpdated }, contentType: part.contentType, meta, misfiled: true, patients: [] };
  }

  async function readable(caller: Caller, id: string): Promise<BinaryRow | undefined> {
    if (!RESOURCE_ID.test(id)) throw new CodedError('NOT_FOUND');
    const own = parts.institution;
    const held = (column: 'pointer' | 'ciphertext_hash' | 'wrap'): SqlFragment =>
      sql`(select v.${raw(column)} from shared_version v where v.recorder = r.recorder and v.document = r.document and v.version = r.document_version)`;
    const row = await complete.one<Omit<BinaryRow, keyof ReadableRow>>(caller, 'document', {
      type: 'Binary',
      id,
      document: partOfDocument(id)?.document,
      more: sql`, r.document, r.recorder,
        case when r.recorder = ${own} then (select v.pointer from document_version v where v.document = r.document and v.version = r.document_version)
          else ${held('pointer')} end as pointer,
        case when r.recorder = ${own} then (select d.ciphertext_hash from projection.document d where d.recorder = r.recorder and d.doc = r.document)
          else ${held('ciphertext_hash')} end as ciphertext_hash,
        (select d.commitment from projection.document d where d.recorder = r.recorder and d.doc = r.document) as commitment,
        case when r.recorder <> ${own} then ${held('wrap')} end as wrap`,
    });
    if (row?.doubtful === true) throw doubt(parts, row);
    return row;
  }

  async function open(row: FoundBinary['row'], part: 'pdf' | 'bundle'): Promise<Uint8Array> {
    const { document, version, category, pointer, shared } = row;
    const patient = row.pat ?? '';
    const expect = {
      document,
      version,
      patient,
      category: category ?? '',
      ciphertextHash: row.ciphertext_hash,
      commitment: row.commitment,
    };
    if (shared === undefined) return parts.sealer.openPart(await parts.blobs.get(pointer), part, expect);
    const { inst, recorder, wrap } = shared;
    const institution = parts.institution;
    // What we hold is our own copy. Another institution's store is never asked on a read: it would tell when we looked.
    if (inst === null || wrap === null || !pointer.startsWith(`${institution}/`)) throw new CodedError('SEAL_BROKEN');
    const holder = holderName(institution, { institution: inst, patient });
    const key = ownWrap({ institution, holder, category: expect.category, wrapped: wrap });
    return parts.sealer.openPart(await parts.blobs.get(pointer), part, { ...expect, institution: recorder }, () =>
      parts.custodian.unwrapDocumentKey(key),
    );
  }

  /** The bytes; where the object or its key is broken or gone, once more by a fresh row, for it may have been resealed or ended meanwhile. */
  async function content(caller: Caller, row: FoundBinary['row'], part: 'pdf' | 'bundle'): Promise<Uint8Array> {
    try {
      return await open(row, part);
    } catch (error) {
      const code = codeOf(error);
      if (code === undefined || !NOT_AS_ENTERED.has(code)) throw error;
      const { row: again } = await find(caller, row.id);
      if (again.pointer !== row.pointer || again.version !== row.version) return open(again, part);
      parts.onIntegrity({ document: row.document, version: row.version, reason: code });
      throw new CodedError('INTEGRITY', { cause: error });
    }
  }

  return {
    read: (caller, id, request) =>
      access(parts, caller, { interaction: 'read', needs: [{ type: 'Binary', interaction: 'r' }], type: 'Binary', id }, async (as) => {
        const { row, contentType, meta, misfiled, patients } = await find(as, id);
        const kind = PARTS[contentType];
        if (kind === undefined) throw new CodedError('INTERNAL', { diagnostics: 'A Binary of a kind that no sealed object has.' });
        const form = binaryForm(request.accept, request.format, contentType);
        if (form === undefined) throw new CodedError('NOT_ACCEPTABLE');
        const versionId = String(row.version);
        const reason = misfiled ? { reason: MISFILED_REVIEW } : {};
        const found = (answer: Answer) => ({ answer, patients, height: row.height, versionId, ...reason });
        const headers = versionHeaders(versionId, row.last_updated);
        if (notModified(versionId, row.last_updated, request)) return found({ status: 304, headers, body: undefined });
        const bytes = await content(as, row, kind.part);
        if (form === 'fhir') {
          const head = JSON.stringify({ resourceType: 'Binary', id, ...(isObject(meta) ? { meta } : {}), contentType });
          return found({
            status: 200,
            headers: { ...headers, 'Content-Type': FHIR_JSON },
            body: `${head.slice(0, -1)},"data":"${Buffer.from(bytes).toString('base64')}"}`,
          });
        }
        return found(
          rawAnswer(bytes, request.range, {
            ...headers,
            'Content-Type': contentType,
            'Content-Disposition': `attachment; filename="${row.document}.${kind.extension}"`,
            // Whatever a reader's browser thinks of it, it runs nothing from it.
            'Content-Security-Policy': "sandbox; default-src 'none'",
            'X-Content-Type-Options': 'nosniff',
            'Accept-Ranges': 'bytes',
          }),
        );
      }),
  };
}

/** The bytes, or the one range of them that was asked for (RFC 9110 14.2); several ranges get the whole. */
function rawAnswer(bytes: Uint8Array, range: string | undefined, headers: Record<string, string>): Answer {
  const m = range === undefined ? null : /^bytes=(\d{0,15})-(\d{0,15})$/.exec(range.trim());
  if (m === null || (m[1] === '' && m[2] === '')) return { status: 200, headers, body: bytes };
  const suffix = m[1] === '';
  const start = suffix ? Math.max(0, bytes.length - Number(m[2])) : Number(m[1]);
  const end = suffix || m[2] === '' ? bytes.length - 1 : Math.min(Number(m[2]), bytes.length - 1);
  if (start > end) throw new CodedError('RANGE_NOT_SATISFIABLE');
  return {
    status: 206,
    headers: { ...headers, 'Content-Range': `bytes ${start}-${end}/${bytes.length}` },
    body: bytes.subarray(start, end + 1),
  };
}
