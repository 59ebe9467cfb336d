"""The toolchain's order, checks and cache. Proves nothing about the programs themselves: the live layer runs them."""

from __future__ import annotations

import hashlib
import http.server
import importlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import grpc
import pytest
from pulumi.runtime.proto import language_pb2, language_pb2_grpc

from ops import commands, toolchain
from ops.console import KitError
from ops.paths import ROOT
from ops.progress import Progress
from ops.toolchain import Toolchain, ToolchainError, choice, golang, pins, release
from ops.toolchain.cache import locked, source_hash
from ops.toolchain.choice import Choice, Seen, decide, release_matters
from ops.toolchain.pins import RELEASE, newer_or_same

SDK = {"docker": "5.2.0", "keycloak": "6.14.1", "random": "4.21.4", "tls": "5.6.2"}
ALL = frozenset(SDK)
NEW = pins.MINIMUM_PULUMI
ARCHIVE = f"pulumi-v{RELEASE}-linux-x64.tar.gz"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and nobody's environment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("AIKIT_TOOLCHAIN", raising=False)
    monkeypatch.delenv("AIKIT_PULUMI_RELEASES", raising=False)
    return tmp_path / "cache" / "ai-kit" / "toolchain"


@pytest.fixture
def progress() -> Progress:
    return Progress(io.StringIO(), tty=False)


# -------------------------------------------------------------------------------------------------------- the order


@pytest.mark.parametrize(
    ("seen", "release", "expected"),
    [
        pytest.param(
            Seen(cli=NEW, language_host=True, plugins=ALL),
            False,
            Choice("path", "official"),
            id="all there, no network",
        ),
        pytest.param(
            Seen(cli=NEW, language_host=True), True, Choice("path", "official"), id="the engine gets the plugins"
        ),
        pytest.param(
            Seen(cli=NEW, language_host=True), False, Choice("path", "airgap"), id="plugins built for PATH's CLI"
        ),
        pytest.param(
            Seen(cli=NEW, language_host=True, plugins=ALL - {"tls"}),
            False,
            Choice("path", "airgap"),
            id="one plugin missing: never a mixture",
        ),
        pytest.param(Seen(cli=NEW, language_host=False), True, Choice("release", "official"), id="no language host"),
        pytest.param(
            Seen(cli="3.100.0", language_host=True, plugins=ALL), True, Choice("release", "official"), id="too old"
        ),
        pytest.param(
            Seen(cli="3.100.0", language_host=True, plugins=ALL),
            False,
            Choice("built", "official"),
            id="too old, no network, plugins there",
        ),
        pytest.param(Seen(), True, Choice("release", "official"), id="nothing, network"),
        pytest.param(
            Seen(fetched=True, plugins=ALL), False, Choice("release", "official"), id="fetched earlier, no network"
        ),
        pytest.param(Seen(), False, Choice("built", "airgap"), id="nothing, no network"),
    ],
)
def test_order(seen: Seen, release: bool, expected: Choice) -> None:
    assert decide(seen, ALL, release=release) == expected


@pytest.mark.parametrize(
    ("forced", "seen", "release", "expected"),
    [
        ("built", Seen(cli=NEW, language_host=True, plugins=ALL), True, Choice("built", "airgap")),
        ("release", Seen(cli=NEW, language_host=True, plugins=ALL), True, Choice("release", "official")),
        ("path", Seen(cli=NEW, language_host=True), False, Choice("path", "airgap")),
    ],
)
def test_forced(forced: pins.Origin, seen: Seen, release: bool, expected: Choice) -> None:
    assert decide(seen, ALL, release=release, forced=forced) == expected


@pytest.mark.parametrize(
    ("forced", "seen", "says"),
    [
        ("path", Seen(cli="3.100.0", language_host=True), "it is 3.100.0"),
        ("path", Seen(cli=NEW), "pulumi-language-python is missing"),
        ("path", Seen(), "there is none"),
        ("release", Seen(), "does not answer"),
    ],
)
def test_forced_but_impossible(forced: pins.Origin, seen: Seen, says: str) -> None:
    with pytest.raises(ToolchainError, match=says):
        decide(seen, ALL, release=False, forced=forced)


