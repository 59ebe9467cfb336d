"""Another provider that people may log in through: Google, GitHub, or any that speaks OpenID Connect.

Who comes from there is a person like any other: in the group of everybody, with the second factor that the stack asks
for. What the provider says about a mail address is not believed, and an account that there is stays its owner's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_keycloak as keycloak

from components.capabilities import exists
from components.common import child
from components.flows import Flows
from components.realm import Realm

GITHUB = "keycloak:oidc/githubIdentityProvider:GithubIdentityProvider"


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where a provider of OpenID Connect is asked. Full URLs, of its own description; "" where it has none."""

    issuer: str
    authorize: str
    token: str
    keys: str
    userinfo: str = ""
    logout: str = ""


@dataclass(frozen=True, kw_only=True)
class IdentityProviderArgs:
    """kind: "google", "github" or "oidc", which is its alias too: the provider knows our redirect URI by it.

    endpoints: of kind "oidc", and of no other.
    """

    realm: Realm
    flows: Flows
    kind: str
    client_id: str
    client_secret: pulumi.Input[str]
    display_name: str = ""
    endpoints: Endpoints | None = None

    def __post_init__(self) -> None:
        if (self.kind == "oidc") != (self.endpoints is not None):
            raise ValueError(f"provider {self.kind}: endpoints are for oidc, which needs them")


class IdentityProvider(pulumi.ComponentResource):
    """A button on the login page."""

    def __init__(self, name: str, args: IdentityProviderArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:keycloak:IdentityProvider", name, None, opts)
        gone_with = (opts and opts.deleted_with) or args.realm.resource
        common: dict[str, Any] = {
            "realm": args.realm.realm_id,
            "client_id": args.client_id,
            "client_secret": pulumi.Output.secret(args.client_secret),
            "enabled": True,
            # Anybody may have typed that address there. Ours verifies it, where it can send mail.
            "trust_email": False,
            # What a person is called is ours to change after the first login.
            "sync_mode": "IMPORT",
            # Tokens of the other provider are of no use here, and would be one more thing to steal.
            "store_token": False,
            "first_broker_login_flow_alias": args.flows.first_login,
            "post_broker_login_flow_alias": args.flows.broker,
            "opts": child(self, deleted_with=gone_with),
        }
        match args.kind:
            case "google":
                keycloak.oidc.GoogleIdentityProvider(name, default_scopes="openid profile email", **common)
            case "github" if exists(GITHUB):
                keycloak.oidc.GithubIdentityProvider(name, alias="github", default_scopes="user:email", **common)
            case "github":
                # The same provider by the resource for any. It knows its own addresses, whatever is said here.
                keycloak.oidc.IdentityProvider(
                    name,
                    alias="github",
                    provider_id="github",
                    display_name="GitHub",
                    authorization_url="https://github.com/login/oauth/authorize",
                    token_url="https://github.com/login/oauth/access_token",  # noqa: S106
                    default_scopes="user:email",
                    **common,
                )
            case _:
                endpoints = args.endpoints or Endpoints(issuer="", authorize="", token="", keys="")
                keycloak.oidc.IdentityProvider(
                    name,
                    alias="oidc",
                    display_name=args.display_name,
                    issuer=endpoints.issuer,
                    authorization_url=endpoints.authorize,
                    token_url=endpoints.token,
                    jwks_url=endpoints.keys,
                    user_info_url=endpoints.userinfo or None,
                    logout_url=endpoints.logout or None,
                    validate_signature=True,
                    default_scopes="openid profile email",
                    extra_config={
                        "pkceEnabled": "true",
                        "pkceMethod": "S256",
                        "clientAuthMethod": "client_secret_post",
                    },
                    **common,
                )
        self.register_outputs({})
