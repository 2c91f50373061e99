import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writePatients, writeResources } from '../../src/store/resources.ts';
import { sql } from '../../src/store/sql.ts';
import { createFileCustodian } from '../../src/vault/file-custodian.ts';
import { holderName } from '../../src/vault/holder.ts';
import { createSealer } from '../../src/vault/sealer.ts';
import { INST, type NewDocument, type World } from './world.ts';

/** The other institution, whose patients share with ours. */
export const THEIRS = 'inst-bbbbbbbbbbbbbbbbbbbbbbbbbb';
const AT = new Date('2026-11-02T08:00:00.123Z');

/**
 * `held`: our copy and its rows. `resealed`: the ledger names a newer ciphertext of the same content, and the copy is the older.
 * `noticed`, `missing`, `refused`: wanted, or given up for now. `unseen`: on the ledger and nowhere else yet. `newer`: version 1 is held
 * and the ledger lets version 2 stand.
 */
export type Holding = 'held' | 'resealed' | 'noticed' | 'missing' | 'refused' | 'unseen' | 'newer' | 'withdrawn';

/** What `src/sharing` leaves in the database, made directly. */
export interface SharedWorld {
  link(pat: string, own: string, state: 'bound' | 'confirmed' | 'held' | 'rejected'): Promise<void>;
  category(pat: string, category: string, state: 'waiting' | 'live' | 'refused' | 'ending'): Promise<void>;
  patient(pat: string, resource: object): Promise<void>;
  document(document: NewDocument, holding: Holding): Promise<void>;
  grant(token: string, pat: string, category: string, data?: { start?: string; end?: string }): Promise<void>;
  remove(document: string): Promise<void>;
  clear(): Promise<void>;
  close(): Promise<void>;
}

export async function createSharedWorld(world: World): Promise<SharedWorld> {
  const directory = await mkdtemp(join(tmpdir(), 'oncobridge-theirs-'));
  const passphrase = randomBytes(16).toString('hex');
  const theirs = await createFileCustodian({ directory, passphrase, institution: THEIRS });
  const sealer = createSealer({ custodian: theirs });
  const { database, rows, custodian, blobs } = world;
  const holderOf = (patient: string): string => holderName(INST, { institution: THEIRS, patient });

  return {
    async link(pat, own, state) {
      await database.query(sql`insert into link_code (link, pat, clinician, secret_hash, expires_at, created_by)
        values (${`lnk-${pat}`}, ${own}, 'mem-clinician', ${pat}, now(), 'mem-clinician') on conflict do nothing`);
      await database.query(sql`insert into patient_link (inst, pat, link, own_pat, state) values (${THEIRS}, ${pat}, ${`lnk-${pat}`}, ${own}, ${state})
        on conflict (inst, pat) do update set state = excluded.state`);
    },
    async category(pat, category, state) {
      await database.query(sql`insert into shared_category (inst, pat, category, state) values (${THEIRS}, ${pat}, ${category}, ${state})
        on conflict (inst, pat, category) do update set state = excluded.state`);
    },
    async patient(pat, resource) {
      await theirs.enrollPatient(pat, ['laboratory', 'radiation-dose']);
      const patients = [{ patient: pat, holder: holderOf(pat), text: JSON.stringify(resource) }];
      await database.transaction((tx) => writePatients(tx, rows, { institution: THEIRS, patients, lastUpdated: AT }));
    },
    async document({ document, pat, category, resources, pdf, covers }, holding) {
      const categoryKey = await theirs.categoryKey(pat, category);
      if (categoryKey === undefined) throw new Error('enrol the patient first');
      const sealed = await sealer.seal({
        institution: THEIRS,
        document,
        version: 1,
        patient: pat,
        category,
        categoryKey,
        inner: { manifest: {}, resourceIds: {} },
        pdf: pdf ?? Buffer.from('%PDF-1.7 theirs'),
        bundle: Buffer.from(`{"resourceType":"Bundle","type":"collection"}`),
      });
      const { ciphertextHash, commitment } = sealed;
      const pointer = `${INST}/${ciphertextHash}`;
      const held = ['held', 'resealed', 'newer', 'withdrawn'].includes(holding);
      const [version, n, hash, committed] =
        holding === 'newer'
          ? [2, 0, 'e'.repeat(64), 'e'.repeat(64)]
          : [1, holding === 'resealed' ? 1 : 0, holding === 'resealed' ? 'd'.repeat(64) : ciphertextHash, commitment];
      if (held) await blobs.put(pointer, sealed.bytes);
      const wrap = await custodian.wrapOwn(holderOf(pat), category, await theirs.unwrapDocumentKey(sealed.wrap));
      await database.transaction(async (tx) => {
        await tx.query(sql`insert into projection.document (inst, pat, recorder, doc, category, version, n, ciphertext_hash, commitment, withdrawn, tx_id, block)
          values (${THEIRS}, ${pat}, ${THEIRS}, ${document}, ${category}, ${version}, ${n}, ${hash}, ${committed}, ${holding === 'withdrawn'}, 't', 1)`);
        if (['noticed', 'missing', 'refused'].includes(holding)) {
          await tx.query(sql`insert into shared_object (recorder, document, version, n, inst, pat, category, state)
            values (${THEIRS}, ${document}, 1, 0, ${THEIRS}, ${pat}, ${category}, ${holding === 'noticed' ? 'wanted' : holding})`);
        }
        if (!held) return;
        await tx.query(sql`insert into shared_version (recorder, document, version, n, inst, pat, category, pointer, origin, ciphertext_hash, commitment, key_version,
            size_bytes, manifest_hash, header, wrap)
          values (${THEIRS}, ${document}, 1, 0, ${THEIRS}, ${pat}, ${category}, ${pointer}, ${`${THEIRS}/${ciphertextHash}`}, ${ciphertextHash}, ${commitment}, 1,
            ${sealed.bytes.length}, '', '', ${wrap})`);
        const texts = resources.map((one) => (typeof one === 'string' ? one : JSON.stringify(one)));
        await writeResources(tx, rows, [
          {
            institution: THEIRS,
            recorder: THEIRS,
            patient: pat,
            holder: holderOf(pat),
            category,
            document,
            version: 1,
            lastUpdated: AT,
            resources: texts.map((text) => {
              const { resourceType, id } = JSON.parse(text) as { resourceType: string; id: string };
              return { type: resourceType, id, text };
            }),
            ...(covers !== undefined ? { covers } : {}),
          },
        ]);
      });
    },
    async grant(token, pat, category, data = {}) {
      const actor = world.actors.get(token);
      const id = actor?.kind === 'member' ? actor.member : INST;
      await database.query(
        sql`insert into test_grant values (${id}, ${THEIRS}, ${pat}, ${category}, ${data.start ?? null}, ${data.end ?? null})`,
      );
    },
    async remove(document) {
      await database.query(sql`with gone as (delete from resource where document = ${document} returning id, version)
        delete from resource_date d using gone where d.id = gone.id and d.version = gone.version`);
      await database.query(sql`delete from projection.document where doc = ${document}`);
      await database.query(sql`delete from shared_version where document = ${document}`);
      await database.query(sql`delete from shared_object where document = ${document}`);
    },
    async clear() {
      await database.query(sql`delete from resource where inst = ${THEIRS}`);
      await database.query(sql`delete from projection.document where inst = ${THEIRS}`);
      await database.query(sql`delete from test_grant where inst = ${THEIRS}`);
      await database.query(sql`truncate shared_version, shared_object, shared_category, patient_link, link_code`);
    },
    async close() {
      await theirs.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
}
