"""Supabase's services from the derived texts, with hostile secrets, on the real PostgreSQL, HAProxy, Keycloak and
postgres-meta.

Auth and REST are stand-ins here (standin-supabase-auth, standin-supabase-rest): no package registry has the real ones.
What is proven: the gateway, the keys, what the database's job makes, postgres-meta's closed door, and PostgreSQL's own
row level security under the roles and claims that a request brings.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from ops import frontdoor
from stack.derive.runtime import ContainerPlan, JobPlan
from stack.plan import SecretKey
from tests.live import standing, trial
from tests.live.standing import Standing
from tests.live.trial import HOSTILE, docker

pytestmark = pytest.mark.live

SECRET = SecretKey("supabase", "jwt-secret")
OWN = ("supabase", "supabase-auth", "supabase-rest", "supabase-meta")


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    folder = tmp_path_factory.mktemp("authority")
    with standing.stack(
        "supa", folder, "supabase", services=("supabase-meta",), http_port=9140, https_port=9573, admin_port=9574
    ) as up:
        up.make_realm()
        settled(up)
        yield up


def container(backend: Standing, name: str) -> ContainerPlan:
    return next(step for step in backend.trial.runtime.containers if step.name == backend.name(name))


def database_job(backend: Standing) -> JobPlan:
    return next(step for step in backend.trial.runtime.jobs if step.grant and step.grant.database == "supabase")


def key(backend: Standing, name: str) -> str:
    return backend.trial.secret("supabase", name)


@contextmanager
def app(backend: Standing, **headers: str) -> Iterator[httpx.Client]:
    """A client at the front door's Supabase with these headers."""
    domain, ca = backend.plan.settings.domain, backend.outputs.ca_pem
    with frontdoor.browser(domain, "127.0.0.1", ca) as client:
        client.base_url = httpx.URL(backend.outputs.urls["supabase"])
        client.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        yield client


def settled(backend: Standing) -> None:
    """Wait until the front door has noticed that the gateway is there: it answers, if only that a key is missing."""
    with app(backend) as client:
        trial.eventually(lambda: client.get("/rest/v1/").status_code == 401, 90)


def sql(backend: Standing, statement: str, database: str = "supabase") -> str:
    """What the superuser is told, over the socket."""
    argv = ("psql", "-XAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", statement)
    return docker("exec", backend.name("postgres"), *argv).strip()


ASK_META = """
const crypto = require('crypto-js'), fs = require('fs');
const asked = JSON.parse(fs.readFileSync(0, 'utf8'));
const headers = {'content-type': 'application/json'};
if (asked.connection) headers['x-connection-encrypted'] = crypto.AES.encrypt(asked.connection, asked.key).toString();
fetch('http://127.0.0.1:8080' + asked.path, {
  method: asked.query ? 'POST' : 'GET', headers, body: asked.query ? JSON.stringify({query: asked.query}) : undefined,
}).then(async answer => console.log(JSON.stringify({status: answer.status, text: await answer.text()})));
"""


def meta(backend: Standing, query: str = "", path: str = "/query", **how: str) -> tuple[int, Any]:
    """What postgres-meta answers to Studio: its status and body. role, password, database, key: where not Studio's."""
    password = how.get("password", key(backend, "admin-password"))
    user, database = how.get("role", "supabase_admin"), how.get("database", "supabase")
    connection = f"postgresql://{user}:{encoded(password)}@postgres:5432/{database}"
    if how.get("connection") == "none":
        connection = ""
    secret = how.get("key", backend.trial.secret("supabase-meta", "crypto-key"))
    asked = {"connection": connection, "key": secret, "query": query, "path": path}
    name = backend.name("supabase-meta")
    text = docker("exec", "-i", name, "node", "-e", ASK_META, data=json.dumps(asked).encode())
    answer = json.loads(text)
    return answer["status"], json.loads(answer["text"]) if answer["text"] else None


