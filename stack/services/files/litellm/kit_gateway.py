"""The kit's part of the unified API, inside LiteLLM's own process: who may ask, how often, and what it came to.

LiteLLM's keys and users need its licensed build or a database engine that is downloaded at build time. This needs
neither: LiteLLM's hooks for authentication and logging, Keycloak for people, and kit_store for keys and usage.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx
import jwt
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from kit_store import PREFIX, AwayError, Key, RefusedError, Store
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import LitellmUserRoles, UserAPIKeyAuth
from litellm.proxy.proxy_server import app
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from pydantic import BaseModel
from starlette.routing import Route

log = logging.getLogger("kit")
Result = TypeVar("Result")

URL = os.environ["KIT_URL"]
ISSUER = os.environ["KIT_ISSUER"]
CLIENT = os.environ["KIT_CLIENT_ID"]
CLIENT_SECRET = os.environ["KIT_CLIENT_SECRET"]
SESSION_KEY = os.environ["KIT_SESSION_KEY"]
MASTER_KEY = os.environ["LITELLM_MASTER_KEY"]
RATE = int(os.environ["KIT_RATE"])
WEBHOOK = os.environ["KIT_WEBHOOK"]
# What a key or a token opens; the front door lets nothing else in. KIT_PATHS is the same list.
MODEL_PATHS = frozenset(os.environ["KIT_PATHS"].split())

SESSION, LOGIN = "__Host-kit-session", "__Host-kit-login"
SESSION_S, LOGIN_S = 3600, 600
LOGOUT_S = 300  # how old the news of a logout may be
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
KEYS_AGAIN_S = 30  # an unknown key id may make us ask the issuer this often, whoever sends it
ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]

_store = Store(os.environ["KIT_DATABASE"])


@dataclass(frozen=True)
class Person:
    sub: str
    name: str
    admin: bool


async def stored(method: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
    """Ask the store without stopping other requests meanwhile. 503 when its database is away."""
    try:
        return await asyncio.to_thread(method, *arguments, **named)
    except AwayError as away:
        log.warning("the database of keys and usage does not answer: %s", away)
        raise HTTPException(503, "Keys cannot be looked up right now. Please try again.") from None


# ------------------------------------------------------------------------------------------------ the issuer


class Issuer:
    """Keycloak's realm: its endpoints and signing keys, asked for when first needed and when they change."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = asyncio.Lock()
        self._endpoints: dict[str, Any] = {}
        self._keys: dict[str, Any] = {}
        self._asked = float("-inf")
        self._trust = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))
        # Chain and name are verified; that a CA states every extension RFC 5280 asks for, as Python 3.13 wants, is not.
        self._trust.verify_flags &= ~ssl.VERIFY_X509_STRICT

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=self._trust, timeout=10, trust_env=False)

    async def endpoint(self, name: str) -> str:
        if not self._endpoints:
            async with self.client() as client:
                answer = await client.get(f"{self._url}/.well-known/openid-configuration")
            found = answer.raise_for_status().json()
            if found.get("issuer") != self._url:
                raise ValueError(f"the issuer calls itself {found.get('issuer')}, not {self._url}")
            self._endpoints = found
        return str(self._endpoints[name])

    async def _key(self, key_id: str) -> Any:
        async with self._lock:
            if key_id not in self._keys and time.monotonic() - self._asked > KEYS_AGAIN_S:
                self._asked = time.monotonic()
                async with self.client() as client:
                    answer = await client.get(await self.endpoint("jwks_uri"))
                found = jwt.PyJWKSet.from_dict(answer.raise_for_status().json())
                self._keys = {key.key_id: key for key in found.keys if key.public_key_use in (None, "sig")}
        return self._keys.get(key_id)

    async def claims(self, token: str, require: Sequence[str] = ("exp", "iat", "sub", "iss")) -> dict[str, Any]:
        """The claims of a token the issuer signed that has not ended. jwt.PyJWTError when it is none."""
        key = await self._key(str(jwt.get_unverified_header(token).get("kid")))
        if key is None:
            raise jwt.InvalidTokenError("signed by nobody we know")
        return jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            issuer=self._url,
            options={"require": [*require], "verify_aud": False},
            leeway=10,
        )


