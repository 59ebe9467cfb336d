"""The plan as it is shown: the table, the object, and the real stacks as they are committed."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from ops import planview
from ops.console import KitError
from stack import catalog, plan, settings, targets
from stack.derive import runtime
from stack.model import Access, ImageSource, Route, SpecError, Target
from tests import factories as make

STACKS = ("dev", "pi", "gpu")
Golden = Callable[[str, str], None]


def planned(**changes: Any) -> plan.Plan:
    return plan.build(make.settings(**changes), make.host(), make.catalog())


# ------------------------------------------------------------------------------------------------------- goldens


@pytest.mark.parametrize("stack", STACKS)
def test_the_plan_of_each_stack(root: Path, golden: Golden, stack: str) -> None:
    resolved = planview.load_plan(root, stack)
    golden(f"tests/golden/{stack}.json", json.dumps(planview.as_json(resolved), indent=2) + "\n")
    golden(f"tests/golden/{stack}.txt", planview.table(resolved, width=120))


@pytest.mark.parametrize("stack", STACKS)
def test_the_runtime_of_each_stack(root: Path, golden: Golden, stack: str) -> None:
    """Every container, job, file and variable: nothing about them changes unseen. Secrets are names here."""
    built = runtime.build(planview.load_plan(root, stack))
    golden(f"tests/golden/{stack}.runtime.json", json.dumps(plain(built), indent=2, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """Dataclasses as objects (a piece of a text under its kind's name), sets sorted, long texts as lines."""
    if dataclasses.is_dataclass(value):
        fields = {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        return {type(value).__name__: fields} if type(value).__name__.endswith(("Piece", "Key")) else fields
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return value.splitlines(keepends=True) if "\n" in value else value
    if isinstance(value, frozenset | set):
        return sorted(plain(item) for item in value)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if hasattr(value, "items"):
        return {str(name): plain(item) for name, item in value.items()}
    return value


# --------------------------------------------------------------------------------------------------------- table


def test_the_table_says_what_why_and_how_much() -> None:
    assert planview.table(planned(), width=100) == (
        "dev · amd64 · 4 GB · 4 CPUs · images from the registry, 0 of 2 locked\n"
        "\n"
        "  service  why           memory  cpu  zones     reached at\n"
        "  base     app, login    100 MB  0.5  data      -\n"
        "  cache    app           100 MB  0.5  data      -\n"
        "  app      profile chat  100 MB  0.5  app data  app.kit.localhost:8443 (login)\n"
        "  front    app, login    100 MB  0.5  edge app  127.0.0.1:8080/8443\n"
        "  login    app           100 MB  0.5  app data  auth.kit.localhost:8443 (open)\n"
        "\n"
        "  memory  █████░░░░░░░░░░░░░░░░░░░░░░░░░  500 of 3,072 MB\n"
        "    edge  █                               100 MB\n"
        "    app   ██                              200 MB\n"
        "    data  ██                              200 MB\n"
        "  disk    200 of 20,480 MB: images 100, their next versions 100\n"
    )


def test_where_nobody_looks_the_figures_are_plain() -> None:
    text = planview.table(planned(), width=100, bars=False)
    assert "█" not in text and "░" not in text
    assert "  memory  500 of 3,072 MB\n    edge  100 MB\n    app   200 MB\n    data  200 MB\n" in text


def test_bars_give_way_before_figures_do() -> None:
    for width in (20, 30, 40, 60):
        budget = planview.table(planned(), width).split("\n\n")[2].splitlines()
        assert all(len(line) <= max(width, 28) for line in budget), width
        assert "500 of 3,072 MB" in budget[0]


def test_nearly_full_does_not_look_full() -> None:
    nearly = plan.build(make.settings(), make.host(memory_mb=1525), make.catalog())
    assert "█" * 29 + "░  500 of 501 MB" in planview.table(nearly)
    full = plan.build(make.settings(), make.host(memory_mb=1524), make.catalog())
    assert "█" * 30 + "  500 of 500 MB" in planview.table(full)


def test_what_is_kept_for_monitoring_is_shown_and_not_free() -> None:
    kept = plan.build(make.settings(), make.host(observe_mb=1000), make.catalog())
    assert "1,500 of 3,072 MB" in planview.table(kept)
    assert "kept  " in planview.table(kept) and "1,000 MB for monitoring" in planview.table(kept)
    memory = planview.as_json(kept)["memory"]
    assert (memory["used_mb"], memory["kept_for_monitoring_mb"], memory["free_mb"]) == (500, 1000, 1572)
    assert memory["used_mb"] + memory["free_mb"] == memory["available_mb"]


def test_measured_figures_stand_beside_the_limits() -> None:
    known = {"app": planview.Footprint(idle_mb=41.6, version="1.2.3", date="2026-11-21", images="airgap")}
    text = planview.table(planned(), width=100, measured=known)
    assert "idle  memory  cpu" in text
    assert "42 of  100 MB" in text
    assert "idle  42 MB measured for 1 of 5 services, since 2026-11-21; with images built here" in text
    (shown,) = (item for item in planview.as_json(planned(), known)["services"] if "measured" in item)
    assert shown["measured"] == {"idle_mb": 41.6, "version": "1.2.3", "date": "2026-11-21", "images": "airgap"}


def test_footprints_are_read_or_refused(tmp_path: Path) -> None:
    assert planview.footprints(tmp_path, Target.PI) == {}
    folder = tmp_path / planview.FOOTPRINTS
    folder.mkdir(parents=True)
    good = {"idle_mb": 5.5, "version": "8.0", "date": "2026-11-21", "images": "airgap"}
    (folder / "pi.json").write_text(json.dumps({"services": {"redis": good}}))
    assert planview.footprints(tmp_path, Target.PI)["redis"].idle_mb == 5.5
    for broken in ("{", "[]", '{"services": {"redis": {"idle_mb": "much"}}}', '{"services": []}'):
        (folder / "pi.json").write_text(broken)
        with pytest.raises(KitError, match="cannot be read"):
            planview.footprints(tmp_path, Target.PI)


def test_an_emulated_plan_says_so() -> None:
    app = make.with_container(make.app(), limits=make.limits(cpus=6, cpuset="1-3"))
    tried = plan.build(make.settings(emulate=True), make.host(cpus=2, emulated=True), make.catalog(app=app))
    text = planview.table(tried)
    assert "emulated: dev on 2 CPUs. app 6 -> 2 CPUs, not on cores 1-3." in text
    assert planview.as_json(tried)["host"]["emulated"] is True
    assert planview.emulation(planned()) == ""


def test_a_named_service_says_so() -> None:
    services = (*make.catalog(), make.service("extra"))
    resolved = plan.build(make.settings(services=("extra",)), make.host(), services)
    assert "  extra    named  " in planview.table(resolved)
    (shown,) = (item for item in planview.as_json(resolved)["services"] if item["name"] == "extra")
    assert shown["why"] == "named"


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_table_fits_the_terminal(root: Path, stack: str, width: int) -> None:
    resolved = planview.load_plan(root, stack)
    lines = planview.table(resolved, width).split("\n\n")[1].splitlines()
    assert max(len(line) for line in lines) <= width
    assert all(service.name in text for service, text in zip(resolved.services, lines[1:], strict=False))


def test_a_narrow_terminal_shortens_and_loses_no_number() -> None:
    text = planview.table(planned(), width=10)
    assert "…" in text
    assert text.partition("memory  500")[0].count("100 MB") == 5


def test_airgap_images_are_said_to_be_local() -> None:
    assert "images built locally, 0 of 2 ready" in planview.table(planned(images=ImageSource.AIRGAP))
    built = {"thing": "ai-kit/thing:1", "tools": "ai-kit/tools:1"}
    shown = planview.table(planned(images=ImageSource.AIRGAP, airgap_images=built))
    assert "images built locally, 2 of 2 ready" in shown
    assert "registry" not in shown


def test_a_stack_named_otherwise_shows_its_target() -> None:
    assert planview.table(planned(stack="home")).startswith("home (dev) · ")


def test_a_stack_that_is_down_says_so() -> None:
    assert "The stack is down" in planview.table(planned(down=True))
    assert planview.as_json(planned(down=True))["down"] is True


def test_a_retired_service_is_shown_with_its_data() -> None:
    old = make.service("old", volumes=make.base().volumes)
    resolved = plan.build(make.settings(retired=("old",)), make.host(), (*make.catalog(), old))
    assert "  old      retired, data kept       -    -" in planview.table(resolved)
    (shown,) = (service for service in planview.as_json(resolved)["services"] if service["name"] == "old")
    assert (shown["retired"], shown["image"], shown["volumes"]) == (True, None, ["data"])


@pytest.mark.parametrize(
    ("access", "who"),
    [
        (Access.PUBLIC, "open"),
        (Access.APP, "login"),
        (Access.SSO, "login"),
        (Access.ADMIN, "admins"),
        (Access.MACHINE, "keys"),
    ],
)
def test_who_may_use_a_route(access: Access, who: str) -> None:
    app = make.app(routes=(Route(name="app", port="http", access=access),))
    resolved = plan.build(make.settings(), make.host(), make.catalog(app=app))
    assert f"app.kit.localhost:8443 ({who})" in planview.table(resolved)


def test_roles_are_named_where_a_route_has_some() -> None:
    app = make.app(routes=(Route(name="app", port="http", access=Access.SSO, roles=("admin", "editor")),))
    resolved = plan.build(make.settings(), make.host(), make.catalog(app=app))
    assert "app.kit.localhost:8443 (admins or editors)" in planview.table(resolved, 160)


def test_what_stays_shut_is_said() -> None:
    app = make.app(routes=(Route(name="app", port="http", access=Access.SSO),))
    resolved = plan.build(make.settings(), make.host(), make.catalog(app=app))
    assert "app.kit.localhost:8443 stays shut: it needs a login" in planview.table(resolved)
    assert "stays shut" not in planview.table(plan.build(make.settings(), make.host(), make.catalog()))


# -------------------------------------------------------------------------------------------------------- object


@pytest.mark.parametrize("stack", STACKS)
def test_the_object_has_what_programs_ask_for(root: Path, stack: str) -> None:
    shown = planview.as_json(planview.load_plan(root, stack))
    assert shown == json.loads(json.dumps(shown))
    for service in shown["services"]:
        assert {"name", "why", "image", "memory_mb", "cpus", "zones", "routes"} <= set(service)
    memory = shown["memory"]
    assert memory["used_mb"] == sum(service["memory_mb"] for service in shown["services"])
    assert memory["used_mb"] + memory["free_mb"] == memory["available_mb"]


# ------------------------------------------------------------------------------------------------ the real thing


def test_every_stack_plans_with_local_images_too(root: Path) -> None:
    names = {pin.name for pin in planview.used_images(planview.load_plan(root, "dev"))}
    built = [f"{name}=ai-kit/{name}:1" for name in sorted(names)]
    resolved = planview.load_plan(root, "dev", {"images": "airgap", "airgapImages": built})
    assert all(container.local_image for service in resolved.services for container in service.containers)


def test_problems_of_every_key_arrive_together(root: Path) -> None:
    with pytest.raises(SpecError) as caught:
        planview.load_plan(root, "dev", {"httpPort": "x", "profiles": ["chta"], "memory": 5})
    assert len(caught.value.problems) == 3


def test_a_plan_takes_under_50_ms(root: Path) -> None:
    """Settings from the files, services found, everything checked: the best of five, imports left out.

    Of processor time: other work on the machine is not what is measured.
    """
    services = catalog.discover()
    best = 1.0
    for _ in range(5):
        start = time.process_time()
        decided = settings.from_files(root, "pi", catalog.provided_keys(services))
        plan.build(decided, targets.profile(decided), services)
        best = min(best, time.process_time() - start)
    assert best < 0.05, f"{best * 1000:.0f} ms"
