"""Registrations of the Keycloak components. Numbers are those of the traps in the provider."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components import capabilities
from components.keycloak import KeycloakAccess, KeycloakAccessArgs
from components.oidc_client import OidcClient, OidcClientArgs
from components.people import People, PeopleArgs, PersonArgs
from components.realm import AdminUser, Realm, RealmArgs
from components.volume import DataVolume, VolumeArgs
from tests.components.recording import Recording, record


@pytest.fixture(autouse=True)
def _official_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(capabilities.VARIABLE, raising=False)


def a_realm(opts: pulumi.ResourceOptions | None = None, **changes: Any) -> Realm:
    admin = AdminUser(username="admin-user", email="a@kit", password="p4ss")
    values: dict[str, Any] = {"realm": "kit", "display_name": "Kit", "admin": admin}
    return Realm("realm", RealmArgs(**{**values, **changes}), opts)


def client(**changes: Any) -> Recording:
    def program() -> None:
        values: dict[str, Any] = {
            "realm": a_realm(),
            "client_id": "chat",
            "client_secret": "s3cret",
            "redirect_uris": ["https://chat.kit/callback"],
            "root_url": "https://chat.kit",
            "web_origins": ["https://chat.kit"],
            "roles": {"user": "*", "admin": "admin"},
        }
        OidcClient("client", OidcClientArgs(**{**values, **changes}))

    return record(program)


def test_access_does_not_log_in_before_it_must() -> None:
    """2.1, 2.3, 2.7."""
    args = KeycloakAccessArgs(url="https://127.0.0.1:8444", client_id="kit", client_secret="s", ca_pem="CA")
    provider = record(lambda: KeycloakAccess("access", args)).one("pulumi:providers:keycloak")
    assert provider.inputs["initialLogin"] in (False, "false")
    assert str(provider.inputs["clientTimeout"]) == "60"
    assert provider.inputs["rootCaCertificate"] == "CA"
    assert provider.inputs["url"] == "https://127.0.0.1:8444"
    assert provider.inputs["realm"] == "master"
    assert "username" not in provider.inputs
    assert "clientSecret" in provider.secret_inputs


class TestRealm:
    def test_rules_are_spelled_out(self) -> None:
        """2.11, 2.12."""
        recording = record(a_realm)
        realm = recording.one("realm:Realm", "realm")
        assert realm.protect
        assert realm.inputs["realm"] == "kit"
        assert realm.inputs["sslRequired"] == "all"
        assert realm.inputs["registrationAllowed"] is False
        assert realm.inputs["terraformDeletionProtection"] is True
        brute_force = realm.inputs["securityDefenses"]["bruteForceDetection"]
        assert brute_force["maxLoginFailures"] == 10
        assert brute_force["maxTemporaryLockouts"] == 0
        assert "length(12)" in realm.inputs["passwordPolicy"]
        # 2.5: an empty flow is sent as the default on every update; a bound flow belongs to Bindings alone.
        assert not [name for name in realm.inputs if name.endswith("Flow")]

    def test_the_older_plugin_is_spared_newer_arguments(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        file = tmp_path / "capabilities.json"
        known = {"keycloak": {"keycloak:index/realm:Realm": ["realm", "securityDefenses.bruteForceDetection"]}}
        file.write_text(json.dumps(known), encoding="utf-8")
        monkeypatch.setenv(capabilities.VARIABLE, str(file))
        realm = record(a_realm).one("realm:Realm", "realm")
        assert "terraformDeletionProtection" not in realm.inputs
        assert "maxTemporaryLockouts" not in realm.inputs["securityDefenses"]["bruteForceDetection"]
        assert ("keycloak:index/realm:Realm", "terraformDeletionProtection") in capabilities.dropped()

    def test_the_administrator_is_permanent_and_the_password_secret(self) -> None:
        """2.8."""
        recording = record(a_realm)
        user = recording.one("user:User")
        assert user.protect
        assert user.inputs["initialPassword"] == {"value": "p4ss", "temporary": False}
        assert user.secret_inputs == {"initialPassword.value"}

    def test_hand_made_memberships_stay(self) -> None:
        """2.13."""
        recording = record(a_realm)
        groups = recording.one("userGroups:UserGroups")
        assert groups.inputs["exhaustive"] is False
        assert groups.inputs["groupIds"] == ["realm-admins-id", "realm-everybody-id"]
        assert recording.one("DefaultGroups").inputs["groupIds"] == ["realm-everybody-id"]

    def test_everything_goes_with_the_database(self) -> None:
        """Destroying the data first must not ask a server that is gone."""

        def program() -> None:
            volume = DataVolume("data", VolumeArgs(volume_name="data", labels={}))
            opts = pulumi.ResourceOptions(deleted_with=volume.volume)
            realm = a_realm(opts)
            args = OidcClientArgs(
                realm=realm,
                client_id="chat",
                client_secret="s",
                redirect_uris=["https://c/cb"],
                root_url="https://c",
                roles={"user": "*"},
            )
            OidcClient("client", args, opts)

        recording = record(program)
        made = [each for each in recording.resources if each.type.startswith("keycloak:")]
        assert len(made) == 16
        assert {each.deleted_with.rsplit("::", 1)[-1] for each in made} == {"data"}


class TestPeople:
    def people(self, opts: pulumi.ResourceOptions | None = None) -> Recording:
        def program() -> None:
            anna = PersonArgs(
                username="anna", email="a@kit", first_name="Anna", last_name="A", role="editor", groups=["research"]
            )
            ben = PersonArgs(
                username="ben", email="b@kit", first_name="Ben", last_name="B", role="admin", enabled=False
            )
            People("people", PeopleArgs(realm=a_realm(), people=[anna, ben], groups=["research", "choir"]), opts)

        return record(program)

    def test_nobody_has_a_password_and_nobody_is_deleted(self) -> None:
        recording = self.people()
        for name in ("anna", "ben"):
            user = recording.one("user:User", f"person-{name}")
            assert user.protect
            assert user.inputs["emailVerified"] is True
            assert user.inputs["enabled"] is (name == "anna")
            assert not {"initialPassword", "requiredActions", "attributes"} & set(user.inputs)
            # What is theirs is never sent as it was at an earlier time.
            assert user.ignore_changes == {"attributes", "requiredActions", "federatedIdentities"}
        assert {each.name for each in recording.all("group:Group") if each.protect} >= {"group-research", "group-choir"}

    def test_a_role_is_a_group_and_memberships_given_by_hand_stay(self) -> None:
        """2.13."""
        recording = self.people()
        anna = recording.one("userGroups:UserGroups", "person-anna-groups").inputs
        assert sorted(anna["groupIds"]) == ["group-research-id", "realm-editors-id", "realm-everybody-id"]
        ben = recording.one("userGroups:UserGroups", "person-ben-groups").inputs
        assert sorted(ben["groupIds"]) == ["realm-admins-id", "realm-everybody-id"]
        assert anna["exhaustive"] is ben["exhaustive"] is False


class TestOidcClient:
    def test_only_the_code_flow_with_pkce(self) -> None:
        """2.9, 2.11."""
        recording = client()
        registered = recording.one("client:Client")
        inputs = registered.inputs
        assert inputs["clientId"] == "chat"
        assert inputs["accessType"] == "CONFIDENTIAL"
        assert inputs["standardFlowEnabled"] is True
        assert inputs["implicitFlowEnabled"] is False
        assert inputs["directAccessGrantsEnabled"] is False
        assert inputs["serviceAccountsEnabled"] is False
        assert inputs["pkceCodeChallengeMethod"] == "S256"
        assert inputs["fullScopeAllowed"] is False
        assert inputs["validRedirectUris"] == ["https://chat.kit/callback"]
        assert "clientSecretRegenerateWhenChanged" not in inputs
        assert registered.secret_inputs == {"clientSecret"}

    def test_nobody_may_ask_for_tokens_that_outlive_a_logout(self) -> None:
        assert client().one("ClientOptionalScopes").inputs["optionalScopes"] == ["address", "microprofile-jwt", "phone"]

    def test_default_scopes_are_left_as_they_are(self) -> None:
        """2.13: ClientDefaultScopes is authoritative, what is not listed is gone."""
        assert client().all("ClientDefaultScopes") == []

    def test_roles_arrive_flat_and_in_every_token(self) -> None:
        """2.13."""
        recording = client(role_claim="kit_roles")
        roles = recording.one("UserClientRoleProtocolMapper").inputs
        assert roles["claimName"] == "kit_roles"
        assert roles["multivalued"] is True
        assert roles["clientIdForRoleMappings"] == "chat"
        assert roles["addToIdToken"] is roles["addToAccessToken"] is roles["addToUserinfo"] is True
        groups = recording.one("GroupMembershipProtocolMapper").inputs
        assert groups["fullPath"] is False
        assert recording.one("AudienceProtocolMapper").inputs["includedClientAudience"] == "chat"

    def test_roles_go_to_groups_without_taking_others_away(self) -> None:
        recording = client()
        grants = {each.name: each.inputs for each in recording.all("GroupRoles")}
        assert grants["client-grant-admin"]["groupId"] == "realm-admins-id"
        assert grants["client-grant-user"]["groupId"] == "realm-everybody-id"
        assert {each["exhaustive"] for each in grants.values()} == {False}
        assert {each.inputs["name"] for each in recording.all("role:Role")} == {"admin", "user"}

    def test_a_role_goes_to_admins_or_everybody(self) -> None:
        with pytest.raises(ValueError, match="goes to"):
            client(roles={"user": "friends"})

    def test_who_may_more_has_the_lesser_roles_too(self) -> None:
        recording = client(roles={"admin": "admin", "editor": "editor", "viewer": "viewer"})
        grants = {each.name: each.inputs["groupId"] for each in recording.all("GroupRoles")}
        assert grants == {
            "client-grant-admin": "realm-admins-id",
            "client-grant-editor": "realm-editors-id",
            "client-grant-editor-admins": "realm-admins-id",
            "client-grant-viewer": "realm-viewers-id",
            "client-grant-viewer-editors": "realm-editors-id",
            "client-grant-viewer-admins": "realm-admins-id",
        }

    def test_a_logout_is_told_to_whoever_listens(self) -> None:
        silent = client().one("client:Client").inputs
        assert "backchannelLogoutUrl" not in silent and silent["backchannelLogoutSessionRequired"] is False
        told = client(backchannel_logout_url="http://chat:8080/bye").one("client:Client").inputs
        assert told["backchannelLogoutUrl"] == "http://chat:8080/bye"
        assert told["backchannelLogoutSessionRequired"] is True
        assert told["frontchannelLogoutEnabled"] is False

    @pytest.mark.parametrize("uris", [["https://chat.kit/*"], []])
    def test_redirects_are_exact(self, uris: list[str]) -> None:
        with pytest.raises(ValueError, match="redirect"):
            client(redirect_uris=uris)
