"""The login in front of services that have none, with the real HAProxy, oauth2-proxy, Keycloak, Redis, n8n and Consul.

Started with plain docker, every secret hostile. What it does not prove: that
Pulumi carries the runtime out, and that the components make the realm as it is made here.
"""

from __future__ import annotations

import io
import json
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops import frontdoor, prove
from ops.progress import Progress
from stack.derive.encode import encode
from stack.model import Encoding
from stack.plan import SecretKey
from stack.proofs import n8n, totp
from tests.live import clients, standing, trial
from tests.live.browser import Browser, chromium
from tests.live.leaks import leaks_in
from tests.live.standing import Standing
from tests.live.trial import HOSTILE, docker

pytestmark = pytest.mark.live

STACK = "front"
PASSWORD = "correct horse"
# Each with groups and e-mail address. Everybody is in `users` as well, as the realm makes it.
PEOPLE: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "eve": (("editors",), {"email": "eve@kit.localhost", "emailVerified": True}),
    "vic": (("viewers",), {"email": "vic@kit.localhost", "emailVerified": True}),
    "ann": (("admins",), {"email": "ann@kit.localhost", "emailVerified": True}),
    "tess": (("admins",), {"email": "tess@kit.localhost", "emailVerified": True}),
    "nobody": (("editors",), {}),
    "unsure": (("editors",), {"email": "unsure@kit.localhost", "emailVerified": False}),
}
PLAIN = {
    SecretKey("n8n", "owner-password"): f"aA1{HOSTILE}"[:60],  # a digit, a capital letter, at most 64 characters
}
PAGE = {"Accept": "text/html"}
PROGRAM = {"Accept": "application/json"}


class Realm:
    """The realm's administration, for what components and people do otherwise."""

    def __init__(self, live: Standing) -> None:
        self.outputs = live.outputs
        context = ssl.create_default_context(cadata=self.outputs.ca_pem)
        self.http = httpx.Client(verify=context, trust_env=False, timeout=300)

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        outputs = self.outputs
        form = {
            "grant_type": "client_credentials",
            "client_id": outputs.admin_client_id,
            "client_secret": outputs.admin_client_secret,
        }
        token = self.http.post(f"{outputs.admin_url}/realms/master/protocol/openid-connect/token", data=form)
        bearer = {"Authorization": f"Bearer {token.raise_for_status().json()['access_token']}"}
        url = f"{outputs.admin_url}/admin/realms/{outputs.realm}{path}"
        return self.http.request(method, url, json=body, headers=bearer).raise_for_status()

    def user(self, name: str) -> str:
        return self.call("GET", f"/users?username={name}&exact=true").json()[0]["id"]

    def people(self) -> None:
        """Groups, those who are in them, and the claim that tells clients."""
        groups: dict[str, str] = {}
        for name in ("users", "admins", "editors", "viewers"):
            found = self.call("GET", f"/groups?search={name}&exact=true").json()
            if not found:
                self.call("POST", "/groups", {"name": name})
                found = self.call("GET", f"/groups?search={name}&exact=true").json()
            groups[name] = found[0]["id"]
        self.call("PUT", f"/default-groups/{groups['users']}")
        for name, (member_of, more) in PEOPLE.items():
            credentials = [{"type": "password", "value": PASSWORD, "temporary": False}]
            person = {"username": name, "enabled": True, "credentials": credentials, **more}
            self.call("POST", "/users", {"firstName": name, "lastName": "é", **person})
            for group in ("users", *member_of):
                self.call("PUT", f"/users/{self.user(name)}/groups/{groups[group]}")
        for group in ("users", "admins"):
            self.call("PUT", f"/users/{self.user('admin-user')}/groups/{groups[group]}")
        (client,) = self.call("GET", "/clients?clientId=oauth2-proxy").json()
        mapper = {
            "name": "groups",
            "protocol": "openid-connect",
            "protocolMapper": "oidc-group-membership-mapper",
            "config": {"claim.name": "groups", "full.path": "false", "id.token.claim": "true"},
        }
        self.call("POST", f"/clients/{client['id']}/protocol-mappers/models", mapper)
        # A person without an e-mail address has to be possible: some external providers give none.
        profile = self.call("GET", "/users/profile").json()
        for attribute in profile["attributes"]:
            attribute.pop("required", None)
        self.call("PUT", "/users/profile", profile)


