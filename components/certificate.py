"""The stack's own certificate authority, and certificates for its host names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi


@dataclass(frozen=True, kw_only=True)
class CaArgs:
    common_name: str
    protect: bool = True


class CertificateAuthority(pulumi.ComponentResource):
    """ECDSA P-256, 10 years."""

    ca_pem: pulumi.Output[str]
    private_key_pem: pulumi.Output[str]

    def __init__(self, name: str, args: CaArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:tls:CertificateAuthority", name, None, opts)
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LeafArgs:
    ca: CertificateAuthority
    hosts: Sequence[str]
    ips: Sequence[str] = ()


class LeafCertificate(pulumi.ComponentResource):
    """`.pem` is private key, certificate and CA in one file (secret), as HAProxy takes it."""

    pem: pulumi.Output[str]
    certificate_pem: pulumi.Output[str]

    def __init__(self, name: str, args: LeafArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:tls:LeafCertificate", name, None, opts)
        raise NotImplementedError
