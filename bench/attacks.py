"""Attacks and honest prompts through the whole front door: how many attacks get through, and how many prompts do not?

    .venv/bin/python -m bench.attacks TESTS [--from FOLDER ...] [--prompts N]

TESTS is the folder of the rule set's own tests (see bench.crs). Of these, the attacks are the requests that must set
off a rule of the paranoia level in force which is critical, so that it refuses a request by itself; those for rules
that only add to a score are counted apart. They are sent over TLS to HAProxy, for a route without exclusions. Blocked
is what does not reach the small backend behind. Prompts (bench/corpus.py) quote lines of files in the FOLDERs and of
Python's standard library, and are sent as the chat and the API are sent them, to the real routes with their
exclusions, on that same backend. Makes a front door and a firewall of its own, and removes them.
"""

from __future__ import annotations

import argparse
import base64
import re
import socket
import ssl
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import corpus
from bench.crs import ANSWERS, cases, wire
from bench.measure import header
from ops import frontdoor
from stack.derive import waf
from tests.live import doors
from tests.live.kitclone import free_ports
from tests.live.trial import docker

DOMAIN = "kit.localhost"
PLAIN = "plain"  # a route that excludes nothing
SCORES = {"CRITICAL": 5, "ERROR": 4, "WARNING": 3, "NOTICE": 2}
REFUSES = 5  # the score at which the rule set refuses a request, unless told otherwise


# ----------------------------------------------------------------------------------------------------------- attacks


@dataclass(frozen=True)
class Rule:
    """One of the rule set. level: its paranoia level. score: what it adds."""

    level: int
    score: int


@dataclass(frozen=True)
class Attack:
    """A request of the rule set's tests that must set off `rules`."""

    name: str
    rules: tuple[int, ...]
    given: Mapping[str, Any]


def rules(texts: Iterable[str]) -> dict[int, Rule]:
    """The rules of .conf files, by id. Those that add no score or are of no level are left out."""
    found: dict[int, Rule] = {}
    for text in texts:
        for block in re.split(r"\n\s*\n|\n(?=Sec)", text.replace("\\\n", " ")):
            number, level = re.search(r"\bid:(\d{6})", block), re.search(r"paranoia-level/(\d)", block)
            severity = re.search(r"severity:'?([A-Z]+)", block)
            if number and level and severity and block.lstrip().startswith("Sec"):
                found[int(number[1])] = Rule(int(level[1]), SCORES.get(severity[1], 0))
    return found


def attacks(folder: Path, known: Mapping[int, Rule], level: int = 1) -> tuple[list[Attack], list[Attack]]:
    """What must be refused at a paranoia level, and what must only be noticed there."""
    alone: list[Attack] = []
    adding: list[Attack] = []
    for case in cases(folder):
        if case.name.startswith(ANSWERS):
            continue
        for number, stage in enumerate(case.stages):
            output = stage.get("output") or {}
            wanted = tuple(int(each) for each in (output.get("log") or {}).get("expect_ids") or ())
            scores = [known[each].score for each in wanted if each in known and known[each].level <= level]
            if scores:
                attack = Attack(f"{case.name}.{number}", wanted, stage["input"])
                (alone if max(scores) >= REFUSES else adding).append(attack)
    return alone, adding


def addressed(attack: Attack, host: str, client: str) -> bytes:
    """The request on the wire, for our route: whatever server the test names, unless that is what it is about."""
    raw = wire(dict(attack.given), attack.name)
    head, end, body = raw.partition(b"\r\n\r\n")
    named = rb"localhost(?::\d+)?" if attack.name.startswith("920") else rb"[^\r\n]*"
    head = re.sub(rb"(?im)^(host:[ \t]*)" + named + rb"[ \t]*(?=\r|$)", rb"\g<1>" + host.encode(), head)
    return head + f"\r\nX-Forwarded-For: {client}".encode() + end + body


def client(number: int) -> str:
    """An address of a network for tests: each request is another client's, so that no rate refuses it."""
    return f"198.18.{number // 250 % 250}.{number % 250 + 1}"


@dataclass
class Door:
    """Where the front door is asked."""

    port: int
    ca_pem: str

    def __post_init__(self) -> None:
        self.context = ssl.create_default_context(cadata=self.ca_pem)

    def send(self, raw: bytes) -> bytes:
        """The beginning of the answer; b"" for none within 15 seconds."""
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), 15) as plain,
                self.context.wrap_socket(plain, server_hostname=f"{PLAIN}.{DOMAIN}") as connection,
            ):
                connection.sendall(raw)
                answer = b""
                while len(answer) < 4096 and (more := connection.recv(4096)):
                    answer += more
                    if b"\r\n\r\n" in answer:
                        break
                return answer
        except OSError:
            return b""


def outcome(answer: bytes) -> str:
    """What became of a request: "through", by whom it was refused, or that there was no answer."""
    status = re.match(rb"HTTP/1\.[01] ([0-9]{3})", answer)
    if not status:
        return "no answer"
    if re.search(rb"(?im)^x-reached:", answer):
        return "through"
    who = "firewall" if re.search(rf"(?im)^{waf.REFUSED}:".encode(), answer) else "front door"
    return f"{who} {status[1].decode()}"


def attacked(door: Door, every: Sequence[Attack]) -> dict[str, str]:
    """The outcome of each attack, by name."""
    host = f"{PLAIN}.{DOMAIN}:{door.port}"

    def one(pair: tuple[int, Attack]) -> tuple[str, str]:
        number, attack = pair
        return attack.name, outcome(door.send(addressed(attack, host, client(number))))

    with ThreadPoolExecutor(4) as pool:
        return dict(pool.map(one, enumerate(every)))


