"""Plans of generated catalogs: closed, minimal, ordered, the same every time; a fault is found wherever it sits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import planview
from stack.derive import runtime
from stack.model import (
    Access,
    BackupSet,
    Database,
    DatabaseUrl,
    Mount,
    Profile,
    Ref,
    Role,
    Route,
    ServiceSpec,
    SpecError,
    Volume,
    Zone,
)
from stack.plan import Plan, build
from stack.planning.resolve import start_order
from tests import factories as make
from tests.breakages import ANY, BEHIND_THE_INGRESS, Breakage

INFRASTRUCTURE = (make.base(), make.front(), make.login())


@dataclass(frozen=True)
class Generated:
    """A valid catalog, and what was drawn to make it: the test's own idea of what is needed."""

    services: tuple[ServiceSpec, ...]
    roots: frozenset[str]
    needs: dict[str, frozenset[str]]
    waits: dict[str, frozenset[str]]

    def expected(self) -> set[str]:
        """What must be chosen, by a walk over what was drawn."""
        found: set[str] = set()
        waiting = list(self.roots)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.needs.get(name, ())
        return found


@st.composite
def catalogs(draw: st.DrawFn) -> Generated:
    count = draw(st.integers(1, 7))
    services: list[ServiceSpec] = []
    needs: dict[str, frozenset[str]] = {"login": frozenset({"base", "front"})}
    waits: dict[str, frozenset[str]] = {"login": frozenset({"base"})}
    roots = {f"s{number}" for number in draw(st.sets(st.integers(0, count - 1), min_size=1))}
    for number in range(count):
        name = f"s{number}"
        earlier = [f"s{other}" for other in range(number)]
        refs = draw(st.sets(st.sampled_from(earlier))) if earlier else set[str]()
        named = draw(st.sets(st.sampled_from(earlier), max_size=2)) if earlier else set[str]()
        later = {other for other in refs if draw(st.booleans())} - named
        has_database, has_route, has_volume = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
        env = {f"REF_{other}": Ref(other, "http", start=other not in later) for other in sorted(refs)}
        needed, waited = refs | named, (refs - later) | named
        if has_database:
            needed, waited = needed | {"base"}, waited | {"base"}
        if has_route:
            needed = needed | {"front"}
        box = make.container(
            zones=frozenset({Zone.APP, Zone.DATA}),
            env={**env, **({"DB": DatabaseUrl(name)} if has_database else {})},
            mounts=(Mount("data", "/data"),) if has_volume else (),
        )
        services.append(
            make.service(
                name,
                containers=(box,),
                profiles=frozenset({Profile("chat")}) if name in roots else frozenset(),
                needs=tuple(sorted(named)),
                databases=(Database(name),) if has_database else (),
                volumes=(Volume("data", BackupSet()),) if has_volume else (),
                routes=(Route(name=name, port="http", access=Access.PUBLIC),) if has_route else (),
            )
        )
        needs[name], waits[name] = frozenset(needed), frozenset(waited)
    order = draw(st.permutations([*services, *INFRASTRUCTURE]))
    return Generated(tuple(order), frozenset(roots), needs, waits)


def planned(services: tuple[ServiceSpec, ...]) -> Plan:
    return build(make.settings(), make.host(), services)


@given(catalogs())
def test_chosen_is_what_is_needed_and_nothing_else(generated: Generated) -> None:
    resolved = planned(generated.services)
    assert {service.name for service in resolved.services} == generated.expected()


@given(catalogs())
def test_every_service_says_why(generated: Generated) -> None:
    resolved = planned(generated.services)
    for service in resolved.services:
        if service.name in generated.roots:
            assert service.why == ("profile chat",)
        else:
            assert service.why
            assert all(service.name in generated.needs[user] for user in service.why)


@given(catalogs())
def test_order_respects_what_waits(generated: Generated) -> None:
    names = [service.name for service in planned(generated.services).services]
    for service in planned(generated.services).services:
        waits = generated.waits.get(service.name, frozenset())
        assert set(service.starts_after) == waits
        assert all(names.index(other) < names.index(service.name) for other in waits)


@given(catalogs(), st.randoms(use_true_random=False))
def test_the_same_catalog_makes_the_same_plan(generated: Generated, random: object) -> None:
    shuffled = list(generated.services)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert planned(generated.services) == planned(tuple(shuffled))


