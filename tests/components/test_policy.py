"""Everything that is registered keeps to stack/policy.py, on every target, or has a reason that is written down.

What it proves is about the inputs as the SDK sends them. What the engine makes of them: tests/live/test_hardening.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pulumi
import pytest

from components import capabilities
from ops import exceptionref
from stack import catalog, deploy, policy, rotation, targets
from stack import plan as planning
from stack.model import ImageSource, ServiceSpec, Target
from stack.plan import Plan
from stack.policy import Container
from stack.settings import Settings
from tests.components.recording import Recording, record

SERVICES = catalog.discover()
EXEMPTIONS = policy.exemptions(SERVICES)
PROFILES = tuple(catalog.profiles(SERVICES))


@pytest.fixture(autouse=True)
def _official_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(capabilities.VARIABLE, raising=False)
    monkeypatch.setenv(rotation.CHECKED, "1")


def plan(
    target: Target, profiles: tuple[str, ...] = PROFILES, services: tuple[ServiceSpec, ...] = SERVICES, **changes: Any
) -> Plan:
    """Of any size: the machine has what it takes."""
    card = {"gpu_memory_mb": 2**16} if target is Target.GPU else {}
    settings = Settings(
        stack="x",
        target=target,
        profiles=profiles,
        provided_secrets=catalog.provided_keys(services),
        **{"memory_mb": 2**20, "disk_gb": 2**12, "cpus": 256, "page_size": 4096, **card, **changes},
    )
    return planning.build(settings, replace(targets.profile(settings), observe_mb=0), services)


def registered(of: Plan) -> Recording:
    pulumi.runtime.set_all_config({f"project:{key}": "x" * 24 for key in of.settings.provided_secrets})
    try:
        recording = record(lambda: deploy.deploy(of))
    finally:
        pulumi.runtime.set_all_config({})
    assert not recording.error
    return recording


def judged(of: Plan, known: tuple[policy.Exemption, ...] = EXEMPTIONS) -> set[policy.Used]:
    """The exceptions that a plan needs, once nothing of it breaks a rule without a reason."""
    recording = registered(of)
    used: set[policy.Used] = set()
    breaches: list[policy.Breach] = []
    containers = recording.all(policy.CONTAINER)
    assert containers, "nothing was looked at"
    for each in containers:
        box = Container(each.inputs)
        assert box.kind in ("service", "job", "files", "reload"), f"{each.name} is of no kind that the rules know"
        broken, excused = policy.judge(box, known)
        breaches += broken
        used |= set(excused)
    for each in recording.all(policy.NETWORK):
        breaches += policy.network(each.inputs)
    assert breaches == []
    return used


def options() -> list[Plan]:
    """A plan for each option of a choice that brings an exception of its own: of that service and what it needs."""
    found: list[Plan] = []
    for spec in SERVICES:
        plainly = set(policy.exemptions([replace(spec, choices=())]))
        for option in (option for choice in spec.choices for option in choice.options.values()):
            chosen = replace(option(spec), choices=())
            if set(policy.exemptions([chosen])) - plainly:
                services = tuple(chosen if each.name == spec.name else each for each in SERVICES)
                profiles = tuple(profile.name for profile in spec.profiles) or ("chat",)
                found.append(plan(Target.DEV, profiles, services))
    return found


def test_every_target_keeps_to_the_rules_and_no_exception_is_for_nothing() -> None:
    """Each target, each option that brings an exception, a stack on every address: no breach without a reason.

    And no reason without a need: one that nothing of all this needs is to be taken out.
    """
    used: set[policy.Used] = set()
    for target in Target:
        used |= judged(plan(target))
    for each in options():
        used |= judged(each, policy.exemptions([service.spec for service in each.services]))
    used |= judged(plan(Target.DEV, ("chat",), bind_address="0.0.0.0"))
    needed = {(item.rule, item.who, item.reason) for item in used}
    # The others are looked at while planning, which refuses one that excuses nothing.
    wanted = {(item.rule, item.container, item.reason) for item in EXEMPTIONS if item.rule not in policy.PLANNED}
    wanted |= {(item.rule, item.who, item.reason) for item in policy.GENERAL}
    assert wanted - needed == set()
    assert all(item.reason.strip() for item in EXEMPTIONS)


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("profile", PROFILES)
def test_no_profile_makes_a_container_that_all_together_do_not(target: Target, profile: str) -> None:
    """Which is why looking at all of them at once is enough: what decides about a container is the same in both."""
    every = {container.docker_name: container.spec for each in plan(target).running for container in each.containers}
    for each in plan(target, (profile,)).running:
        for container in each.containers:
            both = every[container.docker_name], container.spec
            shape = [(s.user, s.writable, s.capabilities, len(s.publish), s.tmpfs, s.zones) for s in both]
            assert shape[0] == shape[1], container.docker_name


def test_the_page_of_exceptions_is_current(golden: Callable[[str, str], None]) -> None:
    golden("docs/reference/exceptions.md", exceptionref.render(SERVICES))


# ------------------------------------------------------------------------------------------------ breaking one thing

GOOD: Mapping[str, Any] = {
    "name": "kit-x-thing",
    "image": "registry.example/thing:1.2",
    "user": "1000:1000",
    "labels": [
        {"label": "aikit.stack", "value": "x"},
        {"label": "aikit.service", "value": "thing"},
        {"label": "aikit.kind", "value": "service"},
        {"label": "aikit.pids", "value": "64"},
    ],
    "readOnly": True,
    "capabilities": {"drops": ["ALL"]},
    "securityOpts": ["no-new-privileges:true"],
    "memory": 64,
    "memorySwap": 64,
    "cpus": "1.0",
    "cpuShares": 1024,
    "healthcheck": {"tests": ["CMD", "true"]},
    "logDriver": "json-file",
    "logOpts": {"max-size": "10m", "max-file": "3"},
    "networkMode": "bridge",
    "networksAdvanced": [{"name": "kit-x-app"}],
    "mounts": [{"type": "volume", "source": "kit-x-thing-data", "target": "/data"}],
    "tmpfs": {"/tmp": "size=16m,mode=1777"},
}


def breaks(**changes: Any) -> list[str]:
    kept = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    breaches, _ = policy.judge(Container(kept), EXEMPTIONS)
    return [breach.rule for breach in breaches]


def labelled(**changes: str) -> list[dict[str, Any]]:
    return [
        {"label": pair["label"], "value": changes.get(pair["label"].partition(".")[2], pair["value"])}
        for pair in GOOD["labels"]
    ]


def test_what_keeps_to_all_of_them_breaks_none() -> None:
    assert breaks() == []


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("read-only-root", {"readOnly": False}),
        ("read-only-root", {"readOnly": None}),
        ("drop-all", {"capabilities": None}),
        ("drop-all", {"capabilities": {"drops": ["CAP_NET_RAW"]}}),
        ("add-none", {"capabilities": {"drops": ["ALL"], "adds": ["CAP_NET_ADMIN"]}}),
        ("no-new-privileges", {"securityOpts": []}),
        ("no-new-privileges", {"securityOpts": ["no-new-privileges:true", "seccomp=unconfined"]}),
        ("non-root", {"user": "0:0"}),
        ("non-root", {"user": "00:1"}),
        ("non-root", {"user": "root"}),
        ("non-root", {"user": None}),
        ("pids", {"labels": labelled(pids="0")}),
        ("pids", {"labels": labelled(pids="1000000")}),
        ("memory", {"memory": None}),
        ("memory", {"memorySwap": -1}),
        ("cpu", {"cpuShares": None}),
        ("health", {"healthcheck": None}),
        ("health", {"healthcheck": {"tests": ["NONE"]}}),
        ("log", {"logOpts": {"max-file": "3"}}),
        ("log", {"logDriver": None}),
        ("unprivileged", {"privileged": True}),
        ("namespaces", {"pidMode": "host"}),
        ("namespaces", {"ipcMode": "container:other"}),
        ("namespaces", {"networkMode": "host"}),
        ("volumes", {"mounts": [{"type": "bind", "source": "/var/run/docker.sock", "target": "/s"}]}),
        ("volumes", {"mounts": [{"type": "volume", "source": "/etc", "target": "/s"}]}),
        ("volumes", {"volumes": [{"hostPath": "/etc", "containerPath": "/s"}]}),
        ("devices", {"devices": [{"hostPath": "/dev/kvm"}]}),
        ("gpu", {"gpus": "all"}),
        ("unpublished", {"ports": [{"ip": "127.0.0.1", "external": 1, "internal": 1}]}),
        ("networks", {"networksAdvanced": None}),
        ("pinned", {"image": "thing:latest"}),
        ("pinned", {"image": "registry.example:5000/thing"}),
        ("tmpfs", {"tmpfs": {"/tmp": "mode=1777"}}),
        ("tmpfs", {"tmpfs": {"/tmp": "size=1m,exec"}}),
    ],
)
def test_each_rule_is_broken_by_what_breaks_it_and_by_that_alone(rule: str, changes: dict[str, Any]) -> None:
    assert breaks(**changes) == [rule]


def test_a_port_on_every_address_breaks_two() -> None:
    assert breaks(ports=[{"external": 80, "internal": 80}]) == ["unpublished", "address"]


def test_a_reason_counts_for_its_own_container_alone() -> None:
    """Keycloak's read-write root excuses no other container, nor a job that says it is of Keycloak."""
    item = next(item for item in EXEMPTIONS if item.rule == "read-only-root")
    theirs = {"name": f"kit-x-{item.container}", "labels": labelled(service=item.service), "readOnly": False}
    assert breaks(**theirs) == []
    assert breaks(**{**theirs, "name": f"kit-x-{item.container}-other"}) == ["read-only-root"]
    assert breaks(**{**theirs, "labels": labelled(service="other")}) == ["read-only-root"]
    assert breaks(**{**theirs, "labels": labelled(service=item.service, kind="job")}) == ["read-only-root"]


