"""A new passphrase for the state of all stacks of this user: `./kit rotate passphrase`.

All is made in a directory beside the state: copies of the states and of the stack files, encrypted anew by Pulumi,
which the new passphrase opens and the old one does not. Only then a list of what goes where is written, and carried
out. Cut short before the list, nothing has changed; after it, whoever comes next carries it out to its end (`finish`).
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from ops import console, generations, pulumirun
from ops.console import KitError
from ops.paths import ROOT, private_directory, state_home
from ops.progress import Progress
from ops.pulumirun import Pulumi
from ops.stackstate import SALT, Document, StackState, create_private, write_atomically
from ops.toolchain import Toolchain
from stack.words import listed

WORD = "passphrase"  # what ./kit rotate calls it; no service can have the name of it
DRAFT = "passphrase.next"
MOVES = "moves.json"
HOW = "pulumi stack change-secrets-provider passphrase -s STACK changes one stack's: docs/security.md"


@dataclass(frozen=True)
class Held:
    """A stack with secrets: its state file, and the configuration that has its salt.

    secured: the configuration is the clone's own stack file, with values that are encrypted.
    """

    state: StackState
    file: Path
    config: Document
    secured: bool

    @property
    def name(self) -> str:
        return self.state.stack


def rotate(tools: Toolchain, progress: Progress, root: Path = ROOT) -> int:
    """Make the passphrase anew; 0. KitError, with nothing changed, where that cannot be done. root: the clone."""
    home = state_home()
    finish(home)
    check(StackState(root, "any"))
    found = list(stacks(home, root))
    draft = home / DRAFT
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was cut short before anything was moved
    old = home / WORD
    if not found:
        raise KitError("there is no stack whose secrets a passphrase opens.", "./kit up makes the first one.")
    private_directory(draft)
    try:
        create_private(draft / WORD, secrets.token_urlsafe(32))
        before = {one.file: one.file.read_bytes() for one in found}
        moves = {str(draft / WORD): str(old)}
        for one in found:
            with progress.step(f"encrypting stack {one.name} anew"):
                moves |= anew(one, tools, draft, old)
        _unlocked(found)
        if changed := [one.name for one in found if one.file.read_bytes() != before[one.file]]:
            raise KitError(
                f"stack {changed[0]} changed meanwhile: nothing was replaced.",
                "Wait for that to end, and run this again.",
            )
    except KitError:
        shutil.rmtree(draft)
        raise
    write_atomically(draft / MOVES, json.dumps(moves, indent=2))
    finish(home)
    console.done(f"{old} is new, and opens {listed(one.name for one in found)}; the old one opens none of them")
    _say_what_is_left(home, found)
    return 0


def finish(home: Path) -> None:
    """Carry out what a run was cut short in, if any was. Moves nothing twice."""
    draft = home / DRAFT
    try:
        moves = cast(Mapping[str, str], json.loads((draft / MOVES).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return
    for source, target in moves.items():
        with suppress(FileNotFoundError):  # moved already
            _move(Path(source), Path(target))
    shutil.rmtree(draft, ignore_errors=True)


def check(state: StackState) -> None:
    """KitError where the passphrase or the state is not ours to change."""
    if not state.own_passphrase:
        raise KitError(f"the passphrase comes from {state.passphrase_source()}, not from a file of ours.", HOW, code=2)
    if not state.own_backend:
        raise KitError(f"the state is in {state.backend_url}, where others may use it with the old one.", HOW, code=2)
    if state.passphrase_lost():
        raise KitError(
            f"the passphrase is gone: {state.home / WORD} is missing, and a new one can only be made with the old one.",
            "Bring the file back from your copy.",
        )


def stacks(home: Path, root: Path) -> Iterator[Held]:
    """Every stack of our backend that a passphrase guards. KitError for one that cannot be encrypted anew from here."""
    directory = home / "backend" / ".pulumi" / "stacks"
    for file in sorted((*directory.glob("*/*.json"), *directory.glob("*/*.json.gz"))):
        name = file.name.removesuffix(".gz").removesuffix(".json")
        state = StackState(root, name)
        if file.parent.name != state.project:
            raise KitError(
                f"stack {name} belongs to another project ({file.parent.name}) that has the same passphrase.",
                HOW,
                code=2,
            )
        provider = generations.parsed(file).get("secrets_providers") or {}
        if provider.get("type", WORD) != WORD:
            continue
        # It is another clone's where this one has no file for it.
        operator = state.operator_config() if state.stack_file.exists() else {}
        merged = state.merged_config()
        recorded = (provider.get("state") or {}).get("salt")
        if operator.get(SALT):
            yield Held(state, file, operator, True)
        elif secured(merged):
            raise KitError(
                f"stack {name} has secrets in its stack file, and {state.stack_file} is not that file.",
                "Run this in the clone that has it.",
                code=2,
            )
        elif salt := recorded or merged.get(SALT):
            yield Held(state, file, {SALT: salt, "config": {}}, False)


def secured(document: Document) -> bool:
    """Whether a configuration has a value that is encrypted, also one inside of a list or an object."""

    def inside(value: object) -> bool:
        match value:
            case dict():
                return "secure" in value or any(map(inside, cast(Mapping[str, object], value).values()))
            case list():
                return any(map(inside, cast(list[object], value)))
            case _:
                return False

    return any(map(inside, (document.get("config") or {}).values()))


def anew(one: Held, tools: Toolchain, draft: Path, old: Path) -> dict[str, str]:
    """Encrypt a copy of the stack anew; what is to be moved where."""
    state = one.state
    backend = draft / "backend"
    directory = private_directory(draft / "projects" / one.name)
    copy = backend / ".pulumi" / "stacks" / state.project / one.file.name
    private_directory(copy.parent)
    for name in ("meta.yaml", "meta.yaml.attrs"):
        source = state.home / "backend" / ".pulumi" / name
        if source.exists():
            shutil.copy2(source, backend / ".pulumi" / name)
    shutil.copy2(one.file, copy)
    config = state.bare_project(directory)
    if one.secured:
        shutil.copy2(state.stack_file, config)
    else:
        create_private(config, yaml.safe_dump(one.config))
    environment = state.environment(tools.env, Path(os.devnull)) | {"PULUMI_BACKEND_URL": f"file://{backend}"}
    with_old, with_new = (
        Pulumi(tools.pulumi, environment | {"PULUMI_CONFIG_PASSPHRASE_FILE": str(file)}, state)
        for file in (old, draft / WORD)
    )
    change = ("stack", "change-secrets-provider", WORD, "--stack", one.name)
    changed = with_old.command(*change, directory=directory, said=(draft / WORD).read_text(encoding="utf-8") + "\n")
    if changed.returncode:
        if "incorrect passphrase" in changed.stderr:
            raise KitError(*pulumirun.wrong_passphrase(state))
        raise pulumirun.failure(change, changed.stderr)
    look = ("stack", "export", "--show-secrets", "--stack", one.name)
    opened, refused = (pulumi.command(*look, directory=directory) for pulumi in (with_new, with_old))
    if opened.returncode or not refused.returncode:
        what = "does not open" if opened.returncode else "is not alone in opening"
        raise KitError(f"the new passphrase {what} the copy of stack {one.name}: nothing was replaced.", HOW)
    written = yaml.safe_load(config.read_text(encoding="utf-8"))
    moves = {str(copy): str(one.file)}
    if one.secured:
        moves[str(config)] = str(state.stack_file)
    if state.config_file.exists():
        merged = directory / "merged.yaml"
        create_private(merged, yaml.safe_dump(_merged(state.merged_config(), written), sort_keys=False))
        moves[str(merged)] = str(state.config_file)
    return moves


def _merged(merged: Document, written: Document) -> dict[str, Any]:
    """The copy of the last run with the new salt, and what is encrypted as the stack file has it now."""
    config = {**(merged.get("config") or {})}
    for key, value in (written.get("config") or {}).items():
        if key in config and secured({"config": {key: value}}):
            config[key] = value
    return {**merged, SALT: written[SALT], "config": config}


def _unlocked(found: list[Held]) -> None:
    for one in found:
        for lock in one.state.locks():
            if not pulumirun.abandoned(lock):
                raise KitError(*pulumirun.held(lock))


def _move(source: Path, target: Path) -> None:
    """Over what is there, whole or not at all, also from one file system to another; the mode stays the target's."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, temporary)
    temporary.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o600)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
    source.unlink()


def _say_what_is_left(home: Path, found: list[Held]) -> None:
    """Older copies, which nothing but the old passphrase opens."""
    backend = home / "backend" / ".pulumi"
    older = [path for kind in ("backups", "history") if any((path := backend / kind).glob("*/*"))]
    older += [bak for one in found if (bak := one.file.with_name(f"{one.file.name}.bak")).exists()]
    if older:
        console.note("older copies of the state still open with the old passphrase. If that leaked, remove them:")
        console.say(f"  rm -r {shlex.join(map(str, older))}")
    console.note(f"keep a copy of {home / WORD} where this machine's disk is not")
