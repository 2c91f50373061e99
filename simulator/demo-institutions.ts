import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { FhirResource } from 'fhir/r4.js';
import type { AuditVerifyResult } from '../src/cli/operations.ts';
import { shown } from '../src/cli/settings.ts';
import { CodedError } from '../src/errors.ts';
import { createStory, type Story } from './demo-story.ts';
import { type Acts, type Answer, createActs, NOT_SHARED, type Seen, SHARED, type SharingPatient, type Staff } from './institutions-acts.ts';
import { endLeftSite, type InstitutionsSite, startInstitutionsSite } from './institutions-site.ts';
import { createSimulator } from './simulator.ts';

/**
 * `npm run demo -- --institutions`: three institutions, each a process with its own PostgreSQL, keys and members, on one Fabric
 * network and one object store. A patient of A lets a clinician of B read one category; B serves it with A switched off. Every step is
 * asserted. Returns the exit code.
 */
export async function runInstitutionsDemo({ output, keep }: { output: string; keep: boolean }): Promise<number> {
  const started = Date.now();
  const story = createStory(process.stdout);
  const run = join(output, '.run');
  // What an earlier demo that was killed left running in this folder.
  await endLeftSite(run);
  rmSync(output, { recursive: true, force: true, maxRetries: 5 });
  mkdirSync(output, { recursive: true, mode: 0o755 });
  story.title('oncobridge: three institutions, one patient, and no server between them');
  const simulator = await createSimulator();
  let site: InstitutionsSite | undefined;
  const closeAll = async (): Promise<void> => {
    await site?.close({ keepFolder: true });
    await simulator.close();
  };
  const interrupted = (): void => void closeAll().finally(() => process.exit(130));
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, interrupted);
  let failed = false;
  try {
    site = await startInstitutionsSite({ folder: run, simulator });
    const { a, b, c } = site.institutions;
    const nodes = await site.network.status();
    const count = (kind: string): number => nodes.filter((node) => node.kind === kind).length;
    story.line(
      `Up after ${seconds(started)}, each institution with an oncobridge, a PostgreSQL, keys, a peer and a contract server of its own:`,
    );
    story.line(`  A  ${a.title}, with ARIA and an EHR; it founded the ledger`);
    story.line(`  B  ${b.title}, with an EHR of its own; it joined, signed by A`);
    story.line(`  C  ${c.title}; it joined, signed by A and B`);
    story.line(
      `They share ${count('orderer')} orderer and an object store of ciphertext that nobody can list. No server of one calls one of another.`,
    );
    const acts = createActs(site);
    const cast = await tellInstitutions({ acts, story, output });
    if (keep) tellKept({ acts, cast, story });
  } catch (error) {
    if (error instanceof CodedError && ['FABRIC_MISSING', 'FABRIC_BUILD'].includes(error.code)) {
      await closeAll();
      process.stderr.write(`${error.message}\n`);
      return 69;
    }
    failed = true;
    story.line(`THE DEMO FAILED: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    if (error instanceof Error && error.cause !== undefined)
      story.line(`because of: ${error.cause instanceof Error ? error.cause.message : JSON.stringify(error.cause)}`);
  }
  if (keep && !failed) {
    for (const signal of ['SIGINT', 'SIGTERM']) process.off(signal, interrupted);
    await new Promise((resolve) => {
      for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, resolve);
      // Holds the process, whose simulators and store the three go on using.
      setInterval(() => {}, 1 << 30);
    });
    await closeAll();
    return 0;
  }
  await closeAll();
  story.line(`${failed ? 'Failed' : 'Done'} after ${seconds(started)}.`);
  return failed ? 1 : 0;
}

export type Cast = Staff & SharingPatient;

/** The story itself. Throws where a step does not go as it must. */
export async function tellInstitutions(options: {
  acts: Acts;
  story: Story;
  output: string;
  /** Runs while B holds what was shared. */
  meanwhile?: (cast: Cast) => Promise<void>;
}): Promise<Cast> {
  const { acts, story, output, meanwhile } = options;
  const { site } = acts;
  const { a, b, c } = site.institutions;

  story.title('A pulls and files; B has filed what it has itself');
  const [atA, atB] = await Promise.all([acts.pull(a), acts.pull(b)]);
  story.line(`  A: ${atA.documents} documents sealed, entered on the ledger. B: ${atB.documents}. C has none.`);
  assert.ok(atA.documents > 20 && atB.documents > 0);
  const cast: Cast = { ...(await acts.staff()), ...(await acts.patientOf('seoyeon')) };
  const { patient, clinician, device } = cast;
  const clinicianToken = await acts.token(b, clinician);
  const own = await acts.read(a, cast.token, patient, SHARED);
  const ownLabs = await acts.read(a, cast.token, patient, NOT_SHARED);
  const [doc] = own.references;
  assert.ok(doc !== undefined && ownLabs.references.length > 0);
  story.request(
    'patient',
    'at A: my radiation dose, my laboratory reports',
    `${own.references.length} and ${ownLabs.references.length} documents`,
  );

  story.title('The patient takes their keys over: from now on nobody signs for them');
  await device.claim();
  story.line("  A key pair of the device signs the claim, A co-signs, the ledger has it. A's copies of the patient's keys are destroyed.");

  story.title('B makes a one-time code for its own patient, who is the same person');
  const code = await acts.linkCode(cast.ownAtB, clinician);
  story.line(`  ${code.text.slice(0, 40)}… (${code.text.length} characters, also as a QR code): the patient carries it, no server does.`);
  assert.equal((await acts.call(b, clinicianToken, `Patient/${patient}`)).status, 404);
  story.request('clinician', `at B: GET Patient/${patient.slice(0, 12)}…`, '404');

  story.title('The patient grants this clinician the radiation dose, with the code inside a sealed envelope');
  const grantedAt = performance.now();
  const { grantee, shown: person } = await device.grant({ code: code.text, categories: [SHARED] });
  const answeredMs = performance.now() - grantedAt;
  const { ms, waited } = await acts.firstReadable(clinicianToken, patient, grantedAt);
  story.request('patient', 'at A: signed on the device (radiation dose)', `committed, ${Math.round(answeredMs)} ms`);
  assert.ok(person !== undefined);
  story.line(
    `  Before it signs, the device shows whom to, by B's signed directory: ${person.name}, ${person.role}, ${person.institution}.`,
  );
  story.line(
    `  B saw the permission on its ledger, opened the envelope, matched the code, fetched the sealed objects, compared the person.`,
  );
  const before = waited.slice(0, -1);
  const until = before.length === 0 ? '' : ` Until then it answered ${inWords(before)}.`;
  story.line(`  From the grant to the first readable document at B: ${Math.round(ms)} ms.${until}`);

  story.title('Nothing tells A, or anybody, when B reads');
  const seenOn = await acts.read(b, clinicianToken, patient, SHARED);
  assertSame(own, seenOn);
  const silence = await acts.silence([b.institution, clinician, patient, ...own.pdfs.keys()], async () => {
    for (let n = 0; n < 10; n++) await acts.read(b, clinicianToken, patient, SHARED);
  });
  assert.deepEqual(silence.storeRequests, []);
  assert.deepEqual(
    silence.transactions.filter((name) => name !== 'anchorAudit'),
    [],
  );
  assert.deepEqual(silence.mentions, []);
  const anchors = silence.transactions.length === 0 ? 'none' : `${counted(silence.transactions.length, 'anchor')}, by the clock`;
  story.line(`  ${silence.requests} requests of the clinician at B. Meanwhile, requests to the store: none; transactions: ${anchors};`);
  const logged =
    silence.logLines === 0 ? 'not a line' : `${silence.logLines} lines, none of which names B, the clinician, the patient or the document`;
  story.line(`  in A's log ${logged}.`);

  story.title('A is switched off, all of it: oncobridge, PostgreSQL, peer, contract server');
  await site.switchOff('a');
  await assert.rejects(fetch(`${a.origin}/fhir/metadata`));
  const off = (await site.network.status()).filter((node) => node.state !== 'up').map((node) => node.name);
  story.line(`  Down: oncobridge A, ${off.join(', ')}.`);
  const seen = await acts.read(b, clinicianToken, patient, SHARED);
  assertSame(own, seen);
  for (const [id, pdf] of seen.pdfs) {
    const file = `at-b-${SHARED}-${id.slice(4, 12)}.pdf`;
    writeFileSync(join(output, file), pdf);
    story.request(
      'clinician',
      `at B: GET Binary/${id.slice(0, 12)}… (application/pdf)`,
      `200, ${pdf.length} bytes, as at A; ${shown(join(output, file))}`,
    );
  }
  story.request('clinician', 'at B: GET Procedure?patient=… (FHIR)', `200, ${seen.procedures.length} results, as at A`);
  const labs = await labsAtB(acts, cast, ownLabs, clinicianToken);
  story.request(
    'clinician',
    'at B: the laboratory: DocumentReference, Observation; PDF',
    `${labs.documents} and ${labs.results} found; ${labs.pdf}`,
  );
  await strangers(acts, cast, doc.id ?? '', acts.pdfPath(doc));
  story.line("  B's other clinician gets the same 404 as for a patient who does not exist, and so does C's.");

  await meanwhile?.(cast);

  story.title('The patient revokes through C while A is off');
  const path = acts.pdfPath(doc);
  const revokedAt = performance.now();
  const [revoked, deniedMs] = await Promise.all([
    device.revoke({ grantee, categories: [SHARED], via: c.origin }).then(() => performance.now() - revokedAt),
    acts.denied(clinicianToken, path, revokedAt),
  ]);
  story.request('patient', "at C's door: the signed revocation", `committed, ${Math.round(revoked)} ms`);
  story.request('clinician', 'at B: GET Binary/…', '404');
  const early = deniedMs < revoked ? ' B reads the block itself, and need not wait for what C answers.' : '';
  story.line(`  From the revocation, signed and sent to C, to the denial at B: ${Math.round(deniedMs)} ms.${early}`);
  assert.deepEqual(await acts.search(b, clinicianToken, `DocumentReference?patient=${patient}`), []);
  for (const end of await acts.ended(patient)) {
    assert.ok(end.documents > 0 && end.rows > 0 && end.objects > 0 && end.keys > 0 && end.held === 0);
    const deletedMs = Date.parse(end.deleted ?? '') - Date.parse(end.ended);
    story.line(
      `  B's report (oncobridge sharing report): ${end.category}, ${end.cause} in block ${end.block}. Deleted within ${deletedMs} ms:`,
    );
    const gone = [
      counted(end.documents, 'document'),
      counted(end.rows, 'row'),
      `${counted(end.objects, 'sealed copy', 'sealed copies')} of ${end.bytes} bytes`,
      counted(end.keys, 'key'),
    ].join(', ');
    story.line(`    ${gone}; anchored on the ledger, anchor ${end.anchor} of B.`);
  }
  const audited = await b.cli<AuditVerifyResult>(['audit', 'verify']);
  assert.ok(audited.ok, audited.problems.join('\n'));

  story.title('A comes back, catches up and agrees');
  const backAt = performance.now();
  await site.switchOn('a');
  await acts.settled(a);
  story.line(`  A answers, and its view of the ledger is the newest, after ${((performance.now() - backAt) / 1000).toFixed(1)} s.`);
  const heads = await acts.headsAtA(cast.token);
  assert.deepEqual(
    heads.map((head) => [head.grantee, head.category, head.status]),
    [[grantee, SHARED, 'revoked']],
  );
  await acts.agree();
  story.line('  Its view of the permission: ended. reconcile finds no difference at A, B and C; ledger verify holds at each.');

  story.title('In short, on this one machine');
  story.line(`  From the grant to the first document at B      ${Math.round(ms)} ms`);
  story.line(`  From the revocation through C to the denial    ${Math.round(deniedMs)} ms, A switched off`);
  story.line('  The laboratory reports at B                    404, from the beginning to the end');
  story.line('  Left of it at B                                the report and the audit trail, no row, copy or key');
  return cast;
}