def test_release_host_is_asked_only_where_it_matters() -> None:
    complete = Seen(cli=NEW, language_host=True, plugins=ALL)
    assert not release_matters(complete, ALL)
    assert not release_matters(Seen(fetched=True, plugins=ALL), ALL)
    assert not release_matters(Seen(), ALL, "built")
    assert release_matters(Seen(), ALL)
    assert release_matters(complete, ALL, "release")


@pytest.mark.parametrize(
    ("version", "minimum", "expected"),
    [("3.256.0", "3.255.0", True), ("v3.255.0", "3.255.0", True), ("3.99.9", "3.255.0", False), ("4.0", "3.9", True)],
)
def test_versions(version: str, minimum: str, expected: bool) -> None:
    assert newer_or_same(version, minimum) is expected


# --------------------------------------------------------------------------------------------------- what is there


def program(directory: Path, name: str, text: str = "") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def test_look_around(tmp_path: Path) -> None:
    cli = program(tmp_path / "bin", "pulumi", "echo v3.300.1")
    program(tmp_path / "bin", "pulumi-language-python")
    (tmp_path / "home/plugins/resource-tls-v5.6.2").mkdir(parents=True)
    environ = {"PATH": str(tmp_path / "bin"), "PULUMI_HOME": str(tmp_path / "home")}
    seen, path = choice.look_around(SDK, environ)
    assert (seen, path) == (Seen(cli="3.300.1", language_host=True, plugins=frozenset()), cli), "one of four is none"
    for name, version in SDK.items():
        (tmp_path / f"home/plugins/resource-{name}-v{version}").mkdir(exist_ok=True)
    assert choice.look_around(SDK, environ)[0].plugins == ALL
    (tmp_path / "home/plugins" / f"resource-tls-v{SDK['tls']}" / pins.BUILT_FROM).touch()
    assert not choice.look_around(SDK, environ)[0].plugins, "what was built here is not official, wherever it lies"


def test_look_around_finds_the_host_beside_a_linked_cli(tmp_path: Path) -> None:
    program(tmp_path / "opt", "pulumi", "echo v3.300.1")
    program(tmp_path / "opt", "pulumi-language-python")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/pulumi").symlink_to(tmp_path / "opt/pulumi")
    seen, _ = choice.look_around(SDK, {"PATH": str(tmp_path / "bin"), "PULUMI_HOME": str(tmp_path)})
    assert seen.language_host


def test_a_pulumi_that_does_not_run_is_none(tmp_path: Path) -> None:
    program(tmp_path / "bin", "pulumi", "exit 3")
    seen, _ = choice.look_around(SDK, {"PATH": str(tmp_path / "bin"), "PULUMI_HOME": str(tmp_path)})
    assert seen.cli is None
    assert not seen.cli_usable


# --------------------------------------------------------------------------------------------------------- releases


