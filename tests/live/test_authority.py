"""The stack's CA is made anew on the real engine, under load, killed on the way, and the old one is refused at the end.

A small stack of its own: the front door, a page behind it, and a service that asks the front door from inside with the
bundle that it was delivered. Clients outside ask about 20 times a second, each time with a new connection: one trusts
nothing but the old CA, another nothing but the new one. Figures are kept in artifacts/authority/.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ops.authority import LAST_LINE
from tests.live import clients
from tests.live.kitclone import ROOT, Clone, engine_of, free_ports
from tests.live.trial import docker

pytestmark = pytest.mark.live

STACK = "authority"
PREFIX = f"kit-{STACK}-"
HOST = "door.kit.localhost"
ARTIFACTS = ROOT / "artifacts" / "authority"
PORTS = free_ports(3)
BIG = 24 * 2**20

PAGE = '''
"""A page behind the front door, for the test of the CA."""

from stack import images
from stack.model import (
    Access, ContainerSpec, HealthCheck, Http, Port, ResourceLimits, Route, ServiceSpec, Target, Zone,
)

SERVICE = ServiceSpec(
    name="page",
    summary="A page",
    containers=(
        ContainerSpec(
            image=images.TOOLS,
            user="999:999",
            zones=frozenset({Zone.APP}),
            ports=(Port("http", 8080),),
            entrypoint=("sh", "-c"),
            command=(
                "trap 'exit 0' TERM; mkdir /tmp/www; echo fine >/tmp/www/index.html;"
                " dd if=/dev/zero of=/tmp/www/big bs=1M count=24 2>/dev/null; httpd -f -p 8080 -h /tmp/www & wait",
            ),
            tmpfs={"/tmp": 48},
            health=HealthCheck(test=Http("http", "/"), interval_s=1),
            limits={t: ResourceLimits(memory_mb=96, cpus=0.5) for t in Target},
            stop_grace_s=2,
            wait_s=60,
        ),
    ),
    routes=(Route(name="door", port="http", access=Access.PUBLIC),),
)
'''
CALLER = '''
"""Asks the front door from inside with the bundle it was started with, for the test of the CA."""

from stack import images
from stack.model import (
    Command, ContainerSpec, File, HealthCheck, ResourceLimits, RouteUrl, ServiceSpec, Static, Target, Zone,
)

SERVICE = ServiceSpec(
    name="caller",
    summary="Asks the front door",
    containers=(
        ContainerSpec(
            image=images.POSTGRES,
            user="999:999",
            zones=frozenset({Zone.APP}),
            trust_ca=True,
            entrypoint=("/bin/bash", "/run/kit/caller.sh"),
            env={"DOOR": RouteUrl("page", "door")},
            files=(File(name="caller.sh", source=Static("caller.sh")),),
            tmpfs={"/tmp": 8},
            health=HealthCheck(test=Command(("bash", "-c", "[ -e /tmp/works ]")), interval_s=1),
            limits={t: ResourceLimits(memory_mb=64, cpus=0.5) for t in Target},
            stop_grace_s=2,
            wait_s=60,
        ),
    ),
    needs=("haproxy", "page"),
)
'''
CALLER_SCRIPT = """\
#!/bin/bash
trap 'exit 0' TERM
host=${DOOR#https://}
while :; do
    if said=$(openssl s_client -connect "$host" -servername "${host%%:*}" -verify_hostname "${host%%:*}" \\
            -verify_return_error -CAfile "$SSL_CERT_FILE" -brief </dev/null 2>&1); then
        touch /tmp/works
        echo OK
    else
        rm -f /tmp/works
        echo "FAILED ${said//$'\\n'/ }"
    fi
    sleep 0.3 & wait $!
done
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    home = tmp_path_factory.mktemp("authority")
    made = Clone(directory=home / "clone", state_home=home / "state", log=ARTIFACTS)
    services = made.directory / "stack" / "services"
    (services / "page.py").write_text(PAGE, encoding="utf-8")
    (services / "caller.py").write_text(CALLER, encoding="utf-8")
    (services / "files" / "caller").mkdir()
    (services / "files" / "caller" / "caller.sh").write_text(CALLER_SCRIPT, encoding="utf-8")
    write(made)
    try:
        yield made
    finally:
        if not engine_of(STACK).empty:
            made.kit("down", STACK, "--data", "--yes-delete", STACK)


def write(clone: Clone, *rotation: str) -> None:
    """The stack's file, with these generations."""
    http, https, admin = PORTS
    more: dict[str, Any] = {"rotation": list(rotation)} if rotation else {}
    ports = {"httpPort": http, "httpsPort": https, "adminPort": admin}
    proxies = list(clients.PROXIES)
    services = ["page", "caller"]
    clone.write_stack(STACK, profiles=[], services=services, images="airgap", trustedProxies=proxies, **ports, **more)


@pytest.fixture(scope="module")
def up(clone: Clone) -> Clone:
    made = clone.kit("up", STACK, "--no-prove", timeout=2400)
    assert made.code == 0, made.text
    return clone


@cache
def trusting(pem: str) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=pem)


