"""Plan -> the fair queue in front of inference backends: one question at a time each, the rest wait in order.

Every container of the service with a port named `api`, `api-2` and so on is a backend. Only what makes a model work is
queued; questions about models pass by at once; what changes models is refused.
"""

from __future__ import annotations

import re

from stack.derive.haproxy import HEALTH, HEALTH_PORT, LOG_FORMAT, RESOLVERS, SERVER_DEFAULTS, quoted
from stack.model import Role, ServiceSpec
from stack.plan import Plan, PlannedService

__all__ = ["HEALTH_PORT", "config"]

INFERENCE = (
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)
MANAGEMENT = ("/api/pull", "/api/push", "/api/create", "/api/delete", "/api/copy", "/api/blobs")

# 32 waiting questions of 10 s each are five minutes: who comes after that is better told at once.
WAITING = 32
WAIT = "5m"
FULL = '{"error":"The models are busy and the queue is full. Please ask again in half a minute."}'
GONE = '{"error":"The models did not get to this question in time, or are not running. Please ask again."}'


def config(plan: Plan) -> str:
    """The haproxy.cfg of the service that has ports named `api` and `queue`."""
    service = _queued_service(plan)
    servers = [
        f"{container.host_name} {container.host_name}:{port.number}"
        for container in service.containers
        for port in container.spec.ports
        if re.fullmatch(r"api(-\d+)?", port.name)
    ]
    number = service.spec.endpoint("queue")[1].number
    inference = "\n".join(f"    server {server} maxconn 1 {SERVER_DEFAULTS}" for server in servers)
    listing = "\n".join(f"    server {server} {SERVER_DEFAULTS}" for server in servers)
    owner = service.spec.source or service.name
    return f"""# Derived from the plan; asked for by {owner}. Edits here are lost.
global
    log stdout format raw local0 info
    maxconn 512
    # A reload leaves running answers alone; a stop does not wait for them, the engine ends it.
    hard-stop-after 30m

defaults
    mode http
    log global
    log-format {LOG_FORMAT}
    timeout connect 3s
    timeout client 30m
    # A model is loaded and the whole prompt read before the first byte comes.
    timeout server 30m
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout queue {WAIT}
    # Who gave up waiting leaves the queue, and a model stops answering nobody.
    option abortonclose
    option http-no-delay
    option redispatch
    retries 2
    default-server observe layer4
    http-error status 503 content-type application/json string {quoted(GONE)} hdr Retry-After 30
{RESOLVERS}{HEALTH}
frontend queue
    bind :{number}
    declare capture request len 64
    http-request capture req.hdr(host) id 0
    http-request deny deny_status 403 content-type application/json string {quoted(_FORBIDDEN)} \
if {{ path,url_dec,regsub(/+,/,g) -m beg -i {" ".join(MANAGEMENT)} }}
    acl inference path -i {" ".join(INFERENCE)}
    http-request return status 503 content-type application/json string {quoted(FULL)} hdr Retry-After 30 \
if inference {{ queue(inference) ge {WAITING} }}
    use_backend inference if inference
    default_backend listing

# {owner}: one in flight per backend, first come, first served
backend inference
    balance leastconn
    option httpchk GET /api/version
{inference}

# {owner}: lists and versions never wait
backend listing
    option httpchk GET /api/version
    timeout server 30s
{listing}
"""


_FORBIDDEN = '{"error":"Models are changed by the stack configuration, not here."}'


def _queued_service(plan: Plan) -> PlannedService:
    for service in plan.services:
        if _has_queue(service.spec) and Role.INGRESS not in service.spec.roles:
            return service
    raise LookupError("no service of the plan has ports named api and queue")


def _has_queue(spec: ServiceSpec) -> bool:
    names = {port.name for container in spec.containers for port in container.ports}
    return {"api", "queue"} <= names
