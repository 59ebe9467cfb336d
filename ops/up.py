"""./kit up: check, install what is missing, repair, deploy, prove."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ops import (
    adopting,
    authority,
    console,
    deploying,
    engine,
    flowguard,
    generations,
    pids,
    planview,
    repair,
    source,
    toolchain,
)
from ops.console import KitError
from ops.doctor import Facts, Level, examine, problems
from ops.events import Digest
from ops.facts import gather
from ops.progress import Progress, duration
from ops.pulumirun import Pulumi
from ops.session import Session
from ops.stackstate import write_atomically
from stack.model import CertificateSource, Role, SpecError
from stack.plan import Plan


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 when the stack is up and proven, 1 when a proof failed."""
    started = time.monotonic()
    session = Session(arguments.stack)
    session.adopt = bool(getattr(arguments, "adopt", False))
    progress = Progress()
    plan = check(session, progress)
    session.record_choice()
    session.record_locks(plan)
    pulumi = make_ready(session, plan, progress)
    log = log_file(session, "up")
    session.write_config(pulumi, checked=session.state.exists() is True)
    generations.begin(session.state, plan, session.recorded.deployment)
    repair.prepare(session, pulumi, progress, log, plan)
    adopted = adopting.realm(session, pulumi, plan, progress, log) if session.adopt else None
    began = time.monotonic()
    digest = deploy(session, plan, pulumi, progress, log)
    took = duration(time.monotonic() - began)
    console.done(
        f"nothing to change ({took})" if digest.changed == 0 else f"{deploying.changes(digest.changes)} ({took})"
    )
    session.record_settled(plan)
    session.state.rotating.unlink(missing_ok=True)
    if adopted:
        adopting.password(plan, adopted)
    pids.apply(session.docker, session.stack)
    outputs = session.outputs(pulumi)
    keep_ca(session, outputs)
    logins = bool(plan.running and plan.provider(Role.IDENTITY))
    if logins:
        readmitted(session, plan, outputs)
    flowguard.hold(session, plan, pulumi, outputs, progress, log)
    if logins:
        settle_people(plan, outputs)
    record_models(session, plan)
    proven = None if arguments.no_prove or not provable(plan) else prove(session, plan, outputs)
    console.say()
    for line in closing(session, plan, outputs, proven=proven, seconds=time.monotonic() - started):
        console.say(line)
    return 1 if proven is False else 0


# ------------------------------------------------------------------------------------------------------- before


def check(session: Session, progress: Progress) -> Plan:
    """The plan, once neither it nor the machine has a problem; all of them in one SpecError otherwise."""
    plan, wrong = session.plan_or_problems()
    if plan and not wrong:
        session.choose_images()
        if session.new_choice:
            plan, wrong = session.plan_or_problems()
    if plan:
        start_engine(session, progress)
    unlocked: Mapping[str, str] = {}
    if plan and not wrong and session.docker.reachable():
        unlocked = session.lock_images(plan)
        if session.new_locks:
            plan, wrong = session.plan_or_problems()
    facts = gather(session, plan, ask_registries=False)
    if session.adopt:
        facts = replace(facts, foreign="")
    found = [*wrong, *problems(examine(facts, plan, session.stack))]
    if found:
        raise SpecError(f"stack {session.stack} cannot be brought up", tuple(found))
    if plan is None:
        raise KitError("there is no plan")
    say_choice(session, plan)
    say_warnings(facts, plan, session)
    for why in sorted(set(unlocked.values())):
        names = sorted(tagged for tagged, reason in unlocked.items() if reason == why)
        console.warn(f"not locked to a digest, {why}: {', '.join(names)}")
    say_emulation(plan)
    for line in planview.left_out(plan):
        console.warn(line)
    say_standins(plan)
    say_retired(plan)
    for text in session.moved(plan):
        console.warn(text)
    return plan


def say_standins(plan: Plan) -> None:
    """Every time: whoever relies on what runs has to know that it is not the real server."""
    if text := planview.standins(plan):
        console.warn(text)


def say_retired(plan: Plan) -> None:
    """Whoever takes a profile out learns that its data stays."""
    if text := planview.retired(plan):
        console.note(text)


def say_emulation(plan: Plan) -> None:
    """That this is not the machine the plan is for."""
    if text := planview.emulation(plan):
        console.warn(text)


def say_choice(session: Session, plan: Plan) -> None:
    """Where images will come from, and why; said once, when it is decided."""
    choice = session.new_choice
    if choice is None:
        return
    if choice.images == source.REGISTRY:
        console.note(f"images come from the registry: {choice.why}")
        return
    console.note(f"images are built here, of package registries: {choice.why}")
    console.note("that stays so for this stack; to pull images later: pulumi config set images registry")
    if older := session.older_images(plan):
        console.note(f"older than what the registry has: {', '.join(older)}")
    if choice.tiny_models:
        console.note("models cannot be fetched either: tiny ones are made here, whose answers mean nothing")


def start_engine(session: Session, progress: Progress) -> None:
    """As root, install or start a local engine that does not answer. Otherwise doctor says what to do."""
    if session.docker_host or os.geteuid() != 0 or session.docker.reachable():
        return
    engine.ensure(progress)


def say_warnings(facts: Facts, plan: Plan, session: Session) -> None:
    """What does not keep anybody from going on."""
    for finding in examine(facts, plan, session.stack):
        if finding.level is Level.WARN and finding.name not in ("toolchain", "state"):  # up mends these itself
            console.warn(f"{finding.name}: {finding.what}")