class Releases(http.server.BaseHTTPRequestHandler):
    files: Mapping[str, bytes] = {}
    asked: list[str]

    def _send(self, body: bool) -> None:
        content = self.files.get(self.path.lstrip("/"))
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body and content:
            self.wfile.write(content)

    def do_GET(self) -> None:
        self.asked.append(self.path.lstrip("/"))
        self._send(True)

    def do_HEAD(self) -> None:
        self._send(False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gives up is part of the test."""


Serve = Callable[[Mapping[str, bytes]], tuple[str, list[str]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves files on loopback; gives the address and the list of what was fetched."""
    servers: list[_Server] = []

    def start(files: Mapping[str, bytes]) -> tuple[str, list[str]]:
        asked: list[str] = []
        handler = type("Handler", (Releases,), {"files": files, "asked": asked})
        server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def archive(*names: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in names:
            content = f"#!/bin/sh\necho v{RELEASE}\n".encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


GOOD = archive("pulumi/pulumi", "pulumi/pulumi-language-python", "pulumi/README", "../pulumi-escape")


def fetch(url: str, target: Path, progress: Progress, pins: Mapping[str, str]) -> None:
    with progress.step("fetching") as step:
        release.fetch_release(target, step, url=url, platform_name="linux-x64", pins=pins)


def test_release_that_matches_its_pin(serve: Serve, tmp_path: Path, progress: Progress) -> None:
    url, asked = serve({ARCHIVE: GOOD})
    fetch(url, tmp_path / "release", progress, {"linux-x64": hashlib.sha256(GOOD).hexdigest()})
    names = {file.name for file in (tmp_path / "release").iterdir()}
    assert names == {"pulumi", "pulumi-language-python", "pulumi-escape", "BUILT-FROM.txt"}
    assert os.access(tmp_path / "release/pulumi", os.X_OK)
    assert not (tmp_path / "pulumi-escape").exists()
    assert asked == [ARCHIVE], "a pinned release needs no published checksum"


def test_release_without_a_pin_uses_the_published_checksum(serve: Serve, tmp_path: Path, progress: Progress) -> None:
    sums = f"{'0' * 64}  other.tar.gz\n{hashlib.sha256(GOOD).hexdigest()}  {ARCHIVE}\n".encode()
    url, _ = serve({ARCHIVE: GOOD, f"pulumi-{RELEASE}-checksums.txt": sums})
    fetch(url, tmp_path / "release", progress, {})
    assert (tmp_path / "release/pulumi").is_file()


@pytest.mark.parametrize(
    ("files", "pins", "says"),
    [
        pytest.param({ARCHIVE: GOOD}, {"linux-x64": "0" * 64}, "expected 0000", id="another file than pinned"),
        pytest.param(
            {ARCHIVE: GOOD, f"pulumi-{RELEASE}-checksums.txt": f"{'1' * 64}  {ARCHIVE}\n".encode()},
            {},
            "expected 1111",
            id="another file than published",
        ),
        pytest.param(
            {ARCHIVE: GOOD, f"pulumi-{RELEASE}-checksums.txt": b"nothing"}, {}, "does not list", id="not published"
        ),
        pytest.param({}, {"linux-x64": "0" * 64}, "404", id="no archive"),
        pytest.param(
            {ARCHIVE: archive("pulumi/pulumi")},
            {"linux-x64": hashlib.sha256(archive("pulumi/pulumi")).hexdigest()},
            "holds no",
            id="no language host inside",
        ),
    ],
)
def test_release_that_is_refused_leaves_nothing(
    serve: Serve,
    tmp_path: Path,
    progress: Progress,
    files: dict[str, bytes],
    pins: dict[str, str],
    says: str,
) -> None:
    url, _ = serve(files)
    with pytest.raises(ToolchainError, match=says):
        fetch(url, tmp_path / "release", progress, pins)
    assert not (tmp_path / "release").exists()


def test_probe(serve: Serve) -> None:
    url, _ = serve({ARCHIVE: GOOD})
    assert release.probe(f"{url}/{ARCHIVE}")
    assert not release.probe(f"{url}/something-else")
    assert not release.probe("http://127.0.0.1:9/")


def test_probe_does_not_wait_for_a_silent_host() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert not release.probe(f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.3)
        assert time.monotonic() - started < 2


# ------------------------------------------------------------------------------------------------------------- cache


def sources(directory: Path) -> Path:
    (directory / "module").mkdir(parents=True)
    (directory / "module/go.mod").write_text("module x\n")
    (directory / "module/main.go").write_text("package main\n")
    return directory


def test_hash_follows_the_sources(tmp_path: Path) -> None:
    root = sources(tmp_path / "a")
    before = source_hash(root)
    assert before == source_hash(root)
    assert before != source_hash(root, extra="other linker flags")
    (root / "module/main.go").write_text("package main \n")
    changed = source_hash(root)
    assert changed != before
    (root / "module/main.go").rename(root / "module/other.go")
    assert source_hash(root) not in (before, changed)


def test_hash_follows_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sources(tmp_path / "a")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    amd64 = source_hash(root)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert source_hash(root) != amd64
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ToolchainError, match="riscv64"):
        source_hash(root)


def test_lock_is_for_one(cache: Path, progress: Progress) -> None:
    held = "with locked(): print('in', flush=True); sys.stdin.read()"
    script = f"import sys; from ops.toolchain.cache import locked\n{held}"
    other = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    entered = threading.Event()

    def enter() -> None:
        with locked(progress):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.3)
    other.kill()  # a killed holder lets go by itself
    other.communicate()
    assert entered.wait(5)
    thread.join()


