"""images.lock.json: what is read is what was written, and everything wrong in it is named at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack import lock, settings
from stack.lock import Locks
from stack.model import Arch, ImageLock, ImageSource, SpecError
from stack.plan import build, image_reference
from stack.settings import from_files, load
from tests import factories as make

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
TAGGED = "registry.example/thing:1.2.3"
LOCK = ImageLock(digest=DIGEST, arches=frozenset(Arch), locked="2026-11-21")

digests = st.text("0123456789abcdef", min_size=64, max_size=64).map(lambda text: f"sha256:{text}")
tags = st.from_regex(r"\A[a-z0-9]{1,9}\.[a-z]{2,3}(:[0-9]{2,5})?/[a-z0-9-]{1,9}:v?[0-9]{1,3}(\.[0-9]{1,3}){0,2}\Z")
locks = st.builds(
    ImageLock,
    digest=digests,
    arches=st.frozensets(st.sampled_from(list(Arch)), min_size=1),
    locked=st.dates().map(lambda day: day.isoformat()),
)
hashes = st.frozensets(st.text("0123456789abcdef", min_size=12, max_size=12), min_size=1, max_size=2)


@given(st.dictionaries(tags, locks, max_size=4), st.dictionaries(st.sampled_from(["redis", "n8n-1"]), hashes))
def test_what_is_read_is_what_was_written(registry: dict[str, ImageLock], built: dict[str, frozenset[str]]) -> None:
    written = Locks(registry=registry, built=built)
    assert lock.parse(lock.render(written)) == written
    assert lock.render(lock.parse(lock.render(written))) == lock.render(written)


@given(tags, locks)
def test_the_configuration_says_the_same(tagged: str, item: ImageLock) -> None:
    name, found = lock.parse_registry(lock.format_registry(tagged, item))
    assert (name, found.digest, found.arches) == (tagged, item.digest, item.arches)


def document(**registry: object) -> str:
    entry = {"digest": DIGEST, "arches": ["amd64"], "locked": "2026-11-21", **registry}
    return json.dumps({"registry": {TAGGED: entry}})


BAD = {
    "no JSON": ("{", "is no JSON"),
    "no object": ("[]", "is no object"),
    "no object inside": ('{"registry": []}', "is no object"),
    "an unknown part": ('{"regsitry": {}}', "is unknown"),
    "no digest": (document(digest="sha256:abc"), "has no digest"),
    "a digest of another kind": (document(digest="md5:" + "ab" * 32), "has no digest"),
    "no architecture": (document(arches=[]), "names no architectures"),
    "an unknown architecture": (document(arches=["amd64", "s390x"]), "names no architectures"),
    "architectures that are none": (document(arches=7), "no list"),
    "no day": (document(locked="yesterday"), '"locked" is no day'),
    "a day that is no text": (document(locked=5), '"locked" is no day'),
    "latest": (document().replace("thing:1.2.3", "thing:latest"), "no repository:tag"),
    "a hostile name": (json.dumps({"registry": {"a b;$(x)": {}}}), "no repository:tag"),
    "no hash": (json.dumps({"built": {"redis": ["zz"]}}), "is not name=hash"),
    "hashes that are none": (json.dumps({"built": {"redis": 5}}), "no list"),
}


@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD.keys())
def test_each_fault_is_found_and_has_a_fix(text: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        lock.parse(text)
    (problem,) = caught.value.problems
    assert says in problem.what
    assert "./kit images lock" in problem.fix


def test_all_faults_at_once() -> None:
    broken = {"registry": {TAGGED: {"digest": "x", "arches": ["amd64"]}, "b/c:1": []}, "built": {"x": ["y"]}, "z": 1}
    with pytest.raises(SpecError) as caught:
        lock.parse(json.dumps(broken))
    assert len(caught.value.problems) == 5  # "b/c:1" is no object, and so has no digest


# ---------------------------------------------------------------------------------------------- in the settings


def project(tmp_path: Path, root: Path, text: str, stack: str = "ai-kit:target: dev") -> Path:
    (tmp_path / "Pulumi.yaml").write_text((root / "Pulumi.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "Pulumi.dev.yaml").write_text(f"config:\n  {stack}\n", encoding="utf-8")
    (tmp_path / lock.FILE).write_text(text, encoding="utf-8")
    return tmp_path


def test_the_clones_lock_wins_over_the_states(tmp_path: Path, root: Path) -> None:
    place = project(tmp_path, root, lock.render(Locks(registry={TAGGED: LOCK})))
    other = f"{TAGGED}={OTHER},amd64", f"docker.io/library/other:1={OTHER},arm64"
    found = from_files(place, "dev", (), {"imageLocks": list(other)}).image_locks
    assert found[TAGGED] == LOCK
    assert found["docker.io/library/other:1"].digest == OTHER


def test_a_broken_lock_is_reported_with_all_other_problems(tmp_path: Path, root: Path) -> None:
    place = project(tmp_path, root, "{", "ai-kit:target: deev")
    with pytest.raises(SpecError) as caught:
        from_files(place, "dev", ())
    assert [problem.where for problem in caught.value.problems] == ["target", lock.FILE]
    with pytest.raises(SpecError) as caught:
        from_files(project(tmp_path, root, "{"), "dev", ())
    assert [problem.where for problem in caught.value.problems] == [lock.FILE]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("imageLocks", f"redis:latest={DIGEST},amd64"),
        ("imageLocks", f"{TAGGED}={DIGEST}"),
        ("imageLocks", f"{TAGGED}"),
        ("imageLocks", "'; rm -rf /"),
        ("builtLocks", "redis"),
        ("builtLocks", "redis=0123"),
        ("builtLocks", "re dis=0123456789ab"),
    ],
)
def test_locks_in_the_configuration_are_checked(key: str, value: str) -> None:
    with pytest.raises(SpecError) as caught:
        load("dev", {"target": "dev", key: [value]})
    assert [problem.where for problem in caught.value.problems] == [f"{key}[0]"]


def test_one_image_is_locked_once() -> None:
    twice = [f"{TAGGED}={DIGEST},amd64", f"{TAGGED}={OTHER},amd64"]
    with pytest.raises(SpecError, match="stands there twice"):
        load("dev", {"target": "dev", "imageLocks": twice})


# -------------------------------------------------------------------------------------------------- in the plan


def planned(**changes: object) -> settings.Settings:
    return make.settings(**changes)


def test_a_locked_image_runs_by_its_digest() -> None:
    decided = planned(image_locks={TAGGED: LOCK})
    assert image_reference(decided, make.IMAGE) == (f"{TAGGED}@{DIGEST}", False)
    container = build(decided, make.host(), make.catalog()).service("app").containers[0]
    assert container.image == f"{TAGGED}@{DIGEST}"


def refusal(host: dict[str, object], **changes: object) -> list[str]:
    with pytest.raises(SpecError) as caught:
        build(planned(**changes), make.host(**host), make.catalog())
    return [f"{problem.where}: {problem.what}" for problem in caught.value.problems]


def test_a_lock_without_the_hosts_architecture_is_refused() -> None:
    amd64 = ImageLock(digest=DIGEST, arches=frozenset({Arch.AMD64}))
    found = refusal({"arches": frozenset({Arch.ARM64})}, image_locks={TAGGED: amd64})
    assert found == [f"images.lock.json thing: {TAGGED} as locked is made for amd64, and not for arm64"]
    assert build(planned(image_locks={TAGGED: amd64}), make.host(arches=frozenset(Arch)), make.catalog())


def test_an_image_without_arm64_is_refused_on_a_pi() -> None:
    cache = make.with_container(make.cache(), image=make.one_arch(Arch.AMD64))
    with pytest.raises(SpecError, match="image one-arch is not made for arm64"):
        build(planned(), make.host(arches=frozenset({Arch.ARM64})), make.catalog(cache=cache))


def test_built_images_are_held_to_their_content() -> None:
    built = {"thing": "ai-kit/thing:1-0123456789ab", "tools": "ai-kit/tools:1-0123456789ab"}
    common = {"images": ImageSource.AIRGAP, "airgap_images": built}
    same = {"thing": frozenset({"0123456789ab", "ffffffffffff"})}
    assert build(planned(**common, built_locks=same), make.host(), make.catalog())
    found = refusal({}, **common, built_locks={"thing": frozenset({"ffffffffffff"})})
    assert found == ["images.lock.json thing: its recipe now makes 0123456789ab, and ffffffffffff is locked"]
