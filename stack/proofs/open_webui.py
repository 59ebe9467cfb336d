"""The chat, as somebody uses it who has just been given an account."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

from stack.derive import models
from stack.proofs import logins
from stack.proofs.context import Login, ProofContext, ProofError, expect, parsed, wait_for

ROUTE = "chat"
LOGIN_PATH = "/oauth/oidc/login"

# Random words: nobody's documents hold them, and no model knows them.
DOCUMENT = "The lighthouse keeper of Varnholt counts forty-two copper herons every winter morning."
DECOYS = (
    "Regular maintenance of the bicycle chain keeps the gears from slipping on steep roads.",
    "Sourdough needs a warm corner, a little patience and a scale that can be trusted.",
)


def login(ctx: ProofContext) -> None:
    """The throw-away user gets in through the identity provider, and is no administrator."""
    _first_is_admin(ctx)
    ctx.step("single sign-on as a new user")
    session = _user(ctx)
    me = parsed(session.get("/api/v1/auths/"), "who am I")
    if me["email"].lower() != ctx.user.email.lower():
        raise ProofError(f"logged in as {me['email']}, not as {ctx.user.email}")
    if me["role"] != "user":
        raise ProofError(f"a new user has the role {me['role']!r}: everybody would be that")
    ctx.step("an administrator's page, as this user")
    expect(session.get("/api/v1/users/"), 401, "a new user may not list the others")


def chat(ctx: ProofContext) -> None:
    """A question gets an answer, token by token, from real weights; the chat is kept."""
    session = _user(ctx)
    ctx.step("the list of models")
    wanted = models.chat(ctx.plan.settings)
    listed = {model["id"] for model in parsed(session.get("/api/models"), "the list of models")["data"]}
    missing = [name for name in wanted if _tagged(name) not in listed]
    if missing:
        raise ProofError(f"the list of models lacks {', '.join(missing)}")
    answers: list[str] = []
    tiny = all(name in models.TINY_CHAT for name in wanted)
    for name in wanted if tiny else wanted[:1]:
        ctx.step(f"a question to {name}")
        answer = _ask(session, _tagged(name))
        answers.append(answer.text)
        ctx.note(f"{answer.tokens} tokens, {answer.rate:.0f}/s")
    if tiny and len(set(answers)) != len(answers):
        raise ProofError("models with different weights gave the same answer: the weights do not matter")
    ctx.step("the chat is kept")
    kept = parsed(session.post("/api/v1/chats/new", json=_chat_form(_tagged(wanted[0]), answers[0])), "keep the chat")
    again = parsed(session.get(f"/api/v1/chats/{kept['id']}"), "read the chat again")
    if again["chat"]["messages"][-1]["content"] != answers[0]:
        raise ProofError("the chat reads differently after it was kept")


def knowledge(ctx: ProofContext) -> None:
    """A document goes in with the user's own login and is found by its vector."""
    session = _user(ctx)
    ctx.step("a collection for documents")
    form: dict[str, Any] = {
        "name": ctx.user.username,
        "description": "Made by a proof; safe to delete.",
        "access_grants": [],
    }
    collection = parsed(session.post("/api/v1/knowledge/create", json=form), "make a collection")["id"]
    for number, text in enumerate((*DECOYS, DOCUMENT)):
        ctx.step(f"document {number + 1} goes in")
        upload = {"file": (f"{ctx.user.username}-{number}.txt", f"{text}\n".encode(), "text/plain")}
        file = parsed(session.post("/api/v1/files/", files=upload), "upload a document")["id"]
        wait_for(lambda file=file: _processed(session, file), 120, "the document was not read")
        expect(
            session.post(f"/api/v1/knowledge/{collection}/file/add", json={"file_id": file}),
            200,
            "put the document into the collection",
        )
    ctx.step("the document is found by its vector")
    query = {"collection_names": [collection], "query": DOCUMENT, "k": 1, "hybrid": False}
    found = parsed(session.post("/api/v1/retrieval/query/collection", json=query), "ask the collection")
    groups: list[list[str]] = found.get("documents") or []
    texts = [text for group in groups for text in group]
    if not texts or DOCUMENT not in texts[0]:
        raise ProofError(f"asked for one document, found {texts[:1] or 'nothing'}")
    ctx.note(f"1 of {len(DECOYS) + 1}")


