"""Image locks against a real registry and the real engine: tags that move, digests that go, and what runs meanwhile.

The registry is Debian's, on the loopback; the image in it is the locally built `tools`, pushed under a name of its own
and put under one index with a twin for arm64. Emulation is tried on the engine that would refuse the same limits.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from airgap.registry import Registry
from ops import imagelock
from ops import images as audit
from ops.doctor import EngineFacts, Facts, Level, examine
from ops.engine import DockerApi
from ops.registry import Client, MissingError
from stack import images as pins
from stack import lock, plan
from stack.lock import Locks
from stack.model import Arch, ImagePin, SpecError
from tests import factories as make
from tests.live.kitclone import Clone, engine_of, free_ports
from tests.live.pulumi_project import Project

pytestmark = pytest.mark.live

INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
TODAY = date(2026, 11, 21)


@dataclass
class Shelf:
    """A repository in the running registry."""

    registry: Registry
    name: str = "kit/tools"

    @property
    def repository(self) -> str:
        return f"{self.registry.host}/{self.name}"

    @property
    def pin(self) -> ImagePin:
        return replace(make.IMAGE, name="shelf-tools", repository=self.repository, tag="1.0", arches=frozenset(Arch))

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[bytes, Any]:
        url = path if path.startswith("http") else f"http://{self.registry.host}/v2/{self.name}/{path}"
        request = urllib.request.Request(url, method=method, data=body, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
            return response.read(), response.headers

    def document(self, kind: str, reference: str, accept: str = MANIFEST) -> dict[str, Any]:
        return json.loads(self.ask("GET", f"{kind}/{reference}", Accept=accept)[0])

    def put_blob(self, content: bytes) -> str:
        digest = digest_of(content)
        _, headers = self.ask("POST", "blobs/uploads/", b"")
        place = headers["Location"]
        self.ask("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", content, **{
            "Content-Type": "application/octet-stream"
        })  # fmt: skip
        return digest

    def put_manifest(self, document: dict[str, Any], reference: str = "") -> tuple[str, int]:
        body = json.dumps(document).encode()
        self.ask("PUT", f"manifests/{reference or digest_of(body)}", body, **{"Content-Type": document["mediaType"]})
        return digest_of(body), len(body)

    def twin(self, reference: str, **changes: str) -> tuple[str, int]:
        """The same layers with another configuration."""
        manifest = self.document("manifests", reference)
        config = {**self.document("blobs", manifest["config"]["digest"]), **changes}
        content = json.dumps(config).encode()
        manifest["config"] |= {"digest": self.put_blob(content), "size": len(content)}
        return self.put_manifest(manifest)

    def put_index(self, tag: str, **arches: tuple[str, int]) -> str:
        manifests = [
            {"mediaType": MANIFEST, "digest": digest, "size": size, "platform": {"os": "linux", "architecture": arch}}
            for arch, (digest, size) in arches.items()
        ]
        return self.put_manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}, tag)[0]

    def move(self, tag: str) -> str:
        """Put an image with the same layers and another configuration under a tag; its digest."""
        digest, _ = self.twin(tag, created="2026-11-02T00:00:00Z")
        self.ask("PUT", f"manifests/{tag}", self.ask("GET", f"manifests/{digest}", Accept=MANIFEST)[0],
                 **{"Content-Type": MANIFEST})  # fmt: skip
        return digest

    def remove(self, digest: str) -> None:
        self.ask("DELETE", f"manifests/{digest}")


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def shelf(images: Callable[[str], str], tmp_path: Path) -> Iterator[Shelf]:
    """A repository with tag 1.0: the image for this machine and its twin for the other architecture."""
    with Registry(tmp_path / "registry") as registry:
        made = Shelf(registry)
        registry.push(images("tools"), made.name, "pushed")
        try:
            first, second = arches()
            one = made.twin("pushed", created="2026-11-01T00:00:00Z", architecture=first)
            other = made.twin("pushed", architecture=second)
            made.put_index("1.0", **{first: one, second: other})
            yield made
        finally:
            forget(made)


def arches() -> tuple[str, str]:
    """This engine's architecture, then the other."""
    here = str(DockerApi().info().arch)
    return here, next(arch.value for arch in Arch if arch != here)


