"""Looks at the machine itself for hostchecks.py: reads files and asks programs that change nothing.

`root` is where the file system begins: another one in tests. Whatever cannot be read is unknown, and no error.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.hostchecks import Cgroups, Firewall, HostFacts, Ssh, Swap

PATIENCE_S = 5
Run = Callable[[list[str]], str | None]


def run(argv: list[str]) -> str | None:
    """What a program printed; None when there is none, it failed, or took too long."""
    found = shutil.which(argv[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        return None
    try:
        done = subprocess.run(
            [found, *argv[1:]],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def gather(containers: Iterable[Any] = (), root: Path = Path("/"), ask: Run = run) -> HostFacts:
    """Every fact. containers: as the engine lists them, for the ports they publish."""
    return _Machine(root, ask).facts(tuple(containers))


@dataclass(frozen=True)
class _Machine:
    root: Path
    ask: Run

    def text(self, path: str) -> str:
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def there(self, *paths: str) -> bool:
        with contextlib.suppress(OSError):
            return any((self.root / path).exists() for path in paths)
        return False

    def processes(self) -> frozenset[str]:
        """Names of what runs, cut to 15 characters by the kernel. A child that nobody waited for runs no more."""
        names: set[str] = set()
        for stat in (self.root / "proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, IndexError):
                name, _, rest = stat.read_text(encoding="utf-8", errors="replace").partition("(")[2].rpartition(")")
                if rest.split()[0] != "Z":
                    names.add(name)
        return frozenset(names)

    def facts(self, containers: tuple[Any, ...]) -> HostFacts:
        running = self.processes()
        model = self.text("proc/device-tree/model")
        return HostFacts(
            pi="Raspberry Pi" in model,
            system="apt" if self.there("usr/bin/apt-get") else "dnf" if self.there("usr/bin/dnf") else "",
            ssh=self.ssh(),
            guarded=bool(running & {"fail2ban-server", "crowdsec", "sshguard"}),
            key_days=self.key_days(),
            firewall=self.firewall(containers),
            updates=self.updates(),
            reboot_wanted=self.there("run/reboot-required", "var/run/reboot-required"),
            audit="auditd" in running,
            integrity=next(
                (name for name in ("aide", "tripwire", "samhain") if self.there(f"usr/bin/{name}", f"usr/sbin/{name}")),
                "",
            ),
            time_by=next((name for process, name in TIME_KEEPERS.items() if process in running), ""),
            swaps=tuple(self.swaps()),
            trim=self.trim(),
            governors=frozenset(
                path.read_text(encoding="utf-8").strip()
                for path in (self.root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
            ),
            driver=self.text("sys/devices/system/cpu/cpu0/cpufreq/scaling_driver"),
            cgroups=self.cgroups(),
            confined_by=self.confined_by(),
            page_size=os.sysconf("SC_PAGESIZE"),
        )

    # ------------------------------------------------------------------------------------------------------ access

    def ssh(self) -> Ssh | None:
        """As the server itself says it (root alone may ask), or as its files do: the first word on an option counts."""
        if not self.there("usr/sbin/sshd"):
            return None
        said = self.ask(["sshd", "-T"])
        if said:
            pairs = (line.partition(" ") for line in said.splitlines())
            return Ssh(options={key.lower(): value.strip().lower() for key, _, value in pairs})
        options: dict[str, str] = {}
        matched = False
        for key, value in self._ssh_lines("etc/ssh/sshd_config"):
            if key == "match":
                matched = True
                break  # what follows is for some alone
            options.setdefault(key, value)
        return Ssh(options=options, matched=matched)

    def _ssh_lines(self, path: str, depth: int = 0) -> Iterator[tuple[str, str]]:
        for line in self.text(path).splitlines():
            words = re.split(r"[\s=]+", line.strip(), maxsplit=1)
            if len(words) < 2 or words[0].startswith("#"):
                continue
            key, value = words[0].lower(), words[1].strip().strip('"')
            if key == "include" and depth < 4:
                for pattern in value.split():
                    full = pattern if pattern.startswith("/") else f"/etc/ssh/{pattern}"
                    for found in sorted(self.root.glob(full.lstrip("/"))):
                        yield from self._ssh_lines(str(found.relative_to(self.root)), depth + 1)
            else:
                yield key, value.lower()

    def key_days(self) -> int | None:
        home = Path(os.path.expanduser("~")) if self.root == Path("/") else self.root / "root"
        ages: list[float] = []
        for path in (home / ".ssh").glob("id_*"):
            with contextlib.suppress(OSError):
                if path.suffix != ".pub":
                    ages.append(time.time() - path.stat().st_mtime)
        return int(max(ages) // 86400) if ages else None

    def firewall(self, containers: tuple[Any, ...]) -> Firewall:
        published = sorted(
            {
                f"{port.get('IP') or '0.0.0.0'}:{port['PublicPort']}"  # noqa: S104
                for container in containers
                for port in container.get("Ports") or []
                if port.get("PublicPort") and not _loopback(str(port.get("IP") or ""))
            }
        )
        seen, active = self._filters()
        chain = self.ask(["iptables", "-S", "DOCKER-USER"])
        rules = [
            line
            for line in (chain or "").splitlines()
            if line.startswith("-A") and line.split()[2:] != ["-j", "RETURN"]
        ]
        return Firewall(
            seen=seen,
            active=active,
            docker_user=len(rules) if chain is not None else None,
            published=tuple(published),
            listening=self.listening({int(address.rpartition(":")[2]) for address in published}),
        )

    def _filters(self) -> tuple[bool, tuple[str, ...]]:
        """Whether the rules could be read, and what of it refuses anything that comes in."""
        active: list[str] = []
        if re.search(r"^ENABLED=yes", self.text("etc/ufw/ufw.conf"), re.MULTILINE):
            active.append("ufw")
        if (self.ask(["firewall-cmd", "--state"]) or "").strip() == "running":
            active.append("firewalld")
        ruleset = self.ask(["nft", "list", "ruleset"])
        if not active and ruleset and _refuses_input(ruleset):
            active.append("nftables")
        chain = self.ask(["iptables", "-S", "INPUT"])
        if (
            not active
            and chain
            and re.search(r"^-P INPUT (DROP|REJECT)|-A INPUT .*-j (DROP|REJECT)", chain, re.MULTILINE)
        ):
            active.append("iptables")
        return bool(active) or ruleset is not None or chain is not None, tuple(active)

    def listening(self, besides: set[int]) -> tuple[str, ...]:
        """TCP ports that other machines may reach, without those that containers publish."""
        ports: set[int] = set()
        for table in ("proc/net/tcp", "proc/net/tcp6"):
            for line in self.text(table).splitlines()[1:]:
                fields = line.split()
                with contextlib.suppress(IndexError, ValueError):
                    address, _, port = fields[1].partition(":")
                    # As the kernel writes it: words of four bytes, each with the last byte first.
                    loopback = address.endswith("7F") if len(address) == 8 else address in _LOOPBACK_6
                    if fields[3] == "0A" and not loopback:
                        ports.add(int(port, 16))
        return tuple(f"port {port}" for port in sorted(ports - besides))

    # ------------------------------------------------------------------------------------------------------ system

    def updates(self) -> bool | None:
        wants = "etc/systemd/system/timers.target.wants"
        if self.there("usr/bin/apt-get"):
            texts = [
                path.read_text(encoding="utf-8", errors="replace")
                for path in sorted((self.root / "etc/apt/apt.conf.d").glob("*"))
            ]
            switch = re.findall(r'^\s*APT::Periodic::Unattended-Upgrade\s+"(\d+)"', "\n".join(texts), re.MULTILINE)
            return bool(switch) and switch[-1] != "0" and self.there("usr/bin/unattended-upgrade")
        if self.there("usr/bin/dnf"):
            return any((self.root / wants).glob("dnf*automatic*.timer"))
        return None

    def swaps(self) -> Iterator[Swap]:
        for line in self.text("proc/swaps").splitlines()[1:]:
            name = line.split()[0]
            device = Path(name).name
            uuid = self.text(f"sys/block/{device}/dm/uuid")
            yield Swap(name=name, memory=device.startswith("zram"), encrypted=uuid.startswith("CRYPT"))

    def trim(self) -> bool | None:
        """Of disks that take it: whether the timer is on, or the file system tells them by itself."""
        able = False
        for block in (self.root / "sys/block").glob("*"):
            name = block.name
            if name.startswith(("loop", "zram", "ram", "dm-", "sr", "md")):
                continue
            most = self.text(f"sys/block/{name}/queue/discard_max_bytes")
            able = able or (most.isdigit() and int(most) > 0 and self.text(f"sys/block/{name}/queue/rotational") == "0")
        if not able:
            return None
        mounts = [line.split() for line in self.text("proc/mounts").splitlines()]
        told = any(len(m) > 3 and m[1] == "/" and "discard" in m[3].split(",") for m in mounts)
        return told or self.there("etc/systemd/system/timers.target.wants/fstrim.timer")

    def cgroups(self) -> Cgroups | None:
        disabled = "cgroup_disable=memory" in self.text("proc/cmdline").split()
        unified = self.text("sys/fs/cgroup/cgroup.controllers")
        if unified:
            return Cgroups(version=2, controllers=frozenset(unified.split()), disabled=disabled)
        found = {name for name in ("memory", "pids", "cpu") if self.there(f"sys/fs/cgroup/{name}")}
        if not found and not self.there("sys/fs/cgroup/cpu,cpuacct"):
            return None
        found |= {"cpu"} if self.there("sys/fs/cgroup/cpu,cpuacct") else set()
        swap = self.there("sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
        return Cgroups(version=1, controllers=frozenset(found), swap=swap, disabled=disabled)

    def confined_by(self) -> str | None:
        if self.text("sys/module/apparmor/parameters/enabled") == "Y":
            return "AppArmor"
        if self.text("sys/fs/selinux/enforce") == "1":
            return "SELinux"
        return "" if self.there("sys") else None


TIME_KEEPERS = {
    "systemd-timesyn": "systemd-timesyncd",
    "chronyd": "chrony",
    "ntpd": "ntpd",
    "openntpd": "openntpd",
    "ntpsec": "ntpsec",
}
_LOOPBACK_6 = ("00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


def _loopback(address: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address).is_loopback
    return False


def _refuses_input(ruleset: str) -> bool:
    """Whether a chain on the input hook refuses anything, by its policy or by a rule."""
    for chain in re.findall(r"chain [^{]+\{([^}]*hook input[^}]*)\}", ruleset):
        if "policy drop" in chain or re.search(r"\b(drop|reject)\b", chain.replace("policy drop", "")):
            return True
    return False
