"""The unified API, the way out and the graph, as text. That servers take it: test_litellm.py, test_neo4j.py, live."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stack.catalog import discover
from stack.derive import cloud, ingress, runtime
from stack.derive.values import SecretPiece
from stack.model import BackupSet, SpecError, Target, Zone
from stack.plan import Plan, build
from stack.settings import Settings
from stack.targets import profile

FILES = Path(__file__).resolve().parents[2] / "stack/services/files"
SERVICES = discover()
API = next(spec for spec in SERVICES if spec.name == "litellm")
MODEL_PATHS = [path for path in API.routes[0].paths if path.startswith("/v1/")]


def planned(*profiles: str, target: Target = Target.DEV, **changes: Any) -> Plan:
    settings = Settings(
        stack="test", target=target, profiles=profiles, provided_secrets=frozenset({"openaiApiKey"}), **changes
    )
    return build(settings, profile(settings), SERVICES)


def container(plan: Plan, name: str) -> runtime.ContainerPlan:
    return next(c for c in runtime.build(plan).containers if c.name == f"kit-test-{name}")


def file_text(plan: Plan, of: str, name: str) -> str:
    text = next(file.text for file in container(plan, of).files if file.name == name)
    return "".join(piece if isinstance(piece, str) else f"<{getattr(piece, 'key', 'certificate')}>" for piece in text)


def litellm(plan: Plan) -> dict[str, Any]:
    return json.loads(file_text(plan, "litellm", "config.yaml"))


def test_the_default_stack_has_none_of_them() -> None:
    settings = Settings(stack="test", target=Target.DEV)
    names = {service.name for service in build(settings, profile(settings), SERVICES).services}
    assert not names & {"litellm", "openai", "neo4j"}


@pytest.mark.parametrize("target", Target)
def test_they_fit_every_target(target: Target) -> None:
    room = {"memory_mb": 16384} if target is Target.PI else {}  # with 8 GB it is the API or the monitoring
    plan = planned("api", "chat", target=target, **room)
    assert plan.service("litellm").why == ("profile api",)
    assert [service.name for service in planned("graph", target=target).services] == ["neo4j"]


def test_models_are_the_settings_and_only_the_queue_is_asked() -> None:
    plan = planned("api", models=("a:1b", "b:2b"), embedding_model="e", memory_mb=16384, model_memory_mb=8192)
    entries = {entry["model_name"]: entry["litellm_params"] for entry in litellm(plan)["model_list"]}
    assert {name: entry["model"] for name, entry in entries.items()} == {
        "a:1b": "ollama_chat/a:1b",
        "b:2b": "ollama_chat/b:2b",
        "e": "ollama/e",
    }
    assert {entry["api_base"] for entry in entries.values()} == {"os.environ/KIT_QUEUE"}
    assert container(plan, "litellm").env["KIT_QUEUE"] == "http://ollama-queue:11435"
    assert "fallbacks" not in litellm(plan)["router_settings"]


def test_a_name_for_two_models_is_two_entries_with_their_shares() -> None:
    names = {"assistant": {"kit-tiny-chat": 80, "kit-tiny-chat-b": 20}}
    plan = planned(
        "api",
        "cloud",
        models=("kit-tiny-chat", "kit-tiny-chat-b"),
        embedding_model="e",
        model_aliases=names,
    )
    entries = [entry["litellm_params"] for entry in litellm(plan)["model_list"] if entry["model_name"] == "assistant"]
    assert {entry["model"]: entry["weight"] for entry in entries} == {
        "ollama_chat/kit-tiny-chat": 80,
        "ollama_chat/kit-tiny-chat-b": 20,
    }
    assert {"assistant": ["gpt-4o-mini"]} in litellm(plan)["router_settings"]["fallbacks"]


def test_the_cloud_is_offered_when_its_profile_is_chosen_and_the_first_of_it_steps_in() -> None:
    plan = planned("api", "cloud", models=("a:1b",), openai_models=("x", "y"))
    whole = litellm(plan)
    entries = {entry["model_name"]: entry["litellm_params"] for entry in whole["model_list"]}
    assert entries["x"]["api_base"] == entries["y"]["api_base"] == "http://openai:8080/v1"
    assert whole["router_settings"]["fallbacks"] == [{"a:1b": ["x"]}]


def test_the_key_of_the_cloud_is_in_one_container_and_asked_for() -> None:
    plan = planned("api", "cloud")
    for each in runtime.build(plan).containers:
        pieces = {piece.key.owner for file in each.files for piece in file.text if isinstance(piece, SecretPiece)}
        assert ("openai" in pieces) == (each.service == "openai"), each.name
    without = replace(plan.settings, provided_secrets=frozenset())
    with pytest.raises(SpecError, match="pulumi config set --secret openaiApiKey"):
        build(without, profile(without), SERVICES)


def test_only_the_way_out_leaves_the_machine() -> None:
    plan = planned("api", "cloud")
    out = {service.name for service in plan.running for c in service.spec.containers if Zone.EGRESS in c.zones}
    assert out == {"openai", "ollama"}  # Ollama: to fetch models


@pytest.mark.parametrize(
    ("url", "host", "rewrite"),
    [
        ("https://api.openai.com/v1", "api.openai.com", None),
        ("https://openrouter.ai/api/v1/", "openrouter.ai", "/api/v1"),
        ("https://eu.example:8443", "eu.example:8443", ""),
    ],
)
def test_the_way_out_asks_one_host_over_verified_tls(url: str, host: str, rewrite: str | None) -> None:
    text = cloud.config(planned("cloud", openai_url=url))
    servers = [line for line in text.splitlines() if line.strip().startswith("server ")]
    assert len(servers) == 1 and "ssl verify required" in servers[0]
    assert f"set-header Host {host}\n" in text
    lines = re.findall(r"replace-path (.*)", text)
    assert lines == ([] if rewrite is None else [f"/v1(.*) {rewrite}\\1"])


def test_what_people_reach_is_the_same_list_at_the_front_door_and_inside() -> None:
    plan = planned("api")
    front = ingress.config(plan)
    line = next(line for line in front.splitlines() if "if host_api !{" in line)
    exact, below = re.findall(r"!\{ path -m (?:str|beg) ([^}]*) \}", line)
    assert set(exact.split()) == {*MODEL_PATHS, "/", "/openapi.json", "/me"}
    assert set(below.split()) == {"/swagger/", "/me/"}
    assert front.index(line) < front.index("use_backend litellm-api")
    assert container(plan, "litellm").env["KIT_PATHS"].split() == MODEL_PATHS


def test_a_path_that_could_be_read_as_something_else_is_refused() -> None:
    def changed(path: str) -> tuple[Any, ...]:
        return tuple(
            replace(spec, routes=(replace(spec.routes[0], paths=(path,)),)) if spec.name == "litellm" else spec
            for spec in SERVICES
        )

    settings = planned("api").settings
    for path in ("v1", "/a b", "/a }", "/%61", ""):
        with pytest.raises(SpecError, match="paths"):
            build(settings, profile(settings), changed(path))


def test_litellm_tells_nobody_and_fetches_nothing() -> None:
    plan = planned("api")
    env, whole = container(plan, "litellm").env, litellm(plan)
    assert env["LITELLM_LOCAL_MODEL_COST_MAP"] == "true" and env["DISABLE_ADMIN_UI"] == "true"
    assert whole["litellm_settings"]["telemetry"] is False
    assert whole["litellm_settings"]["turn_off_message_logging"] is True
    exported = {file.name for file in container(plan, "litellm").files if file.name.startswith("env/")}
    assert "DATABASE_URL" not in {*env, *exported}  # LiteLLM would start a client that our image does not have
    assert exported == {
        f"env/{name}"
        for name in ("KIT_CACHE", "KIT_CLIENT_SECRET", "KIT_DATABASE", "KIT_SESSION_KEY", "LITELLM_MASTER_KEY")
    }


@pytest.mark.parametrize("target", Target)
def test_the_graph_fits_its_limit(target: Target) -> None:
    plan = planned("graph", target=target)
    text = file_text(plan, "neo4j", "neo4j.conf")
    units = {"m": 1, "g": 1024}

    def size(key: str) -> int:
        found = re.search(rf"{re.escape(key)}=(\d+)([mg])$", text, re.MULTILINE)
        assert found, key
        return int(found[1]) * units[found[2]]

    parts = ("server.memory.heap.max_size", "server.memory.pagecache.size", "-XX:MaxDirectMemorySize")
    # What is left is for the code, its compiler and the threads.
    assert sum(size(part) for part in parts) + 256 <= plan.service("neo4j").memory_mb
    assert size("server.memory.heap.initial_size") == size("server.memory.heap.max_size")


def test_the_graph_is_in_the_data_zone_alone_and_backed_up_while_stopped() -> None:
    plan = planned("graph")
    spec = plan.service("neo4j").spec
    assert {zone for each in spec.containers for zone in each.zones} == {Zone.DATA}
    assert not spec.routes and spec.volumes[0].backup == BackupSet(exclude=("native/*",), stop=True)
    assert spec.containers[0].stop_grace_s == 120


def test_the_graphs_scripts_put_the_password_into_no_argument() -> None:
    for name in ("neo4j.sh", "graph.sh"):
        path = FILES / "neo4j" / name
        subprocess.run(["bash", "-n", str(path)], check=True)
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"set-initial-password (?!@/run/kit/)", text)
