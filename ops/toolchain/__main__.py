"""For people who want the toolchain without ./kit: python3 -m ops.toolchain --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ops.console import KitError
from ops.paths import ROOT
from ops.progress import Progress
from ops.toolchain import ensure, ensure_compose, ensure_gitleaks, sdk_versions
from ops.toolchain.build import write_capabilities


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry for people who want the toolchain without ./kit."""
    parser = argparse.ArgumentParser(prog="python3 -m ops.toolchain", description="Find, fetch or build Pulumi.")
    parser.add_argument("--python", help="the Python whose SDKs say which plugins are wanted (default: .venv or this)")
    parser.add_argument("--again", action="store_true", help="look around anew instead of keeping the earlier choice")
    parser.add_argument("--env", action="store_true", help="print export lines for a shell")
    parser.add_argument("--compose", action="store_true", help="build Docker Compose as well (for bench/)")
    parser.add_argument("--gitleaks", action="store_true", help="build gitleaks and print where it is, nothing else")
    parser.add_argument("--capabilities", action="store_true", help="regenerate airgap/toolchain/capabilities.json")
    options = parser.parse_args(arguments)
    progress = Progress()
    venv = ROOT / ".venv" / "bin" / "python"
    python = options.python or (str(venv) if venv.exists() else sys.executable)
    try:
        if options.capabilities:
            print(write_capabilities(progress))
            return 0
        if options.gitleaks:
            print(ensure_gitleaks(progress))
            return 0
        sdk = sdk_versions(python)
        toolchain = ensure(progress, sdk, again=options.again)
        if options.compose:
            print(ensure_compose(progress))
    except KitError as error:
        print(error.render(), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("stopped; run it again to go on from here", file=sys.stderr)
        return 130
    if options.env:
        for name, value in toolchain.env.items():
            print(f"export {name}='{value}'")
        return 0
    print(f"Pulumi {toolchain.version} ({toolchain.origin}): {toolchain.pulumi}")
    print(f"plugins ({toolchain.plugin_mode}): " + ", ".join(f"{name} {version}" for name, version in sdk.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
