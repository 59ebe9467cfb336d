"""Registrations of a whole stack: what waits for what, beyond a single component."""

from __future__ import annotations

from pathlib import Path

import pytest

from components import capabilities
from ops import planview
from stack import deploy, rotation
from stack.plan import Plan
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
