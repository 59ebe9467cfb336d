"""The firewall's configuration, as text, and what it adds to the ingress's. That servers take it: tests/live."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace

import pytest

from stack.catalog import discover
from stack.derive import ingress, waf
from stack.model import FREE_TEXT, Access, Role, Route, ServiceSpec, SpecError, Static, Target, Waf, WafExclusion
from stack.plan import Plan, build
from stack.proofs import waf as proof
from stack.settings import Settings, WafMode
from stack.targets import profile

SERVICES = discover()
REASON = "People write here what they like"


def planned(*services: ServiceSpec, **changes: object) -> Plan:
    settings = Settings(**{"stack": "test", "target": Target.DEV, **changes})  # pyright: ignore[reportArgumentType]
    return build(settings, profile(settings), services or SERVICES)


def with_waf(name: str, found: Waf, body_mb: int = 100) -> tuple[ServiceSpec, ...]:
    """The catalogue with what the routes of one service say to the firewall."""

    def saying(spec: ServiceSpec) -> ServiceSpec:
        return replace(spec, routes=tuple(replace(route, waf=found, body_mb=body_mb) for route in spec.routes))

    return tuple(saying(spec) if spec.name == name else spec for spec in SERVICES)


def excluding(**changes: object) -> tuple[ServiceSpec, ...]:
    given: dict[str, object] = {"rule": "942100", "targets": ("ARGS:text",), "reason": REASON}
    return with_waf("open-webui", Waf(exclusions=(WafExclusion(**{**given, **changes}),)))  # pyright: ignore


def pattern(text: str) -> str:
    """The one pattern of paths in the rules."""
    (found,) = re.findall(r'SecRule REQUEST_URI_RAW "@rx (.*)" "t:none,ctl:ruleRemoveTargetById=942100', text)
    return found


def test_every_route_goes_to_the_firewall_and_comes_back() -> None:
    plan = planned()
    text = ingress.config(plan)
    public, rest = text.split("# What is handed on is looked at first")
    assert "use_backend" not in public.split("frontend https")[1]
    for owned in plan.routes:
        name, backend = owned.item.name, f"{owned.owner}-{owned.item.name}"
        assert f"    http-request set-header X-Kit-Route {name} if host_{name}\n" in rest
        assert f"    use_backend firewall if host_{name}\n" in rest
        assert f"    use_backend {backend} if {{ var(txn.looked_at) -m str {name} }}\n" in rest
        assert f"\nbackend {backend}\n" in rest


def test_the_name_of_the_route_is_the_ingress_s_word_alone() -> None:
    text = ingress.config(planned())
    public = text.split("frontend https")[1]
    assert public.index("|kit|webauth)") < public.index("set-header X-Kit-Route")
    assert "http-request del-header X-Kit-Route" in text


def test_nobody_looks_where_that_is_wished() -> None:
    plan = planned(waf=WafMode.NONE)
    assert plan.provider(Role.FIREWALL) is None
    text = ingress.config(plan)
    assert "firewall" not in text and "X-Kit-Route" not in text and "looked-at" not in text
    assert all(
        f"use_backend {owned.owner}-{owned.item.name} if host_{owned.item.name}" in text for owned in plan.routes
    )


def test_a_firewall_that_is_named_and_switched_off_is_refused() -> None:
    name = next(spec.name for spec in SERVICES if Role.FIREWALL in spec.roles)
    with pytest.raises(SpecError, match="is switched off"):
        planned(waf=WafMode.NONE, services=(name,))


@pytest.mark.parametrize(("mode", "engine"), [(WafMode.BLOCK, "On"), (WafMode.DETECT, "DetectionOnly")])
def test_the_mode_is_the_engine_s(mode: WafMode, engine: str) -> None:
    text = waf.rules(planned(waf=mode, waf_paranoia=3))
    assert f"\nSecRuleEngine {engine}\n" in text and "setvar:tx.blocking_paranoia_level=3" in text


def test_answers_are_never_held_or_looked_at() -> None:
    plan = planned()
    assert "SecResponseBodyAccess Off" in waf.rules(plan) and "RESPONSE-" not in waf.rules(plan)
    assert "proxy_buffering off;" in waf.nginx(plan)


def test_each_route_has_its_size_and_the_ingress_is_the_only_way_on() -> None:
    plan = planned(*with_waf("open-webui", Waf(text_kb=7), body_mb=33))
    text = waf.nginx(plan)
    server = text.split("server_name chat.kit.localhost;")[1]
    assert "client_max_body_size 33m;" in server
    assert set(re.findall(r"set \$door (\S+);", text)) == {f"haproxy:{ingress.INNER_PORT}"}
    assert set(re.findall(r"proxy_pass (\S+);", text)) == {"http://$door"}
    assert f'SecRule ARGS_COMBINED_SIZE "@gt {7 * 1024}"' in waf.rules(plan)


@pytest.mark.parametrize(("target", "most"), [(Target.DEV, 80), (Target.PI, 16)])
def test_no_request_is_larger_than_what_it_can_hold(target: Target, most: int) -> None:
    plan = planned(*with_waf("open-webui", Waf(), body_mb=250), target=target)
    assert f"client_max_body_size {most}m;" in waf.nginx(plan)


def test_a_route_at_a_path_is_a_place_of_the_domain() -> None:
    plan = planned(*with_waf("keycloak", Waf(exclusions=(WafExclusion(rule="942100", reason=REASON, paths=("/a",)),))))
    moved = replace(plan, settings=replace(plan.settings, paths={"auth": "/login"}))
    text = waf.nginx(moved)
    assert "server_name kit.localhost;" in text and "location = /login {" in text and "location /login/ {" in text
    assert '"@rx ^(?:/login/a)(?:\\?|$)"' in waf.rules(moved)


def test_an_exclusion_is_for_its_route_and_says_why() -> None:
    lines = waf.rules(planned(*excluding())).splitlines()
    at = lines.index(f"# {REASON}")
    assert '"@streq chat"' in lines[at + 1] and lines[at + 1].endswith('ctl:ruleRemoveTargetById=942100;ARGS:text"')


@pytest.mark.parametrize(
    "path", ["/api/chat", "/api/notes/", "/api/notes/a", "/api/notes/a/b.c", "/api/notes/a?x=/../"]
)
def test_its_paths_are_those_that_it_names(path: str) -> None:
    assert re.match(pattern(waf.rules(planned(*excluding(paths=("/api/chat", "/api/notes/"))))), path)


@pytest.mark.parametrize(
    "path",
    [
        "/api/chats",
        "/api/notes",
        "/api/notes/../x",
        "/api/notes/%2e%2e/x",
        "/api/notes//x",
        "/x/api/chat",
        "/api/notes/.x",
    ],
)
def test_another_path_or_another_way_to_write_one_has_no_exclusion(path: str) -> None:
    assert not re.match(pattern(waf.rules(planned(*excluding(paths=("/api/chat", "/api/notes/"))))), path)


def test_a_long_path_does_not_take_long() -> None:
    found = re.compile(pattern(waf.rules(planned(*excluding(paths=("/n/",))))))
    assert not found.match("/n/" + "a" * 5000 + "%")


@pytest.mark.parametrize(
    "query", ["", "?", "?token=aB3-_.9", "?hub.mode=subscribe&hub.challenge=11&x=", "?at=2026-11-22&to=a%40b.org,c:d"]
)
def test_a_body_may_be_anything_where_the_query_is_of_words(query: str) -> None:
    found = pattern(waf.rules(planned(*excluding(paths=("/hook/", "/one"), plain_query=True))))
    assert re.match(found, f"/hook/a/b{query}") and re.match(found, f"/one{query}")


@pytest.mark.parametrize(
    "query",
    [
        "?q=<script>",
        "?q=%3Cscript%3E",
        "?q=1'--",
        "?q=union+select",
        "?q=union%20select",
        "?q=a%2fb",
        "?q=/etc/passwd",
        "?q=..",
        "?q=a%2e%2e",
        "?q=$(id)",
        "?q=;id",
        "?__proto__.a=1",
        "?id=password::int",
        "?q[]=1",
        "?q=a%0ab",
        "?q=a%",
        "?q=a?",
        "?q=é",
    ],
)
def test_any_other_query_is_looked_at(query: str) -> None:
    found = pattern(waf.rules(planned(*excluding(paths=("/hook/",), plain_query=True))))
    assert not re.match(found, f"/hook/a{query}")
    assert re.match(pattern(waf.rules(planned(*excluding(paths=("/hook/",))))), f"/hook/a{query}")


FAULTS: tuple[tuple[dict[str, object], str], ...] = (
    ({"reason": ""}, "has no reason"),
    ({"reason": "because"}, "has no reason"),
    ({"rule": ""}, "names no rule"),
    ({"rule": '942100"'}, "names no rule"),
    ({"rule": "OWASP_CRS", "targets": ()}, "takes out whole rules by a tag"),
    ({"targets": ("ARGS:a,deny",)}, "has the target"),
    ({"targets": ('ARGS"',)}, "has the target"),
    ({"paths": ("api",)}, "has the path"),
    ({"paths": ('/a"',)}, "has the path"),
    ({"paths": (), "plain_query": True}, "asks for a plain query everywhere"),
)


@pytest.mark.parametrize(("changes", "says"), FAULTS, ids=[f"{says}: {changes}" for changes, says in FAULTS])
def test_a_faulty_exclusion_is_refused_while_planning(changes: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError, match=says) as caught:
        planned(*excluding(**changes))
    assert "routes.chat.waf" in str(caught.value)


def test_every_exclusion_of_the_catalogue_has_a_sentence() -> None:
    for spec in SERVICES:
        for route in spec.routes:
            for exclusion in route.waf.exclusions:
                assert len(exclusion.reason.split()) > 6, f"{spec.name}: {exclusion.reason}"
                assert exclusion.targets != FREE_TEXT or exclusion.paths, f"{spec.name}: free text, everywhere"


RECORD = {
    "transaction": {
        "client_ip": "10.0.0.1",
        "time_stamp": "Sun Nov 22 02:48:09 2026",
        "unique_id": "17953",
        "request": {"method": "POST", "uri": "/a/path?token=geheim", "headers": {"Cookie": "a=geheim"}},
        "response": {"http_code": 403, "body": "geheim"},
        "producer": {"secrules_engine": "Enabled"},
        "messages": [
            {
                "message": 'XSS "quoted"',
                "details": {
                    "match": 'against variable `ARGS:password\' (Value: `geheim"ruleId":"1"\')',
                    "data": "Matched Data: geheim found within ARGS:password: geheim",
                    "ruleId": "941110",
                    "severity": "2",
                },
            }
        ],
    }
}


def test_the_log_says_what_matched_and_not_what_was_sent() -> None:
    script = Static("audit.pl").path("waf")
    lines = f"{json.dumps(RECORD)}\nno JSON at all geheim\n\n{json.dumps(RECORD)}\n"
    done = subprocess.run(["perl", str(script)], input=lines, capture_output=True, text=True, check=True)
    assert "geheim" not in done.stdout and not done.stderr
    first, broken, second = (json.loads(line) for line in done.stdout.splitlines())
    assert broken == {"log": "waf", "error": "a record could not be read"}
    assert first == second
    assert first["path"] == "/a/path" and first["status"] == 403 and first["client"] == "10.0.0.1"
    assert first["rules"] == [{"id": 941110, "message": 'XSS "quoted"', "target": "ARGS:password", "severity": 2}]


@pytest.mark.parametrize("route", [route for spec in SERVICES for route in spec.routes], ids=lambda route: route.name)
def test_the_proof_finds_a_path_of_every_route_that_is_looked_at(route: Route) -> None:
    assert proof.path_of(route)


def test_a_route_where_nothing_is_looked_at_is_no_proof_of_anything() -> None:
    everywhere = WafExclusion(rule="OWASP_CRS", targets=FREE_TEXT, reason=REASON)
    route = Route(name="x", port="http", access=Access.PUBLIC, waf=Waf(exclusions=(everywhere,)))
    with pytest.raises(LookupError, match="nothing that is sent to x is looked at"):
        proof.path_of(route)
    below = replace(everywhere, paths=("/free/",))
    route = replace(route, paths=("/free/a", "/other"), waf=Waf(exclusions=(below,)))
    assert proof.path_of(route) == "/other"
