"""The way into a container, against a server that speaks the engine's exec protocol. No engine is used."""

from __future__ import annotations

import json
import socketserver
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import tunnel
from ops.engine import ApiError, DockerApi, EngineError

BODY = b'{"models": []}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
REPLY = HEAD % len(BODY)


def frame(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxxxI", kind, len(content)) + content


class ExecEngine(socketserver.ThreadingUnixStreamServer):
    """Takes an exec, starts it, reads what comes, and sends `frames`. Remembers what it was asked and told."""

    daemon_threads = True

    def __init__(self, path: Path, frames: list[bytes], status: bytes = b"101 UPGRADED") -> None:
        self.frames = frames
        self.status = status
        self.made: list[dict[str, object]] = []
        self.told = b""
        self.closed = threading.Event()
        super().__init__(str(path), _Handler)


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, ExecEngine)
        path, body = self._request()
        if path.endswith("/exec"):
            server.made.append(json.loads(body))
            answer = json.dumps({"Id": "e1"}).encode()
            head = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            self.wfile.write(head % len(answer) + answer)
            return
        assert path == "/exec/e1/start"
        self.wfile.write(b"HTTP/1.1 " + server.status + b"\r\nConnection: Upgrade\r\n\r\n")
        if server.status.startswith(b"4"):
            return
        told, length = b"", 0
        while line := self.rfile.readline():
            told += line
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
            if not line.strip():
                break
        server.told = told + self.rfile.read(length)
        for part in server.frames:
            self.wfile.write(part)
        if server.frames and server.frames[-1].startswith(b"\x02"):
            return  # the shell ended
        while self.connection.recv(1 << 16):
            pass
        server.closed.set()

    def _request(self) -> tuple[str, bytes]:
        path = self.rfile.readline().split()[1].decode()
        length = 0
        while line := self.rfile.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        return path, self.rfile.read(length)


@pytest.fixture
def engine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ExecEngine]:
    with ExecEngine(tmp_path / "docker.sock", *request.param) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def api(engine: ExecEngine) -> DockerApi:
    return DockerApi(f"unix://{engine.server_address}", timeout=5)


WHOLE = [frame(1, REPLY + BODY)]
TORN = [
    frame(1, REPLY[:7]),
    frame(2, b"a warning\n"),
    frame(1, b""),
    frame(1, REPLY[7:] + BODY[:3]),
    frame(1, BODY[3:]),
]


@pytest.mark.parametrize("engine", [(WHOLE,), (TORN,), (WHOLE, b"200 OK")], indirect=True)
def test_an_answer_comes_through_however_the_engine_cuts_it(engine: ExecEngine) -> None:
    with tunnel.answer(api(engine), "a/b", 11434, "POST", "/api/x?y", {"k": "v"}, timeout=5) as response:
        assert response.status == 200 and json.loads(response.read()) == {"models": []}
    assert engine.told.startswith(b"POST /api/x?y HTTP/1.1\r\n") and engine.told.endswith(b'{"k": "v"}')
    (made,) = engine.made
    assert made["Cmd"] == ["bash", "-c", tunnel._SCRIPT, "tunnel", "127.0.0.1", "11434"]
    assert made["Tty"] is False
    assert engine.closed.wait(5), "the process in the container was left waiting"


REFUSED = [frame(2, b"bash: connect: Connection refused\nbash: line 1: x: Connection refused\n")]


@pytest.mark.parametrize("engine", [(REFUSED,)], indirect=True)
def test_a_port_where_nobody_listens_is_named_with_the_reason(engine: ExecEngine) -> None:
    with (
        pytest.raises(EngineError, match=r"^c does not answer at its port 9: Connection refused\."),
        tunnel.answer(api(engine), "c", 9, "GET", "/", timeout=5),
    ):
        pass


@pytest.mark.parametrize("engine", [([], b"409 Conflict")], indirect=True)
def test_an_exec_that_the_engine_does_not_start_is_its_refusal(engine: ExecEngine) -> None:
    with pytest.raises(ApiError, match="409"), tunnel.answer(api(engine), "c", 9, "GET", "/", timeout=5):
        pass


def test_an_engine_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match="no Docker engine listens"),
        tunnel.answer(DockerApi(f"unix://{tmp_path}/none.sock"), "c", 9, "GET", "/"),
    ):
        pass
