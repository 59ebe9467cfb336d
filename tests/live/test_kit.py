"""./kit on the real engine, with the real CLI, providers and servers: the life of a stack, as its owner lives it.

The tests of this module are chapters of one story and run in order: a stack comes up, is used, hurt, repaired, taken
down, brought back, sits beside another one, is refused bad input, interrupted, and removed. The outputs of all
commands and a screenshot are kept in artifacts/kit/.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ops import frontdoor
from ops.identity import Administration, administered_at
from ops.stackstate import StackState
from stack.outputs import StackOutputs
from tests.live.browser import chromium
from tests.live.kitclone import (
    ROOT,
    Clone,
    Outcome,
    container,
    engine_of,
    free_ports,
    kill,
    wait_until_healthy,
)

pytestmark = pytest.mark.live

STACK, OTHER = "kittest", "kitother"
ARTIFACTS = ROOT / "artifacts" / "kit"
QUESTION = "Does anybody read this after the machine was off?"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clean clone with two stacks on ports of their own; nothing of them is on the host before and after."""
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    home = tmp_path_factory.mktemp("kit")
    made = Clone(directory=home / "clone", state_home=home / "state", log=ARTIFACTS)
    ports = free_ports(6)
    for name, (http, https, admin) in ((STACK, ports[:3]), (OTHER, ports[3:])):
        made.write_stack(name, httpPort=http, httpsPort=https, adminPort=admin)
    remove_leftovers(made)
    try:
        yield made
    finally:
        remove_leftovers(made)


def remove_leftovers(clone: Clone) -> None:
    for stack in (STACK, OTHER):
        if not engine_of(stack).empty:
            clone.kit("down", stack, "--data", "--yes-delete", stack)


@pytest.fixture(scope="module")
def first(clone: Clone) -> Outcome:
    """The first ./kit up."""
    return clone.kit("up", STACK, timeout=2400)


@pytest.fixture(scope="module")
def memory() -> dict[str, Any]:
    """What one chapter has to tell a later one."""
    return {}


def login_of(clone: Clone) -> tuple[str, str]:
    """User and password, as ./kit tells them to those who ask."""
    told = clone.kit("status", STACK, "--show-login")
    assert told.code == 0, told.text
    (clone.log / f"{clone.count:02d}-status-{STACK}-show-login.log").unlink()  # no password among the artifacts
    words = dict(line.split(maxsplit=1) for line in told.text.strip().splitlines())
    return words["user"], words["password"]


def outputs_of(clone: Clone) -> StackOutputs:
    shown = clone.pulumi("stack", "output", "--json", "--show-secrets", "--stack", STACK)
    (clone.log / f"{clone.count:02d}-pulumi-stack-output.log").unlink()
    return StackOutputs.from_dict(json.loads(shown.text))


def chat_session(clone: Clone, second: frontdoor.SecondFactor) -> httpx.Client:
    """Logged in to the chat as the first user, through the front door. The first time a second factor is set up."""
    outputs = outputs_of(clone)
    user, password = login_of(clone)
    visitor = frontdoor.browser("kit.localhost", "127.0.0.1", outputs.ca_pem)
    start = f"{outputs.urls['chat']}/oauth/oidc/login"
    login = frontdoor.log_in(visitor, start, outputs.issuer, user, password, second)
    assert login.asked
    assert second.app, "an administrator got in by a password alone"
    token = visitor.cookies.get("token")
    assert token, "no token after the login"
    return httpx.Client(
        transport=visitor._transport, base_url=outputs.urls["chat"], headers={"Authorization": f"Bearer {token}"}
    )


def fingerprint(clone: Clone, stack: str = STACK) -> tuple[object, ...]:
    """Everything that a refused command must leave as it was: containers, networks, volumes, and the state."""
    engine = engine_of(stack)
    checkpoint = StackState(clone.directory, stack, {}).checkpoint
    state = clone.state_home / "ai-kit" / "backend" / ".pulumi" / "stacks" / "ai-kit" / f"{stack}.json"
    assert checkpoint
    return (
        sorted((item.id, item.state) for item in engine.containers),
        sorted(engine.networks),
        sorted(engine.volumes),
        state.read_bytes() if state.exists() else None,
    )


