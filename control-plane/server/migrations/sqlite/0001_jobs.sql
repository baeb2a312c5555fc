-- Jobs, their attempts and all that hangs on them.
-- Times are whole microseconds since 1970 by the server's clock; ids and digests are their text forms.

-- Facts about the store itself.
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY, -- what the fact is about
    value INTEGER NOT NULL            -- the fact
) STRICT, WITHOUT ROWID;

-- High half of every fence; raise it by one after restoring a backup.
INSERT INTO meta (name, value) VALUES ('generation', 1);

-- Jobs that are alike to placement share a class; a claim decides once for each class.
CREATE TABLE placement_classes (
    id   INTEGER PRIMARY KEY,  -- the class
    spec TEXT NOT NULL UNIQUE  -- tenant, zone, labels, features, cpus and memory as canonical JSON
) STRICT;

CREATE TABLE jobs (
    seq                   INTEGER PRIMARY KEY, -- rises with every job; first come, first served
    id                    TEXT NOT NULL UNIQUE, -- the job's public name
    tenant                TEXT NOT NULL, -- who it belongs to
    phase                 TEXT NOT NULL CHECK (phase IN ('ready', 'backing_off', 'leased', 'running',
                              'stopping_cancel', 'stopping_deadline', 'succeeded', 'failed', 'cancelled')), -- where it is in its life
    state                 TEXT NOT NULL GENERATED ALWAYS AS (CASE
                              WHEN phase IN ('ready', 'backing_off', 'leased') THEN 'queued'
                              WHEN phase IN ('running', 'stopping_cancel', 'stopping_deadline') THEN 'running'
                              ELSE phase END) VIRTUAL, -- what users see of the phase
    class                 INTEGER NOT NULL REFERENCES placement_classes (id), -- what placement looks at
    priority              INTEGER NOT NULL CHECK (priority BETWEEN -100 AND 100), -- higher runs first
    retries               INTEGER NOT NULL CHECK (retries >= 0), -- retries that the guest's failures may use
    retry_on              TEXT NOT NULL, -- reasons that ask for a retry, separated by commas
    attempt               INTEGER NOT NULL CHECK (attempt >= 0), -- number of the newest attempt
    guest_retries         INTEGER NOT NULL CHECK (guest_retries >= 0), -- retries used so far
    infrastructure_losses INTEGER NOT NULL CHECK (infrastructure_losses >= 0), -- attempts lost by infrastructure so far
    reason                TEXT, -- why it ended, or why it waits
    trap_kind             TEXT, -- how the guest trapped
    message               TEXT, -- a short text about this one case
    exit_code             INTEGER, -- the guest's exit code
    usage                 TEXT, -- what the newest finished attempt used, JSON
    node                  TEXT, -- node of the newest attempt
    zone                  TEXT, -- zone of the newest attempt
    created_at            INTEGER NOT NULL, -- when it was accepted
    started_at            INTEGER, -- when its first attempt started
    finished_at           INTEGER, -- when it reached its terminal state
    cancel_requested_at   INTEGER, -- when a cancel was asked for
    not_before            INTEGER, -- end of its backoff
    queue_timeout_at      INTEGER, -- when its queue timeout passes
    deadline_at           INTEGER, -- when its deadline passes
    output_count          INTEGER NOT NULL, -- number of outputs
    output_bytes          INTEGER NOT NULL, -- bytes of all outputs
    version               INTEGER NOT NULL, -- rises with every change; guards every update
    CHECK ((finished_at IS NOT NULL) = (phase IN ('succeeded', 'failed', 'cancelled'))),
    CHECK (phase <> 'succeeded' OR cancel_requested_at IS NULL)
) STRICT;

-- The one index behind every claim.
CREATE INDEX jobs_ready ON jobs (class, priority DESC, seq) WHERE phase = 'ready';
CREATE INDEX jobs_tenant ON jobs (tenant, seq DESC);
CREATE INDEX jobs_backing_off ON jobs (not_before) WHERE phase = 'backing_off';
CREATE INDEX jobs_queue_timeout ON jobs (queue_timeout_at)
    WHERE phase IN ('ready', 'backing_off') AND queue_timeout_at IS NOT NULL AND started_at IS NULL;
CREATE INDEX jobs_deadline ON jobs (deadline_at)
    WHERE phase IN ('ready', 'backing_off', 'leased', 'running') AND deadline_at IS NOT NULL;

CREATE TRIGGER jobs_terminal_is_final BEFORE UPDATE OF phase ON jobs
WHEN old.phase IN ('succeeded', 'failed', 'cancelled')
BEGIN
    SELECT RAISE(ABORT, 'a terminal job never changes its state');
END;

-- What does not change of a job after its submit, apart from what does, so that a change of state
-- does not write it anew.
CREATE TABLE job_documents (
    seq         INTEGER PRIMARY KEY REFERENCES jobs (seq), -- the job
    document    TEXT NOT NULL, -- spec, limits, module and inputs, JSON
    module_name TEXT GENERATED ALWAYS AS (document ->> '$.module.name') VIRTUAL -- the module as named at submit
) STRICT;

CREATE TRIGGER jobs_are_kept BEFORE DELETE ON jobs
WHEN old.phase NOT IN ('succeeded', 'failed', 'cancelled')
BEGIN
    SELECT RAISE(ABORT, 'a job that has not ended is never deleted');
END;

