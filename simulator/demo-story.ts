import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import type { Bundle, Consent, DocumentReference, OperationOutcome } from 'fhir/r4.js';
import type { App } from '../src/app.ts';
import { codeOf } from '../src/errors.ts';
import { sql } from '../src/store/sql.ts';

export interface Story {
  title(text: string): void;
  line(text: string): void;
  table(head: string, rows: readonly (readonly string[])[]): void;
  /** A request and its answer, as a line. */
  request(who: string, what: string, answer: string): void;
}

export function createStory(out: NodeJS.WriteStream): Story {
  const bold = out.isTTY ? (text: string): string => `\u001b[1m${text}\u001b[22m` : (text: string): string => text;
  const write = (text: string): void => void out.write(`${text}\n`);
  return {
    title: (text) => write(`\n${bold(text)}`),
    line: write,
    table(head, rows) {
      write(`${head}:`);
      for (const [count, ...columns] of rows) write(`  ${(count ?? '').padStart(5)}  ${columns.join('  ')}`);
    },
    request: (who, what, answer) => write(`  ${who.padEnd(10)} ${what.padEnd(58)} ${answer}`),
  };
}

/** Who plays in it. */
export interface Persons {
  patient: string;
  clinician: string;
  officer: string;
}

const DAY_MS = 86_400_000;

