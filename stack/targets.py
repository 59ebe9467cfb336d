"""The kinds of machine a stack is planned for, and what a stack's settings change about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stack.model import Arch, HostProfile, Problem, SpecError, Target
from stack.settings import Settings, stack_file

TARGETS: Mapping[Target, HostProfile] = {
    # The laptop in front of somebody: only the part of it that they would miss least.
    Target.DEV: HostProfile(
        target=Target.DEV,
        arches=frozenset({Arch.AMD64, Arch.ARM64}),
        docker_host=None,
        memory_mb=8192,
        reserve_mb=1024,
        cpus=2,
        disk_gb=40,
        gpu=False,
        page_size=4096,
    ),
    # Raspberry Pi 5, 8 GB, NVMe. Its stock kernel has 16 KiB pages.
    Target.PI: HostProfile(
        target=Target.PI,
        arches=frozenset({Arch.ARM64}),
        docker_host=None,
        memory_mb=8192,
        reserve_mb=1024,
        cpus=4,
        disk_gb=200,
        gpu=False,
        page_size=16384,
        observe_mb=1536,  # what monitoring must do with there
    ),
    # A box with an NVIDIA card. Ollama alone may take 6 CPUs and 32 GB.
    Target.GPU: HostProfile(
        target=Target.GPU,
        arches=frozenset({Arch.AMD64}),
        docker_host=None,
        memory_mb=65536,
        reserve_mb=4096,
        cpus=16,
        disk_gb=500,
        gpu=True,
        page_size=4096,
    ),
}


def profile(settings: Settings) -> HostProfile:
    """The host of a stack: its target's profile with what the settings override. SpecError when that cannot be."""
    base = TARGETS[settings.target]
    host = replace(
        base,
        docker_host=settings.docker_host,
        memory_mb=settings.memory_mb or base.memory_mb,
        reserve_mb=base.reserve_mb if settings.reserve_mb is None else settings.reserve_mb,
        cpus=settings.cpus or base.cpus,
        disk_gb=settings.disk_gb or base.disk_gb,
        page_size=settings.page_size or base.page_size,
        observe_mb=settings.monitoring_mb or base.observe_mb,
        emulated=settings.emulate,
        # On whatever machine it is tried.
        arches=frozenset(Arch) if settings.emulate else base.arches,
    )
    if host.reserve_mb >= host.memory_mb:
        problem = Problem(
            where="reserveMb" if settings.reserve_mb is not None else "memoryMb",
            what=f"{host.reserve_mb:,} MB kept for the system of {host.memory_mb:,} MB in all",
            fix="leaves nothing to the services. memoryMb is what the machine has, reserveMb a part of it",
        )
        raise SpecError(f"{stack_file(settings.stack)} cannot be planned", (problem,))
    return host
