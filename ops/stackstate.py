"""Where a stack's state lives and what Pulumi is told about it. Nothing is ever written into the clone.

    $XDG_STATE_HOME/ai-kit/backend/           Pulumi's file backend
    $XDG_STATE_HOME/ai-kit/passphrase         what encrypts the secrets in it, mode 0600, made once
    $XDG_STATE_HOME/ai-kit/stacks/<stack>/    Pulumi.<stack>.yaml (the merged copy), choices.json, settled.json,
                                              rotating, images.lock.json, ca.pem, logs/

A backend or passphrase that the user's environment names wins over ours.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from ops.console import KitError
from ops.paths import private_directory, state_home
from stack import lock, project
from stack.model import ImageLock, SpecError

SALT = "encryptionsalt"
Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the first `up` decided for this machine, and why. tiny_models: named ones could not be fetched."""

    images: str
    chosen_at: str
    why: str
    tiny_models: bool = False


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A lock of Pulumi's file backend: who holds the stack."""

    path: Path
    pid: int
    username: str
    hostname: str
    timestamp: str


class StackState:
    """The files of one stack. `project` is the name in Pulumi.yaml, `root` the clone."""

    def __init__(self, root: Path, stack: str, environment: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.stack = stack
        self.project = str(project.read(root / project.PROJECT_FILE).get("name", "ai-kit"))
        self._environment = os.environ if environment is None else environment
        self.home = state_home()
        self.directory = self.home / "stacks" / stack
        self.config_file = self.directory / f"Pulumi.{stack}.yaml"
        self.ca_file = self.directory / "ca.pem"
        self._choices_file = self.directory / "choices.json"
        self._settled_file = self.directory / "settled.json"
        self._locks_file = self.directory / lock.FILE
        self._passphrase_file = self.home / "passphrase"

    @property
    def stack_file(self) -> Path:
        """The operator's file, in the clone."""
        return self.root / f"Pulumi.{self.stack}.yaml"

    @property
    def rotating(self) -> Path:
        """There while a rotation was begun and no `up` has gone through since."""
        return self.directory / "rotating"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    # ------------------------------------------------------------------------------------------- backend

    @property
    def own_backend(self) -> bool:
        """Whether the state is in our file backend, and not in one that the environment names."""
        return not self._environment.get("PULUMI_BACKEND_URL")

    @property
    def backend_url(self) -> str:
        return self._environment.get("PULUMI_BACKEND_URL") or f"file://{self.home / 'backend'}"

    @property
    def backend_directory(self) -> Path | None:
        """The directory of a file backend; None for any other."""
        if not self.backend_url.startswith("file://"):
            return None
        path = self.backend_url.removeprefix("file://")
        return Path.home() / path.removeprefix("~").lstrip("/") if path.startswith("~") else Path(path)

    @property
    def checkpoint(self) -> Path | None:
        """The stack's state file; None where the backend is none of files."""
        backend = self.backend_directory
        return backend / ".pulumi" / "stacks" / self.project / f"{self.stack}.json" if backend else None

    def exists(self) -> bool | None:
        """Whether the backend knows the stack; None when only Pulumi can tell."""
        checkpoint = self.checkpoint
        if checkpoint is None:
            return None
        return checkpoint.exists() or checkpoint.with_suffix(".json.gz").exists()

    def locks(self) -> list[Lock]:
        """Who holds the stack, by the backend's lock files."""
        backend = self.backend_directory
        if backend is None:
            return []
        directory = backend / ".pulumi" / "locks"
        found = [parse_lock(path) for path in sorted(directory.glob(f"**/{self.project}/{self.stack}/*.json"))]
        return [lock for lock in found if lock]

    # ---------------------------------------------------------------------------------------- passphrase

    @property
    def own_passphrase(self) -> bool:
        """Whether the passphrase is the one in our file."""
        return "PULUMI_CONFIG_PASSPHRASE" not in self._environment and not self._environment.get(
            "PULUMI_CONFIG_PASSPHRASE_FILE"
        )

    def passphrase_source(self) -> str:
        """Where the passphrase comes from, for messages."""
        if "PULUMI_CONFIG_PASSPHRASE" in self._environment:
            return "PULUMI_CONFIG_PASSPHRASE"
        return self._environment.get("PULUMI_CONFIG_PASSPHRASE_FILE") or str(self._passphrase_file)

    def passphrase_lost(self) -> bool:
        """Whether there are stacks whose passphrase file is gone."""
        return self.own_passphrase and self.own_backend and not self._passphrase_file.exists() and self._any_stack()

    def _any_stack(self) -> bool:
        backend = self.backend_directory
        return backend is not None and any((backend / ".pulumi" / "stacks").glob("*/*.json"))

    def ensure(self) -> None:
        """Make the directories, and the passphrase where there is none and none can have been lost."""
        private_directory(self.home)
        private_directory(self.directory)
        private_directory(self.logs)
        if self.own_backend:
            private_directory(self.home / "backend")
        if self.own_passphrase and not self._passphrase_file.exists():
            if self.passphrase_lost():
                raise KitError(*lost_passphrase(self._passphrase_file, self.stack))
            self._make_passphrase()

    def _make_passphrase(self) -> None:
        """Complete under its name at once, and never over another: two first runs agree on one."""
        draft = self._passphrase_file.with_name(f".passphrase.{os.getpid()}")
        draft.unlink(missing_ok=True)
        create_private(draft, secrets.token_urlsafe(32))
        try:
            os.link(draft, self._passphrase_file)
        except FileExistsError:
            pass
        finally:
            draft.unlink()

    def environment(self, toolchain: Mapping[str, str], python: Path) -> dict[str, str]:
        """The environment Pulumi runs in: the user's, then the toolchain's, then what is missing of ours."""
        result = {**self._environment, **toolchain}
        result.setdefault("PULUMI_PYTHON_CMD", str(python))
        result.setdefault("AIKIT_PYTHON", str(python))
        result["PULUMI_BACKEND_URL"] = self.backend_url
        if self.own_passphrase:
            result["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(self._passphrase_file)
        result["PULUMI_SKIP_UPDATE_CHECK"] = "true"
        result["PULUMI_ERROR_OUTPUT_STRING"] = "1"  # a formatted Output fails loudly instead of ending up in a file
        return result

    # ----------------------------------------------------------------------------------- choices, config

    def choices(self) -> Choices | None:
        """What an earlier `up` decided; None before the first."""
        try:
            raw = json.loads(self._choices_file.read_text(encoding="utf-8"))
            return Choices(**raw)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise KitError(
                f"{self._choices_file} cannot be read ({error}).",
                "It records where images come from. Put it right, or set ai-kit:images in the stack file.",
            ) from error

    def record(self, choices: Choices) -> None:
        write_atomically(self._choices_file, json.dumps(asdict(choices), indent=2) + "\n")

    def settled(self) -> Mapping[str, str] | None:
        """What each Choice was when an `up` last went through; None before the first."""
        try:
            return cast(dict[str, str], json.loads(self._settled_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise KitError(
                f"{self._settled_file} cannot be read ({error}).",
                "It only records what the last up ran with, so that a change is told: remove it.",
            ) from error

    def record_settled(self, values: Mapping[str, str]) -> None:
        write_atomically(self._settled_file, json.dumps(dict(values), indent=2) + "\n")

    def image_locks(self) -> Mapping[str, ImageLock]:
        """What the images of this stack were when they were first used."""
        try:
            return lock.parse(self._locks_file.read_text(encoding="utf-8")).registry
        except FileNotFoundError:
            return {}
        except (SpecError, UnicodeDecodeError) as error:
            raise KitError(
                f"{self._locks_file} cannot be read ({str(error).splitlines()[0]}).",
                "It records which images this stack uses. Put it right, or remove it: the next up locks what the tags "
                "stand for then.",
            ) from error

    def record_image_locks(self, locks: Mapping[str, ImageLock]) -> None:
        write_atomically(self._locks_file, lock.render(lock.Locks(registry=locks)))

    def operator_config(self) -> Document:
        """What the clone's stack file says."""
        return dict(project.read(self.stack_file))

    def merged_config(self) -> Document:
        """The merged copy of the last run, {} before the first."""
        return dict(project.read(self.config_file)) if self.config_file.exists() else {}

    def write_config(self, document: Document) -> None:
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        write_atomically(self.config_file, text)

    @contextmanager
    def scratch_config(self, document: Document) -> Iterator[Path]:
        """A configuration for one command only; the merged copy stays as it is."""
        path = self.directory / f".Pulumi.{self.stack}.{os.getpid()}.yaml"
        create_private(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def bare_project(self, directory: Path) -> Path:
        """A project of that name alone, for what writes beside Pulumi.yaml; returns the stack's file that it writes."""
        text = yaml.safe_dump({"name": self.project, "runtime": "python"})
        (directory / project.PROJECT_FILE).write_text(text, encoding="utf-8")
        return directory / self.stack_file.name

    def forget_checkpoint(self) -> None:
        """Remove the stack from a file backend, where Pulumi cannot (its passphrase is gone), and our copies of it."""
        checkpoint, backend = self.checkpoint, self.backend_directory
        if checkpoint is None or backend is None:
            return
        for path in checkpoint.parent.glob(f"{self.stack}.json*"):
            path.unlink()
        if self.own_backend:  # Pulumi keeps its copies for ever; in somebody else's backend that is their decision
            for kind in ("backups", "history"):
                shutil.rmtree(backend / ".pulumi" / kind / self.project / self.stack, ignore_errors=True)

    def forget(self) -> None:
        """Remove everything kept for the stack beside the backend."""
        shutil.rmtree(self.directory, ignore_errors=True)


# --------------------------------------------------------------------------------------------- pure functions


def merge(
    operator: Document, previous: Document, overrides: Mapping[str, Any], *, project: str, salt: str | None = None
) -> Document:
    """The configuration Pulumi gets: the operator's file, a salt, and what ./kit decided (`overrides`, by key).

    The operator's own salt wins: their `secure:` values were made with it.
    """
    result: Document = {key: value for key, value in operator.items() if key not in (SALT, "config")}
    found_salt = operator.get(SALT) or previous.get(SALT) or salt
    if found_salt:
        result[SALT] = found_salt
    config = dict(cast(Mapping[str, Any], operator.get("config") or {}))
    for key, value in overrides.items():
        config.pop(key, None)  # the stack file may leave the project's name out
        config[f"{project}:{key}"] = value
    result["config"] = config
    return result


def config_value(document: Document, project: str, key: str) -> Any:
    """A key of the project in a stack file, None when it is not set."""
    config = cast(Mapping[str, Any], document.get("config") or {})
    return config.get(f"{project}:{key}", config.get(key))


def parse_lock(path: Path) -> Lock | None:
    """A lock file; None when it went away or is half written."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Lock(
            path=path,
            pid=int(raw["pid"]),
            username=str(raw.get("username", "?")),
            hostname=str(raw.get("hostname", "?")),
            timestamp=str(raw.get("timestamp", "?")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_stale(lock: Lock, hostname: str, alive: bool) -> bool:
    """Whether a lock was left by a process of this host that is gone. Of other hosts nobody here can know."""
    return lock.hostname == hostname and not alive


_ENDED = frozenset("ZXx")  # states in /proc/PID/stat: zombie, dead


def process_alive(pid: int, program: str = "pulumi") -> bool:
    """Whether that process runs and is a Pulumi: a number that came round again holds no lock.

    Nor does one that has ended and that nobody waited for: without an init, as in many containers, a killed process
    whose parent was killed too stays in the table for good.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        name, rest = stat.split("(", 1)[1].rsplit(")", 1)  # the name may hold anything, parentheses too
        return program in name and rest.split()[0] not in _ENDED
    except (OSError, IndexError, ValueError):
        pass
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def lost_passphrase(path: Path, stack: str) -> tuple[str, str]:
    """What to say when secrets exist and the passphrase does not."""
    return (
        f"the passphrase is gone: {path} is missing, and the state's secrets cannot be read without it.",
        f"Put the file back from where you keep a copy, or set PULUMI_CONFIG_PASSPHRASE. A new one would not fit.\n"
        f"To give the data up and start anew: ./kit down {stack} --data",
    )


def create_private(path: Path, text: str) -> None:
    """A new file that only its owner can read. FileExistsError when there is one."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, text: str) -> None:
    """The file is the old one or the new one, never half of either. Mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    create_private(temporary, text)
    temporary.replace(path)