CREATE TABLE attempts (
    job           TEXT NOT NULL REFERENCES jobs (id), -- the job
    number        INTEGER NOT NULL CHECK (number > 0), -- from 1; rises with every lease
    fence         INTEGER NOT NULL, -- rises with every lease, also over a restore
    token         TEXT NOT NULL, -- proof of the lease
    state         TEXT NOT NULL CHECK (state IN ('leased', 'running', 'succeeded', 'failed', 'timed_out',
                      'lost', 'cancelled', 'released')), -- where it is in its life
    node          TEXT NOT NULL, -- who holds or held the lease
    zone          TEXT NOT NULL, -- that node's zone
    incarnation   TEXT NOT NULL, -- the start of the node process that got the lease
    cpus_milli    INTEGER NOT NULL, -- CPU that the lease binds, in thousandths of a core
    memory_bytes  INTEGER NOT NULL, -- memory that the lease binds
    leased_at     INTEGER NOT NULL, -- when the lease was granted
    expires_at    INTEGER NOT NULL, -- when the lease ends unless it is renewed
    started_at    INTEGER, -- when it started
    ended_at      INTEGER, -- when it ended
    reason        TEXT, -- why it ended
    trap_kind     TEXT, -- how the guest trapped
    message       TEXT, -- a short text about this one case
    exit_code     INTEGER, -- the guest's exit code
    usage         TEXT, -- what it used, JSON
    report        TEXT, -- digest of the report that ended it
    stdout_bytes  INTEGER NOT NULL, -- bytes of stdout stored so far
    stderr_bytes  INTEGER NOT NULL, -- bytes of stderr stored so far
    log_truncated INTEGER NOT NULL CHECK (log_truncated IN (0, 1)), -- whether a stream was cut
    PRIMARY KEY (job, number),
    CHECK ((ended_at IS NULL) = (state IN ('leased', 'running')))
) STRICT, WITHOUT ROWID;

-- A second live lease of a job is impossible, also for a wrong query.
CREATE UNIQUE INDEX attempts_one_live ON attempts (job) WHERE state IN ('leased', 'running');
CREATE INDEX attempts_expiry ON attempts (expires_at) WHERE state IN ('leased', 'running');
CREATE INDEX attempts_node ON attempts (node) WHERE state IN ('leased', 'running');

CREATE TRIGGER attempts_end_is_final BEFORE UPDATE ON attempts
WHEN old.state NOT IN ('leased', 'running')
BEGIN
    SELECT RAISE(ABORT, 'an ended attempt never changes');
END;

CREATE TRIGGER attempts_fence_rises BEFORE INSERT ON attempts
WHEN EXISTS (SELECT 1 FROM attempts WHERE job = new.job AND fence >= new.fence)
BEGIN
    SELECT RAISE(ABORT, 'a fence only rises');
END;

-- What became visible with a job's success; all rows of a job come in one transaction.
CREATE TABLE outputs (
    job    TEXT NOT NULL REFERENCES jobs (id), -- the job
    path   TEXT NOT NULL, -- path below /out
    digest TEXT NOT NULL, -- the bytes
    size   INTEGER NOT NULL, -- the bytes' number
    PRIMARY KEY (job, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE log_chunks (
    job          TEXT NOT NULL, -- the job
    attempt      INTEGER NOT NULL, -- the attempt's number
    position     INTEGER NOT NULL, -- where it starts in both streams taken together, in bytes
    fence        INTEGER NOT NULL, -- the attempt's fence
    stream       TEXT NOT NULL CHECK (stream IN ('stdout', 'stderr')), -- the stream
    start_offset INTEGER NOT NULL, -- where it starts in its stream, in bytes
    len          INTEGER NOT NULL CHECK (len > 0), -- its length in bytes
    elapsed_us   INTEGER NOT NULL, -- when it was written, after the attempt's start
    bytes        BLOB, -- the bytes themselves, when they are few
    blob_key     TEXT, -- where the bytes are otherwise
    blob_skip    INTEGER NOT NULL, -- bytes to leave out at the start of that place
    PRIMARY KEY (job, attempt, position),
    UNIQUE (job, attempt, stream, start_offset),
    FOREIGN KEY (job, attempt) REFERENCES attempts (job, number),
    CHECK ((bytes IS NULL) <> (blob_key IS NULL))
) STRICT;

-- Every transition, in the transaction that made it. Nothing is ever changed or deleted here.
CREATE TABLE events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT, -- rises with every event
    at      INTEGER NOT NULL, -- when it happened
    kind    TEXT NOT NULL, -- what happened
    job     TEXT NOT NULL, -- the job
    attempt INTEGER, -- the attempt's number, when it is about one
    fence   INTEGER, -- the attempt's fence, when it is about one
    node    TEXT, -- the node, when it is about an attempt
    actor   TEXT NOT NULL, -- who caused it
    state   TEXT NOT NULL, -- state after it, of the attempt or the job
    reason  TEXT -- why
) STRICT;

CREATE TRIGGER events_are_final BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'an event never changes');
END;

CREATE TRIGGER events_are_kept BEFORE DELETE ON events
BEGIN
    SELECT RAISE(ABORT, 'an event is never deleted');
END;

-- Names that callers gave to their submits, so that a repeated one gives the same job.
CREATE TABLE idempotency_keys (
    tenant     TEXT NOT NULL, -- who the key belongs to
    key        TEXT NOT NULL, -- the key
    request    TEXT NOT NULL, -- digest of the request
    job        TEXT NOT NULL REFERENCES jobs (id), -- the job that the first submit made
    created_at INTEGER NOT NULL, -- when it was first used
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
