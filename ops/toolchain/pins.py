"""The versions of the toolchain, and the words for where it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from ops.console import KitError
from ops.paths import ROOT

PluginMode = Literal["official", "airgap"]
Origin = Literal["path", "release", "built"]

PLUGINS = ("docker", "keycloak", "random", "tls")

# The oldest CLI that deployments were run with here. Older ones are passed over, not upgraded.
MINIMUM_PULUMI = "3.255.0"

# What `airgap/toolchain/cli` builds; a test compares it with that module's go.mod.
BUILT_PULUMI = "3.256.0"

# The official release that is fetched where its host answers. The checksums were recorded from a public script
# that pins the same release; they could not be compared with the release itself when this was written. If one is
# wrong, the download is refused and the next source is tried: it cannot be installed by mistake.
RELEASE = "3.255.0"
RELEASE_SHA256: Mapping[str, str] = {
    "linux-x64": "cf559568e2c32f7fae56ea3de8ae5fa48973ba8c5aa9dd2b3dc0c8898fe50dba",
    "linux-arm64": "699fbc6ea848d997e9b3645487f108d27b1b55ec807c7576406131e6e080f0e3",
}
RELEASE_URL = "https://get.pulumi.com/releases/sdk"
# A host that does not answer within this time counts as absent: most air-gapped networks drop, not refuse.
PROBE_SECONDS = 3.0
PLUGIN_INSTALL_SECONDS = 300.0

COMPOSE = "2.40.3"
GITLEAKS = "8.30.1"

# The Go modules and the language host that the rest is built from.
SOURCES = ROOT / "airgap" / "toolchain"

BUILT_FROM = "BUILT-FROM.txt"  # beside whatever was built or fetched here: of what, by what


class ToolchainError(KitError):
    """The toolchain cannot be had; the message says what was tried and what to do."""


def parse_version(text: str) -> tuple[int, int, int]:
    """`v3.256.0-beta` -> (3, 256, 0)."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if not match:
        raise ValueError(f"not a version: {text!r}")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def newer_or_same(version: str, minimum: str) -> bool:
    return parse_version(version) >= parse_version(minimum)
