"""OpenBao on its real program, started with plain docker from the derived texts, with hostile secrets.

Proves that it sets itself up, unseals itself after a kill and refuses a volume that another key sealed; that policies
hold; that the database logins it makes act as the role, end, and are followed without a refused connection by what n8n
connects with; that no secret is seen from outside.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from stack.catalog import discover
from stack.derive.encode import encode
from stack.model import Encoding, ServiceSpec
from stack.plan import SecretKey
from tests.live import standing, trial
from tests.live.standing import Standing
from tests.live.trial import HOSTILE, docker

pytestmark = pytest.mark.live

SETUP, SEAL, OWNER = (SecretKey("openbao", name) for name in ("setup", "seal", "owner-password"))


PASSWORD = SecretKey("n8n", "db:n8n")
TTL_S, MAX_TTL_S = 20, 40  # instead of an hour and a day


def catalogue() -> tuple[ServiceSpec, ...]:
    """The services, with n8n as one container without what a login at its page needs."""
    return tuple(_alone(spec) if spec.name == "n8n" else spec for spec in discover())


def _alone(spec: ServiceSpec) -> ServiceSpec:
    url = {"N8N_EDITOR_BASE_URL": "http://n8n:5678/", "WEBHOOK_URL": "http://n8n:5678/", "KIT_CONNECTION_LIFE": "1"}
    main = spec.container()
    return replace(
        spec,
        routes=(),
        jobs=(),
        workflow_importer=None,
        proofs=(),
        choices=(),
        containers=(replace(main, env={**main.env, **url}),),
    )


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    folder = tmp_path_factory.mktemp("authority")
    ports: dict[str, Any] = {"http_port": 21132, "https_port": 21133, "admin_port": 21134}
    services: dict[str, Any] = {"services": ("n8n",), "catalogue": catalogue()}
    with standing.stack("bao", folder, "vault", start=False, **services, **ports) as up:
        # Values of their own, for those that must be told apart.
        up.trial.values |= {OWNER: "owner " + HOSTILE, PASSWORD: "n8n " + HOSTILE}
        up.trial.up()
        yield up


def bao(vault: Standing, *argv: str, data: str = "", token: str = "", check: bool = True) -> str:
    """Run bao inside; the token reaches it by its standard input, and what else is said there comes after it."""
    script = 'read -r BAO_TOKEN; [ -z "$BAO_TOKEN" ] || export BAO_TOKEN; exec bao "$@"'
    name = vault.name("openbao")
    return docker("exec", "-i", name, "sh", "-c", script, "-", *argv, data=f"{token}\n{data}".encode(), check=check)


def owner(vault: Standing) -> str:
    """A token of the owner, who logs in with the password that the stack hands out."""
    password = vault.trial.secret(OWNER.owner, OWNER.name)
    said = bao(vault, "write", "-field=token", "auth/userpass/login/owner", "password=-", data=password)
    return said.strip()


def sql(vault: Standing, statement: str, *, login: tuple[str, str] | None = None, database: str = "postgres") -> str:
    """As the superuser over the socket, or as somebody over the network as services do."""
    argv = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement]
    if login is None:
        return docker("exec", vault.name("postgres"), *argv, "-U", "postgres", "-d", database).strip()
    script = 'PGPASSWORD=$(cat) exec "$@"'
    where = ["-h", vault.name("postgres"), "-U", login[0], "-d", database]
    return docker(
        "exec", "-i", vault.name("postgres"), "sh", "-c", script, "-", *argv, *where, data=login[1].encode()
    ).strip()


def access(vault: Standing) -> str:
    return vault.trial.run(vault.job("openbao-access"))


def restart(vault: Standing) -> None:
    vault.trial.start(vault.container("openbao"))
    vault.trial.wait_healthy(vault.container("openbao"))


def test_it_sets_itself_up_and_the_proof_holds(vault: Standing) -> None:
    holds, text = vault.prove("openbao")
    assert holds, text
    said = docker("logs", vault.job("openbao-access").name)
    assert "refused to three others" in said and "taken back, and refused" in said
    state = json.loads(bao(vault, "status", "-format=json"))
    assert state["type"] == "static" and state["storage_type"] == "raft" and not state["sealed"]


def test_a_second_run_ends_alike_and_leaves_no_secret_behind(vault: Standing) -> None:
    token = owner(vault)
    kept = bao(vault, "list", "auth/approle/role/kit-setup/secret-id", token=token).split()
    assert len(kept) == 3, "a heading of two words, and one secret"
    assert "kit-proo" not in sql(vault, "SELECT string_agg(rolname, ' ') FROM pg_roles")


def test_there_is_no_root_token_and_nothing_without_a_token(vault: Standing) -> None:
    token = owner(vault)
    for accessor in bao(vault, "list", "auth/token/accessors", token=token).split()[2:]:
        said = bao(vault, "token", "lookup", "-format=json", "-accessor", accessor, token=token, check=False)
        assert '"root"' not in said
    for path in ("kv/data/kit/proof", "sys/policies/acl/owner", "database/creds/kit-proof"):
        assert "permission denied" in bao(vault, "read", path, check=False)
    wrong = bao(vault, "write", "auth/userpass/login/owner", "password=-", data="wrong", check=False)
    assert "invalid username or password" in wrong


def test_what_was_written_outlives_a_kill_and_is_unsealed_by_itself(vault: Standing) -> None:
    bao(vault, "kv", "put", "-mount=kv", "kept", "value=-", token=owner(vault), data=HOSTILE)
    docker("kill", vault.name("openbao"))
    began = time.monotonic()
    docker("start", vault.name("openbao"))
    vault.trial.wait_healthy(vault.container("openbao"))
    print(f"openbao: {time.monotonic() - began:.1f} s from the start after a kill to unsealed")
    restart(vault)  # another container on the same volume
    assert bao(vault, "kv", "get", "-mount=kv", "-field=value", "kept", token=owner(vault)).strip() == HOSTILE


def test_a_volume_that_another_key_sealed_is_refused_before_anything_starts(vault: Standing) -> None:
    vault.trial.values[SEAL] = "another " + HOSTILE
    try:
        with pytest.raises(RuntimeError, match=r"(?s)sealed with another key than this stack's.*docker volume rm"):
            vault.trial.run(vault.job("openbao-volume"))
        # And whoever starts it all the same finds it sealed, with the reason in its log.
        vault.trial.start(vault.container("openbao"))
        trial.eventually(lambda: "unknown key id" in docker("logs", vault.name("openbao"), check=False), 30)
        assert json.loads(bao(vault, "status", "-format=json", check=False))["sealed"]
    finally:
        vault.trial.values[SEAL] = HOSTILE
        restart(vault)
    assert "with the key of this stack" in vault.trial.run(vault.job("openbao-volume"))


# --------------------------------------------------------------------------------------------------- database logins


def current(vault: Standing) -> dict[str, str]:
    """The login that n8n's agent holds."""
    return json.loads(docker("exec", vault.name("n8n-login"), "cat", "/run/login/login"))


