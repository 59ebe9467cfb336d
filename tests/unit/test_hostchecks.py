"""Advice about the machine: what is said of many machines, and what is read of them. Nothing here looks at this one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ops import hostchecks, hostfacts
from ops.doctor import Level
from ops.hostchecks import Cgroups, Firewall, HostFacts, Ssh, Swap

# A machine that somebody looked after.
GOOD = HostFacts(
    system="apt",
    ssh=Ssh(options={"passwordauthentication": "no", "kbdinteractiveauthentication": "no", "permitrootlogin": "no"}),
    guarded=True,
    key_days=10,
    firewall=Firewall(active=("ufw",), docker_user=0),
    updates=True,
    audit=True,
    integrity="aide",
    time_by="chrony",
    trim=True,
    governors=frozenset({"schedutil"}),
    cgroups=Cgroups(version=2, controllers=frozenset({"cpu", "memory", "pids", "io"})),
    confined_by="AppArmor",
)


def warned(facts: HostFacts) -> dict[str, str]:
    return {check.name: check.what for check in hostchecks.examine(facts) if check.level is Level.WARN}


def ssh(**options: str) -> HostFacts:
    return replace(GOOD, ssh=Ssh(options={**(GOOD.ssh.options if GOOD.ssh else {}), **options}))


def wall(**changes: Any) -> HostFacts:
    return replace(GOOD, firewall=replace(GOOD.firewall or Firewall(), **changes))


def test_a_machine_that_is_looked_after_is_left_in_peace() -> None:
    checks = hostchecks.examine(GOOD)
    assert {check.level for check in checks} == {Level.OK}
    assert {"ssh", "firewall", "updates", "audit", "time", "swap", "trim", "governor", "cgroups", "pages"} <= {
        check.name for check in checks
    }


@pytest.mark.parametrize(
    ("facts", "name", "words"),
    [
        (replace(GOOD, ssh=Ssh()), "ssh passwords", "PasswordAuthentication and KbdInteractiveAuthentication"),
        (ssh(passwordauthentication="yes"), "ssh passwords", "takes passwords (PasswordAuthentication)"),
        (ssh(kbdinteractiveauthentication="yes"), "ssh passwords", "(KbdInteractiveAuthentication)"),
        (ssh(permitemptypasswords="yes"), "ssh passwords", "empty"),
        (ssh(permitrootlogin="yes"), "ssh root", "root may log in with a password"),
        (replace(GOOD, key_days=91), "ssh keys", "91 days"),
        (wall(active=()), "firewall", "none is on"),
        (wall(active=(), listening=("port 22", "port 5432")), "firewall", "other machines reach port 22, port 5432"),
        (wall(active=(), seen=False), "firewall", "cannot be read"),
        (wall(published=("0.0.0.0:8443",)), "docker ports", "before ufw"),
        (replace(GOOD, updates=False), "updates", "nothing installs"),
        (replace(GOOD, reboot_wanted=True), "reboot", "waits"),
        (replace(GOOD, confined_by=""), "confinement", "neither"),
        (replace(GOOD, audit=False), "audit", "nothing writes down"),
        (replace(GOOD, integrity=""), "integrity", "exchanged"),
        (replace(GOOD, time_by=""), "time", "nothing sets"),
        (replace(GOOD, swaps=(Swap(name="/var/swap"),)), "swap", "/var/swap is on a disk"),
        (replace(GOOD, trim=False), "trim", "never told"),
        (replace(GOOD, governors=frozenset({"powersave"}), driver="cpufreq-dt"), "governor", "slow"),
        (
            replace(GOOD, cgroups=Cgroups(version=2, controllers=frozenset({"cpu", "pids"}))),
            "cgroups",
            "without memory",
        ),
        (
            replace(GOOD, cgroups=Cgroups(version=1, controllers=frozenset({"cpu", "pids", "memory"}), swap=False)),
            "cgroups",
            "cannot limit swap",
        ),
    ],
)
def test_one_thing_that_is_wrong_is_one_warning_with_a_fix_and_a_reason(
    facts: HostFacts, name: str, words: str
) -> None:
    found = [check for check in hostchecks.examine(facts) if check.level is Level.WARN]
    assert [check.name for check in found] == [name]
    assert words in found[0].what
    assert found[0].fix
    assert found[0].why or not (facts.firewall and facts.firewall.seen)


@pytest.mark.parametrize(
    "facts",
    [
        replace(GOOD, ssh=None),
        ssh(permitrootlogin="prohibit-password"),
        replace(GOOD, key_days=None),
        replace(GOOD, key_days=90),
        replace(GOOD, firewall=None),
        wall(published=("192.0.2.1:8443",), docker_user=2),
        replace(GOOD, updates=None),
        replace(GOOD, swaps=(Swap(name="/dev/zram0", memory=True), Swap(name="/dev/dm-1", encrypted=True))),
        replace(GOOD, trim=None),
        replace(GOOD, governors=frozenset()),
        replace(GOOD, governors=frozenset({"powersave"}), driver="intel_pstate"),
        replace(GOOD, cgroups=None),
        replace(GOOD, cgroups=Cgroups(version=1, controllers=frozenset({"cpu", "pids", "memory"}))),
        replace(GOOD, page_size=16384),
    ],
)
def test_what_is_fine_too(facts: HostFacts) -> None:
    assert warned(facts) == {}


def test_without_a_firewall_ports_of_containers_are_named_beside_it() -> None:
    found = warned(wall(active=(), docker_user=None, published=("0.0.0.0:1",)))
    assert set(found) == {"firewall", "docker ports"} and found["docker ports"].startswith("0.0.0.0:1 of containers")


def test_passwords_are_worse_where_nothing_bans() -> None:
    assert "nothing bans" in warned(replace(ssh(passwordauthentication="yes"), guarded=False))["ssh passwords"]
    assert "nothing bans" not in warned(ssh(passwordauthentication="yes"))["ssh passwords"]


def test_a_pi_is_told_of_its_own_files() -> None:
    found = Cgroups(version=2, controllers=frozenset({"cpu", "pids"}), disabled=True)
    checks = {check.name: check for check in hostchecks.examine(replace(GOOD, pi=True, cgroups=found))}
    assert "cgroup_enable=memory cgroup_memory=1" in checks["cgroups"].fix
    assert "/boot/firmware/cmdline.txt" in checks["cgroups"].fix
    assert "cgroup_disable=memory" in checks["cgroups"].what


def test_commands_are_those_of_the_system() -> None:
    fixes = {
        check.name: check.fix for check in hostchecks.examine(replace(GOOD, system="dnf", updates=False, audit=False))
    }
    assert "dnf-automatic" in fixes["updates"]
    assert fixes["audit"].startswith("sudo dnf install audit;")
    other = {check.name: check.fix for check in hostchecks.examine(replace(GOOD, system="", audit=False))}
    assert "the way your system does" in other["audit"]


# ------------------------------------------------------------------------------------------- reading a machine


RULESET = "table inet f {{\n chain input {{\n type filter hook input priority 0; policy {};\n }}\n}}"


class Machine:
    """A file system in a folder, and what programs say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.says: dict[str, str] = {}

    def write(self, **files: str) -> None:
        for path, text in files.items():
            self.put(path.replace("__", "/"), text)

    def put(self, path: str, text: str = "") -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def facts(self, containers: tuple[Any, ...] = ()) -> HostFacts:
        return hostfacts.gather(containers, self.root, lambda argv: self.says.get(" ".join(argv)))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_empty_file_system_is_unknown_and_no_error(machine: Machine) -> None:
    found = machine.facts()
    assert (found.ssh, found.key_days, found.updates, found.trim, found.cgroups) == (None,) * 5
    assert found.firewall == Firewall(seen=False)
    hostchecks.examine(found)


