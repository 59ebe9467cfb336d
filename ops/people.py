"""./kit people: who may log in, their first passwords, signing them out, and taking them out for good.

A first password is made when it is asked for, shown once, and kept nowhere: not in the state, not in a file. Keycloak
has its digest, and asks for another at the first login.
"""

from __future__ import annotations

import argparse
import json
import secrets
import string
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from ops import console
from ops.console import KitError
from ops.engine import DockerApi
from ops.identity import Administration, administration
from ops.prove import run_again
from ops.repair import left
from ops.session import Session
from stack.model import Role
from stack.outputs import StackOutputs
from stack.people import ADMIN_USER
from stack.plan import Plan, docker_prefix
from stack.proofs.context import ProofError
from stack.words import did_you_mean

MUST_CHANGE = "UPDATE_PASSWORD"
_LETTERS = "".join(sorted(set(string.ascii_letters + string.digits) - set("0O1lI")))


def run(arguments: argparse.Namespace) -> int:
    """The action that was asked for; without one, the list."""
    session = Session(arguments.stack)
    plan = session.plan()
    if plan.provider(Role.IDENTITY) is None:
        raise KitError(f"stack {session.stack} has no login, and so no people.")
    action = arguments.action or "list"
    if action != "list" and not arguments.name:
        raise KitError(f"./kit people {action}: whom?", f"./kit people {action} NAME", code=2)
    return _ACTIONS[action](session, plan, arguments)


