import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import type { Bundle, DocumentReference, FhirResource, OperationOutcome } from 'fhir/r4.js';
import { pause } from '../network/processes.ts';
import type { PullReport, SharingReport, StatusReport, VerifyResult } from '../src/cli/operations.ts';
import { createFabricLedger } from '../src/ledger/fabric/fabric-ledger.ts';
import type { BlockTransaction } from '../src/ledger/ledger.ts';
import type { ReconcileReport } from '../src/pipeline/reconcile.ts';
import type { SharingEndReport } from '../src/sharing/report.ts';
import { type InstitutionName, type InstitutionsSite, logSince, type SiteInstitution } from './institutions-site.ts';
import { createPatientDevice, type PatientDevice } from './patient-device.ts';

/** Persons whom both A and B know, by another number at each. */
export const NUMBERS = {
  seoyeon: { atA: '00417733', atB: 'LU-220117' },
  phuong: { atA: '00820915', atB: 'LU-220385' },
  brennan: { atA: '00739461', atB: 'LU-220942' },
} as const;
export const SHARED = 'radiation-dose';
export const NOT_SHARED = 'laboratory';

export interface Answer {
  status: number;
  headers: Headers;
  bytes: Buffer;
  json: unknown;
}

/** Who asks: the grantee at B; a clinician of B without a permission; a clinician of C; B's privacy officer. */
export interface Staff {
  clinician: string;
  bystander: string;
  stranger: string;
  officer: string;
}
/** A patient: their pseudonym at A, and their own at B. Nothing puts the two beside each other but B's own rows. */
export interface SharingPatient {
  patient: string;
  ownAtB: string;
  token: string;
  device: PatientDevice;
}

/** A document as its reader sees it: the resource, the PDF, and what stands in FHIR beside it. */
export interface Seen {
  references: DocumentReference[];
  pdfs: Map<string, Buffer>;
  procedures: FhirResource[];
}

export type Acts = ReturnType<typeof createActs>;

