"""Services whose database logins end by themselves: what changes in them where somebody has Role.LOGINS.

The provider's agent runs beside the service and keeps a login in a file on a volume of the service. Containers that
would have had the role's password get that volume in place of it. Everything after this sees containers, volumes and
secrets like any others.
"""

from __future__ import annotations

from dataclasses import replace

from stack.model import (
    ContainerSpec,
    DatabasePassword,
    DatabaseUrl,
    DatabaseUser,
    File,
    Generated,
    InTemplate,
    LoginProvider,
    Mount,
    NoBackup,
    Restart,
    Secret,
    ServiceSpec,
    Template,
    Volume,
)

AGENT = "login"  # the container, and its volume

NOTICE = "its agent starts again; logins that were handed out go on"


def leased(spec: ServiceSpec, provider: ServiceSpec | None) -> ServiceSpec:
    """The service with logins that end, where one of its databases is leased and somebody hands them out."""
    source = provider.login_provider if provider else None
    database = next((item for item in spec.databases if item.leased), None)
    if source is None or database is None or database.leased is None:
        return spec
    users = [container for container in spec.containers if _logs_in(container)]
    agent = source.agent(users[0].user, database.name)
    agent = replace(agent, name=AGENT, mounts=(*agent.mounts, Mount(AGENT, LoginProvider.FOLDER)))
    changed = tuple(
        database.leased(_without_password(container)) if container in users else container
        for container in spec.containers
    )
    # Both come and go with who hands logins out: what they hold is made anew.
    key = Secret(
        LoginProvider.KEY, Generated(length=48), InTemplate(), shared=True, rotates=Restart(NOTICE), passing=True
    )
    volume = Volume(AGENT, NoBackup("logins that end within a day"), owner=agent.user, passing=True)
    return replace(spec, containers=(*changed, agent), secrets=(*spec.secrets, key), volumes=(*spec.volumes, volume))


def _logs_in(container: ContainerSpec) -> bool:
    return any(_is_login(file) for file in container.files)


def _is_login(file: File) -> bool:
    """Whether the password of a database, or who it is of, is in a file."""
    if not isinstance(file.source, Template):
        return False
    return any(isinstance(part, DatabasePassword | DatabaseUser | DatabaseUrl) for part in file.source.parts)


def _without_password(container: ContainerSpec) -> ContainerSpec:
    """The container without the role's password, and with the agent's file in place of it."""
    return replace(
        container,
        files=tuple(file for file in container.files if not _is_login(file)),
        mounts=(*container.mounts, Mount(AGENT, LoginProvider.FOLDER, read_only=True)),
        after=(*container.after, AGENT),
    )
