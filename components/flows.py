"""The realm's own login flows: password, then a second factor; and no way to a session around it.

What the built-in flows leave open is closed here: a login by password alone through the API, a password reset that
makes the second factor anew, a login through another provider that asks for none, and an account that is taken over by
whoever brings its mail address from elsewhere.

The flow is the same whatever the stack wants: who has the realm role `SECOND_FACTOR_ROLE` must have a second factor,
everybody else may. A change of mind changes who has the role, and no flow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_keycloak as keycloak

from components.capabilities import supported
from components.common import child
from components.realm import Realm

BROWSER = "kit-browser"
DIRECT_GRANT = "kit-direct-grant"
RESET = "kit-reset"
BROKER = "kit-broker"
FIRST_LOGIN = "kit-first-login"

SECOND_FACTOR_ROLE = "second-factor-required"

_FLOW = "keycloak:authentication/flow:Flow"
_SUBFLOW = "keycloak:authentication/subflow:Subflow"
_EXECUTION = "keycloak:authentication/execution:Execution"


@dataclass(frozen=True)
class Step:
    """One thing that a flow asks. `config` is the authenticator's own."""

    authenticator: str
    requirement: str = "REQUIRED"
    config: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Sub:
    """A flow in a flow. CONDITIONAL: only where every condition in it holds."""

    alias: str
    requirement: str
    steps: Sequence[Step | Sub]


def _asked(flow: str) -> Sub:
    """Who has a second factor is asked for it: the passkey or the code, whichever the person likes."""
    return Sub(
        f"{flow}-second",
        "CONDITIONAL",
        (
            Step("conditional-user-configured"),
            Step("webauthn-authenticator", "ALTERNATIVE"),
            Step("auth-otp-form", "ALTERNATIVE"),
        ),
    )


def _enrolled(flow: str) -> Sub:
    """Who must have a second factor and was not asked for one makes one, in the middle of this very login.

    REQUIRED in place of two alternatives: only what is required may be set up on the way. With alternatives alone
    Keycloak turns whoever has none of them away, for good.
    """
    unasked = {"flow_to_check": f"{flow}-second", "check_result": "not-executed"}
    return Sub(
        f"{flow}-enrol",
        "CONDITIONAL",
        (
            Step("conditional-user-role", config={"condUserRole": SECOND_FACTOR_ROLE, "negate": "false"}),
            Step("conditional-sub-flow-executed", config=unasked),
            Step("auth-otp-form"),
        ),
    )


