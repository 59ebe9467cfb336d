"""The CA and its certificates by number: what may be written, what is refused, and what the owner is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ops import authority, generations, rotate
from ops.console import KitError
from ops.session import Session
from ops.stackstate import StackState
from stack import catalog, rotation, targets
from stack import plan as planning
from stack.model import SpecError, Target
from stack.plan import Plan, SecretKey
from stack.rotation import Wish
from stack.settings import Settings

CA = SecretKey("tls", "ca")
OLDEST = SecretKey("tls", "oldest-ca")
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def planned(*profiles: str, **more: Any) -> Plan:
    wishes = cast("dict[str, Wish]", more.pop("rotation", {}))
    decided = Settings(
        stack="dev", target=Target.DEV, profiles=profiles, rotation=wishes, emulate=True, memory_mb=65536, **more
    )
    return planning.build(decided, targets.profile(decided), catalog.discover())


def deployment(**made: str) -> dict[str, Any]:
    """Keys and passwords in a state: name -> day of 2026."""
    kinds = {True: "tls:index/privateKey:PrivateKey", False: "random:index/randomPassword:RandomPassword"}
    return {
        "resources": [
            {
                "type": kinds[name.endswith("_key")],
                "urn": f"urn:pulumi:dev::ai-kit::x::{name.replace('_', '-')}",
                "created": f"2026-{day}T00:00:00Z",
            }
            for name, day in made.items()
        ]
    }


# ------------------------------------------------------------------------------------------------ what may be written


def test_what_is_said_of_everything_makes_the_leaf_anew_and_no_ca() -> None:
    for name in ("*", "tls"):
        plan = planned(rotation={name: Wish(4, 90)})
        found = {each.key.name: (each.generation, each.days) for each in plan.certificates}
        assert found == {"ca": (1, None), "oldest-ca": (1, None), "leaf": (4, 90)}
        assert plan.authorities == (1, 1) and plan.leaf == 4


@pytest.mark.parametrize(
    ("signs", "oldest", "said"),
    [
        (1, 2, "is newer than the CA that signs"),
        (3, 1, "would be the third CA"),
        (9, 7, "tls/oldest-ca=8, up, and then tls/ca=9"),
    ],
)
def test_two_cas_at_most_and_none_that_is_not_there(signs: int, oldest: int, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        planned(rotation={"tls/ca": Wish(signs), "tls/oldest-ca": Wish(oldest)})
    assert said in str(refused.value)


def test_the_ca_that_everybody_trusts_is_not_ended_before_there_is_another() -> None:
    plan = planned(rotation={"tls/ca": Wish(2), "tls/oldest-ca": Wish(2)})
    (problem,) = generations.backwards(plan, deployment(ca_key="01-01", leaf_key="01-01"))
    assert "the CA that everybody trusts now is 1" in problem.what
    assert "tls/ca=2 and tls/oldest-ca=1" in problem.fix
    assert generations.backwards(plan, deployment(ca_key="01-01", ca_g2_key="01-01")) == ()
    assert generations.backwards(plan, {}) == ()  # a new stack: nobody trusts anything yet
    (back,) = generations.backwards(planned(), deployment(ca_g2_key="01-01"))[:1]
    assert back.what == "tls/ca would go back from 2 to 1"


def test_the_state_says_which_cas_there_are() -> None:
    plan = planned(rotation={"tls/ca": Wish(2)})
    state = deployment(ca_key="01-01", ca_g2_key="05-01", leaf_g3_key="05-02", ca_cross_key="05-02")
    found = generations.held(plan, state)
    assert (found[CA].generation, found[OLDEST].generation) == (2, 1)
    assert found[CA].made == found[OLDEST].made == datetime(2026, 5, 1, tzinfo=UTC)
    assert found[SecretKey("tls", "leaf")].generation == 3


# -------------------------------------------------------------------------------------------------------- ./kit rotate


def test_a_ca_is_due_by_age_and_the_older_one_ends_by_the_age_of_the_newer() -> None:
    ages = {"tls/ca": Wish(2, 100), "tls/oldest-ca": Wish(1, 20)}
    state = deployment(ca_key="01-01", ca_g2_key="05-01")
    plan = planned(rotation=ages)
    due = rotate.due(rotate.rows(plan, generations.held(plan, state), NOW))
    assert [row.name for row in due] == ["tls/oldest-ca"] and due[0].following == 2
    much_later = datetime(2027, 6, 1, tzinfo=UTC)
    due = rotate.due(rotate.rows(plan, generations.held(plan, state), much_later))
    assert [row.name for row in due] == ["tls/oldest-ca"], "no third CA while two are trusted"
    plan = planned(rotation={**ages, "tls/oldest-ca": Wish(2, 20)})
    state = deployment(ca_g2_key="05-01")
    assert rotate.due(rotate.rows(plan, generations.held(plan, state), NOW)) == []
    due = rotate.due(rotate.rows(plan, generations.held(plan, state), much_later))
    assert [row.name for row in due] == ["tls/ca"]


def test_each_has_its_turn() -> None:
    one, two = planned(), planned(rotation={"tls/ca": Wish(2)})
    rotate.check_authorities(one, "tls/ca")
    rotate.check_authorities(two, "tls/oldest-ca")
    with pytest.raises(KitError, match="the only one"):
        rotate.check_authorities(one, "tls/oldest-ca")
    with pytest.raises(KitError, match="still trusted beside"):
        rotate.check_authorities(two, "tls/ca")


def test_the_owner_is_told_what_to_import_and_how_it_ends() -> None:
    session = cast(Session, SimpleNamespace(stack="home", state=SimpleNamespace(ca_file=Path("/x y/ca.pem"))))
    assert authority.overlap(session, planned()) == []
    text = "\n".join(authority.overlap(session, planned(rotation={"tls/ca": Wish(2)})))
    assert "Import '/x y/ca.pem'" in text and "./kit rotate tls/oldest-ca home" in text


def test_the_file_to_import_has_one_certificate() -> None:
    pems = [f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n" for text in ("new", "old")]
    assert authority.newest("".join(pems)) == authority.newest(pems[0]) == pems[0]
    assert authority.newest("") == ""


# -------------------------------------------------------------------------------------- numbers that nobody waited for


def test_what_does_not_run_keeps_its_number() -> None:
    """Its server would not be told; raised twice meanwhile, the password that it knows would be gone."""
    key = SecretKey("neo4j", "password")
    wish = {"neo4j/password": Wish(4)}
    held = {str(key): (1, 2)}
    running = replace(planned("graph", rotation=wish), held=held)
    assert (running.secret(key).generation, running.secret(key).previous) == (4, 2)
    for resting in (planned(retired=("neo4j",), rotation=wish), planned("graph", down=True, rotation=wish)):
        found = replace(resting, held=held).secret(key)
        assert (found.generation, found.previous) == (2, 1)


def test_after_a_jump_the_one_before_is_the_one_that_was_there() -> None:
    assert rotation.kept(4, (1, 2)) == (4, 2, 1) and rotation.before_of(4, (1, 2)) == 2
    assert rotation.kept(3, (1,)) == (3, 1) and rotation.kept(3, (1, 3)) == (3, 1)  # the next `up` says the same
    assert rotation.kept(4, (1, 3)) == (4, 3, 1)
    assert rotation.kept(3) == (3, 2, 1)  # a new state: whoever adopts a volume with a number


def test_a_number_does_not_go_on_past_a_rotation_that_was_cut_short(tmp_path: Path) -> None:
    state = deployment(neo4j_password="01-01")
    rotating = cast(StackState, SimpleNamespace(rotating=tmp_path / "rotating"))
    generations.begin(rotating, planned("graph"), state)
    assert not rotating.rotating.exists(), "nothing is raised"
    two, three = (planned("graph", rotation={"neo4j/password": Wish(number)}) for number in (2, 3))
    generations.begin(rotating, two, state)
    assert generations.begun(rotating) == {"neo4j/password": 2}
    assert generations.overtaken(rotating, two) == ()
    (problem,) = generations.overtaken(rotating, three)
    assert "the rotation to 2 was cut short" in problem.what and "write neo4j/password=2" in problem.fix
    rotating.rotating.write_text("", encoding="utf-8")  # as ./kit rotate leaves it before its first `up`
    assert generations.begun(rotating) == {} and generations.overtaken(rotating, three) == ()


def test_plain_pulumi_loses_nothing_that_is_in_use() -> None:
    (problem,) = rotation.lost({"litellm/master-key": 3, "redis/password": 2}, {"redis/password"})
    assert "litellm/master-key is in use in its generation 3" in problem.what and "retired: [litellm]" in problem.fix
