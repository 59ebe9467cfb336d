"""./kit down: containers and networks go, data stays. With --data everything of the stack goes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ops import console, deploying, repair
from ops.console import KitError
from ops.enginestate import look
from ops.progress import Progress
from ops.pulumirun import PARALLEL, InterruptedRunError, Pulumi, clear_stale_locks
from ops.session import Session
from ops.up import log_file


def run(arguments: argparse.Namespace) -> int:
    session = Session(arguments.stack)
    if arguments.yes_delete is not None and not arguments.data:
        raise KitError("--yes-delete belongs to --data.", f"./kit down {session.stack} --data", code=2)
    return destroy(session, arguments.yes_delete) if arguments.data else take_down(session)


def take_down(session: Session) -> int:
    """Remove what runs; keep volumes, secrets and users."""
    plan = session.plan(down=True)
    pulumi = session.ready_pulumi()
    if not pulumi.known():
        console.say(f"Stack {session.stack} does not exist: nothing to take down.")
        return 0
    progress = Progress()
    log = log_file(session, "down")
    session.write_config(pulumi, down=True)
    repair.prepare(session, pulumi, progress, log, plan)
    digest = deploying.update(session, pulumi, progress, log, f"taking stack {session.stack} down")
    kept = look(session.docker.get, session.stack).data_volumes
    name = "" if session.stack == "dev" else f" {session.stack}"
    console.say()
    console.say(f"stack {session.stack} {'was down already' if digest.changed == 0 else 'is down'}")
    console.say(f"  kept        {', '.join(volume.removeprefix(session.prefix) for volume in kept) or 'nothing'}")
    console.say("              and every secret and user")
    console.say(f"  start again ./kit up{name}")
    console.say(f"  delete all  ./kit down{name} --data")
    return 0 if plan.settings.down else 1


# ----------------------------------------------------------------------------------------------------- with data


def destroy(session: Session, confirmed: str | None) -> int:
    """Remove everything the stack has on its host, and its state. Asks for the stack's name first."""
    if not session.docker.reachable():
        raise KitError("the Docker engine does not answer.", f"./kit doctor {session.stack} says what to do.")
    confirm(session, confirmed)
    progress = Progress()
    log = log_file(session, "down-data")
    toolchain = session.toolchain_or_none()
    pulumi = session.pulumi(toolchain) if toolchain and not session.state.passphrase_lost() else None
    with progress.step(f"removing stack {session.stack} and its data") as step:
        if pulumi is not None and pulumi.known():
            for note in clear_stale_locks(session.state):
                progress.line(f"  {console.mark(console.WARN)} {note}")
            step.note("through its state")
            through_pulumi(session, pulumi, log)
        step.note("what carries its label")
        clear_engine(session)
        forget_state(session, pulumi)
    left = look(session.docker.get, session.stack)
    if not left.empty:
        names = [*(c.name for c in left.containers), *left.networks.values(), *left.volumes]
        raise KitError(f"still there: {', '.join(names)}.", f"Something else may use them: docker inspect. Log: {log}")
    console.done(f"nothing of stack {session.stack} is left on this host")
    return 0


def confirm(session: Session, confirmed: str | None) -> None:
    """The stack's name, typed or given; KitError otherwise."""
    engine = look(session.docker.get, session.stack)
    if confirmed is None:
        if not sys.stdin.isatty():
            raise KitError(
                "--data deletes chats, users, documents and secrets, and nobody is there to ask.",
                f"./kit down {session.stack} --data --yes-delete {session.stack}",
                code=2,
            )
        console.say(f"This deletes stack {session.stack} for good: chats, users, documents, passwords.")
        for volume in engine.data_volumes:
            console.say(f"  {volume}")
        confirmed = input("Type the stack's name to go on: ").strip()
    if confirmed != session.stack:
        raise KitError(f'"{confirmed}" is not "{session.stack}".', "Nothing was deleted.", code=2)


def through_pulumi(session: Session, pulumi: Pulumi, log: Path) -> None:
    """Destroy what the state knows. What that leaves behind is removed by its label."""
    try:
        session.write_config(pulumi)
        deployment = pulumi.export()
        if deployment.get("pending_operations"):
            repair.drop_pending(pulumi, deployment)
        if deployment.get("resources"):
            pulumi.run("state", "unprotect", "--all", "--yes", "--stack", session.stack)
            code = pulumi.follow(
                "destroy", "--yes", "--skip-preview", "--parallel", PARALLEL, log=log, feed=lambda line: None
            )
            if code != 0:
                console.note(f"Pulumi could not remove everything itself (see {log}): going on by label")
    except InterruptedRunError:
        raise
    except KitError as error:
        console.note(f"Pulumi cannot help ({error.what}): going on by label")


def clear_engine(session: Session) -> None:
    """Remove everything with the stack's label: containers, then networks, then volumes."""
    engine = look(session.docker.get, session.stack)
    for container in engine.containers:
        session.docker.remove_container(container.id)
    for network in engine.networks:
        session.docker.remove_network(network)
    for volume in engine.volumes:
        session.docker.remove_volume(volume)


def forget_state(session: Session, pulumi: Pulumi | None) -> None:
    """Remove the stack from the backend, and what is kept beside it."""
    if pulumi is not None and pulumi.known():
        # Without --preserve-config it would delete the operator's stack file.
        remove = ("stack", "rm", session.stack, "--yes", "--force", "--preserve-config")
        pulumi.run(*remove, check=session.state.checkpoint is None)
    session.state.forget_checkpoint()
    session.state.forget()
