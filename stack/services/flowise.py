"""Flowise: flows of prompts, models and documents, drawn in a browser and called over HTTP.

Upstream: FlowiseAI/Flowise. Facts: docs/services/flowise.md

Whoever edits a flow decides what the server does, and ways from there to running programs were closed and found again
many times. So it is kept small: no node that runs code or programs, no way to the internet, and nothing open at the
front door but the calls of flows.
"""

from stack import images
from stack.model import (
    FREE_TEXT,
    Access,
    AsExport,
    BackupSet,
    ByTarget,
    ContainerSpec,
    Database,
    DatabasePassword,
    DatabaseUser,
    File,
    FromSettings,
    Generated,
    HealthCheck,
    Http,
    InTemplate,
    Job,
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
    Volume,
    Waf,
    WafExclusion,
    Zone,
)

USER = "1000:1000"
# Where no image has a folder: Docker would give an empty volume the owner of that one, which is root.
DATA = "/var/lib/flowise"

# Nodes that run code of a flow's author, start a program, or work on the server's files. Left out, they are in no list,
# and a flow that holds one does not start. tests/live/test_flowise.py looks in the image for any that is missing here.
CLOSED_NODES = (
    # JavaScript in a sandbox that others have left.
    "ChatflowTool",
    "agentAsTool",
    "chatPromptTemplate",
    "customDocumentLoader",
    "customFunction",
    "customFunctionAgentflow",
    "customTool",
    "ifElseFunction",
    "openAPIToolkit",
    "seqAgent",
    "seqCondition",
    "seqConditionAgent",
    "seqCustomFunction",
    "seqExecuteFlow",
    "seqLLMNode",
    "seqState",
    "seqToolNode",
    # MCP servers that are started as programs.
    "braveSearchMCP",
    "customMCP",
    "postgreSQLMCP",
    "sequentialThinkingMCP",
    "slackMCP",
    "supergatewayMCP",
    # Browsers, and files and databases of the server itself.
    "SQLiteRecordManager",
    "faiss",
    "folderFiles",
    "notionFolder",
    "playwrightWebScraper",
    "puppeteerWebScraper",
    "sqlDatabaseChain",
    "sqliteAgentMemory",
)

# Asked without any login, even from inside, though no flow that is called needs them.
CLOSED_PATHS = (
    "/api/v1/account/forgot-password",
    "/api/v1/account/reset-password",
    "/api/v1/attachments",
    "/api/v1/chatflows/apikey/",
    "/api/v1/get-upload-file",
    "/api/v1/leads",
    "/api/v1/oauth2-credential/refresh",
    "/api/v1/openai-assistants-file/download",
    "/api/v1/public-chatbotConfig",
    "/api/v1/public-chatflows",
    "/api/v1/public-executions",
    "/api/v1/text-to-speech/generate",
    "/api/v1/verify/apikey/",
)

# Flowise wants a lower and an upper case letter, a digit and a special character; the rest is random.
OWNER_PASSWORD = File(name="owner-password", source=Template(("aA1!", SecretValue("owner-password"))))

