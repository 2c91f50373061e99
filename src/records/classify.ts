import { CodedError } from '../errors.ts';
import { type Description, describe } from './describe.ts';
import { codingsOf, LOINC, objectOf, stringOf, stringsOf, token } from './elements.ts';
import { isObject, type Json, type JsonObject, toPlain } from './lossless-json.ts';
import type { Category } from './model.ts';
import { isReason, type Reason } from './reasons.ts';

/** All conditions given must hold; several values of one condition are alternatives. */
export interface Rule {
  /** Names the rule in logs, metrics and explanations. */
  id: string;
  when: {
    type?: string | readonly string[] | undefined;
    /** `system|code`, or `system|` for any code of a system; of `code`, `type` or (BodyStructure) `morphology`. */
    code?: readonly string[] | undefined;
    category?: readonly string[] | undefined;
    /** Canonical profile urls, without version. */
    profile?: readonly string[] | undefined;
    /** `status` or, for notes, `docStatus`. */
    status?: readonly string[] | undefined;
    /** The site's table gives the record's code a category. */
    mapped?: boolean | undefined;
    /** True where the expression yields `true`, or anything that is not a boolean. */
    fhirpath?: string | undefined;
  };
  /** Exactly one of the following: the category; the reason to skip or to set aside; the category of the site's table. */
  category?: Category | undefined;
  skip?: string | undefined;
  quarantine?: string | undefined;
  mapped?: true | undefined;
}

/** One line of the site's table of local codes (aria-and-oncology.md section 7): `code` is `system|code`. */
export interface LocalCode {
  code: string;
  /** The LOINC code that it means: rules match on that too. */
  loinc?: string | undefined;
  category?: Category | undefined;
}

export interface ClassifierConfig {
  rules: readonly Rule[];
  /** Must be written: what happens to a record that no rule takes. */
  default: 'quarantine' | 'skip';
  localCodes?: readonly LocalCode[];
  /** Modifier extensions (urls) whose meaning this site has checked. Any other one is refused. */
  knownModifiers?: readonly string[];
}

export interface ClassifyContext {
  source: string;
  stream: string;
  description?: Description;
  /** The record's patient is a test patient and such are excluded. */
  excludedTestPatient?: boolean;
}

export interface Classification {
  outcome: 'category' | 'skip' | 'quarantine';
  category?: Category;
  reason?: Reason;
  /** The rule that decided; `builtin:…` and `default` are ours. */
  rule: string;
  /** Every rule tried before, and which of its conditions failed. Holds no value of the record. */
  tried: readonly { rule: string; missed: string }[];
}

export type Classifier = (resource: JsonObject, context: ClassifyContext) => Classification;

type Evaluate = (resource: Json, environment: Record<string, unknown>) => unknown[];

/**
 * Compiles rules once; the result is synchronous and keeps no state. The FHIRPath engine is loaded only where a rule has an
 * expression. Throws CONFIG_INVALID where two rules share an id or an expression does not parse.
 */
export async function compileClassifier(config: ClassifierConfig): Promise<Classifier> {
  const problems = await checkRules(config.rules);
  const fatal = problems.filter((problem) => problem.kind === 'error');
  if (fatal.length > 0)
    throw new CodedError('CONFIG_INVALID', { diagnostics: fatal.map((problem) => `${problem.rule}: ${problem.text}`).join('; ') });
  const compiled = await Promise.all(config.rules.map(compileRule));
  const local = new Map((config.localCodes ?? []).map((entry) => [entry.code, entry]));
  const known = new Set(config.knownModifiers ?? []);

  return (resource, context) => {
    const tried: { rule: string; missed: string }[] = [];
    if (hasUnknownModifier(resource, known)) return { outcome: 'quarantine', reason: 'MODIFIER_UNKNOWN', rule: 'builtin:modifier', tried };
    if (context.excludedTestPatient) return { outcome: 'skip', reason: 'TEST_PATIENT', rule: 'builtin:test-patient', tried };
    const facts = factsOf(resource, context.description ?? describe(resource), local);
    for (const rule of compiled) {
      const missed = rule.miss(resource, facts, context);
      if (missed !== undefined) {
        tried.push({ rule: rule.id, missed });
        continue;
      }
      if (rule.category !== undefined) return { outcome: 'category', category: rule.category, rule: rule.id, tried };
      if (rule.skip !== undefined) return { outcome: 'skip', reason: rule.skip, rule: rule.id, tried };
      if (rule.quarantine !== undefined) return { outcome: 'quarantine', reason: rule.quarantine, rule: rule.id, tried };
      if (facts.mappedCategory !== undefined) return { outcome: 'category', category: facts.mappedCategory, rule: rule.id, tried };
      return { outcome: 'quarantine', reason: 'UNMAPPED_CODE', rule: rule.id, tried };
    }
    return { outcome: config.default, reason: 'NO_RULE_MATCH', rule: 'default', tried };
  };
}

