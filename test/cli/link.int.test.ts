import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { copyConfig } from '../../simulator/demo-config.ts';
import { createSimulator } from '../../simulator/simulator.ts';
import { createApp } from '../../src/app.ts';
import { AUDIT_PURPOSE, eventPlace } from '../../src/audit/stored-event.ts';
import { startControlServer } from '../../src/cli/control-server.ts';
import { controlFile } from '../../src/cli/run.ts';
import { readSettings } from '../../src/cli/settings.ts';
import { newId } from '../../src/ids.ts';
import { parseLinkCode } from '../../src/sharing/link-code.ts';
import { sql } from '../../src/store/sql.ts';
import type { Asked, Ran } from './command-host.ts';

const LOVE = { resourceType: 'Patient', name: [{ family: 'Lovelace', given: ['Mary'] }], gender: 'female', birthDate: '1950-04-01' };

test('a held link, on a terminal: both sides side by side, answered, and accounted for patient by patient', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'oncobridge-link-'));
  const host = fork(fileURLToPath(new URL('command-host.ts', import.meta.url)), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const closers: (() => Promise<unknown>)[] = [async () => host.kill()];
  try {
    const simulator = await createSimulator();
    closers.push(() => simulator.close());
    const config = copyConfig({ run: folder, sample: 'embedded.yaml', simulator });
    const settings = await readSettings(config);
    const app = await createApp({ settings, serve: true, logLevel: 'silent', schedule: false });
    closers.push(() => app.close());
    const { operations, core } = app;
    const { database, rows } = core;
    const control = await startControlServer({
      file: controlFile(settings.data),
      facade: app.facadeUrl,
      operations: { ...operations, stop: async () => assert.fail('nobody stops it') },
      onError: (error) => assert.fail(String(error)),
    });
    closers.push(() => control.close());
    const run = async (terminal: boolean, ...args: string[]): Promise<Ran> => {
      const answered = once(host, 'message');
      host.send({ args: ['--config', config, ...args], env: {}, terminal } satisfies Asked);
      const [ran] = (await answered) as [Ran];
      return ran;
    };

    const { member: clinician } = await operations.memberAdd({ name: 'Dr. Ana Ruiz', role: 'clinician' });
    const { member: registrar } = await operations.memberAdd({ name: 'Jo Kim', role: 'registrar' });
    const patient = newId('pat');
    const sealed = await rows.seal(patient, 'core', `demographics/${patient}`, Buffer.from(JSON.stringify(LOVE)));
    await database.query(sql`insert into patient (pat, demographics) values (${patient}, ${sealed})`);
    const { link, text } = await operations.linkCreate({ patient, clinician, by: registrar });
    const theirs = { institution: newId('inst'), patient: newId('pat') };
    const { links } = app.shared;
    await links.present(theirs, text);
    assert.equal(await links.compare(theirs, { ...LOVE, name: [{ family: 'Byronette', given: ['Mary'] }] }), 'held');
    const metrics = await (await fetch(`${app.operationsUrl}/metrics`)).text();
    for (const line of [/^oncobridge_alarms_total\{kind="link"\} 1$/m, /^oncobridge_links_held 1$/m]) assert.match(metrics, line);
    assert.match((await run(false, 'status')).out, /^links {5}.*, 1 HELD for a person: oncobridge link list$/m);

    const shown = await run(true, 'link', 'show', link, '--reveal');
    assert.match(
      shown.out,
      /the name differs\n +our patient +theirs\nname +Mary Lovelace +Mary Byronette\nbirth date +1950-04-01 +1950-04-01\n/,
      shown.err,
    );
    assert.ok(shown.out.includes(patient) && shown.out.includes(`${theirs.patient} of ${theirs.institution}`));
    for (const [terminal, ...more] of [[true], [false, '--reveal'], [true, '--reveal', '--json']] as const) {
      const { out, code } = await run(terminal, 'link', 'show', link, ...more);
      assert.deepEqual([code, /Lovelace|Byronette|1950/.test(out), /name/.test(out)], [0, false, true]);
    }
    for (const { out } of [await run(true, 'link', 'list'), await run(true, 'link', 'list', '--json')])
      assert.deepEqual([out.includes(link), out.includes(patient), out.includes(theirs.patient)], [true, true, false], out);

    // Who was shown whom stands in the trail of each of the two, and nowhere are both named.
    const events = await database.query<{
      id: string;
      seq: number;
      inst: string | null;
      pat: string | null;
      recorded: Date;
      detail: Buffer;
    }>(sql`select * from audit_event order by seq`);
    const opened = await Promise.all(
      events.map(async (row) => ({ ...row, text: (await rows.openPurpose(AUDIT_PURPOSE, eventPlace(row), row.detail)).toString('utf8') })),
    );
    assert.equal(opened.filter(({ pat, text: one }) => pat === theirs.patient && one.includes(`link show ${link} reveal`)).length, 1);
    assert.equal(opened.filter(({ pat, text: one }) => pat === patient && one.includes(`link show ${link} reveal`)).length, 1);
    assert.equal(opened.filter(({ pat, text: one }) => pat === patient && one.includes('link create')).length, 1);
    const { secret } = parseLinkCode(text);
    for (const { text: one } of opened)
      assert.ok(!(one.includes(patient) && one.includes(theirs.patient)) && !one.includes(secret) && !/Lovelace|Byronette/.test(one), one);

    const seen = /--seen ([0-9a-f]{8})/.exec(shown.out)?.[1] ?? assert.fail('no code');
    const accepted = await run(true, 'link', 'resolve', link, '--accept', '--seen', seen, '--by', registrar, '--reason', 'married');
    assert.deepEqual([accepted.code, accepted.out], [0, `${link}: confirmed; served from now on.\n`], accepted.err);
    assert.match((await run(true, 'link', 'show', link)).out, new RegExp(`Answered on .* by ${registrar}: accept, "married"`));
    assert.doesNotMatch((await run(false, 'status')).out, /HELD/);
  } finally {
    for (const close of closers.reverse()) await close();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  }
});
