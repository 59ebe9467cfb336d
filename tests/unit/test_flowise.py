"""Flowise's file: what must not be lost by accident. That it runs: tests/live/test_flowise.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stack.catalog import discover, profiles
from stack.derive import ingress, runtime
from stack.derive.runtime import ContainerPlan
from stack.derive.values import SecretPiece
from stack.model import Access, Problem, SpecError, Target, Zone
from stack.plan import Plan, build
from stack.proofs import flowise as proofs
from stack.proofs import paths, ports
from stack.proofs.context import ProofContext, ProofError
from stack.settings import Settings, load
from stack.targets import profile

SERVICES = discover()
# Each ran programs for whoever could reach it, in a release of its own.
RAN_PROGRAMS = {"customMCP", "customFunction", "customFunctionAgentflow", "customTool", "sqlDatabaseChain"}


def planned(target: Target = Target.DEV, *profiles: str, **changes: Any) -> Plan:
    if target is Target.PI:
        changes.setdefault("memory_mb", 16384)
    settings = Settings(stack="test", target=target, profiles=(*profiles, "flows"), **changes)
    return build(settings, profile(settings), SERVICES)


def server(plan: Plan) -> ContainerPlan:
    return next(step for step in runtime.build(plan).containers if step.service == "flowise")


@pytest.mark.parametrize("target", list(Target))
def test_the_profile_brings_models_and_a_database_and_fits(target: Target) -> None:
    names = {service.name for service in planned(target).services}
    assert {"flowise", "ollama", "postgres", "haproxy"} <= names
    planned(target, "chat")


def test_without_the_profile_nothing_of_it_is_there() -> None:
    settings = Settings(stack="test", target=Target.DEV)
    assert "flowise" not in {service.name for service in build(settings, profile(settings), SERVICES).services}


def test_it_reaches_models_and_databases_and_not_the_internet() -> None:
    step = server(planned())
    assert {network.zone for network in step.networks} == {Zone.APP, Zone.DATA}
    assert all(network.zone is not Zone.EGRESS for network in step.networks)
    assert not step.publish and step.read_only and not step.capabilities


def test_it_asks_the_queue_and_never_the_model_server() -> None:
    env = server(planned()).env
    assert env["KIT_QUEUE"] == "http://ollama-queue:11435"
    assert not [value for value in env.values() if ":11434" in value]


def test_secrets_are_files_and_in_no_variable() -> None:
    step = server(planned())
    names = {str(piece.key) for file in step.files for piece in file.text if isinstance(piece, SecretPiece)}
    own = ("encryption-key", "token-key", "refresh-key", "session-key", "hash-key", "owner-password", "db:flowise")
    assert names == {f"flowise/{name}" for name in own}
    assert not step.secret_env
    assert not {name for name in step.env if "SECRET_OVERWRITE" in name or name == "DATABASE_PASSWORD"}
    assert {file.mode for file in step.files if file.name.startswith("env/")} == {"0400"}


def test_what_runs_programs_is_closed_whatever_the_default() -> None:
    env = server(planned()).env
    assert set(env["DISABLED_NODES"].split(",")) >= RAN_PROGRAMS
    assert env["CUSTOM_MCP_PROTOCOL"] == "sse"
    for name in ("CUSTOM_MCP_SECURITY_CHECK", "PATH_TRAVERSAL_SAFETY"):
        assert env[name] == "true", name
    for name in ("TOOL_FUNCTION_BUILTIN_DEP", "TOOL_FUNCTION_EXTERNAL_DEP", "CUSTOM_MCP_ALLOWED_COMMANDS"):
        assert env[name] == "", name
    assert env["ALLOW_BUILTIN_DEP"] == "false"
    assert env["DISABLE_FLOWISE_TELEMETRY"] == "true"


def test_only_calls_of_flows_are_open() -> None:
    text = ingress.config(planned())
    assert "acl open_flowise path -m beg /api/v1/prediction/\n" in text
    (route,) = planned().service("flowise").spec.routes
    assert route.access is Access.SSO
    assert "/api/v1/account/register" in route.deny


def test_the_owner_has_a_password_that_flowise_takes() -> None:
    """A lower and an upper case letter, a digit, a special character, whatever is generated."""
    job = next(step for step in runtime.build(planned()).jobs if step.name == "kit-test-flowise-owner")
    text = next(file.text for file in job.files if file.name == "owner-password")
    assert text[0] == "aA1!" and isinstance(text[1], SecretPiece)
    (secret,) = [s for s in planned().service("flowise").spec.secrets if s.name == "owner-password"]
    assert not getattr(secret.source, "special", True)


def test_node_collects_garbage_before_the_kernel_kills_it() -> None:
    for target in Target:
        step = server(planned(target))
        assert int(step.env["NODE_OPTIONS"].split("=")[1]) < 0.85 * step.limits.memory_mb


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        ({"profiles": ["flow"]}, "profiles[0]"),
        ({"profiles": ["flows", "flows"]}, "profiles[1]"),
    ],
)
def test_a_profile_that_is_misspelt_or_named_twice_is_refused(raw: dict[str, object], where: str) -> None:
    with pytest.raises(SpecError) as refused:
        load("test", {"target": "dev", **raw}, profiles=profiles(SERVICES))
    (problem,) = refused.value.problems
    assert isinstance(problem, Problem) and problem.where == where


def test_its_database_cannot_be_left_out() -> None:
    with pytest.raises(SpecError, match="postgres"):
        planned(without=("postgres",))


def test_the_proofs_program_is_there_and_knows_its_verbs() -> None:
    program = Path(proofs.PROGRAM).read_text(encoding="utf-8")
    for verb in ("make", "nodes", "claim", "open", "remove"):
        assert f"async {verb}(" in program
    assert json.dumps(proofs.QUESTION)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The proof that Flowise is closed, where the front door is, and Flowise answers as it should, or `says`."""
    plan = planned()
    for module in (paths, ports):
        monkeypatch.setattr(module, "closed", lambda *_: None)

    def run(**says: Any) -> None:
        right: dict[str, Any] = {
            "open": lambda paths: dict.fromkeys(paths, 401),
            "claim": lambda **_: {"status": 400},
            "nodes": lambda: ["chatOllama", "llmChain"],
        }
        answers = {**right, **says}
        monkeypatch.setattr(proofs, "_owner", lambda _, verb, **asked: answers[verb](**asked))
        context = SimpleNamespace(plan=plan, service="flowise", prefix="kit-", step=lambda _: None)
        proofs.closed(cast(ProofContext, context))

    return run


def test_the_proof_holds_where_flowise_is_closed(closed: Callable[..., None]) -> None:
    asked: list[str] = []
    closed(open=lambda paths: asked.extend(paths) or dict.fromkeys(paths, 403))
    assert "/api/v1/account/forgot-password" in asked and len(asked) == len(set(asked)) > 10


@pytest.mark.parametrize("status", [200, 404, 500])
def test_one_path_that_is_open_inside_fails_the_proof(closed: Callable[..., None], status: int) -> None:
    with pytest.raises(ProofError, match=f"Flowise itself answered {status}"):
        closed(open=lambda paths: {**dict.fromkeys(paths, 401), "/api/v1/leads": status})


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([], "Flowise lists no nodes: nothing is known about those that should be closed"),
        (["llmChain"], "Flowise lists no nodes"),
        (["chatOllama", "customMCP"], "these nodes should be closed: customMCP"),
    ],
)
def test_what_is_known_about_nodes_is_known_from_a_list(
    closed: Callable[..., None], nodes: list[str], said: str
) -> None:
    with pytest.raises(ProofError, match=said):
        closed(nodes=lambda: nodes)
