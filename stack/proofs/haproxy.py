"""The front door, as a browser meets it."""

from __future__ import annotations

import httpx

from stack.proofs import ports
from stack.proofs.context import ProofContext, ProofError, wait_for

closed = ports.only_published


def tls(ctx: ProofContext) -> None:
    """Each name has a certificate of the stack's CA, and plain HTTP leads there, path and query kept."""
    settings = ctx.plan.settings
    with ctx.stranger() as browser:
        browser.follow_redirects = False
        for owned in ctx.plan.routes:
            url, host = ctx.plan.origin(owned.item), ctx.plan.host_name(owned.item)
            ctx.step(f"certificate of {host}")
            page = f"{ctx.plan.url(owned.item)}/"
            wait_for(lambda page=page: _answered(browser, page), 60, f"{host} did not answer over TLS")
            ctx.step(f"plain HTTP to {host}")
            plain = browser.get(f"http://{host}:{settings.http_port}/a/page?with=query")
            if plain.status_code != 301 or plain.headers.get("location") != f"{url}/a/page?with=query":
                raise ProofError(
                    f"http://{host} answered {plain.status_code} {plain.headers.get('location', '')}, not a way to TLS"
                )
        ctx.step("a name that is not ours")
        other = f"no-such-name.{settings.domain}"
        unknown = browser.get(f"http://{other}:{settings.http_port}/")
        if unknown.status_code != 421:
            raise ProofError(f"http://{other} answered {unknown.status_code} instead of 421")


def _answered(browser: httpx.Client, page: str) -> bool | None:
    try:
        # Right after a start the front door may not have noticed yet that a service is ready.
        return True if browser.get(page).status_code != 503 else None
    except httpx.ConnectError as problem:
        if "certificate" in str(problem).lower():
            raise ProofError(f"the certificate does not verify: {problem}") from None
        return None