def test_n8n_has_no_password_of_its_own_and_what_it_makes_is_the_roles(vault: Standing) -> None:
    login = current(vault)
    assert re.fullmatch(r"v-approle-n8n-[A-Za-z0-9]{20}-\d+", login["user"])
    files = docker("exec", vault.name("n8n"), "ls", "/run/kit").split()
    assert "own-connection" in files and not {"database-password", "database-user"} & set(files)
    inside = docker("exec", vault.name("n8n"), "sh", "-c", "cat /run/kit/* /run/login/*", check=False)
    assert vault.trial.values[PASSWORD] not in inside and HOSTILE in inside
    # Its connections live for a second here: not at every moment there is one.
    here = "SELECT string_agg(usename, ' ') FROM pg_stat_activity WHERE datname = 'n8n'"
    trial.eventually(lambda: "v-approle-n8n-" in sql(vault, here), 60)
    owners = sql(
        vault, "SELECT string_agg(DISTINCT tableowner, ' ') FROM pg_tables WHERE schemaname = 'public'", database="n8n"
    )
    assert owners == "n8n"


def test_who_makes_logins_makes_no_others(vault: Standing) -> None:
    maker = ("openbao", vault.trial.secret("openbao", "db:openbao"))
    for statement in (
        "CREATE ROLE mighty SUPERUSER",
        "ALTER ROLE postgres PASSWORD 'x'",
        "CREATE ROLE other IN ROLE pg_read_all_data",
        "DROP ROLE postgres",
        "SET ROLE n8n",
        "CREATE DATABASE other",
    ):
        with pytest.raises(RuntimeError, match=r"permission denied|must be|cannot"):
            sql(vault, statement, login=maker, database="openbao")
    with pytest.raises(RuntimeError, match="permission denied for database"):
        sql(vault, "SELECT 1", login=maker, database="n8n")


