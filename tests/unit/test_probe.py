"""Probes: the command fits the image, and a server that is not well fails it. Run against a real socket."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from stack.derive import probe
from stack.derive.probe import STARTING_S, NoProbeError, argv, timeout_s
from stack.model import Command, HealthCheck, Http, ImagePin, Port, Tcp
from tests.factories import IMAGE


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status = {"/ok": 200, "/gone": 404, "/broken": 503, "/elsewhere": 302}.get(self.path, 500)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the method it replaces
        """Quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield http.server_address[1]
        http.shutdown()


def image(*programs: str) -> ImagePin:
    return dataclasses.replace(IMAGE, programs=frozenset(programs))


def check(test: Http | Tcp | Command) -> HealthCheck:
    return HealthCheck(test=test, timeout_s=3)


PACKAGES = {"nc": "netcat-openbsd", "node": "nodejs"}


def run(command: tuple[str, ...]) -> int:
    if shutil.which(command[0]) is None:
        pytest.skip(f"this machine has no {command[0]}: install it ({PACKAGES.get(command[0], command[0])} on Debian)")
    return subprocess.run(command, timeout=20, capture_output=True, check=False).returncode


# curl and wget follow their own idea of success on a redirect.
ANSWERS = [
    (program, path, path == "/ok")
    for program in ("bash", "curl", "wget", "node", "python3")
    for path in ("/ok", "/gone", "/broken", "/elsewhere")
    if (program, path) not in {("curl", "/elsewhere"), ("wget", "/elsewhere")}
]


@pytest.mark.parametrize(("program", "path", "well"), ANSWERS)
def test_http(server: int, program: str, path: str, well: bool) -> None:
    command = argv(check(Http("web", path)), (Port("web", server),), image(program, "sh"))
    assert command[0] == program
    assert (run(command) == 0) is well


@pytest.mark.parametrize("program", ["bash", "nc", "node", "python3"])
def test_tcp(server: int, program: str) -> None:
    health = check(Tcp("web"))
    assert run(argv(health, (Port("web", server),), image(program))) == 0
    assert run(argv(health, (Port("web", 1),), image(program))) != 0


def test_nothing_listens_is_not_well() -> None:
    assert run(argv(check(Http("web", "/ok")), (Port("web", 1),), image("bash"))) != 0


@pytest.mark.parametrize("program", ["bash", "node", "python3"])
def test_a_container_that_starts_is_asked_again_until_it_is_ready(program: str) -> None:
    """Process 1 of the machine is older than any start period: here, all are starting, or none."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    ready = HTTPServer(("127.0.0.1", number), Handler, bind_and_activate=False)
    ready.allow_reuse_address = True

    def later() -> None:
        time.sleep(0.4)
        ready.server_bind()
        ready.server_activate()
        ready.serve_forever()

    health = dataclasses.replace(check(Http("web", "/ok")), start_period_s=10**9)
    ports = (Port("web", number),)
    assert run(argv(dataclasses.replace(health, start_period_s=0), ports, image(program))) != 0
    threading.Thread(target=later, daemon=True).start()
    assert run(argv(health, ports, image(program))) == 0
    ready.shutdown()
    ready.server_close()
    assert timeout_s(health, image(program)) == 3 + STARTING_S
    assert timeout_s(health, image("curl")) == 3


@pytest.mark.parametrize("program", ["bash", "node", "python3"])
def test_one_that_does_not_get_ready_is_given_up_in_time(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    health = dataclasses.replace(check(Http("web", "/ok")), start_period_s=10**9)
    monkeypatch.setattr(probe, "STARTING_S", 1)
    assert run(argv(health, (Port("web", 1),), image(program))) == 1


@pytest.mark.parametrize("program", ["bash", "node", "python3"])
def test_a_server_that_says_nothing_is_not_well(program: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        health = dataclasses.replace(check(Http("web", "/ok")), timeout_s=2)
        assert run(argv(health, (Port("web", silent.getsockname()[1]),), image(program))) != 0
    assert time.monotonic() - begin < 15


def test_a_command_is_taken_as_it_is() -> None:
    assert argv(check(Command(("redis-cli", "ping"))), (), image("redis-cli")) == ("redis-cli", "ping")


@pytest.mark.parametrize(
    ("test", "programs", "words"),
    [
        (Command(("pg_isready",)), ("bash",), "pg_isready"),
        (Http("web", "/"), ("java",), "curl"),
        (Tcp("web"), ("curl",), "nc"),
        (Tcp("web"), (), "none"),
    ],
)
def test_an_image_without_a_program_is_refused_by_name(
    test: Http | Tcp | Command, programs: tuple[str, ...], words: str
) -> None:
    with pytest.raises(NoProbeError, match=words) as refused:
        argv(check(test), (Port("web", 80),), image(*programs))
    assert IMAGE.name in str(refused.value)


def test_a_port_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="admin"):
        argv(check(Http("admin", "/")), (Port("web", 80),), image("bash"))
