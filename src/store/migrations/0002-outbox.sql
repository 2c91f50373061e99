-- The outbox: what must still reach the ledger, and the journal of what was sent. The queue is rebuilt from here.
create table outbox_batch (
  id text primary key,                    -- batch-…
  job text not null,                      -- id and only content of the job that carries it: the first batch's, of those handed over together
  place integer not null default 0,       -- within the job
  state text not null default 'claimed' check (state in ('claimed','enqueued','inflight','committed','rejected','failed','split')),
  transaction text not null,
  priority smallint not null,             -- 0 urgent, 1 live, 2 backfill
  created_at timestamptz not null default now(),
  check_at timestamptz not null,          -- claimed: the lease, after which any relay adds the job; later: when to look whether the job is still there
  attempts integer not null default 0,    -- failed attempts, for the slow retry
  conflicts integer not null default 0,   -- times that the ledger called it invalid by conflict
  retry_at timestamptz,                   -- failed: when the policy retries it; null: only by hand
  tx_id text, bytes bytea,                -- the journal: signed transaction, written before it is sent
  result text,                            -- of the endorsement
  block bigint, error_code text,          -- coded, free of patient data
  settled_at timestamptz
);
create index outbox_batch_job on outbox_batch (job) where settled_at is null;
create index outbox_batch_open on outbox_batch (check_at) where state in ('claimed','enqueued','inflight');
create index outbox_batch_failed on outbox_batch (retry_at) where state = 'failed';
create index outbox_batch_settled on outbox_batch (settled_at) where settled_at is not null;
create unique index outbox_batch_tx on outbox_batch (tx_id) where tx_id is not null;

create table outbox (
  id text primary key,                    -- obx-…
  seq bigint generated always as identity,
  transaction text not null,
  args text[] not null,
  order_key text, patient text,           -- patient: inst/pat
  priority smallint not null,
  state text not null default 'pending' check (state in ('pending','claimed','enqueued','inflight','committed','rejected','failed','conflict')),
  batch text references outbox_batch,
  position integer,                       -- within the batch
  created_at timestamptz not null default now(),
  tx_id text, block bigint, result text, error_code text,
  settled_at timestamptz
);
create index outbox_pending on outbox (priority, seq) where state = 'pending';
create index outbox_batch_rows on outbox (batch);
create index outbox_order on outbox (order_key, seq) where order_key is not null and settled_at is null;
create index outbox_enrolment on outbox (patient) where transaction = 'enrollPatient' and state <> 'committed';
create index outbox_unsettled on outbox (state) where settled_at is null;
create index outbox_settled on outbox (settled_at) where settled_at is not null;
