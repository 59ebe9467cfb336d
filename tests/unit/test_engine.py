"""The engine's client against a server that speaks its protocol on a socket of the test's own. No engine is used."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ops import engine
from ops.engine import LOCAL, ApiError, DockerApi, EngineError, StartedEngine, classify, explain

Answer = tuple[int, object] | tuple[int, bytes, str]
Answers = Mapping[str, Answer]


class FakeEngine(socketserver.ThreadingUnixStreamServer):
    """Answers `METHOD /path` as it is told, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, path: Path, answers: Answers) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.bodies: list[object] = []
        super().__init__(str(path), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gives up is part of the test."""


class _Handler(http.server.BaseHTTPRequestHandler):
    def _answer(self) -> None:
        server = self.server
        assert isinstance(server, FakeEngine)
        server.asked.append(f"{self.command} {self.path}")
        if length := int(self.headers.get("Content-Length") or 0):
            server.bodies.append(json.loads(self.rfile.read(length)))
        answer = server.answers.get(
            f"{self.command} {self.path.partition('?')[0]}", (404, {"message": "no such thing"})
        )
        content = answer[1] if isinstance(answer[1], bytes) else json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Type", answer[2] if len(answer) == 3 else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


Serve = Callable[[Answers], tuple[DockerApi, FakeEngine]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    running: list[FakeEngine] = []

    def start(answers: Answers) -> tuple[DockerApi, FakeEngine]:
        server = FakeEngine(tmp_path / "docker.sock", answers)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        return DockerApi(f"unix://{tmp_path / 'docker.sock'}", timeout=5), server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def framed(*parts: tuple[int, str]) -> bytes:
    return b"".join(struct.pack(">BxxxI", kind, len(text.encode())) + text.encode() for kind, text in parts)


# -------------------------------------------------------------------------------------------------------- the client


def test_facts(serve: Serve) -> None:
    info: dict[str, Any] = {
        "NCPU": 4,
        "MemTotal": 8 << 30,
        "MemoryLimit": False,
        "CgroupVersion": "2",
        "Driver": "overlay2",
        "DockerRootDir": "/srv/docker",
        "Runtimes": {"runc": {}, "nvidia": {}},
        "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"],
    }
    version = {"Version": "28.1.0", "ApiVersion": "1.49", "Arch": "arm64"}
    api, _ = serve({"GET /info": (200, info), "GET /version": (200, version)})
    found = api.info()
    assert (found.version, found.api_version, found.arch) == ("28.1.0", "1.49", "arm64")
    assert (found.ncpu, found.mem_bytes, found.memory_limit) == (4, 8 << 30, False)
    assert (found.cgroup_version, found.storage_driver, found.root_dir) == ("2", "overlay2", "/srv/docker")
    assert found.runtimes == {"runc", "nvidia"}
    assert found.rootless


def test_reachable(serve: Serve, tmp_path: Path) -> None:
    assert not DockerApi(f"unix://{tmp_path / 'docker.sock'}").reachable()
    api, _ = serve({"GET /_ping": (200, b"OK", "text/plain")})
    assert api.reachable()
    assert api.get("/_ping") == "OK"


def test_post_sends_json_and_reads_empty_answers(serve: Serve) -> None:
    api, server = serve({"POST /volumes/create": (201, b"", "text/plain")})
    assert api.post("/volumes/create", {"Name": "häßlich"}) is None
    assert server.bodies == [{"Name": "häßlich"}]


def test_refusal_is_an_error_with_the_engines_words(serve: Serve) -> None:
    api, _ = serve({"GET /containers/x/json": (409, {"message": "name is in use"})})
    with pytest.raises(ApiError, match=r"refused GET /containers/x/json: name is in use \(409\)") as refused:
        api.get("/containers/x/json?size=1")
    assert refused.value.status == 409


def test_logs_of_two_streams_and_of_a_terminal(serve: Serve) -> None:
    log = framed((1, "out\n"), (2, "err: ü\n"), (1, "last\n"))
    api, server = serve(
        {
            "GET /containers/job/json": (200, {"Config": {"Tty": False}}),
            "GET /containers/job/logs": (200, log, "application/vnd.docker.raw-stream"),
            "GET /containers/shell/json": (200, {"Config": {"Tty": True}}),
            "GET /containers/shell/logs": (200, b"plain\r\n", "application/vnd.docker.raw-stream"),
        }
    )
    assert api.logs("job", tail=3) == "out\nerr: ü\nlast\n"
    assert "tail=3" in server.asked[-1]
    assert list(api.stream_logs("job", follow=True)) == ["out\n", "err: ü\n", "last\n"]
    assert "follow=1" in server.asked[-1]
    assert api.logs("shell") == "plain\r\n"


def test_a_program_in_a_container(serve: Serve) -> None:
    written = framed((1, "one\n"), (2, "alas"), (1, "two\n"))
    api, server = serve(
        {
            "POST /containers/c/exec": (201, {"Id": "e1"}),
            "POST /exec/e1/start": (200, written, "application/vnd.docker.raw-stream"),
            "GET /exec/e1/json": (200, {"ExitCode": 3}),
        }
    )
    assert api.execute("c", ("sh", "-c", "exit 3")) == (3, "one\ntwo\n", "alas")
    assert server.bodies[0] == {"Cmd": ["sh", "-c", "exit 3"], "AttachStdout": True, "AttachStderr": True}


def test_what_a_program_reads_goes_after_the_answers_head(tmp_path: Path) -> None:
    """As the engine does it: the connection becomes the program's once it said so, and what came earlier is lost."""

    class Passing(_Handler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            if not self.path.endswith("/start"):
                self._answer()
                return
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.docker.raw-stream")
            self.end_headers()
            line = self.rfile.readline().decode()
            self.wfile.write(framed((1, f"read: {line}")))
            self.close_connection = True

    class Engine(FakeEngine):
        def finish_request(self, request: Any, client_address: Any) -> None:
            Passing(request, client_address, self)

    answers: Answers = {"POST /containers/c/exec": (201, {"Id": "e1"}), "GET /exec/e1/json": (200, {"ExitCode": 0})}
    server = Engine(tmp_path / "docker.sock", answers)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        api = DockerApi(f"unix://{tmp_path / 'docker.sock'}", timeout=5)
        assert api.execute("c", ("cat",), stdin="é$'\"\n".encode()) == (0, "read: é$'\"\n", "")
        assert server.bodies[0] == {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(EngineError):
        api.execute("c", ("cat",), stdin=b"x")


def test_removing_what_is_gone_is_fine(serve: Serve) -> None:
    api, server = serve({"DELETE /volumes/data": (204, b"", "text/plain")})
    api.remove_container("gone")
    api.remove_network("gone")
    api.remove_volume("gone")
    api.remove_volume("data")
    assert server.asked[0] == "POST /containers/gone/stop?t=10", "asked to end before it is removed"
    assert server.asked[-1] == "DELETE /volumes/data"


def test_removing_what_is_in_use_is_not(serve: Serve) -> None:
    api, _ = serve({"DELETE /volumes/data": (409, {"message": "volume is in use"})})
    with pytest.raises(ApiError, match="in use"):
        api.remove_volume("data")


def test_names_cannot_leave_their_place(serve: Serve) -> None:
    api, server = serve({})
    api.remove_network("../containers/x?force=1")
    assert server.asked == ["DELETE /networks/..%2Fcontainers%2Fx%3Fforce%3D1"]


def test_no_answer_in_time(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(EngineError, match="does not answer"):
            DockerApi(f"unix://{path}", timeout=0.2).get("/info")


@pytest.mark.parametrize("host", ["/var/run/docker.sock", "http://example.org", "npipe:////./pipe/docker"])
def test_not_an_address(host: str) -> None:
    with pytest.raises(EngineError, match="is not an engine's address"):
        DockerApi(host)


def test_ssh_host_cannot_be_an_option() -> None:
    with pytest.raises(EngineError):
        DockerApi("ssh://-oProxyCommand=touch%20x").get("/info")


# ------------------------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize(
    ("host", "error", "installed", "expected"),
    [
        (LOCAL, FileNotFoundError(), False, "missing"),
        (LOCAL, FileNotFoundError(), True, "stopped"),
        (LOCAL, ConnectionRefusedError(), True, "stopped"),
        (LOCAL, PermissionError(), True, "denied"),
        (LOCAL, TimeoutError(), True, "unreachable"),
        ("tcp://10.0.0.9:2376", ConnectionRefusedError(), False, "unreachable"),
        ("ssh://pi@pi.local", FileNotFoundError(), False, "unreachable"),
    ],
)
def test_classify(host: str, error: OSError, installed: bool, expected: str) -> None:
    assert classify(host, error, installed=installed) == expected


@pytest.mark.parametrize(
    ("root", "system", "systemd", "installed", "fix"),
    [
        (True, "debian", True, False, "apt-get update && apt-get install -y docker.io iptables"),
        (False, "debian", True, False, "sudo sh -c 'apt-get update && apt-get install -y docker.io iptables'"),
        (False, "raspbian", True, False, "usermod -aG docker"),
        (False, "fedora", True, False, "the way your system does it"),
        (False, "ubuntu", True, True, "sudo systemctl enable --now docker"),
        (True, "ubuntu", False, True, "dockerd, in a terminal of its own"),
    ],
)
def test_the_fix_is_a_command(
    monkeypatch: pytest.MonkeyPatch, root: bool, system: str, systemd: bool, installed: bool, fix: str
) -> None:
    monkeypatch.setattr(engine.shutil, "which", lambda *_, **__: "/usr/sbin/dockerd" if installed else None)
    error = explain(LOCAL, FileNotFoundError(), root=root, system=system, systemd=systemd)
    assert fix in error.fix
    assert error.trouble == ("stopped" if installed else "missing")


def test_denied_says_which_group() -> None:
    error = explain(LOCAL, PermissionError(), root=False, system="debian", systemd=True)
    assert error.trouble == "denied"
    assert 'usermod -aG docker "$USER"' in error.fix


def test_the_cause_is_kept(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as failed:
        DockerApi(f"unix://{tmp_path / 'nothing'}").get("/info")
    assert isinstance(failed.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ID=debian\n", "debian"),
        ("ID=raspbian\nID_LIKE=debian\n", "raspbian"),
        ('NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n', "ubuntu"),
        ('ID="fedora"\n', "fedora"),
    ],
)
def test_distribution(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "os-release").write_text(text)
    assert engine.distribution(tmp_path / "os-release") == expected


def test_no_distribution(tmp_path: Path) -> None:
    assert engine.distribution(tmp_path / "missing") == ""


# ------------------------------------------------------------------------------------------------ our own dockerd


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "state/ai-kit").mkdir(parents=True)
    return tmp_path / "state/ai-kit"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is called dockerd and ends when it is asked to."""
    program = tmp_path / "dockerd"
    program.write_text("#!/bin/sh\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    process = subprocess.Popen([str(program)], start_new_session=True)
    # The kernel closes the pipe that Popen waits for before it writes the new command line down.
    command, deadline = Path(f"/proc/{process.pid}/cmdline"), time.monotonic() + 10
    while b"dockerd" not in command.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


def started(process: subprocess.Popen[bytes], shift: int = 0) -> dict[str, object]:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return {"pid": process.pid, "started": int(fields[19]) + shift, "log": "/tmp/log"}


def test_ours_is_stopped(state: Path, daemon: subprocess.Popen[bytes]) -> None:
    (state / "dockerd.json").write_text(json.dumps(started(daemon)))
    assert engine.stop_ours()
    assert not (state / "dockerd.json").exists()
    assert daemon.wait(5) == -signal.SIGTERM
    assert not engine.stop_ours()


def test_a_reused_pid_is_left_alone(state: Path, daemon: subprocess.Popen[bytes]) -> None:
    (state / "dockerd.json").write_text(json.dumps(started(daemon, shift=-1)))
    assert not engine.stop_ours()
    assert daemon.poll() is None
    assert not (state / "dockerd.json").exists()


def test_another_program_is_left_alone(state: Path) -> None:
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert not StartedEngine(os.getpid(), int(fields[19]), Path("/tmp/log")).stop()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": "x"}'])
def test_broken_record(state: Path, content: str) -> None:
    (state / "dockerd.json").write_text(content)
    assert not engine.stop_ours()
