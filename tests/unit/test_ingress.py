"""The front door's and the queue's configuration, as text. That HAProxy takes it: tests/live/test_services.py."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.catalog import discover
from stack.derive import ingress, queue, runtime
from stack.derive.haproxy import quoted
from stack.model import Access, Http, Port, Role, ServiceSpec, Target
from stack.plan import Plan, build
from stack.settings import Settings
from stack.targets import profile

SERVICES = discover()


def planned(*services: ServiceSpec, **changes: object) -> Plan:
    settings = Settings(stack="test", target=Target.DEV, **changes)  # pyright: ignore[reportArgumentType]
    return build(settings, profile(settings), services or SERVICES)


def section(text: str, head: str) -> str:
    """From a section's head to the next one."""
    found = re.search(rf"^{re.escape(head)}\n((?:[ \t#].*\n|\n)*)", text, re.MULTILINE)
    assert found, f"no section {head!r}"
    return found[1]


def with_route(name: str, **changes: object) -> tuple[ServiceSpec, ...]:
    """The catalogue with the route of one service changed."""
    return tuple(
        replace(spec, routes=tuple(replace(route, **changes) for route in spec.routes)) if spec.name == name else spec
        for spec in SERVICES
    )


@pytest.mark.parametrize("text", [ingress.config(planned()), queue.config(planned())], ids=["ingress", "queue"])
def test_it_ends_with_a_newline_and_says_where_it_is_from(text: str) -> None:
    assert text.endswith("\n") and "\t" not in text
    assert text.startswith("# Derived from the plan")


def test_every_route_has_a_host_a_backend_and_its_owner() -> None:
    plan = planned()
    text = ingress.config(plan)
    for owned in plan.routes:
        source = f"stack/services/{owned.owner.replace('-', '_')}.py"
        host = plan.host_name(owned.item)
        assert f"    # {source}: {host} ({owned.item.access})\n    acl host_{owned.item.name} " in text
        assert f"# {source}\nbackend {owned.owner}-{owned.item.name}\n" in text


def test_hosts_are_matched_exactly() -> None:
    for line in ingress.config(planned()).splitlines():
        if "acl host_" in line:
            assert " -m str " in line and "field(1,:)" in line


def test_unknown_hosts_are_refused_before_any_backend() -> None:
    https = section(ingress.config(planned()), "frontend https")
    assert https.index("status 421") < https.index("use_backend")


@pytest.mark.parametrize(
    ("port", "location"), [(8443, "field(1,:),lower]:8443%[capture"), (443, "field(1,:),lower]%[capture")]
)
def test_plain_http_leads_to_the_right_port(port: int, location: str) -> None:
    http = section(ingress.config(planned(https_port=port)), "frontend http")
    assert "redirect code 301" in http and location in http and "use_backend" not in http


@pytest.mark.parametrize("port", [443, 8443, 9443])
def test_the_public_url_works_inside_as_well(port: int) -> None:
    https = section(ingress.config(planned(https_port=port)), "frontend https")
    assert f"bind :{port} ssl" in https and f"bind :{ingress.HTTPS_PORT} ssl" in https


@pytest.mark.parametrize("frontend", ["frontend https", "frontend admin"])
def test_what_a_client_says_about_itself_is_forgotten(frontend: str) -> None:
    text = section(ingress.config(planned()), frontend)
    for name in ingress.FORWARDED:
        assert text.index(f"del-header {name}\n") < text.index("set-header X-Forwarded-For")


def test_denied_paths_are_answered_before_the_backend() -> None:
    https = section(ingress.config(planned()), "frontend https")
    deny = next(line for line in https.splitlines() if "path,url_dec" in line)
    assert "if host_auth" in deny and "-m beg -i /metrics /health" in deny
    assert https.index(deny) < https.index("use_backend firewall if host_auth")
    assert deny.endswith(f"|| host_auth {{ path,url_dec -m reg {quoted(ingress.DOTTED_PATH)} }}")


def test_nothing_odd_is_below_a_folder() -> None:
    """/v1/../key begins with /v1/, and a server may read it as /key."""
    front = section(
        ingress.config(planned(*with_route("open-webui", access=Access.MACHINE, paths=("/v1/", "/me")))),
        "frontend https",
    )
    deny = next(line for line in front.splitlines() if "if host_chat" in line and "deny" in line)
    assert deny.endswith("if host_chat !{ path -m str /me } !{ path -m beg /v1/ } || host_chat odd_chat")
    assert front.count("acl odd_chat ") == 2
    assert front.index("acl odd_chat ") < front.index(deny)


