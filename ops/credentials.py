"""./kit credentials: what workflows use to get into other people's services, kept encrypted, versioned and logged.

A value comes by standard input or a prompt, and leaves by standard output alone: it is in no argument, no variable and
no file of this machine. The store is a program beside the service that runs workflows, which is asked over the engine.
"""

from __future__ import annotations

import argparse
import getpass
import json
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ops import cli, console
from ops.console import KitError
from ops.engine import DockerApi, EngineError
from ops.paths import ROOT
from ops.progress import duration
from ops.session import Session
from stack.automation import credentials
from stack.automation.credentials import StoredKind
from stack.model import SpecError
from stack.plan import Plan
from stack.words import did_you_mean

REFUSED, UNREACHABLE = 1, 3
_RESULTS = {"valid": console.OK, "refused": console.FAIL, "unreachable": console.WARN, "unknown": console.NOTE}


def run(arguments: argparse.Namespace) -> int:
    """0; 1 where a value is refused or something failed, 2 for a mistake, 3 where nobody could be asked."""
    action = arguments.action or "list"
    if not arguments.action and arguments.name:
        fix = f"{did_you_mean(arguments.name, _ACTIONS)}./kit credentials [{'|'.join(_ACTIONS)}]"
        raise KitError(f'./kit credentials has no "{arguments.name}".', fix, code=2)
    if action in ("get", "set", "rotate") and not arguments.name:
        raise KitError(f"./kit credentials {action} needs a name.", "./kit credentials --help", code=2)
    if arguments.name and (wrong := credentials.name_problem(arguments.name)):
        raise KitError(f"the name {wrong}.", 'Take words, such as "Telegram bot".', code=2)
    cli.check_stack(ROOT, arguments.stack)
    return _ACTIONS[action](arguments)


# ------------------------------------------------------------------------------------------------------ the store


def ask(plan: Plan, verb: str, **asked: object) -> Any:
    """What the store answers. KitError with its words when it does not, or when it cannot be asked."""
    service = next((item for item in plan.running if item.spec.credential_store), None)
    if service is None:
        what = f"nothing in stack {plan.stack} keeps credentials of workflows."
        raise KitError(what, "Add automation to its profiles, then ./kit up.")
    request = {"verb": verb, **asked, "owner": plan.settings.admin_email, "who": who()}
    line = json.dumps(request).encode() + b"\n"
    try:
        code, printed, complaints = DockerApi(plan.settings.docker_host).execute(
            service.containers[0].docker_name, service.spec.credential_store, stdin=line, timeout=180
        )
    except EngineError as failed:
        raise KitError(f"the store of stack {plan.stack} cannot be asked: {failed}", f"./kit up {plan.stack}") from None
    try:
        said = json.loads(printed)
    except ValueError:
        # Not what it complained of: it may be about the value.
        what = f"the store of stack {plan.stack} ended with {code or 'no answer'}."
        fix = f"./kit up {plan.stack} brings it up to date." if "Cannot find module" in complaints else "./kit status"
        raise KitError(what, fix) from None
    if "trouble" in said:
        raise KitError(said["trouble"], said["fix"], code=int(said["code"]))
    return said["answer"]


def who() -> str:
    """Who is written into the audit log: what this machine calls them."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"[:200]
    except (KeyError, OSError):
        return "unknown"


def _asked(arguments: argparse.Namespace, verb: str, **asked: object) -> Any:
    return ask(Session(arguments.stack).plan(), verb, **asked)


# --------------------------------------------------------------------------------------------------------- values


def said(kind: StoredKind, *, partly: bool) -> Mapping[str, str]:
    """What the operator gives: asked for at a terminal, without showing it, else read from standard input.

    partly: nothing typed leaves a value as it is, where the kind has several.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        try:
            text = (sys.stdin.buffer.read(1 << 20) if sys.stdin else b"").decode("utf-8")
        except UnicodeDecodeError:
            raise KitError("standard input is no text in UTF-8.", "Encode it, as base64 perhaps.", code=2) from None
        found = credentials.parsed(kind, text)
    else:
        keeps = " (Enter keeps it)" if partly and len(kind.inputs) > 1 else ""
        found = {item.name: getpass.getpass(f"{item.meaning}{keeps}: ") for item in kind.inputs}
    if wrong := credentials.problems(kind, found, all_of_them=not partly):
        raise SpecError("the credential cannot be stored", tuple(wrong))
    return found


