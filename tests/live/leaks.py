"""Looks for known secrets where none may be: in whatever of a stack anybody but its containers could read.

Each place is a function here that gives its texts; `search` looks through them. What may hold secrets is left out by
name, and only there: files delivered to a container, its declared variables, the passphrase's own file.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, quote_plus

from stack.derive import encode
from stack.derive.runtime import Runtime
from stack.model import Encoding
from tests.live.pulumi_project import docker, inspect

SHORTEST = 8  # shorter ones turn up by chance


@dataclass(frozen=True)
class Leak:
    """A secret (by its name, never its value) and where it was found."""

    secret: str
    where: str
    form: str

    def __str__(self) -> str:
        return f"{self.secret} ({self.form}) in {self.where}"


def forms(value: str) -> Mapping[str, str]:
    """Every way in which the value may be written down."""
    data = value.encode("utf-8")
    found = {
        "plain": value,
        "base64": base64.b64encode(data).decode().rstrip("="),
        "base64url": base64.urlsafe_b64encode(data).decode().rstrip("="),
        "url": quote(value, safe=""),
        "form": quote_plus(value),
        "json": json.dumps(value)[1:-1],
        "json unicode": json.dumps(value, ensure_ascii=False)[1:-1],
        "hex": data.hex(),
        "shell quotes": value.replace("'", "'\\''"),
        "shell quotes, Python's": value.replace("'", "'\"'\"'"),
        "YAML quotes": value.replace("'", "''"),
        "repr": repr(value)[1:-1],
        "html": html.escape(value),
        "json of Go": _go_json(value),
        "json of Go twice": _go_json(_go_json(value)),
    }
    # In the middle of a larger text base64 looks different: leave out what depends on the neighbours.
    for shift in (1, 2):
        inner = base64.b64encode(b"\0" * shift + data).decode().rstrip("=")
        found[f"base64 +{shift}"] = inner[4 : -4 if len(inner) > 16 else None]
    return {form: text for form, text in found.items() if len(text) >= SHORTEST}


def _go_json(value: str) -> str:
    """As Go's encoder writes it, which Pulumi and the engine use: no HTML in it."""
    written = json.dumps(value, ensure_ascii=False)[1:-1]
    for character in "<>&\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written


def leaks_in(text: str, where: str, secrets: Mapping[str, str]) -> list[Leak]:
    """The secrets that occur in the text, in whatever form. The text may itself be JSON."""
    found: list[Leak] = []
    for name, value in secrets.items():
        for form, written in forms(value).items():
            escaped = json.dumps(written)[1:-1]
            if written in text or escaped in text:
                found.append(Leak(secret=name, where=where, form=form))
                break
    return found


def find_leaks(
    secrets: Mapping[str, str], *, state: Mapping[str, Any] | None, containers: Sequence[str], logs: bool = True
) -> list[Leak]:
    """Leaks in an exported state (without --show-secrets) and in everything docker tells about the containers.

    secrets: name -> value. Multi-line values (keys, certificates) are looked for line by line too.
    """
    known = dict(_lines(secrets))
    found: list[Leak] = []
    if state is not None:
        for resource in state["deployment"].get("resources", []):
            found += leaks_in(json.dumps(resource, ensure_ascii=False), f"state of {resource['urn']}", known)
        rest = {key: value for key, value in state["deployment"].items() if key != "resources"}
        found += leaks_in(json.dumps(rest, ensure_ascii=False), "state", known)
    for described in inspect(containers):
        name = described["Name"].lstrip("/")
        for part, content in described.items():
            places = content.items() if part == "Config" and isinstance(content, dict) else [(part, content)]
            for place, value in places:
                found += leaks_in(json.dumps(value, ensure_ascii=False), f"{place} of {name}", known)
        if logs:
            found += leaks_in(log_of(name), f"log of {name}", known)
    return found


def log_of(container: str) -> str:
    """Both streams: what goes wrong is written to the second."""
    command = ["docker", "logs", container]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode("utf-8", errors="replace")


