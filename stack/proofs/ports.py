"""What should be closed is closed."""

from __future__ import annotations

from stack.proofs.context import ProofContext, ProofError


def closed(ctx: ProofContext) -> None:
    """No port of the proof's own service answers on the host."""
    service = ctx.plan.service(ctx.service)
    for container in service.containers:
        for port in container.spec.ports:
            ctx.step(f"port {port.number} ({port.name}) on {ctx.address}")
            found = ctx.exposed(port.number)
            if found:
                raise ProofError(f"port {port.number} answers outside, published by {found}")


def only_published(ctx: ProofContext) -> None:
    """Of all ports of all services, only those that the plan publishes answer on the host."""
    ports = {
        port.number: f"{service.name}'s {port.name}"
        for service in ctx.plan.running
        for container in service.containers
        for port in container.spec.ports
    }
    for number, name in sorted(ports.items()):
        ctx.step(f"{name} at port {number} of {ctx.address}")
        found = ctx.exposed(number)
        if found:
            raise ProofError(f"{name} answers at port {number}, published by {found}")
    ctx.note(f"{len(ports)} ports tried")
