"""Rotation on the real engine, with the real CLI, providers and servers, under load, killed at every step.

A small stack of its own: PostgreSQL, Redis, and a service of this test that has a credential of each. Two loads ask the
servers about 20 times a second with whatever was delivered to that service, a new connection each time, from outside of
the stack: they see every moment in which a delivered credential is not taken. Figures are kept in artifacts/rotation/.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack import plan as planning
from stack.catalog import discover
from stack.derive import runtime
from stack.plan import SecretKey
from stack.rotation import Wish
from tests.live import standing, trial
from tests.live.kitclone import ROOT, Clone, engine_of, free_ports, wait_until_healthy
from tests.live.pulumi_project import Project
from tests.live.trial import HOSTILE, Trial, docker

pytestmark = pytest.mark.live

STACK = "rotating"
PREFIX = f"kit-{STACK}-"
ARTIFACTS = ROOT / "artifacts" / "rotation"
SECRETS = ("follower/db:follower", "redis/password")

# A service as anybody would add one: a file, and a script.
FOLLOWER = '''
"""A service that does nothing but use a database and a cache, for the test of rotation."""

from stack import images
from stack.model import (
    Command, ContainerSpec, Database, DatabaseUrl, Encoding, File, HealthCheck, Ref, ResourceLimits, ServiceSpec,
    Static, Target, Template, Zone,
)

SERVICE = ServiceSpec(
    name="follower",
    summary="Uses a database and a cache",
    containers=(
        ContainerSpec(
            image=images.POSTGRES,
            user="999:999",
            zones=frozenset({Zone.DATA}),
            entrypoint=("/bin/bash", "/run/kit/follower.sh"),
            files=(
                File(name="follower.sh", source=Static("follower.sh")),
                File(name="database-url", source=Template((DatabaseUrl("follower"),))),
                File(
                    name="redis-password",
                    source=Template((Ref(
                        "redis", "redis", template="{password}", secrets=("password",), encoding=Encoding.RAW),)),
                ),
            ),
            tmpfs={"/tmp": 8},
            health=HealthCheck(test=Command(("bash", "-c", "[ -e /tmp/works ]")), interval_s=1),
            limits={t: ResourceLimits(memory_mb=64, cpus=0.5) for t in Target},
            stop_grace_s=2,
            wait_s=60,
        ),
    ),
    databases=(Database("follower"),),
)
'''
FOLLOWER_SCRIPT = """\
#!/bin/bash
trap 'exit 0' TERM
while :; do
    if psql --no-psqlrc -qAt "$(cat /run/kit/database-url)" -c 'CREATE TABLE IF NOT EXISTS t (at timestamptz);
            INSERT INTO t VALUES (now())' >/dev/null; then
        touch /tmp/works
    else
        rm -f /tmp/works
    fi
    sleep 0.3
done
"""

# Each request is a connection of its own, with what lies there at that moment; a process for each would be too slow on
# a busy machine. `pause` waits a twentieth of a second without one. OK is an answer, everything else a failure.
PAUSE = """
exec 9<> <(:)
pause() { read -r -t 0.05 -u 9 || true; }
"""
DATABASE_LOAD = "".join(
    (
        PAUSE,
        r"""
while :; do
    printf '%s\n' '\set url `cat /run/kit/database-url`' '\connect :url' "INSERT INTO t VALUES (now()) RETURNING 'OK';"
    pause
done | psql --no-psqlrc -qAt "$(cat /run/kit/database-url)" 2>&1
""",
    )
)
REDIS_LOAD = (
    PAUSE
    + r"""
while :; do
    exec 3<>/dev/tcp/redis/6379
    printf 'AUTH %s\r\nINCR load\r\n' "$(</run/kit/redis-password)" >&3
    read -r -t 10 auth <&3
    read -r -t 10 said <&3
    exec 3>&-
    case "$auth$said" in +OK*:*) echo OK ;; *) echo "$auth $said" ;; esac
    pause
