"""What every container and network of a stack keeps to, as plain functions over what the engine is told about it.

They are asked in the fast tests about all that is registered for every target and profile, and by
`pulumi preview --policy-pack policy` about what is about to be. Inputs are those of the Pulumi resource types
docker:index/container:Container and docker:index/network:Network, with the SDK's names (camelCase).

An exception has a reason in the file of the service that needs it, or, where it is of all containers of a kind, in
GENERAL below. docs/reference/exceptions.md is made from both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from stack.model import AsEnv, ContainerSpec, ImageSource, Role, ServiceSpec, Zone
from stack.planning.stack_checks import host_name
from stack.zones import ZONES

CONTAINER = "docker:index/container:Container"
NETWORK = "docker:index/network:Network"

Inputs = Mapping[str, Any]
Rule = Callable[["Container"], str]

# What is said of a value that no preview can know yet.
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


def _table(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


@dataclass(frozen=True)
class Container:
    """The inputs of one container, with what the rules ask about by name. kind: service, job, files or reload."""

    inputs: Inputs

    def text(self, key: str) -> str:
        return str(self.inputs.get(key) or "")

    def items(self, key: str) -> list[Any]:
        found: Any = self.inputs.get(key) or ()
        return [] if found == UNKNOWN else list(found)

    def table(self, key: str) -> Mapping[str, Any]:
        return _table(self.inputs.get(key))

    @property
    def added(self) -> tuple[str, ...]:
        """The capabilities that it is given back."""
        return tuple(str(name) for name in self.table("capabilities").get("adds") or ())

    @property
    def labels(self) -> Mapping[str, str]:
        pairs = cast("list[Mapping[str, Any]]", self.items("labels"))
        return {str(pair.get("label")): str(pair.get("value")) for pair in pairs}

    @property
    def kind(self) -> str:
        return self.labels.get("aikit.kind", "")

    @property
    def service(self) -> str:
        return self.labels.get("aikit.service", "")

    @property
    def name(self) -> str:
        return self.text("name")

    @property
    def own_name(self) -> str:
        """The name without the stack's prefix."""
        return self.name.removeprefix(f"kit-{self.labels.get('aikit.stack', '')}-")

    @property
    def lasting(self) -> bool:
        """Whether it is meant to run for ever. What nobody says the kind of is held to the stricter rules."""
        return self.kind not in ("job", "files", "reload")


# ------------------------------------------------------------------------------------------------------- rules


def _read_only_root(box: Container) -> str:
    return "" if box.inputs.get("readOnly") is True else "its root file system can be written to"


def _drops_all(box: Container) -> str:
    return "" if "ALL" in (box.table("capabilities").get("drops") or ()) else "it keeps capabilities: drops is not ALL"


def _adds_none(box: Container) -> str:
    return f"it has {', '.join(box.added)}" if box.added else ""


def _no_new_privileges(box: Container) -> str:
    options = [str(option) for option in box.items("securityOpts")]
    if any(option.startswith(("seccomp", "apparmor", "label")) for option in options):
        return f"it changes the engine's own confinement: {', '.join(options)}"
    return "" if "no-new-privileges:true" in options else "a program of it may gain privileges (setuid)"


def _no_root(box: Container) -> str:
    user = box.text("user").partition(":")[0]
    return "" if user.isdigit() and int(user) > 0 else f"it runs as {user or 'whoever its image says'}"


def _processes(box: Container) -> str:
    wanted = box.labels.get("aikit.pids", "")
    return "" if wanted.isdigit() and 0 < int(wanted) <= 4096 else "nothing limits how many processes it starts"


def _memory(box: Container) -> str:
    memory, swap = box.inputs.get("memory"), box.inputs.get("memorySwap")
    if not memory:
        return "its memory has no limit"
    return "" if memory == swap else f"memory is {memory} MB and with swap {swap}: it may swap"


def _processor(box: Container) -> str:
    if not box.lasting or (box.inputs.get("cpus") and box.inputs.get("cpuShares")):
        return ""
    return "its processor time has no limit or no weight"


