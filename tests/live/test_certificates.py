"""The front door's certificate from a real ACME server (Pebble) and from files, under load, on the real engine.

A small stack of its own: the front door, a page behind it, and Pebble beside them, which asks HTTP-01 at the front door
and DNS-01 at its own DNS server. A small program of the test stands between lego's DNS API and that server;
everything else is real. Clients outside ask all the time, each with a new connection. Figures: artifacts/certificates/.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import yaml

from ops.session import Session
from stack import x509
from stack.proofs.presented import presented
from tests.authority import Authority
from tests.live import clients
from tests.live.kitclone import ROOT, Clone, engine_of, free_ports
from tests.live.trial import docker

pytestmark = pytest.mark.live

STACK = "certificates"
PREFIX = f"kit-{STACK}-"
CLIENT = f"{PREFIX}lego"
DOMAIN = "home.example.org"
HOST = f"door.{DOMAIN}"
ARTIFACTS = ROOT / "artifacts" / "certificates"
PORTS = free_ports(3)
PASSWORD = "s'e\"c$r;e\\t-ü"

PAGE = '''
"""A page behind the front door, for the test of certificates."""

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
            command=("trap 'exit 0' TERM; mkdir /tmp/w; echo ok >/tmp/w/index.html; httpd -f -p 8080 -h /tmp/w& wait",),
            tmpfs={"/tmp": 1},
            health=HealthCheck(test=Http("http", "/"), interval_s=1),
            limits={t: ResourceLimits(memory_mb=16, cpus=0.5) for t in Target},
            stop_grace_s=2,
            wait_s=60,
        ),
    ),
    routes=(Route(name="door", port="http", access=Access.PUBLIC),),
)
'''
PEBBLE = '''
"""Pebble twice, once with the DNS server of the test, for the test of certificates."""

from stack.model import (
    Arch, Command, ContainerSpec, File, HealthCheck, ImagePin, Port, ResourceLimits, ServiceSpec, Static, Target, Zone,
)

IMAGE = ImagePin(
    name="pebble", repository="ghcr.io/letsencrypt/pebble", tag="2.10.1", arches=frozenset(Arch),
    programs=frozenset({"nc", "sh"}), size_mb=30,
)
LIMITS = {t: ResourceLimits(memory_mb=64, cpus=1) for t in Target}
FILES = tuple(File(name=name, source=Static(name)) for name in ("pebble.json", "server.pem", "server.key"))


def pebble(name, *more):
    return ContainerSpec(
        name=name, image=IMAGE, user="65532:65532", zones=frozenset({Zone.APP}), files=FILES,
        ports=(Port(f"acme-{name}", 14000),),
        entrypoint=("pebble",), command=("-config", "/run/kit/pebble.json", *more),
        env={"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20"},
        health=HealthCheck(test=Command(("sh", "-c", "nc 127.0.0.1 14000 </dev/null")), interval_s=1),
        limits=LIMITS, stop_grace_s=2, wait_s=60,
    )


SERVICE = ServiceSpec(
    name="acmeserver",
    summary="An ACME server",
    containers=(
        pebble("main"),
        pebble("dns01", "-dnsserver", "acmeserver-dns:8053"),
        ContainerSpec(
            name="dns", image=IMAGE, user="65532:65532", zones=frozenset({Zone.APP}),
            ports=(Port("api", 8080),),
            files=(
                File(name="httpd.conf", source=Static("httpd.conf")),
                File(name="www/cgi-bin/present", source=Static("present"), mode="0500"),
                File(name="www/cgi-bin/cleanup", source=Static("cleanup"), mode="0500"),
            ),
            entrypoint=("sh", "-c"),
            command=(
                "trap 'exit 0' TERM; pebble-challtestsrv -http01 '' -https01 '' -doh '' -tlsalpn01 '' & "
                "httpd -f -p 8080 -c /run/kit/httpd.conf -h /run/kit/www & wait",
            ),
            health=HealthCheck(test=Command(("sh", "-c", "nc 127.0.0.1 8080 </dev/null")), interval_s=1),
            limits=LIMITS, stop_grace_s=2, wait_s=60,
        ),
    ),
)
'''
# The test's own: from the body that lego's provider httpreq sends to the one that Pebble's DNS server takes.
DNS_CALL = """#!/bin/sh
body=$(head -c "${CONTENT_LENGTH:-0}")
fqdn=$(echo "$body" | sed 's/.*"fqdn":"\\([^"]*\\)".*/\\1/')
value=$(echo "$body" | sed 's/.*"value":"\\([^"]*\\)".*/\\1/')
wget -q -O /dev/null --post-data "{\\"host\\":\\"$fqdn\\",\\"value\\":\\"$value\\"}" http://127.0.0.1:8055/CALL &&
    printf 'Status: 200 OK\\r\\n\\r\\n'
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs Pebble's own certificate, and those that are brought as files."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Clone]:
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    home = tmp_path_factory.mktemp("certificates")
    made = Clone(directory=home / "clone", state_home=home / "state", log=ARTIFACTS)
    services = made.directory / "stack" / "services"
    (services / "page.py").write_text(PAGE, encoding="utf-8")
    (services / "acmeserver.py").write_text(PEBBLE, encoding="utf-8")
    files = services / "files" / "acmeserver"
    files.mkdir()
    authority.leaf("pebble", "acmeserver", "acmeserver-dns01")
    config = {
        "listenAddress": "0.0.0.0:14000", "managementListenAddress": "0.0.0.0:15000",
        "httpPort": 10080, "tlsPort": 5001,
        "certificate": "/run/kit/server.pem", "privateKey": "/run/kit/server.key", "keyAlgorithm": "ecdsa",
        "retryAfter": {"authz": 1, "order": 1},
        "profiles": {"default": {"description": "as usual", "validityPeriod": 7776000}},
    }  # fmt: skip
    (files / "pebble.json").write_text(json.dumps({"pebble": config}))
    (files / "server.pem").write_text(authority.text("pebble.pem", "middle.pem"))
    (files / "server.key").write_text(authority.text("pebble.key"))
    (files / "httpd.conf").write_text(f"/:kit:{PASSWORD}\n", encoding="utf-8")
    (files / "present").write_text(DNS_CALL.replace("CALL", "set-txt"))
    (files / "cleanup").write_text(DNS_CALL.replace("CALL", "clear-txt"))
    write(made)
    try:
        yield made
    finally:
        if not engine_of(STACK).empty:
            made.kit("down", STACK, "--data", "--yes-delete", STACK)


