"""Advice about the machine itself: what the stack stands on and does not change. Facts: hostfacts.py; this is pure.

Each finding says what is there, why it matters here, and the command that mends it. None of them keeps a stack from
coming up, so none is worse than a warning; what does is in doctor.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ops.doctor import Check, Level

KEY_DAYS = 90
LISTED = 6  # of a long list, so many are named


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """An SSH server: its effective options, lower case, as `sshd -T` prints them or as its files say.

    matched: there are Match blocks, which say otherwise for some.
    """

    options: Mapping[str, str] = field(default_factory=dict[str, str])
    matched: bool = False


@dataclass(frozen=True, kw_only=True)
class Firewall:
    """What filters what comes in. seen: whether the rules could be read (root alone may).

    active: names of those that are on: ufw, firewalld, nftables, iptables. docker_user: rules of our owner's in the
    chain that Docker asks first. published: address:port of containers that other machines may reach. listening:
    those of the host's own programs.
    """

    seen: bool = True
    active: tuple[str, ...] = ()
    docker_user: int | None = None
    published: tuple[str, ...] = ()
    listening: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Swap:
    """One place that memory is written to. memory: compressed, in memory itself (zram)."""

    name: str
    memory: bool = False
    encrypted: bool = False


@dataclass(frozen=True, kw_only=True)
class Cgroups:
    """version 1 or 2, which controllers there are, and whether swap can be limited. disabled: by the kernel's line."""

    version: int
    controllers: frozenset[str]
    swap: bool = True
    disabled: bool = False


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """What was found out about the machine; None is what cannot be seen here. system: apt, dnf, or "" for others."""

    pi: bool = False
    system: str = ""
    ssh: Ssh | None = None  # None: there is no SSH server
    guarded: bool = False  # something bans who tries passwords
    key_days: int | None = None  # age of the oldest private key of the user's
    firewall: Firewall | None = None
    updates: bool | None = None
    reboot_wanted: bool = False
    audit: bool = False
    integrity: str = ""
    time_by: str = ""
    swaps: tuple[Swap, ...] = ()
    trim: bool | None = None  # None: the disk takes none
    governors: frozenset[str] = frozenset()
    driver: str = ""
    cgroups: Cgroups | None = None
    confined_by: str | None = None  # apparmor, selinux, "" for nothing
    page_size: int = 4096


def examine(facts: HostFacts) -> tuple[Check, ...]:
    """Every finding about the machine itself, in the order in which they matter."""
    return tuple(_all(facts))


def _all(facts: HostFacts) -> Iterator[Check]:
    yield from _ssh(facts)
    yield from _keys(facts)
    yield from _firewall(facts.firewall)
    yield from _updates(facts)
    yield _confinement(facts.confined_by)
    yield _audit(facts)
    yield _integrity(facts)
    yield _time(facts)
    yield from _swap(facts)
    yield from _trim(facts.trim)
    yield from _governor(facts)
    yield from _cgroups(facts)
    yield _pages(facts)


def _ok(name: str, what: str) -> Check:
    return Check(name=name, level=Level.OK, what=what)


def _warn(name: str, what: str, fix: str, why: str) -> Check:
    return Check(name=name, level=Level.WARN, what=what, fix=fix, why=why)


def _install(facts: HostFacts, package: str, otherwise: str = "") -> str:
    if facts.system == "dnf":
        return f"sudo dnf install {otherwise or package}"
    return f"sudo apt install {package}" if facts.system == "apt" else f"install {package} the way your system does"


# --------------------------------------------------------------------------------------------------------- access

# What an SSH server does where nothing is said (OpenSSH 9).
SSH_DEFAULTS = {
    "passwordauthentication": "yes",
    "kbdinteractiveauthentication": "yes",
    "permitrootlogin": "prohibit-password",
    "permitemptypasswords": "no",
    "pubkeyauthentication": "yes",
}


