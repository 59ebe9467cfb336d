"""Where images come from: the registry as soon as one answers, and who is asked."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from ops import source
from ops.source import Probe, choose, older_than_pins, registry_host

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("repository", "host"),
    [
        ("docker.io/library/redis", "docker.io"),
        ("quay.io/keycloak/keycloak", "quay.io"),
        ("redis", "docker.io"),
        ("library/redis", "docker.io"),
        ("localhost/x", "localhost"),
        ("registry:5000/x", "registry:5000"),
    ],
)
def test_the_registry_of_a_repository(repository: str, host: str) -> None:
    assert registry_host(repository) == host


@pytest.mark.parametrize(
    ("answering", "models", "images", "tiny"),
    [
        ((True, True), True, "registry", False),
        ((True, False), False, "registry", False),
        ((False, False), True, "airgap", False),
        ((False, False), False, "airgap", True),
    ],
)
def test_one_answer_is_enough(answering: tuple[bool, ...], models: bool, images: str, tiny: bool) -> None:
    probes = [Probe(host=f"r{n}", answers=answers) for n, answers in enumerate(answering)]
    choice = choose(probes, models=models, now=NOW)
    assert (choice.images, choice.tiny_models) == (images, tiny)
    assert choice.chosen_at == "2026-11-21T08:00:00+00:00"
    assert "r0" in choice.why


def test_only_older_ones_are_named() -> None:
    pins = {"keycloak": "26.7.4", "redis": "8.2.9", "haproxy": "3.2.22", "open-webui": "v0.12.4", "pg": "0.8.6-pg17"}
    built = {"keycloak": "26.5.2", "redis": "8.0", "haproxy": "3.2", "open-webui": "0.12.4", "pg": "17.11", "own": "1"}
    assert older_than_pins(pins, built) == ["keycloak 26.5.2 instead of 26.7.4", "redis 8.0 instead of 8.2.9"]


@pytest.fixture
def refusing() -> Iterator[int]:
    """A server that answers everything with 401, as registries do."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the method it replaces
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_refusal_is_an_answer(refusing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = source.urllib.request.urlopen

    def plain(url: str, timeout: float) -> object:
        return real(url.replace("https://", "http://"), timeout=timeout)

    monkeypatch.setattr(source.urllib.request, "urlopen", plain)
    answer = source.answers(f"127.0.0.1:{refusing}")
    assert answer.answers
    # It says the time as well: the one clock outside that this machine's can be held against.
    assert answer.clock_s is not None
    assert abs(answer.clock_s) < 5


def test_silence_is_none_and_does_not_take_long() -> None:
    with socket.socket() as listener:  # accepts, and never says a word
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        found = source.probe([f"127.0.0.1:{listener.getsockname()[1]}"], timeout=0.2)
    assert [item.answers for item in found] == [False]
    assert found[0].why
