"""docs/reference/config.md, made from Pulumi.yaml: pytest --update-goldens writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from stack import catalog, project

HEAD = """\
<!-- Made from Pulumi.yaml by ops/configref.py. Change the descriptions there, then: pytest --update-goldens -->
# Configuration

A stack is a file `Pulumi.<stack>.yaml` with these keys under `config:`, each with the prefix `ai-kit:`. Only what
differs from the default needs to be there. `./kit plan <stack>` says what follows from it, or all that is wrong.

| key | type | default | meaning |
|---|---|---|---|
"""

PROFILES = """
## Profiles

| name in `profiles` | what it is for | services |
|---|---|---|
"""

TAIL = """
## Changing it

```
pulumi config set httpsPort 443 -s dev
pulumi config set --path 'models[0]' llama3.2:3b -s dev
```

or in the file:

```yaml
config:
  ai-kit:httpsPort: 443
  ai-kit:models: [llama3.2:3b]
```

Secrets are never written in clear text: `pulumi config set --secret KEY -s dev`. The plan names each one that a
service expects and does not have.

Unknown keys, wrong types and impossible values are refused before anything changes, all together, each with the way
out. Another machine of the same kind is another stack: copy the file, and give it a name of its own.
"""


ESCAPED = str.maketrans({"|": "\\|", "<": "&lt;", ">": "&gt;", "*": "\\*"})


def render(root: Path) -> str:
    """The page."""
    lines: list[str] = []
    for name, entry in project.schema(root).items():
        kind = f"list of {entry['items']['type']}s" if entry["type"] == "array" else entry["type"]
        default = f"`{json.dumps(entry['default'])}`" if "default" in entry else "none: it must be said"
        meaning = str(entry["description"]).translate(ESCAPED)
        lines.append(f"| `{name}` | {kind} | {default} | {meaning} |\n")
    return HEAD + "".join(lines) + PROFILES + "".join(_profiles()) + TAIL


def _profiles() -> Iterator[str]:
    """One line per profile, as the services' files say."""
    services = catalog.discover()
    for name, summary in catalog.profiles(services).items():
        members = ", ".join(spec.name for spec in catalog.members(services, name))
        yield f"| `{name}` | {summary.translate(ESCAPED)} | {members} |\n"
