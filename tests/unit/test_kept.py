"""What is not selected any more and has data in the state: it is kept without anybody having to say so."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from ops import generations, planview, rotate
from ops.session import Session
from stack.model import InTemplate, Provided, Secret, SpecError
from stack.plan import Plan, SecretKey, build
from stack.planning.kept import kept, persistent_names, unclaimed
from tests import factories as make


def planned(**changes: object) -> Plan:
    return build(make.settings(**changes), make.host(), make.catalog())


def test_only_what_has_something_in_the_state_and_is_not_selected_is_kept() -> None:
    catalog = make.catalog()
    everything = frozenset().union(*(persistent_names("dev", spec) for spec in catalog))
    plan = planned(profiles=(), services=("cache",))
    selected = {service.name for service in plan.services}
    assert kept(plan, catalog, frozenset()) == ()
    found = kept(plan, catalog, everything)
    assert found and selected.isdisjoint(found)
    assert all(persistent_names("dev", spec) for spec in catalog if spec.name in found)
    assert kept(plan, catalog, frozenset({"kit-other-db-data", "realm"})) == ()


def test_a_volume_that_nobody_declares_is_a_problem() -> None:
    plan = planned()
    own = frozenset().union(*(persistent_names("dev", service.spec) for service in plan.services))
    assert unclaimed(plan, own | {"realm", "ca-key", "kit-other-x-data"}) == ()
    (problem,) = unclaimed(plan, own | {"kit-dev-gone-data"})
    assert problem.where == "volume kit-dev-gone-data"


class Stack:
    """A clone with a stack file, and a state in which some resources are protected."""

    def __init__(self, directory: Path, root: Path) -> None:
        self.root = directory
        for name in ("Pulumi.yaml", "Pulumi.dev.yaml"):
            (directory / name).write_text((root / name).read_text(encoding="utf-8"), encoding="utf-8")

    def select(self, **keys: object) -> Session:
        path = self.root / "Pulumi.dev.yaml"
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        document["config"] |= {f"ai-kit:{key}": value for key, value in keys.items()}
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return Session("dev", self.root)

    def protect(self, session: Session, *names: str, packed: bool = False) -> None:
        """The state file as Pulumi writes it, with these resources protected and one that is not."""
        checkpoint = session.state.checkpoint
        assert checkpoint
        resources = [{"urn": f"urn:pulumi:dev::ai-kit::t::{name}", "protect": True} for name in names]
        resources.append({"urn": "urn:pulumi:dev::ai-kit::t::kit-dev-neo4j-data"})
        text = json.dumps({"checkpoint": {"latest": {"resources": resources}}})
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if packed:
            checkpoint.with_suffix(".json.gz").write_bytes(gzip.compress(text.encode()))
        else:
            checkpoint.write_text(text, encoding="utf-8")


@pytest.fixture
def stack(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("PULUMI_BACKEND_URL", raising=False)
    (tmp_path / "clone").mkdir()
    return Stack(tmp_path / "clone", root)


def retired(session: Session) -> list[str]:
    return [service.name for service in session.plan().services if service.retired]


@pytest.mark.parametrize("packed", [False, True])
def test_a_profile_that_was_taken_out_is_retired(stack: Stack, packed: bool) -> None:
    session = stack.select(profiles=["chat"])
    assert retired(session) == [] and "retired" not in session.overrides()
    stack.protect(session, "consul-token", "kit-dev-consul-data", "kit-dev-postgres-data", "realm", packed=packed)
    assert retired(session) == ["consul"]
    assert session.overrides(down=True)["retired"] == ["consul"]
    assert "data and secrets are kept: consul" in planview.retired(session.plan())
    assert retired(stack.select(profiles=["chat", "discovery"])) == []


def test_a_service_that_was_rotated_can_be_taken_out(stack: Stack) -> None:
    """What stands in `rotation` about it, and about the logins to a database that went as well, goes on counting."""
    session = stack.select(profiles=["chat"], rotation=["neo4j/password=2", "consul=30d", "*=90d"])
    stack.protect(session, "neo4j-password", "kit-dev-neo4j-data", "kit-dev-consul-data")
    assert retired(session) == ["consul", "neo4j"]
    plan = session.plan()
    assert plan.secret(SecretKey("neo4j", "password")).generation == 2
    session = stack.select(profiles=[], services=["redis"], rotation=["n8n/db:n8n=2", "*=90d"])
    stack.protect(session, "n8n-db-n8n", "kit-dev-n8n-data", "kit-dev-postgres-data")
    assert retired(session) == ["n8n", "postgres"]
    assert session.plan().secret(SecretKey("n8n", "db:n8n")).generation == 2
    assert not {row.secret.key.owner for row in rotate.rows(session.plan(), {}, datetime.now(UTC))} & {
        "n8n",
        "postgres",
    }


def test_what_the_operator_retired_stays_so(stack: Stack) -> None:
    session = stack.select(profiles=["chat"], retired=["garage"])
    stack.protect(session, "kit-dev-consul-data", "kit-dev-garage-data")
    assert session.overrides()["retired"] == ["garage", "consul"]


def test_one_that_is_left_out_by_name_keeps_its_data_too(stack: Stack) -> None:
    session = stack.select(profiles=["chat", "discovery"], without=["consul", "neo4j"])
    stack.protect(session, "kit-dev-consul-data")
    assert retired(session) == ["consul"]
    assert session.overrides()["without"] == ["neo4j"]


def test_a_secret_that_its_operator_took_away_is_not_asked_for() -> None:
    """Nothing of a retired service reads any."""
    asking = replace(make.app(), secrets=(*make.app().secrets, Secret("theirs", Provided("theirKey"), InTemplate())))
    catalog = tuple(asking if spec.name == asking.name else spec for spec in make.catalog())
    with pytest.raises(SpecError, match="theirKey"):
        build(make.settings(), make.host(), catalog)
    plan = build(make.settings(profiles=(), services=("cache",), retired=(asking.name,)), make.host(), catalog)
    assert plan.service(asking.name).retired


def test_a_volume_whose_service_is_gone_is_refused(stack: Stack) -> None:
    session = stack.select(profiles=["chat"])
    stack.protect(session, "kit-dev-mine-data")
    with pytest.raises(SpecError, match="volume kit-dev-mine-data"):
        session.plan()


def test_the_state_is_read_once_for_as_long_as_it_stays_the_same(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a megabyte of JSON, which one command asks for several times."""
    session = stack.select(profiles=["chat"])
    stack.protect(session, "kit-dev-postgres-data")
    read: list[Path] = []
    parsed = generations.parsed
    monkeypatch.setattr(generations, "parsed", lambda file: read.append(file) or parsed(file))
    session.plan_or_problems()
    session.overrides()
    first = session.recorded.deployment
    assert len(read) == 1 and first
    stack.protect(session, "kit-dev-postgres-data", "kit-dev-another-data")
    assert session.recorded.deployment != first
    assert len(read) == 2


def test_a_state_that_cannot_be_read_keeps_nobody_from_planning(stack: Stack) -> None:
    session = stack.select(profiles=["chat"])
    checkpoint = session.state.checkpoint
    assert checkpoint
    checkpoint.parent.mkdir(parents=True)
    for text in ("", "{", "[]", '{"checkpoint": null}', '{"checkpoint": {"latest": {}}}'):
        checkpoint.write_text(text, encoding="utf-8")
        assert generations.lasting(session.recorded.deployment) == frozenset()
        assert retired(session) == []