def _set(arguments: argparse.Namespace) -> int:
    """A new credential: asked first whether it is good, then stored, then given to n8n."""
    if not arguments.kind:
        kinds = "|".join(credentials.KINDS)
        raise KitError("which kind of credential is it?", f"--kind {kinds}", code=2)
    kind = credentials.kind_named(arguments.kind)
    plan = Session(arguments.stack).plan()
    data = credentials.data(kind, arguments.name, said(kind, partly=False), plan.settings, arguments.header)
    made = ask(plan, "set", name=arguments.name, kind=kind.name, data=data, unchecked=arguments.unchecked)
    return _said(made, "is stored", arguments)


def _rotate(arguments: argparse.Namespace) -> int:
    """A new value in place of the one there is, which is kept as a version that is retired."""
    if arguments.kind or arguments.header:
        raise KitError("a rotation changes the value alone.", "Leave --kind and --header out.", code=2)
    plan = Session(arguments.stack).plan()
    kind = credentials.kind_named(ask(plan, "kind", name=arguments.name)["kind"])
    patch = credentials.patch(kind, said(kind, partly=True))
    made = ask(plan, "rotate", name=arguments.name, patch=patch, unchecked=arguments.unchecked)
    return _said(made, "is what counts now", arguments)


def _said(made: Mapping[str, Any], what: str, arguments: argparse.Namespace) -> int:
    if arguments.json:
        console.say(json.dumps(made, indent=2, ensure_ascii=False))
        return 1 if made["behind"] else 0
    if made.get("unchanged"):
        console.note(f"{made['name']}: that is version {made['version']} already; nothing was changed.")
    else:
        asked = {"valid": f", and valid: {made['detail']}", "unknown": f" ({made['detail']})"}.get(made["result"], "")
        console.done(f"{made['name']}: version {made['version']} {what}{asked}.")
    if made["behind"]:
        reason = f": {made['problem']}" if made.get("problem") else ""
        raise KitError(
            f"n8n does not have it yet{reason}.", f"./kit credentials sync -s {arguments.stack} gives it what it lacks."
        )
    if made.get("id"):
        console.done("n8n has it; workflows that use it go on with it at their next run.")
    return 0


