"""Runs a few lines of program against a monitor that records every registration.

What it proves: types, names, inputs and options as the SDK sends them, and which inputs are secret. What it cannot:
schemas, diffs, what a provider makes of it. That is tests/live's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi
from google.protobuf import json_format
from pulumi.runtime.mocks import MockCallArgs, MockMonitor, MockResourceArgs, Mocks, set_mocks
from pulumi.runtime.rpc import UNKNOWN as UNKNOWN_VALUE

SECRET_KEY = "4dabf18193072939515e22adb298388d"

UNKNOWN = UNKNOWN_VALUE

State = Callable[[str, str, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Registered:
    """One RegisterResource request."""

    type: str
    name: str
    urn: str
    inputs: Mapping[str, Any]
    secret_inputs: frozenset[str]
    parent: str
    provider: str
    providers: Mapping[str, str]
    dependencies: frozenset[str]
    protect: bool
    delete_before_replace: bool
    retain_on_delete: bool
    replacement_trigger: Any
    replace_on_changes: frozenset[str]
    ignore_changes: frozenset[str]
    additional_secret_outputs: frozenset[str]
    deleted_with: str
    create_timeout: str
    delete_timeout: str


@dataclass
class Recording:
    """Everything that was registered, in order."""

    resources: list[Registered] = field(default_factory=list[Registered])
    outputs: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    error: str = ""

    def all(self, short_type: str) -> list[Registered]:
        """All resources whose type ends so: "Container", "openid/client:Client"."""
        return [found for found in self.resources if found.type.endswith(short_type)]

    def one(self, short_type: str, name: str = "") -> Registered:
        """The only such resource (of that name)."""
        found = [each for each in self.all(short_type) if not name or each.name == name]
        assert len(found) == 1, [(each.type, each.name) for each in self.resources]
        return found[0]

    def names(self, urns: frozenset[str]) -> set[str]:
        """Names of custom resources among the URNs."""
        return {urn.rsplit("::", 1)[-1] for urn in urns if "aikit:" not in urn.split("::")[2].split("$")[-1]}


def made(type_: str, name: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """What providers would answer on top of the inputs."""
    match type_.rsplit(":", 1)[-1]:
        case "Container":
            return {"exitCode": 0, "containerLogs": ""}
        case "RandomPassword":
            return {"result": pulumi.Output.secret(f"generated-{name}")}
        case "PrivateKey":
            return {"privateKeyPem": pulumi.Output.secret(f"KEY {name}\n"), "publicKeyPem": "PUBLIC\n"}
        case "SelfSignedCert" | "LocallySignedCert":
            return {"certPem": f"CERTIFICATE {name}\n"}
        case "CertRequest":
            return {"certRequestPem": f"REQUEST {name}\n"}
        case "RemoteImage":
            return {"imageId": "sha256:abc"}
        case _:
            return {}


class _Mocks(Mocks):
    def __init__(self, state: State) -> None:
        self._state = state

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        state = {**args.inputs, **made(args.typ, args.name, args.inputs)}
        state.update(self._state(args.typ, args.name, args.inputs))
        return (f"{args.name}-id" if args.custom else ""), state

    def call(self, args: MockCallArgs) -> Any:
        raise AssertionError(f"the program asked a provider something while it was evaluated: {args.token}")


class _Monitor(MockMonitor):
    def __init__(self, mocks: Mocks, recording: Recording) -> None:
        super().__init__(mocks)
        self._recording = recording

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802
        answer = super().RegisterResource(request)
        if request.type != "pulumi:pulumi:Stack":
            raw = json_format.MessageToDict(request.object)
            self._recording.resources.append(
                Registered(
                    type=request.type,
                    name=request.name,
                    urn=answer.urn,
                    inputs=plain(raw),
                    secret_inputs=frozenset(secret_paths(raw)),
                    parent=request.parent.rsplit("::", 1)[-1],
                    provider=request.provider,
                    providers=dict(request.providers),
                    dependencies=frozenset(request.dependencies),
                    protect=request.protect,
                    delete_before_replace=request.deleteBeforeReplace,
                    retain_on_delete=request.retainOnDelete,
                    replacement_trigger=plain(json_format.MessageToDict(request.replacement_trigger)),
                    replace_on_changes=frozenset(request.replaceOnChanges),
                    ignore_changes=frozenset(request.ignoreChanges),
                    additional_secret_outputs=frozenset(request.additionalSecretOutputs),
                    deleted_with=request.deletedWith,
                    create_timeout=request.customTimeouts.create,
                    delete_timeout=request.customTimeouts.delete,
                )
            )
        return answer

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802
        self._recording.outputs[request.urn] = plain(json_format.MessageToDict(request.outputs))
        return super().RegisterResourceOutputs(request)


def record(program: Callable[[], object], *, state: State | None = None, preview: bool = False) -> Recording:
    """Run the program and return what it registered. An error of the program ends up in `.error`."""
    recording = Recording()
    mocks = _Mocks(state or (lambda type_, name, inputs: {}))
    set_mocks(mocks, preview=preview, monitor=_Monitor(mocks, recording))

    @pulumi.runtime.test
    def run() -> None:
        asyncio.get_running_loop().set_exception_handler(_forget_run_errors)
        program()

    try:
        run()
    except pulumi.RunError as error:
        recording.error = str(error)
    return recording


def _forget_run_errors(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Outputs that a failed job took with it are never read: asyncio would print each after pytest's closing line."""
    if not isinstance(context.get("exception"), pulumi.RunError):
        loop.default_exception_handler(context)


def plain(value: Any) -> Any:
    """Inputs without their secret wrappers."""
    if isinstance(value, dict):
        if SECRET_KEY in value:
            return plain(value["value"])
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def secret_paths(value: Any, path: str = "") -> list[str]:
    """Where inputs are wrapped as secret: "uploads[0].contentBase64"."""
    if isinstance(value, dict):
        if SECRET_KEY in value:
            return [path]
        return [
            found for key, inner in value.items() for found in secret_paths(inner, f"{path}.{key}" if path else key)
        ]
    if isinstance(value, list):
        return [found for index, inner in enumerate(value) for found in secret_paths(inner, f"{path}[{index}]")]
    return []
