"""The front door, as a browser meets it."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx

from stack.certificates import ALERT_DAYS
from stack.proofs import ports
from stack.proofs.context import ProofContext, ProofError, wait_for
from stack.proofs.presented import presented

closed = ports.only_published


def lasts(ctx: ProofContext) -> None:
    """What is shown outside is for every name, and does not end soon."""
    seen = ""
    for host in ctx.plan.host_names:
        ctx.step(f"certificate of {host}")
        found = presented(ctx.address, ctx.plan.settings.https_port, host)
        days = found.days_left(datetime.now(UTC))
        if not found.covers(host):
            raise ProofError(f"the certificate is for {', '.join(found.names)}")
        if days < ALERT_DAYS:
            raise ProofError(f"the certificate of {found.issuer_title} ends in {days:.1f} days: it was not renewed")
        seen = f"{days:.0f} days left, signed by {found.issuer_title}"
    if seen:
        ctx.note(seen)


def tls(ctx: ProofContext) -> None:
    """Each name has a certificate that verifies, and plain HTTP leads there, path and query kept."""
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
