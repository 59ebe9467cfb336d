"""The store's pure parts: what people type, what it becomes, and what they read. The store itself, with a real n8n and
PostgreSQL: tests/live/test_workflows.py."""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import cli
from ops import credentials as verb
from ops.console import KitError
from ops.paths import ROOT
from stack import plan as planning
from stack import targets
from stack.automation import credentials, render, templates
from stack.automation.credentials import KINDS
from stack.catalog import discover
from stack.derive import runtime
from stack.derive.values import SecretPiece
from stack.model import STATIC_FILES, SpecError, Target
from stack.settings import Settings

TELEGRAM, GMAIL, GENERIC = (KINDS[name] for name in ("telegram", "gmail-oauth", "generic"))
TOKEN = "123456:AAbb-cc_dd"
SCRIPT = STATIC_FILES / "n8n" / "credentials.js"


def settings(**changes: Any) -> Settings:
    return Settings(stack="dev", target=Target.DEV, profiles=("automation",), **changes)


def with_templates() -> Settings:
    parameters = {"gmail-to-telegram.people": "ann", "gmail-to-telegram.telegramUrl": "http://fake:1"}
    return settings(
        workflows=("gmail-to-telegram",),
        workflow_parameters=parameters,
        provided_secrets=templates.config_keys(),
    )


# ------------------------------------------------------------------------------------------------------ values


@given(st.text(min_size=1).filter(lambda text: not text.endswith(("\n", "\r"))))
def test_one_value_is_taken_as_it_is_but_for_the_lines_end(value: str) -> None:
    for end in ("", "\n", "\r\n"):
        assert credentials.parsed(GENERIC, value + end) == {"value": value}


@pytest.mark.parametrize(
    "text",
    [
        '{"clientId": "i", "clientSecret": "s", "refreshToken": "r"}',
        '{"client_id": "i", "client_secret": "s", "refresh_token": "r", "project_id": "p", "auth_uri": 1}',
        '{"web": {"client_id": "i", "client_secret": "s", "refresh_token": "r"}}',
        '{"installed": {"client_id": "i", "client_secret": "s", "refresh_token": "r"}}\n',
    ],
)
def test_several_values_are_an_object_or_googles_own_file(text: str) -> None:
    said = credentials.parsed(GMAIL, text)
    assert said == {"clientId": "i", "clientSecret": "s", "refreshToken": "r"}
    assert credentials.problems(GMAIL, said, all_of_them=True) == []


@pytest.mark.parametrize(
    "text", ["", "secret-thing", "[1]", '"secret-thing"', "{}", '{"web": "secret-thing"}', "[" * 9999]
)
def test_what_is_no_object_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        credentials.parsed(GMAIL, text)
    assert "secret-thing" not in caught.value.render() and "clientSecret" in caught.value.render()


@pytest.mark.parametrize(
    "value", ["", "two words", "12345", f"{TOKEN}\n{TOKEN}", f"bot{TOKEN}", "1:" + "a" * 20_000, "1:é", "1:a/../b"]
)
def test_what_is_no_token_is_refused_and_not_repeated(value: str) -> None:
    found = credentials.problems(TELEGRAM, {"token": value}, all_of_them=True)
    assert found and not any(value and value in str(problem) for problem in found)


def test_everything_that_is_missing_is_said_at_once_and_a_rotation_may_leave_some() -> None:
    assert len(credentials.problems(GMAIL, {"clientId": ""}, all_of_them=True)) == 3
    assert credentials.problems(GMAIL, {"clientSecret": "s"}, all_of_them=False) == []
    assert "nothing new" in str(credentials.problems(GMAIL, {"clientId": ""}, all_of_them=False)[0])
    assert credentials.problems(TELEGRAM, {"token": ""}, all_of_them=False)
    assert credentials.problems(GENERIC, {"value": "\ud800"}, all_of_them=True)


