-- Uploads that can be resumed, and what tells apart the states of a module. Times are microseconds since 1970 (UTC).

CREATE TABLE uploads (
    id           TEXT    NOT NULL PRIMARY KEY,   -- public name, up_…
    tenant       TEXT    NOT NULL REFERENCES tenants (name), -- who will see the blob
    token        TEXT    NOT NULL,               -- the token that began it
    length       INTEGER CHECK (length >= 0),    -- bytes that will come in all, once that is known
    received     INTEGER NOT NULL CHECK (received >= 0), -- bytes that are durable in its file: the offset
    declared     TEXT,                            -- digest that the bytes must have
    metadata     TEXT,                            -- what the client said about the bytes, as it said it
    digest       TEXT,                            -- digest of the bytes, found when all had come
    completed_at INTEGER,                         -- when it became a blob
    created_at   INTEGER NOT NULL,                -- when it was begun
    expires_at   INTEGER NOT NULL,                -- when it is thrown away
    CHECK (length IS NULL OR received <= length),
    CHECK (completed_at IS NULL OR (digest IS NOT NULL AND length = received)),
    CHECK (digest IS NULL OR declared IS NULL OR digest = declared)
) STRICT;
CREATE INDEX uploads_by_tenant ON uploads (tenant, id);
CREATE INDEX uploads_by_expiry ON uploads (expires_at);

-- What was acknowledged is never taken back.
CREATE TRIGGER uploads_offset_rises BEFORE UPDATE OF received ON uploads
WHEN new.received < old.received OR (old.digest IS NOT NULL AND new.received <> old.received)
BEGIN
    SELECT RAISE(ABORT, 'the offset of an upload only rises, and not after its digest is known');
END;

-- Rises with every change to the module or its versions; the ETag.
ALTER TABLE modules ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