def write(clone: Clone, **more: Any) -> None:
    """The stack's file; what is encrypted in it stays."""
    file = clone.directory / f"Pulumi.{STACK}.yaml"
    before: dict[str, Any] = yaml.safe_load(file.read_text()) if file.exists() else {}
    http, https, admin = PORTS
    ports = {"httpPort": http, "httpsPort": https, "adminPort": admin}
    clone.write_stack(
        STACK,
        domain=DOMAIN,
        profiles=[],
        services=["page", "acmeserver"],
        images="airgap",
        trustedProxies=list(clients.PROXIES),
        **ports,
        **more,
    )
    after: dict[str, Any] = yaml.safe_load(file.read_text())
    kept = {key: value for key, value in before.get("config", {}).items() if isinstance(value, dict)}
    if kept:
        after["config"] |= kept
        after |= {key: value for key, value in before.items() if key.startswith("encryption")}
        file.write_text(yaml.safe_dump(after))
        clone.commit()


def credentials(clone: Clone, password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the secret as an operator does, with plain Pulumi."""
    text = (
        "# for the test\nHTTPREQ_ENDPOINT=http://acmeserver-dns:8080/cgi-bin\n"
        f"HTTPREQ_USERNAME=kit\nHTTPREQ_PASSWORD={password}\n"
    )
    monkeypatch.setenv("XDG_STATE_HOME", str(clone.state_home))
    pulumi = Session(STACK, clone.directory).ready_pulumi()
    subprocess.run(
        [pulumi.program, "config", "set", "--secret", "acmeDnsCredentials", "-s", STACK, "--non-interactive"],
        cwd=clone.directory, env=dict(pulumi.environment), input=text, text=True, check=True, capture_output=True,
    )  # fmt: skip


def up(clone: Clone) -> None:
    made = clone.kit("up", STACK, "--no-prove", timeout=1800)
    assert made.code == 0, made.text


@pytest.fixture(scope="module")
def standing(clone: Clone) -> Clone:
    up(clone)
    return clone


# ------------------------------------------------------------------------------------------------------- looking


def figure(text: str) -> None:
    print(text)
    with (ARTIFACTS / "figures.txt").open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def shown() -> x509.Certificate:
    return presented("127.0.0.1", PORTS[1], HOST)


def inside(service: str) -> str:
    """The address of a container in the stack's application network, which this machine is in as well."""
    networks = json.loads(docker("inspect", f"{PREFIX}{service}"))[0]["NetworkSettings"]["Networks"]
    return networks[f"{PREFIX}app"]["IPAddress"]


def get(url: str) -> str:
    """What is answered there, whoever it is: these are inside the stack, where this machine is as well."""
    return httpx.get(url, verify=False, trust_env=False, timeout=10).raise_for_status().text  # noqa: S501


def pebble_roots() -> str:
    """Pebble makes its root when it starts."""
    return "".join(get(f"https://{inside(name)}:15000/roots/0") for name in ("acmeserver", "acmeserver-dns01"))


def until(holds: Callable[[], bool], seconds: float, what: str) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds} s\n{client_log()}"
        time.sleep(0.3)
    return time.monotonic() - began


