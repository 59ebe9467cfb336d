"""The Docker engine: finding one, telling why there is none, installing and starting one as root, talking to it.

Everything goes through the engine's HTTP API, so nothing here needs the docker command. An engine that was running
before is never stopped. Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ops.commands import apt_install
from ops.console import KitError
from ops.paths import private_directory, state_home
from ops.progress import Progress, Step

__all__ = [
    "LOCAL",
    "ApiError",
    "DockerApi",
    "EngineError",
    "EngineInfo",
    "StartedEngine",
    "Trouble",
    "classify",
    "ensure",
    "explain",
    "find",
    "stop_ours",
]

LOCAL = "unix:///var/run/docker.sock"
PACKAGES = ("docker.io", "iptables")
_DEBIAN_KIN = frozenset({"debian", "ubuntu", "raspbian"})
_START_SECONDS = 90.0
_STOP_SECONDS = 60.0
# A busy engine on a small machine takes seconds to list; a dead network must not take minutes.
_TIMEOUT = 60.0
_CONNECT_TIMEOUT = 10.0
_INSTALL = f"apt-get update && apt-get install -y {' '.join(PACKAGES)}"

Trouble = Literal["missing", "stopped", "denied", "unreachable"]


class EngineError(KitError):
    """The engine does not answer. `trouble` says in which way, the cause is chained."""

    def __init__(self, what: str, fix: str = "", *, trouble: Trouble = "unreachable") -> None:
        self.trouble: Trouble = trouble
        super().__init__(what, fix)


class ApiError(EngineError):
    """The engine answered, and said no."""

    def __init__(self, status: int, message: str, request: str) -> None:
        self.status = status
        self.message = message
        super().__init__(f"the engine refused {request}: {message} ({status})")


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What the engine says about itself and its machine."""

    host: str
    version: str
    api_version: str
    arch: str
    """amd64, arm64, ... as images name it."""
    ncpu: int
    mem_bytes: int
    memory_limit: bool
    """Whether the kernel lets it limit memory; off by default on Raspberry Pi OS."""
    cgroup_version: str
    storage_driver: str
    root_dir: str
    runtimes: frozenset[str]
    rootless: bool


# ---------------------------------------------------------------------------------------------------------- the client


class _Connection(http.client.HTTPConnection):
    """HTTP over whatever `DockerApi` opened."""

    def __init__(self, api: DockerApi, timeout: float | None) -> None:
        super().__init__("docker", timeout=timeout)
        self._api = api
        self._tunnel_process: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        self.sock, self._tunnel_process = self._api.open_socket(self.timeout)

    def passing(self, content: bytes) -> http.client.HTTPResponse:
        """The answer to what was asked; where it is no refusal, `content` goes after it over the same connection."""
        # Not getresponse(): that gives the connection away, to be read alone.
        response = http.client.HTTPResponse(self.sock, method="POST")
        response.begin()
        if response.status < 300:
            self.sock.sendall(content)
        return response

    def close(self) -> None:
        super().close()
        if self._tunnel_process is not None:
            self._tunnel_process.terminate()
            self._tunnel_process.wait()
            self._tunnel_process = None


