"""The command line: which verbs there are, what they take, and how their failures are shown.

Standard library only, and nothing heavy is imported before a verb needs it: help is instant.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops import console, venv
from ops.console import KitError
from ops.paths import ROOT, private_directory, state_home

VERSION = "0.1.0"
DEFAULT_STACK = "dev"
INTERRUPTED = 130

Run = Callable[[argparse.Namespace], int]


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A verb of ./kit. `run` is "module:function", imported only when the verb is used; `add` adds its options."""

    name: str
    summary: str
    details: str
    run: str
    add: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    takes_stack: bool = True
    usage: str = ""
    actions: tuple[str, ...] = ()  # words that may stand before the stack, and what they mean to `run`
    passes_rest: bool = False


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print an object for programs instead of a table")


def _up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-prove", action="store_true", help="leave out the proof of use at the end")
    parser.add_argument(
        "--adopt", action="store_true", help="the state is lost: keep the data on this host, with new credentials"
    )


def _down(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", action="store_true", help="delete the stack's data, secrets and state as well")
    parser.add_argument(
        "--yes-delete", metavar="STACK", help="the stack's name once more, instead of being asked for it (with --data)"
    )


def _preview(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--refresh", action="store_true", help="look at what really runs first")
    parser.add_argument("--diff", action="store_true", help="every property that would change")
    parser.add_argument("--expect-no-changes", action="store_true", help="fail when anything would change")


def _status(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    parser.add_argument(
        "--show-login",
        action="store_true",
        help="print the first user's name and password, and the keys for apps of your own",
    )


def _unlock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the user, such as admin-user")
    parser.add_argument("-s", "--stack", default=DEFAULT_STACK, metavar="STACK", help="default: %(default)s")


def _workflow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="of a template, a workflow, or a file")
    parser.add_argument("-s", "--stack", default=DEFAULT_STACK, metavar="STACK", help="default: %(default)s")
    parser.add_argument("--workflow", action="store_true", help="show: the workflow itself, as n8n gets it")
    parser.add_argument("--limit", type=_limit, default=20, metavar="N", help="history: how many runs, at most 250")
    _json(parser)


def _credentials(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help='of a credential, such as "Telegram bot"')
    parser.add_argument("-s", "--stack", default=DEFAULT_STACK, metavar="STACK", help="default: %(default)s")
    parser.add_argument("--kind", default="", metavar="KIND", help="set: telegram, gmail-oauth or generic")
    parser.add_argument("--header", default="", metavar="HEADER", help="set a generic one: the header n8n sends it in")
    parser.add_argument("--unchecked", action="store_true", help="set, rotate: do not ask first whether it is good")
    parser.add_argument("--version", type=_number, metavar="N", help="get: one of before; default: the current one")
    parser.add_argument("--show", action="store_true", help="get: the value itself")
    parser.add_argument("--limit", type=_limit, default=50, metavar="N", help="audit: how many entries, at most 250")
    _json(parser)


def _number(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no version: they begin at 1")
    return int(text)


def _limit(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 250:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 250")
    return int(text)


def _people(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", default="", metavar="NAME", help="of a person; of a group as well, for remove"
    )
    parser.add_argument("-s", "--stack", default=DEFAULT_STACK, metavar="STACK", help="default: %(default)s")
    parser.add_argument("--reset", action="store_true", help="password: also for somebody who has chosen one")
    parser.add_argument(
        "--yes-delete", metavar="NAME", help="remove: the name once more, instead of being asked for it"
    )
    _json(parser)


def _init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the new stack's name: lower-case letters and digits")
    parser.add_argument("--target", help="dev, pi or gpu; as this machine looks unless said")
    parser.add_argument("--profiles", metavar="A,B", help="what it is for, such as chat,automation")
    parser.add_argument("--domain", help="what its host names end in")
    parser.add_argument("--admin-email", metavar="MAIL", help="the administrator's mail address")
    parser.add_argument("--models", metavar="A,B", help="models, by their names in Ollama's library")
    parser.add_argument("--workflows", metavar="A,B", help="workflow templates: ./kit workflow list")
    parser.add_argument(
        "--parameter", action="append", default=[], metavar="TEMPLATE.NAME=VALUE", help="a workflow's parameter"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other configuration key")
    parser.add_argument("--yes", action="store_true", help="ask nothing: flags, and defaults for the rest")


def _model(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="list|add|remove|switch|eval", parser_class=_ActionParser
    )

    def action(name: str, summary: str, details: str = "") -> argparse.ArgumentParser:
        return actions.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    show = action("list", "the models, their versions, and what is loaded")
    _json(show)
    add = action(
        "add",
        "fetch a model now and put it into the stack file's list",
        "With --refresh, newer weights for a name that is there: the version before stays, and switch goes back to it.",
    )
    add.add_argument("name", metavar="NAME", help="as in Ollama's library, such as llama3.2:3b")
    add.add_argument("--refresh", action="store_true", help="fetch what the name stands for today")
    add.add_argument("--anyway", action="store_true", help="although it seems too large for this machine")
    remove = action(
        "remove",
        "take a model out of the list and off the disk, kept versions included",
        "With VERSION only that kept version. Nothing else ever removes a model: one that left the list stays.",
    )
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("--version", metavar="VERSION", help="only this kept version")
    switch = action("switch", "go back to a kept version of a model; the one in use is kept")
    switch.add_argument("name", metavar="NAME")
    switch.add_argument("version", metavar="VERSION", help="its first digits, as list shows them")
    compare = action(
        "eval",
        "ask several models your own questions and compare the answers",
        "Through the queue, as everybody asks. Every answer is kept as JSON beside the stack's state.",
    )
    compare.add_argument("file", metavar="FILE", help="a question on each line, or a JSON list of texts")
    compare.add_argument("--models", metavar="A,B", help="default: all models to chat with")
    compare.add_argument(
        "--max-tokens", metavar="N", type=_count, default=128, help="of an answer; default: %(default)s"
    )
    _json(compare)
    for one in (show, add, remove, switch, compare):
        one.add_argument("stack", nargs="?", default=DEFAULT_STACK, metavar="STACK", help="default: %(default)s")


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 100000")
    return int(text)


def _rotate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="NAME [STACK]", help="what to make anew: a secret, or a service")
    parser.add_argument("--due", action="store_true", help="all that is older than the age the stack file gives it")
    parser.add_argument("--list", action="store_true", help="every secret: number, age, and what rotating it means")
    parser.add_argument("--no-prove", action="store_true", help="leave out the proof of use at the end")
    _json(parser)


def _schedule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--remove", action="store_true", help="take the timer away")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written and run, and do nothing")
    parser.add_argument("--at", metavar="WHEN", default="", help="daily (the default), weekly, or HH:MM each day")


def _test(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fast", action="store_true", help="only what needs no engine: under a minute")


VERBS: tuple[Verb, ...] = (
    Verb(
        name="up",
        summary="put the platform on this machine, or bring it up to date, and prove that it works",
        details="""\
Checks the machine, installs what is missing (Pulumi, its plugins; as root also the Docker engine), starts or
changes what differs from the plan, repairs what was removed or stopped by hand, and acts as a user at the end.
Running it again is always safe; when nothing differs, it says so. Ctrl-C stops after the steps in progress.""",
        run="ops.up:run",
        add=_up,
    ),
    Verb(
        name="preview",
        summary="what up would change, without changing it",
        details="Runs `pulumi preview` on the same configuration and state as up, and passes on its exit code.",
        run="ops.preview:run",
        add=_preview,
    ),
    Verb(
        name="down",
        summary="take it down; data, users and secrets stay for the next up",
        details="""\
Removes the stack's containers and networks. Volumes, secrets and users stay: the next up brings back the same
users with the same passwords and chats. With --data everything of the stack goes, after its name was typed.""",
        run="ops.down:run",
        add=_down,
    ),
    Verb(
        name="status",
        summary="what runs, healthy or not, and where to reach it",
        details="Exit code 0: everything planned runs and is healthy. 3: something does not.",
        run="ops.status:run",
        add=_status,
    ),
    Verb(
        name="plan",
        summary="every service with why it is there and what it costs; needs no engine",
        details="""\
Resolves the configuration of the stack: services, memory, zones, addresses. Exit code 2: the configuration cannot
be planned, with every problem and its fix.""",
        run="ops.plan:run",
        add=_json,
    ),
    Verb(
        name="images",
        summary="every image: digest, age, newest release; lock writes images.lock.json, scan looks for holes",
        details="""\
Asks the registries what each tag stands for, how old that is and what is newest; what they do not say is unknown.
./kit images lock writes images.lock.json, to be committed: from then on everybody uses exactly those images.
./kit images scan has Trivy or Grype look for known vulnerabilities, and holds them to the budget in images.scan.yaml.
Exit code 1: over it. 3: could not be judged (no scanner, no vulnerability database), which is no pass.""",
        run="ops.images:run",
        add=_json,
        actions=("lock", "scan"),
    ),
    Verb(
        name="doctor",
        summary="check this machine and the configuration; each problem says how to fix it",
        details="""\
Looks at the engine, memory, disk, ports, names, clock, GPU, versions, the state and its passphrase, and changes
nothing. Then advice about the machine itself: SSH, firewall, updates, auditing, time, swap, trim, governor, cgroups.
Exit code 1: something would keep up from working; advice alone never gives it.""",
        run="ops.doctor:run",
        add=_json,
    ),
    Verb(
        name="prove",
        summary="act as a user through the front door; fails if anything does not work",
        details="Logs in as a throw-away user, asks a question, looks for an answer, and cleans up after itself.",
        run="ops.proving:run",
    ),
    Verb(
        name="unlock",
        summary="let a person in again who lost the second factor, or is made to wait",
        details="""\
Removes the person's authenticator apps and passkeys, ends the wait after wrong passwords, and ends every session. The
password stays. At the next login an administrator sets up a new app.""",
        run="ops.unlock:run",
        add=_unlock,
        takes_stack=False,
    ),
    Verb(
        name="workflow",
        summary="workflow templates: list, show, export, history, check, remove",
        details="""\
list            every template, whether the stack selects it, and what n8n has of it
show NAME       what a template does, what it can be told, and how to select it
export NAME     a workflow of n8n as JSON, without ids and credentials
history [NAME]  how runs went: status, time, which node failed; never their data
check FILE      whether a file can be a template: exported JSON, or a template's Python file
remove NAME     delete one workflow from n8n; nothing else ever deletes one""",
        run="ops.workflows:run",
        add=_workflow,
        takes_stack=False,
        usage="./kit workflow [list|show|export|history|check|remove] [NAME] [--stack STACK] [options]",
        actions=("list", "show", "export", "history", "check", "remove"),
    ),
    Verb(
        name="credentials",
        summary="what workflows log in elsewhere with: list, get, set, rotate, audit, check, sync",
        details="""\
list           every credential: version, age, when it was last checked, which workflows use it; reads no value
get NAME       a value, masked; --show prints it. Either way the read is written down
set NAME       a new one of a --kind. Its value is asked for, or read from standard input: never an argument
rotate NAME    a new value: asked first whether it is good, stored as the next version, given to n8n in place
audit [NAME]   who read, made, rotated and checked what, newest first; nobody can change what stands there
check [NAME]   ask Telegram or Google whether it is good. Exit code 1: refused. 3: nobody could be asked
sync           give n8n what it lacks, after something was cut short

docs/credentials.md has the procedures for a Telegram token and a Gmail client.""",
        run="ops.credentials:run",
        add=_credentials,
        takes_stack=False,
        usage="./kit credentials [list|get|set|rotate|audit|check|sync] [NAME] [--stack STACK] [options]",
        actions=("list", "get", "set", "rotate", "audit", "check", "sync"),
    ),
    Verb(
        name="people",
        summary="who may log in: list, first passwords, signing out, removing",
        details="""\
list            everybody in the realm, with their groups and whether they have chosen a password
password NAME   a first password for somebody new: shown once, kept nowhere, to be changed at the first login
logout NAME     end all of somebody's sessions, in the apps that listen as well
remove NAME     let the next up delete somebody, or a group, that left the configuration; nothing else ever deletes one

People and groups are configuration: `people` and `groups` in Pulumi.<stack>.yaml (docs/people.md).""",
        run="ops.people:run",
        add=_people,
        takes_stack=False,
        usage="./kit people [list|password|logout|remove] [NAME] [--stack STACK] [options]",
        actions=("list", "password", "logout", "remove"),
    ),
    Verb(
        name="init",
        summary="a new stack by a few questions, or by flags alone",
        details="""\
Asks what kind of machine it is, what it is for, its names, models and workflows; shows the plan, and writes
Pulumi.<name>.yaml. Never over another file, and nothing at all when the answers cannot be planned (exit code 2).
Without a terminal, or with --yes, it asks nothing: flags decide, and defaults do the rest.""",
        run="ops.init:run",
        add=_init,
        takes_stack=False,
    ),
    Verb(
        name="model",
        summary="the models of a stack: list, add, remove, switch versions, compare",
        details="The stack file names them and `up` fetches what is missing; this does it for one, at once.",
        run="ops.model:run",
        add=_model,
        takes_stack=False,
    ),
    Verb(
        name="rotate",
        summary="make secrets anew: one, a service's, or what is due by age; --list shows them",
        details="""\
Raises the number of each in the stack file (rotation) and runs up: the new one is made and accepted, all that has it
moves, and the old one is refused, which is proven. Cut short at any point, the next up ends it. NAME is as --list shows
it, a service (all it owns or checks), or '*'. With --list and --due the only word is the STACK.

./kit rotate passphrase makes the passphrase anew that guards the state of all your stacks; no container notices.""",
        run="ops.rotate:run",
        add=_rotate,
        takes_stack=False,
        usage="./kit rotate NAME [STACK] | passphrase | --due [STACK] | --list [STACK] [--json]",
    ),
    Verb(
        name="schedule",
        summary="a timer that rotates each day what is due by age; --remove takes it away",
        details="""\
Installs a systemd timer (root's, or that of your user) that runs ./kit rotate --due, or a line of cron where there is
no systemd. Running it again changes nothing. What is due says the stack file: rotation, with an age.""",
        run="ops.schedule:run",
        add=_schedule,
    ),
    Verb(
        name="test",
        summary="the whole test suite; --fast for the part that needs no engine",
        details="""\
Starts and installs what the live tests need, runs everything in one go, and stops what it started. Anything else
on the line goes to pytest: ./kit test --fast -k plan""",
        run="ops.testrun:run",
        add=_test,
        takes_stack=False,
        passes_rest=True,
    ),
)


def overview() -> str:
    """What ./kit prints when it is asked for nothing."""
    rows = [(f"{verb.name}{' [STACK]' if verb.takes_stack else ''}", verb.summary) for verb in VERBS]
    return "\n".join(
        [
            "./kit puts a private AI platform on a machine you own, and keeps proving that it works.",
            "",
            *(f"  {line}" for line in console.table(rows)),
            "",
            f"STACK is {DEFAULT_STACK} unless named: {', '.join(stacks(ROOT)) or 'no Pulumi.<stack>.yaml here'}.",
            "./kit VERB --help says more. Start with: ./kit up",
        ]
    )


def stacks(root: Path) -> list[str]:
    """The stacks this clone has a file for."""
    return sorted(path.name[len("Pulumi.") : -len(".yaml")] for path in root.glob("Pulumi.*.yaml"))


def closest(word: str, known: Sequence[str]) -> str:
    """' Did you mean "up"?' or nothing."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f' Did you mean "{found[0]}"?' if found else ""


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints look like all others."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise KitError(f"{self.prog}: {message}", f"{self.prog} --help", code=2)


class _ActionParser(_Parser):
    """For what follows an action: options may stand anywhere, also between its words."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        if self._inside or {"-h", "--help"} & set(args or ()):  # the help names its words only in one go
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def parser_for(verb: Verb) -> argparse.ArgumentParser:
    """The options of a verb."""
    parser = _Parser(
        prog=f"./kit {verb.name}",
        usage=verb.usage
        or (f"./kit {verb.name} [{'|'.join(verb.actions)}] [options] [STACK]" if verb.actions else None),
        description=f"{verb.summary[0].upper()}{verb.summary[1:]}.\n\n{verb.details}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if verb.takes_stack:
        parser.add_argument("stack", nargs="?", default=DEFAULT_STACK, metavar="STACK", help="default: %(default)s")
    verb.add(parser)
    return parser


def check_stack(root: Path, stack: str) -> None:
    """A stack is one when this clone has its file."""
    known = stacks(root)
    if stack in known:
        return
    what = f'there is no stack "{stack}": no Pulumi.{stack}.yaml here.{closest(stack, known)}'
    if not re.fullmatch(r"[a-z][a-z0-9]{0,30}", stack):
        what = f'"{stack}" cannot be a stack\'s name: lower-case letters and digits.'
    raise KitError(what, f"Stacks: {', '.join(known) or 'none'}. A new one is a file Pulumi.<name>.yaml.", code=2)


def parse(argv: Sequence[str], root: Path) -> tuple[Verb, argparse.Namespace]:
    """The verb and its arguments, or KitError."""
    name, rest = argv[0], list(argv[1:])
    by_name = {verb.name: verb for verb in VERBS}
    if name not in by_name:
        raise KitError(
            f'./kit has no verb "{name}".{closest(name, list(by_name))}', f"Verbs: {', '.join(by_name)}.", code=2
        )
    verb = by_name[name]
    parser = parser_for(verb)
    if verb.passes_rest:
        arguments, extra = parser.parse_known_args(rest)
        arguments.rest = [word for word in extra if word != "--"]
    else:
        action = rest.pop(0) if rest and rest[0] in verb.actions else ""
        arguments = parser.parse_args(rest)
        if verb.actions:
            arguments.action = action
    if hasattr(arguments, "stack"):
        check_stack(root, arguments.stack)
    return verb, arguments


def main(argv: Sequence[str]) -> int:
    """Run ./kit. Returns the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        console.say(overview())
        return 0
    if argv[0] in ("--version", "-V", "version"):
        console.say(f"ai-kit {VERSION}")
        return 0
    return guarded(lambda: _dispatch(argv))


def _dispatch(argv: Sequence[str]) -> int:
    verb, arguments = parse(argv, ROOT)
    python = venv.ensure()
    if Path(sys.prefix).resolve() != python.parent.parent.resolve():
        sys.stdout.flush()
        os.execv(python, [str(python), str(ROOT / "kit"), *argv])  # noqa: S606
    module, function = verb.run.split(":")
    run: Run = getattr(importlib.import_module(module), function)
    return run(arguments)


def guarded(run: Callable[[], int]) -> int:
    """Run it; whatever goes wrong is shown in one or a few lines, with the way on. Tracebacks go to a file."""
    try:
        return run()
    except KitError as error:
        console.complain(error)
        return error.code
    except KeyboardInterrupt:
        console.complain(KitError("interrupted.", "Run the same command again to go on."))
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the last resort: a person sees one line, never a traceback
        if rendered := _spec_report(error):
            print(rendered, file=sys.stderr)
            return 2
        if os.environ.get("KIT_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        console.complain(KitError(f"unexpected: {what}", f"Details: {_log(error)}  (or KIT_DEBUG=1 to see them here)"))
        return 1


def _spec_report(error: Exception) -> str | None:
    """The report of a SpecError, without importing the stack for those who never needed it."""
    model = sys.modules.get("stack.model")
    spec_error = getattr(model, "SpecError", None)
    return error.render() if spec_error and isinstance(error, spec_error) else None  # type: ignore[attr-defined]


def _log(error: Exception) -> str:
    """Write the traceback down; where to find it."""
    try:
        logs = private_directory(state_home() / "logs")
        path = logs / f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as problem:
        return f"could not be written ({problem})"
    return str(path)