def show(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """Everybody in the realm, and where they stand with their first password."""
    with _opened(session, plan) as admin:
        rows = [_row(admin, plan, user) for user in admin.users()]
    if arguments.json:
        console.say(json.dumps({"stack": session.stack, "people": rows}, indent=2))
        return 0
    head = ("user", "email", "groups", "from", "password")
    for line in console.table([head, *(tuple(str(row[name]) for name in head) for row in rows)]):
        console.say(line)
    return 0


def _row(admin: Administration, plan: Plan, user: Mapping[str, Any]) -> dict[str, Any]:
    configured = user["username"] in {person.username for person in plan.settings.people}
    return {
        "user": user["username"],
        "email": user.get("email", ""),
        "groups": ", ".join(admin.groups(user["id"])),
        "from": "configuration" if configured else "the program" if user["username"] == ADMIN_USER else "by hand",
        "password": "locked out" if not user["enabled"] else _password_of(admin, user),
        "enabled": user["enabled"],
    }


def _password_of(admin: Administration, user: Mapping[str, Any]) -> str:
    if not admin.has_password(user["id"]):
        return "none yet"
    return "not changed yet" if MUST_CHANGE in user.get("requiredActions", []) else "their own"


def password(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """A first password for somebody who has chosen none yet; with --reset for somebody who has."""
    name = arguments.name
    with _opened(session, plan) as admin:
        user = _found(admin, session, name)
        if name == ADMIN_USER and not arguments.reset:
            fix = (
                f"./kit status {session.stack} --show-login shows the one that it was made with. Changed "
                f"and forgotten? ./kit people password {name} --reset sets that one back"
            )
            raise KitError(f"{ADMIN_USER} is the program's own.", fix)
        if name == ADMIN_USER:  # proofs act as it, and a page that asks for another password would stop them
            admin.set_password(user["id"], admin.outputs.admin_password)
            admin.sign_out(user["id"])
            console.done(f"{name} has the password again that ./kit status {session.stack} --show-login shows")
            return 0
        if not user["enabled"]:
            raise KitError(f"{name} is locked out (enabled: false).", "Let them in first, in the configuration.")
        if _password_of(admin, user) == "their own" and not arguments.reset:
            raise KitError(
                f"{name} has a password of their own: nobody can look it up, and it stays as it is.",
                f"Forgotten? ./kit people password {name} --reset gives a new first one and signs them out.",
            )
        made = first_password()
        admin.give_password(user["id"], made)
        if arguments.reset:
            admin.sign_out(user["id"])
    console.say(f"user      {name}")
    console.say(f"password  {made}")
    console.note("shown once and kept nowhere. It must be changed at the first login; asked again, another is made")
    return 0


def first_password() -> str:
    """27 characters, about 139 bits, with capital and small letters, digits and dashes, easy to read out."""
    while True:
        made = "-".join("".join(secrets.choice(_LETTERS) for _ in range(6)) for _ in range(4))
        if all(any(kind(char) for char in made) for kind in (str.islower, str.isupper, str.isdigit)):
            return made


def logout(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """End all of somebody's sessions; applications that listen end theirs."""
    with _opened(session, plan) as admin:
        admin.sign_out(_found(admin, session, arguments.name)["id"])
    console.done(f"{arguments.name} is signed out everywhere")
    return 0


def remove(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """Lift the protection of somebody, or of a group, that left the configuration: the next up deletes them."""
    name = arguments.name
    settings = plan.settings
    if name in {person.username for person in settings.people} or name in settings.groups:
        fix = "Take it out there first. To lock a person out and keep the account, say enabled: false instead."
        raise KitError(f"{name} is in the configuration.", fix)
    pulumi = session.ready_pulumi()
    urns = left(pulumi.export()).get(name, ())
    if not urns:
        raise KitError(f"the program has made nobody of the name {name}, and no group.", "Nothing was changed.")
    if not arguments.yes_delete and not sys.stdin.isatty():
        fix = f"./kit people remove {name} --yes-delete {name}"
        raise KitError("this deletes for good, and nobody is there to ask.", fix, code=2)
    if not arguments.yes_delete:
        console.say(f"This deletes {name} in Keycloak for good, with second factors and links to other logins.")
        console.say(
            "What apps keep of them (chats, keys, workflows) stays there, and is no longer reached by this login."
        )
    typed = arguments.yes_delete or input("Type the name to go on: ").strip()
    if typed != name:
        raise KitError(f'"{typed}" is not "{name}".', "Nothing was deleted.", code=2)
    for urn in urns:
        pulumi.run("state", "unprotect", urn, "--yes", "--stack", session.stack)
    console.done(f"{name} may be deleted now: ./kit up {session.stack}")
    return 0


def readmit(api: DockerApi, plan: Plan, exported: Mapping[str, Any]) -> bool:
    """Run the identity provider's jobs again when it refuses the stack's credential. Whether that was so.

    False as well when it cannot be asked: then something else is wrong, and said elsewhere.
    """
    provider = plan.provider(Role.IDENTITY)
    if provider is None:
        return False
    try:
        with administration(plan, StackOutputs.from_dict(exported)) as admin:
            if admin.known():
                return False
        for job in (job for job in provider.spec.jobs if not job.after_realm):
            run_again(api, f"{docker_prefix(plan.stack)}{provider.name}-{job.name}")
    except (httpx.HTTPError, ProofError, ValueError, KitError):
        return False
    return True


def sign_out_locked(plan: Plan, exported: Mapping[str, Any]) -> None:
    """End the sessions of those whom the configuration locks out: Keycloak only keeps them from logging in anew."""
    locked = [person.username for person in plan.settings.people if not person.enabled]
    if not locked:
        return
    try:
        with administration(plan, StackOutputs.from_dict(exported)) as admin:
            for name in locked:
                user = admin.user(name)
                if user:
                    admin.sign_out(user["id"])
    except (httpx.HTTPError, ProofError) as error:
        raise KitError(f"not known to be signed out: {', '.join(locked)}: {error}", "./kit up tries again.") from error


def _found(admin: Administration, session: Session, name: str) -> dict[str, Any]:
    user = admin.user(name)
    if user is None:
        guess = did_you_mean(name, [each["username"] for each in admin.users()])
        raise KitError(
            f"the realm has nobody of the name {name}. {guess}".rstrip(),
            f"./kit up {session.stack} makes those of the configuration; ./kit people shows who there is.",
        )
    return user


@contextmanager
def _opened(session: Session, plan: Plan) -> Iterator[Administration]:
    outputs = StackOutputs.from_dict(session.outputs(session.ready_pulumi()))
    try:
        with administration(plan, outputs) as admin:
            yield admin
    except (httpx.HTTPError, ProofError) as error:
        raise KitError(f"the identity provider could not be asked: {error}", f"./kit status {session.stack}") from error


Action = Callable[[Session, Plan, argparse.Namespace], int]
_ACTIONS: Mapping[str, Action] = {"list": show, "password": password, "logout": logout, "remove": remove}
