"""A streaming replica of the database: a second copy, a moment behind, to go on with when the first is lost.

Upstream: pgvector/pgvector. Facts: docs/services/postgres-replica.md
"""

from stack import images
from stack.derive import postgres
from stack.model import (
    Command,
    ContainerSpec,
    Database,
    DatabasePassword,
    DatabaseUser,
    File,
    HealthCheck,
    Job,
    Mount,
    NoBackup,
    Port,
    Profile,
    Proof,
    Ref,
    ResourceLimits,
    ServiceSpec,
    Static,
    Target,
    Template,
    Volume,
    Zone,
)

ROLE = "postgres-replica"
SLOT = "postgres_replica"
CONNECT = f"host={{host}} port={{port}} dbname={ROLE}"
PRIMARY = Ref("postgres", "sql", template=CONNECT)
FILES = (
    File(name="password", source=Template((DatabasePassword(ROLE),))),
    File(name="passfile.sh", source=Static("passfile.sh", shared=True)),
)

# Neither login nor password: the log's receiver inherits the server's environment, with PGUSER and, in PGPASSFILE, the
# place of the password.
FOLLOW = f"""
primary_conninfo = '{{primary}} application_name={SLOT}'
primary_slot_name = '{SLOT}'
"""

SERVICE = ServiceSpec(
    name="postgres-replica",
    summary="A second copy of the database, a moment behind",
    profiles=frozenset(
        {Profile("replica", "A second copy of the database, a moment behind, to go on with when the first is lost")}
    ),
    targets=frozenset({Target.DEV, Target.GPU}),  # a Pi has one disk, and no memory to keep a copy of what is on it
    containers=(
        ContainerSpec(
            image=images.POSTGRES,
            user="999:999",
            zones=frozenset({Zone.DATA}),
            ports=(Port("sql", 5432),),
            entrypoint=("/bin/bash", "/run/kit/replica.sh"),
            env={
                "PGDATA": "/var/lib/postgresql/data/pgdata",
                "KIT_PRIMARY": PRIMARY,
                "KIT_SLOT": SLOT,
                "PGUSER": DatabaseUser(ROLE),
            },
            files=(
                File(name="postgresql.conf", source=postgres.config(FOLLOW, primary=PRIMARY)),
                File(name="pg_hba.conf", source=postgres.HBA),
                File(name="replica.sh", source=Static("replica.sh")),
                *FILES,
            ),
            mounts=(Mount("data", "/var/lib/postgresql/data"),),
            tmpfs={"/tmp": 64, "/var/run/postgresql": 1},
            # Ready when it answers queries: the first time that is after all of the primary was copied.
            health=HealthCheck(
                test=Command(("pg_isready", "-q", "-h", "127.0.0.1", "-U", "health", "-d", "postgres")),
                interval_s=2,
                start_period_s=600,
            ),
            limits={
                Target.DEV: ResourceLimits(memory_mb=512, cpus=1, shm_mb=256),
                Target.PI: ResourceLimits(memory_mb=512, cpus=1, shm_mb=256),
                Target.GPU: ResourceLimits(memory_mb=2048, cpus=2, shm_mb=512),
            },
            stop_grace_s=60,
            wait_s=3600,
        ),
    ),
    jobs=(
        Job(
            name="lag",
            image=images.POSTGRES,
            user="999:999",
            entrypoint=("/bin/bash", "/run/kit/lag.sh"),
            command=(),
            zones=frozenset({Zone.DATA}),
            env={
                "KIT_PRIMARY": PRIMARY,
                "KIT_REPLICA": Ref("postgres-replica", "sql", template=CONNECT),
                "PGUSER": DatabaseUser(ROLE),
            },
            files=(File(name="lag.sh", source=Static("lag.sh")), *FILES),
            memory_mb=64,
            timeout_s=120,
        ),
    ),
    databases=(Database(ROLE, replication=True),),
    volumes=(Volume("data", NoBackup("a copy of what the database's own backup has")),),
    proofs=(
        Proof("what is written is in the second copy within a second", "stack.proofs.postgres_replica:lag"),
        Proof("no database port answers outside", "stack.proofs.ports:closed"),
    ),
)