class Front:
    """The stack, up, with its people."""

    def __init__(self, live: Standing) -> None:
        self.live = live
        self.realm = Realm(live)
        self.urls = live.outputs.urls
        self._apps: dict[str, frontdoor.SecondFactor] = {}  # administrators set one up at their first login

    def stranger(self) -> httpx.Client:
        return frontdoor.browser(self.live.plan.settings.domain, "127.0.0.1", self.live.outputs.ca_pem)

    def person(self, name: str, start: str) -> tuple[httpx.Client, httpx.Response]:
        """A browser in which somebody has logged in, and the page that this ended at."""
        visitor = self.stranger()
        app = self._apps.setdefault(name, frontdoor.SecondFactor())
        login = frontdoor.log_in(visitor, start, self.live.outputs.issuer, name, PASSWORD, app)
        assert login.asked, f"{start} led to {login.response.url}, and to no login"
        return visitor, login.response

    def sql(self, query: str) -> list[str]:
        psql = ("psql", "-h", "/var/run/postgresql", "-U", "postgres", "-d", "n8n", "-Atc", query)
        return docker("exec", self.live.name("postgres"), *psql).split("\n")[:-1]

    def raw(self, request: bytes, host: str, *, wait: float = 20) -> bytes:
        """The first bytes of the answer to a request that is sent exactly so."""
        context = ssl.create_default_context(cadata=self.live.outputs.ca_pem)
        plain = socket.create_connection(("127.0.0.1", self.live.plan.settings.https_port), timeout=wait)
        with context.wrap_socket(plain, server_hostname=host) as tls:
            tls.sendall(request)
            return tls.recv(65536)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("authority")
    ports: dict[str, Any] = {"http_port": 20380, "https_port": 20343, "admin_port": 20344}
    ports["trusted_proxies"] = clients.PROXIES
    # Consul's tokens are made of its secrets: those must not all be one.
    apart: dict[str, Any] = {"plain": lambda key: key.owner == "consul"}
    with standing.stack(STACK, folder, "automation", "discovery", start=False, **apart, **ports) as live:
        live.trial.values.update(PLAIN)
        live.trial.up()
        live.make_realm()
        found = Front(live)
        found.realm.people()
        live.settle()
        trial.eventually(lambda: _asked(found), 90)
        yield found


def _asked(front: Front) -> bool:
    with front.stranger() as stranger:
        answers = [stranger.get(front.urls[name], follow_redirects=False) for name in ("n8n", "consul", "login")]
    return all(answer.status_code == 302 for answer in answers)


@pytest.fixture
def eve(front: Front) -> Iterator[httpx.Client]:
    visitor, _ = front.person("eve", f"{front.urls['n8n']}/home/workflows")
    with closing(visitor):
        yield visitor


def who(visitor: httpx.Client, front: Front, **headers: str) -> dict[str, Any]:
    """Whom n8n takes a visitor for."""
    answer = visitor.get(f"{front.urls['n8n']}/rest/login", headers={**PROGRAM, **headers})
    assert answer.status_code == 200, f"{answer.status_code} {answer.text[:300]}"
    return answer.json()["data"]


# ------------------------------------------------------------------------------------------------------- who gets in


def test_it_is_proven(front: Front) -> None:
    for service in ("oauth2-proxy", "n8n", "consul"):
        holds, text = front.live.prove(service)
        assert holds, text


def test_one_login_opens_the_editor(front: Front) -> None:
    """From n8n's own address to Keycloak and back to the page that was asked for, as the person who logged in."""
    visitor, page = front.person("eve", f"{front.urls['n8n']}/home/workflows?a=1&b=%26")
    with closing(visitor):
        assert page.status_code == 200 and "n8n" in page.text
        assert str(page.url) == f"{front.urls['n8n']}/home/workflows?a=1&b=%26"
        person = who(visitor, front)
        assert (person["email"], person["role"], person["isPending"]) == ("eve@kit.localhost", "global:member", False)
        assert "n8n-auth" not in {cookie.name for cookie in visitor.cookies.jar}
        assert visitor.get(f"{front.urls['n8n']}/rest/settings", headers=PROGRAM).status_code == 200
    assert front.sql("""select count(*) from "user" where email = 'eve@kit.localhost'""") == ["1"]


def test_the_realms_administrator_owns_n8n_and_other_administrators_are_members(front: Front) -> None:
    visitor, _ = front.person("admin-user", front.urls["n8n"])
    with closing(visitor):
        assert who(visitor, front)["role"] == "global:owner"
    visitor, _ = front.person("ann", front.urls["n8n"])
    with closing(visitor):
        assert who(visitor, front)["role"] == "global:member"


