-- Tenants, tokens, zones, nodes, modules and blobs. Times are microseconds since 1970 (UTC).

CREATE TABLE tenants (
    name            TEXT   NOT NULL PRIMARY KEY, -- [a-z][a-z0-9-]{0,62}
    queue_depth_max INTEGER NOT NULL,             -- most jobs waiting at a time
    created_at      INTEGER NOT NULL,             -- when it was made
    version         INTEGER NOT NULL              -- rises with every change; the ETag
) STRICT;

CREATE TABLE tokens (
    id            TEXT   NOT NULL PRIMARY KEY,   -- public name, tok_…
    secret_sha256 TEXT   NOT NULL UNIQUE,        -- SHA-256 of the secret in hex; the secret itself is never kept
    name          TEXT   NOT NULL,               -- for people
    tenant        TEXT   NOT NULL REFERENCES tenants (name), -- whom it acts for
    scopes        TEXT   NOT NULL,               -- what it may do, separated by blanks
    created_at    INTEGER NOT NULL,               -- when it was made
    expires_at    INTEGER NOT NULL,               -- when it stops being valid
    revoked_at    INTEGER                         -- when it was taken back
) STRICT;
CREATE INDEX tokens_by_tenant ON tokens (tenant, id);

CREATE TABLE zones (
    name        TEXT   NOT NULL PRIMARY KEY,     -- [a-z][a-z0-9-]{0,62}
    description TEXT   NOT NULL,                 -- for people
    policy      TEXT   NOT NULL,                 -- what it allows, JSON
    created_at  INTEGER NOT NULL,                 -- when it was made
    version     INTEGER NOT NULL                  -- rises with every change; the ETag
) STRICT;

CREATE TABLE nodes (
    id           TEXT    NOT NULL PRIMARY KEY,   -- node_…
    name         TEXT    NOT NULL,               -- for people
    zone         TEXT    NOT NULL REFERENCES zones (name), -- from the join token, never from what the node says
    public_key   TEXT    NOT NULL UNIQUE,        -- Ed25519 key in hex
    labels       TEXT    NOT NULL,               -- what jobs may ask for, JSON
    capabilities TEXT    NOT NULL,               -- what it has and can do, JSON
    drain        INTEGER NOT NULL CHECK (drain IN (0, 1)),    -- an operator asked it to drain
    draining     INTEGER NOT NULL CHECK (draining IN (0, 1)), -- it said that it drains by itself
    revoked_at   INTEGER,                         -- when its identity was taken back
    created_at   INTEGER  NOT NULL,               -- when it was enrolled
    heartbeat_at INTEGER,                         -- when it was last heard of, as far as written down
    incarnation  TEXT,                           -- start of the node process that spoke last
    version      INTEGER  NOT NULL                -- rises with every change by an operator; the ETag
) STRICT;

CREATE TABLE join_tokens (
    id            TEXT   NOT NULL PRIMARY KEY,   -- public name, join_…
    secret_sha256 TEXT   NOT NULL UNIQUE,        -- SHA-256 of the secret in hex
    zone          TEXT   NOT NULL REFERENCES zones (name), -- where the node will belong
    node_name     TEXT,                          -- the only name that the node may take
    created_at    INTEGER NOT NULL,               -- when it was made
    expires_at    INTEGER NOT NULL,               -- when it can no longer be redeemed
    created_by    TEXT   NOT NULL,               -- token that made it, or server
    used_at       INTEGER,                        -- when it was redeemed; once
    used_by       TEXT   REFERENCES nodes (id)   -- the node that redeemed it
) STRICT;

CREATE TABLE modules (
    owner      TEXT   NOT NULL REFERENCES tenants (name), -- tenant that published it
    name       TEXT   NOT NULL,                  -- [a-z][a-z0-9-]{0,62}, unique per owner
    visibility TEXT   NOT NULL CHECK (visibility IN ('tenant', 'public')), -- who may see and run it
    created_at INTEGER NOT NULL,                  -- when the first version was published
    PRIMARY KEY (owner, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE module_versions (
    owner        TEXT    NOT NULL,               -- tenant that published it
    name         TEXT    NOT NULL,               -- module name
    version      TEXT    NOT NULL,               -- semantic version 2.0.0, immutable
    digest       TEXT    NOT NULL,               -- sha256:… of the bytes, immutable
    size         INTEGER  NOT NULL,               -- number of bytes
    metadata     TEXT    NOT NULL,               -- what the server read from the bytes, JSON
    deprecated   INTEGER NOT NULL CHECK (deprecated IN (0, 1)), -- whether latest skips it
    published_by TEXT    NOT NULL,               -- token that published it
    created_at   INTEGER  NOT NULL,               -- when it was published
    PRIMARY KEY (owner, name, version),
    FOREIGN KEY (owner, name) REFERENCES modules (owner, name)
) STRICT;
CREATE INDEX module_versions_by_digest ON module_versions (digest);
CREATE TRIGGER module_versions_are_immutable
BEFORE UPDATE OF owner, name, version, digest, size, metadata ON module_versions
BEGIN
    SELECT RAISE(ABORT, 'a module version is immutable');
END;

CREATE TABLE blobs (
    digest     TEXT   NOT NULL PRIMARY KEY,      -- sha256:… of the bytes
    size       INTEGER NOT NULL,                  -- number of bytes
    created_at INTEGER NOT NULL                   -- when it was first stored
) STRICT, WITHOUT ROWID;

CREATE TABLE blob_owners (
    tenant     TEXT   NOT NULL,                  -- may see the blob: it brought the bytes, or its job made them
    digest     TEXT   NOT NULL REFERENCES blobs (digest), -- the blob
    created_at INTEGER NOT NULL,                  -- since when
    PRIMARY KEY (tenant, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempt_blobs (
    job     TEXT   NOT NULL,                     -- the job
    attempt INTEGER NOT NULL,                     -- the attempt's number
    digest  TEXT   NOT NULL REFERENCES blobs (digest), -- an output that this attempt has stored
    PRIMARY KEY (job, attempt, digest)
) STRICT, WITHOUT ROWID;
