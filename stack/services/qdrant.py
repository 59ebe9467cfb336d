"""Qdrant: a vector database for services and workflows, and for the chat's documents where the settings say so.

Upstream: qdrant/qdrant. Facts: docs/services/qdrant.md
"""

from stack import images
from stack.model import (
    BackupSet,
    ByTarget,
    ContainerSpec,
    Encoding,
    File,
    Generated,
    HealthCheck,
    Http,
    InTemplate,
    Job,
    Mount,
    NoBackup,
    Port,
    Profile,
    Proof,
    Ref,
    ResourceLimits,
    Restart,
    Secret,
    SecretValue,
    ServiceSpec,
    Static,
    Target,
    Template,
    Volume,
    Zone,
)

# JSON strings are YAML strings. The server reads this last of all files, and no variable of it is set.
CONFIG = Template.of(
    """\
log_level: INFO
telemetry_disabled: true
service:
  host: 0.0.0.0
  http_port: 6333
  api_key: {key}
  # Nobody's browser gets here.
  enable_cors: false
  enable_static_content: false
storage:
  storage_path: /qdrant/storage
  snapshots_path: /qdrant/snapshots
  # What a vector stands for is read when it is found: memory is for the vectors and their index.
  on_disk_payload: true
  hnsw_index:
    on_disk: {index_on_disk}
""",
    key=SecretValue("key", Encoding.JSON),
    index_on_disk=ByTarget({Target.DEV: "false", Target.PI: "true", Target.GPU: "false"}),
)

SERVICE = ServiceSpec(
    name="qdrant",
    summary="Vector database",
    profiles=frozenset({Profile("vectors", "A vector database for services and workflows")}),
    containers=(
        ContainerSpec(
            image=images.QDRANT,
            user="1000:1000",
            zones=frozenset({Zone.DATA}),
            ports=(Port("http", 6333),),
            # Not the image's script: asked to stop it ends before the server does, which is then killed.
            entrypoint=("/qdrant/qdrant",),
            command=("--config-path", "/run/kit/qdrant.yaml"),
            env={
                "HOME": "/tmp",
                # It marks that it has started, by default beside itself, where nothing may be written.
                "QDRANT_INIT_FILE_PATH": "/tmp/.qdrant-initialized",
            },
            files=(File(name="qdrant.yaml", source=CONFIG),),
            mounts=(Mount("storage", "/qdrant/storage"), Mount("snapshots", "/qdrant/snapshots")),
            tmpfs={"/tmp": 16},
            # Loading large collections takes a while; it answers /readyz once all are there.
            health=HealthCheck(test=Http("http", "/readyz"), start_period_s=120),
            limits={
                # Estimated: the real server was not measured. A million vectors of 768 dimensions take 3 GB.
                Target.DEV: ResourceLimits(memory_mb=512, cpus=2),
                Target.PI: ResourceLimits(memory_mb=512, cpus=1.5),
                Target.GPU: ResourceLimits(memory_mb=4096, cpus=4),
            },
            stop_grace_s=60,
        ),
    ),
    jobs=(
        Job(
            name="vectors",
            image=images.QDRANT,
            user="1000:1000",
            entrypoint=("/bin/bash", "/run/kit/vectors.sh"),
            command=(),
            zones=frozenset({Zone.DATA}),
            env={
                "KIT_HOST": Ref("qdrant", "http", template="{host}"),
                "KIT_PORT": Ref("qdrant", "http", template="{port}"),
            },
            files=(
                File(name="vectors.sh", source=Static("vectors.sh")),
                File(name="key", source=Template((SecretValue("key"),))),
            ),
            memory_mb=64,
            timeout_s=180,
        ),
    ),
    # It travels in a header: letters and digits only, which all readers take as they are.
    secrets=(
        Secret(
            "key",
            Generated(length=48),
            InTemplate(),
            shared=True,
            rotates=Restart("it starts again, and so does what searches in it"),
        ),
    ),
    volumes=(
        Volume("storage", BackupSet(stop=True)),  # a copy of files that are written to is none
        Volume("snapshots", NoBackup("taken by hand, of the storage, which is in the backup")),
    ),
    proofs=(
        Proof("a vector goes in and is found, with the key only", "stack.proofs.qdrant:vectors"),
        Proof("the vectors answer nobody outside", "stack.proofs.ports:closed"),
    ),
)