class DockerApi:
    """The Docker API at `host` (unix://, tcp:// or ssh://), by default the local socket.

    DOCKER_HOST is not looked at: which machine a stack is on is configuration, not the caller's environment.
    Raises EngineError when the engine does not answer and ApiError when it refuses. Safe to use from several threads.
    """

    def __init__(self, host: str | None = None, *, timeout: float = _TIMEOUT) -> None:
        self.host = host or LOCAL
        self.timeout = timeout
        self._address = urllib.parse.urlsplit(self.host)
        if self._address.scheme not in ("unix", "tcp", "ssh"):
            raise EngineError(
                f"{self.host} is not an engine's address.", "it starts with unix://, tcp:// or ssh://, e.g. " + LOCAL
            )

    @property
    def local(self) -> bool:
        return self._address.scheme == "unix"

    def get(self, path: str, *, timeout: float | None = None) -> Any:
        """GET `path` (with its query), parsed."""
        return self.request("GET", path, timeout=timeout)

    def post(self, path: str, body: object = None, *, timeout: float | None = None) -> Any:
        """POST `body` as JSON, the answer parsed."""
        return self.request("POST", path, body, timeout=timeout)

    def delete(self, path: str, *, timeout: float | None = None) -> Any:
        """DELETE `path`."""
        return self.request("DELETE", path, timeout=timeout)

    def request(self, method: str, path: str, body: object = None, *, timeout: float | None = None) -> Any:
        """One call; the answer as parsed JSON, as text where it is none, None where it is empty."""
        with self._answer(method, path, body, timeout or self.timeout) as response:
            content = response.read()
            kind = response.headers.get("Content-Type", "")
        if not content:
            return None
        return json.loads(content) if "json" in kind else content.decode("utf-8", "replace")

    def reachable(self) -> bool:
        """Whether the engine answers at all."""
        try:
            self.get("/_ping", timeout=_CONNECT_TIMEOUT)
        except EngineError:
            return False
        return True

    def info(self) -> EngineInfo:
        """The facts about engine and machine."""
        info = cast(dict[str, Any], self.get("/info"))
        version = cast(dict[str, Any], self.get("/version"))
        options = cast(list[str], info.get("SecurityOptions") or [])
        return EngineInfo(
            host=self.host,
            version=str(version.get("Version", "")),
            api_version=str(version.get("ApiVersion", "")),
            arch=str(version.get("Arch", "")),
            ncpu=int(info.get("NCPU") or 0),
            mem_bytes=int(info.get("MemTotal") or 0),
            memory_limit=bool(info.get("MemoryLimit")),
            cgroup_version=str(info.get("CgroupVersion") or "1"),
            storage_driver=str(info.get("Driver", "")),
            root_dir=str(info.get("DockerRootDir", "")),
            runtimes=frozenset(cast(dict[str, Any], info.get("Runtimes") or {})),
            rootless=any("rootless" in option for option in options),
        )

    def logs(self, container: str, *, tail: int | None = None) -> str:
        """What a container wrote so far, both streams in order, the last `tail` lines."""
        return "".join(self.stream_logs(container, follow=False, tail=tail))

    def stream_logs(
        self, container: str, *, follow: bool = True, tail: int | None = None, timestamps: bool = False
    ) -> Iterator[str]:
        """What a container writes, as it comes; ends with the container when `follow`."""
        tty = bool(self.get(f"/containers/{_quoted(container)}/json")["Config"]["Tty"])
        query = urllib.parse.urlencode(
            {
                "stdout": "1",
                "stderr": "1",
                "follow": int(follow),
                "tail": "all" if tail is None else tail,
                "timestamps": int(timestamps),
            }
        )
        path = f"/containers/{_quoted(container)}/logs?{query}"
        with self._answer("GET", path, None, None if follow else self.timeout) as response:
            while tty and (block := response.read1(1 << 16)):  # a terminal's output comes as it is
                yield block.decode("utf-8", "replace")
            if not tty:
                for _, content in _frames(response):
                    yield content.decode("utf-8", "replace")

    def execute(
        self, container: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float | None = None
    ) -> tuple[int, str, str]:
        """Run a program in a running container: its exit code, and what it wrote to either stream.

        argv can be seen by whoever may list the container's processes: no secrets in it. stdin: what the program reads.
        It sees no end of that, so it must know by itself when it has read all: not every way to an engine can be closed
        on one side.
        """
        asked = {"Cmd": list(argv), "AttachStdout": True, "AttachStderr": True}
        if stdin:
            asked["AttachStdin"] = True
        made = cast(dict[str, Any], self.post(f"/containers/{_quoted(container)}/exec", asked))
        path = f"/exec/{made['Id']}"
        written: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        start = {"Detach": False, "Tty": False}
        answer = self._answer("POST", f"{path}/start", start, timeout or self.timeout, then=stdin)
        with answer as response:
            for kind, content in _frames(response):
                written[2 if kind == 2 else 1] += content
        code = int(cast(dict[str, Any], self.get(f"{path}/json")).get("ExitCode") or 0)
        return code, written[1].decode("utf-8", "replace"), written[2].decode("utf-8", "replace")

    def remove_container(self, name: str, *, grace: int = 10) -> None:
        """Stop a container, with `grace` seconds to end by itself, and remove it with its anonymous volumes."""
        path = f"/containers/{_quoted(name)}"
        with _unless(304, 404):
            self.post(f"{path}/stop?t={grace}", timeout=self.timeout + grace)
        with _unless(404):
            self.delete(f"{path}?force=true&v=true")

    def remove_network(self, name: str) -> None:
        """Remove a network; no error when it is gone already."""
        with _unless(404):
            self.delete(f"/networks/{_quoted(name)}")

    def remove_volume(self, name: str) -> None:
        """Remove a volume and what is in it; no error when it is gone already."""
        with _unless(404):
            self.delete(f"/volumes/{_quoted(name)}")

    @contextmanager
    def _answer(
        self, method: str, path: str, body: object, timeout: float | None, *, then: bytes = b""
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer. then: what is sent once its head is there, by which the engine says that it passes bytes on."""
        connection = _Connection(self, timeout)
        try:
            content = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json", "Connection": "close"}
            try:
                connection.request(method, path, body=content, headers=headers)
                response = connection.passing(then) if then else connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise explain(self.host, error) from error
            if response.status >= 400 or response.status == 304:
                raise ApiError(response.status, _message(response), f"{method} {path.partition('?')[0]}")
            try:
                yield response
            except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
                raise explain(self.host, error) from error
        finally:
            connection.close()

    def open_socket(self, timeout: float | None) -> tuple[socket.socket, subprocess.Popen[bytes] | None]:
        """A connection to the engine, and the process that carries it where there is one."""
        address = self._address
        if address.scheme == "unix":
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(timeout)
                connection.connect(address.path)
            except BaseException:
                connection.close()
                raise
            return connection, None
        if address.scheme == "tcp":
            connection = socket.create_connection((address.hostname or "", address.port or 2375), _CONNECT_TIMEOUT)
            connection.settimeout(timeout)
            context = _tls(address.port)
            return (context.wrap_socket(connection, server_hostname=address.hostname) if context else connection), None
        return _over_ssh(address, timeout)


def _frames(response: http.client.HTTPResponse) -> Iterator[tuple[int, bytes]]:
    """Two streams in one: frames of kind (1 what was printed, 2 complaints), three zeros, length, content."""
    while len(header := response.read(8)) == 8:
        (length,) = struct.unpack(">I", header[4:])
        yield header[0], response.read(length)


def _tls(port: int | None) -> ssl.SSLContext | None:
    """The certificates that the docker command would use, where it would use TLS."""
    if port != 2376 and not os.environ.get("DOCKER_TLS_VERIFY"):
        return None
    directory = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


def _over_ssh(
    address: urllib.parse.SplitResult, timeout: float | None
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The engine of another machine through its own docker command, as the docker command does it."""
    if (address.hostname or "-").startswith("-"):
        raise EngineError(f"{address.geturl()} names no machine.")
    target = f"{address.username}@{address.hostname}" if address.username else str(address.hostname)
    port = ["-p", str(address.port)] if address.port else []
    ours, theirs = socket.socketpair()
    command = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_TIMEOUT:.0f}", *port]
    try:
        process = subprocess.Popen(
            [*command, "--", target, "docker", "system", "dial-stdio"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.settimeout(timeout)
    return ours, process


@contextmanager
def _unless(*statuses: int) -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        if error.status not in statuses:
            raise


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _message(response: http.client.HTTPResponse) -> str:
    text = response.read(1 << 16).decode("utf-8", "replace").strip()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:300] or response.reason


# ------------------------------------------------------------------------------------------------------ what is wrong


def classify(host: str, error: BaseException, *, installed: bool | None = None) -> Trouble:
    """Why the engine at `host` does not answer. `installed`: whether this machine has dockerd, looked up by default."""
    if not host.startswith("unix://"):
        return "unreachable"
    if isinstance(error, PermissionError):
        return "denied"
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        if installed is None:
            installed = shutil.which("dockerd", path=_system_path()) is not None
        return "stopped" if installed else "missing"
    return "unreachable"


def explain(
    host: str, error: BaseException, *, root: bool | None = None, system: str | None = None, systemd: bool | None = None
) -> EngineError:
    """The error as something a person can act on, with the exact command."""
    root = os.geteuid() == 0 if root is None else root
    systemd = _systemd() if systemd is None else systemd
    system = distribution() if system is None else system
    trouble = classify(host, error)
    sudo = "" if root else "sudo "
    start = f"{sudo}systemctl enable --now docker" if systemd else f"{sudo}dockerd, in a terminal of its own"
    if trouble == "denied":
        return EngineError(
            f"this user may not use the Docker engine at {host}.",
            'sudo usermod -aG docker "$USER", then log out and in again (members of that group are root in effect)',
            trouble=trouble,
        )
    if trouble in ("stopped", "missing") and host != LOCAL:
        return EngineError(f"no Docker engine listens at {host}.", "start it, or correct the address", trouble=trouble)
    if trouble == "stopped":
        return EngineError(f"the Docker engine is installed but not running ({host}).", start, trouble=trouble)
    if trouble == "missing":
        if system in _DEBIAN_KIN:
            group = "" if root else ' && sudo usermod -aG docker "$USER", then log out and in again'
            command = f"{sudo}sh -c '{_INSTALL}'" if sudo else _INSTALL
            return EngineError("there is no Docker engine on this machine.", f"{command}{group}", trouble=trouble)
        return EngineError(
            "there is no Docker engine on this machine.",
            "install Docker Engine the way your system does it, start it, and run this again",
            trouble=trouble,
        )
    if host.startswith("ssh://"):
        target = host.removeprefix("ssh://")
        fix = f"ssh {target} docker version must work without a question (key, known host, docker group)"
    elif host.startswith("tcp://"):
        fix = "check the address, the firewall, and that the engine listens there (TLS: DOCKER_CERT_PATH)"
    else:
        fix = "journalctl -u docker, or the engine's own log, says why" if systemd else "the engine's log says why"
    detail = str(error).strip() or type(error).__name__
    return EngineError(f"the Docker engine at {host} does not answer: {detail}.", fix, trouble=trouble)


def find(host: str | None = None, environ: Mapping[str, str] | None = None) -> EngineInfo:
    """The engine at `host`, or at DOCKER_HOST, or at the local socket. EngineError when it does not answer."""
    environ = os.environ if environ is None else environ
    return DockerApi(host or environ.get("DOCKER_HOST") or LOCAL).info()


def distribution(file: Path = Path("/etc/os-release")) -> str:
    """debian, ubuntu, raspbian, or for a derivative the first of these that it names; "" when it cannot be said."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return ""
    found = dict(re.findall(r'^(ID|ID_LIKE)="?([^"\n]*)"?$', text, re.MULTILINE))
    names = [found.get("ID", ""), *found.get("ID_LIKE", "").split()]
    return next((name for name in names if name in _DEBIAN_KIN), names[0])


def _systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def _system_path() -> str:
    """PATH with the directories that hold daemons, which a user's own may lack."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


# ------------------------------------------------------------------------------------------------ installing, starting


@dataclass(frozen=True)
class StartedEngine:
    """A dockerd that ai-kit started, because nothing else on the machine would have."""

    pid: int
    started: int
    """Start time in the kernel's clock ticks: a reused pid has another one."""
    log: Path

    @property
    def running(self) -> bool:
        return _start_time(self.pid) == self.started and "dockerd" in _command(self.pid)

    def stop(self) -> bool:
        """End it and wait for its containers to go; False when it was not running (any more)."""
        if not self.running:
            _record().unlink(missing_ok=True)
            return False
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while self.running:
            if time.monotonic() > deadline:
                raise EngineError(f"dockerd (pid {self.pid}) does not end.", f"its log: {self.log}")
            with suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
            time.sleep(0.2)
        _record().unlink(missing_ok=True)
        return True


def ensure(progress: Progress, host: str | None = None) -> StartedEngine | None:
    """An engine that answers at `host` (default: the local socket).

    Installs and starts a local one as root where that is possible; otherwise EngineError with the exact command.
    Returns the engine only if this call started a dockerd of its own: None for one that was there, or that the
    system's service manager runs from now on.
    """
    api = DockerApi(host)
    try:
        api.get("/_ping", timeout=_CONNECT_TIMEOUT)
        return None
    except ApiError:
        raise
    except EngineError as error:
        if os.geteuid() != 0 or api.host != LOCAL or error.trouble not in ("missing", "stopped"):
            raise
        if error.trouble == "missing":
            if distribution() not in _DEBIAN_KIN or not shutil.which("apt-get"):
                raise
            apt_install(PACKAGES, progress)
    if _systemd():
        with progress.step("starting the Docker engine"):
            result = subprocess.run(
                ["systemctl", "enable", "--now", "docker"], capture_output=True, text=True, check=False
            )
            if result.returncode != 0:
                raise EngineError(
                    "the Docker engine does not start: " + (result.stderr.strip() or "systemctl failed"),
                    "journalctl -u docker -n 50",
                )
            _wait(api, lambda: None)
        return None
    with progress.step("starting the Docker engine") as step:
        # Its package may have started it already, without waiting for it.
        if (pid := _pid_of_engine()) is not None:
            step.note("it is being started by the system")
            _wait(api, lambda: None if _command(pid) else "it ended")
            return None
        return _start(api, step)


def _start(api: DockerApi, step: Step) -> StartedEngine:
    program = shutil.which("dockerd", path=_system_path())
    if program is None:
        raise EngineError("dockerd is not there, although the engine's package is installed.", trouble="missing")
    log = private_directory(state_home() / "log") / "dockerd.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [program, "-H", LOCAL],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            env={**os.environ, "PATH": _system_path()},
            start_new_session=True,
        )
    engine = StartedEngine(process.pid, _start_time(process.pid) or 0, log)
    private_directory(_record().parent)
    _record().write_text(json.dumps({"pid": engine.pid, "started": engine.started, "log": str(log)}), "utf-8")
    step.note(f"its log: {log}")

    def ended() -> str | None:
        code = process.poll()
        return None if code is None else f"dockerd ended with {code}"

    try:
        _wait(api, ended)
    except EngineError as error:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        if process.poll() is not None:
            _record().unlink(missing_ok=True)
        raise EngineError(error.what, "\n".join([*tail, f"the whole log: {log}"]), trouble="stopped") from error
    return engine


def _wait(api: DockerApi, ended: Callable[[], str | None]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not api.reachable():
        if problem := ended():
            raise EngineError(f"the Docker engine does not start: {problem}.", trouble="stopped")
        if time.monotonic() > deadline:
            raise EngineError(f"the Docker engine did not answer within {_START_SECONDS:.0f} s.", trouble="stopped")
        time.sleep(0.2)


def stop_ours() -> bool:
    """Stop the dockerd that an earlier run started, if it is still that one. False when there is none."""
    try:
        recorded = cast(dict[str, Any], json.loads(_record().read_text(encoding="utf-8")))
        engine = StartedEngine(int(recorded["pid"]), int(recorded["started"]), Path(recorded["log"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return engine.stop()


def _record() -> Path:
    return state_home() / "dockerd.json"


def _start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is none or it is only a zombie."""
    try:
        # The name in parentheses may hold anything, so count from behind it.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def _pid_of_engine(file: Path = Path("/var/run/docker.pid")) -> int | None:
    """The pid of a dockerd that runs already, by its own pid file."""
    try:
        pid = int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return pid if "dockerd" in _command(pid) else None
