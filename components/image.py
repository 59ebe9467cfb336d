"""An image: pulled by tag and digest, or already there because it was built on the machine."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from components.common import child


@dataclass(frozen=True, kw_only=True)
class ImageArgs:
    """reference: repository:tag[@digest]. local: built on this machine, nothing to pull."""

    reference: str
    local: bool


class Image(pulumi.ComponentResource):
    """`.reference` is what containers take as their image."""

    reference: pulumi.Output[str]

    def __init__(self, name: str, args: ImageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:Image", name, None, opts)
        if args.local:
            self.reference = pulumi.Output.from_input(args.reference)
        else:
            pulled = docker.RemoteImage(
                name,
                name=args.reference,
                # A replaced or destroyed image may still be in use by a container, of this stack or of another.
                keep_locally=True,
                opts=child(self),
            )
            self.reference = pulled.image_id
        self.register_outputs({"reference": self.reference})