@pytest.mark.parametrize("name", ["", "ab", "x" * 101, " ab", "abc ", "a\nbc", "a\x00bc", "--show", "a\u202ebc"])
def test_what_is_no_name(name: str) -> None:
    assert credentials.name_problem(name)


@pytest.mark.parametrize("name", ["Telegram bot", 'it\'s "odd"; $(x) `é€😀`', "abc", "x" * 100])
def test_what_is_a_name(name: str) -> None:
    assert credentials.name_problem(name) == ""


# ---------------------------------------------------------------------------------------------- what is stored


def test_a_new_credential_goes_to_the_real_hosts_or_where_the_templates_go() -> None:
    data = credentials.data(TELEGRAM, "Telegram bot", {"token": TOKEN}, settings())
    assert data == {"baseUrl": "https://api.telegram.org", "accessToken": TOKEN}
    for name in ("Telegram bot", "another bot"):
        data = credentials.data(TELEGRAM, name, {"token": TOKEN}, with_templates())
        assert data == {"baseUrl": "http://fake:1", "accessToken": TOKEN}


def test_what_is_stored_is_what_the_template_would_have_given_n8n() -> None:
    said = {"clientId": "i", "clientSecret": "s", "refreshToken": "r"}
    sketch = {item["name"]: item for item in render.bundle(with_templates()).document["credentials"]}["Gmail"]
    files = {
        render.secret_name(key): value
        for key, value in {"gmailClientId": "i", "gmailClientSecret": "s", "gmailRefreshToken": "r"}.items()
    }

    def filled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "$file" in value:
            return files["config-" + _dashed(value["$file"].removeprefix("secret-"))]
        return {key: filled(item) for key, item in value.items()}

    assert credentials.data(GMAIL, "Gmail", said, with_templates()) == filled(sketch["data"])


def _dashed(key: str) -> str:
    return re.sub("[A-Z]", lambda found: f"-{found[0].lower()}", key)


def test_a_rotation_changes_what_was_said_and_has_n8n_ask_for_a_new_token() -> None:
    patch = credentials.patch(GMAIL, {"clientSecret": "s", "clientId": ""})
    assert patch == {"clientSecret": "s", "oauthTokenData": {"token_type": "Bearer", "access_token": "expired"}}
    assert credentials.patch(TELEGRAM, {"token": TOKEN}) == {"accessToken": TOKEN}


def test_a_header_is_for_a_generic_one_and_a_name_of_a_header() -> None:
    assert credentials.data(GENERIC, "own", {"value": "v"}, settings(), "X-Key") == {"name": "X-Key", "value": "v"}
    assert credentials.data(GENERIC, "own", {"value": "v"}, settings()) == {"value": "v"}
    for kind, header in ((TELEGRAM, "X-Key"), (GENERIC, "X Key"), (GENERIC, "X-Key\r\nHost: other")):
        with pytest.raises(SpecError, match="--header"):
            credentials.data(kind, "own", {kind.inputs[0].name: TOKEN}, settings(), header)


def test_the_program_knows_the_same_kinds_with_the_same_secrets() -> None:
    script = SCRIPT.read_text(encoding="utf-8")
    table = script[script.index("const KINDS = {") : script.index("// The kind of a credential as a template has it")]
    for kind in KINDS.values():
        row = next(line for line in table.splitlines() if re.match(rf"\s*'?{kind.name}'?:", line))
        for item in kind.inputs:
            assert f"'{item.field}'" in row or ("token" in row and "refresh_token" in item.field), (kind.name, item)
        assert (kind.type or credentials.HEADER_TYPE) in row
    assert "const token = 'oauthTokenData.refresh_token'" in script


def test_one_service_keeps_them_and_delivers_the_program_it_names() -> None:
    keepers = [spec for spec in discover() if spec.credential_store]
    assert len(keepers) == 1
    delivered = {f"/run/kit/{file.name}" for file in keepers[0].containers[0].files}
    assert keepers[0].credential_store[-1] in delivered


# ------------------------------------------------------------------------------------------- the program's own crypto

