"""The pure part of bench/footprint.py: which figure is read, what is kept of many, what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import footprint
from bench.footprint import anonymous_mb, cgroup_of, medians, merged, watch

V1 = "cache 1000\nrss 2097152\nmapped_file 7\ntotal_cache 9\ntotal_rss 3145728\n"
V2 = "anon 5242880\nfile 999\nkernel 1\n"


def test_the_anonymous_part_is_what_counts() -> None:
    assert anonymous_mb(V1) == 3
    assert anonymous_mb(V2) == 5
    with pytest.raises(ValueError, match="neither"):
        anonymous_mb("file 1\n")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("12:memory:/docker/abc\n1:name=systemd:/docker/abc\n0::/x\n", "memory/docker/abc/memory.stat"),
        ("0::/system.slice/docker-abc.scope\n", "system.slice/docker-abc.scope/memory.stat"),
        ("5:cpu,memory:/a:b\n", "memory/a:b/memory.stat"),
    ],
)
def test_where_a_process_is_accounted(text: str, path: str) -> None:
    assert cgroup_of(text, Path("/c")) == Path("/c") / path


def test_a_process_without_a_memory_cgroup() -> None:
    with pytest.raises(ValueError, match="no memory cgroup"):
        cgroup_of("3:cpu:/x\n")


def test_the_median_forgets_the_outlier() -> None:
    assert medians([{"a": 1.0}, {"a": 900.0, "b": 4.0}, {"a": 2.04}]) == {"a": 2.0, "b": 4.0}


def test_watching_takes_as_long_as_it_says() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    found = watch(lambda: {"a": now[0]}, 60, clock=lambda: now[0], sleep=sleep)
    assert len(found) == 13
    assert now[0] == 60


def test_other_figures_stay() -> None:
    before = {"target": "pi", "services": {"b": {"idle_mb": 1}, "c": {"idle_mb": 2}}}
    after = merged(before, "pi", {"a": {"idle_mb": 3}, "c": {"idle_mb": 4}})
    assert list(after["services"]) == ["a", "b", "c"]
    assert after["services"]["c"] == {"idle_mb": 4}
    assert merged({}, "pi", {}) == {"target": "pi", "services": {}}


def test_a_services_figure_is_the_sum_of_its_containers() -> None:
    watched = footprint.Watched.__new__(footprint.Watched)
    watched.service = {"kit-dev-ollama": "ollama", "kit-dev-ollama-queue": "ollama"}
    watched.version = {"kit-dev-ollama": "0.17.4", "kit-dev-ollama-queue": "3.0"}
    sizes = {"kit-dev-ollama": 8.1, "kit-dev-ollama-queue": 9.2}
    found = footprint.by_service(watched, sizes, images="airgap", minutes=5, samples=61, prefix="kit-dev-")
    entry = found["ollama"]
    assert (entry["idle_mb"], entry["version"], entry["images"], entry["samples"]) == (17.3, "0.17.4", "airgap", 61)
    assert entry["containers"] == {"ollama": 8.1, "ollama-queue": 9.2}