# ------------------------------------------------------------------------------------------------------ coming up


def test_up_ends_proven(first: Outcome) -> None:
    assert first.code == 0, first.text
    assert f"stack {STACK} is up and proven" in first.text
    assert "https://chat.kit.localhost:" in first.text
    assert "--show-login" in first.text
    assert "ca.pem" in first.text


def test_up_shows_no_password(clone: Clone, first: Outcome) -> None:
    _, password = login_of(clone)
    assert password not in first.text
    assert outputs_of(clone).admin_client_secret not in first.text


def test_the_clone_stays_clean(clone: Clone, first: Outcome) -> None:
    assert first.code == 0
    assert clone.dirt() == ""


def test_the_ca_is_written_for_browsers(clone: Clone, first: Outcome) -> None:
    file = clone.state_home / "ai-kit" / "stacks" / STACK / "ca.pem"
    assert file.read_text(encoding="utf-8") == outputs_of(clone).ca_pem


def test_a_second_up_changes_nothing(clone: Clone, first: Outcome) -> None:
    before = sorted(item.id for item in engine_of(STACK).containers)
    again = clone.kit("up", STACK)
    assert again.code == 0, again.text
    assert "nothing to change" in again.text
    assert sorted(item.id for item in engine_of(STACK).containers) == before


def test_nothing_differs_after_a_refresh(clone: Clone, first: Outcome) -> None:
    outcome = clone.kit("preview", STACK, "--refresh", "--expect-no-changes")
    assert outcome.code == 0, outcome.text


def test_plain_pulumi_works_on_the_same_state(clone: Clone, first: Outcome) -> None:
    """What docs/guide.md says: the merged file, in the place of the stack's own."""
    file = clone.directory / f"Pulumi.{STACK}.yaml"
    own = file.read_text(encoding="utf-8")
    merged = clone.state_home / "ai-kit" / "stacks" / STACK / f"Pulumi.{STACK}.yaml"
    file.write_text(merged.read_text(encoding="utf-8"), encoding="utf-8")
    try:
        outcome = clone.pulumi("up", "--yes", "--skip-preview", "--expect-no-changes", "--stack", STACK)
        assert outcome.code == 0, outcome.text
    finally:
        file.write_text(own, encoding="utf-8")
    assert clone.dirt() == ""


def test_status_says_healthy(clone: Clone, first: Outcome) -> None:
    outcome = clone.kit("status", STACK, "--json")
    assert outcome.code == 0, outcome.text
    status = json.loads(outcome.text)
    assert status["healthy"]
    assert {row["health"] for row in status["containers"]} == {"healthy"}
    assert all(row["memory_mb"] > 0 for row in status["containers"])


def test_verbs_start_within_two_seconds(clone: Clone, first: Outcome) -> None:
    """The best of three, of processor time: other work on the machine is not what is measured."""
    for arguments in ((), ("plan", STACK), ("status", STACK)):
        best = 99.0
        for _ in range(3):
            before = os.times()
            clone.kit(*arguments)
            after = os.times()
            spent = after.children_user + after.children_system - before.children_user - before.children_system
            best = min(best, spent)
        assert 0 < best < 2, f"./kit {' '.join(arguments)} took {best:.1f} s of a processor"


# ---------------------------------------------------------------------------------------------------------- in use


def test_somebody_chats(clone: Clone, first: Outcome, memory: dict[str, Any]) -> None:
    memory["second"] = frontdoor.SecondFactor()
    with chat_session(clone, memory["second"]) as session:
        message = {"id": "m1", "role": "user", "content": QUESTION}
        form = {"chat": {"title": "kept", "messages": [message], "history": {"messages": {"m1": message}}}}
        answer = session.post("/api/v1/chats/new", json=form)
        assert answer.status_code == 200, answer.text
    memory["chat"] = answer.json()["id"]
    memory["password"] = login_of(clone)[1]


