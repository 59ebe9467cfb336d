"""Our reading of the CIS Docker Benchmark, section 5 (containers at run time), over what the engine says.

The 26 checks are those that docker-bench-security (commit ff26d67) scores, by its numbers; the other six of the section
are advice without a score. Each takes what `docker inspect` says of all running containers, and answers with those
that fail it, by name. Where ours is stricter than upstream's shell, the check says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Inspect = Mapping[str, Any]
Test = Callable[[Inspect], bool]  # whether the container passes

SENSITIVE = ("/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was found: `docker info`, the containers, the names of their processes, whether the host has SELinux."""

    info: Mapping[str, Any]
    containers: tuple[Inspect, ...]
    processes: Mapping[str, frozenset[str]]
    selinux: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """One check: its number, what it asks for, and the containers (or "the engine") that fail it."""

    number: str
    title: str
    failed: tuple[str, ...]


def _host(item: Inspect) -> Mapping[str, Any]:
    return item["HostConfig"]


def _ports(item: Inspect) -> list[tuple[str, int]]:
    bound = (item["NetworkSettings"].get("Ports") or {}).values()
    return [(each["HostIp"], int(each["HostPort"])) for several in bound for each in several or []]


def _sources(item: Inspect) -> list[str]:
    return [str(mount.get("Source", "")) for mount in item["Mounts"] if mount.get("Type") == "bind"]


def _options(item: Inspect) -> list[str]:
    return [str(option) for option in _host(item).get("SecurityOpt") or []]


def _no_capabilities(item: Inspect) -> bool:
    """Upstream passes what adds none. Here all must be dropped as well, and none may come back."""
    return not _host(item).get("CapAdd") and "ALL" in (_host(item).get("CapDrop") or [])


def _cpu(item: Inspect) -> bool:
    """Upstream is content with one of both."""
    return bool(_host(item).get("CpuShares")) and bool(_host(item).get("NanoCpus"))


def _memory(item: Inspect) -> bool:
    """Upstream does not ask about swap."""
    return bool(_host(item).get("Memory")) and _host(item)["Memory"] == _host(item).get("MemorySwap")


CHECKS: Mapping[str, tuple[str, Test]] = {
    "5.2": ("an AppArmor profile is enabled", lambda c: c.get("AppArmorProfile", "") not in ("", "unconfined")),
    "5.4": ("capabilities are restricted", _no_capabilities),
    "5.5": ("none is privileged", lambda c: not _host(c).get("Privileged")),
    "5.6": ("no sensitive directory is mounted", lambda c: not any(_sensitive(path) for path in _sources(c))),
    "5.8": ("no privileged port is mapped", lambda c: all(port > 1024 for _, port in _ports(c))),
    "5.9": ("only needed ports are open: upstream fails any that is published", lambda c: not _ports(c)),
    "5.10": ("the host's network is not shared", lambda c: _host(c).get("NetworkMode") != "host"),
    "5.11": ("memory is limited", _memory),
    "5.12": ("processor priority is set", _cpu),
    "5.13": ("the root file system is read-only", lambda c: _host(c).get("ReadonlyRootfs") is True),
    "5.14": (
        "ports are bound to one address",
        lambda c: all(address not in ("", "0.0.0.0", "::") for address, _ in _ports(c)),
    ),
    "5.15": (
        "it is not restarted more than five times by on-failure",
        lambda c: (_host(c).get("RestartPolicy") or {}).get("MaximumRetryCount", 0) <= 5,
    ),
    "5.16": ("the host's processes are not shared", lambda c: _host(c).get("PidMode") != "host"),
    "5.17": ("the host's IPC is not shared", lambda c: _host(c).get("IpcMode") != "host"),
    "5.20": (
        "no mount is propagated",
        lambda c: all("shared" not in str(mount.get("Propagation", "")) for mount in c["Mounts"]),
    ),
    "5.21": ("the host's UTS namespace is not shared", lambda c: _host(c).get("UTSMode") != "host"),
    "5.22": ("seccomp is on", lambda c: not any("seccomp" in option for option in _options(c))),
    "5.25": ("cgroups are the engine's", lambda c: not _host(c).get("CgroupParent")),
    "5.26": (
        "no privileges are gained",
        lambda c: any(option.startswith("no-new-privileges") and "false" not in option for option in _options(c)),
    ),
    "5.27": (
        "health is checked",
        lambda c: (c["State"].get("Health") or {}).get("Status") in ("healthy", "starting"),
    ),
    "5.29": ("processes are limited", lambda c: (_host(c).get("PidsLimit") or 0) > 0),
    "5.31": ("the host's users are not shared", lambda c: _host(c).get("UsernsMode") != "host"),
    "5.32": ("the Docker socket is not mounted", lambda c: not any("docker.sock" in str(m) for m in c["Mounts"])),
}


def _sensitive(path: str) -> bool:
    return path in SENSITIVE or any(path.startswith(f"{each}/") for each in SENSITIVE[1:])


def run(seen: Seen) -> tuple[Result, ...]:
    """All 26 results, in the benchmark's order."""
    found = [Result(number=number, title=title, failed=_names(seen, test)) for number, (title, test) in CHECKS.items()]
    swarm = (seen.info.get("Swarm") or {}).get("LocalNodeState")
    found.append(Result(number="5.1", title="swarm mode is off", failed=() if swarm == "inactive" else ("the engine",)))
    # Upstream passes any security option. Without SELinux there is nothing to set; with it none may switch it off.
    off = _names(seen, lambda item: not any("label" in option and "disable" in option for option in _options(item)))
    found.append(
        Result(
            number="5.3", title="SELinux is not switched off, where there is one", failed=off if seen.selinux else ()
        )
    )
    shells = tuple(name for name, running in seen.processes.items() if any("sshd" in each for each in running))
    found.append(Result(number="5.7", title="no sshd runs", failed=shells))
    return tuple(sorted(found, key=lambda result: int(result.number.partition(".")[2])))


def _names(seen: Seen, test: Test) -> tuple[str, ...]:
    return tuple(str(item["Name"]).lstrip("/") for item in seen.containers if not test(item))


def report(results: Iterable[Result], reasons: Mapping[str, str]) -> str:
    """For a person: one line a check, with the reason where it fails."""
    lines = ["CIS Docker Benchmark, section 5, as we read it: the 26 checks that docker-bench-security scores", ""]
    every = tuple(results)
    for result in every:
        mark = "FAIL" if result.failed else "pass"
        lines.append(f"{mark}  {result.number.ljust(5)} {result.title}")
        if result.failed:
            lines.append(f"            {', '.join(result.failed)}: {reasons.get(result.number, 'NO REASON')}")
    passed = sum(not result.failed for result in every)
    return "\n".join([*lines, "", f"{passed} of {len(every)} pass", ""])
