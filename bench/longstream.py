"""Long answers through front door and firewall in real time: does anything cut them, or hold them back?

    .venv/bin/python -m bench.longstream [--minutes N] [--silence N]

At once: an answer that says something every 30 s for so many minutes; one that is silent for so long between two
parts (the front door allows 30 minutes); a websocket that talks every 30 s, and one that says nothing in between.
Everything must arrive, each part within two seconds of being said. Makes a small stack of its own.
"""

from __future__ import annotations

import argparse
import base64
import os
import socket
import ssl
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.measure import header
from tests.live import doors
from tests.live.kitclone import free_ports
from tests.live.test_waf import ECHO

HOST = "text.kit.localhost"
EVERY_S = 30
LATE_S = 2.0


def connect(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", port), 20)
    connection = context.wrap_socket(plain, server_hostname=HOST)
    connection.settimeout(3600)
    return connection


def stream(port: int, context: ssl.SSLContext, parts: int, every: float) -> str:
    """Read an answer of so many parts. What was seen; ValueError when it was cut or late."""
    with connect(port, context) as connection:
        ask = (
            f"GET /stream?n={parts}&every={every} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
        )
        connection.sendall(ask.encode())
        begin, arrived, answer = time.monotonic(), list[float](), b""
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            more = connection.recv(65536)
            if not more:
                raise ValueError(f"cut after {time.monotonic() - begin:.0f} s, with {len(arrived)} of {parts} parts")
            answer += more
            arrived += [time.monotonic() - begin] * more.count(b"data: ")
    late = max(at - number * every for number, at in enumerate(arrived))
    if len(arrived) != parts or late > LATE_S:
        raise ValueError(f"{len(arrived)} of {parts} parts, {late:.1f} s late")
    return f"{parts} parts, the last after {arrived[-1]:.0f} s, at most {late:.2f} s late"


def websocket(port: int, context: ssl.SSLContext, messages: int, every: float) -> str:
    """Say something so many times, and hear it again."""
    key = base64.b64encode(os.urandom(16)).decode()
    ask = f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\nAccept: */*\r\nUpgrade: websocket\r\n"
    ask += f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    slowest = 0.0
    with connect(port, context) as connection:
        connection.sendall(ask.encode())
        if b" 101 " not in connection.recv(4096).split(b"\r\n")[0]:
            raise ValueError("no websocket")
        for number in range(messages):
            if number:
                time.sleep(every)
            frame = bytes([0x81, 0x80 | 5, 0, 0, 0, 0]) + b"hello"
            begin = time.monotonic()
            connection.sendall(frame)
            if connection.recv(4096) != frame:
                raise ValueError(f"gone after {number} messages, {number * every:.0f} s")
            slowest = max(slowest, time.monotonic() - begin)
    return f"{messages} messages, {every:.0f} s between them, the slowest back after {slowest:.2f} s"


def main(argv: list[str] | None = None) -> int:
    """Print what arrived. 1 when something did not."""
    parser = argparse.ArgumentParser(prog="bench.longstream", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=12, help="how long the talking ones last (12)")
    parser.add_argument("--silence", type=float, default=28, help="minutes without a word of the silent ones (28)")
    chosen = parser.parse_args(argv)
    http, https, admin = free_ports(3)
    ports = {"http_port": http, "https_port": https, "admin_port": admin}
    with (
        tempfile.TemporaryDirectory() as home,
        doors.doors("benchlong", Path(home), ECHO, profile="echo", firewall=True, **ports) as live,
    ):
        live.settle()
        print(header("long answers through front door and firewall"), flush=True)
        context = ssl.create_default_context(cadata=live.outputs.ca_pem)
        parts, silence = int(chosen.minutes * 60 / EVERY_S) + 1, chosen.silence * 60
        ways = {
            f"an answer of {chosen.minutes:g} minutes": (stream, parts, EVERY_S),
            f"an answer with {chosen.silence:g} minutes of silence": (stream, 2, silence),
            f"a websocket of {chosen.minutes:g} minutes": (websocket, parts, EVERY_S),
            f"a websocket with {chosen.silence:g} minutes of silence": (websocket, 2, silence),
        }
        failed = False
        with ThreadPoolExecutor(len(ways)) as pool:
            running = {name: pool.submit(way, https, context, *how) for name, (way, *how) in ways.items()}
            for name, each in running.items():
                try:
                    print(f"{name}: {each.result()}", flush=True)
                except (OSError, ValueError) as problem:
                    failed = True
                    print(f"{name}: FAILED, {problem}", flush=True)
        print("load at the end", *(f"{each:.1f}" for each in os.getloadavg()))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