def _lines(secrets: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for name, value in secrets.items():
        yield name, value
        lines = [line for line in value.splitlines() if len(line) >= 24 and not line.startswith("-----")]
        if len(lines) > 1:
            yield from ((f"{name} line {number}", line) for number, line in enumerate(lines, 1))


# ------------------------------------------------------------------------------------------------- every secret

# What programs are given in place of a secret, made of it by SHA-256: as good as the secret itself.
DERIVED = (Encoding.HEX_32, Encoding.BASE64_32, Encoding.UUID)
PRIVATE = ("privateKeyPem", "privateKeyOpenssh", "privateKeyPemPkcs8")


def secrets_of(decrypted: Mapping[str, Any], config: Mapping[str, str], passphrase: str) -> dict[str, str]:
    """Every secret of a stack by name: `decrypted` is its export with --show-secrets, config its secret keys."""
    found = {f"config {key}": value for key, value in config.items()} | {"the passphrase": passphrase}
    for resource in decrypted["deployment"].get("resources", []):
        name, outputs = resource["urn"].rpartition("::")[2], resource.get("outputs") or {}
        if resource["type"] == "random:index/randomPassword:RandomPassword":
            found[name] = str(_plain(outputs["result"]))
            found[f"{name}'s hash"] = str(_plain(outputs["bcryptHash"]))
        elif resource["type"] == "tls:index/privateKey:PrivateKey":
            texts = {part: str(_plain(outputs[part])) for part in PRIVATE if _plain(outputs.get(part))}
            secret = _private_bytes(texts["privateKeyPem"])
            found |= {f"{name} {part}": _private_lines(text, secret) for part, text in texts.items()}
        elif resource["type"] == "pulumi:pulumi:Stack":
            for output, value in outputs.items():
                if _is_secret(value):
                    found |= {f"output {output}{path}": text for path, text in _texts(_plain(value))}
    for name, value in list(found.items()):
        if "privateKey" not in name and not name.endswith("hash"):
            found |= {f"{name} as {each.value}": encode.encode(value, each) for each in DERIVED}
    return {name: value for name, value in found.items() if len(value) >= SHORTEST}


def _body(pem: str) -> list[str]:
    return [line for line in pem.splitlines() if line and not line.startswith("-----")]


def _private_bytes(pem: str) -> bytes:
    """The number that makes a key of an elliptic curve private. ValueError for other keys."""
    der = base64.b64decode("".join(_body(pem)))
    if der[2:6] != b"\x02\x01\x01\x04":
        raise ValueError("this is no key in the form of RFC 5915")
    return der[7 : 7 + der[6]]


def _private_lines(pem: str, secret: bytes) -> str:
    """The lines of a PEM that hold a part of the number: the others are the public half, which stands in public."""
    lines = _body(pem)
    width = len(lines[0]) * 3 / 4
    secret = secret.lstrip(b"\0")  # which OpenSSH leaves out
    start = base64.b64decode("".join(lines)).index(secret)
    first, last = int(start // width), int((start + len(secret) - 1) // width)
    return "\n".join(lines[first : last + 1])


SIGNATURE = "4dabf18193072939515e22adb298388d"


def _is_secret(value: object) -> bool:
    return isinstance(value, dict) and SIGNATURE in value


def _plain(value: Any) -> Any:
    return json.loads(value["plaintext"]) if _is_secret(value) else value


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in cast(dict[str, Any], value).items():
            yield from _texts(_plain(inner), f"{path} {key}")
    elif isinstance(value, list):
        for number, inner in enumerate(cast(list[Any], value)):
            yield from _texts(_plain(inner), f"{path} {number}")


# ------------------------------------------------------------------------------------------------------- places


@dataclass(frozen=True)
class Place:
    """Somewhere that was read, and what stood there."""

    where: str
    content: bytes


class Needles:
    """Known secrets in every form they may take, ready to be looked for."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        known: dict[bytes, tuple[str, str]] = {}
        for name, value in _lines(secrets):
            for form, written in forms(value).items():
                known.setdefault(written.encode("utf-8"), (name, form))
                known.setdefault(json.dumps(written)[1:-1].encode("utf-8"), (name, f"{form} in json"))
        self._known = known

    def search(self, places: Iterable[Place]) -> list[Leak]:
        """The secrets that stand in the places."""
        found: dict[tuple[str, str], Leak] = {}
        for place in places:
            content = place.content
            if content[:2] == b"\x1f\x8b":
                with suppress(OSError, EOFError):
                    content = gzip.decompress(content)
            for needle, (name, form) in self._known.items():
                if needle in content:
                    found.setdefault((name, place.where), Leak(secret=name, where=place.where, form=form))
        return list(found.values())


def git_history(clone: Path) -> Iterator[Place]:
    """Every object that the clone's git has: all of the history, and what no branch has any more."""
    command = ["git", "cat-file", "--batch", "--batch-all-objects", "--unordered"]
    done = subprocess.run(command, cwd=clone, check=True, capture_output=True)
    yield Place("git's objects", done.stdout)
    for name in ("config", "packed-refs"):
        if (clone / ".git" / name).is_file():
            yield Place(f".git/{name}", (clone / ".git" / name).read_bytes())


def files_below(top: Path, called: str, *, but: Sequence[Path] = ()) -> Iterator[Place]:
    """Every file below a directory, except below those named. Links are not followed."""
    for directory, folders, names in os.walk(top):
        here = Path(directory)
        folders[:] = [each for each in folders if here / each not in but]
        for name in names:
            path = here / name
            if path not in but and path.is_file() and not path.is_symlink():
                yield Place(f"{called}/{path.relative_to(top)}", path.read_bytes())


def containers_of(stack: str) -> list[str]:
    """The names of every container of a stack, ended ones too."""
    return docker("ps", "-a", "--filter", f"label=aikit.stack={stack}", "--format", "{{.Names}}").split()


def described(stack: str) -> Iterator[Place]:
    """What docker tells of everything with the stack's label, and of the images that its containers run."""
    containers = containers_of(stack)
    images: set[str] = set()
    for each in inspect(containers):
        images.add(each["Image"])
        for part, content in each.items():
            inner = content.items() if isinstance(content, dict) else [("", content)]
            for key, value in cast(Iterable[tuple[str, Any]], inner):
                where = f"{part}.{key}".rstrip(".") + f" of {each['Name'].lstrip('/')}"
                yield Place(where, json.dumps(value, ensure_ascii=False).encode())
    for kind in ("volume", "network"):
        for name in docker(kind, "ls", "-q", "--filter", f"label=aikit.stack={stack}").split():
            yield Place(f"{kind} {name}", docker(kind, "inspect", name).encode())
    for image in sorted(images):
        yield Place(f"image {image}", docker("image", "inspect", image).encode())
        yield Place(f"history of image {image}", docker("history", "--no-trunc", image).encode())


def logs(stack: str) -> Iterator[Place]:
    """What every container of the stack wrote, ended ones too."""
    for name in containers_of(stack):
        yield Place(f"log of {name}", log_of(name).encode())


def events(stack: str, since: float) -> Place:
    """What the engine tells those who listen, with every container's labels in it."""
    label = f"label=aikit.stack={stack}"
    told = docker("events", "--since", f"{since:.0f}", "--until", f"{time.time():.0f}", "--filter", label)
    return Place("the engine's events", told.encode())


def processes(stack: str, declared: Mapping[str, set[str]]) -> Iterator[Place]:
    """Arguments and variables of every process in the stack's containers, as the host sees them.

    declared: by container, the variables that its service's file says are secret. Needs root.
    """
    for name in docker("ps", "--filter", f"label=aikit.stack={stack}", "--format", "{{.Names}}").split():
        for pid in docker("top", name, "-eo", "pid").split()[1:]:
            yield from _process(name, Path("/proc") / pid, declared.get(name, set()))


def _process(container: str, process: Path, declared: set[str]) -> Iterator[Place]:
    with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        yield Place(f"arguments of {container}", (process / "cmdline").read_bytes().replace(b"\0", b" "))
        for entry in (process / "environ").read_bytes().split(b"\0"):
            variable = entry.partition(b"=")[0].decode(errors="replace")
            if variable not in declared:
                yield Place(f"variable {variable} of {container}", entry)


def declared_variables(runtime: Runtime) -> dict[str, set[str]]:
    """By container: the variables that AsExport, or a secret in `env`, costs. Nothing else may be there."""
    return {
        step.name: {file.name.removeprefix("env/") for file in step.files if file.name.startswith("env/")}
        for step in runtime.containers
    }


def layers(stack: str) -> Iterator[Place]:
    """What the stack's containers changed in their own file systems. Of jobs all but the files they were given.

    Volumes are not there, nor what is in memory (tmpfs). Needs root, and an engine on this host with overlay2.
    """
    for each in inspect(containers_of(stack)):
        job = each["Config"]["Labels"].get("aikit.kind") == "job"
        if upper := (each["GraphDriver"].get("Data") or {}).get("UpperDir"):
            given = [Path(upper) / "run/kit"] if job else []
            yield from files_below(Path(upper), f"layer of {each['Name'].lstrip('/')}", but=given)


def journal(since: float) -> Iterator[Place]:
    """What the host's journal took up since then; without one, what the engine wrote to its log file."""
    if shutil.which("journalctl") and Path("/run/systemd/system").is_dir():
        command = ["journalctl", "--no-pager", "--output=cat", f"--since=@{since:.0f}"]
        yield Place("the journal", subprocess.run(command, check=True, capture_output=True).stdout)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "comm").read_text().strip() != "dockerd":
                continue
            for output in {os.path.realpath(process / "fd" / number) for number in ("1", "2")}:
                if Path(output).is_file():
                    yield Place(f"the engine's log {output}", Path(output).read_bytes())
    for name in ("/var/log/syslog", "/var/log/messages", "/var/log/docker.log"):
        if Path(name).is_file():
            yield Place(name, Path(name).read_bytes())


IN_CONTAINER = re.compile(rb"docker[/-]([0-9a-f]{64})")


@dataclass
class Passing:
    """What every process of the host has while this is open, those of a moment too, mostly: its command line, and in
    a container its variables.
    """

    every_s: float = 0.03
    looks: int = 60
    lines: set[bytes] = field(default_factory=set[bytes])
    entries: set[tuple[str, bytes]] = field(default_factory=set[tuple[str, bytes]])  # container's ID, NAME=VALUE

    def __enter__(self) -> Passing:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        known: dict[str, tuple[int, bytes]] = {}  # how often it was looked at: another program comes early or never
        while not self._stop.wait(self.every_s):
            there = [name for name in os.listdir("/proc") if name.isdigit()]
            for name in there:
                times, before = known.get(name, (0, b""))
                if times == self.looks:
                    continue
                with suppress(OSError):
                    line = Path(f"/proc/{name}/cmdline").read_bytes()
                    known[name] = (times + 1, line)
                    if times and line == before:
                        continue
                    self.lines.add(line)
                    if container := IN_CONTAINER.search(Path(f"/proc/{name}/cgroup").read_bytes()):
                        variables = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
                        self.entries |= {(container[1].decode(), entry) for entry in variables if entry}
            for gone in known.keys() - set(there):
                del known[gone]

    @property
    def command_lines(self) -> Place:
        return Place("a command line", b"\n".join(line.replace(b"\0", b" ") for line in self.lines))

    def variables(self, stack: str, declared: Mapping[str, set[str]]) -> Iterator[Place]:
        """As `processes` gives them. Containers that are gone, and those of other stacks, may have none of ours."""
        names = {each["Id"]: each["Name"].lstrip("/") for each in inspect(containers_of(stack))}
        for container, entry in sorted(self.entries):
            name = names.get(container, container[:12])
            variable = entry.partition(b"=")[0].decode(errors="replace")
            if variable not in declared.get(name, set()):
                yield Place(f"variable {variable} of {name}", entry)


def texts(**named: str) -> Iterator[Place]:
    """Texts at hand, such as what a command printed."""
    for name, text in named.items():
        yield Place(name.replace("_", " "), text.encode("utf-8"))
