"""What every PostgreSQL server of a stack has in common: a replica must allow what its primary allows."""

from __future__ import annotations

from stack.model import ByTarget, Target, Template, Value

# This file is all of the configuration: what initdb leaves in PGDATA is not read.
_CONFIG = """\
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
# A replica that is gone for long must not fill the disk: beyond this it has to be copied anew.
max_slot_wal_keep_size = {kept}

timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u@%d '
log_min_duration_statement = '5s'
# Never a statement's parameters: they hold what people wrote, and passwords.
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
"""

HBA = Template.of(
    """\
# Jobs of the server itself, over the socket, as the operating system's user of the same name.
local   all           postgres   peer
# Services, over the data network, each with its own role and password. The superuser never comes this way.
host    all           postgres   all   reject
host    replication   postgres   all   reject
host    all           all        all   scram-sha-256
# Only roles that were made for it may stream the log.
host    replication   all        all   scram-sha-256
"""
)


def config(more: str = "", **values: Value) -> Template:
    """postgresql.conf for a server of the stack. `more` is appended, its {names} replaced by `values`."""
    return Template.of(
        _CONFIG + more,
        # Keycloak's pool is 20 at most, Open WebUI's 60 (two of 10 and 20 more), jobs and backups take single ones.
        connections=ByTarget({Target.DEV: "100", Target.PI: "100", Target.GPU: "200"}),
        buffers=ByTarget({Target.DEV: "128MB", Target.PI: "128MB", Target.GPU: "512MB"}),
        cache=ByTarget({Target.DEV: "384MB", Target.PI: "384MB", Target.GPU: "1536MB"}),
        work=ByTarget({Target.DEV: "4MB", Target.PI: "4MB", Target.GPU: "16MB"}),
        maintenance=ByTarget({Target.DEV: "64MB", Target.PI: "64MB", Target.GPU: "256MB"}),
        kept=ByTarget({Target.DEV: "'512MB'", Target.PI: "'512MB'", Target.GPU: "'4GB'"}),
        **values,
    )