def families(every: Sequence[Attack], outcomes: Mapping[str, str]) -> Iterator[str]:
    """A line for each family of rules."""
    total = Counter(attack.name[:3] for attack in every)
    passed = Counter(attack.name[:3] for attack in every if not blocked(outcomes[attack.name]))
    for family, count in sorted(total.items()):
        yield f"  {family}  {count - passed[family]:5} of {count:5} blocked"


def blocked(what: str) -> bool:
    return what not in ("through", "no answer")


# ----------------------------------------------------------------------------------------------------------- prompts

# A token's form, and nobody's.
TOKEN = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=")
    for part in (b'{"alg":"HS256","typ":"JWT"}', b'{"id":"1"}', b"signature")
)
# As a browser's page and as a client's library ask.
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Accept": "application/json",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.8",
    "Authorization": f"Bearer {TOKEN}",
    "Cookie": f"token={TOKEN}; oauth_session_id=7c9e6679-7425",
}
LIBRARY = {
    "User-Agent": "OpenAI/Python 2.8.1",
    "Accept": "application/json",
    "Authorization": "Bearer sk-0123456789abcdefghij",
    "X-Stainless-Lang": "python",
}


def prompted(door: Door, prompts: Sequence[corpus.Prompt]) -> dict[int, list[str]]:
    """What was refused of each prompt's requests, by the prompt's number. What is not there was all let through."""
    refused: dict[int, list[str]] = {}

    def some(first: int) -> None:
        with frontdoor.browser(DOMAIN, "127.0.0.1", door.ca_pem) as visitor:
            for number in range(first, len(prompts), 4):
                for part, asked in enumerate(corpus.sent(prompts[number].text, number)):
                    headers = {
                        **(BROWSER if asked.route == "chat" else LIBRARY),
                        "X-Forwarded-For": client(8 * number + part),
                    }
                    url = f"https://{asked.route}.{DOMAIN}:{door.port}{asked.path}"
                    answer = visitor.post(url, json=asked.body, headers=headers, follow_redirects=False)
                    if "x-reached" not in answer.headers:
                        refused.setdefault(number, []).append(f"{asked.route}{asked.path} {answer.status_code}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(some, range(4)))
    return refused


def not_excluded(door: Door, prompts: Sequence[corpus.Prompt]) -> int:
    """How many of the prompts the rules take for attacks where nothing is excluded: what the exclusions are for."""
    count = 0
    with frontdoor.browser(DOMAIN, "127.0.0.1", door.ca_pem) as visitor:
        for number, prompt in enumerate(prompts):
            headers = {**BROWSER, "X-Forwarded-For": client(number)}
            answer = visitor.post(f"https://{PLAIN}.{DOMAIN}:{door.port}/x", json={"q": prompt.text}, headers=headers)
            count += "x-reached" not in answer.headers
    return count


# -------------------------------------------------------------------------------------------------------------- main


def report(door: Door, folder: Path, texts: Iterable[str], prompts: Sequence[corpus.Prompt]) -> bool:
    """Print what is found. Whether both figures are reached."""
    alone, adding = attacks(folder, rules(texts))
    began = time.monotonic()
    outcomes = attacked(door, alone)
    stopped = sum(blocked(what) for what in outcomes.values())
    share = 100 * stopped / len(alone)
    print(f"attacks: {stopped} of {len(alone)} blocked, {share:.2f} %, in {time.monotonic() - began:.0f} s")
    print("\n".join(families(alone, outcomes)))
    print("  by", ", ".join(f"{what} {count}" for what, count in Counter(outcomes.values()).most_common()))
    missed = [name for name, what in outcomes.items() if not blocked(what)]
    print(f"  not blocked: {', '.join(missed) or 'none'}")
    others = attacked(door, adding)
    held = sum(blocked(what) for what in others.values())
    print(f"requests for rules that only add to a score: {held} of {len(adding)} blocked")
    began = time.monotonic()
    refused = prompted(door, prompts)
    requests = sum(1 for number, prompt in enumerate(prompts) for _ in corpus.sent(prompt.text, number))
    kinds = Counter(prompt.kind for prompt in prompts)
    print(
        f"prompts: {len(refused)} of {len(prompts)} blocked, {100 * len(refused) / len(prompts):.2f} %,"
        f" {requests} requests in {time.monotonic() - began:.0f} s, texts {corpus.digest(prompts)}"
    )
    print("  of", ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    for number, which in sorted(refused.items())[:20]:
        print(f"  {prompts[number].source}: {', '.join(which)}")
    print(f"  the same where nothing is excluded: {not_excluded(door, prompts)} blocked")
    return share >= 95 and len(refused) <= len(prompts) / 1000


def main(argv: list[str] | None = None) -> int:
    """Print the figures. 1 when one of them is missed."""
    parser = argparse.ArgumentParser(prog="bench.attacks", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tests", type=Path, help="the folder `tests` of the rule set's Go module")
    parser.add_argument("--from", dest="folders", type=Path, action="append", default=[], help="texts to quote")
    parser.add_argument("--prompts", type=int, default=1000, help="how many (1000)")
    chosen = parser.parse_args(argv)
    print(header("attacks and prompts through the front door"))
    prompts = corpus.compose([Path(sysconfig.get_path("stdlib")), *chosen.folders], chosen.prompts)
    http, https, admin = free_ports(3)
    with (
        tempfile.TemporaryDirectory() as home,
        doors.doors(
            "benchattacks",
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
        texts = docker("exec", live.name("waf"), "sh", "-c", f"cat {waf.RULES}/REQUEST-*.conf")
        good = report(Door(https, live.outputs.ca_pem), chosen.tests, [texts], prompts)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