def test_the_server_itself_is_believed_about_ssh(machine: Machine) -> None:
    machine.put("usr/sbin/sshd")
    machine.put("etc/ssh/sshd_config", "PasswordAuthentication yes\n")
    machine.says["sshd -T"] = (
        "passwordauthentication no\nkbdinteractiveauthentication no\npermitrootlogin without-password\n"
    )
    found = machine.facts()
    assert found.ssh and found.ssh.options["passwordauthentication"] == "no"
    assert not [name for name in warned(found) if name.startswith("ssh")]


def test_the_first_word_in_its_files_counts_and_what_is_for_some_does_not(machine: Machine) -> None:
    machine.put("usr/sbin/sshd")
    machine.put(
        "etc/ssh/sshd_config",
        "# PermitRootLogin yes\nInclude /etc/ssh/sshd_config.d/*.conf\nPasswordAuthentication yes\n"
        "kbdinteractiveauthentication=no\nMatch User guest\n  PermitRootLogin yes\n",
    )
    machine.put("etc/ssh/sshd_config.d/10-ours.conf", 'PasswordAuthentication "no"\n')
    found = machine.facts()
    assert found.ssh and found.ssh.matched
    assert found.ssh.options["passwordauthentication"] == "no"
    assert found.ssh.options["kbdinteractiveauthentication"] == "no"
    assert "permitrootlogin" not in found.ssh.options


