"""./kit schedule against a stand-in for systemctl and crontab: what is written and called, never that it fires.

Where the machine that runs the tests has `systemd-analyze`, it reads the units as systemd would.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ops import schedule
from ops.console import KitError
from ops.schedule import Machine

CLONE = Path("/srv/100% mine/$kit")


class StandinPrograms:
    """Notes what would be run; a crontab in memory."""

    def __init__(self) -> None:
        self.called: list[list[str]] = []
        self.crontab = ""

    def __call__(self, argv: Sequence[str], text: str) -> str:
        if list(argv) == ["crontab", "-l"]:
            return self.crontab
        if list(argv) == ["crontab", "-"]:
            self.crontab = text
        self.called.append(list(argv))
        return ""


def machine(folder: Path, programs: StandinPrograms, *, systemd: bool = True, root: bool = True, cron: bool = False,
            **environment: str) -> Machine:  # fmt: skip
    return Machine(
        root=root,
        systemd=systemd,
        crontab=cron,
        home=Path("/home/me"),
        environment=environment,
        units=folder / "units",
        run=programs,
    )


def asked(**more: object) -> argparse.Namespace:
    return argparse.Namespace(**{"stack": "dev", "remove": False, "dry_run": False, "at": "", **more})


def test_a_timer_is_written_enabled_and_the_same_the_second_time(tmp_path: Path) -> None:
    programs = StandinPrograms()
    here = machine(tmp_path, programs, XDG_STATE_HOME="/var/lib/my kit", SECRET="never")
    schedule.install(here, CLONE, asked())
    service = (tmp_path / "units" / "ai-kit-rotate-dev.service").read_text()
    timer = (tmp_path / "units" / "ai-kit-rotate-dev.timer").read_text()
    assert 'ExecStart="/srv/100%% mine/$$kit/kit" "rotate" "--due" "dev"\n' in service
    assert "WorkingDirectory=/srv/100%% mine/$kit\n" in service
    assert 'Environment="XDG_STATE_HOME=/var/lib/my kit"\n' in service and "never" not in service
    assert "OnCalendar=*-*-* 04:20:00\n" in timer and "Persistent=true\n" in timer
    enable = ["systemctl", "enable", "--now", "ai-kit-rotate-dev.timer"]
    assert programs.called == [["systemctl", "daemon-reload"], enable]
    schedule.install(here, CLONE, asked())
    assert programs.called[2:] == [enable]
    schedule.install(here, CLONE, asked(at="06:05"))
    assert "OnCalendar=*-*-* 06:05:00\n" in (tmp_path / "units" / "ai-kit-rotate-dev.timer").read_text()


def test_it_is_taken_away_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    programs = StandinPrograms()
    here = machine(tmp_path, programs, root=False)
    schedule.install(here, CLONE, asked())
    (tmp_path / "units" / "other.service").write_text("mine")
    schedule.install(here, CLONE, asked(remove=True, dry_run=True))
    assert len(list((tmp_path / "units").iterdir())) == 3
    schedule.install(here, CLONE, asked(remove=True))
    assert [path.name for path in (tmp_path / "units").iterdir()] == ["other.service"]
    assert programs.called[-2:] == [
        ["systemctl", "--user", "disable", "--now", "ai-kit-rotate-dev.timer"],
        ["systemctl", "--user", "daemon-reload"],
    ]
    schedule.install(here, CLONE, asked(remove=True))
    assert "there is no timer of stack dev" in capsys.readouterr().out


def test_a_dry_run_writes_and_calls_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    programs = StandinPrograms()
    schedule.install(machine(tmp_path, programs), CLONE, asked(dry_run=True))
    said = capsys.readouterr().out
    assert "would write" in said and "would run systemctl enable --now" in said
    assert not programs.called and not (tmp_path / "units").exists()


def test_cron_where_there_is_no_systemd(tmp_path: Path) -> None:
    programs = StandinPrograms()
    programs.crontab = "0 1 * * * mine\n"
    here = machine(tmp_path, programs, systemd=False, cron=True, XDG_STATE_HOME="/s")
    for _ in range(2):
        schedule.install(here, CLONE, asked())
        assert programs.crontab == (
            "0 1 * * * mine\n20 4 * * * cd '/srv/100% mine/$kit' && XDG_STATE_HOME=/s "
            "'/srv/100\\% mine/$kit/kit' rotate --due dev # ai-kit-rotate-dev\n"
        ).replace("cd '/srv/100% mine", "cd '/srv/100\\% mine")
    schedule.install(here, CLONE, asked(remove=True))
    assert programs.crontab == "0 1 * * * mine\n"


def test_a_machine_without_either_is_told_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="neither systemd nor cron") as refused:
        schedule.install(machine(tmp_path, StandinPrograms(), systemd=False), Path("/srv/kit"), asked())
    assert refused.value.fix.endswith("/srv/kit/kit rotate --due dev")


@pytest.mark.parametrize("when", ["noon", "25:00", "4:20", "04:60", "monthly"])
def test_a_time_that_is_none(tmp_path: Path, when: str) -> None:
    with pytest.raises(KitError, match="is no time"):
        schedule.install(machine(tmp_path, StandinPrograms()), CLONE, asked(at=when))


def test_a_passphrase_of_the_environment_is_none_for_a_timer(tmp_path: Path) -> None:
    here = machine(tmp_path, StandinPrograms(), PULUMI_CONFIG_PASSPHRASE="x")
    with pytest.raises(KitError, match="a timer has none"):
        schedule.install(here, CLONE, asked())


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd-analyze")
def test_systemd_reads_the_units(tmp_path: Path) -> None:
    schedule.install(machine(tmp_path, StandinPrograms(), XDG_STATE_HOME="/s"), tmp_path, asked())
    (tmp_path / "kit").write_text("#!/bin/sh\n")
    (tmp_path / "kit").chmod(0o755)
    files = [str(path) for path in (tmp_path / "units").iterdir()]
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)
    assert "ai-kit-rotate" not in done.stderr, done.stderr