def _health(box: Container) -> str:
    tests: list[Any] = list(box.table("healthcheck").get("tests") or ())
    if box.lasting and (len(tests) < 2 or tests[0] not in ("CMD", "CMD-SHELL")):
        return "nothing asks whether it works"
    return ""


def _log(box: Container) -> str:
    options = box.table("logOpts")
    if box.text("logDriver") == "json-file" and not (options.get("max-size") and options.get("max-file")):
        return "its log grows for ever"
    return "" if box.text("logDriver") in ("json-file", "local", "journald") else "where its log goes is not said"


def _not_privileged(box: Container) -> str:
    return "it is privileged: root on the host" if box.inputs.get("privileged") else ""


def _own_namespaces(box: Container) -> str:
    modes = {key: box.text(key) for key in ("networkMode", "pidMode", "ipcMode", "usernsMode")}
    shared = [key for key, mode in modes.items() if mode == "host" or mode.startswith("container:")]
    return f"it shares {', '.join(shared)} with the host or another container" if shared else ""


def _volumes_alone(box: Container) -> str:
    """No directory of the host, and so no docker.sock either."""
    places = [str(mount.get("source")) for mount in box.items("mounts") if mount.get("type") != "volume"]
    places += [str(mount.get("source")) for mount in box.items("mounts") if "/" in str(mount.get("source"))]
    places += [str(mount["hostPath"]) for mount in box.items("volumes") if mount.get("hostPath")]
    return f"it has a part of the host: {', '.join(sorted(set(places)))}" if places else ""


def _no_devices(box: Container) -> str:
    return "it has a device of the host" if box.items("devices") or box.items("deviceRequests") else ""


def _no_graphics_card(box: Container) -> str:
    return f"it has the host's graphics cards ({box.text('gpus')})" if box.inputs.get("gpus") else ""


def _publishes_nothing(box: Container) -> str:
    ports = [f"{port.get('ip') or '0.0.0.0'}:{port.get('external')}" for port in box.items("ports")]  # noqa: S104
    return f"it publishes {', '.join(ports)}" if ports else ""


def _one_address(box: Container) -> str:
    everywhere = ("", "0.0.0.0", "::")  # noqa: S104
    open_ports = [str(port.get("external")) for port in box.items("ports") if str(port.get("ip") or "") in everywhere]
    return f"{', '.join(open_ports)} on every address of the host" if open_ports else ""


def _own_networks(box: Container) -> str:
    """On networks of the stack, or on none: Docker's own bridge joins all that is on it."""
    if box.text("networkMode") == "none" or box.items("networksAdvanced"):
        return ""
    return "it is on Docker's default network"


def _pinned(box: Container) -> str:
    image = box.text("image")
    if image == UNKNOWN or image.startswith("sha256:") or "@sha256:" in image:
        return ""
    tag = image.rpartition("/")[2].partition(":")[2]
    return f"its image is {image}, which may be another one tomorrow" if tag in ("", "latest") else ""


def _bounded_tmpfs(box: Container) -> str:
    tmpfs = box.table("tmpfs")
    loose = [path for path, options in tmpfs.items() if "size=" not in str(options)]
    executable = [path for path, options in tmpfs.items() if "exec" in str(options).split(",")]
    if executable:
        return f"programs may be run from {', '.join(executable)}"
    return f"{', '.join(loose)} may take half of the machine's memory" if loose else ""


RULES: Mapping[str, tuple[str, Rule]] = {
    "read-only-root": ("The root file system is read-only", _read_only_root),
    "drop-all": ("Every capability is dropped", _drops_all),
    "add-none": ("None is given back", _adds_none),
    "no-new-privileges": ("No program gains privileges, and the engine's confinement stays", _no_new_privileges),
    "non-root": ("It does not run as root", _no_root),
    "pids": ("The number of its processes is limited", _processes),
    "memory": ("Its memory is limited, and it does not swap", _memory),
    "cpu": ("A service's processor time is limited and weighed", _processor),
    "health": ("A service is asked whether it works", _health),
    "log": ("Its log is cut before it fills the disk", _log),
    "unprivileged": ("It is not privileged", _not_privileged),
    "namespaces": ("It shares no namespace", _own_namespaces),
    "volumes": ("It mounts volumes, and nothing of the host: no docker.sock either", _volumes_alone),
    "devices": ("It has no device of the host", _no_devices),
    "gpu": ("It has no graphics card", _no_graphics_card),
    "unpublished": ("It publishes no port", _publishes_nothing),
    "address": ("A published port is on one address of the host", _one_address),
    "networks": ("It is on networks of its stack, or on none", _own_networks),
    "pinned": ("Its image has a tag that stands for one release", _pinned),
    "tmpfs": ("What it keeps in memory is limited, and holds no programs", _bounded_tmpfs),
}

