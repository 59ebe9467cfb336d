"""LiteLLM: one OpenAI-compatible API for all models, with keys, limits and usage per person.

Upstream: BerriAI/litellm. Facts: docs/services/litellm.md
"""

from stack import images
from stack.derive import llm_api
from stack.model import (
    Access,
    ClientId,
    ClientSecret,
    ContainerSpec,
    Database,
    DatabaseUrl,
    Derived,
    File,
    FromSettings,
    Generated,
    HealthCheck,
    Http,
    InTemplate,
    Issuer,
    OidcClient,
    OwnUrl,
    Port,
    Profile,
    Proof,
    Ref,
    ResourceLimits,
    Route,
    Secret,
    SecretValue,
    ServiceSpec,
    Static,
    Target,
    Template,
    Zone,
)

SERVICE = ServiceSpec(
    name="litellm",
    summary="One API for all models, with a key for each person",
    profiles=frozenset({Profile.API}),
    # The login needs the identity provider, the start does not: it asks for the issuer when first needed.
    containers=(
        ContainerSpec(
            image=images.LITELLM,
            user="1000:1000",
            zones=frozenset({Zone.APP, Zone.DATA}),
            ports=(Port("http", 4000),),
            entrypoint=("litellm",),
            command=("--config", "/run/kit/config.yaml", "--host", "0.0.0.0", "--port", "4000", "--num_workers", "1"),
            env={
                "HOME": "/tmp",
                "PYTHONPATH": "/run/kit",  # kit_gateway and kit_store, once, whoever names them
                "PYTHONDONTWRITEBYTECODE": "1",
                "LITELLM_MODE": "PRODUCTION",  # no .env file
                "LITELLM_LOG": "ERROR",
                "LITELLM_NON_ROOT": "true",
                "LITELLM_LOCAL_MODEL_COST_MAP": "true",  # nothing is fetched from anywhere
                "LITELLM_TELEMETRY": "false",
                "LITELLM_MASTER_KEY": Template.of("sk-{key}", key=SecretValue("master-key")),
                "DISABLE_ADMIN_UI": "true",
                "NO_REDOC": "true",
                "SCARF_NO_ANALYTICS": "true",
                "DO_NOT_TRACK": "1",
                "KIT_QUEUE": Ref("ollama", "queue"),
                "KIT_CACHE": Ref(
                    "redis", "redis", template="redis://:{password}@{host}:{port}/0", secrets=("password",)
                ),
                # Not DATABASE_URL: that would have LiteLLM start the client for a database of its own.
                "KIT_DATABASE": DatabaseUrl("litellm"),
                "KIT_URL": OwnUrl("api"),
                "KIT_ISSUER": Issuer(),
                "KIT_CLIENT_ID": ClientId(),
                "KIT_CLIENT_SECRET": ClientSecret(),
                "KIT_SESSION_KEY": SecretValue("session-key"),
                "KIT_PATHS": " ".join(llm_api.MODEL_PATHS),
                "KIT_RATE": FromSettings(lambda settings: str(settings.api_requests_per_minute)),
                "KIT_WEBHOOK": FromSettings(lambda settings: settings.api_webhook),
            },
            files=(
                File(name="config.yaml", source=Derived(llm_api.config)),
                File(name="kit_hooks.py", source=Static("kit_hooks.py")),
                File(name="kit_gateway.py", source=Static("kit_gateway.py")),
                File(name="kit_store.py", source=Static("kit_store.py")),
                File(name="me.html", source=Static("me.html")),
            ),
            tmpfs={"/tmp": 128},
            trust_ca=True,
            health=HealthCheck(test=Http("http", "/health/liveliness"), interval_s=4, start_period_s=180),
            limits={
                Target.DEV: ResourceLimits(memory_mb=1024, cpus=2),
                Target.PI: ResourceLimits(memory_mb=768, cpus=1.5),
                Target.GPU: ResourceLimits(memory_mb=2048, cpus=4),
            },
            stop_grace_s=15,
            wait_s=420,
        ),
    ),
    secrets=(
        # For LiteLLM's own administration, which no route leads to. It starts with nobody knowing it.
        Secret("master-key", Generated(length=48), InTemplate()),
        Secret("session-key", Generated(length=48), InTemplate()),
    ),
    databases=(Database("litellm"),),
    routes=(
        Route(
            name="api",
            port="http",
            access=Access.MACHINE,
            streaming=True,
            paths=(*llm_api.PAGES, *llm_api.MODEL_PATHS),
        ),
    ),
    oidc=OidcClient(route="api", redirect_paths=("/me/callback",), roles={"admin": "admin", "user": "*"}),
    proofs=(
        Proof("a key of one's own opens the models", "stack.proofs.litellm:answer", "stack.proofs.litellm:cleanup"),
        Proof("a key's rate is kept, its usage counted", "stack.proofs.litellm:limit"),
        Proof("without a key nothing is answered", "stack.proofs.litellm:closed"),
    ),
)
