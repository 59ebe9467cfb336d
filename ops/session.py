"""One stack, as a verb of ./kit works on it: its files, its plan, its engine, its toolchain."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from components.capabilities import VARIABLE as CAPABILITIES
from ops import generations, imagelock, passphrase, planview, pulumirun, source, toolchain
from ops.console import KitError
from ops.engine import DockerApi
from ops.paths import ROOT
from ops.planview import load_plan, used_images
from ops.pulumirun import Pulumi
from ops.stackstate import SALT, Choices, Document, StackState, config_value, merge
from ops.toolchain import Toolchain
from stack import catalog, certificates, lock, rotation
from stack.derive.models import TINY_CHAT, TINY_EMBEDDING
from stack.model import ImageLock, ImagePin, Problem, SpecError
from stack.plan import Plan, docker_prefix
from stack.planning.kept import kept, unclaimed
from stack.settings import stack_file


class Session:
    """Everything a verb needs to know about a stack. Nothing is made or started before it is asked for."""

    def __init__(self, stack: str, root: Path = ROOT) -> None:
        self.stack = stack
        self.root = root
        self.state = StackState(root, stack)
        passphrase.finish(self.state.home)
        self.recorded = generations.Recorded(self.state)
        self.prefix = docker_prefix(stack)
        self.new_choice: Choices | None = None
        self.new_locks: dict[str, ImageLock] = {}
        self.adopt = False  # `up --adopt`: data that another state made becomes this one's
        self.numbers: Mapping[str, tuple[int, ...]] = {}  # generations of secrets in the state
        self.compared = False  # whether the plan's generations of secrets were held against the state's

    # ---------------------------------------------------------------------------------------------- the plan

    @cached_property
    def chosen_images(self) -> str | None:
        """Where images come from: what the stack file says, or what the first `up` chose; None before it."""
        said = config_value(self.state.operator_config(), self.state.project, "images")
        if said:
            return str(said)
        choices = self.state.choices()
        return choices.images if choices else None

    def choose_images(self) -> None:
        """Decide where images come from, where nobody did before. `record_choice` writes it down."""
        if self.chosen_images is None:
            pins = used_images(load_plan(self.root, self.stack))
            self.new_choice = source.decide(source.registry_hosts(pin.repository for pin in pins))
            self.chosen_images = self.new_choice.images

    def record_choice(self) -> Choices | None:
        """Write a new choice down, once nothing stands in the way any more; None when there is none."""
        if self.new_choice is not None:
            self.state.ensure()
            self.state.record(self.new_choice)
        return self.new_choice

    # ------------------------------------------------------------------------------------------------- locks

    @cached_property
    def recorded_locks(self) -> Mapping[str, ImageLock]:
        """What the tags of images stood for when an `up` of this stack first used them."""
        return self.state.image_locks()

    def lock_images(self, plan: Plan) -> Mapping[str, str]:
        """Lock those images of a plan that have no lock, where they come from a registry; those left, and why.

        `record_locks` writes them down, once nothing stands in the way any more.
        """
        if self.chosen_images == source.AIRGAP:
            return {}
        pins = {pin.tagged: pin for pin in used_images(plan) if not pin.digest}
        open_ones = [pin for tagged, pin in pins.items() if tagged not in plan.settings.image_locks]
        if not open_ones:
            return {}
        held = self.docker.get("/images/json")
        arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(str(self.docker.get("/info").get("Architecture")), "")
        first = imagelock.first_use(open_ones, held, arch)
        self.new_locks |= first.locks
        return first.unlocked

    def record_locks(self, plan: Plan) -> None:
        """Keep what this plan's images are locked to, and nothing about others."""
        used = {pin.tagged for pin in used_images(plan)}
        locks = {tagged: item for tagged, item in {**self.recorded_locks, **self.new_locks}.items() if tagged in used}
        if locks != self.recorded_locks:
            self.state.ensure()
            self.state.record_image_locks(locks)

    def overrides(self, *, down: bool = False) -> dict[str, Any]:
        """What ./kit sets in the configuration on top of the stack file, by key."""
        result = self._overrides(down=down)
        if kept := self._kept(result):
            operator = self.state.operator_config()
            for key in ("retired", "without"):  # one that stands in `without` has data all the same
                said = config_value(operator, self.state.project, key)
                result[key] = [name for name in said if name not in kept] if isinstance(said, list) else []
            result["retired"] += kept
        return result

    def _kept(self, overrides: Mapping[str, Any]) -> list[str]:
        """The services that are not selected (any more) and have data or secrets in the state: they stay there."""
        lasting = generations.lasting(self.recorded.deployment)
        if not lasting:
            return []
        try:
            # What is to be rotated may be of those that are kept, which are not known yet.
            plan = load_plan(self.root, self.stack, {**overrides, "rotation": []})
        except SpecError:
            return []  # whoever asks for the plan is told
        return list(kept(plan, catalog.discover(), lasting))

    def _overrides(self, *, down: bool) -> dict[str, Any]:
        result: dict[str, Any] = {}
        if self.chosen_images == source.AIRGAP:
            result["images"] = source.AIRGAP
            result["airgapImages"] = [f"{name}={reference}" for name, reference in sorted(self.built_images().items())]
            choices = self.new_choice or self.state.choices()
            if choices and choices.tiny_models:
                result["models"] = list(TINY_CHAT)
                result["embeddingModel"] = TINY_EMBEDDING
        elif locks := {**self.recorded_locks, **self.new_locks}:
            result["imageLocks"] = [lock.format_registry(tagged, item) for tagged, item in sorted(locks.items())]
        if down:
            result["down"] = True
        if self.adopt:
            result["adopt"] = True
        return result

    def built_images(self) -> dict[str, str]:
        """The names our own images have or will have, by pin: computed from their recipes, no engine needed."""
        from airgap.images import by_pin, reference

        return {name: reference(recipe) for name, recipe in by_pin().items()}

    def wanted_images(self, plan: Plan) -> list[str]:
        """The plan's pins that have a recipe, and those every stack uses: files are delivered by `tools`."""
        known = self.built_images()
        wanted = {pin.name for pin in used_images(plan)} | {"tools", "tiny-models"}
        return sorted(wanted & known.keys())

    def older_images(self, plan: Plan) -> list[str]:
        """Which images that are built here are older than what the registry would have given."""
        from airgap.images import recipes

        built = {recipe.name: recipe.version for recipe in recipes()}
        pins: dict[str, ImagePin] = {pin.name: pin for pin in used_images(plan)}
        return source.older_than_pins({name: pin.tag for name, pin in pins.items()}, built)

    def plan(self, *, down: bool = False) -> Plan:
        """The resolved plan. SpecError with every problem when there is none."""
        plan = load_plan(self.root, self.stack, self.overrides(down=down))
        if lost := unclaimed(plan, generations.lasting(self.recorded.deployment)):
            raise SpecError(f"stack {self.stack} has data that nobody declares", lost)
        return plan

    def moved(self, plan: Plan) -> list[str]:
        """What changed since an `up` last went through and matters to what is there already."""
        before = self.state.settled()
        return planview.moved(plan, before) if before is not None else []

    def record_settled(self, plan: Plan) -> None:
        """An `up` went through: from now on other values of its choices are a change."""
        choices = (choice for service in plan.running for choice in service.spec.choices)
        self.state.record_settled({choice.key: choice.read(plan.settings) for choice in choices})

    def plan_or_problems(self) -> tuple[Plan | None, tuple[Problem, ...]]:
        """The plan, or what is wrong with it."""
        try:
            plan = self.plan()
        except SpecError as error:
            return None, error.problems
        self.compared = self.state.checkpoint is not None
        deployment = self.recorded.deployment
        self.numbers = generations.numbers(plan, deployment)
        plan = replace(plan, held=self.numbers)
        wrong = generations.overtaken(self.state, plan) or generations.backwards(plan, deployment)
        return plan, (*wrong, *certificates.problems(plan, self.root))

    def check_certificates(self, plan: Plan) -> None:
        """SpecError when what the operator brings for the front door cannot be used.

        Apart from the plan: a stack whose certificate has ended can still be looked at, and taken down.
        """
        if found := certificates.problems(plan, self.root):
            raise SpecError(f"{stack_file(self.stack)} cannot be planned", found)

    # ------------------------------------------------------------------------------------- engine and Pulumi

    @cached_property
    def docker_host(self) -> str | None:
        """The engine's address from the stack file; None for the local one."""
        return config_value(self.state.operator_config(), self.state.project, "dockerHost") or None

    @cached_property
    def docker(self) -> DockerApi:
        """The stack's engine."""
        return DockerApi(self.docker_host)

    def pulumi(self, tools: Toolchain) -> Pulumi:
        """The CLI, ready to work on this stack's state."""
        self.state.ensure()
        environment = self.state.environment(tools.env, Path(sys.executable))
        if self.compared:
            environment.setdefault(rotation.CHECKED, json.dumps(self.numbers))
        if tools.plugin_mode == "airgap":  # older than the SDKs: newer arguments pass a gate
            environment.setdefault(CAPABILITIES, str(self.root / "airgap" / "toolchain" / "capabilities.json"))
        return Pulumi(tools.pulumi, environment, self.state)

    def toolchain_or_none(self) -> Toolchain | None:
        """The toolchain as far as it is there already; None before the first `up`."""
        return toolchain.current(toolchain.sdk_versions())

    def ready_pulumi(self) -> Pulumi:
        """Pulumi for verbs that install nothing."""
        tools = self.toolchain_or_none()
        if tools is None:
            raise KitError("Pulumi is not installed yet.", f"./kit up {self.stack} installs it.")
        return self.pulumi(tools)

    def write_config(self, pulumi: Pulumi, *, down: bool = False, checked: bool = False) -> Document:
        """Write the merged copy; makes the stack in the backend first where it is missing.

        KitError when the passphrase does not open it, unless that was `checked` just now. Returns what was written.
        """
        known = pulumi.known()
        salt = None
        previous = self.state.merged_config()
        operator = self.state.operator_config()
        if not known and not operator.get(SALT):
            salt = pulumi.initialise()
            previous = {}  # its salt was another state's
        elif not known:
            pulumi.initialise()
        elif not previous.get(SALT) and not operator.get(SALT):
            salt = pulumi.recorded_salt()
        document = merge(operator, previous, self.overrides(down=down), project=self.state.project, salt=salt)
        if document.get(SALT) and not checked and not pulumi.passphrase_fits(document):
            raise KitError(*pulumirun.wrong_passphrase(self.state))
        self.state.write_config(document)
        return document

    def outputs(self, pulumi: Pulumi) -> Mapping[str, Any]:
        """The stack's outputs; KitError when it has none yet."""
        if not pulumi.known():
            raise KitError(f"stack {self.stack} does not exist yet.", f"./kit up {self.stack}")
        return pulumi.outputs()
