"""Proof of use: acts as a user through the front door, says what works, and leaves nothing behind."""

from __future__ import annotations

import importlib
import io
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from ops import frontdoor
from ops.engine import DockerApi, EngineError
from ops.identity import Administration, administered_at
from ops.progress import Progress, Step
from stack import certificates
from stack.model import Role
from stack.outputs import StackOutputs
from stack.people import THROW_AWAY
from stack.plan import Plan, docker_prefix
from stack.proofs.context import Login, Person, ProofContext, ProofError

PREFIX = THROW_AWAY
JOB_SECONDS = 960  # the longest that a job allows itself, and a minute
_LOG_LINES = 500


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One proof, tried. problem: "" when it holds. look: commands that show more.

    standins: those that it was made against; then it counts for nothing where the real servers run.
    """

    service: str
    title: str
    seconds: float
    notes: tuple[str, ...] = ()
    step: str = ""
    problem: str = ""
    look: tuple[str, ...] = ()
    standins: tuple[str, ...] = ()


class Reporter(Protocol):
    """Told about each proof before, meanwhile and after, and about the end."""

    def begins(self, service: str, title: str) -> None: ...

    def trying(self, step: str) -> None: ...

    def ended(self, outcome: Outcome) -> None: ...

    def finished(self, outcomes: Sequence[Outcome], planned: int) -> None: ...


class Steps:
    """A Reporter on ./kit's progress: the running proof shows what it tries, a failed one where to look."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open: AbstractContextManager[Step] | None = None
        self._step: Step | None = None

    def begins(self, service: str, title: str) -> None:
        self._open = self._progress.step(f"{service:<12} {title}")
        self._step = self._open.__enter__()

    def trying(self, step: str) -> None:
        if self._step:
            self._step.note(step)

    def ended(self, outcome: Outcome) -> None:
        if self._open is None or self._step is None:
            return
        if outcome.notes:
            self._step.title += f" ({', '.join(outcome.notes)})"
        if outcome.standins:
            self._step.title += f" [stand-in: {', '.join(outcome.standins)}]"
        self._step.note(outcome.problem)
        problem = ProofError(outcome.problem) if outcome.problem else None
        with suppress(ProofError):
            self._open.__exit__(type(problem) if problem else None, problem, None)
        self._open = self._step = None
        for line in hints(outcome):
            self._progress.line(f"{'':15}{line}")

    def finished(self, outcomes: Sequence[Outcome], planned: int) -> None:
        self._progress.line(summary(outcomes, planned))


def hints(outcome: Outcome) -> tuple[str, ...]:
    """What helps with a failed proof: what it was trying, and where to look."""
    if not outcome.problem:
        return ()
    trying = (f"while trying: {outcome.step}",) if outcome.step else ()
    return (*trying, f"look at: {' or '.join(outcome.look)}") if outcome.look else trying


def summary(outcomes: Sequence[Outcome], planned: int) -> str:
    """The last line."""
    holding = [outcome for outcome in outcomes if not outcome.problem]
    proven = f"{len(holding)} of {planned} proven"
    weak = [outcome for outcome in holding if outcome.standins]
    if weak:
        names = ", ".join(sorted({name for outcome in weak for name in outcome.standins}))
        proven += f", {len(weak)} of them against a stand-in only ({names}), which counts nothing for the real server"
    if len(outcomes) < planned:
        return f"{proven}, {planned - len(outcomes)} not tried."
    if len(holding) == len(outcomes):
        return f"{proven}."
    return f"{proven}. The stack is up; this is not."


def prove(outputs: StackOutputs, plan: Plan, reporter: Reporter | Progress) -> bool:
    """Run every proof of the plan, then remove all that was made for it, also after Ctrl-C. True when all hold.

    KeyboardInterrupt comes back out after the cleanup.
    """
    report = Steps(reporter) if isinstance(reporter, Progress) else reporter
    run = _Run(outputs, plan, report)
    outcomes: list[Outcome] = []
    left_behind: list[Outcome] = []
    try:
        for owned in plan.proofs:
            standins = plan.standins(owned.owner, *owned.item.through)
            outcomes.append(run.attempt(owned.owner, owned.item.title, owned.item.run, standins))
    finally:
        try:
            left_behind = run.clean_up()
        finally:
            run.close()
            report.finished(outcomes, len(plan.proofs))
    return not any(outcome.problem for outcome in [*outcomes, *left_behind])


@contextmanager
def acting(outputs: StackOutputs, plan: Plan, service: str) -> Iterator[ProofContext]:
    """What a proof of the service is given, for something else, such as a measurement. Nothing is reported."""
    run = _Run(outputs, plan, Steps(Progress(io.StringIO(), tty=False, environ={})))
    try:
        yield _Context(run, service)
    finally:
        run.close()


