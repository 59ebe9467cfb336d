"""The compose project of the same plan: complete, and as closed as the stack itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ops import planview
from stack.derive import compose, runtime
from stack.derive.runtime import Runtime, Text
from stack.derive.values import CaPiece, LeafPiece, SecretPiece

ROOT = Path(__file__).resolve().parents[2]
SECRET = "S3cret$value"


def read(text: Text) -> str:
    filled = {SecretPiece: SECRET, CaPiece: "CA", LeafPiece: "LEAF"}
    return "".join(piece if isinstance(piece, str) else filled[type(piece)] for piece in text)


@pytest.fixture
def built() -> Runtime:
    return runtime.build(planview.load_plan(ROOT, "dev"))


@pytest.fixture
def services(built: Runtime) -> dict[str, Any]:
    return dict(compose.project(built, "bench", read).document["services"])


def test_it_has_every_container_and_job(built: Runtime, services: dict[str, Any]) -> None:
    wanted = {step.name for step in built.steps} - {job.name for job in built.jobs if job.reloads}
    assert wanted <= set(services)
    assert {name for name in services if name not in wanted} == {
        f"{c.name}-files" for c in built.containers if c.files or c.ownership
    }


def test_dependencies_name_what_exists_and_how_it_must_end(built: Runtime, services: dict[str, Any]) -> None:
    jobs = {job.name for job in built.jobs}
    for name, service in services.items():
        for need, how in service.get("depends_on", {}).items():
            assert need in services, f"{name} needs {need}"
            ends = need in jobs or need.endswith("-files")
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy")


def test_no_secret_stands_in_the_document(built: Runtime) -> None:
    project = compose.project(built, "bench", read)
    assert SECRET not in json.dumps(project.document)
    assert any(SECRET in text for text in project.files.values()), "the check above would pass without any secret"


def test_it_is_hardened_like_the_stack(built: Runtime, services: dict[str, Any]) -> None:
    for container in built.containers:
        service = services[container.name]
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges"]
        assert service["read_only"] is container.read_only
        assert service["mem_limit"] == service["memswap_limit"]


def test_dollars_are_not_read_as_variables(services: dict[str, Any]) -> None:
    probe = services["kit-dev-keycloak"]["healthcheck"]["test"]
    assert any("$$line" in part for part in probe)


def test_a_database_job_gets_what_its_script_reads(built: Runtime, services: dict[str, Any]) -> None:
    script = (ROOT / "stack/services/files/postgres/database.sh").read_text(encoding="utf-8")
    component = (ROOT / "components/database.py").read_text(encoding="utf-8")
    given = services["kit-dev-database-open-webui"]["environment"]
    for name in ("KIT_DATABASE", "KIT_ROLE", "KIT_EXTENSIONS"):
        assert name in given and f"${name}" in script.replace("${", "$").replace("}", "") and name in component
    files = compose.project(built, "bench", read).files
    assert files["files/kit-dev-database-open-webui/password"] == SECRET


def test_the_superuser_looks_for_nothing_where_others_may_make_things() -> None:
    """With pg_catalog alone in its path, whatever is made needs its schema named."""
    script = (ROOT / "stack/services/files/postgres/database.sh").read_text(encoding="utf-8")
    assert re.search(r"^export PGOPTIONS=.*-c search_path=pg_catalog", script, re.MULTILINE)
    for path in (ROOT / "stack/services/files").rglob("*"):
        if path.suffix in (".sql", ".sh"):
            for line in re.findall(r"^CREATE EXTENSION.*", path.read_text(encoding="utf-8"), re.MULTILINE):
                assert " SCHEMA " in line, f"{path.name}: {line}"


def test_everything_carries_the_stacks_label(services: dict[str, Any]) -> None:
    assert {service["labels"]["aikit.stack"] for service in services.values()} == {"dev"}
