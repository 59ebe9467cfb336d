"""A stack of chosen profiles on its real images, with plain docker from the derived texts and every secret hostile."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ops import frontdoor, prove
from ops.progress import Progress
from stack import plan as planning
from stack import targets
from stack.catalog import discover
from stack.deploy import THEMES
from stack.derive import encode, models, oidc, runtime, values
from stack.derive.runtime import ContainerPlan, JobPlan
from stack.model import ImageSource, Role, ServiceSpec, Signed, Target
from stack.outputs import StackOutputs
from stack.plan import Plan, SecretKey
from stack.rotation import Wish
from stack.settings import Settings
from tests.live import realm, trial
from tests.live.trial import HOSTILE, Authority, Trial, docker


class Standing:
    """A stack that is up."""

    def __init__(self, plan: Plan, running: Trial) -> None:
        self.plan = plan
        self.trial = running

    @property
    def outputs(self) -> StackOutputs:
        """What such a stack exports. Without an identity provider nobody can log in, and nobody is asked to."""
        provider = self.plan.provider(Role.IDENTITY)
        identity = provider.spec.identity_provider if provider else None
        secret = self.trial.secret(provider.name, identity.admin_secret) if provider and identity else "none"
        return StackOutputs(
            urls={owned.item.name: self.plan.url(owned.item) for owned in self.plan.routes},
            ca_pem=self.trial.authority.ca_pem,
            realm=self.plan.settings.realm,
            issuer=values.issuer_url(self.plan) if provider else "none",
            admin_url=f"https://127.0.0.1:{self.plan.settings.admin_port}"
            + (self.plan.path(provider.spec.routes[0]) if provider else ""),
            admin_client_id=identity.admin_client_id if identity else "none",
            admin_client_secret=secret,
            admin_user="admin-user",
            admin_password="not used",
            keys={
                str(secret.key): self.trial.secret(secret.key.owner, secret.key.name)
                for secret in self.plan.secrets
                if secret.handed_out
            },
        )

    def name(self, container: str) -> str:
        return f"kit-{self.plan.stack}-{container}"

    def container(self, service: str) -> ContainerPlan:
        """The first container of a service."""
        return next(step for step in self.trial.runtime.containers if step.service == service)

    def job(self, name: str) -> JobPlan:
        """A job, by its service and name: <service>-<job>."""
        every = (*self.trial.runtime.jobs, *self.trial.runtime.after_realm)
        return next(step for step in every if step.name == self.name(name))

    def image(self, service: str) -> str:
        return self.container(service).image

    def rotate(self, key: SecretKey, value: str) -> None:
        """A next generation of a secret, in the plan and in what is delivered from now on."""
        self.trial.previous[key] = self.trial.values[key]
        self.trial.values[key] = value
        numbers = {**self.plan.settings.rotation, str(key): Wish(self.plan.secret(key).generation + 1)}
        self.plan = replace(self.plan, settings=replace(self.plan.settings, rotation=numbers))
        self.trial.runtime = runtime.build(self.plan)

    def prove(self, service: str = "") -> tuple[bool, str]:
        """Run every proof, or those of one service; whether all hold, and what a person read."""
        plan = self.plan
        if service:
            plan = _OneService(settings=plan.settings, host=plan.host, services=plan.services)
            plan.only = service
        stream = io.StringIO()
        holds = prove.prove(self.outputs, plan, Progress(stream, tty=False, environ={}))
        print(stream.getvalue())
        return holds, stream.getvalue()

    def settle(self, service: str = "") -> None:
        """Wait until the front door has noticed that a service is there: every one with a route when none is named.

        Asked is a path that the front door hands on: what it refuses by itself says nothing about the service.
        """
        with frontdoor.browser(self.plan.settings.domain, "127.0.0.1", self.outputs.ca_pem) as visitor:
            for owned in self.plan.routes:
                url = self.plan.url(owned.item) + next(iter((*owned.item.open, *owned.item.paths)), "")
                if service in ("", owned.owner):
                    trial.eventually(lambda url=url: visitor.get(url, follow_redirects=False).status_code != 503, 90)

    def restarted(self, service: str) -> None:
        """Wait until a service that was started again is healthy, and the front door knows."""
        for container in self.trial.runtime.containers:
            if container.service == service:
                self.trial.wait_healthy(container)
        self.settle(service)

    def make_realm(self) -> None:
        """The realm with the stack's clients and admin-user, in place of what the components do."""
        outputs, settings = self.outputs, self.plan.settings
        realm.make(
            outputs.admin_url,
            outputs.ca_pem,
            (outputs.admin_client_id, outputs.admin_client_secret),
            settings.realm,
            [(client, self.trial.secret(client.service, "oidc")) for client in oidc.clients(self.plan)],
            face={"displayName": settings.login_title, "loginTheme": THEMES[settings.login_theme]},
        )
        for job in self.trial.runtime.after_realm:
            self.trial.run(job)


class _OneService(Plan):
    """A plan whose proofs are those of one service."""

    only: str

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def proofs(self) -> Any:
        return tuple(owned for owned in Plan.proofs.fget(self) if owned.owner == self.only)  # pyright: ignore


@contextmanager
def stack(
    name: str,
    folder: Path,
    *profiles: str,
    plain: Callable[[SecretKey], bool] = lambda _: False,
    catalogue: tuple[ServiceSpec, ...] = (),
    start: bool = True,
    **changes: Any,
) -> Iterator[Standing]:
    """A stack of these profiles, and nothing of it afterwards. plain: secrets that are not hostile."""
    from airgap import images

    catalogue = catalogue or discover()

    def planned(built: dict[str, str]) -> Plan:
        settings = Settings(
            stack=name,
            target=Target.DEV,
            profiles=profiles,
            images=ImageSource.AIRGAP,
            airgap_images=built,
            models=models.TINY_CHAT,
            embedding_model=models.TINY_EMBEDDING,
            **changes,
        )
        return planning.build(settings, targets.profile(settings), catalogue)

    # Only what this stack runs is built: nobody waits for the images of the others.
    steps = runtime.build(planned({})).steps
    names = {step.image.removeprefix("airgap:") for step in steps} | {"tools"}
    plan = planned({each: image.reference for each, image in images.ensure(sorted(names)).items()})
    hosts = plan.host_names
    hostile = {secret.key: HOSTILE for secret in plan.secrets if not plain(secret.key)}
    sign(plan, hostile)
    running = Trial(runtime.build(plan), Authority(folder, hosts), values=hostile)
    running.down()
    try:
        if start:
            running.up()
        yield Standing(plan, running)
    finally:
        running.down()


def sign(plan: Plan, known: dict[SecretKey, str]) -> None:
    """The tokens among a plan's secrets, as deploy.py makes them of the others."""
    for secret in plan.secrets:
        if isinstance(secret.source, Signed):
            key = SecretKey(secret.key.owner, secret.source.key)
            known[secret.key] = encode.token(known[key], secret.source.claims)


def inside(container: str, program: str) -> str:
    """Run a Python program in a running container that has Python; what it printed."""
    return docker("exec", "-i", container, "python3", "-", data=program.encode())
