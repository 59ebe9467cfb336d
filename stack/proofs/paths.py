"""Paths that should be closed are closed, however they are written."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urljoin

import httpx

from stack.proofs.context import ProofContext, ProofError, as_written


def closed(ctx: ProofContext, route: str, asked: Iterable[tuple[str, str]]) -> None:
    """Nobody without a login is answered at these paths (method, path) of a route."""
    base = ctx.url(route)
    with ctx.stranger() as stranger:
        for method, path in asked:
            ctx.step(f"{method} {path} without a login")
            body: dict[str, object] = {"json": {}} if method == "POST" else {}
            answer = as_written(stranger, base, path, method, **body)
            if not refused(answer, ctx.outputs.issuer):
                raise ProofError(f"{path} answered {answer.status_code} to nobody in particular")


def refused(answer: httpx.Response, issuer: str) -> bool:
    """Whether an answer turns its caller away, or sends them to the issuer to log in."""
    if answer.is_redirect:
        return urljoin(str(answer.url), answer.headers["location"]).startswith(issuer.rstrip("/") + "/")
    return answer.status_code in (400, 401, 403)