def test_many_first_requests_make_one_person(front: Front) -> None:
    """A page asks for many things at once; whoever is new is made once."""
    front.sql("""delete from "user" where email = 'eve@kit.localhost'""")
    visitor, _ = front.person("eve", f"{front.urls['login']}/")
    with closing(visitor), ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: who(visitor, front)["email"], range(16)))
    assert set(names) == {"eve@kit.localhost"}


def test_a_viewer_is_told_and_leaves_no_trace(front: Front) -> None:
    visitor, page = front.person("vic", front.urls["n8n"])
    with closing(visitor):
        assert page.status_code == 403 and "no role" in page.text
        program = visitor.get(f"{front.urls['n8n']}/rest/login", headers=PROGRAM)
        assert (program.status_code, program.json()) == (403, {"error": "not allowed"})
    assert front.sql("""select count(*) from "user" where email = 'vic@kit.localhost'""") == ["0"]


@pytest.mark.parametrize(("name", "status"), [("vic", 403), ("eve", 403), ("ann", 200), ("admin-user", 200)])
def test_administrators_pages_are_for_them_alone(front: Front, name: str, status: int) -> None:
    visitor, page = front.person(name, f"{front.urls['consul']}/ui/")
    with closing(visitor):
        assert page.status_code == status, page.text[:300]


@pytest.mark.parametrize("name", ["nobody", "unsure"])
def test_without_an_address_that_was_verified_nobody_gets_in(front: Front, name: str) -> None:
    visitor, page = front.person(name, front.urls["n8n"])
    with closing(visitor):
        assert page.status_code == 500 and "e-mail address" in page.text
        assert visitor.get(front.urls["n8n"], headers=PROGRAM).status_code == 401


def test_a_program_is_told_and_not_led_around(front: Front) -> None:
    with front.stranger() as stranger:
        for headers in (PROGRAM, {"Accept": "*/*"}, {**PAGE, "X-Requested-With": "XMLHttpRequest"}):
            answer = stranger.get(f"{front.urls['n8n']}/rest/settings", headers=headers, follow_redirects=False)
            assert answer.status_code == 401 and "location" not in answer.headers
        fetch = {**PAGE, "Sec-Fetch-Mode": "cors"}
        assert stranger.get(f"{front.urls['n8n']}/", headers=fetch, follow_redirects=False).status_code == 401
        visit = {**PAGE, "Sec-Fetch-Mode": "navigate"}
        assert stranger.get(f"{front.urls['n8n']}/", headers=visit, follow_redirects=False).status_code == 302


# ----------------------------------------------------------------------------------------------------- who pretends


def _spellings() -> Iterator[str]:
    for name in ("X-Forwarded-Email", "X-Auth-Request-Email", "X-Kit-Email", "Remote-Email"):
        yield from (name, name.upper(), name.lower(), name.replace("-", "_"), name.replace("-", "_", 1))


def test_a_forged_header_makes_nobody_anybody_else(front: Front, eve: httpx.Client) -> None:
    """However it is spelled, twice or once, in one connection or the next: a person stays who logged in."""
    admin = front.live.plan.settings.admin_email
    for name in _spellings():
        assert who(eve, front, **{name: admin})["email"] == "eve@kit.localhost", name
    host = front.urls["n8n"].removeprefix("https://")
    cookies = "; ".join(f"{c.name}={c.value}" for c in eve.cookies.jar if c.name == "__Secure-kit-login")
    for lines in (
        f"x-forwarded-email: {admin}\r\nX-Forwarded-Email: {admin}\r\n",
        f"X-FORWARDED-EMAIL:{admin}\r\nConnection: close, X-Kit-Voucher, X-Forwarded-Email\r\n",
        f"X-Kit-Voucher: {'0' * 64}\r\nX-Kit-Voucher: {'1' * 64}\r\nx_kit_voucher: x\r\n",
        f"X-Forwarded-Email : {admin}\r\n",
        f"X-Forwarded-Email:\t {admin}\r\n X-Forwarded-Email: {admin}\r\n",
        f"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nX-Forwarded-Email: {admin}",
    ):
        request = (
            f"GET /rest/login HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nCookie: {cookies}\r\n{lines}\r\n"
        )
        answer = front.raw(request.encode(), host.partition(":")[0])
        assert admin.encode() not in answer, lines
        # 400 and 403: the front door, or the firewall behind it, takes it for no request, or for an attack.
        known = b"eve@kit.localhost" in answer
        assert known or any(status in answer[:20] for status in (b" 400 ", b" 401 ", b" 403 ")), answer[:300]