def _get(arguments: argparse.Namespace) -> int:
    """A value, masked unless --show. Either way the read is written down."""
    found = _asked(arguments, "get", name=arguments.name, version=arguments.version, show=arguments.show)
    if arguments.json:
        console.say(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    values: dict[str, str] = found["value"]
    if arguments.show:
        # As it is and nothing else, for a pipe.
        console.say(next(iter(values.values())) if len(values) == 1 else json.dumps(values, indent=2))
        return 0
    retired = "" if found["version"] == found["current"] else f", retired: {found['current']} counts"
    console.say(f"{found['name']}: {found['kind']}, version {found['version']}{retired}")
    rows = list(values.items())
    rows += [(name, str(value)) for name, value in found["settings"].items() if isinstance(value, str)]
    for line in console.table(rows):
        console.say(f"  {line}")
    return 0


# --------------------------------------------------------------------------------------------------- what there is


def _list(arguments: argparse.Namespace) -> int:
    """Every credential; no value is read for it."""
    rows = _asked(arguments, "list")
    if arguments.json:
        console.say(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    if not rows:
        console.say("No credentials are stored.")
        console.note("./kit credentials set NAME --kind KIND stores one; ./kit up those of the templates you select.")
        return 0
    now = datetime.now(UTC)
    cells = [("credential", "kind", "version", "age", "last checked", "in n8n", "workflows")]
    for row in rows:
        checked = f"{row['checked']}, {age(row['checkedAt'], now)} ago" if row["checked"] else "never"
        checked = "-" if row["checked"] == "unknown" else checked  # nobody can be asked
        used = ", ".join(row["workflows"]) or "-"
        made = age(row["madeAt"], now)
        cells.append((row["name"], row["kind"], str(row["version"]), made, checked, delivery(row), used))
    for line in console.table(cells, right=frozenset({2})):
        console.say(f"  {line}")
    lost = [row["name"] for row in rows if not row["readable"]]
    if lost or any(row["n8nVersion"] != row["version"] for row in rows):
        console.say()
    for name in lost:
        console.warn(f'{name} cannot be read with this key: docs/credentials.md, "When the key is gone"')
    if any(row["n8nVersion"] != row["version"] for row in rows):
        console.warn(f"n8n lacks what is new: ./kit credentials sync -s {arguments.stack}")
    return 0


def age(moment: str, now: datetime) -> str:
    """How long ago an ISO time was, in days where it is days."""
    seconds = max(0.0, (now - datetime.fromisoformat(moment)).total_seconds())
    return f"{int(seconds // 86400)} d" if seconds >= 2 * 86400 else duration(seconds)


def delivery(row: Mapping[str, Any]) -> str:
    """What n8n has of a credential."""
    if row["n8nVersion"] != row["version"]:
        return "behind"
    return "has it" if row["n8nId"] else "not for it"


def _audit(arguments: argparse.Namespace) -> int:
    """The audit log, newest first."""
    rows = _asked(arguments, "audit", name=arguments.name, limit=arguments.limit)
    if arguments.json:
        console.say(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    if not rows:
        console.say("Nothing is written down yet." if not arguments.name else f"Nothing about {arguments.name} yet.")
        return 0
    cells = [("", "when", "who", "did", "credential", "version", "")]
    for row in rows:
        when = datetime.fromisoformat(row["at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        version = "" if row["version"] is None else str(row["version"])
        cells.append((str(row["id"]), when, row["who"], row["action"], row["name"], version, row["detail"]))
    for line in console.table(cells, right=frozenset({0, 5})):
        console.say(f"  {line}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    """Asks those who issued them whether they are good."""
    results: Sequence[Mapping[str, Any]] = _asked(arguments, "check", name=arguments.name)
    if arguments.json:
        console.say(json.dumps(results, indent=2, ensure_ascii=False))
        return exit_code(results)
    if not results:
        console.say("No credentials are stored, so there is nothing to check.")
    for item in results:
        mark = console.mark(_RESULTS[item["result"]])
        console.say(f"  {mark} {item['name']} (version {item['version']}): {item['result']}, {item['detail']}")
    code = exit_code(results)
    if code == REFUSED:
        name = next(item["name"] for item in results if item["result"] == "refused")
        console.say()
        console.note(f'Get a new one where it is issued, then: ./kit credentials rotate "{name}"')
    elif code == UNREACHABLE:
        console.say()
        console.note("It was asked from n8n's own container: does this machine have a way to the internet?")
    return code


def exit_code(results: Sequence[Mapping[str, Any]]) -> int:
    """The worst of them."""
    found = {item["result"] for item in results}
    return REFUSED if "refused" in found else UNREACHABLE if "unreachable" in found else 0


def _sync(arguments: argparse.Namespace) -> int:
    """Ends what was cut short: n8n gets what it lacks, and values are under the store's present key."""
    found = _asked(arguments, "sync")
    failed = [item for item in found["credentials"] if item["behind"]]
    if arguments.json:
        console.say(json.dumps(found, indent=2, ensure_ascii=False))
        return 1 if failed else 0
    if found["reencrypted"]:
        console.done(f"{found['reencrypted']} versions are encrypted with the new key.")
    for item in found["credentials"]:
        if not item["behind"]:
            console.done(f"{item['name']}: n8n has it now.")
    if failed:
        what = "\n".join(f"{item['name']}: n8n does not have it yet: {item['problem']}" for item in failed)
        raise KitError(what, f"./kit status {arguments.stack}, then once more.")
    if not found["credentials"] and not found["reencrypted"]:
        console.say("n8n has everything already.")
    return 0


_ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "get": _get,
    "set": _set,
    "rotate": _rotate,
    "audit": _audit,
    "check": _check,
    "sync": _sync,
}
