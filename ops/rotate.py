"""./kit rotate: make secrets anew, by raising their numbers in the stack file and bringing the stack up."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ops import certificates, console, generations, passphrase, stackfile, toolchain, up
from ops.cli import DEFAULT_STACK, check_stack
from ops.console import KitError
from ops.generations import Held
from ops.paths import ROOT
from ops.progress import Progress
from ops.session import Session
from ops.stackstate import config_value
from stack import rotation
from stack.model import Never
from stack.plan import Numbered, Plan, SecretKey
from stack.words import did_you_mean

KEY = "rotation"


@dataclass(frozen=True)
class Row:
    """A secret as --list shows it.

    days: since it was made, None where the state does not say. due: by its own age. held: the state's generation, 0
    where it has none.
    """

    secret: Numbered
    days: int | None
    due: bool
    held: int = 0

    @property
    def name(self) -> str:
        return str(self.secret.key)

    @property
    def following(self) -> int:
        """The number that makes it anew: the one that is written already, where no `up` has come to it yet."""
        asked = self.secret.generation
        return asked if 0 < self.held < asked else asked + 1


def run(arguments: argparse.Namespace) -> int:
    """What `up` returns; 0 for the list, and where nothing is due."""
    name, stack = words(arguments)
    if name == passphrase.WORD:
        return _passphrase(arguments.words)
    check_stack(ROOT, stack)
    session = Session(stack)
    plan = session.plan()
    found = rows(plan, held(session, plan), datetime.now(UTC))
    if arguments.list:
        say(found, as_json=arguments.json)
        return 0
    if arguments.due and config_value(session.state.merged_config(), session.state.project, "down"):
        console.say(f"stack {stack} is down: what is due waits for ./kit up {stack}")
        return 0
    again = argparse.Namespace(stack=stack, no_prove=arguments.no_prove)
    if session.state.rotating.exists():
        # Another number now would leave behind a server that has not come to the last one.
        console.note("the last rotation was cut short: it is finished first")
        if code := up.run(again):
            return code
        session = Session(stack)
        plan = session.plan()
        found = rows(plan, held(session, plan), datetime.now(UTC))
    chosen = due(found) if arguments.due else named(found, name)
    if not arguments.due:
        check_authorities(plan, name)
    if arguments.due and not chosen and certificates.renewed(session, plan):
        console.note(f"{plan.settings.certificate_chain} was renewed: it is taken over")
        return up.run(again)
    if not chosen:
        console.say("nothing is due")
        return 0
    save(session, plan, chosen)
    session.state.ensure()
    session.state.rotating.touch()
    return up.run(again)


def _passphrase(said: Sequence[str]) -> int:
    """It guards the state of every stack, and is no secret of one."""
    if len(said) > 1:
        raise KitError(
            f"one word too many: {said[1]}. One passphrase guards the state of all stacks.",
            f"./kit rotate {passphrase.WORD}",
            code=2,
        )
    progress = Progress()
    return passphrase.rotate(toolchain.ensure(progress, toolchain.sdk_versions()), progress)


def words(arguments: argparse.Namespace) -> tuple[str, str]:
    """The secret's name ("" with --list and --due) and the stack's. KitError when the words do not fit."""
    said: list[str] = arguments.words
    nameless = arguments.list or arguments.due
    if arguments.list and arguments.due:
        raise KitError("--list and --due are two things.", "./kit rotate --help", code=2)
    if not nameless and not said:
        raise KitError("what is to be rotated?", "./kit rotate --list shows the names.", code=2)
    if len(said) > (1 if nameless else 2):
        raise KitError(f"one word too many: {said[-1]}", "./kit rotate --help", code=2)
    if nameless:
        return "", said[0] if said else DEFAULT_STACK
    return said[0], said[1] if len(said) > 1 else DEFAULT_STACK


def held(session: Session, plan: Plan) -> Mapping[SecretKey, Held]:
    """What the state has: its file where there is one, else as Pulumi exports it."""
    if session.state.checkpoint is not None:
        return generations.held(plan, session.recorded.deployment)
    pulumi = session.ready_pulumi()
    return generations.held(plan, pulumi.export() if pulumi.known() else {})


def rows(plan: Plan, known: Mapping[SecretKey, Held], now: datetime) -> list[Row]:
    """Every secret of the plan, by name."""
    found: list[Row] = []
    # Of what is kept and does not run nothing is made anew: its server would not be told, and keep the old one.
    resting = {service.name for service in plan.services if service.retired}
    numbered = [*(secret for secret in plan.secrets if secret.key.owner not in resting), *plan.certificates]
    signs, oldest = plan.authorities
    # Not now: a third CA while two are trusted, and the end of the only one.
    waiting = rotation.CA if signs > oldest else rotation.OLDEST
    for secret in sorted(numbered, key=lambda each: str(each.key)):
        made = known[secret.key].made if secret.key in known else None
        days = None if made is None else (now - made).days
        late = secret.days is not None and days is not None and days >= secret.days
        late = late and secret.key != SecretKey(rotation.TLS, waiting)
        number = known[secret.key].generation if secret.key in known else 0
        found.append(Row(secret, days, late and not isinstance(secret.rotates, Never), number))
    return found


def due(found: Sequence[Row]) -> list[Row]:
    return [row for row in found if row.due]


def named(found: Sequence[Row], name: str) -> list[Row]:
    """What a name means and can be rotated. KitError when that is nothing."""
    meant = [
        row for row in found if rotation.covers(name, row.secret.key.owner, row.secret.key.name, row.secret.keeper)
    ]
    if not meant:
        known = {row.name for row in found} | {row.secret.key.owner for row in found}
        raise KitError(
            f'there is no secret "{name}". {did_you_mean(name, known)}'.strip(),
            "./kit rotate --list shows the names.",
            code=2,
        )
    can = [row for row in meant if not isinstance(row.secret.rotates, Never)]
    if not can:
        reasons = [f"{row.name}: {row.secret.rotates.reason}" for row in meant if isinstance(row.secret.rotates, Never)]
        raise KitError(f"{name} is not rotated by a number.", "\n".join(reasons), code=2)
    return can


def check_authorities(plan: Plan, name: str) -> None:
    """KitError where a CA's turn has not come: two are trusted at most, and one is."""
    signs, oldest = plan.authorities
    ending = f"{rotation.TLS}/{rotation.OLDEST}"
    if name == rotation.SIGNS and signs > oldest:
        raise KitError(
            f"CA {oldest} is still trusted beside CA {signs}.",
            f"End it first, when all have imported the new ca.pem: ./kit rotate {ending} {plan.stack}",
            code=2,
        )
    if name == ending and signs == oldest:
        raise KitError(
            f"CA {signs} is the only one: there is no older one to end.",
            f"./kit rotate {rotation.SIGNS} {plan.stack} makes a new one.",
            code=2,
        )