def forget(shelf: Shelf) -> None:
    """Nothing of the repository stays in the engine."""
    for image in DockerApi().get("/images/json"):
        for name in [*(image.get("RepoTags") or []), *(image.get("RepoDigests") or [])]:
            if name.startswith((f"{shelf.repository}:", f"{shelf.repository}@")):
                docker("image", "rm", name, check=False)


def docker(*argv: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"docker {' '.join(argv[:2])} failed: {done.stderr[-500:]}")
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr


def planned(shelf: Shelf, locks: dict[str, Any], **host: Any) -> plan.Plan:
    """A plan whose one service runs the image of the shelf."""
    spec = make.service("app", profiles=make.app().profiles)
    spec = make.with_container(spec, image=replace(shelf.pin, programs=make.IMAGE.programs))
    return plan.build(make.settings(image_locks=locks), make.host(**host), (spec,))


def facts(resolved: plan.Plan) -> Facts:
    """What doctor is told: a fit engine, and what the registry says about the locks."""
    engine = EngineFacts(version="1", api=(1, 52), memory_limit=True, memory_mb=65536, cpus=64, arch=arches()[0],
                         runtimes=frozenset(), system="", root="/", skew_s=0)  # fmt: skip
    wanted = [(service.containers[0].spec.image, service.containers[0].image.partition("@")[2])
              for service in resolved.services]  # fmt: skip
    gone = imagelock.gone(wanted, DockerApi().get("/images/json"))
    return Facts(engine=engine, locks_gone=gone, toolchain={"pulumi": "3"})


def test_what_is_locked_runs_whatever_becomes_of_its_tag(shelf: Shelf) -> None:
    """Locked on first use, run by the digest of the index with the tag moved below it, refused when the digest goes."""
    pin, client = shelf.pin, Client()
    index = client.find(pin.repository, "1.0").digest
    held = DockerApi().get("/images/json")
    first = imagelock.first_use([pin], held, arches()[0], today=TODAY)
    assert first.unlocked == {}
    assert first.locks[pin.tagged].digest == index
    assert first.locks[pin.tagged].arches == frozenset(Arch)

    resolved = planned(shelf, dict(first.locks))
    reference = resolved.services[0].containers[0].image
    assert reference == f"{pin.tagged}@{index}"
    assert docker("run", "--rm", reference, "echo", "by digest").strip() == "by digest"
    # A stack without a record, on an engine that holds the image: the same lock, without asking.
    docker("pull", "--quiet", pin.tagged)
    again = imagelock.first_use([pin], DockerApi().get("/images/json"), arches()[0], client=Client(timeout=0.001))
    assert again.locks[pin.tagged].digest == index

    moved = shelf.put_index("1.0", **{arches()[0]: shelf.twin("pushed", architecture=arches()[0])})
    answers = imagelock.ask([pin], created=True)
    assert answers.found[pin.tagged].digest == moved != index
    (row,) = (row for row in audit.rows(resolved, answers, {}, {}, {}, TODAY) if row.repository == pin.repository)
    assert row.moved == moved
    forget(shelf)
    assert imagelock.gone([(pin, index)], []) == ()  # the registry still has it
    assert docker("run", "--rm", reference, "echo", "as locked").strip() == "as locked"
    assert [check for check in examine(facts(resolved), resolved, "dev") if check.level is Level.FAIL] == []

    forget(shelf)
    shelf.remove(index)
    (failed,) = (check for check in examine(facts(resolved), resolved, "dev") if check.level is Level.FAIL)
    assert failed.name == f"image {pin.tagged}"
    assert f"no longer has {index[:19]}" in failed.what
    assert "./kit images lock" in failed.fix
    with pytest.raises(MissingError):
        client.find(pin.repository, index)


