"""A real image registry on the loopback, for tests that pull by digest.

    with Registry(folder) as registry:
        pinned = registry.push("aikit.local/airgap/tools:1.37-0123456789ab", "tools", "1.37")
        # localhost:PORT/tools@sha256:..., which any engine on this machine can pull

The program is Debian's docker-registry, unpacked and not installed: installing it would start a service
with a configuration of its own. Loopback needs no TLS: engines accept plain HTTP from localhost.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from airgap.images import engine

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_START_SECONDS = 20.0


class RegistryError(RuntimeError):
    """The registry could not be had, started or used. The message says why."""


def program() -> Path:
    """Debian's registry program: the one on PATH, or unpacked from its package into the cache (no root needed)."""
    if found := shutil.which("docker-registry"):
        return Path(found)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base) / "ai-kit" / "docker-registry"
    target = folder / "usr" / "bin" / "docker-registry"
    if target.is_file():
        return target
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        work = Path(name)
        # As root, apt drops to a user of its own, which must be able to write here.
        work.chmod(0o777)
        _call(["apt-get", "download", "-qq", "docker-registry"], work)
        packages = list(work.glob("docker-registry_*.deb"))
        if not packages:
            raise RegistryError("apt-get download docker-registry brought no package")
        _call(["dpkg", "-x", str(packages[0]), str(work / "unpacked")], work)
        shutil.rmtree(folder, ignore_errors=True)
        (work / "unpacked").rename(folder)
    return target


def _call(command: list[str], folder: Path) -> None:
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise RegistryError(f"{command[0]} is missing: the registry comes as a Debian package") from error
    if result.returncode != 0:
        raise RegistryError(f"{' '.join(command[:3])} failed: {result.stderr.decode(errors='replace').strip()}")


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Registry:
    """Runs while the ``with`` block does; what was pushed stays in ``storage``.

    ``port`` None takes a free one. No authentication: it listens on 127.0.0.1 only.
    """

    def __init__(self, storage: Path, *, port: int | None = None) -> None:
        self.storage = storage
        self.port = port if port is not None else free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """The first part of an image's name in this registry."""
        return f"localhost:{self.port}"

    @property
    def log(self) -> Path:
        return self.storage / "registry.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        if self._process is not None:
            raise RegistryError("the registry is running already")
        executable = program()
        (self.storage / "data").mkdir(parents=True, exist_ok=True)
        config = self.storage / "config.yml"
        # JSON is YAML.
        config.write_text(
            json.dumps(
                {
                    "version": "0.1",
                    "log": {"level": "warn"},
                    "storage": {
                        "filesystem": {"rootdirectory": str((self.storage / "data").resolve())},
                        "delete": {"enabled": True},
                    },
                    "http": {"addr": f"127.0.0.1:{self.port}"},
                },
                indent=2,
            )
        )
        environment = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [str(executable), "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environment, "OTEL_TRACES_EXPORTER": "none"},
            )
        self._process = process
        try:
            self._wait(process)
        except BaseException:
            self.stop()
            raise

    def _ask(self, method: str, path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers={"Accept": _MANIFEST})
            answer = connection.getresponse()
            answer.read()
            return answer
        finally:
            connection.close()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                tail = self.log.read_text(errors="replace").strip().splitlines()[-5:]
                raise RegistryError("\n".join([f"the registry ended at once; its log {self.log} says:", *tail]))
            try:
                if self._ask("GET", "/v2/").status == http.client.OK:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise RegistryError(
            f"the registry does not answer on port {self.port} after {_START_SECONDS:.0f} s: {self.log}"
        )

    def stop(self) -> None:
        """End the process that start() began; harmless when there is none."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def push(self, image: str, name: str, tag: str) -> str:
        """Push the engine's ``image`` as ``name:tag`` and return ``localhost:PORT/name@sha256:...``."""
        target = f"{self.host}/{name}:{tag}"
        engine.run(["tag", image, target])
        try:
            engine.run(["push", "--quiet", target])
        finally:
            engine.run(["image", "rm", "--no-prune", target])
        return f"{self.host}/{name}@{self.digest(name, tag)}"

    def digest(self, name: str, tag: str) -> str:
        """The digest the registry gives for a tag."""
        answer = self._ask("HEAD", f"/v2/{name}/manifests/{tag}")
        if answer.status != http.client.OK:
            raise RegistryError(f"the registry has no {name}:{tag}: {answer.status} {answer.reason}")
        digest = answer.getheader("Docker-Content-Digest")
        if not digest:
            raise RegistryError(f"the registry gave no digest for {name}:{tag}")
        return digest