WAY_OUT = "way-out"  # checked while planning: a container in the data zone is not in the egress zone as well
PLAIN_SECRET = "plain-secret"  # noqa: S105 - checked while planning: no secret is a plain variable
PLANNED = {
    WAY_OUT: "What holds data has no way to the internet",
    PLAIN_SECRET: "No secret is in `docker inspect`",
}


# -------------------------------------------------------------------------------------------------- exceptions


@dataclass(frozen=True, kw_only=True)
class Exemption:
    """Why one container of a service may break a rule. container: its name without the stack's prefix.

    sources: only with images from there. A container with replicas is meant with all of them.
    """

    rule: str
    service: str
    container: str
    reason: str
    sources: frozenset[ImageSource] = frozenset(ImageSource)


@dataclass(frozen=True, kw_only=True)
class General:
    """Why all containers of a kind may break a rule; `who` says which these are."""

    rule: str
    who: str
    reason: str
    applies: Callable[[Container], bool]


GENERAL: tuple[General, ...] = (
    General(
        rule="read-only-root",
        who="jobs that get files",
        reason=(
            "their files, secrets among them, are copied in before they start, which the engine refuses with a "
            "read-only root; they run once, listen to nothing, and what they write is never used again"
        ),
        applies=lambda box: box.kind in ("job", "files") and bool(box.items("uploads")),
    ),
    General(
        rule="pids",
        who="jobs",
        reason=(
            "the provider has no argument for it, and a job may be over before anybody else could set it; the limit "
            "of its memory, to which the kernel's part of each process is charged, ends a fork bomb, and its timeout"
        ),
        applies=lambda box: not box.lasting,
    ),
    General(
        rule="non-root",
        who="deliveries of files",
        reason=(
            "only root gives a file to another user. They have no network, run our own script and nothing of the "
            "service's, and see its volumes alone"
        ),
        applies=lambda box: box.kind == "files" and box.text("networkMode") == "none",
    ),
    General(
        rule="add-none",
        who="deliveries of files",
        reason="CHOWN, DAC_OVERRIDE, FOWNER are what giving files away, past the modes of their directories, takes",
        applies=lambda box: (
            box.kind == "files"
            and box.text("networkMode") == "none"
            and set(box.added) <= {"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"}
        ),
    ),
    General(
        rule="namespaces",
        who="jobs that have a service read its files again",
        reason=(
            "a signal reaches a process only from where it is seen. They run the service's own image as its user, "
            "without a network"
        ),
        applies=lambda box: (
            box.kind == "reload"
            and box.text("pidMode").startswith(("container:", UNKNOWN))
            and box.text("networkMode") == "none"
            and not box.text("ipcMode")
            and not box.text("usernsMode")
        ),
    ),
)


def exemptions(services: Iterable[ServiceSpec]) -> tuple[Exemption, ...]:
    """Every exception that the services, with each option of their choices, say a reason for; each once."""
    found: dict[Exemption, None] = {}
    for spec in services:
        options = [option for choice in spec.choices for option in choice.options.values()]
        for variant in (spec, *(option(spec) for option in options)):
            found |= dict.fromkeys(_of_service(variant))
    return tuple(found)


def _of_service(spec: ServiceSpec) -> Iterator[Exemption]:
    for container in spec.containers:
        for item in _of_container(spec, container):
            yield replace(item, service=spec.name, container=host_name(spec.name, container.name))
    for secret in spec.secrets:
        if isinstance(secret.delivery, AsEnv):
            own = host_name(spec.name, secret.to)
            yield Exemption(rule=PLAIN_SECRET, service=spec.name, container=own, reason=secret.delivery.reason)