function assertSame(atA: Seen, atB: Seen): void {
  const ids = (list: readonly FhirResource[]): string[] => list.map(({ id }) => id ?? '').sort();
  assert.deepEqual(ids(atB.references), ids(atA.references));
  assert.deepEqual(ids(atB.procedures), ids(atA.procedures));
  for (const [id, pdf] of atA.pdfs) assert.ok(atB.pdfs.get(id)?.equals(pdf), `the PDF of ${id} differs`);
}

/** What was not granted is not there: not found in searches, and 404 by its id. */
async function labsAtB(
  acts: Acts,
  { patient }: Cast,
  labs: Seen,
  bearer: string,
): Promise<{ documents: number; results: number; pdf: number }> {
  const { b } = acts.site.institutions;
  const documents = await acts.search(b, bearer, `DocumentReference?patient=${patient}&category=${NOT_SHARED}`);
  const results = await acts.search(b, bearer, `Observation?patient=${patient}&category=laboratory`);
  const [first] = labs.references;
  assert.ok(first !== undefined);
  const pdf = await acts.call(b, bearer, acts.pdfPath(first), { accept: 'application/pdf' });
  assert.deepEqual([documents.length, results.length, pdf.status], [0, 0, 404]);
  return { documents: documents.length, results: results.length, pdf: pdf.status };
}