done 2>&1
"""
)


@dataclass
class Load:
    """A container that asks a server with what the follower was delivered."""

    name: str

    def start(self, image: str, script: str) -> None:
        docker("rm", "-f", self.name, check=False)
        docker(
            *("run", "-d", "--name", self.name, "--network", f"{PREFIX}data", "--user", "999:999"),
            *("-v", f"{PREFIX}follower-config:/run/kit:ro", "--entrypoint", "bash", image, "-c", script),
        )

    def seen(self) -> tuple[int, list[str]]:
        """How many requests were answered, and what was said by those that failed."""
        lines = [line for line in docker("logs", self.name, check=False).splitlines() if line.strip()]
        return lines.count("OK"), [line for line in lines if line != "OK"]


LOADS = {"database": Load("rotation-load-database"), "redis": Load("rotation-load-redis")}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    home = tmp_path_factory.mktemp("rotation")
    made = Clone(directory=home / "clone", state_home=home / "state", log=ARTIFACTS)
    services = made.directory / "stack" / "services"
    (services / "follower.py").write_text(FOLLOWER, encoding="utf-8")
    (services / "files" / "follower").mkdir()
    (services / "files" / "follower" / "follower.sh").write_text(FOLLOWER_SCRIPT, encoding="utf-8")
    write(made)
    try:
        yield made
    finally:
        for load in LOADS.values():
            docker("rm", "-f", load.name, check=False)
        if not engine_of(STACK).empty:
            made.kit("down", STACK, "--data", "--yes-delete", STACK)


PORTS = free_ports(3)


def write(clone: Clone, *rotation: str, service: str = "follower") -> None:
    """The stack's file, with these generations."""
    http, https, admin = PORTS
    more: dict[str, Any] = {"rotation": list(rotation)} if rotation else {}
    clone.write_stack(
        STACK,
        profiles=[],
        services=[service],
        httpPort=http,
        httpsPort=https,
        adminPort=admin,
        images="airgap",
        **more,
    )


def image_of(container: str) -> str:
    return json.loads(docker("inspect", PREFIX + container))[0]["Config"]["Image"]


@pytest.fixture(scope="module")
def up(clone: Clone) -> Clone:
    """The stack, up, both loads running."""
    made = clone.kit("up", STACK, "--no-prove", timeout=2400)
    assert made.code == 0, made.text
    LOADS["database"].start(image_of("postgres"), DATABASE_LOAD)
    LOADS["redis"].start(image_of("redis"), REDIS_LOAD)
    for name, load in LOADS.items():
        trial.eventually(lambda load=load: load.seen()[0] > 20, 60)
        count, failures = load.seen()
        assert count and not failures, (name, failures, docker("logs", load.name, check=False)[-500:])
    return clone


def delivered(name: str) -> str:
    """What the follower has now: a credential."""
    return docker(
        *("run", "--rm", "--user", "999:999", "-v", f"{PREFIX}follower-config:/c:ro", "--entrypoint", "cat"),
        *(image_of("postgres"), f"/c/{name}"),
    )


def held() -> dict[str, str]:
    return {name: delivered(name) for name in ("database-url", "redis-password")}


def refused(before: dict[str, str]) -> None:
    """Whoever still has those credentials is let in nowhere."""
    said = docker(
        *("run", "--rm", "-i", "--network", f"{PREFIX}data", "--entrypoint", "bash", image_of("postgres"), "-c"),
        'psql --no-psqlrc -qAt "$(cat)" -c "SELECT 1" 2>&1 || true',
        data=before["database-url"].encode(),
    )
    assert "password authentication failed" in said or "not permitted to log in" in said, said
    assert asked_redis(before["redis-password"]).startswith(("WRONGPASS", "AUTH failed: WRONGPASS")), "taken"


def asked_redis(password: str) -> str:
    return docker(
        *("run", "--rm", "-i", "--network", f"{PREFIX}data", "--entrypoint", "bash", image_of("redis"), "-c"),
        "REDISCLI_AUTH=$(cat) redis-cli --no-auth-warning -h redis PING 2>&1",
        data=password.encode(),
    ).strip()


def roles() -> list[str]:
    """The logins of the follower's role, as the server has them."""
    query = "SELECT rolname FROM pg_roles WHERE rolname ~ '^follower' AND rolcanlogin ORDER BY 1"
    return docker("exec", "-u", "postgres", f"{PREFIX}postgres", "psql", "-qAt", "-c", query).split()


