"""How the program talks to Keycloak: an explicit provider that does not log in before it must."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_keycloak as keycloak


@dataclass(frozen=True, kw_only=True)
class KeycloakAccessArgs:
    """url: a literal, the same whether Keycloak runs or not. client_id: a service client of the master realm."""

    url: str
    client_id: str
    client_secret: pulumi.Input[str]
    ca_pem: pulumi.Input[str] | None = None
    realm: str = "master"


class KeycloakAccess(pulumi.ComponentResource):
    """`.provider` for every Keycloak resource of the stack."""

    provider: keycloak.Provider

    def __init__(self, name: str, args: KeycloakAccessArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:keycloak:Access", name, None, opts)
        raise NotImplementedError
