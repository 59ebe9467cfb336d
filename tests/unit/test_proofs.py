"""Proofs without servers: the run always cleans up, says what failed and where to look, and reads login pages right."""

from __future__ import annotations

import importlib
import io
import ssl
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from ops import frontdoor, prove
from ops.engine import DockerApi
from ops.identity import Administration
from ops.progress import Progress
from ops.prove import Outcome, Steps, summary
from stack.catalog import discover
from stack.derive import rates
from stack.model import ImageSource, Proof, Role
from stack.outputs import SECRET_OUTPUTS, StackOutputs, export_name
from stack.plan import Plan
from stack.proofs import paths, ports
from stack.proofs.context import ProofContext, ProofError, as_written, expect, parsed, wait_for
from tests import factories

ISSUER = "https://auth.kit.localhost:8443/realms/kit"
OUTPUTS = StackOutputs(
    urls={"chat": "https://chat.kit.localhost:8443"},
    ca_pem="",
    realm="kit",
    issuer=ISSUER,
    admin_url="https://127.0.0.1:1",
    admin_client_id="service",
    admin_client_secret="s",
    admin_user="admin-user",
    admin_password="p",
)


class Record:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.steps: list[str] = []
        self.ends: list[tuple[int, int]] = []

    def begins(self, service: str, title: str) -> None: ...

    def trying(self, step: str) -> None:
        self.steps.append(step)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def finished(self, outcomes: Sequence[Outcome], planned: int) -> None:
        self.ends.append((len(outcomes), planned))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A proof module of the test's own, and a front door that is never opened."""
    made = types.ModuleType("proofs_of_a_test")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(frontdoor, "browser", lambda *_: httpx.Client())
    return made


def planned(*proofs: Proof) -> Plan:
    spec = factories.app(proofs=proofs)
    services = tuple(replace(s, proofs=()) if s.name != spec.name else spec for s in factories.catalog(app=spec))
    from stack import plan as planning

    plan = planning.build(factories.settings(), factories.host(), services)
    # Nobody to ask about throw-away users: that part has its own test.
    return replace(plan, services=tuple(s for s in plan.services if Role.IDENTITY not in s.spec.roles))


