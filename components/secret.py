"""Generated secrets: made once, kept encrypted in the state."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi


@dataclass(frozen=True, kw_only=True)
class SecretArgs:
    """rotation: any change of this word makes a new secret. protect: losing it would lock somebody out."""

    length: int = 32
    special: bool = False
    rotation: str = ""
    protect: bool = True


class GeneratedSecret(pulumi.ComponentResource):
    """`.value` is a secret Output, at least one lower case, upper case letter and digit in it."""

    value: pulumi.Output[str]

    def __init__(self, name: str, args: SecretArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:secret:GeneratedSecret", name, None, opts)
        raise NotImplementedError
