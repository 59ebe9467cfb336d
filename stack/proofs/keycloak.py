"""Logging in, as a person does: the form, the redirect, the code, the token."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urljoin, urlsplit

import httpx

from stack.proofs import ports
from stack.proofs.context import ProofContext, ProofError, expect, parsed
from stack.realm import ADMIN_GROUP, BROWSER_FLOW, LoginTheme, SecondFactor

# The realm's own public client for the account page.
CLIENT = "account-console"
MAX_SKEW_S = 30  # one step of an authenticator app's codes


def login(ctx: ProofContext) -> None:
    """A new user logs in by an authorization code with PKCE, and the token says who it is."""
    issuer = ctx.outputs.issuer
    ctx.step("the issuer describes itself")
    with ctx.stranger() as stranger:
        answer = stranger.get(f"{issuer}/.well-known/openid-configuration")
        described = parsed(answer, "the issuer's description")
        right_time(answer)
        if described["issuer"] != issuer:
            raise ProofError(f"the issuer calls itself {described['issuer']}, not {issuer}")
        ctx.step("the login form takes the password")
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        redirect, state = f"{issuer}/account/", secrets.token_urlsafe(16)
        query = urlencode(
            {
                "client_id": CLIENT,
                "redirect_uri": redirect,
                "response_type": "code",
                "scope": "openid",
                "state": state,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        answer = ctx.authorize(f"{described['authorization_endpoint']}?{query}")
        returned = parse_qs(urlsplit(str(answer.headers.get("location", ""))).query)
        if returned.get("state") != [state] or "code" not in returned:
            raise ProofError("the login did not lead back with a code")
        ctx.step("the code buys a token")
        token = parsed(
            stranger.post(
                described["token_endpoint"],
                data={
                    "grant_type": "authorization_code",
                    "client_id": CLIENT,
                    "redirect_uri": redirect,
                    "code": returned["code"][0],
                    "code_verifier": verifier,
                },
            ),
            "the token endpoint",
        )
        claims = _claims(token["id_token"])
        if claims.get("preferred_username") != ctx.user.username or claims.get("iss") != issuer:
            raise ProofError("the token names somebody else")


def second_factor(ctx: ProofContext) -> None:
    """An administrator does not get in by a password alone, where the stack wants more, and no way leads around it."""
    wanted = ctx.plan.settings.second_factor
    ctx.step("the realm logs people in by the stack's own flow")
    flow = ctx.realm().get("browserFlow")
    if flow != BROWSER_FLOW:
        raise ProofError(
            f"people log in by the flow {flow!r}, which asks administrators for a password alone: ./kit up"
        )
    password = secrets.token_urlsafe(24) + "aA1!"
    person = ctx.newcomer(password, ADMIN_GROUP)
    ctx.step("a password alone buys no token")
    with ctx.stranger() as stranger:
        said = {"grant_type": "password", "client_id": "admin-cli", "username": person.username, "password": password}
        answer = stranger.post(f"{ctx.outputs.issuer}/protocol/openid-connect/token", data=said)
        if answer.status_code not in (400, 401, 403) or "access_token" in answer.text:
            raise ProofError(f"a password alone was answered {answer.status_code}, and not refused")
    if wanted is SecondFactor.OPTIONAL:
        ctx.note("asked of nobody: secondFactor is optional")
        return
    ctx.step("a new administrator is asked for a second factor")
    with ctx.stranger() as stranger:
        form = login_page(ctx, stranger)
        found = re.search(r'id="kc-form-login"[^>]*action="([^"]+)"', form.text)
        if not found:
            raise ProofError("there is no login form")
        said = {"username": person.username, "password": password, "credentialId": ""}
        page = stranger.post(unescape(found[1]), data=said)
        if "kc-totp-settings-form" not in page.text:
            raise ProofError(f"an administrator got to {page.url.host}{page.url.path} without a second factor")


def face(ctx: ProofContext) -> None:
    """The login's page bears the stack's title and, where it is asked for, the stack's own style sheet."""
    settings = ctx.plan.settings
    with ctx.stranger() as stranger:
        ctx.step("the title of the page")
        page = expect(login_page(ctx, stranger), 200, "the login's page")
        if settings.login_title not in unescape(page.text):
            raise ProofError(f"the login's page does not say {settings.login_title!r}: ./kit up")
        ctx.step("its style sheet")
        sheet = re.search(r'href="([^"]+/css/kit\.css)"', page.text)
        if (sheet is not None) != (settings.login_theme is LoginTheme.KIT):
            raise ProofError(f"the login's page is not of the theme {settings.login_theme}: ./kit up")
        if sheet:
            expect(stranger.get(urljoin(str(page.url), unescape(sheet[1]))), 200, "the page's style sheet")


def login_page(ctx: ProofContext, stranger: httpx.Client) -> httpx.Response:
    """What somebody sees who goes to the account page and is not logged in. Nobody knows the verifier of the code."""
    query = {
        "client_id": CLIENT,
        "redirect_uri": f"{ctx.outputs.issuer}/account/",
        "response_type": "code",
        "scope": "openid",
        "code_challenge": secrets.token_urlsafe(32),
        "code_challenge_method": "S256",
    }
    return stranger.get(f"{ctx.outputs.issuer}/protocol/openid-connect/auth?{urlencode(query)}")


