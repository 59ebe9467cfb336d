"""Locking on first use, the audit's rows and the new lock file: pure over what registries and the engine said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ops import imagelock, images, source
from ops.console import KitError
from ops.imagelock import Answers, FirstUse, Gone
from ops.registry import Client, Found, MissingError, RegistryError
from ops.session import Session
from ops.source import Probe
from ops.stackstate import StackState
from stack import images as pins
from stack import lock
from stack.lock import Locks
from stack.model import Arch, ImageLock, ImagePin, ImageSource
from stack.plan import build
from tests import factories as make

TODAY = date(2026, 11, 21)
DIGEST, OTHER = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
PIN = ImagePin(
    name="thing", repository="docker.io/library/thing", tag="1.2.3", arches=frozenset(Arch), pinned="2026-10-01"
)
QUAY = replace(PIN, name="quay", repository="quay.io/kit/quay")
BOTH = Found(digest=DIGEST, arches=frozenset({"amd64", "arm64", "s390x"}), created=date(2026, 11, 1))
REDIS = pins.REDIS.tagged
LOCK = ImageLock(digest=DIGEST, arches=frozenset(Arch), locked="2026-11-21")


class StandinClient(Client):
    """A stand-in for registries: gives what it was given, by repository:tag or repository@digest."""

    def __init__(self, contents: dict[str, Found | Exception]) -> None:
        super().__init__()
        self.contents = contents

    def find(self, repository: str, reference: str, *, created: bool = False) -> Found:
        found = self.contents[f"{repository}:{reference}"]
        if isinstance(found, Exception):
            raise found
        return found

    def has(self, repository: str, digest: str) -> bool:
        found = self.contents.get(f"{repository}@{digest}")
        if isinstance(found, Exception):
            raise found
        return found is not None


@pytest.fixture(autouse=True)
def answering(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The hosts that answer the probe; quay.io is one that does not."""
    there = {"docker.io"}

    def probe(hosts: Iterable[str], timeout: float = 0) -> tuple[Probe, ...]:
        return tuple(Probe(host=host, answers=host in there) for host in hosts)

    monkeypatch.setattr(source, "probe", probe)
    return there


def test_a_silent_registry_is_said_and_not_asked() -> None:
    answers = imagelock.ask([PIN, QUAY], client=StandinClient({PIN.tagged: BOTH}))
    assert answers == Answers(found={PIN.tagged: BOTH}, unknown={QUAY.tagged: "quay.io did not answer"})


def test_a_tag_that_is_gone_and_a_refusal() -> None:
    other = replace(PIN, tag="2")
    client = StandinClient({PIN.tagged: MissingError("none"), other.tagged: RegistryError("refused")})
    answers = imagelock.ask([PIN, other], client=client)
    assert answers.missing == {PIN.tagged}
    assert answers.unknown == {PIN.tagged: "docker.io has no tag 1.2.3", other.tagged: "docker.io refused"}


def test_a_lock_knows_the_architectures_that_we_know() -> None:
    assert imagelock.lock_of(BOTH, TODAY) == LOCK
    with pytest.raises(ValueError, match="s390x only"):
        imagelock.lock_of(replace(BOTH, arches=frozenset({"s390x"})))


# ----------------------------------------------------------------------------------------------------- first use


def held(*tags: str, digests: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"RepoTags": list(tags), "RepoDigests": list(digests)}


def test_the_first_use_locks_what_the_registry_has() -> None:
    first = imagelock.first_use([PIN, QUAY], [], "amd64", client=StandinClient({PIN.tagged: BOTH}), today=TODAY)
    assert first == FirstUse(locks={PIN.tagged: LOCK}, unlocked={QUAY.tagged: "quay.io did not answer"})


