"""Consul: a catalogue of the stack's services, a key-value store with locks, and DNS for both kinds of asking.

Upstream: hashicorp/consul. Facts: docs/services/consul.md
"""

from stack import images
from stack.derive import discovery
from stack.model import (
    FREE_TEXT,
    Access,
    BackupSet,
    Command,
    ContainerSpec,
    Derived,
    Encoding,
    File,
    FromSettings,
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
    Route,
    Secret,
    SecretValue,
    ServiceSpec,
    Static,
    Target,
    Template,
    Volume,
    Waf,
    WafExclusion,
    Zone,
)

# Where what it lists can be tried: pages and databases alike.
ZONES = frozenset({Zone.APP, Zone.DATA})

# A server of one. Gossip and replication stay on loopback: nobody joins, and an address that changes with each start
# would leave it without a leader. A stack may be down, or a backup old, for longer than a week: by default a server
# does not start again after that, lest it meets others that went on without it. There are none.
CONFIG = Template(
    (
        """\
{
  "datacenter": "kit",
  "node_name": "kit",
  "server": true,
  "bootstrap_expect": 1,
  "data_dir": "/consul/data",
  "bind_addr": "127.0.0.1",
  "advertise_addr": "127.0.0.1",
  "server_rejoin_age_max": "876000h",
  "client_addr": "0.0.0.0",
  "ports": {"http": 8500, "dns": 8600, "https": -1, "grpc": -1, "grpc_tls": -1},
  "encrypt": \"""",
        SecretValue("gossip", Encoding.BASE64_32),
        """\",
  "disable_keyring_file": true,
  "acl": {
    "enabled": true,
    "default_policy": "deny",
    "tokens": {
      "initial_management": \"""",
        SecretValue("management", Encoding.UUID),
        """\",
      "agent": \"""",
        SecretValue("management", Encoding.UUID),
        """\",
      "config_file_service_registration": \"""",
        SecretValue("management", Encoding.UUID),
        """\",
      "dns": \"""",
        SecretValue("reader", Encoding.UUID),
        """\"
    }
  },
  "connect": {"enabled": false},
  "peering": {"enabled": false},
  "enable_script_checks": false,
  "disable_remote_exec": true,
  "disable_update_check": true,
  "ui_config": {"enabled": true},
  "telemetry": {"prometheus_retention_time": "10m", "disable_hostname": true},
  "log_level": "INFO"
}
""",
    )
)

SERVICE = ServiceSpec(
    name="consul",
    summary="Service catalogue, key-value store, locks",
    profiles=frozenset({Profile("discovery", "A catalogue of the services, and a key-value store with locks")}),
    containers=(
        ContainerSpec(
            image=images.CONSUL,
            user="100:1000",
            zones=ZONES,
            ports=(Port("http", 8500), Port("dns", 8600)),
            # The image's own entrypoint would be a development server, which keeps nothing and lets everybody in.
            entrypoint=("consul",),
            command=("agent", "-config-file=/run/kit/server.json", "-config-file=/run/kit/services.json"),
            env={"HOME": "/tmp"},
            files=(
                File(name="server.json", source=CONFIG),
                File(name="services.json", source=Derived(discovery.definitions("consul", ZONES)), reload=True),
            ),
            reload=(
                "sh",
                "-c",
                "consul validate -quiet /run/kit/server.json /run/kit/services.json && kill -HUP 1",
            ),
            mounts=(Mount("data", "/consul/data"),),
            tmpfs={"/tmp": 16},
            # It has a leader: an answer alone says little.
            health=HealthCheck(
                test=Command(
                    ("sh", "-c", "wget -q -O - -T 4 http://127.0.0.1:8500/v1/status/leader | grep -q 127.0.0.1:8300")
                ),
                interval_s=3,
                start_period_s=60,
            ),
            limits={
                Target.DEV: ResourceLimits(memory_mb=256, cpus=1),
                Target.PI: ResourceLimits(memory_mb=192, cpus=1),
                Target.GPU: ResourceLimits(memory_mb=512, cpus=2),
            },
            stop_grace_s=30,
        ),
    ),
    jobs=(
        Job(
            name="access",
            image=images.CONSUL,
            user="100:1000",
            entrypoint=("sh", "/run/kit/access.sh"),
            command=(),
            zones=frozenset({Zone.DATA}),
            env={
                "HOME": "/tmp",
                "CONSUL_HTTP_ADDR": Ref("consul", "http"),
                "KIT_HOST": Ref("consul", "http", template="{host}"),
                "KIT_PORT": Ref("consul", "http", template="{port}"),
                "KIT_STACK": FromSettings(lambda settings: settings.stack),
            },
            files=(
                File(name="access.sh", source=Static("access.sh")),
                File(name="http.sh", source=Static("http.sh", shared=True)),
                File(name="reader.hcl", source=Static("reader.hcl")),
                File(name="management", source=Template((SecretValue("management", Encoding.UUID),))),
                File(name="reader", source=Template((SecretValue("reader", Encoding.UUID),))),
            ),
            memory_mb=128,
            timeout_s=120,
        ),
    ),
    secrets=(
        Secret(
            "gossip",
            Generated(length=48),
            InTemplate(),
            rotates=Restart("it starts again; who asks it meanwhile waits or asks again"),
        ),
        Secret(
            "management",
            Generated(length=48),
            InTemplate(),
            rotates=Restart("it starts again; who asks it meanwhile waits or asks again"),
        ),
        # For whoever asks, and for answers by DNS: it reads the catalogue and changes nothing.
        Secret(
            "reader",
            Generated(length=48),
            InTemplate(),
            shared=True,
            rotates=Restart("it starts again; who asks it meanwhile waits or asks again"),
        ),
    ),
    volumes=(Volume("data", BackupSet(stop=True)),),
    routes=(
        Route(
            name="consul",
            port="http",
            access=Access.ADMIN,
            streaming=True,
            waf=Waf(
                exclusions=(
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=FREE_TEXT,
                        paths=("/v1/kv/",),
                        reason="A value is whatever an administrator keeps there, configuration and scripts included",
                    ),
                    *(
                        WafExclusion(
                            rule=rule,
                            paths=("/v1/kv/",),
                            reason="A value is octets: Consul asks for no type, and its clients send none",
                        )
                        for rule in ("920340", "920640")
                    ),
                ),
            ),
        ),
    ),
    proofs=(
        Proof("there is a leader, and a service is found with a token alone", "stack.proofs.consul:catalogue"),
        Proof("the catalogue answers nobody outside", "stack.proofs.ports:closed"),
    ),
)
