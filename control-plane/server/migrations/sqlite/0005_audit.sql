-- Who changed what. Times are microseconds since 1970 (UTC).

CREATE TABLE audit (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT, -- order of the changes
    at             INTEGER NOT NULL,             -- when, by the server's clock
    actor          TEXT   NOT NULL,              -- token or node that did it, or server
    tenant         TEXT,                         -- whom the token acts for
    peer           TEXT,                         -- address that the request came from
    request_id     TEXT,                         -- finds the request in the log
    operation      TEXT   NOT NULL,              -- what was done
    object         TEXT   NOT NULL,              -- to what: an id, a digest or a name
    outcome        TEXT   NOT NULL CHECK (outcome IN ('done', 'refused')), -- what came of it
    version_before INTEGER,                      -- the object's version as the request found it
    version_after  INTEGER                       -- the object's version afterwards
) STRICT;
CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_object ON audit (object, seq);
CREATE INDEX audit_by_actor ON audit (actor, seq);
CREATE TRIGGER audit_is_not_changed
BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the record of changes is not changed');
END;

CREATE TABLE probe (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1), -- there is one
    at INTEGER NOT NULL                             -- when it was last tried whether this file can be written
) STRICT;