def test_what_the_engine_pulled_before_is_what_is_locked() -> None:
    """Nobody is asked: the tag may have moved since, and what runs must not."""
    image = held("thing:1.2.3", digests=(f"thing@{OTHER}", f"elsewhere/thing@{DIGEST}"))
    first = imagelock.first_use([PIN], [image], "amd64", client=StandinClient({}), today=TODAY)
    assert first.locks == {
        PIN.tagged: ImageLock(digest=OTHER, arches=frozenset({Arch.AMD64}), locked="2026-11-21"),
    }


@pytest.mark.parametrize(
    "image",
    [
        held("thing:1.2.4", digests=(f"thing@{OTHER}",)),
        held("thing:1.2.3"),  # built or loaded here, from no registry
        held("thing:1.2.3", digests=(f"mirror/thing@{OTHER}",)),
        held(digests=(f"thing@{OTHER}",)),
        {"RepoTags": None, "RepoDigests": None},
    ],
)
def test_another_image_is_none(image: dict[str, Any]) -> None:
    assert imagelock.held_digest([image], PIN) == ""


def test_locks_that_can_be_had_nowhere() -> None:
    local = held("thing:1.2.3", digests=(f"thing@{DIGEST}",))
    assert imagelock.gone([(PIN, DIGEST)], [local], client=StandinClient({})) == ()
    there = StandinClient({f"{PIN.repository}@{DIGEST}": BOTH})
    assert imagelock.gone([(PIN, DIGEST)], [], client=there) == ()
    assert imagelock.gone([(PIN, DIGEST)], [], client=StandinClient({})) == (
        Gone(tagged=PIN.tagged, digest=DIGEST, registry="docker.io"),
    )


def test_silence_and_refusal_lose_no_lock() -> None:
    assert imagelock.gone([(QUAY, DIGEST)], [], client=StandinClient({})) == ()
    refusing = StandinClient({f"{PIN.repository}@{DIGEST}": RegistryError("refused")})
    assert imagelock.gone([(PIN, DIGEST)], [], client=refusing) == ()