def make_ready(session: Session, plan: Plan, progress: Progress) -> Pulumi:
    """Toolchain and images, side by side: both take minutes where they must be built."""
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="ready") as pool:
        tools = pool.submit(toolchain.ensure, progress, toolchain.sdk_versions())
        images = pool.submit(build_images, session, plan, progress)
        images.result()
        return session.pulumi(tools.result())


class BuildProgress:
    """Our progress in the words of the image builder."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def step(self, text: str, /) -> AbstractContextManager[object]:
        return self._progress.step(text)

    def note(self, text: str, /) -> None:
        self._progress.line(f"  {text}")


def build_images(session: Session, plan: Plan, progress: Progress) -> None:
    """Build what is missing, where images are built here."""
    if session.chosen_images != source.AIRGAP:
        return
    from airgap.images import BuildError, EngineError, ensure

    try:
        built = ensure(session.wanted_images(plan), BuildProgress(progress))
    except (BuildError, EngineError) as error:
        first, *rest = str(error).splitlines()
        raise KitError(first, "\n".join([*rest, "Run ./kit up again to go on: finished images are kept."])) from error
    expected = session.built_images()
    for name, image in built.items():
        if image.reference != expected[name]:
            raise KitError(f"image {name} was built as {image.reference}, planned as {expected[name]}.")


def log_file(session: Session, verb: str) -> Path:
    """A new log; the twenty newest are kept."""
    session.state.ensure()
    logs = sorted(session.state.logs.glob("*"))
    for old in logs[:-40]:
        old.unlink(missing_ok=True)
    return session.state.logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{verb}.log"


def deploy(session: Session, plan: Plan, pulumi: Pulumi, progress: Progress, log: Path) -> Digest:
    """The update; once more when it failed for an identity provider that had forgotten the stack's credential."""
    title = f"stack {session.stack}"
    try:
        return deploying.update(session, pulumi, progress, log, title)
    except KitError:
        try:
            if pulumi.known() and (outputs := pulumi.outputs()) and readmitted(session, plan, outputs):
                return deploying.update(session, pulumi, progress, log, title)
        except KitError:
            flowguard.after_failure(session, plan, pulumi, progress, log)
            raise
        flowguard.after_failure(session, plan, pulumi, progress, log)
        raise


# -------------------------------------------------------------------------------------------------------- after


def readmitted(session: Session, plan: Plan, exported: Mapping[str, Any]) -> bool:
    """Whether the identity provider refused the stack's credential, as after its database was restored, and has it now.

    Its own jobs put that right; they ran when the database was another.
    """
    from ops.people import readmit

    if not readmit(session.docker, plan, exported):
        return False
    console.note("the identity provider did not know this stack's credential, and has been told")
    return True


def settle_people(plan: Plan, outputs: Mapping[str, Any]) -> None:
    """Whom the configuration locks out is out."""
    from ops.people import sign_out_locked

    sign_out_locked(plan, outputs)


def keep_ca(session: Session, outputs: Mapping[str, Any]) -> None:
    """The newest CA's certificate beside the state, for browsers and tools to trust."""
    pem, file = authority.newest(str(outputs.get("caPem") or "")), session.state.ca_file
    if pem and not (file.exists() and file.read_text(encoding="utf-8") == pem):
        write_atomically(file, pem)
        file.chmod(0o644)


def provable(plan: Plan) -> bool:
    """Whether there is anybody to act as: without a login nothing is proven, and that is said."""
    if plan.provider(Role.IDENTITY):
        return True
    console.note("nothing is proven: proofs act as a user, and this stack has no login")
    return False


def record_models(session: Session, plan: Plan) -> None:
    """Which version each model is, where the stack has models; a change since the last time is said."""
    from ops import modelrecord

    if modelrecord.has_models(plan):
        modelrecord.after_up(session, plan)


def prove(session: Session, plan: Plan, outputs: Mapping[str, Any]) -> bool:
    """Act as a user; whether everything worked."""
    from ops.proving import prove as proof

    return proof(session, plan, outputs)


def first_passwords(plan: Plan) -> list[str]:
    """How those of the configuration get in, where it names any."""
    stack = "" if plan.stack == "dev" else f" --stack {plan.stack}"
    return [f"  people      first passwords: ./kit people password NAME{stack}"] if plan.settings.people else []


def closing(
    session: Session, plan: Plan, outputs: Mapping[str, Any], *, proven: bool | None, seconds: float
) -> list[str]:
    """The last screen: where it is, how to log in, how to trust it, how to stop it."""
    name = "" if session.stack == "dev" else f" {session.stack}"
    urls = [(service.name, plan.url(route)) for service in plan.running for route in service.spec.routes]
    ca = shlex.quote(str(session.state.ca_file))
    head = {True: "is up and proven", False: "is up, but not everything works", None: "is up"}[proven]
    if found := plan.standins():
        head += f", with {', '.join(found)} in place of the real thing"
    trust = [f"  trust       import {ca} as an authority in your browser"]
    if plan.settings.certificates is not CertificateSource.OWN_CA:
        trust = []
    login = f"  log in      as {outputs.get('adminUser', 'admin-user')}; the password: ./kit status{name} --show-login"
    return [
        f"stack {session.stack} {head} ({duration(seconds)})",
        *(["", *(f"  {line}" for line in console.table(urls))] if urls else []),
        "",
        *([login, *first_passwords(plan), *trust] if plan.provider(Role.IDENTITY) else []),
        *(f"  {line}" for line in authority.overlap(session, plan)),
        f"  stop        ./kit down{name}   (data, users and passwords stay)",
    ]