@pytest.fixture
def echo(front: Front) -> Iterator[str]:
    """The address of a webhook whose workflow answers with the headers that it was called with."""
    run = prove._Run(front.live.outputs, front.live.plan, prove.Steps(_quiet()))
    context = prove._Context(run, "n8n")
    path = f"{context.prefix}echo"
    workflow = n8n._workflow(path)
    workflow["nodes"][1]["parameters"]["jsCode"] = "return [{ json: $input.first().json.headers }];"
    n8n._owner(context, verb="make", workflow=workflow)
    try:
        yield f"{front.urls['n8n']}/webhook/{path}"
    finally:
        n8n.cleanup(context)
        run.close()


def _quiet() -> Progress:
    return Progress(io.StringIO(), tty=False, environ={})


def test_what_is_open_is_called_without_a_login_and_hears_of_nobody(front: Front, echo: str, eve: httpx.Client) -> None:
    """Neither a forged header nor the login's cookie reaches a workflow; other cookies and headers do."""
    forged = dict.fromkeys(_spellings(), "x@example.org")
    with front.stranger() as stranger:
        trial.eventually(lambda: stranger.post(echo, json={}).status_code == 200, 60)
        heard = stranger.post(echo, json={}, headers={**forged, "X-Mine": "1", "Cookie": "mine=2"}).json()
    assert (heard["x-mine"], heard["cookie"]) == ("1", "mine=2")
    assert "x@example.org" not in json.dumps(heard)
    eve.cookies.set("other", "3", domain=httpx.URL(echo).host)
    heard = eve.post(echo, json={}).json()
    assert "other=3" in heard["cookie"] and "__Secure-kit-login" not in json.dumps(heard)
    assert not [name for name in heard if name.startswith(("x-kit-", "x-auth-request-"))]


LOGIN = "__Secure-kit-login"


@pytest.mark.parametrize("name", [LOGIN, f"{LOGIN}_0", f"{LOGIN}_csrf_x"])
def test_a_webhook_does_not_set_the_logins_cookie(front: Front, eve: httpx.Client, name: str) -> None:
    """Whoever opens what a workflow answers stays who they are, and nobody is made somebody else."""
    run = prove._Run(front.live.outputs, front.live.plan, prove.Steps(_quiet()))
    context = prove._Context(run, "n8n")
    path = f"{context.prefix}cookie"
    workflow = n8n._workflow(path)
    value = f"{name}=somebody-elses; Path=/; Domain=.kit.localhost; Secure; HttpOnly"
    entries = [{"name": "Set-Cookie", "value": value}, {"name": "X-Answered", "value": "by the workflow"}]
    workflow["nodes"][1]["parameters"]["jsCode"] = "return [{ json: {} }];"
    workflow["nodes"][2]["parameters"]["options"] = {"responseHeaders": {"entries": entries}}
    n8n._owner(context, verb="make", workflow=workflow)
    hook = f"{front.urls['n8n']}/webhook/{path}"
    try:
        mine = [cookie.value for cookie in eve.cookies.jar if cookie.name == LOGIN]
        trial.eventually(lambda: eve.post(hook, json={}).status_code == 200, 60)
        answer = eve.post(hook, json={})
        assert answer.headers["x-answered"] == "by the workflow"
        told = answer.headers.get_list("set-cookie")
        assert told and not any("somebody-elses" in line for line in told), told
        assert [cookie.value for cookie in eve.cookies.jar if cookie.name == LOGIN] == mine
        assert who(eve, front)["email"] == "eve@kit.localhost"
    finally:
        n8n.cleanup(context)
        run.close()


def test_nobody_becomes_somebody_else_by_a_change_of_address_in_n8n(front: Front, eve: httpx.Client) -> None:
    """n8n knows people by their address, which comes from the login. Its profile page changes names alone."""
    url = f"{front.urls['n8n']}/rest/me"
    origin = {**PROGRAM, "Origin": front.urls["n8n"]}
    people = 'select email from "user" order by email'
    before = front.sql(people)
    admin = front.live.plan.settings.admin_email
    for address in (admin, admin.upper(), "vic@kit.localhost", "somebody@example.org"):
        profile = {"email": address, "firstName": "Eve", "lastName": "Évé"}
        answer = eve.patch(url, json=profile, headers=origin)
        assert answer.status_code >= 400, f"{address}: {answer.status_code} {answer.text[:300]}"
        assert front.sql(people) == before
    profile = {"email": "eve@kit.localhost", "firstName": "Eva", "lastName": "Évé"}
    answer = eve.patch(url, json=profile, headers=origin)
    assert answer.status_code == 200, answer.text[:300]
    assert not [line for line in answer.headers.get_list("set-cookie") if line.startswith("n8n-auth=ey")]
    assert (who(eve, front)["email"], who(eve, front)["firstName"]) == ("eve@kit.localhost", "Eva")
    visitor, _ = front.person("eve", front.urls["n8n"])
    with closing(visitor):
        assert who(visitor, front)["email"] == "eve@kit.localhost"


