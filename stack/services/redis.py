"""Redis: sessions, websockets and caches of the services, within a ceiling of memory.

Upstream: redis. Facts: docs/services/redis.md
"""

from stack.derive import redis
from stack.model import (
    ByTarget,
    NoBackup,
    Proof,
    ResourceLimits,
    ServiceSpec,
    Target,
    Template,
    Volume,
)

CONFIG = Template.of(
    redis.LISTEN
    + """
# A cache: when full, what was not used for longest goes. A job queue must not live here.
maxmemory {ceiling}
maxmemory-policy allkeys-lru

"""
    + redis.PERSISTENCE
    + """
timeout 1800
tcp-keepalive 60
# Websocket events of one slow reader: let them pile up to this before it is dropped.
client-output-buffer-limit pubsub 32mb 8mb 60
loglevel notice
""",
    # Three quarters of the limit at most: rewriting the append-only file needs the rest.
    ceiling=ByTarget({Target.DEV: "64mb", Target.PI: "64mb", Target.GPU: "384mb"}),
)

SERVER = redis.server(
    "redis",
    CONFIG,
    {
        Target.DEV: ResourceLimits(memory_mb=96, cpus=0.5, pids=64),
        Target.PI: ResourceLimits(memory_mb=96, cpus=0.5, pids=64),
        Target.GPU: ResourceLimits(memory_mb=512, cpus=1, pids=64),
    },
)

SERVICE = ServiceSpec(
    name="redis",
    summary="Sessions, websockets and caches",
    containers=(SERVER,),
    secrets=redis.SECRETS,
    jobs=redis.jobs("redis", "redis", SERVER),
    volumes=(Volume("data", NoBackup("sessions and caches: people log in again, the rest is computed again")),),
    proofs=(Proof("the session store answers nobody outside", "stack.proofs.ports:closed"),),
)