def owners() -> list[str]:
    """Who owns tables in the follower's database."""
    query = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    return docker("exec", "-u", "postgres", f"{PREFIX}postgres", "psql", "-qAt", "-d", "follower", "-c", query).split()


def generation(number: int) -> tuple[str, ...]:
    return tuple(f"{name}={number}" for name in SECRETS)


def figure(text: str) -> None:
    print(text)
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    with (ARTIFACTS / "figures.txt").open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


@contextmanager
def no_failure(what: str) -> Iterator[None]:
    """While this runs, and for a second after, no request of the loads fails."""
    before = {name: load.seen()[0] for name, load in LOADS.items()}
    began = time.monotonic()
    yield
    time.sleep(1)
    seconds = time.monotonic() - began
    for name, load in LOADS.items():
        count, failures = load.seen()
        rate = (count - before[name]) / seconds
        figure(
            f"{what}: {name}: {count - before[name]} requests in {seconds:.0f} s ({rate:.0f}/s), {len(failures)} failed"
        )
    for name, load in LOADS.items():
        count, failures = load.seen()
        assert not failures, (what, name, failures[:3])
        assert count > before[name], f"{what}: {name} was not asked at all, so nothing was shown"


def test_nothing_changes_without_a_rotation(up: Clone) -> None:
    again = up.kit("up", STACK, "--no-prove")
    assert again.code == 0 and "nothing to change" in again.text, again.text
    assert roles() == ["follower"]


def test_a_rotation_under_load_fails_no_request(up: Clone) -> None:
    before = held()
    postgres, redis = (container_id(name) for name in ("postgres", "redis"))
    write(up, *generation(2))
    with no_failure("rotation"):
        rotated = up.kit("up", STACK, "--no-prove")
    assert rotated.code == 0, rotated.text
    figure(f"rotation of both: up took {rotated.seconds:.1f} s")
    after = held()
    assert after["database-url"] != before["database-url"] and after["redis-password"] != before["redis-password"]
    assert "//follower.2:" in after["database-url"]
    assert roles() == ["follower.2"] and owners() == ["follower"]
    refused(before)
    assert asked_redis(after["redis-password"]) == "PONG"
    assert (postgres, redis) == tuple(container_id(name) for name in ("postgres", "redis")), "a server was replaced"
    again = up.kit("up", STACK, "--no-prove")
    assert again.code == 0 and "nothing to change" in again.text, again.text


def container_id(name: str) -> str:
    return json.loads(docker("inspect", PREFIX + name))[0]["Id"]


def test_the_old_one_does_not_come_back_with_a_restart(up: Clone) -> None:
    before = held()
    write(up, *generation(3))
    with no_failure("second rotation"):
        assert up.kit("up", STACK, "--no-prove").code == 0
    for load in LOADS.values():
        docker("kill", load.name)
    for name in ("redis", "postgres"):
        docker("restart", PREFIX + name)
        wait_until_healthy(STACK, name)
    for load in LOADS.values():
        docker("start", load.name)
    refused(before)
    assert asked_redis(held()["redis-password"]) == "PONG"
    assert roles() == ["follower.3"]


# In the order of the graph. The kill comes when the step's container is made, or when it has ended, which nobody has
# written down then: a job that did its work, a service that was taken away and not yet made again.
STEPS = (
    ("database-follower", "create"),
    ("redis-password", "die"),
    ("follower-files", "die"),
    ("redis-files", "create"),
    ("follower", "die"),
    ("follower", "create"),
    ("database-follower-retire", "die"),
    ("redis-old-password", "create"),
)


@pytest.mark.parametrize(("step", "moment"), STEPS)
def test_killed_at_any_step_the_next_up_ends_it(up: Clone, step: str, moment: str) -> None:
    number = highest(up) + 1
    before = held()
    write(up, *generation(number))
    with no_failure(f"killed at {step} ({moment})"):
        killed = up.kill_when(STACK, PREFIX + step, moment)
        assert killed, f"{step} was not {moment}d"
        resumed = up.kit("up", STACK, "--no-prove")
        assert resumed.code == 0, resumed.text
    assert roles() == [f"follower.{number}"] and owners() == ["follower"]
    refused(before)
    assert asked_redis(held()["redis-password"]) == "PONG"
    again = up.kit("up", STACK, "--no-prove")
    assert again.code == 0 and "nothing to change" in again.text, again.text


