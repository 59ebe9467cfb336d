"""Logging in, as a person does: the form, the redirect, the code, the token."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from urllib.parse import parse_qs, urlencode, urlsplit

from stack.proofs import ports
from stack.proofs.context import ProofContext, ProofError, expect, parsed

# The realm's own public client for the account page.
CLIENT = "account-console"


def login(ctx: ProofContext) -> None:
    """A new user logs in by an authorization code with PKCE, and the token says who it is."""
    issuer = ctx.outputs.issuer
    ctx.step("the issuer describes itself")
    with ctx.stranger() as stranger:
        described = parsed(stranger.get(f"{issuer}/.well-known/openid-configuration"), "the issuer's description")
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
    ctx.step("the credential of the first start, once more")
    said = ctx.run_job("administration")
    if "administers alone" not in said:
        raise ProofError(f"{said}. Whoever that is: docs/services/keycloak.md says how to look and what to do")


def _claims(token: str) -> dict[str, object]:
    """The claims of a token that came straight from the issuer over verified TLS, which is why no signature is read."""
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