def test_a_service_below_a_path_has_one_address() -> None:
    plan = planned(*with_route("open-webui", prefix="/chat-of-ours"))
    front = section(ingress.config(plan), "frontend https")
    one = "https://chat.kit.localhost:8443"
    for line in (
        "acl below_chat path -m str /chat-of-ours",
        "acl below_chat path -m beg /chat-of-ours/",
        f"http-request redirect code 307 location {one}/chat-of-ours/ if host_chat {{ path -m str / }}",
        f"http-request redirect code 307 location {one}%[pathq] if shared_host {{ path -m str /chat-of-ours }} "
        "|| shared_host { path -m beg /chat-of-ours/ }",
    ):
        assert f"    {line}\n" in front
    nowhere = f"return status 404 content-type text/plain string '{ingress.UNKNOWN}' if"
    elsewhere = f"{nowhere} shared_host !{{ var(txn.route) -m found }}\n"
    assert f"{nowhere} host_chat !below_chat\n" in front and elsewhere in front
    assert front.index(elsewhere) < front.index("use_backend"), "no backend ever sees the domain itself"
    assert front.index("use_backend firewall if host_chat") > 0, "and none has the path alone for a condition"


def test_the_domain_itself_is_a_name_where_a_path_of_it_leads_on() -> None:
    plan = planned(*with_route("open-webui", prefix="/chat"))
    assert plan.host_names[-1] == "kit.localhost"
    (front,) = (step for step in runtime.build(plan).containers if step.publish)
    assert any("kit.localhost" in network.aliases for network in front.networks)
    for frontend in ("frontend http", "frontend https"):
        unknown = next(line for line in section(ingress.config(plan), frontend).splitlines() if " 421 " in line)
        assert unknown.rstrip(" }").endswith(" kit.localhost")


def test_without_a_prefix_the_domain_is_no_name_and_nothing_changes() -> None:
    plan = planned()
    assert "kit.localhost" not in plan.host_names
    assert "shared_host" not in ingress.config(plan) and "below_" not in ingress.config(plan)


def test_a_prefix_comes_before_the_question_who_it_is() -> None:
    """Where nothing is, nobody is asked to log in first."""
    front = section(
        ingress.config(planned(*with_route("open-webui", access=Access.SSO, prefix="/chat"))), "frontend https"
    )
    assert front.index("!below_chat") < front.index("http-request lua.login")


def without_login(services: tuple[ServiceSpec, ...]) -> tuple[ServiceSpec, ...]:
    """The catalogue without whoever logs people in for others."""
    return tuple(spec for spec in services if Role.FORWARD_AUTH not in spec.roles)


@pytest.mark.parametrize("access", [Access.SSO, Access.ADMIN])
def test_a_route_whose_login_nobody_offers_stays_shut(access: Access) -> None:
    text = ingress.config(planned(*without_login(with_route("open-webui", access=access))))
    assert "deny_status 403 content-type text/plain string 'This address needs a login" in text
    assert "lua.login" not in text and "login.lua" not in text and "txn.login" not in text


def test_what_needs_no_login_is_spared_by_whole_folders_as_they_are_written() -> None:
    opened = without_login(with_route("open-webui", access=Access.SSO, open=("/hook/", "/form/")))
    front = section(ingress.config(planned(*opened)), "frontend https")
    assert "acl open_chat path -m beg /hook/ /form/\n" in front
    deny = next(line for line in front.splitlines() if "if host_chat" in line and "deny" in line)
    assert deny.endswith("if host_chat !open_chat || host_chat odd_chat")
    assert front.index(deny) < front.index("use_backend firewall if host_chat")


@pytest.mark.parametrize("path", ["/hook/../x", "/hook/..", "//hook/x", "/hook//x", "/hook/.", "/hook/./x", "/a\\b"])
def test_an_odd_path_is_seen(path: str) -> None:
    assert re.search(ingress.ODD_PATH, path)


@pytest.mark.parametrize("path", ["/", "/hook/x", "/hook/a.b", "/hook/..a", "/hook/x.../y", "/hook/a-b_c/"])
def test_a_plain_path_is_not_odd(path: str) -> None:
    assert not re.search(ingress.ODD_PATH, path)


def servers_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("    server ") and line != "    server self"]


def test_every_server_starts_without_its_name() -> None:
    for text in (ingress.config(planned()), queue.config(planned())):
        assert servers_of(text)
        assert all(re.search("resolvers docker init-addr (last,)?none", line) for line in servers_of(text))


def test_a_worker_begins_with_what_the_one_before_knew_of_the_servers() -> None:
    text = ingress.config(planned())
    file = "/run/haproxy/servers"
    assert f"server-state-file {file}\n" in text and "load-server-state-from-file global" in section(text, "defaults")
    assert f"lua-load /run/kit/state.lua /run/haproxy/admin.sock {file}\n" in text
    assert "stats socket /run/haproxy/admin.sock mode 600" in text
    assert all("init-addr last,none" in line for line in servers_of(text))


