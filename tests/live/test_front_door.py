"""The front door on the real HAProxy, before small backends: reloads under load, rates, limits, bad requests, headers.

What it does not prove: how services behave behind it, and that Pulumi carries out a reload.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.load import Load
from stack.derive.ingress import FIGURES_PORT
from stack.derive.runtime import JobPlan
from stack.model import RateClass
from tests.live import clients, doors, h2, trial
from tests.live.browser import chromium
from tests.live.kitclone import free_ports
from tests.live.standing import Standing
from tests.live.trial import docker

pytestmark = pytest.mark.live

DOMAIN = "kit.localhost"
# What a program of another address behind a trusted proxy says. Requests of a test have one of their own, so that no
# test is refused for what another one asked.
FORWARDED = "X-Forwarded-For"


class Door:
    """The front door, and who asks it."""

    def __init__(self, live: Standing) -> None:
        self.live = live
        self.container = live.name("haproxy")
        self.port = live.plan.settings.https_port
        self.context = ssl.create_default_context(cadata=live.outputs.ca_pem)

    def ask(self, route: str, path: str = "/", method: str = "GET", client: str = "", **more: Any) -> httpx.Response:
        headers = {"Host": f"{route}.{DOMAIN}:{self.port}", **more.pop("headers", {})}
        if client:
            headers[FORWARDED] = client
        with httpx.Client(verify=self.context, trust_env=False, timeout=100) as visitor:
            extensions = {"sni_hostname": f"{route}.{DOMAIN}"}
            url = f"https://127.0.0.1:{self.port}{path}"
            return visitor.request(method, url, headers=headers, extensions=extensions, **more)

    def open(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return self.context.wrap_socket(plain, server_hostname=f"one.{DOMAIN}")

    def two(self) -> h2.Connection:
        """A connection that speaks HTTP/2."""
        context = ssl.create_default_context(cadata=self.live.outputs.ca_pem)
        context.set_alpn_protocols(["h2"])
        return h2.Connection(self.port, f"one.{DOMAIN}", context)

    def raw(self, *parts: bytes, every: float = 0) -> bytes:
        """What comes back until the front door closes, when these bytes are sent as they are."""
        said = b""
        with self.open() as sock:
            try:
                for part in parts:
                    sock.sendall(part)
                    time.sleep(every)
                while more := sock.recv(65536):
                    said += more
            except (OSError, TimeoutError) as problem:
                said += f"|{type(problem).__name__}".encode()
        return said

    def seen(self, route: str = "one") -> Counter[str]:
        """What the backend was asked, all in all, without what its health checks ask."""
        seen = self.ask(route, "/seen", client="192.0.2.250").json()
        return Counter({what: number for what, number in seen.items() if what not in ("GET /", "GET /seen")})

    def log(self) -> list[dict[str, Any]]:
        """The requests in the log."""
        lines = docker("logs", self.container).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def state(self) -> dict[str, Any]:
        return json.loads(docker("inspect", self.container))[0]["State"]

    def networks(self) -> dict[str, Any]:
        return json.loads(docker("inspect", self.container))[0]["NetworkSettings"]["Networks"]

    @property
    def gateway(self) -> str:
        """The address from which the machine's own requests seem to come."""
        return self.ask("one").json()["headers"]["x-forwarded-for"]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    http, https, admin = free_ports(3)
    backends = (
        doors.backend("one", streaming=True),
        doors.backend("two", body_mb=1),
        doors.backend("api", rate=RateClass.API),
    )
    with doors.doors(
        "frontdoor",
        tmp_path_factory.mktemp("frontdoor"),
        *backends,
        http_port=http,
        https_port=https,
        admin_port=admin,
        trusted_proxies=clients.PROXIES,
        sticky=("two",),
    ) as live:
        live.settle()
        yield Door(live)


@pytest.fixture(scope="module", autouse=True)
def silent(door: Door) -> Iterator[None]:
    """An answer that says nothing for longer than any timeout that is not for streams, while everything else runs."""
    found: list[httpx.Response | Exception] = []

    def wait() -> None:
        try:
            found.append(door.ask("one", "/stream?n=2&every=75", client="192.0.2.9"))
        except httpx.HTTPError as problem:
            found.append(problem)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    yield
    waiting.join(170)
    assert found and isinstance(found[0], httpx.Response), f"the stream was cut: {found}"
    assert found[0].text == "data: 0\n\ndata: 1\n\n", "through a silence of 75 s, and every reload of these tests"


