"""Plan -> LiteLLM's config.yaml, and which paths of it are for the outside. JSON is YAML, and needs no escaping rules."""

from __future__ import annotations

import json
from typing import Any

from stack.derive import models
from stack.model import Ref, Template
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

CLOUD = "openai"  # the service that is the way out to a cloud, when its profile is chosen
_CLOUD_BASE = "<the way out>"


def config(plan: Plan) -> Template:
    """LiteLLM's configuration: the stack's models through the queue, then those of the cloud when there is a way."""
    settings = plan.settings
    local = models.chat(settings)
    cloud = settings.openai_models if any(service.name == CLOUD for service in plan.running) else ()
    entries = [_entry(name, f"ollama_chat/{name}", "os.environ/KIT_QUEUE", "chat") for name in local]
    embedding = models.embedding(settings)
    entries.append(_entry(embedding, f"ollama/{embedding}", "os.environ/KIT_QUEUE", "embedding"))
    entries += [_entry(name, f"openai/{name}", _CLOUD_BASE, "chat", api_key="the way out has it") for name in cloud]
    whole: dict[str, Any] = {
        "model_list": entries,
        "litellm_settings": {
            "callbacks": ["kit_hooks.recorder", "prometheus"],
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
        whole["router_settings"]["fallbacks"] = [{name: [cloud[0]]} for name in local]
    text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    first, *rest = text.split(_CLOUD_BASE)
    way_out = Ref(CLOUD, "api", template="http://{host}:{port}/v1", start=False)
    return Template((first, *(part for piece in rest for part in (way_out, piece))))


CACHE_S = 3600
TIMEOUT_S = 1800  # as long as the front door and the queue wait


def _entry(name: str, model: str, base: str, mode: str, **more: str) -> dict[str, Any]:
    return {
        "model_name": name,
        "litellm_params": {"model": model, "api_base": base, **more},
        "model_info": {"mode": mode},
    }