RECORDED = """
from stack import deploy
pulumi.export("seen", deploy.recorded()[0])
pulumi.export(deploy.GENERATIONS, {"redis/password": 3})
"""


def test_plain_pulumi_knows_what_the_last_deployment_had(project: Project) -> None:
    project.program = RECORDED
    made = project.up()
    assert made.ok, str(made)
    assert project.outputs()["seen"] == {}
    again = project.up()
    assert again.ok and project.outputs()["seen"] == {"redis/password": 3}, str(again)


def test_a_number_that_goes_back_changes_nothing(up: Clone) -> None:
    number = highest(up)
    before, kept = held(), container_id("follower")
    write(up, f"{SECRETS[0]}={number}")
    said = up.kit("up", STACK, "--no-prove")
    assert said.code == 2, said.text
    assert f"redis/password would go back from {number} to 1" in said.text and "Nothing was changed" in said.text
    plain = up.pulumi("up", "--yes", "--skip-preview", "--stack", STACK, *merged(up), unset="AIKIT_GENERATIONS_CHECKED")
    assert plain.code != 0 and "would go back" in plain.text, plain.text
    assert held() == before and container_id("follower") == kept
    write(up, *generation(number))
    again = up.kit("up", STACK, "--no-prove")
    assert again.code == 0 and "nothing to change" in again.text, again.text


def merged(clone: Clone) -> list[str]:
    """The configuration that ./kit hands to Pulumi, with what the stack file says now of rotation."""
    file = clone.state_home / "ai-kit" / "stacks" / STACK / f"Pulumi.{STACK}.yaml"
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    own = yaml.safe_load((clone.directory / f"Pulumi.{STACK}.yaml").read_text(encoding="utf-8"))
    document["config"]["ai-kit:rotation"] = own["config"]["ai-kit:rotation"]
    other = clone.state_home / "plain.yaml"
    other.write_text(yaml.safe_dump(document), encoding="utf-8")
    return ["--config-file", str(other)]


def test_kit_rotates_one_by_name_and_lists_it(up: Clone) -> None:
    before = held()
    with no_failure("./kit rotate"):
        said = up.kit("rotate", "redis/password", STACK, "--no-prove")
    assert said.code == 0 and "redis/password: " in said.text, said.text
    after = held()
    assert after["redis-password"] != before["redis-password"] and after["database-url"] == before["database-url"]
    assert asked_redis(before["redis-password"]).startswith(("WRONGPASS", "AUTH failed: WRONGPASS"))
    rows = {row["secret"]: row for row in json.loads(up.kit("rotate", "--list", STACK, "--json").text)}
    assert rows["redis/password"]["days"] == 0 and rows["redis/password"]["rotating"] == "no gap"
    assert rows["postgres/superuser-password"]["rotating"].startswith("refused: ")
    assert up.kit("rotate", "--due", STACK).text.strip().endswith("nothing is due")


def test_a_rotated_stack_comes_back_from_down(up: Clone) -> None:
    before = held()
    for load in LOADS.values():
        docker("rm", "-f", load.name)
    assert up.kit("down", STACK).code == 0
    again = up.kit("up", STACK, "--no-prove")
    assert again.code == 0, again.text
    assert held() == before and len(roles()) == 1 and asked_redis(before["redis-password"]) == "PONG"


def test_what_is_kept_is_not_told_of_a_rotation_and_takes_the_number_when_it_runs_again(up: Clone) -> None:
    """Two rotations while nobody tells the server: the password that it knows is still there."""
    number = highest(up)
    (known,) = (int(line.rpartition("=")[2]) for line in rotation_of(up) if line.startswith(SECRETS[0]))
    before = held()
    for further in (number + 1, number + 2):
        write(up, *generation(further), service="redis")
        kept = up.kit("up", STACK, "--no-prove")
        assert kept.code == 0, kept.text
    names = generations_in_state(up)
    assert f"follower-db-follower-g{known}" in names and f"follower-db-follower-g{number + 1}" not in names, names
    assert f"redis-password-g{number + 2}" in names
    write(up, *generation(number + 2))
    again = up.kit("up", STACK, "--no-prove")
    assert again.code == 0, again.text
    assert roles() == [f"follower.{number + 2}"] and owners() == ["follower"]
    refused(before)
    quiet = up.kit("up", STACK, "--no-prove")
    assert quiet.code == 0 and "nothing to change" in quiet.text, quiet.text