def test_includes_of_each_other_end(machine: Machine) -> None:
    machine.put("usr/sbin/sshd")
    machine.put("etc/ssh/sshd_config", "Include sshd_config\nPermitRootLogin no\n")
    found = machine.facts()
    assert found.ssh and found.ssh.options["permitrootlogin"] == "no"


def test_ports_of_containers_that_others_reach(machine: Machine) -> None:
    machine.put("etc/ufw/ufw.conf", "ENABLED=yes\n")
    machine.says["iptables -S DOCKER-USER"] = "-N DOCKER-USER\n-A DOCKER-USER -j RETURN\n"
    ports = [
        {"IP": "127.0.0.1", "PublicPort": 8444},
        {"IP": "0.0.0.0", "PublicPort": 8443},
        {"IP": "::", "PublicPort": 8443},
        {"PrivatePort": 5432},
    ]
    found = machine.facts(({"Ports": ports}, {"Ports": None}, {}))
    assert found.firewall == Firewall(active=("ufw",), docker_user=0, published=("0.0.0.0:8443", ":::8443"))
    assert "docker ports" in warned(found)
    machine.says["iptables -S DOCKER-USER"] += "-A DOCKER-USER -i eth0 ! -s 192.0.2.0/24 -j DROP\n"
    assert "docker ports" not in warned(machine.facts(({"Ports": ports},)))


@pytest.mark.parametrize(
    ("says", "active"),
    [
        ({"nft list ruleset": ""}, ()),
        (
            {"nft list ruleset": RULESET.format("accept")},
            (),
        ),
        (
            {"nft list ruleset": RULESET.format("drop")},
            ("nftables",),
        ),
        ({"firewall-cmd --state": "running\n", "nft list ruleset": ""}, ("firewalld",)),
        ({"iptables -S INPUT": "-P INPUT ACCEPT\n"}, ()),
        ({"iptables -S INPUT": "-P INPUT DROP\n"}, ("iptables",)),
    ],
)
def test_a_firewall_is_one_that_refuses_something(
    machine: Machine, says: dict[str, str], active: tuple[str, ...]
) -> None:
    machine.says = says
    found = machine.facts().firewall
    assert found and found.seen and found.active == active