def _ssh(facts: HostFacts) -> Iterator[Check]:
    if facts.ssh is None:
        yield _ok("ssh", "no SSH server is installed")
        return
    options = {**SSH_DEFAULTS, **facts.ssh.options}
    asked = [key for key in ("passwordauthentication", "kbdinteractiveauthentication") if options[key] == "yes"]
    set_it = (
        "in /etc/ssh/sshd_config.d/10-kit.conf, then sudo systemctl reload ssh; keep this session open, try a new one"
    )
    if asked:
        words = " and ".join(
            {"passwordauthentication": "PasswordAuthentication"}.get(k, "KbdInteractiveAuthentication") for k in asked
        )
        guard = "" if facts.guarded else ", and nothing bans who tries many"
        yield _warn(
            "ssh passwords",
            f"the SSH server takes passwords ({words}){guard}",
            f"with your key in ~/.ssh/authorized_keys: {' no, '.join(words.split(' and '))} no {set_it}",
            "whoever gets a shell here is a step from root, who reads every secret of every stack",
        )
    if options["permitemptypasswords"] == "yes":
        yield _warn("ssh passwords", "empty ones are taken", f"PermitEmptyPasswords no {set_it}", "anybody gets in")
    root = options["permitrootlogin"]
    if root == "yes":
        yield _warn(
            "ssh root",
            "root may log in with a password",
            f"PermitRootLogin no {set_it}",
            "the one user name that everybody knows reads every secret of every stack",
        )
    if not asked and root != "yes" and options["permitemptypasswords"] != "yes":
        rest = "; Match blocks may say otherwise for some" if facts.ssh.matched else ""
        yield _ok("ssh", f"keys alone, root {'not at all' if root == 'no' else 'with a key alone'}{rest}")


def _keys(facts: HostFacts) -> Iterator[Check]:
    if facts.key_days is not None and facts.key_days > KEY_DAYS:
        yield _warn(
            "ssh keys",
            f"the oldest of your private keys is {facts.key_days} days old",
            "ssh-keygen -t ed25519, put the new one where the old one is known, then take the old one out everywhere",
            f"a copy that somebody made works for as long as the key does; {KEY_DAYS} days is the habit to have",
        )


def _firewall(found: Firewall | None) -> Iterator[Check]:
    if found is None:
        return
    published = _named(found.published)
    bypass = (
        f"{published} of containers: Docker's own rules let that in before ufw, firewalld or an INPUT chain is asked"
    )
    closing = (
        "keep ai-kit:bindAddress at 127.0.0.1 or one address of your network; filter what containers publish in the "
        "chain DOCKER-USER (docs/security.md, Firewall)"
    )
    if not found.seen:
        yield _warn("firewall", "cannot be read by you", "sudo ./kit doctor, or look at: sudo nft list ruleset", "")
    elif not found.active:
        open_ports = f"; other machines reach {_named(found.listening)}" if found.listening else ""
        yield _warn(
            "firewall",
            f"none is on{open_ports}",
            "sudo ufw default deny incoming && sudo ufw allow OpenSSH && sudo ufw enable (or your system's own)",
            "what listens on this machine is reached by its whole network, and by containers at their gateway",
        )
    else:
        yield _ok("firewall", f"{', '.join(found.active)} on")
    if found.published and not found.docker_user:
        named = " and ".join(found.active) or "no firewall"
        yield _warn(
            "docker ports",
            bypass if found.seen else f"{published} of containers are open to other machines",
            closing,
            f"{named} says nothing about them" if found.active else "whoever reaches this machine reaches them",
        )
    elif found.published:
        yield _ok("docker ports", f"{published}, behind {found.docker_user} rules in DOCKER-USER")


def _named(items: tuple[str, ...]) -> str:
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return ", ".join(items[:LISTED]) + more


# ----------------------------------------------------------------------------------------------------------- care


def _updates(facts: HostFacts) -> Iterator[Check]:
    if facts.updates:
        yield _ok("updates", "security updates are installed by themselves")
    elif facts.updates is False:
        fix = (
            "sudo dnf install dnf-automatic && sudo systemctl enable --now dnf-automatic.timer"
            if facts.system == "dnf"
            else "sudo apt install unattended-upgrades && sudo dpkg-reconfigure -plow unattended-upgrades"
        )
        yield _warn(
            "updates",
            "nothing installs security updates by itself",
            fix,
            "a hole in the kernel or the Docker engine is a way out of every container",
        )
    if facts.reboot_wanted:
        yield _warn(
            "reboot",
            "an update waits for one",
            "sudo reboot; the stack comes back by itself",
            "until then the old kernel or library runs, with its holes",
        )


def _confinement(by: str | None) -> Check:
    if by:
        return _ok("confinement", f"{by}: Docker confines containers with it")
    return _warn(
        "confinement",
        "neither AppArmor nor SELinux is on" if by == "" else "cannot be seen",
        "on Debian, Ubuntu and Raspberry Pi OS: sudo apt install apparmor, and lsm=...,apparmor (or apparmor=1 "
        "security=apparmor) on the kernel's command line",
        "it is the second wall, should a program get past a container's first one",
    )


