"""The stack's realm: its rules, its groups, and the one administrator it starts with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.common import After


@dataclass(frozen=True, kw_only=True)
class AdminUser:
    """The first administrator of the apps (not of Keycloak). The password is read once, when the user is made."""

    username: str
    email: str
    password: pulumi.Input[str]
    first_name: str = "Admin"
    last_name: str = "User"


@dataclass(frozen=True, kw_only=True)
class RealmArgs:
    """Durations are Go strings ("15m", "10h"). admin_group: its members get what clients grant to admins."""

    realm: str
    display_name: str
    admin: AdminUser
    admin_group: str = "admins"
    access_token_lifespan: str = "5m"
    sso_session_idle: str = "10h"
    sso_session_max: str = "24h"
    password_policy: str = "length(12) and notUsername(undefined) and notEmail(undefined)"
    protect: bool = True
    after: After = ()


class Realm(pulumi.ComponentResource):
    """Pass `.realm_id` on to clients."""

    realm_id: pulumi.Output[str]
    admin_group_id: pulumi.Output[str]
    default_roles_id: pulumi.Output[str]
    admin_user_id: pulumi.Output[str]

    def __init__(self, name: str, args: RealmArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:keycloak:Realm", name, None, opts)
        raise NotImplementedError


EVERYBODY = "*"
ADMINS = "admin"

__all__: Sequence[str] = ("ADMINS", "EVERYBODY", "AdminUser", "Realm", "RealmArgs")
