-- The embedded ledger: one node's chain of signed blocks (architecture section 6). Blocks are the truth; `transaction` and
-- `state` follow from them and `ledger verify` compares them.
create schema embedded;

create table embedded.block (
  number bigint primary key,
  previous_hash text not null,
  hash text not null unique,              -- SHA-256 of the header
  header text not null,                   -- JCS: ledger, number, previous hash, hash of the body, signer's key, time
  signature text not null,                -- ES256 over the header, base64url
  body text not null                      -- one signed transaction a line, its validation code before it
);
-- Outcome by id. A repeat of an id within a block stands in the block only.
create table embedded.transaction (
  tx_id text primary key,
  block bigint not null references embedded.block,
  n integer not null,
  validation text not null,
  result text not null
);
create index transaction_block on embedded.transaction (block);
-- The committed state: the newest value of each key, and where it was written.
create table embedded.state (
  key text collate "C" primary key,
  value text not null,
  block bigint not null,
  tx integer not null
);
