"""OpenBao: secrets with policies and an audit log, and logins to databases that end by themselves.

Upstream: openbao/openbao. Facts: docs/services/openbao.md
"""

from stack import images
from stack.derive import logins
from stack.model import (
    BackupSet,
    Command,
    ContainerSpec,
    Database,
    DatabasePassword,
    DatabaseUser,
    Derived,
    Encoding,
    File,
    FromSettings,
    Generated,
    HealthCheck,
    Http,
    InTemplate,
    Job,
    LoginProvider,
    Mount,
    Never,
    Port,
    Profile,
    Proof,
    Ref,
    ResourceLimits,
    Restart,
    Role,
    Secret,
    SecretValue,
    ServiceSpec,
    Static,
    Target,
    Template,
    Volume,
    Zone,
)

USER = "100:1000"

# The key's name follows from the key: data that another key has sealed is told apart before anything is read.
SEAL = Template(
    (
        'seal "static" {\n  current_key = "file:///run/kit/seal-key"\n  current_key_id = "',
        SecretValue("seal", Encoding.NAME_24),
        '"\n}\n',
    )
)


AGENT = """\
# Keeps a valid login to the database in a file: renews it as long as it can be, asks for the next before it ends.
auto_auth {
  method "approle" {
    max_backoff = "10s"
    config = {
      role_id_file_path = "/run/kit/role-id"
      secret_id_file_path = "/run/kit/secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}
template_config {
  exit_on_retry_failure = false
}
template {
  source = "/run/kit/login.tpl"
  destination = "/run/login/login"
  perms = "0400"
  error_on_missing_key = true
}
"""

# One file, so that who reads it gets what belongs together: bao writes a new one beside it and renames that.
LOGIN = """\
{{ with secret "database/creds/DATABASE" -}}
{"user": {{ .Data.username | toJSON }}, "password": {{ .Data.password | toJSON }}}
{{- end }}
"""


def agent(user: str, database: str) -> ContainerSpec:
    """What runs beside a service and keeps a valid login to its database in a file.

    Its secret id stands in the service's own secrets, so that each service can ask for its own database alone.
    """
    return ContainerSpec(
        image=images.OPENBAO,
        user=user,
        zones=frozenset({Zone.DATA}),
        entrypoint=("bao",),
        command=("agent", "-config=/run/kit/agent.hcl"),
        env={"HOME": "/tmp", "BAO_ADDR": Ref("openbao", "api")},
        files=(
            File(name="agent.hcl", source=Template((AGENT,))),
            File(name="role-id", source=Template((f"lease-{database}",))),
            File(name="secret-id", source=Template((SecretValue(LoginProvider.KEY, Encoding.HEX_32),))),
            File(name="login.tpl", source=Template((LOGIN.replace("DATABASE", database),))),
        ),
        tmpfs={"/tmp": 16},
        health=HealthCheck(test=Command(("sh", "-c", f"test -s {LoginProvider.FOLDER}/login")), start_period_s=60),
        limits={
            # 13 MB, measured 2026-11 on 2.6.2.
            Target.DEV: ResourceLimits(memory_mb=128, cpus=0.5, pids=64),
            Target.PI: ResourceLimits(memory_mb=128, cpus=0.5, pids=64),
            Target.GPU: ResourceLimits(memory_mb=128, cpus=0.5, pids=64),
        },
        stop_grace_s=10,
    )