def test_a_new_state_with_a_number_takes_over_what_a_lost_one_made(up: Clone) -> None:
    number = highest(up)
    before = held()
    assert up.kit("down", STACK).code == 0
    lost = up.state_home / "ai-kit"
    lost.rename(lost.with_name("lost"))
    adopted = up.kit("up", STACK, "--no-prove", "--adopt")
    assert adopted.code == 0, adopted.text
    after = held()
    assert after != before and f"//follower.{number}:" in after["database-url"]
    assert roles() == [f"follower.{number}"] and owners() == ["follower"]
    refused(before)
    assert asked_redis(after["redis-password"]) == "PONG"


def highest(clone: Clone) -> int:
    return max((int(line.rpartition("=")[2]) for line in rotation_of(clone)), default=1)


def generations_in_state(clone: Clone) -> set[str]:
    backend = clone.state_home / "ai-kit" / "backend" / ".pulumi" / "stacks" / "ai-kit" / f"{STACK}.json"
    resources = json.loads(backend.read_text(encoding="utf-8"))["checkpoint"]["latest"]["resources"]
    return {each["urn"].rsplit("::", 1)[-1] for each in resources if each["type"].endswith(":RandomPassword")}


def rotation_of(clone: Clone) -> list[str]:
    text = (clone.directory / f"Pulumi.{STACK}.yaml").read_text(encoding="utf-8")
    return re.findall(r"- (\S+=\d+)", text)


# ------------------------------------------------------------------------------------------ without Pulumi, hostile


def test_hostile_passwords_rotate_too_and_a_replica_follows_as_another_login(tmp_path: Path) -> None:
    """The jobs of a rotation with plain docker, since Pulumi makes harmless passwords only."""
    with standing.stack("rothostile", tmp_path, services=("redis", "postgres-replica")) as up:
        settings = replace(up.plan.settings, rotation={"postgres": Wish(2), "redis/password": Wish(2)})
        built = runtime.build(planning.build(settings, up.plan.host, discover()))
        keys = [SecretKey("redis", "password"), SecretKey("postgres-replica", "db:postgres-replica")]
        new = dict.fromkeys(keys, f"new {HOSTILE}")
        second = Trial(
            built, up.trial.authority, {**up.trial.values, **new}, previous={key: up.trial.values[key] for key in keys}
        )
        jobs = {job.name.removeprefix("kit-rothostile-"): job for job in built.jobs}
        try:
            assert "and 1 others" in second.run(jobs["redis-password"])
            second.run(jobs["database-postgres-replica"])
            replica = next(step for step in built.containers if step.service == "postgres-replica")
            began = time.monotonic()
            second.start(replica)
            second.wait_healthy(replica)
            figure(f"the replica was away for {time.monotonic() - began:.1f} s")
            assert "ms behind" in second.run(jobs["postgres-replica-lag"])
            said = second.run(jobs["database-postgres-replica-retire"])
            assert "postgres-replica.2 is let in, postgres-replica is refused" in said
            said += second.run(jobs["redis-old-password"])
            assert "this password alone" in said
            assert "ms behind" in second.run(jobs["postgres-replica-lag"]), (
                "the replica follows after the old login went"
            )
            for name in ("redis-password", "redis-old-password", "database-postgres-replica-retire"):
                said += docker("inspect", jobs[name].name) + docker("logs", jobs[name].name, check=False)
            said += docker("logs", "kit-rothostile-postgres", check=False)
            assert HOSTILE[:12] not in said
            # Any number of runs end alike, also in another order than a rotation's.
            second.run(jobs["database-postgres-replica"])
            second.run(jobs["database-postgres-replica-retire"])
            second.run(jobs["redis-old-password"])
        finally:
            second.down()