def test_locking_anew_takes_what_the_tag_is_now(shelf: Shelf, tmp_path: Path) -> None:
    pin = shelf.pin
    first = audit.relock([pin], Locks(), imagelock.ask([pin]), TODAY)
    (tmp_path / lock.FILE).write_text(lock.render(first.locks), encoding="utf-8")
    assert lock.read(tmp_path) == first.locks
    assert audit.relock([pin], first.locks, imagelock.ask([pin]), date(2027, 1, 1)).changed == ()
    moved = shelf.put_index("1.0", **{arches()[0]: shelf.twin("pushed", architecture=arches()[0])})
    second = audit.relock([pin], lock.read(tmp_path), imagelock.ask([pin]), TODAY)
    assert second.locks.registry[pin.tagged].digest == moved
    assert len(second.changed) == 1


def test_an_image_that_lost_an_architecture_is_refused_there(shelf: Shelf) -> None:
    """The Pi's side of a tag is gone: whoever locks it now cannot plan it for a Pi."""
    here, other = arches()
    shelf.put_index("1.0", **{here: shelf.twin("pushed", architecture=here)})
    locked = {shelf.pin.tagged: imagelock.lock_of(imagelock.ask([shelf.pin]).found[shelf.pin.tagged], TODAY)}
    assert planned(shelf, locked, arches=frozenset({Arch(here)}))
    with pytest.raises(SpecError, match=f"as locked is made for {here}, and not for {other}"):
        planned(shelf, locked, arches=frozenset({Arch(other)}))


def test_age_and_tags_come_from_the_registry(shelf: Shelf) -> None:
    found = Client().find(shelf.repository, "1.0", created=True)
    assert (found.created is None) == (arches()[0] != "amd64")  # that one has a date; the image itself has none
    shelf.put_index("1.1", **{arches()[0]: shelf.twin("pushed", architecture=arches()[0])})
    assert set(Client().tags(shelf.repository)) == {"1.0", "1.1", "pushed"}


def test_the_deployment_pulls_by_digest_and_stays_there(shelf: Shelf, project: Project) -> None:
    """Through the real provider: the tag moves, and the next `up` changes nothing."""
    index = Client().find(shelf.repository, "1.0").digest
    project.program = f"""
        from components.image import Image, ImageArgs
        image = Image("tools", ImageArgs(reference="{shelf.pin.tagged}@{index}", local=False))
        pulumi.export("id", image.reference)
    """
    first = project.up()
    assert first.ok, first
    held = DockerApi().get("/images/json")
    assert any(f"{shelf.repository}@{index}" in (image.get("RepoDigests") or []) for image in held)
    shelf.put_index("1.0", **{arches()[0]: shelf.twin("pushed", architecture=arches()[0])})
    second = project.up()
    assert second.quiet, second


# ------------------------------------------------------------------------------------------------------ emulation


def test_an_emulated_plan_starts_where_the_engine_refuses_its_limits(images: Callable[[str], str]) -> None:
    """One core more than there is, pinned to it: refused by the engine, refused by the plan, and tried when said."""
    cpus = DockerApi().info().ncpu
    wanted = make.limits(cpus=cpus + 1, cpuset=f"0-{cpus}")
    spec = make.service("app", profiles=make.app().profiles)
    spec = make.with_container(spec, limits=wanted)
    refused = docker("create", "--cpus", str(cpus + 1), images("tools"), "true", check=False)
    assert "CPU" in refused
    with pytest.raises(SpecError) as caught:
        plan.build(make.settings(), make.host(cpus=cpus), (spec,))
    assert len(caught.value.problems) == 2
    tried = plan.build(make.settings(emulate=True), make.host(cpus=cpus, emulated=True), (spec,))
    limits = tried.services[0].containers[0].limits
    name = f"kit-emulated-{os.getpid()}"
    argv = ["--cpus", str(limits.cpus), *(["--cpuset-cpus", limits.cpuset] if limits.cpuset else [])]
    try:
        assert docker("run", "--name", name, *argv, images("tools"), "echo", "tried").strip() == "tried"
        (detail,) = json.loads(docker("inspect", name))
        assert (detail["HostConfig"]["NanoCpus"], detail["HostConfig"]["CpusetCpus"]) == (cpus * 10**9, "")
    finally:
        docker("rm", "--force", name, check=False)