# ---------------------------------------------------------------------------------------------------------- ensure


def official(tmp_path: Path) -> dict[str, str]:
    """An environment with a complete official Pulumi on PATH."""
    program(tmp_path / "bin", "pulumi", f"echo v{NEW}")
    program(tmp_path / "bin", "pulumi-language-python")
    for name, version in SDK.items():
        (tmp_path / f"user/plugins/resource-{name}-v{version}").mkdir(parents=True)
    return {"PATH": str(tmp_path / "bin"), "PULUMI_HOME": str(tmp_path / "user")}


def test_what_is_there_is_used_as_it_is(tmp_path: Path, progress: Progress) -> None:
    environ = official(tmp_path)
    found = toolchain.ensure(progress, SDK, environ=environ, release_url="http://127.0.0.1:9")
    assert (found.origin, found.plugin_mode, found.version) == ("path", "official", NEW)
    assert found.pulumi == tmp_path / "bin/pulumi"
    assert "PULUMI_HOME" not in found.env, "the user's own plugins are used where they are"
    assert "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION" not in found.env


def test_second_call_is_fast_and_the_same(tmp_path: Path, progress: Progress) -> None:
    environ = official(tmp_path)
    first = toolchain.ensure(progress, SDK, environ=environ)
    started = time.monotonic()
    assert toolchain.ensure(progress, SDK, environ=environ) == first
    assert time.monotonic() - started < 0.3


@pytest.mark.parametrize("change", ["program gone", "program changed", "other SDK", "forced", "stamp broken"])
def test_choice_is_kept_only_while_it_holds(tmp_path: Path, cache: Path, progress: Progress, change: str) -> None:
    environ = official(tmp_path)
    toolchain.ensure(progress, SDK, environ=environ)
    sdk = dict(SDK)
    if change == "program gone":
        (tmp_path / "bin/pulumi").unlink()
    elif change == "program changed":
        program(tmp_path / "bin", "pulumi", "echo v9.9.9 # another one")
    elif change == "other SDK":
        sdk["tls"] = "5.7.0"
    elif change == "forced":
        environ["AIKIT_TOOLCHAIN"] = "built"
    else:
        (tmp_path / "state/ai-kit/toolchain.json").write_text("{")
    assert toolchain.current(sdk, environ) is None


def test_official_plugins_are_not_followed_by_older_ones(
    tmp_path: Path, fake_go: dict[str, str], progress: Progress
) -> None:
    environ = official(tmp_path)
    toolchain.ensure(progress, SDK, environ=environ)
    for name in SDK:
        (tmp_path / f"user/plugins/resource-{name}-v{SDK[name]}").rmdir()
    with pytest.raises(ToolchainError, match="official Pulumi plugins"):
        toolchain.ensure(progress, SDK, environ=environ, again=False, release_url="http://127.0.0.1:9")
    environ["AIKIT_TOOLCHAIN"] = "built"
    assert toolchain.ensure(progress, SDK, environ=environ).plugin_mode == "airgap"


def test_a_wrong_wish_is_refused(tmp_path: Path, progress: Progress) -> None:
    with pytest.raises(ToolchainError, match="may be path, release or built"):
        toolchain.ensure(progress, SDK, environ={"AIKIT_TOOLCHAIN": "bulit", "PATH": str(tmp_path)})


