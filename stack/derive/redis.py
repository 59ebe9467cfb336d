"""What every Redis of a stack has in common: who may do what, how its password is rotated, how its health is asked."""

from __future__ import annotations

from collections.abc import Mapping

from stack import images
from stack.model import (
    Command,
    ContainerSpec,
    Encoding,
    File,
    Generated,
    HealthCheck,
    ImagePin,
    InTemplate,
    Job,
    Mount,
    Overlap,
    Port,
    Ref,
    ResourceLimits,
    Restart,
    Secret,
    SecretValue,
    Static,
    Target,
    Template,
    Zone,
)

PORT = 6379
DATA = "data"  # its volume
FOLDER = "/data"

LISTEN = f"""\
bind * -::*
port {PORT}
dir {FOLDER}

# Services are the user default, whose passwords are kept there: files/shared/redis.sh.
aclfile {FOLDER}/users.acl
"""

PERSISTENCE = """\
appendonly yes
appendfsync everysec
save ""
"""

# `health` may say PING, whoever it is, and nothing else; `kit` says which passwords services have.
USERS = Template.of(
    """\
user health on nopass resetkeys resetchannels -@all +ping
user kit on >{access} resetkeys resetchannels -@all +acl +client|kill +ping
""",
    access=SecretValue("access", Encoding.HEX_32),
)

# The rights of services; redis.sh writes the passwords in front of them.
RIGHTS = "~* &* +@all -@admin"

# What a backup leaves out: an old copy would have the server take an old password.
NO_BACKUP = ("users.acl",)

# As the user `health`: no password in the probe, and -e fails on LOADING as on any other error.
HEALTH = HealthCheck(
    test=Command(
        ("redis-cli", "-e", "-h", "127.0.0.1", "--user", "health", "--pass", "-", "--no-auth-warning", "ping")
    ),
    interval_s=3,
    start_period_s=30,
)

SECRETS = (
    Secret("password", Generated(length=32), InTemplate(), shared=True, rotates=Overlap("password", "old-password")),
    Secret(
        "access",
        Generated(length=48),
        InTemplate(),
        rotates=Restart("it starts again within a second or two, and what uses it connects again"),
    ),
)


def server(port: str, config: Template, limits: Mapping[Target, ResourceLimits]) -> ContainerSpec:
    """The container of a server, whose port has that name. `config` is its redis.conf."""
    return ContainerSpec(
        image=images.REDIS,
        user="999:999",
        zones=frozenset({Zone.DATA}),
        ports=(Port(port, PORT),),
        entrypoint=("sh", "/run/kit/redis.sh"),
        command=("redis-server", "/run/kit/redis.conf"),
        files=(
            File(name="redis.conf", source=config),
            File(name="redis.sh", source=Static("redis.sh", shared=True)),
            File(name="static.acl", source=USERS),
            # For the next start; the job has the running server take it.
            File(name="password", source=Template((SecretValue("password"),)), live=True),
        ),
        mounts=(Mount(DATA, FOLDER),),
        health=HEALTH,
        limits=limits,
    )


def jobs(service: str, port: str, container: ContainerSpec) -> tuple[Job, Job]:
    """The job that has a server take the password beside the one before, and the one that ends that one."""
    return (
        _job(service, port, container.image, container.user, "password"),
        _job(service, port, container.image, container.user, "old-password"),
    )


def _job(service: str, port: str, image: ImagePin, user: str, name: str) -> Job:
    more = () if name == "password" else (_file("previous", SecretValue("password", previous=True)),)
    return Job(
        name=name,
        image=image,
        user=user,
        entrypoint=("sh", "/run/kit/redis-password.sh", "accept" if name == "password" else "retire"),
        command=(),
        zones=frozenset({Zone.DATA}),
        env={
            "KIT_HOST": Ref(service, port, template="{host}"),
            "KIT_PORT": Ref(service, port, template="{port}"),
        },
        files=(
            File(name="redis-password.sh", source=Static("redis-password.sh", shared=True)),
            _file("access", SecretValue("access", Encoding.HEX_32)),
            _file("password", SecretValue("password")),
            *more,
        ),
        mounts=(Mount(DATA, FOLDER),),
        memory_mb=32,
        timeout_s=60,
    )


def _file(name: str, value: SecretValue) -> File:
    return File(name=name, source=Template((value,)))