FLOWS: Mapping[str, tuple[str, Sequence[Step | Sub]]] = {
    BROWSER: (
        "A session that there is, or the password and then the second factor",
        (
            Step("auth-cookie", "ALTERNATIVE"),
            Step("identity-provider-redirector", "ALTERNATIVE"),
            Sub(
                f"{BROWSER}-forms",
                "ALTERNATIVE",
                (Step("auth-username-password-form"), _asked(BROWSER), _enrolled(BROWSER)),
            ),
        ),
    ),
    # The built-in flow gives a token for a password alone to everybody who has no code: the realm's own client for
    # command lines would be a way around the second factor.
    DIRECT_GRANT: ("Nobody logs in by sending a password", (Step("deny-access-authenticator"),)),
    # The built-in flow lets whoever reads the mail make a second factor of their own.
    RESET: (
        "The mail, then the second factor, then a new password",
        (
            Step("reset-credentials-choose-user"),
            Step("reset-credential-email"),
            _asked(RESET),
            Step("reset-password"),
            _enrolled(RESET),
        ),
    ),
    BROKER: (
        "The second factor of who came through another provider",
        (Step("allow-access-authenticator"), _asked(BROKER), _enrolled(BROKER)),
    ),
    # The built-in flow also takes a click in a mail for consent: a mail that somebody else had sent.
    FIRST_LOGIN: (
        "A new account; one that there is belongs to who knows its password and has its second factor",
        (
            Step("idp-review-profile", config={"update.profile.on.first.login": "missing"}),
            Sub(
                f"{FIRST_LOGIN}-account",
                "REQUIRED",
                (
                    Step(
                        "idp-create-user-if-unique",
                        "ALTERNATIVE",
                        {"require.password.update.after.registration": "false"},
                    ),
                    Sub(
                        f"{FIRST_LOGIN}-existing",
                        "ALTERNATIVE",
                        (Step("idp-confirm-link"), Step("idp-username-password-form"), _asked(FIRST_LOGIN)),
                    ),
                ),
            ),
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class FlowsArgs:
    """required_of: ids of the groups whose members must have a second factor; none: nobody must, everybody may.

    mail: there is a mail server, so that passwords can be reset. brokers: other providers log people in.
    """

    realm: Realm
    required_of: Mapping[str, pulumi.Input[str]]
    mail: bool = False
    brokers: bool = False


class Flows(pulumi.ComponentResource):
    """`broker` and `first_login` are for identity providers, and None while there are none.

    bound: what may fail comes after it. A run that fails between a change of the realm and the binding leaves
    Keycloak's own flow.
    """

    broker: pulumi.Output[str] | None = None
    first_login: pulumi.Output[str] | None = None
    bound: pulumi.Resource

    def __init__(self, name: str, args: FlowsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:keycloak:Flows", name, None, opts)
        self._name = name
        self._realm_id = args.realm.realm_id
        # With the realm at the latest: a flow that is bound cannot be deleted before.
        self._gone_with = (opts and opts.deleted_with) or args.realm.resource
        role = keycloak.Role(
            f"{name}-role",
            realm_id=self._realm_id,
            name=SECOND_FACTOR_ROLE,
            description="Whoever has it logs in with a second factor, or makes one at the next login",
            opts=self._child(),
        )
        for group, group_id in sorted(args.required_of.items()):
            keycloak.GroupRoles(
                f"{name}-required-of-{group}",
                realm_id=self._realm_id,
                group_id=group_id,
                role_ids=[role.id],
                exhaustive=False,
                opts=self._child(),
            )
        self._made: list[pulumi.Resource] = []
        browser, direct_grant = self._flow(BROWSER, role), self._flow(DIRECT_GRANT, role)
        reset = self._flow(RESET, role) if args.mail else "reset credentials"
        self.bound = keycloak.authentication.Bindings(
            f"{name}-bindings",
            realm_id=self._realm_id,
            browser_flow=browser,
            direct_grant_flow=direct_grant,
            reset_credentials_flow=reset,
            # Never a flow that is only half made: it would ask half of what it should.
            opts=self._child(
                self._made,
                # Whatever changes the realm puts the built-in flows back in the place of ours: the provider sends
                # them with every update of it. So each such change binds ours again, in the same run.
                replacement_trigger=args.realm.rules_digest,
                delete_before_replace=True,
                # To "delete" bindings is to put the built-in flows back. Between that and the binding again, people
                # would log in by their password alone.
                retain_on_delete=True,
            ),
        )
        if args.brokers:
            self.broker = self._flow(BROKER, role)
            self.first_login = self._flow(FIRST_LOGIN, self._made[-1])
        self.register_outputs({})

    def _flow(self, alias: str, role: pulumi.Resource) -> pulumi.Output[str]:
        """A whole flow. Its alias arrives when its last step is there."""
        description, steps = FLOWS[alias]
        flow = keycloak.authentication.Flow(
            f"{self._name}-{alias}",
            realm_id=self._realm_id,
            alias=alias,
            provider_id="basic-flow",
            description=description,
            opts=self._child([role]),
        )
        made: list[pulumi.Resource] = [flow]
        self._steps(alias, flow.alias, steps, made)
        self._made += made

        def itself(values: Sequence[str]) -> str:
            return values[0]

        return pulumi.Output.all(
            flow.alias, *(each.id for each in made if isinstance(each, pulumi.CustomResource))
        ).apply(itself)

    def _steps(
        self, path: str, parent: pulumi.Output[str], steps: Sequence[Step | Sub], made: list[pulumi.Resource]
    ) -> None:
        """One after the other, each with its priority: Keycloak asks in the order of the priorities, and a provider
        that cannot set them leaves it at the order in which the steps were made."""
        before: list[pulumi.Resource] = []
        for index, step in enumerate(steps, start=1):
            priority = {"priority": 10 * index}
            if isinstance(step, Sub):
                sub = keycloak.authentication.Subflow(
                    f"{self._name}-{step.alias}",
                    realm_id=self._realm_id,
                    parent_flow_alias=parent,
                    alias=step.alias,
                    provider_id="basic-flow",
                    requirement=step.requirement,
                    **supported(_SUBFLOW, priority),
                    opts=self._child(before),
                )
                made.append(sub)
                before = [sub]
                self._steps(step.alias, sub.alias, step.steps, made)
                continue
            execution = keycloak.authentication.Execution(
                f"{self._name}-{path}-{step.authenticator}",
                realm_id=self._realm_id,
                parent_flow_alias=parent,
                authenticator=step.authenticator,
                requirement=step.requirement,
                **supported(_EXECUTION, priority),
                opts=self._child(before),
            )
            made.append(execution)
            before = [execution]
            if step.config:
                config = keycloak.authentication.ExecutionConfig(
                    f"{self._name}-{path}-{step.authenticator}-config",
                    realm_id=self._realm_id,
                    execution_id=execution.id,
                    alias=f"{path}-{step.authenticator}",
                    config=dict(step.config),
                    opts=self._child(),
                )
                made.append(config)
                # One thing after the other, also when a flow goes: Keycloak answers 500 to a step's settings that are
                # deleted while something beside them is.
                before = [config]

    def _child(self, after: Sequence[pulumi.Resource] = (), **more: Any) -> pulumi.ResourceOptions:
        return child(self, after, deleted_with=self._gone_with, **more)