def right_time(answer: httpx.Response, now: float | None = None) -> None:
    """That the server's clock and this one agree: certificates, tokens and the codes of apps all hang on the time."""
    said = answer.headers.get("date")
    if not said:
        return
    ahead = parsedate_to_datetime(said).timestamp() - (time.time() if now is None else now)
    if abs(ahead) > MAX_SKEW_S:
        which = "ahead of" if ahead > 0 else "behind"
        raise ProofError(
            f"the stack's clock is {abs(ahead):.0f} s {which} this machine's: one of them is wrong, and tokens and the"
            " codes of authenticator apps are refused then. On both: timedatectl set-ntp true"
        )


def closed(ctx: ProofContext) -> None:
    """Health and metrics have no way out, whatever the path is dressed as."""
    base = ctx.outputs.issuer.split("/realms/")[0]
    with ctx.stranger() as stranger:
        for path in ("/metrics", "/health", "/health/ready", "//metrics", "/%6detrics"):
            ctx.step(f"{path} at the front door")
            expect(stranger.get(base + path), 403, "this should be closed")
        ctx.step("the administration without a token")
        expect(stranger.get(f"{base}/admin/realms/{ctx.outputs.realm}/users"), 401, "this should be closed")
    ports.closed(ctx)


def administration(ctx: ProofContext) -> None:
    """The credential that Keycloak was first started with opens nothing, and nobody else administers it.

    Asked by the job that retired it, which has that credential and tries it once more.
    """
    ctx.step("whether Keycloak answers")  # the job would wait for it
    with ctx.stranger() as stranger:
        expect(stranger.get(ctx.outputs.issuer), 200, "Keycloak should answer")
    ctx.step("the credential of the first start, once more")
    said = ctx.run_job("administration")
    if "administers alone" not in said:
        raise ProofError(f"{said}. Whoever that is: docs/services/keycloak.md says how to look and what to do")


def own_clients(ctx: ProofContext) -> None:
    """Keycloak's own clients give no token for a password, no code without PKCE, and nothing that outlives a logout."""
    ctx.step("what the realm's own clients have")
    said = ctx.run_job("realm")
    if "no more" not in said:
        raise ProofError(said)
    with ctx.stranger() as stranger:
        ctx.step("admin-cli asks for a token by a password")
        form = {"grant_type": "password", "client_id": "admin-cli", "username": "nobody", "password": "none"}
        answer = stranger.post(f"{ctx.outputs.issuer}/protocol/openid-connect/token", data=form)
        if "unauthorized_client" not in answer.text:
            raise ProofError(f"a password was answered {answer.status_code}, and not that admin-cli may send none")
        ctx.step("a code without PKCE")
        query = {"client_id": "account", "redirect_uri": f"{ctx.outputs.issuer}/account/", "response_type": "code"}
        address = f"{ctx.outputs.issuer}/protocol/openid-connect/auth"
        answer = stranger.get(address, params=query, follow_redirects=False)
        if "error=invalid_request" not in answer.headers.get("location", ""):
            raise ProofError(f"a login without PKCE was answered {answer.status_code}")


def management(ctx: ProofContext) -> None:
    """Nobody of the realm may change it: the configuration gives nobody such a right, who has one got it by hand.

    Looked for is whatever leads to a role of realm-management: a person or a service's account that has it, a group, a
    role that contains it; and the permissions that an administrator can give without any role.
    """
    ctx.step("permissions by hand")
    if ctx.realm().get("adminPermissionsEnabled"):
        raise ProofError(f"the realm hands out permissions of administrators to people. {_TAKE_AWAY}")
    ctx.step("who has a role of realm-management")
    clients: list[dict[str, Any]] = ctx.administered("/clients?max=10000") or []
    management = next((client["id"] for client in clients if client["clientId"] == "realm-management"), None)
    if management is None:
        return
    found: set[str] = set()
    for role in ctx.administered(f"/clients/{management}/roles?max=1000"):
        for kind, name in (("users", "username"), ("groups", "name")):
            path = f"/clients/{management}/roles/{quote(role['name'], safe='')}/{kind}?max=1000"
            holders: list[dict[str, Any]] = ctx.administered(path) or []
            found |= {f"{kind[:-1]} {each[name]} ({role['name']})" for each in holders}
    ctx.step("which roles contain one")
    others = [f"/clients/{client['id']}/roles" for client in clients if client["id"] != management]
    for path in ("/roles", *others):
        roles: list[dict[str, Any]] = ctx.administered(f"{path}?max=1000") or []
        for role in roles:
            if role.get("composite") and ctx.administered(f"/roles-by-id/{role['id']}/composites/clients/{management}"):
                found.add(f"role {role['name']}")
    if found:
        raise ProofError(f"the realm can be changed by {', '.join(sorted(found))}. {_TAKE_AWAY}")


_TAKE_AWAY = "The configuration gives nobody that: docs/services/keycloak.md says how to look and how to take it away"


def _claims(token: str) -> dict[str, object]:
    """The claims of a token that came straight from the issuer over verified TLS, which is why no signature is read."""
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