def test_a_program_that_fails_inside_is_a_failed_proof(
    module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it complained of; and only containers of the proof's own service can be asked."""
    seen: list[tuple[str, tuple[str, ...]]] = []

    def execute(_: DockerApi, container: str, argv: tuple[str, ...], **__: object) -> tuple[int, str, str]:
        seen.append((container, argv))
        return (0, "42", "") if argv[0] == "good" else (1, "", "no such luck\n")

    monkeypatch.setattr(DockerApi, "execute", execute)
    printed: list[str] = []
    good = proof(module, "good", lambda ctx: printed.append(ctx.inside("main", ("good",))))
    bad = proof(module, "bad", lambda ctx: printed.append(ctx.inside("main", ("bad",))))
    other = proof(module, "other", lambda ctx: printed.append(ctx.inside("elsewhere", ("good",))))
    record = Record()
    prove.prove(OUTPUTS, planned(good, bad, other), record)
    assert printed == ["42"]
    assert seen == [("kit-dev-app", ("good",)), ("kit-dev-app", ("bad",))]
    problems = {outcome.title: outcome.problem for outcome in record.outcomes}
    assert problems[bad.title] == "no such luck"
    assert problems[other.title]


def proof(module: types.ModuleType, name: str, function: Callable[[ProofContext], None], cleanup: str = "") -> Proof:
    setattr(module, name, function)
    return Proof(name, f"{module.__name__}:{name}", cleanup and f"{module.__name__}:{cleanup}")


@pytest.mark.parametrize("spec", discover(), ids=lambda spec: spec.name)
def test_every_proof_and_cleanup_exists(spec: object) -> None:
    for declared in spec.proofs:  # type: ignore[attr-defined]
        for target in filter(None, (declared.run, declared.cleanup)):
            name, _, function = target.partition(":")
            assert callable(getattr(importlib.import_module(name), function))


def test_all_are_tried_and_each_is_told(module: types.ModuleType) -> None:
    def good(ctx: ProofContext) -> None:
        ctx.step("one")
        ctx.note("7 tokens")

    def bad(ctx: ProofContext) -> None:
        ctx.step("two")
        raise ProofError("the answer is empty")

    def tripping(ctx: ProofContext) -> None:
        raise KeyError("surprise")

    def silent(ctx: ProofContext) -> None:
        raise httpx.ConnectError("refused")

    plan = planned(*(proof(module, f.__name__, f) for f in (good, bad, tripping, silent)))
    record = Record()
    assert prove.prove(OUTPUTS, plan, record) is False
    first, second, third, fourth = record.outcomes
    assert (first.problem, first.notes) == ("", ("7 tokens",))
    assert (second.problem, second.step) == ("the answer is empty", "two")
    assert second.look[0] == "./kit status" and any("docker logs kit-" in look for look in second.look)
    assert "KeyError" in third.problem
    assert fourth.problem == "no answer: refused"
    assert record.steps == ["one", "two"] and record.ends == [(4, 4)]


def test_a_run_without_a_fault_is_true(module: types.ModuleType) -> None:
    assert prove.prove(OUTPUTS, planned(proof(module, "fine", lambda _: None)), Record()) is True


@pytest.mark.parametrize("fault", [KeyboardInterrupt, ProofError, ZeroDivisionError])
def test_the_cleanup_always_runs_once(module: types.ModuleType, fault: type[BaseException]) -> None:
    cleaned: list[str] = []

    def failing(ctx: ProofContext) -> None:
        raise fault("now")

    module.cleanup = lambda ctx: cleaned.append(ctx.prefix)  # type: ignore[attr-defined]
    plan = planned(*(proof(module, name, failing, "cleanup") for name in ("first", "second")))
    record = Record()
    if fault is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            prove.prove(OUTPUTS, plan, record)
        assert record.outcomes[0].problem == "interrupted"
    else:
        assert prove.prove(OUTPUTS, plan, record) is False
    assert cleaned == [prove.PREFIX]
    assert len(record.ends) == 1


def test_what_cannot_be_cleaned_up_fails_the_run(module: types.ModuleType) -> None:
    def cleanup(ctx: ProofContext) -> None:
        raise ProofError("the user is still there")

    module.cleanup = cleanup  # type: ignore[attr-defined]
    record = Record()
    assert prove.prove(OUTPUTS, planned(proof(module, "fine", lambda _: None, "cleanup")), record) is False
    assert record.outcomes[-1].problem == "the user is still there"


def test_what_a_person_reads(module: types.ModuleType) -> None:
    def bad(ctx: ProofContext) -> None:
        ctx.step("a question to it")
        raise ProofError("no worker took it")

    def good(ctx: ProofContext) -> None:
        ctx.note("32 tokens")

    stream = io.StringIO()
    progress = Progress(stream, tty=False, environ={})
    prove.prove(OUTPUTS, planned(proof(module, "good", good), proof(module, "bad", bad)), progress)
    text = stream.getvalue()
    assert "app          good (32 tokens)" in text
    assert "app          bad" in text and ": no worker took it" in text
    assert "while trying: a question to it" in text and "look at: ./kit status or docker logs kit-" in text
    assert text.endswith("1 of 2 proven. The stack is up; this is not.\n")


def test_a_proof_against_a_stand_in_says_so(module: types.ModuleType) -> None:
    """The service's own stand-in, or that of a service which the proof goes through; others are not marked."""
    own, plain = proof(module, "own", lambda ctx: None), proof(module, "plain", lambda ctx: None)
    through = replace(proof(module, "through", lambda ctx: None), through=("base",))
    spec = factories.app(proofs=(plain, through))
    base = next(each for each in factories.catalog() if each.name == "base")
    thing = replace(factories.IMAGE, name="other")
    base = replace(base, proofs=(own,), containers=(replace(base.containers[0], image=thing),))
    services = tuple(replace(s, proofs=()) for s in factories.catalog() if s.name not in ("app", "base"))
    from stack import plan as planning

    built = {name: f"aikit.local/airgap/{name}:1-0123456789ab" for name in ("thing", "tools")}
    built["other"] = "aikit.local/airgap/standin-other:1-0123456789ab"
    settings = factories.settings(images=ImageSource.AIRGAP, airgap_images=built)
    plan = planning.build(settings, factories.host(), (*services, base, spec))
    assert (plan.standins(), plan.standins("app"), plan.standins("app", "base")) == (
        ("standin-other",),
        (),
        ("standin-other",),
    )
    plan = replace(plan, services=tuple(s for s in plan.services if Role.IDENTITY not in s.spec.roles))
    stream = io.StringIO()
    prove.prove(OUTPUTS, plan, Progress(stream, tty=False, environ={}))
    text = stream.getvalue()
    assert "own [stand-in: standin-other]" in text and "through [stand-in: standin-other]" in text
    assert "plain [" not in text
    assert "3 of 3 proven, 2 of them against a stand-in only (standin-other), which counts nothing" in text


def test_summaries() -> None:
    good = Outcome(service="a", title="b", seconds=1)
    assert summary([good], 1) == "1 of 1 proven."
    assert summary([good], 3) == "1 of 3 proven, 2 not tried."
    assert "this is not" in summary([good, replace(good, problem="x")], 2)
    weak = replace(good, standins=("standin-thing",))
    said = "2 of 2 proven, 1 of them against a stand-in only (standin-thing), which counts nothing for the real server."
    assert summary([good, weak], 2) == said
    assert "stand-in" not in summary([good, replace(weak, problem="x")], 2)
    Steps(Progress(io.StringIO())).ended(good)  # without a begin: nothing to end


# ------------------------------------------------------------------------------------------------- front door


def page(text: str, url: str = f"{ISSUER}/login-actions/authenticate", status: int = 200) -> httpx.Response:
    return httpx.Response(status, text=text, request=httpx.Request("GET", url))


FORM = '<form id="kc-form-login" action="/realms/kit/login-actions/authenticate?a=1&amp;b=2" method="post">'


def test_the_login_form_is_the_issuers_own() -> None:
    assert frontdoor.login_form(page(FORM), ISSUER) == (
        "https://auth.kit.localhost:8443/realms/kit/login-actions/authenticate?a=1&b=2"
    )
    assert frontdoor.login_form(page("<form id=other action=/x>"), ISSUER) is None
    assert frontdoor.login_form(page(FORM, "https://evil.example/realms/kit/"), ISSUER) is None
    assert frontdoor.login_form(page(FORM, "https://auth.kit.localhost:8443/realms/master/"), ISSUER) is None


def visitor(answers: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(answers), follow_redirects=True)


def test_a_refused_password_is_told_in_the_providers_words() -> None:
    def answers(request: httpx.Request) -> httpx.Response:
        if request.url.host == "chat.kit.localhost":
            return httpx.Response(302, headers={"location": f"{ISSUER}/auth"})
        if request.method == "POST":
            return httpx.Response(200, text=f'{FORM}<span id="input-error">\n Invalid  password. </span>')
        return httpx.Response(200, text=FORM)

    with pytest.raises(ProofError, match=r"did not let the user in \(200\): Invalid password\."):
        frontdoor.log_in(visitor(answers), "https://chat.kit.localhost:8443/login", ISSUER, "u", "p")


def test_a_second_login_needs_no_password() -> None:
    login = frontdoor.log_in(visitor(lambda _: httpx.Response(200, text="in")), f"{ISSUER}/x", ISSUER, "u", "p")
    assert login.asked is False and login.response.text == "in"


def test_the_redirect_with_the_code_is_not_followed() -> None:
    def answers(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(302, headers={"location": f"{ISSUER}/account/?state=s&code=c"})
        return httpx.Response(200, text=FORM)

    browser = visitor(answers)
    answer = frontdoor.authorize(browser, f"{ISSUER}/auth", ISSUER, "u", "p")
    assert "code=c" in answer.headers["location"] and browser.follow_redirects is True


def test_the_door_connects_to_the_address_and_asks_for_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[httpx.Request] = []

    class Through(httpx.BaseTransport):
        def __init__(self, **_: object) -> None: ...

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200)

    monkeypatch.setattr(httpx, "HTTPTransport", Through)
    client = httpx.Client(transport=frontdoor.Door("kit.localhost", "10.1.2.3", None))  # type: ignore[arg-type]
    client.get("https://chat.kit.localhost:8443/a")
    client.get("https://elsewhere.example/b")
    client.get("https://notkit.localhost/c")
    assert [r.url.host for r in seen] == ["10.1.2.3", "elsewhere.example", "notkit.localhost"]
    assert seen[0].headers["host"] == "chat.kit.localhost:8443"
    assert seen[0].extensions["sni_hostname"] == "chat.kit.localhost"


def answering(monkeypatch: pytest.MonkeyPatch, *answers: httpx.Response) -> tuple[httpx.Client, list[float]]:
    """A browser that gets these answers one after the other, and the seconds that it waits meanwhile."""
    left, waited = list(answers), list[float]()

    class Through(httpx.BaseTransport):
        def __init__(self, **_: object) -> None: ...

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            assert request.read() == (b"body" if request.method == "POST" else b"")
            return left.pop(0)

    monkeypatch.setattr(httpx, "HTTPTransport", Through)
    monkeypatch.setattr("ops.frontdoor.time.sleep", waited.append)
    return httpx.Client(transport=frontdoor.Door("kit.localhost", "10.1.2.3", None)), waited  # type: ignore[arg-type]


def too_many(wait: int, **headers: str) -> httpx.Response:
    return httpx.Response(429, headers={"retry-after": str(wait), **headers})


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_asks_too_often_comes_back_when_told(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    front = {rates.REFUSED: "refused"}
    browser, waited = answering(monkeypatch, too_many(3, **front), too_many(1, **front), httpx.Response(200))
    content = b"body" if method == "POST" else None
    assert browser.request(method, "https://chat.kit.localhost/a", content=content).status_code == 200
    assert waited == [3, 1]


def test_nobody_waits_for_ever_or_for_a_services_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    browser, waited = answering(monkeypatch, too_many(3600, **{rates.REFUSED: "refused"}), too_many(3))
    assert [browser.get("https://chat.kit.localhost/a").status_code for _ in range(2)] == [429, 429]
    assert waited == []


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "127.0.0.1"),
        ({"bind_address": "0.0.0.0"}, "127.0.0.1"),
        ({"bind_address": "192.168.1.5"}, "192.168.1.5"),
        ({"docker_host": "ssh://me@pi.home:22", "bind_address": "0.0.0.0"}, "pi.home"),
    ],
)
def test_where_the_front_door_is(settings: dict[str, object], address: str) -> None:
    plan = planned()
    assert frontdoor.address_of(replace(plan, settings=factories.settings(**settings))) == address


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[httpx.Client, str, list[str]]]:
    """A browser of the proofs, the address of a server behind its door, and what that server was asked."""
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(f"{self.requestline} {self.headers['host']}")  # self.path would be tidied once more
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(302)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: object) -> None: ...  # pyright: ignore

    monkeypatch.setattr(frontdoor, "trust", lambda _: ssl.create_default_context())  # type: ignore[misc]
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with frontdoor.browser("kit.localhost", "127.0.0.1", "") as browser:
            yield browser, f"http://chat.kit.localhost:{server.server_port}", asked
        server.shutdown()


