"""./kit model: what the stack's models are, and adding, removing, switching and comparing them."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ops import console, modeleval, modeljob, modelrecord, stackfile
from ops.console import KitError
from ops.modelserver import Model, ModelServer, container_of, server_of, service_of
from ops.paths import private_directory
from ops.planview import load_plan
from ops.progress import Progress
from ops.session import Session
from ops.stackstate import write_atomically
from stack.derive import models
from stack.plan import Plan
from stack.settings import KEYS, UnfitError
from stack.words import did_you_mean, listed

KEY = "models"
FULL_CONTEXT_MB = 300  # what a small model's context and buffers take beside its weights


def run(arguments: argparse.Namespace) -> int:
    """The action that was asked for."""
    session = Session(arguments.stack)
    return _ACTIONS[arguments.action](session, session.plan(), arguments)


# --------------------------------------------------------------------------------------------------------- list


def show(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """What is in the list and what is on the server. Works on a stack that is down, with what is recorded."""
    recorded = modelrecord.read(session.state)
    service_of(plan)
    try:
        server: ModelServer | None = server_of(session, plan)
        why = ""
    except KitError as error:
        server, why = None, error.what
    found = server.models() if server else []
    loaded = server.loaded() if server else {}
    if server:
        modelrecord.remember(session, plan, found)
    rows = overview(plan, found, loaded, recorded)
    if arguments.json:
        console.say(json.dumps({"stack": session.stack, "up": server is not None, "models": rows}, indent=2))
        return 0
    for line in table(rows):
        console.say(line)
    for name, shares in plan.settings.model_aliases.items():
        console.note(f"{name} stands for {', '.join(f'{model} ({share} %)' for model, share in shares.items())}")
    for row in rows:
        if row["changed"]:
            console.warn(f"{row['name']} is not the version that was recorded ({row['recorded']})")
    if why:
        console.note(f"{why} What is shown is the list and what was recorded.")
    missing = [row["name"] for row in rows if row["use"] != "kept" and not row["there"]]
    if server and missing:
        console.warn(f"in the list and not there: {', '.join(missing)}. ./kit up {session.stack} fetches them")
    return 0


def overview(
    plan: Plan, found: Sequence[Model], loaded: Mapping[str, int], recorded: Mapping[str, modelrecord.Recorded]
) -> list[dict[str, Any]]:
    """One row per model, those of the list first. use: chat, embedding, or kept for what is in no list."""
    there = {model.name: model for model in found}
    versions: dict[str, list[str]] = {}
    for name in there:
        if parts := models.kept(name):
            versions.setdefault(parts[0], []).append(parts[1])
    uses: dict[str, str] = {models.tagged(name): "chat" for name in models.chat(plan.settings)}
    embedding = models.tagged(models.embedding(plan.settings))
    uses[embedding] = "chat, embedding" if embedding in uses else "embedding"
    for name in there:
        if not models.kept(name):
            uses.setdefault(name, "kept")
    rows: list[dict[str, Any]] = []
    for name, use in uses.items():
        model, old = there.get(name), recorded.get(name)
        rows.append(
            {
                "name": name,
                "use": use,
                "there": model is not None,
                "digest": model.digest if model else None,
                "version": model.version if model else None,
                "recorded": old.version if old else None,
                "changed": bool(model and old and model.digest != old.digest),
                "size_mb": round(model.size / 2**20) if model else round(old.size / 2**20) if old else None,
                "parameters": model.parameters if model else None,
                "quantization": model.quantization if model else None,
                "loaded_mb": round(loaded[name] / 2**20) if name in loaded else None,
                "versions_kept": sorted(versions.get(name, [])),
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows for a person, each kept version below its model."""
    lines: list[tuple[str, ...]] = [("model", "use", "version", "size", "weights", "loaded")]
    for row in rows:
        size = "-" if row["size_mb"] is None else f"{row['size_mb']:,} MB"
        weights = " ".join(word for word in (row["parameters"], row["quantization"]) if word) or "-"
        loaded = "-" if row["loaded_mb"] is None else f"{row['loaded_mb']:,} MB"
        version = row["version"] or (f"({row['recorded']})" if row["recorded"] else "not there")
        lines.append((row["name"], row["use"], version, size, weights, loaded))
        lines += [("  before", "", version, "", "", "") for version in row["versions_kept"]]
    return console.table(lines, right=frozenset({3, 5}))


# ------------------------------------------------------------------------------------------------- add, remove


