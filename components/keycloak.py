"""How the program talks to Keycloak: an explicit provider that does not log in before it must."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_keycloak as keycloak

from components.common import After, child

CLIENT_TIMEOUT_S = 60  # the provider's default of 5 s is less than a Pi needs for the first login after a start


@dataclass(frozen=True, kw_only=True)
class KeycloakAccessArgs:
    """url: a literal, the same whether Keycloak runs or not, so that its being replaced leaves all this alone.

    path: below which it is there, without a trailing slash.
    after: the server is there; nothing is asked of it before.
    client_id: a service client of the master realm. It is not the bootstrap user, whose password cannot be changed
    by setting it anew.
    """

    url: str
    client_id: str
    client_secret: pulumi.Input[str]
    ca_pem: pulumi.Input[str] | None = None
    path: str = ""
    realm: str = "master"
    after: After = ()


class KeycloakAccess(pulumi.ComponentResource):
    """`.provider` for every Keycloak resource of the stack."""

    provider: keycloak.Provider

    def __init__(self, name: str, args: KeycloakAccessArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:keycloak:Access", name, None, opts)
        self.provider = keycloak.Provider(
            name,
            url=args.url,
            realm=args.realm,
            client_id=args.client_id,
            client_secret=pulumi.Output.secret(args.client_secret),
            base_path=args.path,
            # With True every preview, and every `up` that has nothing to do with Keycloak, fails while it is down.
            initial_login=False,
            client_timeout=CLIENT_TIMEOUT_S,
            root_ca_certificate=args.ca_pem,
            tls_insecure_skip_verify=False,
            # Starting the plugin takes a processor for a while, just when the server's own start needs it.
            opts=child(self, args.after),
        )
        self.register_outputs({})
