"""Asks image registries what they have: the HTTP API v2 with anonymous tokens, read only. Standard library only.

What a registry says is checked where it can be: a manifest must have the digest it was asked for, or that it came with.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, cast

TIMEOUT_S = 5.0
MAX_BYTES = 8 << 20  # manifests and image configurations are kilobytes
MAX_PAGES = 50  # of 1,000 tags; whoever has more is not searched
API_HOSTS: Mapping[str, str] = {"docker.io": "registry-1.docker.io"}  # where its API is, unlike its name
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_PLAIN = frozenset({"localhost", "127.0.0.1", "[::1]"})  # engines too speak plain HTTP to these, and only these
_EARLIEST = date(2000, 1, 1)  # a reproducible build is "made" in 1970, or 1980: that says nothing


class RegistryError(Exception):
    """A registry did not answer, refused, or answered what cannot be. The text completes "<host> ..."."""


class MissingError(RegistryError):
    """The registry answers, and has no such image, tag or digest."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """An image as a registry has it. arches: of Linux, in Docker's spelling. created: None where it does not say."""

    digest: str
    arches: frozenset[str]
    created: date | None = None


@dataclass(frozen=True)
class _Answer:
    body: bytes
    headers: Mapping[str, str]


def split(repository: str) -> tuple[str, str]:
    """docker.io/library/redis -> ("docker.io", "library/redis")."""
    first, slash, rest = repository.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return "docker.io", repository if slash else f"library/{repository}"


