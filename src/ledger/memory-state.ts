import { compareUtf8 } from './contract/bytes.ts';
import type { KeyValue } from './contract/host.ts';
import type { Overlay, StateReader, Version, Versioned } from './simulation.ts';

/** Committed state in memory, for re-execution from block 0. Keys are grouped by their first three parts, which is what scans ask for. */
export class MemoryState implements StateReader {
  readonly #groups = new Map<string, Map<string, Versioned>>();

  async get(key: string): Promise<Versioned | undefined> {
    return this.#groups.get(group(key))?.get(key);
  }

  async scan(prefix: string): Promise<(KeyValue & { version: Version })[]> {
    const rows: (KeyValue & { version: Version })[] = [];
    const whole = prefix.split('/').length > 3;
    const groups = whole ? [this.#groups.get(group(prefix))] : this.#groups.values();
    for (const keys of groups) {
      for (const [key, versioned] of keys ?? []) if (key.startsWith(prefix)) rows.push({ key, ...versioned });
    }
    return rows.sort((a, b) => compareUtf8(a.key, b.key));
  }

  apply(overlay: Overlay): void {
    for (const [key, { value, version }] of overlay.writes) {
      const name = group(key);
      const keys = this.#groups.get(name) ?? new Map<string, Versioned>();
      this.#groups.set(name, keys);
      if (value === null) keys.delete(key);
      else keys.set(key, { value, version });
    }
  }

  *[Symbol.iterator](): IterableIterator<[string, Versioned]> {
    for (const keys of this.#groups.values()) yield* keys;
  }
  get size(): number {
    let size = 0;
    for (const keys of this.#groups.values()) size += keys.size;
    return size;
  }
}

function group(key: string): string {
  return key.split('/', 3).join('/');
}