# --------------------------------------------------------------------------------------------- ./kit, end to end

STACK = "kitlock"


@pytest.fixture
def locked_clone(shelf: Shelf, images: Callable[[str], str], tmp_path: Path) -> Iterator[tuple[Clone, Shelf]]:
    """A clone whose pins of redis and of file delivery are in the running registry, with a stack of redis alone."""
    clone = Clone(directory=tmp_path / "clone", state_home=tmp_path / "state", log=tmp_path / "log")
    source = clone.directory / "stack" / "images.py"
    text = source.read_text(encoding="utf-8")
    redis = replace(shelf, name="kit/redis")
    for pin, name in ((pins.REDIS, "redis"), (pins.TOOLS, "tools")):
        shelf.registry.push(images(name), f"kit/{name}", pin.tag)
        text = text.replace(f'"{pin.repository}"', f'"{shelf.registry.host}/kit/{name}"')
    source.write_text(text, encoding="utf-8")
    http, https, admin = free_ports(3)
    clone.write_stack(STACK, httpPort=http, httpsPort=https, adminPort=admin, images="registry", profiles=[],
                      services=["redis"])  # fmt: skip
    try:
        yield clone, redis
    finally:
        if not engine_of(STACK).empty:
            clone.kit("down", STACK, "--data", "--yes-delete", STACK)
        forget(redis)


def image_of(service: str) -> str:
    """The id of the image that a container runs."""
    return json.loads(docker("inspect", f"kit-{STACK}-{service}"))[0]["Image"]


def test_kit_locks_on_first_use_and_refuses_what_is_gone(locked_clone: tuple[Clone, Shelf]) -> None:
    """The story of ADR 12: recorded in the state, kept when the tag moves, committed when somebody decides, refused."""
    clone, redis = locked_clone
    tagged = f"{redis.repository}:{pins.REDIS.tag}"
    first = clone.kit("up", STACK)
    assert first.code == 0, first.text
    assert "not locked" not in first.text
    assert clone.dirt() == ""
    record = clone.state_home / "ai-kit" / "stacks" / STACK / lock.FILE
    locked = lock.parse(record.read_text(encoding="utf-8")).registry
    digest = Client().find(redis.repository, pins.REDIS.tag).digest
    assert locked[tagged].digest == digest
    assert "2 of 2 locked" in clone.kit("plan", STACK).text
    began = image_of("redis")

    moved = redis.move(pins.REDIS.tag)
    second = clone.kit("up", STACK)
    assert second.code == 0 and "nothing to change" in second.text, second.text
    assert image_of("redis") == began
    rows = {row["name"]: row for row in json.loads(clone.kit("images", STACK, "--json").text)["images"]}
    assert (rows["redis"]["digest"], rows["redis"]["locked_by"], rows["redis"]["moved"]) == (digest, "first up", moved)
    assert rows["redis"]["newest"] == pins.REDIS.tag

    written = clone.kit("images", "lock", STACK)  # other images' registries may be out of reach: 1, and said
    assert "could not be locked" in written.text or written.code == 0
    assert lock.read(clone.directory).registry[tagged].digest == moved
    assert clone.dirt().split() == ["??", lock.FILE]
    third = clone.kit("up", STACK)
    assert third.code == 0, third.text
    assert image_of("redis") != began

    now, text = image_of("redis"), (clone.directory / lock.FILE).read_text(encoding="utf-8")
    (clone.directory / lock.FILE).write_text(text.replace(moved, "sha256:" + "0" * 64), encoding="utf-8")
    refused = clone.kit("up", STACK)
    assert refused.code == 2, refused.text
    assert f"image {tagged}: {redis.registry.host} no longer has sha256:000000000000" in refused.text
    assert "./kit images lock" in refused.text and "Nothing was changed." in refused.text
    (clone.directory / lock.FILE).write_text("{", encoding="utf-8")
    broken = clone.kit("up", STACK)
    assert broken.code == 2 and f"{lock.FILE}: is no JSON" in broken.text, broken.text
    assert image_of("redis") == now