ASK = """
const [url, headers] = JSON.parse(process.argv[1]);
fetch(url, { headers }).then(async (a) => console.log(a.status, (await a.text()).slice(0, 200)));
"""


def test_whoever_stands_beside_the_front_door_has_no_voucher(front: Front) -> None:
    """From another container of the same network: what the front door would say is not believed without its secret."""

    def ask(**headers: str) -> str:
        asked = json.dumps([f"http://n8n:{n8n_port}/rest/login", headers])
        return docker("exec", front.live.name("n8n-runner-1"), "node", "-e", ASK, asked)

    n8n_port = 5678
    admin = front.live.plan.settings.admin_email
    assert ask(**{"X-Forwarded-Email": admin}).startswith("401")
    for voucher in ("", "0" * 64, front.live.trial.secret("n8n", "voucher").encode().hex()):
        assert ask(**{"X-Forwarded-Email": admin, "X-Kit-Voucher": voucher}).startswith("403")


@pytest.mark.parametrize(
    "path",
    [
        "/webhook/../rest/login",
        "/webhook/%2e%2e/rest/login",
        "/webhook/..%2frest/login",
        "//webhook/x",
        "/webhook/..;/x",
    ],
)
def test_no_path_gets_around_the_login(front: Front, path: str) -> None:
    host = front.urls["n8n"].removeprefix("https://")
    answer = front.raw(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n".encode(), host.partition(":")[0])
    assert answer.split(b" ")[1] in (b"401", b"403", b"404"), answer[:200]
    assert b'kit.localhost"' not in answer


# ------------------------------------------------------------------------------------------------------------ streams


def test_a_page_of_another_address_does_not_act_in_a_persons_name(front: Front, eve: httpx.Client) -> None:
    """One cookie for several hosts: what one of them could make a browser send is refused, reading is not for it."""
    url = f"{front.urls['n8n']}/rest/tags"
    for origin in (front.urls["consul"], "https://example.org", "null"):
        answer = eve.post(url, json={"name": "x"}, headers={**PROGRAM, "Origin": origin})
        assert (answer.status_code, answer.json()) == (403, {"error": "asked by a page of another address"})
        out = eve.post(f"{front.urls['n8n']}/rest/logout", headers={"Origin": origin})
        assert out.status_code == 403
    assert who(eve, front, Origin=front.urls["n8n"])["email"] == "eve@kit.localhost"
    mine = eve.post(url, json={"name": "x"}, headers={**PROGRAM, "Origin": front.urls["n8n"]})
    assert mine.status_code == 200, mine.text


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (r"https://x\metrics?@{n8n}/webhook/a", "{n8n}"),
        ("https://{n8n}/webhook/a", "{n8n}"),
        ("/", "{consul},{n8n}"),
        ("/", "{n8n},{consul}"),
    ],
)
def test_what_is_looked_at_is_what_the_service_reads(front: Front, target: str, host: str) -> None:
    """No absolute form, whose authority HAProxy and a service read in two ways; no two hosts in one header."""
    hosts = {name: front.urls[name].removeprefix("https://") for name in ("n8n", "consul")}
    visitor, _ = front.person("eve", front.urls["n8n"])
    with closing(visitor):
        cookies = "; ".join(f"{c.name}={c.value}" for c in visitor.cookies.jar if c.name == "__Secure-kit-login")
    lines = (f"GET {target.format(**hosts)} HTTP/1.1", f"Host: {host.format(**hosts)}", f"Cookie: {cookies}")
    answer = front.raw("\r\n".join((*lines, "", "")).encode(), hosts["n8n"].partition(":")[0])
    assert answer.startswith(b"HTTP/1.1 400"), answer[:200]


def _upgrade(front: Front, cookies: str, origin: str = "") -> bytes:
    host = front.urls["n8n"].removeprefix("https://")
    lines = (
        "GET /rest/push?pushRef=kit HTTP/1.1",
        f"Host: {host}",
        f"Origin: {origin or f'https://{host}'}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Cookie: {cookies}",
    )
    return front.raw("\r\n".join((*lines, "", "")).encode(), host.partition(":")[0])


