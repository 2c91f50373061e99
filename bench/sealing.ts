import { createCipheriv, createHash, createHmac, createSecretKey, type KeyObject, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createFileCustodian } from '../src/vault/file-custodian.ts';
import { FORMAT, writeSealed } from '../src/vault/sealed-object-format.ts';
import { createSealer } from '../src/vault/sealer.ts';
import { median } from './measure.ts';
import type { BenchRow } from './row.ts';

/**
 * Sealing beside one bare pass each of AES-256-GCM, SHA-256 and HMAC-SHA-256 over the same bytes, by turns in one run
 * (MB/s, medians). The key wrap is reported apart: milliseconds of a whole `seal` less the sealing
 * itself, its baseline being the sealing.
 */
export async function benchSealing(options: { rounds?: number } = {}): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const directory = await mkdtemp(join(tmpdir(), 'oncobridge-bench-'));
  const institution = 'inst-bench';
  const custodian = await createFileCustodian({ directory, passphrase: randomBytes(24).toString('base64url'), institution });
  try {
    const categoryKey = (await custodian.enrollPatient('pat-bench', ['laboratory'])).get('laboratory');
    if (categoryKey === undefined) throw new Error('no category key');
    const sealer = createSealer({ custodian });
    const about = { institution, document: 'doc-bench', version: 1, patient: 'pat-bench', category: 'laboratory' };
    const inner = { manifest: { own: Array.from({ length: 8 }, (_, i) => ({ record: `rec-${i}`, version: 1 })) }, resourceIds: {} };
    for (const sizeBytes of [100_000, 1_000_000, 10_000_000]) {
      // A PDF with its Bundle beside it; together the size that is named.
      const pdf = randomBytes(Math.round(sizeBytes * 0.8));
      const bundle = randomBytes(sizeBytes - pdf.length);
      const whole = Buffer.concat([pdf, bundle]);
      const key = createSecretKey(randomBytes(32));
      const { wrap } = await sealer.seal({ ...about, categoryKey, inner, pdf, bundle });
      const salt = randomBytes(32).toString('base64url');
      const rounds = options.rounds ?? Math.max(20, Math.min(1000, Math.round(100_000_000 / sizeBytes)));
      const ours: number[] = [];
      const bare: number[] = [];
      const full: number[] = [];
      // Both compiled before either is timed.
      for (let warm = 0; warm < Math.min(rounds, 300); warm++) {
        barePasses(key, whole);
        writeSealed({ format: FORMAT, ...about, wrap }, key, salt, inner, pdf, bundle);
      }
      for (let round = 0; round < rounds; round++) {
        bare.push(timeMs(() => barePasses(key, whole)));
        ours.push(timeMs(() => writeSealed({ format: FORMAT, ...about, wrap }, key, salt, inner, pdf, bundle)));
      }
      for (let round = 0; round < Math.min(rounds, 50); round++) {
        const start = performance.now();
        await sealer.seal({ ...about, categoryKey, inner, pdf, bundle });
        full.push(performance.now() - start);
      }
      const speed = (ms: number): number => sizeBytes / 1e3 / ms;
      const name = sizeBytes < 1_000_000 ? `${sizeBytes / 1000} KB` : `${sizeBytes / 1_000_000} MB`;
      const [o, b, f] = [median(ours), median(bare), median(full)];
      rows.push({
        name: `seal ${name}`,
        ours: speed(o),
        baseline: speed(b),
        ratio: b / o,
        unit: 'MB/s',
        target: 'ratio >= 0.70',
        met: b / o >= 0.7,
      });
      rows.push({ name: `key wrap at ${name}`, ours: Math.max(0, f - o), baseline: o, ratio: Math.max(0, f - o) / o, unit: 'ms' });
    }
  } finally {
    await custodian.close();
    await rm(directory, { recursive: true, force: true });
  }
  return rows;
}

function barePasses(key: KeyObject, bytes: Buffer): void {
  const cipher = createCipheriv('aes-256-gcm', key, randomBytes(12));
  cipher.update(bytes);
  cipher.final();
  cipher.getAuthTag();
  createHash('sha256').update(bytes).digest();
  createHmac('sha256', key).update(bytes).digest();
}

function timeMs(work: () => void): number {
  const start = performance.now();
  work();
  return performance.now() - start;
}
