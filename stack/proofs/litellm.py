"""The unified API, as somebody uses it who has just made a key."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx

from stack.derive import models
from stack.proofs.context import ProofContext, ProofError, as_written, expect, parsed, wait_for

ROUTE = "api"
QUESTION = "What is the colour of the sky on a clear day? One sentence."

# Some of the hundreds of paths under which LiteLLM answers those who get that far.
CLOSED = (
    ("GET", "/metrics"),
    ("GET", "/metrics/"),
    ("GET", "/health"),
    ("GET", "/health/liveliness"),
    ("GET", "/get/config/callbacks"),
    ("POST", "/key/generate"),
    ("GET", "/ui/"),
    ("GET", "/model/info"),
    ("GET", "/v1/model/info"),
    ("POST", "/chat/completions"),
    ("POST", "/v1/chat/completions/"),
    ("POST", "/v1/../key/generate"),
    ("POST", "/me/../key/generate"),
    ("POST", "/me/..%2fkey/generate"),
    ("POST", "//v1/chat/completions"),
    ("POST", "/%761/chat/completions"),
    ("POST", "/ollama/api/generate"),
)


def answer(ctx: ProofContext) -> None:
    """A key made by oneself lists the models and gets answers, whole and token by token; embeddings as well."""
    session = _session(ctx)
    with _key(ctx, session, rate=None) as key, _client(ctx, key) as client:
        ctx.step("the list of models")
        wanted = (*models.chat(ctx.plan.settings), models.embedding(ctx.plan.settings))
        listed = {model["id"] for model in parsed(client.get("/v1/models"), "the list of models")["data"]}
        missing = [name for name in wanted if name not in listed]
        if missing:
            raise ProofError(f"the list of models lacks {', '.join(missing)}")
        name = models.chat(ctx.plan.settings)[0]
        ctx.step(f"a question to {name}")
        begin = time.monotonic()
        whole = parsed(client.post("/v1/chat/completions", json=_question(name), timeout=900), "ask a question")
        seconds = time.monotonic() - begin
        text, tokens = _text(whole), int(whole["usage"]["completion_tokens"])
        if not text or tokens < 1:
            raise ProofError(f"the answer has {tokens} tokens and {len(text)} characters")
        ctx.note(f"{tokens} tokens in {seconds:.1f} s")
        ctx.step("the same question again")
        again = parsed(client.post("/v1/chat/completions", json=_question(name), timeout=900), "ask again")
        if _text(again) != text:
            raise ProofError("the same question got another answer: the cache did not keep the first")
        ctx.step("token by token, without the cache")
        parts = _streamed(client, {**_question(name), "stream": True, "cache": {"no-cache": True}})
        if "".join(parts) != text:
            raise ProofError("the answer streams differently from how it comes at once")
        if len(parts) < 2 and tokens > 8:
            raise ProofError("the answer came all at once: something on the way holds it back")
        ctx.step("the meaning of a sentence")
        asked = {"model": models.embedding(ctx.plan.settings), "input": QUESTION}
        vector = parsed(client.post("/v1/embeddings", json=asked, timeout=900), "ask for a vector")["data"][0][
            "embedding"
        ]
        if len(vector) < 2 or not any(vector):
            raise ProofError(f"the vector has {len(vector)} numbers, none of which says anything")


def limit(ctx: ProofContext) -> None:
    """A key that may ask three times a minute is refused the fourth time, and what it used is counted for its owner."""
    session = _session(ctx)
    name = models.chat(ctx.plan.settings)[0]
    before = _requests(session, name)
    answers: list[httpx.Response] = []
    # A minute may turn while this runs: then the next one counts from nothing, and a fourth answer is right.
    for _ in range(2):
        with _key(ctx, session, rate=3) as key, _client(ctx, key) as client:
            begin = time.time()
            ctx.step("three questions, and one too many")
            answers = [client.post("/v1/chat/completions", json=_question(name), timeout=900) for _ in range(4)]
            if time.time() // 60 == begin // 60 or answers[3].status_code == 429:
                break
    statuses = [each.status_code for each in answers]
    if statuses != [200, 200, 200, 429]:
        raise ProofError(f"with three requests per minute, four were answered {', '.join(map(str, statuses))}")
    ctx.step("the questions are counted")

    def counted() -> int | None:
        now = _requests(session, name)
        return now - before if now >= before + 3 else None

    ctx.note(f"{wait_for(counted, 60, 'what was used was not counted')} requests counted")


def closed(ctx: ProofContext) -> None:
    """Without a key nothing is answered, whatever the path, and a key that was ended opens nothing."""
    base = ctx.url(ROUTE)
    name = models.chat(ctx.plan.settings)[0]
    with ctx.stranger() as stranger:
        stranger.follow_redirects = False
        for key in ("", "sk-1234", "sk-kit-" + "A" * 43, "a.b.c"):
            ctx.step(f"a question with {'the key ' + key[:10] if key else 'no key'}")
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            refused = stranger.post(f"{base}/v1/chat/completions", json=_question(name), headers=headers)
            expect(refused, 401, "this should need a key")
        for path in ("/me/keys", "/me/usage", "/me/people"):
            ctx.step(f"{path} without a login")
            expect(stranger.get(base + path), 401, "this should need a login")
        for method, path in CLOSED:
            ctx.step(f"{method} {path} at the front door")
            body: dict[str, object] = {"json": {}} if method == "POST" else {}
            expect(as_written(stranger, base, path, method, **body), 403, "this should be closed")
    session = _session(ctx)
    ctx.step("what is for administrators, as this user")
    expect(session.get("/me/people"), 403, "a new user may not list the others")
    ctx.step("a change that does not come from the page")
    foreign = session.post("/me/keys", json={"label": "x"}, headers={"Origin": "https://elsewhere.example"})
    expect(foreign, 403, "another site may not make keys")
    with _key(ctx, session, rate=None) as key:
        pass
    ctx.step("a key that was ended")
    with _client(ctx, key) as client:
        expect(client.get("/v1/models"), 401, "an ended key opens nothing")


def cleanup(ctx: ProofContext) -> None:
    """Forget every throw-away person, with keys and usage."""
    session = _at(ctx, ctx.login_admin(ctx.url(ROUTE) + "/me/login").browser)
    for person in parsed(session.get("/me/people"), "list the people"):
        if str(person["name"]).startswith(ctx.prefix):
            expect(_change(ctx, session, "DELETE", f"/me/people/{person['sub']}"), 204, "forget a person")


def _session(ctx: ProofContext) -> httpx.Client:
    ctx.step("log in where keys are made")
    login = ctx.login(ctx.url(ROUTE) + "/me/login")
    expect(login.response, 200, "the page where keys are made")
    return _at(ctx, login.browser)


def _at(ctx: ProofContext, browser: httpx.Client) -> httpx.Client:
    """The browser at the page. Another application's bearer is none of its business."""
    browser.base_url = ctx.url(ROUTE)
    browser.headers.pop("Authorization", None)
    return browser


