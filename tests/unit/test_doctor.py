"""Decisions about a machine: each bad input is found, alone, with a fix; a good machine has nothing to mend."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ops.doctor import (
    Check,
    EngineFacts,
    Facts,
    GpuFacts,
    Level,
    Passphrase,
    PortUse,
    examine,
    graphics_card,
    held_by,
    missing_images,
    problems,
    render,
)
from ops.facts import gpu_facts, wanted_ports
from ops.imagelock import Gone
from ops.planview import load_plan
from ops.subnets import Subnets
from stack.derive import runtime
from stack.images import REDIS
from stack.plan import Plan

ROOT = Path(__file__).resolve().parents[2]


@cache
def plan_of(stack: str) -> Plan:
    return load_plan(ROOT, stack)


ENGINE = EngineFacts(
    version="29.1.0",
    api=(1, 52),
    memory_limit=True,
    memory_mb=16384,
    cpus=8,
    arch="amd64",
    runtimes=frozenset({"runc"}),
    system="Debian GNU/Linux 13",
    root="/var/lib/docker",
    skew_s=0.4,
    subnets=Subnets(total=31, free=30, networks=frozenset({"bridge"})),
)
GOOD = Facts(
    engine=ENGINE,
    year=2026,
    engine_free_mb=100_000,
    state_free_mb=100_000,
    state_directory="/home/me/.local/state/ai-kit",
    ports=(PortUse(address="127.0.0.1", port=8443),),
    toolchain={"pulumi": "3.272.0"},
)


def findings(facts: Facts, level: Level, stack: str = "dev") -> list[Check]:
    return [check for check in examine(facts, plan_of(stack), stack) if check.level is level]


def test_a_good_machine_has_nothing_to_mend() -> None:
    assert [check for check in examine(GOOD, plan_of("dev"), "dev") if check.level is not Level.OK] == []


def engine(**changes: Any) -> dict[str, Any]:
    return {"engine": replace(ENGINE, **changes)}


FAILURES = {
    "no docker": (
        {"engine": None, "trouble": ("is not installed", "apt-get install it")},
        "docker",
        "is not installed",
        "apt-get install it",
    ),
    "engine too old": (engine(api=(1, 40)), "docker", "API 1.40", "upgrade"),
    "no memory cgroup": (engine(memory_limit=False), "memory cgroup", "is off", "cgroup_enable=memory"),
    "too little memory": (engine(memory_mb=4096), "memory", "MB wanted", "ai-kit:without"),
    "no address range left": (
        engine(subnets=Subnets(total=31, free=1)), "networks", "1 of 31 address ranges are free, the stack", "prune"
    ),
    "too few CPUs": (engine(cpus=1), "cpus", "the machine has 1", "ai-kit:cpus: 1"),
    "wrong architecture": (engine(arch="riscv64"), "architecture", "riscv64", "target"),
    "clocks apart": (engine(skew_s=-120.0), "clock", "120 s behind", "set-ntp"),
    "clock two hours behind": ({"outside_s": 7200.0}, "clock", "7200 s behind", "set-ntp"),
    "clock two hours ahead": ({"outside_s": -7200.0}, "clock", "7200 s ahead of", "set-ntp"),
    "clock never set": ({"year": 1970}, "clock", "1970", "set-ntp"),
    "disk full": ({"engine_free_mb": 900}, "disk", "900 MB free at /var/lib/docker", "docker image prune"),
    "state's disk full": ({"state_free_mb": 10}, "disk", "10 MB free at /home/me", "free at least"),
    "port taken": (
        {"ports": (PortUse(address="127.0.0.1", port=8443, holder="nginx (pid 812)"),)},
        "port 8443", "nginx (pid 812)", "pulumi config set httpsPort",
    ),
    "port of another stack": (
        {"ports": (PortUse(address="127.0.0.1", port=8080, stack="pi", holder="container kit-pi-haproxy"),)},
        "port 8080", "stack pi", "pulumi config set httpPort",
    ),
    "no such address": (
        {"ports": (PortUse(address="192.0.2.1", port=8080, address_missing=True),)},
        "bindAddress", "192.0.2.1", "ip -brief address",
    ),
    "wrong passphrase": (
        {"passphrase": Passphrase.UNFIT, "passphrase_problem": ("is wrong", "put it back")},
        "passphrase", "is wrong", "put it back",
    ),
    "locked": ({"lock_problem": ("is in use by a@b", "rm x")}, "state", "in use by a@b", "rm x"),
    "another's stack": ({"foreign": "kit-dev-web runs here"}, "state", "kit-dev-web runs here", "PULUMI_BACKEND_URL"),
    "data gone": ({"lost_volumes": ("kit-dev-pg",)}, "volume kit-dev-pg", "gone from this host", "down dev --data"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "name", "what", "fix"), FAILURES.values(), ids=FAILURES.keys())
def test_each_fault_is_found_alone_and_has_a_fix(changes: dict[str, Any], name: str, what: str, fix: str) -> None:
    failed = findings(replace(GOOD, **changes), Level.FAIL)
    assert {check.name for check in failed} == {name}
    assert what in failed[0].what
    assert fix in failed[0].fix


def test_networks_that_are_there_need_no_range_and_the_last_ranges_are_pointed_out() -> None:
    names = frozenset(network.name for network in runtime.build(plan_of("dev")).networks)
    there = Subnets(total=31, free=0, networks=names)
    (warned,) = findings(replace(GOOD, **engine(subnets=there)), Level.WARN)
    assert (warned.name, warned.what) == ("networks", "0 of 31 address ranges are free")
    assert "default-address-pools" in warned.fix
    some = replace(there, free=2, networks=names - {min(names)})
    (warned,) = findings(replace(GOOD, **engine(subnets=some)), Level.WARN)
    assert warned.what == "2 of 31 address ranges are free, and the stack takes 1"
    assert findings(replace(GOOD, **engine(subnets=replace(there, free=2))), Level.WARN) == []
    assert findings(replace(GOOD, **engine(subnets=None)), Level.WARN) == []


def test_all_faults_are_reported_together() -> None:
    facts = replace(GOOD, **engine(memory_limit=False, memory_mb=2048), year=1970, engine_free_mb=10)
    assert {problem.where for problem in problems(examine(facts, plan_of("dev"), "dev"))} == {
        "memory cgroup", "memory", "clock", "disk",
    }  # fmt: skip


WARNINGS = {
    "16 KiB pages": ({"arch": "arm64", "page_size": 16384}, "page size", "16 KiB"),
    "registry silent": ({"registries_silent": ("docker.io",)}, "images", "docker.io did not answer"),
    "stale lock": ({"stale_locks": 1}, "state", "ended without giving it back"),
    "clock behind the last deployment": ({"written_s": 7200.0}, "clock", "7200 s behind the time of the last"),
    "no toolchain": ({"toolchain": {}, "toolchain_missing": ("Pulumi",)}, "toolchain", "Pulumi"),
}


@pytest.mark.parametrize(("changes", "name", "what"), WARNINGS.values(), ids=WARNINGS.keys())
def test_what_only_deserves_a_warning(changes: dict[str, Any], name: str, what: str) -> None:
    facts = replace(GOOD, **changes)
    assert not findings(facts, Level.FAIL)
    (warning,) = findings(facts, Level.WARN)
    assert (warning.name, what in warning.what, bool(warning.fix)) == (name, True, True)


def test_names_that_do_not_resolve_are_a_warning() -> None:
    facts = replace(GOOD, **engine(arch="arm64"), unresolved=("chat.pi.home.arpa",))
    (warning,) = findings(facts, Level.WARN, "pi")
    assert warning.name == "names"
    assert "chat.pi.home.arpa" in warning.what


@pytest.mark.parametrize(("runtimes", "fails"), [({"runc"}, True), ({"runc", "nvidia"}, False), ({"cdi"}, False)])
def test_a_gpu_stack_needs_the_runtime(runtimes: set[str], fails: bool) -> None:
    facts = replace(GOOD, **engine(memory_mb=65536, cpus=16, runtimes=frozenset(runtimes)), engine_free_mb=500_000)
    facts = replace(facts, gpu=CARD)
    assert [check.name for check in findings(facts, Level.FAIL, "gpu")] == (["gpu"] if fails else [])


CARD = GpuFacts(card=True, driver="570.86.15", smi=True, toolkit=True)
# What the machine says, the engine's runtimes -> what is wrong (nothing: ""), and the fix.
GRAPHICS = {
    "all there": (CARD, {"runc", "nvidia"}, Level.OK, "driver 570.86.15, runtime nvidia", ""),
    "all there, by devices": (CARD, {"cdi"}, Level.OK, "runtime cdi", ""),
    "no card": (GpuFacts(card=False), {"runc"}, Level.FAIL, "no NVIDIA card", "pass it through"),
    "no card, though the rest is there": (
        GpuFacts(card=False, smi=True, toolkit=True), {"nvidia"}, Level.FAIL, "no NVIDIA card", "pass it through",
    ),
    "no driver": (GpuFacts(card=True), {"runc"}, Level.FAIL, "no NVIDIA driver", "ubuntu-drivers"),
    "no driver, toolkit there": (
        GpuFacts(card=True, toolkit=True), {"nvidia"}, Level.FAIL, "no NVIDIA driver", "nvidia-driver",
    ),
    "the bus cannot be seen": (GpuFacts(card=None), {"runc"}, Level.FAIL, "no NVIDIA driver", "nvidia-driver"),
    "driver not loaded": (
        GpuFacts(card=True, smi=True, toolkit=True), {"nvidia"}, Level.FAIL, "installed and not loaded", "dkms",
    ),
    "no toolkit": (
        replace(CARD, toolkit=False), {"runc"}, Level.FAIL, "nothing that hands the card to containers",
        "nvidia-container-toolkit",
    ),
    "wrong runtime": (CARD, {"runc"}, Level.FAIL, "does not know its runtime", "nvidia-ctk runtime configure"),
    "another vendor's runtime": (CARD, {"runc", "amd"}, Level.FAIL, "does not know its runtime", "restart docker"),
    "runtime without toolkit": (
        replace(CARD, toolkit=False), {"nvidia"}, Level.WARN, "nvidia-ctk is not there", "again",
    ),
    "a card on an unseen bus works": (replace(CARD, card=None), {"nvidia"}, Level.OK, "driver 570.86.15", ""),
    "another machine, fit": (None, {"nvidia"}, Level.OK, "NVIDIA runtime", ""),
    "another machine, unfit": (None, {"runc"}, Level.FAIL, "no NVIDIA runtime", "on that machine"),
}  # fmt: skip


@pytest.mark.parametrize(("gpu", "runtimes", "level", "what", "fix"), GRAPHICS.values(), ids=GRAPHICS.keys())
def test_which_link_to_the_card_is_missing(
    gpu: GpuFacts | None, runtimes: set[str], level: Level, what: str, fix: str
) -> None:
    found = graphics_card(gpu, replace(ENGINE, runtimes=frozenset(runtimes)))
    assert (found.name, found.level) == ("gpu", level)
    assert what in found.what
    assert fix in found.fix
    assert bool(found.fix) == (level is not Level.OK)


def machine(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
        (top / name).chmod(0o755)
    return top


NVRM = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 2025\nGCC version: 12\n"
MACHINES = {
    "nothing": ({}, GpuFacts()),
    "another vendor's card": ({"sys/bus/pci/devices/0000:00/vendor": "0x8086\n"}, GpuFacts(card=False)),
    "a card alone": (
        {"sys/bus/pci/devices/a/vendor": "0x8086\n", "sys/bus/pci/devices/b/vendor": "0x10de\n"}, GpuFacts(card=True),
    ),
    "everything": (
        {"sys/bus/pci/devices/b/vendor": "0x10de\n", "proc/driver/nvidia/version": NVRM, "usr/bin/nvidia-smi": "",
         "usr/bin/nvidia-ctk": ""},
        CARD,
    ),
    "the open module": (
        {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.1  Release\n"},
        GpuFacts(driver="575.1"),
    ),
    "a version nobody can read": ({"proc/driver/nvidia/version": "something\n"}, GpuFacts(driver="something")),
}  # fmt: skip


@pytest.mark.parametrize(("files", "found"), MACHINES.values(), ids=MACHINES.keys())
def test_what_a_machine_says_about_its_card(tmp_path: Path, files: dict[str, str], found: GpuFacts) -> None:
    assert gpu_facts(machine(tmp_path, files)) == found


def test_a_lock_that_can_be_had_nowhere_stops_up() -> None:
    gone = Gone(tagged=REDIS.tagged, digest="sha256:" + "ab" * 32, registry="docker.io")
    (failed,) = findings(replace(GOOD, locks_gone=(gone,)), Level.FAIL)
    assert failed.name == f"image {REDIS.tagged}"
    assert "docker.io no longer has sha256:abababababab" in failed.what
    assert "./kit images lock" in failed.fix


def test_a_lock_for_another_machine_stops_up() -> None:
    locked = [f"{REDIS.tagged}=sha256:{'ab' * 32},arm64"]
    plan = load_plan(ROOT, "dev", {"imageLocks": locked})
    failed = [check for check in examine(GOOD, plan, "dev") if check.level is Level.FAIL]
    assert [check.name for check in failed] == [f"image {REDIS.tagged}"]
    assert "made for arm64 only" in failed[0].what


def test_an_image_that_cannot_run_with_the_kernels_pages_stops_up() -> None:
    plan = plan_of("dev")
    first = plan.services[0].spec
    pin = replace(first.containers[0].image, name="jemalloc", page_sizes=frozenset({4096}))
    changed = replace(first, containers=(replace(first.containers[0], image=pin), *first.containers[1:]))
    unfit = replace(plan, services=(replace(plan.services[0], spec=changed), *plan.services[1:]))
    facts = replace(GOOD, page_size=16384)
    (failed,) = (check for check in examine(facts, unfit, "dev") if check.level is Level.FAIL)
    assert failed.what == "the kernel uses 16 KiB pages, and jemalloc cannot run with them"
    assert "kernel8.img" in failed.fix
    assert not [check for check in examine(replace(facts, remote=True), unfit, "dev") if check.level is Level.FAIL]


def test_our_own_port_is_no_fault() -> None:
    facts = replace(GOOD, ports=(PortUse(address="127.0.0.1", port=8443, stack="dev", holder="container kit-dev-x"),))
    assert not findings(facts, Level.FAIL)


def test_without_a_plan_the_machine_is_still_checked() -> None:
    facts = replace(GOOD, **engine(memory_limit=False), year=1970)
    assert {problem.where for problem in problems(examine(facts, None, "dev"))} == {"memory cgroup", "clock"}


def test_images_that_are_there_need_no_disk() -> None:
    plan = plan_of("dev")
    wanted = missing_images(GOOD, plan)
    assert sum(wanted.values()) > 5000
    there = replace(GOOD, **engine(images=frozenset(wanted)), engine_free_mb=1500)
    assert missing_images(there, plan) == {}
    assert not findings(there, Level.FAIL)


@pytest.mark.parametrize(
    ("held", "reference", "there"),
    [
        ("redis:8.2.9", "docker.io/library/redis:8.2.9", True),
        ("ollama/ollama:0.1", "docker.io/ollama/ollama:0.1", True),
        ("quay.io/k/k:1", "quay.io/k/k:1", True),
        ("redis@sha256:aa", "docker.io/library/redis:8.2.9@sha256:aa", True),
        ("redis:8.2.9", "docker.io/library/redis:8.2.9@sha256:aa", False),
        ("redis:8.2.8", "docker.io/library/redis:8.2.9", False),
    ],
)
def test_an_image_is_known_by_its_short_name_or_digest(held: str, reference: str, there: bool) -> None:
    assert held_by(frozenset({held}), reference) is there


def test_ports_come_from_the_plan() -> None:
    assert wanted_ports(plan_of("dev")) == [("127.0.0.1", 8080), ("127.0.0.1", 8443), ("127.0.0.1", 8444)]
    assert ("0.0.0.0", 8443) in wanted_ports(plan_of("pi"))
    assert ("127.0.0.1", 8444) in wanted_ports(plan_of("pi"))


def test_the_report_shows_the_fix_below_its_fault() -> None:
    lines = render([Check(name="clock", level=Level.FAIL, what="is off", fix="set it")])
    assert [line.strip() for line in lines] == ["✗ clock  is off", "set it"]