TRY = Path(__file__).with_name("credentials_crypto.js")


def crypto(keys: Mapping[str, str], rows: list[Any]) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    done = subprocess.run(
        [node, str(TRY), str(SCRIPT), json.dumps(keys)],
        input=json.dumps(rows).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_what_is_encrypted_comes_back_only_where_it_belongs() -> None:
    odd = "a'b\"c$d${e}\\f`g\n\r\x00é€😀;"
    rows = [[{"name": name, "kind": "generic", "version": 1}, {"value": odd}] for name in ("one", odd)]
    found = crypto({"credentials-key": "ab" * 32}, rows)
    for tried in found["tries"]:
        assert tried["back"] == {"value": odd}
        assert odd.encode().hex() not in tried["hex"]
        for bad in ("renamed", "bent", "older"):
            assert "is not as it was written" in tried[bad]
        assert "key that is not here" in tried["foreign"]
    assert len({tried["nonce"] for tried in found["tries"]}) == 2
    assert found["tries"][0]["key"] not in "ab" * 32
    assert found["split"] == {
        "clientId": "i",
        "clientSecret": "s",
        "url": "u",
        "oauthTokenData": {"refresh_token": "r", "access_token": "a"},
    }
    assert found["settings"] == {"url": "u", "oauthTokenData": {"access_token": "a"}}
    assert found["masks"] == ["******** (5 characters)", "********1234 (24 characters)"]


def test_new_values_are_under_the_new_key() -> None:
    row = [[{"name": "one", "kind": "generic", "version": 1}, {"value": "v"}]]
    old = crypto({"credentials-key": "ab" * 32}, row)["tries"][0]["key"]
    both = crypto({"credentials-key": "cd" * 32, "credentials-previous-key": "ab" * 32}, row)["tries"][0]
    assert both["key"] != old and both["back"] == {"value": "v"}


# ----------------------------------------------------------------------------------------------------------- the verb


def asked(*argv: str) -> argparse.Namespace:
    return cli.parse(["credentials", *argv], ROOT)[1]


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (("sett",), 'has no "sett"'),
        (("get",), "needs a name"),
        (("rotate",), "needs a name"),
        (("get", "x"), "fewer than 3"),
        (("list", "-s", "nope"), 'no stack "nope"'),
        (("set", "Telegram bot"), "which kind"),
        (("rotate", "Telegram bot", "--kind", "generic"), "the value alone"),
        (("list",), "keeps credentials"),
        (("check",), "keeps credentials"),
    ],
)
def test_what_cannot_be_done_is_said(argv: tuple[str, ...], what: str) -> None:
    with pytest.raises(KitError) as caught:
        verb.run(asked(*argv))
    assert what in caught.value.what and caught.value.fix


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"telegarm.*\n.*telegram"):
        verb.run(asked("set", "Telegram bot", "--kind", "telegarm"))


