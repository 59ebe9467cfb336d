"""The queue's configuration: what is let through, in which order, and to whom."""

from __future__ import annotations

import re

import pytest

from stack.catalog import discover
from stack.derive import queue
from stack.model import Target
from stack.plan import build
from stack.settings import Settings
from stack.targets import profile

CATALOG = discover()

# Every route of the server, as its source registers them (0.17.4 and 0.32.x).
REFUSED = (
    *("/api/pull", "/api/push", "/api/create", "/api/delete", "/api/copy", "/api/blobs/sha256-0", "/api/me"),
    *("/api/signout", "/api/user/keys/x", "/api/status", "/api/experimental/aliases"),
    *("/api/experimental/web_search", "/api/experimental/web_fetch"),
)


def config(**changes: object) -> str:
    settings = Settings(stack="test", target=Target.DEV, **changes)  # pyright: ignore[reportArgumentType]
    return queue.config(build(settings, profile(settings), CATALOG))


def section(text: str, name: str) -> list[str]:
    """The lines of a section, by its heading."""
    found = re.search(rf"^{name}$(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, name
    return [line.strip() for line in found[1].splitlines() if line.strip()]


def admitted(text: str) -> dict[str, set[str]]:
    acls: dict[str, set[str]] = {}
    for line in section(text, "frontend queue"):
        if found := re.fullmatch(r"acl (\w+) path (.+)", line):
            acls.setdefault(found[1], set()).update(found[2].split())
    return acls


def test_only_what_is_on_a_list_passes_and_nothing_that_changes_models_is() -> None:
    acls = admitted(config())
    assert set(acls) == {"inference", "listing", "show"}
    everything = set().union(*acls.values())
    assert not everything & set(REFUSED)
    assert not [path for path in everything for refused in REFUSED if path != "/" and refused.startswith(path)]
    gate = next(line for line in section(config(), "frontend queue") if "status 403" in line)
    assert gate.endswith("unless inference METH_POST or listing METH_GET or show METH_POST")


def test_the_one_pattern_matches_a_models_name_and_no_other_path() -> None:
    pattern = re.compile(queue.ONE_MODEL)
    assert pattern.search("/v1/models/llama3.2:1b")
    for path in (
        "/v1/models/",
        "/v1/models/a/b",
        "/v1/models/a%2fb",
        "/v1/models/../api",
        "/x/v1/models/a",
    ):
        assert not pattern.search(path), path


def test_the_gate_stands_before_everything_else() -> None:
    lines = section(config(), "frontend queue")
    gate = next(number for number, line in enumerate(lines) if "status 403" in line)
    others = [number for number, line in enumerate(lines) if "use_backend" in line or "default_backend" in line]
    assert all(gate < other for other in others)


def test_what_makes_a_model_work_is_queued_and_nothing_else() -> None:
    text = config()
    assert "use_backend inference if inference" in section(text, "frontend queue")
    servers = [line for line in section(text, "backend inference") if line.startswith("server ")]
    assert servers and all(" maxconn 1 " in line for line in servers)
    assert not [line for line in section(text, "backend listing") if "maxconn" in line]


def test_people_are_told_apart_and_nobodys_name_goes_further() -> None:
    lines = section(config(), "frontend queue")
    named = next(n for n, line in enumerate(lines) if "set-var(txn.asker) req.hdr" in line)
    stripped = next(n for n, line in enumerate(lines) if line == "http-request del-header x-openwebui- -m beg")
    assert named < stripped
    # Below what is free there is no offset: a negative one would be a head start.
    offset = next(line for line in lines if "set-priority-offset" in line)
    assert "sub(2)" in offset and offset.endswith("if inference { sc_conn_cur(0,askers) gt 2 }")
    assert queue.WAITING_EACH < queue.WAITING
    assert queue.WAITING * queue.STEP_BACK_MS <= 524_287  # HAProxy cuts what is more


def test_further_servers_take_part_while_they_have_every_model() -> None:
    text = config(ollama_backends=("10.0.0.2:11434", "box.lan:80"), models=("a:1b", "b"), embedding_model="e")
    inference = [line for line in section(text, "backend inference") if line.startswith("server ")]
    assert [line.split()[2] for line in inference] == ["ollama:11434", "10.0.0.2:11434", "box.lan:80"]
    assert all(" maxconn 1 " in line for line in inference)
    assert all(" track remotes/remote-" in line for line in inference[1:])
    remotes = section(text, "backend remotes")
    asked = [line for line in remotes if line.startswith("http-check send")]
    assert [re.search(r'model\\": \\"([^\\]+)', line)[1] for line in asked] == ["a:1b", "b", "e"]  # type: ignore[index]
    listing = [line for line in section(text, "backend listing") if line.startswith("server ")]
    assert [" backup " in line for line in listing] == [False, True, True]


def test_without_further_servers_there_is_no_word_of_them() -> None:
    assert "remote" not in config()


@pytest.mark.parametrize("text", ['say "x"', "a\\b", "$HOME", "it's"])
def test_an_argument_is_read_as_it_was_written(text: str) -> None:
    written = queue._escaped(text)
    assert written[0] == written[-1] == '"'
    assert re.sub(r"\\(.)", r"\1", written[1:-1]) == text