FAKE_GO = """
case "$1" in
  version) echo "go version go1.99.0 linux/amd64" ;;
  env) echo /nonexistent ;;
  list) if [ "$2" = -m ]; then echo "$FAKE_GO_MODULE"; exit; fi
    echo a/b; echo "go: downloading example.org/a v1.0.0" >&2 ;;
  mod) ;;
  build)
    mkdir -p "$GOCACHE"
    echo "a/b" >&2
    if [ -n "$FAKE_GO_FAILS" ] && case "$*" in *"$FAKE_GO_FAILS"*) true ;; *) false ;; esac; then
      echo "main.go:1: it does not compile" >&2; exit 1
    fi
    while [ "$1" != -o ]; do shift; done
    printf '#!/bin/sh\\necho v3.256.0\\n' > "$2"; chmod +x "$2" ;;
esac
"""


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A Go that pretends to build; nothing else of the machine is looked at."""
    program(tmp_path / "go-bin", "go", FAKE_GO)
    monkeypatch.setenv("PATH", f"{tmp_path / 'go-bin'}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_GO_MODULE", str(tmp_path / "module"))
    for change in golang.changes("providers"):
        file = tmp_path / "module" / change["file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as text:
            text.write(f"package x\nconst {change['from']}\n")
    return {"PATH": str(tmp_path / "nothing"), "PULUMI_HOME": str(tmp_path / "user"), "AIKIT_TOOLCHAIN": "built"}


def visible(cache: Path) -> set[str]:
    return {re.sub(r"-[0-9a-f]{16}$", "", entry.name) for entry in cache.iterdir() if not entry.name.startswith(".")}


def test_built_from_registries(fake_go: dict[str, str], cache: Path, progress: Progress) -> None:
    built = toolchain.ensure(progress, SDK, environ=fake_go)
    assert (built.origin, built.plugin_mode, built.version) == ("built", "airgap", pins.BUILT_PULUMI)
    assert os.access(built.pulumi, os.X_OK)
    home = Path(built.env["PULUMI_HOME"])
    assert home.is_relative_to(cache)
    for name, version in SDK.items():
        directory = home / "plugins" / f"resource-{name}-v{version}"
        assert os.access(directory / f"pulumi-resource-{name}", os.X_OK)
        assert "not the official plugin" in (directory / "BUILT-FROM.txt").read_text()
    assert built.env["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] == "true"
    assert built.env["PATH"].split(os.pathsep)[0] == str(built.pulumi.parent)
    assert os.access(built.pulumi.with_name("pulumi-language-python"), os.X_OK), "elsewhere on PATH the engine warns"
    assert toolchain.current(SDK, fake_go) == built
    assert not (cache / "go").exists(), "gigabytes of build cache are given back"


def test_what_is_changed_in_upstream_is_said_and_built(
    fake_go: dict[str, str], progress: Progress, tmp_path: Path
) -> None:
    built = toolchain.ensure(progress, SDK, environ=fake_go)
    plugins = Path(built.env["PULUMI_HOME"]) / "plugins"
    for change in golang.changes("providers"):
        about = (plugins / f"resource-{change['plugin']}-v{SDK[change['plugin']]}" / "BUILT-FROM.txt").read_text()
        assert f"changed: {change['file']}: {change['why']}" in about
        assert change["from"] in (tmp_path / "module" / change["file"]).read_text(), "the module itself stays as it is"
        copy = golang.home() / ".changed-providers" / change["module"].rpartition("/")[2] / change["file"]
        assert change["to"] in copy.read_text()
    assert golang.changes("providers")
    assert "changed:" not in (plugins / f"resource-tls-v{SDK['tls']}" / "BUILT-FROM.txt").read_text()


def test_a_change_that_upstream_made_obsolete_stops_the_build(
    fake_go: dict[str, str], progress: Progress, tmp_path: Path
) -> None:
    for change in golang.changes("providers"):
        (tmp_path / "module" / change["file"]).write_text("package x\n")
    with pytest.raises(KitError, match=r"no longer has the line .*changes\.json"):
        toolchain.ensure(progress, SDK, environ=fake_go)
    assert toolchain.current(SDK, fake_go) is None


def test_failed_build_leaves_nothing_half_and_says_where_to_look(
    fake_go: dict[str, str], cache: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GO_FAILS", "pulumi-resource-random")
    with pytest.raises(KitError) as failed:
        toolchain.ensure(progress, SDK, environ=fake_go)
    assert "it does not compile" in failed.value.fix
    assert str(cache / "log/providers.log") in failed.value.fix
    assert toolchain.current(SDK, fake_go) is None
    assert visible(cache) == {"cli", "log", "go"}, "the finished half is kept, of the other nothing shows"
    monkeypatch.delenv("FAKE_GO_FAILS")
    toolchain.ensure(progress, SDK, environ=fake_go)
    assert visible(cache) >= {"bin", "cli", "plugins"}
    assert not [entry for entry in cache.iterdir() if entry.name.startswith(".new-")]


def test_interrupted_command_takes_its_children_along(tmp_path: Path, progress: Progress) -> None:
    pid = tmp_path / "pid"
    command = ["sh", "-c", f"echo started; sleep 60 & echo $! > {pid}; wait"]

    def interrupt(line: str) -> str | None:
        if line == "started":
            for _ in range(100):
                if pid.exists() and pid.read_text().strip():
                    raise KeyboardInterrupt
                time.sleep(0.02)
        return None

    with pytest.raises(KeyboardInterrupt), progress.step("x") as step:
        commands.run_logged(command, log=tmp_path / "log", step=step, note=interrupt)
    child = Path(f"/proc/{pid.read_text().strip()}/stat")
    for _ in range(100):
        if not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the child still runs")


def test_release_that_fails_half_way_is_built_instead(
    fake_go: dict[str, str], serve: Serve, progress: Progress
) -> None:
    url, _ = serve({ARCHIVE: b"not what is pinned", f"pulumi-v{RELEASE}-linux-arm64.tar.gz": b"neither"})
    del fake_go["AIKIT_TOOLCHAIN"]
    built = toolchain.ensure(progress, SDK, environ=fake_go, release_url=url)
    # The CLI is refused for its checksum; the built one cannot fetch plugins either (the fake makes none).
    assert built.origin == "built"


# ------------------------------------------------------------------------------------------------------------- pins


def required(module: str) -> dict[str, str]:
    text = (ROOT / "airgap/toolchain" / module / "go.mod").read_text()
    return dict(re.findall(r"^(?:require )?\s*(\S+) v(\S+)(?: // indirect)?$", text, re.MULTILINE))


def test_versions_named_here_are_the_ones_built() -> None:
    assert required("cli")["github.com/pulumi/pulumi/pkg/v3"] == pins.BUILT_PULUMI
    assert required("compose")["github.com/docker/compose/v2"] == pins.COMPOSE
    assert newer_or_same(pins.BUILT_PULUMI, pins.MINIMUM_PULUMI)
    assert newer_or_same(pins.RELEASE, pins.MINIMUM_PULUMI)
    assert all(re.fullmatch(r"[0-9a-f]{64}", pin) for pin in pins.RELEASE_SHA256.values())


def test_every_module_is_pinned_by_checksum() -> None:
    for module in ("cli", "providers", "compose"):
        directory = ROOT / "airgap/toolchain" / module
        replaced = dict(
            re.findall(r"^\s*(?:replace )?(\S+) => (.+)$", (directory / "go.mod").read_text(), re.MULTILINE)
        )
        sums = (directory / "go.sum").read_text()
        for name, version in required(module).items():
            wanted = replaced.get(name, f"{name} v{version}")
            assert wanted.startswith("./shim/") or wanted in sums, f"{module}: {wanted}"


CAPABILITIES = cast(
    dict[str, dict[str, list[str]]], json.loads((ROOT / "airgap/toolchain/capabilities.json").read_text())
)


USED = {
    "docker:index/container:Container",
    "docker:index/network:Network",
    "docker:index/remoteImage:RemoteImage",
    "docker:index/volume:Volume",
    "keycloak:index/group:Group",
    "keycloak:index/realm:Realm",
    "keycloak:index/realmEvents:RealmEvents",
    "keycloak:index/requiredAction:RequiredAction",
    "keycloak:index/role:Role",
    "keycloak:index/user:User",
    "keycloak:index/userRoles:UserRoles",
    "keycloak:openid/audienceProtocolMapper:AudienceProtocolMapper",
    "keycloak:openid/client:Client",
    "keycloak:openid/clientServiceAccountRole:ClientServiceAccountRole",
    "keycloak:openid/groupMembershipProtocolMapper:GroupMembershipProtocolMapper",
    "keycloak:openid/userClientRoleProtocolMapper:UserClientRoleProtocolMapper",
    "keycloak:openid/userRealmRoleProtocolMapper:UserRealmRoleProtocolMapper",
    "random:index/randomBytes:RandomBytes",
    "random:index/randomId:RandomId",
    "random:index/randomPassword:RandomPassword",
    "random:index/randomString:RandomString",
    "random:index/randomUuid:RandomUuid",
    "tls:index/certRequest:CertRequest",
    "tls:index/locallySignedCert:LocallySignedCert",
    "tls:index/privateKey:PrivateKey",
    "tls:index/selfSignedCert:SelfSignedCert",
}


@pytest.mark.parametrize("token", sorted(USED))
def test_tokens_are_those_of_the_python_sdk(token: str) -> None:
    plugin, place, name = token.split(":")
    module = place.partition("/")[0]
    package = importlib.import_module(f"pulumi_{plugin}" + ("" if module == "index" else f".{module}"))
    assert getattr(package, name).pulumi_type == token
    assert token in CAPABILITIES[plugin]


def test_capabilities_know_what_is_too_new_for_the_plugin() -> None:
    realm = CAPABILITIES["keycloak"]["keycloak:index/realm:Realm"]
    assert "terraformDeletionProtection" not in realm
    assert "sslRequired" in realm
    assert "securityDefenses.bruteForceDetection.maxLoginFailures" in realm
    container = CAPABILITIES["docker"]["docker:index/container:Container"]
    assert {"command", "networksAdvanced", "healthcheck.startPeriod", "ports.external"} <= set(container)


def test_environment_is_added_to_the_callers() -> None:
    tools = Toolchain(Path("/x/pulumi"), NEW, "airgap", "built", {"PATH": "/x"})
    assert tools.environment({"PATH": "/bin", "HOME": "/h"}) == {"PATH": "/x", "HOME": "/h"}


# ------------------------------------------------------------------------------------------------- the language host


@pytest.fixture
def language_host() -> Iterator[tuple[subprocess.Popen[str], language_pb2_grpc.LanguageRuntimeStub]]:
    """The host as the engine starts it, and a connection to it. No engine: it runs no program here."""
    host = subprocess.Popen(
        [str(ROOT / "airgap/toolchain/pulumi-language-python"), "127.0.0.1:1"],
        env={**os.environ, "AIKIT_PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert host.stdout is not None
    port = int(host.stdout.readline())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield host, language_pb2_grpc.LanguageRuntimeStub(channel)
    host.kill()
    host.communicate()


def test_language_host(
    language_host: tuple[subprocess.Popen[str], language_pb2_grpc.LanguageRuntimeStub], tmp_path: Path
) -> None:
    host, stub = language_host
    packages = stub.GetRequiredPackages(language_pb2.GetRequiredPackagesRequest()).packages
    assert {package.name: package.version for package in packages}.items() >= {
        name: f"v{version}" for name, version in toolchain.sdk_versions().items()
    }.items()
    missing = stub.Run(
        language_pb2.RunRequest(info=language_pb2.ProgramInfo(program_directory=str(tmp_path), entry_point="."))
    )
    assert missing.error == f"no program at {tmp_path / '__main__.py'}"
    with pytest.raises(grpc.RpcError):
        stub.Pack(language_pb2.PackRequest())
    host.terminate()
    _, said = host.communicate(timeout=10)
    assert (host.returncode, said) == (0, ""), "nothing of it may reach the user's diagnostics"
