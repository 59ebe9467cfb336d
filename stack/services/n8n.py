"""n8n: workflows that answer webhooks, run on a schedule, and call other services.

Upstream: n8n-io/n8n. Facts: docs/services/n8n.md

In queue mode: main serves the editor and takes webhooks, workers run the workflows, and what people write into Code
nodes runs in a task runner beside each worker, which has no way to the databases or to the internet.
"""

from collections.abc import Mapping
from dataclasses import replace

from stack import images
from stack.model import (
    BODY_TEXT,
    CONFIG_DIR,
    FREE_TEXT,
    Access,
    BackupSet,
    ByTarget,
    CaCertificate,
    ContainerSpec,
    Database,
    DatabasePassword,
    DatabaseUser,
    Encoding,
    File,
    FromSettings,
    Generated,
    Headers,
    HealthCheck,
    Http,
    InTemplate,
    Job,
    LoginProvider,
    Mount,
    Never,
    OwnUrl,
    Port,
    Profile,
    Proof,
    RateClass,
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
    Value,
    Volume,
    Waf,
    WafExclusion,
    Zone,
)
from stack.settings import Settings

USER = "1000:1000"
# Where others call workflows.
CALLED = ("/webhook/", "/webhook-waiting/", "/form/", "/form-waiting/")
# n8n's home, with .n8n (settings) and .cache (its pages, made at each start). Not where the image has its own: a tmpfs
# for the cache there would belong to root from the first restart on.
DATA = "/data"

WORKERS: Mapping[Target, int] = {Target.DEV: 1, Target.PI: 1, Target.GPU: 2}

# Workers talk to the databases and, for their workflows, to whatever service out there a workflow names. A worker
# cannot be split: n8n has no other place for the two.
WAY_OUT = "workflows call services on the internet, and their executions are written to the database"

# Leave what n8n runs room to end: a killed worker's executions are marked crashed, and not run again.
GRACE_S = 30


def workers(settings: Settings) -> int:
    """How many workers a stack has."""
    return settings.n8n_workers or WORKERS[settings.target]


def heap(dev: int, pi: int, gpu: int) -> ByTarget:
    """Node's own limit, in MB, below the container's: it collects garbage before the kernel kills it."""
    sizes = {Target.DEV: dev, Target.PI: pi, Target.GPU: gpu}
    return ByTarget({target: f"--max-old-space-size={size}" for target, size in sizes.items()})