def _change(ctx: ProofContext, session: httpx.Client, method: str, path: str, body: Any = None) -> httpx.Response:
    """A change as the page makes it, which names itself as its origin."""
    return session.request(method, path, json=body, headers={"Origin": ctx.url(ROUTE)})


@contextmanager
def _key(ctx: ProofContext, session: httpx.Client, rate: int | None) -> Generator[str, None, None]:
    ctx.step("make a key")
    wish = {"label": f"{ctx.prefix}proof", "days": 1, "rate": rate}
    made = _parsed_as(_change(ctx, session, "POST", "/me/keys", wish), 201, "make a key")
    try:
        yield str(made["key"])
    finally:
        ctx.step("end the key")
        expect(_change(ctx, session, "DELETE", f"/me/keys/{made['id']}"), 204, "end the key")


def _parsed_as(response: httpx.Response, status: int, what: str) -> Any:
    """The JSON of an answer that has this status."""
    expect(response, status, what)
    return response.json()


@contextmanager
def _client(ctx: ProofContext, key: str) -> Generator[httpx.Client, None, None]:
    """An OpenAI client: a base URL and a key, no browser."""
    with ctx.stranger() as client:
        client.base_url = ctx.url(ROUTE)
        client.headers["Authorization"] = f"Bearer {key}"
        yield client


def _question(model: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}]
    return {"model": model, "messages": messages, "temperature": 0, "seed": 7, "max_tokens": 24}


def _text(answer: dict[str, Any]) -> str:
    message: dict[str, Any] = answer["choices"][0]["message"]
    return str(message.get("content") or "") + str(message.get("reasoning_content") or "")


def _streamed(client: httpx.Client, question: dict[str, Any]) -> list[str]:
    parts: list[str] = []
    with client.stream("POST", "/v1/chat/completions", json=question, timeout=900) as stream:
        if stream.status_code != 200:
            stream.read()
            expect(stream, 200, "ask for a stream")
        for line in stream.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            choices: list[dict[str, Any]] = json.loads(line.removeprefix("data: ")).get("choices") or []
            for choice in choices:
                delta: dict[str, Any] = choice.get("delta") or {}
                text = str(delta.get("content") or "") + str(delta.get("reasoning_content") or "")
                parts += [text] if text else []
    return parts


def _requests(session: httpx.Client, model: str) -> int:
    rows = parsed(session.get("/me/usage", params={"days": "2"}), "what was used")
    return sum(int(row["requests"]) for row in rows if row["model"] == model)