@given(catalogs())
def test_a_plan_without_problems_has_a_runtime_and_both_views(generated: Generated) -> None:
    resolved = planned(generated.services)
    built = runtime.build(resolved)
    names = [step.name for step in built.steps]
    assert len(names) == len(set(names))
    assert all(names.index(other) < names.index(step.name) for step in built.steps for other in step.after)
    assert len(planview.as_json(resolved)["services"]) == len(resolved.services)
    assert planview.table(resolved)


@given(catalogs(), st.sampled_from(ANY), st.data())
def test_a_fault_is_found_once_wherever_it_sits(generated: Generated, breakage: Breakage, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(generated.expected())))
    services = tuple(breakage.change(spec) if spec.name == name else spec for spec in generated.services)
    with pytest.raises(SpecError) as caught:
        planned(services)
    assert len(caught.value.problems) == 1, str(caught.value)
    assert breakage.says in str(caught.value)


@given(catalogs(), st.sampled_from(ANY), st.data())
def test_a_fault_in_what_is_not_chosen_does_not_matter(
    generated: Generated, breakage: Breakage, data: st.DataObject
) -> None:
    outside = make.service("outside", needs=("s0",))
    assert planned((*generated.services, breakage.change(outside))) == planned(generated.services)


# Of the whole host, or of a plan that must be valid otherwise: two of them are not two problems.
NOT_IN_PAIRS = {"memory over budget", "more images than disk", "a secret that was not provided"}
PAIRABLE = [each for each in ANY if each.name not in NOT_IN_PAIRS and not each.name.startswith("a derived file")]


@given(catalogs(), st.lists(st.sampled_from(PAIRABLE), min_size=2, max_size=2, unique_by=lambda each: each.name))
def test_two_faults_are_two_problems(generated: Generated, pair: list[Breakage]) -> None:
    spare = [make.service(name, profiles=frozenset({Profile("chat")})) for name in ("x", "y")]
    broken = [each.change(spec) for each, spec in zip(pair, spare, strict=True)]
    with pytest.raises(SpecError) as caught:
        planned((*generated.services, *broken))
    assert len(caught.value.problems) == 2, str(caught.value)
    assert all(each.says in str(caught.value) for each in pair)


@given(st.sampled_from(BEHIND_THE_INGRESS))
def test_faults_behind_the_ingress(breakage: Breakage) -> None:
    for name in ("base", "login", "cache", "app"):
        services = tuple(breakage.change(spec) if spec.name == name else spec for spec in make.catalog())
        with pytest.raises(SpecError) as caught:
            planned(services)
        assert len(caught.value.problems) == 1, str(caught.value)
        assert breakage.says in str(caught.value)


@given(catalogs(), st.data())
def test_leaving_out_what_is_needed_names_who_needs_it(generated: Generated, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(generated.expected())))
    users = sorted(user for user in generated.expected() if name in generated.needs.get(user, ()))
    kept = replace(make.settings(), without=(name,))
    try:
        resolved = build(kept, make.host(), generated.services)
    except SpecError as error:
        assert users
        (problem,) = [each for each in error.problems if each.where == "without[0]"]
        assert all(
            user in problem.fix
            for user in users
            if user in generated.roots and user not in generated.needs.get(name, ())
        )
    else:
        assert name not in {service.name for service in resolved.services}


def _without_strangers(edges: dict[str, frozenset[str]]) -> dict[str, set[str]]:
    return {name: {other for other in after if other in edges and other != name} for name, after in edges.items()}


LETTERS = st.sampled_from("abcdef")
EDGES = st.dictionaries(LETTERS, st.frozensets(LETTERS, max_size=3), min_size=1).map(_without_strangers)


@given(EDGES)
def test_start_order_of_any_graph(edges: dict[str, set[str]]) -> None:
    order, cycles = start_order(edges)
    assert sorted(order) == sorted(edges)
    try:
        TopologicalSorter(edges).prepare()
    except CycleError:
        assert cycles
    else:
        assert not cycles
        assert all(order.index(other) < order.index(name) for name, after in edges.items() for other in after)
    for cycle in cycles:
        assert len(cycle) == len(set(cycle))
        assert all(after in edges[name] for name, after in zip(cycle, (*cycle[1:], cycle[0]), strict=True))


@pytest.mark.parametrize("role", [Role.INGRESS, Role.IDENTITY, Role.DATABASE])  # the others are for some settings only
def test_roles_without_a_provider_are_named(role: Role) -> None:
    services = tuple(spec for spec in make.catalog() if role not in spec.roles)
    with pytest.raises(SpecError) as caught:
        planned(services)
    assert f"role {role}: no service has it" in str(caught.value)