def closed(ctx: ProofContext) -> None:
    """Without a login nothing is answered, and nobody signs up."""
    base = ctx.url(ROUTE)
    with ctx.stranger() as stranger:
        for method, path in (
            ("GET", "/api/models"),
            ("POST", "/api/chat/completions"),
            ("GET", "/ollama/api/tags"),
            ("POST", "/ollama/api/generate"),
            ("GET", "/api/v1/users/"),
            ("GET", "/api/v1/chats/"),
            ("GET", "/api/v1/files/"),
        ):
            ctx.step(f"{method} {path} without a login")
            answer = stranger.request(method, base + path, json={} if method == "POST" else None)
            if answer.status_code not in (401, 403):
                raise ProofError(f"{path} answered {answer.status_code} to nobody in particular")
        ctx.step("signing up without the identity provider")
        form = {"name": "x", "email": f"{ctx.prefix}x@{ctx.plan.settings.domain}", "password": "correct horse battery"}
        answer = stranger.post(f"{base}/api/v1/auths/signup", json=form)
        if answer.status_code not in (400, 401, 403):
            raise ProofError(f"signing up answered {answer.status_code}: anybody can have an account")
    session = _user(ctx)
    for path in ("/ollama/api/pull", "/ollama/api/delete"):
        ctx.step(f"{path} as a plain user")
        answer = session.request("DELETE" if path.endswith("delete") else "POST", path, json={"model": "none"})
        if answer.status_code not in (401, 403, 404, 405):
            raise ProofError(f"{path} answered {answer.status_code} to a plain user")


def logout(ctx: ProofContext) -> None:
    """A logout at the identity provider ends the session here, and a logout here the one there."""
    session = _user(ctx)
    expect(session.get("/api/v1/auths/"), 200, "who am I")
    ctx.step("a logout at the identity provider")
    logins.leave(session, ctx.outputs.issuer, ctx.service)
    begin = time.monotonic()
    wait_for(lambda: session.get("/api/v1/auths/").status_code == 401 or None, 10, "the chat still lets them in")
    ctx.note(f"{1000 * (time.monotonic() - begin):.0f} ms after a logout there")
    ctx.step("a new login, asked for")
    login = ctx.login(ctx.url(ROUTE) + LOGIN_PATH)
    if not login.asked:
        raise ProofError("after the logout nobody was asked for a password")
    session = _session(ctx, login)
    ctx.step("a logout here")
    answer = parsed(session.post("/api/v1/auths/signout"), "sign out")
    page = session.get(answer.get("redirect_url") or ctx.url(ROUTE))
    if page.url.host != httpx.URL(ctx.url(ROUTE)).host:
        raise ProofError(f"signing out led to {page.url.copy_with(query=None)}, and nobody is led back")
    if not ctx.login(ctx.url(ROUTE) + LOGIN_PATH).asked:
        raise ProofError("after signing out here the identity provider still had a session")


def cleanup(ctx: ProofContext) -> None:
    """Remove every throw-away person with chats, documents, collections. Needs no login of theirs."""
    session = _session(ctx, ctx.login_admin(ctx.url(ROUTE) + LOGIN_PATH))
    people = {
        person["id"]
        for person in _pages(session, "/api/v1/users/", "users", {"query": ctx.prefix})
        if person["email"].lower().startswith(ctx.prefix)
    }
    for item in _pages(session, "/api/v1/knowledge/", "items", {}):
        if item["user_id"] in people:
            expect(session.delete(f"/api/v1/knowledge/{item['id']}/delete"), 200, "remove a collection")
    for item in _pages(session, "/api/v1/files/", "items", {"content": "false"}):
        if item["user_id"] in people:
            expect(session.delete(f"/api/v1/files/{item['id']}"), 200, "remove a document")
    for person in people:  # the chats go with them
        expect(session.delete(f"/api/v1/users/{person}"), 200, "remove a user")


