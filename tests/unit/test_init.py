"""./kit init: questions, flags, refusals; and that nothing is written unless everything is decided."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ops import cli, init
from ops.console import KitError
from stack import settings
from stack.model import SpecError


@pytest.fixture
def clone(tmp_path: Path, root: Path) -> Path:
    shutil.copy(root / "Pulumi.yaml", tmp_path)
    return tmp_path


def asked(*argv: str, root: Path) -> argparse.Namespace:
    return cli.parse(["init", *argv], root)[1]


def nobody(prompt: str) -> str:
    raise AssertionError(f"asked: {prompt}")


def answering(answers: Iterable[str]) -> Callable[[str], str]:
    left = iter(answers)
    return lambda prompt: next(left)


def files(clone: Path) -> list[str]:
    return sorted(path.name for path in clone.iterdir())


def test_by_flags_alone_it_writes_a_stack_that_can_be_planned(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["home", "--target", "pi", "--domain", "home.example", "--profiles", "chat,automation", "--models", "m:1b"]
    argv += ["--set", "httpsPort=443", "--set", "timezone=Europe/Berlin", "--workflows", "summarise-url"]
    argv += ["--parameter", "summarise-url.words=80", "--set", "memoryMb=16384", "--set", "reserveMb=1024"]
    argv += ["--set", "monitoringMb=1"]
    assert init.create(asked(*argv, root=clone), clone, interactive=False, ask=nobody) == 0
    found = settings.from_files(clone, "home", provided_keys=frozenset({"summariseUrlKey"}))
    assert (found.domain, found.https_port, found.timezone) == ("home.example", 443, "Europe/Berlin")
    assert found.workflows == ("summarise-url",) and found.workflow_parameters == {"summarise-url.words": "80"}
    assert found.admin_email == "admin@home.example"
    text = capsys.readouterr().out
    assert "pulumi config set --secret summariseUrlKey -s home" in text and "./kit up home" in text
    assert files(clone) == ["Pulumi.home.yaml", "Pulumi.yaml"]


def test_it_asks_again_for_what_does_not_fit(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = ["toaster", "dev", "chat", "Not A Domain", "lan", "", "none", "y"]
    ask = answering(answers)
    assert init.create(asked("lan", root=clone), clone, interactive=True, ask=ask) == 0
    text = capsys.readouterr().out
    assert "is no target" in text and "is no domain" in text
    document = yaml.safe_load((clone / "Pulumi.lan.yaml").read_text(encoding="utf-8"))
    assert document["config"] == {
        "ai-kit:target": "dev",
        "ai-kit:domain": "lan",
        "ai-kit:profiles": ["chat"],
        "ai-kit:adminEmail": "admin@lan",
    }


def test_workflows_and_what_they_must_be_told_are_asked_for(clone: Path) -> None:
    answers = ["", "automation", "", "", "", "gmail-to-telgram", "gmail-to-telegram", "=bad", "ann, bob", ""]
    assert init.create(asked("flow", root=clone), clone, interactive=True, ask=answering(answers)) == 0
    document = yaml.safe_load((clone / "Pulumi.flow.yaml").read_text(encoding="utf-8"))
    assert document["config"]["ai-kit:workflowParameters"] == ["gmail-to-telegram.people=ann, bob"]


def test_a_no_at_the_end_and_an_interrupt_anywhere_leave_nothing(clone: Path) -> None:
    answers = ["dev", "chat", "lan", "", ""]
    assert init.create(asked("lan", root=clone), clone, interactive=True, ask=answering([*answers, "n"])) == 0
    for count in range(len(answers) + 1):
        left = iter(answers[:count])

        def ask(prompt: str, left: Any = left) -> str:
            try:
                return next(left)
            except StopIteration:
                raise KeyboardInterrupt from None

        with pytest.raises(KeyboardInterrupt):
            init.create(asked("lan", root=clone), clone, interactive=True, ask=ask)
    assert files(clone) == ["Pulumi.yaml"]


def test_it_never_overwrites(clone: Path) -> None:
    path = clone / "Pulumi.dev.yaml"
    path.write_text("mine")
    with pytest.raises(KitError) as caught:
        init.create(asked("dev", "--yes", root=clone), clone, interactive=False, ask=nobody)
    assert "is there already" in caught.value.what and path.read_text() == "mine"
    with pytest.raises(KitError):  # somebody else was quicker
        init.write_new(path, "ours")
    assert path.read_text() == "mine" and files(clone) == ["Pulumi.dev.yaml", "Pulumi.yaml"]


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        (["Bad-Name"], "stack"),
        (["x", "--target", "toaster"], "target"),
        (["x", "--profiles", "chat", "--workflows", "summarise-url"], "workflows"),
        (["x", "--profiles", "automation", "--workflows", "nope"], "workflows[0]"),
        (["x", "--set", "memoryMb=512"], "memory"),
    ],
)
def test_what_cannot_be_planned_is_said_and_not_written(clone: Path, argv: list[str], where: str) -> None:
    with pytest.raises(SpecError) as caught:
        init.create(asked(*argv, root=clone), clone, interactive=False, ask=nobody)
    assert any(where in problem.where for problem in caught.value.problems), caught.value.problems
    assert files(clone) == ["Pulumi.yaml"]


def test_a_flag_for_no_key_is_refused(clone: Path) -> None:
    with pytest.raises(KitError):
        init.create(asked("x", "--set", "colour=red", root=clone), clone, interactive=False, ask=nobody)


def test_nobody_at_the_terminal_is_said(clone: Path) -> None:
    def gone(prompt: str) -> str:
        raise EOFError

    with pytest.raises(KitError) as caught:
        init.create(asked("x", root=clone), clone, interactive=True, ask=gone)
    assert "flags" in caught.value.fix


@given(st.text(max_size=60))
def test_a_text_is_read_back_as_it_was(value: str) -> None:
    text = init.rendered("x", {"workflowParameters": [f"a.b={value}"], "domain": value})
    document = yaml.safe_load(text)
    assert document["config"]["ai-kit:workflowParameters"] == [f"a.b={value}"]
    assert document["config"]["ai-kit:domain"] == value
