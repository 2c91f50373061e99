-- Between institutions (protocol sections 6 to 8): what another institution's patient let us have. A patient of theirs is named by
-- (inst, pat) as on the ledger; their own pseudonym here (`own_pat`) never stands beside it anywhere else.

-- One-time codes, made here for our own patient, who carries one into a grant at the other institution.
create table link_code (
  link text primary key,                  -- lnk-…
  pat text not null references patient,   -- our own patient
  clinician text not null,                -- mem-… whom it is meant for
  secret_hash text not null unique,       -- SHA-256 of the whole code with its 128-bit secret, which is kept nowhere
  expires_at timestamptz not null,
  created_by text not null,               -- mem-… of the registrar or clinician, or the patient
  created_at timestamptz not null default now(),
  spent_at timestamptz,                   -- presented by somebody who was linked to this patient already
  closed_at timestamptz                   -- taken back by a person
);
create index link_code_pat on link_code (pat);
-- The other institution's patient that a code was presented by first. Nothing of theirs is fetched before there is a row, and nothing is
-- served before `confirmed`: name and birth date in what was fetched are our own patient's.
create table patient_link (
  inst text not null, pat text not null,  -- theirs
  link text not null unique references link_code,
  own_pat text not null references patient,
  state text not null check (state in ('bound', 'confirmed', 'held', 'rejected')),
  bound_at timestamptz not null default now(),
  decided_at timestamptz, decided_by text, -- mem-… where a person decided
  accepted text[] not null default '{}',  -- HMAC of each pair of facts (theirs, ours) that a person accepted as one person's
  detail bytea,                           -- sealed (row key of the holder's core, place link/<link>): what differs
  reason bytea,                           -- of a person's decision; sealed under the purpose key identity, place link/<link>
  demographics_as_of timestamptz,         -- of the Patient of theirs that is kept: an older document does not overwrite it
  held_documents integer not null default 0, held_bytes bigint not null default 0, -- of shared_version, kept with each change of it
  held_up_at timestamptz,                 -- since when searches that do not name the patient wait for what is being fetched; soon they do not
  primary key (inst, pat)
);
create index patient_link_own on patient_link (own_pat);

-- A category of a patient of theirs on which anybody here has, or had until just now, a permission.
create table shared_category (
  inst text not null, pat text not null, category text not null,
  state text not null check (state in ('waiting', 'live', 'refused', 'ending')),
  code text,                              -- coded error: why it waits or was refused
  statement text,                         -- identity of the permission or key version that this is about
  renounced_by text,                      -- mem-… who had it renounced
  noticed_at timestamptz not null default now(),
  primary key (inst, pat, category)
);
-- Envelopes to this institution that a permission in force or a version of a category key names.
create table shared_envelope (
  inst text not null, pat text not null, category text not null,
  path text not null, hash text not null, recipient text not null,
  statement text not null,                -- of the permission; for a key version its state key
  state text not null default 'wanted' check (state in ('wanted', 'opening', 'opened', 'refused')),
  code text, attempts integer not null default 0, retry_at timestamptz not null default now(),
  primary key (inst, pat, category, path)
);
create index shared_envelope_due on shared_envelope (retry_at) where state <> 'opened';
-- Private halves of their category keys, out of envelopes; sealed under the holder's row key of the category.
create table shared_key (
  inst text not null, pat text not null, category text not null, version integer not null,
  jwk bytea not null,                     -- place shared-key/<version>
  primary key (inst, pat, category, version)
);
-- An entry of theirs that is wanted here and not held yet: the newest of its document.
create table shared_object (
  recorder text not null, document text not null,
  version integer not null, n integer not null,
  inst text not null, pat text not null, category text not null,
  state text not null default 'wanted' check (state in ('wanted', 'missing', 'refused')), -- missing: still so after n tries
  code text, attempts integer not null default 0, retry_at timestamptz not null default now(),
  wanted_at timestamptz not null default now(),
  primary key (recorder, document)
);
create index shared_object_due on shared_object (retry_at);
-- What takes room beside what is held; one that found none waits, at retry_at infinity, until there is some.
create index shared_object_room on shared_object (inst, pat) where code is distinct from 'SHARED_QUOTA';
create index shared_object_of on shared_object (inst, pat, category);
-- What is held: our copy of the ciphertext lies with us and not in the shared store, its document key under our own key of the holder's category.
create table shared_version (
  recorder text not null, document text not null, version integer not null, n integer not null,
  inst text not null, pat text not null, category text not null,
  pointer text not null,                  -- <our inst>/copies/<sha256>
  origin text not null,                   -- theirs, as the entry names it
  ciphertext_hash text not null, commitment text not null, key_version integer not null,
  size_bytes integer not null, manifest_hash text not null,
  header bytea not null,                  -- sealed inner header, place header/<document>/<version>
  wrap text not null,                     -- DocumentKeyWrap.toInstitution of ours
  fetched_at timestamptz not null default now(),
  primary key (recorder, document, version)
);
-- With the document, so that looking for one of a patient's documents reads one row, also before the table was ever analyzed.
create index shared_version_of on shared_version (inst, pat, category, recorder, document);
create index shared_version_pointer on shared_version (pointer);
-- What was ended and deleted, for the privacy officer; an audit event of the same moment is in the anchored tree.
create table sharing_end (
  id text primary key,                    -- end-…
  inst text not null, pat text not null, category text not null,
  document text,                          -- null: the whole category
  cause text not null check (cause in ('revoked', 'renounced', 'expired', 'withdrawn', 'erased', 'alarmed', 'rejected', 'taken')), -- taken: the pseudonym is that of a patient who was enrolled earlier, elsewhere
  block bigint,                           -- of what ended it, where it stands on the ledger
  ended_at timestamptz not null,          -- when it ended; denied from then on
  deleted_at timestamptz,                 -- null: rows are gone, copies and keys are being deleted
  attempts integer not null default 0, retry_at timestamptz not null default 'epoch', -- of finishing it, once its copies are gone
  audit text not null unique,             -- aud-… of the event of the same facts
  documents integer not null, rows integer not null, objects integer not null, bytes bigint not null, keys integer not null,
  held integer not null                   -- sealed copies that a legal hold keeps; nobody can read them
);
create table legal_hold (
  inst text not null, pat text not null, category text not null,
  by text not null,                       -- mem-… of the privacy officer
  reason bytea not null,                  -- sealed under the purpose key legal-hold, place hold/<inst>/<pat>/<category>
  placed_at timestamptz not null default now(), lifted_at timestamptz,
  primary key (inst, pat, category)
);
create index sharing_end_open on sharing_end (id) where deleted_at is null;
-- Copies of ours that no row needs any more, to be deleted: `ending` names the end that waits for it.
create table shared_removal (
  pointer text primary key,
  ending text,
  attempts integer not null default 0, retry_at timestamptz not null default 'epoch'
);
create index shared_removal_due on shared_removal (retry_at);
create index shared_removal_ending on shared_removal (ending);
-- Institutions of whose grants some could not begin here: more than the quotas take, or one that is revoked here and not on the ledger,
-- which may refuse that yet. Looked at again from the ledger at `retry_at`, patient by patient, so many at a time.
create table sharing_backlog (
  inst text primary key,
  retry_at timestamptz not null,
  after text not null default '',         -- patient up to whom this round has come
  next_at timestamptz,                    -- when the next round is due; null: nothing that this one saw still waits
  over boolean not null default false     -- over the quotas, and alarmed
);
-- Sealed copies that a hold keeps after their keys are gone.
create table held_object (pointer text primary key, inst text not null, pat text not null, category text not null, document text not null, version integer not null, since timestamptz not null default now());
-- The newest block whose permissions, keys and entries were looked at.
create table sharing_cursor (one boolean primary key default true check (one), block bigint not null);
-- What of the ledger a new block changed.
create index permission_block on projection.permission (block);
create index category_key_block on projection.category_key (block);
create index patient_block on projection.patient (block);
create index document_block on projection.document using brin (block) with (pages_per_range = 16, autosummarize = on);

-- What patients signed on their own devices and this gateway carries: one row a statement, so that one sent again is no second one.
create table device_statement (
  statement text primary key,             -- SHA-256 of the payload
  transaction text not null,
  inst text not null, pat text not null,
  kid text not null,                      -- thumbprint of the key that signed it
  outbox text not null,
  tx_id text, block bigint,               -- once it has committed
  received_at timestamptz not null default now()
);
create index device_statement_pat on device_statement (inst, pat, received_at);
-- Envelopes that were put under our own prefix for such a statement, and what of the ledger names each.
create table device_envelope (
  name text not null,                     -- <our inst>/envelopes/<sha256>
  statement text not null,
  inst text not null, pat text not null, category text not null,
  recipient text not null,                -- thumbprint of the key that it is to
  grantee text, sequence integer,         -- of the permission's version; null where a key version names it
  key_version integer,
  size_bytes integer not null,
  outbox text not null,
  put_at timestamptz not null default now(),
  primary key (name, statement)
);
create index device_envelope_of on device_envelope (inst, pat, category);
-- What came in envelopes with a statement, counted before it is stored; a day.
create table device_envelope_intake (
  statement text primary key,
  inst text not null, pat text not null,
  size_bytes bigint not null,
  taken_at timestamptz not null default now()
);
create index device_envelope_intake_of on device_envelope_intake (inst, pat, taken_at);

-- Signed directories of other institutions, as they were handed over; each is checked against the ledger whenever it is used.
create table directory_of (
  inst text primary key,
  jws text not null,
  imported_at timestamptz not null default now()
);
