"""Flows, as somebody uses them who calls one; and what such a caller must not reach."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import httpx

from stack.derive import models
from stack.proofs import paths, ports
from stack.proofs.context import ProofContext, ProofError, as_owner, parsed, wait_for

ROUTE = "flowise"
PROGRAM = Path(__file__).with_suffix(".js")
QUESTION = "What is the colour of the sky on a clear day? One sentence."

# The calls of flows are open to whoever has a flow's key; these are for people who draw flows, or for nobody.
CLOSED = (
    ("GET", "/"),
    ("GET", "/signin"),
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/auth/resolve"),
    ("POST", "/api/v1/account/register"),
    ("POST", "/api/v1/account/forgot-password"),
    ("GET", "/api/v1/chatflows"),
    ("GET", "/api/v1/public-chatflows/x"),
    ("GET", "/api/v1/get-upload-file"),
    ("POST", "/api/v1/attachments/x/y"),
    ("POST", "/api/v1/node-load-method/customMCP"),
    ("POST", "/api/v1/node-custom-function"),
    ("GET", "/api/v1/metrics"),
    ("GET", "/api/v1/ping"),
    ("POST", "/api/v1/prediction"),
)
# The same doors, dressed as the call of a flow.
DRESSED = (
    "/api/v1/prediction/../chatflows",
    "/api/v1/prediction/%2e%2e/chatflows",
    "/api/v1/prediction/..%2fchatflows",
    "/api/v1/prediction/..%5cchatflows",
    "//api/v1/prediction/x",
    "/api/v1//prediction/x",
    "/API/v1/prediction/x",
)


def answer(ctx: ProofContext) -> None:
    """A flow of the owner's, called from outside with its key, answers with what a local model says."""
    ctx.step("a flow with a local model")
    flow = make(ctx, ctx.prefix + secrets.token_hex(6))
    base, path = ctx.url(ROUTE), f"/api/v1/prediction/{flow['id']}"
    with ctx.stranger() as stranger:
        ctx.step("a call with the flow's key")
        said = wait_for(lambda: _said(stranger, base + path, flow["key"]), 300, "no answer came")
        ctx.note(f"{len(said)} characters")
        for key in ("", "0" * 43, flow["key"][:-1]):
            ctx.step("a call with " + ("another key" if key else "no key"))
            _unanswered(stranger.post(base + path, json={"question": "x"}, headers=_bearer(key)), "Unauthorized")
    ctx.step("remove the flow")
    cleanup(ctx)
    with ctx.stranger() as stranger:
        gone = stranger.post(base + path, json={"question": "x"}, headers=_bearer(flow["key"]))
        _unanswered(gone, "not found")


def closed(ctx: ProofContext) -> None:
    """Without a login there are no pages, no API and no way around; nobody signs up, not even from inside."""
    paths.closed(ctx, ROUTE, (*CLOSED, *(("GET", path) for path in DRESSED)))
    for path, status in _owner(ctx, verb="open", paths=_variable(ctx, "DENYLIST_URLS").split(",")).items():
        ctx.step(f"{path} from inside, without a login")
        if status not in (401, 403):
            raise ProofError(f"Flowise itself answered {status} to whoever asks from inside")
    ctx.step("a second owner")
    status = int(_owner(ctx, verb="claim", email=f"{ctx.prefix}x@{ctx.plan.settings.domain}")["status"])
    if status not in (400, 401, 403):
        raise ProofError(f"signing up answered {status}: anybody inside can have an account")
    ctx.step("nodes that run code or programs")
    closed_nodes = set(_variable(ctx, "DISABLED_NODES").split(","))
    listed = set(_owner(ctx, verb="nodes"))
    if "chatOllama" not in listed:
        raise ProofError("Flowise lists no nodes: nothing is known about those that should be closed")
    if open_nodes := sorted(closed_nodes & listed):
        raise ProofError(f"these nodes should be closed: {', '.join(open_nodes)}")
    ports.closed(ctx)


def cleanup(ctx: ProofContext) -> None:
    """Remove every flow and key of proofs, of this run and of earlier ones."""
    _owner(ctx, verb="remove", prefix=ctx.prefix)


def make(ctx: ProofContext, name: str) -> dict[str, str]:
    """A flow of that name that asks the first local model through the queue: its id, and the key that opens it."""
    return _owner(ctx, verb="make", name=name, model=models.chat(ctx.plan.settings)[0])


def _owner(ctx: ProofContext, **asked: object) -> Any:
    """What Flowise answers its owner."""
    return as_owner(ctx, PROGRAM, **asked)


def _variable(ctx: ProofContext, name: str) -> str:
    value = ctx.plan.service(ctx.service).spec.container().env[name]
    return value if isinstance(value, str) else ""


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _said(stranger: httpx.Client, url: str, key: str) -> str | None:
    reply = stranger.post(url, json={"question": QUESTION}, headers=_bearer(key), timeout=900)
    if reply.status_code == 503:  # the front door has not noticed yet
        return None
    text = str(parsed(reply, "the flow").get("text") or "")
    if not text:
        raise ProofError("the flow answered nothing")
    return text


def _unanswered(reply: httpx.Response, why: str) -> None:
    """Refused by Flowise, for this reason: it has one status, 500, for most of them."""
    if reply.status_code < 400 or why not in reply.text:
        words = " ".join(reply.text.split())[:200]
        raise ProofError(f"the flow should say {why!r}, and answered {reply.status_code}: {words}")
