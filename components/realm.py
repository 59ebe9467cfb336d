"""The stack's realm: its rules, its groups, and the one administrator it starts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_keycloak as keycloak

from components.capabilities import supported
from components.common import After, child

# To whom a client gives one of its roles: everybody, or those who have at least this role in the realm.
EVERYBODY = "*"
ADMINS, EDITORS, VIEWERS = ROLES = ("admin", "editor", "viewer")  # highest first

# What a client may ask for beyond the default scopes. Not offline_access: nobody needs tokens that outlive a logout.
OPTIONAL_SCOPES = ("address", "microprofile-jwt", "phone")

REALM = "keycloak:index/realm:Realm"

EVENT_DAYS = 30


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
    """Durations are Go strings ("15m0s"). *_group: its members get what clients grant to those of that role or lower.

    Everybody is in `everybody_group`: new users by themselves, and taking somebody out takes all apps away.
    """

    realm: str
    display_name: str
    admin: AdminUser
    admin_group: str = "admins"
    editor_group: str = "editors"
    viewer_group: str = "viewers"
    everybody_group: str = "users"
    access_token_lifespan: str = "5m0s"  # noqa: S105
    sso_session_idle: str = "10h0m0s"
    sso_session_max: str = "24h0m0s"
    password_policy: str = "length(12) and notUsername(undefined) and notEmail(undefined)"  # noqa: S105
    protect: bool = True
    after: After = ()


class Realm(pulumi.ComponentResource):
    """Pass the whole component on to clients."""

    realm_id: pulumi.Output[str]
    admin_group_id: pulumi.Output[str]
    role_group_ids: dict[str, pulumi.Output[str]]
    everybody_group_id: pulumi.Output[str]
    admin_user_id: pulumi.Output[str]

    def __init__(self, name: str, args: RealmArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:keycloak:Realm", name, None, opts)
        # Not inherited by children as protect is: when the database goes, so has everything Keycloak kept in it.
        gone_with = None if opts is None else opts.deleted_with
        realm = keycloak.Realm(
            name,
            realm=args.realm,
            enabled=True,
            display_name=args.display_name,
            ssl_required="all",
            registration_allowed=False,
            registration_email_as_username=False,
            edit_username_allowed=False,
            reset_password_allowed=False,  # there is no mail server to send the link with
            remember_me=True,
            verify_email=False,
            login_with_email_allowed=True,
            duplicate_emails_allowed=False,
            password_policy=args.password_policy,
            access_token_lifespan=args.access_token_lifespan,
            sso_session_idle_timeout=args.sso_session_idle,
            sso_session_max_lifespan=args.sso_session_max,
            revoke_refresh_token=True,  # each is good once
            refresh_token_max_reuse=0,
            security_defenses=keycloak.RealmSecurityDefensesArgs(
                brute_force_detection=keycloak.RealmSecurityDefensesBruteForceDetectionArgs(
                    permanent_lockout=False,
                    max_login_failures=10,
                    wait_increment_seconds=60,
                    max_failure_wait_seconds=900,
                    failure_reset_time_seconds=43200,
                    quick_login_check_milli_seconds=1000,
                    minimum_quick_login_wait_seconds=60,
                    **supported(
                        REALM,
                        {"max_temporary_lockouts": 0, "brute_force_strategy": "MULTIPLE"},
                        under="securityDefenses.bruteForceDetection",
                    ),
                )
            ),
            **supported(REALM, {"terraform_deletion_protection": args.protect}),
            opts=child(self, args.after, protect=args.protect, deleted_with=gone_with),
        )
        events = keycloak.RealmEvents(
            f"{name}-events",
            realm_id=realm.id,
            events_enabled=True,
            events_expiration=EVENT_DAYS * 86400,
            events_listeners=["jboss-logging"],
            admin_events_enabled=True,
            admin_events_details_enabled=False,  # details hold what an admin typed, new passwords' metadata included
            opts=child(self, deleted_with=gone_with),
        )
        everybody = keycloak.Group(
            f"{name}-everybody",
            realm_id=realm.id,
            name=args.everybody_group,
            opts=child(self, protect=args.protect, deleted_with=gone_with),
        )
        keycloak.DefaultGroups(
            f"{name}-default-groups",
            realm_id=realm.id,
            group_ids=[everybody.id],
            opts=child(self, deleted_with=gone_with),
        )
        admins = keycloak.Group(
            f"{name}-admins",
            realm_id=realm.id,
            name=args.admin_group,
            opts=child(self, protect=args.protect, deleted_with=gone_with),
        )
        admin = keycloak.User(
            f"{name}-admin",
            realm_id=realm.id,
            username=args.admin.username,
            email=args.admin.email,
            email_verified=True,
            enabled=True,
            first_name=args.admin.first_name,
            last_name=args.admin.last_name,
            initial_password=keycloak.UserInitialPasswordArgs(
                # Not temporary: the proofs log in as this user. It is never sent again, whatever it changes to.
                value=pulumi.Output.secret(args.admin.password),
                temporary=False,
            ),
            opts=child(self, [events], protect=args.protect, deleted_with=gone_with),
        )
        keycloak.UserGroups(
            f"{name}-admin-groups",
            realm_id=realm.id,
            user_id=admin.id,
            group_ids=[admins.id, everybody.id],
            exhaustive=False,  # a person may add the user to more
            opts=child(self, deleted_with=gone_with),
        )
        self.realm_id = realm.id
        self.admin_group_id = admins.id
        self.role_group_ids = {ADMINS: admins.id}
        for role, group_name in ((EDITORS, args.editor_group), (VIEWERS, args.viewer_group)):
            group = keycloak.Group(
                f"{name}-{role}s",
                realm_id=realm.id,
                name=group_name,
                opts=child(self, protect=args.protect, deleted_with=gone_with),
            )
            self.role_group_ids[role] = group.id
        self.everybody_group_id = everybody.id
        self.admin_user_id = admin.id
        self.register_outputs({"realm_id": self.realm_id})

    def groups_of(self, grant: str) -> Mapping[str, pulumi.Output[str]]:
        """The groups that a grant means, each under the role that it stands for: who may more has it as well."""
        if grant == EVERYBODY:
            return {EVERYBODY: self.everybody_group_id}
        if grant not in ROLES:
            raise ValueError(f"a role goes to one of {', '.join(map(repr, ROLES))} or {EVERYBODY!r}, not to {grant!r}")
        return {role: self.role_group_ids[role] for role in reversed(ROLES[: ROLES.index(grant) + 1])}