def door(trusted: str) -> ssl.SSLSocket:
    """A new connection of somebody who trusts this PEM and nothing else."""
    plain = socket.create_connection(("127.0.0.1", PORTS[1]), timeout=10)
    try:
        return trusting(trusted).wrap_socket(plain, server_hostname=HOST)
    except OSError:
        plain.close()
        raise


def ask(trusted: str, path: str = "/", *, slow: float = 0) -> int:
    """The length of an answer, read slowly where that is said. ValueError for another than 200."""
    with door(trusted) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{clients.line()}Connection: close\r\n\r\n".encode())
        length, head = 0, b""
        while piece := connection.recv(65536):
            head = head or piece
            length += len(piece)
            time.sleep(slow)
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(head[:60].decode(errors="replace"))
    return length - (head.index(b"\r\n\r\n") + 4)


class Load:
    """Four people who trust one CA. Each asks five times a second, however long the others wait for an answer."""

    def __init__(self, trusted: str) -> None:
        self.trusted, self.answers, self.failures, self._end = trusted, list[float](), list[str](), threading.Event()
        self._people = [threading.Thread(target=self._ask, args=(0.05 * number,), daemon=True) for number in range(4)]

    def _ask(self, later: float) -> None:
        due = time.monotonic() + later
        while not self._end.wait(max(0, due - time.monotonic())):
            began = time.monotonic()
            due = max(due + 0.2, began)
            try:
                ask(self.trusted)
                self.answers.append(time.monotonic() - began)
            except (OSError, ValueError) as error:
                self.failures.append(f"{time.strftime('%H:%M:%S')} {type(error).__name__} {error}")

    def start(self) -> None:
        for person in self._people:
            person.start()

    def end(self) -> None:
        self._end.set()
        for person in self._people:
            person.join(30)

    @property
    def answered(self) -> int:
        return len(self.answers)


@contextmanager
def no_failure(what: str, **trusted: str) -> Iterator[None]:
    """While this runs nobody who trusts one of these is refused anything."""
    loads = {name: Load(pem) for name, pem in trusted.items()}
    began = time.monotonic()
    for load in loads.values():
        load.start()
    try:
        yield
        time.sleep(1)
    finally:
        for load in loads.values():
            load.end()
        seconds = time.monotonic() - began
        for name, load in loads.items():
            figure(
                f"{what}: trusts the {name} CA: {load.answered} requests in {seconds:.0f} s "
                f"({load.answered / seconds:.0f}/s, the slowest {max(load.answers, default=0):.1f} s), "
                f"{len(load.failures)} failed"
            )
    for name, load in loads.items():
        assert not load.failures, (what, name, load.failures[:5])
        assert load.answered > 20, f"{what}: {name} hardly asked"


def figure(text: str) -> None:
    print(text)
    with (ARTIFACTS / "figures.txt").open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def owners(clone: Clone) -> str:
    """The file that the owner is told to import."""
    return (clone.state_home / "ai-kit" / "stacks" / STACK / "ca.pem").read_text(encoding="utf-8")


def bundle() -> list[str]:
    """The certificates that the service inside has been delivered."""
    text = docker("exec", f"{PREFIX}caller", "cat", "/run/kit/ca.pem")
    return [f"{part}{LAST_LINE}".strip() for part in text.split(LAST_LINE) if part.strip()]


def said_inside() -> tuple[int, list[str]]:
    lines = docker("logs", f"{PREFIX}caller", check=False).splitlines()
    return lines.count("OK"), [line for line in lines if line.startswith("FAILED")]


def served() -> list[str]:
    """The chain that the front door hands out: subject and issuer of each."""
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{PORTS[1]}", "-servername", HOST, "-showcerts"],
        input="", capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    return [line.strip() for line in shown.splitlines() if line.strip().startswith(("0 s:", "1 s:", "2 s:", "i:"))]


def in_state(clone: Clone) -> set[str]:
    """The private keys in the state."""
    backend = clone.state_home / "ai-kit" / "backend" / ".pulumi" / "stacks" / "ai-kit" / f"{STACK}.json"
    resources = json.loads(backend.read_text(encoding="utf-8"))["checkpoint"]["latest"]["resources"]
    return {each["urn"].rsplit("::", 1)[-1] for each in resources if each["type"].endswith(":PrivateKey")}


def quiet(clone: Clone) -> None:
    again = clone.kit("up", STACK, "--no-prove")
    assert again.code == 0 and "nothing to change" in again.text, again.text


