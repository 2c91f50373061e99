-- HMAC of each attachment of a record, so that the same bytes under two ids are found without opening either.
create table record_attachment (rec text not null references record on delete cascade, hash text not null, primary key (rec, hash));
create index record_attachment_hash on record_attachment (hash);