ODD = ("/a/../b", "/a/%2e%2e/b", "/a/..%2fb", "//a/b", "/a//b", "/auth/v1/../../metrics", "/%761/x", "/a/./b?c=../d")


@pytest.mark.parametrize("path", ODD)
def test_a_path_arrives_as_it_is_written(written: tuple[httpx.Client, str, list[str]], path: str) -> None:
    browser, base, asked = written
    host = base.removeprefix("http://")
    answer = as_written(browser, base, path, "POST", json={})
    assert asked == [f"POST {path} HTTP/1.1 {host}"]
    assert answer.status_code == 302, "a redirect is an answer, and is not followed"
    with pytest.raises(ProofError) as said:
        expect(answer, 403, "closed")
    assert f"closed: {path} answered 302" in str(said.value)


def test_it_is_below_the_path_of_its_route(written: tuple[httpx.Client, str, list[str]]) -> None:
    browser, base, asked = written
    as_written(browser, f"{base}/keycloak", "/a/../b?c=/d")
    assert asked[0].startswith("GET /keycloak/a/../b?c=/d HTTP/1.1")


def test_without_that_a_path_is_tidied(written: tuple[httpx.Client, str, list[str]]) -> None:
    """Why there is as_written. When this fails, httpx has changed, and as_written may go."""
    browser, base, asked = written
    browser.get(f"{base}/a/../b", follow_redirects=False)
    assert asked[0].startswith("GET /b HTTP/1.1")


