"""Generated secrets: made once, kept encrypted in the state."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_random as random

from components.common import child


@dataclass(frozen=True, kw_only=True)
class SecretArgs:
    """rotation: any change of this word makes a new secret. protect: losing it would lock somebody out."""

    length: int = 32
    special: bool = False
    rotation: str = ""
    protect: bool = True

    def __post_init__(self) -> None:
        if self.length < 8:
            raise ValueError(f"a secret of {self.length} characters can be guessed: use at least 8")


class GeneratedSecret(pulumi.ComponentResource):
    """`.value` is a secret Output with a lower case letter, an upper case letter and a digit in it."""

    value: pulumi.Output[str]

    def __init__(self, name: str, args: SecretArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:secret:GeneratedSecret", name, None, opts)
        password = random.RandomPassword(
            name,
            length=args.length,
            special=args.special,
            min_lower=1,
            min_upper=1,
            min_numeric=1,
            min_special=1 if args.special else 0,
            keepers={"rotation": args.rotation} if args.rotation else None,
            opts=child(self, protect=args.protect),
        )
        self.value = pulumi.Output.secret(password.result)
        self.register_outputs({"value": self.value})


class DigestKey(GeneratedSecret):
    """One per stack. File contents go into labels as their HMAC under this key, so that a change of a file shows
    and nobody who reads a label can try out passwords against it."""

    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, SecretArgs(length=43), opts)
