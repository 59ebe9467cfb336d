"""LiteLLM: one OpenAI-compatible API for all models, with keys, limits and usage per person.

Upstream: BerriAI/litellm. Facts: docs/services/litellm.md
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from stack import images
from stack.derive import models
from stack.model import (
    FREE_TEXT,
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
    Headers,
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
    Restart,
    Role,
    Route,
    Secret,
    SecretValue,
    ServiceSpec,
    Static,
    Target,
    Template,
    Waf,
    WafExclusion,
    Zone,
)

if TYPE_CHECKING:
    from stack.plan import Plan

# What people's keys open. LiteLLM answers under hundreds of paths: administration, other vendors' dialects, twins
# without /v1. Each one not named here is refused by the front door, and by the kit's authentication again.
MODEL_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/v1/responses",
)
# The Swagger page with its files, and everybody's own keys. A slash at the end: and what is below it.
PAGES = ("/", "/openapi.json", "/swagger/", "/me", "/me/")

CACHE_S = 3600
TIMEOUT_S = 1800  # as long as the front door and the queue wait
CLOUD = "openai"  # the service that is the way out to a cloud, when its profile is chosen
_CLOUD_BASE = "<the way out>"


def _config(plan: Plan) -> Template:
    """LiteLLM's configuration: the stack's models through the queue, then those of the cloud when there is a way."""
    settings = plan.settings
    local = models.chat(settings)
    cloud = settings.openai_models if any(service.name == CLOUD for service in plan.running) else ()
    entries = [_entry(name, f"ollama_chat/{name}", "os.environ/KIT_QUEUE", "chat") for name in local]
    # The router picks among entries of one name by their weights.
    aliases = models.aliases(settings)
    entries += [
        _entry(alias.name, f"ollama_chat/{share.model}", "os.environ/KIT_QUEUE", "chat", weight=share.percent)
        for alias in aliases
        for share in alias.shares
    ]
    embedding = models.embedding(settings)
    entries.append(_entry(embedding, f"ollama/{embedding}", "os.environ/KIT_QUEUE", "embedding"))
    entries += [_entry(name, f"openai/{name}", _CLOUD_BASE, "chat", api_key="the way out has it") for name in cloud]
    whole: dict[str, Any] = {
        "model_list": entries,
        "litellm_settings": {
            "callbacks": ["kit_hooks.recorder"],
            "cache": True,
            "cache_params": {"type": "redis", "url": "os.environ/KIT_CACHE", "ttl": CACHE_S, "namespace": "litellm"},
            "drop_params": True,  # what a small model does not know is left out, not an error
            "request_timeout": TIMEOUT_S,
            "telemetry": False,
            "turn_off_message_logging": True,
            "require_auth_for_metrics_endpoint": False,  # the front door does not let anybody there
        },
        "router_settings": {
            # Asking again is for who asked: behind one queue it would only make the others wait.
            "num_retries": 0,
            # One failure would take the only backend away from everybody for a while.
            "disable_cooldowns": True,
            "timeout": TIMEOUT_S,
        },
        "general_settings": {
            "custom_auth": "kit_hooks.authenticate",
            "master_key": "os.environ/LITELLM_MASTER_KEY",
            "disable_spend_logs": True,
            "background_health_checks": False,  # each would ask every model something
        },
    }
    if cloud:
        whole["router_settings"]["fallbacks"] = [
            {name: [cloud[0]]} for name in (*local, *(alias.name for alias in aliases))
        ]
    text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    first, *rest = text.split(_CLOUD_BASE)
    way_out = Ref(CLOUD, "api", template="http://{host}:{port}/v1", start=False)
    return Template((first, *(part for piece in rest for part in (way_out, piece))))


def _entry(name: str, model: str, base: str, mode: str, **more: str | int) -> dict[str, Any]:
    return {
        "model_name": name,
        "litellm_params": {"model": model, "api_base": base, **more},
        "model_info": {"mode": mode},
    }


SERVICE = ServiceSpec(
    name="litellm",
    summary="One API for all models, with a key for each person",
    profiles=frozenset(
        {Profile("api", "One OpenAI-compatible API for all models, with a key, a limit and a count for each person")}
    ),
    roles=frozenset({Role.MODEL_API}),
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
                "KIT_PATHS": " ".join(MODEL_PATHS),
                "KIT_RATE": FromSettings(lambda settings: str(settings.api_requests_per_minute)),
                "KIT_WEBHOOK": FromSettings(lambda settings: settings.api_webhook),
            },
            files=(
                File(name="config.yaml", source=Derived(_config)),
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
        Secret(
            "master-key",
            Generated(length=48),
            InTemplate(),
            rotates=Restart("the API starts again; keys of people stay as they are"),
        ),
        Secret(
            "session-key",
            Generated(length=48),
            InTemplate(),
            rotates=Restart("the API starts again, and who manages keys logs in once more"),
        ),
    ),
    databases=(Database("litellm"),),
    routes=(
        Route(
            name="api",
            port="http",
            access=Access.MACHINE,
            streaming=True,
            paths=(*PAGES, *MODEL_PATHS),
            headers=Headers.nothing(),  # its pages say themselves what they need
            waf=Waf(
                exclusions=(
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=FREE_TEXT,
                        paths=MODEL_PATHS,
                        reason="Prompts are text for a model, whatever language they are written in. Nothing here "
                        "runs them, and each needs a key",
                    ),
                ),
            ),
        ),
    ),
    oidc=OidcClient(
        route="api",
        redirect_paths=("/me/callback",),
        roles={"admin": "admin", "user": "*"},
        logout_path="/me",
        backchannel_logout_path="/me/backchannel-logout",
    ),
    proofs=(
        Proof("a key of one's own opens the models", "stack.proofs.litellm:answer", "stack.proofs.litellm:cleanup"),
        Proof("a key's rate is kept, its usage counted", "stack.proofs.litellm:limit"),
        Proof("without a key nothing is answered", "stack.proofs.litellm:closed"),
    ),
)