class Answers:
    """The store, as it would answer; remembers what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers = answers

        class OfTheTest:
            def __init__(self, stack: str) -> None:
                self.stack = stack

            def plan(self) -> Any:
                return argparse.Namespace(settings=settings(), stack=self.stack)

        def ask(plan: Any, word: str, /, **more: Any) -> Any:
            self.asked.append({"verb": word, **more})
            return self.answers[word]

        monkeypatch.setattr(verb, "Session", OfTheTest)
        monkeypatch.setattr(verb, "ask", ask)


def typed(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))


ROW: dict[str, Any] = {
    "name": "Telegram bot",
    "kind": "telegram",
    "version": 2,
    "madeAt": (datetime.now(UTC) - timedelta(days=40)).isoformat(),
    "madeBy": "ann@box",
    "checked": "valid",
    "checkedAt": (datetime.now(UTC) - timedelta(minutes=5)).isoformat(),
    "n8nId": "x1",
    "n8nVersion": 2,
    "readable": True,
    "workflows": ["gmail-to-telegram"],
}


def test_the_list_says_how_each_stands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    behind = {**ROW, "name": "Gmail", "n8nVersion": 1, "checked": None, "workflows": []}
    Answers(monkeypatch, list=[ROW, behind, {**ROW, "name": "Old", "readable": False}])
    assert verb.run(asked("list")) == 0
    text = capsys.readouterr().out
    assert "40 d" in text and "behind" in text and "never" in text and "credentials sync" in text
    assert "Old cannot be read" in text
    Answers(monkeypatch, list=[], audit=[], check=[])
    for action, words in (("list", "No credentials"), ("audit", "Nothing is written"), ("check", "nothing to check")):
        assert verb.run(asked(action)) == 0
        assert words in capsys.readouterr().out


def test_check_ends_with_the_worst_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def result(word: str) -> dict[str, Any]:
        return {"name": "x", "kind": "telegram", "version": 1, "result": word, "detail": "d"}

    for words, code in (
        (["valid", "unknown"], 0),
        (["valid", "refused", "unreachable"], 1),
        (["unreachable", "valid"], 3),
        ([], 0),
    ):
        Answers(monkeypatch, check=[result(word) for word in words])
        assert verb.run(asked("check")) == code
        assert verb.run(asked("check", "--json")) == code


def test_a_value_comes_by_standard_input_and_is_said_to_the_store_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"name": "Telegram bot", "version": 1, "result": "valid", "detail": "@bot", "id": "x", "behind": False}
    answers = Answers(monkeypatch, set=made, kind={"kind": "gmail-oauth"}, rotate={**made, "version": 2})
    typed(monkeypatch, f"{TOKEN}\n".encode())
    assert verb.run(asked("set", "Telegram bot", "--kind", "telegram")) == 0
    assert answers.asked[-1]["data"]["accessToken"] == TOKEN and answers.asked[-1]["unchecked"] is False
    typed(monkeypatch, b'{"clientSecret": "s-e-c-r-e-t"}')
    assert verb.run(asked("rotate", "Gmail", "--unchecked")) == 0
    assert answers.asked[-1]["patch"]["clientSecret"] == "s-e-c-r-e-t" and answers.asked[-1]["unchecked"] is True
    text = capsys.readouterr().out
    assert TOKEN not in text and "s-e-c-r-e-t" not in text and "version 2" in text
    typed(monkeypatch, b"\xff\xfe")
    with pytest.raises(KitError, match="UTF-8"):
        verb.run(asked("set", "Telegram bot", "--kind", "generic"))


def test_what_n8n_has_no_part_in_yet_is_a_failure_with_the_way_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"name": "x", "version": 1, "result": "valid", "detail": "", "id": None, "behind": True, "problem": "away"}
    Answers(monkeypatch, set=made, sync={"reencrypted": 0, "credentials": [made]})
    typed(monkeypatch, TOKEN.encode())
    for argv in (("set", "xyz", "--kind", "telegram"), ("sync",)):
        with pytest.raises(KitError, match=r"does not have it yet.*away"):
            verb.run(asked(*argv))


def test_shown_is_the_value_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"name": "x", "kind": "generic", "version": 1, "current": 2, "settings": {}, "value": {"value": "a\n$b"}}
    Answers(monkeypatch, get=found)
    assert verb.run(asked("get", "xyz", "--show")) == 0
    assert capsys.readouterr().out == "a\n$b\n"
    assert verb.run(asked("get", "xyz")) == 0
    assert "retired: 2 counts" in capsys.readouterr().out


def test_no_file_of_a_job_is_empty_before_a_first_rotation() -> None:
    """The engine's provider refuses an upload without content, so a secret's one before never stands alone in a job."""
    plan = planning.build(settings(), targets.profile(settings()), discover())
    for job in runtime.build(plan).jobs:
        for file in job.files:
            alone = [piece for piece in file.text if not (isinstance(piece, SecretPiece) and piece.previous)]
            assert alone, (job.name, file.name)