def encoded(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def forged(claims: dict[str, Any], secret: str, algorithm: str = "HS256") -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = part(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    body = part(json.dumps(claims).encode())
    signature = hmac.new(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}." + (part(signature) if algorithm != "none" else "")


def test_the_proofs_hold_and_leave_nothing(backend: Standing) -> None:
    for service in ("supabase", "supabase-meta"):
        holds, text = backend.prove(service)
        assert holds, text
    assert sql(backend, "SELECT count(*) FROM kit_proof.notes") == "0"
    assert sql(backend, "SELECT count(*) FROM auth.standin_users") == "0"


def test_the_stack_does_without_studio_and_says_so(backend: Standing) -> None:
    assert list(backend.plan.left_out) == ["supabase-studio"]
    assert "supabase-studio" not in {service.name for service in backend.plan.services}


def test_the_database_job_ends_alike_however_often_it_runs(backend: Standing) -> None:
    def everything() -> str:
        roles = docker(
            "exec", backend.name("postgres"), "pg_dumpall", "-U", "postgres", "--roles-only", "--no-role-passwords"
        )
        schema = docker("exec", backend.name("postgres"), "pg_dump", "-U", "postgres", "--schema-only", "supabase")
        lines = f"{roles}{schema}".splitlines()
        return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict", "--")))

    before = everything()
    backend.trial.run(database_job(backend))
    assert everything() == before
    sql(
        backend,
        "DROP EVENT TRIGGER kit_shapes_changed; DROP EVENT TRIGGER kit_private_rows;"
        # As an older setup made it.
        "CREATE EVENT TRIGGER kit_private_rows ON ddl_command_end WHEN TAG IN ('CREATE TABLE')"
        "EXECUTE FUNCTION kit.private_rows();"
        "ALTER ROLE authenticator INHERIT; ALTER ROLE anon BYPASSRLS;"
        "REVOKE service_role FROM authenticator; ALTER TABLE kit_proof.notes DISABLE ROW LEVEL SECURITY;"
        "ALTER ROLE supabase_admin SUPERUSER",
    )
    assert everything() != before
    backend.trial.run(database_job(backend))
    assert everything() == before


def test_a_failing_setup_changes_nothing_and_says_so(backend: Standing) -> None:
    sql(backend, "ALTER ROLE service_role RENAME TO elsewhere; ALTER SCHEMA kit_proof RENAME TO kept")
    sql(backend, "CREATE SCHEMA kit_proof; CREATE VIEW kit_proof.notes AS SELECT 1 AS id")
    try:
        with pytest.raises(RuntimeError, match="notes"):
            backend.trial.run(database_job(backend))
        # What stands before the failure in setup.sql was undone with it: service_role was not made again.
        assert sql(backend, "SELECT count(*) FROM pg_roles WHERE rolname = 'service_role'") == "0"
    finally:
        sql(backend, "DROP SCHEMA kit_proof CASCADE; ALTER SCHEMA kept RENAME TO kit_proof")
        sql(backend, "ALTER ROLE elsewhere RENAME TO service_role")
        backend.trial.run(database_job(backend))


def test_a_new_table_is_in_the_api_and_shows_nothing_until_it_has_a_policy(backend: Standing) -> None:
    table = "CREATE TABLE public.things (owner uuid DEFAULT auth.uid(), name text);"
    status, answer = meta(backend, f"{table} INSERT INTO public.things VALUES (NULL, 'of nobody')")  # noqa: S608
    assert status == 200, answer
    try:
        with app(backend, apikey=key(backend, "anon-key")) as anybody:
            assert anybody.get("/rest/v1/things").json() == []
            assert anybody.post("/rest/v1/things", json={"name": "mine"}).status_code in (401, 403)
        with app(backend, apikey=key(backend, "service-key")) as service:
            assert [row["name"] for row in service.get("/rest/v1/things").json()] == ["of nobody"]
        meta(backend, "CREATE POLICY all_see ON public.things FOR SELECT TO anon USING (name = 'of nobody')")
        with app(backend, apikey=key(backend, "anon-key")) as anybody:
            assert [row["name"] for row in anybody.get("/rest/v1/things").json()] == ["of nobody"]
    finally:
        meta(backend, "DROP TABLE public.things")


def test_a_new_view_shows_no_more_than_the_table_behind_it(backend: Standing) -> None:
    """A view is read as its owner unless told otherwise, and a materialized view has no policies at all."""
    status, answer = meta(
        backend,
        "CREATE TABLE public.things (owner uuid DEFAULT auth.uid(), name text);"
        "INSERT INTO public.things VALUES (NULL, 'of nobody'), (NULL, 'hidden');"
        "CREATE VIEW public.seen AS SELECT name FROM public.things;"
        "CREATE OR REPLACE VIEW public.seen AS SELECT name, owner FROM public.things;"
        'CREATE VIEW public."it\'s; $$ %s" AS SELECT name FROM public.things;'
        "CREATE MATERIALIZED VIEW public.kept AS SELECT name FROM public.things;"
        "CREATE TABLE public.copied AS SELECT name FROM public.things;"
        "SELECT name INTO public.selected FROM public.things",
    )
    assert status == 200, answer
    try:
        with app(backend, apikey=key(backend, "anon-key")) as anybody:
            for name in ("things", "seen", "copied", "selected"):
                assert anybody.get(f"/rest/v1/{name}").json() == [], name
            assert anybody.get("/rest/v1/kept").status_code == 401
        token = forged(
            {"role": "authenticated", "sub": "00000000-0000-4000-8000-000000000001"}, key(backend, "jwt-secret")
        )
        with app(backend, apikey=key(backend, "anon-key"), authorization=f"Bearer {token}") as person:
            assert person.get("/rest/v1/seen").json() == []
            assert person.get("/rest/v1/kept").status_code == 403
        with app(backend, apikey=key(backend, "service-key")) as service:
            for name in ("things", "seen", "kept", "copied", "selected"):
                rows = service.get(f"/rest/v1/{name}").json()
                assert {row["name"] for row in rows} == {"of nobody", "hidden"}, name
        views = "SELECT count(*) FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace"
        assert sql(backend, views) == sql(backend, f"{views} AND 'security_invoker=true' = ANY (reloptions)") == "2"
        meta(backend, "CREATE POLICY all_see ON public.things FOR SELECT TO anon USING (name = 'of nobody')")
        with app(backend, apikey=key(backend, "anon-key")) as anybody:
            assert [row["name"] for row in anybody.get("/rest/v1/seen").json()] == ["of nobody"]
    finally:
        meta(backend, "DROP TABLE public.things CASCADE; DROP TABLE public.copied, public.selected")


def test_the_database_job_runs_nothing_that_a_databases_owner_planted(backend: Standing) -> None:
    """Who owns a database may make functions and operators there, and say where sessions look for such."""
    job = database_job(backend)
    assert job.grant
    # As for a service that asks for an extension: one more statement of the superuser's inside the database.
    job = replace(job, grant=replace(job.grant, extensions=("vector",)))
    become = "ALTER ROLE supabase_admin SUPERUSER"
    status, answer = meta(
        backend,
        "CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE plpgsql AS $$"
        f"BEGIN {become}; RETURN pg_catalog.format($1, VARIADIC ARRAY[$2]); END $$;"
        "CREATE FUNCTION public.alike(name, text) RETURNS boolean LANGUAGE plpgsql AS $$"
        f"BEGIN {become}; RETURN pg_catalog.nameeqtext($1, $2); END $$;"
        "CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = text, FUNCTION = public.alike);"
        "ALTER DATABASE supabase SET search_path = public, pg_catalog",
    )
    assert status == 200, answer
    try:
        rights = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE oid = 'supabase_admin'::regrole"
        backend.trial.run(job)
        assert sql(backend, rights, "postgres") == "f"
        # It would have been run by a superuser that looks where the database says.
        sql(backend, "SELECT format('%s', 'x')")
        assert sql(backend, rights, "postgres") == "t"
    finally:
        sql(backend, "ALTER ROLE supabase_admin NOSUPERUSER; ALTER DATABASE supabase RESET search_path", "postgres")
        sql(backend, "DROP OPERATOR public.= (name, text)")
        sql(backend, "DROP FUNCTION public.format(text, text), public.alike(name, text)")


def test_the_rest_services_probe_needs_an_address_that_can_be_asked(backend: Standing) -> None:
    """As upstream's does: with its default, no address, it refuses to run, and the service would never be healthy."""
    probe = (backend.name("supabase-rest"), "postgrest", "--ready")
    docker("exec", *probe)
    for host in ("", "!4", "*"):
        said = docker("exec", "--env", f"PGRST_ADMIN_SERVER_HOST={host}", *probe, check=False)
        assert f'cannot be used when server-host is configured as "{host or "!4"}"' in said


def test_policies_know_who_asks(backend: Standing) -> None:
    meta(
        backend,
        "CREATE TABLE public.own (owner uuid DEFAULT auth.uid(), name text);"
        "CREATE POLICY own ON public.own TO authenticated USING (owner = auth.uid()) WITH CHECK (owner = auth.uid())",
    )
    secret = backend.trial.values[SECRET]
    people = [f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2)]
    tokens = [forged({"role": "authenticated", "sub": person}, secret) for person in people]
    try:
        for person, token in zip(people, tokens, strict=True):
            with app(backend, apikey=key(backend, "anon-key"), authorization=f"Bearer {token}") as client:
                assert client.post("/rest/v1/own", json={"name": HOSTILE}).status_code == 201
                other = next(one for one in people if one != person)
                assert client.post("/rest/v1/own", json={"name": "x", "owner": other}).status_code == 403
        with app(backend, apikey=key(backend, "anon-key"), authorization=f"Bearer {tokens[0]}") as client:
            assert client.get("/rest/v1/own").json() == [{"owner": people[0], "name": HOSTILE}]
            client.patch("/rest/v1/own", params={"owner": f"eq.{people[1]}"}, json={"name": "taken"})
            client.delete("/rest/v1/own", params={"owner": f"eq.{people[1]}"})
        with app(backend, apikey=key(backend, "anon-key"), authorization=f"Bearer {tokens[1]}") as client:
            assert client.get("/rest/v1/own").json() == [{"owner": people[1], "name": HOSTILE}]
    finally:
        meta(backend, "DROP TABLE public.own")


def test_a_token_is_worth_its_signature_and_no_role_more_than_the_three(backend: Standing) -> None:
    secret = backend.trial.values[SECRET]
    bad = {
        "another secret": forged({"role": "service_role"}, "another" + secret),
        "no signature": forged({"role": "service_role"}, secret, "none"),
        "expired": forged({"role": "service_role", "exp": 1_600_000_000}, secret),
        "a role of the server": forged({"role": "supabase_admin"}, secret),
        "the superuser": forged({"role": "postgres"}, secret),
        "another database's": forged({"role": "keycloak"}, secret),
    }
    for what, token in bad.items():
        with app(
            backend, apikey=key(backend, "anon-key"), authorization=f"Bearer {token}", accept_profile="kit_proof"
        ) as client:
            assert client.get("/rest/v1/notes").status_code in (400, 401, 403), what


def test_the_gateway_asks_for_a_key_and_nothing_slips_by(backend: Standing) -> None:
    anon = key(backend, "anon-key")
    with app(backend) as stranger:
        for path in ("/auth/v1/health", "/auth/v1/callback/", "/auth/v1/authorizeX", "/auth/v1/Verify", "/rest/v1/"):
            assert stranger.get(path).status_code == 401, path
        for value in (
            "",
            anon[:-1],
            anon + "x",
            anon.upper(),
            f"{anon},{anon}x",
            "*",
            "eyJ",
            HOSTILE[:20].encode("ascii", "ignore").decode(),
        ):
            assert stranger.get("/auth/v1/settings", headers={"apikey": value}).status_code in (400, 401), value
        assert stranger.get(f"/auth/v1/settings?apikey={anon}").status_code == 401  # would stand in logs
        assert stranger.get("/auth/v1/settings", headers={"apikey": anon}).json()["disable_signup"] is True
        for path in ("/", "/pg/tables", "/storage/v1/", "/auth/v1", "/rest", "/healthz"):
            assert stranger.get(path, headers={"apikey": anon}).status_code == 403, path


def test_browsers_of_any_origin_may_ask_and_are_told_so_without_a_key(backend: Standing) -> None:
    asked = {
        "origin": "https://app.example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": "apikey,authorization,content-type,prefer",
    }
    with app(backend) as stranger:
        answer = stranger.options("/rest/v1/notes", headers=asked)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        assert stranger.options("/rest/v1/notes").status_code == 401
        refused = stranger.get("/rest/v1/notes", headers={"origin": asked["origin"]})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "*"


def test_meta_has_no_way_to_a_database_but_the_one_that_studio_brings(backend: Standing) -> None:
    assert meta(backend, "SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user") == (
        200,
        [{"rolname": "supabase_admin", "rolsuper": False}],
    )
    status, tables = meta(backend, path="/tables?included_schemas=kit_proof")
    assert status == 200 and [(table["name"], table["rls_enabled"]) for table in tables] == [("notes", True)]
    for how in ({"connection": "none"}, {"key": "another"}):
        status, answer = meta(backend, "SELECT 1 AS one", **how)
        assert status >= 400 and "one" not in json.dumps(answer), answer


def test_studios_role_stays_in_its_database_and_is_no_superuser(backend: Standing) -> None:
    for database in ("keycloak", "postgres"):
        status, answer = meta(backend, "SELECT 1 AS one", database=database)
        assert status >= 400, answer
    for statement in (
        "CREATE ROLE more SUPERUSER",
        "ALTER ROLE supabase_admin SUPERUSER",
        "COPY (SELECT 1) TO PROGRAM 'id'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT rolpassword FROM pg_authid",
        "DROP EVENT TRIGGER kit_private_rows",
        "DROP DATABASE keycloak",
        "ALTER ROLE keycloak PASSWORD 'mine'",
    ):
        status, answer = meta(backend, statement)
        assert status >= 400, (statement, answer)
    for role in ("authenticator", "supabase_auth_admin"):
        password = key(backend, {"authenticator": "rest-password"}.get(role, "auth-password"))
        assert meta(backend, "SELECT 1", role=role, password=password)[0] == 200
        assert meta(backend, "SELECT 1", role=role, password=password, database="keycloak")[0] >= 400


def test_no_secret_shows(backend: Standing) -> None:
    needles = [HOSTILE, HOSTILE[:12], encoded(HOSTILE)[:24], json.dumps(HOSTILE)[1:-1]]
    needles += [key(backend, name).rpartition(".")[2] for name in ("anon-key", "service-key")]
    for name in (*(backend.name(each) for each in OWN), backend.name("postgres"), database_job(backend).name):
        for text in (docker("logs", name, check=False), docker("inspect", name)):
            for needle in needles:
                assert needle not in text, f"{name} shows a secret"
    for name in OWN:
        assert HOSTILE[:12] not in docker("top", backend.name(name), "-eo", "pid,args")


def test_containers_are_closed_in(backend: Standing) -> None:
    for name in OWN:
        state = json.loads(docker("inspect", backend.name(name)))[0]
        assert state["HostConfig"]["ReadonlyRootfs"], name
        assert not state["NetworkSettings"]["Ports"] or not any(state["NetworkSettings"]["Ports"].values()), name
        wanted = {"kit-supa-app"} if name == "supabase" else {"kit-supa-app", "kit-supa-data"}
        assert set(state["NetworkSettings"]["Networks"]) == wanted


def test_killed_services_come_back(backend: Standing) -> None:
    for name in ("supabase", "supabase-auth", "supabase-rest", "supabase-meta"):
        docker("kill", backend.name(name))
        docker("start", backend.name(name))
        backend.trial.wait_healthy(container(backend, name))
    settled(backend)
    with app(backend, apikey=key(backend, "anon-key")) as client:
        trial.eventually(lambda: client.get("/auth/v1/settings").status_code == 200, 60)
        trial.eventually(lambda: client.get("/rest/v1/none").status_code == 404, 60)


def test_a_new_secret_ends_the_old_keys(backend: Standing) -> None:
    old = key(backend, "service-key")
    before = dict(backend.trial.values)
    backend.trial.values[SECRET] = "made anew " + HOSTILE
    standing.sign(backend.plan, backend.trial.values)
    try:
        for name in ("supabase-auth", "supabase-rest", "supabase"):
            backend.trial.start(container(backend, name))
            backend.trial.wait_healthy(container(backend, name))
        settled(backend)
        assert key(backend, "service-key") != old
        with app(backend) as client:
            trial.eventually(
                lambda: (
                    client.get("/auth/v1/admin/users", headers={"apikey": key(backend, "service-key")}).status_code
                    == 200
                ),
                60,
            )
            assert client.get("/auth/v1/admin/users", headers={"apikey": old}).status_code == 401
            # One that knows the new public key and the old service key is still nobody's administrator.
            mixed = {"apikey": key(backend, "anon-key"), "authorization": f"Bearer {old}"}
            assert client.get("/auth/v1/admin/users", headers=mixed).status_code in (401, 403)
            assert client.get("/rest/v1/notes", headers={**mixed, "accept-profile": "kit_proof"}).status_code == 401
    finally:
        backend.trial.values.update(before)
        for name in ("supabase-auth", "supabase-rest", "supabase"):
            backend.trial.start(container(backend, name))
            backend.trial.wait_healthy(container(backend, name))
        settled(backend)


def test_memory_stays_below_the_limits(backend: Standing) -> None:
    for name in OWN:
        used = trial.memory_mb(backend.name(name))
        print(f"{name}: {used:.0f} of {container(backend, name).limits.memory_mb} MB")
        assert used < 0.9 * container(backend, name).limits.memory_mb
