"""The jobs that make databases and end logins, on the real server: hostile names, passwords, and a hostile owner.

Names of services and passwords that Pulumi makes are harmless. What runs as superuser must not rely on that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from stack import plan as planning
from stack.catalog import discover
from stack.derive import runtime
from stack.derive.runtime import FilePlan, JobPlan
from stack.rotation import Wish
from tests.live import standing
from tests.live.trial import HOSTILE, Trial, docker

pytestmark = pytest.mark.live

STACK = "sql"
SERVER = f"kit-{STACK}-postgres"
ROLE = "r\"o'l\\e; DROP TABLE x;--$$ $1 é€😀 (a.b)+\n%I"
DATABASE = "d\"b'=\\ host=nowhere; $(id) `id` 😀\n%s"
FURTHER = "f\"u'r\\ther; $x 😀"
FIRST = f"first {HOSTILE}"
SECOND = f"second {HOSTILE}"
THIRD = f"third {HOSTILE}"
LINES = f"\n{HOSTILE}\r\n'; DROP ROLE postgres;\n$$\n\n"  # which psql's own files could not hold: the job has none

# Whoever calls one of these as superuser makes the role one, too.
TRAPS = """
CREATE SCHEMA trap;
CREATE FUNCTION trap.spring() RETURNS void LANGUAGE plpgsql AS
$trap$BEGIN EXECUTE pg_catalog.format('ALTER ROLE %I SUPERUSER', ROLE_NAME); EXCEPTION WHEN OTHERS THEN NULL; END$trap$;
CREATE FUNCTION trap.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT trap.spring(); SELECT ''SELECT 1''';
CREATE FUNCTION trap.format(text, name) RETURNS text LANGUAGE sql AS 'SELECT trap.spring(); SELECT ''SELECT 1''';
CREATE FUNCTION trap.format(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT trap.spring(); SELECT ''SELECT 1''';
CREATE FUNCTION trap.left(text, int) RETURNS text LANGUAGE sql AS 'SELECT trap.spring(); SELECT ''x''';
CREATE FUNCTION trap.pg_terminate_backend(int, bigint) RETURNS bool LANGUAGE sql AS 'SELECT trap.spring(); SELECT true';
CREATE FUNCTION trap.differ(name, text) RETURNS bool LANGUAGE sql AS 'SELECT trap.spring(); SELECT false';
CREATE OPERATOR trap.<> (LEFTARG = name, RIGHTARG = text, FUNCTION = trap.differ);
CREATE OPERATOR trap.= (LEFTARG = name, RIGHTARG = text, FUNCTION = trap.differ);
CREATE TABLE trap.pg_roles (rolname name, rolcanlogin bool);
"""


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    doubled = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{doubled}'"


@dataclass
class Server:
    """One server, and the jobs of its rotation with other names and passwords in them."""

    trial: Trial
    make: JobPlan
    end: JobPlan
    image: str

    def database(self, user: str, password: str, *files: FilePlan, role: str = ROLE, database: str = DATABASE) -> str:
        assert self.make.grant
        grant = replace(self.make.grant, database=database, role=role, extensions=("vector",), password=(password,))
        env = {**self.make.env, "KIT_USER": user}
        env.pop("KIT_REPLICATION")
        return self.trial.run(replace(self.make, env=env, grant=grant, files=(*self.make.files, *files)))

    def retire(self, user: str, password: str, before: str, previous: str) -> str:
        said = {"KIT_DATABASE": DATABASE, "KIT_ROLE": ROLE, "KIT_USER": user, "KIT_PREVIOUS_USER": before}
        files = [file for file in self.end.files if file.name not in ("password", "previous")]
        files += [secret("password", password), secret("previous", previous)]
        return self.trial.run(replace(self.end, env={**self.end.env, **said}, files=tuple(files)))

    def superuser(self, query: str) -> list[str]:
        psql = ("psql", "-XAtq", "-h", "/var/run/postgresql", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-f", "-")
        return docker("exec", "-i", SERVER, *psql, data=query.encode()).splitlines()

    def as_role(self, user: str, password: str, query: str, database: str = DATABASE) -> str:
        """Over the network, as a service."""
        argv = ["run", "--rm", "-i", "--network", f"kit-{STACK}-data", "--entrypoint", "psql"]
        for name, value in (("HOST", "postgres"), ("USER", user), ("PASSWORD", password), ("DATABASE", database)):
            argv += ["-e", f"PG{name}={value}"]
        return docker(*argv, self.image, "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-", data=query.encode()).rstrip("\n")


def secret(name: str, value: str) -> FilePlan:
    return FilePlan(name=name, text=(value,), mode="0400", restarts=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("sql")
    with standing.stack(STACK, folder, services=("postgres-replica",), start=False) as made:
        settings = replace(made.plan.settings, rotation={"postgres": Wish(2)})
        rotated = replace(made.trial, runtime=runtime.build(planning.build(settings, made.plan.host, discover())))
        jobs = {job.name: job for job in rotated.runtime.jobs}
        image = next(step.image for step in rotated.runtime.containers if step.name == SERVER)
        name = f"kit-{STACK}-database-postgres-replica"
        try:
            made.trial.up(only=("postgres",))
            yield Server(rotated, jobs[name], jobs[f"{name}-retire"], image)
        finally:
            rotated.down()


def test_hostile_names_passwords_and_owners(server: Server) -> None:
    """One story: each part needs what the one before left."""
    further = secret(f"logins/{FURTHER}", LINES)
    for _ in range(2):  # any number of runs end alike
        server.database(ROLE, LINES, further)
    assert server.as_role(ROLE, LINES, "SELECT current_user || ' in ' || current_database()") == f"{ROLE} in {DATABASE}"
    assert server.as_role(FURTHER, LINES, "SELECT current_user") == FURTHER
    with pytest.raises(RuntimeError, match="password authentication failed"):
        server.as_role(ROLE, LINES.strip(), "SELECT 1")
    server.database(ROLE, FIRST)

    # What the owner of a database may do to whoever comes later.
    server.as_role(ROLE, FIRST, TRAPS.replace("ROLE_NAME", literal(ROLE)))
    path = 'trap, "O\'d""d, \\ one", "$user", pg_catalog, public'
    me = identifier(ROLE)
    server.as_role(
        ROLE,
        FIRST,
        f"CREATE TABLE public.kept AS SELECT 1 AS n;"
        f"ALTER ROLE {me} SET search_path TO {path};"
        f"ALTER ROLE {me} SET application_name TO {literal(HOSTILE[:20])};"
        f"ALTER ROLE {me} IN DATABASE {identifier(DATABASE)} SET statement_timeout TO '70s';"
        f"ALTER DATABASE {identifier(DATABASE)} SET search_path TO trap, public;"
        f"ALTER DATABASE {identifier(DATABASE)} SET default_transaction_read_only TO on;",
    )
    told = "SELECT pg_catalog.array_agg(pg_catalog.current_setting(n) ORDER BY n) FROM pg_catalog.unnest(ARRAY[{}]) n"
    told = told.format("'application_name','search_path','statement_timeout'")
    first = server.as_role(ROLE, FIRST, told)
    assert "trap" in first and "O'd" in first and "70s" in first

    # Logins that only look like older ones of this role, where its name is taken for a pattern.
    near = ROLE.replace("(a.b)+", "aZb") + ".2"
    server.superuser(f"CREATE ROLE {identifier(near)} LOGIN; CREATE ROLE {identifier(ROLE + '.2x')} LOGIN;")

    second, third = f"{ROLE}.2", f"{ROLE}.3"
    server.database(second, SECOND)
    assert server.as_role(second, SECOND, told) == first
    assert "is refused" in server.retire(second, SECOND, ROLE, FIRST)
    server.database(third, THIRD)
    assert "is refused" in server.retire(third, THIRD, second, SECOND)
    assert server.as_role(third, THIRD, told) == first
    read = "SELECT n FROM public.kept"
    assert server.as_role(third, THIRD, read) == "1"
    for user, password in ((ROLE, FIRST), (second, SECOND), (third, SECOND), (third, FIRST)):
        with pytest.raises(RuntimeError, match=r"password authentication failed|not permitted to log in"):
            server.as_role(user, password, "SELECT 1")

    powerful = "SELECT rolname FROM pg_roles WHERE rolsuper OR rolcreaterole OR rolcreatedb"
    assert server.superuser(powerful) == ["postgres"]
    logins = server.superuser("SELECT replace(rolname, E'\\n', '~') FROM pg_roles WHERE rolcanlogin ORDER BY 1")
    kept = {each.replace("\n", "~") for each in (FURTHER, near, f"{ROLE}.2x", third, "postgres")}
    assert set(logins) == kept
    said = docker("logs", SERVER, check=False)
    for job in (server.make.name, server.end.name):
        said += docker("logs", job, check=False) + docker("inspect", job)
    assert HOSTILE[:12] not in said


def test_a_password_that_cannot_be_is_refused(server: Server) -> None:
    with pytest.raises(RuntimeError, match=r"the password of role .* is empty"):
        server.database("nobody", "", role="nobody", database="nobody")
    assert server.superuser("SELECT count(*) FROM pg_roles WHERE rolname = 'nobody'") == ["0"]
