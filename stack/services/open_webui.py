"""Open WebUI: chat with the local models in a browser.

Upstream: open-webui/open-webui. Facts: docs/services/open-webui.md
"""

from dataclasses import replace

from stack import images
from stack.derive import models
from stack.model import (
    FREE_TEXT,
    Access,
    AsExport,
    BackupSet,
    Choice,
    ClientId,
    ClientSecret,
    ContainerSpec,
    Database,
    DatabaseUrl,
    Encoding,
    FromSettings,
    Generated,
    Headers,
    HealthCheck,
    Http,
    Issuer,
    Mount,
    OidcClient,
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
    ServiceSpec,
    Target,
    Volume,
    Waf,
    WafExclusion,
    Zone,
)

DATA = "/app/backend/data"
REDIS = Ref("redis", "redis", template="redis://:{password}@{host}:{port}/0", secrets=("password",))
QUEUE = Ref("ollama", "queue")  # never Ollama itself

KNOWLEDGE = Proof("a document is found by its meaning", "stack.proofs.open_webui:knowledge")


def _in_qdrant(spec: ServiceSpec) -> ServiceSpec:
    """The documents' vectors in Qdrant. The database keeps its extension: to go back needs nothing."""
    (main,) = spec.containers
    env = {name: value for name, value in main.env.items() if not name.startswith("PGVECTOR_")}
    env |= {
        "VECTOR_DB": "qdrant",
        "QDRANT_URI": Ref("qdrant", "http"),
        "QDRANT_API_KEY": Ref("qdrant", "http", template="{key}", secrets=("key",), encoding=Encoding.RAW),
        "QDRANT_PREFER_GRPC": "false",
        # Five collections, in which a field says whose a vector is. Otherwise every file is a collection of its own,
        # with an index and a log of 32 MB.
        "ENABLE_QDRANT_MULTITENANCY_MODE": "true",
        "QDRANT_ON_DISK": "true",
        "QDRANT_TIMEOUT": "30",  # the default of 5 s is short while a small machine indexes
    }
    through = replace(KNOWLEDGE, through=("qdrant",))
    proofs = tuple(through if proof == KNOWLEDGE else proof for proof in spec.proofs)
    return replace(spec, containers=(replace(main, env=env),), proofs=proofs)


# Its page starts from a script in the page, and draws pictures and code of answers. It runs Python in a worker
# (WebAssembly), and a voice message needs the microphone. Looked at in a browser: tests/live/test_services.py.
HEADERS = Headers(
    csp="default-src 'self'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; frame-src 'self' blob: data:; "
    "base-uri 'self'; form-action 'self'; object-src 'none'; frame-ancestors 'self'",
    permissions="camera=(self), display-capture=(self), geolocation=(self), microphone=(self), midi=(), payment=(), "
    "serial=(), usb=()",
)

# Where the page sends what people wrote: questions, notes, documents, prompts and the settings of all these.
WRITTEN = (
    "/api/chat/",
    "/api/embeddings",
    "/api/tasks/",
    "/api/v1/channels/",
    "/api/v1/chats/",
    "/api/v1/evaluations/",
    "/api/v1/files/",
    "/api/v1/folders/",
    "/api/v1/functions/",
    "/api/v1/knowledge/",
    "/api/v1/memories/",
    "/api/v1/messages",
    "/api/v1/models/",
    "/api/v1/notes/",
    "/api/v1/prompts/",
    "/api/v1/retrieval/",
    "/api/v1/tasks/",
    "/api/v1/tools/",
    "/api/v1/users/user/settings/",
    "/ollama/api/",
    "/openai/",
)