def save(session: Session, plan: Plan, chosen: Sequence[Row]) -> None:
    """Write the next number of each into the stack file, whose other lines stay as they are."""
    wishes = dict(plan.settings.rotation)
    before = {name: rotation.written(name, wish) for name, wish in wishes.items()}
    for row in chosen:
        own = wishes.get(row.name, rotation.Wish())
        wishes[row.name] = rotation.Wish(row.following, own.days)
        console.note(f"{row.name}: {max(row.held, 1)} -> {row.following}")
    changed = {name: rotation.written(name, wish) for name, wish in wishes.items()}
    stackfile.save_items(
        session.state.stack_file,
        session.state.project,
        KEY,
        same=lambda text: rotation.parse(text)[0],
        items={name: text for name, text in changed.items() if text != before.get(name)},
    )
    console.done(f"{session.state.stack_file.name} says so now")


# ---------------------------------------------------------------------------------------------------------- list


def say(found: Sequence[Row], *, as_json: bool) -> None:
    """The table, or an object for programs."""
    if as_json:
        console.say(json.dumps([_entry(row) for row in found], indent=2, ensure_ascii=False))
        return
    lines = [("secret", "number", "age", "due", "rotating it")]
    lines += [(row.name, _number(row), _age(row), _when(row), rotation.meaning(row.secret.rotates)) for row in found]
    for line in console.table(lines, right=frozenset({1, 2, 3})):
        console.say(line)


def _entry(row: Row) -> dict[str, object]:
    return {
        "secret": row.name,
        "number": row.secret.generation,
        "days": row.days,
        "maximum": row.secret.days,
        "due": row.due,
        "rotating": rotation.meaning(row.secret.rotates),
    }


def _number(row: Row) -> str:
    return "-" if isinstance(row.secret.rotates, Never) else str(row.secret.generation)


def _age(row: Row) -> str:
    return "-" if row.days is None else f"{row.days} d"


def _when(row: Row) -> str:
    if row.secret.days is None or isinstance(row.secret.rotates, Never):
        return "-"
    return "now" if row.due else f"at {row.secret.days} d"