def _first_is_admin(ctx: ProofContext) -> None:
    """Whoever comes first becomes administrator here, so the administrator does."""
    ctx.step("the administrator comes first")
    with ctx.stranger() as stranger:
        config = parsed(stranger.get(f"{ctx.url(ROUTE)}/api/config"), "the public configuration")
    if config.get("onboarding"):
        session = _session(ctx, ctx.login_admin(ctx.url(ROUTE) + LOGIN_PATH))
        role = parsed(session.get("/api/v1/auths/"), "who am I")["role"]
        if role != "admin":
            raise ProofError(f"the administrator of the realm has the role {role!r} here")


def _user(ctx: ProofContext) -> httpx.Client:
    return _session(ctx, ctx.login(ctx.url(ROUTE) + LOGIN_PATH))


def _session(ctx: ProofContext, login: Login) -> httpx.Client:
    """The browser, speaking to the chat as its page does: the token of its cookie as bearer."""
    token = next((cookie.value for cookie in login.browser.cookies.jar if cookie.name == "token"), None)
    if not token:
        error = login.response.url.params.get("error", "")
        raise ProofError(f"the login led to {login.response.url.copy_with(query=None)} without a session. {error}")
    login.browser.base_url = ctx.url(ROUTE)
    login.browser.headers["Authorization"] = f"Bearer {token}"
    return login.browser


class _Answer:
    def __init__(self) -> None:
        self.text = ""
        self.tokens = 0
        self.rate = 0.0


def _ask(session: httpx.Client, model: str) -> _Answer:
    question = {
        "model": model,
        "messages": [{"role": "user", "content": "What is the colour of the sky on a clear day? One sentence."}],
        "stream": True,
        "params": {"temperature": 0, "seed": 7, "max_tokens": 24},
    }
    answer = _Answer()
    chunks: list[float] = []
    with session.stream("POST", "/api/chat/completions", json=question, timeout=900) as stream:
        if stream.status_code != 200:
            stream.read()
            expect(stream, 200, "ask a question")
        for line in stream.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event: Any = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise ProofError(f"instead of an answer: {event['error']}")
            choices: list[Any] = event.get("choices") or []
            for choice in choices:
                delta: dict[str, Any] = choice.get("delta") or {}
                if delta.get("content"):
                    answer.text += str(delta["content"])
                    chunks.append(time.monotonic())
            usage: dict[str, Any] = event.get("usage") or {}
            answer.tokens = int(usage.get("eval_count") or usage.get("completion_tokens") or answer.tokens)
            seconds = float(usage.get("eval_duration") or 0) / 1e9
            answer.rate = answer.tokens / seconds if seconds else answer.rate
    if answer.tokens < 1 or not answer.text:
        raise ProofError(f"the answer has {answer.tokens} tokens and {len(answer.text)} characters")
    if len(chunks) < 2 and answer.tokens > 8:
        raise ProofError("the answer came all at once: something on the way holds it back")
    return answer


def _processed(session: httpx.Client, file: str) -> bool | None:
    status = parsed(session.get(f"/api/v1/files/{file}/process/status"), "the document's state")["status"]
    if status == "failed":
        document: dict[str, Any] = parsed(session.get(f"/api/v1/files/{file}"), "the document").get("data") or {}
        raise ProofError(f"the document could not be read: {document.get('error', 'no reason given')}")
    return True if status == "completed" else None


def _pages(session: httpx.Client, path: str, key: str, query: dict[str, str]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for page in range(1, 1000):
        items = parsed(session.get(path, params={**query, "page": str(page)}), f"list {path}")[key]
        new = {item["id"]: item for item in items if item["id"] not in found}
        if not new:
            break
        found |= new
    return list(found.values())


def _chat_form(model: str, answer: str) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [
        {"id": "q", "parentId": None, "childrenIds": ["a"], "role": "user", "content": "A question of a proof"},
        {"id": "a", "parentId": "q", "childrenIds": [], "role": "assistant", "content": answer, "model": model},
    ]
    history: dict[str, Any] = {"currentId": "a", "messages": {message["id"]: message for message in messages}}
    return {"chat": {"title": "A proof", "models": [model], "messages": messages, "history": history}}


def _tagged(model: str) -> str:
    return model if ":" in model.rsplit("/", 1)[-1] else f"{model}:latest"