def test_a_browser_logs_in(clone: Clone, first: Outcome, memory: dict[str, Any], tmp_path: Path) -> None:
    """Headless Chromium, as a person does it: login form, then the chat of before. A screenshot is an artifact."""
    outputs = outputs_of(clone)
    user, password = login_of(clone)
    with chromium(tmp_path) as window:
        window.open(f"{outputs.urls['chat']}/oauth/oidc/login")
        window.shown("#username")
        assert window.chrome.current_url.startswith(outputs.issuer)
        window.fill("#kc-login", username=user, password=password)
        window.fill("#kc-login", otp=memory["second"].app.next())
        window.until(lambda: window.chrome.current_url.startswith(outputs.urls["chat"]))
        window.shown("#chat-input, textarea, [contenteditable=true]")
        for button in window.chrome.find_elements("xpath", '//button[contains(., "Let\'s Go")]'):
            button.click()  # the news of the release, in front of everything
        window.open(f"{outputs.urls['chat']}/c/{memory['chat']}")
        window.shown(words=QUESTION)
        picture = window.keep("chat")
        refused = [line for line in window.complaints() if "Refused" in line or "Policy" in line]
        assert not refused, "what the front door tells browsers breaks no page"
    assert picture.stat().st_size > 10_000


# ------------------------------------------------------------------------------------------------ hurt and repaired


def test_a_login_flow_dropped_by_hand_is_bound_again_by_one_up(clone: Clone, first: Outcome) -> None:
    outputs = outputs_of(clone)
    with frontdoor.browser("kit.localhost", "127.0.0.1", outputs.ca_pem) as client:
        administration = Administration(client, administered_at(outputs), outputs)
        ours = administration.realm()
        administration._call("PUT", "", json={**ours, "browserFlow": "browser"})
        outcome = clone.kit("up", STACK)
        assert outcome.code == 0, outcome.text
        assert "people log in by the flow 'browser'" in outcome.text
        assert administration.realm()["browserFlow"] == ours["browserFlow"] != "browser"


def test_the_login_moves_to_a_path_and_back_by_one_up_each(clone: Clone, first: Outcome) -> None:
    """At https://<domain>/keycloak: every proof holds there, people stay who they were, and so they are afterwards."""
    before = outputs_of(clone)
    file = clone.directory / f"Pulumi.{STACK}.yaml"
    own = file.read_text(encoding="utf-8")
    ids = {name: user_id(before, name) for name in (before.admin_user,)}
    document = yaml.safe_load(own)
    document["config"]["ai-kit:paths"] = ["auth = /keycloak"]
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    try:
        moved = clone.kit("up", STACK)
        assert moved.code == 0, moved.text
        after = outputs_of(clone)
        port = httpx.URL(before.issuer).port
        assert after.issuer == f"https://kit.localhost:{port}/keycloak/realms/kit"
        assert after.admin_url == f"{before.admin_url}/keycloak"
        assert {name: user_id(after, name) for name in ids} == ids
        with frontdoor.browser("kit.localhost", "127.0.0.1", after.ca_pem) as visitor:
            described = visitor.get(f"{after.issuer}/.well-known/openid-configuration").json()
            assert described["issuer"] == after.issuer
            own_addresses = {value for key, value in described.items() if key.endswith(("_endpoint", "_uri"))}
            assert all(address.startswith(after.issuer) for address in own_addresses)
            for path in ("", "realms/kit", "keycloakx/realms/kit", "keycloak/metrics", "keycloak//health"):
                answer = visitor.get(f"https://kit.localhost:{port}/{path}", follow_redirects=False)
                assert answer.status_code in (403, 404), path
        # A name of nobody's: one that connects anew is shown a certificate for others.
        gone = httpx.URL(before.issuer).copy_with(path="/realms/kit")
        stranger = frontdoor.browser("kit.localhost", "127.0.0.1", after.ca_pem)
        with stranger, pytest.raises(httpx.ConnectError, match="certificate"):
            stranger.get(gone)
    finally:
        file.write_text(own, encoding="utf-8")
    back = clone.kit("up", STACK)
    assert back.code == 0, back.text
    assert (outputs_of(clone).issuer, outputs_of(clone).admin_url) == (before.issuer, before.admin_url)
    assert {name: user_id(before, name) for name in ids} == ids
    assert clone.dirt() == ""