def test_the_state_keeps_the_locks(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    state = StackState(root, "dev", {})
    assert state.image_locks() == {}
    state.ensure()
    state.record_image_locks({PIN.tagged: LOCK})
    assert StackState(root, "dev", {}).image_locks() == {PIN.tagged: LOCK}
    (state.directory / lock.FILE).write_text("{")
    with pytest.raises(Exception, match="cannot be read") as caught:
        state.image_locks()
    assert type(caught.value).__name__ == "KitError"


class StandinEngine:
    """A stand-in for the engine's API: its images and its architecture."""

    def __init__(self, *images: dict[str, Any]) -> None:
        self.images = list(images)

    def get(self, path: str) -> Any:
        return {"/images/json": self.images, "/info": {"Architecture": "aarch64"}}[path]


def a_session(root: Path, engine: StandinEngine, chosen: str) -> Session:
    session = Session("dev", root)
    session.__dict__["docker"] = engine
    session.__dict__["chosen_images"] = chosen
    return session


def test_a_session_locks_once_and_later_runs_use_it(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, answering: set[str]
) -> None:
    """What the first `up` found is in the next one's plan, whatever the registry says by then."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    answering.clear()
    engine = StandinEngine(held(f"redis:{pins.REDIS.tag}", digests=(f"redis@{OTHER}",)))
    first = a_session(root, engine, source.REGISTRY)
    unlocked = first.lock_images(first.plan())
    assert REDIS not in unlocked
    assert unlocked[pins.KEYCLOAK.tagged] == "quay.io did not answer"
    plan = first.plan()
    assert plan.service("redis").containers[0].image == f"{REDIS}@{OTHER}"
    assert not (tmp_path / "ai-kit").exists(), "nothing is written before nothing stands in the way"
    first.record_locks(plan)
    second = a_session(root, StandinEngine(), source.REGISTRY)
    assert second.plan().service("redis").containers[0].image == f"{REDIS}@{OTHER}"
    assert second.recorded_locks[REDIS].arches == {Arch.ARM64}
    assert second.overrides()["imageLocks"] == [f"{REDIS}={OTHER},arm64"]


def test_where_images_are_built_here_nothing_is_asked_or_locked(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    session = a_session(root, StandinEngine(), source.AIRGAP)
    plan = session.plan()
    assert session.lock_images(plan) == {}
    session.record_locks(plan)
    assert "imageLocks" not in session.overrides()
    assert not (tmp_path / "ai-kit").exists()


def test_a_tag_that_is_no_longer_pinned_is_forgotten(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    session = a_session(root, StandinEngine(), source.REGISTRY)
    session.state.ensure()
    session.state.record_image_locks({"docker.io/library/redis:1": LOCK, REDIS: LOCK})
    session.record_locks(session.plan())
    assert set(session.state.image_locks()) == {REDIS}


def test_the_lock_command_writes_the_clones_file(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over a broken one, with what could not be locked said; the state's own record is left alone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("Pulumi.yaml", "Pulumi.dev.yaml"):
        (tmp_path / name).write_text((root / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / lock.FILE).write_text("{")
    monkeypatch.setattr(imagelock, "ask", lambda pins: Answers(found={REDIS: BOTH}))
    with pytest.raises(KitError, match="could not be locked") as caught:
        images.write_lock(a_session(tmp_path, StandinEngine(), source.REGISTRY), as_json=False)
    assert f"{pins.KEYCLOAK.tagged}: nothing is known of it" in caught.value.fix
    assert set(lock.read(tmp_path).registry) == {REDIS}
    assert "Review it (git diff) and commit it" in capsys.readouterr().out
    assert not (tmp_path / "state").exists()
    assert images.write_lock(a_session(tmp_path, StandinEngine(), source.AIRGAP), as_json=True) == 0
    locks = lock.read(tmp_path)
    assert set(locks.registry) == {REDIS}
    session = a_session(tmp_path, StandinEngine(), source.AIRGAP)
    assert set(locks.built) == set(session.built_images())
    assert session.plan().settings.built_locks == locks.built


# --------------------------------------------------------------------------------------------------- the audit


def audited(answers: Answers, **settings: Any) -> dict[str, images.Row]:
    resolved = build(make.settings(**settings), make.host(), make.catalog())
    tags = {pin.repository: ("1.2.3", "1.3.0") for pin in (make.IMAGE,) if pin.tagged in answers.found}
    committed = {make.IMAGE.tagged: LOCK} if "image_locks" in settings else {}
    built = {"thing": images.Built(version="1.1", content="0123456789ab", arch="arm64")}
    return {row.name: row for row in images.rows(resolved, answers, tags, committed, built, TODAY)}


ANSWERED = Answers(found={make.IMAGE.tagged: BOTH}, unknown={pins.TOOLS.tagged: "docker.io is away"})


def test_a_row_says_what_the_registry_says() -> None:
    row = audited(ANSWERED)["thing"]
    assert (row.newest, row.age_days, row.arches) == ("1.3.0", 20, ("amd64", "arm64", "s390x"))
    assert (row.digest, row.locked_by, row.moved, row.source) == ("", "", "", "registry")
    assert row.used_by == ("base", "cache", "app", "front", "login")


def test_what_nobody_says_is_unknown() -> None:
    row = audited(ANSWERED)["tools"]
    assert (row.newest, row.age_days, row.unknown, row.used_by) == ("", None, "docker.io is away", ("file delivery",))
    (line,) = (line for line in images.table([row]) if line.startswith("tools"))
    assert f"unknown, pinned {row.pinned}" in line
    assert row.pinned


def test_a_locked_image_says_by_whom_and_whether_its_tag_moved() -> None:
    row = audited(ANSWERED, image_locks={make.IMAGE.tagged: replace(LOCK, digest=OTHER)})["thing"]
    assert (row.digest, row.locked_by, row.moved) == (OTHER, lock.FILE, DIGEST)
    text = "\n".join(images.table([row]))
    assert "cdcdcdcdcdcd (images.lock.json)" in text
    assert "the tag 1.2.3 now stands for sha256:abababababab" in text
    assert "./kit images lock" in text
    first = build(make.settings(image_locks={make.IMAGE.tagged: LOCK}), make.host(), make.catalog())
    assert {row.locked_by for row in images.rows(first, ANSWERED, {}, {}, {}, TODAY)} == {"first up", ""}


def test_a_stand_in_is_never_called_by_the_name_of_the_real_image() -> None:
    resolved = build(make.settings(images=ImageSource.AIRGAP), make.host(), make.catalog())
    built = {"thing": images.Built(version="1.1", content="0123456789ab", arch="arm64", standin="standin-thing")}
    row = next(row for row in images.rows(resolved, ANSWERED, {}, {}, built, TODAY) if row.name == "thing")
    assert (row.source, row.standin) == ("stand-in, built here", "standin-thing")
    text = "\n".join(images.table([row]))
    assert "standin-thing" in text and "stand-in, built here, 1.1" in text
    assert f"standin-thing is a stand-in for {make.IMAGE.repository}, not that image" in text
    assert "\nthing " not in text


def test_an_image_that_is_built_here_says_of_what() -> None:
    row = audited(ANSWERED, images=ImageSource.AIRGAP)["thing"]
    assert (row.source, row.built_version, row.arches, row.moved) == ("built here", "1.1", ("arm64",), "")
    text = "\n".join(images.table([row]))
    assert "built here, 1.1" in text and "0123456789ab (not locked)" in text
    built = {"thing": "ai-kit/thing:1-0123456789ab", "tools": "ai-kit/tools:1-0123456789ab"}
    hashes = {"thing": frozenset({"0123456789ab"})}
    held_to = audited(ANSWERED, images=ImageSource.AIRGAP, airgap_images=built, built_locks=hashes)
    assert held_to["thing"].locked_by == lock.FILE


# ------------------------------------------------------------------------------------------------ ./kit images lock


def test_locking_keeps_what_it_cannot_ask_about_and_drops_what_is_not_pinned() -> None:
    old = Locks(
        registry={
            PIN.tagged: replace(LOCK, digest=OTHER, locked="2026-01-01"),
            QUAY.tagged: replace(LOCK, digest=OTHER),
            "docker.io/library/old:1": LOCK,
        },
        built={"kept": frozenset({"0123456789ab"})},
    )
    answers = Answers(found={PIN.tagged: BOTH}, unknown={QUAY.tagged: "quay.io did not answer"})
    result = images.relock([PIN, QUAY], old, answers, TODAY)
    assert result.locks.registry == {PIN.tagged: LOCK, QUAY.tagged: replace(LOCK, digest=OTHER)}
    assert result.locks.built == old.built
    assert result.failed == {QUAY.tagged: "quay.io did not answer"}
    assert [line.partition(": ")[0] for line in result.changed] == [PIN.tagged, "docker.io/library/old:1"]


def test_locking_again_changes_nothing() -> None:
    answers = Answers(found={PIN.tagged: BOTH})
    once = images.relock([PIN], Locks(), answers, TODAY)
    again = images.relock([PIN], once.locks, answers, date(2027, 1, 1))
    assert again.changed == ()
    assert lock.render(again.locks) == lock.render(once.locks)


def test_locking_what_is_built_here() -> None:
    old = Locks(
        registry={PIN.tagged: LOCK}, built={"redis": frozenset({"a" * 12, "b" * 12}), "old": frozenset({"c" * 12})}
    )
    result = images.relock_built(old, {"redis": "b" * 12, "tools": "d" * 12})
    assert result.locks.registry == old.registry
    assert result.locks.built == {"redis": old.built["redis"], "tools": frozenset({"d" * 12})}
    assert result.changed == (f"tools: not locked -> {'d' * 12}", "old: no longer built")