/** What the three institutions and the patient do, each act asserted; the demo tells them, the tests kill between them. */
export function createActs(site: InstitutionsSite) {
  const { a, b, c } = site.institutions;

  let requests = 0;

  async function call(
    at: SiteInstitution,
    token: string | undefined,
    path: string,
    options: { method?: string; body?: object; accept?: string } = {},
  ): Promise<Answer> {
    const { method = 'GET', body, accept } = options;
    requests += 1;
    const response = await fetch(`${at.facadeUrl}/${path}`, {
      method,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/fhir+json' }),
        ...(accept === undefined ? {} : { accept }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const bytes = Buffer.from(await response.arrayBuffer());
    const isJson = (response.headers.get('content-type') ?? '').includes('json');
    return {
      status: response.status,
      headers: response.headers,
      bytes,
      json: isJson ? (JSON.parse(bytes.toString()) as unknown) : undefined,
    };
  }
  const token = async (at: SiteInstitution, as: string): Promise<string> => (await at.cli<{ token: string }>(['token', '--as', as])).token;
  const member = async (at: SiteInstitution, name: string, role: string): Promise<string> =>
    (await at.cli<{ member: string }>(['member', 'add', '--name', name, '--role', role])).member;
  const status = (at: SiteInstitution): Promise<StatusReport> => at.cli<StatusReport>(['status']);
  const found = async (at: SiteInstitution, mrn: string): Promise<string> =>
    (await at.cli<{ patient: string }>(['patient', 'find', '--authority', 'mrn'], mrn)).patient;

  /** Matches of a search; the answer where it is none. */
  async function matches<T extends FhirResource>(at: SiteInstitution, bearer: string, search: string): Promise<T[] | Answer> {
    const answer = await call(at, bearer, search);
    if (answer.status !== 200) return answer;
    return ((answer.json as Bundle<T>).entry ?? []).flatMap((entry) =>
      entry.resource !== undefined && (entry.search?.mode ?? 'match') === 'match' ? [entry.resource] : [],
    );
  }
  const search = async <T extends FhirResource>(at: SiteInstitution, bearer: string, query: string): Promise<T[]> => {
    const list = await matches<T>(at, bearer, query);
    assert.ok(Array.isArray(list), `${query} at ${at.name} answered ${JSON.stringify(list)}`);
    return list;
  };
  const pdfPath = (reference: DocumentReference): string =>
    reference.content
      .find(({ attachment }) => attachment.contentType === 'application/pdf')
      ?.attachment.url?.replace(/^.*\/(Binary\/)/, '$1') ?? assert.fail(`${reference.id} names no PDF`);

  /** Everything that a reader may see of the patient's documents of a category. */
  async function read(at: SiteInstitution, bearer: string, patient: string, category: string): Promise<Seen> {
    const references = await search<DocumentReference>(at, bearer, `DocumentReference?patient=${patient}&category=${category}&_count=100`);
    const pdfs = new Map<string, Buffer>();
    for (const reference of references) {
      const pdf = await call(at, bearer, pdfPath(reference), { accept: 'application/pdf' });
      assert.equal(pdf.status, 200, pdf.bytes.toString().slice(0, 300));
      assert.equal(pdf.bytes.subarray(0, 5).toString(), '%PDF-');
      pdfs.set(reference.id ?? '', pdf.bytes);
    }
    return { references, pdfs, procedures: await search(at, bearer, `Procedure?patient=${patient}&_count=100`) };
  }

  /** Waits until it holds; throws with what was last seen. */
  async function until<T>(what: string, look: () => Promise<T | undefined>, timeoutMs = 60_000, everyMs = 50): Promise<T> {
    const end = performance.now() + timeoutMs;
    let last: unknown;
    for (;;) {
      try {
        const seen = await look();
        if (seen !== undefined) return seen;
      } catch (error) {
        // What is being killed answers in no way; a mistake of ours does not go away by waiting.
        if (error instanceof TypeError && error.message !== 'fetch failed') throw error;
        last = error;
      }
      if (performance.now() > end) throw new Error(`${what}: not within ${timeoutMs / 1000} s`, { cause: last });
      await pause(everyMs);
    }
  }
  /** Everything filed is on the ledger and in the projection. */
  const settled = (at: SiteInstitution): Promise<StatusReport> =>
    until(`${at.name} settles`, async () => {
      const now = await status(at);
      const { depth } = now.outbox;
      return depth === 0 && now.ledger.projected >= now.ledger.height && now.ledger.fresh ? now : undefined;
    });

  /** A pull by command beside the one that every start makes by itself: repeated while that one holds a stream. */
  async function pull(at: SiteInstitution): Promise<StatusReport> {
    await until(
      `${at.name} has pulled`,
      async () => {
        const ran = await at.run(['pull', '--json']);
        const report = JSON.parse(ran.out) as PullReport;
        return report.failed ? undefined : report;
      },
      120_000,
    );
    return settled(at);
  }

  /** Members of B and C; B hands its signed directory to the others, so that devices show who a grant is to. */
  async function staff(): Promise<Staff> {
    const [clinician, stranger] = await Promise.all([
      member(b, 'Dr. Ana Ruiz, Medical Oncology', 'clinician'),
      member(c, 'Dr. Kit Moran, Internal Medicine', 'clinician'),
    ]);
    const bystander = await member(b, 'Dr. Ulf Brandt, Dermatology', 'clinician');
    const officer = await member(b, 'Jo Park, Privacy Office', 'privacy-officer');
    const directory = join(site.folder, 'b.directory');
    await b.cli(['directory', 'export', '--out', directory]);
    await Promise.all([a, c].map((one) => one.cli(['directory', 'import', directory])));
    return { clinician, bystander, stranger, officer };
  }
  /** One whom both know, with the device that will hold their keys. */
  async function patientOf(person: keyof typeof NUMBERS): Promise<SharingPatient> {
    const { atA, atB } = NUMBERS[person];
    const [patient, ownAtB] = await Promise.all([found(a, atA), found(b, atB)]);
    const bearer = await token(a, patient);
    const device = createPatientDevice({ gateway: a.origin, token: bearer, institution: a.institution, patient });
    return { patient, ownAtB, token: bearer, device };
  }

  /** B's one-time code for its own patient, as the patient carries it away. */
  const linkCode = (patient: string, clinician: string): Promise<{ link: string; text: string }> =>
    b.cli(['link', 'create', '--patient', patient, '--clinician', clinician, '--by', clinician]);

  /** Waits until B serves the patient's documents of the category to this reader; milliseconds from `from` to the first PDF in hand. */
  async function firstReadable(
    bearer: string,
    patient: string,
    from: number,
  ): Promise<{ ms: number; waited: readonly { said: string; times: number }[] }> {
    const waited: { said: string; times: number }[] = [];
    await until(
      'the first document is readable at B',
      async () => {
        const list = await matches<DocumentReference>(b, bearer, `DocumentReference?patient=${patient}&category=${SHARED}`);
        const said = Array.isArray(list) ? (list.length === 0 ? '200 with nothing in it' : '200') : `${list.status} ${codesIn(list)}`;
        const newest = waited.at(-1);
        if (newest?.said === said) newest.times += 1;
        else waited.push({ said, times: 1 });
        const [first] = Array.isArray(list) ? list : [];
        if (first === undefined) return undefined;
        return (await call(b, bearer, pdfPath(first), { accept: 'application/pdf' })).status === 200 ? first : undefined;
      },
      60_000,
      20,
    );
    return { ms: performance.now() - from, waited };
  }

  /** Waits until B denies what it served; milliseconds from `from` to the first 404. */
  async function denied(bearer: string, path: string, from: number): Promise<number> {
    await until(
      'B denies',
      async () => ((await call(b, bearer, path, { accept: 'application/pdf' })).status === 404 ? true : undefined),
      60_000,
      5,
    );
    return performance.now() - from;
  }

  /** The transactions of the blocks from `from` on, as this institution's peer has them. */
  async function transactionsSince(name: InstitutionName, from: number): Promise<BlockTransaction[]> {
    const ledger = await createFabricLedger({ connection: await site.network.connection(name), ledgerId: site.ledgerId });
    const found: BlockTransaction[] = [];
    try {
      const height = await ledger.height();
      if (height <= from) return found;
      for await (const block of ledger.blocks(from)) {
        found.push(...block.transactions);
        if (block.number >= height - 1) return found;
      }
      return found;
    } finally {
      await ledger.close();
    }
  }
  async function heightAt(name: InstitutionName): Promise<number> {
    const ledger = await createFabricLedger({ connection: await site.network.connection(name), ledgerId: site.ledgerId });
    try {
      return await ledger.height();
    } finally {
      await ledger.close();
    }
  }

  /**
   * What anybody but B could notice of what `work` does at B: requests to the store, transactions, lines of A's log, and of those
   * the ones that hold a telling word.
   */
  async function silence(
    telling: readonly string[],
    work: () => Promise<unknown>,
  ): Promise<{
    requests: number;
    storeRequests: readonly string[];
    transactions: readonly string[];
    logLines: number;
    mentions: readonly string[];
  }> {
    const before = { store: site.store.requests.length, height: await heightAt('a'), log: statSync(a.log).size, requests };
    await work();
    // What it set off may come a little later.
    await pause(1000);
    const lines = logSince(a, before.log).split('\n').filter(Boolean);
    return {
      requests: requests - before.requests,
      storeRequests: site.store.requests.slice(before.store).map(({ operation, name }) => `${operation} ${name}`),
      transactions: (await transactionsSince('a', before.height)).map((one) => one.name),
      logLines: lines.length,
      mentions: lines.filter((line) => telling.some((word) => line.includes(word))),
    };
  }

  /** Permission heads of the patient in A's view, as the patient's device asks for them. */
  async function headsAtA(bearer: string): Promise<{ grantee: string; category: string; status: string }[]> {
    const answer = await fetch(`${a.origin}/device/state`, { headers: { authorization: `Bearer ${bearer}` } });
    assert.equal(answer.status, 200);
    return ((await answer.json()) as { permissions: { grantee: string; category: string; status: string }[] }).permissions;
  }

  /** What B's report says of what ended of this patient; once all is deleted and the event of it stands in an anchor on the ledger. */
  const ended = (patient: string): Promise<readonly SharingEndReport[]> =>
    until(
      'deleted and anchored',
      async () => {
        const { held, ended: ends } = await b.cli<SharingReport>(['sharing', 'report']);
        const theirs = ends.filter((one) => one.patient === patient);
        const isDone = theirs.length > 0 && theirs.every(({ deleted, anchor }) => deleted !== null && anchor !== null);
        return isDone && !held.some((one) => one.patient === patient) ? theirs : undefined;
      },
      90_000,
      500,
    );

  /** Rows, objects and ledger agree at each, and every block holds when it is run again. */
  async function agree(): Promise<void> {
    for (const one of [a, b, c]) {
      assert.deepEqual((await one.cli<ReconcileReport>(['reconcile'])).differences, [], `reconcile at ${one.name}`);
      const verified = await one.cli<VerifyResult>(['ledger', 'verify']);
      assert.ok(verified.ok, verified.problems.join('\n'));
    }
  }

  return {
    site,
    call,
    token,
    member,
    status,
    search,
    matches,
    read,
    pdfPath,
    until,
    settled,
    pull,
    staff,
    patientOf,
    linkCode,
    firstReadable,
    denied,
    transactionsSince,
    heightAt,
    silence,
    headsAtA,
    ended,
    agree,
  };
}

const codesIn = ({ json }: Answer): string =>
  ((json as OperationOutcome | undefined)?.issue ?? []).map((issue) => issue.details?.coding?.[0]?.code ?? issue.code).join(', ');
