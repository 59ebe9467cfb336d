"""Settings that decide what a service is made of: applied before anything else looks at the service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stack.model import Problem, ServiceSpec
from stack.settings import Settings
from stack.words import did_you_mean, listed, shown


def settled(spec: ServiceSpec, settings: Settings) -> ServiceSpec:
    """The service as the settings want it. A value that names no option changes nothing: see unknown()."""
    for choice in spec.choices:
        option = choice.options.get(choice.read(settings))
        spec = option(spec) if option else spec
    return spec


def unknown(services: Iterable[ServiceSpec], settings: Settings) -> Iterator[Problem]:
    """Values that name no option of the service which they are for."""
    for spec in services:
        for choice in spec.choices:
            value = choice.read(settings)
            if value not in choice.options:
                known = listed(choice.options)
                fix = f"is none for {spec.name}. {did_you_mean(value, choice.options)}There are: {known}"
                yield Problem(where=choice.key, what=shown(value), fix=fix)
