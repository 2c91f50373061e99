import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type JsonObject, parseResource, stringifyLossless } from '../../src/records/lossless-json.ts';
import { sharedDocument } from '../../src/sharing/shared-documents.ts';
import { prepareResources, resourcePlace } from '../../src/store/resources.ts';
import { sql } from '../../src/store/sql.ts';
import { createPipelineWorld, type PipelineWorld } from '../pipeline/world.ts';
import { withTestDatabase } from '../store/test-database.ts';

let world: PipelineWorld;
before(async () => {
  world = await createPipelineWorld({ databaseUrl: (await withTestDatabase()).url });
  await world.pull();
});
after(() => world.close());

/** Without references to a directory that did not come along, and what says when a server had it. */
function comparable(resource: JsonObject): unknown {
  return JSON.parse(
    JSON.stringify(resource, (key, value: unknown) => {
      if (key === 'meta') return undefined;
      return key === 'reference' && typeof value === 'string' && /^(Practitioner|Organization)\//.test(value) ? undefined : value;
    }),
  );
}

/** PostgreSQL's client gives its infinities as numbers. */
function boundOf(at: Date | number | null): string | undefined {
  if (at === null) return undefined;
  return at instanceof Date ? at.toISOString() : at > 0 ? 'infinity' : '-infinity';
}

test('what the pipeline of another institution files is taken whole: the rows are those that it serves itself, times and digits included', async () => {
  const { database, sealer, blobs, rows, institution } = world.core;
  const versions = await database.query<{
    document: string;
    version: number;
    pat: string;
    category: string;
    pointer: string;
    ciphertext_hash: string;
    commitment: string;
    manifest_hash: string;
  }>(sql`select v.* from document_version v join projection.document d on d.doc = v.document and d.version = v.version`);
  assert.ok(versions.length > 20 && new Set(versions.map((row) => row.category)).size === 3, String(versions.length));
  for (const { document, version, pat, category, pointer, ciphertext_hash: ciphertextHash, commitment, manifest_hash } of versions) {
    const opened = await sealer.open(await blobs.get(pointer), {
      document,
      version,
      patient: pat,
      category,
      ciphertextHash,
      commitment,
      institution,
    });
    const of = {
      inst: institution,
      pat,
      recorder: institution,
      document,
      version,
      n: 0,
      category,
      txId: 't',
      block: 1,
      ciphertextHash,
      institution: 'inst-b',
      facility: 'B',
      at: new Date(),
    };
    const shared = sharedDocument(of, opened);
    assert.equal(shared.manifestHash, manifest_hash);
    assert.equal(shared.patient['identifier'], undefined);
    assert.ok(shared.patient['name'] !== undefined);
    const theirs = await database.query<{
      id: string;
      type: string;
      body: Buffer;
      clinical_start: Date | null;
      clinical_end: Date | null;
    }>(sql`
      select id, type, body, clinical_start, clinical_end from resource where document = ${document} and document_version = ${version} order by type, id`);
    const ours = shared.resources.filter(({ id }) => !id.startsWith('recv-'));
    assert.deepEqual(ours.map(({ type, id }) => `${type}/${id}`).sort(), theirs.map(({ type, id }) => `${type}/${id}`).sort());
    const prepared = await prepareResources(rows, {
      institution,
      patient: pat,
      holder: `other.${pat}`,
      category,
      document,
      version,
      lastUpdated: new Date(),
      resources: shared.resources,
      ...(shared.covers === undefined ? {} : { covers: shared.covers }),
    });
    for (const { id, type, body, clinical_start, clinical_end } of theirs) {
      const text = (await rows.open(pat, category, resourcePlace(id, version), body)).toString();
      const one = ours.find((resource) => resource.id === id && resource.type === type);
      assert.ok(one !== undefined && 'resource' in one);
      assert.deepEqual(comparable(one.resource), comparable(parseResource(text)), `${category} ${type}`);
      // Digits as the source had them.
      const digits = (json: string): string[] => json.match(/"value":-?[0-9.eE+-]+/g) ?? [];
      assert.deepEqual(digits(stringifyLossless(one.resource)), digits(text));
      const row = prepared.rows.find((made) => made.id === id && made.type === type);
      assert.deepEqual(
        [row?.clinical?.start, row?.clinical?.end],
        [boundOf(clinical_start), boundOf(clinical_end)],
        `${category} ${type}: the time that a data period must cover`,
      );
    }
  }
});
