"""Services are found, not listed: one file, one SERVICE, of the same name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from stack import catalog
from stack.model import Generated, InTemplate, Profile, Provided, Secret, SpecError
from tests import factories as make

GOOD = """
from stack.model import Command, ContainerSpec, HealthCheck, ServiceSpec, Zone
from tests.factories import container
SERVICE = ServiceSpec(name={name!r}, summary="x", containers=(container(),))
"""


def test_the_real_services_are_found_by_name() -> None:
    found = catalog.discover()
    files = {path.name for path in catalog.PACKAGE_DIR.glob("*.py") if not path.name.startswith("_")}
    assert [spec.name for spec in found] == sorted(path.removesuffix(".py").replace("_", "-") for path in files)
    assert {spec.source for spec in found} == {f"stack/services/{name}" for name in files}


def test_a_new_file_is_a_new_service(tmp_path: Path) -> None:
    (tmp_path / "my_thing.py").write_text(GOOD.format(name="my-thing"))
    (tmp_path / "_helper.py").write_text("raise RuntimeError('not a service')")
    (tmp_path / "files").mkdir()
    (spec,) = catalog.discover(tmp_path)
    assert (spec.name, spec.source) == ("my-thing", "stack/services/my_thing.py")


def test_every_file_that_defines_no_service_of_its_name_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("SERVICES = 1")
    (tmp_path / "b.py").write_text("SERVICE = 'b'")
    (tmp_path / "c_d.py").write_text(GOOD.format(name="c_d"))
    (tmp_path / "e.py").write_text(GOOD.format(name="e"))
    with pytest.raises(SpecError) as caught:
        catalog.discover(tmp_path)
    assert [(problem.where, problem.what) for problem in caught.value.problems] == [
        ("stack/services/a.py", "defines no SERVICE"),
        ("stack/services/b.py", "defines no SERVICE"),
        ("stack/services/c_d.py", 'SERVICE is named "c_d"'),
    ]


def test_a_file_with_a_fault_shows_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("SERVICE = nowhere")
    with pytest.raises(NameError, match="nowhere"):
        catalog.discover(tmp_path)


def test_profiles_are_those_that_services_describe() -> None:
    described = make.service("x", profiles=frozenset({Profile("b", "what b is for"), Profile("a", "what a is for")}))
    joins = make.service("y", profiles=frozenset({Profile("b")}))
    assert catalog.profiles([joins, described]) == {"a": "what a is for", "b": "what b is for"}
    assert "chat" in catalog.profiles(catalog.discover())


def test_a_profile_is_described_once(tmp_path: Path) -> None:
    body = GOOD.replace("import Command", "import Profile, Command").replace(
        "summary=", "profiles=frozenset({{{profiles}}}), summary="
    )
    for name, profiles in (
        ("a", "Profile('one', 'x'), Profile('none')"),
        ("b", "Profile('one', 'x'), Profile('fine')"),
        ("c", "Profile('fine', 'y')"),
    ):
        (tmp_path / f"{name}.py").write_text(body.format(name=name, profiles=profiles))
    with pytest.raises(SpecError) as caught:
        catalog.discover(tmp_path)
    assert [(problem.where, problem.what) for problem in caught.value.problems] == [
        ("stack/services/a.py", 'nobody says what profile "none" is for'),
        (
            "stack/services/b.py",
            'profile "one" is described in stack/services/a.py and stack/services/b.py',
        ),
    ]


def test_provided_keys_are_those_of_all_services() -> None:
    secrets = (Secret("a", Provided("smtpPassword"), InTemplate()), Secret("b", Generated(), InTemplate()))
    assert catalog.provided_keys([make.service("x", secrets=secrets)]) == {"smtpPassword"}


# Words that only look like a service: an encoding, a profile, a key of the configuration, a plugin of Pulumi.
NO_SERVICE = {
    "stack/model.py": {"redis", "supabase"},
    "stack/settings.py": {"waf"},
    "ops/toolchain/pins.py": {"keycloak"},
}


def test_no_list_of_services_is_kept_anywhere(root: Path) -> None:
    """Outside its own file, its files/ and tests, code knows no service by name."""
    names = {spec.name for spec in catalog.discover()}
    for folder in ("stack", "components", "ops"):
        for path in sorted((root / folder).rglob("*.py")):
            # A workflow template names services as a service does: in a Ref.
            if {"services", "proofs", "workflows"} & set(path.relative_to(root).parts) or path.name == "images.py":
                continue
            literals = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            known = {value for value in literals if isinstance(value, str)} & names
            known -= NO_SERVICE.get(str(path.relative_to(root)), set())
            assert not known, f"{path.relative_to(root)} names {known}"


def test_every_proof_names_a_function_that_is_there(root: Path) -> None:
    for spec in catalog.discover():
        for proof in spec.proofs:
            for function in filter(None, (proof.run, proof.cleanup)):
                module, _, name = function.partition(":")
                tree = ast.parse((root / f"{module.replace('.', '/')}.py").read_text())
                assert name in _bound(tree), function


def _bound(tree: ast.Module) -> set[str]:
    """The names a module has: of its functions, and those it imports or assigns."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found