class _Run:
    """One run of all proofs: the browsers, the throw-away user, the administration."""

    def __init__(self, outputs: StackOutputs, plan: Plan, report: Reporter) -> None:
        self.outputs = outputs
        self.plan = plan
        self.report = report
        self.address = frontdoor.address_of(plan)
        self._engine = DockerApi(plan.settings.docker_host)
        self._browsers: list[httpx.Client] = []
        self._administration: Administration | None = None
        self._person: Person | None = None
        self._password = secrets.token_urlsafe(24) + "aA1!"
        self._second = frontdoor.SecondFactor()
        self._user_browser: httpx.Client | None = None
        self._admin_browser: httpx.Client | None = None

    def attempt(self, service: str, title: str, target: str, standins: tuple[str, ...] = ()) -> Outcome:
        """Run one function of a proof module, report how it went. Only an interrupt leaves this."""

        def call(context: _Context) -> None:
            _function(target)(context)

        return self._attempt(service, title, call, self._look(service), standins)

    def clean_up(self) -> list[Outcome]:
        """Remove every throw-away person, of this run and earlier ones, everywhere. Returns what could not be done."""
        tried: list[Outcome] = []
        seen: set[str] = set()
        for owned in self.plan.proofs:
            target = owned.item.cleanup
            if target and target not in seen:
                seen.add(target)
                tried.append(self.attempt(owned.owner, "nothing of it stays behind", target))
        provider = self.plan.provider(Role.IDENTITY)
        if provider is not None:
            title = "throw-away users are gone"
            tried.append(self._attempt(provider.name, title, self._remove_people, self._look(provider.name)))
        return [outcome for outcome in tried if outcome.problem]

    def _attempt(
        self,
        service: str,
        title: str,
        function: Callable[[_Context], None],
        look: tuple[str, ...],
        standins: tuple[str, ...] = (),
    ) -> Outcome:
        self.report.begins(service, title)
        context = _Context(self, service)
        begin = time.monotonic()
        problem = ""
        try:
            function(context)
        except ProofError as failed:
            problem = str(failed)
        except httpx.HTTPError as failed:
            problem = f"no answer: {failed or type(failed).__name__}"
        except Exception as failed:  # a proof that trips is a proof that fails, and others go on
            problem = f"{type(failed).__name__}: {failed}"
        except BaseException:
            problem = "interrupted"
            raise
        finally:
            outcome = Outcome(
                service=service,
                title=title,
                seconds=time.monotonic() - begin,
                notes=tuple(context.notes),
                step=context.current if problem else "",
                problem=problem,
                look=look if problem else (),
                standins=standins,
            )
            self.report.ended(outcome)
        return outcome

    def _remove_people(self, context: _Context) -> None:
        administration = self.administration()
        context.step("sessions that were opened as somebody else")
        administration.leave()
        for name, user_id in administration.found(PREFIX).items():
            context.step(f"user {name}")
            administration.remove(user_id)

    def close(self) -> None:
        for client in self._browsers:
            client.close()

    def stranger(self) -> httpx.Client:
        client = frontdoor.browser(
            self.plan.settings.domain,
            self.address,
            certificates.trusted_outside(self.plan.settings, self.outputs.ca_pem),
        )
        self._browsers.append(client)
        return client

    def administration(self) -> Administration:
        if self._administration is None:
            self._administration = Administration(self.stranger(), administered_at(self.outputs), self.outputs)
        return self._administration

    def user(self) -> Person:
        if self._person is None:
            self._person = self.newcomer(self._password)
        return self._person

    def newcomer(self, password: str, *groups: str) -> Person:
        name = PREFIX + secrets.token_hex(5)
        person = Person(username=name, email=f"{name}@{self.plan.settings.domain}")
        self.administration().create(person, password, groups)
        return person

    def login(self, start: str) -> Login:
        person = self.user()
        visitor = self.user_browser()
        return frontdoor.log_in(visitor, start, self.outputs.issuer, person.username, self._password, self._second)

    def authorize(self, url: str) -> httpx.Response:
        person = self.user()
        visitor = self.user_browser()
        return frontdoor.authorize(visitor, url, self.outputs.issuer, person.username, self._password, self._second)

    def user_browser(self) -> httpx.Client:
        if self._user_browser is None:
            self._user_browser = self.stranger()
        return self._user_browser

    def login_admin(self, start: str) -> Login:
        """By a session that the service client asks for: passwords and second factors of people stay theirs."""
        if self._admin_browser is None:
            visitor = self.stranger()
            self.administration().become(self.outputs.admin_user, visitor)
            self._admin_browser = visitor
        page = self._admin_browser.get(start)
        if frontdoor.login_form(page, self.outputs.issuer) or str(page.url).startswith(f"{self.outputs.issuer}/login"):
            raise ProofError(f"the administrator's session ended at {page.url.path}: something is asked of that user")
        return Login(browser=self._admin_browser, response=page, asked=False)

    def run_job(self, service: str, job: str) -> str:
        return run_again(self._engine, f"{docker_prefix(self.plan.stack)}{service}-{job}")

    def exposed(self, port: int) -> str:
        """Who of this stack answers at the port without the plan saying so. What else the machine runs is its own."""
        if not frontdoor.answers(self.address, port):
            return ""
        declared = self._declared().get(port, "")
        if not self._engine.host.startswith("unix://"):
            return "" if declared else f"somebody at {self.address}"
        containers: list[dict[str, Any]] = self._engine.get("/containers/json")
        for container in containers:
            name = str(container["Names"][0]).lstrip("/")
            answering = any(item.get("PublicPort") == port for item in container.get("Ports") or [])
            if answering and name != declared and name.startswith(docker_prefix(self.plan.stack)):
                return name
        return ""

    def inside(self, service: str, container: str, argv: Sequence[str]) -> str:
        """What a program printed that was run in a container of a service."""
        name = self._docker_name(service, container)
        try:
            code, printed, complaints = self._engine.execute(name, argv)
        except EngineError as failed:
            raise ProofError(f"nothing could be run in {name}: {failed}") from failed
        if code:
            words = " ".join((complaints or printed).split())[-300:]
            raise ProofError(words or f"{argv[0]} ended with {code} in {name}")
        return printed

    def wrote(self, service: str, container: str) -> str:
        """The end of the log of a service's container."""
        name = self._docker_name(service, container)
        try:
            return self._engine.logs(name, tail=_LOG_LINES)
        except EngineError as failed:
            raise ProofError(f"the log of {name} could not be read: {failed}") from failed

    def _docker_name(self, service: str, container: str) -> str:
        return next(c.docker_name for c in self.plan.service(service).containers if c.spec.name == container)

    def _declared(self) -> dict[int, str]:
        """The host's ports that the plan publishes, and the containers it publishes them from."""
        return {
            publish.external(self.plan.settings): container.docker_name
            for service in self.plan.running
            for container in service.containers
            for publish in container.spec.publish
        }

    def _look(self, service: str) -> tuple[str, ...]:
        containers = self.plan.service(service).containers
        return ("./kit status", *(f"docker logs {container.docker_name}" for container in containers))


