"""Pipelines, as a person finds them: by the stack's login, with what their role may do there."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import httpx

from stack.proofs import paths
from stack.proofs.context import ProofContext, ProofError, expect, parsed

ROUTE = "jenkins"
PREFIX = "/jenkins"
START = f"{PREFIX}/securityRealm/commenceLogin?" + urlencode({"from": f"{PREFIX}/whoAmI/"})

CLOSED = tuple(
    ("GET", PREFIX + path)
    for path in ("/", "/api/json", "/computer/", "/manage/", "/script", "/configuration-as-code/")
)


def login(ctx: ProofContext) -> None:
    """A person without a role is known and sees nothing; the administrator administers."""
    base = ctx.url(ROUTE) + PREFIX
    ctx.step("log in as a person without a role")
    session = ctx.login(ctx.url(ROUTE) + START).browser
    mine = _known(session, base, ctx.user.username)
    if "admin" in mine:
        raise ProofError("somebody without a role is an administrator")
    ctx.step("what such a person sees")
    expect(session.get(f"{base}/api/json"), 403, "a person without a role")
    ctx.step("log in as the administrator")
    admin = ctx.login_admin(ctx.url(ROUTE) + START).browser
    if "admin" not in _known(admin, base, ctx.outputs.admin_user):
        raise ProofError("the administrator has no right here: the role did not arrive")
    view = parsed(admin.get(f"{base}/computer/api/json"), "the list of agents")
    if any(each["numExecutors"] for each in view["computer"] if each["_class"].endswith("MasterComputer")):
        raise ProofError("builds would run beside Jenkins's secrets: it has executors of its own")
    ctx.note("roles arrive; nothing is built beside the secrets")


def closed(ctx: ProofContext) -> None:
    """Nobody without a login sees anything."""
    paths.closed(ctx, ROUTE, CLOSED)


def path(ctx: ProofContext) -> None:
    """The domain's path, and the front page of the host, lead to the one address, and to no other."""
    one = ctx.url(ROUTE)
    domain = one.replace(f"//{ROUTE}.", "//", 1)
    with ctx.stranger() as stranger:
        stranger.follow_redirects = False
        leads = {
            f"{one}/": f"{one}{PREFIX}/",
            f"{domain}{PREFIX}": f"{one}{PREFIX}",
            f"{domain}{PREFIX}/login?from=%2Fx&y=1": f"{one}{PREFIX}/login?from=%2Fx&y=1",
        }
        for asked, wanted in leads.items():
            ctx.step(f"where {asked} leads")
            found = expect(stranger.get(asked), 307, "it should lead on").headers["location"]
            if found != wanted:
                raise ProofError(f"{asked} leads to {found}")
        for asked in (f"{domain}/", f"{domain}{PREFIX}s/", f"{one}/manage/"):
            ctx.step(f"{asked}, where nothing is")
            expect(stranger.get(asked), 404, "nothing should be there")


def _known(session: httpx.Client, base: str, username: str) -> tuple[str, ...]:
    """The authorities of who is logged in there. ProofError when that is somebody else."""
    who: dict[str, Any] = parsed(session.get(f"{base}/whoAmI/api/json"), "who is logged in")
    if str(who["name"]).lower() != username.lower():
        raise ProofError(f"{username} logged in, and Jenkins says {who['name']}")
    return tuple(str(each) for each in who["authorities"])