def test_its_agent_may_ask_for_nothing_else(vault: Standing) -> None:
    key = encode(vault.trial.secret("n8n", "lease-key"), Encoding.HEX_32)
    argv = ("write", "-field=token", "auth/approle/login", "role_id=lease-n8n", "secret_id=-")
    token = bao(vault, *argv, data=key).strip()
    for path in ("kv/data/kit/proof", "database/creds/kit-proof", "database/config/postgres"):
        assert "permission denied" in bao(vault, "read", path, token=token, check=False)
    lease = json.loads(bao(vault, "read", "-format=json", "database/creds/n8n", token=token))
    login = (lease["data"]["username"], lease["data"]["password"])
    assert sql(vault, "SELECT current_user", login=login, database="n8n") == "n8n"
    bao(vault, "lease", "revoke", "-sync", lease["lease_id"], token=owner(vault))
    with pytest.raises(RuntimeError, match="password authentication failed"):
        sql(vault, "SELECT 1", login=login, database="n8n")


# What n8n connects with, through the hook as n8n has it: a connection and a query 20 times a second.
LOAD = r"""
const fs = require('node:fs');
const pg = require('pg');
const own = fs.readFileSync('/run/kit/own-connection', 'utf8');
const where = { host: process.env.DB_POSTGRESDB_HOST, port: 5432, database: 'n8n', user: 'n8n', password: own };
const pool = new pg.Pool({ ...where, max: 5 });
pool.on('error', (error) => failed('idle: ' + error.message));
const seconds = Number(process.argv[2]);
let done = 0, slowest = 0; const errors = [], users = new Set(), roles = new Set();
const failed = (text) => errors.push(text);
async function one(fresh) {
    const began = Date.now();
    const statement = 'SELECT session_user AS login, current_user AS role';
    try {
        let said;
        if (fresh) {
            const client = new pg.Client(where);
            await client.connect();
            said = await client.query(statement);
            await client.end();
        } else said = await pool.query(statement);
        users.add(said.rows[0].login); roles.add(said.rows[0].role); done++;
    } catch (error) { failed(error.message); }
    slowest = Math.max(slowest, Date.now() - began);
}
let n = 0;
const timer = setInterval(() => one(n++ % 4 === 0), 50);
setTimeout(async () => {
    clearInterval(timer); await new Promise((end) => setTimeout(end, 1500));
    console.log(JSON.stringify({ done, errors, users: [...users], roles: [...roles], slowest })); process.exit(0);
}, seconds * 1000);
"""


def shorten(vault: Standing) -> None:
    """Have logins end after less than a minute. Not from the start: n8n makes its tables in one long transaction."""
    short = {"KIT_LOGIN_TTL": f"{TTL_S}s", "KIT_LOGIN_MAX_TTL": f"{MAX_TTL_S}s"}
    job = vault.job("openbao-access")
    vault.trial.run(replace(job, env={**job.env, **short}))
    before = current(vault)
    docker("restart", vault.name("n8n-login"))
    trial.eventually(lambda: current(vault)["user"] != before["user"], 60)


