import { Pool } from 'pg';
import { rowTypes, type Sql } from './database.ts';
import { compile, renamed, type SqlFragment } from './sql.ts';

/** Small look-ups of many requests, asked together. Rows of one question come in no order. */
export interface GatheredReads extends Sql {
  close(): Promise<void>;
}

/** What is asked while a statement is under way goes together when it ends, or beside it where it takes longer than this. */
const PATIENCE_MS = 5;
/** Statements under way at one time. */
const MAX_STATEMENTS = 3;
/** Questions in one statement. */
const MAX_TOGETHER = 64;
/** Forms of questions, each prepared on each connection. */
const MAX_FORMS = 100;

/**
 * By id is the only way here, so no plan is made for values, and none but index look-ups, whatever the statistics say while tables
 * fill. It holds for these connections alone: searches gain from plans of their own.
 */
const INDEX_LOOKUPS =
  'set plan_cache_mode = force_generic_plan; set enable_hashjoin = off; set enable_mergejoin = off; set enable_seqscan = off';

interface Question {
  values: readonly unknown[];
  fragment: SqlFragment;
  resolve(rows: object[]): void;
  reject(error: unknown): void;
}
/** All questions of one text, as a statement that takes a list for each parameter of the one. */
interface Form {
  name: string;
  text: string;
  types: readonly (string | undefined)[];
  waiting: Question[];
}

/**
 * Look-ups by id: questions of the same text that are asked at the same time are one statement, `unnest` of their values joined
 * laterally to the very text of one. Each is answered by its own values alone and from a snapshot taken after it was asked. One
 * statement costs PostgreSQL about the same for one question as for eight, and each writing to the socket wakes a backend. A
 * question alone is asked at once; none waits longer than 5 ms for others, unless all connections are taken. Values may be
 * strings, whole numbers and dates, which the text must cast where their type is not plain; with any other a question goes alone.
 * Where a statement fails, its questions are asked again one by one.
 */
export function createGatheredReads(options: { url: string; onError?: (error: Error) => void }): GatheredReads {
  const pool = new Pool({
    connectionString: options.url,
    max: MAX_STATEMENTS,
    types: rowTypes,
    application_name: 'oncobridge-reads',
    onConnect: async (client) => {
      // One that dies while a statement runs fails that statement; nothing else listens then.
      client.on('error', () => {});
      await client.query(INDEX_LOOKUPS);
    },
  });
  pool.on('error', options.onError ?? (() => {}));
  const forms = new Map<string, Form>();
  /** Forms with questions, those first whose oldest waits longest. */
  const due: Form[] = [];
  let running = 0;
  let scheduled = false;
  let timer: NodeJS.Timeout | undefined;

  function formOf(fragment: SqlFragment, text: string, values: readonly unknown[]): Form | undefined {
    const known = forms.get(text);
    if (known !== undefined || forms.size >= MAX_FORMS) return known;
    const types = values.map(typeOf);
    const lists = types.map((type, i) => `$${i + 1}::${type}[]`).join(', ');
    const names = types.map((_, i) => `v${i + 1}`).join(', ');
    const one = renamed(fragment, (n) => `asked.v${n}`);
    const form = {
      name: `g${forms.size}`,
      text: `select asked.question::int, found.* from unnest(${lists}) with ordinality as asked(${names}, question) cross join lateral (${one}) found`,
      types,
      waiting: [],
    };
    forms.set(text, form);
    return form;
  }

  function schedule(): void {
    if (due.length === 0) return;
    if (running === 0) {
      if (scheduled) return;
      scheduled = true;
      // What comes in this very turn of the loop goes together.
      setImmediate(() => {
        scheduled = false;
        start();
      });
    } else if (running < MAX_STATEMENTS) {
      timer ??= setTimeout(start, PATIENCE_MS);
    }
  }

  function start(): void {
    clearTimeout(timer);
    timer = undefined;
    const form = due.shift();
    if (form === undefined) return;
    const questions = form.waiting.splice(0, MAX_TOGETHER);
    if (form.waiting.length > 0) due.push(form);
    running += 1;
    void together(form, questions).finally(() => {
      running -= 1;
      // Whoever came meanwhile has waited already.
      start();
    });
    schedule();
  }

  async function together(form: Form, questions: readonly Question[]): Promise<void> {
    const answers: object[][] = questions.map(() => []);
    try {
      // PostgreSQL's client would write each date in the zone of this machine, slowly.
      const values = form.types.map((_, i) =>
        questions.map(({ values: { [i]: value } }) => (value instanceof Date ? value.toISOString() : value)),
      );
      const { rows } = await pool.query<{ question: number }>({ name: form.name, text: form.text, values });
      for (const { question, ...row } of rows) answers[question - 1]?.push(row);
    } catch {
      // What one of them has wrong is not the others' error.
      await Promise.all(questions.map(alone));
      return;
    }
    for (const [i, { resolve }] of questions.entries()) resolve(answers[i] ?? []);
  }

  async function alone({ fragment, resolve, reject }: Question): Promise<void> {
    try {
      resolve((await pool.query<object>(compile(fragment))).rows);
    } catch (error) {
      reject(error);
    }
  }

  return {
    query<Row extends object>(fragment: SqlFragment): Promise<Row[]> {
      return new Promise<object[]>((resolve, reject) => {
        const { text, values } = compile(fragment);
        const question = { values, fragment, resolve, reject };
        const fits = values.length > 0 && values.every((value) => typeOf(value) !== undefined);
        const form = fits ? formOf(fragment, text, values) : undefined;
        if (form === undefined || values.some((value, i) => typeOf(value) !== form.types[i])) {
          void alone(question);
          return;
        }
        form.waiting.push(question);
        if (form.waiting.length === 1) due.push(form);
        schedule();
      }) as Promise<Row[]>;
    },
    async close() {
      await pool.end();
    },
  };
}

/** The type of a list of such values; undefined where it cannot be told. */
function typeOf(value: unknown): string | undefined {
  if (typeof value === 'string') return 'text';
  if (typeof value === 'number') return Number.isInteger(value) && Math.abs(value) < 2 ** 31 ? 'integer' : undefined;
  return value instanceof Date ? 'timestamptz' : undefined;
}
