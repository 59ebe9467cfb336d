"""Rotation as it is planned: what may be written, which generations there are, and in which order all moves."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import generations, rotate, rotationpage
from ops.console import KitError
from stack import catalog, rotation, settings, targets
from stack import plan as planning
from stack.derive import runtime
from stack.derive.runtime import ContainerPlan, JobPlan, Runtime
from stack.derive.values import SecretPiece, plain
from stack.model import Never, Restart, Signed, SpecError, Static, Target
from stack.plan import Plan, SecretKey
from stack.rotation import Wish
from stack.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ("chat", "api", "automation", "replica")


def planned(wishes: dict[str, Wish] | None = None, profiles: tuple[str, ...] = PROFILES, **more: Any) -> Plan:
    decided = Settings(
        stack="dev", target=Target.DEV, profiles=profiles, models=("kit-tiny-chat",), rotation=wishes or {},
        emulate=True, memory_mb=65536, **more,
    )  # fmt: skip
    return planning.build(decided, targets.profile(decided), catalog.discover())


# -------------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize(
    ("text", "name", "wish"),
    [
        ("redis/password=2", "redis/password", Wish(2)),
        ("n8n/db:n8n = 12", "n8n/db:n8n", Wish(12)),
        ("redis-queue=90d", "redis-queue", Wish(1, 90)),
        ("chat=3 12w", "chat", Wish(3, 84)),
        ("*=365d", "*", Wish(1, 365)),
    ],
)
def test_what_may_be_written(text: str, name: str, wish: Wish) -> None:
    assert rotation.parse(text) == (name, wish)


@pytest.mark.parametrize(
    "text",
    ["", "redis", "redis=", "redis=0", "redis=-1", "redis=01", "redis=1.5", "redis=2 3", "redis=90d 2", "redis=1 2 3d",
     "redis=90", "redis=0d", "redis=9999w", "redis=90days", "Redis=2", "redis/=2", "redis password=2", "*/x=2"],
)  # fmt: skip
def test_what_may_not(text: str) -> None:
    if text == "redis=90":
        assert rotation.parse(text)[1] == Wish(90)  # a number: ages have a unit
        return
    with pytest.raises(ValueError, match=r"."):
        rotation.parse(text)


@given(number=st.integers(1, 9999), days=st.none() | st.integers(1, 3650))
def test_what_is_written_is_read_again(number: int, days: int | None) -> None:
    assert rotation.parse(rotation.written("redis/password", Wish(number, days))) == (
        "redis/password",
        Wish(number, days),
    )


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(SpecError) as unreadable:
        settings.load("dev", {"target": "dev", "rotation": ["redis", "redis/password=0", "redis=2", "redis=3"]})
    text = str(unreadable.value)
    assert text.count("rotation[") == 3 and "rotation[3]" in text and "stands there twice" in text
    with pytest.raises(SpecError) as refused:
        planned({"redis/pasword": Wish(2), "n8n/encryption-key": Wish(2), "postgres/superuser-password": Wish(1, 9)})
    text = str(refused.value)
    assert '"redis/pasword"' in text and 'Did you mean "redis/password"?' in text
    assert "encrypts the credentials" in text and "own socket alone" in text and "3 problems" in text


def test_a_provided_or_signed_secret_has_no_number() -> None:
    with pytest.raises(SpecError, match="signed with jwt-secret"):
        planned({"supabase/anon-key": Wish(2)}, (*PROFILES, "supabase"))
    with pytest.raises(SpecError, match="pulumi config set --secret openaiApiKey"):
        planned({"openai/key": Wish(2)}, (*PROFILES, "cloud"), provided_secrets=frozenset({"openaiApiKey"}))


def test_a_number_never_goes_back() -> None:
    now = {"a/x": 1, "a/y": 3, "b/z": 5}
    (problem,) = rotation.backwards({"a/x": 2, "a/y": 3, "b/z": 4, "gone/w": 9}, now)
    assert "a/x would go back from 2 to 1" in str(problem) and "a/x=2" in problem.fix


def test_names_mean_a_secret_its_owner_or_who_checks_it() -> None:
    plan = planned({"postgres": Wish(3), "n8n": Wish(2, 90), "n8n/runner-token": Wish(1, 30)})
    found = {str(secret.key): (secret.generation, secret.days) for secret in plan.secrets}
    assert found["keycloak/db:keycloak"] == (3, None)
    assert found["n8n/db:n8n"] == (3, 90)  # the highest number, the shortest time
    assert found["n8n/runner-token"] == (2, 30)
    assert found["n8n/encryption-key"] == (1, None)  # never, whatever its service is told
    assert found["redis/password"] == (1, None)


# ------------------------------------------------------------------------------------------------- the catalogue


def test_somebody_thought_about_every_secret() -> None:
    for spec in catalog.discover():
        for secret in spec.secrets:
            how = rotation.how(secret)
            assert how != rotation.UNDECIDED, f"{spec.name}/{secret.name}: say in its file how it rotates"
            if isinstance(how, Never | Restart):
                assert (how.reason if isinstance(how, Never) else how.notice).strip()
            if isinstance(secret.source, Signed):
                assert secret.rotates is None


def test_what_encrypts_stored_data_is_never_rotated_by_a_number() -> None:
    """By name: a key of that kind that somebody adds is not forgotten."""
    for spec in catalog.discover():
        for secret in spec.secrets:
            if "encryption" in secret.name:
                assert isinstance(secret.rotates, Never), f"{spec.name}/{secret.name}"


def test_the_page_says_of_every_secret_what_rotating_it_means(request: pytest.FixtureRequest) -> None:
    page = ROOT / "docs" / "rotation.md"
    text = page.read_text(encoding="utf-8")
    now = rotationpage.filled(text)
    if request.config.getoption("--update-goldens"):
        page.write_text(now, encoding="utf-8")
    assert text == now or request.config.getoption("--update-goldens"), (
        "pytest --update-goldens writes docs/rotation.md"
    )


# ------------------------------------------------------------------------------------------------------- the order


def before(built: Runtime, name: str) -> set[str]:
    """All steps that come before one."""
    steps: dict[str, ContainerPlan | JobPlan] = {step.name: step for step in built.steps}
    found: set[str] = set()
    todo = [name]
    while todo:
        for need in steps[todo.pop()].after:
            if need in steps and need not in found:
                found.add(need)
                todo.append(need)
    return found


def test_without_a_rotation_nothing_ends_anything() -> None:
    built = runtime.build(planned())
    assert not built.rotated
    assert not [job.name for job in built.jobs if job.name.endswith(("-retire", "-old-password"))]
    assert all(built.accepted(container) == () for container in built.containers)
    for job in built.jobs:
        assert job.env.get("KIT_USER", "x") == (job.grant.role if job.grant else "x")


def test_accepted_first_delivered_and_started_then_and_ended_last() -> None:
    plan = planned({"postgres": Wish(2), "redis/password": Wish(4), "redis-queue": Wish(2)})
    built = runtime.build(plan)
    assert built.rotated.keys() >= {SecretKey("redis", "password"), SecretKey("n8n", "db:n8n")}
    order = [step.name for step in built.steps]
    for key, accept in built.rotated.items():
        retire = next(
            job.name
            for job in built.jobs
            if any(piece == SecretPiece(key, previous=True) for file in job.files for piece in file.text)
        )
        holders = {step.name for step in built.steps if key in runtime.secrets_held(step)} - {accept, retire}
        # A database that only further logins use: nobody has its role's password.
        nobody = key.name in {f"db:{owned.item.name}" for owned in plan.databases if owned.item.logins}
        assert holders or nobody, key
        assert accept in before(built, retire) and holders <= before(built, retire), key
        server = {name for name in holders if name in before(built, accept)}
        for step in built.steps:
            if step.name in holders - server:
                assert accept in before(built, step.name), (key, step.name)
                assert order.index(accept) < order.index(step.name)  # deploy.py waits for what is registered
                if isinstance(step, ContainerPlan):
                    assert accept in built.accepted(step)
        assert not [step.name for step in built.steps if retire in step.after]


def test_a_later_generation_logs_in_under_a_name_of_its_own() -> None:
    plan = planned({"postgres": Wish(3)})
    built = runtime.build(plan)
    jobs = {job.name: job for job in built.jobs}
    assert jobs["kit-dev-database-n8n"].env["KIT_USER"] == "n8n.3"
    assert jobs["kit-dev-database-n8n-retire"].env["KIT_PREVIOUS_USER"] == "n8n.2"
    chat = next(container for container in built.containers if container.name == "kit-dev-open-webui")
    url = next(file for file in chat.files if file.name == "env/DATABASE_URL")
    assert url.text[0] == "postgresql://open-webui.3:"


def test_a_login_stands_in_no_variable_of_a_container() -> None:
    """It has to change together with the password, which is in a file."""
    one, three = runtime.build(planned()), runtime.build(planned({"postgres": Wish(3)}))
    for first in one.containers:
        third = next(container for container in three.containers if container.name == first.name)
        assert first.env == third.env and first.command == third.command, first.name


def test_a_server_that_takes_both_is_not_started_again() -> None:
    """Its files that restart it are the same for each generation."""
    one = runtime.build(planned())
    two = runtime.build(planned({"postgres": Wish(2), "redis/password": Wish(2), "redis-queue/password": Wish(2)}))
    for name in ("kit-dev-postgres", "kit-dev-redis", "kit-dev-redis-queue"):
        first, second = (next(c for c in built.containers if c.name == name) for built in (one, two))
        assert first.env == second.env and first.mounts == second.mounts
        held = runtime.secrets_in
        rotated = {SecretKey("redis", "password"), SecretKey("redis-queue", "password")}
        assert not [file for file in second.files if file.restarts and held(file.text) & rotated]


def test_the_first_generation_has_none_before_it() -> None:
    assert [rotation.kept(number) for number in (1, 2, 3, 7)] == [(1,), (2, 1), (3, 2, 1), (7, 6, 1)]
    assert rotation.resource_name("n8n", "db:n8n") == "n8n-db-n8n"
    assert rotation.resource_name("n8n", "db:n8n", 2) == "n8n-db-n8n-g2"
    names = {rotation.resource_name(s.key.owner, s.key.name, g) for s in planned().secrets for g in range(1, 9)}
    assert len(names) == 8 * len(planned().secrets)


def test_a_missing_job_is_a_problem_of_the_service() -> None:
    services = tuple(replace(spec, jobs=()) if spec.name == "redis" else spec for spec in catalog.discover())
    decided = Settings(stack="dev", target=Target.DEV)
    with pytest.raises(SpecError, match='no job "old-password"'):
        planning.build(decided, targets.profile(decided), services)


@pytest.mark.parametrize("name", ["redis.sh", "redis-password.sh"])
def test_scripts_are_plain_sh(name: str) -> None:
    subprocess.run(["sh", "-n", str(Static(name, shared=True).path("redis"))], check=True)


def test_the_password_of_redis_is_no_argument() -> None:
    for job in runtime.build(planned({"redis/password": Wish(2)})).jobs:
        if job.service == "redis":
            assert all(isinstance(word, str) for word in (*job.entrypoint, *job.command))
            assert not any(isinstance(value, SecretPiece) for value in job.env.values())
            assert plain(tuple(job.env.values()))


# ------------------------------------------------------------------------------------------------------- what is held


def deployment(**made: str) -> dict[str, Any]:
    prefix = "urn:pulumi:dev::ai-kit::aikit:secret:GeneratedSecret$random:index/randomPassword:RandomPassword::"
    return {
        "resources": [
            {
                "type": "random:index/randomPassword:RandomPassword",
                "urn": prefix + name.replace("_", "-"),
                "created": at,
            }
            for name, at in made.items()
        ]
    }


def test_the_state_says_which_generation_there_is_and_since_when() -> None:
    plan = planned()
    found = generations.held(
        plan,
        deployment(
            redis_password="2026-01-01T00:00:00Z",
            redis_password_g3="2026-03-01T12:00:00.123456789Z",
            n8n_db_n8n="nonsense",
        ),
    )
    assert found[SecretKey("redis", "password")].generation == 3
    made = found[SecretKey("redis", "password")].made
    assert made is not None and made.date().isoformat() == "2026-03-01"
    assert found[SecretKey("n8n", "db:n8n")] == generations.Held(1, None)
    assert SecretKey("keycloak", "db:keycloak") not in found
    problems = generations.backwards(plan, deployment(redis_password_g3="2026-03-01T12:00:00Z"))
    assert [problem.what for problem in problems] == ["redis/password would go back from 3 to 1"]
    assert generations.backwards(planned({"redis": Wish(3)}), deployment(redis_password_g3="x")) == ()


def test_what_is_due_is_older_than_its_age() -> None:
    plan = planned({"redis/password": Wish(2, 90), "n8n": Wish(1, 90)})
    known = generations.held(
        plan, deployment(redis_password_g2="2026-01-01T00:00:00Z", n8n_db_n8n="2026-03-30T00:00:00Z")
    )
    found = rotate.rows(plan, known, datetime(2026, 4, 1, 1, tzinfo=UTC))
    assert [row.name for row in rotate.due(found)] == ["redis/password"]
    assert next(row for row in found if row.name == "n8n/db:n8n").days == 2


def test_what_a_name_of_the_command_line_means() -> None:
    plan = planned()
    found = rotate.rows(plan, {}, datetime(2026, 4, 1, tzinfo=UTC))
    assert [row.name for row in rotate.named(found, "redis/password")] == ["redis/password"]
    assert {row.name for row in rotate.named(found, "postgres")} == {
        str(secret.key) for secret in plan.secrets if secret.key.name.startswith("db:")
    }
    with pytest.raises(KitError, match=r'no secret "redsi/password"\. Did you mean "redis/password"'):
        rotate.named(found, "redsi/password")
    with pytest.raises(KitError) as never:
        rotate.named(found, "n8n/encryption-key")
    assert "lost" in never.value.fix and never.value.code == 2
    assert not any(isinstance(row.secret.rotates, Never) for row in rotate.named(found, "*"))


def test_a_rotation_that_no_up_came_to_is_not_counted_twice() -> None:
    """A timer that meets a machine that is off does not raise the number each day."""
    plan = planned({"redis/password": Wish(3, 1)})
    for number, following in ((2, 3), (3, 4)):
        known = generations.held(plan, deployment(**{f"redis_password_g{number}": "2026-01-01T00:00:00Z"}))
        (row,) = rotate.due(rotate.rows(plan, known, datetime(2026, 4, 1, tzinfo=UTC)))
        assert row.following == following
