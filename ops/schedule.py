"""./kit schedule: a timer that runs `./kit rotate --due`, by systemd or, where there is none, by cron."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops import console
from ops.console import KitError
from ops.paths import ROOT

DAILY, WEEKLY = "daily", "weekly"
# Not at midnight, when everything else runs; a random delay on top of it keeps machines apart.
HOUR = "04:20"
SPREAD = "30min"
CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")

# What of the environment decides on which state and engine a verb works.
CARRIED = (
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "PULUMI_BACKEND_URL",
    "PULUMI_CONFIG_PASSPHRASE_FILE",
    "DOCKER_HOST",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)

Runner = Callable[[Sequence[str], str], str]


@dataclass(frozen=True)
class Machine:
    """What a schedule is written to: who runs it and where it belongs. `systemd`: whether it is what started this."""

    root: bool
    systemd: bool
    crontab: bool
    home: Path
    environment: dict[str, str]
    units: Path
    run: Runner

    @staticmethod
    def this() -> Machine:
        """The machine this runs on."""
        root = os.geteuid() == 0
        config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        return Machine(
            root=root,
            systemd=Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None,
            crontab=shutil.which("crontab") is not None,
            home=Path.home(),
            environment=dict(os.environ),
            units=Path("/etc/systemd/system") if root else config / "systemd" / "user",
            run=_run,
        )

    @property
    def systemctl(self) -> list[str]:
        return ["systemctl"] if self.root else ["systemctl", "--user"]


def run(arguments: argparse.Namespace) -> int:
    """0 once the timer is as it was asked for."""
    return install(Machine.this(), ROOT, arguments)


def install(machine: Machine, clone: Path, arguments: argparse.Namespace) -> int:
    """Install or remove a stack's timer. KitError where the machine has nothing that could run it."""
    when = moment(arguments.at)
    if "PULUMI_CONFIG_PASSPHRASE" in machine.environment and not arguments.remove:
        raise KitError(
            "the passphrase comes from the environment (PULUMI_CONFIG_PASSPHRASE), and a timer has none.",
            "Put it into a file that only you can read, and name that: PULUMI_CONFIG_PASSPHRASE_FILE",
        )
    if machine.systemd:
        _systemd(machine, clone, arguments, when)
    elif machine.crontab:
        _cron(machine, clone, arguments, when)
    else:
        raise KitError(
            "this machine has neither systemd nor cron.",
            f"Have whatever starts programs here run each day:\n{shlex.join(command(clone, arguments.stack))}",
        )
    return 0


def moment(said: str) -> str:
    """daily, weekly, or a time of day as HH:MM. KitError for anything else."""
    if said in ("", DAILY):
        return HOUR
    if said == WEEKLY or CLOCK.fullmatch(said):
        return said
    raise KitError(f"{said!r} is no time.", "Write daily, weekly, or HH:MM, such as 04:20.", code=2)


def command(clone: Path, stack: str) -> list[str]:
    """What the timer runs."""
    return [str(clone / "kit"), "rotate", "--due", stack]


def name(stack: str) -> str:
    return f"ai-kit-rotate-{stack}"


# ------------------------------------------------------------------------------------------------------- systemd


def units(machine: Machine, clone: Path, stack: str, when: str) -> dict[str, str]:
    """The two unit files, by name."""
    settings = {key: machine.environment[key] for key in CARRIED if machine.environment.get(key)}
    settings["HOME"] = str(machine.home)
    lines = "".join(f"Environment={_quoted(f'{key}={value}')}\n" for key, value in sorted(settings.items()))
    words = " ".join(_quoted(word).replace("$", "$$") for word in command(clone, stack))
    calendar = f"Mon *-*-* {HOUR}:00" if when == WEEKLY else f"*-*-* {when}:00"
    return {
        f"{name(stack)}.service": f"""\
# Written by ./kit schedule {stack}. Taken away by ./kit schedule {stack} --remove.
[Unit]
Description=ai-kit: rotate the secrets of stack {stack} that are due
After=docker.service network-online.target

[Service]
Type=oneshot
WorkingDirectory={_escaped(str(clone))}
{lines}ExecStart={words}
TimeoutStartSec=2h
Nice=10
""",
        f"{name(stack)}.timer": f"""\
# Written by ./kit schedule {stack}. Taken away by ./kit schedule {stack} --remove.
[Unit]
Description=ai-kit: when the secrets of stack {stack} are looked at

[Timer]
OnCalendar={calendar}
RandomizedDelaySec={SPREAD}
Persistent=true

[Install]
WantedBy=timers.target
""",
    }


