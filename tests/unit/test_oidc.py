"""OIDC clients: URLs come from the service's own route, for every domain and port."""

from __future__ import annotations

import pytest

from stack import plan as planning
from stack.derive.oidc import Audience, clients
from stack.model import OidcClient, Route
from stack.plan import Plan, client_secret
from tests import factories


def build(**settings: object) -> Plan:
    return planning.build(factories.settings(**settings), factories.host(), factories.catalog())


def only_client(plan: Plan) -> tuple[OidcClient, Route]:
    (owned,) = plan.oidc_clients
    route = next(r for r in plan.service(owned.owner).spec.routes if r.name == owned.item.route)
    return owned.item, route


@pytest.mark.parametrize(("port", "suffix"), [(8443, ":8443"), (443, "")])
def test_urls_are_the_routes(port: int, suffix: str) -> None:
    plan = build(https_port=port, domain="home.example")
    declared, route = only_client(plan)
    (client,) = clients(plan)
    root = f"https://{route.name}.home.example{suffix}"
    assert client.root_url == root
    assert client.redirect_uris == tuple(root + path for path in declared.redirect_paths)
    assert client.web_origins == (root,)
    assert not any("*" in uri for uri in client.redirect_uris + client.post_logout_redirect_uris)


def test_the_client_is_named_after_its_service_and_shares_its_secret() -> None:
    plan = build()
    (client,) = clients(plan)
    (owned,) = plan.oidc_clients
    assert client.client_id == client.service == owned.owner
    assert client.secret == client_secret(owned.owner)
    assert owned.owner in client.description


def test_roles_say_who_gets_them() -> None:
    from stack.catalog import discover
    from stack.targets import profile

    settings = factories.settings(domain="home.example")
    plan = planning.build(settings, profile(settings), discover())
    chat = next(client for client in clients(plan) if client.service == "open-webui")
    assert {role.name: role.audience for role in chat.roles} == {"admin": Audience.ADMINS, "user": Audience.EVERYBODY}
    assert chat.redirect_uris == ("https://chat.home.example:8443/oauth/oidc/callback",)
