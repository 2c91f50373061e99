import { createHash } from 'node:crypto';

/** A Merkle tree over hashes as RFC 9162 section 2.1 builds it: the left half is the largest power of two below the count. */
export function merkleRoot(leaves: readonly Uint8Array[]): Buffer {
  if (leaves.length === 0) return createHash('sha256').digest();
  let level = leaves;
  while (level.length > 1) level = parents(level);
  return Buffer.from(level[0] ?? []);
}

/** Neighbours from the leaf up to the root. */
export function merklePath(leaves: readonly Uint8Array[], index: number): Buffer[] {
  const path: Buffer[] = [];
  let level = leaves;
  for (let at = index; level.length > 1; at >>= 1) {
    const neighbour = level[at ^ 1];
    if (neighbour !== undefined) path.push(Buffer.from(neighbour));
    level = parents(level);
  }
  return path;
}

/** The root that a leaf, its index, the number of leaves and a path lead to; undefined where the path has a wrong length. */
export function rootOfPath(leaf: Uint8Array, index: number, count: number, path: readonly Uint8Array[]): Buffer | undefined {
  let hash: Buffer = Buffer.from(leaf);
  let taken = 0;
  for (let at = index, width = count; width > 1; at >>= 1, width = Math.ceil(width / 2)) {
    if ((at ^ 1) >= width) continue;
    const neighbour = path[taken++];
    if (neighbour === undefined) return undefined;
    hash = at % 2 === 0 ? node(hash, neighbour) : node(neighbour, hash);
  }
  return taken === path.length ? hash : undefined;
}

/** Pairs are joined level by level and an odd one moves up unchanged, which gives the same tree as the recursive definition. */
function parents(level: readonly Uint8Array[]): Uint8Array[] {
  const above: Uint8Array[] = [];
  for (let i = 0; i < level.length; i += 2) {
    const [left, right] = [level[i], level[i + 1]];
    if (left !== undefined) above.push(right === undefined ? left : node(left, right));
  }
  return above;
}

function node(left: Uint8Array, right: Uint8Array): Buffer {
  return createHash('sha256').update(Buffer.of(1)).update(left).update(right).digest();
}