def test_logins_are_followed_under_load_and_the_old_ones_are_dead(vault: Standing) -> None:
    shorten(vault)
    first = current(vault)
    script = 'cat >/tmp/load.js; NODE_PATH=/usr/local/lib/node_modules exec node /tmp/load.js "$1"'
    length = str(MAX_TTL_S + TTL_S)
    said = docker("exec", "-i", vault.name("n8n"), "sh", "-c", script, "-", length, data=LOAD.encode())
    result = json.loads(said.strip().splitlines()[-1])
    print(
        f"n8n's driver: {result['done']} queries, {len(result['errors'])} failed, {len(result['users'])} logins,"
        f" slowest {result['slowest']} ms"
    )
    assert result["errors"] == [] and result["roles"] == ["n8n"] and len(result["users"]) >= 2, result
    last = current(vault)
    assert last["user"] != first["user"]
    with pytest.raises(RuntimeError, match="password authentication failed"):
        sql(vault, "SELECT 1", login=(first["user"], first["password"]), database="n8n")
    assert first["user"] not in sql(vault, "SELECT string_agg(rolname, ' ') FROM pg_roles")
    # n8n itself went on the while: the same process, ready, and with a connection of the login that holds now.
    state = json.loads(docker("inspect", vault.name("n8n")))[0]
    assert state["RestartCount"] == 0 and state["State"]["Health"]["Status"] == "healthy"
    refused = [line for line in docker("logs", vault.name("n8n"), check=False).splitlines() if "authentication" in line]
    assert refused == []


def test_a_login_that_is_taken_back_is_replaced_and_its_connections_end(vault: Standing) -> None:
    before = current(vault)
    bao(vault, "lease", "revoke", "-prefix", "-sync", "database/creds/n8n", token=owner(vault))
    began = time.monotonic()
    assert before["user"] not in sql(vault, "SELECT coalesce(string_agg(usename, ' '), '') FROM pg_stat_activity")
    trial.eventually(lambda: current(vault)["user"] != before["user"], 3 * MAX_TTL_S)
    print(f"a login that was taken back: replaced after {time.monotonic() - began:.1f} s")


def test_rotated_secrets_take_the_place_of_those_before(vault: Standing) -> None:
    before = vault.trial.values[SETUP]
    vault.rotate(SETUP, "rotated " + HOSTILE)
    vault.rotate(OWNER, "rotated too " + HOSTILE)
    access(vault)
    said = bao(
        vault,
        *("write", "auth/approle/login", "role_id=kit-setup", "secret_id=-"),
        data=encode(before, Encoding.HEX_32),
        check=False,
    )
    assert "invalid role or secret ID" in said
    assert owner(vault)


def test_no_secret_is_in_a_log_an_inspection_or_a_process_list(vault: Standing) -> None:
    needles = [HOSTILE, HOSTILE[:12], json.dumps(HOSTILE)[1:-1]]
    needles += [encode(vault.trial.values[key], Encoding.HEX_32) for key in (SETUP, SEAL)]
    needles.append(encode(vault.trial.previous[SETUP], Encoding.HEX_32))
    names = [step.name for step in vault.trial.runtime.steps]
    for name in names:
        for text in (docker("logs", name, check=False), docker("inspect", name)):
            for needle in needles:
                assert needle not in text, f"{name} shows a secret"
    listed = docker("top", vault.name("openbao"), "-eo", "pid,args")
    assert not [needle for needle in needles if needle in listed]
    # The audit log is there, and names what was asked for with an HMAC in place of each value.
    bao(vault, "kv", "get", "-mount=kv", "kept", token=owner(vault))
    log = docker("logs", vault.name("openbao"), check=False)
    assert '"path":"kv/data/kept"' in log and "hmac-sha256:" in log


def test_it_has_no_way_out_and_no_capability(vault: Standing) -> None:
    state = json.loads(docker("inspect", vault.name("openbao")))[0]
    assert state["HostConfig"]["ReadonlyRootfs"] and state["Config"]["User"] == "100:1000"
    assert list(state["NetworkSettings"]["Networks"]) == ["kit-bao-data"]
    assert "-dev" not in " ".join(state["Config"]["Cmd"] or [])


def test_memory_stays_below_the_limit(vault: Standing) -> None:
    used = trial.memory_mb(vault.name("openbao"))
    print(f"openbao: {used:.0f} MB, start {vault.trial.started[vault.name('openbao')]:.1f} s")
    assert not used > 0.7 * vault.container("openbao").limits.memory_mb
    used = trial.memory_mb(vault.name("n8n-login"))
    print(f"agent: {used:.0f} MB, start {vault.trial.started[vault.name('n8n-login')]:.1f} s")
    assert not used > 64
