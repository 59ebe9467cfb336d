"""The login in front of routes whose services have none: asked for, believed by nobody's word, and open to who may."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote, urljoin, urlsplit

import httpx

from stack.derive import forward_auth, waf
from stack.model import PEOPLE, Route
from stack.proofs import paths, ports
from stack.proofs.context import ProofContext, ProofError, as_written, expect, wait_for

PAGE = {"Accept": "text/html,application/xhtml+xml"}
PROGRAM = {"Accept": "application/json"}
# What other front doors tell services of a person, however it is spelled.
FORGED = (
    {"X-Forwarded-User": "admin-user", "X-Forwarded-Email": "{admin}", "X-Forwarded-Groups": "admins"},
    {"x-forwarded-email": "{admin}", "X-FORWARDED-GROUPS": "admins,users"},
    {"X_Forwarded_Email": "{admin}", "X_Forwarded_Groups": "admins"},
    {"X-Auth-Request-Email": "{admin}", "X-Auth-Request-Groups": "admins", "X-Auth-Request-User": "admin-user"},
    {"X-Kit-Voucher": "0" * 64, "X-Forwarded-Email": "{admin}"},
    {"Remote-User": "admin-user", "Remote_Groups": "admins", "GAP-Auth": "{admin}"},
    {"X-Forwarded-Uri": "/webhook/x", "X-Original-URL": "/webhook/x", "X-Rewrite-URL": "/webhook/x"},
    {"Authorization": "Bearer e30.e30.x", "X-Forwarded-For": "127.0.0.1"},
    {"User-Agent": "GoogleHC/1.0"},
)


def asked(ctx: ProofContext) -> None:
    """Nobody in particular is led to the login by every such route, or told 401, whatever they claim to be."""
    routes = forward_auth.guarded(ctx.plan)
    start = _start(ctx)
    with ctx.stranger() as stranger:
        for route in (owned.item for owned in routes):
            base = ctx.url(route.name)
            ctx.step(f"{route.name}: a page, without a login")
            answer = _settled(lambda base=base: stranger.get(f"{base}/", headers=PAGE, follow_redirects=False))
            back = f"{start}?rd={quote(base + '/', safe='')}"
            if answer.status_code != 302 or _plain(answer.headers["location"]) != _plain(back):
                raise ProofError(f"{base} answered {answer.status_code}, and not with the way to the login")
            ctx.step(f"{route.name}: a program, without a login")
            expect(stranger.get(f"{base}/", headers=PROGRAM), 401, "nobody is logged in")
            expect(stranger.post(f"{base}/", headers=PAGE, follow_redirects=False), 401, "nobody is logged in")
            for number, headers in enumerate(_forged(ctx, route)):
                ctx.step(f"{route.name}: claim {number + 1} of {len(FORGED) + 2}")
                answer = stranger.get(f"{base}/", headers={**PROGRAM, **headers}, follow_redirects=False)
                expect(answer, 401, f"believed {' '.join(headers)}")
    ctx.note(f"{', '.join(owned.item.name for owned in routes)}: {len(FORGED) + 2} claims each")


def roles(ctx: ProofContext) -> None:
    """A person without the role is told so; the administrator gets in, with one login for all of these routes."""
    start = _start(ctx)
    logins = 0
    for owned in forward_auth.guarded(ctx.plan):
        route, base = owned.item, ctx.url(owned.item.name) + "/"
        ctx.step(f"{route.name} as a person without a role")
        login = ctx.login(base)
        logins += login.asked
        may = PEOPLE in forward_auth.groups(route)
        refused = login.response.status_code == 403 and "no role" in login.response.text
        if refused == may:
            raise ProofError(f"a person in no group but {PEOPLE} was answered {login.response.status_code} by {base}")
        ctx.step(f"{route.name} as the administrator")
        answer = _settled(lambda base=base: ctx.login_admin(base).response)
        if answer.status_code in (401, 403, 503) or not str(answer.url).startswith(base):
            raise ProofError(
                f"the administrator was answered {answer.status_code} at {answer.url.copy_with(query=None)}"
            )
    if logins > 1:
        raise ProofError(f"the person had to log in {logins} times")
    ctx.note(f"{'one login' if logins else 'logged in already'}, led through {urlsplit(start).hostname}")


def closed(ctx: ProofContext) -> None:
    """A login leads back to the stack's own addresses alone; what it tells the front door is for nobody else."""
    start, home = _start(ctx), _start(ctx).rpartition("/oauth2/")[0]
    with ctx.stranger() as stranger:
        for target in _elsewhere(ctx):
            ctx.step(f"a login that should lead to {target}")
            answer = stranger.get(f"{start}?rd={quote(target, safe='')}", follow_redirects=False)
            # Some of these look like an attack to the firewall, and no login starts at all.
            if not _refused(answer) and _leaves(ctx, _back(expect(answer, 302, "a login should start"))):
                raise ProofError(f"a login would lead to {target} afterwards")
            ctx.step(f"a logout that should lead to {target}")
            gone = stranger.get(f"{home}/oauth2/sign_out?rd={quote(target, safe='')}", follow_redirects=False)
            if _leaves(ctx, gone.headers.get("location", "")):
                raise ProofError(f"a logout leads to {target}")
        for path in ("/oauth2/auth", "/oauth2/userinfo", "/oauth2/../oauth2/auth", "/ping", "/ready", "/metrics"):
            ctx.step(f"{path} from outside")
            expect(as_written(stranger, home, path), 403, f"{path} is for the front door")
    ports.closed(ctx)


