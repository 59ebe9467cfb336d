"""What of a realm is there already is imported by its id; the rest is made. Keycloak's answers as 26 gives them."""

from __future__ import annotations

from typing import Any

from ops import adopting
from ops.adopting import REALM, ids, import_file, planned

TOP = "urn:pulumi:dev::ai-kit::"
PROVIDER = f"{TOP}aikit:keycloak:Access$pulumi:providers:keycloak::identity"
OWNER = f"{TOP}aikit:keycloak:Realm::realm"


def step(type_: str, called: str, needs: dict[str, list[str]] | None = None, **inputs: Any) -> dict[str, Any]:
    return {
        "op": "create",
        "urn": f"{TOP}{type_}::{called}",
        "newState": {
            "type": type_,
            "parent": OWNER,
            "provider": f"{PROVIDER}::0f1e",
            "inputs": inputs,
            "propertyDependencies": needs or {},
        },
    }


CLIENT, MAPPER = (
    "keycloak:openid/client:Client",
    "keycloak:openid/groupMembershipProtocolMapper:GroupMembershipProtocolMapper",
)
SUBFLOW = "keycloak:authentication/subflow:Subflow"
EXECUTION = "keycloak:authentication/execution:Execution"
OTP = f"{TOP}{EXECUTION}::otp"
OF_CLIENT = {"clientId": [f"{TOP}{CLIENT}::chat"], "realmId": [f"{TOP}{REALM}::realm"]}
PREVIEW = {
    "steps": [
        step(MAPPER, "chat-groups", OF_CLIENT, name="groups"),
        step("keycloak:index/role:Role", "chat-role", OF_CLIENT, name="admin"),
        step("keycloak:index/role:Role", "viewer", name="viewer"),
        step(CLIENT, "chat", clientId="open-webui"),
        step(CLIENT, "new", clientId="was-not-there"),
        step(MAPPER, "new-groups", {"clientId": [f"{TOP}{CLIENT}::new"]}, name="groups"),
        step("keycloak:index/group:Group", "admins", name="admins"),
        step("keycloak:index/user:User", "admin", username="admin-user"),
        step("keycloak:index/realmEvents:RealmEvents", "events"),
        step(REALM, "realm", realm="kit"),
        step(CLIENT, "builtin", **{"clientId": "account", "import": True}),
        step("keycloak:oidc/googleIdentityProvider:GoogleIdentityProvider", "google"),
        step("keycloak:oidc/identityProvider:IdentityProvider", "other", alias="oidc"),
        step("keycloak:authentication/flow:Flow", "flow", alias="kit browser"),
        step(SUBFLOW, "forms", {"parentFlowAlias": [f"{TOP}keycloak:authentication/flow:Flow::flow"]}, alias="forms"),
        step(EXECUTION, "otp", parentFlowAlias="forms", authenticator="auth-otp-form"),
        step("keycloak:authentication/executionConfig:ExecutionConfig", "otp-config", {"executionId": [OTP]}),
        step("keycloak:authentication/bindings:Bindings", "bindings"),
        {"op": "same", "urn": f"{TOP}{CLIENT}::kept", "newState": {"type": CLIENT, "inputs": {"clientId": "kept"}}},
        step("docker:index/container:Container", "redis", name="redis"),
    ]
}
THERE = {
    "/groups?max=1000": [{"id": "g1", "name": "users"}, {"id": "g2", "name": "admins"}],
    "/users?exact=true&username=admin-user": [{"id": "u1", "username": "admin-user"}],
    "/clients?clientId=open-webui": [{"id": "c1", "clientId": "open-webui"}],
    "/clients?clientId=was-not-there": [],
    "/clients/c1/roles": [{"id": "r1", "name": "user"}, {"id": "r2", "name": "admin"}],
    "/roles": [{"id": "r3", "name": "viewer"}],
    "/identity-provider/instances/google": {"alias": "google"},
    "/authentication/flows": [{"id": "f1", "alias": "browser"}, {"id": "f2", "alias": "kit browser"}],
    "/authentication/flows/kit%20browser/executions": [
        {"id": "e1", "displayName": "forms", "flowId": "f3", "level": 0},
        {"id": "e2", "displayName": "OTP", "providerId": "auth-otp-form", "level": 1},
    ],
    "/authentication/flows/forms/executions": [
        {"id": "e2", "displayName": "OTP", "providerId": "auth-otp-form", "level": 0, "authenticationConfig": "x1"},
    ],
    "/clients/c1/protocol-mappers/models": [{"id": "m1", "name": "groups"}, {"id": "m2", "name": "roles"}],
}


def found() -> dict[str, str]:
    by_urn = ids(planned(PREVIEW), "kit", THERE.get)
    return {urn.rpartition("::")[2]: id_ for urn, id_ in by_urn.items()}


def test_only_what_keycloak_would_have_to_make_is_looked_for() -> None:
    names = {item.name for item in planned(PREVIEW).values()}
    assert {"redis", "kept"}.isdisjoint(names)
    assert planned({}) == {}


def test_what_is_there_is_found_by_name() -> None:
    assert found() == {
        "realm": "kit",
        "admins": "kit/g2",
        "admin": "kit/u1",
        "chat": "kit/c1",
        "chat-role": "kit/r2",
        "viewer": "kit/r3",
        "chat-groups": "kit/client/c1/m1",
        "google": "kit/google",
        "flow": "kit/f2",
        "forms": "kit/kit browser/f3",
        "otp": "kit/forms/e2",
        "otp-config": "kit/e2/x1",
    }


def test_an_empty_realm_gives_its_own_id_alone() -> None:
    assert list(ids(planned(PREVIEW), "kit", lambda _: []).values()) == ["kit"]


def test_the_import_names_parents_and_the_provider() -> None:
    steps = planned(PREVIEW)
    written = import_file(steps, ids(steps, "kit", THERE.get))
    first, *rest = written["resources"]
    assert (first["type"], first["id"]) == (REALM, "kit")
    assert len(rest) == 11
    assert written["nameTable"][first["parent"]] == OWNER
    assert written["nameTable"][first["provider"]] == PROVIDER
    assert all(set(entry) == {"type", "name", "id", "parent", "provider"} for entry in written["resources"])
    assert adopting.REALM in first["type"]
