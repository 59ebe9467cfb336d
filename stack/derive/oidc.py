"""Plan -> the OIDC clients of the realm. Services name redirect paths; the URLs are computed here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stack.derive.values import endpoint
from stack.model import EVERYBODY, OidcClient, Route
from stack.plan import Plan, PlannedService, SecretKey, client_secret


class Audience(StrEnum):
    """Who gets a client's role: those with at least this role in the realm, or everybody."""

    ADMINS = "admin"
    EDITORS = "editor"
    VIEWERS = "viewer"
    EVERYBODY = EVERYBODY


@dataclass(frozen=True, kw_only=True)
class ClientRole:
    name: str
    audience: Audience


@dataclass(frozen=True, kw_only=True)
class ClientPlan:
    """A confidential client, decided to the last URL.

    `secret` is the same value that the service gets as ClientSecret. `description` names the file that asked.
    `backchannel_logout_url` is inside the stack, "" for none.
    """

    service: str
    client_id: str
    name: str
    description: str
    secret: SecretKey
    root_url: str
    redirect_uris: tuple[str, ...]
    post_logout_redirect_uris: tuple[str, ...]
    backchannel_logout_url: str
    web_origins: tuple[str, ...]
    roles: tuple[ClientRole, ...]


def clients(plan: Plan) -> tuple[ClientPlan, ...]:
    """Every client of the realm, in plan order."""
    return tuple(_client(plan, plan.service(owned.owner), owned.item) for owned in plan.oidc_clients)


def _client(plan: Plan, service: PlannedService, client: OidcClient) -> ClientPlan:
    route = next(route for route in service.spec.routes if route.name == client.route)
    root = plan.url(route)
    return ClientPlan(
        service=service.name,
        client_id=service.name,
        name=service.spec.summary,
        description=f"asked for by {service.spec.source or service.name}",
        secret=client_secret(service.name),
        root_url=root,
        redirect_uris=tuple(root + path for path in client.redirect_paths),
        post_logout_redirect_uris=(root + client.logout_path,) if client.logout_path else (),
        backchannel_logout_url=_backchannel(plan, service, route, client.backchannel_logout_path),
        web_origins=(plan.origin(route),),
        roles=tuple(ClientRole(name=name, audience=Audience(who)) for name, who in sorted(client.roles.items())),
    )


def _backchannel(plan: Plan, service: PlannedService, route: Route, path: str) -> str:
    """Inside, past the front door: no name to find, no certificate to trust, and logouts work while it reloads."""
    if not path:
        return ""
    host, port = endpoint(service, route.port)
    return f"http://{host}:{port}{plan.path(route)}{path}"
