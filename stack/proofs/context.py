"""What a proof may use: browsers at the front door, a throw-away user, and a way to say what it is doing.

A proof fails by raising ProofError with a sentence a person understands. Its cleanup function gets a context as
well, and removes from its application all that belongs to people whose name starts with `prefix`: this run's user,
and what an interrupted run left behind.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx

from stack.outputs import StackOutputs
from stack.plan import Plan


class ProofError(Exception):
    """Something a user would notice does not work."""


@dataclass(frozen=True)
class Person:
    username: str
    email: str


@dataclass(frozen=True)
class Login:
    """Where a login ended. asked: whether the identity provider wanted the password."""

    browser: httpx.Client
    response: httpx.Response
    asked: bool


class ProofContext(Protocol):
    @property
    def plan(self) -> Plan: ...

    @property
    def outputs(self) -> StackOutputs: ...

    @property
    def service(self) -> str:
        """The service whose proof this is."""
        ...

    @property
    def prefix(self) -> str:
        """What the names of all throw-away people, past and present, start with."""
        ...

    @property
    def address(self) -> str:
        """Where the front door is reached from here: an IP address or a host name."""
        ...

    @property
    def user(self) -> Person:
        """The throw-away user. Made when first asked for, gone after the run, never an administrator."""
        ...

    def newcomer(self, password: str, *groups: str) -> Person:
        """Another throw-away user, who has logged in nowhere yet and is in these groups too. Gone after the run."""
        ...

    def realm(self) -> Mapping[str, Any]:
        """The realm as its administration describes it: Keycloak's RealmRepresentation."""
        ...

    def administered(self, path: str) -> Any:
        """What the realm's administration says at a path below the realm, JSON; None where nothing is."""
        ...

    def step(self, title: str) -> None:
        """Say what is tried next: it is named when it fails."""
        ...

    def note(self, text: str) -> None:
        """Say what was seen: it is shown behind the proof's title."""
        ...

    def url(self, route: str) -> str:
        """The public URL of a route of the stack, without a trailing slash."""
        ...

    def stranger(self) -> httpx.Client:
        """A new browser with nobody logged in. It finds every name of the stack and trusts the stack's CA only."""
        ...

    def login(self, start: str) -> Login:
        """Open `start` as the throw-away user, in one browser for all proofs, and log in where that is asked for."""
        ...

    def login_admin(self, start: str) -> Login:
        """Open `start` as the realm's administrator."""
        ...

    def authorize(self, url: str) -> httpx.Response:
        """Open `url` as the throw-away user, log in where asked, and stop at the redirect that leaves the issuer."""
        ...

    def run_job(self, name: str) -> str:
        """Run a job of the proof's own service again, for what no route leads to: its last line, or ProofError."""
        ...

    def exposed(self, port: int) -> str:
        """The stack's container that answers at a port of the host though the plan publishes no such thing; else ""."""
        ...

    def inside(self, container: str, argv: Sequence[str]) -> str:
        """What a program printed, run in one of the service's own containers: for what has no way in from outside.

        ProofError, with what it complained of, when it fails. argv can be seen on the machine: no secrets in it.
        """
        ...

    def wrote(self, container: str) -> str:
        """The last lines that one of the service's own containers wrote to its log."""
        ...


Result = TypeVar("Result")


def as_written(client: httpx.Client, base: str, path: str, method: str = "GET", **more: Any) -> httpx.Response:
    """The answer to a path exactly as it is written: httpx tidies `..` away in every URL it is given.

    base: the route's URL: whom to ask, and below which path the route is. more: as httpx.Client.request takes it.
    Redirects are not followed.
    Source: the extension `target`, https://www.encode.io/httpcore/extensions/#target
    """
    target = {"target": (httpx.URL(base).path.rstrip("/") + path).encode()}
    return client.request(method, base, extensions=target, follow_redirects=False, **more)


def as_owner(ctx: ProofContext, program: Path, **asked: object) -> Any:
    """What a service answers its owner: `program`, JavaScript for Node, asks it from inside its container `main`.

    asked: what the program takes, as JSON, with the owner's address added. No secret: the program reads that itself.
    """
    request = json.dumps({**asked, "owner": ctx.plan.settings.admin_email})
    return json.loads(ctx.inside("main", ("node", "-e", program.read_text(encoding="utf-8"), request)))


def expect(response: httpx.Response, status: int, what: str) -> httpx.Response:
    """`response`, when it has this status. ProofError says what was answered instead."""
    if response.status_code != status:
        words = " ".join(response.text.split())[:200]
        raise ProofError(f"{what}: {_path(response.request)} answered {response.status_code}: {words}")
    return response


def parsed(response: httpx.Response, what: str) -> Any:
    """The JSON of a 200 answer."""
    expect(response, 200, what)
    try:
        return response.json()
    except ValueError:
        raise ProofError(f"{what}: {_path(response.request)} answered no JSON") from None


def _path(request: httpx.Request) -> str:
    """The path that was asked for, as it was sent."""
    target: bytes | None = request.extensions.get("target")
    return target.decode() if target else request.url.path


def wait_for(look: Callable[[], Result | None], seconds: float, what: str) -> Result:
    """What `look` returns once that is not None. ProofError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise ProofError(f"{what} within {seconds:.0f} s")
        time.sleep(0.3)