# ---------------------------------------------------------------------------------------------------------- reloading


def test_reloads_under_two_hundred_requests_a_second_drop_none(door: Door) -> None:
    before = door.state()["Pid"]
    load = Load(f"one.{DOMAIN}", door.port, door.live.outputs.ca_pem, rate=200, clients=True)
    said: list[str] = []

    def reloads() -> None:
        for _ in range(3):
            time.sleep(2)
            said.append(door.live.trial.reload(door.container))

    reloading = threading.Thread(target=reloads)
    reloading.start()
    report = asyncio.run(load.run(12))
    reloading.join()
    assert len(said) == 3 and all("has the new files" in one for one in said)
    assert report.asked == 2400 and report.failures == [], report.failures[:10]
    assert door.state()["Pid"] == before and door.state()["Restarting"] is False


def test_a_new_worker_begins_with_what_the_last_one_knew(door: Door) -> None:
    def known(backend: str) -> str:
        """What is kept of a backend's server: 2 for healthy, 0 for down."""
        lines = docker("exec", door.container, "cat", "/run/haproxy/servers").splitlines()
        return next((line.split()[5] for line in lines if f" {backend} " in line), "")

    trial.eventually(lambda: known("one-one") == known("two-two") == "2", 20)
    two = door.live.name("two")
    docker("pause", two)
    try:
        trial.eventually(lambda: known("two-two") == "0", 90)
        door.live.trial.reload(door.container)
        begin = time.monotonic()
        assert door.ask("two", client="192.0.2.2").status_code == 503
        assert time.monotonic() - begin < 3, "it is known to be down, and nobody waits to find out"
        assert door.ask("one", client="192.0.2.2").status_code == 200
    finally:
        docker("unpause", two)
    trial.eventually(lambda: door.ask("two", client="192.0.2.2").status_code == 200, 60)


def broken(door: Door) -> JobPlan:
    """The check as it runs before a delivery, with a configuration that is none."""
    (check,) = (job for job in door.live.trial.runtime.jobs if job.name.endswith("-haproxy-check"))
    cut = tuple(
        replace(file, text=(*file.text, "frontend broken\n    bind nonsense\n")) if file.name == "haproxy.cfg" else file
        for file in check.files
    )
    return replace(check, files=cut)


def test_a_configuration_that_is_refused_stops_before_anything_is_delivered(door: Door) -> None:
    before = docker("exec", door.container, "cat", "/run/kit/haproxy.cfg")
    with pytest.raises(RuntimeError, match="nonsense"):
        door.live.trial.run(broken(door))
    # Whoever deploys waits for the check: components/ and tests/live/test_traps.py. Nothing is there to restart with.
    assert docker("exec", door.container, "cat", "/run/kit/haproxy.cfg") == before
    assert door.ask("one", client="192.0.2.3").status_code == 200


def test_a_reload_that_no_worker_takes_over_fails_and_the_old_one_goes_on(door: Door) -> None:
    """haproxy -c listens nowhere: what is only wrong when it does is found by looking for the new worker."""
    plan = door.live.container("haproxy")
    files = tuple(
        replace(file, text=(*file.text, "frontend elsewhere\n    bind 203.0.113.1:9\n"))
        if file.name == "haproxy.cfg"
        else file
        for file in plan.files
    )
    door.live.trial.deliver(replace(plan, files=files))
    (job,) = (job for job in door.live.trial.runtime.jobs if job.reloads == door.container)
    with pytest.raises(RuntimeError, match="the one before goes on"):
        door.live.trial.run(job)
    assert door.ask("one", client="192.0.2.4").status_code == 200
    door.live.trial.reload(door.container)
    assert door.ask("one", client="192.0.2.4").status_code == 200


# -------------------------------------------------------------------------------------------------------------- rates


def test_who_asks_too_often_is_told_when_to_come_back_and_nobody_else_is(door: Door) -> None:
    one, other = "198.51.100.1", "198.51.100.2"
    answers = [door.ask("api", client=one) for _ in range(23)]
    codes = [answer.status_code for answer in answers]
    assert codes[:20] == [200] * 20 and codes[-1] == 429, codes
    wait = int(answers[-1].headers["retry-after"])
    assert 1 <= wait <= 6
    assert door.ask("api", client=other).status_code == 200
    assert door.ask("one", client=one).status_code == 200, "another class, another count"
    door.live.trial.reload(door.container)
    after = [door.ask("api", client=one).status_code for _ in range(4)]
    assert after.count(429) >= 2, f"a reload forgets nobody: {after}"
    time.sleep(wait + 1)
    assert door.ask("api", client=one).status_code == 200
    refused = [line for line in door.log() if line["status"] == 429]
    assert refused and all(line["client"] == one and line["rate"] == "api" for line in refused)