/** The story of issue and README: asked, granted, read, revoked, tampered with. Every step is asserted; it throws where one fails. */
export async function tellStory({ app, story }: { app: App; story: Story }): Promise<Persons> {
  const { operations } = app;
  const clinician = (await operations.memberAdd({ name: 'Dr. Ana Ruiz, Medical Oncology', role: 'clinician' })).member;
  const officer = (await operations.memberAdd({ name: 'Jo Park, Privacy Office', role: 'privacy-officer' })).member;
  const patient = await patientWithBoth(app);
  const tokens = {
    patient: (await operations.token({ as: patient })).token,
    clinician: (await operations.token({ as: clinician })).token,
    officer: (await operations.token({ as: officer })).token,
  };

  const call = async (who: keyof typeof tokens, method: string, path: string, body?: object, headers: Record<string, string> = {}) => {
    const response = await fetch(`${app.facadeUrl}/${path}`, {
      method,
      headers: {
        authorization: `Bearer ${tokens[who]}`,
        ...(body === undefined ? {} : { 'content-type': 'application/fhir+json' }),
        ...headers,
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
  };
  /** How many matches a search finds. */
  const count = async (who: keyof typeof tokens, search: string): Promise<number> => {
    const { status, json } = await call(who, 'GET', search);
    assert.equal(status, 200, `${search} answered ${status}`);
    return ((json as Bundle).entry ?? []).filter((entry) => entry.search?.mode !== 'outcome').length;
  };
  const pdfOf = async (who: keyof typeof tokens, category: string): Promise<string> => {
    const { json } = await call(who, 'GET', `DocumentReference?patient=${patient}&category=${encodeURIComponent(category)}`);
    const first = (json as Bundle<DocumentReference>).entry?.find((entry) => entry.resource?.id?.startsWith('doc-'))?.resource;
    return first?.content[0]?.attachment.url?.replace(/^.*\/(Binary\/)/, '$1') ?? assert.fail(`no document of ${category}`);
  };

  story.title('A clinician of another department asks, and there is nothing to see');
  const hidden = await call('clinician', 'GET', `Patient/${patient}`);
  story.request('clinician', `GET Patient/${patient.slice(0, 12)}…`, `${hidden.status}`);
  assert.equal(hidden.status, 404);
  const nobody = await call('clinician', 'GET', 'Patient/pat-aaaaaaaaaaaaaaaaaaaaaaaaaa');
  assert.deepEqual([nobody.status, codesIn(nobody.json)], [hidden.status, codesIn(hidden.json)], 'hidden and missing must answer alike');
  story.line('  A patient who does not exist gets the very same answer.');
  const before = await count('clinician', `Observation?patient=${patient}`);
  story.request('clinician', 'GET Observation?patient=…', `${before} results`);
  assert.equal(before, 0);

  story.title('The patient grants them the laboratory results for 30 days');
  const consent = consentFor(patient, clinician, ['laboratory'], new Date(), new Date(Date.now() + 30 * DAY_MS));
  const granted = await call('patient', 'POST', 'Consent', consent);
  story.request('patient', 'POST Consent (laboratory, read, 30 days)', `${granted.status}`);
  assert.equal(granted.status, 201, granted.bytes.toString());
  story.line(await receiptLine(app, 'grantPermission'));
  const consentId = (granted.json as Consent).id ?? assert.fail('a Consent without id');

  const observations = await count('clinician', `Observation?patient=${patient}&_count=200`);
  story.request('clinician', 'GET Observation?patient=…', `200, ${observations} results`);
  assert.ok(observations > 0);
  const labPdf = await pdfOf('clinician', 'laboratory');
  const pdf = await call('clinician', 'GET', labPdf, undefined, { accept: 'application/pdf' });
  story.request('clinician', 'GET Binary/… (application/pdf)', `${pdf.status}, ${pdf.bytes.length} bytes`);
  assert.ok(pdf.status === 200 && pdf.bytes.subarray(0, 5).toString() === '%PDF-');
  const ownDose = await pdfOf('patient', 'radiation-dose');
  const dose = await count('clinician', `Procedure?patient=${patient}`);
  const dosePdf = await call('clinician', 'GET', ownDose, undefined, { accept: 'application/pdf' });
  story.request('clinician', 'GET Procedure?patient=… (the radiation dose)', `200, ${dose} results; its PDF ${dosePdf.status}`);
  assert.deepEqual([dose, dosePdf.status], [0, 404]);

  story.title('The patient revokes, and the next read is 404');
  const revokedAt = performance.now();
  const revoked = await call(
    'patient',
    'PUT',
    `Consent/${consentId}`,
    { ...consent, id: consentId, status: 'inactive' },
    {
      'if-match': granted.headers.get('etag') ?? '',
    },
  );
  const answered = performance.now();
  const gone = await call('clinician', 'GET', labPdf, undefined, { accept: 'application/pdf' });
  story.request(
    'patient',
    `PUT Consent/${consentId.slice(0, 12)}… (inactive)`,
    `${revoked.status}, ${Math.round(answered - revokedAt)} ms`,
  );
  story.request('clinician', 'GET Binary/…', `${gone.status}`);
  assert.ok(revoked.status === 200 || revoked.status === 202, revoked.bytes.toString());
  assert.equal(gone.status, 404);
  const replayed = await replayGrant(app);
  story.line(`  The old signed grant, sent to the ledger again: refused, ${replayed}.`);
  assert.equal(await count('clinician', `Observation?patient=${patient}`), 0);

  story.title('A byte of a stored object is flipped');
  const [row] = await app.core.database.query<{ pointer: string; document: string }>(sql`
    select pointer, document from document_version where document = ${labPdf.replace(/^Binary\/(doc-[a-z2-7]+).*$/, '$1')} order by version desc limit 1`);
  if (row === undefined) assert.fail('no stored object');
  const file = app.blobPath(row.pointer);
  if (file === undefined) assert.fail('objects do not lie in files');
  const original = readFileSync(file);
  const altered = Buffer.from(original);
  altered[Math.floor(altered.length / 2)] = (altered[Math.floor(altered.length / 2)] ?? 0) ^ 1;
  writeFileSync(file, altered);
  const broken = await call('patient', 'GET', labPdf, undefined, { accept: 'application/pdf' });
  story.request('patient', 'GET Binary/…', `${broken.status}, ${codesIn(broken.json)}: refused, and the operator is alarmed`);
  assert.equal(codesIn(broken.json), 'INTEGRITY');
  const report = await operations.reconcile({}, () => {});
  story.line(`  reconcile: ${report.differences.map((d) => `${d.kind} ${d.document ?? ''}`).join(', ')}`);
  assert.deepEqual(
    report.differences.map((d) => [d.kind, d.document]),
    [['object-altered', row.document]],
  );
  writeFileSync(file, original);
  assert.deepEqual((await operations.reconcile({}, () => {})).differences, []);
  story.line('  Put back: reconcile finds no difference.');

  story.title('Who read my record');
  const audit = await call('patient', 'GET', `AuditEvent?patient=${patient}&_count=100`);
  const events = ((audit.json as Bundle).entry ?? []).length;
  story.request('patient', 'GET AuditEvent?patient=…', `${audit.status}, ${events} events`);
  assert.ok(audit.status === 200 && events > 0);
  assert.equal(await count('clinician', `AuditEvent?patient=${patient}`).catch(() => 0), 0);
  const verified = await operations.verify({});
  story.line(
    `  ledger verify: ${verified.blocks} blocks, ${verified.transactions} transactions run again, ${verified.ok ? 'they hold' : 'THEY DO NOT HOLD'}.`,
  );
  assert.ok(verified.ok, verified.problems.join('\n'));
  return { patient, clinician, officer };
}

/** A Consent in the form that docs/consent.md describes: deny at the root, one permit with actor, action, class and period. */
function consentFor(patient: string, member: string, categories: readonly string[], start: Date, end: Date): Consent {
  return {
    resourceType: 'Consent',
    status: 'active',
    scope: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentscope', code: 'patient-privacy' }] },
    category: [{ coding: [{ system: 'http://loinc.org', code: '59284-0' }] }],
    patient: { reference: `Patient/${patient}` },
    dateTime: start.toISOString(),
    policyRule: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v3-ActCode', code: 'OPTIN' }] },
    provision: {
      type: 'deny',
      provision: [
        {
          type: 'permit',
          period: { start: start.toISOString(), end: end.toISOString() },
          actor: [
            {
              role: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v3-ParticipationType', code: 'IRCP' }] },
              reference: { reference: `Practitioner/${member}` },
            },
          ],
          action: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentaction', code: 'access' }] }],
          class: categories.map((code) => ({ system: 'urn:oncobridge:category', code })),
        },
      ],
    },
  };
}

/** The newest receipt of this transaction: where it stands on the ledger. */
export async function receiptLine(app: App, transaction: string): Promise<string> {
  const [row] = await app.core.database.query<{ tx_id: string; block: number }>(sql`
    select tx_id, block from outbox where transaction = ${transaction} and state = 'committed' and tx_id is not null order by seq desc limit 1`);
  if (row === undefined) assert.fail(`no receipt of ${transaction}`);
  return `  receipt of ${transaction}: transaction ${row.tx_id}, block ${row.block}`;
}

/** A patient with documents of both categories. */
async function patientWithBoth(app: App): Promise<string> {
  const [row] = await app.core.database.query<{ pat: string }>(sql`
    select pat from subject where version > 0 and withdrawn_at is null and category in ('laboratory', 'radiation-dose')
    group by pat having count(distinct category) = 2 order by count(*) desc, pat limit 1`);
  return row?.pat ?? assert.fail('no patient with laboratory and dose documents');
}

/** Hands the committed grant to the ledger once more; returns the code it is refused with. */
async function replayGrant(app: App): Promise<string> {
  const [row] = await app.core.database.query<{ args: string[] }>(
    sql`select args from outbox where transaction = 'grantPermission' and state = 'committed' order by seq limit 1`,
  );
  try {
    await app.core.ledger.endorse({ name: 'grantPermission', args: row?.args ?? [] });
  } catch (error) {
    assert.equal(codeOf(error), 'LEDGER_REFUSED');
    return (error as { detail?: { diagnostics?: string } }).detail?.diagnostics ?? 'LEDGER_REFUSED';
  }
  return assert.fail('the old grant was accepted again');
}

function codesIn(json: unknown): string {
  return ((json as OperationOutcome | undefined)?.issue ?? []).map((issue) => issue.details?.coding?.[0]?.code ?? issue.code).join(',');
}
