"""The clients that Keycloak makes with every realm, without what nobody needs of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import pulumi
import pulumi_keycloak as keycloak

from components.common import child
from components.realm import OPTIONAL_SCOPES, Realm

_BEARER: Mapping[str, Any] = {"access_type": "BEARER-ONLY", "standard_flow_enabled": True, "full_scope_allowed": False}
_ACCOUNT: Mapping[str, Any] = {
    "access_type": "PUBLIC",
    "standard_flow_enabled": True,
    "full_scope_allowed": False,
    "pkce_code_challenge_method": "S256",
    "root_url": "${authBaseUrl}",
    "base_url": "/realms/{realm}/account/",
    "valid_redirect_uris": ["/realms/{realm}/account/*"],
    "valid_post_logout_redirect_uris": ["+"],
}
_CONSOLE: Mapping[str, Any] = {
    **_ACCOUNT,
    "full_scope_allowed": True,
    "root_url": "${authAdminUrl}",
    "base_url": "/admin/{realm}/console/",
    "valid_redirect_uris": ["/admin/{realm}/console/*"],
    "web_origins": ["+"],
}
# As Keycloak 26 makes them, but for `account`, which gets PKCE, and `admin-cli`, which loses the password grant.
BUILTIN: Mapping[str, Mapping[str, Any]] = {
    "account": _ACCOUNT,
    "account-console": _ACCOUNT,
    "admin-cli": {"access_type": "PUBLIC", "standard_flow_enabled": False, "full_scope_allowed": True},
    "broker": _BEARER,
    "realm-management": _BEARER,
    "security-admin-console": _CONSOLE,
}


@dataclass(frozen=True, kw_only=True)
class BuiltinClientsArgs:
    """realm_name: Keycloak's addresses of its own pages have it in them."""

    realm: Realm
    realm_name: str


class BuiltinClients(pulumi.ComponentResource):
    """They are taken over, never made or removed."""

    def __init__(self, name: str, args: BuiltinClientsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:keycloak:BuiltinClients", name, None, opts)
        gone_with = None if opts is None else opts.deleted_with
        realm_id = args.realm.realm_id
        for client_id, settings in BUILTIN.items():
            client = keycloak.openid.Client(
                f"{name}-{client_id}",
                realm_id=realm_id,
                client_id=client_id,
                import_=True,
                enabled=True,
                implicit_flow_enabled=False,
                direct_access_grants_enabled=False,
                service_accounts_enabled=False,
                **{key: _here(value, args.realm_name) for key, value in settings.items()},
                opts=child(self, deleted_with=gone_with),
            )
            keycloak.openid.ClientOptionalScopes(
                f"{name}-{client_id}-scopes",
                realm_id=realm_id,
                client_id=client.id,
                optional_scopes=[*OPTIONAL_SCOPES],
                opts=child(self, deleted_with=gone_with),
            )
        self.register_outputs({})


def _here(value: Any, realm: str) -> Any:
    if isinstance(value, str):
        return value.replace("{realm}", realm)
    return [_here(each, realm) for each in cast("list[str]", value)] if isinstance(value, list) else value
