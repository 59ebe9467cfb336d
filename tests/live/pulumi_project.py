"""A tiny Pulumi project for the live tests: the real CLI, engine and providers on a program of a few lines.

Each project has its own directory, state and passphrase, and its own prefix for what it makes in Docker.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
STACK = "organization/{project}/test"

PRELUDE = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
import pulumi
from pulumi import Output, ResourceOptions
"""


@dataclass(frozen=True)
class Step:
    """What the engine did, or would do, with one resource."""

    op: str
    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.op} {self.type.rsplit('/', 1)[-1].rsplit(':', 1)[-1]} {self.name}"


@dataclass(frozen=True)
class Result:
    """One run of the CLI. `steps` without "same" and "read"; `errors` are the engine's error diagnostics."""

    code: int
    text: str
    steps: tuple[Step, ...]
    changes: Mapping[str, int]
    errors: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def quiet(self) -> bool:
        """Nothing changed, or would change."""
        return self.ok and not self.steps

    def ops(self, name: str) -> set[str]:
        """What happened to the resource of that name, components left aside."""
        return {step.op for step in self.steps if step.name == name and not step.type.startswith("aikit:")}

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.text}\n" + "\n".join(str(step) for step in self.steps)


@dataclass
class Project:
    """A directory with a program. Set `program` and run; `config` goes to the program's pulumi.Config()."""

    directory: Path
    name: str = "kittrial"
    program: str = ""
    config: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    prefix: str = field(default_factory=lambda: f"kittrial-{secrets.token_hex(3)}")

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "state").mkdir(exist_ok=True)
        (self.directory / "Pulumi.yaml").write_text(f"name: {self.name}\nruntime: python\n", encoding="utf-8")
        self._cli("stack", "init", "test")

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PULUMI_BACKEND_URL": f"file://{self.directory}/state",
            "PULUMI_CONFIG_PASSPHRASE": "live-test",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_ERROR_OUTPUT_STRING": "1",
            "PULUMI_DEBUG_COMMANDS": "true",  # makes --event-log known
            "KIT_PREFIX": self.prefix,
            **self.environment,
        }

    def up(self, *flags: str) -> Result:
        """`pulumi up`, without the preview in front of it."""
        return self.run("up", "--yes", "--skip-preview", *flags)

    def preview(self, *flags: str) -> Result:
        return self.run("preview", *flags)

    def refresh(self, *flags: str) -> Result:
        return self.run("refresh", "--yes", "--skip-preview", *flags)

    def destroy(self, *flags: str) -> Result:
        return self.run("destroy", "--yes", "--skip-preview", *flags)

    def run(self, verb: str, *flags: str) -> Result:
        """Any verb that runs a deployment."""
        process = self.start(verb, *flags)
        text, _ = process.communicate(timeout=900)
        return self._result(process.returncode, text)

    def start(self, verb: str, *flags: str) -> subprocess.Popen[str]:
        """The same, not waited for."""
        main = PRELUDE + f"PREFIX = {self.prefix!r}\n" + textwrap.dedent(self.program)
        (self.directory / "__main__.py").write_text(main, encoding="utf-8")
        for key, value in self.config.items():
            self._cli("config", "set", "--stack", "test", "--plaintext", "--", key, value)
        self.events.unlink(missing_ok=True)
        return subprocess.Popen(
            [
                "pulumi",
                verb,
                "--stack",
                "test",
                "--non-interactive",
                "--color=never",
                "--event-log",
                str(self.events),
                *flags,
            ],
            cwd=self.directory,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def interrupt(self, process: subprocess.Popen[str], how: signal.Signals) -> str:
        """Send the signal to the CLI and what it started (as a terminal does), and wait for the end."""
        os.killpg(process.pid, how)
        text, _ = process.communicate(timeout=120)
        return text

    @property
    def events(self) -> Path:
        return self.directory / "events.jsonl"

    def export(self) -> dict[str, Any]:
        """`pulumi stack export`, secrets encrypted."""
        return json.loads(self._cli("stack", "export", "--stack", "test"))

    def orphans(self) -> list[str]:
        """Containers of this project that its state does not know: a killed run made them and wrote nothing down."""
        known = {resource.get("id") for resource in self.export()["deployment"].get("resources", [])}
        found = docker("ps", "-aq", "--no-trunc", "--filter", f"name={self.prefix}").split()
        return [container for container in found if container not in known]

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs, secrets in clear."""
        return json.loads(self._cli("stack", "output", "--stack", "test", "--json", "--show-secrets"))

    def unprotect(self) -> None:
        self._cli("state", "unprotect", "--stack", "test", "--all", "--yes")

    def unlock(self) -> None:
        """Remove the lock of a run that was killed."""
        self._cli("cancel", "--stack", "test", "--yes")

    def remove(self) -> None:
        """Destroy what is there, protected or not, and remove by hand what the state does not know."""
        self._cli("cancel", "--stack", "test", "--yes", check=False)
        self._cli("state", "unprotect", "--stack", "test", "--all", "--yes", check=False)
        self.destroy("--continue-on-error")
        for kind, listing in {
            "container": ["ps", "-aq"],
            "network": ["network", "ls", "-q"],
            "volume": ["volume", "ls", "-q"],
        }.items():
            found = docker(*listing, "--filter", f"name={self.prefix}").split()
            if found:
                docker(kind, "rm", *(["-f"] if kind != "network" else []), *found)

    def _result(self, code: int, text: str) -> Result:
        steps: list[Step] = []
        errors: list[str] = []
        changes: dict[str, int] = {}
        lines = self.events.read_text(encoding="utf-8").splitlines() if self.events.exists() else []
        for line in lines:
            event = json.loads(line)
            if "resourcePreEvent" in event:
                step = event["resourcePreEvent"]["metadata"]
                if step["op"] not in ("same", "read", "refresh"):
                    steps.append(Step(op=step["op"], type=step["type"], name=step["urn"].rsplit("::", 1)[-1]))
            elif "resOutputsEvent" in event:
                step = event["resOutputsEvent"]["metadata"]
                if step["op"] == "refresh" and step.get("diffs"):
                    steps.append(Step(op="drift", type=step["type"], name=step["urn"].rsplit("::", 1)[-1]))
            elif "diagnosticEvent" in event and event["diagnosticEvent"]["severity"] == "error":
                errors.append(event["diagnosticEvent"]["message"].strip())
            elif "summaryEvent" in event:
                changes = event["summaryEvent"]["resourceChanges"]
        return Result(code=code, text=text, steps=tuple(steps), changes=changes, errors=tuple(errors))

    def _cli(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["pulumi", *arguments], cwd=self.directory, env=self.env, text=True, capture_output=True, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"pulumi {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout


def docker(*arguments: str, check: bool = True, stdin: str | None = None) -> str:
    """The docker CLI's output."""
    done = subprocess.run(["docker", *arguments], text=True, capture_output=True, check=False, input=stdin)
    if check and done.returncode != 0:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def inspect(names: Sequence[str]) -> list[dict[str, Any]]:
    """`docker inspect` of containers."""
    return json.loads(docker("inspect", *names)) if names else []
