"""Paths that should be closed are closed, however they are written."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urljoin

import httpx

from stack.derive import forward_auth
from stack.derive.values import route_named
from stack.plan import Plan
from stack.proofs.context import ProofContext, ProofError, as_written


def closed(ctx: ProofContext, route: str, asked: Iterable[tuple[str, str]]) -> None:
    """Nobody without a login is answered at these paths (method, path) of a route."""
    base = ctx.url(route)
    with ctx.stranger() as stranger:
        for method, path in asked:
            ctx.step(f"{method} {path} without a login")
            body: dict[str, object] = {"json": {}} if method == "POST" else {}
            answer = as_written(stranger, base, path, method, **body)
            if not refused(answer, ctx.outputs.issuer, login_start(ctx.plan)):
                raise ProofError(f"{path} answered {answer.status_code} to nobody in particular")


def login_start(plan: Plan) -> str:
    """Where the front door sends who has to log in. "" where nobody logs people in for others."""
    found = forward_auth.provider(plan)
    return plan.url(route_named(found[0].spec, found[1].route)) + found[1].start if found else ""


def refused(answer: httpx.Response, issuer: str, start: str = "") -> bool:
    """Whether an answer turns its caller away, or sends them to log in: to the issuer, or to `start`."""
    if answer.is_redirect:
        target = urljoin(str(answer.url), answer.headers["location"])
        return target.startswith(issuer.rstrip("/") + "/") or (bool(start) and target.partition("?")[0] == start)
    return answer.status_code in (400, 401, 403)
