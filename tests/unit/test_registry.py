"""The registry client against a server that behaves like registries do, and like broken and hostile ones."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import registry
from ops.registry import Client, Found, MissingError, RegistryError, newest, split

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Server:
    """A registry with what is put into it. `token`: what it wants to see, "" when it asks for none."""

    port: int = 0
    contents: dict[str, bytes] = field(default_factory=dict[str, bytes])
    digests: dict[str, str] = field(default_factory=dict[str, str])
    tags: list[str] = field(default_factory=list[str])
    page: int = 1000
    token: str = ""
    challenge: str = ""
    status: int = 200
    moved: str = ""  # where blobs are redirected to
    seen: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    @property
    def repository(self) -> str:
        return f"127.0.0.1:{self.port}/kit/thing"

    def put(self, document: object, *names: str) -> str:
        body = json.dumps(document).encode()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        for name in (digest, *names):
            self.contents[name], self.digests[name] = body, digest
        return digest

    def image(self, arch: str, created: str = "2026-11-01T10:00:00.123456789Z", *names: str) -> str:
        config = self.put({"architecture": arch, "os": "linux", "created": created})
        return self.put({"mediaType": MANIFEST, "config": {"digest": config}, "layers": []}, *names)

    def index(self, tag: str, **arches: str) -> str:
        manifests = [
            {"digest": digest, "platform": {"os": "linux", "architecture": arch}} for arch, digest in arches.items()
        ]
        attestation = {"digest": "sha256:" + "0" * 64, "platform": {"os": "unknown", "architecture": "unknown"}}
        return self.put({"mediaType": INDEX, "manifests": [*manifests, attestation]}, tag)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            authorization = self.headers.get("Authorization", "")
            state.seen.append((self.command, self.path, authorization))
            path, _, query = self.path.partition("?")
            if path == "/token":
                return self._send(200, json.dumps({"token": state.token}).encode())
            if state.status != 200:
                return self._send(state.status, b"{}")
            if state.token and authorization != f"Bearer {state.token}" and not path.startswith("/elsewhere"):
                challenge = (
                    state.challenge or f'Bearer realm="http://127.0.0.1:{state.port}/token",service="x y",scope="s"'
                )
                return self._send(401, b"{}", {"WWW-Authenticate": challenge})
            if path.endswith("/tags/list"):
                start = int(query.partition("last=")[2] or 0)
                some = state.tags[start : start + state.page]
                link = f'</v2/kit/thing/tags/list?n=1000&last={start + state.page}>; rel="next"'
                more = {"Link": link} if start + state.page < len(state.tags) else {}
                return self._send(200, json.dumps({"name": "x", "tags": some}).encode(), more)
            kind, name = path.split("/")[-2:]
            if kind == "blobs" and state.moved and not path.startswith("/elsewhere"):
                return self._send(307, b"", {"Location": f"{state.moved}/elsewhere/blobs/{name}"})
            if name not in state.contents:
                return self._send(404, b"{}")
            return self._send(200, state.contents[name], {"Docker-Content-Digest": state.digests[name]})

        do_HEAD = do_GET  # noqa: N815

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = httpd.server_port
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.mark.parametrize(
    ("repository", "parts"),
    [
        ("docker.io/library/redis", ("docker.io", "library/redis")),
        ("redis", ("docker.io", "library/redis")),
        ("ollama/ollama", ("docker.io", "ollama/ollama")),
        ("quay.io/keycloak/keycloak", ("quay.io", "keycloak/keycloak")),
        ("localhost:5000/kit/x", ("localhost:5000", "kit/x")),
    ],
)
def test_a_repository_is_a_host_and_a_name(repository: str, parts: tuple[str, str]) -> None:
    assert split(repository) == parts


def test_the_digest_of_the_index_and_its_architectures(server: Server) -> None:
    index = server.index("1.2", amd64=server.image("amd64"), arm64=server.image("arm64"))
    assert Client().find(server.repository, "1.2") == Found(digest=index, arches=frozenset({"amd64", "arm64"}))
    aged = Client().find(server.repository, "1.2", created=True)
    assert (aged.digest, aged.created) == (index, date(2026, 11, 1))


def test_an_image_of_one_architecture(server: Server) -> None:
    digest = server.image("arm64", "2026-11-01T10:00:00Z", "1.2")
    found = Client().find(server.repository, "1.2")
    assert (found.digest, found.arches, found.created) == (digest, {"arm64"}, date(2026, 11, 1))


@pytest.mark.parametrize(
    "created", ["1970-01-01T00:00:00Z", "1980-01-01T00:00:01Z", "", "soon", "0001-01-01T00:00:00Z"]
)
def test_an_age_that_means_nothing_is_unknown(server: Server, created: str) -> None:
    server.image("amd64", created, "1.2")
    assert Client().find(server.repository, "1.2").created is None


def test_an_anonymous_token_is_asked_for_once(server: Server) -> None:
    server.token = "anonymous-token"
    index = server.index("1.2", amd64=server.image("amd64"))
    client = Client()
    assert client.find(server.repository, "1.2", created=True).digest == index
    assert client.has(server.repository, index)
    asked = [path for _, path, _ in server.seen if path.startswith("/token")]
    assert asked == ["/token?scope=s&service=x+y"]


def test_a_token_does_not_follow_a_blob_to_another_host(server: Server) -> None:
    server.token, server.moved = "anonymous-token", f"http://localhost:{server.port}"
    server.index("1.2", amd64=server.image("amd64"))
    assert Client().find(server.repository, "1.2", created=True).created == date(2026, 11, 1)
    elsewhere = [authorization for _, path, authorization in server.seen if path.startswith("/elsewhere")]
    assert elsewhere == [""]


def test_whether_a_digest_is_there(server: Server) -> None:
    digest = server.image("amd64")
    assert Client().has(server.repository, digest) is True
    assert Client().has(server.repository, "sha256:" + "0" * 64) is False
    assert {method for method, _, _ in server.seen} == {"HEAD"}


def test_tags_of_several_pages(server: Server) -> None:
    server.tags, server.page = [f"1.{number}" for number in range(25)], 10
    assert Client().tags(server.repository) == tuple(server.tags)


def test_too_many_tags_are_not_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_PAGES", 2)
    server.tags, server.page = [f"1.{number}" for number in range(25)], 10
    with pytest.raises(RegistryError, match="has more than 20 tags"):
        Client().tags(server.repository)


Change = Callable[[Server], object]
BROKEN: dict[str, tuple[Change, str]] = {
    "no such tag": (lambda server: None, "has no such image"),
    "too many questions": (lambda server: setattr(server, "status", 429), "too many questions"),
    "refused": (lambda server: setattr(server, "status", 403), "refused"),
    "down": (lambda server: setattr(server, "status", 500), "(500)"),
    "no JSON": (lambda server: server.contents.update({"1": b"<html>"}) or server.digests.update({"1": _of(b"<html>")}),
                "no JSON"),
    "a list": (lambda server: server.put([1], "1"), "no object"),
    "without a configuration": (lambda server: server.put({"layers": []}, "1"), "without a configuration"),
    "for Windows only": (
        lambda server: server.put({"manifests": [{"digest": "x", "platform": {"os": "windows"}}]}, "1"),
        "nothing for Linux",
    ),
    "another digest than it says": (
        lambda server: (server.image("amd64", "", "1"), server.digests.update({"1": "sha256:" + "0" * 64})),
        "something else than it says",
    ),
    "a login": (
        lambda server: (setattr(server, "token", "x"), setattr(server, "challenge", 'Basic realm="me"')),
        "wants a login",
    ),
    "a token from a strange place": (
        lambda server: (setattr(server, "token", "x"), setattr(server, "challenge", 'Bearer realm="file:///etc/passwd"')),
        "wants a login",
    ),
    "a token that does not help": (
        lambda server: (setattr(server, "token", "x"), setattr(server, "status", 401)), "wants a login"
    ),
}  # fmt: skip


def _of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


@pytest.mark.parametrize(("change", "says"), BROKEN.values(), ids=BROKEN.keys())
def test_what_goes_wrong_is_said(server: Server, change: Change, says: str) -> None:
    change(server)
    with pytest.raises(RegistryError) as caught:
        Client().find(server.repository, "1")
    assert says in str(caught.value)
    assert isinstance(caught.value, MissingError) == (says == "has no such image")


def test_a_changed_manifest_is_no_answer_to_its_digest(server: Server) -> None:
    digest = server.image("amd64")
    server.contents[digest] += b" "
    with pytest.raises(RegistryError, match="something else than it says"):
        Client().find(server.repository, digest)


def test_nobody_there() -> None:
    with pytest.raises(RegistryError, match="does not answer"):
        Client(timeout=1).find("127.0.0.1:1/kit/thing", "1")


def test_an_endless_answer_is_cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_BYTES", 100)
    server.contents["1"] = b"x" * 101
    server.digests["1"] = _of(server.contents["1"])
    with pytest.raises(RegistryError, match="more than anybody should read"):
        Client().find(server.repository, "1")


# ---------------------------------------------------------------------------------------------------- newest


@pytest.mark.parametrize(
    ("pinned", "tags", "best"),
    [
        ("8.2.9", ["8.2.9", "8.2.10", "8.10.1", "8.10", "8", "8.10.2-alpine", "8.11.0-rc1", "latest"], "8.10.1"),
        ("v0.12.4", ["v0.12.4", "v0.12.5", "0.13.0", "v0.13.0-cuda", "git-abc"], "v0.12.5"),
        ("0.8.6-pg17-trixie", ["0.8.7-pg17-trixie", "0.9.0-pg18-trixie", "0.9.0-pg17-bookworm"], "0.8.7-pg17-trixie"),
        ("1.37.0", [], "1.37.0"),
        ("1.37.0", ["1.36.9"], "1.37.0"),
        ("main-stable", ["main-stable-2"], "main-stable"),
    ],
)
def test_the_newest_is_written_like_the_pinned_one(pinned: str, tags: list[str], best: str) -> None:
    assert newest(tags, pinned) == best


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)), min_size=1))
def test_the_newest_is_the_greatest_by_number(versions: list[tuple[int, int, int]]) -> None:
    tags = [".".join(map(str, version)) for version in versions]
    assert newest(tags, tags[0]) == ".".join(map(str, max(versions)))
