"""Garage: object storage that speaks S3, for services inside the stack.

Upstream: Deuxfleurs/garage. Facts: docs/services/garage.md
"""

from stack import images
from stack.model import (
    BackupSet,
    ByTarget,
    Command,
    ContainerSpec,
    Encoding,
    File,
    Generated,
    HealthCheck,
    InTemplate,
    Job,
    Mount,
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

REGION = "garage"
BUCKET = "kit"

CONFIG = Template.of(
    f"""\
metadata_dir = "/meta"
data_dir = "/data"
# LMDB, the default, does not outlive every power cut, and its files depend on the machine's page size.
db_engine = "sqlite"
# There is no other copy of what is here.
replication_factor = 1
metadata_fsync = true
data_fsync = true

# Nobody joins: its node talks to itself.
rpc_bind_addr = "127.0.0.1:3901"
rpc_public_addr = "127.0.0.1:3901"
rpc_secret_file = "/run/kit/rpc-secret"

block_ram_buffer_max = "{{buffer}}"

[s3_api]
s3_region = "{REGION}"
api_bind_addr = "0.0.0.0:3900"

[admin]
api_bind_addr = "0.0.0.0:3903"
admin_token_file = "/run/kit/admin-token"
metrics_token_file = "/run/kit/metrics-token"
metrics_require_token = true
""",
    buffer=ByTarget({Target.DEV: "64M", Target.PI: "32M", Target.GPU: "256M"}),
)


def key(name: str, secret: str, encoding: Encoding = Encoding.HEX_32, before: str = "") -> File:
    """A secret in the form that Garage takes. It refuses files that others may read."""
    return File(name=name, source=Template((before, SecretValue(secret, encoding))))


SERVICE = ServiceSpec(
    name="garage",
    summary="Object storage (S3)",
    profiles=frozenset({Profile("storage", "Object storage that speaks S3, for services and workflows")}),
    containers=(
        ContainerSpec(
            image=images.GARAGE,
            user="1000:1000",
            zones=frozenset({Zone.DATA}),
            ports=(Port("s3", 3900), Port("admin", 3903)),
            # Takes the whole volume for itself at the first start: there is nobody to share it out to.
            command=("/garage", "server", "--single-node"),
            env={"GARAGE_CONFIG_FILE": "/run/kit/garage.toml", "RUST_LOG": "garage=info"},
            files=(
                File(name="garage.toml", source=CONFIG),
                key("rpc-secret", "rpc"),
                key("admin-token", "admin"),
                key("metrics-token", "metrics"),
            ),
            mounts=(Mount("meta", "/meta"), Mount("data", "/data")),
            tmpfs={"/tmp": 16},
            # The image has nothing but this program.
            health=HealthCheck(test=Command(("/garage", "status")), interval_s=5, start_period_s=60),
            limits={
                Target.DEV: ResourceLimits(memory_mb=256, cpus=1, pids=128),
                Target.PI: ResourceLimits(memory_mb=192, cpus=1, pids=128),
                Target.GPU: ResourceLimits(memory_mb=768, cpus=2, pids=256),
            },
            stop_grace_s=30,
        ),
    ),
    jobs=(
        Job(
            name="bucket",
            image=images.TOOLS,
            user="65534:65534",
            command=("sh", "/run/kit/bucket.sh"),
            zones=frozenset({Zone.DATA}),
            env={
                "KIT_HOST": Ref("garage", "s3", template="{host}"),
                "KIT_S3_PORT": Ref("garage", "s3", template="{port}"),
                "KIT_ADMIN_PORT": Ref("garage", "admin", template="{port}"),
                "KIT_REGION": REGION,
                "KIT_BUCKET": BUCKET,
                "KIT_KEY_NAME": "kit-services",
            },
            files=(
                File(name="bucket.sh", source=Static("bucket.sh")),
                File(name="http.sh", source=Static("http.sh", shared=True)),
                key("admin-token", "admin"),
                # A key that is taken away never comes back under its name: another secret has another name.
                key("key-id", "key", Encoding.NAME_24, before="GK"),
                key("key", "key"),
            ),
            memory_mb=32,
            timeout_s=120,
        ),
    ),
    secrets=(
        Secret(
            "rpc",
            Generated(length=48),
            InTemplate(),
            rotates=Restart("it starts again; who asks it meanwhile waits or asks again"),
        ),
        Secret(
            "admin",
            Generated(length=48),
            InTemplate(),
            rotates=Restart("it starts again; who asks it meanwhile waits or asks again"),
        ),
        Secret(
            "metrics",
            Generated(length=48),
            InTemplate(),
            shared=True,
            rotates=Restart("it starts again; who asks it meanwhile waits or asks again"),
        ),
        Secret(
            "key",
            Generated(length=48),
            InTemplate(),
            shared=True,
            rotates=Restart("whoever has the old key is refused once the new one is there"),
        ),
    ),
    # The one names what is in the other: both belong to the same moment.
    volumes=(Volume("meta", BackupSet(stop=True)), Volume("data", BackupSet(stop=True))),
    proofs=(
        Proof("an object is written, read and removed, with the key alone", "stack.proofs.garage:objects"),
        Proof("the storage answers nobody outside", "stack.proofs.ports:closed"),
    ),
)