/** What `config check` says of rules: errors refuse the config, warnings name rules that can never be reached. */
export async function checkRules(rules: readonly Rule[]): Promise<readonly { rule: string; kind: 'error' | 'warning'; text: string }[]> {
  const problems: { rule: string; kind: 'error' | 'warning'; text: string }[] = [];
  const seen = new Set<string>();
  for (const [index, rule] of rules.entries()) {
    if (seen.has(rule.id)) problems.push({ rule: rule.id, kind: 'error', text: 'the id is used twice' });
    seen.add(rule.id);
    const outcomes = [rule.category, rule.skip, rule.quarantine, rule.mapped].filter((outcome) => outcome !== undefined);
    if (outcomes.length !== 1) problems.push({ rule: rule.id, kind: 'error', text: 'exactly one of category, skip, quarantine is needed' });
    for (const reason of [rule.skip, rule.quarantine]) {
      if (reason !== undefined && !isReason(reason)) problems.push({ rule: rule.id, kind: 'error', text: 'no such reason code' });
    }
    if (rule.when.fhirpath !== undefined) {
      try {
        (await loadFhirPath()).compile(rule.when.fhirpath);
      } catch {
        problems.push({ rule: rule.id, kind: 'error', text: 'the FHIRPath expression does not parse' });
      }
    }
    const shadow = rules.slice(0, index).find((earlier) => covers(earlier.when, rule.when));
    if (shadow) problems.push({ rule: rule.id, kind: 'warning', text: `never reached: ${shadow.id} takes everything before it` });
  }
  return problems;
}

/** True where every record that meets `narrow` also meets `wide`, as far as can be told without looking inside FHIRPath. */
function covers(wide: Rule['when'], narrow: Rule['when']): boolean {
  if (wide.fhirpath !== undefined && wide.fhirpath !== narrow.fhirpath) return false;
  if (wide.mapped !== undefined && wide.mapped !== narrow.mapped) return false;
  const lists = (when: Rule['when']) =>
    [typeof when.type === 'string' ? [when.type] : when.type, when.code, when.category, when.profile, when.status] as const;
  const narrowLists = lists(narrow);
  return lists(wide).every((values, index) => {
    if (values === undefined) return true;
    const inner = narrowLists[index];
    return inner !== undefined && inner.every((value) => values.includes(value));
  });
}

interface Facts {
  type: string;
  codes: ReadonlySet<string>;
  categories: ReadonlySet<string>;
  profiles: ReadonlySet<string>;
  statuses: readonly string[];
  mappedCategory: Category | undefined;
}

function factsOf(resource: JsonObject, description: Description, local: ReadonlyMap<string, LocalCode>): Facts {
  const codes = new Set<string>();
  let mappedCategory: Category | undefined;
  const coded = resource['resourceType'] === 'BodyStructure' ? resource['morphology'] : (resource['type'] ?? resource['code']);
  for (const concept of [coded, resource['resourceType'] === 'Encounter' ? undefined : resource['code']]) {
    for (const coding of codingsOf(concept)) {
      codes.add(token(coding)).add(`${coding.system}|`);
      const entry = local.get(token(coding));
      if (entry?.loinc !== undefined) codes.add(`${LOINC}|${entry.loinc}`);
      mappedCategory ??= entry?.category;
    }
  }
  const categories = new Set<string>();
  for (const coding of codingsOf(resource['category'])) categories.add(token(coding)).add(`${coding.system}|`);
  return {
    type: description.type,
    codes,
    categories,
    profiles: new Set(stringsOf(objectOf(resource['meta'])?.['profile']).map((profile) => profile.split('|')[0] ?? '')),
    statuses: [stringOf(resource['status']), stringOf(resource['docStatus'])].filter((status) => status !== undefined),
    mappedCategory,
  };
}