SERVICE = ServiceSpec(
    name="flowise",
    summary="Flows of prompts, models and documents",
    profiles=frozenset(
        {Profile("flows", "Flows of prompts, models and documents, drawn in a browser and called over HTTP")}
    ),
    containers=(
        ContainerSpec(
            image=images.FLOWISE,
            user=USER,
            zones=frozenset({Zone.APP, Zone.DATA}),  # models by the queue or the one API, databases; not the internet
            ports=(Port("http", 3000),),
            entrypoint=("flowise", "start"),
            env={
                "HOME": DATA,
                "PORT": "3000",
                "APP_URL": OwnUrl("flowise"),
                "CORS_ORIGINS": OwnUrl("flowise"),
                "IFRAME_ORIGINS": "'self'",
                "NUMBER_OF_PROXIES": "1",
                "TRUST_PROXY": "1",
                "SECURE_COOKIES": "true",
                # Not Flowise's: what a flow says in place of Ollama's address.
                "KIT_QUEUE": Ref("ollama", "queue"),
                # Storage.
                "DATABASE_TYPE": "postgres",
                "DATABASE_HOST": Ref("postgres", "sql", template="{host}"),
                "DATABASE_PORT": Ref("postgres", "sql", template="{port}"),
                "DATABASE_NAME": "flowise",
                "DATABASE_USER": DatabaseUser("flowise"),
                "DATABASE_PASSWORD": DatabasePassword("flowise"),
                "DATABASE_PATH": DATA,
                "SECRETKEY_PATH": DATA,
                "STORAGE_TYPE": "local",
                "BLOB_STORAGE_PATH": f"{DATA}/storage",
                "LOG_PATH": "/tmp/logs",
                "LOG_LEVEL": "info",
                # Sessions: names of our own, so that a token of another Flowise is none of this one's.
                "JWT_ISSUER": OwnUrl("flowise"),
                "JWT_AUDIENCE": OwnUrl("flowise"),
                "PASSWORD_SALT_HASH_ROUNDS": "12",
                # What a flow may do. Spelled out where it is the default: the default has changed before.
                "DISABLED_NODES": ",".join(CLOSED_NODES),
                "SHOW_COMMUNITY_NODES": "false",
                "CUSTOM_MCP_PROTOCOL": "sse",  # over HTTP only: no program is started for a tool
                "CUSTOM_MCP_SECURITY_CHECK": "true",
                "CUSTOM_MCP_ALLOWED_COMMANDS": "",
                "CUSTOM_MCP_ALLOWED_ENV_VARS": "",
                "TOOL_FUNCTION_BUILTIN_DEP": "",
                "TOOL_FUNCTION_EXTERNAL_DEP": "",
                "ALLOW_BUILTIN_DEP": "false",
                "PATH_TRAVERSAL_SAFETY": "true",
                # Flowise would refuse every private address, and the local models have one: so only those are refused
                # where nothing of the stack is, and where the machine itself answers. There is no way out in any case.
                "HTTP_SECURITY_CHECK": "false",
                "HTTP_DENY_LIST": "0.0.0.0,127.0.0.0/8,169.254.0.0/16,::1,fe80::/10,fd00:ec2::254,localhost",
                "DENYLIST_URLS": ",".join(CLOSED_PATHS),
                "OAUTH2_SECURITY_CHECK": "true",
                "FLOWISE_FILE_SIZE_LIMIT": "20mb",
                # Figures would only be given to whoever has a key that somebody made by hand.
                "ENABLE_METRICS": "false",
                # Tells nobody anything.
                "DISABLE_FLOWISE_TELEMETRY": "true",
                "DO_NOT_TRACK": "1",
                "PUPPETEER_SKIP_DOWNLOAD": "true",
                # Node's own limit, in MB, below the container's: it collects garbage before the kernel kills it.
                "NODE_OPTIONS": ByTarget(
                    {
                        Target.DEV: "--max-old-space-size=768",
                        Target.PI: "--max-old-space-size=768",
                        Target.GPU: "--max-old-space-size=1536",
                    }
                ),
            },
            # For the proofs, and for whoever opens the page for the first time.
            files=(OWNER_PASSWORD,),
            mounts=(Mount("data", DATA),),
            tmpfs={"/tmp": 128},
            health=HealthCheck(test=Http("http", "/api/v1/ping"), interval_s=5, timeout_s=10, start_period_s=300),
            limits={
                Target.DEV: ResourceLimits(memory_mb=1024, cpus=2),
                Target.PI: ResourceLimits(memory_mb=1024, cpus=1.5),
                Target.GPU: ResourceLimits(memory_mb=2048, cpus=2),
            },
            stop_grace_s=20,
            wait_s=420,
        ),
    ),
    jobs=(
        Job(
            name="owner",
            image=images.FLOWISE,
            user=USER,
            entrypoint=("node", "/run/kit/owner.js"),
            command=(),
            zones=frozenset({Zone.APP}),
            env={
                "KIT_URL": Ref("flowise", "http"),
                "KIT_OWNER_EMAIL": FromSettings(lambda settings: settings.admin_email),
            },
            files=(File(name="owner.js", source=Static("owner.js")), OWNER_PASSWORD),
            timeout_s=120,
        ),
    ),
    databases=(Database("flowise"),),
    secrets=(
        # Losing it loses every credential that people stored.
        Secret(
            "encryption-key",
            Generated(length=48),
            AsExport("FLOWISE_SECRETKEY_OVERWRITE"),
            rotates=Never("it encrypts the credentials that people stored in Flowise: with another one they are lost"),
        ),
        Secret(
            "token-key",
            Generated(length=48),
            AsExport("JWT_AUTH_TOKEN_SECRET"),
            rotates=Restart("Flowise starts again, and everybody logs in once more"),
        ),
        Secret(
            "refresh-key",
            Generated(length=48),
            AsExport("JWT_REFRESH_TOKEN_SECRET"),
            rotates=Restart("Flowise starts again, and everybody logs in once more"),
        ),
        Secret(
            "session-key",
            Generated(length=48),
            AsExport("EXPRESS_SESSION_SECRET"),
            rotates=Restart("Flowise starts again, and everybody logs in once more"),
        ),
        Secret(
            "hash-key",
            Generated(length=48),
            AsExport("TOKEN_HASH_SECRET"),
            rotates=Restart("Flowise starts again; invitations and links to reset a password that are open end"),
        ),
        Secret(
            "owner-password",
            Generated(length=32),
            InTemplate(),
            rotates=Never("Flowise reads it once, when it gets its owner: change it there, in the owner's account"),
        ),
    ),
    volumes=(Volume("data", BackupSet.files(exclude=(".cache/*", "logs/*"))),),
    routes=(
        Route(
            name="flowise",
            port="http",
            access=Access.SSO,
            streaming=True,
            rate=RateClass.BUNDLE,
            roles=("admin", "editor"),  # whoever draws a flow decides what the server does
            # Not even with a login: figures, and who may run code of their own or sign up.
            deny=("/api/v1/metrics", "/api/v1/account/register", "/api/v1/node-custom-function"),
            # Calls of flows: each asks for the key that its flow was given.
            open=("/api/v1/prediction/",),
            waf=Waf(
                exclusions=(
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=FREE_TEXT,
                        paths=("/api/v1/",),
                        plain_query=True,
                        reason="Flows are drawn here, with prompts, code and addresses in them, by editors and "
                        "administrators; and the questions to them are text for a model. Queries are looked at",
                    ),
                ),
            ),
        ),
    ),
    proofs=(
        Proof(
            "a flow is called and a local model answers", "stack.proofs.flowise:answer", "stack.proofs.flowise:cleanup"
        ),
        Proof("without a key, a login or an invitation nobody gets in", "stack.proofs.flowise:closed"),
    ),
)