@pytest.mark.parametrize(
    ("status", "location", "turned_away"),
    [
        (400, "", True),
        (401, "", True),
        (403, "", True),
        (200, "", False),
        (404, "", False),
        (302, f"{ISSUER}/protocol/openid-connect/auth?client_id=x", True),
        (302, "/signin", False),
        (302, "https://chat.kit.localhost:8443/", False),
        (302, ISSUER.replace("/realms/kit", ".evil.example/"), False),
        (302, f"{ISSUER}-other/auth", False),
    ],
)
def test_turned_away_is_refused_or_sent_to_log_in(status: int, location: str, turned_away: bool) -> None:
    answer = httpx.Response(
        status,
        headers={"location": location} if location else {},
        request=httpx.Request("GET", "https://chat.kit.localhost:8443/x"),
    )
    assert paths.refused(answer, ISSUER) is turned_away


# --------------------------------------------------------------------------------------------- administration


def test_throw_away_users_are_found_by_their_whole_prefix() -> None:
    asked: list[str] = []

    def answers(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path}")
        if request.url.path.endswith("/token"):
            return httpx.Response(200, json={"access_token": "t", "expires_in": 60})
        assert request.headers["authorization"] == "Bearer t"
        users = [{"username": "kit-prove-1", "id": "1"}, {"username": "not-kit-prove-2", "id": "2"}]
        return httpx.Response(200, json=users)

    administration = Administration(httpx.Client(transport=httpx.MockTransport(answers)), "https://admin", OUTPUTS)
    assert administration.found("kit-prove-") == {"kit-prove-1": "1"}
    administration.found("kit-prove-")
    assert asked.count("POST /realms/master/protocol/openid-connect/token") == 1