SERVICE = ServiceSpec(
    name="openbao",
    summary="Secrets with policies, logins that end",
    profiles=frozenset({Profile("vault", "Secrets with policies and an audit log, and database logins that end")}),
    roles=frozenset({Role.LOGINS}),
    containers=(
        ContainerSpec(
            image=images.OPENBAO,
            user=USER,
            zones=frozenset({Zone.DATA}),
            ports=(Port("api", 8200),),
            # The image's own command would be a development server, which keeps nothing and lets everybody in.
            entrypoint=("sh", "/run/kit/openbao.sh"),
            env={"HOME": "/tmp", "BAO_ADDR": "http://127.0.0.1:8200"},
            files=(
                File(name="openbao.sh", source=Static("openbao.sh")),
                File(name="server.hcl", source=Static("server.hcl")),
                File(name="setup.hcl", source=Static("setup.hcl")),
                File(name="seal.hcl", source=SEAL),
                File(name="seal-id", source=Template((SecretValue("seal", Encoding.NAME_24),))),
                File(name="seal-key", source=Template((SecretValue("seal", Encoding.HEX_32),))),
                File(name="setup", source=Template((SecretValue("setup", Encoding.HEX_32),))),
            ),
            mounts=(Mount("data", "/openbao/file"),),
            tmpfs={"/tmp": 16},
            # 200 is: has its data, is unsealed, leads.
            health=HealthCheck(test=Http("api", "/v1/sys/health"), interval_s=3, start_period_s=60),
            limits={
                # 28 MB of its own, measured 2026-11 on 2.6.2; the rest is for the pages of its file (raft).
                Target.DEV: ResourceLimits(memory_mb=256, cpus=1),
                Target.PI: ResourceLimits(memory_mb=256, cpus=1),
                Target.GPU: ResourceLimits(memory_mb=512, cpus=2),
            },
            stop_grace_s=30,
            wait_s=120,
        ),
    ),
    jobs=(
        Job(
            name="volume",
            first=True,
            image=images.OPENBAO,
            user=USER,
            entrypoint=("sh", "/run/kit/volume.sh"),
            command=(),
            env={"KIT_VOLUME": FromSettings(lambda settings: f"kit-{settings.stack}-openbao-data")},
            files=(
                File(name="volume.sh", source=Static("volume.sh")),
                File(name="seal-id", source=Template((SecretValue("seal", Encoding.NAME_24),))),
            ),
            mounts=(Mount("data", "/openbao/file", read_only=True),),
            memory_mb=64,
            timeout_s=180,
        ),
        Job(
            name="access",
            image=images.OPENBAO,
            user=USER,
            entrypoint=("sh", "/run/kit/access.sh"),
            command=(),
            zones=frozenset({Zone.DATA}),
            env={
                "HOME": "/tmp",
                "BAO_ADDR": Ref("openbao", "api"),
                "KIT_DATABASE_HOST": Ref("postgres", "sql", template="{host}:{port}"),
                # How long a login holds without being renewed, and at most. Whoever has one asks for the next in time.
                "KIT_LOGIN_TTL": "1h",
                "KIT_LOGIN_MAX_TTL": "24h",
            },
            files=(
                File(name="access.sh", source=Static("access.sh")),
                File(name="setup.hcl", source=Static("setup.hcl")),
                File(name="owner.hcl", source=Static("owner.hcl")),
                File(name="create.sql", source=Static("create.sql")),
                File(name="revoke.sql", source=Static("revoke.sql")),
                File(name="setup", source=Template((SecretValue("setup", Encoding.HEX_32),))),
                File(name="setup-previous", source=Template((SecretValue("setup", Encoding.HEX_32, previous=True),))),
                File(name="owner", source=Template((SecretValue("owner-password"),))),
                File(name="database-user", source=Template((DatabaseUser("openbao"),))),
                File(name="database-password", source=Template((DatabasePassword("openbao"),))),
                # A line for each database whose service takes its login from here: its name, and the service's key.
                File(name="leases", source=Derived(logins.leases)),
            ),
            memory_mb=256,
            timeout_s=300,
        ),
    ),
    # Its own database holds nothing: the role in it makes the logins of others.
    databases=(Database("openbao", makes_logins=True),),
    login_provider=LoginProvider(agent=agent, job="access"),
    secrets=(
        # It unseals the server at each start. Who has it and a copy of the volume can read all that is in it.
        Secret(
            "seal",
            Generated(length=48),
            InTemplate(),
            rotates=Never(
                "it seals what is in the volume, and OpenBao 2.6 seals that anew only where there are recovery keys: "
                "docs/services/openbao.md says how to move to another volume"
            ),
        ),
        Secret(
            "setup",
            Generated(length=48),
            InTemplate(),
            rotates=Restart(
                "it starts again; logins that were handed out go on, who asks for one meanwhile asks again"
            ),
        ),
        Secret(
            "owner-password",
            Generated(length=32),
            InTemplate(),
            handed_out=True,
            rotates=Restart("nothing starts again: from then on the owner logs in with the new one alone"),
        ),
    ),
    volumes=(Volume("data", BackupSet(stop=True)),),
    proofs=(
        Proof(
            "a secret is read by those who may, and a database login ends when it is taken back",
            "stack.proofs.openbao:secrets",
        ),
        Proof("the secrets answer nobody outside", "stack.proofs.ports:closed"),
    ),
)
