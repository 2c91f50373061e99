/** A check of a member's professional credential. Its source and result stay with the institution, never on the ledger. */
export interface CredentialAdapter {
  readonly kind: string;
  check(number: string): Promise<CredentialCheck>;
}
export interface CredentialCheck {
  /** `well-formed`: the number could exist; nobody was asked whether it does, and whose it is. */
  status: 'well-formed' | 'malformed';
  checkedAt: Date;
}

/** US National Provider Identifier, offline: ten digits whose last is the Luhn check digit over `80840` and the first nine (45 CFR 162.406). */
export function createNpiCheck(now: () => Date = () => new Date()): CredentialAdapter {
  return {
    kind: 'npi',
    check: (number) => Promise.resolve({ status: isNpi(number) ? 'well-formed' : 'malformed', checkedAt: now() }),
  };
}

function isNpi(text: string): boolean {
  if (!/^[12]\d{9}$/.test(text)) return false;
  let sum = 0;
  for (const [i, digit] of `80840${text}`.split('').toReversed().entries()) {
    const value = Number(digit) * (i % 2 === 0 ? 1 : 2);
    sum += value > 9 ? value - 9 : value;
  }
  return sum % 10 === 0;
}