def test_what_listens_for_others(machine: Machine) -> None:
    head = "  sl  local_address rem_address   st\n"
    machine.put(
        "proc/net/tcp",
        head
        + "0: 0100007F:1F90 00000000:0000 0A\n1: 00000000:0016 00000000:0000 0A\n2: 0A00000A:01BB 0A00000B:C000 01\n"
        "3: 3500007F:0035 00000000:0000 0A\n",
    )
    machine.put(
        "proc/net/tcp6",
        head + f"0: {'0' * 32}:1538 {'0' * 32}:0000 0A\n1: {'0' * 24}01000000:1539 {'0' * 32}:0000 0A\n",
    )
    found = machine.facts(({"Ports": [{"IP": "0.0.0.0", "PublicPort": 5432}]},)).firewall
    assert found and found.listening == ("port 22", "port 5432")[:1]


def test_care_that_is_there(machine: Machine) -> None:
    machine.put("usr/bin/apt-get")
    machine.put("usr/bin/unattended-upgrade")
    machine.put("etc/apt/apt.conf.d/20auto-upgrades", 'APT::Periodic::Unattended-Upgrade "1";\n')
    for number, name in enumerate(("auditd", "chronyd", "fail2ban-server", "a (strange) name")):
        machine.put(f"proc/{number + 10}/stat", f"{number + 10} ({name}) S 1")
    machine.put("usr/bin/aide")
    machine.put("sys/module/apparmor/parameters/enabled", "Y\n")
    found = machine.facts()
    assert (found.updates, found.audit, found.time_by, found.guarded) == (True, True, "chrony", True)
    assert (found.integrity, found.confined_by, found.system) == ("aide", "AppArmor", "apt")
    machine.put("proc/10/stat", "10 (auditd) Z 1")
    machine.put("etc/apt/apt.conf.d/99mine", 'APT::Periodic::Unattended-Upgrade "0";\n')
    found = machine.facts()
    assert (found.updates, found.audit) == (False, False)


def test_swap_trim_and_cgroups_of_a_pi(machine: Machine) -> None:
    machine.put("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0")
    machine.put("proc/swaps", "Filename Type Size Used Priority\n/var/swap file 1 0 -2\n/dev/zram0 partition 1 0 5\n")
    machine.put("sys/block/nvme0n1/queue/discard_max_bytes", "2199023255040\n")
    machine.put("sys/block/nvme0n1/queue/rotational", "0\n")
    machine.put("proc/mounts", "/dev/nvme0n1p2 / ext4 rw,noatime 0 0\n")
    machine.put("proc/cmdline", "console=tty1 cgroup_disable=memory rootwait\n")
    machine.put("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n")
    found = machine.facts()
    assert found.pi and found.trim is False
    assert found.swaps == (Swap(name="/var/swap"), Swap(name="/dev/zram0", memory=True))
    assert found.cgroups == Cgroups(version=2, controllers=frozenset({"cpuset", "cpu", "io", "pids"}), disabled=True)
    machine.put("etc/systemd/system/timers.target.wants/fstrim.timer")
    assert machine.facts().trim is True


def test_a_disk_that_takes_no_trim_is_not_blamed(machine: Machine) -> None:
    machine.put("sys/block/sda/queue/discard_max_bytes", "0\n")
    machine.put("sys/block/loop0/queue/discard_max_bytes", "4096\n")
    assert machine.facts().trim is None


def test_the_older_cgroups(machine: Machine) -> None:
    for name in ("memory", "pids", "cpu,cpuacct"):
        machine.put(f"sys/fs/cgroup/{name}/tasks")
    assert machine.facts().cgroups == Cgroups(version=1, controllers=frozenset({"cpu", "memory", "pids"}), swap=False)
    machine.put("sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "1")
    found = machine.facts().cgroups
    assert found and found.swap


def test_this_machine_can_be_looked_at() -> None:
    """Whatever it is: nothing fails, and nothing takes long."""
    checks = hostchecks.examine(hostfacts.gather())
    assert checks and json.dumps([check.what for check in checks])