def test_the_editors_websocket_opens_for_whom_the_editor_does(front: Front, eve: httpx.Client) -> None:
    cookie = next(c for c in eve.cookies.jar if c.name == "__Secure-kit-login")
    assert _upgrade(front, f"{cookie.name}={cookie.value}").startswith(b"HTTP/1.1 101")
    assert _upgrade(front, f"{cookie.name}={cookie.value}", front.urls["consul"]).startswith(b"HTTP/1.1 403")
    assert _upgrade(front, "").startswith(b"HTTP/1.1 401")
    assert _upgrade(front, f"{cookie.name}=x{cookie.value}").startswith(b"HTTP/1.1 401")


def test_a_stream_is_not_held_back(front: Front) -> None:
    """Consul's own log, as it is written: what is there arrives while the answer goes on."""
    visitor, _ = front.person("ann", f"{front.urls['consul']}/ui/")
    token = encode(front.live.trial.secret("consul", "management"), Encoding.UUID)
    begin = time.monotonic()
    with (
        closing(visitor),
        visitor.stream(
            "GET",
            f"{front.urls['consul']}/v1/agent/monitor?loglevel=trace",
            headers={"X-Consul-Token": token, **PROGRAM},
        ) as answer,
    ):
        assert answer.status_code == 200
        first = next(answer.iter_bytes())
    assert first and time.monotonic() - begin < 20


def test_what_a_request_costs(front: Front, eve: httpx.Client) -> None:
    """A page that the front door refuses by itself, with the question and without. Printed; the bound is loose."""

    def median(ask: Callable[[dict[str, str]], httpx.Response]) -> float:
        times: list[float] = []
        for _ in range(120):
            begin = time.perf_counter()
            assert ask(clients.another()).status_code == 403
            times.append(time.perf_counter() - begin)
        return statistics.median(times[20:]) * 1000

    checked = median(lambda client: eve.get(f"{front.urls['n8n']}/metrics", headers=PROGRAM | client))
    plain = median(lambda client: eve.get(f"{front.urls['auth']}/metrics", headers=PROGRAM | client))
    print(f"asked {checked:.1f} ms, not asked {plain:.1f} ms: {checked - plain:.1f} ms more (medians of 100)")
    assert checked - plain < 200


# ------------------------------------------------------------------------------------------------------------ the end


def test_logging_out_of_n8n_ends_the_login_everywhere(front: Front) -> None:
    """n8n's own button: afterwards neither the old cookie nor Keycloak lets anybody in without the password."""
    visitor, _ = front.person("ann", f"{front.urls['consul']}/ui/")
    with closing(visitor):
        assert who(visitor, front)["email"] == "ann@kit.localhost"
        kept = {c.name: c.value or "" for c in visitor.cookies.jar if c.name == "__Secure-kit-login"}
        out = visitor.post(f"{front.urls['n8n']}/rest/logout", headers=PROGRAM)
        assert (out.status_code, out.json()) == (200, {"data": {"loggedOut": True}})
        for name in ("n8n", "consul"):
            assert visitor.get(front.urls[name], headers=PROGRAM).status_code == 401
            assert httpx_with(front, kept, front.urls[name]) == 401
        again = visitor.get(f"{front.urls['n8n']}/signin")
        assert frontdoor.login_form(again, front.live.outputs.issuer), f"the password was not asked for at {again.url}"


def httpx_with(front: Front, cookies: dict[str, str], url: str) -> int:
    with front.stranger() as stranger:
        header = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return stranger.get(url, headers={**PROGRAM, "Cookie": header}).status_code


def test_a_session_that_keycloak_ends_is_over_here_within_a_minute(front: Front, eve: httpx.Client) -> None:
    assert who(eve, front)["email"] == "eve@kit.localhost"
    front.realm.call("POST", f"/users/{front.realm.user('eve')}/logout")
    begin = time.monotonic()
    trial.eventually(lambda: eve.get(f"{front.urls['n8n']}/rest/login", headers=PROGRAM).status_code == 401, 75)
    print(f"over after {time.monotonic() - begin:.0f} s")


def test_a_role_that_is_taken_away_is_gone_within_a_minute(front: Front) -> None:
    visitor, _ = front.person("ann", f"{front.urls['consul']}/ui/")
    user = front.realm.user("ann")
    group = front.realm.call("GET", "/groups?search=admins&exact=true").json()[0]["id"]
    front.realm.call("DELETE", f"/users/{user}/groups/{group}")
    begin = time.monotonic()
    try:
        with closing(visitor):
            trial.eventually(lambda: visitor.get(f"{front.urls['consul']}/ui/").status_code == 403, 75)
            print(f"gone after {time.monotonic() - begin:.0f} s")
    finally:
        front.realm.call("PUT", f"/users/{user}/groups/{group}")


