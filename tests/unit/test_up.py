"""What ./kit up says at the end: only what is true of this stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops import up
from ops.session import Session
from stack.plan import build
from tests import factories as make


@pytest.fixture
def session(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return Session("dev", root)


def test_a_stack_with_a_login_says_how_to_log_in(session: Session) -> None:
    resolved = build(make.settings(), make.host(), make.catalog())
    text = "\n".join(up.closing(session, resolved, {"adminUser": "me"}, proven=True, seconds=5))
    assert "stack dev is up and proven" in text
    assert "https://app.kit.localhost:8443" in text
    assert "log in      as me" in text and "ca.pem" in text
    assert up.provable(resolved)


def test_a_stack_without_one_says_that_nothing_is_proven(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    resolved = build(make.settings(profiles=(), services=("cache",)), make.host(), make.catalog())
    text = "\n".join(up.closing(session, resolved, {}, proven=None, seconds=5))
    assert "is up (" in text and "proven" not in text
    assert "log in" not in text and "ca.pem" not in text
    assert not up.provable(resolved)
    assert "nothing is proven" in capsys.readouterr().out


def test_an_emulated_stack_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    up.say_emulation(build(make.settings(), make.host(), make.catalog()))
    assert capsys.readouterr().out == ""
    up.say_emulation(build(make.settings(emulate=True), make.host(emulated=True), make.catalog()))
    assert "emulated: dev on 4 CPUs. no limit had to be cut" in capsys.readouterr().out
