import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Bundle, Consent, Observation } from 'fhir/r4.js';
import { createSimulator } from '../../simulator/simulator.ts';
import { readSettings } from '../../src/cli/settings.ts';
import { readBlocks } from '../../src/ledger/embedded/block-store.ts';
import { createDatabase, type Database } from '../../src/store/database.ts';
import { createEmbeddedPostgres } from '../../src/store/embedded-postgres.ts';
import { raw, sql } from '../../src/store/sql.ts';
import { writeConfiguration } from '../pipeline/world.ts';
import { createBlockLinter } from './block-linter.ts';
import { createCanarySearch, type Finding } from './canary-search.ts';
import type { Answer, Order } from './canary-server.ts';
import { dump } from './dump.ts';

const shown = (findings: readonly Finding[]): string[] => [
  ...new Set(findings.map(({ canary, form, place }) => `${canary} as ${form} in ${place}`)),
];

test('no name, birth date, number or value of a patient is at rest in clear, in a log, in the queue or on the ledger', async () => {
  const simulator = await createSimulator({ extraPatients: 3 });
  const configuration = await writeConfiguration(simulator);
  const { canaries } = simulator.truth();
  const finder = createCanarySearch(canaries);
  const { data } = await readSettings(configuration.file, { ...process.env, ...configuration.env });
  const child = fork(fileURLToPath(new URL('./canary-server.ts', import.meta.url)), [configuration.file], {
    env: { ...process.env, ...configuration.env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  const exited = new Promise<void>((done) => child.once('exit', () => done()));
  let output = '';
  child.stdout?.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr?.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const heard = (): Promise<unknown> =>
    new Promise((done, fail) => {
      const gone = (): void => fail(new Error(`the server ended\n${output.slice(-2000)}`));
      child.once('exit', gone);
      child.once('message', (answer: Answer) => {
        child.off('exit', gone);
        if ('error' in answer) fail(new Error(answer.error));
        else done(answer.value);
      });
    });
  const ask = (order: Order): Promise<unknown> => {
    const answer = heard();
    child.send(order);
    return answer;
  };

  try {
    // -- a whole life: pull, corrections, questions, reads, refusals --
    const { facadeUrl } = (await heard()) as { facadeUrl: string };
    await ask({ do: 'pull' });
    simulator.control.applyCorrections();
    simulator.control.step('lab-deleted');
    simulator.control.step('course-entered-in-error');
    // A source that speaks of a patient in its error, and one that answers with half of a record.
    simulator.control.fault({
      server: 'ehr',
      kind: 'status',
      status: 400,
      text: `No such patient: ${canaries[0]}, born 1961-12-05`,
      match: 'Observation?',
    });
    simulator.control.fault({ server: 'aria', kind: 'truncate', match: 'DocumentReference?' });
    await ask({ do: 'pull' });
    simulator.control.clearFaults();
    await ask({ do: 'pull' });
    const answers = JSON.stringify(await ask({ do: 'questions' }));

    const clinician = (await ask({ do: 'member' })) as string;
    const call = async (
      token: string | undefined,
      path: string,
      init: { method?: string; body?: string; type?: string } = {},
    ): Promise<Response> =>
      fetch(`${facadeUrl}/${path}`, {
        method: init.method ?? 'GET',
        headers: {
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(init.body === undefined ? {} : { 'content-type': init.type ?? 'application/fhir+json' }),
        },
        ...(init.body === undefined ? {} : { body: init.body }),
      });
    const token = (await ask({ do: 'token', as: clinician })) as string;
    const refused: Response[] = [];
    const name = encodeURIComponent('Featherstonehaugh-Whitcombe');
    for (const who of [undefined, token, 'Brennan.Brennan.Brennan', `${token.slice(0, -4)}AAAA`])
      for (const path of [
        `Patient?name=${name}&birthdate=1961-12-05`,
        `Patient?identifier=urn:oid:2.16.840.1.113883.19.5|00739461`,
        `Patient/00739461`,
        `Patient/${name}`,
        `Observation?patient.name=${name}&value-quantity=1187.346`,
        `Observation?_id=00739461&nonsense=${name}`,
        `${name}/00739461?${name}=${name}`,
        `DocumentReference?_cursor=${name}`,
      ])
        refused.push(await call(who, path));
    refused.push(
      await call(token, 'Consent', { method: 'POST', body: `{"resourceType":"Consent","patient":{"display":"Okafor-Lindqvist"},` }),
    );
    refused.push(
      await call(token, 'Consent', { method: 'POST', body: JSON.stringify({ resourceType: 'Consent', language: 'Okafor-Lindqvist' }) }),
    );
    refused.push(
      await call(token, 'Observation', { method: 'POST', body: JSON.stringify({ resourceType: 'Observation', id: '00739461' }) }),
    );
    refused.push(
      await call(undefined, '../auth/token', {
        method: 'POST',
        body: `client_assertion=${name}&grant_type=${name}`,
        type: 'application/x-www-form-urlencoded',
      }),
    );
    assert(refused.filter(({ status }) => status >= 400).length > 20);
    const said = await Promise.all(refused.map((response) => response.text()));

    // -- the database, while it runs --
    const url = await databaseUrl(data);
    const database = createDatabase({ url, maxConnections: 2 });
    const found: Finding[] = [];
    try {
      await database.query(raw('analyze'));
      // The withheld value is there to be found by those who may: a search by value, through a grant of the patient.
      const pat = await patientOf(database, 'laboratory');
      const asPatient = (await ask({ do: 'token', as: pat })) as string;
      const granted = await call(asPatient, 'Consent', { method: 'POST', body: JSON.stringify(consentFor(pat, clinician)) });
      assert.equal(granted.status, 201, await granted.clone().text());
      const all = (await (await call(token, `Observation?patient=${pat}&_count=200`)).json()) as Bundle;
      const quantity = all.entry
        ?.map(({ resource }) => (resource as Observation).valueQuantity)
        .find((one) => one?.value !== undefined && one.comparator === undefined);
      assert(quantity?.value !== undefined);
      const byValue = (await (
        await call(token, `Observation?patient=${pat}&value-quantity=${quantity.value}&_count=200`)
      ).json()) as Bundle;
      assert(
        (byValue.entry ?? []).some(({ resource }) => resource?.resourceType === 'Observation'),
        'a permitted search by value finds nothing',
      );

      const tables = await dump(database);
      assert(tables.length > 25, 'tables are missing from the dump');
      const rows = tables.reduce((sum, { text }) => sum + text.length, 0);
      assert(rows > 1_000_000, `the dump holds ${rows} characters only`);
      for (const schema of ['public', 'projection', 'embedded', 'bullmq'])
        assert(
          tables.some(({ table, text }) => table.startsWith(`${schema}.`) && text !== ''),
          `nothing of schema ${schema} in the dump`,
        );
      for (const { table, text } of tables) found.push(...finder.searchText(`table ${table}`, text));

      // -- the ledger: arguments, read sets, writes, results, and what is encoded in them --
      const blocks = await readBlocks(database, 0, 10_000);
      assert(blocks.length > 5);
      const linter = createBlockLinter(canaries);
      for (const row of blocks) found.push(...linter.embedded(row));
      await database.query(raw('checkpoint'));
    } finally {
      await database.close();
    }
    found.push(...finder.searchText('an answer to an operator', answers));
    await ask({ do: 'close' });
    await exited;

    // -- files, PostgreSQL's own and its log included; and everything that the process has said --
    const folder = await finder.searchFolder(data);
    found.push(...folder.findings, ...finder.searchText('the log', output));
    assert(output.split('\n').length > 50 && /document filed/.test(output), 'the log was not captured');
    console.log(
      `canaries: ${canaries.length} in ${finder.forms} forms; ${folder.files} files, ${Math.round(folder.bytes / 2 ** 20)} MiB, ${output.length} characters of log`,
    );
    assert.deepEqual(shown(found), []);
    // A refusal says nothing that was not asked; it must not say more.
    for (const text of said) assert(!/1971-04-23|00820915/.test(text));

    // -- the search finds what is there --
    await plantAndFind(data, finder, canaries);
  } finally {
    if (child.connected) child.disconnect();
    await Promise.race([exited, new Promise((done) => setTimeout(done, 15_000).unref())]);
    child.kill('SIGKILL');
    await simulator.close();
    await configuration.remove();
  }
});

/** Leaves a canary in each form, in a table and in a file, and expects each to be found. */
async function plantAndFind(data: string, finder: ReturnType<typeof createCanarySearch>, canaries: readonly string[]): Promise<void> {
  const forms: [string, (text: string) => Buffer][] = [
    ['utf8', (text) => Buffer.from(`x-${text},`)],
    ['utf16le', (text) => Buffer.from(`x-${text},`, 'utf16le')],
    ['hex', (text) => Buffer.from(Buffer.from(text).toString('hex'))],
    ['base64+0', (text) => Buffer.from(Buffer.from(`${text}...`).toString('base64'))],
    ['base64+1', (text) => Buffer.from(Buffer.from(`.${text}...`).toString('base64'))],
    ['base64+2', (text) => Buffer.from(Buffer.from(`..${text}...`).toString('base64'))],
    ['percent', (text) => Buffer.from(`?name=${encodeURIComponent(text)}`)],
  ];
  for (const canary of canaries)
    for (const [form, write] of forms) {
      // Four bytes turn up in random ones: two letters of Hangul are looked for in the other forms only.
      if (form === 'utf16le' && canary.length < 3) continue;
      assert(
        finder.search('planted', write(canary)).some((finding) => finding.canary === canary),
        `${canary} as ${form} is not found where it is`,
      );
    }

  const postgres = await createEmbeddedPostgres({ directory: join(data, 'postgres') });
  const database = createDatabase({ url: postgres.url, maxConnections: 1 });
  try {
    await database.query(raw('create table planted (text text, bytes bytea)'));
    await database.query(sql`insert into planted values (${'Mx. Okafor-Lindqvist'}, ${Buffer.from('Phượng')})`);
    const rows = (await dump(database)).flatMap(({ table, text }) => finder.searchText(table, text));
    assert.deepEqual(
      shown(rows)
        .filter((text) => /as (utf8|hex) in public\.planted/.test(text))
        .sort(),
      ['Okafor-Lindqvist as utf8 in public.planted', 'Phượng as hex in public.planted'],
    );
    await database.query(raw('checkpoint'));
  } finally {
    await database.close();
    await postgres.stop();
  }
  await mkdir(join(data, 'planted'), { recursive: true });
  await writeFile(join(data, 'planted', 'note.txt'), Buffer.from('1949-07-30', 'utf16le'));
  const { findings } = await finder.searchFolder(data);
  assert(
    findings.some(({ place, canary }) => /postgres\/data\/base\//.test(place) && canary === 'Okafor-Lindqvist'),
    "not found in PostgreSQL's files",
  );
  assert(findings.some(({ place, canary, form }) => place === 'planted/note.txt' && canary === '1949-07-30' && form === 'utf16le'));
}

/** The running server's own database, as its owner could reach it. */
async function databaseUrl(data: string): Promise<string> {
  const attached = await createEmbeddedPostgres({ directory: join(data, 'postgres') });
  assert(!attached.owned, 'the server does not run');
  return attached.url;
}

async function patientOf(database: Database, category: string): Promise<string> {
  const [row] = await database.query<{ pat: string }>(
    sql`select pat from subject where category = ${category} and version > 0 and withdrawn_at is null group by pat order by count(*) desc, pat limit 1`,
  );
  assert(row !== undefined);
  return row.pat;
}

function consentFor(patient: string, member: string): Consent {
  const now = Date.now();
  return {
    resourceType: 'Consent',
    status: 'active',
    scope: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentscope', code: 'patient-privacy' }] },
    category: [{ coding: [{ system: 'http://loinc.org', code: '59284-0' }] }],
    patient: { reference: `Patient/${patient}` },
    dateTime: new Date(now).toISOString(),
    policyRule: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v3-ActCode', code: 'OPTIN' }] },
    provision: {
      type: 'deny',
      provision: [
        {
          type: 'permit',
          period: { start: new Date(now).toISOString(), end: new Date(now + 86_400_000).toISOString() },
          actor: [
            {
              role: { coding: [{ system: 'http://terminology.hl7.org/CodeSystem/v3-ParticipationType', code: 'IRCP' }] },
              reference: { reference: `Practitioner/${member}` },
            },
          ],
          action: [{ coding: [{ system: 'http://terminology.hl7.org/CodeSystem/consentaction', code: 'access' }] }],
          class: [{ system: 'urn:oncobridge:category', code: 'laboratory' }],
        },
      ],
    },
  };
}
