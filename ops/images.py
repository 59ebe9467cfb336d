"""./kit images: every image, what its tag stands for, whether there is a newer one; `lock` writes images.lock.json.

What a registry does not say is said to be unknown, with the day on which the tag was chosen. Nothing is guessed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

from ops import console, imagelock, imagescan, source
from ops.console import KitError
from ops.imagelock import Answers
from ops.planview import used_images
from ops.registry import Client, RegistryError, newest
from ops.session import Session
from ops.stackstate import write_atomically
from stack import images, lock
from stack.model import ImageLock, ImagePin, SpecError
from stack.plan import Plan
from stack.planning.resolve import holders

UNKNOWN = "unknown"
COLUMNS = ("image", "pinned", "digest", "newest", "age", "architectures", "source", "used by")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image of a stack. digest, newest: "" where it is not locked, not known. age_days: None where not known.

    locked_by: images.lock.json, "first up" or stack/images.py. Of an image that is built here, digest is the hash of
    its recipe's content, built_version what it is of, arches this machine's. moved: what the tag stands for now, where
    that is not what is locked. unknown: why the registry says nothing. standin: what runs in its place, where it is not
    the real server, by name.
    """

    name: str
    repository: str
    tag: str
    pinned: str
    digest: str
    locked_by: str
    newest: str
    age_days: int | None
    arches: tuple[str, ...]
    source: str
    built_version: str
    used_by: tuple[str, ...]
    moved: str
    unknown: str
    standin: str = ""


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a recipe makes on this machine: of which version, the hash of its content, for which architecture.

    standin: its name, where it is a stand-in.
    """

    version: str
    content: str
    arch: str
    standin: str = ""


def rows(
    plan: Plan,
    answers: Answers,
    tags: Mapping[str, tuple[str, ...]],
    committed: Mapping[str, ImageLock],
    built: Mapping[str, Built],
    today: date,
) -> list[Row]:
    """One row per image of a plan. tags: of each repository that answered. built: what is or would be built here."""
    users: dict[str, list[str]] = {}
    for service in plan.services:
        for holder in holders(service.spec) if not service.retired else ():
            if service.name not in users.setdefault(holder.image.name, []):
                users[holder.image.name].append(service.name)
    users.setdefault(images.TOOLS.name, []).append("file delivery")
    found: list[Row] = []
    for pin in used_images(plan):
        there = answers.found.get(pin.tagged)
        here = built.get(pin.name) if plan.settings.images == source.AIRGAP else None
        locked = plan.settings.image_locks.get(pin.tagged)
        if here:
            digest, arches = here.content, {here.arch}
            by = lock.FILE if pin.name in plan.settings.built_locks else ""
        else:
            digest = pin.digest or (locked.digest if locked else "")
            arches = set(there.arches) if there else {arch.value for arch in (locked.arches if locked else pin.arches)}
            by = "first up" if locked else ""
            by = "stack/images.py" if pin.digest else lock.FILE if pin.tagged in committed else by
        made = there.created if there else None
        found.append(
            Row(
                name=pin.name,
                repository=pin.repository,
                tag=pin.tag,
                pinned=pin.pinned,
                digest=digest,
                locked_by=by,
                newest=newest(tags[pin.repository], pin.tag) if pin.repository in tags else "",
                age_days=(today - made).days if made else None,
                arches=tuple(sorted(arches)),
                source=("stand-in, built here" if here.standin else "built here") if here else "registry",
                built_version=here.version if here else "",
                used_by=tuple(users.get(pin.name, ())),
                moved=there.digest if there and digest and not here and there.digest != digest else "",
                unknown=answers.unknown.get(pin.tagged, ""),
                standin=here.standin if here else "",
            )
        )
    return found


def table(found: Iterable[Row]) -> list[str]:
    """The rows for a person, and below them what they should know."""
    audited = list(found)
    lines: list[tuple[str, ...]] = [COLUMNS]
    for row in audited:
        digest = f"{row.digest.removeprefix('sha256:')[:12]} ({row.locked_by or 'not locked'})" if row.digest else ""
        origin = f"{row.source}, {row.built_version}" if row.built_version else row.repository.partition("/")[0]
        age = f"{row.age_days} d" if row.age_days is not None else f"{UNKNOWN}, pinned {row.pinned or 'one day'}"
        new = "-" if row.newest == row.tag else row.newest or UNKNOWN
        users = ", ".join(row.used_by)
        name = row.standin or row.name
        lines.append((name, row.tag, digest or "not locked", new, age, " ".join(row.arches), origin, users))
    text = console.table(lines)
    notes = [f"{row.name}: the tag {row.tag} now stands for {row.moved[:19]}" for row in audited if row.moved]
    if notes:
        notes.append("what is locked stays in use; to take what the tags are now: ./kit images lock")
    notes += [f"{row.standin} is a stand-in for {row.repository}, not that image" for row in audited if row.standin]
    reasons = sorted({row.unknown for row in audited if row.unknown})
    if reasons:
        notes += [*reasons, "so what is newest, and how old an image is, cannot be said of theirs"]
    return [*text, *(["", *notes] if notes else [])]


# ------------------------------------------------------------------------------------------------------- verb


def audit(session: Session, plan: Plan, client: Client | None = None, today: date | None = None) -> list[Row]:
    """The rows of a stack, with what the registries say now."""
    client = client or Client()
    pins = used_images(plan)
    answers = imagelock.ask(pins, created=True, client=client)
    answering = sorted({pin.repository for pin in pins if pin.tagged in answers.found})

    def listed(repository: str) -> tuple[str, tuple[str, ...] | None]:
        try:
            return repository, client.tags(repository)
        except RegistryError:
            return repository, None

    with ThreadPoolExecutor(max_workers=imagelock.MAX_THREADS, thread_name_prefix="tags") as pool:
        tags = {name: found for name, found in pool.map(listed, answering) if found is not None}
    from airgap.images import by_pin, content_hash
    from airgap.images.recipe import host_arch

    built = {
        pin: Built(
            version=recipe.version,
            content=content_hash(recipe)[:12],
            arch=host_arch(),
            standin=recipe.name if recipe.standin_for else "",
        )
        for pin, recipe in by_pin().items()
    }
    committed = lock.read(session.root).registry
    return rows(plan, answers, tags, committed, built, today or datetime.now(UTC).date())


def run(arguments: argparse.Namespace) -> int:
    """0; 1 when `lock` could not lock every image, or `scan` found too much; 3 when that could not be judged."""
    session = Session(arguments.stack)
    if arguments.action == "scan":
        return imagescan.run(session, arguments)
    if arguments.action == "lock":
        return write_lock(session, as_json=arguments.json)
    found = audit(session, session.plan())
    if arguments.json:
        console.say(json.dumps({"stack": session.stack, "images": [asdict(row) for row in found]}, indent=2))
        return 0
    for line in table(found):
        console.say(line)
    return 0


# ------------------------------------------------------------------------------------------------------- lock


@dataclass(frozen=True, kw_only=True)
class Locked:
    """The new content of images.lock.json, what changed in it, and what could not be locked, and why."""

    locks: lock.Locks
    changed: tuple[str, ...]
    failed: Mapping[str, str]


def relock(pins: Iterable[ImagePin], old: lock.Locks, answers: Answers, today: date) -> Locked:
    """Lock every pin to what its tag stands for now. One that cannot be asked about keeps the lock it had.

    Locks of tags that are no longer pinned go. The day of a lock that did not change stays.
    """
    new: dict[str, ImageLock] = {}
    changed: list[str] = []
    failed: dict[str, str] = {}
    for tagged in sorted({pin.tagged for pin in pins}):
        before, found = old.registry.get(tagged), answers.found.get(tagged)
        try:
            if found is None:
                raise ValueError(answers.unknown.get(tagged, "nothing is known of it"))
            after = imagelock.lock_of(found, today)
        except ValueError as error:
            failed[tagged] = str(error)
            after = before
        if after is None:
            continue
        if before and replace(after, locked=before.locked) == before:
            after = before
        elif after != before:
            changed.append(f"{tagged}: {before.digest[:19] if before else 'not locked'} -> {after.digest[:19]}")
        new[tagged] = after
    changed += [f"{tagged}: no longer pinned" for tagged in sorted(set(old.registry) - {pin.tagged for pin in pins})]
    return Locked(locks=replace(old, registry=new), changed=tuple(changed), failed=failed)


def relock_built(old: lock.Locks, made: Mapping[str, str]) -> Locked:
    """Lock every image that is built here to its recipe's content. made: name -> content hash."""
    new: dict[str, frozenset[str]] = {}
    changed: list[str] = []
    for name, content in sorted(made.items()):
        before = old.built.get(name, frozenset[str]())
        new[name] = before if content in before else frozenset({content})
        if content not in before:
            changed.append(f"{name}: {', '.join(sorted(before)) or 'not locked'} -> {content}")
    changed += [f"{name}: no longer built" for name in sorted(set(old.built) - set(made))]
    return Locked(locks=replace(old, built=new), changed=tuple(changed), failed={})