async function strangers(acts: Acts, cast: Cast, document: string, pdf: string): Promise<void> {
  const { b, c } = acts.site.institutions;
  for (const [at, who] of [
    [b, cast.bystander],
    [c, cast.stranger],
  ] as const) {
    const bearer = await acts.token(at, who);
    const answers: Answer[] = await Promise.all(
      [`Patient/${cast.patient}`, `DocumentReference/${document}`, pdf].map((path) => acts.call(at, bearer, path)),
    );
    assert.deepEqual(
      answers.map((one) => one.status),
      [404, 404, 404],
    );
    assert.deepEqual(await acts.search(at, bearer, `DocumentReference?patient=${cast.patient}`), []);
  }
}

function tellKept({ acts, cast, story }: { acts: Acts; cast: Cast; story: Story }): void {
  const { a, b, c } = acts.site.institutions;
  story.title('Left running (Ctrl-C ends it). Each institution has its configuration:');
  for (const one of [a, b, c])
    story.line(`  ${one.name.toUpperCase()}  bin/oncobridge --config ${shown(one.config)} status      ${one.facadeUrl}`);
  const at = (one: { config: string }, words: string): string => `bin/oncobridge --config ${shown(one.config)} ${words}`;
  story.line(`  TOKEN=$(${at(a, `token --as ${cast.patient}`)})`);
  story.line(`  curl -H "Authorization: Bearer $TOKEN" '${a.facadeUrl}/DocumentReference'`);
  story.line(`  ${at(b, 'sharing report')}`);
}

const seconds = (from: number): string => `${((Date.now() - from) / 1000).toFixed(1)} s`;

const counted = (n: number, one: string, more = `${one}s`): string => `${n} ${n === 1 ? one : more}`;

/** What was answered how often, one after the other, in words. */
function inWords(waited: readonly { said: string; times: number }[]): string {
  return waited.map(({ said, times }) => `${said} (${times === 1 ? 'once' : `${times} times`})`).join(', then ');
}