class _Context:
    """A ProofContext for the proofs of one service."""

    prefix = PREFIX

    def __init__(self, run: _Run, service: str) -> None:
        self._run = run
        self.service = service
        self.current = ""
        self.notes: list[str] = []

    @property
    def plan(self) -> Plan:
        return self._run.plan

    @property
    def outputs(self) -> StackOutputs:
        return self._run.outputs

    @property
    def address(self) -> str:
        return self._run.address

    @property
    def user(self) -> Person:
        return self._run.user()

    def step(self, title: str) -> None:
        self.current = title
        self._run.report.trying(title)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def url(self, route: str) -> str:
        return self._run.outputs.urls[route]

    def stranger(self) -> httpx.Client:
        return self._run.stranger()

    def newcomer(self, password: str, *groups: str) -> Person:
        return self._run.newcomer(password, *groups)

    def realm(self) -> Mapping[str, Any]:
        return self._run.administration().realm()

    def administered(self, path: str) -> Any:
        answer = self._run.administration().get(path)
        return None if answer.status_code == 404 else answer.json()

    def login(self, start: str) -> Login:
        return self._run.login(start)

    def login_admin(self, start: str) -> Login:
        return self._run.login_admin(start)

    def authorize(self, url: str) -> httpx.Response:
        return self._run.authorize(url)

    def run_job(self, name: str) -> str:
        return self._run.run_job(self.service, name)

    def exposed(self, port: int) -> str:
        return self._run.exposed(port)

    def inside(self, container: str, argv: Sequence[str]) -> str:
        return self._run.inside(self.service, container, argv)

    def wrote(self, container: str) -> str:
        return self._run.wrote(self.service, container)


def _function(target: str) -> Callable[[ProofContext], None]:
    module, _, name = target.partition(":")
    found: Callable[[ProofContext], None] = getattr(importlib.import_module(module), name)
    return found


def run_again(api: DockerApi, name: str) -> str:
    """Start the container of a job that has run already once more, and wait for it. Its last words."""
    listed: list[dict[str, Any]] = api.get("/containers/json?all=true")
    # A job that failed at first has a container for each further attempt; the youngest is the one that succeeded.
    found = [
        (container["Created"], own)
        for container in listed
        for own in (str(container["Names"][0]).lstrip("/"),)
        if own == name or own.startswith(f"{name}-attempt-")
    ]
    if not found:
        raise ProofError(f"there is no container of the job {name}")
    _, container = max(found)
    before = len(api.logs(container))
    api.post(f"/containers/{container}/start")
    code: int = api.post(f"/containers/{container}/wait", timeout=JOB_SECONDS)["StatusCode"]
    words = api.logs(container)[before:].strip()
    if code:
        raise ProofError(" ".join(words.split())[:600] or f"{container} ended with {code}")
    return words.splitlines()[-1] if words else ""