SERVICE = ServiceSpec(
    name="open-webui",
    summary="Chat with local models, documents included",
    profiles=frozenset({Profile("chat", "Chat with local models in a browser, documents included")}),
    # Its login needs the identity provider, its start does not: it asks for the issuer at the first login.
    containers=(
        ContainerSpec(
            image=images.OPEN_WEBUI,
            user="1000:1000",
            zones=frozenset({Zone.APP, Zone.DATA}),
            ports=(Port("http", 8080),),
            command=("bash", "/app/backend/start.sh"),
            env={
                "WEBUI_URL": OwnUrl("chat"),
                "CORS_ALLOW_ORIGIN": OwnUrl("chat"),  # without it websockets are refused
                "HOME": DATA,
                "STATIC_DIR": f"{DATA}/static",
                "PORT": "8080",
                # The program owns the settings: edits made in the page would drift, unless they are handed over.
                "ENABLE_PERSISTENT_CONFIG": FromSettings(lambda settings: str(settings.chat_page_settings).lower()),
                "ENABLE_OAUTH_PERSISTENT_CONFIG": "false",  # never the login
                "ENABLE_VERSION_UPDATE_CHECK": "false",
                # Storage.
                "DATABASE_URL": DatabaseUrl("open-webui"),
                "DATABASE_POOL_SIZE": "10",
                "DATABASE_POOL_MAX_OVERFLOW": "20",
                "REDIS_URL": REDIS,
                "ENABLE_WEBSOCKET_SUPPORT": "true",
                "WEBSOCKET_MANAGER": "redis",
                "WEBSOCKET_REDIS_URL": REDIS,
                "UVICORN_WORKERS": "1",
                # Login: through the identity provider only.
                "ENABLE_SIGNUP": "false",
                "ENABLE_LOGIN_FORM": "false",
                "ENABLE_PASSWORD_AUTH": "false",
                "ENABLE_OAUTH_SIGNUP": "true",
                "OAUTH_PROVIDER_NAME": "Single sign-on",
                "OPENID_PROVIDER_URL": Issuer("/.well-known/openid-configuration"),
                "OPENID_REDIRECT_URI": OwnUrl("chat", "/oauth/oidc/callback"),
                "OAUTH_CLIENT_ID": ClientId(),
                "OAUTH_CLIENT_SECRET": ClientSecret(),
                "OAUTH_SCOPES": "openid email profile",
                "OAUTH_CODE_CHALLENGE_METHOD": "S256",
                # In the form, where its driver encodes the secret; in the header it does not, and a % breaks it.
                "OAUTH_TOKEN_ENDPOINT_AUTH_METHOD": "client_secret_post",
                # A logout elsewhere ends all sessions of that person here. What it revokes stands in Redis.
                "ENABLE_OAUTH_BACKCHANNEL_LOGOUT": "true",
                "ENABLE_OAUTH_ROLE_MANAGEMENT": "true",
                "OAUTH_ROLES_CLAIM": "roles",
                "OAUTH_ALLOWED_ROLES": "user,viewer,editor,admin",  # all but admin are users here; see the docs
                "OAUTH_ADMIN_ROLES": "admin",
                "ENABLE_OAUTH_GROUP_MANAGEMENT": "true",
                "ENABLE_OAUTH_GROUP_CREATION": "true",
                "OAUTH_GROUP_CLAIM": "groups",
                "WEBUI_SESSION_COOKIE_SECURE": "true",
                "WEBUI_SESSION_COOKIE_SAME_SITE": "lax",
                "WEBUI_AUTH_COOKIE_SECURE": "true",
                "WEBUI_AUTH_COOKIE_SAME_SITE": "lax",
                "JWT_EXPIRES_IN": "7d",
                "WEBUI_AUTH_SIGNOUT_REDIRECT_URL": OwnUrl("chat", "/"),
                # Models.
                "ENABLE_OLLAMA_API": "true",
                "OLLAMA_BASE_URL": QUEUE,
                # The queue is fair to people, so it is told whose question it is. It passes nobody's name on.
                "ENABLE_FORWARD_USER_INFO_HEADERS": "true",
                "ENABLE_OPENAI_API": "false",
                "DEFAULT_MODELS": FromSettings(lambda settings: models.chat(settings)[0]),
                "TASK_MODEL": "",
                "ENABLE_BASE_MODELS_CACHE": "true",
                "MODELS_CACHE_TTL": "30",
                "AIOHTTP_CLIENT_TIMEOUT": "1800",
                "BYPASS_MODEL_ACCESS_CONTROL": "true",  # everybody who may log in may use every model
                # Documents.
                "VECTOR_DB": "pgvector",
                "PGVECTOR_DB_URL": DatabaseUrl("open-webui"),
                "PGVECTOR_CREATE_EXTENSION": "false",  # the database job made it, as superuser
                "PGVECTOR_INITIALIZE_MAX_VECTOR_LENGTH": "1536",
                "RAG_EMBEDDING_ENGINE": "ollama",
                "RAG_OLLAMA_BASE_URL": QUEUE,
                "RAG_EMBEDDING_MODEL": FromSettings(models.embedding),
                # By default each piece of a document is a request, and all are sent at once: that would fill the queue.
                "RAG_EMBEDDING_BATCH_SIZE": "8",
                "RAG_EMBEDDING_CONCURRENT_REQUESTS": "2",
                "RAG_SYSTEM_CONTEXT": "true",  # the documents come first, so the model's prefix cache keeps them
                "ENABLE_QUERIES_CACHE": "true",
                "ENABLE_RAG_HYBRID_SEARCH": "false",
                "USER_PERMISSIONS_WORKSPACE_KNOWLEDGE_ACCESS": "true",
                "ENABLE_ADMIN_EXPORT": "true",
                "USER_PERMISSIONS_CHAT_EXPORT": "true",
                # Nothing of a conversation is asked of a model unasked: on one queue it would delay answers.
                "ENABLE_TITLE_GENERATION": "false",
                "ENABLE_TAGS_GENERATION": "false",
                "ENABLE_FOLLOW_UP_GENERATION": "false",
                "ENABLE_AUTOCOMPLETE_GENERATION": "false",
                "ENABLE_RETRIEVAL_QUERY_GENERATION": "false",
                # Works without the internet, and tells nobody anything.
                "OFFLINE_MODE": "true",
                "HF_HUB_OFFLINE": "1",
                "ANONYMIZED_TELEMETRY": "false",
                "DO_NOT_TRACK": "true",
                "SCARF_NO_ANALYTICS": "true",
                "ENABLE_COMMUNITY_SHARING": "false",
                "ENABLE_EVALUATION_ARENA_MODELS": "false",
                "DEFAULT_LOCALE": FromSettings(lambda settings: settings.chat_language),
                "GLOBAL_LOG_LEVEL": "INFO",
            },
            mounts=(Mount("data", DATA),),
            tmpfs={"/tmp": 256},
            trust_ca=True,
            health=HealthCheck(test=Http("http", "/health"), interval_s=4, start_period_s=300),
            limits={
                Target.DEV: ResourceLimits(memory_mb=1024, cpus=2),
                Target.PI: ResourceLimits(memory_mb=768, cpus=1.5),
                Target.GPU: ResourceLimits(memory_mb=2048, cpus=4),
            },
            stop_grace_s=15,
            wait_s=420,
        ),
    ),
    databases=(Database("open-webui", extensions=("vector",)),),
    secrets=(
        # The image reads no file for it, and losing it ends every session.
        Secret(
            "session-key",
            Generated(length=48),
            AsExport("WEBUI_SECRET_KEY"),
            rotates=Restart("the chat starts again, and everybody logs in once more"),
        ),
    ),
    volumes=(Volume("data", BackupSet.files(exclude=("cache/*", "static/*")), seeded=True),),
    routes=(
        Route(
            name="chat",
            port="http",
            access=Access.APP,
            websocket=True,
            streaming=True,
            rate=RateClass.BUNDLE,
            headers=HEADERS,
            waf=Waf(
                exclusions=(
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=FREE_TEXT,
                        paths=WRITTEN,
                        reason="People write here what they like, and models answer it: SQL, shell, HTML and paths of "
                        "files are what they talk about. It is kept through an ORM with bound values, and shown "
                        "as Markdown by a page that cleans it",
                    ),
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=("ARGS:json.password",),
                        paths=("/api/v1/auths/",),
                        reason="A password has whatever characters its owner chose, and is only ever hashed",
                    ),
                ),
            ),
            # Documents to be asked about.
            body_mb=64,
        ),
    ),
    oidc=OidcClient(
        route="chat",
        redirect_paths=("/oauth/oidc/callback",),
        roles={"admin": "admin", "user": "*"},
        logout_path="/",
        backchannel_logout_path="/oauth/backchannel-logout",
    ),
    choices=(
        Choice(
            key="vectorStore",
            read=lambda settings: settings.vector_store,
            options={"pgvector": lambda spec: spec, "qdrant": _in_qdrant},
            moved="no document of the chat is found until an administrator has had all indexed again "
            "(docs/services/open-webui.md); the vectors that are there stay, also where "
            "their store does not run any more (services: [qdrant] keeps it running)",
        ),
    ),
    proofs=(
        Proof("a new user is in by single sign-on, and is no admin", "stack.proofs.open_webui:login"),
        Proof("a question gets an answer", "stack.proofs.open_webui:chat", "stack.proofs.open_webui:cleanup"),
        KNOWLEDGE,
        Proof("without a login nothing is answered", "stack.proofs.open_webui:closed"),
        Proof("a logout anywhere is a logout everywhere", "stack.proofs.open_webui:logout"),
    ),
)
