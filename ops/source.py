"""Where images come from: an image registry where one answers, otherwise built here. Decided once, on the first `up`.

A later run never switches by itself: a network that fails for a moment must not open data with older software.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime

from ops.registry import API_HOSTS, split
from ops.stackstate import Choices

TIMEOUT_S = 3.0
REGISTRY, AIRGAP = "registry", "airgap"
MODELS_HOST = "registry.ollama.ai"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Whether a registry answered within TIMEOUT_S, and otherwise why not."""

    host: str
    answers: bool
    why: str = ""
    clock_s: float | None = None  # by how much its clock is ahead of ours; None where it does not say


def _ahead(headers: Message | None) -> float | None:
    """Of an answer's Date, which is whole seconds."""
    try:
        said = parsedate_to_datetime(headers["date"]) if headers and headers["date"] else None
    except ValueError:
        return None
    return said.timestamp() - time.time() if said else None


def registry_host(repository: str) -> str:
    """The registry of a full repository name: docker.io/library/redis -> docker.io."""
    return split(repository)[0]


def registry_hosts(repositories: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({registry_host(repository) for repository in repositories}))


def answers(host: str, timeout: float = TIMEOUT_S) -> Probe:
    """Ask a registry for its API version. Whatever it answers, "log in first" included, it is there."""
    try:
        with urllib.request.urlopen(f"https://{API_HOSTS.get(host, host)}/v2/", timeout=timeout) as answer:
            return Probe(host=host, answers=True, clock_s=_ahead(answer.headers))
    except urllib.error.HTTPError as error:
        error.close()
        return Probe(host=host, answers=True, clock_s=_ahead(error.headers))
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return Probe(host=host, answers=False, why=str(reason))


def probe(hosts: Iterable[str], timeout: float = TIMEOUT_S) -> tuple[Probe, ...]:
    """Ask all at once. Name resolution may hang longer than any timeout, so the wait itself is limited."""
    names = tuple(hosts)
    pool = ThreadPoolExecutor(max_workers=max(1, len(names)), thread_name_prefix="probe")
    futures = {name: pool.submit(answers, name, timeout) for name in names}
    wait(futures.values(), timeout=timeout + 1)
    pool.shutdown(wait=False, cancel_futures=True)
    return tuple(
        future.result() if future.done() else Probe(host=name, answers=False, why=f"no answer in {timeout:.0f} s")
        for name, future in futures.items()
    )


def decide(hosts: Iterable[str]) -> Choices:
    """Ask the registries, and the one of models, and choose."""
    wanted = tuple(hosts)
    found = {item.host: item for item in probe((*wanted, MODELS_HOST))}
    return choose([found[host] for host in wanted], models=found[MODELS_HOST].answers)


def choose(probes: Iterable[Probe], *, models: bool, now: datetime | None = None) -> Choices:
    """The source for this stack from now on: the registry as soon as one answers.

    models: whether named models can be fetched. Where neither they nor images can, tiny ones are made here.
    """
    seen = tuple(probes)
    there = sorted(item.host for item in seen if item.answers)
    asked = ", ".join(sorted(item.host for item in seen)) or "none asked"
    return Choices(
        images=REGISTRY if there else AIRGAP,
        why=f"{', '.join(there)} answered" if there else f"no image registry answered ({asked})",
        chosen_at=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        tiny_models=not there and not models,
    )


def older_than_pins(pins: Mapping[str, str], built: Mapping[str, str]) -> list[str]:
    """Each image that is built from an older release than its pin's: "keycloak 26.5.2 instead of 26.7.4"."""
    return [
        f"{name} {version} instead of {pins[name]}"
        for name, version in sorted(built.items())
        if name in pins and _is_older(version, pins[name])
    ]


def _is_older(version: str, pin: str) -> bool:
    ours, theirs = _numbers(version), _numbers(pin)
    length = min(len(ours), len(theirs))
    return length > 0 and ours[:length] < theirs[:length]


def _numbers(version: str) -> tuple[int, ...]:
    """The leading release number: v0.12.4-rc1 -> (0, 12, 4)."""
    release = version.removeprefix("v").split("-", 1)[0]
    found: list[int] = []
    for part in release.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)
