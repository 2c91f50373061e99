/** Sealed rows: what lies in PostgreSQL of a patient, one AES-256-GCM message a row, bound to its place by `aad`. */
export interface SealedRows {
  /** Under the patient's and category's row key (`core` for demographics). `place` is bound, e.g. `resource/<id>/<version>`. */
  seal(patient: string, category: string, place: string, plaintext: Uint8Array): Promise<Buffer>;
  open(patient: string, category: string, place: string, sealed: Uint8Array): Promise<Buffer>;
  /** Under the month's intake key: raw records whose patient is not known yet. The month stands in the sealed bytes. */
  sealIntake(place: string, plaintext: Uint8Array): Promise<Buffer>;
  openIntake(place: string, sealed: Uint8Array): Promise<Buffer>;
  /** Under a purpose key of the institution: stream marks (`marks`), audit detail (`audit`). */
  sealPurpose(purpose: string, place: string, plaintext: Uint8Array): Promise<Buffer>;
  openPurpose(purpose: string, place: string, sealed: Uint8Array): Promise<Buffer>;
  /** HMAC-SHA-256, hex, under the key of the purpose: blind search and lookup of source ids. */
  blind(purpose: string, text: string): Promise<string>;
}
