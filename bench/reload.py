"""The front door takes over its files again and again under load: how many requests does anybody lose?

    .venv/bin/python -m bench.reload [--rate N] [--seconds S] [--reloads N]

Starts a front door and one small backend of its own on the local engine, and removes them. Half of the requests have a
connection of their own, half go over kept ones (bench/load.py); each that is not answered 200 counts as failed, and
nothing is tried twice. A stream is open all the while. What it should be: 0 failed, and the stream whole.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx

from bench.load import Load
from bench.measure import header
from tests.live import doors
from tests.live.kitclone import free_ports


def main(argv: list[str] | None = None) -> int:
    """Print the figures. 1 when a request failed."""
    parser = argparse.ArgumentParser(prog="bench.reload", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rate", type=int, default=200, help="requests a second (200)")
    parser.add_argument("--seconds", type=int, default=30, help="how long (30)")
    parser.add_argument("--reloads", type=int, default=5, help="how many reloads, at even distances (5)")
    chosen = parser.parse_args(argv)
    print(header("the front door reloads under load"))
    http, https, admin = free_ports(3)
    ports = {"http_port": http, "https_port": https, "admin_port": admin}
    trusted = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")  # so that each request is another client's
    backend = doors.backend("one", streaming=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        doors.doors("benchreload", Path(folder), backend, trusted_proxies=trusted, **ports) as live,
    ):
        live.settle()
        ca = live.outputs.ca_pem
        load = Load("one.kit.localhost", https, ca, rate=chosen.rate, clients=True)
        streamed: list[int] = []

        def stream() -> None:
            context = ssl.create_default_context(cadata=ca)
            url = f"https://127.0.0.1:{https}/stream?n={chosen.seconds}&every=1"
            more = {"headers": {"Host": "one.kit.localhost"}, "extensions": {"sni_hostname": "one.kit.localhost"}}
            with httpx.Client(verify=context, trust_env=False, timeout=60) as visitor:
                streamed.append(visitor.get(url, **more).text.count("data:"))  # pyright: ignore[reportArgumentType]

        took: list[float] = []

        def reloads() -> None:
            for _ in range(chosen.reloads):
                time.sleep(chosen.seconds / (chosen.reloads + 1))
                begin = time.monotonic()
                live.trial.reload(live.name("haproxy"))
                took.append(time.monotonic() - begin)

        threads = [threading.Thread(target=each) for each in (stream, reloads)]
        for thread in threads:
            thread.start()
        report = asyncio.run(load.run(chosen.seconds))
        for thread in threads:
            thread.join()
    print(f"requests {report.asked}, failed {len(report.failures)}, reloads {len(took)}")
    print(f"answered within: half {report.quantile(0.5) * 1000:.0f} ms, 99 % {report.quantile(0.99) * 1000:.0f} ms")
    print(f"the stream: {sum(streamed)} of {chosen.seconds} parts")
    for what, count in Counter(failure.what for failure in report.failures).most_common(5):
        print(f"  {count} x {what}")
    return 1 if report.failures or sum(streamed) != chosen.seconds else 0


if __name__ == "__main__":
    sys.exit(main())