def client_log() -> str:
    return docker("logs", CLIENT, check=False)


def ask(trusted: ssl.SSLContext) -> str:
    with (
        socket.create_connection(("127.0.0.1", PORTS[1]), timeout=10) as plain,
        trusted.wrap_socket(plain, server_hostname=HOST) as connection,
    ):
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n{clients.line()}Connection: close\r\n\r\n".encode())
        text = b""
        while piece := connection.recv(65536):
            text += piece
    return text.decode()


@contextmanager
def no_failure(what: str, pem: str) -> Iterator[None]:
    """While this runs nobody outside who trusts these authorities is refused anything."""
    context, answers, failures, end = (
        ssl.create_default_context(cadata=pem),
        list[float](),
        list[str](),
        threading.Event(),
    )

    def person() -> None:
        while not end.wait(0.1):
            began = time.monotonic()
            try:
                assert "200 OK" in ask(context)
                answers.append(time.monotonic() - began)
            except (OSError, AssertionError) as error:
                failures.append(f"{type(error).__name__} {error}")

    people = [threading.Thread(target=person, daemon=True) for _ in range(4)]
    for each in people:
        each.start()
    try:
        yield
        time.sleep(1)
    finally:
        end.set()
        for each in people:
            each.join(30)
        figure(f"{what}: {len(answers)} requests, the slowest {max(answers, default=0):.1f} s, {len(failures)} failed")
    assert not failures, failures[:5]
    assert len(answers) > 10


# ---------------------------------------------------------------------------------------------------- the way


def test_http_01_through_the_front_door(standing: Clone, authority: Authority) -> None:
    own = shown()
    assert own.issuer_title == f"ai-kit {STACK} CA"
    roots = authority.write("roots.pem", authority.text("root.pem") + pebble_roots(), 0o644)
    write(standing, certificates="acme", acmeDirectory="https://acmeserver:14000/dir", certificateRoots=str(roots))
    up(standing)
    took = until(lambda: "Pebble" in shown().issuer_title, 90, "a certificate by HTTP-01")
    figure(f"HTTP-01: shown {took:.1f} s after up")
    found = shown()
    assert found.names == (HOST,) and found.days_left(datetime.now(UTC)) > 80
    assert "200 OK" in ask(ssl.create_default_context(cadata=roots.read_text()))  # with the whole chain
    # Who is inside goes on with the stack's own CA.
    assert presented(inside("haproxy"), PORTS[1], HOST).issuer_title == own.issuer_title
    status = standing.kit("status", STACK)
    assert re.search(r"certificate 8\d|certificate 90", status.text) and "signed by Pebble" in status.text, status.text
    text = get(f"https://{inside('haproxy')}:10407/metrics")
    seconds = float(text.strip().splitlines()[-1].rsplit(" ", 1)[1])
    assert abs(seconds - found.not_after.timestamp()) < 1 and 'issuer="Pebble' in text, text
    asked = f"http://127.0.0.1:{PORTS[0]}/.well-known/acme-challenge/x"
    answer = httpx.get(asked, headers={"Host": HOST}, trust_env=False)
    assert answer.status_code == 503, "nothing is asked now, and it is no way to TLS"
    again = standing.kit("up", STACK, "--no-prove")
    assert again.code == 0 and "nothing to change" in again.text, again.text


