-- Tokens that a token without the scope `admin` made go with it.

-- The token that made it, if that lacks the scope `admin`: when it is taken back, so is this one.
ALTER TABLE tokens ADD COLUMN maker TEXT REFERENCES tokens (id);
-- Finds what goes with a token.
CREATE INDEX tokens_by_maker ON tokens (maker) WHERE maker IS NOT NULL;
-- Counts those of a tenant that are live.
CREATE INDEX tokens_made ON tokens (tenant, expires_at) WHERE maker IS NOT NULL AND revoked_at IS NULL;
