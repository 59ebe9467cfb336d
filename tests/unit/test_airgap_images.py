"""The recipes of the locally built images: each is whole, honest about its name, and hashed by content."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from airgap.images import build, recipe
from airgap.images.recipe import Recipe, RecipeError, content_hash, load, recipes, reference
from stack.model import standin_in

ALL = recipes()
IMAGES = tuple(each for each in ALL if not each.is_base)
EXPECTED = {
    "tools",
    "postgres",
    "redis",
    "haproxy",
    "keycloak",
    "ollama",
    "tiny-models",
    "open-webui",
    "n8n",
    "n8n-runners",
}
OFFICIAL = re.compile(r"^(docker\.io|quay\.io|ghcr\.io|library|pgvector|haproxy|redis|postgres|busybox|ollama|n8nio)\b")


def dockerfile(each: Recipe) -> str:
    text = (each.folder / "Dockerfile").read_text(encoding="utf-8")
    # One instruction per line.
    return re.sub(r"\\\n(?:\s*#.*\n)*", " ", text)


def final_stage(each: Recipe) -> str:
    return dockerfile(each).rpartition("\nFROM ")[2] or dockerfile(each)


def named(each: Recipe) -> str:
    return each.name


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The recipes' folder, to change at will."""
    target = tmp_path / "images"
    shutil.copytree(recipe.ROOT, target, ignore=shutil.ignore_patterns("__pycache__", "*.py[co]"))
    return target


def test_every_image_of_the_platform_has_a_recipe() -> None:
    assert {each.name for each in ALL} >= EXPECTED


def test_bases_come_before_what_stands_on_them() -> None:
    seen: set[str] = set()
    for each in ALL:
        assert set(each.bases.values()) <= seen
        seen.add(each.name)


@pytest.mark.parametrize("each", IMAGES, ids=named)
def test_a_recipe_says_what_it_keeps_and_what_not(each: Recipe) -> None:
    assert each.contract is not None
    assert each.sources
    assert each.contract.keeps
    assert each.contract.not_kept
    assert each.contract.programs
    assert each.contract.files


@pytest.mark.parametrize("each", ALL, ids=named)
def test_the_name_is_ours(each: Recipe) -> None:
    ref = reference(each)
    assert re.fullmatch(r"aikit\.local/airgap/[a-z0-9-]+:[A-Za-z0-9_.]+-[0-9a-f]{12}", ref)
    assert not OFFICIAL.match(ref)
    assert each.contract is None or each.contract.of != ref


@pytest.mark.parametrize("each", IMAGES, ids=named)
def test_a_stand_in_says_so_in_its_name_and_everywhere(each: Recipe) -> None:
    assert each.name.startswith("standin-") == bool(each.standin_for) == (each.pin != each.name)
    assert standin_in(reference(each)) == (each.name if each.standin_for else "")
    assert recipe.by_pin()[each.pin] == each
    if each.standin_for:
        assert "stand-in" in each.title.lower()
        assert each.contract and any("stand-in" in text for text in each.contract.not_kept)


def test_a_stand_in_without_its_name_and_a_name_without_a_stand_in_are_refused(copied: Path) -> None:
    def change(folder: str, **values: object) -> None:
        path = copied / folder / "recipe.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    change("redis", standin_for="a server")
    (copied / "tools").rename(copied / "standin-tools")
    change("standin-tools", name="standin-tools")
    with pytest.raises(RecipeError) as caught:
        recipes(copied)
    assert len([problem for problem in caught.value.problems if "begins with 'standin-'" in problem]) == 2
    change("redis", standin_for="")
    change("standin-tools", standin_for="a shell")
    assert {each.name: each.pin for each in recipes(copied)}["standin-tools"] == "tools"
    shutil.copytree(copied / "redis", copied / "standin-redis")
    change("standin-redis", name="standin-redis", standin_for="Redis")
    recipes.cache_clear()
    with pytest.raises(RecipeError, match="stands in for redis, which has a recipe of its own"):
        recipes(copied)


def test_the_builder_takes_a_pins_name_for_its_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = recipe.by_name()["tools"]
    seen: list[set[str]] = []

    def pretend(asked: set[str], *_: object) -> dict[str, build.BuiltImage]:
        seen.append(asked)
        made = build.BuiltImage(reference="x", image_id="y", recipe_hash="z")
        return {name: replace(made, reference=name) for name in asked}

    monkeypatch.setattr(build, "_ensure", pretend)
    monkeypatch.setattr(build, "by_pin", lambda: {"thing": replace(tools, name="standin-thing"), "tools": tools})
    built = build.ensure(["thing", "tools"])
    assert {name: image.reference for name, image in built.items()} == {"thing": "standin-thing", "tools": "tools"}
    assert seen == [{"standin-thing", "tools"}]


