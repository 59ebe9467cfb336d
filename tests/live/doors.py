"""The real front door, as derived, before small backends of our own: a stack that is up in seconds.

The backends are plain Python servers, so what they show is how HAProxy behaves, and nothing of the services.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from stack import images
from stack.catalog import discover
from stack.model import (
    Access,
    ContainerSpec,
    Derived,
    File,
    HealthCheck,
    Http,
    Port,
    Profile,
    RateClass,
    ResourceLimits,
    Role,
    Route,
    ServiceSpec,
    Target,
    Zone,
)
from stack.services import haproxy, waf
from tests.live import standing
from tests.live.standing import Standing

# Networks that this machine's own requests seem to come from: as a trusted proxy it can say who each one is from.
MACHINE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")

PORT = 8000
PROGRAM = r"""
import collections, http.server, json, sys, threading, time, urllib.parse
NAME = sys.argv[1]
seen, lock = collections.Counter(), threading.Lock()

class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the kernel waits 40 ms for the rest of an answer

    def log_message(self, *words): pass

    def send(self, status, body, kind="application/json", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items(): self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("X-Reached", NAME)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(data)

    def answer(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        with lock: seen[self.command + " " + url.path] += 1
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding"):
            length = 0
            while size := int(self.rfile.readline().split(b";")[0], 16):
                length += len(self.rfile.read(size)); self.rfile.readline()
            self.rfile.readline()
        else:
            self.rfile.read(length)
        if url.path == "/stream":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number in range(int(query.get("n", 5))):
                data = f"data: {number}\n\n".encode()
                if number: time.sleep(float(query.get("every", 1)))
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data)); self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        elif url.path == "/drop":
            self.close_connection = True
        elif url.path == "/slow":
            time.sleep(float(query.get("s", 1))); self.send(200, {"name": NAME})
        elif url.path == "/seen":
            self.send(200, dict(seen))
        elif url.path == "/page":
            html = b"<!doctype html><title>page</title><script>document.title='ran'</script>"
            self.send(200, html, "text/html; charset=utf-8", Server="secret/1.2.3", X_Powered_By="secret")
        elif url.path == "/own":
            self.send(200, b"<!doctype html>", "text/html", Content_Security_Policy="default-src 'none'",
                      X_Frame_Options="DENY", Referrer_Policy="no-referrer")
        else:
            self.send(200, {"name": NAME, "path": self.path, "length": length, "headers": dict(self.headers.items())})

    do_GET = do_POST = do_PUT = do_PATCH = do_HEAD = do_OPTIONS = do_DELETE = answer

class Server(http.server.ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 512

Server(("", 8000), Answer).serve_forever()
"""


def backend(name: str, **route: Any) -> ServiceSpec:
    """A service that says what it was asked."""
    return ServiceSpec(
        name=name,
        summary="A backend of the tests",
        profiles=frozenset({Profile("doors", "Backends of the tests")})
        if name == "one"
        else frozenset({Profile("doors")}),
        containers=(
            ContainerSpec(
                image=images.LITELLM,
                user="65534:65534",
                zones=frozenset({Zone.APP}),
                entrypoint=("python3", "/run/kit/backend.py"),
                command=(name,),
                files=(File(name="backend.py", source=Derived(lambda _: PROGRAM)),),
                ports=(Port("http", PORT),),
                health=HealthCheck(test=Http("http", "/"), interval_s=1),
                limits={target: ResourceLimits(memory_mb=96, cpus=1) for target in Target},
                stop_grace_s=1,
            ),
        ),
        routes=(Route(**{"name": name, "port": "http", "access": Access.PUBLIC, **route}),),
    )


def front() -> ServiceSpec:
    """The stack's own front door, without what belongs to services that are not there."""
    return replace(haproxy.SERVICE, proofs=())


def _firewall() -> ServiceSpec:
    """The stack's own firewall, without its proofs, which are about services."""
    return replace(waf.SERVICE, proofs=())


def everywhere(*plain: str) -> ServiceSpec:
    """One backend for every route of the catalogue, each with its own exclusions, and for `plain` ones without any.

    The front door asks nobody for a login: what the firewall does is the same for those who have none.
    """
    one = backend("one")
    routes = [
        replace(route, port="http", access=Access.PUBLIC, roles=(), logout="", voucher="", open=())
        for spec in discover()
        for route in spec.routes
    ]
    routes += [
        Route(name=name, port="http", access=Access.PUBLIC, rate=RateClass.BUNDLE, websocket=True, streaming=True)
        for name in plain
    ]
    return replace(one, routes=tuple(routes))


@contextmanager
def doors(
    name: str,
    folder: Path,
    *backends: ServiceSpec,
    firewall: bool = False,
    profile: str = "doors",
    **changes: Any,
) -> Iterator[Standing]:
    """A front door before these backends, with the firewall in between or without. profile: of the backends."""
    assert Role.INGRESS in front().roles
    between = (_firewall(),) if firewall else ()
    with standing.stack(name, folder, profile, catalogue=(front(), *between, *backends), **changes) as live:
        yield live
