"""Registrations of a whole stack: what waits for what, beyond a single component."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pulumi
import pytest

from components import capabilities
from ops import planview
from stack import deploy, rotation
from stack.plan import Plan
from stack.rotation import Wish
from tests.components.recording import record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _official_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(capabilities.VARIABLE, raising=False)
    monkeypatch.setenv(rotation.CHECKED, "1")  # otherwise it reads what the last deployment exported


def resolved(stack: str) -> Plan:
    return planview.load_plan(ROOT, stack)


def test_the_identity_provider_is_asked_only_once_the_front_door_has_read_its_files() -> None:
    """A reload in the middle of the calls answered one of them 503."""
    recording = record(lambda: deploy.deploy(resolved("dev")))
    assert not recording.error
    realm = recording.one("keycloak:index/realm:Realm")
    waited_for = recording.names(realm.dependencies)
    assert {"kit-dev-keycloak", "kit-dev-haproxy", "kit-dev-haproxy-reload"} <= waited_for


def test_the_identity_provider_is_administered_below_its_path() -> None:
    moved = planview.load_plan(ROOT, "dev", {"paths": ["auth = /keycloak"]})
    recording = record(lambda: deploy.deploy(moved))
    assert not recording.error
    provider = recording.one("pulumi:providers:keycloak")
    assert (provider.inputs["url"], provider.inputs["basePath"]) == ("https://127.0.0.1:8444", "/keycloak")


def test_what_comes_after_the_realm_waits_for_its_login_flow_and_is_not_there_while_the_stack_is_down() -> None:
    name = "kit-dev-keycloak-realm"
    recording = record(lambda: deploy.deploy(resolved("dev")))
    job = recording.one("docker:index/container:Container", name)
    bindings = recording.one("keycloak:authentication/bindings:Bindings")
    assert bindings.name in recording.names(job.dependencies)
    # It waits for the realm, which waits for the jobs: those may not wait for it.
    realm = recording.one("keycloak:index/realm:Realm")
    assert name not in recording.names(realm.dependencies)
    down = planview.load_plan(ROOT, "dev", {"down": True})
    recording = record(lambda: deploy.deploy(down))
    assert not [each for each in recording.all("docker:index/container:Container") if each.name == name]


def rotated(**wishes: Wish) -> Plan:
    plan = resolved("dev")
    named = {name.replace("__", "/").replace("_", "-"): wish for name, wish in wishes.items()}
    return replace(plan, settings=replace(plan.settings, rotation=named))


def test_of_each_secret_the_one_in_use_is_protected() -> None:
    for wishes in ({}, {"redis__password": Wish(4)}):
        recording = record(lambda wishes=wishes: deploy.deploy(rotated(**wishes)))
        found = {each.name: each.protect for each in recording.all("RandomPassword") if "redis-pass" in each.name}
        numbers = {"redis-password": True, "redis-password-g3": False, "redis-password-g4": True}
        assert found == (numbers if wishes else {"redis-password": True})


def test_whoever_has_the_ca_gets_both_while_two_are_trusted() -> None:
    """Found by what is delivered, and not by a list of services."""
    recording = record(lambda: deploy.deploy(rotated(tls__ca=Wish(2))))
    assert not recording.error
    assert {each.name: each.protect for each in recording.all("SelfSignedCert")} == {"ca": False, "ca-g2": True}
    provider = recording.one("pulumi:providers:keycloak")
    assert provider.inputs["rootCaCertificate"] == "CERTIFICATE ca-g2\nCERTIFICATE ca\n"
    ended = record(lambda: deploy.deploy(rotated(tls__ca=Wish(2), tls__oldest_ca=Wish(2), tls__leaf=Wish(3))))
    assert {each.name: each.protect for each in ended.all("SelfSignedCert")} == {"ca-g2": True}
    assert ended.one("pulumi:providers:keycloak").inputs["rootCaCertificate"] == "CERTIFICATE ca-g2\n"
    assert {each.name for each in ended.all("PrivateKey")} == {"ca-g2-key", "leaf-g3-key"}
    assert not [each for each in ended.all("LocallySignedCert") if "cross" in each.name]


def test_a_state_that_is_being_written_for_the_first_time_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[object] = [Exception("failed to load checkpoint: EOF"), {"outputs": {"generations": {"a/b": 2.0}}}]

    def invoke(token: str, args: object) -> SimpleNamespace:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(value=answer)

    for name in ("get_organization", "get_project", "get_stack"):
        monkeypatch.setattr(pulumi, name, lambda: "x")
    monkeypatch.setattr(pulumi.runtime, "invoke", invoke)
    assert deploy.recorded() == ({"a/b": 2}, {})
    answers.append(Exception("no such stack"))
    with pytest.raises(Exception, match="no such stack"):
        deploy.recorded()