def user_id(outputs: StackOutputs, name: str) -> str:
    with frontdoor.browser("kit.localhost", "127.0.0.1", outputs.ca_pem) as client:
        return Administration(client, administered_at(outputs), outputs).user_id(name)


def test_a_crash_of_everything_heals_by_itself(clone: Clone, first: Outcome) -> None:
    """As when the machine starts again: with what is in images and volumes, and empty memory."""
    before = [item for item in engine_of(STACK).containers if item.health]
    assert len(before) > 5
    for item in before:
        kill(item)
    time.sleep(1)
    for item in before:
        assert wait_until_healthy(STACK, item.name.removeprefix(f"kit-{STACK}-"), 300).id == item.id
    proven = clone.kit("prove", STACK)
    assert proven.code == 0, proven.text


def test_keycloak_removed_by_hand_is_repaired_by_one_up(clone: Clone, first: Outcome) -> None:
    before = container(STACK, "keycloak")
    remove(before.id)
    outcome = clone.kit("up", STACK)
    assert outcome.code == 0, outcome.text
    assert "keycloak is gone: repairing" in outcome.text
    assert container(STACK, "keycloak").id != before.id


def test_what_was_stopped_by_hand_runs_again_after_one_up(clone: Clone, first: Outcome) -> None:
    from ops.engine import DockerApi

    DockerApi().post(f"/containers/{container(STACK, 'redis').id}/stop?t=5", timeout=60)
    assert clone.kit("status", STACK).code == 3
    outcome = clone.kit("up", STACK)
    assert outcome.code == 0, outcome.text
    assert clone.kit("status", STACK).code == 0


def remove(id_: str) -> None:
    from ops.engine import DockerApi

    DockerApi().delete(f"/containers/{id_}?force=true&v=true")


# ------------------------------------------------------------------------------------------------------ down and up


def test_down_keeps_the_data(clone: Clone, first: Outcome) -> None:
    volumes = engine_of(STACK).data_volumes
    assert volumes
    outcome = clone.kit("down", STACK)
    assert outcome.code == 0, outcome.text
    engine = engine_of(STACK)
    assert not engine.containers
    assert not engine.networks
    assert engine.data_volumes == volumes
    assert clone.dirt() == ""
    status = clone.kit("status", STACK)
    assert status.code == 3
    assert "data is kept" in status.text


def test_down_again_changes_nothing(clone: Clone, first: Outcome) -> None:
    outcome = clone.kit("down", STACK)
    assert outcome.code == 0, outcome.text
    assert "was down already" in outcome.text


def test_up_brings_back_user_password_and_chat(clone: Clone, first: Outcome, memory: dict[str, Any]) -> None:
    outcome = clone.kit("up", STACK)
    assert outcome.code == 0, outcome.text
    assert login_of(clone)[1] == memory["password"]
    with chat_session(clone, memory["second"]) as session:
        kept = session.get(f"/api/v1/chats/{memory['chat']}")
        assert kept.status_code == 200, kept.text
        assert kept.json()["chat"]["messages"][0]["content"] == QUESTION


# ---------------------------------------------------------------------------------------------------- bad input


def refused(clone: Clone, *expected: str, stack: str = STACK, **environment: str) -> Outcome:
    """./kit up that must end quickly, say all of `expected`, and change nothing."""
    before = fingerprint(clone, stack)
    outcome = clone.kit("up", stack, timeout=120, **environment)
    assert outcome.code != 0, outcome.text
    assert "Traceback" not in outcome.text
    for text in expected:
        assert text in outcome.text
    assert fingerprint(clone, stack) == before
    return outcome