@pytest.mark.parametrize("each", IMAGES, ids=named)
def test_a_dockerfile_stands_on_our_bases_only(each: Recipe) -> None:
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", dockerfile(each), re.MULTILINE)
    assert stages
    for base, _ in stages:
        assert base == "scratch" or base.strip("${}") in each.bases, base
    declared = set(re.findall(r"^ARG (\w+)$", dockerfile(each), re.MULTILINE))
    assert declared == {*each.bases, *each.args}


@pytest.mark.parametrize("each", IMAGES, ids=named)
def test_nothing_is_fetched_without_a_package_client(each: Recipe) -> None:
    text = dockerfile(each)
    assert not re.search(r"^ADD\b", text, re.MULTILINE)
    assert not re.search(r"^(RUN|COPY)\b.*https?://", text, re.MULTILINE)
    for option in ("--trusted-host", "--insecure", "GONOSUMCHECK", "GONOSUMDB", "GOFLAGS=-insecure", "strict-ssl"):
        assert option not in text
    for line in re.findall(r"^.*pip install.*$", text, re.MULTILINE):
        assert line.count("pip install") == line.count("--require-hashes"), line


@pytest.mark.parametrize("each", IMAGES, ids=named)
def test_the_machines_authorities_stay_in_the_builder(each: Recipe) -> None:
    stage = final_stage(each)
    assert build.CA_BUNDLE not in stage
    assert not re.search(r"COPY --from=\S+ (/|/etc|/run|/usr/local/share)(\s|/ca|/ssl)", stage.replace("/rootfs/", ""))
    assert not re.search(r"ENV .*(SSL_CERT_FILE|PIP_CERT|CA_CERTS)", stage)


@pytest.mark.parametrize("each", IMAGES, ids=named)
def test_the_final_stage_says_what_the_contract_says(each: Recipe) -> None:
    stage, contract = final_stage(each), each.contract
    assert contract is not None
    users = re.findall(r"^USER (\S+)$", stage, re.MULTILINE)
    assert (users[-1] if users else "") == contract.user
    signals = re.findall(r"^STOPSIGNAL (\S+)$", stage, re.MULTILINE)
    assert (signals[-1] if signals else "") == contract.stop_signal
    entrypoints: list[list[str]] = [json.loads(each) for each in re.findall(r"^ENTRYPOINT (.*)$", stage, re.MULTILINE)]
    assert (entrypoints[-1] if entrypoints else []) == list(contract.entrypoint)
    ports = [port for line in re.findall(r"^EXPOSE (.*)$", stage, re.MULTILINE) for port in line.split()]
    last = re.findall(r"^FROM (\S+)", dockerfile(each), re.MULTILINE)[-1].strip("${}")
    below = recipe.by_name().get(each.bases.get(last, ""))
    inherited = list(below.contract.ports) if below and below.contract else []
    assert [*inherited, *(f"{port}/tcp" for port in ports)] == list(contract.ports)


@pytest.mark.parametrize("each", IMAGES, ids=named)
def test_builder_stages_can_be_pruned(each: Recipe) -> None:
    stages = re.split(r"^FROM ", dockerfile(each), flags=re.MULTILINE)[1:-1]
    for stage in stages:
        assert f"LABEL aikit.builder={each.name}" in stage


@pytest.mark.parametrize("each", IMAGES, ids=named)
def test_scripts_are_executable_and_parse(each: Recipe) -> None:
    for path in recipe.files_of(each):
        full = each.folder / path
        first = full.read_bytes()[:40].splitlines()[:1]
        if first and first[0] in (b"#!/bin/sh", b"#!/usr/bin/env bash"):
            shell = "bash" if b"bash" in first[0] else "sh"
            subprocess.run([shell, "-n", str(full)], check=True)
            assert full.stat().st_mode & 0o111 or "start.sh" in path.name


