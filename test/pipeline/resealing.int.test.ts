import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { plainJwk, publishCategoryKeyPayload, TYP } from '../../src/ledger/contract/payloads.ts';
import { sql } from '../../src/store/sql.ts';
import { withTestDatabase } from '../store/test-database.ts';
import { compareWithTruth } from './truth-comparison.ts';
import { createPipelineWorld, settled } from './world.ts';

test('a document sealed just before its category key changed is refused, sealed again and entered', async () => {
  const world = await createPipelineWorld({ databaseUrl: (await withTestDatabase()).url });
  try {
    const { core, simulator } = world;
    await world.pull();
    await settled(core);

    // Documents of the second pull are sealed and wait, while every patient's laboratory key gets a new version.
    core.relay.pause();
    simulator.control.applyCorrections();
    for (const configured of core.sources)
      for (const stream of configured.source.streams)
        await core.pull.pullStream(configured, stream, new AbortController().signal, () => {});
    await core.assembler.drain();
    const patients = await core.database.query<{ pat: string }>(
      sql`select distinct d.pat from document_version d join outbox o on o.id = d.outbox where o.state = 'pending' and d.category = 'laboratory'`,
    );
    assert.ok(patients.length > 0, 'no laboratory document waits');
    for (const { pat } of patients) {
      const next = await core.custodian.rotateCategoryKey(pat, 'laboratory');
      const payload = publishCategoryKeyPayload({
        category: 'laboratory',
        envelopes: [],
        institution: core.institution,
        key: plainJwk(next.publicJwk),
        ledger: core.ledgerId,
        nonce: randomBytes(16).toString('base64url'),
        onBehalf: pat,
        patient: pat,
        version: next.version,
      });
      const jws = await core.custodian.signForPatient({
        patient: pat,
        actor: { kind: 'patient', id: pat },
        typ: TYP.publishCategoryKey,
        payload,
      });
      const { block } = await core.ledger.submit((await core.ledger.endorse({ name: 'publishCategoryKey', args: [jws] })).bytes);
      assert.ok(await core.projection.waitFor(block, 5000));
    }
    core.relay.resume();

    const refused = async (): Promise<number> =>
      (await core.database.query(sql`select 1 from document_version d join outbox o on o.id = d.outbox where o.state = 'rejected'`)).length;
    const until = Date.now() + 20_000;
    do {
      await settled(core);
      await core.assembler.drain();
    } while (Date.now() < until && (await refused()) > 0);
    await settled(core);

    const [stale] = await core.database.query<{ count: number }>(
      sql`select count(*) as count from outbox where error_code = 'KEY_VERSION_STALE'`,
    );
    assert.ok((stale?.count ?? 0) > 0, 'nothing was refused: the test proves nothing');
    const versions = await core.database.query<{ key_version: number }>(sql`
      select d.key_version from document_version d join subject s on s.document = d.document and s.version = d.version
      where s.withdrawn_at is null and d.category = 'laboratory' and d.pat = any(${patients.map((p) => p.pat)}) order by d.filed_at desc limit 1`);
    assert.equal(versions[0]?.key_version, 2);
    const report = await core.reconcile.reconcile();
    assert.deepEqual(report.differences, []);
    assert.equal(report.underway, 0);
    assert.deepEqual(await compareWithTruth(core, simulator.truth()), []);
  } finally {
    await world.close();
  }
});
