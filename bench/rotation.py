"""What people notice while a secret is made anew: twenty requests a second through the front door meanwhile.

    .venv/bin/python -m bench.rotation STACK SECRET...

Needs a stack that is up and has Docker's own networks in its `trustedProxies` (tests/live/clients.py says which), so
that each request is another client's. It changes that stack: each secret gets its next number in the stack file, as
`./kit rotate` does. Of each route a path is asked that its service answers by itself, not the login before it. Failed
is what got no answer or one of the front door's own (429, 502, 503, 504); the gap is the longest time between two
answers around such a failure. What a page in an open browser does meanwhile (reconnecting, asking again) is not in it.
"""

from __future__ import annotations

import argparse
import subprocess
import threading
import time
from dataclasses import dataclass, field

import httpx

from bench.measure import header
from ops import frontdoor
from ops.paths import ROOT
from ops.session import Session
from stack.model import Access, Route
from stack.plan import Plan
from tests.live import clients

EVERY_S = 0.05
UNANSWERED = frozenset({429, 502, 503, 504})


@dataclass
class Asked:
    """One route under load: (seconds since the begin, answered by the service) of each request."""

    url: str
    seen: list[tuple[float, bool]] = field(default_factory=list[tuple[float, bool]])

    def gap(self) -> float:
        """The longest time without an answer in which a request failed, in seconds; 0 without a failure."""
        longest, last, failed = 0.0, 0.0, False
        for at, answered in self.seen:
            if answered:
                longest = max(longest, at - last) if failed else longest
                last, failed = at, False
            else:
                failed = True
        return max(longest, self.seen[-1][0] - last) if failed else longest

    def __str__(self) -> str:
        failures = sum(not answered for _, answered in self.seen)
        return f"{self.url:<52} {len(self.seen):>5} asked, {failures:>4} failed, gap {self.gap():4.1f} s"


def path(route: Route) -> str:
    """What the service answers by itself, whatever that is."""
    if route.access is Access.SSO and route.open:
        return route.open[0].rstrip("/") + "/nobody-has-this"
    return route.prefix + "/"


def _status(visitor: httpx.Client, url: str) -> int:
    return visitor.get(url, headers=clients.another(), follow_redirects=False, timeout=5).status_code


def load(plan: Plan, ca_pem: str, urls: list[str], stop: threading.Event) -> tuple[list[Asked], list[threading.Thread]]:
    """Four visitors for each route, who take turns: a slow answer holds up none of the others'."""
    asked = [Asked(url) for url in urls]
    begin = time.monotonic()

    def visit(one: Asked, turn: int) -> None:
        with frontdoor.browser(plan.settings.domain, frontdoor.address_of(plan), ca_pem) as visitor:
            due = time.monotonic() + turn * EVERY_S
            while not stop.is_set():
                time.sleep(max(0.0, due - time.monotonic()))
                due = max(due + 4 * EVERY_S, time.monotonic())
                sent = time.monotonic()
                try:
                    answered = _status(visitor, one.url) not in UNANSWERED
                except httpx.HTTPError:
                    answered = False
                one.seen.append(((time.monotonic() if answered else sent) - begin, answered))

    threads = [threading.Thread(target=visit, args=(one, turn), daemon=True) for one in asked for turn in range(4)]
    for thread in threads:
        thread.start()
    return asked, threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack")
    parser.add_argument("secret", nargs="+")
    arguments = parser.parse_args()
    session = Session(arguments.stack)
    plan = session.plan()
    ca_pem = session.state.ca_file.read_text(encoding="utf-8")
    if missing := sorted(set(clients.PROXIES) - set(plan.settings.trusted_proxies)):
        parser.error(f"the front door would answer 429: add {', '.join(missing)} to trustedProxies for the while")
    routes = [owned.item for owned in plan.routes]
    urls = [plan.url(route) + path(route) for route in routes]
    print(header(f"rotations of stack {arguments.stack} under load, {1 / EVERY_S:.0f} requests a second per route"))
    for secret in arguments.secret:
        stop = threading.Event()
        asked, threads = load(plan, ca_pem, urls, stop)
        time.sleep(2)
        begin = time.monotonic()
        command = ["./kit", "rotate", secret, arguments.stack, "--no-prove"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        took = time.monotonic() - begin
        time.sleep(2)
        stop.set()
        for thread in threads:
            thread.join()
        print(f"\n  {secret}: {took:.0f} s" + (f", FAILED: {done.stderr[-300:]}" if done.returncode else ""))
        for one in asked:
            one.seen.sort()
            print(f"    {one}", flush=True)


if __name__ == "__main__":
    main()