def _audit(facts: HostFacts) -> Check:
    if facts.audit:
        return _ok("audit", "auditd runs")
    return _warn(
        "audit",
        "nothing writes down who became root, or changed what",
        f"{_install(facts, 'auditd', 'audit')}; then: echo '-w /usr/bin/docker -p x -k docker' | sudo tee "
        "/etc/audit/rules.d/docker.rules && sudo augenrules --load",
        "after a break-in it is the only witness",
    )


def _integrity(facts: HostFacts) -> Check:
    if facts.integrity:
        return _ok("integrity", f"{facts.integrity} compares the system's files")
    return _warn(
        "integrity",
        "nothing notices that a program of the system was exchanged",
        f"{_install(facts, 'aide')} && sudo aideinit",
        "what is exchanged on the host sees into every container",
    )


def _time(facts: HostFacts) -> Check:
    if facts.time_by:
        return _ok("time", f"kept by {facts.time_by}")
    return _warn(
        "time",
        "nothing sets the clock",
        "sudo timedatectl set-ntp true (or install chrony)",
        "tokens, certificates and codes of authenticator apps are refused when it is a minute off",
    )


# ---------------------------------------------------------------------------------------------------------- tuning


def _swap(facts: HostFacts) -> Iterator[Check]:
    plain = [swap.name for swap in facts.swaps if not swap.memory and not swap.encrypted]
    if plain:
        more = "; on a Pi it wears the card as well" if facts.pi else ""
        yield _warn(
            "swap",
            f"{_named(tuple(plain))} is on a disk, not encrypted",
            "sudo swapoff -a and take it out of /etc/fstab (Raspberry Pi OS: sudo dphys-swapfile uninstall); where "
            f"memory is short: {_install(facts, 'zram-tools', 'zram-generator')}",
            f"containers get none, but keys in the memory of Docker and of the host would be written to it{more}",
        )
    elif facts.swaps:
        yield _ok("swap", "in compressed memory" if all(swap.memory for swap in facts.swaps) else "encrypted")
    else:
        yield _ok("swap", "none")


def _trim(trim: bool | None) -> Iterator[Check]:
    if trim:
        yield _ok("trim", "free blocks are given back to the disk")
    elif trim is False:
        yield _warn(
            "trim",
            "the disk is never told which blocks are free",
            "sudo systemctl enable --now fstrim.timer",
            "databases write much: an SSD that takes every block for used gets slow, and old before its time",
        )


# With these drivers "powersave" is the name of what scales by itself.
_SELF_SCALING = ("intel_pstate", "amd-pstate-epp", "amd-pstate")


def _governor(facts: HostFacts) -> Iterator[Check]:
    if not facts.governors:
        return
    slow = facts.governors & {"powersave", "conservative"}
    if slow and facts.driver not in _SELF_SCALING:
        yield _warn(
            "governor",
            f"{', '.join(sorted(slow))}: processors stay slow, or take long to get fast",
            "echo schedutil | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor; to keep it: "
            f"{_install(facts, 'linux-cpupower', 'kernel-tools')}, GOVERNOR in /etc/default/cpupower",
            "each question to a model waits for that",
        )
    else:
        yield _ok("governor", ", ".join(sorted(facts.governors)))


def _cgroups(facts: HostFacts) -> Iterator[Check]:
    found = facts.cgroups
    if found is None:
        return
    missing = sorted({"memory", "pids", "cpu"} - found.controllers)
    line = "/boot/firmware/cmdline.txt" if facts.pi else "the kernel's command line (GRUB_CMDLINE_LINUX)"
    if missing:
        argument = (
            "cgroup_enable=memory cgroup_memory=1" if "memory" in missing else "systemd.unified_cgroup_hierarchy=1"
        )
        why_off = " (cgroup_disable=memory is on the kernel's line)" if found.disabled else ""
        yield _warn(
            "cgroups",
            f"version {found.version}, without {', '.join(missing)}{why_off}",
            f"append {argument} to the one line of {line}, then reboot",
            "limits on it are ignored: one service could starve all others, and the machine",
        )
    elif not found.swap:
        yield _warn(
            "cgroups",
            f"version {found.version}, which here cannot limit swap",
            f"append swapaccount=1 to {line}, or go to version 2: systemd.unified_cgroup_hierarchy=1; then reboot",
            "a container that should get none swaps all the same, where the machine has any",
        )
    else:
        yield _ok("cgroups", f"version {found.version}, with memory, pids and cpu")


def _pages(facts: HostFacts) -> Check:
    """Which images cannot run with them is a question of the plan: doctor.py."""
    size = facts.page_size // 1024
    if facts.page_size > 4096:
        return _ok("pages", f"{size} KiB, as a Pi 5 has them: fine for every image that says so, and a little faster")
    return _ok("pages", f"{size} KiB")
