-- The credential store of workflows: what it holds, and what the one role that works with it may do.
-- Run by the superuser, in one transaction, any number of times. The tables are the superuser's: the database's own role
-- is nobody's login, and `credential_store` may add to the audit log, read it, and nothing else.
SET LOCAL client_min_messages = warning;

CREATE SCHEMA IF NOT EXISTS store;
REVOKE ALL ON SCHEMA store FROM PUBLIC;

-- current: the version that counts. n8n_version: the one that n8n has, behind while an injection is owed. seal and
-- settings: digests by which an import sees that the configuration's value changed.
CREATE TABLE IF NOT EXISTS store.credential (
    name        text PRIMARY KEY,
    kind        text NOT NULL,
    current     integer NOT NULL CHECK (current > 0),
    n8n_id      text,
    n8n_version integer,
    seal        text,
    settings    text,
    checked     text,
    checked_at  timestamptz
);

-- Encrypted before it comes here; key_id says with which key, and gives nothing of it away.
CREATE TABLE IF NOT EXISTS store.version (
    name       text NOT NULL REFERENCES store.credential,
    version    integer NOT NULL CHECK (version > 0),
    key_id     text NOT NULL,
    nonce      bytea NOT NULL,
    ciphertext bytea NOT NULL,
    made_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    made_by    text NOT NULL,
    retired_at timestamptz,
    PRIMARY KEY (name, version)
);

-- who is what the program said; login is what the server knows.
CREATE TABLE IF NOT EXISTS store.audit (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    login   text NOT NULL DEFAULT session_user,
    who     text NOT NULL,
    action  text NOT NULL,
    name    text NOT NULL,
    version integer,
    detail  text NOT NULL DEFAULT ''
);

-- Also for who owns the table: what was written stays until somebody takes this away as superuser.
CREATE OR REPLACE FUNCTION store.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only added to';
END
$$;
CREATE OR REPLACE TRIGGER final BEFORE UPDATE OR DELETE OR TRUNCATE ON store.audit
    FOR EACH STATEMENT EXECUTE FUNCTION store.refuse();
ALTER TABLE store.audit ENABLE ALWAYS TRIGGER final;

-- Nothing is left of what an older setup granted.
REVOKE ALL ON ALL TABLES IN SCHEMA store FROM credential_store;
GRANT CONNECT ON DATABASE credentials TO credential_store;
GRANT USAGE ON SCHEMA store TO credential_store;
GRANT SELECT ON ALL TABLES IN SCHEMA store TO credential_store;
GRANT INSERT (name, kind, current), UPDATE (current, n8n_id, n8n_version, seal, settings, checked, checked_at)
    ON store.credential TO credential_store;
-- Values change where they are in one case: with the store's key.
GRANT INSERT (name, version, key_id, nonce, ciphertext, made_by), UPDATE (key_id, nonce, ciphertext, retired_at)
    ON store.version TO credential_store;
-- Neither the time nor the login can be said by who writes.
GRANT INSERT (who, action, name, version, detail) ON store.audit TO credential_store;
