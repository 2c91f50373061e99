/**
 * The typefaces on disk: Noto Sans for Latin, Greek, Cyrillic and Vietnamese, Noto Sans KR (6 MB a weight) for Hangul,
 * Han, kana and symbols. Read once per thread and kept; the Korean one only when a text first needs it.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { parseTrueType, type TrueType } from './true-type.ts';

export type Weight = 'regular' | 'semibold';
export type Script = 'latin' | 'korean';

export interface Typeface {
  /** Name of the resource in each page, one per script and weight: `F1` … `F4`. */
  resource: string;
  postScriptName: string;
  bytes: Buffer;
  font: TrueType;
}

export interface Typefaces {
  face(script: Script, weight: Weight): Typeface;
}

const FILES: Record<Script, Record<Weight, { resource: string; postScriptName: string; file: string }>> = {
  latin: {
    regular: {
      resource: 'F1',
      postScriptName: 'NotoSans-Regular',
      file: '@expo-google-fonts/noto-sans/400Regular/NotoSans_400Regular.ttf',
    },
    semibold: {
      resource: 'F2',
      postScriptName: 'NotoSans-SemiBold',
      file: '@expo-google-fonts/noto-sans/600SemiBold/NotoSans_600SemiBold.ttf',
    },
  },
  korean: {
    regular: {
      resource: 'F3',
      postScriptName: 'NotoSansKR-Regular',
      file: '@expo-google-fonts/noto-sans-kr/400Regular/NotoSansKR_400Regular.ttf',
    },
    semibold: {
      resource: 'F4',
      postScriptName: 'NotoSansKR-SemiBold',
      file: '@expo-google-fonts/noto-sans-kr/600SemiBold/NotoSansKR_600SemiBold.ttf',
    },
  },
};

/** The faces of the two packages, each read when first asked for. Holds memory only: nothing to close. */
export function loadTypefaces(): Typefaces {
  const locate = createRequire(import.meta.url);
  const loaded = new Map<string, Typeface>();
  return {
    face(script, weight) {
      const { resource, postScriptName, file } = FILES[script][weight];
      const known = loaded.get(resource);
      if (known !== undefined) return known;
      const bytes = readFileSync(locate.resolve(file));
      const face: Typeface = { resource, postScriptName, bytes, font: parseTrueType(bytes) };
      loaded.set(resource, face);
      return face;
    },
  };
}