def test_unknown_key_and_too_much_memory_are_refused_together(clone: Clone, first: Outcome) -> None:
    file = clone.directory / f"Pulumi.{STACK}.yaml"
    own = file.read_text(encoding="utf-8")
    file.write_text(own + "  ai-kit:profile: chat\n  ai-kit:httpPort2: 1\n", encoding="utf-8")
    try:
        refused(clone, "profile", 'Did you mean "profiles"', "httpPort2", "Nothing was changed.")
    finally:
        file.write_text(own, encoding="utf-8")


def test_wrong_passphrase_is_refused(clone: Clone, first: Outcome) -> None:
    refused(clone, "passphrase", PULUMI_CONFIG_PASSPHRASE="wrong")


def test_lost_passphrase_is_refused(clone: Clone, first: Outcome) -> None:
    passphrase = clone.state_home / "ai-kit" / "passphrase"
    hidden = passphrase.with_suffix(".hidden")
    passphrase.rename(hidden)
    try:
        refused(clone, "the passphrase is gone")
        assert not passphrase.exists()
    finally:
        hidden.rename(passphrase)


def lock(clone: Clone, **values: object) -> Path:
    directory = clone.state_home / "ai-kit/backend/.pulumi/locks/organization/ai-kit" / STACK
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "4ab1a4a6-0000-4000-8000-000000000000.json"
    content = {"pid": 4_000_000, "username": "eve", "hostname": "elsewhere", "timestamp": "2026-11-21T08:00:00Z"}
    path.write_text(json.dumps(content | values), encoding="utf-8")
    return path


def test_a_foreign_lock_is_refused(clone: Clone, first: Outcome) -> None:
    path = lock(clone)
    try:
        refused(clone, "eve@elsewhere", "2026-11-21T08:00:00Z", f"rm {path}")
        assert path.exists()
    finally:
        path.unlink()


def test_the_lock_of_a_killed_run_is_taken_away(clone: Clone, first: Outcome) -> None:
    path = lock(clone, hostname=socket.gethostname())
    outcome = clone.kit("up", STACK, "--no-prove")
    assert outcome.code == 0, outcome.text
    assert "lock of a run that ended was removed" in outcome.text
    assert not path.exists()


def test_an_engine_that_does_not_answer_is_refused(clone: Clone, first: Outcome) -> None:
    file = clone.directory / f"Pulumi.{STACK}.yaml"
    own = file.read_text(encoding="utf-8")
    file.write_text(own + "  ai-kit:dockerHost: unix:///nowhere/docker.sock\n", encoding="utf-8")
    try:
        refused(clone, "docker", "/nowhere/docker.sock")
    finally:
        file.write_text(own, encoding="utf-8")


# ------------------------------------------------------------------------------------------------ interrupted


def test_ctrl_c_leaves_no_lock_and_the_next_up_goes_on(clone: Clone, first: Outcome) -> None:
    remove(container(STACK, "open-webui").id)
    with clone.running("up", STACK) as process:
        wait_for_container(f"kit-{STACK}-open-webui")
        os.killpg(process.pid, signal.SIGINT)
        text, _ = process.communicate(timeout=180)
    clone.keep(("up", STACK, "interrupted"), Outcome(code=process.returncode, text=text, seconds=0))
    assert process.returncode == 130, text
    assert "again" in text
    assert "Traceback" not in text
    assert StackState(clone.directory, STACK, {"PULUMI_BACKEND_URL": backend(clone)}).locks() == []
    outcome = clone.kit("up", STACK)
    assert outcome.code == 0, outcome.text


def test_a_killed_run_is_cleared_up_by_the_next(clone: Clone, first: Outcome) -> None:
    remove(container(STACK, "open-webui").id)
    with clone.running("up", STACK) as process:
        wait_for_container(f"kit-{STACK}-open-webui")
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        text, _ = process.communicate(timeout=60)
    clone.keep(("up", STACK, "killed"), Outcome(code=process.returncode, text=text, seconds=0))
    assert process.returncode == 130, text
    outcome = clone.kit("up", STACK)
    assert outcome.code == 0, outcome.text


def backend(clone: Clone) -> str:
    return f"file://{clone.state_home}/ai-kit/backend"