issuer = Issuer(ISSUER)


def _person(claims: dict[str, Any]) -> Person:
    roles = claims.get("roles")
    name = str(claims.get("preferred_username") or claims["sub"])
    return Person(sub=str(claims["sub"]), name=name, admin=isinstance(roles, list) and "admin" in roles)


async def _token_person(token: str) -> Person | None:
    """Whose access token this is, when it was made for this API."""
    try:
        claims = await issuer.claims(token)
    except jwt.PyJWTError:
        return None
    except (httpx.HTTPError, ValueError) as problem:
        log.warning("the issuer cannot be asked: %s", problem)
        raise HTTPException(503, "The login service does not answer. Please try again.") from None
    audience = claims.get("aud")
    meant = CLIENT in (audience if isinstance(audience, list) else [audience]) or claims.get("azp") == CLIENT
    # An ID token and a token for another application say who somebody is, not that they may ask here.
    return _person(claims) if meant and claims.get("typ") == "Bearer" else None


# ------------------------------------------------------------------------------------------ who may use models


async def authenticate(request: Request, api_key: str | None) -> UserAPIKeyAuth:
    """LiteLLM's hook for every path that it protects. Anything but the models is the master key's alone."""
    api_key = api_key or ""
    if api_key and hmac.compare_digest(api_key.encode(), MASTER_KEY.encode()):
        return UserAPIKeyAuth(api_key=api_key, user_id="master", user_role=LitellmUserRoles.PROXY_ADMIN)
    if request.url.path not in MODEL_PATHS:
        raise HTTPException(403, "This address is not for keys of people.")
    key: Key | None = None
    person: Person | None = None
    if api_key.startswith(PREFIX):
        key = await stored(_store.find, api_key)
        person = Person(key.sub, key.name, admin=False) if key else None
    elif api_key.count(".") == 2:
        person = await _token_person(api_key)
        if person:
            await stored(_store.remember, person.sub, person.name)
    if person is None:
        raise HTTPException(401, f"A key or token is needed that is valid. Keys are made at {URL}/me")
    return UserAPIKeyAuth(
        # What LiteLLM counts rates by: never the key itself.
        api_key=f"kit-{key.id}" if key else f"kit-{hashlib.sha256(person.sub.encode()).hexdigest()[:16]}",
        key_alias=key.id if key else "",
        user_id=person.sub,
        user_role=LitellmUserRoles.INTERNAL_USER,
        rpm_limit=key.rate if key else None,
        user_rpm_limit=RATE or None,
    )


# ---------------------------------------------------------------------------------------------- what it came to


class Recorder(CustomLogger):
    """Counts what each person used, and tells the webhook what an operator wants to know."""

    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: dict, call_type: str) -> dict:
        # Who asks what another person asked gets an answer of their own: the cache tells nobody about others.
        wish = data.get("cache")
        own = {"namespace": f"kit-{user_api_key_dict.user_id}"}
        data["cache"] = {**wish, **own} if isinstance(wish, dict) else own
        return data

    async def async_log_success_event(self, kwargs: dict, response_obj: Any, start_time: Any, end_time: Any) -> None:
        payload = kwargs.get("standard_logging_object") or {}
        meta = payload.get("metadata") or {}
        sub = meta.get("user_api_key_user_id")
        if not sub or sub == "master":
            return
        cached = bool(payload.get("cache_hit"))
        if not cached and payload.get("model_group") in _models():
            SECONDS.labels(payload["model_group"]).observe((end_time - start_time).total_seconds())
        await stored(
            _store.count,
            sub,
            meta.get("user_api_key_alias") or "",
            str(payload.get("model_group") or payload.get("model") or "?"),
            requests=1,
            cached=int(cached),
            prompt_tokens=0 if cached else int(payload.get("prompt_tokens") or 0),
            completion_tokens=0 if cached else int(payload.get("completion_tokens") or 0),
        )

    async def async_post_call_failure_hook(
        self, request_data: dict, original_exception: Exception, user_api_key_dict: Any, *more: Any, **others: Any
    ) -> None:
        sub = getattr(user_api_key_dict, "user_id", None)
        if not sub or sub == "master":
            return
        status = _status(original_exception)
        limited = status == 429
        model = str(request_data.get("model") or "?")
        known = model if model in _models() else "?"  # whatever somebody writes there must not fill the file
        await stored(
            _store.count,
            sub,
            user_api_key_dict.key_alias or "",
            known,
            limited=int(limited),
            failed=int(not limited and status >= 500),
        )
        if limited or status >= 500:
            notify("limited" if limited else "failed", person=sub, model=known, status=status)


