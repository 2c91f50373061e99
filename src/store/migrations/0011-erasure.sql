-- Erasure (architecture section 5). One row a patient of ours whose `erasePatient` the ledger holds; what is left to be done is found from it.
create table erasure (
  pat text primary key,
  block bigint not null,                  -- in which the ledger took it
  begun_at timestamptz not null,
  erased_at timestamptz,                  -- rows, keys and objects are gone
  audit text not null,                    -- aud-… of the event that says so
  records integer not null default 0, documents integer not null default 0, rows integer not null default 0, objects integer not null default 0,
  also_known text[] not null default '{}' -- other pseudonyms that the same ids at the sources had here, merged or moved; not erased with it
);
-- Objects that are still to be deleted.
create table erasure_object (name text primary key, pat text not null references erasure);
create index erasure_object_pat on erasure_object (pat);
-- HMAC (key `suppression`, used for nothing else) of an erased person's identifiers and ids at the sources: pulls skip them. It names
-- neither pseudonym nor time.
create table suppression (mark text primary key);
create index source_patient_pat on source_patient (pat);
