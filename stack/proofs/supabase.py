"""Supabase as an app of one's own uses it: users by the service key, rows by a user's token, nothing without a key."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from stack.proofs.context import ProofContext, ProofError, as_written, expect, parsed

ROUTE = "supabase"
PROFILE = "kit_proof"  # the schema of the table that proofs write to
NOTE = "Whose is this? \"mine\" 'said' $1; DROP TABLE notes; -- \\ \n ünï ☂"
DOMAIN = "prove.invalid"


def rows(ctx: ProofContext) -> None:
    """Two users: each writes a row and finds it, sees nothing of the other's, and cannot write in the other's name."""
    admin = _key(ctx, "service-key")
    with _client(ctx, admin) as service, _user(ctx, service) as (one, first), _user(ctx, service) as (two, second):
        ctx.step("write a row as its owner")
        written = _only(expect(first.post("/rest/v1/notes", json={"body": NOTE}), 201, "write a row").json())
        if (written["owner"], written["body"]) != (one, NOTE):
            raise ProofError("the row came back changed")
        expect(second.post("/rest/v1/notes", json={"body": "of the other"}), 201, "write a row as the other")
        ctx.step("each reads")
        if [row["body"] for row in parsed(first.get("/rest/v1/notes"), "read rows")] != [NOTE]:
            raise ProofError("the owner does not see exactly the row that is theirs")
        if [row["owner"] for row in parsed(second.get("/rest/v1/notes"), "read rows")] != [two]:
            raise ProofError("a user sees rows of somebody else")
        seen = parsed(second.get("/rest/v1/notes", params={"id": f"eq.{written['id']}"}), "ask for the other's row")
        if seen:
            raise ProofError("a user sees somebody else's row who knows its number")
        ctx.step("write in somebody else's name")
        expect(second.post("/rest/v1/notes", json={"owner": one, "body": "forged"}), 403, "write in another's name")
        ctx.step("remove somebody else's row")
        second.delete("/rest/v1/notes", params={"id": f"eq.{written['id']}"})
        if len(parsed(first.get("/rest/v1/notes"), "read rows")) != 1:
            raise ProofError("a user removed somebody else's row")
        ctx.step("read with the public key alone")
        with _client(ctx, _key(ctx, "anon-key")) as anybody:
            answer = anybody.get("/rest/v1/notes")
            if answer.status_code not in (401, 403):
                raise ProofError(f"nobody reads the rows of users: {answer.status_code}")
        ctx.note("2 users, 2 rows, each their own")


def closed(ctx: ProofContext) -> None:
    """Without one of the two keys the gateway answers nothing; with the public one, nobody becomes a user."""
    anon = _key(ctx, "anon-key")
    with _client(ctx) as stranger:
        for path in ("/rest/v1/notes", "/rest/v1/", "/auth/v1/admin/users", "/auth/v1/settings", "/auth/v1/verify/"):
            ctx.step(f"{path} without a key")
            expect(stranger.get(path), 401, "a call without a key")
        ctx.step("a key that is not the stack's")
        wrong = {"apikey": anon[:-4] + ("AAAA" if anon[-4:] != "AAAA" else "BBBB")}
        expect(stranger.get("/rest/v1/notes", headers=wrong), 401, "a call with a wrong key")
        for path in ("/pg/tables", "/", "/auth/v1", "/auth/v1/../../metrics", "//auth/v1/settings"):
            ctx.step(f"{path}")
            answer = as_written(stranger, ctx.url(ROUTE), path, headers={"apikey": anon})
            if answer.status_code not in (401, 403, 404):
                raise ProofError(f"{path} answered {answer.status_code}")
        ctx.step("where the login leads")
        login = stranger.get("/auth/v1/authorize", params={"provider": "keycloak"}, follow_redirects=False)
        location: str = login.headers.get("location", "")
        target = urlsplit(location)
        redirect = parse_qs(target.query).get("redirect_uri", [""])[0]
        if not location.startswith(ctx.outputs.issuer + "/"):
            raise ProofError(f"the login leads to {target.netloc or 'nowhere'}, not to this stack's")
        if redirect != f"{ctx.url(ROUTE)}/auth/v1/callback":
            raise ProofError(f"the login would come back to {redirect or 'nowhere'}")
    with _client(ctx, anon) as client:
        ctx.step("sign up as a stranger")
        asked = {"email": f"{ctx.prefix}stranger@{DOMAIN}", "password": secrets.token_urlsafe(18)}
        refused = client.post("/auth/v1/signup", json=asked)
        if refused.status_code < 400:
            raise ProofError("a stranger made a user")
        ctx.step("administer with the public key")
        answer = client.get("/auth/v1/admin/users")
        if answer.status_code not in (401, 403):
            raise ProofError(f"the public key administers: {answer.status_code}")


def cleanup(ctx: ProofContext) -> None:
    """Remove the users of this and of interrupted runs, and their rows."""
    with _client(ctx, _key(ctx, "service-key")) as service:
        for user in _users(service):
            if str(user.get("email", "")).startswith(ctx.prefix):
                _remove(service, user["id"])


def _key(ctx: ProofContext, name: str) -> str:
    try:
        return ctx.outputs.keys[f"{ctx.service}/{name}"]
    except KeyError:
        raise ProofError(f"the stack hands out no {name}; run ./kit up once more") from None


@contextmanager
def _client(ctx: ProofContext, key: str = "", token: str = "") -> Generator[httpx.Client]:
    """An app: the key it was made with, and the token of who uses it."""
    with ctx.stranger() as client:
        client.base_url = httpx.URL(ctx.url(ROUTE))
        client.headers.update(
            {"Accept-Profile": PROFILE, "Content-Profile": PROFILE, "Prefer": "return=representation"}
        )
        if key:
            client.headers["apikey"] = key
        if token:
            client.headers["Authorization"] = f"Bearer {token}"
        yield client


@contextmanager
def _user(ctx: ProofContext, service: httpx.Client) -> Generator[tuple[str, httpx.Client]]:
    """A user that the service key makes, who then logs in: its id and its app. Gone afterwards, rows included."""
    ctx.step("make a user and log in")
    email, password = f"{ctx.prefix}{secrets.token_hex(6)}@{DOMAIN}", secrets.token_urlsafe(24)
    asked = {"email": email, "password": password, "email_confirm": True}
    user = parsed(service.post("/auth/v1/admin/users", json=asked), "make a user")
    try:
        anon = _key(ctx, "anon-key")
        with _client(ctx, anon) as app:
            wrong = app.post("/auth/v1/token?grant_type=password", json={"email": email, "password": "x" * 24})
            expect(wrong, 400, "log in with a wrong password")
            form = {"email": email, "password": password}
            token = parsed(app.post("/auth/v1/token?grant_type=password", json=form), "log in")["access_token"]
        with _client(ctx, anon, token) as client:
            whose = parsed(client.get("/auth/v1/user"), "ask who one is")
            if (whose["id"], whose["email"]) != (user["id"], email):
                raise ProofError("the token is somebody else's")
            yield user["id"], client
    finally:
        _remove(service, user["id"])


def _users(service: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for page in range(1, 1000):
        some = parsed(service.get("/auth/v1/admin/users", params={"page": page, "per_page": 200}), "list users")[
            "users"
        ]
        found += some
        if len(some) < 200:
            break
    return found


def _remove(service: httpx.Client, user: str) -> None:
    answer = service.delete("/rest/v1/notes", params={"owner": f"eq.{user}"})
    expect(answer, 200, "remove a user's rows")
    if service.delete(f"/auth/v1/admin/users/{user}").status_code not in (200, 204, 404):
        raise ProofError("a user could not be removed")


def _only(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if len(rows) != 1:
        raise ProofError(f"{len(rows)} rows came back for one that was written")
    return rows[0]
