"""Containers of which several run: counted from the settings, each whole, neighbours by number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stack.derive import runtime
from stack.model import Http, Port, Ref, ServiceSpec, SpecError, Template, Zone
from stack.plan import Plan, build
from stack.planning.replicas import expanded
from tests import factories as make


def crowd(count: int) -> ServiceSpec:
    """Workers that have a helper each, behind one main container."""
    worker = make.container(
        name="worker",
        ports=(Port("work", 8081),),
        health=replace(make.container().health, test=Http("work", "/")),
        after=("main",),
        replicas=lambda _: count,
    )
    helper = make.container(
        name="helper",
        ports=(Port("help", 8082),),
        health=replace(make.container().health, test=Http("help", "/")),
        env={
            "WORKER": Ref("app", "work"),
            "BOTH": Template(("x", Ref("app", "work"), Ref("app", "http"))),
        },
        replicas=lambda _: count,
    )
    plain = make.app()
    return replace(plain, containers=(*plain.containers, worker, helper))


def planned(count: int) -> Plan:
    return build(make.settings(), make.host(), make.catalog(app=crowd(count)))


def test_each_has_a_name_a_port_and_a_place() -> None:
    plan = planned(3)
    app = plan.service("app")
    assert [c.host_name for c in app.containers] == [
        "app",
        *(f"app-worker-{number}" for number in (1, 2, 3)),
        *(f"app-helper-{number}" for number in (1, 2, 3)),
    ]
    assert [p.name for c in app.containers[1:4] for p in c.spec.ports] == ["work-1", "work-2", "work-3"]
    assert len({c.docker_name for c in app.containers}) == 7


def test_neighbours_find_each_other_by_number() -> None:
    steps = {step.name: step for step in runtime.build(planned(2)).containers}
    for number in (1, 2):
        helper = steps[f"kit-dev-app-helper-{number}"]
        assert helper.env["WORKER"] == f"http://app-worker-{number}:8081"
        assert helper.env["BOTH"] == f"xhttp://app-worker-{number}:8081http://app:8080"
        assert f"kit-dev-app-worker-{number}" in helper.after
        assert f"kit-dev-app-worker-{3 - number}" not in helper.after


def test_elders_come_first() -> None:
    steps = {step.name: step for step in runtime.build(planned(2)).containers}
    for number in (1, 2):
        assert "kit-dev-app" in steps[f"kit-dev-app-worker-{number}"].after


def test_all_of_them_count() -> None:
    assert planned(4).service("app").memory_mb - planned(1).service("app").memory_mb == 3 * 2 * 100
    with pytest.raises(SpecError, match="app 2,900"):
        planned(14)


def test_counting_twice_changes_nothing() -> None:
    once = expanded(crowd(2), make.settings())
    assert expanded(once, make.settings()) is once


def test_who_has_no_number_names_one() -> None:
    """A Ref from elsewhere says which: there is no port of the plain name."""
    asking = make.cache(containers=(make.container(zones=frozenset({Zone.APP}), env={"W": Ref("app", "work")}),))
    asking = replace(asking, secrets=make.cache().secrets)
    with pytest.raises(SpecError, match="app has no port") as error:
        build(make.settings(), make.host(), make.catalog(app=crowd(2), cache=asking))
    assert "work-1, work-2" in str(error.value)