def test_a_refusal_names_the_call() -> None:
    def answers(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/token"):
            return httpx.Response(200, json={"access_token": "t", "expires_in": 60})
        return httpx.Response(403, text="no")

    administration = Administration(httpx.Client(transport=httpx.MockTransport(answers)), "https://admin", OUTPUTS)
    with pytest.raises(ProofError, match="403 to DELETE /users/1: no"):
        administration.remove("1")


# -------------------------------------------------------------------------------------------- small and shared


class Closed:
    """A context for port proofs: `open_` answers."""

    service = "app"
    address = "127.0.0.1"

    def __init__(self, plan: Plan, open_: int = 0) -> None:
        self.plan, self.open = plan, open_

    def step(self, title: str) -> None: ...

    def note(self, text: str) -> None: ...

    def exposed(self, port: int) -> str:
        return "kit-x-app" if port == self.open else ""


def test_a_port_that_answers_outside_is_named() -> None:
    plan = planned()
    number = plan.service("app").containers[0].spec.ports[0].number
    ports.closed(Closed(plan))  # type: ignore[arg-type]
    with pytest.raises(ProofError, match=f"port {number} answers outside, published by kit-x-app"):
        ports.closed(Closed(plan, number))  # type: ignore[arg-type]
    with pytest.raises(ProofError, match=f"answers at port {number}, published by kit-x-app"):
        ports.only_published(Closed(plan, number))  # type: ignore[arg-type]


def test_a_port_the_plan_publishes_is_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number inside and outside: Keycloak's 8080 is not open because the front door's 8080 is."""
    plan = planned()
    ingress = next(c for s in plan.services for c in s.containers if c.spec.publish)
    number = ingress.spec.publish[0].external(plan.settings)
    running = [{"Names": [f"/{ingress.docker_name}"], "Ports": [{"PublicPort": number}]}]
    monkeypatch.setattr(frontdoor, "answers", lambda *_: True)
    monkeypatch.setattr(DockerApi, "get", lambda *_: running)
    run = prove._Run(OUTPUTS, plan, Record())
    assert run.exposed(number) == ""
    running += [
        {"Names": ["/somebody-elses"], "Ports": [{"PublicPort": 5432}]},
        {"Names": [f"/kit-{plan.stack}-app"], "Ports": [{"PublicPort": 6379}, {"PrivatePort": 1}]},
    ]
    assert run.exposed(5432) == ""
    assert run.exposed(6379) == f"kit-{plan.stack}-app"


class Engine:
    """A Docker engine with containers of one job; each start adds to the log and ends with `code`."""

    def __init__(self, names: Sequence[str], code: int = 0) -> None:
        self.names, self.code, self.started, self.text = names, code, list[str](), "said before\n"

    def __call__(self, host: str | None) -> Engine:
        return self

    def get(self, path: str) -> list[dict[str, object]]:
        assert path == "/containers/json?all=true"
        return [{"Names": [f"/{name}"], "Created": created} for created, name in enumerate(self.names)]

    def post(self, path: str, timeout: float | None = None) -> object:
        _, _, name, verb = path.split("/")
        if verb == "start":
            self.started.append(name)
            self.text += "one line\nthe last line\n"
        return {"StatusCode": self.code}

    def logs(self, container: str) -> str:
        return self.text


def run_job(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> str:
    monkeypatch.setattr(prove, "DockerApi", engine)
    return prove._Run(OUTPUTS, planned(), Record()).run_job("app", "graph")


def test_a_job_runs_again_and_its_last_line_is_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = planned().stack
    engine = Engine([f"kit-{stack}-app-graph", f"kit-{stack}-app-graph-attempt-2", f"kit-{stack}-app-graphics"])
    assert run_job(monkeypatch, engine) == "the last line"
    assert engine.started == [f"kit-{stack}-app-graph-attempt-2"]  # the attempt that succeeded


def test_a_job_that_fails_says_what_it_said_this_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProofError, match=r"^one line the last line$"):
        run_job(monkeypatch, Engine([f"kit-{planned().stack}-app-graph"], code=1))


def test_a_job_that_never_ran_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProofError, match="no container of the job"):
        run_job(monkeypatch, Engine(["kit-other-app-graph"]))


def test_answers_that_are_not_what_was_expected() -> None:
    with pytest.raises(ProofError, match=r"read it: /realms/kit/.* answered 502: sorry"):
        expect(page("sorry", status=502), 200, "read it")
    with pytest.raises(ProofError, match="no JSON"):
        parsed(page("<html>"), "read it")
    assert parsed(page('{"a": 1}'), "read it") == {"a": 1}


def test_waiting_ends() -> None:
    found = iter([None, "there"])
    assert wait_for(lambda: next(found), 5, "it did not come") == "there"
    with pytest.raises(ProofError, match="it did not come within 0 s"):
        wait_for(lambda: None, 0, "it did not come")


# ----------------------------------------------------------------------------------------------------- outputs


def test_outputs_survive_the_way_through_the_state() -> None:
    full = replace(OUTPUTS, ca_pem="PEM")
    assert StackOutputs.from_dict({**full.to_dict(), "another": 1}) == full
    assert export_name("admin_client_secret") == "adminClientSecret"
    assert set(full.__dataclass_fields__) >= SECRET_OUTPUTS


def test_every_missing_output_is_named_at_once() -> None:
    exported = {**replace(OUTPUTS, ca_pem="PEM").to_dict(), "urls": {"chat": 1}, "issuer": None}
    del exported["realm"]
    with pytest.raises(ValueError, match="urls, realm, issuer"):
        StackOutputs.from_dict(exported)
