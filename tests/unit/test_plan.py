"""The plan of small catalogs: what is chosen and why, in which order, and that every fault is found, once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stack import images, plan
from stack.model import (
    Access,
    Arch,
    Command,
    HealthCheck,
    ImageSource,
    Issuer,
    Ref,
    Role,
    Route,
    ServiceSpec,
    SpecError,
    Target,
    Zone,
)
from stack.plan import Plan, SecretKey, build
from tests import factories as make
from tests.breakages import ANY, BEHIND_THE_INGRESS, OF_APP, Breakage

VALID = make.catalog()


def planned(*services: ServiceSpec, **settings: object) -> Plan:
    return build(make.settings(**settings), make.host(), services or VALID)


def refusal(services: tuple[ServiceSpec, ...], **settings: object) -> SpecError:
    with pytest.raises(SpecError) as caught:
        build(make.settings(**settings), make.host(), services)
    return caught.value


# ---------------------------------------------------------------------------------------------- what is chosen


def test_a_profile_brings_what_its_services_need_and_says_why() -> None:
    resolved = planned(*VALID, make.service("unrelated"))
    assert {service.name: service.why for service in resolved.services} == {
        "base": ("app", "login"),
        "cache": ("app",),
        "front": ("app", "login"),
        "login": ("app",),
        "app": ("profile chat",),
    }


def test_order_is_by_need_then_by_name() -> None:
    assert [service.name for service in planned().services] == ["base", "cache", "app", "front", "login"]
    assert planned().service("app").starts_after == ("base", "cache")


def test_a_ref_that_may_come_later_orders_nothing() -> None:
    front = make.with_container(make.front(), env={"APP": Ref("app", "http", start=False)})
    resolved = planned(*make.catalog(front=front))
    assert resolved.service("front").starts_after == ()


def test_a_ref_to_oneself_is_no_circle() -> None:
    app = make.with_container(make.app(), env={"ME": Ref("app", "http")})
    assert planned(*make.catalog(app=app)).service("app").starts_after == ("base",)


def test_a_circle_names_its_members() -> None:
    cache = make.cache(needs=("app",))
    error = refusal(make.catalog(cache=cache))
    assert [problem.what for problem in error.problems] == ["never starts: app waits for cache waits for app"]


def test_two_circles_are_two_problems() -> None:
    changed = {name: make.catalog()[index] for index, name in enumerate(("app", "base", "cache", "front", "login"))}
    needs = {"cache": "app", "login": "front", "front": "login"}
    changed = {name: replace(spec, needs=(needs[name],)) if name in needs else spec for name, spec in changed.items()}
    assert len(refusal(make.catalog(**changed)).problems) == 2


def test_without_leaves_out_what_nobody_needs() -> None:
    extra = make.service("extra", profiles=make.app().profiles)
    assert "extra" in {service.name for service in planned(*VALID, extra).services}
    assert "extra" not in {service.name for service in planned(*VALID, extra, without=("extra",)).services}


def test_a_profile_leaves_out_what_does_not_run_on_the_target() -> None:
    extra = make.service("extra", profiles=make.app().profiles, targets=frozenset({Target.GPU}))
    assert "extra" not in {service.name for service in planned(*VALID, extra).services}


def test_needing_what_does_not_run_on_the_target_is_refused() -> None:
    error = refusal(make.catalog(cache=make.cache(targets=frozenset({Target.GPU}))))
    assert [problem.what for problem in error.problems] == ["does not run on dev, only on gpu"]


def test_two_that_could_be_the_ingress_must_be_chosen_from() -> None:
    other = replace(make.front(), name="other-front")
    assert [p.what for p in refusal((*VALID, other)).problems] == ["front and other-front can all be the ingress"]
    assert planned(*VALID, other, without=("other-front",)).provider(Role.INGRESS) is not None


def test_a_role_that_nobody_has() -> None:
    services = tuple(spec for spec in VALID if spec.name != "front")
    assert [(p.where, p.what) for p in refusal(services).problems] == [("role ingress", "no service has it")]


def test_retired_services_keep_volumes_and_secrets_and_nothing_else() -> None:
    old = replace(make.app(), name="old", profiles=frozenset(), oidc=None, databases=(), proofs=())
    old = make.with_container(old, env={})
    old = replace(old, secrets=make.cache().secrets, routes=(Route(name="old", port="http", access=Access.PUBLIC),))
    resolved = planned(*VALID, old, retired=("old",))
    assert resolved.service("old").retired
    assert resolved.service("old").containers == ()
    assert "old" in {owned.owner for owned in resolved.volumes}
    assert SecretKey("old", "password") in {secret.key for secret in resolved.secrets}
    assert "old" not in {owned.owner for owned in resolved.routes}
    assert "old" not in {service.name for service in resolved.running}


def test_while_down_nothing_runs_and_everything_is_still_planned() -> None:
    resolved = planned(down=True)
    assert resolved.running == ()
    assert len(resolved.services) == 5


def test_names_on_the_host_and_inside() -> None:
    worker = make.container(name="worker", ports=(), health=HealthCheck(test=Command(("sh",))))
    app = replace(make.app(), containers=(*make.app().containers, worker))
    containers = planned(*make.catalog(app=app), stack="prod").service("app").containers
    assert [(item.docker_name, item.host_name) for item in containers] == [
        ("kit-prod-app", "app"),
        ("kit-prod-app-worker", "app-worker"),
    ]


# ------------------------------------------------------------------------------------------------------ images


def test_images_come_from_the_registry_by_reference() -> None:
    container = planned().service("app").containers[0]
    assert (container.image, container.local_image) == ("registry.example/thing:1.2.3", False)


def test_images_built_here_are_called_by_their_own_name() -> None:
    built = {"thing": "ai-kit/thing:abc", "tools": "ai-kit/tools:abc"}
    container = planned(images=ImageSource.AIRGAP, airgap_images=built).service("app").containers[0]
    assert (container.image, container.local_image) == ("ai-kit/thing:abc", True)


def test_before_anything_was_built_the_plan_still_shows() -> None:
    container = planned(images=ImageSource.AIRGAP).service("app").containers[0]
    assert (container.image, container.local_image) == ("airgap:thing", True)


def test_each_image_that_was_not_built_is_named() -> None:
    error = refusal(VALID, images=ImageSource.AIRGAP, airgap_images={"other": "x"})
    assert [p.what for p in error.problems] == ['has no image "thing"', 'has no image "tools"']


def test_a_target_of_two_architectures_needs_images_for_both() -> None:
    pin = replace(make.IMAGE, name="one", arches=frozenset({Arch.AMD64}))
    services = make.catalog(cache=make.with_container(make.cache(), image=pin))
    assert build(make.settings(), make.host(), services)
    with pytest.raises(SpecError, match="image one is not made for arm64"):
        build(make.settings(), make.host(arches=frozenset(Arch)), services)


def test_the_tools_image_is_the_one_that_delivers_files() -> None:
    assert plan.image_reference(make.settings(), images.TOOLS)[0].endswith(f"busybox:{images.TOOLS.tag}")


# ------------------------------------------------------------------------------------------------------ memory


def test_memory_over_budget_shows_who_takes_what_and_the_cheapest_way_out() -> None:
    extra = make.service("extra", profiles=make.app().profiles)
    extra = make.with_container(extra, limits=make.limits(memory_mb=2000))
    small = make.service("small", profiles=make.app().profiles)
    small = make.with_container(small, limits=make.limits(memory_mb=900))
    error = refusal((*VALID, extra, small))
    assert str(error) == (
        "Pulumi.dev.yaml cannot be planned: 1 problem\n"
        "\n"
        "  memory: 3,400 MB wanted, 3,072 MB to give (4,096 less 1,024 for the system)\n"
        "      extra 2,000 · small 900 · app 100 · base 100 · cache 100 · front 100 · login 100\n"
        "      would fit: without: [app] (saves 500) or without: [small] (saves 900)"
        " or memoryMb: 4424 if the machine has it\n"
        "\n"
        "Nothing was changed."
    )


def test_what_others_need_is_no_way_out() -> None:
    cache = make.with_container(make.cache(), limits=make.limits(memory_mb=4000))
    (problem,) = refusal(make.catalog(cache=cache)).problems
    assert "without" not in problem.fix
    assert "memoryMb: 5424" in problem.fix


# ----------------------------------------------------------------------------------------------- every problem


@pytest.mark.parametrize("breakage", [*ANY, *BEHIND_THE_INGRESS, *OF_APP], ids=lambda breakage: breakage.name)
def test_each_fault_is_found_once(breakage: Breakage) -> None:
    services = tuple(breakage.change(spec) if spec.name == "app" else spec for spec in VALID)
    with pytest.raises(SpecError) as caught:
        build(make.settings(**breakage.settings), make.host(**breakage.host), services)
    assert len(caught.value.problems) == 1, str(caught.value)
    assert breakage.says in str(caught.value)


def test_all_faults_at_once() -> None:
    """Faults of different services do not hide one another. What needs a plan is looked at only when there is one."""
    first = [each for each in ANY if not each.name.startswith("a derived file") and "memory" not in each.name]
    services: list[ServiceSpec] = list(VALID)
    for number, breakage in enumerate(first):
        spec = replace(make.service(f"s{number}", profiles=make.app().profiles))
        services.append(breakage.change(spec))
    host = make.host(memory_mb=10**6, disk_gb=20)
    with pytest.raises(SpecError) as caught:
        build(make.settings(), host, tuple(services))
    for breakage in first:
        assert breakage.says in str(caught.value), breakage.name


def test_an_issuer_asked_from_where_the_ingress_is_not() -> None:
    app = make.app()
    zones = frozenset({Zone.DATA})
    app = make.with_container(app, zones=zones, env={"ISSUER": Issuer()})
    (problem,) = refusal(make.catalog(app=app)).problems
    assert "where the ingress does not answer for the issuer" in problem.what


# ----------------------------------------------------------------------------------------------------- the Plan


def test_secrets_declared_and_implied() -> None:
    assert {str(secret.key) for secret in planned().secrets} == {
        "app/db:app",
        "app/oidc",
        "cache/password",
        "login/bootstrap",
        "login/db:login",
    }


@pytest.mark.parametrize(
    ("port", "url"), [(443, "https://app.kit.localhost"), (8443, "https://app.kit.localhost:8443")]
)
def test_urls(port: int, url: str) -> None:
    resolved = planned(https_port=port)
    (route,) = (owned.item for owned in resolved.routes if owned.owner == "app")
    assert resolved.url(route) == url
