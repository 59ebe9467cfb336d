"""Logins to databases that end by themselves, in the plan. That they are made and followed: test_openbao.py, live."""

from __future__ import annotations

from typing import Any

import pytest

from stack.catalog import discover, profiles
from stack.derive import runtime
from stack.derive.values import SecretPiece
from stack.model import LoginProvider, Role, Target
from stack.plan import Plan, SecretKey, build
from stack.settings import Settings
from stack.targets import profile

SERVICES = discover()
LEASED = [(spec.name, item.name) for spec in SERVICES for item in spec.databases if item.leased]
PASSWORD = SecretKey("n8n", "db:n8n")


def planned(*chosen: str, target: Target = Target.GPU, **changes: Any) -> Plan:
    settings = Settings(stack="test", target=target, profiles=chosen, **changes)
    return build(settings, profile(settings), SERVICES)


def with_and_without() -> tuple[runtime.Runtime, runtime.Runtime]:
    return runtime.build(planned("automation", "vault")), runtime.build(planned("automation"))


def container(of: runtime.Runtime, name: str) -> runtime.ContainerPlan:
    return next(step for step in of.containers if step.name == f"kit-test-{name}")


def job(of: runtime.Runtime, name: str) -> runtime.JobPlan:
    return next(step for step in of.jobs if step.name == f"kit-test-{name}")


def held(step: runtime.ContainerPlan | runtime.JobPlan) -> set[SecretKey]:
    return {piece.key for file in step.files for piece in file.text if isinstance(piece, SecretPiece)}


def test_somebody_can_follow_and_somebody_makes() -> None:
    assert ("n8n", "n8n") in LEASED
    assert "vault" in profiles(SERVICES)
    maker = planned("vault").provider(Role.LOGINS)
    assert maker and maker.spec.login_provider
    assert [service.name for service in planned("vault").services] == ["postgres", "openbao"]


@pytest.mark.parametrize("target", Target)
def test_it_fits_every_target(target: Target) -> None:
    assert planned("vault", target=target).service("openbao").why == ("profile vault",)


def test_without_a_maker_nothing_changes() -> None:
    _, without = with_and_without()
    assert not [step.name for step in without.steps if step.name.endswith("-login")]
    main = container(without, "n8n")
    assert PASSWORD in held(main) and "DB_POSTGRESDB_USER_FILE" in main.env
    assert "leased.js" not in {file.name for file in main.files}
    assert "KIT_LOGINS_BY" not in job(without, "database-n8n").env
    assert "KIT_MAKES_LOGINS" not in job(without, "database-n8n").env


@pytest.mark.parametrize("name", ["n8n", "n8n-worker-1", "n8n-worker-2"])
def test_with_one_no_container_has_the_password(name: str) -> None:
    leased, without = with_and_without()
    step, before = container(leased, name), container(without, name)
    assert PASSWORD not in held(step)
    assert {mount.path for mount in step.mounts} - {mount.path for mount in before.mounts} == {LoginProvider.FOLDER}
    assert all(mount.read_only for mount in step.mounts if mount.path == LoginProvider.FOLDER)
    assert step.env["NODE_OPTIONS"] == before.env["NODE_OPTIONS"] + " --require /run/kit/leased.js"
    assert "kit-test-n8n-login" in step.after


def test_what_runs_no_query_is_left_alone() -> None:
    leased, without = with_and_without()
    assert container(leased, "n8n-runner-1") == container(without, "n8n-runner-1")


def test_the_agent_is_the_services_own_user_and_comes_when_its_way_in_is_there() -> None:
    leased, _ = with_and_without()
    agent, main = container(leased, "n8n-login"), container(leased, "n8n")
    assert agent.user == main.user
    assert {"kit-test-openbao", "kit-test-openbao-access", "kit-test-database-n8n"} <= set(agent.after)
    assert held(agent) == {SecretKey("n8n", LoginProvider.KEY)}
    assert [network.zone.value for network in agent.networks] == ["data"]


def test_the_maker_is_told_of_each_and_gets_no_password_of_theirs() -> None:
    leased, _ = with_and_without()
    access = job(leased, "openbao-access")
    assert SecretKey("n8n", LoginProvider.KEY) in held(access) and PASSWORD not in held(access)
    assert job(leased, "database-n8n").env["KIT_LOGINS_BY"] == "openbao"
    assert job(leased, "database-openbao").env["KIT_MAKES_LOGINS"] == "1"
    assert "KIT_LOGINS_BY" not in job(leased, "database-openbao").env


def test_the_agents_secret_is_not_what_marks_the_services_own_connections() -> None:
    leased, _ = with_and_without()
    by_name = {file.name: file.text for step in leased.containers if step.service == "n8n" for file in step.files}
    (mark,), (key,) = by_name["own-connection"], by_name["secret-id"]
    assert isinstance(mark, SecretPiece) and isinstance(key, SecretPiece)
    assert mark.key == key.key and mark.encoding is not key.encoding, "one way: neither gives the other away"


def test_it_is_no_development_server_and_seals_with_a_key_of_the_stack() -> None:
    server = container(runtime.build(planned("vault")), "openbao")
    texts = {file.name: "".join(str(piece) for piece in file.text) for file in server.files}
    assert "-dev" not in texts["openbao.sh"] and 'seal "static"' in texts["seal.hcl"]
    assert 'storage "raft"' in texts["server.hcl"] and 'file_path = "stdout"' in texts["server.hcl"]
    assert not server.publish and not planned("vault").routes
