-- Consents that came from the ledger, and not from a request here, have no row in the outbox.
alter table consent_version alter outbox drop not null;
-- Up to which block the grants and revocations that reached the ledger without us (from a patient's device, another gateway, a grantee
-- who renounced) have their versions.
create table consent_mirror (one boolean primary key default true check (one), block bigint not null);
-- Patients of whom it did not succeed; tried again, oldest first.
create table consent_mirror_failed (pat text primary key, code text not null, tried_at timestamptz not null);
