"""People and groups in the configuration: every mistake is named, all of them at once; and what ./kit says of them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from ops.console import KitError
from ops.people import first_password
from ops.repair import left, refuse_to_forget
from stack import plan as planning
from stack.derive.oidc import Audience, clients
from stack.model import EVERYBODY, REALM_ROLES, OidcClient, SpecError
from stack.people import RealmRole
from stack.settings import load
from tests import factories

ANNA = {"username": "anna", "email": "anna@home.example", "firstName": "Anna", "lastName": "O'Hara-Ω", "role": "editor"}
BEN = {"username": "b.en-1", "email": "ben@home.example", "firstName": "Ben", "lastName": "B", "role": "viewer"}


def problems(**raw: object) -> list[tuple[str, str, str]]:
    with pytest.raises(SpecError) as caught:
        load("dev", {"target": "dev", **raw})
    return [(problem.where, problem.what, problem.fix) for problem in caught.value.problems]


def without(person: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in person.items() if key != name}


def test_people_are_read_from_the_file_and_from_the_engine_alike() -> None:
    raw = [{**ANNA, "groups": ["research"]}, {**BEN, "enabled": False}]
    from_file = load("dev", {"target": "dev", "people": raw, "groups": ["research", "choir"]})
    texts = {"target": "dev", "people": json.dumps(raw), "groups": json.dumps(["research", "choir"])}
    assert load("dev", texts) == from_file
    anna, ben = from_file.people
    assert (anna.username, anna.role, anna.groups, anna.enabled) == ("anna", RealmRole.EDITOR, ("research",), True)
    assert (anna.first_name, anna.last_name) == ("Anna", "O'Hara-Ω")
    assert not ben.enabled


REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    (without(ANNA, "email"), ".email", "is not set", "every person has a mail address"),
    (without(ANNA, "username"), ".username", "is not set", "user name"),
    (without(ANNA, "lastName"), ".lastName", "is not set", "last name"),
    (without(ANNA, "role"), ".role", "is not set", "admin, editor, viewer"),
    ({**ANNA, "email": "anna"}, ".email", '"anna"', "is no mail address"),
    ({**ANNA, "email": 5}, ".email", "5", "is no text"),
    ({**ANNA, "role": "edtor"}, ".role", '"edtor"', 'Did you mean "editor"?'),
    ({**ANNA, "role": ["admin"]}, ".role", "", "is no role"),
    ({**ANNA, "username": "Anna"}, ".username", '"Anna"', "is no user name"),
    ({**ANNA, "username": "anna\n"}, ".username", "", "is no user name"),
    ({**ANNA, "username": "admin-user"}, ".username", '"admin-user"', "is reserved"),
    ({**ANNA, "username": "kit-prove-abc"}, ".username", '"kit-prove-abc"', "is reserved"),
    ({**ANNA, "username": "service-account-x"}, ".username", '"service-account-x"', "is reserved"),
    ({**ANNA, "firstName": "<b>"}, ".firstName", '"<b>"', "is no first name"),
    ({**ANNA, "firstName": " Anna"}, ".firstName", '" Anna"', "is no first name"),
    ({**ANNA, "enabled": "no"}, ".enabled", '"no"', "is neither true nor false"),
    ({**ANNA, "groups": "research"}, ".groups", '"research"', "is no list"),
    ({**ANNA, "groups": ["admins"]}, ".groups[0]", '"admins"', "say role"),
    ({**ANNA, "groups": ["research", "research"]}, ".groups[1]", '"research"', "twice"),
    ({**ANNA, "groups": ["reserch"]}, ".groups[0]", '"reserch"', 'Did you mean "research"?'),
    ({**ANNA, "password": "x"}, ".password", "is nothing that is known of a person", "A person has"),
    ({**ANNA, "mail": "x"}, ".mail", "is nothing that is known of a person", 'Did you mean "email"?'),
]


@pytest.mark.parametrize(("person", "where", "what", "fix"), REFUSED)
def test_refused(person: dict[str, Any], where: str, what: str, fix: str) -> None:
    (found,) = problems(people=[BEN, person], groups=["research"])
    assert found[0] == f"people[1]{where}"
    assert what in found[1]
    assert fix in found[2]


@pytest.mark.parametrize("value", [5, "anna", None, ["anna"], True])
def test_a_person_is_a_mapping(value: object) -> None:
    assert problems(people=[value])[0][0] == "people[0]"


def test_a_password_in_the_file_is_not_shown() -> None:
    assert "hunter2" not in str(problems(people=[{**ANNA, "password": "hunter2"}]))


def test_names_and_addresses_are_given_once() -> None:
    twin = {**BEN, "username": "anna", "email": "ANNA@home.example"}
    admins = {**BEN, "username": "cara", "email": "admin@kit.localhost"}
    assert [where for where, _, _ in problems(people=[ANNA, twin, admins])] == [
        "people[1].username",
        "people[1].email",
        "people[2].email",
    ]


def test_the_address_of_the_administrator_is_the_configured_one() -> None:
    (found,) = problems(people=[ANNA], adminEmail="Anna@home.example")
    assert found[0] == "people[0].email" and "adminEmail" in found[2]


@pytest.mark.parametrize("name", ["admins", "editors", "viewers", "users"])
def test_the_groups_of_the_roles_are_taken(name: str) -> None:
    (found,) = problems(groups=[name])
    assert found[0] == "groups[0]" and "every stack" in found[2]


def test_groups_differ_in_more_than_capitals() -> None:
    (found,) = problems(groups=["Research", "research"])
    assert found[0] == "groups[1]"


def test_everything_wrong_with_everybody_is_said_at_once() -> None:
    found = problems(people=[{"username": "X", "role": "boss"}, {}], groups=["a b"])
    assert [where for where, _, _ in found] == [
        "people[0].username",
        "people[0].email",
        "people[0].firstName",
        "people[0].lastName",
        "people[0].role",
        "people[1].username",
        "people[1].email",
        "people[1].firstName",
        "people[1].lastName",
        "people[1].role",
        "groups[0]",
    ]


# ------------------------------------------------------------------------------------------------------- clients


def with_client(**changes: Any) -> planning.Plan:
    """The plan of a catalogue whose one client is changed."""
    services = tuple(
        dataclasses.replace(spec, oidc=dataclasses.replace(spec.oidc, **changes)) if spec.oidc else spec
        for spec in factories.catalog()
    )
    return planning.build(factories.settings(), factories.host(), services)


def test_a_service_may_have_the_roles_of_the_realm() -> None:
    (client,) = clients(with_client(roles={**REALM_ROLES, "guest": EVERYBODY}))
    assert {role.name: role.audience for role in client.roles} == {
        "admin": Audience.ADMINS,
        "editor": Audience.EDITORS,
        "viewer": Audience.VIEWERS,
        "guest": Audience.EVERYBODY,
    }


def test_a_role_for_nobody_known_is_refused() -> None:
    with pytest.raises(SpecError, match="admin, editor, viewer, or to everybody"):
        with_client(roles={"owner": "boss"})


def test_logouts_are_heard_inside_on_the_port_of_the_route() -> None:
    plan = with_client(backchannel_logout_path="/bye")
    (client,) = clients(plan)
    service = plan.service(client.service)
    assert isinstance(service.spec.oidc, OidcClient)
    route = next(route for route in service.spec.routes if route.name == service.spec.oidc.route)
    container, port = service.spec.endpoint(route.port)
    host = next(each.host_name for each in service.containers if each.spec.name == container.name)
    assert client.backchannel_logout_url == f"http://{host}:{port.number}/bye"


@pytest.mark.parametrize("path", ["bye", "/bye/*"])
def test_a_logout_path_is_exact(path: str) -> None:
    with pytest.raises(SpecError, match="exact path"):
        with_client(backchannel_logout_path=path)


# -------------------------------------------------------------------------------------------------------- ./kit


def test_first_passwords_differ_and_satisfy_policies() -> None:
    made = {first_password() for _ in range(200)}
    assert len(made) == 200
    for each in made:
        assert len(each) == 27 and each.count("-") == 3
        assert any(map(str.islower, each)) and any(map(str.isupper, each)) and any(map(str.isdigit, each))
        assert not set(each) & set("0O1lI")


def state(*names: str, protect: bool = True) -> dict[str, Any]:
    kinds = {"person": "keycloak:index/user:User", "group": "keycloak:index/group:Group"}
    return {
        "resources": [
            {"urn": f"urn:pulumi:dev::ai-kit::x::{name}", "type": kinds[name.split("-")[0]], "protect": protect}
            for name in names
        ]
        + [{"urn": "urn:pulumi:dev::ai-kit::x::realm-admins", "type": kinds["group"], "protect": True}]
    }


def test_who_left_the_configuration_is_named() -> None:
    plan = planning.build(factories.settings(groups=("kept",)), factories.host(), factories.catalog())
    deployment = state("person-anna", "group-kept", "group-gone-1")
    assert set(left(deployment)) == {"anna", "kept", "gone-1"}
    with pytest.raises(KitError, match=r"anna, gone-1 left the configuration") as caught:
        refuse_to_forget(deployment, plan)
    assert "enabled: false" in str(caught.value.fix)


def test_who_was_given_up_by_name_may_go() -> None:
    plan = planning.build(factories.settings(), factories.host(), factories.catalog())
    refuse_to_forget(state("person-anna", "group-gone", protect=False), plan)
    refuse_to_forget({}, plan)
