-- Events become readable from outside: whom each one concerns, and what it changed.

DROP TRIGGER events_are_final;

ALTER TABLE events ADD COLUMN tenant TEXT NOT NULL DEFAULT ''; -- who the job belongs to
ALTER TABLE events ADD COLUMN zone TEXT; -- zone of the attempt, or of the job's newest one
ALTER TABLE events ADD COLUMN from_state TEXT; -- state before it, of the attempt or the job

UPDATE events SET tenant = coalesce((SELECT j.tenant FROM jobs j WHERE j.id = events.job), ''),
    zone = (SELECT a.zone FROM attempts a WHERE a.job = events.job AND a.number = events.attempt);

CREATE TRIGGER events_are_final BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'an event never changes');
END;

-- The row's number is part of each, so that a reader goes on from any event without a sort.
CREATE INDEX events_tenant ON events (tenant);
CREATE INDEX events_job ON events (job);
