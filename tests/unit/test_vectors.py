"""Qdrant, and the choice of where the chat's documents are, as text. That servers take it: test_qdrant.py, live."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops import planview
from ops.session import Session
from stack.catalog import discover
from stack.derive import runtime
from stack.derive.encode import encode
from stack.derive.values import SecretPiece
from stack.model import BackupSet, Choice, ImageSource, NoBackup, SpecError, Target, Zone
from stack.plan import Plan, SecretKey, build
from stack.planning.choices import settled
from stack.settings import KEYS, Settings, default_of
from stack.targets import profile
from tests import factories as make

FILES = Path(__file__).resolve().parents[2] / "stack/services/files/qdrant"
SERVICES = discover()
KEY = SecretKey("qdrant", "key")
# What a header can carry: all that can be seen of ASCII, and a space.
HOSTILE = "".join(map(chr, range(0x21, 0x7F))) + " yes: no # {}"


def planned(*profiles: str, target: Target = Target.DEV, **changes: Any) -> Plan:
    pages = {"page_size": 4096} if target is Target.PI else {}
    settings = Settings(stack="test", target=target, profiles=profiles, **{**pages, **changes})
    return build(settings, profile(settings), SERVICES)


def container(plan: Plan, name: str) -> runtime.ContainerPlan:
    return next(c for c in runtime.build(plan).containers if c.name == f"kit-test-{name}")


def env_of(plan: Plan, name: str) -> dict[str, object]:
    found = container(plan, name)
    exported = {file.name.removeprefix("env/"): file.text for file in found.files if file.name.startswith("env/")}
    return {**found.env, **exported}


def test_the_default_stack_has_none() -> None:
    assert "qdrant" not in {service.name for service in planned("chat").services}


@pytest.mark.parametrize("target", Target)
def test_it_stands_alone_and_fits_every_target(target: Target) -> None:
    assert [service.name for service in planned("vectors", target=target).services] == ["qdrant"]
    room = {"memory_mb": 16384} if target is Target.PI else {}  # with 8 GB it is the vectors or the monitoring
    assert planned("chat", "vectors", target=target, **room).service("qdrant").why == ("profile vectors",)


def test_the_data_zone_alone_and_its_files_backed_up_while_stopped() -> None:
    spec = planned("vectors").service("qdrant").spec
    assert {zone for each in spec.containers for zone in each.zones} == {Zone.DATA}
    assert not spec.routes
    backups = {volume.name: volume.backup for volume in spec.volumes}
    assert backups["storage"] == BackupSet(stop=True) and isinstance(backups["snapshots"], NoBackup)


@pytest.mark.parametrize("target", Target)
def test_the_configuration_is_yaml_whatever_the_key_is(target: Target) -> None:
    server = container(planned("vectors", target=target), "qdrant")
    text = next(file.text for file in server.files if file.name == "qdrant.yaml")
    secrets = [piece for piece in text if isinstance(piece, SecretPiece)]
    assert [piece.key for piece in secrets] == [KEY]
    filled = "".join(piece if isinstance(piece, str) else encode(HOSTILE, secrets[0].encoding) for piece in text)
    whole = yaml.safe_load(filled)
    assert whole["service"]["api_key"] == HOSTILE
    assert whole["telemetry_disabled"] is True and whole["storage"]["on_disk_payload"] is True
    assert whole["storage"]["hnsw_index"]["on_disk"] is (target is Target.PI)
    mounts = {mount.path for mount in server.mounts}
    assert {whole["storage"]["storage_path"], whole["storage"]["snapshots_path"]} <= mounts
    assert server.read_only and not server.secret_env
    assert not [name for name in server.env if name.startswith("QDRANT__")]  # would be read after the file


def test_the_script_puts_the_key_into_no_argument() -> None:
    text = (FILES / "vectors.sh").read_text(encoding="utf-8")
    for line in text.splitlines():
        if '"$4"' in line or "$key" in line:
            assert line.lstrip().startswith(("ask ", "trap ", "[ -z ")), line  # builtins and functions only


# ------------------------------------------------------------------------------------------ where documents are


def test_documents_are_in_the_database_by_default() -> None:
    env = env_of(planned("chat"), "open-webui")
    assert env["VECTOR_DB"] == "pgvector" and "PGVECTOR_DB_URL" in env
    assert not [name for name in env if "QDRANT" in name]


def test_documents_in_qdrant_bring_it_and_say_why() -> None:
    plan = planned("chat", vector_store="qdrant")
    assert plan.service("qdrant").why == ("open-webui",)
    assert "qdrant" in plan.service("open-webui").starts_after
    found = container(plan, "open-webui")
    assert found.env["VECTOR_DB"] == "qdrant" and found.env["QDRANT_URI"] == "http://qdrant:6333"
    assert found.env["ENABLE_QDRANT_MULTITENANCY_MODE"] == "true" and found.env["QDRANT_PREFER_GRPC"] == "false"
    assert not [name for name in env_of(plan, "open-webui") if name.startswith("PGVECTOR")]
    assert env_of(plan, "open-webui")["QDRANT_API_KEY"] == (SecretPiece(KEY),)
    assert "QDRANT_API_KEY" not in found.env and not found.secret_env
    assert "open-webui" in planview.table(plan).split("qdrant", 1)[1].splitlines()[0]


def test_going_back_needs_nothing_of_the_database() -> None:
    (database,) = planned("chat", vector_store="qdrant").service("open-webui").spec.databases
    assert "vector" in database.extensions


def test_only_the_proof_that_goes_through_it_says_so() -> None:
    proofs = planned("chat", vector_store="qdrant").service("open-webui").spec.proofs
    assert [proof.run.split(":")[1] for proof in proofs if proof.through] == ["knowledge"]
    assert not [proof for proof in planned("chat").service("open-webui").spec.proofs if proof.through]


def test_one_without_the_other_is_refused() -> None:
    with pytest.raises(SpecError, match=r'without\[0\]: "qdrant"\n +open-webui needs it'):
        planned("chat", vector_store="qdrant", without=("qdrant",))


@pytest.mark.parametrize("store", ["chroma", "qdrand", "postgres", "redis"])
def test_another_store_is_refused_with_those_there_are(store: str) -> None:
    with pytest.raises(SpecError, match=rf'vectorStore: "{store}"\n +is none for open-webui\. .*pgvector, qdrant'):
        planned("chat", vector_store=store)


def test_a_kernel_with_large_pages_is_told_the_way_out() -> None:
    for changes in ({"vector_store": "qdrant"}, {"services": ("qdrant",)}):
        with pytest.raises(SpecError, match=r"image qdrant runs with 4 KiB pages only(.|\n)*kernel8\.img"):
            planned("chat", target=Target.PI, page_size=16384, **changes)


# ---------------------------------------------------------------------------------------------------- choices


CHOICES = [(spec, choice) for spec in SERVICES for choice in spec.choices]


@pytest.mark.parametrize(("spec", "choice"), CHOICES, ids=[choice.key for _, choice in CHOICES])
def test_a_choice_has_an_option_for_what_its_key_is_by_default(spec: Any, choice: Choice) -> None:
    default = default_of(KEYS[choice.key])
    settings = Settings(stack="test", target=Target.DEV)
    assert choice.read(settings) in choice.options
    # What changed is told by comparing with the default, where the value was never written down.
    assert not choice.moved or choice.read(settings) == default
    for option in choice.options.values():
        changed = option(spec)
        assert (changed.name, changed.volumes, changed.routes) == (spec.name, spec.volumes, spec.routes)


def test_choices_are_made_before_all_else() -> None:
    def renamed(to: str) -> Any:
        return lambda spec: replace(spec, summary=to)

    first = Choice(
        key="vectorStore", read=lambda s: s.vector_store, options={"pgvector": renamed("a"), "b": renamed("b")}
    )
    spec = make.service("x", choices=(first,))
    assert settled(spec, make.settings()).summary == "a"
    assert settled(spec, make.settings(vector_store="b")).summary == "b"
    assert settled(spec, make.settings(vector_store="c")) == spec  # refused by the plan, see above
    assert settled(make.app(), make.settings()) == make.app()


def test_what_a_change_means_for_what_is_there_is_said(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    before, after = planned("chat"), planned("chat", vector_store="qdrant")
    (said,) = planview.moved(after, {})
    assert said.startswith("vectorStore pgvector -> qdrant: no document of the chat is found until")
    assert not planview.moved(after, {"vectorStore": "qdrant"}) and not planview.moved(before, {})
    assert planview.moved(before, {"vectorStore": "qdrant"})
    session = Session("dev", root)
    assert not session.moved(after)  # the first time there is nothing yet
    session.state.config_file.parent.mkdir(parents=True, exist_ok=True)
    session.record_settled(before)
    session.state.write_config({"config": {"ai-kit:vectorStore": "qdrant"}})  # by a preview, or an up that failed
    assert session.moved(after) == [said] and not session.moved(before)


def test_the_plan_as_an_object_says_what_is_a_stand_in() -> None:
    built = {name: f"aikit.local/airgap/{name}:1-0123456789ab" for name in ("qdrant", "tools")}
    real = planned("vectors", images=ImageSource.AIRGAP, airgap_images=built)
    standin = {**built, "qdrant": "aikit.local/airgap/standin-qdrant:1-0123456789ab"}
    plan = planned("vectors", images=ImageSource.AIRGAP, airgap_images=standin)
    for each, there in ((real, False), (plan, True)):
        (found,) = planview.as_json(each)["services"]
        assert [container["standin"] for container in found["containers"]] == [there]
        assert ("stand-in proves nothing" in planview.table(each)) is there
        json.dumps(planview.as_json(each))
    assert "standin-qdrant runs in place of docker.io/qdrant/qdrant" in planview.standins(plan)
