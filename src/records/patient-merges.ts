/** Somebody's record at a source says that `gone` goes on as `survivor`. Names are the caller's, of one source. */
export interface Merge {
  saidBy: string;
  gone: string;
  survivor: string;
  /** False: it was said once, and the newest version says it no more. */
  standing: boolean;
}

export interface MergeState {
  /** Who this patient goes on as, at the end of the chain; undefined where no merge stands or nobody can be told. */
  survivor?: string;
  /** `circular`: the chain comes back to itself. `several`: it ends at more than one. */
  problem?: 'circular' | 'several';
  /** A merge into somebody else than `survivor` was said and is not any more: an unmerge. */
  takenBack: boolean;
}

/** What these merges say of one patient (aria-and-oncology.md, edge cases 26 and 27). Total: circles end. */
export function mergeStateOf(patient: string, merges: readonly Merge[]): MergeState {
  const standing = merges.filter((merge) => merge.standing);
  const ends = endsOf(patient, standing);
  const isMerged = standing.some((merge) => merge.gone === patient);
  const survivor = isMerged && ends !== undefined && ends.length === 1 ? ends[0] : undefined;
  const isSaid = (merge: Merge): boolean => standing.some((other) => other.gone === merge.gone && other.survivor === merge.survivor);
  // A chain that was shortened (A to B to C, then A to C) took nothing back.
  const takenBack = merges.some((merge) => {
    if (merge.gone !== patient || merge.standing || isSaid(merge)) return false;
    const end = endsOf(merge.survivor, standing);
    return survivor === undefined || end?.length !== 1 || end[0] !== survivor;
  });
  if (survivor !== undefined) return { survivor, takenBack };
  if (!isMerged) return { takenBack };
  return { problem: ends === undefined ? 'circular' : 'several', takenBack };
}

/** Everybody whose chain leads over this patient, in whatever state: what is theirs may change with this one's. */
export function goneInto(patient: string, merges: readonly Merge[]): readonly string[] {
  const found = new Set<string>();
  const open = [patient];
  for (let next = open.pop(); next !== undefined; next = open.pop())
    for (const { gone, survivor, standing } of merges)
      if (standing && survivor === next && gone !== patient && !found.has(gone)) {
        found.add(gone);
        open.push(gone);
      }
  return [...found];
}

/** Where the chains from here end; undefined where one comes back to itself. */
function endsOf(patient: string, standing: readonly Merge[]): readonly string[] | undefined {
  const ends = new Set<string>();
  const done = new Set<string>();
  const walk = (at: string, path: ReadonlySet<string>): boolean => {
    if (path.has(at)) return false;
    if (done.has(at)) return true;
    const next = standing.filter((merge) => merge.gone === at);
    if (next.length === 0) ends.add(at);
    for (const { survivor } of next) if (!walk(survivor, new Set([...path, at]))) return false;
    done.add(at);
    return true;
  };
  return walk(patient, new Set()) ? [...ends] : undefined;
}