def test_a_person_may_ask_a_hundred_times_at_once(door: Door) -> None:
    headers = {"Host": f"two.{DOMAIN}:{door.port}", FORWARDED: "198.51.100.3"}
    codes: Counter[int] = Counter()
    begin = time.monotonic()
    with httpx.Client(verify=door.context, trust_env=False, timeout=60) as visitor:
        while time.monotonic() - begin < 60 and not codes[429]:
            url, extensions = f"https://127.0.0.1:{door.port}/", {"sni_hostname": f"two.{DOMAIN}"}
            codes[visitor.get(url, headers=headers, extensions=extensions).status_code] += 1
    seconds = time.monotonic() - begin
    assert codes[429] == 1, codes
    assert 100 <= codes[200] <= 101 + 10 * seconds, (codes, seconds)


def test_one_network_of_version_six_is_one_client(door: Door) -> None:
    codes = [door.ask("api", client=f"2001:db8::{number:x}").status_code for number in range(1, 23)]
    assert 429 in codes[20:] and codes[:20] == [200] * 20


def test_only_a_trusted_proxy_says_who_asks(door: Door) -> None:
    assert door.ask("one", client="198.51.100.7").json()["headers"]["x-forwarded-for"] == "198.51.100.7"
    # Three in a row: what stands left of the first that nobody vouches for may be made up.
    said = door.ask("one", client="1.1.1.1, 198.51.100.8, 10.0.0.5").json()["headers"]["x-forwarded-for"]
    assert said == "198.51.100.8"
    assert door.ask("one", client="nobody").json()["headers"]["x-forwarded-for"] == door.gateway


# ------------------------------------------------------------------------------------------- retries, limits, answers


def test_only_reading_is_tried_again(door: Door) -> None:
    before = door.seen()
    assert door.ask("one", "/drop", client="192.0.2.5").status_code == 502
    assert door.ask("one", "/drop", "POST", client="192.0.2.5").status_code == 502
    after = door.seen() - before
    assert after["GET /drop"] == 4 and after["POST /drop"] == 1


def test_a_service_that_is_not_there_is_a_sentence_and_comes_back(door: Door) -> None:
    two = door.live.name("two")
    docker("stop", "-t", "1", two)
    try:
        trial.eventually(lambda: door.ask("two", client="192.0.2.6").status_code == 503, 60)
        answer = door.ask("two", client="192.0.2.6")
        assert answer.headers["retry-after"] == "5" and "try again" in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
    finally:
        docker("start", two)
    trial.eventually(lambda: door.ask("two", client="192.0.2.6").status_code == 200, 60)


def test_visitors_stay_with_their_server_where_the_operator_said_so(door: Door) -> None:
    cookie = door.ask("two", client="192.0.2.7").headers["set-cookie"]
    assert cookie.startswith("kit-server-two=1") and "HttpOnly" in cookie and "Secure" in cookie
    assert "set-cookie" not in door.ask("one", client="192.0.2.7").headers


def test_a_stream_arrives_as_it_is_made(door: Door) -> None:
    request = f"GET /stream?n=3&every=1 HTTP/1.1\r\nHost: one.{DOMAIN}\r\nConnection: close\r\n\r\n".encode()
    arrived: list[float] = []
    with door.open() as sock:
        sock.sendall(request)
        while more := sock.recv(65536):
            arrived += [time.monotonic()] * more.count(b"data:")
    assert len(arrived) == 3 and arrived[1] - arrived[0] > 0.7 and arrived[2] - arrived[1] > 0.7


HOST = f"Host: one.{DOMAIN}\r\n".encode()
END = b"Connection: close\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\n" + HOST