def wait_for_container(name: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not any(item.name == name for item in engine_of(STACK).containers):
        assert time.monotonic() < deadline, f"{name} did not come back"
        time.sleep(0.2)


# ---------------------------------------------------------------------------------------------------- side by side


def test_two_stacks_never_touch(clone: Clone, first: Outcome) -> None:
    before = fingerprint(clone)
    other = clone.kit("up", OTHER, timeout=1200)
    assert other.code == 0, other.text
    assert fingerprint(clone) == before
    gone = clone.kit("down", OTHER, "--data", "--yes-delete", OTHER)
    assert gone.code == 0, gone.text
    assert engine_of(OTHER).empty
    assert fingerprint(clone) == before
    assert clone.kit("status", STACK).code == 0


def test_a_port_that_is_taken_is_refused(clone: Clone, first: Outcome) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        http, https = listener.getsockname()[1], free_ports(1)[0]
        clone.write_stack(OTHER, httpPort=http, httpsPort=https, adminPort=free_ports(1)[0])
        refused(clone, f"port {http}", "pulumi config set httpPort", stack=OTHER)
    assert engine_of(OTHER).empty


# ------------------------------------------------------------------------------------------------ changing its mind


def test_a_profile_that_is_taken_out_keeps_its_data(clone: Clone, first: Outcome) -> None:
    """And put in again it goes on where it was, with the keys it had."""
    stack_file = clone.directory / f"Pulumi.{STACK}.yaml"
    before = stack_file.read_text(encoding="utf-8")
    document = yaml.safe_load(before)
    document["config"]["ai-kit:profiles"] = ["chat", "discovery"]
    stack_file.write_text(yaml.safe_dump(document), encoding="utf-8")
    added = clone.kit("up", STACK, "--no-prove", timeout=2400)
    assert added.code == 0, added.text
    (container_name,) = (item.name for item in engine_of(STACK).containers if item.name == f"kit-{STACK}-consul")
    volumes = {name for name in engine_of(STACK).data_volumes if "consul" in name}
    keys = outputs_of(clone).keys
    assert volumes
    stack_file.write_text(before, encoding="utf-8")
    taken_out = clone.kit("up", STACK, timeout=1200)
    assert taken_out.code == 0, taken_out.text
    assert "data and secrets are kept: consul" in taken_out.text and "proven" in taken_out.text
    engine = engine_of(STACK)
    assert container_name not in {item.name for item in engine.containers}
    assert volumes <= set(engine.data_volumes)
    assert clone.kit("preview", STACK, "--expect-no-changes").code == 0
    stack_file.write_text(yaml.safe_dump(document), encoding="utf-8")
    again = clone.kit("up", STACK, timeout=1200)
    assert again.code == 0, again.text
    assert {name for name in engine_of(STACK).data_volumes if "consul" in name} == volumes
    assert outputs_of(clone).keys == keys
    stack_file.write_text(before, encoding="utf-8")
    assert clone.kit("up", STACK, "--no-prove", timeout=1200).code == 0


# ------------------------------------------------------------------------------------------------------- the end


def test_data_is_not_deleted_by_accident(clone: Clone, first: Outcome) -> None:
    before = fingerprint(clone)
    for arguments in (("--data",), ("--data", "--yes-delete", "dev"), ("--yes-delete", STACK)):
        assert clone.kit("down", STACK, *arguments).code == 2
    assert fingerprint(clone) == before


def test_down_with_data_leaves_nothing(clone: Clone, first: Outcome) -> None:
    """Keycloak is gone already: nothing may need it for this."""
    remove(container(STACK, "keycloak").id)
    outcome = clone.kit("down", STACK, "--data", "--yes-delete", STACK)
    assert outcome.code == 0, outcome.text
    assert engine_of(STACK).empty
    assert not (clone.state_home / "ai-kit" / "stacks" / STACK).exists()
    home = clone.state_home / "ai-kit"
    assert not [path for path in home.rglob("*") if path.is_file() and STACK in str(path.relative_to(home))]
    assert clone.dirt() == ""