COMMON: Mapping[str, Value | Template] = {
    "HOME": "/tmp",
    "N8N_ENCRYPTION_KEY_FILE": "/run/kit/encryption-key",
    "N8N_ENFORCE_SETTINGS_FILE_PERMISSIONS": "true",
    "NODE_EXTRA_CA_CERTS": "/run/kit/ca.crt",
    "GENERIC_TIMEZONE": FromSettings(lambda settings: settings.timezone),
    # Storage.
    "DB_TYPE": "postgresdb",
    "DB_POSTGRESDB_HOST": Ref("postgres", "sql", template="{host}"),
    "DB_POSTGRESDB_PORT": Ref("postgres", "sql", template="{port}"),
    "DB_POSTGRESDB_DATABASE": "n8n",
    "DB_POSTGRESDB_USER_FILE": "/run/kit/database-user",
    "DB_POSTGRESDB_PASSWORD_FILE": "/run/kit/database-password",
    "DB_POSTGRESDB_POOL_SIZE": "5",
    # The queue. Whatever is run by hand in the editor goes to the workers too: main runs no workflow.
    "EXECUTIONS_MODE": "queue",
    "OFFLOAD_MANUAL_EXECUTIONS_TO_WORKERS": "true",
    "QUEUE_BULL_REDIS_HOST": Ref("redis-queue", "queue", template="{host}"),
    "QUEUE_BULL_REDIS_PORT": Ref("redis-queue", "queue", template="{port}"),
    "QUEUE_BULL_REDIS_PASSWORD_FILE": "/run/kit/queue-password",
    "N8N_GRACEFUL_SHUTDOWN_TIMEOUT": str(GRACE_S),
    # Task runners.
    "N8N_RUNNERS_ENABLED": "true",
    "N8N_RUNNERS_MODE": "external",
    "N8N_RUNNERS_AUTH_TOKEN_FILE": "/run/kit/runner-token",
    # Addresses, as people and other services see them: also those in messages and waiting forms that workers send.
    "N8N_PORT": "5678",
    "N8N_PROTOCOL": "https",
    "N8N_EDITOR_BASE_URL": OwnUrl("n8n", "/"),
    "WEBHOOK_URL": OwnUrl("n8n", "/"),
    "N8N_PROXY_HOPS": "1",
    # What executions leave behind.
    "EXECUTIONS_DATA_PRUNE": "true",
    "EXECUTIONS_DATA_MAX_AGE": ByTarget({Target.DEV: "168", Target.PI: "168", Target.GPU: "336"}),  # hours
    "EXECUTIONS_DATA_PRUNE_MAX_COUNT": ByTarget({Target.DEV: "5000", Target.PI: "5000", Target.GPU: "50000"}),
    # Workflows see neither our variables nor our files, and run no programs.
    "N8N_BLOCK_ENV_ACCESS_IN_NODE": "true",
    "N8N_BLOCK_FILE_ACCESS_TO_N8N_FILES": "true",
    "N8N_RESTRICT_FILE_ACCESS_TO": "/tmp/files",
    "NODES_EXCLUDE": '["n8n-nodes-base.executeCommand", "n8n-nodes-base.localFileTrigger"]',
    "N8N_COMMUNITY_PACKAGES_ENABLED": "false",
    # Metrics, with the workflow's id: which one fails, which one is slow.
    "N8N_METRICS": "true",
    "N8N_METRICS_INCLUDE_QUEUE_METRICS": "true",
    "N8N_METRICS_INCLUDE_MESSAGE_EVENT_BUS_METRICS": "true",
    "N8N_METRICS_INCLUDE_WORKFLOW_ID_LABEL": "true",
    # Tells nobody anything, and asks nobody for news.
    "N8N_DIAGNOSTICS_ENABLED": "false",
    "N8N_DIAGNOSTICS_CONFIG_FRONTEND": "",
    "N8N_DIAGNOSTICS_CONFIG_BACKEND": "",
    "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
    "N8N_VERSION_NOTIFICATIONS_WHATS_NEW_ENABLED": "false",
    "N8N_DYNAMIC_BANNERS_ENABLED": "false",
    "N8N_HIRING_BANNER_ENABLED": "false",
    "N8N_PERSONALIZATION_ENABLED": "false",
    "N8N_TEMPLATES_ENABLED": "false",
    "EXTERNAL_FRONTEND_HOOKS_URLS": "",
    "N8N_LOG_LEVEL": "info",
}


def leased(container: ContainerSpec) -> ContainerSpec:
    """n8n with database logins that end by themselves: a hook in Node reads the one that holds at each connection.

    n8n itself reads its login once, at its start. What it has as its password here opens nothing: by it the hook knows
    n8n's own connections from those that people's workflows make, which get nothing of this.
    """
    options = container.env["NODE_OPTIONS"]
    return replace(
        container,
        env={
            **{name: value for name, value in container.env.items() if name != "DB_POSTGRESDB_USER_FILE"},
            "DB_POSTGRESDB_USER": "n8n",
            "DB_POSTGRESDB_PASSWORD_FILE": "/run/kit/own-connection",
            "NODE_OPTIONS": Template(
                (*(options.parts if isinstance(options, Template) else (options,)), " --require /run/kit/leased.js")
            ),
        },
        files=(
            *container.files,
            File(name="own-connection", source=Template((SecretValue(LoginProvider.KEY, Encoding.BASE64URL_32),))),
            File(name="leased.js", source=Static("leased.js")),
        ),
    )


