"""What the front door says to clients and browsers: rates, limits, headers, log. On the real one: tests/live."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stack.catalog import discover
from stack.derive import headers, ingress, rates, runtime
from stack.model import Headers, RateClass, Route, ServiceSpec, SpecError, Static, Target, Zone
from stack.plan import Plan, build
from stack.services import haproxy
from stack.settings import Settings, WafMode, load
from stack.targets import profile
from tests import observatory

SERVICES = discover()


def planned(*services: ServiceSpec, **changes: object) -> Plan:
    settings = Settings(stack="test", target=Target.DEV, **changes)  # pyright: ignore[reportArgumentType]
    return build(settings, profile(settings), services or SERVICES)


def with_route(service: str, **changes: Any) -> tuple[ServiceSpec, ...]:
    """The catalogue with the route of one service changed."""
    changed = {
        spec.name: replace(spec, routes=tuple(replace(route, **changes) for route in spec.routes)) for spec in SERVICES
    }
    return tuple(changed[spec.name] if spec.name == service else spec for spec in SERVICES)


def problems(*services: ServiceSpec, **changes: object) -> str:
    with pytest.raises(SpecError) as refused:
        planned(*services, **changes)
    return str(refused.value)


# ------------------------------------------------------------------------------------------------------------ rates


class Bucket:
    """What the lines of `rates.rules` compute, for one client. `ask` is 0 when let through, otherwise Retry-After."""

    def __init__(self, rate: rates.Rate) -> None:
        self.rate, self.kept = rate, 0

    def ask(self, now: int) -> int:
        full = max(self.kept, now) + self.rate.every
        wait = full - now - self.rate.burst * self.rate.every
        if wait > 0:
            return (wait + 9) // 10
        self.kept = full
        return 0


@pytest.mark.parametrize(
    ("rate", "burst", "a_minute"),
    [(RateClass.PAGE, 100, 600), (RateClass.BUNDLE, 500, 600), (RateClass.STEADY, 200, 100), (RateClass.API, 20, 10)],
)
def test_a_class_is_so_many_at_once_and_so_many_a_minute(rate: RateClass, burst: int, a_minute: int) -> None:
    bucket, start = Bucket(rates.RATES[rate]), 10_000
    assert [bucket.ask(start) for _ in range(burst)] == [0] * burst
    wait = bucket.ask(start)
    assert wait > 0 and bucket.ask(start) == wait, "who is refused loses nothing by asking"
    assert bucket.ask(start + 10 * wait) == 0, "Retry-After is true"
    after = Bucket(rates.RATES[rate])
    hour = sum(after.ask(start + tenth) == 0 for tenth in range(0, 36_000, 1) for _ in range(2))
    assert hour == pytest.approx(60 * a_minute + burst, abs=2)


def test_the_lines_are_the_bucket() -> None:
    lines = list(rates.rules(planned()))
    assert lines[0] == "http-request track-sc0 src,ipmask(32,64) table rate-page if { var(txn.rate) -m str page }"
    lines = lines[:3] + [line for line in lines[3:] if "-m str" not in line]
    assert [line.split(" ", 2)[1] for line in lines] == [
        "track-sc0",
        *["set-var(txn.rate_every)", "set-var(txn.rate_room)", "set-var(txn.rate_now)", "set-var(txn.rate_full)"],
        *["set-var(txn.rate_full)", "set-var(txn.rate_full)", "set-var(txn.rate_wait)", "return", "sc-set-gpt(0,0)"],
    ]
    assert "status 429" in lines[-2] and 'Retry-After "%[var(txn.rate_wait),add(9),div(10)]"' in lines[-2]


def test_every_route_is_in_a_class_and_the_operator_decides() -> None:
    text = ingress.config(planned(rate_classes={"chat": RateClass.API}))
    assert "set-var(txn.rate) str(api) if host_chat\n" in text and "set-var(txn.rate) str(page) if host_auth\n" in text
    assert "backend rate-api\n" in text and "backend rate-page\n" in text and "backend rate-steady\n" not in text
    assert all(route.rate is not RateClass.API for route in every_route()), "opt-in: no service says so by itself"


def test_who_is_refused_reaches_no_login_and_no_service() -> None:
    text = ingress.config(planned(profiles=("automation",)))
    assert text.index("status 429") < text.index("http-request lua.login") < text.index("use_backend ")
    admin = text[text.index("frontend admin") : text.index("backend admin")]
    assert "429" not in admin and "track-sc" not in admin


def test_a_reload_forgets_no_count() -> None:
    text = ingress.config(planned())
    assert "peers workers\n" in text and "localpeer self\n" in text and "server self\n" in text
    assert re.findall(r"stick-table .* store gpt\(1\)(.*)", text) == [" peers workers"] * 2


@pytest.mark.parametrize("rate", ["fast", "", "API"])
def test_an_unknown_rate_class_is_refused(rate: str) -> None:
    assert "there is no rate class" in problems(*with_route("open-webui", rate=rate))
    with pytest.raises(SpecError, match="rateClasses"):
        load("test", {"target": "dev", "rateClasses": [f"chat = {rate}"]}, from_engine=False)


def test_rates_and_sticky_are_for_routes_that_are_there() -> None:
    said = problems(rate_classes={"chatt": RateClass.API}, sticky=("nowhere",))
    assert "rateClasses[0]" in said and "sticky[0]" in said and "chat" in said


# ----------------------------------------------------------------------------------------------------- who it is from


def test_nobody_is_believed_unless_the_operator_says_so() -> None:
    assert "set-src" not in ingress.config(planned())
    text = ingress.config(planned(trusted_proxies=("10.0.0.0/24", "2001:db8::1/128")))
    lines = [line for line in text.splitlines() if "set-src" in line]
    assert len(lines) == ingress.PROXIES_IN_A_ROW
    assert all("if { src 10.0.0.0/24 2001:db8::1/128 }" in line for line in lines)
    assert text.index("set-src") < text.index("del-header X-Forwarded-For") < text.index("track-sc0")


@pytest.mark.parametrize("proxy", ["everywhere", "0.0.0.0/0", "::/0", "10.0.0.1/24", "10.0.0.256"])
def test_a_proxy_is_an_address_or_a_network_and_not_everybody(proxy: str) -> None:
    with pytest.raises(SpecError, match="trustedProxies"):
        load("test", {"target": "dev", "trustedProxies": [proxy]}, from_engine=False)


# ----------------------------------------------------------------------------------------------- limits and timeouts


def backend(text: str, name: str) -> str:
    found = re.search(rf"^backend {name}\n((?: .*\n)*)", text, re.MULTILINE)
    assert found
    return found[1]


def test_what_streams_may_take_its_time_and_nothing_else_may() -> None:
    text = ingress.config(planned())
    assert "set-timeout client 30m if host_chat" in text and "if host_auth" not in text.split("set-timeout")[1][:30]
    assert "timeout server 30m" in backend(text, "open-webui-chat")
    assert "timeout server" not in backend(text, "keycloak-auth")
    defaults = text[text.index("defaults\n") : text.index("resolvers docker")]
    assert (
        "timeout client 60s" in defaults and "timeout server 60s" in defaults and "timeout http-request 10s" in defaults
    )
    assert "http-buffer-request" not in text, "nothing waits for the whole of anything"


def test_only_what_may_be_read_twice_is_sent_twice() -> None:
    text = ingress.config(planned())
    assert "retry-on conn-failure empty-response\n" in text
    for head in ("frontend https", "frontend admin"):
        assert "disable-l7-retry if !METH_GET\n" in text[text.index(head) :].split("\n\n", 1)[0]


def test_a_body_has_a_limit() -> None:
    text = ingress.config(planned(*with_route("open-webui", body_mb=7)))
    assert f"set-var(txn.body) int({7 * 2**20}) if host_chat\n" in text and "status 413" in text
    assert "body_mb 0" in problems(*with_route("open-webui", body_mb=0))


def test_visitors_stay_with_their_server_where_the_operator_says_so() -> None:
    text = ingress.config(planned(sticky=("chat",)))
    chat = backend(text, "open-webui-chat")
    assert "cookie kit-server-chat insert indirect nocache httponly secure\n" in chat and chat.rstrip().endswith(
        "cookie 1"
    )
    assert "cookie kit-server" not in backend(text, "keycloak-auth")


def test_several_servers_answer_for_a_route() -> None:
    def several(spec: ServiceSpec) -> ServiceSpec:
        return replace(spec, containers=(replace(spec.containers[0], replicas=lambda _: 2), *spec.containers[1:]))

    service = next(spec for spec in SERVICES if spec.name == "supabase-studio")
    catalogue = tuple(several(spec) if spec.name == service.name else spec for spec in SERVICES)
    text = ingress.config(planned(*catalogue, profiles=("chat", "supabase"), sticky=("studio",), memory_mb=64_000))
    studio = backend(text, "supabase-studio-studio")
    assert (
        "balance leastconn\n" in studio and len(re.findall(r"^    server .* cookie [12]$", studio, re.MULTILINE)) == 2
    )


# --------------------------------------------------------------------------------------------------------- reloading


def test_nothing_is_delivered_that_haproxy_refuses() -> None:
    """The check has the very files that are delivered, and the delivery waits for it."""
    (check,) = (job for job in haproxy.SERVICE.jobs if job.first)
    delivered = haproxy.SERVICE.container().files
    assert check.command == ("haproxy", "-c", "-f", "/run/kit/haproxy.cfg")
    assert {file.name for file in delivered} - {file.name for file in check.files} == {"reload.sh"}
    made = runtime.build(planned())
    (front,) = (step for step in made.containers if step.publish)
    assert made.guards(front) == ("kit-test-haproxy-check",)
    before = {file.name: file.text for job in made.jobs if job.name.endswith("-check") for file in job.files}
    same = {file.name for file in front.files if before.get(file.name) == file.text}
    assert same == {"haproxy.cfg", "login.lua", "state.lua", "front.lua", "certs/leaf.pem"}, (
        "vouchers are secret, and only read"
    )


def test_no_change_of_a_file_replaces_the_container() -> None:
    (front,) = (step for step in runtime.build(planned()).containers if step.publish)
    assert front.files and not [file.name for file in front.files if file.restarts]


def test_a_worker_leaves_to_the_next_what_it_knows() -> None:
    text = ingress.config(planned())
    assert "load-server-state-from-file global\n" in text and "option idle-close-on-response\n" in text
    assert "expose-fd listeners\n" in text and "hard-stop-after 30m\n" in text
    servers = [line for line in text.splitlines() if line.startswith("    server ") and "resolvers" in line]
    assert servers and all("init-addr last,none" in line for line in servers)
    assert all(Static(name).path("haproxy").is_file() for name in ("state.lua", "reload.sh"))


# --------------------------------------------------------------------------------------------------------------- log


def test_the_log_is_one_object_with_no_query_no_cookie_and_no_header_but_the_host() -> None:
    names = re.findall(r"%\((\w+)\)", ingress.LOG)
    assert names[:7] == ["time", "client", "host", "method", "path", "version", "status"] and len(set(names)) == len(
        names
    )
    assert ingress.LOG.startswith('"%{+json}o ')
    for leak in ("%HU", "%HQ", "%r", "%hr", "%CC", "%CS", "query", "cook", "url"):
        assert leak not in ingress.LOG
    text = ingress.config(planned())
    assert set(re.findall(r"capture req\.\S+", text)) == {"capture req.hdr(host)"}


# ----------------------------------------------------------------------------------------------------------- headers


def every_route() -> list[Route]:
    return [route for spec in SERVICES for route in spec.routes]


# Those with 80 let scripts be in the page, because the application has some there, or say nothing of scripts at all
# because nobody has looked at its pages yet.
GRADES = {
    "api": "A+",
    "supabase": "A+",
    "login": "A+",
    "chat": "B+",
}


@pytest.mark.parametrize("route", every_route(), ids=lambda route: route.name)
def test_headers_have_a_grade(route: Route) -> None:
    sent = headers.fields(route.headers)
    public = {**sent, "Strict-Transport-Security": headers.HSTS}
    assert observatory.grade(public) == GRADES.get(route.name, "B+")
    assert observatory.score(sent) == max(80, 0) - 20 if route.name not in ("api", "supabase", "login") else True


@pytest.mark.parametrize(
    ("sent", "grade"),
    [
        ({}, "D"),
        ({"Strict-Transport-Security": "max-age=63072000"}, "C"),
        (
            {
                "Strict-Transport-Security": "max-age=63072000",
                "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
            },
            "A+",
        ),
    ],
)
def test_the_grades_are_mozillas(sent: dict[str, str], grade: str) -> None:
    assert observatory.grade(sent) == grade


def test_what_the_application_sends_itself_stays() -> None:
    lines = [line for line in headers.rules(planned()) if "{ var(txn.at) -m str" in line]
    assert lines and all(re.search(r"!\{ res\.hdr\([A-Za-z-]+\) -m found \}$", line) for line in lines)


@pytest.mark.parametrize("public", [True, False])
@pytest.mark.parametrize("usual", [True, False])
def test_hsts_is_the_front_doors_and_only_with_a_chain_that_everybody_trusts(public: bool, usual: bool) -> None:
    ports = {"http_port": 80, "https_port": 443} if usual else {}
    plan = planned(domain="home.example", **ports)
    seen = cast("Plan", SimpleNamespace(settings=plan.settings, routes=plan.routes, public_chain=public))
    first = next(headers.rules(seen))
    assert first.startswith(
        "http-after-response " + ("set" if public and usual else "del") + "-header Strict-Transport"
    )


@pytest.mark.parametrize("bad", ["a\nb", 'a"b', "a$b", "a%b", "ä"])
def test_a_header_that_cannot_be_sent_is_refused(bad: str) -> None:
    assert "headers.csp cannot be sent" in problems(*with_route("open-webui", headers=Headers(csp=bad)))


# ----------------------------------------------------------------------------------------------------------- figures


def test_figures_are_for_the_management_network() -> None:
    plan = planned()
    figures = ingress.config(plan).split("frontend figures\n")[1].split("\n\n")[0]
    assert figures.index("deny_status 403 unless") < figures.index("prometheus-exporter") < figures.index("stats uri")
    assert "stats admin" not in figures and "str(haproxy.manage)" in figures
    (front,) = (step for step in runtime.build(plan).containers if step.publish)
    named = [network.zone for network in front.networks if "haproxy.manage" in network.aliases]
    assert named == [Zone.MANAGE]
    assert ingress.FIGURES_PORT not in {publish.internal for publish in front.publish}


# ----------------------------------------------------------------------------------------------------- bad requests


def test_two_routes_on_one_host_or_path_are_refused() -> None:
    assert "has that host name already" in problems(*with_route("open-webui", name="auth"))
    with pytest.raises(SpecError, match="leads to auth already"):
        load("test", {"target": "dev", "paths": ["auth = /x", "chat = /x"]}, from_engine=False)


def test_what_two_servers_could_read_in_two_ways_is_refused_first() -> None:
    text = ingress.config(planned())
    front = text[text.index("frontend https") :]
    for rule in (
        "deny_status 400 if !{ req.ver -m str 2.0 } !{ url -m beg / }",
        "deny_status 400 if { req.fhdr(host) -m sub , }",
        "deny_status 400 if { req.ver -m str 1.0 } { req.hdr(transfer-encoding) -m found }",
        "deny_status 405 if { method TRACE TRACK }",
        "return status 421",
    ):
        assert 0 < front.index(rule) < front.index("acl host_")


# ---------------------------------------------------------------------------------------------- published on loopback


def binds(text: str) -> list[list[str]]:
    """The lines that follow the last bind of each frontend."""
    return [part.splitlines() for part in re.split(r"\n    bind [^\n]*\n(?!    bind)", text)[1:]]


@pytest.mark.parametrize(
    ("address", "closed"), [("127.0.0.1", 3), ("127.1.2.3", 3), ("::1", 3), ("0.0.0.0", 1), ("192.0.2.7", 1), ("::", 1)]
)
def test_what_is_published_on_loopback_answers_to_this_machine_alone(address: str, closed: int) -> None:
    """Both public ports where they are; the administration's always."""
    text = ingress.config(planned(bind_address=address))
    assert (
        text.count("tcp-request connection reject unless { var(sess.from),strcmp(sess.here) eq 0 } || { src ") == closed
    )
    admin = next(lines for lines in binds(text[text.index("frontend admin") - 1 :]))
    assert any("connection reject unless" in line for line in admin[:4])


def test_a_body_of_unknown_size_goes_to_who_measures_it() -> None:
    assert "status 411" not in ingress.config(planned())
    assert ingress.config(planned(waf=WafMode.NONE)).count("status 411") == 2


@pytest.mark.parametrize("host", ["chat.kit", "chat.kit:8443", "CHAT.kit:1"])
def test_a_host_is_a_name_and_a_number(host: str) -> None:
    assert re.search(ingress.HOST_AND_PORT, host)


@pytest.mark.parametrize("host", ["", "chat.kit:", "chat.kit:x@evil", "chat.kit:80:80", "chat.kit:<b>", "a:123456"])
def test_what_is_no_number_is_refused(host: str) -> None:
    assert not re.search(ingress.HOST_AND_PORT, host)
