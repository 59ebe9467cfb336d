"""What config.yaml names. LiteLLM loads this file once per name it reads, so everything lives in kit_gateway."""

# pyright: basic, reportMissingImports=false, reportUnusedImport=false

from kit_gateway import authenticate, recorder

__all__ = ["authenticate", "recorder"]