def test_without_the_login_service_such_routes_are_shut_and_all_else_works(
    front: Front, echo: str, eve: httpx.Client
) -> None:
    trial.eventually(lambda: eve.post(echo, json={}).status_code == 200, 60)
    docker("stop", "-t", "2", front.live.name("oauth2-proxy"))
    try:
        with front.stranger() as stranger:
            assert eve.get(f"{front.urls['n8n']}/rest/login", headers=PROGRAM).status_code == 503
            assert eve.get(f"{front.urls['n8n']}/", headers=PAGE).status_code == 503
            assert stranger.post(echo, json={}).status_code == 200
            assert stranger.get(front.live.outputs.issuer).status_code == 200
    finally:
        docker("start", front.live.name("oauth2-proxy"))
    trial.eventually(lambda: eve.get(f"{front.urls['n8n']}/rest/login", headers=PROGRAM).status_code == 200, 60)


def test_without_the_store_of_sessions_nobody_gets_in_and_it_is_said(front: Front, eve: httpx.Client) -> None:
    """Redis is away: no page opens, for whoever has a login or none, and soon all are told to try again."""
    assert who(eve, front)["email"] == "eve@kit.localhost"
    docker("stop", "-t", "2", front.live.name("redis"))
    try:
        begin, seen = time.monotonic(), set[int]()
        with front.stranger() as stranger:
            while time.monotonic() < begin + 90:
                answers = [
                    visitor.get(f"{front.urls[name]}{path}", headers=headers, follow_redirects=False)
                    for visitor in (eve, stranger)
                    for name, path in (("n8n", "/rest/login"), ("consul", "/ui/"))
                    for headers in (PROGRAM, PAGE)
                ]
                now = {answer.status_code for answer in answers}
                seen |= now
                assert now <= {302, 401, 503}, now
                if now == {503}:
                    break
            else:
                raise AssertionError(f"the front door never said that logging in does not work: {seen}")
            page = stranger.get(f"{front.urls['n8n']}/", headers=PAGE)
            assert "Logging in does not work just now" in page.text and page.headers["retry-after"] == "5"
            assert stranger.get(front.live.outputs.issuer).status_code == 200
        print(f"said after {time.monotonic() - begin:.1f} s")
    finally:
        docker("start", front.live.name("redis"))
    trial.eventually(lambda: eve.get(f"{front.urls['n8n']}/", headers=PAGE).status_code == 200, 120)
    assert who(eve, front)["email"] == "eve@kit.localhost"


def test_before_n8n_has_its_owner_nobody_comes_first(front: Front, eve: httpx.Client) -> None:
    """As between the start of n8n and the job that makes its owner: whoever comes then is told to wait."""
    front.sql("""create table kit_kept as select * from "user" where "roleSlug" = 'global:owner'""")
    front.sql("""delete from "user" where email = 'eve@kit.localhost'""")
    front.sql("""update "user" set email = null, password = null where "roleSlug" = 'global:owner'""")
    try:
        docker("restart", "-t", "2", front.live.name("n8n"))
        front.live.restarted("n8n")
        trial.eventually(lambda: _told_to_wait(front, eve), 60)
        assert front.sql("""select count(*) from "user" where email = 'eve@kit.localhost'""") == ["0"]
    finally:
        front.sql('update "user" u set email = k.email, password = k.password from kit_kept k where u.id = k.id')
        front.sql("drop table kit_kept")
    assert who(eve, front)["role"] == "global:member"


def _told_to_wait(front: Front, visitor: httpx.Client) -> bool:
    answer = visitor.get(f"{front.urls['n8n']}/", headers=PAGE)
    assert answer.status_code in (403, 404, 503), f"{answer.status_code} {answer.text[:300]}"
    return answer.status_code == 403 and "n8n is being set up" in answer.text


def test_with_another_cookie_secret_people_come_back_without_a_password(front: Front, eve: httpx.Client) -> None:
    """What making the secret anew means: programs in open pages are told 401, a page comes back by itself."""
    container = front.live.container("oauth2-proxy")
    key = SecretKey("oauth2-proxy", "cookie-secret")
    before = front.live.trial.values[key]
    front.live.trial.values[key] = before[::-1]
    try:
        begin = time.monotonic()
        front.live.trial.start(container)
        front.live.restarted("oauth2-proxy")
        trial.eventually(lambda: eve.get(f"{front.urls['n8n']}/rest/login", headers=PROGRAM).status_code == 401, 60)
        print(f"no login for {time.monotonic() - begin:.1f} s at the most, a new container included")
        page = eve.get(f"{front.urls['n8n']}/", headers=PAGE)
        assert page.status_code == 200 and page.url.host.startswith("n8n.")
    finally:
        front.live.trial.values[key] = before
        front.live.trial.start(container)
        front.live.restarted("oauth2-proxy")


