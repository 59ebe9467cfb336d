"""Workflows, as somebody uses them who calls a webhook; and what such a caller must not reach."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from pathlib import Path
from typing import Any

import httpx

from stack.proofs import paths, ports
from stack.proofs.context import ProofContext, ProofError, as_owner, expect, parsed, wait_for

ROUTE = "n8n"
PROGRAM = Path(__file__).with_suffix(".js")
PROGRAMS = {"Accept": "application/json"}
PATIENCE_S = 90  # a busy small machine, with the first Code node of its life

# What only the runner can do: its own configuration allows crypto, n8n's workers know nothing of that.
CODE = """
const crypto = require('crypto');
const asked = $input.first().json.body;
return [{ json: {
  product: asked.a * asked.b,
  digest: crypto.createHash('sha256').update(asked.word).digest('hex'),
} }];
"""

# Doors for callers are open to all; these are for people who build workflows, or for nobody.
CLOSED = (
    ("GET", "/"),
    ("GET", "/home/workflows"),
    ("GET", "/signin"),
    ("GET", "/rest/settings"),
    ("POST", "/rest/login"),
    ("POST", "/rest/owner/setup"),
    ("GET", "/rest/workflows"),
    ("GET", "/api/v1/workflows"),
    ("GET", "/types/nodes.json"),
    ("GET", "/webhook-test/x"),
    ("GET", "/webhook"),
    ("GET", "/metrics"),
    ("GET", "/healthz"),
)
# The same doors, dressed as a webhook.
DRESSED = (
    "/webhook/../rest/settings",
    "/webhook/%2e%2e/rest/settings",
    "/webhook/..%2frest/settings",
    "/webhook/..%5crest/settings",
    "//webhook/x",
    "/WEBHOOK/x",
    "/form//rest/settings",
)


def credentials(ctx: ProofContext) -> None:
    """The store of credentials opens, what it encrypts opens nowhere else, and its log is closed to who writes it."""
    said: dict[str, Any] = json.loads(ctx.inside("main", ("node", "/run/kit/credentials.js", "prove")))
    if "trouble" in said:
        raise ProofError(str(said["trouble"]))
    if lost := said["answer"]["closed"]:
        raise ProofError(f"{lost} credentials cannot be read with this key (docs/credentials.md)")


def webhook(ctx: ProofContext) -> None:
    """A call from outside is answered by a workflow that a worker ran, with a Code node that a runner ran."""
    path = f"{ctx.prefix}{secrets.token_hex(12)}"
    ctx.step("a workflow with a webhook and a Code node")
    workflow = make(ctx, path)
    a, b, word = secrets.randbelow(10**6), secrets.randbelow(10**6), secrets.token_hex(8)
    ctx.step(f"a call to /webhook/{ctx.prefix}…")
    with ctx.stranger() as stranger:
        answer = wait_for(lambda: _answer(stranger, ctx, path, {"a": a, "b": b, "word": word}), 60, "no answer came")
    if answer != {"product": a * b, "digest": hashlib.sha256(word.encode()).hexdigest()}:
        raise ProofError(f"the workflow answered {str(answer)[:200]}")
    ctx.step("n8n's record of the run")
    runs = wait_for(lambda: _ended(_owner(ctx, verb="runs", id=workflow)), 30, "n8n says that the run has not ended")
    if [(run["status"], run["mode"]) for run in runs] != [("success", "webhook")]:
        raise ProofError(f"n8n wrote down {runs}, not one successful run of the webhook")
    ctx.step("which process ran it")
    run = str(runs[0]["id"])
    worker = wait_for(lambda: _worker_of(ctx, run), 30, f"no worker says that it ran execution {run}")
    ctx.note(f"run by {worker}")


def closed(ctx: ProofContext) -> None:
    """Without a login there is no editor, no API and no way around; the paths for callers do answer."""
    base = ctx.url(ROUTE)
    paths.closed(ctx, ROUTE, (*CLOSED, *(("GET", path) for path in DRESSED)))
    with ctx.stranger() as stranger:
        for path in ("/webhook/", "/form/", "/webhook-waiting/", "/form-waiting/"):
            ctx.step(f"{path} is for callers")
            nothing = secrets.randbelow(10**9) + 10**9  # no workflow and no execution has this number yet
            expect(stranger.get(f"{base}{path}{nothing}"), 404, "n8n itself should say that nothing is there")
    ports.closed(ctx)


def login(ctx: ProofContext) -> None:
    """The administrator's one login is n8n's as well, a person without the role gets none, and no claim makes one."""
    base = ctx.url(ROUTE)
    ctx.step("the editor, as the administrator")
    visitor = ctx.login_admin(f"{base}/home/workflows")
    expect(visitor.response, 200, "the editor should open")
    person = parsed(visitor.browser.get(f"{base}/rest/login", headers=PROGRAMS), "n8n")["data"]
    if person["email"] != ctx.plan.settings.admin_email.lower() or person["role"] != "global:owner":
        raise ProofError(f"n8n takes the administrator for {person['email']}, {person['role']}")
    ctx.step("the editor, as a person without a role")
    refused = ctx.login(f"{base}/home/workflows").response
    expect(refused, 403, "a person without a role should be told so")
    ctx.step("what somebody inside the stack would claim")
    claim = _owner(ctx, verb="claim", email=ctx.plan.settings.admin_email)
    if claim != {"unproven": 401, "forged": 403}:
        raise ProofError(f"n8n believes whoever claims to be the front door: {claim}")
    ctx.note(f"{person['email']} owns it")


def cleanup(ctx: ProofContext) -> None:
    """Remove every workflow of proofs, of this run and of earlier ones, with its runs."""
    _owner(ctx, verb="remove", prefix=ctx.prefix)


def make(ctx: ProofContext, path: str) -> str:
    """Publish the workflow that answers at /webhook/<path>, and is named so. Returns its id."""
    return str(_owner(ctx, verb="make", workflow=_workflow(path))["id"])


def _owner(ctx: ProofContext, **asked: object) -> Any:
    """What n8n answers its owner."""
    return as_owner(ctx, PROGRAM, **asked)


def _workflow(path: str) -> dict[str, Any]:
    hook: dict[str, Any] = {
        "id": "00000000-0000-4000-8000-000000000001",
        "name": "Called",
        "type": "n8n-nodes-base.webhook",
        "typeVersion": 2,
        "position": [0, 0],
        "webhookId": path,
        # Not by the last node's data: main may wait for ever for a job that was quicker than it (docs/services/n8n.md).
        "parameters": {"httpMethod": "POST", "path": path, "responseMode": "responseNode", "options": {}},
    }
    code: dict[str, Any] = {
        "id": "00000000-0000-4000-8000-000000000002",
        "name": "Computed",
        "type": "n8n-nodes-base.code",
        "typeVersion": 2,
        "position": [220, 0],
        "parameters": {"jsCode": CODE},
    }
    answer: dict[str, Any] = {
        "id": "00000000-0000-4000-8000-000000000003",
        "name": "Answered",
        "type": "n8n-nodes-base.respondToWebhook",
        "typeVersion": 1.1,
        "position": [440, 0],
        "parameters": {"respondWith": "firstIncomingItem", "options": {}},
    }
    connections = {
        before["name"]: {"main": [[{"node": after["name"], "type": "main", "index": 0}]]}
        for before, after in ((hook, code), (code, answer))
    }
    return {"name": path, "nodes": [hook, code, answer], "connections": connections}


def _answer(stranger: httpx.Client, ctx: ProofContext, path: str, question: dict[str, object]) -> Any:
    answer = stranger.post(f"{ctx.url(ROUTE)}/webhook/{path}", json=question, timeout=PATIENCE_S)
    if answer.status_code in (404, 503):  # the front door, or n8n, has not noticed yet
        return None
    return parsed(answer, "the webhook")


def _ended(runs: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The runs once all have ended: the caller is answered before that."""
    return None if any(run["status"] in ("new", "running", "waiting") for run in runs) else runs


def _worker_of(ctx: ProofContext, execution: str) -> str | None:
    """The worker that says that it ran this one. Main would say nothing of the kind, nor would another worker."""
    for container in ctx.plan.service(ctx.service).containers:
        said = ctx.wrote(container.spec.name) if container.spec.name.startswith("worker-") else ""
        if re.search(rf"Worker finished execution {re.escape(execution)} \(job ", said):
            return container.host_name
    return None
