-- What a person decided about who a source's patient is. Append-only; the newest of a (source, key) counts, for as long as the
-- source says the same of who it is.
create table identity_decision (
  id bigint generated always as identity primary key,
  source text not null, key text not null, -- as in source_patient
  facts text not null,                    -- HMAC of identifiers, names, birth date and links at the source
  choice text not null check (choice in ('patient', 'new', 'reject')),
  pat text references patient,            -- null: rejected
  takes_demographics boolean not null,    -- this record's name and birth date are printed from now on
  forced boolean not null,                -- an identifier of a configured authority said otherwise
  decided_at timestamptz not null default now(),
  detail bytea not null                   -- sealed: who decided, and why
);
create index identity_decision_of on identity_decision (source, key, id desc);
-- What a rejection put aside, in case it is taken back.
create index record_rejected on record (source, patient_key) where outcome = 'skip' and reason = 'PATIENT_REJECTED';
