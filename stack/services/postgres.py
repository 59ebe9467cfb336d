"""PostgreSQL with pgvector: one server, and a database and role for each service that asks.

Upstream: pgvector/pgvector. Facts: docs/services/postgres.md
"""

from stack import images
from stack.model import (
    AsFile,
    ByTarget,
    Command,
    ContainerSpec,
    DatabaseProvider,
    File,
    Generated,
    HealthCheck,
    Job,
    Mount,
    NoBackup,
    Port,
    Proof,
    ResourceLimits,
    Role,
    Secret,
    ServiceSpec,
    Static,
    Target,
    Template,
    Volume,
    Zone,
)

# This file is all of the configuration: what initdb leaves in PGDATA is not read.
CONFIG = Template.of(
    """\
data_directory = '/var/lib/postgresql/data/pgdata'
hba_file = '/run/kit/pg_hba.conf'
listen_addresses = '*'
unix_socket_directories = '/var/run/postgresql'
password_encryption = 'scram-sha-256'
max_connections = {connections}

shared_buffers = {buffers}
effective_cache_size = {cache}
work_mem = {work}
maintenance_work_mem = {maintenance}
# pgvector before 0.8.2 can overrun a buffer while several workers build one HNSW index.
max_parallel_maintenance_workers = 0
jit = off

# An SD card or NVMe pays for every page of the log: compressed, and few checkpoints.
wal_compression = on
max_wal_size = '1GB'
min_wal_size = '80MB'
checkpoint_timeout = '15min'
random_page_cost = 1.1

timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u@%d '
log_min_duration_statement = '5s'
# Never a statement's parameters: they hold what people wrote, and passwords.
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
""",
    # Keycloak's pool is 20 at most, Open WebUI's 60 (two of 10 and 20 more), jobs and backups take single ones.
    connections=ByTarget({Target.DEV: "100", Target.PI: "100", Target.GPU: "200"}),
    buffers=ByTarget({Target.DEV: "128MB", Target.PI: "128MB", Target.GPU: "512MB"}),
    cache=ByTarget({Target.DEV: "384MB", Target.PI: "384MB", Target.GPU: "1536MB"}),
    work=ByTarget({Target.DEV: "4MB", Target.PI: "4MB", Target.GPU: "16MB"}),
    maintenance=ByTarget({Target.DEV: "64MB", Target.PI: "64MB", Target.GPU: "256MB"}),
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
            files=(File(name="postgresql.conf", source=CONFIG), File(name="pg_hba.conf", source=Static("pg_hba.conf"))),
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
        Secret("superuser-password", Generated(length=48), AsFile("superuser-password")),
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
    ),
    proofs=(Proof("no database port answers outside", "stack.proofs.ports:closed"),),
)
