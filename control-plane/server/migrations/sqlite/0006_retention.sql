-- What it takes to find what may go, and to be sure that nothing needs it. Times are microseconds
-- since 1970 (UTC).

-- Blobs that jobs read. As long as such a row is there, its blob cannot be deleted.
CREATE TABLE job_blobs (
    job    INTEGER NOT NULL REFERENCES jobs (seq),    -- the job
    digest TEXT    NOT NULL REFERENCES blobs (digest), -- a blob that it reads
    PRIMARY KEY (job, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_blobs_digest ON job_blobs (digest);

INSERT OR IGNORE INTO job_blobs (job, digest)
SELECT d.seq, i.value ->> '$.blob.digest'
FROM job_documents AS d, json_each(d.document, '$.inputs') AS i
WHERE i.value ->> '$.blob.digest' IN (SELECT digest FROM blobs);
INSERT OR IGNORE INTO job_blobs (job, digest)
SELECT seq, document ->> '$.stdin.digest' FROM job_documents
WHERE document ->> '$.stdin.digest' IN (SELECT digest FROM blobs);

-- When the blob was last brought, asked for, or lost a reference.
ALTER TABLE blobs ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;
UPDATE blobs SET used_at = unixepoch() * 1000000;
CREATE INDEX blobs_used ON blobs (used_at, digest);

CREATE INDEX outputs_digest ON outputs (digest);
CREATE INDEX attempt_blobs_digest ON attempt_blobs (digest);
CREATE INDEX idempotency_keys_job ON idempotency_keys (job);
CREATE INDEX jobs_ended ON jobs (finished_at) WHERE finished_at IS NOT NULL;

-- The number of the newest job that was ever purged; numbers are not given twice.
INSERT INTO meta (name, value) VALUES ('purged_seq', 0);

DROP TRIGGER IF EXISTS events_are_kept;
CREATE TRIGGER events_are_kept BEFORE DELETE ON events
WHEN EXISTS (SELECT 1 FROM jobs WHERE id = old.job)
BEGIN
    SELECT RAISE(ABORT, 'an event is kept as long as its job');
END;
