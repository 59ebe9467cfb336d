"""A steady load of HTTPS requests on one port, each judged: so many a second, whatever the answers take.

Half of the requests have a connection of their own, half go over connections that are kept and used again, as browsers
and programs do. A kept connection whose end the server has announced (Connection: close) is not used again; one that is
gone without a word is a failed request: no retry hides it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.live import clients


@dataclass(frozen=True)
class Failure:
    """When (seconds after the start) and how a request failed: a status, or what happened to its connection."""

    at: float
    what: str


@dataclass
class Report:
    """What became of every request. `seconds`: of each that was answered well, from connecting to the last byte."""

    asked: int = 0
    statuses: Counter[str] = field(default_factory=Counter[str])
    failures: list[Failure] = field(default_factory=list[Failure])
    seconds: list[float] = field(default_factory=list[float])

    def quantile(self, share: float) -> float:
        """Seconds within which `share` (0 to 1) of the good answers came."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Load:
    """`rate` requests a second for `host`, sent to 127.0.0.1:port."""

    def __init__(self, host: str, port: int, ca_pem: str, *, rate: int, path: str = "/", clients: bool = False) -> None:
        """clients: each says to be another one, to a front door that trusts this machine as a proxy."""
        self.host, self.port, self.rate, self.path, self.clients = host, port, rate, path, clients
        self.context = ssl.create_default_context(cadata=ca_pem)
        self.report = Report()
        self._idle: list[Connection] = []
        self._begin = 0.0

    async def run(self, seconds: float) -> Report:
        """Send them at even distances and wait for the last answer."""
        self._begin = time.monotonic()
        running: list[asyncio.Task[None]] = []
        for number in range(int(seconds * self.rate)):
            wait = self._begin + number / self.rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            running.append(asyncio.create_task(self._one(keep=number % 2 == 0)))
        await asyncio.gather(*running)
        for _, writer in self._idle:
            writer.close()
        return self.report

    async def _one(self, *, keep: bool) -> None:
        self.report.asked += 1
        begin = time.monotonic()
        try:
            async with asyncio.timeout(30):
                status = await self._ask(keep=keep)
        except (OSError, EOFError, TimeoutError, ValueError) as problem:
            self._failed(begin, f"{type(problem).__name__}: {problem}")
            return
        self.report.statuses[status] += 1
        if status == "200":
            self.report.seconds.append(time.monotonic() - begin)
        else:
            self._failed(begin, status)

    def _failed(self, begin: float, what: str) -> None:
        self.report.failures.append(Failure(round(begin - self._begin, 3), what))

    async def _ask(self, *, keep: bool) -> str:
        connection = self._idle.pop() if keep and self._idle else None
        reader, writer = connection or await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname=self.host
        )
        said = clients.line() if self.clients else ""
        closing = "" if keep else "Connection: close\r\n"
        writer.write(f"GET {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{said}{closing}\r\n".encode())
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        await reader.readexactly(int(headers.get("content-length", "0")))
        if keep and headers.get("connection", "").lower() != "close":
            self._idle.append((reader, writer))
        else:
            writer.close()
        return lines[0].split()[1]