FILES = (
    File(name="ca.crt", source=Template((CaCertificate(),)), mode="0444"),
    File(name="encryption-key", source=Template((SecretValue("encryption-key"),))),
    File(name="database-user", source=Template((DatabaseUser("n8n"),))),
    File(name="database-password", source=Template((DatabasePassword("n8n"),))),
    File(name="runner-token", source=Template((SecretValue("runner-token"),))),
    File(
        name="queue-password",
        source=Template(
            (Ref("redis-queue", "queue", template="{password}", secrets=("password",), encoding=Encoding.RAW),)
        ),
    ),
)

# The credential store of workflows, for ./kit credentials and for the import of templates: both run in n8n's image,
# whose driver for PostgreSQL it uses. The key is here and the values are in the database: one is nothing without the
# other.
STORE = "credentials.js"
STORE_FILES = (
    File(name=STORE, source=Static("credentials.js")),
    File(name="credentials-password", source=Template((SecretValue("credentials-password"),))),
    File(name="credentials-key", source=Template((SecretValue("credentials-key", Encoding.HEX_32),))),
    File(
        name="credentials-previous-key",
        # With the line's end: a file for a job may not be empty, which this one is before the first rotation.
        source=Template.of("{key}\n", key=SecretValue("credentials-key", Encoding.HEX_32, previous=True)),
    ),
)

MAIN = ContainerSpec(
    image=images.N8N,
    user=USER,
    zones=frozenset({Zone.APP, Zone.DATA, Zone.EGRESS}),
    way_out="triggers poll mail boxes and feeds, and credentials are tested against the services they are for",
    ports=(Port("http", 5678),),
    env={
        **COMMON,
        "N8N_USER_FOLDER": DATA,
        "NODE_OPTIONS": heap(dev=512, pi=448, gpu=1024),
        "EXTERNAL_HOOK_FILES": "/run/kit/login.js",
    },
    files=(
        *FILES,
        # For the clean-up of proofs, and for a day on which nobody can log in at the front door.
        File(name="owner-password", source=Template((SecretValue("owner-password"),))),
        # Who the front door says that somebody is, n8n believes; and the front door is who has the voucher.
        File(name="login.js", source=Static("login.js")),
        File(name="voucher", source=Template((SecretValue("voucher", Encoding.HEX_32),))),
        *STORE_FILES,
    ),
    mounts=(Mount("data", DATA),),
    tmpfs={"/tmp": 64},
    # Ready when its tables are made. Each probe is a Node process of its own: not every second.
    health=HealthCheck(test=Http("http", "/healthz/readiness"), interval_s=5, timeout_s=10, start_period_s=240),
    limits={
        Target.DEV: ResourceLimits(memory_mb=832, cpus=2),
        Target.PI: ResourceLimits(memory_mb=672, cpus=1.5),
        Target.GPU: ResourceLimits(memory_mb=1536, cpus=2),
    },
    stop_grace_s=GRACE_S + 5,
    wait_s=420,
)

WORKER = ContainerSpec(
    name="worker",
    replicas=workers,
    image=images.N8N,
    user=USER,
    zones=frozenset({Zone.APP, Zone.DATA, Zone.EGRESS}),
    way_out=WAY_OUT,
    after=("main",),  # which makes the tables
    ports=(Port("worker", 5678), Port("broker", 5679)),
    command=("worker", "--concurrency=10"),
    env={
        **COMMON,
        # A worker keeps nothing: its settings file is made from our key at each start.
        "N8N_USER_FOLDER": "/tmp",
        "NODE_OPTIONS": heap(dev=448, pi=384, gpu=1536),
        "QUEUE_HEALTH_CHECK_ACTIVE": "true",
        "N8N_RUNNERS_BROKER_LISTEN_ADDRESS": "0.0.0.0",
    },
    files=FILES,
    tmpfs={"/tmp": 128},
    health=HealthCheck(test=Http("worker", "/healthz/readiness"), interval_s=5, timeout_s=10, start_period_s=120),
    limits={
        Target.DEV: ResourceLimits(memory_mb=704, cpus=2),
        Target.PI: ResourceLimits(memory_mb=576, cpus=2),
        Target.GPU: ResourceLimits(memory_mb=2048, cpus=4),
    },
    stop_grace_s=GRACE_S + 5,
    wait_s=300,
)

