"""Redis: sessions, websockets and caches of the services, within a ceiling of memory.

Upstream: redis. Facts: docs/services/redis.md
"""

from stack import images
from stack.model import (
    ByTarget,
    Command,
    ContainerSpec,
    Encoding,
    File,
    Generated,
    HealthCheck,
    InTemplate,
    Mount,
    NoBackup,
    Port,
    Proof,
    ResourceLimits,
    Secret,
    SecretValue,
    ServiceSpec,
    Target,
    Template,
    Volume,
    Zone,
)

CONFIG = Template.of(
    """\
bind * -::*
port 6379
dir /data

# Services are the user default; `health` may say PING, whoever it is, and nothing else.
user default on >{password} ~* &* +@all -@admin
user health on nopass resetkeys resetchannels -@all +ping

# A cache: when full, what was not used for longest goes. A job queue must not live here.
maxmemory {ceiling}
maxmemory-policy allkeys-lru

appendonly yes
appendfsync everysec
save ""

timeout 1800
tcp-keepalive 60
# Websocket events of one slow reader: let them pile up to this before it is dropped.
client-output-buffer-limit pubsub 32mb 8mb 60
loglevel notice
""",
    password=SecretValue("password", Encoding.REDIS),
    # Three quarters of the limit at most: rewriting the append-only file needs the rest.
    ceiling=ByTarget({Target.DEV: "64mb", Target.PI: "64mb", Target.GPU: "384mb"}),
)

SERVICE = ServiceSpec(
    name="redis",
    summary="Sessions, websockets and caches",
    containers=(
        ContainerSpec(
            image=images.REDIS,
            user="999:999",
            zones=frozenset({Zone.DATA}),
            ports=(Port("redis", 6379),),
            command=("redis-server", "/run/kit/redis.conf"),
            files=(File(name="redis.conf", source=CONFIG),),
            mounts=(Mount("data", "/data"),),
            # As the user `health`: no password in the probe, and -e fails on LOADING as on any other error.
            health=HealthCheck(
                test=Command(
                    (
                        "redis-cli",
                        "-e",
                        "-h",
                        "127.0.0.1",
                        "--user",
                        "health",
                        "--pass",
                        "-",
                        "--no-auth-warning",
                        "ping",
                    )
                ),
                interval_s=3,
                start_period_s=30,
            ),
            limits={
                Target.DEV: ResourceLimits(memory_mb=96, cpus=0.5, pids=64),
                Target.PI: ResourceLimits(memory_mb=96, cpus=0.5, pids=64),
                Target.GPU: ResourceLimits(memory_mb=512, cpus=1, pids=64),
            },
        ),
    ),
    secrets=(Secret("password", Generated(length=32), InTemplate(), shared=True),),
    volumes=(Volume("data", NoBackup("sessions and caches: people log in again, the rest is computed again")),),
    proofs=(Proof("the session store answers nobody outside", "stack.proofs.ports:closed"),),
)
