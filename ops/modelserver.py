"""The model server of a stack that is up, as ./kit talks to it: managing past the queue, asking through it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ops import tunnel
from ops.console import KitError
from ops.engine import DockerApi, EngineError
from ops.enginestate import look
from ops.session import Session
from stack.derive.queue import queued_service
from stack.derive.values import endpoint
from stack.plan import Plan, PlannedService

ANSWER_S = 1800.0  # a large model is loaded from a slow disk before its first word


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model on the server. digest is the full one, without "sha256:"; size in bytes, as the server counts."""

    name: str
    digest: str
    size: int
    family: str = ""
    parameters: str = ""
    quantization: str = ""

    @property
    def version(self) -> str:
        """The twelve digits that people tell versions apart by."""
        return self.digest[:12]


@dataclass(kw_only=True)
class Answer:
    """One question's answer and its times in seconds. first_token_s counts from the moment it was sent."""

    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    first_token_s: float = 0.0
    total_s: float = 0.0
    load_s: float = 0.0
    prompt_s: float = 0.0
    answer_s: float = 0.0
    error: str = ""
    done: bool = False
    pieces: list[str] = field(default_factory=list[str], repr=False)


class ModelServer:
    """`own` names the container that holds the models, `queue` the one that everybody else asks."""

    def __init__(self, docker: DockerApi, own: tuple[str, int], queue: tuple[str, int]) -> None:
        self._docker = docker
        self._own = own
        self._queue = queue

    def models(self) -> list[Model]:
        """Everything that is there, kept versions included, by name."""
        raw = self._call("GET", "/api/tags")
        return sorted((_model(item) for item in raw.get("models") or []), key=lambda model: model.name)

    def loaded(self) -> dict[str, int]:
        """Bytes that each loaded model takes, by name."""
        return {item["name"]: int(item.get("size") or 0) for item in self._call("GET", "/api/ps").get("models") or []}

    def copy(self, source: str, destination: str) -> None:
        """A second name for the same weights; a name that is there moves."""
        self._call("POST", "/api/copy", {"source": source, "destination": destination})

    def delete(self, name: str) -> None:
        """Take a name away, and its weights when no other name has them."""
        self._call("DELETE", "/api/delete", {"model": name})

    def ask(self, model: str, prompt: str, options: Mapping[str, object], timeout: float = ANSWER_S) -> Answer:
        """One question through the queue, as every service asks. What goes wrong is in `error`."""
        found = Answer()
        body = {"model": model, "prompt": prompt, "stream": True, "options": dict(options)}
        started = time.monotonic()
        container, port = self._queue
        request = ("POST", "/api/generate", body)
        try:
            with tunnel.answer(self._docker, container, port, *request, timeout=timeout) as response:
                if response.status != 200:
                    found.error = _error(response.read(), response.status)
                    return found
                for event in _lines(response):
                    _hear(found, event, time.monotonic() - started)
        except (EngineError, ValueError) as error:
            found.error = error.what if isinstance(error, EngineError) else f"the answer broke off: {error}"
        found.text = "".join(found.pieces)
        found.total_s = time.monotonic() - started
        if not found.error and not found.done:  # an empty answer is one
            # Ollama itself stops a model that says the same thirty times, and then sends no end.
            found.error = "the answer ended before it was complete: a model that repeats itself is stopped"
        return found

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        container, port = self._own
        with tunnel.answer(self._docker, container, port, method, path, body) as response:
            content = response.read()
            if response.status >= 400:
                raise KitError(f"the model server answered {response.status}: {_error(content, response.status)}")
        return cast(dict[str, Any], json.loads(content)) if content.strip() else {}


def server_of(session: Session, plan: Plan) -> ModelServer:
    """The stack's model server. KitError when it does not run or the stack has none."""
    service = service_of(plan)
    own, queue = container_of(service, "api"), container_of(service, "queue")
    state = {container.name: container for container in look(session.docker.get, session.stack).containers}
    for name, _ in (own, queue):
        found = state.get(name)
        if found is None or found.state != "running":
            what = "is not there" if found is None else f"is {found.state}"
            raise KitError(f"stack {session.stack} is not up: {name} {what}.", f"./kit up {session.stack}")
    return ModelServer(session.docker, own, queue)


def service_of(plan: Plan) -> PlannedService:
    """The service that has models and a queue. KitError when the stack has none."""
    try:
        return queued_service(plan)
    except LookupError:
        raise KitError(f"stack {plan.stack} has no models: no service of it runs any.", "./kit plan") from None


def container_of(service: PlannedService, port: str) -> tuple[str, int]:
    """The Docker name of the container that has a port, and the port's number."""
    host_name, number = endpoint(service, port)
    return next(c.docker_name for c in service.containers if c.host_name == host_name), number


def _model(raw: Mapping[str, Any]) -> Model:
    details = cast(Mapping[str, Any], raw.get("details") or {})
    return Model(
        name=str(raw["name"]),
        digest=str(raw.get("digest", "")).removeprefix("sha256:"),
        size=int(raw.get("size") or 0),
        family=str(details.get("family") or ""),
        parameters=str(details.get("parameter_size") or ""),
        quantization=str(details.get("quantization_level") or ""),
    )


def _hear(found: Answer, event: Mapping[str, Any], after_s: float) -> None:
    """Take one line of a streamed answer in."""
    if event.get("error"):
        found.error = str(event["error"])
    # Models that think aloud do so in a field of its own: that is an answer on its way as well.
    if (event.get("response") or event.get("thinking")) and not found.first_token_s:
        found.first_token_s = after_s
    found.pieces.append(str(event.get("response") or ""))
    if event.get("done"):
        found.done = True
        found.tokens = int(event.get("eval_count") or 0)
        found.prompt_tokens = int(event.get("prompt_eval_count") or 0)
        found.load_s = int(event.get("load_duration") or 0) / 1e9
        found.prompt_s = int(event.get("prompt_eval_duration") or 0) / 1e9
        found.answer_s = int(event.get("eval_duration") or 0) / 1e9


def _lines(response: Any) -> Iterator[dict[str, Any]]:
    while line := response.readline():
        if line.strip():
            yield json.loads(line)


def _error(content: bytes, status: int) -> str:
    text = content.decode("utf-8", "replace").strip()
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text[:200] or http_words(status)


def http_words(status: int) -> str:
    """What a status without a text means."""
    from http import HTTPStatus

    return HTTPStatus(status).phrase.lower() if status in {item.value for item in HTTPStatus} else f"status {status}"
