-- What Supabase's services expect of their database, beside what they make themselves (auth migrates its own schema).
-- Run by the superuser, in one transaction, any number of times. Nobody but the superuser is one: Studio's role owns
-- this database and nothing else, since other services' databases are on the same server. The job looks for functions
-- and operators in pg_catalog alone, since people make their own in `public`.
SET LOCAL client_min_messages = warning;

-- Roles that a request takes on. They cannot log in; `authenticator`, as whom the REST service does, may become them.
SELECT pg_catalog.format('CREATE ROLE %I', wanted.name)
  FROM (VALUES ('anon'), ('authenticated'), ('service_role')) AS wanted (name)
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name) \gexec
ALTER ROLE anon          NOLOGIN NOSUPERUSER NOINHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE authenticated NOLOGIN NOSUPERUSER NOINHERIT NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE service_role  NOLOGIN NOSUPERUSER NOINHERIT NOCREATEDB NOCREATEROLE NOREPLICATION BYPASSRLS;
ALTER ROLE authenticator       NOINHERIT NOBYPASSRLS;
ALTER ROLE supabase_auth_admin NOINHERIT NOBYPASSRLS;
ALTER ROLE supabase_admin      INHERIT BYPASSRLS;
GRANT anon, authenticated, service_role TO authenticator;
GRANT supabase, supabase_auth_admin, anon, authenticated, service_role TO supabase_admin;

-- These roles have no business in the server's own databases, which everybody may otherwise connect to.
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;

-- Nobody's query holds the server for long.
ALTER ROLE anon          SET statement_timeout = '3s';
ALTER ROLE authenticated SET statement_timeout = '8s';
ALTER ROLE authenticator SET statement_timeout = '8s';
ALTER ROLE authenticator SET lock_timeout = '8s';

-- Extensions, where everybody may use them and nobody's tables are.
CREATE SCHEMA IF NOT EXISTS extensions;
CREATE EXTENSION IF NOT EXISTS pgcrypto WITH SCHEMA extensions;
CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA extensions;
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA extensions;
GRANT USAGE ON SCHEMA extensions TO anon, authenticated, service_role, supabase, supabase_admin, supabase_auth_admin;
ALTER ROLE supabase_admin SET search_path = "$user", public, extensions;

-- The auth service migrates this schema itself. Policies call its functions: auth.uid(), auth.role(), auth.jwt().
CREATE SCHEMA IF NOT EXISTS auth;
ALTER SCHEMA auth OWNER TO supabase_auth_admin;
ALTER ROLE supabase_auth_admin SET search_path = auth;
GRANT CREATE ON DATABASE supabase TO supabase_auth_admin;
GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;

-- Tables that are made here can be reached by those roles, as with Supabase; what of them can be seen is up to the
-- policies of each.
GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE supabase, supabase_admin IN SCHEMA public
    GRANT ALL ON TABLES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE supabase, supabase_admin IN SCHEMA public
    GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE supabase, supabase_admin IN SCHEMA public
    GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;

CREATE SCHEMA IF NOT EXISTS kit;
REVOKE ALL ON SCHEMA kit FROM PUBLIC;

-- What is new in `public` shows nobody anything by itself, instead of everything to whoever has the public key. A table
-- begins with row level security on. A view is read as who asks, not as its owner, whom no policy holds. A materialized
-- view has no policies: it is for the service key alone until somebody grants more.
CREATE OR REPLACE FUNCTION kit.private_rows() RETURNS event_trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    made record;
BEGIN
    FOR made IN
        SELECT objid::regclass AS name, object_type AS kind FROM pg_event_trigger_ddl_commands()
         WHERE object_type IN ('table', 'view', 'materialized view') AND schema_name = 'public' AND NOT in_extension
    LOOP
        CASE made.kind
            WHEN 'table' THEN
                EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', made.name);
            WHEN 'view' THEN
                EXECUTE format('ALTER VIEW %s SET (security_invoker = true)', made.name);
            ELSE
                EXECUTE format('REVOKE ALL ON %s FROM anon, authenticated', made.name);
        END CASE;
    END LOOP;
END
$$;

-- The REST service reads the tables' shapes once: it is told when they change.
CREATE OR REPLACE FUNCTION kit.shapes_changed() RETURNS event_trigger
    LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    NOTIFY pgrst, 'reload schema';
END
$$;

-- Made anew each time: a stack that is there already gets what has changed here.
DROP EVENT TRIGGER IF EXISTS kit_private_rows;
CREATE EVENT TRIGGER kit_private_rows ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE VIEW', 'CREATE MATERIALIZED VIEW')
    EXECUTE FUNCTION kit.private_rows();
DROP EVENT TRIGGER IF EXISTS kit_shapes_changed;
CREATE EVENT TRIGGER kit_shapes_changed ON ddl_command_end EXECUTE FUNCTION kit.shapes_changed();
DROP EVENT TRIGGER IF EXISTS kit_shapes_dropped;
CREATE EVENT TRIGGER kit_shapes_dropped ON sql_drop EXECUTE FUNCTION kit.shapes_changed();

-- Where the proof of use writes: a table in a schema of its own, private by row, empty between proofs.
CREATE SCHEMA IF NOT EXISTS kit_proof;
GRANT USAGE ON SCHEMA kit_proof TO authenticated, service_role;
CREATE TABLE IF NOT EXISTS kit_proof.notes (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner uuid NOT NULL DEFAULT (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid,
    body  text NOT NULL CHECK (length(body) <= 1000)
);
ALTER TABLE kit_proof.notes ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, DELETE ON kit_proof.notes TO authenticated, service_role;
DROP POLICY IF EXISTS own ON kit_proof.notes;
CREATE POLICY own ON kit_proof.notes TO authenticated
    USING (owner = (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid)
    WITH CHECK (owner = (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid);
