"""What a stack exports: the one description of it that deploy.py writes and ops/ reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

SECRET_OUTPUTS = frozenset({"admin_client_secret", "admin_password", "keys"})
"""The fields that must be exported as secret outputs."""


@dataclass(frozen=True, kw_only=True)
class StackOutputs:
    """A stack as its operator sees it.

    urls: route name -> public URL without a trailing slash. ca_pem: certificate of the stack's CA; while
    an older one is trusted too, both, the newest first.
    issuer: URL of the realm. admin_url: the identity provider's loopback-only listener, `https://127.0.0.1:8444`,
    and its path where it is at one.
    admin_client_*: the service client of the identity provider's own (master) realm.
    admin_user, admin_password: the permanent administrator of the realm.
    keys: what people need for programs of their own, "service/secret" -> value.
    """

    urls: Mapping[str, str]
    ca_pem: str
    realm: str
    issuer: str
    admin_url: str
    admin_client_id: str
    admin_client_secret: str
    admin_user: str
    admin_password: str
    keys: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_dict(self) -> dict[str, Any]:
        """Export name -> value; the names are those `from_dict` reads."""
        return {export_name(f.name): getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, exported: Mapping[str, Any]) -> StackOutputs:
        """Parse `pulumi stack output --json --show-secrets`. ValueError names all that is missing or mistyped."""
        found: dict[str, Any] = {}
        wrong: list[str] = []
        for f in fields(cls):
            name = export_name(f.name)
            value = exported.get(name)
            if f.name == "keys" and value is None:
                continue  # a stack that was brought up before there were any
            if f.name in ("urls", "keys"):
                texts = cast(Mapping[str, object], value) if isinstance(value, Mapping) else None
                if texts is None or not all(isinstance(text, str) for text in texts.values()):
                    wrong.append(name)
                else:
                    found[f.name] = dict(texts)
            elif isinstance(value, str) and value:
                found[f.name] = value
            else:
                wrong.append(name)
        if wrong:
            raise ValueError(f"the stack exports no usable {', '.join(wrong)}; run ./kit up once more")
        return cls(**found)


def export_name(field: str) -> str:
    """The name under which a field of StackOutputs is exported: camelCase, as Pulumi's users expect."""
    first, *rest = field.split("_")
    return first + "".join(word.capitalize() for word in rest)
