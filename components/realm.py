"""The stack's realm: its rules, its groups, and the one administrator it starts with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_keycloak as keycloak

from components.capabilities import supported
from components.common import After, child, open_digest

# To whom a client gives one of its roles: everybody, or those who have at least this role in the realm.
EVERYBODY = "*"
ADMINS, EDITORS, VIEWERS = ROLES = ("admin", "editor", "viewer")  # highest first

# What a client may ask for beyond the default scopes. Not offline_access: nobody needs tokens that outlive a logout.
OPTIONAL_SCOPES = ("address", "microprofile-jwt", "phone")

REALM = "keycloak:index/realm:Realm"

# What the realm's pages tell browsers, beside the front door's own. Pages are framed by themselves alone (the account
# page asks in a frame whether the session still stands). No form-action: after the login a form leads to the app.
HEADERS = keycloak.RealmSecurityDefensesHeadersArgs(
    content_security_policy="frame-src 'self'; frame-ancestors 'self'; object-src 'none'; base-uri 'self'",
    content_security_policy_report_only="",
    x_frame_options="SAMEORIGIN",
    x_content_type_options="nosniff",
    x_robots_tag="none",
    x_xss_protection="0",  # what it once switched on leaked pages; browsers of today have none of it
    referrer_policy="no-referrer",
    strict_transport_security="max-age=31536000; includeSubDomains",
)


@dataclass(frozen=True, kw_only=True)
class AdminUser:
    """The first administrator of the apps (not of Keycloak). The password is read once, when the user is made."""

    username: str
    email: str
    password: pulumi.Input[str]
    first_name: str = "Admin"
    last_name: str = "User"


@dataclass(frozen=True, kw_only=True)
class Smtp:
    """The mail server. tls: "starttls", "tls" or "none". Without a user it is not logged in to."""

    host: str
    port: int
    sender: str
    tls: str = "starttls"
    user: str = ""
    password: pulumi.Input[str] | None = None


@dataclass(frozen=True, kw_only=True)
class RealmArgs:
    """Durations are Go strings ("15m0s"). *_group: its members get what clients grant to those of that role or lower.

    Everybody is in `everybody_group`: new users by themselves, and taking somebody out takes all apps away.
    relying_party: the domain that passkeys are made for; "" is the login's own host name. language: of the pages, for
    those whose browser asks for none that there is. login_theme: one that the server has, else it takes its own.
    digest_key: see Realm.rules_digest.
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
    login_failures: int = 10
    event_days: int = 30
    language: str = "en"
    login_theme: str = "keycloak.v2"
    relying_party: str = ""
    smtp: Smtp | None = None
    digest_key: pulumi.Input[str] = ""
    protect: bool = True
    after: After = ()

    def __post_init__(self) -> None:
        if self.smtp and self.smtp.password is not None and self.digest_key == "":
            raise ValueError("a digest over a password needs a digest_key: without one it can be guessed at")


class Realm(pulumi.ComponentResource):
    """Pass the whole component on to clients.

    rules_digest: changes whenever the realm is changed, for what has to be made again then (components/flows.py). Not
    secret, and says nothing about the mail server's password without the key.
    """

    realm_id: pulumi.Output[str]
    admin_group_id: pulumi.Output[str]
    role_group_ids: dict[str, pulumi.Output[str]]
    everybody_group_id: pulumi.Output[str]
    admin_user_id: pulumi.Output[str]
    rules_digest: pulumi.Output[str]
    resource: pulumi.Resource

    def __init__(self, name: str, args: RealmArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:keycloak:Realm", name, None, opts)
        # Not inherited by children as protect is: when the database goes, so has everything Keycloak kept in it.
        gone_with = None if opts is None else opts.deleted_with
        rules = _rules(args)
        realm = keycloak.Realm(
            name,
            realm=args.realm,
            **rules,
            **supported(REALM, {"terraform_deletion_protection": args.protect}),
            opts=child(self, args.after, protect=args.protect, deleted_with=gone_with),
        )
        events = keycloak.RealmEvents(
            f"{name}-events",
            realm_id=realm.id,
            events_enabled=True,
            events_expiration=args.event_days * 86400,
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
        self.resource = realm
        self.rules_digest = _digest(args, rules)
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


def _rules(args: RealmArgs) -> dict[str, Any]:
    """Everything about the realm but its name: the provider's arguments."""
    return {
        "enabled": True,
        "display_name": args.display_name,
        "login_theme": args.login_theme,
        "ssl_required": "all",
        "registration_allowed": False,
        "registration_email_as_username": False,
        "edit_username_allowed": False,
        # Both need a mail server to send the link with.
        "reset_password_allowed": args.smtp is not None,
        "verify_email": args.smtp is not None,
        "remember_me": True,
        "login_with_email_allowed": True,
        "duplicate_emails_allowed": False,
        "password_policy": args.password_policy,
        "access_token_lifespan": args.access_token_lifespan,
        "sso_session_idle_timeout": args.sso_session_idle,
        "sso_session_max_lifespan": args.sso_session_max,
        "revoke_refresh_token": True,  # each is good once
        "refresh_token_max_reuse": 0,
        "internationalization": keycloak.RealmInternationalizationArgs(
            supported_locales=sorted({"en", args.language}), default_locale=args.language
        ),
        "otp_policy": keycloak.RealmOtpPolicyArgs(
            type="totp",
            algorithm="HmacSHA1",  # what authenticator apps can, whatever else they are told
            digits=6,
            period=30,
            initial_counter=0,
            look_ahead_window=1,
            **supported(REALM, {"code_reusable": False}, under="otpPolicy"),
        ),
        "web_authn_policy": keycloak.RealmWebAuthnPolicyArgs(
            relying_party_entity_name=args.display_name,
            relying_party_id=args.relying_party,
            signature_algorithms=["ES256", "RS256"],
            user_verification_requirement="preferred",
        ),
        "security_defenses": keycloak.RealmSecurityDefensesArgs(
            headers=HEADERS,
            brute_force_detection=keycloak.RealmSecurityDefensesBruteForceDetectionArgs(
                permanent_lockout=False,
                max_login_failures=args.login_failures,
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
            ),
        ),
        **({"smtp_server": _smtp(args.smtp)} if args.smtp else {}),
    }


def _smtp(smtp: Smtp) -> keycloak.RealmSmtpServerArgs:
    login = None
    if smtp.user:
        password = pulumi.Output.secret("" if smtp.password is None else smtp.password)
        login = keycloak.RealmSmtpServerAuthArgs(username=smtp.user, password=password)
    return keycloak.RealmSmtpServerArgs(
        host=smtp.host,
        port=str(smtp.port),
        from_=smtp.sender,
        from_display_name="",
        starttls=smtp.tls == "starttls",
        ssl=smtp.tls == "tls",
        auth=login,
    )


def _digest(args: RealmArgs, rules: Mapping[str, Any]) -> pulumi.Output[str]:
    """Of everything that the provider would send. Whatever is not the same makes it send all of it."""
    plain = {name: value for name, value in rules.items() if name != "smtp_server"}
    password = args.smtp.password if args.smtp and args.smtp.password is not None else ""
    server = (
        [] if args.smtp is None else [args.smtp.host, args.smtp.port, args.smtp.sender, args.smtp.tls, args.smtp.user]
    )

    def text(value: object) -> Any:
        return sorted(vars(value).items()) if hasattr(value, "__dict__") else str(value)

    parts: Sequence[pulumi.Input[str]] = [
        json.dumps([plain, server, args.protect], sort_keys=True, default=text),
        password,
    ]
    return open_digest(args.digest_key, parts)