interface CompiledRule {
  id: string;
  category?: Category;
  skip?: Reason;
  quarantine?: Reason;
  /** The condition that fails, or undefined where the rule takes the record. */
  miss(resource: JsonObject, facts: Facts, context: ClassifyContext): string | undefined;
}

async function compileRule(rule: Rule): Promise<CompiledRule> {
  const { type, code, category, profile, status, mapped, fhirpath } = rule.when;
  const types = type === undefined ? undefined : new Set(typeof type === 'string' ? [type] : type);
  const evaluate: Evaluate | undefined = fhirpath === undefined ? undefined : (await loadFhirPath()).compile(fhirpath);
  return {
    id: rule.id,
    ...(rule.category === undefined ? {} : { category: rule.category }),
    ...(rule.skip !== undefined && isReason(rule.skip) ? { skip: rule.skip } : {}),
    ...(rule.quarantine !== undefined && isReason(rule.quarantine) ? { quarantine: rule.quarantine } : {}),
    miss(resource, facts, context) {
      if (types && !types.has(facts.type)) return 'type';
      if (status && !status.some((value) => facts.statuses.includes(value))) return 'status';
      if (category && !category.some((value) => facts.categories.has(value))) return 'category';
      if (code && !code.some((value) => facts.codes.has(value))) return 'code';
      if (profile && !profile.some((value) => facts.profiles.has(value))) return 'profile';
      if (mapped !== undefined && mapped !== (facts.mappedCategory !== undefined)) return 'mapped';
      if (evaluate) {
        let result: unknown[];
        try {
          // The engine wants plain numbers and may write type marks into what it is given, so it gets a value of its own.
          result = evaluate(structuredClone(toPlain(resource)), { source: context.source, stream: context.stream });
        } catch {
          return 'fhirpath (failed)'; // its message may quote the record
        }
        const holds = result.some((value) => value !== false && value !== null && value !== undefined);
        if (!holds) return 'fhirpath';
      }
      return undefined;
    },
  };
}

let engine: Promise<{ compile(expression: string): Evaluate }> | undefined;
/** The engine costs about 100 ms to load; most configs need none. Module-wide because it is code, not state. */
function loadFhirPath(): Promise<{ compile(expression: string): Evaluate }> {
  engine ??= (async () => {
    const [{ default: fhirpath }, { default: model }] = await Promise.all([import('fhirpath'), import('fhirpath/fhir-context/r4')]);
    return {
      compile(expression: string): Evaluate {
        const run = fhirpath.compile(expression, model, { async: false });
        return (resource, environment) => {
          const result: unknown = run(resource, environment);
          return Array.isArray(result) ? result : [];
        };
      },
    };
  })();
  return engine;
}

/** FHIR R4 2.4.2: who does not know a modifier extension must not process the element. `implicitRules` is one by another name. */
function hasUnknownModifier(resource: JsonObject, known: ReadonlySet<string>): boolean {
  if (stringOf(resource['implicitRules']) !== undefined && !known.has(stringOf(resource['implicitRules']) ?? '')) return true;
  return walk(resource, known);
}
function walk(value: Json | undefined, known: ReadonlySet<string>): boolean {
  if (Array.isArray(value)) return (value as readonly Json[]).some((item) => walk(item, known));
  if (!isObject(value)) return false;
  for (const key in value) {
    const item = value[key];
    if (typeof item !== 'object' || item === null) continue;
    if (key === 'modifierExtension') {
      const list = Array.isArray(item) ? (item as readonly Json[]) : [item];
      if (list.some((extension) => !known.has(stringOf(objectOf(extension)?.['url']) ?? ''))) return true;
    }
    if (walk(item, known)) return true;
  }
  return false;
}