REFUSED = {
    "chunks and a length that disagree": (
        400,
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n12\r\nGET /smuggled HTTP/\r\n0\r\n\r\n",
    ),
    "two lengths": (400, POST + b"Content-Length: 6\r\nContent-Length: 5\r\n\r\nabcdef"),
    "a length below nothing": (400, POST + b"Content-Length: -1\r\n\r\n"),
    "an encoding that is none": (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "chunks that are not last": (400, POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    "a space before the colon": (400, POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    "chunks before their time": (400, POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a chunk's size that is none": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n"),
    "a return alone": (400, b"GET /x HTTP/1.1\r\n" + HOST + b"X-A: b\rX-B: c\r\n" + END),
    "a zero byte": (400, b"GET /x HTTP/1.1\r\n" + HOST + b"X-A: b\0c\r\n" + END),
    "two hosts": (400, b"GET /x HTTP/1.1\r\n" + HOST + b"Host: two.kit.localhost\r\n" + END),
    "another host in the line": (400, b"GET https://two.kit.localhost/ HTTP/1.1\r\n" + HOST + END),
    "a tunnel": (400, b"CONNECT one:80 HTTP/1.1\r\n" + HOST + END),
    "no version": (400, b"GET /x\r\n\r\n"),
    "too many headers": (400, b"GET /x HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + END),
    "an echo": (405, b"TRACE /x HTTP/1.1\r\n" + HOST + END),
    "no host": (421, b"GET /x HTTP/1.1\r\n" + END),
    "a host that is not ours": (421, b"GET /x HTTP/1.1\r\nHost: evil.example\r\n" + END),
    "a host that looks like ours": (421, b"GET /x HTTP/1.1\r\nHost: one.kit.localhost.evil.example\r\n" + END),
    "a large body": (413, b"POST /x HTTP/1.1\r\nHost: two.kit.localhost\r\nContent-Length: 2000000\r\n" + END),
}


def test_bad_requests_are_answered_as_such_and_reach_nobody(door: Door) -> None:
    before = door.seen()
    wrong: dict[str, bytes] = {}
    for what, (status, sent) in REFUSED.items():
        said = door.raw(sent)
        if not said.startswith(f"HTTP/1.1 {status} ".encode()) or said.count(b"HTTP/1.1 ") != 1:
            wrong[what] = said[:120]
    assert not wrong
    assert door.seen() == before


# HAProxy 3.0 says 400 of all that it cannot read, newer ones what it is.
TOO_LONG = {
    "a long address": (b"400", b"414", b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n" + HOST + END),
    "a large header": (b"400", b"431", b"GET /x HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 20000 + b"\r\n" + END),
    "large headers": (
        b"400",
        b"431",
        b"GET /x HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 2000) for n in range(9)) + END,
    ),
}


def test_what_is_too_long_is_refused_at_once(door: Door) -> None:
    before = door.seen()
    for what, (older, newer, sent) in TOO_LONG.items():
        said = door.raw(sent)
        assert said.startswith((b"HTTP/1.1 " + older, b"HTTP/1.1 " + newer)), (what, said[:120])
    assert door.seen() == before


def test_a_body_that_does_not_say_its_size_is_refused_where_nobody_measures_it(door: Door) -> None:
    """Without the firewall, which counts (tests/live/test_waf.py): HAProxy would pass on any amount."""
    before = door.seen()
    said = door.raw(POST + b"Transfer-Encoding: chunked\r\n" + END + b"5\r\nabcde\r\n0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 411 "), said[:120]
    with door.two() as visitor:
        visitor.request(1, [*TWO, (b":method", b"POST")], b"abcde")
        assert visitor.answer() == 411
    assert door.seen() == before


READ_IN_ONE_WAY = {
    "chunks and a length": POST
    + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    "a folded header": b"GET /x HTTP/1.1\r\n" + HOST + b"X-A: b\r\n c\r\n" + END,
    "folded chunks": POST + b"Transfer-Encoding:\r\n chunked\r\n" + END + b"0\r\n\r\n",
    "feeds alone": b"GET /x HTTP/1.1\n" + HOST.replace(b"\r", b"") + b"Connection: close\n\n",
    "a feed within": b"GET /x HTTP/1.1\r\n" + HOST + b"X-A: b\nX-B: c\r\n" + END,
}


def test_what_is_only_written_oddly_goes_on_in_plain_form_as_one_request(door: Door) -> None:
    """RFC 9112 lets a recipient read these: HAProxy does, and writes them anew."""
    for what, sent in READ_IN_ONE_WAY.items():
        before = door.seen()
        said = door.raw(sent)
        assert said.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 ", b"HTTP/1.1 411 ")), (what, said[:100])
        new = door.seen() - before
        assert sum(new.values()) <= 1 and not any("smuggled" in path for path in new), (what, new)
        if b" 200 " in said[:20]:
            body = json.loads(said[: said.rindex(b"}") + 1].split(b"\r\n\r\n", 1)[1].split(b"HTTP/1.1")[0])
            told = {name.lower() for name in body["headers"]}
            assert not {"content-length", "transfer-encoding"} <= told, what
            assert not any(set("\r\n") & set(value) for value in body["headers"].values()), what


# ------------------------------------------------------------------------------------------------------- host names

HOSTS = {
    b"one.kit.localhost": 200,
    b"ONE.Kit.LocalHost": 200,
    b"one.kit.localhost:1": 200,  # whatever port the browser names
    b"one.kit.localhost.": 421,
    b".one.kit.localhost": 421,
    b"one.kit.localhost:80:80": 400,
    b"one.kit.localhost:": 400,
    b"one.kit.localhost:<script>": 400,
    b"one.kit.localhost:x@evil.example": 400,
    b"one.kit.localhost:123456": 400,
    b"one.kit.localhost@evil.example": 421,
    b"evil.example#one.kit.localhost": 421,
    b"one.kit.localhost/../two": 421,
    b"one.kit.localhost evil.example": 421,
    b"one.kit.localhost%00.evil.example": 421,
    b"one.kit.localhost\xe3\x80\x82evil.example": 421,
    b"xn--one-.kit.localhost": 421,
    b"localhost": 421,
    b"127.0.0.1": 421,
    b"[::1]": 421,
    b"haproxy": 421,
    b"one": 421,
    b"*": 421,
    b"": 421,
    b"';DROP TABLE x;--": 421,
    b"<script>alert(1)</script>": 421,
    b"${jndi:ldap://127.0.0.1/a}": 421,
    b"a" * 8000: 421,
}


def test_host_names_that_are_not_ours_lead_nowhere(door: Door) -> None:
    before = door.seen()
    wrong: dict[bytes, bytes] = {}
    for host, status in HOSTS.items():
        said = door.raw(b"GET /host HTTP/1.1\r\nHost: " + host + b"\r\n" + END)
        allowed = (status,) if status == 200 else (status, 400)
        if not any(said.startswith(b"HTTP/1.1 %d " % each) for each in allowed):
            wrong[host] = said[:80]
        elif status != 200 and len(host) > 3:
            assert host not in said.lower(), "nothing of it is said again"
    assert not wrong
    assert sum((door.seen() - before).values()) == list(HOSTS.values()).count(200)


def test_plain_http_leads_nobody_to_a_name_that_is_not_ours(door: Door) -> None:
    for host, status in HOSTS.items():
        with socket.create_connection(("127.0.0.1", door.live.plan.settings.http_port), timeout=20) as sock:
            sock.sendall(b"GET /a?b HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
            said = b""
            while more := sock.recv(65536):
                said += more
        if said.startswith(b"HTTP/1.1 301 "):  # whatever port is named: it is not said again
            assert f"location: https://one.{DOMAIN}:{door.port}/a?b\r\n".encode() in said
        else:
            assert status != 200 and said.startswith((b"HTTP/1.1 421 ", b"HTTP/1.1 400 ")), (host, said[:80])
            assert b"location" not in said


# ----------------------------------------------------------------------------------------------------------- HTTP/2

TWO: tuple[h2.Header, ...] = ((b":scheme", b"https"), (b":authority", b"one.kit.localhost"), (b":path", b"/x"))
GET: tuple[h2.Header, ...] = ((b":method", b"GET"), *TWO)


def without(name: bytes) -> tuple[h2.Header, ...]:
    return tuple(header for header in GET if header[0] != name)


# What becomes another request when somebody writes it down in HTTP/1.1 without a look.
UNFIT: dict[str, tuple[h2.Header, ...]] = {
    "a line break in a value": (*GET, (b"x-a", b"b\r\nx-c: d")),
    "a feed in a value": (*GET, (b"x-a", b"b\n\nGET /smuggled HTTP/1.1\nhost: one.kit.localhost\n\n")),
    "a zero byte in a value": (*GET, (b"x-a", b"b\0c")),
    "a name with capitals": (*GET, (b"X-A", b"b")),
    "a name with a line break": (*GET, (b"x-a: b\r\nx-c", b"d")),
    "a name with a colon": (*GET, (b"x-a:", b"b")),
    "a name with a space": (*GET, (b"x a", b"b")),
    "a name that is empty": (*GET, (b"", b"b")),
    "chunks": (*GET, (b"transfer-encoding", b"chunked")),
    "a header of the connection": (*GET, (b"connection", b"transfer-encoding")),
    "an upgrade": (*GET, (b"upgrade", b"h2c")),
    "a length that is not what comes": (*GET, (b"content-length", b"5")),
    "two lengths": (*GET, (b"content-length", b"0"), (b"content-length", b"5")),
    "no path": without(b":path"),
    "an empty path": (*without(b":path"), (b":path", b"")),
    "a path with a request in it": (*without(b":path"), (b":path", b"/x HTTP/1.1\r\nhost: two.kit.localhost\r\n\r\n")),
    "a path with a space": (*without(b":path"), (b":path", b"/smuggled HTTP/1.1")),
    "a path that is none": (*without(b":path"), (b":path", b"smuggled")),
    "two paths": (*GET, (b":path", b"/smuggled")),
    "no method": without(b":method"),
    "a method with a request in it": (*without(b":method"), (b":method", b"GET /smuggled HTTP/1.1\r\nx:")),
    "a method with a space": (*without(b":method"), (b":method", b"GET /smuggled")),
    "a tunnel": ((b":method", b"CONNECT"), (b":authority", b"one.kit.localhost:80")),
    "a pseudo header behind others": (*without(b":path"), (b"x-a", b"b"), (b":path", b"/smuggled")),
    "a pseudo header that is none": (*GET, (b":smuggled", b"1")),
    "no host": without(b":authority"),
    "a host that is not ours": (*without(b":authority"), (b":authority", b"evil.example")),
    "a host with a line break": (*without(b":authority"), (b":authority", b"one.kit.localhost\r\nx-a: b")),
    "a host with a path": (*without(b":authority"), (b":authority", b"one.kit.localhost/smuggled")),
    "somebody in the host": (*without(b":authority"), (b":authority", b"a@one.kit.localhost")),
    "headers that are large": (*GET, *((b"x-%d" % number, b"a" * 2000) for number in range(9))),
}


def test_what_fits_http_2_alone_reaches_nobody(door: Door) -> None:
    before, other = door.seen(), door.seen("two")
    wrong: dict[str, int] = {}
    for what, headers in UNFIT.items():
        with door.two() as visitor:
            with suppress(OSError):  # some it closes the connection on before all of it is sent
                visitor.request(1, headers)
            if (status := visitor.answer()) not in (0, 400, 405, 414, 421, 431, 501):
                wrong[what] = status
    assert not wrong
    assert door.seen() == before and door.seen("two") == other
    with door.two() as visitor:
        visitor.request(1, [*GET, (b"cookie", b"a=b"), (b"cookie", b"c=d")])
        assert visitor.answer() == 200


def test_one_request_has_one_host_whatever_else_it_says(door: Door) -> None:
    """:authority and host: one of them counts, for the route as for the service."""
    before = door.seen("two")
    with door.two() as visitor:
        visitor.request(1, [*GET, (b"host", b"two.kit.localhost")])
        assert visitor.answer() in (0, 200, 400)
    assert door.seen("two") == before


def test_streams_without_end_keep_nobody_out(door: Door) -> None:
    """Thousands of requests over a few connections: taken back at once, or never finished."""
    begin = time.monotonic()
    with door.two() as visitor:
        for first in range(1, 8000, 200):
            visitor.send(
                *(
                    frame
                    for stream in range(first, first + 200, 2)
                    for frame in (
                        h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, h2.block(GET)),
                        h2.frame(h2.RST_STREAM, 0, stream, b"\0\0\0\x08"),
                    )
                )
            )
        assert door.ask("one", client="192.0.2.11").status_code == 200
    held = [door.two() for _ in range(60)]
    try:
        for visitor in held:
            for stream in range(1, 200, 2):
                visitor.request(
                    stream, [*TWO, (b":method", b"POST"), (b"content-length", b"9000")], b"a" * 10, open_=True
                )
        assert door.ask("one", client="192.0.2.11").status_code == 200
        used = trial.memory_mb(door.container)
        print(f"memory with 6000 half requests over 60 connections: {used:.0f} MB")
        assert used < 0.8 * door.live.container("haproxy").limits.memory_mb
    finally:
        for visitor in held:
            visitor.socket.close()
    assert door.ask("one", client="192.0.2.11").status_code == 200
    assert time.monotonic() - begin < 60 and door.state()["OOMKilled"] is False


def test_slow_ones_are_told_to_hurry_and_keep_nobody_out(door: Door) -> None:
    """Headers that never end: 408 after ten seconds. And however many there are, somebody else gets an answer."""
    begin = time.monotonic()
    slow = [door.open() for _ in range(200)]
    try:
        for sock in slow:
            sock.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"X-A: ")
        print(f"memory with 200 half requests: {trial.memory_mb(door.container):.0f} MB")
        for number in range(8):
            for sock in slow[:20]:
                sock.sendall(b"%d" % number)
            assert door.ask("one", client="192.0.2.8").status_code == 200
            time.sleep(1)
        said = slow[0].recv(4096)
        assert said.startswith(b"HTTP/1.1 408 "), said[:100]
        assert 8 < time.monotonic() - begin < 40
    finally:
        for sock in slow:
            sock.close()
    assert door.state()["OOMKilled"] is False


def test_figures_are_told_over_the_management_network_alone(door: Door) -> None:
    program = (
        "import sys, urllib.request, urllib.error\n"
        "def ask(host, path):\n"
        "    url = f'http://{host}:{sys.argv[1]}{path}'\n"
        "    try: text = urllib.request.urlopen(url, timeout=5).read()\n"
        "    except urllib.error.HTTPError as error: return error.code\n"
        "    except OSError: return 0\n"
        "    return len(text) if b'haproxy_process_' in text or b'Statistics Report' in text else -1\n"
        "print(*(ask(host, path) for host in sys.argv[2:] for path in ('/metrics', '/stats')))\n"
    )
    addresses = {name: net["IPAddress"] for name, net in door.networks().items()}

    def asked(zone: str, *hosts: str) -> list[int]:
        where = ("--network", door.live.name(zone), "--entrypoint", "python3", door.live.image("one"))
        return [int(word) for word in docker("run", "--rm", *where, "-c", program, str(FIGURES_PORT), *hosts).split()]

    assert all(size > 1000 for size in asked("manage", "haproxy.manage"))
    # The same machine, another network: at its own address, and at the one that it should not get to.
    assert asked("app", addresses[door.live.name("app")]) == [403, 403]
    assert asked("app", addresses[door.live.name("manage")]) == [0, 0]


# -------------------------------------------------------------------------------------------------- headers and the log


def test_browsers_are_told_and_the_application_has_the_last_word(door: Door) -> None:
    page = door.ask("one", "/page", client="192.0.2.10").headers
    assert page["content-security-policy"] == "base-uri 'self'; object-src 'none'; frame-ancestors 'self'"
    assert page["x-content-type-options"] == "nosniff" and page["x-frame-options"] == "SAMEORIGIN"
    assert "server" not in page and "x-powered-by" not in page and "strict-transport-security" not in page
    own = door.ask("one", "/own", client="192.0.2.10").headers
    assert own.get_list("content-security-policy") == ["default-src 'none'"]
    assert own["x-frame-options"] == "DENY" and own["referrer-policy"] == "no-referrer"
    assert own["x-content-type-options"] == "nosniff"


def test_a_browser_has_nothing_to_complain_about(door: Door, tmp_path: Path) -> None:
    with chromium(tmp_path, seconds=30) as browser:
        browser.open(f"https://one.{DOMAIN}:{door.port}/page")
        assert browser.chrome.title == "ran"
        assert not [line for line in browser.complaints() if "favicon" not in line]


def test_the_log_says_who_asked_what_and_keeps_the_query_to_itself(door: Door) -> None:
    client, code = "198.51.100.77", "code-that-is-a-secret"
    door.ask("one", f'/page"x?code={code}&token={code}', client=client, headers={"Cookie": f"a={code}", "X-B": code})
    assert code not in docker("logs", door.container)
    (line,) = (line for line in door.log() if line["client"] == client)
    assert line["path"].startswith("/page") and line["method"] == "GET" and line["status"] == 200
    assert line["host"] == f"one.{DOMAIN}:{door.port}" and line["route"] == "one" and line["server"] == "one"
    assert line["end"] == "--" and line["all"] >= 0 and line["time"].endswith("Z")
