"""Who may import whom. Each rule is a row; each file is read, none is run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("stack", "components", "ops", "airgap", "policy")


def imports(path: Path, *, typing: bool = False) -> Iterator[str]:
    """The modules a file imports, wherever in it; those under `if TYPE_CHECKING` only with typing=True."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped and not typing:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Files matching `files` (and no `but`) import none of `never`; with `only`, nothing else of ours either.

    `except_for`: modules that they may import all the same.
    """

    name: str
    files: tuple[str, ...]
    never: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    but: tuple[str, ...] = ()
    except_for: tuple[str, ...] = ()


ENGINES = ("pulumi", "pulumi_docker", "pulumi_keycloak", "pulumi_random", "pulumi_tls")
PURE = ("stack/plan.py", "stack/planning/*.py", "stack/derive/*.py", "stack/services/*.py")

RULES = (
    Rule(name="the vocabulary needs nothing of ours", files=("stack/model.py",), never=ENGINES, only=()),
    Rule(name="words need nothing of ours", files=("stack/words.py",), never=ENGINES, only=()),
    Rule(
        name="what is decided knows no engine",
        files=(*PURE, "stack/targets.py", "stack/zones.py", "stack/images.py", "stack/catalog.py"),
        never=(*ENGINES, "components", "ops", "airgap", "stack.deploy"),
    ),
    Rule(
        name="a service file says what, from the vocabulary, the pins and what is derived",
        files=("stack/services/*.py",),
        only=("stack.model", "stack.images", "stack.derive", "stack.realm", "stack.settings"),
    ),
    Rule(
        name="planning needs nothing that is made from a plan",
        files=("stack/plan.py", "stack/planning/*.py"),
        never=("stack.derive", "stack.services", "stack.catalog"),
    ),
    Rule(name="nobody imports a service", files=("**/*.py",), never=("stack.services",), but=("tests/**/*.py",)),
    Rule(
        name="only deploy uses components",
        files=("stack/**/*.py", "ops/**/*.py"),
        never=("components",),
        but=("stack/deploy.py",),
        except_for=("components.capabilities",),  # names a variable for the launcher; knows no engine
    ),
    Rule(name="components know the engine and nothing else", files=("components/**/*.py",), only=("components",)),
    Rule(
        name="only settings reads configuration",
        files=("stack/**/*.py",),
        never=("pulumi",),
        but=("stack/settings.py", "stack/deploy.py"),
    ),
    Rule(
        name="proofs and ops never deploy", files=("ops/**/*.py", "stack/proofs/*.py"), never=(*ENGINES, "stack.deploy")
    ),
)


def files_of(rule: Rule) -> list[Path]:
    left_out = {path for pattern in rule.but for path in ROOT.glob(pattern)}
    found = {path for pattern in rule.files for path in ROOT.glob(pattern)} - left_out
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule(rule: Rule) -> None:
    files = files_of(rule)
    assert files, "the rule looks at no file"
    for path in files:
        for module in imports(path):
            if any(within(module, each) for each in rule.except_for):
                continue
            forbidden = any(within(module, each) for each in rule.never)
            foreign = rule.only is not None and module.split(".")[0] in OURS and not _allowed(module, rule.only)
            assert not forbidden, f"{path.relative_to(ROOT)} imports {module}"
            assert not foreign, f"{path.relative_to(ROOT)} imports {module}"


def _allowed(module: str, only: tuple[str, ...]) -> bool:
    """A member of an allowed module, or the package on the way to it (from stack import images)."""
    return any(within(module, each) or within(each, module) for each in only)


# These run before there is an environment to import from.
# What is built into an image (airgap/images/NAME/) runs there, with what the image has.
AIRGAP = ("airgap/*.py", "airgap/images/*.py", "airgap/toolchain/**/*.py")
BARE_FILES = ("kit", "ops/toolchain/*.py", "ops/engine.py", "ops/progress.py", *AIRGAP)
RUNS_IN_THE_ENVIRONMENT = ("pulumi-language-python",)


def test_what_runs_first_needs_only_python() -> None:
    """`kit`, and whatever of ours it and the toolchain import when they are imported."""
    waiting = sorted({path for pattern in BARE_FILES for path in ROOT.glob(pattern)})
    waiting = [path for path in waiting if not any(name in path.parts for name in RUNS_IN_THE_ENVIRONMENT)]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for module in imports_when_loaded(path):
            top = module.split(".")[0]
            if top in OURS:
                waiting += [ROOT / each for each in _files_of_module(module)]
            else:
                assert top in sys.stdlib_module_names, f"{path.relative_to(ROOT)} imports {module}"


def imports_when_loaded(path: Path) -> Iterator[str]:
    """The imports outside of functions: those that happen when the file is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files_of_module(module: str) -> Iterator[str]:
    base = module.replace(".", "/")
    for candidate in (f"{base}.py", f"{base}/__init__.py"):
        if (ROOT / candidate).is_file():
            yield candidate
