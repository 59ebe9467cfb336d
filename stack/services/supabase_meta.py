"""postgres-meta: what Studio asks about the database's tables, roles and policies, over HTTP.

Upstream: supabase/postgres-meta. Facts: docs/services/supabase.md

It checks nobody, and runs whatever SQL it is sent. So it has no way to a database of its own: a request brings the
connection along, encrypted under a key that only Studio has.
"""

from stack import images
from stack.model import (
    ContainerSpec,
    File,
    Generated,
    HealthCheck,
    Http,
    InTemplate,
    Port,
    Proof,
    ResourceLimits,
    Restart,
    Secret,
    SecretValue,
    ServiceSpec,
    Target,
    Template,
    Zone,
)

SERVICE = ServiceSpec(
    name="supabase-meta",
    summary="Tables and roles over HTTP, for Supabase Studio",
    containers=(
        ContainerSpec(
            image=images.SUPABASE_META,
            user="1000:1000",
            zones=frozenset({Zone.APP, Zone.DATA}),
            ports=(Port("http", 8080), Port("admin", 8081)),
            entrypoint=("node", "dist/server/server.js"),
            env={
                "HOME": "/tmp",
                "NODE_OPTIONS": "--max-old-space-size=128",
                "PG_META_HOST": "0.0.0.0",
                "PG_META_PORT": "8080",
                # What a request without a connection gets: an address where nothing listens.
                "PG_META_DB_HOST": "127.0.0.1",
                "PG_META_DB_PORT": "1",
                "PG_META_DB_NAME": "none",
                "PG_META_DB_USER": "none",
                "PG_META_DB_PASSWORD": "none",
                "PG_CONN_TIMEOUT_SECS": "15",
                "CRYPTO_KEY_FILE": "/run/kit/crypto-key",
            },
            files=(File(name="crypto-key", source=Template((SecretValue("crypto-key"),))),),
            tmpfs={"/tmp": 16},
            health=HealthCheck(test=Http("http", "/health"), interval_s=4, start_period_s=60),
            limits={
                Target.DEV: ResourceLimits(memory_mb=256, cpus=1, pids=128),
                Target.PI: ResourceLimits(memory_mb=256, cpus=1, pids=128),
                Target.GPU: ResourceLimits(memory_mb=384, cpus=2, pids=128),
            },
        ),
    ),
    secrets=(
        Secret("crypto-key", Generated(length=48), InTemplate(), shared=True, rotates=Restart("the pages start again")),
    ),
    proofs=(Proof("it answers nobody outside", "stack.proofs.ports:closed"),),
)