def test_python_requirements_are_pinned_by_hash() -> None:
    folder = recipe.by_name()["open-webui"].folder
    for name in ("requirements.txt", "application.txt", "uv.txt"):
        text = (folder / name).read_text(encoding="utf-8")
        blocks = re.split(r"\n(?=\S)", text.strip())
        for block in blocks:
            assert re.match(r"[A-Za-z0-9_.\[\],-]+==\S+", block), block[:60]
            assert "--hash=sha256:" in block
    wanted = {
        re.split(r"[\[=]", line)[0].lower()
        for line in (folder / "requirements.in").read_text().splitlines()
        if line and not line.startswith("#")
    }
    locked = {re.split(r"==", line)[0].lower() for line in (folder / "requirements.txt").read_text().splitlines()}
    assert wanted <= locked


def test_a_changed_file_changes_the_hash_and_what_stands_on_it(copied: Path) -> None:
    def hashes() -> dict[str, str]:
        recipes.cache_clear()
        return {each.name: content_hash(each) for each in recipes(copied)}

    try:
        before = hashes()
        assert before == {each.name: content_hash(each) for each in ALL}

        (copied / "redis" / "docker-entrypoint.sh").chmod(0o644)
        after = hashes()
        assert {name for name in before if before[name] != after[name]} == {"redis"}

        with (copied / "ollama" / "Dockerfile").open("a") as file:
            file.write("# changed\n")
        again = hashes()
        assert {name for name in after if after[name] != again[name]} == {"ollama", "tiny-models"}

        data = json.loads((copied / "base-trixie" / "recipe.json").read_text())
        data["include"].append("tini")
        (copied / "base-trixie" / "recipe.json").write_text(json.dumps(data))
        last = hashes()
        assert {name for name in again if again[name] == last[name]} == {"base-bookworm", "open-webui"}
    finally:
        recipes.cache_clear()


def test_the_hash_knows_the_architecture() -> None:
    assert content_hash(ALL[0], "amd64") != content_hash(ALL[0], "arm64")


def test_every_problem_of_the_recipes_is_reported_at_once(copied: Path) -> None:
    redis = json.loads((copied / "redis" / "recipe.json").read_text())
    redis["colour"] = "red"
    redis["version"] = "8 or so"
    redis["packages"] = "redis-server"
    (copied / "redis" / "recipe.json").write_text(json.dumps(redis))
    (copied / "haproxy" / "Dockerfile").unlink()
    (copied / "tools" / "recipe.json").write_text("{")
    with pytest.raises(RecipeError) as caught:
        recipes(copied)
    text = str(caught.value)
    for part in (
        "redis/recipe.json: unknown key 'colour'",
        "redis/recipe.json: version '8 or so'",
        "redis/recipe.json: 'packages' must be a list of strings",
        "haproxy/recipe.json: there is no Dockerfile",
        "tools/recipe.json:",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("change", "message"),
    [({"bases": {"BASE": "redis"}}, "stands on itself"), ({"bases": {"BASE": "nothing"}}, "there is no recipe")],
)
def test_bases_must_exist_and_not_go_round(copied: Path, change: dict[str, object], message: str) -> None:
    path = copied / "redis" / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RecipeError, match=message):
        recipes(copied)


def test_a_recipe_is_found_by_its_folder(copied: Path) -> None:
    (copied / "redis").rename(copied / "valkey")
    with pytest.raises(RecipeError, match="is not the folder's name"):
        load(copied / "valkey")


def make(folder: Path, kind: str, seed: int) -> Path:
    target = folder / f"{kind}-{seed}.gguf"
    script = recipe.by_name()["tiny-models"].folder / "mkgguf.py"
    subprocess.run([sys.executable, str(script), kind, str(seed), str(target)], check=True)
    return target


def test_a_tiny_model_is_the_same_for_the_same_seed_and_other_for_another(tmp_path: Path) -> None:
    first = make(tmp_path, "chat", 7)
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    other = make(tmp_path, "chat", 8)
    assert first.stat().st_size == other.stat().st_size
    assert hashlib.sha256(other.read_bytes()).hexdigest() != digest
    assert hashlib.sha256(make(tmp_path, "chat", 7).read_bytes()).hexdigest() == digest
    magic, version, tensors, pairs = struct.unpack("<4sIQQ", first.read_bytes()[:24])
    assert (magic, version) == (b"GGUF", 3)
    assert (tensors, pairs) == (2 + 1 + 2 * 9, 19)


def test_an_unknown_image_is_refused_before_the_engine_is_asked() -> None:
    with pytest.raises(build.BuildError, match="there is no image 'nothing'; there are: "):
        build.ensure(["nothing"])