def test_one_that_is_revoked_is_renewed_and_no_connection_is_dropped(standing: Clone) -> None:
    before, roots = shown().der, pebble_roots()
    front = docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", f"{PREFIX}haproxy")
    folder = docker("exec", CLIENT, "sh", "-c", "ls -d /data/acmeserver*").strip()
    docker(
        *("exec", "-e", "LEGO_CA_CERTIFICATES=/tmp/roots.pem", CLIENT, "/lego", "--accept-tos", "--path", folder),
        *("--server", "https://acmeserver:14000/dir", "--domains", HOST, "revoke", "--keep"),
    )
    with no_failure("renewal", roots):
        docker("restart", CLIENT)  # it looks when it starts, and every hour; Pebble says that it is due (RFC 9773)
        took = until(lambda: shown().der != before, 60, "another certificate")
    figure(f"renewal of a revoked one: shown {took:.1f} s after the client looked")
    assert docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", f"{PREFIX}haproxy") == front
    mode = docker("exec", CLIENT, "stat", "-c", "%a %u:%g", "/data/live.pem", folder).split()
    assert mode == ["640", "8402:99", "700", "8402:99"]


def test_dns_01_fails_waits_and_then_works(
    standing: Clone, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shown().der
    said: dict[str, Any] = {
        "certificates": "acme", "acmeDirectory": "https://acmeserver-dns01:14000/dir", "acmeChallenge": "dns-01",
        "acmeDns": "httpreq", "acmeDnsWait": 1, "certificateRoots": str(authority.folder / "roots.pem"),
    }  # fmt: skip
    write(standing, **said)
    refused = standing.kit("up", STACK, "--no-prove")
    assert refused.code != 0 and "acmeDnsCredentials" in refused.text
    credentials(standing, "wrong", monkeypatch)
    up(standing)
    until(lambda: "failed, the lines above say why" in client_log(), 120, "a refused order")
    assert shown().der == before, "what was signed goes on"
    # Whoever starts again does not ask again: failures are counted by the authority.
    tried = client_log().count("Obtaining bundled SAN certificate")
    docker("restart", CLIENT)
    until(lambda: "not tried before" in client_log(), 30, "a wait")
    assert client_log().count("Obtaining bundled SAN certificate") == tried == 1
    credentials(standing, PASSWORD, monkeypatch)
    up(standing)
    # Killed in the middle of an order it has lost nothing, and what is shown is whole.
    until(lambda: "Obtaining bundled SAN certificate" in client_log(), 60, "an order")
    docker("kill", CLIENT)
    assert shown().der == before or "Pebble" in shown().issuer_title
    docker("start", CLIENT)
    if shown().der == before:
        until(lambda: "not tried before" in client_log(), 30, "a wait")
        docker("exec", CLIENT, "rm", "-f", "/data/failures")  # five minutes later
        docker("restart", CLIENT)
    until(lambda: shown().der != before, 120, "a certificate by DNS-01")
    assert shown().names == (f"*.{DOMAIN}", DOMAIN)
    seen = docker("inspect", CLIENT) + docker("exec", CLIENT, "sh", "-c", "cat /proc/*/environ; cat /proc/*/cmdline")
    for secret in (PASSWORD, "s'e\"c", json.dumps(PASSWORD)[1:-1]):
        assert secret not in seen + client_log(), "the credentials are in sight"
    assert "HTTPREQ_PASSWORD_FILE" in seen


def test_files_are_taken_over_and_renewed_without_a_restart(standing: Clone, authority: Authority) -> None:
    root = authority.text("root.pem")
    chain, key, roots = (authority.folder / name for name in ("mine.pem", "mine.key", "root.pem"))
    said = {
        "certificateChain": str(chain),
        "certificateKey": str(key),
        "certificateRoots": str(roots),
    }

    def renew() -> x509.Certificate:
        made = authority.leaf("mine", f"*.{DOMAIN}")
        chain.write_text(authority.text("mine.pem", "middle.pem"))
        return made

    first = renew()
    write(standing, certificates="files", **said)
    key.chmod(0o644)
    refused = standing.kit("up", STACK, "--no-prove")
    assert refused.code != 0 and "can be read by everybody" in refused.text and "Nothing was changed" in refused.text
    key.chmod(0o600)
    up(standing)
    assert shown().der == first.der
    front = docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", f"{PREFIX}haproxy")
    due = standing.kit("rotate", "--due", STACK, "--no-prove")
    assert due.code == 0 and "nothing is due" in due.text, due.text
    with no_failure("renewed files", root):
        second = renew()
        due = standing.kit("rotate", "--due", STACK, "--no-prove")
        assert due.code == 0 and "is taken over" in due.text, due.text
        until(lambda: shown().der == second.der, 20, "the renewed file")
    assert docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", f"{PREFIX}haproxy") == front
    state = (standing.state_home / "ai-kit").rglob("*")
    line = key.read_text().splitlines()[1]
    assert not [file for file in state if file.is_file() and line.encode() in file.read_bytes()], "the key lies open"