def test_a_capability_needs_a_reason_of_its_own() -> None:
    known = [
        policy.Exemption(rule="add-none", service="thing", container="thing", reason=f"CAP_{name}: it must")
        for name in ("CHOWN", "KILL")
    ]

    def rules(*added: str) -> list[str]:
        box = Container({**GOOD, "capabilities": {"drops": ["ALL"], "adds": list(added)}})
        return [breach.rule for breach in policy.judge(box, known)[0]]

    assert rules("CAP_CHOWN", "CAP_KILL") == []
    assert rules("CAP_CHOWN", "CAP_SYS_ADMIN") == ["add-none"]


def test_a_network_is_as_closed_as_its_zone() -> None:
    closed = {"name": "kit-x-data", "driver": "bridge", "internal": True}
    assert policy.network(closed) == ()
    assert [each.rule for each in policy.network({**closed, "internal": False})] == ["internal"]
    assert [each.rule for each in policy.network({**closed, "driver": "macvlan"})] == ["bridge"]
    assert [each.rule for each in policy.network({**closed, "name": "kit-x-other"})] == ["zone"]
    assert [each.rule for each in policy.network({"name": "kit-x-egress"})] == ["isolated"]


def test_an_airgapped_stack_needs_fewer_exceptions() -> None:
    """The images that are built here carry what the official ones make at their first start."""
    built = {name: f"aikit.local/airgap/{name}:1" for name in _images(plan(Target.DEV, ("chat",)))}
    here = plan(Target.DEV, ("chat",), images=ImageSource.AIRGAP, airgap_images=built)
    assert not [item for item in judged(here) if item.rule == "read-only-root" and item.who != "jobs that get files"]


def _images(of: Plan) -> set[str]:
    from ops.planview import used_images

    return {pin.name for pin in used_images(of)}