@pytest.fixture(scope="module")
def first(up: Clone) -> str:
    """The CA that everybody trusts at first."""
    return owners(up)


def test_the_certificate_is_made_anew_and_no_connection_is_dropped(up: Clone, first: str) -> None:
    haproxy = docker("inspect", "-f", "{{.Id}}", f"{PREFIX}haproxy")
    with door(first) as before:
        leaf = before.getpeercert(binary_form=True)
    lengths: list[int] = []
    download = threading.Thread(target=lambda: lengths.append(ask(first, "/big", slow=0.03)))
    with no_failure("leaf", old=first):
        download.start()
        began = time.monotonic()
        rotated = up.kit("rotate", "tls/leaf", STACK, "--no-prove")
        figure(f"leaf: ./kit rotate took {time.monotonic() - began:.1f} s, download still on: {download.is_alive()}")
        assert rotated.code == 0, rotated.text
    download.join(120)
    assert lengths == [BIG]
    with door(first) as after:
        assert after.getpeercert(binary_form=True) != leaf
    assert docker("inspect", "-f", "{{.Id}}", f"{PREFIX}haproxy") == haproxy
    assert in_state(up) == {"ca-key", "leaf-g2-key"}
    quiet(up)


def test_a_new_ca_shuts_nobody_out_and_is_resumed_wherever_it_is_cut(up: Clone, first: str) -> None:
    write(up, "tls/leaf=2", "tls/ca=2")
    with no_failure("new CA, killed twice", old=first):
        for step, moment in (("haproxy-files", "die"), ("caller-files", "create")):
            assert up.kill_when(STACK, PREFIX + step, moment), f"{step} was not {moment}d"
            ask(first)
        resumed = up.kit("up", STACK, "--no-prove")
        assert resumed.code == 0, resumed.text
    assert "./kit rotate tls/oldest-ca" in resumed.text and "Import " in resumed.text
    second = owners(up)
    assert second != first and second.count(LAST_LINE) == 1
    assert bundle() == [second.strip(), first.strip()]
    chain = served()
    figure(f"overlap: the front door hands out {chain}")
    assert in_state(up) == {"ca-key", "ca-g2-key", "leaf-g2-key"}
    assert "./kit rotate tls/oldest-ca" in up.kit("status", STACK).text
    third = up.kit("rotate", "tls/ca", STACK)
    assert third.code == 2 and "still trusted beside" in third.text, third.text
    quiet(up)


def test_both_are_taken_while_the_certificate_is_made_anew(up: Clone, first: str) -> None:
    second = owners(up)
    with no_failure("leaf in the overlap", old=first, new=second):
        assert up.kit("rotate", "tls/leaf", STACK, "--no-prove").code == 0
    count, failed = said_inside()
    assert count and not failed, failed[:3]


def test_at_the_end_the_old_one_is_refused(up: Clone, first: str, tmp_path: Path) -> None:
    second = owners(up)
    ask(first)
    write(up, "tls/leaf=3", "tls/ca=2", "tls/oldest-ca=2")
    with no_failure("end of the old CA, killed once", new=second):
        assert up.kill_when(STACK, f"{PREFIX}caller", "die"), "the caller was not replaced"
        resumed = up.kit("up", STACK, "--no-prove")
        assert resumed.code == 0, resumed.text
    assert "./kit rotate tls/oldest-ca" not in resumed.text
    assert bundle() == [second.strip()] and in_state(up) == {"ca-g2-key", "leaf-g3-key"}
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(first)
    (tmp_path / "old.pem").write_text(first, encoding="utf-8")
    (tmp_path / "bundle.pem").write_text("\n".join(bundle()), encoding="utf-8")
    verify = ["openssl", "verify", "-CAfile", str(tmp_path / "bundle.pem"), str(tmp_path / "old.pem")]
    refused = subprocess.run(verify, capture_output=True, text=True, check=False)
    figure(f"the old CA, asked of the delivered bundle: exit {refused.returncode}, {refused.stderr.strip()[:120]}")
    assert refused.returncode != 0
    count, failed = said_inside()
    assert count and not failed, failed[:3]
    ended = up.kit("rotate", "tls/oldest-ca", STACK)
    assert ended.code == 2 and "the only one" in ended.text, ended.text
    quiet(up)


def test_who_trusts_the_ca_is_not_shut_out_at_once(up: Clone) -> None:
    write(up, "tls/leaf=3", "tls/ca=3", "tls/oldest-ca=3")
    said = up.kit("up", STACK, "--no-prove")
    assert said.code == 2 and "the CA that everybody trusts now is 2" in said.text, said.text
    assert in_state(up) == {"ca-g2-key", "leaf-g3-key"}
