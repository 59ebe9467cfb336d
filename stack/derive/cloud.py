"""Plan -> the proxy that is the only way to a cloud's API: plain HTTP inside, verified TLS and the key outside."""

from __future__ import annotations

from urllib.parse import urlsplit

from stack.derive.haproxy import HEALTH, HEALTH_PORT, LOG_FORMAT, RESOLVERS
from stack.plan import Plan

__all__ = ["HEALTH_PORT", "PORT", "config"]

PORT = 8080

# What asks a model. Files, batches, fine-tuning and the account stay out of reach of whoever is in the app zone.
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/responses")


def config(plan: Plan) -> str:
    """The haproxy.cfg of the way out. The settings were checked: openaiUrl is https://host[:port][/path]."""
    parts = urlsplit(plan.settings.openai_url)
    host, port, prefix = parts.hostname or "", parts.port or 443, parts.path.rstrip("/")
    name = host if port == 443 else f"{host}:{port}"
    rewrite = "" if prefix == "/v1" else f"    http-request replace-path /v1(.*) {prefix}\\1\n"
    return f"""# Derived from the plan. Edits here are lost.
global
    log stdout format raw local0 info
    maxconn 256

defaults
    mode http
    log global
    log-format {LOG_FORMAT}
    timeout connect 5s
    timeout client 30m
    timeout server 30m
    timeout http-request 10s
    option http-no-delay
{RESOLVERS}{HEALTH}
frontend api
    bind :{PORT}
    declare capture request len 64
    http-request capture req.hdr(host) id 0
    http-request deny deny_status 403 unless {{ path -m str {" ".join(PATHS)} }}
    # Who asks has no key of the cloud, and says nothing about the stack.
    http-request del-header Cookie
    http-request del-header x- -m beg
    http-request set-header Authorization "Bearer %[env(KIT_OPENAI_KEY)]"
    http-request set-header Host {name}
{rewrite}    default_backend cloud

backend cloud
    server cloud {host}:{port} ssl verify required verifyhost {host} sni str({host}) \
ca-file /tmp/kit-ca-bundle.pem resolvers docker init-addr none resolve-prefer ipv4
"""
