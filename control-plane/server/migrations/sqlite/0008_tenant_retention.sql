-- A tenant may keep its jobs that have ended by a policy of its own. Where a column is empty, the server's setting holds.

ALTER TABLE tenants ADD COLUMN job_ttl_ms INTEGER CHECK (job_ttl_ms > 0); -- how long jobs are kept after their end
ALTER TABLE tenants ADD COLUMN log_ttl_ms INTEGER CHECK (log_ttl_ms > 0); -- how long their logs are
ALTER TABLE tenants ADD COLUMN jobs_max INTEGER CHECK (jobs_max > 0); -- most jobs that are kept
ALTER TABLE tenants ADD COLUMN bytes_max INTEGER CHECK (bytes_max >= 0); -- most bytes of their outputs and logs

-- Jobs of each tenant in the order of their ends.
DROP INDEX jobs_ended;
CREATE INDEX jobs_ended ON jobs (tenant, finished_at) WHERE finished_at IS NOT NULL;