# -------------------------------------------------------------------------------------------------------- in a browser


LOGIN = "#kc-login, #saveTOTPBtn"  # the button of Keycloak's forms


def unhindered(window: Browser, page: str) -> None:
    """Nothing that a page wants to do is refused by the headers that the front door adds, by the console's word."""
    said = window.complaints()
    print(f"{page}: the console says {said or 'nothing'}")
    assert not [line for line in said if "Policy" in line or "Refused to" in line or "violates" in line]


def test_the_account_page_asks_an_administrator_for_a_code(front: Front, tmp_path: Path) -> None:
    """Keycloak's own page, in a browser: an app is set up at the first login, and asked for at the next."""
    account = f"{front.live.outputs.issuer}/account"
    with chromium(tmp_path) as window:
        window.open(f"{account}/")
        window.fill(LOGIN, username="tess", password=PASSWORD)
        window.shown("#totp")
        key = window.all("#totpSecret")[0].get_attribute("value")
        assert key
        app = totp.Authenticator(key.encode())
        window.fill(LOGIN, totp=app.next(), userLabel="the phone")
        window.shown('input[name="email"]', "Personal info")
        window.until(lambda: window.all('input[name="email"]')[0].get_attribute("value") == "tess@kit.localhost")
        window.keep("account")
        window.open(f"{account}/account-security/signing-in")
        window.shown(words="the phone")
        window.keep("account-signing-in")

        front.realm.call("POST", f"/users/{front.realm.user('tess')}/logout")
        window.chrome.delete_all_cookies()
        window.open(f"{account}/")
        window.fill(LOGIN, username="tess", password=PASSWORD)
        window.fill(LOGIN, otp="000000")
        window.shown(words="Invalid authenticator code")
        window.fill(LOGIN, otp=app.next())
        window.shown(words="Personal info")
        unhindered(window, "Keycloak's account page")
        # The same login opens the pages of a service that has none; what browsers are told there hinders nothing.
        window.open(f"{front.urls['consul']}/ui/")
        window.shown("main", "Consul")
        window.keep("consul")
        unhindered(window, "Consul's pages")


def test_a_browser_logs_in_once_and_is_in_the_editor(front: Front, tmp_path: Path) -> None:
    """Headless Chromium, as a person does it. Screenshots are artifacts."""
    base, issuer = front.urls["n8n"], front.live.outputs.issuer
    with chromium(tmp_path, seconds=400) as window:
        window.open(f"{base}/workflow/new")
        window.shown("#username")
        assert window.chrome.current_url.startswith(issuer)
        window.fill(LOGIN, username="eve", password=PASSWORD)
        # The editor, and no second login: its canvas, with the first node to be chosen.
        window.shown('[data-test-id="canvas-add-button"], .vue-flow')
        assert window.chrome.current_url.startswith(f"{base}/workflow")
        assert not window.all('input[type="password"]')
        assert not window.chrome.get_cookie("n8n-auth")
        # Its push connection is a websocket behind the same login: it would say so when it were lost.
        time.sleep(5)
        assert "Connection lost" not in window.text
        picture = window.keep("n8n-editor")
        unhindered(window, "the editor")
        window.open(f"{base}/signout")
        window.shown("#username")
        assert window.chrome.current_url.startswith(issuer)
        window.keep("n8n-signed-out")
    assert picture.stat().st_size > 10_000


# ---------------------------------------------------------------------------------------------------------- what leaks


def test_no_secret_is_in_inspect_variables_or_logs(front: Front) -> None:
    secrets = {str(key): value for key, value in front.live.trial.values.items()}
    for name in ("oauth2-proxy", "n8n", "haproxy"):
        for kind in ("inspect", "logs"):
            text = docker(kind, front.live.name(name), check=False)
            assert not leaks_in(text, f"{kind} {name}", secrets)


def test_times_and_memory_are_written_down(front: Front) -> None:
    for name in ("oauth2-proxy", "haproxy", "n8n"):
        container = front.live.name(name)
        print(f"{name} {front.live.trial.started[container]:.1f} s {trial.memory_mb(container):.0f} MB")