def add(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """Fetch a model now and put it into the list; with refresh, newer weights under a name that is there."""
    name, refresh = checked(arguments.name), bool(arguments.refresh)
    server = server_of(session, plan)
    full = models.tagged(name)
    there = {model.name: model for model in server.models()}
    in_list = full in {models.tagged(item) for item in models.all_of(plan.settings)}
    if not in_list:
        refuse_foreign_list(session)
    if full in there and in_list and not refresh:
        fix = f"For newer weights under that name: ./kit model add {name} {session.stack} --refresh"
        raise KitError(f"{name} is there already, version {there[full].version}.", fix, code=2)
    if refresh and full not in there:
        raise KitError(f"{name} is not there, so there is nothing to refresh.", f"./kit model add {name}", code=2)
    if not in_list:
        # As the next `up` will: a list that it refuses must not come about here. By the model's name.
        load_plan(session.root, session.stack, {**session.overrides(), KEY: [*models.chat(plan.settings), name]})
    before = there.get(full)
    with Progress().step(f"{name}") as step:
        modeljob.fetch(session, plan, name, refresh=refresh, note=step.note)
        step.note("")
    found = server.models()
    model = next((item for item in found if item.name == full), None)
    if model is None:
        raise KitError(f"{name} was fetched, and the server does not list it.", "docker logs says why")
    if before is None and not arguments.anyway:
        try:
            refuse_too_large(plan, name, round(model.size / 2**20) + FULL_CONTEXT_MB, "with its context")
        except KitError:
            server.delete(full)
            raise
    if not in_list:
        stackfile.save_list(session.state.stack_file, session.state.project, KEY, [*models.chat(plan.settings), name])
    modelrecord.remember(session, plan, found)
    console.done(f"{name}: version {model.version}, {round(model.size / 2**20):,} MB")
    if before is not None and before.digest != model.digest:
        console.note(f"before it was {before.version}: ./kit model switch {name} {before.version} goes back")
    elif before is not None and refresh:
        console.note("nothing newer is to be had")
    if not in_list:
        console.note(f"{session.state.stack_file.name} names it now; people can choose it at once")
        if plan.settings.ollama_backends:
            console.note(f"the servers of ollamaBackends need it too, before ./kit up {session.stack}")
    return 0


def remove(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """Take a model out of the list and off the server, its kept versions included; or one kept version."""
    name = arguments.name
    full = models.tagged(name)
    server = server_of(session, plan)
    there = {model.name: model for model in server.models()}
    versions = sorted(parts[1] for item in there if (parts := models.kept(item)) and parts[0] == full)
    if arguments.version:
        version = matching(full, arguments.version, versions)
        server.delete(models.kept_name(full, version))
        console.done(f"{name}: version {version} is gone")
        return 0
    chat = models.chat(plan.settings)
    rest = [item for item in chat if models.tagged(item) != full]
    in_list = len(rest) < len(chat)
    if not in_list and full not in there and not versions:
        known = [item for item in there if not models.kept(item)]
        raise KitError(
            f"there is no model {name}. {did_you_mean(full, known)}".strip(), f"Models: {listed(known)}.", code=2
        )
    refuse_needed(plan, name, rest)
    if in_list:
        refuse_foreign_list(session)
        stackfile.save_list(session.state.stack_file, session.state.project, KEY, rest)
    gone = [item for item in (full, *(models.kept_name(full, version) for version in versions)) if item in there]
    for item in gone:
        server.delete(item)
    modelrecord.remember(session, session.plan(), server.models())
    console.done(f"{name} is gone" + (f", with the versions kept of it: {', '.join(versions)}" if versions else ""))
    if in_list:
        console.note(f"{session.state.stack_file.name} no longer names it")
    return 0


def checked(name: str) -> str:
    """A model's name as the settings take it. KitError otherwise, also for the name of a kept version."""
    try:
        KEYS[KEY].check(name)
    except UnfitError as unfit:
        raise KitError(f"{name!r} {unfit}.", "Names are those of Ollama's library.", code=2) from unfit
    if parts := models.kept(name):
        raise KitError(f"{name} is a kept version.", f"./kit model switch {parts[0]} {parts[1]}", code=2)
    return name


def refuse_foreign_list(session: Session) -> None:
    """On a machine that can fetch no models, ./kit chose them: changing the file would change nothing."""
    if KEY in session.overrides():
        raise KitError(
            "this machine can fetch no models, so the list is ./kit's own and the stack file's is not used.",
            f"To choose from those it can make: write images: airgap and the models into Pulumi.{session.stack}.yaml",
            code=2,
        )


def refuse_too_large(plan: Plan, name: str, needed_mb: int | None, how: str) -> None:
    """A model that does not fit the server's memory would be loaded from disk for every word, or not at all."""
    service = service_of(plan)
    container, _ = container_of(service, "api")
    limits = next(item.limits for item in service.containers if item.docker_name == container)
    if needed_mb is not None and needed_mb > limits.memory_mb:
        raise KitError(
            f"{name} does not fit: {how} {needed_mb:,} MB, and the model server has {limits.memory_mb:,} MB.",
            "Take a smaller one or a stronger quantisation. If you know better: --anyway",
            code=2,
        )


def refuse_needed(plan: Plan, name: str, rest: Sequence[str]) -> None:
    """A model that something depends on stays."""
    full = models.tagged(name)
    if full == models.tagged(models.embedding(plan.settings)):
        fix = "Choose another one first (embeddingModel): documents have to be read again then."
        raise KitError(f"{name} finds the documents.", fix, code=2)
    users = [alias.name for alias in models.aliases(plan.settings) for share in alias.shares if share.model == name]
    if users:
        raise KitError(f"{name} answers under the name {users[0]}.", "Change modelAliases first.", code=2)
    if not rest:
        raise KitError(f"{name} is the only model to chat with.", "./kit model add another one first", code=2)


# -------------------------------------------------------------------------------------------------------- switch


def switch(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """Let a name stand for another version of its model; the one it stood for is kept."""
    name, full = arguments.name, models.tagged(arguments.name)
    server = server_of(session, plan)
    there = {model.name: model for model in server.models()}
    if full not in there:
        known = [item for item in there if not models.kept(item)]
        raise KitError(
            f"there is no model {name}. {did_you_mean(full, known)}".strip(), f"Models: {listed(known)}.", code=2
        )
    now = there[full].version
    if now.startswith(arguments.version):
        console.say(f"{name} is {now} already.")
        return 0
    versions = sorted(parts[1] for item in there if (parts := models.kept(item)) and parts[0] == full)
    version = matching(full, arguments.version, versions)
    wanted = there[models.kept_name(full, version)]
    server.copy(full, models.kept_name(full, now))  # first: without a name its weights could be thrown away
    server.copy(wanted.name, full)
    found = server.models()
    after = next(item for item in found if item.name == full)
    if after.digest != wanted.digest:
        raise KitError(f"{name} is {after.version} and not {version}.", "./kit model list says what is there")
    server.delete(wanted.name)
    modelrecord.remember(session, plan, server.models())
    console.done(f"{name} is {version} now, {now} is kept")
    return 0


def matching(name: str, asked: str, versions: Sequence[str]) -> str:
    """The one kept version that begins as asked. KitError when there is none or more than one."""
    found = [version for version in versions if version.startswith(asked.lower())]
    if len(found) == 1:
        return found[0]
    what = "has no kept version" if not found else f"has {len(found)} kept versions that begin with"
    fix = f"Kept: {', '.join(versions)}" if versions else "A version is kept when a refresh brings another."
    raise KitError(f"{name} {what} {asked}.", fix, code=2)


# ---------------------------------------------------------------------------------------------------------- eval


def evaluate(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """0 when every question was answered, 1 when some were not."""
    questions = modeleval.read_questions(Path(arguments.file))
    server = server_of(session, plan)
    there = {model.name for model in server.models()}
    wanted = [item.strip() for item in arguments.models.split(",") if item.strip()] if arguments.models else []
    chosen = list(dict.fromkeys(wanted or models.chat(plan.settings)))
    if len(chosen) < 2:
        raise KitError("to compare takes two models.", f"--models A,B of: {listed(there)}", code=2)
    for name in chosen:
        if models.tagged(name) not in there:
            what = f"there is no model {name}. {did_you_mean(models.tagged(name), there)}".strip()
            raise KitError(what, f"Models: {listed(there)}. A name of modelAliases has no answers of its own.", code=2)
    settings = plan.settings
    price = None
    if settings.electricity_cents and settings.power_watts:
        price = modeleval.Price(cents_per_kwh=settings.electricity_cents, watts=settings.power_watts)
    with Progress().step(f"{len(questions)} questions to {len(chosen)} models") as step:
        found = modeleval.run(
            server.ask, chosen, questions, max_tokens=arguments.max_tokens, price=price, note=step.note
        )
        step.note("")
    document = {"stack": session.stack, "max_tokens": arguments.max_tokens, **found.document()}
    document["versions"] = {
        model.name: model.digest for model in server.models() if model.name in set(map(models.tagged, chosen))
    }
    file = keep(session, document)
    if arguments.json:
        console.say(json.dumps({**document, "file": str(file)}, indent=2))
    else:
        for line in console.table(modeleval.table(found), right=frozenset(range(1, 7))):
            console.say(line)
        for pair, value in found.agreement.items():
            console.note(f"agreement {pair}: " + ("-" if value is None else f"{value:.2f}"))
        for score in found.scores:
            if score.failed:
                first = next(answer.error for answer in found.answers[score.model] if answer.error)
                console.warn(f"{score.model}: {first}")
        if price is None:
            console.note("the price is unknown without electricityCents and powerWatts in the stack file")
        console.note(f"every answer: {file}")
    return 1 if any(score.failed for score in found.scores) else 0


def keep(session: Session, document: Mapping[str, Any]) -> Path:
    """Write an evaluation down beside the stack's state."""
    folder = private_directory(session.state.directory / "evaluations")
    file = folder / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_atomically(file, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return file


_ACTIONS: Mapping[str, Callable[[Session, Plan, argparse.Namespace], int]] = {
    "list": show,
    "add": add,
    "remove": remove,
    "switch": switch,
    "eval": evaluate,
}
