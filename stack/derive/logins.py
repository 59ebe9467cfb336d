"""Who takes logins to databases that end by themselves, as whoever has Role.LOGINS is told of them."""

from __future__ import annotations

from stack.model import Encoding, LoginProvider, Ref, Template, Value
from stack.plan import Plan


def leases(plan: Plan) -> Template:
    """A line for each database whose service takes its login from there: its name, and the service's key in HEX_32."""
    parts: list[Value] = []
    for owned in plan.databases:
        spec = plan.service(owned.owner).spec
        if owned.item.leased and any(secret.name == LoginProvider.KEY for secret in spec.secrets):
            port = next(port.name for container in spec.containers for port in container.ports)
            key = f"{{{LoginProvider.KEY}}}"
            parts += [
                f"{owned.item.name} ",
                Ref(spec.name, port, key, secrets=(LoginProvider.KEY,), start=False, encoding=Encoding.HEX_32),
                "\n",
            ]
    return Template(tuple(parts))
