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
import { startControlServer } from '../../src/cli/control-server.ts';
import { controlFile } from '../../src/cli/run.ts';
import { readSettings } from '../../src/cli/settings.ts';
import { newId } from '../../src/ids.ts';
import { sql } from '../../src/store/sql.ts';
import type { Asked, Ran } from './command-host.ts';

test('oncobridge sharing: what was ended and deleted with the anchor that holds its event, holds, and refusals by code', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'oncobridge-sharing-cli-'));
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
    const control = await startControlServer({
      file: controlFile(settings.data),
      facade: app.facadeUrl,
      operations: { ...operations, stop: async () => assert.fail('nobody stops it') },
      onError: (error) => assert.fail(String(error)),
    });
    closers.push(() => control.close());
    const run = async (...args: string[]): Promise<Ran> => {
      const answered = once(host, 'message');
      host.send({ args: ['--config', config, 'sharing', ...args], env: {} } satisfies Asked);
      const [ran] = (await answered) as [Ran];
      return ran;
    };
    const { member: officer } = await operations.memberAdd({ name: 'Kim Doe', role: 'privacy-officer' });
    const { member: clinician } = await operations.memberAdd({ name: 'Dr. Ana Ruiz', role: 'clinician' });
    assert.match((await run('list')).out, /Nothing is shared with this institution/);
    const of = [newId('inst'), newId('pat')] as const;
    assert.match((await run('show', ...of)).err, /NOT_FOUND/);
    assert.match((await run('show', 'theirs', 'somebody')).err, /BAD_REQUEST/);

    // What a worker that was killed before its last steps left: taken up, audited, anchored.
    const end = newId('end');
    const audit = newId('aud');
    await core.database.query(sql`
      insert into sharing_end (id, inst, pat, category, cause, block, ended_at, audit, documents, rows, objects, bytes, keys, held)
      values (${end}, ${of[0]}, ${of[1]}, 'laboratory', 'revoked', 7, now(), ${audit}, 3, 21, 3, 4096, 1, 0)`);
    app.shared.sharing.wake();
    await app.shared.sharing.pass();
    const report = async () =>
      JSON.parse((await run('report', '--json')).out) as { ended: { end: string; deleted: string | null; anchor: number | null }[] };
    assert.ok((await report()).ended[0]?.deleted);
    assert.equal((await report()).ended[0]?.anchor, null);
    // As the next heartbeat does.
    const stamped = await core.database.query(sql`update audit_event set anchor = 12 where id = ${audit} and anchor is null returning id`);
    assert.equal(stamped.length, 1);
    assert.equal((await report()).ended[0]?.anchor, 12);
    const text = (await run('report')).out;
    for (const part of [/HELD\n\nNothing is shared/, /ENDED AND DELETED/, /revoked/, /LEGAL HOLDS\n\nThere are no legal holds/])
      assert.match(text, part);
    assert.match((await run('show', ...of)).out, /revoked/);

    assert.match((await run('renounce', ...of, 'laboratory', '--by', clinician)).err, /FORBIDDEN/);
    assert.match((await run('renounce', ...of, 'laboratory', '--by', officer)).err, /NOT_FOUND/);
    assert.match((await run('hold', 'place', ...of, 'laboratory', '--by', officer, '--reason', 'case 12')).err, /NOT_FOUND/);
    assert.match((await run('hold', 'lift', ...of, 'laboratory', '--by', officer)).err, /NOT_FOUND/);
    assert.match((await run('hold', 'list')).out, /There are no legal holds/);
    // Of our own patients there is nothing to renounce: what was granted is theirs.
    assert.match((await run('renounce', core.institution, of[1], 'laboratory', '--by', officer)).err, /UNPROCESSABLE/);
  } finally {
    for (const closer of closers.reverse()) await closer();
    rmSync(folder, { recursive: true, force: true });
  }
});
