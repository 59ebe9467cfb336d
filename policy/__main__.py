"""The rules of stack/policy.py as a policy pack: pulumi preview --policy-pack policy. docs/security.md says how.

It knows the exceptions of every service by the services' own files. Nothing is decided here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

from stack import catalog, policy

EXEMPTIONS = policy.exemptions(catalog.discover())


def known(value: Any) -> Any:
    """Inputs as plain values, with UNKNOWN in place of what the engine cannot know before it deploys."""
    if isinstance(value, Mapping):
        return {key: _item(value, key) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_item(value, index) for index in range(len(value))]
    return value


def _item(value: Any, key: Any) -> Any:
    try:
        return known(value[key])
    except UnknownValueError:
        return policy.UNKNOWN


def rule(name: str, title: str) -> ResourceValidationPolicy:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        if args.resource_type == policy.CONTAINER:
            breaches, _ = policy.judge(policy.Container(known(args.props)), EXEMPTIONS)
            for breach in breaches:
                if breach.rule == name:
                    report(f"{breach.where}: {breach.what}", None)

    return ResourceValidationPolicy(name=name, description=title, validate=validate)


def networks(args: ResourceValidationArgs, report: ReportViolation) -> None:
    if args.resource_type == policy.NETWORK:
        for breach in policy.network(known(args.props)):
            report(f"{breach.where}: {breach.what}", None)


ZONES: Callable[[ResourceValidationArgs, ReportViolation], None] = networks

PolicyPack(
    name="ai-kit",
    enforcement_level=EnforcementLevel.MANDATORY,
    policies=[
        *(rule(name, title) for name, (title, _) in policy.RULES.items()),
        ResourceValidationPolicy(name="zones", description="A network is as closed as its zone", validate=ZONES),
    ],
)
