"""What front door and firewall cost: the same requests to a small backend itself and through both, in turns.

    .venv/bin/python -m bench.edge [--requests N] [--every MS]

2 kB of JSON and the first part of a streamed answer, over connections that are kept. Ways: the backend itself, without
TLS; all the way where the firewall looks at everything; all the way where free text is excluded, as for prompts. The
ways take turns, so that whatever else the machine does meets all alike. Aims: the 99th percentile through both is at
most 5 ms above the direct one, and the first part of a stream at most 10 ms. Makes a stack of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import header
from tests.live import doors
from tests.live.kitclone import free_ports
from tests.live.trial import docker

DOMAIN = "kit.localhost"
PLAIN = "plain"
MORE_MS, FIRST_MS = 5.0, 10.0  # the aims, above the direct way
SAID = "We would like to know how the new order of the shelves works out for the people in the library today. "


@dataclass
class Way:
    """One way to the backend, on a connection that is kept. open: makes one. path: of the 2 kB."""

    name: str
    open: Callable[[], socket.socket]
    host: str
    path: str
    json_ms: list[float] = field(default_factory=list[float])
    first_ms: list[float] = field(default_factory=list[float])
    _kept: socket.socket | None = None
    _asked: int = 0

    def exchange(self, raw: bytes) -> float:
        """Milliseconds from the first byte sent to the whole answer."""
        connection = self._connection()
        begin = time.perf_counter()
        connection.sendall(raw)
        answer = _head(connection)
        length = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        body = answer.partition(b"\r\n\r\n")[2]
        while len(body) < length:
            body += _more(connection)
        took = time.perf_counter() - begin
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"{self.name}: {answer[:200]!r}")
        return 1000 * took

    def first(self, raw: bytes) -> float:
        """Milliseconds from the first byte sent to the first part of a stream."""
        connection = self._connection()
        begin = time.perf_counter()
        connection.sendall(raw)
        answer = _head(connection)
        while b"data: 0" not in answer:
            answer += _more(connection)
        took = time.perf_counter() - begin
        while not answer.endswith(b"0\r\n\r\n"):
            answer += _more(connection)
        return 1000 * took

    def _connection(self) -> socket.socket:
        self._asked += 1
        if self._kept is None:
            self._kept = self.open()
            self._kept.settimeout(30)
        return self._kept

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The bytes of a request. Each is another client's, so that no rate refuses it."""
        client = f"198.18.{self._asked // 250 % 250}.{self._asked % 250 + 1}"
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", "User-Agent: bench", "Accept: */*"]
        lines += [f"X-Forwarded-For: {client}"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _head(connection: socket.socket) -> bytes:
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _more(connection)
    return answer


def _more(connection: socket.socket) -> bytes:
    found = connection.recv(65536)
    if not found:
        raise RuntimeError("the connection was closed")
    return found


def quantile(values: list[float], share: float) -> float:
    """The value within which `share` (0 to 1) of them are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(ways: list[Way], requests: int, every_ms: float) -> None:
    """So many requests by each way in turns, every tenth of them a stream as well."""
    text = (SAID * 20)[:1900]
    body = json.dumps({"model": "m", "stream": False, "messages": [{"role": "user", "content": text}]}).encode()
    for way in ways:
        for _ in range(20):  # connections, caches
            way.exchange(way.request("POST", way.path, body))
    gc.disable()
    try:
        for turn in range(requests):
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                begin = time.perf_counter()
                way.json_ms.append(way.exchange(way.request("POST", way.path, body)))
                if turn % 10 == 0:
                    way.first_ms.append(way.first(way.request("GET", "/stream?n=2&every=0")))
                time.sleep(max(0.0, every_ms / 1000 - (time.perf_counter() - begin)))
    finally:
        gc.enable()


def processor_s(container: str) -> float:
    """Seconds of processor time that a container has had; nan where its cgroup is not to be found."""
    known = docker("inspect", "-f", "{{.Id}}", container).strip()
    for pattern, unit in (
        (f"/sys/fs/cgroup/cpuacct/docker/{known}/cpuacct.usage", 1e9),
        (f"/sys/fs/cgroup/system.slice/docker-{known}.scope/cpu.stat", 1e6),
    ):
        if (path := Path(pattern)).exists():
            return int(path.read_text().replace("usage_usec", "").split()[0]) / unit
    return float("nan")


def work(ways: list[Way], containers: list[str], requests: int = 400) -> None:
    """Print what a request costs each container in processor time: that depends less on what else runs."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": (SAID * 20)[:1900]}]}).encode()
    print("processor time for 2 kB of JSON, milliseconds")
    for way in ways:
        before = [processor_s(container) for container in containers]
        for _ in range(requests):
            way.exchange(way.request("POST", way.path, body))
        spent = [1000 * (processor_s(one) - then) / requests for one, then in zip(containers, before, strict=True)]
        words = ", ".join(f"{one.rpartition('-')[2]} {each:.2f}" for one, each in zip(containers, spent, strict=True))
        print(f"  {way.name:<34} {words}")


def report(ways: list[Way]) -> bool:
    """Print the figures. Whether the aims are reached."""
    direct, good = ways[0], True
    for what, aim, figures in (
        ("2 kB of JSON", MORE_MS, {way.name: way.json_ms for way in ways}),
        ("first part of a stream", FIRST_MS, {way.name: way.first_ms for way in ways}),
    ):
        base = quantile(figures[direct.name], 0.99)
        print(f"{what}, milliseconds")
        for name, values in figures.items():
            p99 = quantile(values, 0.99)
            more = f", p99 {p99 - base:+.2f} (at most +{aim:.0f})" if name != direct.name else ""
            print(f"  {name:<34} median {statistics.median(values):6.2f}  p99 {p99:6.2f}  n={len(values)}{more}")
            good = good and p99 - base <= aim
    print("load at the end", *(f"{each:.1f}" for each in os.getloadavg()))
    return good


def ways(direct: tuple[str, int], port: int, ca_pem: str) -> list[Way]:
    """The ways to a backend at `direct` and behind the front door at 127.0.0.1:port."""
    context = ssl.create_default_context(cadata=ca_pem)

    def plain(address: tuple[str, int]) -> socket.socket:
        connection = socket.create_connection(address, 20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def through(route: str) -> Callable[[], socket.socket]:
        return lambda: context.wrap_socket(plain(("127.0.0.1", port)), server_hostname=f"{route}.{DOMAIN}")

    return [
        Way("direct", lambda: plain(direct), "direct", "/x"),
        Way("front door and firewall", through(PLAIN), f"{PLAIN}.{DOMAIN}:{port}", "/x"),
        Way("the same, free text excluded", through("chat"), f"chat.{DOMAIN}:{port}", "/api/chat/completions"),
    ]


def main(argv: list[str] | None = None) -> int:
    """Print the figures. 1 when an aim is missed."""
    parser = argparse.ArgumentParser(prog="bench.edge", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=2000, help="by each way (2000)")
    parser.add_argument("--every", type=float, default=10, help="milliseconds between two requests (10)")
    chosen = parser.parse_args(argv)
    http, https, admin = free_ports(3)
    with (
        tempfile.TemporaryDirectory() as home,
        doors.doors(
            "benchedge",
            Path(home),
            doors.everywhere(PLAIN),
            firewall=True,
            trusted_proxies=doors.MACHINE,
            http_port=http,
            https_port=https,
            admin_port=admin,
        ) as live,
    ):
        live.settle()
        print(header("what front door and firewall cost"))
        networks = json.loads(docker("inspect", live.name("one")))[0]["NetworkSettings"]["Networks"]
        every = ways((networks[live.name("app")]["IPAddress"], doors.PORT), https, live.outputs.ca_pem)
        measure(every, chosen.requests, chosen.every)
        good = report(every)
        work(every, [live.name(each) for each in ("haproxy", "waf", "one")])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