def _quoted(word: str) -> str:
    """A word of a unit file: quoted, and what systemd would replace written twice. Commands need "$$" as well."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _escaped(path: str) -> str:
    return path.replace("%", "%%")


def _systemd(machine: Machine, clone: Path, arguments: argparse.Namespace, when: str) -> None:
    wanted = units(machine, clone, arguments.stack, when)
    timer = f"{name(arguments.stack)}.timer"
    there = {file: (machine.units / file).read_text() for file in wanted if (machine.units / file).exists()}
    if arguments.remove:
        if not there:
            console.say(f"there is no timer of stack {arguments.stack}")
            return
        steps = [[*machine.systemctl, "disable", "--now", timer], [*machine.systemctl, "daemon-reload"]]
        if arguments.dry_run:
            _say_dry([], [machine.units / file for file in there], steps)
            return
        machine.run(steps[0], "")
        for file in there:
            (machine.units / file).unlink()
        machine.run(steps[1], "")
        console.done(f"the timer of stack {arguments.stack} is gone")
        return
    steps = [[*machine.systemctl, "daemon-reload"], [*machine.systemctl, "enable", "--now", timer]]
    if arguments.dry_run:
        _say_dry([(machine.units / file, text) for file, text in wanted.items()], [], steps)
        return
    if there == wanted:
        machine.run(steps[1], "")
        console.done(f"{timer} is there already")
        return
    machine.units.mkdir(parents=True, exist_ok=True)
    for file, text in wanted.items():
        (machine.units / file).write_text(text, encoding="utf-8")
    for step in steps:
        machine.run(step, "")
    console.done(f"{timer}: {'each Monday' if when == WEEKLY else 'each day'} at {HOUR if when == WEEKLY else when}")
    if not machine.root:
        console.note("it runs while you are logged in; to have it always: loginctl enable-linger")


def _say_dry(files: list[tuple[Path, str]], gone: list[Path], steps: list[list[str]]) -> None:
    for path, text in files:
        console.say(f"# would write {path}")
        console.say(text)
    for path in gone:
        console.say(f"# would remove {path}")
    for step in steps:
        console.say(f"# would run {shlex.join(step)}")


# ---------------------------------------------------------------------------------------------------------- cron


def cron_line(machine: Machine, clone: Path, stack: str, when: str) -> str:
    """The line of a crontab; its comment is how it is found again. A % would end the command there."""
    hour, minute = (HOUR if when == WEEKLY else when).split(":")
    settings = [f"{key}={shlex.quote(machine.environment[key])}" for key in CARRIED if machine.environment.get(key)]
    words = " ".join([*settings, shlex.join(command(clone, stack))])
    line = f"cd {shlex.quote(str(clone))} && {words} # {name(stack)}".replace("%", "\\%")
    return f"{int(minute)} {int(hour)} * * {'1' if when == WEEKLY else '*'} {line}"


def _cron(machine: Machine, clone: Path, arguments: argparse.Namespace, when: str) -> None:
    console.note("this machine has no systemd: cron it is")
    mark = f"# {name(arguments.stack)}"
    before = machine.run(["crontab", "-l"], "").splitlines()
    after = [line for line in before if not line.endswith(mark)]
    if not arguments.remove:
        after.append(cron_line(machine, clone, arguments.stack, when))
    if sorted(after) == sorted(before):
        console.done(
            f"there is no timer of stack {arguments.stack}" if arguments.remove else "the line is there already"
        )
        return
    text = "".join(f"{line}\n" for line in after)
    if arguments.dry_run:
        console.say(f"# would be the crontab:\n{text}")
        return
    machine.run(["crontab", "-"], text)
    console.done(f"the line of stack {arguments.stack} {'is gone' if arguments.remove else 'is in the crontab'}")


def _run(argv: Sequence[str], text: str) -> str:
    """A program's output. KitError with what it said when it fails; an empty crontab is none."""
    english = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(list(argv), input=text, capture_output=True, text=True, check=False, env=english)
    # Whatever else keeps the crontab from being read must not end in writing a new one over it.
    if done.returncode and not (list(argv) == ["crontab", "-l"] and "no crontab" in done.stderr.lower()):
        said = (done.stderr or done.stdout).strip()
        raise KitError(f"{shlex.join(argv)} failed: {said.splitlines()[0] if said else 'no message'}", said)
    return done.stdout if done.returncode == 0 else ""