def _status(problem: Exception) -> int:
    status = getattr(problem, "status_code", None) or getattr(problem, "code", None)
    try:
        return int(status)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return 500


def _models() -> frozenset[str]:
    from litellm.proxy import proxy_server

    router = proxy_server.llm_router
    return frozenset(router.get_model_names()) if router else frozenset()


recorder = Recorder()


# LiteLLM's own metrics are left off: their labels hold what strangers write, such as models that are none and the names
# of browsers, and each of those would be a series for ever.
SECONDS = Histogram(
    "kit_api_seconds",
    "From a question's arrival to the end of its answer, by model",
    ["model"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)


class Totals:
    """kit_api_* in /metrics. Read from the store at each scrape, so that a restart loses nothing."""

    def collect(self) -> Any:
        requests = CounterMetricFamily(
            "kit_api_requests", "Requests by person and model", labels=["person", "model", "outcome"]
        )
        tokens = CounterMetricFamily("kit_api_tokens", "Tokens by person and model", labels=["person", "model", "kind"])
        try:
            rows = _store.totals()
        except AwayError:
            return  # no figures are better than old ones
        for row in rows:
            who = [row["name"], row["model"]]
            requests.add_metric([*who, "answered"], row["requests"] - row["cached"])
            for outcome in ("cached", "limited", "failed"):
                requests.add_metric([*who, outcome], row[outcome])
            tokens.add_metric([*who, "prompt"], row["prompt_tokens"])
            tokens.add_metric([*who, "completion"], row["completion_tokens"])
        yield requests
        yield tokens


_last: dict[tuple[str, str], float] = {}
_tasks: set[asyncio.Task[None]] = set()


def notify(event: str, person: str, **facts: Any) -> None:
    """Tell the webhook, without waiting and once a minute per person and event. Never a key, never what was asked."""
    now = time.monotonic()
    if not WEBHOOK or now - _last.get((event, person), float("-inf")) < 60:
        return
    if len(_last) > 1000:
        _last.clear()
    _last[event, person] = now
    task = asyncio.get_running_loop().create_task(_send(event, person, facts))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _send(event: str, sub: str, facts: dict[str, Any]) -> None:
    try:
        names = {row["sub"]: row["name"] for row in await stored(_store.people)}
        body = {"event": event, "person": names.get(sub, sub), "at": int(time.time()), **facts}
        body["text"] = f"Unified API: {event}, {body['person']}" + "".join(f", {k} {v}" for k, v in facts.items())
        async with issuer.client() as client:
            (await client.post(WEBHOOK, json=body)).raise_for_status()
    except (httpx.HTTPError, HTTPException) as problem:
        log.warning("the webhook was not told: %s", type(problem).__name__)


# ------------------------------------------------------------------------------------------------- one's own keys

me = APIRouter(prefix="/me", tags=["your keys and usage"])


class NewKey(BaseModel):
    """label: what the key is for. rate: requests per minute, besides the limit you have in all."""

    label: str
    days: int = 90
    rate: int | None = None


async def _somebody(request: Request) -> Person:
    """Who asks: by the page's session, or by a token. Changes by session must come from the page itself."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        person = await _token_person(token)
        if person:
            await stored(_store.remember, person.sub, person.name)
            return person
        raise HTTPException(401, "The token is not valid here.")
    found = await _session(request)
    if not found:
        raise HTTPException(401, f"Log in first: {URL}/me/login")
    if request.method != "GET" and request.headers.get("origin") != URL:
        raise HTTPException(403, "Changes come from the page itself.")
    return Person(found["sub"], found["name"], found["admin"])


async def _session(request: Request) -> dict[str, Any] | None:
    """The page's session, when it is one that no logout has ended."""
    found = _read(request.cookies.get(SESSION, ""), "session")
    if found and found.get("iat", 0) <= await stored(_store.logged_out, found["sub"]):
        return None
    return found


async def _admin(request: Request) -> Person:
    person = await _somebody(request)
    if not person.admin:
        raise HTTPException(403, "This is for administrators.")
    return person


@me.get("", include_in_schema=False)
async def page(request: Request) -> Response:
    if not await _session(request):
        return RedirectResponse(f"{URL}/me/login", 302)
    nonce = secrets.token_urlsafe(16)
    text = (Path(__file__).parent / "me.html").read_text(encoding="utf-8").replace("@nonce@", nonce)
    policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'"
    headers = {
        "Content-Security-Policy": f"{policy}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        "Cache-Control": "no-store",
    }
    return HTMLResponse(text, headers=headers)


@me.get("/login", include_in_schema=False)
async def login() -> Response:
    state, verifier, nonce = (secrets.token_urlsafe(32) for _ in range(3))
    challenge = jwt.utils.base64url_encode(hashlib.sha256(verifier.encode()).digest()).decode()
    query = {
        "client_id": CLIENT,
        "redirect_uri": f"{URL}/me/callback",
        "response_type": "code",
        "scope": "openid profile",
        "state": state,
        "nonce": nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    try:
        start = await issuer.endpoint("authorization_endpoint")
    except (httpx.HTTPError, ValueError) as problem:
        log.warning("the issuer cannot be asked: %s", problem)
        raise HTTPException(503, "The login service does not answer. Please try again.") from None
    answer = RedirectResponse(f"{start}?{urlencode(query)}", 302)
    _write(answer, LOGIN, "login", LOGIN_S, state=state, verifier=verifier, nonce=nonce)
    return answer


@me.get("/callback", include_in_schema=False)
async def callback(request: Request, code: str = "", state: str = "") -> Response:
    begun = _read(request.cookies.get(LOGIN, ""), "login")
    if not begun or not code or not hmac.compare_digest(state, begun["state"]):
        return RedirectResponse(f"{URL}/me/login", 302) if not begun else _refused("the login was not begun here")
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": f"{URL}/me/callback",
        "client_id": CLIENT,
        "client_secret": CLIENT_SECRET,
        "code_verifier": begun["verifier"],
    }
    try:
        async with issuer.client() as client:
            granted = await client.post(await issuer.endpoint("token_endpoint"), data=form)
        if granted.status_code != 200:
            log.warning("the login ended with %s", granted.status_code)
            return _refused("the login service did not take the code")
        claims = await issuer.claims(str(granted.json()["id_token"]))
    except (httpx.HTTPError, jwt.PyJWTError, ValueError, KeyError) as problem:
        log.warning("the login failed: %s", type(problem).__name__)
        return _refused("the login service did not say who you are")
    audience = claims.get("aud")
    meant = audience == CLIENT or (isinstance(audience, list) and CLIENT in audience)
    if not meant or not hmac.compare_digest(str(claims.get("nonce", "")), begun["nonce"]):
        return _refused("the login was for somebody else")
    person = _person(claims)
    await stored(_store.remember, person.sub, person.name)
    answer = RedirectResponse(f"{URL}/me", 302)
    _write(answer, SESSION, "session", SESSION_S, **asdict(person))
    answer.delete_cookie(LOGIN, path="/", secure=True, httponly=True, samesite="lax")
    return answer


@me.get("/logout", include_in_schema=False)
async def logout(request: Request) -> Response:
    """Out here, and on to the issuer, which asks whether to end its session too, tells the others, and leads back."""
    found = await _session(request)
    if found:
        await stored(_store.log_out, found["sub"])
    try:
        end = await issuer.endpoint("end_session_endpoint")
    except (httpx.HTTPError, ValueError, KeyError) as problem:
        log.warning("the issuer cannot be asked: %s", problem)
        raise HTTPException(503, "You are out here. The login service does not answer: log out there later.") from None
    query = urlencode({"client_id": CLIENT, "post_logout_redirect_uri": f"{URL}/me"})
    answer = RedirectResponse(f"{end}?{query}", 302)
    answer.delete_cookie(SESSION, path="/", secure=True, httponly=True, samesite="lax")
    return answer


@me.post("/backchannel-logout", include_in_schema=False)
async def backchannel_logout(request: Request) -> Response:
    """The issuer tells of a logout elsewhere (OpenID Connect Back-Channel Logout): all sessions of the person end."""
    form = await request.form()
    try:
        claims = await issuer.claims(str(form.get("logout_token", "")), require=("iat", "sub", "iss", "events"))
    except jwt.PyJWTError as problem:
        log.warning("a logout was not believed: %s", problem)
        return JSONResponse({"error": "invalid_request"}, status_code=400)
    except (httpx.HTTPError, ValueError) as problem:
        log.warning("the issuer cannot be asked: %s", problem)
        raise HTTPException(503, "The login service does not answer.") from None
    audience = claims.get("aud")
    meant = audience == CLIENT or (isinstance(audience, list) and CLIENT in audience)
    events = claims["events"] if isinstance(claims["events"], dict) else {}
    fresh = abs(time.time() - claims["iat"]) < LOGOUT_S
    # An ID token has a nonce and no event: nobody logs others out with one.
    if not meant or LOGOUT_EVENT not in events or "nonce" in claims or not fresh:
        return JSONResponse({"error": "invalid_request"}, status_code=400)
    await stored(_store.log_out, str(claims["sub"]))
    return Response(status_code=200, headers={"Cache-Control": "no-store"})


@me.get("/keys")
async def own_keys(request: Request) -> list[dict[str, Any]]:
    """Your keys, newest first. The keys' texts are kept nowhere."""
    person = await _somebody(request)
    return [_shown(key) for key in await stored(_store.keys, person.sub)]


@me.post("/keys")
async def make_key(request: Request, wish: NewKey) -> Response:
    """A new key. Its text is in this answer and nowhere else."""
    person = await _somebody(request)
    try:
        key, text = await stored(_store.make_key, person.sub, wish.label, wish.days, wish.rate)
    except RefusedError as refused:
        raise HTTPException(422, str(refused)) from None
    notify("key made", person=person.sub, label=key.label)
    return JSONResponse({**_shown(key), "key": text}, status_code=201, headers={"Cache-Control": "no-store"})


@me.delete("/keys/{key_id}", status_code=204)
async def end_key(request: Request, key_id: str) -> Response:
    """End one of your keys, at once."""
    person = await _somebody(request)
    if not await stored(_store.end_key, person.sub, key_id):
        raise HTTPException(404, "You have no such key.")
    notify("key ended", person=person.sub)
    return Response(status_code=204)


@me.get("/usage")
async def own_usage(request: Request, days: int = 30, everybody: bool = False) -> list[dict[str, Any]]:
    """What you used per day and model; what everybody used, for administrators."""
    person = await (_admin(request) if everybody else _somebody(request))
    return await stored(_store.usage, None if everybody else person.sub, min(max(days, 1), 366))


@me.get("/people")
async def people(request: Request) -> list[dict[str, Any]]:
    """Everybody who ever had access, for administrators."""
    await _admin(request)
    return await stored(_store.people)


@me.delete("/people/{sub}", status_code=204)
async def forget(request: Request, sub: str) -> Response:
    """End all keys of a person and forget what they used, for administrators. Somebody who left still has keys."""
    await _admin(request)
    if not await stored(_store.forget, sub):
        raise HTTPException(404, "There is nobody of that id.")
    return Response(status_code=204)


def _shown(key: Key) -> dict[str, Any]:
    return {name: value for name, value in asdict(key).items() if name not in ("sub", "name")}


def _refused(why: str) -> Response:
    return HTMLResponse(f"<!doctype html><title>No login</title><p>No login: {why}. <a href='/me/login'>Again</a>", 400)


def _write(answer: Response, cookie: str, kind: str, seconds: int, **content: Any) -> None:
    now = int(time.time())
    token = jwt.encode({**content, "kind": kind, "iat": now, "exp": now + seconds}, SESSION_KEY, algorithm="HS256")
    answer.set_cookie(cookie, token, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")


def _read(token: str, kind: str) -> dict[str, Any] | None:
    try:
        found = jwt.decode(token, SESSION_KEY, algorithms=["HS256"], options={"require": ["exp"]})
    except jwt.PyJWTError:
        return None
    return found if found.get("kind") == kind else None


# ----------------------------------------------------------------------------------------- what the Swagger page says


def _public_schema() -> dict[str, Any]:
    """LiteLLM's description without what nobody outside reaches."""
    if _schema:
        return _schema
    whole = _whole_schema()
    paths = {path: item for path, item in whole["paths"].items() if path in MODEL_PATHS or path.startswith("/me")}
    parts, wanted = whole.get("components", {}), {}
    todo = _references(paths)
    while todo:
        kind, name = todo.pop()
        if name not in wanted.setdefault(kind, {}) and name in parts.get(kind, {}):
            wanted[kind][name] = parts[kind][name]
            todo |= _references(parts[kind][name])
    for kind in ("securitySchemes",):
        if kind in parts:
            wanted[kind] = parts[kind]
    about = {"title": "Unified API", "version": whole["info"].get("version", ""), "description": _ABOUT}
    _schema.update({**whole, "info": about, "paths": paths, "components": wanted, "servers": [{"url": URL}]})
    return _schema


_ABOUT = (
    "All models of this stack under one OpenAI-compatible address. "
    f"Keys are made at [{URL}/me]({URL}/me); an OpenAI client needs the base URL `{URL}/v1` and a key."
)


def _references(part: Any) -> set[tuple[str, str]]:
    if isinstance(part, dict):
        found = set().union(*(_references(value) for value in part.values()))
        target = part.get("$ref")
        if isinstance(target, str) and target.startswith("#/components/"):
            kind, _, name = target.removeprefix("#/components/").partition("/")
            found.add((kind, name))
        return found
    return set().union(*(_references(item) for item in part)) if isinstance(part, list) else set()


async def _described(request: Request) -> Response:
    """The description. It takes seconds to make: other requests go on meanwhile, and it is made once."""
    async with _describing:
        return JSONResponse(await asyncio.to_thread(_public_schema))


async def _metrics(request: Request) -> Response:
    """For the inside: the front door does not let anybody here."""
    return Response(await asyncio.to_thread(generate_latest), media_type=CONTENT_TYPE_LATEST)


_schema: dict[str, Any] = {}
_describing = asyncio.Lock()
_whole_schema = app.openapi
app.openapi = _public_schema
app.router.routes[:0] = [Route("/openapi.json", _described), Route("/metrics", _metrics)]
app.include_router(me)
REGISTRY.register(Totals())
