"""A confidential OIDC client: authorization code with PKCE, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from components.common import After
from components.realm import Realm


@dataclass(frozen=True, kw_only=True)
class OidcClientArgs:
    """roles: client role -> who gets it: "admin" (the realm's admin group) or "*" (everybody).

    They arrive in the flat claim `role_claim` of ID token, access token and userinfo. URLs are full URLs.
    """

    realm: Realm
    client_id: str
    client_secret: pulumi.Input[str]
    redirect_uris: Sequence[str]
    root_url: str
    web_origins: Sequence[str] = ()
    post_logout_redirect_uris: Sequence[str] = ()
    roles: Mapping[str, str] = field(default_factory=dict[str, str])
    role_claim: str = "roles"
    group_claim: str = "groups"
    after: After = ()


class OidcClient(pulumi.ComponentResource):
    """`.done` once people can log in through it."""

    client_id: pulumi.Output[str]
    done: pulumi.Output[pulumi.Resource]

    def __init__(self, name: str, args: OidcClientArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:keycloak:OidcClient", name, None, opts)
        raise NotImplementedError
