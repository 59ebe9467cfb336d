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
from stack import catalog, plan, settings, targets
from stack.derive import runtime
from stack.model import Access, ImageSource, Route, SpecError
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
    )


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_table_fits_the_terminal(root: Path, stack: str, width: int) -> None:
    resolved = planview.load_plan(root, stack)
    lines = planview.table(resolved, width).splitlines()[2:-2]
    assert max(len(line) for line in lines) <= width
    assert all(service.name in text for service, text in zip(resolved.services, lines[1:], strict=False))


def test_a_narrow_terminal_shortens_and_loses_no_number() -> None:
    text = planview.table(planned(), width=10)
    assert "…" in text
    assert text.count("100 MB") == 5


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
    """Settings from the files, services found, everything checked: the best of five, imports left out."""
    services = catalog.discover()
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        decided = settings.from_files(root, "pi", catalog.provided_keys(services))
        plan.build(decided, targets.profile(decided), services)
        best = min(best, time.perf_counter() - start)
    assert best < 0.05, f"{best * 1000:.0f} ms"
