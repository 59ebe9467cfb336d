"""The only reader of the stack's configuration: raw values in, a frozen Settings or every problem at once out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stack.model import ImageSource, Profile, Target


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the operator decided. One field per config key of Pulumi.yaml (camelCase there), plus the stack's name.

    Sizes are MB unless the name says GB; None means: as the target's profile says.
    """

    stack: str
    target: Target
    domain: str = "kit.localhost"
    bind_address: str = "127.0.0.1"
    http_port: int = 8080
    https_port: int = 8443
    admin_port: int = 8444
    profiles: tuple[Profile, ...] = (Profile.CHAT,)
    without: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    embedding_model: str = ""
    docker_host: str | None = None
    memory_mb: int | None = None
    reserve_mb: int | None = None
    cpus: float | None = None
    disk_gb: int | None = None
    images: ImageSource = ImageSource.REGISTRY
    airgap_images: Mapping[str, str] = field(default_factory=dict)
    realm: str = "kit"
    admin_email: str = "admin@kit.localhost"
    down: bool = False
    provided_secrets: frozenset[str] = frozenset()
