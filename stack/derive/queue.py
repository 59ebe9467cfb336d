"""Plan -> the fair queue in front of inference backends: one question at a time each, the rest wait their turn.

Every container of the service with a port named `api`, `api-2` and so on is a backend, and so is every server of the
setting `ollamaBackends`. Only what makes a model work is queued; questions about models pass by at once. Everything
else is refused, by being on neither list: what changes models, what fetches pages, what a later version may add, and
every other way to spell a path (the server decodes what it is sent, this list does not).
"""

from __future__ import annotations

import json
import re

from stack.derive import models
from stack.derive.haproxy import HEALTH, HEALTH_PORT, LOG_FORMAT, RESOLVERS, SERVER_DEFAULTS, quoted
from stack.model import Role, ServiceSpec
from stack.plan import Plan, PlannedService

__all__ = ["HEALTH_PORT", "INFERENCE", "LISTING", "config", "queued_service"]

INFERENCE = (
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/audio/transcriptions",
    "/v1/images/generations",
    "/v1/images/edits",
)
LISTING = ("/", "/api/version", "/api/tags", "/api/ps", "/v1/models")
SHOW = "/api/show"  # a POST that only reads
ONE_MODEL = "^/v1/models/[A-Za-z0-9._:-]+$"

# 32 waiting questions of 10 s each are five minutes: who comes after that is better told at once.
WAITING = 32
WAIT = "5m"
# Nobody may take all places: a document in a hundred pieces would lock everybody else out.
WAITING_EACH = 24
# Each question beyond FREE that somebody has open puts their next one back by this, in ms: about what one answer takes,
# so who asks one thing passes who asks ten. It is time, not rank: nobody waits for ever. Two are free, for who asks
# again at once is seen with two: the answered question is still being closed (measured: one in 77, 11 s late).
STEP_BACK_MS = 10_000
FREE = 2
ASKER = "x-openwebui-user-id"
FULL = '{"error":"The models are busy and the queue is full. Please ask again in half a minute."}'
GONE = '{"error":"The models did not get to this question in time, or are not running. Please ask again."}'
FORBIDDEN = '{"error":"Not here: models are changed by the stack\'s configuration and ./kit model."}'

# HAProxy takes a server that it does not know yet for a good one. So the first look comes soon, and one refusal is
# enough: for that long questions may be answered by a server that lacks the model (404).
REMOTE_CHECK = "check inter 5s fastinter 1s downinter 5s fall 1 rise 1"
NAMES = "resolvers docker init-addr none resolve-prefer ipv4"


def config(plan: Plan) -> str:
    """The haproxy.cfg of the service that has ports named `api` and `queue`."""
    service = queued_service(plan)
    own = [
        f"{container.host_name} {container.host_name}:{port.number}"
        for container in service.containers
        for port in container.spec.ports
        if re.fullmatch(r"api(-\d+)?", port.name)
    ]
    remote = [f"remote-{number} {address}" for number, address in enumerate(plan.settings.ollama_backends, 1)]
    tracked = [f"{server} {{}} track remotes/{server.split()[0]} {NAMES}" for server in remote]
    number = service.spec.endpoint("queue")[1].number
    inference = _servers([f"{server} maxconn 1 {SERVER_DEFAULTS}" for server in own], tracked, "maxconn 1")
    # The stack's own server says what there is; another one only while that is away.
    listing = _servers([f"{server} {SERVER_DEFAULTS}" for server in own], tracked, "backup")
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
    timeout check 5s
    # Who gave up waiting leaves the queue, and a model stops answering nobody.
    option abortonclose
    option http-no-delay
    option redispatch
    retries 2
    http-error status 503 content-type application/json string {quoted(GONE)} hdr Retry-After 30
{RESOLVERS}{HEALTH}
frontend queue
    bind :{number}
    declare capture request len 64
    http-request capture req.hdr(host) id 0
    # Exact, as they are sent: whatever else the server might take for one of its paths ends here.
    acl inference path {" ".join(INFERENCE)}
    acl listing path {" ".join(LISTING)}
    acl listing path -m reg {ONE_MODEL}
    acl show path {SHOW}
    http-request return status 403 content-type application/json string {_escaped(FORBIDDEN)} \
unless inference METH_POST or listing METH_GET or show METH_POST
    # Who asks: the person, where the asking program says so, otherwise the program. Nobody's name goes further.
    http-request set-var(txn.asker) src
    http-request set-var(txn.asker) req.hdr({ASKER}) if {{ req.hdr({ASKER}) -m found }}
    http-request del-header x-openwebui- -m beg
    http-request track-sc0 var(txn.asker) table askers if inference
    http-request return status 503 content-type application/json string {quoted(FULL)} hdr Retry-After 30 \
if inference {{ queue(inference) ge {WAITING} }}
    http-request return status 503 content-type application/json string {quoted(FULL)} hdr Retry-After 30 \
if inference {{ sc_conn_cur(0,askers) gt {WAITING_EACH} }}
    http-request set-priority-offset sc_conn_cur(0,askers),sub({FREE}),mul({STEP_BACK_MS}) \
if inference {{ sc_conn_cur(0,askers) gt {FREE} }}
    use_backend inference if inference
    default_backend listing

backend askers
    stick-table type string len 64 size 10k expire 1h store conn_cur

# {owner}: one in flight per backend, then whoever asked first, each person's further questions put back
backend inference
    balance leastconn
    option httpchk GET /api/version
    default-server observe layer4
{inference}

# {owner}: lists and versions never wait
backend listing
    option httpchk GET /api/version
    timeout server 30s
{listing}
{_remotes(plan, remote)}"""


def queued_service(plan: Plan) -> PlannedService:
    """The service that has ports named `api` and `queue`. LookupError when there is none."""
    for service in plan.services:
        if _has_queue(service.spec) and Role.INGRESS not in service.spec.roles:
            return service
    raise LookupError("no service of the plan has ports named api and queue")


def _servers(own: list[str], tracked: list[str], option: str) -> str:
    return "\n".join(f"    server {server}" for server in (*own, *(server.format(option) for server in tracked)))


def _remotes(plan: Plan, servers: list[str]) -> str:
    """How servers elsewhere are looked at: one that lacks a model of this stack could not answer for it."""
    if not servers:
        return ""
    checks: list[str] = []
    for model in models.all_of(plan.settings):
        body = _escaped(json.dumps({"model": model}))
        checks += [
            "    http-check connect",
            f"    http-check send meth POST uri {SHOW} ver HTTP/1.1 hdr Host ollama "
            f"hdr Content-Type application/json body {body}",
            "    http-check expect status 200",
        ]
    lines = "\n".join([*checks, *(f"    server {server} {REMOTE_CHECK} {NAMES}" for server in servers)])
    return f"""
# ollamaBackends: in use while each has every model of this stack
backend remotes
    option httpchk
{lines}
"""


def _escaped(text: str) -> str:
    """One argument, whatever quotes it has."""
    return '"' + re.sub(r'([\\"$])', r"\\\1", text) + '"'


def _has_queue(spec: ServiceSpec) -> bool:
    names = {port.name for container in spec.containers for port in container.ports}
    return {"api", "queue"} <= names
