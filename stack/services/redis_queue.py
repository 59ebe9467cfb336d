"""Redis for job queues: nothing in it may be forgotten, so it is none of the caches.

Upstream: redis. Facts: docs/services/redis-queue.md
"""

from stack.derive import redis
from stack.model import (
    BackupSet,
    ByTarget,
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
# A queue: when full it says so. Dropping a job silently would be worse than refusing one.
maxmemory {ceiling}
maxmemory-policy noeviction

"""
    + redis.PERSISTENCE
    + """
# Workers wait for jobs on connections that are silent for as long as there are none.
timeout 0
tcp-keepalive 60
loglevel notice
""",
    # Three quarters of the limit at most: rewriting the append-only file needs the rest.
    ceiling=ByTarget({Target.DEV: "64mb", Target.PI: "48mb", Target.GPU: "192mb"}),
)

SERVER = redis.server(
    "queue",
    CONFIG,
    {
        Target.DEV: ResourceLimits(memory_mb=96, cpus=0.5, pids=64),
        Target.PI: ResourceLimits(memory_mb=64, cpus=0.5, pids=64),
        Target.GPU: ResourceLimits(memory_mb=256, cpus=1, pids=64),
    },
)

SERVICE = ServiceSpec(
    name="redis-queue",
    summary="Job queues, kept apart from caches",
    containers=(SERVER,),
    secrets=redis.SECRETS,
    jobs=redis.jobs("redis-queue", "queue", SERVER),
    # Jobs that wait, and the timers of those that repeat. A second may be missing after a crash.
    volumes=(Volume("data", BackupSet.files(exclude=redis.NO_BACKUP)),),
    proofs=(Proof("the job queue answers nobody outside", "stack.proofs.ports:closed"),),
)
