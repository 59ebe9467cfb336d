"""Neo4j, community edition: a graph database for services and workflows.

Upstream: neo4j. Facts: docs/services/neo4j.md
"""

from stack import images
from stack.model import (
    BackupSet,
    ByTarget,
    ContainerSpec,
    Encoding,
    File,
    FromSettings,
    Generated,
    HealthCheck,
    Http,
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

CONFIG = Template.of(
    """\
server.directories.data=/data
server.directories.logs=/tmp/logs
server.directories.run=/tmp/run
server.directories.import=/tmp/import
server.logs.config=/run/kit/server-logs.xml
server.logs.user.config=/run/kit/user-logs.xml

server.default_listen_address=0.0.0.0
server.http.listen_address=:7474
server.bolt.listen_address=:7687
server.https.enabled=false
dbms.security.auth_enabled=true

# The heap is taken at once and stays, so that it never has to be found later.
server.memory.heap.initial_size={heap}
server.memory.heap.max_size={heap}
server.memory.pagecache.size={pages}
# Direct buffers of the network and of transactions, beside heap and page cache.
server.jvm.additional=-XX:MaxDirectMemorySize={direct}
server.jvm.additional=-XX:+ExitOnOutOfMemoryError
server.jvm.additional=-XX:MaxMetaspaceSize=256m
# Libraries that Java unpacks and loads: nothing in /tmp may be executed.
server.jvm.additional=-Djna.tmpdir=/data/native
server.jvm.additional=-Dio.netty.native.workdir=/data/native
db.memory.transaction.total.max={transactions}

# A power cut costs nothing that was committed; a slow disk is spared long logs.
db.tx_log.rotation.retention_policy=2 days 500M
db.logs.query.enabled=OFF
dbms.usage_report.enabled=false
# Nobody reads files or addresses of the inside through a query.
dbms.security.allow_csv_import_from_file_urls=false
internal.dbms.cypher_ip_blocklist=0.0.0.0/0,::/0
server.config.strict_validation.enabled=true
""",
    heap=ByTarget({Target.DEV: "384m", Target.PI: "384m", Target.GPU: "2g"}),
    pages=ByTarget({Target.DEV: "128m", Target.PI: "128m", Target.GPU: "1g"}),
    direct=ByTarget({Target.DEV: "64m", Target.PI: "64m", Target.GPU: "256m"}),
    transactions=ByTarget({Target.DEV: "128m", Target.PI: "128m", Target.GPU: "1g"}),
)

# What neo4j.sh asks of a server that nobody else reaches, when an operator says that the volume is to be adopted.
ADOPT = Template(
    (
        '{"statements": [{"statement": "ALTER USER neo4j SET PASSWORD $p CHANGE NOT REQUIRED", "parameters": {"p": ',
        SecretValue("password", Encoding.JSON),
        "}}]}",
    )
)

CHANGE = Template(
    (
        '{"statements": [{"statement": "ALTER CURRENT USER SET PASSWORD FROM $old TO $new", "parameters": {"old": ',
        SecretValue("password", Encoding.JSON, previous=True),
        ', "new": ',
        SecretValue("password", Encoding.JSON),
        "}}]}",
    )
)

SERVICE = ServiceSpec(
    name="neo4j",
    summary="Graph database",
    profiles=frozenset({Profile("graph", "A graph database for services and workflows")}),
    containers=(
        ContainerSpec(
            image=images.NEO4J,
            user="7474:7474",
            zones=frozenset({Zone.DATA}),
            ports=(Port("http", 7474), Port("bolt", 7687)),
            entrypoint=("/bin/bash", "/run/kit/neo4j.sh"),
            env={
                "HOME": "/tmp",
                # For the two short programs before the server: they are small, and memory is not.
                "HEAP_SIZE": "64m",
            },
            files=(
                File(name="neo4j.conf", source=CONFIG),
                File(name="neo4j.sh", source=Static("neo4j.sh")),
                File(name="server-logs.xml", source=Static("server-logs.xml")),
                File(name="user-logs.xml", source=Static("user-logs.xml")),
                File(name="first-password", source=Template((SecretValue("password", Encoding.ARGUMENT),))),
                File(name="adopt.json", source=ADOPT),
            ),
            mounts=(Mount("data", "/data"),),
            tmpfs={"/tmp": 64, "/logs": 8},
            health=HealthCheck(test=Http("http", "/"), interval_s=4, start_period_s=180),
            limits={
                Target.DEV: ResourceLimits(memory_mb=1024, cpus=2, pids=512),
                Target.PI: ResourceLimits(memory_mb=1024, cpus=1.5, pids=512),
                Target.GPU: ResourceLimits(memory_mb=4096, cpus=4, pids=512),
            },
            # It writes its page cache down before it goes; killed, the next start replays the log.
            stop_grace_s=120,
            wait_s=420,
        ),
    ),
    jobs=(
        Job(
            name="graph",
            image=images.NEO4J,
            user="7474:7474",
            entrypoint=("/bin/bash", "/run/kit/graph.sh"),
            command=(),
            zones=frozenset({Zone.DATA}),
            env={
                "KIT_HOST": Ref("neo4j", "http", template="{host}"),
                "KIT_PORT": Ref("neo4j", "http", template="{port}"),
                "KIT_CONTAINER": FromSettings(lambda settings: f"kit-{settings.stack}-neo4j"),
            },
            files=(
                File(name="graph.sh", source=Static("graph.sh")),
                File(name="password", source=Template((SecretValue("password"),))),
                # For a password that was rotated: the server keeps its own, and is given the new one with the old one.
                File(name="previous", source=Template((SecretValue("password", previous=True),))),
                File(name="change.json", source=CHANGE),
            ),
            memory_mb=64,
            timeout_s=180,
        ),
    ),
    secrets=(
        Secret(
            "password",
            Generated(length=32),
            InTemplate(),
            shared=True,
            rotates=Restart("it starts again; who asks it meanwhile is refused"),
        ),
    ),
    volumes=(Volume("data", BackupSet(exclude=("native/*",), stop=True)),),
    proofs=(
        Proof("a node is written and read again", "stack.proofs.neo4j:graph"),
        Proof("the graph answers nobody outside", "stack.proofs.ports:closed"),
    ),
)
