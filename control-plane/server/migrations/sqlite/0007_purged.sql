-- What was purged stays known, so that nobody takes a gap for the whole record; and placement classes
-- can go.

-- The newest event that was ever purged: above it, none is missing. Events are numbered without gaps,
-- so that the numbers that are not there tell what an earlier version purged.
INSERT INTO meta (name, value)
SELECT 'purged_event', coalesce(CASE
    WHEN s.seq > coalesce((SELECT max(seq) FROM events), 0) THEN s.seq
    ELSE (SELECT max(e.seq) - 1 FROM events e
          WHERE NOT EXISTS (SELECT 1 FROM events b WHERE b.seq = e.seq - 1))
    END, 0)
FROM (SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0) AS seq) s;

CREATE TRIGGER events_purged AFTER DELETE ON events
BEGIN
    UPDATE meta SET value = max(value, old.seq) WHERE name = 'purged_event';
END;

-- Finds classes without jobs, and checks that a class that goes has none.
CREATE INDEX jobs_class ON jobs (class);
