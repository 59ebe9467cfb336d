"""Containers of which several run become that many containers, each with a name and ports of its own.

Everything after this (checks, budgets, names, start order) sees single containers only. A file that is Derived is
the same in each: its function gets the plan and no number.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from stack.model import ContainerSpec, File, Http, Ref, ServiceSpec, Tcp, Template, Value
from stack.settings import Settings


def expanded(spec: ServiceSpec, settings: Settings) -> ServiceSpec:
    """The service with every container that has replicas in its place so many times: <name>-1, <name>-2, ..."""
    many = [container for container in spec.containers if container.replicas]
    if not many:
        return spec
    names = {container.name for container in many}
    ports = {port.name for container in many for port in container.ports}
    containers: list[ContainerSpec] = []
    for container in spec.containers:
        if container.replicas is None:
            containers.append(container)
            continue
        for number in range(1, container.replicas(settings) + 1):
            containers.append(_numbered(spec.name, container, number, names, ports))
    return replace(spec, containers=tuple(containers))


def _numbered(
    service: str, container: ContainerSpec, number: int, names: Collection[str], ports: Collection[str]
) -> ContainerSpec:
    def own(name: str, known: Collection[str]) -> str:
        return f"{name}-{number}" if name in known else name

    def value(item: Value | Template) -> Value | Template:
        match item:
            case Template(parts):
                return Template(tuple(single(part) for part in parts))
            case _:
                return single(item)

    def single(item: Value) -> Value:
        if isinstance(item, Ref) and item.service == service:
            return replace(item, port=own(item.port, ports))
        return item

    def file(item: File) -> File:
        return (
            replace(item, source=Template(tuple(map(single, item.source.parts))))
            if isinstance(item.source, Template)
            else item
        )

    test = container.health.test
    if isinstance(test, Http | Tcp):
        test = replace(test, port=own(test.port, ports))
    return replace(
        container,
        name=own(container.name, names),
        ports=tuple(replace(port, name=own(port.name, ports)) for port in container.ports),
        env={name: value(item) for name, item in container.env.items()},
        files=tuple(file(item) for item in container.files),
        publish=tuple(replace(item, port=own(item.port, ports)) for item in container.publish),
        health=replace(container.health, test=test),
        after=tuple(own(name, names) for name in container.after),
        replicas=None,
    )
