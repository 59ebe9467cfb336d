"""Registrations of login flows and other providers. Numbers are those of the traps in the provider."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components import capabilities
from components.flows import BROWSER, DIRECT_GRANT, FIRST_LOGIN, FLOWS, RESET, Flows, FlowsArgs, Step
from components.identity_provider import Endpoints, IdentityProvider, IdentityProviderArgs
from components.realm import AdminUser, Realm, RealmArgs, Smtp
from stack.realm import BROWSER_FLOW
from tests.components.recording import Recording, record

ENDPOINTS = Endpoints(issuer="https://i", authorize="https://i/a", token="https://i/t", keys="https://i/k")


@pytest.fixture(autouse=True)
def _official_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(capabilities.VARIABLE, raising=False)


def logins(kind: str = "", realm: dict[str, Any] | None = None, **changes: Any) -> Recording:
    def program() -> None:
        admin = AdminUser(username="admin-user", email="a@kit", password="p4ss")
        values: dict[str, Any] = {"realm": "kit", "display_name": "Kit", "admin": admin, **(realm or {})}
        made = Realm("realm", RealmArgs(**values))
        required = {"admins": made.admin_group_id}
        flows = Flows("login", FlowsArgs(**{"realm": made, "required_of": required, "brokers": bool(kind), **changes}))
        if kind:
            IdentityProvider(
                "provider",
                IdentityProviderArgs(
                    realm=made,
                    flows=flows,
                    kind=kind,
                    client_id="c",
                    client_secret="s3cret",
                    endpoints=ENDPOINTS if kind == "oidc" else None,
                ),
            )

    return record(program)


def older_plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "capabilities.json"
    known = {
        "keycloak": {
            f"keycloak:authentication/{name}": ["alias"] for name in ("subflow:Subflow", "execution:Execution")
        }
    }
    file.write_text(json.dumps(known), encoding="utf-8")
    monkeypatch.setenv(capabilities.VARIABLE, str(file))


class TestFlows:
    def test_a_change_of_the_realm_binds_again_and_nothing_is_ever_unbound(self) -> None:
        """2.5."""
        triggers = set()
        for changes in ({}, {"display_name": "Other"}, {"login_failures": 3}, {"language": "de"}, {"protect": False}):
            bound = logins(realm=changes).one("Bindings")
            triggers.add(str(bound.replacement_trigger))
            assert bound.retain_on_delete
            assert bound.delete_before_replace
            assert (bound.inputs["browserFlow"], bound.inputs["directGrantFlow"]) == (BROWSER, DIRECT_GRANT)
        assert len(triggers) == 5
        assert "None" not in triggers

    def test_the_mail_servers_password_changes_the_trigger_and_is_not_in_it(self) -> None:
        def trigger(password: str) -> str:
            smtp = Smtp(host="h", port=25, sender="a@b", user="u", password=pulumi.Output.secret(password))
            return str(logins(realm={"smtp": smtp, "digest_key": "k"}).one("Bindings").replacement_trigger)

        assert trigger("one") != trigger("two")
        assert "one" not in trigger("one")
        with pytest.raises(ValueError, match="digest_key"):
            logins(realm={"smtp": Smtp(host="h", port=25, sender="a@b", password="p")})

    def test_no_half_made_flow_is_bound(self) -> None:
        recording = logins()
        waits = recording.names(recording.one("Bindings").dependencies)
        made = {
            each.name for each in recording.resources if each.type.split(":")[-1] in ("Execution", "ExecutionConfig")
        }
        assert made <= waits

    def test_steps_have_priorities_and_come_one_after_the_other(self) -> None:
        """2.6."""
        recording = logins()
        executions = {each.name: each for each in recording.all("Execution")}
        name = f"login-{BROWSER}-second-"
        first, second = executions[f"{name}webauthn-authenticator"], executions[f"{name}auth-otp-form"]
        assert (first.inputs["priority"], second.inputs["priority"]) == (20, 30)
        assert first.name in recording.names(second.dependencies)

    def test_an_older_plugin_is_spared_the_priorities(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        older_plugin(monkeypatch, tmp_path)
        recording = logins()
        assert not [
            each for each in (*recording.all("Execution"), *recording.all("Subflow")) if "priority" in each.inputs
        ]

    def test_who_must_have_one_is_a_role_and_no_flow(self) -> None:
        assert logins().one("GroupRoles").inputs["groupId"] == "realm-admins-id"
        assert logins(required_of={}).all("GroupRoles") == []

        def flows(recording: Recording) -> dict[str, Any]:
            return {each.name: each.inputs for each in recording.resources if "authentication" in each.type}

        assert flows(logins()) == flows(logins(required_of={}))

    def test_what_is_not_needed_is_not_made(self) -> None:
        def aliases(recording: Recording) -> set[str]:
            return {each.inputs["alias"] for each in recording.all("Flow")}

        assert aliases(logins()) == {BROWSER, DIRECT_GRANT}
        assert logins().one("Bindings").inputs["resetCredentialsFlow"] == "reset credentials"
        assert logins(mail=True).one("Bindings").inputs["resetCredentialsFlow"] == RESET
        assert aliases(logins("google", mail=True)) == set(FLOWS)

    def test_no_flow_opens_an_account_to_who_reads_its_mail(self) -> None:
        def authenticators(steps: Any) -> list[str]:
            return [
                found
                for step in steps
                for found in ([step.authenticator] if isinstance(step, Step) else authenticators(step.steps))
            ]

        for alias, (_, steps) in FLOWS.items():
            asked = authenticators(steps)
            assert not {"idp-email-verification", "reset-otp", "idp-auto-link", "direct-grant-validate-password"} & set(
                asked
            )
            if alias != DIRECT_GRANT:
                assert "auth-otp-form" in asked, alias


class TestProviders:
    @pytest.mark.parametrize(
        ("kind", "type_", "alias"),
        [
            ("google", "GoogleIdentityProvider", None),
            ("github", "GithubIdentityProvider", "github"),
            ("oidc", "oidc/identityProvider:IdentityProvider", "oidc"),
        ],
    )
    def test_it_is_believed_nothing_and_asked_for_a_second_factor(
        self, kind: str, type_: str, alias: str | None
    ) -> None:
        """2.11, 2.14."""
        made = logins(kind).one(type_, "provider")
        assert made.inputs.get("alias") == alias
        assert made.inputs["trustEmail"] is made.inputs["storeToken"] is False
        assert made.inputs["syncMode"] == "IMPORT"
        assert (made.inputs["firstBrokerLoginFlowAlias"], made.inputs["postBrokerLoginFlowAlias"]) == (
            FIRST_LOGIN,
            "kit-broker",
        )
        assert made.secret_inputs == {"clientSecret"}

    def test_oidc_checks_signatures_and_uses_pkce(self) -> None:
        inputs = logins("oidc").one("oidc/identityProvider:IdentityProvider").inputs
        assert inputs["validateSignature"] is True
        assert (inputs["issuer"], inputs["jwksUrl"]) == ("https://i", "https://i/k")
        assert inputs["extraConfig"]["pkceMethod"] == "S256"

    def test_a_plugin_without_github_gets_it_by_the_resource_for_any(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        older_plugin(monkeypatch, tmp_path)
        inputs = logins("github").one("oidc/identityProvider:IdentityProvider").inputs
        assert (inputs["alias"], inputs["providerId"]) == ("github", "github")

    def test_endpoints_are_for_oidc(self) -> None:
        with pytest.raises(ValueError, match="endpoints are for oidc"):
            IdentityProviderArgs(realm=None, flows=None, kind="oidc", client_id="c", client_secret="s")  # type: ignore[arg-type]


def test_what_is_made_is_what_the_rest_looks_for() -> None:
    """Components know nothing of the stack: the name of the flow stands in both."""
    assert BROWSER == BROWSER_FLOW