def _of_container(spec: ServiceSpec, container: ContainerSpec) -> Iterator[Exemption]:
    blank = Exemption(rule="", service="", container="", reason="")
    if container.writable:
        yield replace(
            blank, rule="read-only-root", reason=container.writable.reason, sources=container.writable.sources
        )
    for capability in container.capabilities:
        yield replace(blank, rule="add-none", reason=f"{capability.name}: {capability.reason}")
    if container.way_out:
        yield replace(blank, rule=WAY_OUT, reason=container.way_out)
    if container.publish and Role.INGRESS in spec.roles:
        yield replace(
            blank,
            rule="unpublished",
            reason="it is the ingress: the one way in, at one address that the stack's file names (ai-kit:bindAddress)",
        )
        # Planning refuses every address but one that was written down; asking for all of them is the operator's choice.
        yield replace(
            blank,
            rule="address",
            reason="only where ai-kit:bindAddress asks for every address of the host; it is 127.0.0.1 otherwise",
        )
    if any(limits.gpu for limits in container.limits.values()):
        yield replace(blank, rule="gpu", reason="models run on the graphics card, on a target that has one")


# --------------------------------------------------------------------------------------------------- judgement


@dataclass(frozen=True, kw_only=True)
class Breach:
    """A rule that a container or network breaks, without a reason to."""

    rule: str
    where: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Used:
    """An exception that was needed: by a container, and by which words."""

    rule: str
    who: str
    reason: str


def judge(box: Container, known: Iterable[Exemption]) -> tuple[tuple[Breach, ...], tuple[Used, ...]]:
    """The rules that a container breaks without a reason, and the exceptions that it needed."""
    breaches: list[Breach] = []
    used: list[Used] = []
    exemptions = tuple(known)
    for rule, (_, broken) in RULES.items():
        what = broken(box)
        if not what:
            continue
        reason = _excused(box, rule, exemptions)
        if reason:
            used.append(reason)
        else:
            breaches.append(Breach(rule=rule, where=box.name, what=what))
    return tuple(breaches), tuple(used)


def _excused(box: Container, rule: str, known: Iterable[Exemption]) -> Used | None:
    for general in GENERAL:
        if general.rule == rule and general.applies(box):
            return Used(rule=rule, who=general.who, reason=general.reason)
    for item in known:
        same = box.own_name == item.container or _replica(box.own_name, item.container)
        if item.rule == rule and item.service == box.service and same and box.kind == "service":
            if rule == "add-none" and not _all_named(box.added, known, item):
                continue
            return Used(rule=rule, who=item.container, reason=item.reason)
    return None


def _replica(name: str, container: str) -> bool:
    return name.startswith(f"{container}-") and name.removeprefix(f"{container}-").isdigit()


def _all_named(given: Iterable[str], known: Iterable[Exemption], item: Exemption) -> bool:
    """Whether each capability that was given has a reason of its own."""
    named = {
        each.reason.partition(":")[0]
        for each in known
        if each.rule == "add-none" and (each.service, each.container) == (item.service, item.container)
    }
    return set(given) <= named


def network(inputs: Inputs) -> tuple[Breach, ...]:
    """The rules that a network breaks: as internal and as divided as its zone says, and a bridge."""
    name = str(inputs.get("name") or "")
    zone = next((zone for zone in Zone if name.endswith(f"-{zone}")), None)
    if zone is None:
        return (Breach(rule="zone", where=name, what="it is the network of no zone"),)
    found: list[Breach] = []
    if ZONES[zone].internal and inputs.get("internal") is not True:
        found.append(Breach(rule="internal", where=name, what="it has a way out, which its zone has not"))
    options = _table(inputs.get("options"))
    if ZONES[zone].isolated and options.get("com.docker.network.bridge.enable_icc") != "false":
        found.append(Breach(rule="isolated", where=name, what="its members reach each other"))
    if str(inputs.get("driver") or "bridge") != "bridge":
        found.append(Breach(rule="bridge", where=name, what=f"its driver is {inputs.get('driver')}"))
    return tuple(found)
