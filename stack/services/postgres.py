"""PostgreSQL with pgvector: one server, and a database and role for each service that asks.

Upstream: pgvector/pgvector. Facts: docs/services/postgres.md
"""

from stack import images
from stack.derive import postgres
from stack.model import (
    AsFile,
    Command,
    ContainerSpec,
    DatabaseProvider,
    File,
    Generated,
    HealthCheck,
    Job,
    Mount,
    Never,
    NoBackup,
    Port,
    Proof,
    Ref,
    ResourceLimits,
    Role,
    Secret,
    ServiceSpec,
    Static,
    Target,
    Volume,
    Zone,
)

SERVICE = ServiceSpec(
    name="postgres",
    summary="Database for every service, vectors included",
    roles=frozenset({Role.DATABASE}),
    containers=(
        ContainerSpec(
            image=images.POSTGRES,
            user="999:999",
            zones=frozenset({Zone.DATA}),
            ports=(Port("sql", 5432),),
            command=("postgres", "-c", "config_file=/run/kit/postgresql.conf"),
            env={
                # A folder in the volume: its top belongs to whoever prepares volumes.
                "PGDATA": "/var/lib/postgresql/data/pgdata",
                "POSTGRES_PASSWORD_FILE": "/run/kit/superuser-password",
                # Code point order of PostgreSQL itself: a newer C library never makes an index wrong.
                "POSTGRES_INITDB_ARGS": (
                    "--encoding=UTF8 --locale=C.UTF-8 --locale-provider=builtin --builtin-locale=C.UTF-8"
                    " --data-checksums --auth-local=peer --auth-host=scram-sha-256"
                ),
                "POSTGRES_HOST_AUTH_METHOD": "scram-sha-256",
            },
            files=(
                File(name="postgresql.conf", source=postgres.config()),
                File(name="pg_hba.conf", source=postgres.HBA),
            ),
            mounts=(Mount("data", "/var/lib/postgresql/data"), Mount("socket", "/var/run/postgresql")),
            tmpfs={"/tmp": 64},
            # -h: while the image sets up its first cluster, a server answers on the socket only. A role that does
            # not exist is asked for a password like any other, and nothing is logged when none comes.
            health=HealthCheck(
                test=Command(("pg_isready", "-q", "-h", "127.0.0.1", "-U", "health", "-d", "postgres")),
                interval_s=2,
                start_period_s=60,
            ),
            limits={
                Target.DEV: ResourceLimits(memory_mb=512, cpus=1, shm_mb=256),
                Target.PI: ResourceLimits(memory_mb=512, cpus=1, shm_mb=256),
                Target.GPU: ResourceLimits(memory_mb=2048, cpus=4, shm_mb=512),
            },
            # A fast shutdown (SIGINT, the image's) writes a checkpoint; killed, the next start replays the log.
            stop_grace_s=60,
        ),
    ),
    secrets=(
        # The image refuses to set up a cluster without it. Nobody uses it: the superuser may only come over
        # the socket, as the operating system's user postgres.
        Secret(
            "superuser-password",
            Generated(length=48),
            AsFile("superuser-password"),
            rotates=Never("nothing takes it: the superuser comes over the server's own socket alone, without one"),
        ),
    ),
    volumes=(
        Volume("data", NoBackup("a copy of a running cluster is no backup: each database is dumped")),
        Volume("socket", NoBackup("holds the server's socket, for its jobs alone")),
    ),
    database_provider=DatabaseProvider(
        job=Job(
            name="database",
            image=images.POSTGRES,
            user="999:999",
            entrypoint=("/bin/bash", "/run/kit/database.sh"),
            command=(),
            env={"PGHOST": "/var/run/postgresql", "PGUSER": "postgres", "PGDATABASE": "postgres"},
            files=(File(name="database.sh", source=Static("database.sh")),),
            mounts=(Mount("socket", "/var/run/postgresql"),),
            memory_mb=64,
            timeout_s=120,
        ),
        port="sql",
        retire=Job(
            name="retire",
            image=images.POSTGRES,
            user="999:999",
            entrypoint=("/bin/bash", "/run/kit/retire.sh"),
            command=(),
            zones=frozenset({Zone.DATA}),  # tries both logins as services do
            env={
                "KIT_HOST": Ref("postgres", "sql", template="{host}"),
                "KIT_PORT": Ref("postgres", "sql", template="{port}"),
            },
            files=(
                File(name="retire.sh", source=Static("retire.sh")),
                File(name="passfile.sh", source=Static("passfile.sh", shared=True)),
            ),
            mounts=(Mount("socket", "/var/run/postgresql"),),
            memory_mb=64,
            timeout_s=120,
        ),
    ),
    proofs=(Proof("no database port answers outside", "stack.proofs.ports:closed"),),
)
