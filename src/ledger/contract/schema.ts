import type { Json } from './jcs.ts';
import { Refusal } from './refusals.ts';

/**
 * Flat schemas: what a payload may hold, written once, from which both its check and its type follow. A member that is
 * not named is refused, one that is named must be there (null where the schema says so).
 */
export interface Schema<T> {
  check(value: Json, where: string): T;
}
export type Infer<S> = S extends Schema<infer T> ? T : never;

function refuse(where: string): never {
  throw new Refusal('SCHEMA', where);
}

export function text(pattern: RegExp): Schema<string> {
  return { check: (value, where) => (typeof value === 'string' && pattern.test(value) ? value : refuse(where)) };
}
export function literal<const T extends string | number | boolean>(...allowed: readonly T[]): Schema<T> {
  return { check: (value, where) => allowed.find((one) => one === value) ?? refuse(where) };
}
export function boolean(): Schema<boolean> {
  return { check: (value, where) => (typeof value === 'boolean' ? value : refuse(where)) };
}
export function integer(min: number, max: number): Schema<number> {
  return { check: (value, where) => (typeof value === 'number' && value >= min && value <= max ? value : refuse(where)) };
}
export function nullable<T>(schema: Schema<T>): Schema<T | null> {
  return { check: (value, where) => (value === null ? null : schema.check(value, where)) };
}
export function list<T>(item: Schema<T>, min: number, max: number): Schema<readonly T[]> {
  return {
    check(value, where) {
      if (!Array.isArray(value) || value.length < min || value.length > max) return refuse(where);
      return value.map((one: Json, i) => item.check(one, `${where}[${i}]`));
    },
  };
}
export function either<A, B>(a: Schema<A>, b: Schema<B>): Schema<A | B> {
  return {
    check(value, where) {
      try {
        return a.check(value, where);
      } catch {
        return b.check(value, where);
      }
    },
  };
}
export interface ObjectSchema<T> extends Schema<T> {
  /** Names of the members, for the documentation's check. */
  readonly members: readonly string[];
}
export function object<M extends Record<string, Schema<unknown>>>(members: M): ObjectSchema<{ readonly [K in keyof M]: Infer<M[K]> }> {
  const names = Object.keys(members);
  return {
    members: names,
    check(value, where) {
      if (value === null || typeof value !== 'object' || Array.isArray(value)) return refuse(where);
      const given = value as { readonly [member: string]: Json };
      if (Object.keys(given).length !== names.length) return refuse(where);
      const checked: Record<string, unknown> = {};
      for (const name of names) {
        const member = Object.hasOwn(given, name) ? given[name] : undefined;
        const schema = members[name];
        if (member === undefined || schema === undefined) return refuse(where === '' ? name : `${where}.${name}`);
        checked[name] = schema.check(member, where === '' ? name : `${where}.${name}`);
      }
      return checked as { readonly [K in keyof M]: Infer<M[K]> };
    },
  };
}

/** Instants are the 24 characters of ECMAScript's ISO form, so that their text sorts as they do. */
export function instant(): Schema<string> {
  return {
    check(value, where) {
      if (typeof value !== 'string' || !/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(value)) return refuse(where);
      const time = Date.parse(value);
      return Number.isNaN(time) || new Date(time).toISOString() !== value ? refuse(where) : value;
    },
  };
}
