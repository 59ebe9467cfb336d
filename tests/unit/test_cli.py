"""The command line: verbs, suggestions, failures without tracebacks, and the launcher on an old Python."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ops import cli, paths
from ops.console import KitError
from stack.model import Problem, SpecError


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("dev", "pi"):
        (tmp_path / f"Pulumi.{name}.yaml").touch()
    (tmp_path / "Pulumi.yaml").touch()
    return tmp_path


def refused(clone: Path, *argv: str) -> KitError:
    with pytest.raises(KitError) as caught:
        cli.parse(argv, clone)
    return caught.value


def test_stacks_are_the_stack_files(clone: Path) -> None:
    assert cli.stacks(clone) == ["dev", "pi"]


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb.takes_stack], ids=lambda verb: verb.name)
def test_stack_is_dev_unless_named(clone: Path, verb: cli.Verb) -> None:
    assert cli.parse([verb.name], clone)[1].stack == "dev"
    assert cli.parse([verb.name, "pi"], clone)[1].stack == "pi"


@pytest.mark.parametrize("verb", cli.VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_a_help_that_says_more_than_its_options(
    verb: cli.Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([verb.name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"./kit {verb.name}" in text
    assert verb.details in text


@pytest.mark.parametrize("verb", cli.VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_something_to_run(verb: cli.Verb) -> None:
    module, function = verb.run.split(":")
    tree = ast.parse((paths.ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    ("argv", "what", "code"),
    [
        (("upp",), 'Did you mean "up"?', 2),
        (("frobnicate",), 'no verb "frobnicate"', 2),
        (("up", "de"), 'Did you mean "dev"?', 2),
        (("up", "Dev!"), "cannot be a stack's name", 2),
        (("up", "../x"), "cannot be a stack's name", 2),
        (("up", "dev", "more"), "unrecognized arguments: more", 2),
        (("up", "--dta"), "unrecognized arguments: --dta", 2),
        (("test", "--fst"), "", 0),
    ],
)
def test_mistyped(clone: Path, argv: tuple[str, ...], what: str, code: int) -> None:
    if not code:
        assert cli.parse(argv, clone)[1].rest == ["--fst"]  # what ./kit does not know is pytest's
        return
    error = refused(clone, *argv)
    assert what in error.what
    assert error.code == code
    assert error.fix


def test_an_action_stands_before_the_stack(clone: Path) -> None:
    assert cli.parse(["images"], clone)[1].action == ""
    for words, stack in (
        (["images", "lock"], "dev"),
        (["images", "lock", "pi", "--json"], "pi"),
        (["images", "pi"], "pi"),
    ):
        arguments = cli.parse(words, clone)[1]
        assert (arguments.action, arguments.stack) == ("lock" if "lock" in words else "", stack)
    assert 'there is no stack "lokc"' in refused(clone, "images", "lokc").what
    assert 'there is no stack "lock"' in refused(clone, "plan", "lock").what


def test_words_after_test_are_for_pytest(clone: Path) -> None:
    arguments = cli.parse(["test", "--fast", "-k", "plan", "-x"], clone)[1]
    assert arguments.fast
    assert arguments.rest == ["-k", "plan", "-x"]


def test_without_a_verb_the_list_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb.name}" in text for verb in cli.VERBS)


# ------------------------------------------------------------------------------------------------------ failures


def fails_with(error: BaseException) -> int:
    def run() -> int:
        raise error

    return cli.guarded(run)


def test_a_known_failure_is_shown_with_its_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails_with(KitError("no.", "do this\nthen that", code=7)) == 7
    assert capsys.readouterr().err == "✗ no.\n      do this\n      then that\n"


def test_every_problem_of_a_plan_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    problems = (Problem(where="a", what="1", fix="x"), Problem(where="b", what="2", fix="y"))
    assert fails_with(SpecError("Pulumi.dev.yaml cannot be planned", problems)) == 2
    text = capsys.readouterr().err
    assert "2 problems" in text
    assert "  b: 2\n      y" in text
    assert "Nothing was changed." in text


def test_an_unexpected_failure_is_one_line_and_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("KIT_DEBUG", raising=False)
    assert fails_with(RuntimeError("boom\nand more")) == 1
    text = capsys.readouterr().err
    assert "unexpected: RuntimeError: boom" in text
    assert "Traceback" not in text
    log = next((tmp_path / "ai-kit" / "logs").iterdir())
    assert str(log) in text
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_debug_shows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_DEBUG", "1")
    with pytest.raises(RuntimeError, match="boom"):
        fails_with(RuntimeError("boom"))


def test_interrupted_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails_with(KeyboardInterrupt()) == 130
    assert "again" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ launcher


def test_the_launcher_is_understood_by_old_pythons() -> None:
    ast.parse((paths.ROOT / "kit").read_text(encoding="utf-8"), feature_version=(3, 9))


def test_an_old_python_is_told_what_is_needed(tmp_path: Path) -> None:
    launcher = (paths.ROOT / "kit").read_text(encoding="utf-8").replace("MINIMUM = (3, 11)", "MINIMUM = (9, 9)")
    copy = tmp_path / "kit"
    copy.write_text(launcher, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(copy), "up"], capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)}
    )
    assert result.returncode == 1
    assert "needs Python 9.9 or newer" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; from ops import cli; cli.main([]); print(sorted(set(sys.modules) & {'yaml', 'pulumi', 'httpx'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.rstrip().endswith("[]")
