"""The image pins: exact, in one place, found by the update bot."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from stack import catalog, images
from stack.derive import probe
from stack.model import EVERY_PAGE_SIZE, HealthCheck, Http, ImagePin, Port, Tcp
from stack.planning.resolve import holders
from stack.planning.service_checks import HTTP_PROBES, TCP_PROBES
from tests import factories as make

PINS = {name: value for name, value in vars(images).items() if isinstance(value, ImagePin)}
SOURCE = Path(images.__file__).read_text(encoding="utf-8")
# Others are made from one of these: the same pin under a name of its own.
WRITTEN = re.findall(r"^([A-Z][A-Z0-9_]*) = ImagePin\(", SOURCE, re.MULTILINE)


def test_pins_are_sorted_and_each_is_written_once() -> None:
    assert sorted(WRITTEN) == WRITTEN
    assert len({pin.name for pin in PINS.values()}) == len(PINS)
    assert {pin.reference for pin in PINS.values()} == {PINS[constant].reference for constant in WRITTEN}


@pytest.mark.parametrize("constant", WRITTEN)
def test_each_pin_is_exact_and_marked(constant: str) -> None:
    pin = PINS[constant]
    assert re.search(r"\d", pin.tag)
    assert "latest" not in pin.tag
    assert pin.arches
    assert pin.programs
    assert pin.size_mb > 0
    assert date(2026, 1, 1) <= date.fromisoformat(pin.pinned), 'pinned="YYYY-MM-DD": the day its tag was chosen'
    assert pin.page_sizes <= EVERY_PAGE_SIZE and 4096 in pin.page_sizes
    marker = re.search(
        rf"^# renovate: datasource=docker depName=(\S+).*\n{constant} = ImagePin\(", SOURCE, re.MULTILINE
    )
    assert marker, f"{constant} has no update marker on the line above"
    assert pin.repository.removeprefix("docker.io/").removeprefix("library/") == marker[1]


def test_the_update_bot_finds_every_pin(root: Path) -> None:
    """With the expression that its configuration has, in Python's spelling of named groups."""
    (manager,) = json.loads((root / "renovate.json").read_text(encoding="utf-8"))["customManagers"]
    (pattern,) = manager["managerFilePatterns"]
    assert re.search(pattern.strip("/"), "stack/images.py")
    (expression,) = manager["matchStrings"]
    found = {hit["depName"]: hit["currentValue"] for hit in re.finditer(expression.replace("(?<", "(?P<"), SOURCE)}
    wanted = {PINS[constant] for constant in WRITTEN}
    assert found == {pin.repository.removeprefix("docker.io/").removeprefix("library/"): pin.tag for pin in wanted}


IMAGE_WITHOUT_VERSION = re.compile(r"[\w./-]+/[\w-]+:latest\b|^FROM\s+(?!\$|\.|scratch\b)[\w./-]+\s*$", re.MULTILINE)


def test_nothing_anywhere_is_the_latest(root: Path) -> None:
    """Not in a pin, a recipe, a Dockerfile or a stack file: what runs is what was reviewed."""
    patterns = ("stack/**/*.py", "components/**/*.py", "airgap/**/*", "Pulumi*.yaml", ".ci/*", "*.yml")
    files = [path for pattern in patterns for path in root.glob(pattern) if path.is_file() and path.suffix != ".pyc"]
    assert len(files) > 50
    found = {
        f"{path.relative_to(root)}: {hit[0]}"
        for path in files
        for hit in IMAGE_WITHOUT_VERSION.finditer(path.read_text(encoding="utf-8", errors="replace"))
    }
    assert not found


@pytest.mark.parametrize("tag", ["", "latest"])
def test_a_pin_without_a_version_cannot_be_written(tag: str) -> None:
    with pytest.raises(ValueError, match="a pin needs a tag"):
        replace(images.REDIS, tag=tag)


def test_a_locked_digest_is_part_of_the_reference() -> None:
    locked = replace(images.REDIS, digest="sha256:abc")
    assert locked.reference == f"{images.REDIS.repository}:{images.REDIS.tag}@sha256:abc"


def test_every_pin_is_used_and_every_image_is_a_pin() -> None:
    used = {holder.image.name for spec in catalog.discover() for holder in holders(spec)} | {images.TOOLS.name}
    assert used == {pin.name for pin in PINS.values()}


@pytest.mark.parametrize("program", HTTP_PROBES)
def test_plan_and_probe_agree_on_http(program: str) -> None:
    pin = replace(make.IMAGE, programs=frozenset({program}))
    assert probe.argv(HealthCheck(test=Http("http", "/")), (Port("http", 80),), pin)


@pytest.mark.parametrize("program", TCP_PROBES)
def test_plan_and_probe_agree_on_tcp(program: str) -> None:
    pin = replace(make.IMAGE, programs=frozenset({program}))
    assert probe.argv(HealthCheck(test=Tcp("http")), (Port("http", 80),), pin)
