"""The login in front of services that have none, as text. That HAProxy takes it: tests/live/test_forward_auth.py."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from stack.catalog import discover
from stack.derive import forward_auth, ingress, runtime
from stack.derive.values import SecretPiece
from stack.model import Access, Encoding, Role, ServiceSpec, SpecError, Static, Target
from stack.plan import Plan, build
from stack.settings import Settings
from stack.targets import profile

SERVICES = discover()
PROVIDER = next(spec for spec in SERVICES if Role.FORWARD_AUTH in spec.roles)


def planned(*services: ServiceSpec, **changes: object) -> Plan:
    settings = Settings(stack="test", target=Target.DEV, **changes)  # pyright: ignore[reportArgumentType]
    return build(settings, profile(settings), services or SERVICES)


def with_route(name: str, **changes: object) -> tuple[ServiceSpec, ...]:
    """The catalogue with the routes of one service changed."""
    return tuple(
        replace(spec, routes=tuple(replace(route, **changes) for route in spec.routes)) if spec.name == name else spec
        for spec in SERVICES
    )


def rules(text: str) -> list[str]:
    """The rules of the public frontend, in order."""
    return text.split("frontend https\n")[1].split("\nfrontend ")[0].splitlines()


def test_it_runs_where_a_route_needs_it_and_nowhere_else() -> None:
    assert planned().provider(Role.FORWARD_AUTH) is None
    for name in ("automation", "discovery", "flows"):
        plan = planned(profiles=(name,))
        found = plan.provider(Role.FORWARD_AUTH)
        assert found is not None and set(found.why) <= {owned.owner for owned in forward_auth.guarded(plan)}
        assert plan.provider(Role.IDENTITY) is not None


def test_left_out_its_routes_stay_shut() -> None:
    plan = planned(profiles=("discovery",), without=(PROVIDER.name,))
    assert plan.provider(Role.FORWARD_AUTH) is None
    text = ingress.config(plan)
    assert "This address needs a login" in text and "login.lua" not in text and "lua.login" not in text


def test_nothing_of_it_where_nothing_needs_it() -> None:
    text = ingress.config(planned())
    assert "login.lua" not in text and "lua.login" not in text
    assert "frontend login" not in text and "txn.login" not in text


def test_no_service_is_named_outside_of_its_file() -> None:
    source = forward_auth.__file__
    with open(source, encoding="utf-8") as file:
        text = file.read()
    assert not [
        spec.name
        for spec in SERVICES
        if re.search(rf"\b{re.escape(spec.name)}\b", text, re.IGNORECASE) and spec.name != "haproxy"
    ]


def test_who_is_not_known_to_be_in_is_never_let_through() -> None:
    """The answer is "down" before anybody is asked, and all but "in" ends before a backend is chosen."""
    found = rules(ingress.config(planned(profiles=("discovery", "automation"))))
    for name in ("consul", "n8n"):
        first = next(i for i, line in enumerate(found) if f"set-var(txn.login) str(down) if host_{name}" in line)
        asked = next(i for i, line in enumerate(found) if f"lua.login {'admins'}" in line and f"host_{name} " in line)
        assert first < asked
    last = next(
        i for i, line in enumerate(found) if "return status 503" in line and "!{ var(txn.login) -m str in }" in line
    )
    assert last < next(i for i, line in enumerate(found) if "use_backend" in line)
    assert all(i < last for i, line in enumerate(found) if "lua.login" in line)


def test_pages_of_one_route_do_not_act_in_another() -> None:
    found = rules(ingress.config(planned(profiles=("discovery",))))
    guards = [line for line in found if "str(foreign)" in line]
    assert len(guards) == 2
    for line in guards:
        assert "!{ req.fhdr(origin) -m str -i https://consul.kit.localhost:8443 }" in line
    assert "!{ method GET HEAD OPTIONS }" in guards[0] and "req.hdr(upgrade) -m found" in guards[1]
    first = found.index(guards[0])
    assert all(found.index(line) < first for line in found if "lua.login" in line)


def test_who_may_is_for_the_route_to_say() -> None:
    consul = next(owned.item for owned in planned(profiles=("discovery",)).routes if owned.owner == "consul")
    assert forward_auth.groups(consul) == ("admins",)
    sso = replace(consul, access=Access.SSO)
    assert set(forward_auth.groups(sso)) == {"users", "admins", "editors", "viewers"}
    assert forward_auth.groups(replace(sso, roles=("admin", "editor"))) == ("admins", "editors")


@pytest.mark.parametrize(
    "name",
    [
        "x-forwarded-user",
        "x_forwarded_email",
        "x-forwarded_groups",
        "x-forwarded-preferred-username",
        "x-forwarded-access-token",
        "x-auth-request-user",
        "x_auth_request_email",
        "x-auth-request-redirect",
        "x-kit-voucher",
        "x_kit_voucher",
        "remote-user",
        "remote_user",
        "x-remote-group",
        "x-forwarded-for",
        "x_forwarded_for",
        "x_real_ip",
        "gap-auth",
        "x-webauth-user",
    ],
)
def test_what_a_client_says_of_who_it_is_is_forgotten(name: str) -> None:
    assert re.search(forward_auth.IDENTITY, name)


@pytest.mark.parametrize(
    "name", ["authorization", "cookie", "host", "x-api-key", "x-csrf-token", "x-consul-token", "origin", "x-user-agent"]
)
def test_what_is_the_clients_to_say_is_kept(name: str) -> None:
    assert not re.search(forward_auth.IDENTITY, name)


@pytest.mark.parametrize("profiles", [("chat",), ("automation",)])
def test_it_is_forgotten_on_every_route_before_anything_is_set(profiles: tuple[str, ...]) -> None:
    found = rules(ingress.config(planned(profiles=profiles)))
    forgotten = next(i for i, line in enumerate(found) if "del-header '^(x[-_]" in line)
    assert all(i > forgotten for i, line in enumerate(found) if "set-header" in line)
    assert " if " not in found[forgotten]


def test_the_login_leads_back_to_exactly_the_routes_that_need_it() -> None:
    plan = planned(profiles=("discovery", "automation"))
    config = next(
        f
        for c in runtime.build(plan).containers
        if c.service == PROVIDER.name
        for f in c.files
        if f.name == "oauth2-proxy.cfg"
    )
    text = "".join(piece for piece in config.text if isinstance(piece, str))
    assert 'whitelist_domains = ["consul.kit.localhost:8443", "n8n.kit.localhost:8443"]' in text
    for line in ("reverse_proxy = false", "insecure_oidc_skip_nonce = false", 'code_challenge_method = "S256"'):
        assert line in text
    assert "skip_auth" not in text and "{" not in text.replace("{id_token}", "")


def test_secrets_of_it_are_in_files_alone() -> None:
    step = next(c for c in runtime.build(planned(profiles=("automation",))).containers if c.service == PROVIDER.name)
    assert not step.secret_env
    keys = {str(piece.key) for file in step.files for piece in file.text if isinstance(piece, SecretPiece)}
    assert keys == {"oauth2-proxy/cookie-secret", "oauth2-proxy/oidc", "redis/password"}
    assert all(file.mode == "0400" for file in step.files if any(isinstance(p, SecretPiece) for p in file.text))


def test_a_voucher_is_the_same_at_both_ends_and_nowhere_else() -> None:
    built = runtime.build(planned(profiles=("automation",)))
    holders = {
        (step.name, file.name): piece
        for step in (*built.containers, *built.jobs)
        for file in step.files
        for piece in file.text
        if isinstance(piece, SecretPiece) and str(piece.key) == "n8n/voucher"
    }
    assert set(holders) == {("kit-test-n8n", "voucher"), ("kit-test-haproxy", "vouchers")}
    assert {piece.encoding for piece in holders.values()} == {Encoding.HEX_32}


def test_the_script_knows_every_answer_and_is_told_the_rest() -> None:
    script = Static(forward_auth.SCRIPT).path("haproxy").read_text(encoding="utf-8")
    assert "[202]" in script and "[401]" in script and "[403]" in script
    for spec in SERVICES:
        assert spec.name not in script or spec.name == "haproxy"
    lines = ingress.config(planned(profiles=("automation",))).splitlines()
    load = next(line for line in lines if "lua-load /run/kit/login.lua" in line)
    assert load.split()[2:4] == [f"http://127.0.0.1:{forward_auth.CHECK_PORT}", "__Secure-kit-login"]


@pytest.mark.parametrize(
    ("service", "changes", "words"),
    [
        ("keycloak", {"access": Access.SSO}, "people log in there"),
        ("oauth2-proxy", {"access": Access.ADMIN}, "people log in there"),
        ("keycloak", {"roles": ("admin",)}, "belong to a login at the ingress"),
        ("n8n", {"roles": ("edtor",)}, 'has no role "edtor"'),
        ("n8n", {"access": Access.ADMIN}, "administrators alone"),
        ("n8n", {"logout": "rest/logout"}, "exact path"),
        ("n8n", {"logout": "/rest/logout if TRUE"}, "exact path"),
        ("n8n", {"voucher": "encryption-key"}, "no shared secret"),
    ],
)
def test_what_does_not_fit_is_refused(service: str, changes: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError) as refused:
        planned(*with_route(service, **changes), profiles=("automation",))
    assert words in str(refused.value)