RUNNER = ContainerSpec(
    name="runner",
    replicas=workers,
    image=images.N8N_RUNNERS,
    user=USER,
    zones=frozenset({Zone.APP}),  # neither the databases nor the internet
    ports=(Port("runner", 5680),),
    command=("javascript",),
    env={
        "HOME": "/tmp",
        "N8N_RUNNERS_TASK_BROKER_URI": Ref("n8n", "broker"),
        "N8N_RUNNERS_AUTH_TOKEN_FILE": "/run/kit/runner-token",
        "N8N_RUNNERS_MAX_CONCURRENCY": "5",
        "N8N_RUNNERS_TASK_TIMEOUT": "300",
        "GENERIC_TIMEZONE": FromSettings(lambda settings: settings.timezone),
        "NODE_OPTIONS": heap(dev=160, pi=128, gpu=384),
    },
    files=(File(name="runner-token", source=Template((SecretValue("runner-token"),))),),
    tmpfs={"/tmp": 32},
    health=HealthCheck(test=Http("runner", "/healthz"), interval_s=5, timeout_s=10, start_period_s=60),
    limits={
        Target.DEV: ResourceLimits(memory_mb=288, cpus=1, pids=128),
        Target.PI: ResourceLimits(memory_mb=256, cpus=1, pids=128),
        Target.GPU: ResourceLimits(memory_mb=640, cpus=2, pids=128),
    },
    stop_grace_s=GRACE_S + 5,
    wait_s=180,
)