def test_every_server_that_people_use_is_checked() -> None:
    admin = servers_of(section(ingress.config(planned()), "backend admin"))
    for text in (ingress.config(planned()), queue.config(planned())):
        for line in (line for line in servers_of(text) if line not in admin):
            assert "inter 3s fastinter 1s downinter 1s fall 3 rise 2" in line


def test_the_admin_listener_leads_to_the_identity_provider_alone() -> None:
    text = ingress.config(planned())
    assert re.findall(r"_backend (\S+)", section(text, "frontend admin")) == ["admin"]
    assert [line.split()[1] for line in servers_of(section(text, "backend admin"))] == ["keycloak"]


def test_the_admin_server_is_asked_as_soon_as_the_engine_calls_it_healthy() -> None:
    (server,) = servers_of(section(ingress.config(planned()), "backend admin"))
    assert " check" not in server, "a check turns the first seconds after a start into 503s"


def test_no_identity_provider_no_admin_listener() -> None:
    plan = planned()
    without = replace(plan, services=tuple(s for s in plan.services if Role.IDENTITY not in s.spec.roles))
    assert "frontend admin" not in ingress.config(without)


def test_streams_are_not_cut_short() -> None:
    text = ingress.config(planned())
    assert "timeout server 30m" in section(text, "backend open-webui-chat")
    assert "set-timeout client 30m if host_chat" in section(text, "frontend https")
    assert "timeout tunnel 1h" in section(text, "defaults")


def test_queries_are_not_logged() -> None:
    for text in (ingress.config(planned()), queue.config(planned())):
        assert "HPO" in text and "%HU" not in text and not re.search(r"%r\b", text)


def test_a_second_backend_is_found_by_its_port() -> None:
    ollama = next(spec for spec in SERVICES if spec.name == "ollama")
    main = ollama.container()
    health = replace(main.health, test=Http("api-2", "/api/version"))
    second = replace(main, name="second", ports=(Port("api-2", 11434),), health=health)
    doubled = replace(ollama, containers=(*ollama.containers, second))
    text = queue.config(planned(*(doubled if spec.name == "ollama" else spec for spec in SERVICES), memory_mb=64000))
    inference = section(text, "backend inference")
    assert len(re.findall(r"server ollama(?:-second)? ollama(?:-second)?:11434 maxconn 1", inference)) == 2


@given(st.text(max_size=20))
def test_quoting_is_exact_or_refused(text: str) -> None:
    if "'" in text or "\n" in text:
        with pytest.raises(ValueError, match="quoted"):
            quoted(text)
    else:
        assert quoted(text) == f"'{text}'"


# --------------------------------------------------------------------------------------------- routes at a path


def at_a_path(**changes: object) -> Plan:
    """The stack with its chat at a path of the domain."""
    services = with_route("open-webui", movable=True, **changes)
    return planned(*services, paths={"chat": "/talk"})


def test_a_route_at_a_path_is_known_by_host_and_path_and_keeps_the_path() -> None:
    plan = at_a_path()
    text = ingress.config(plan)
    https = section(text, "frontend https")
    is_at = "http-request set-var(txn.route) str(chat) if shared_host"
    assert f"{is_at} {{ path -m str /talk }} || shared_host {{ path -m beg /talk/ }}" in https
    assert "acl host_chat var(txn.route) -m str chat" in https
    assert "chat.kit.localhost" not in text and "replace-path" not in text
    assert https.index("txn.route) str(chat)") < https.index("host_chat") < https.index("use_backend")
    route = next(owned.item for owned in plan.routes if owned.item.name == "chat")
    assert (plan.host_name(route), plan.path(route)) == ("kit.localhost", "/talk")
    assert plan.origin(route) == "https://kit.localhost:8443" and plan.url(route) == f"{plan.origin(route)}/talk"


def test_nothing_else_is_there_on_the_host_of_paths() -> None:
    https = section(ingress.config(at_a_path()), "frontend https")
    refusal = "if shared_host !{ var(txn.route) -m found }"
    assert https.index("status 404") < https.index(refusal) < https.index("use_backend")
    assert "shared_host" not in ingress.config(planned())


def test_the_paths_of_a_route_at_a_path_are_below_it() -> None:
    https = section(ingress.config(at_a_path(deny=("/metrics",), paths=("/a", "/b/"))), "frontend https")
    assert "-m beg -i /talk/metrics }" in https
    assert "!{ path -m str /talk/a } !{ path -m beg /talk/b/ }" in https


def test_a_login_before_a_route_at_a_path_leads_back_to_it() -> None:
    text = ingress.config(at_a_path(access=Access.SSO, logout="/bye", open=("/hooks/",)))
    https = section(text, "frontend https")
    assert "lua.login users,admins,editors,viewers https://kit.localhost:8443 if" in https  # the path is the request's
    assert "-m str -i https://kit.localhost:8443 }" in https  # origins have no path
    assert "path -m str /talk/bye }" in https and "acl open_chat path -m beg /talk/hooks/\n" in https
