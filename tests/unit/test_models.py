"""Names, versions, shares and sizes of models."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.derive import models
from stack.model import Profile, Role, SpecError, Target
from stack.plan import build
from stack.settings import Settings, load
from stack.targets import profile
from tests.factories import service

NAMES = st.from_regex(r"[a-z][a-z0-9._-]{0,20}(/[a-z][a-z0-9-]{0,9})?(:[a-z0-9][a-z0-9._-]{0,15})?", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9a-f]{12}", fullmatch=True)


def settings(**raw: object) -> Settings:
    return load("test", {"target": "dev", **raw})


def problems(**raw: object) -> str:
    with pytest.raises(SpecError) as caught:
        settings(**raw)
    return str(caught.value)


@given(NAMES, VERSIONS)
def test_a_kept_name_says_what_it_is_a_version_of(name: str, version: str) -> None:
    assert models.kept(models.kept_name(name, version)) == (models.tagged(name), version)


@given(NAMES)
def test_tagging_twice_is_tagging_once(name: str) -> None:
    assert models.tagged(models.tagged(name)) == models.tagged(name)


@pytest.mark.parametrize("name", ["llama3.2:1b", "a-kept-x:1b", "a:b-kept-0123456789a", "a:b-kept-0123456789AB"])
def test_other_names_are_no_kept_versions(name: str) -> None:
    assert models.kept(name) is None


def test_aliases_are_names_with_shares() -> None:
    found = settings(models=["llama3.2:1b", "qwen2.5:3b"], modelAliases=["assistant = llama3.2:1b 80, qwen2.5:3b 20"])
    assert models.aliases(found) == (
        models.Alias(
            name="assistant",
            shares=(models.Share(model="llama3.2:1b", percent=80), models.Share(model="qwen2.5:3b", percent=20)),
        ),
    )


@pytest.mark.parametrize(
    ("alias", "said"),
    [
        ("assistant", "is not NAME = MODEL SHARE"),
        ("assistant = a:1b 100", "needs two models or more"),
        ("assistant = a:1b 50, a:1b 50", "each once"),
        ("assistant = a:1b 80, b:1b 30", "110 percent"),
        ("assistant = a:1b 0, b:1b 100", "whole percents"),
        ("assistant = a:1b 0.5, b:1b 99.5", "whole percents"),
        ("a b = a:1b 50, b:1b 50", "is no model name"),
        ("assistant = a:1b 50, c:1b 50", "is not in models"),
        ("a:1b = a:1b 50, b:1b 50", "is a model of its own"),
    ],
)
def test_an_alias_that_cannot_be_is_refused(alias: str, said: str) -> None:
    assert said in problems(models=["a:1b", "b:1b"], modelAliases=[alias])


def test_a_name_stands_for_one_choice() -> None:
    twice = ["x = a:1b 50, b:1b 50", "x = a:1b 10, b:1b 90"]
    assert "stands there twice" in problems(models=["a:1b", "b:1b"], modelAliases=twice)


def test_aliases_need_a_service_that_routes_by_model() -> None:
    decided = settings(models=["a:1b", "b:1b"], modelAliases=["x = a:1b 50, b:1b 50"], profiles=["chat"])
    without = (service("talk", profiles=frozenset({Profile("chat")})),)
    with pytest.raises(SpecError) as caught:
        build(decided, profile(decided), without)
    assert "no service of this stack routes by model" in str(caught.value)
    router = service("router", profiles=frozenset({Profile("chat")}), roles=frozenset({Role.MODEL_API}))
    assert build(decided, profile(decided), (*without, router)).settings.model_aliases


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("http://192.168.1.20:11434", "192.168.1.20:11434"),
        ("http://box.lan/", "box.lan:11434"),
        ("http://box.lan:80", "box.lan:80"),
    ],
)
def test_a_backend_is_a_machine_and_a_port(written: str, read: str) -> None:
    assert settings(ollamaBackends=[written]).ollama_backends == (read,)


@pytest.mark.parametrize(
    "written",
    [
        *("box.lan:11434", "https://box.lan", "http://", "http://box.lan:0", "http://box.lan:99999", "http://u:p@box"),
        *("http://box.lan/v1", "http://box.lan:11434\nserver x", "http://box lan", "http://-x", "http://$(x)"),
    ],
)
def test_no_other_address_is_one(written: str) -> None:
    assert "is not http://HOST:PORT" in problems(ollamaBackends=[written])


def test_threads_never_exceed_what_the_processor_limit_makes_of_them() -> None:
    assert {target: models.threads(Settings(stack="t", target=target)) for target in Target} == models.THREADS