SERVICE = ServiceSpec(
    name="n8n",
    summary="Workflows: webhooks, schedules, other services",
    profiles=frozenset(
        {Profile("automation", "Workflows that answer webhooks, run on a schedule and call other services")}
    ),
    containers=(MAIN, WORKER, RUNNER),
    jobs=(
        Job(
            name="key",
            first=True,
            image=images.N8N,
            user=USER,
            entrypoint=("node", "/run/kit/key.js"),
            command=(),
            env={
                "KIT_STACK": FromSettings(lambda settings: settings.stack),
                "KIT_VOLUME": FromSettings(lambda settings: f"kit-{settings.stack}-n8n-data"),
                "KIT_IMAGE": FromSettings(lambda settings: settings.airgap_images.get("n8n", images.N8N.reference)),
            },
            files=(
                File(name="key.js", source=Static("key.js")),
                File(name="encryption-key", source=Template((SecretValue("encryption-key"),))),
            ),
            mounts=(Mount("data", "/n8n-data", read_only=True),),
            timeout_s=180,
        ),
        Job(
            name="owner",
            image=images.N8N,
            user=USER,
            entrypoint=("node", "/run/kit/owner.js"),
            command=(),
            zones=frozenset({Zone.APP}),
            env={
                "KIT_URL": Ref("n8n", "http"),
                "KIT_OWNER_EMAIL": FromSettings(lambda settings: settings.admin_email),
            },
            files=(
                File(name="owner.js", source=Static("owner.js")),
                File(name="owner-password", source=Template((SecretValue("owner-password"),))),
            ),
            timeout_s=120,
        ),
    ),
    workflow_importer=Job(
        name="workflows",
        image=images.N8N,
        user=USER,
        entrypoint=("node", "/run/kit/import.js"),
        command=(),
        # data: it writes down where the workflows' databases are, and keeps their credentials in the store.
        zones=frozenset({Zone.APP, Zone.DATA}),
        env={
            "KIT_URL": Ref("n8n", "http"),
            "KIT_OWNER_EMAIL": FromSettings(lambda settings: settings.admin_email),
            "DB_POSTGRESDB_HOST": Ref("postgres", "sql", template="{host}"),
            "DB_POSTGRESDB_PORT": Ref("postgres", "sql", template="{port}"),
        },
        files=(
            File(name="import.js", source=Static("import.js")),
            File(name="owner-password", source=Template((SecretValue("owner-password"),))),
            File(name="database-user", source=Template((DatabaseUser("n8n"),))),
            File(name="database-password", source=Template((DatabasePassword("n8n"),))),
            *STORE_FILES,
        ),
        timeout_s=300,
    ),
    credential_store=("node", f"{CONFIG_DIR}/{STORE}"),
    databases=(
        Database("n8n", leased=leased),
        # Its own role is nobody's login: who may only add to the audit log must not own it.
        Database("credentials", logins={"credential_store": "credentials-password"}, setup="credentials.sql"),
    ),
    secrets=(
        # Losing it loses every credential that people stored: never made anew, and n8n is not started with another.
        Secret(
            "encryption-key",
            Generated(length=48, config_key="n8nEncryptionKey"),
            InTemplate(),
            rotates=Never("it encrypts the credentials that people stored in n8n: with another one they are lost"),
        ),
        Secret(
            "runner-token",
            Generated(length=48),
            InTemplate(),
            rotates=Restart("workers and their runners start again; executions in progress are waited for"),
        ),
        Secret(
            "owner-password",
            Generated(length=32),
            InTemplate(),
            rotates=Never("n8n reads it once, when it gets its owner: change it there, in the owner's account"),
        ),
        Secret(
            "voucher",
            Generated(length=48),
            InTemplate(),
            shared=True,
            rotates=Restart("the editor is away while n8n starts again; webhooks that main does not answer go on"),
        ),
        # The import after the restart encrypts all values anew. It knows this key and the one before: a number that
        # skips one, before any `up`, would leave values that neither opens.
        Secret(
            "credentials-key",
            Generated(length=48),
            InTemplate(),
            rotates=Restart("stored credentials are encrypted anew while n8n starts again; one number at a time"),
        ),
        Secret(
            "credentials-password",
            Generated(length=48),
            InTemplate(),
            rotates=Restart("./kit credentials is refused until n8n has started again; workflows are not touched"),
        ),
    ),
    volumes=(Volume("data", BackupSet.files(exclude=(".cache/*", ".n8n/*.log"))),),
    routes=(
        Route(
            name="n8n",
            port="http",
            access=Access.SSO,
            websocket=True,
            streaming=True,
            deny=("/metrics", "/healthz"),
            # Who opens the editor may change every workflow of their own, and run what they like: not for viewers.
            roles=("admin", "editor"),
            logout="/rest/logout",
            voucher="voucher",
            # What others call: a workflow decides by itself who may (its trigger has authentication of its own).
            open=CALLED,
            # A credential's consent page opens in a window that tells the editor when it is done.
            rate=RateClass.BUNDLE,
            headers=Headers(coop="same-origin-allow-popups"),
            waf=Waf(
                exclusions=(
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=FREE_TEXT,
                        paths=("/rest/",),
                        reason="The editor saves workflows, which are made of code, SQL, HTML and addresses. Nobody "
                        "gets here without a login as editor or administrator, and these may run what they like",
                    ),
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=BODY_TEXT,
                        paths=CALLED,
                        plain_query=True,
                        reason="A webhook or form takes whatever is sent: mail in HTML, rows, code, answers of models. "
                        "It runs none of it; what becomes of it is for the workflow to say. Queries are looked at",
                    ),
                    # Types that are not in the firewall's list, and bodies without any.
                    *(
                        WafExclusion(
                            rule=rule,
                            paths=CALLED,
                            reason="Who calls a webhook chooses the type of what is sent, calendars or sound included, "
                            "and not everybody says it",
                        )
                        for rule in ("920340", "920420", "920640")
                    ),
                ),
            ),
            body_mb=32,
        ),
    ),
    proofs=(
        Proof(
            "a webhook is answered by a workflow that a worker ran",
            "stack.proofs.n8n:webhook",
            "stack.proofs.n8n:cleanup",
        ),
        Proof("the editor, and all that is not for callers, is closed", "stack.proofs.n8n:closed"),
        Proof("one login opens the editor, and who forges one gets nowhere", "stack.proofs.n8n:login"),
        Proof("the store of credentials opens, and nobody changes its log", "stack.proofs.n8n:credentials"),
    ),
)
