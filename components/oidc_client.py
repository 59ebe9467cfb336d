"""A confidential OIDC client: authorization code with PKCE, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_keycloak as keycloak

from components.common import After, Done, child
from components.realm import OPTIONAL_SCOPES, Realm


@dataclass(frozen=True, kw_only=True)
class OidcClientArgs:
    """roles: client role -> who gets it: at least "viewer", "editor" or "admin" in the realm, or "*" (everybody).

    They arrive in the flat claim `role_claim` of ID token, access token and userinfo. URLs are full URLs.
    client_secret is ours, not Keycloak's: the service that needs it too starts from the same value, without waiting
    for the client.
    """

    realm: Realm
    client_id: str
    client_secret: pulumi.Input[str]
    redirect_uris: Sequence[str]
    root_url: str
    web_origins: Sequence[str] = ()
    post_logout_redirect_uris: Sequence[str] = ()
    backchannel_logout_url: str = ""
    roles: Mapping[str, str] = field(default_factory=dict[str, str])
    role_claim: str = "roles"
    group_claim: str = "groups"
    after: After = ()

    def __post_init__(self) -> None:
        wild = [uri for uri in self.redirect_uris if "*" in uri]
        if wild or not self.redirect_uris:
            raise ValueError(f"client {self.client_id}: redirect URIs are exact, and there is at least one: {wild}")


class OidcClient(pulumi.ComponentResource):
    """`.done` once people can log in through it."""

    client_id: pulumi.Output[str]
    done: Done

    def __init__(self, name: str, args: OidcClientArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:keycloak:OidcClient", name, None, opts)
        gone_with = None if opts is None else opts.deleted_with
        realm_id = args.realm.realm_id
        client = keycloak.openid.Client(
            name,
            realm_id=realm_id,
            client_id=args.client_id,
            name=args.client_id,
            enabled=True,
            access_type="CONFIDENTIAL",
            client_secret=pulumi.Output.secret(args.client_secret),
            standard_flow_enabled=True,
            implicit_flow_enabled=False,
            direct_access_grants_enabled=False,
            service_accounts_enabled=False,
            oauth2_device_authorization_grant_enabled=False,
            pkce_code_challenge_method="S256",
            root_url=args.root_url,
            valid_redirect_uris=sorted(args.redirect_uris),
            valid_post_logout_redirect_uris=sorted(args.post_logout_redirect_uris) or None,
            backchannel_logout_url=args.backchannel_logout_url or None,
            backchannel_logout_session_required=bool(args.backchannel_logout_url),
            frontchannel_logout_enabled=False,
            web_origins=sorted(args.web_origins) or None,
            consent_required=False,
            full_scope_allowed=False,  # tokens carry this client's roles, nobody else's
            opts=child(self, args.after, deleted_with=gone_with),
        )
        made: list[pulumi.CustomResource] = [
            client,
            keycloak.openid.UserClientRoleProtocolMapper(
                f"{name}-roles",
                realm_id=realm_id,
                client_id=client.id,
                name="roles",
                claim_name=args.role_claim,
                claim_value_type="String",
                multivalued=True,
                client_id_for_role_mappings=args.client_id,
                add_to_id_token=True,
                add_to_access_token=True,
                add_to_userinfo=True,
                opts=child(self, deleted_with=gone_with),
            ),
            keycloak.openid.GroupMembershipProtocolMapper(
                f"{name}-groups",
                realm_id=realm_id,
                client_id=client.id,
                name="groups",
                claim_name=args.group_claim,
                full_path=False,  # "admins", not "/admins"
                add_to_id_token=True,
                add_to_access_token=True,
                add_to_userinfo=True,
                opts=child(self, deleted_with=gone_with),
            ),
            keycloak.openid.AudienceProtocolMapper(
                f"{name}-audience",
                realm_id=realm_id,
                client_id=client.id,
                name="audience",
                included_client_audience=args.client_id,
                add_to_id_token=False,  # the ID token is for this client as it is
                add_to_access_token=True,
                opts=child(self, [client], deleted_with=gone_with),
            ),
            keycloak.openid.ClientOptionalScopes(
                f"{name}-optional-scopes",
                realm_id=realm_id,
                client_id=client.id,
                optional_scopes=[*OPTIONAL_SCOPES],
                opts=child(self, deleted_with=gone_with),
            ),
        ]
        for role, grant in sorted(args.roles.items()):
            client_role = keycloak.Role(
                f"{name}-role-{role}",
                realm_id=realm_id,
                client_id=client.id,
                name=role,
                opts=child(self, deleted_with=gone_with),
            )
            made.append(client_role)
            for number, (holders, group) in enumerate(args.realm.groups_of(grant).items()):
                made.append(
                    keycloak.GroupRoles(
                        f"{name}-grant-{role}" + (f"-{holders}s" if number else ""),
                        realm_id=realm_id,
                        group_id=group,
                        role_ids=[client_role.id],
                        exhaustive=False,  # other clients give the same group their roles
                        opts=child(self, deleted_with=gone_with),
                    )
                )

        def itself(_: Sequence[str]) -> pulumi.Resource:
            return client

        self.client_id = client.client_id
        self.done = pulumi.Output.all(*(resource.id for resource in made)).apply(itself)
        self.register_outputs({"client_id": self.client_id})