def write_lock(session: Session, *, as_json: bool) -> int:
    """Write the clone's images.lock.json, for the source of images that the stack has."""
    path = session.root / lock.FILE
    try:
        old = lock.read(session.root)
    except SpecError:
        old = lock.Locks()  # unreadable: that is why somebody writes it anew
    if session.chosen_images == source.AIRGAP:
        made = {name: reference.rpartition("-")[2] for name, reference in session.built_images().items()}
        result = relock_built(old, made)
    else:
        pins = [value for value in vars(images).values() if isinstance(value, ImagePin)]
        result = relock(pins, old, imagelock.ask(pins), datetime.now(UTC).date())
    _write(path, result.locks)
    if as_json:
        console.say(json.dumps({"changed": result.changed, "failed": dict(result.failed)}, indent=2))
    else:
        for line in result.changed:
            console.done(line)
        console.say(f"{lock.FILE}: {len(result.changed)} changed. Review it (git diff) and commit it.")
    if result.failed and not as_json:
        failures = [f"{tagged}: {why}" for tagged, why in sorted(result.failed.items())]
        raise KitError(
            f"{len(result.failed)} images could not be locked; what was locked before stays.", "\n".join(failures)
        )
    return 1 if result.failed else 0


def _write(path: Path, locks: lock.Locks) -> None:
    if locks.registry or locks.built or path.exists():
        write_atomically(path, lock.render(locks))
        path.chmod(0o644)  # to be committed, and it holds nothing secret