def _start(ctx: ProofContext) -> str:
    found = paths.login_start(ctx.plan)
    if not found:
        raise ProofError("no service of this stack logs people in for others")
    return found


def _forged(ctx: ProofContext, route: Route) -> Iterator[Mapping[str, str]]:
    admin = ctx.plan.settings.admin_email
    for headers in FORGED:
        yield {name: value.format(admin=admin) for name, value in headers.items()}
    cookie = _cookie(ctx)
    yield {"Cookie": f"{cookie}={secrets.token_urlsafe(40)}"}
    yield {"Cookie": f"{cookie}=djIuZTMw|{2**31}|{secrets.token_urlsafe(32)}; n8n-auth={secrets.token_urlsafe(9)}"}


def _cookie(ctx: ProofContext) -> str:
    found = forward_auth.provider(ctx.plan)
    return found[1].cookie if found else ""


def _elsewhere(ctx: ProofContext) -> tuple[str, ...]:
    routes = [ctx.url(owned.item.name) for owned in forward_auth.guarded(ctx.plan)]
    host = urlsplit(next(iter(routes), _start(ctx))).netloc
    return (
        "https://example.org/",
        "//example.org/",
        "/\\example.org/",
        "/\t/example.org/",
        f"https://{host}@example.org/",
        f"https://{host}.example.org/",
        f"https://example.org:443/{host}",
        "https://example.org#" + host,
        "javascript:location='https://example.org'",
        f"http://example.org%2f@{host}/",
    )


def _refused(answer: httpx.Response) -> bool:
    return answer.status_code == 403 and waf.REFUSED in answer.headers


def _back(answer: httpx.Response) -> str:
    """Where a login would lead back to: what its state says."""
    state = httpx.URL(answer.headers["location"]).params.get("state", "")
    return base64.urlsafe_b64decode(state + "=" * (-len(state) % 4)).decode().partition(":")[2]


def _leaves(ctx: ProofContext, target: str) -> bool:
    """Whether a browser that is sent there leaves the stack. It takes a backslash for a slash, and tabs for nothing."""
    home = _start(ctx)
    led = urlsplit(urljoin(home, target.replace("\\", "/").replace("\t", "")))
    own = {urlsplit(url).hostname for url in (home, *ctx.outputs.urls.values())}
    return led.scheme not in ("http", "https") or led.hostname not in own


def _settled(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """The answer once it is not 503: the front door looks only every few seconds whether a service is there."""

    def settled() -> httpx.Response | None:
        answer = ask()
        return None if answer.status_code == 503 else answer

    return wait_for(settled, 30, "the front door answers 503, and goes on with it")


def _plain(url: str) -> str:
    """A URL in which it makes no difference what of its query was percent-encoded."""
    return str(httpx.URL(url).params)
