"""A new passphrase for the state: the real Pulumi CLI on two stacks with hostile secrets. Needs no engine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ops import passphrase, toolchain
from ops.console import KitError
from ops.progress import Progress
from ops.pulumirun import Pulumi
from ops.stackstate import SALT, StackState
from tests.live.trial import HOSTILE

pytestmark = pytest.mark.live

PROGRAM = f"""import pulumi
said = pulumi.Config().get_secret("said")
pulumi.export("made", pulumi.Output.secret({HOSTILE!r}))
pulumi.export("said", said or "nothing")
"""


class Stacks:
    """`plain` has its salt in our copy of the configuration alone, `spoken` a secret in the clone's stack file."""

    def __init__(self, root: Path, tools: toolchain.Toolchain) -> None:
        self.root, self.tools = root, tools
        root.mkdir()
        (root / "Pulumi.yaml").write_text("name: ai-kit\nruntime: python\n")
        (root / "__main__.py").write_text(PROGRAM)
        plain = self.of("plain")
        plain.state.write_config({SALT: plain.initialise(), "config": {}})
        spoken = self.of("spoken")
        said = {SALT: spoken.initialise(), "config": {}}
        spoken.state.stack_file.write_text("# mine\n" + yaml.safe_dump(said))
        spoken.run("config", "set", "--secret", "said", HOSTILE, "--stack", "spoken")
        spoken.state.write_config(spoken.state.operator_config())
        for pulumi in (plain, spoken):
            self.up(pulumi)

    def of(self, name: str) -> Pulumi:
        state = StackState(self.root, name)
        state.ensure()
        return Pulumi(self.tools.pulumi, state.environment(self.tools.env, Path(sys.executable)), state)

    def up(self, pulumi: Pulumi) -> None:
        assert pulumi.through("up", "--yes", "--skip-preview", "--suppress-outputs") == 0

    def held(self) -> dict[str, object]:
        """What opens with the passphrase of now: the secrets in the states, and in the stack file."""
        spoken = self.of("spoken")
        written = spoken.run("config", "get", "said", "--stack", "spoken").rstrip("\n")
        return {"plain": self.of("plain").outputs(), "spoken": spoken.outputs(), "written": written}

    def rotate(self) -> None:
        assert passphrase.rotate(self.tools, Progress(), self.root) == 0


EVERYTHING = {
    "plain": {"made": HOSTILE, "said": "nothing"},
    "spoken": {"made": HOSTILE, "said": HOSTILE},
    "written": HOSTILE,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE", "PULUMI_BACKEND_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state" / "ai-kit"


@pytest.fixture
def stacks(home: Path, tmp_path: Path) -> Stacks:
    return Stacks(tmp_path / "clone", toolchain.ensure(Progress(), toolchain.sdk_versions()))


def content(*directories: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for each in directories for path in sorted(each.rglob("*")) if path.is_file()}


def test_all_stacks_open_with_the_new_one_alone(
    stacks: Stacks, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = (home / "passphrase").read_text()
    stacks.rotate()
    new = (home / "passphrase").read_text()
    assert new != old and (home / "passphrase").stat().st_mode & 0o777 == 0o600
    assert stacks.held() == EVERYTHING
    assert "# mine" in (stacks.root / "Pulumi.spoken.yaml").read_text()
    said = capsys.readouterr()
    assert "opens plain, spoken" in said.out + said.err and f"rm -r {home}" in said.out + said.err
    assert new not in said.out + said.err and old not in said.out + said.err
    assert not (home / passphrase.DRAFT).exists()
    for name in ("plain", "spoken"):
        stacks.up(stacks.of(name))  # the engine goes on with it, and the merged copy has its salt
    (home / "passphrase").write_text(old)
    for name in ("plain", "spoken"):
        pulumi = stacks.of(name)
        assert not pulumi.passphrase_fits(pulumi.state.merged_config())
        with pytest.raises(KitError, match="passphrase"):
            pulumi.outputs()


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_cut_short_anywhere_it_is_ended_by_the_next_or_never_began(
    stacks: Stacks, home: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Killed before the second stack's copy, and before each of the moves; then one that finds what is left."""
    old = (home / "passphrase").read_text()
    before = content(stacks.root)

    def dying(function: Callable[..., object], left: list[int]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    step = "anew" if after == 0 else "_move"
    done_before = [after - 1 if after else 1]
    with monkeypatch.context() as killed:
        killed.setattr(passphrase, step, dying(getattr(passphrase, step), done_before))
        with pytest.raises(KeyboardInterrupt):
            stacks.rotate()
    if after == 0:
        assert (home / "passphrase").read_text() == old and content(stacks.root) == before
    passphrase.finish(home)
    assert ((home / "passphrase").read_text() == old) is (after == 0)
    assert stacks.held() == EVERYTHING
    stacks.rotate()
    assert stacks.held() == EVERYTHING


def test_what_cannot_be_done_changes_nothing(
    stacks: Stacks, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(words: str, root: Path = stacks.root) -> None:
        before = content(home / "backend", home / "stacks", stacks.root) | content(home / "passphrase")
        with pytest.raises(KitError, match=words) as said:
            passphrase.rotate(stacks.tools, Progress(), root)
        assert said.value.fix
        assert content(home / "backend", home / "stacks", stacks.root) | content(home / "passphrase") == before
        assert not (home / passphrase.DRAFT / passphrase.MOVES).exists()

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "Pulumi.yaml").write_text("name: ai-kit\nruntime: python\n")
    refused("has secrets in its stack file", elsewhere)
    (elsewhere / "Pulumi.yaml").write_text("name: other\nruntime: python\n")
    refused("another project", elsewhere)
    with monkeypatch.context() as env:
        env.setenv("PULUMI_CONFIG_PASSPHRASE", "mine")
        refused("comes from PULUMI_CONFIG_PASSPHRASE")
    with monkeypatch.context() as env:
        env.setenv("PULUMI_BACKEND_URL", "file:///elsewhere")
        refused("others may use it")
    own = (home / "passphrase").read_text()
    (home / "passphrase").write_text("another")
    refused("does not open")
    (home / "passphrase").unlink()
    refused("is gone")
    (home / "passphrase").write_text(own)
    assert stacks.held() == EVERYTHING
