"""The streaming replica on the real server: it follows, keeps its place, is promoted, takes the first one's place."""

from __future__ import annotations

import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import plan as planning
from stack import targets
from stack.catalog import discover
from stack.derive import models, runtime
from stack.model import ImageSource, Target
from stack.settings import Settings
from tests.live.trial import HOSTILE, Authority, Trial, docker, eventually

pytestmark = pytest.mark.live

STACK = "rep"
FIRST, SECOND = f"kit-{STACK}-postgres", f"kit-{STACK}-postgres-replica"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/services/postgres-replica.md"


def sql(container: str, query: str, database: str = "postgres") -> str:
    psql = (
        "psql",
        "-h",
        "/var/run/postgresql",
        "-U",
        "postgres",
        "-d",
        database,
        "-v",
        "ON_ERROR_STOP=1",
        "-Atqc",
        query,
    )
    return docker("exec", container, *psql).strip()


def documented(heading: str, number: int) -> str:
    """The command that the document tells a person to run, for this stack."""
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"(?:^ {4,}\S.*\n(?:^ {4,}.*\n|^\n(?= {4}))*)", section, re.MULTILINE)
    return textwrap.dedent(blocks[number]).replace("kit-dev", f"kit-{STACK}")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    from airgap import images

    built = {name: image.reference for name, image in images.ensure(["postgres", "tools"]).items()}
    catalogue = discover()
    names = {container.image.name for spec in catalogue for container in spec.containers}
    names |= {job.image.name for spec in catalogue for job in spec.jobs}
    settings = Settings(
        stack=STACK,
        target=Target.DEV,
        profiles=("chat", "replica"),
        images=ImageSource.AIRGAP,
        # Only the database is started here: the others' images need not be there.
        airgap_images={**dict.fromkeys(names, built["postgres"]), **built},
        models=models.TINY_CHAT,
        embedding_model=models.TINY_EMBEDDING,
    )
    plan = planning.build(settings, targets.profile(settings), catalogue)
    authority = Authority(tmp_path_factory.mktemp("authority"), ("rep.kit.localhost",))
    hostile = {secret.key: HOSTILE for secret in plan.secrets}
    running = Trial(runtime.build(plan), authority, values=hostile)
    running.down()
    try:
        running.up(only=("postgres", "database-postgres-replica", "postgres-replica", "postgres-replica-lag"))
        yield running
    finally:
        running.down()


def lag(trial: Trial) -> int:
    """What the proof's job says, in milliseconds."""
    job = next(job for job in trial.runtime.jobs if job.name == f"{SECOND}-lag")
    found = re.search(r"(\d+) ms behind", trial.run(job))
    assert found
    return int(found[1])


def again(name: str) -> str:
    return docker("restart", name)


def test_a_row_arrives_within_a_second(pair: Trial) -> None:
    assert lag(pair) < 1000


def test_it_takes_no_writes_and_shows_no_secret(pair: Trial) -> None:
    with pytest.raises(RuntimeError, match="read-only transaction"):
        sql(SECOND, "CREATE TABLE mine ()")
    for name in (SECOND, f"{SECOND}-lag", FIRST):
        assert HOSTILE not in docker("inspect", name) + docker("logs", name, check=False)
    assert "password" not in sql(SECOND, "SHOW primary_conninfo")


def test_its_place_is_kept_and_capped(pair: Trial) -> None:
    slot = "SELECT slot_name, active FROM pg_replication_slots"
    assert sql(FIRST, slot) == "postgres_replica|t"
    assert sql(FIRST, "SHOW max_slot_wal_keep_size") == "512MB"
    docker("stop", SECOND)
    sql(FIRST, "CREATE TABLE meanwhile AS SELECT generate_series(1, 10000) AS n")
    assert sql(FIRST, slot) == "postgres_replica|f"
    docker("start", SECOND)
    eventually(lambda: "10000" in sql_or_error(SECOND, "SELECT count(*) FROM meanwhile"), 60)


def test_an_interrupted_copy_is_begun_again(pair: Trial) -> None:
    docker("exec", SECOND, "touch", "/var/lib/postgresql/data/copy-again")
    docker("exec", SECOND, "mkdir", "/var/lib/postgresql/data/pgdata.copy")
    again(SECOND)
    eventually(lambda: "the copy is whole" in docker("logs", SECOND, check=False).rpartition("copying")[2], 120)
    eventually(lambda: sql_or_error(SECOND, "SELECT pg_is_in_recovery()") == "t", 60)
    left = docker("exec", SECOND, "ls", "/var/lib/postgresql/data").split()
    assert left == ["pgdata"]
    assert lag(pair) < 1000


def test_killed_between_the_moves_it_keeps_what_it_had(pair: Trial) -> None:
    docker("stop", SECOND)
    container = next(c for c in pair.runtime.containers if c.name == SECOND)
    volume = next(mount.volume for mount in container.mounts if mount.path.startswith("/var/lib"))
    docker(
        "run", "--rm", "-v", f"{volume}:/v", "--user", "999:999", container.image, "mv", "/v/pgdata", "/v/pgdata.old"
    )
    docker("start", SECOND)
    eventually(lambda: sql_or_error(SECOND, "SELECT pg_is_in_recovery()") == "t", 60)


def test_promoted_it_serves_and_stays_so(pair: Trial) -> None:
    docker("exec", *documented("Go on with it when the first copy is lost", -1).split()[2:])
    eventually(lambda: sql_or_error(SECOND, "SELECT pg_is_in_recovery()") == "f", 30)
    sql(SECOND, "CREATE TABLE after_promotion AS SELECT 1 AS one")
    again(SECOND)
    eventually(lambda: sql_or_error(SECOND, "SELECT one FROM after_promotion") == "1", 60)
    with pytest.raises(RuntimeError, match="it follows nobody"):
        lag(pair)
    # As the document says, it follows again once it is copied anew.
    for line in documented("Copy it anew", 0).strip().splitlines():
        docker(*line.split()[1:])
    eventually(lambda: sql_or_error(SECOND, "SELECT pg_is_in_recovery()") == "t", 120)
    assert "after_promotion" not in sql(SECOND, "SELECT relname FROM pg_class")


def test_it_takes_the_place_of_a_lost_first_copy(pair: Trial) -> None:
    """The document's own commands."""
    sql(FIRST, "CREATE TABLE precious AS SELECT 42 AS answer")
    eventually(lambda: sql_or_error(SECOND, "SELECT answer FROM precious") == "42", 30)
    docker("exec", FIRST, "sh", "-c", "rm -rf /var/lib/postgresql/data/pgdata/base")  # the disk goes bad
    docker("rm", "-f", "-v", FIRST, SECOND)
    image = next(c.image for c in pair.runtime.containers if c.name == FIRST)
    command = documented("Go on with it when the first copy is lost", 0).replace("IMAGE", image)
    subprocess.run(["bash", "-ec", command], check=True)
    pair.up(only=("postgres", "database-postgres-replica", "postgres-replica"))
    assert sql(FIRST, "SELECT answer FROM precious") == "42"
    assert sql(FIRST, "SELECT pg_is_in_recovery()") == "f"

    assert lag(pair) < 1000


def sql_or_error(container: str, query: str) -> str:
    try:
        return sql(container, query)
    except RuntimeError as error:
        return str(error)