class Client:
    """Questions to registries. A token is asked for once per repository. Safe to use from several threads."""

    def __init__(self, timeout: float = TIMEOUT_S) -> None:
        self.timeout = timeout
        self._tokens: dict[str, str] = {}

    def has(self, repository: str, digest: str) -> bool:
        """Whether the registry has that digest. RegistryError when it does not say."""
        try:
            self._ask(repository, f"manifests/{digest}", method="HEAD", accept=(*_INDEXES, *_MANIFESTS))
        except MissingError:
            return False
        return True

    def find(self, repository: str, reference: str, *, created: bool = False) -> Found:
        """What a tag or a digest stands for: the digest of the index, where there is one, and what it is made for.

        MissingError when there is none, RegistryError when the registry does not say.
        """
        answer = self._ask(repository, f"manifests/{reference}", accept=(*_INDEXES, *_MANIFESTS))
        digest = _checked(answer, reference)
        document = _json(answer.body)
        manifests = document.get("manifests")
        if not isinstance(manifests, list):
            config = self._config(repository, document)
            return Found(digest=digest, arches=frozenset({str(config.get("architecture"))}), created=_day(config))
        found = {
            str(platform.get("architecture")): str(item.get("digest"))
            for item in cast("list[dict[str, Any]]", manifests)
            if (platform := item.get("platform") or {}).get("os") == "linux"
        }
        if not found:
            raise RegistryError(f"has nothing for Linux under {repository}:{reference}")
        when = None
        if created:
            arch = "amd64" if "amd64" in found else min(found)
            inner = self._ask(repository, f"manifests/{found[arch]}", accept=_MANIFESTS)
            _checked(inner, found[arch])
            when = _day(self._config(repository, _json(inner.body)))
        return Found(digest=digest, arches=frozenset(found), created=when)

    def tags(self, repository: str) -> tuple[str, ...]:
        """Every tag of a repository. RegistryError when there are more than anybody should read."""
        found: list[str] = []
        path = "tags/list?n=1000"
        for _ in range(MAX_PAGES):
            answer = self._ask(repository, path)
            found += [str(tag) for tag in _json(answer.body).get("tags") or []]
            following = re.search(r'<[^>?]*\?([^>]+)>;\s*rel="?next"?', answer.headers.get("link", ""))
            if not following:
                return tuple(found)
            path = f"tags/list?{following[1]}"
        raise RegistryError(f"has more than {len(found):,} tags of {repository}")

    def _config(self, repository: str, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        digest = str((manifest.get("config") or {}).get("digest", ""))
        if not digest:
            raise RegistryError(f"gave a manifest of {repository} without a configuration")
        answer = self._ask(repository, f"blobs/{digest}")
        _checked(answer, digest)
        return _json(answer.body)

    def _ask(self, repository: str, path: str, *, method: str = "GET", accept: Iterable[str] = ()) -> _Answer:
        host, name = split(repository)
        plain = host.rpartition(":")[0] in _PLAIN or host in _PLAIN
        url = f"{'http' if plain else 'https'}://{API_HOSTS.get(host, host)}/v2/{name}/{path}"
        headers = {"Accept": ", ".join(accept)} if accept else {}
        try:
            return self._open(url, method, headers, self._tokens.get(repository, ""))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != http.client.UNAUTHORIZED:
                raise _refusal(error.code, repository) from None
            challenge = error.headers.get("WWW-Authenticate", "")
        token = self._token(challenge, repository, name, plain=plain)
        try:
            return self._open(url, method, headers, token)
        except urllib.error.HTTPError as error:
            error.close()
            raise _refusal(error.code, repository) from None

    def _token(self, challenge: str, repository: str, name: str, *, plain: bool) -> str:
        """An anonymous token, as the registry's challenge says where to get one."""
        kind, _, rest = challenge.partition(" ")
        said = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = said.get("realm", "")
        if kind.lower() != "bearer" or not realm.startswith("https://" if not plain else ("http://", "https://")):
            raise RegistryError("wants a login")
        query = {"scope": said.get("scope") or f"repository:{name}:pull"}
        query |= {"service": said["service"]} if "service" in said else {}
        try:
            answer = _json(self._open(f"{realm}?{urllib.parse.urlencode(query)}", "GET", {}, "").body)
        except urllib.error.HTTPError as error:
            error.close()
            raise RegistryError(f"gives no token for {repository} ({error.code})") from None
        token = str(answer.get("token") or answer.get("access_token") or "")
        if not token:
            raise RegistryError("gave an empty token")
        self._tokens[repository] = token
        return token

    def _open(self, url: str, method: str, headers: Mapping[str, str], token: str) -> _Answer:
        request = urllib.request.Request(url, method=method, headers=dict(headers))  # noqa: S310 - http(s), see _ask
        if token:
            # Blobs are redirected to other hosts, which have no business with it.
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:  # noqa: S310
                body = response.read(MAX_BYTES + 1)
                answer = _Answer(body, {key.lower(): value for key, value in response.headers.items()})
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise RegistryError(f"does not answer: {reason}") from None
        if len(body) > MAX_BYTES:
            raise RegistryError("answered with more than anybody should read")
        return answer


def _refusal(code: int, repository: str) -> RegistryError:
    if code == http.client.NOT_FOUND:
        return MissingError(f"has no such image: {repository}")
    if code == http.client.TOO_MANY_REQUESTS:
        return RegistryError("answers nobody without a login for a while: too many questions (429)")
    return RegistryError(f"refused to tell about {repository} ({code})")


def _checked(answer: _Answer, reference: str) -> str:
    """The digest of a body, which must be the one asked for and the one it came with."""
    digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
    said = answer.headers.get("docker-content-digest", digest)
    wanted = reference if reference.startswith("sha256:") else digest
    if digest not in (said, wanted) or said != digest or wanted != digest:
        raise RegistryError(f"gave something else than it says: {digest[:19]} for {wanted[:19]}, named {said[:19]}")
    return digest


def _json(body: bytes) -> dict[str, Any]:
    try:
        document: object = json.loads(body)
    except ValueError:
        raise RegistryError("answered what is no JSON") from None
    if not isinstance(document, dict):
        raise RegistryError("answered what is no object")
    return cast("dict[str, Any]", document)


def _day(config: Mapping[str, Any]) -> date | None:
    try:
        made = datetime.fromisoformat(str(config.get("created", ""))[:19]).date()
    except ValueError:
        return None
    return made if made > _EARLIEST else None


# ----------------------------------------------------------------------------------------------------- newest


def newest(tags: Iterable[str], pinned: str) -> str:
    """The newest of the tags that are written like the pinned one: v1.2.3-alpine among v*.*.*-alpine.

    Release candidates and other variants are written differently, so they are never taken for newer ones.
    """
    shape = _shape(pinned)
    if shape is None:
        return pinned
    prefix, numbers, suffix = shape
    best = (numbers, pinned)
    for tag in tags:
        other = _shape(tag)
        if other and (other[0], len(other[1]), other[2]) == (prefix, len(numbers), suffix):
            best = max(best, (other[1], tag))
    return best[1]


def _shape(tag: str) -> tuple[str, tuple[int, ...], str] | None:
    match = re.fullmatch(r"(v?)(\d+(?:\.\d+)*)((?:-.*)?)", tag)
    return (match[1], tuple(map(int, match[2].split("."))), match[3]) if match else None
