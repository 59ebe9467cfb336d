"""What every HAProxy of a stack has in common, as text."""

from __future__ import annotations

HEALTH_PORT = 10405

# Docker's DNS. A name that is not there yet leaves its server down until it is: HAProxy starts first, or alone.
RESOLVERS = """
resolvers docker
    nameserver dns 127.0.0.11:53
    accepted_payload_size 8192
    resolve_retries 2
    timeout resolve 1s
    timeout retry 500ms
    hold valid 5s
    hold nx 1s
    hold other 1s
    hold refused 1s
    hold timeout 1s
    hold obsolete 30s
"""

SERVER_DEFAULTS = (
    "check inter 3s fastinter 1s downinter 1s fall 3 rise 2 resolvers docker init-addr none resolve-prefer ipv4"
)

HEALTH = f"""
frontend healthz
    bind 127.0.0.1:{HEALTH_PORT}
    http-request set-log-level silent
    http-request return status 200 content-type text/plain string "ok" if {{ path /healthz }}
    http-request return status 404
"""

# The path without its query: queries carry authorization codes.
LOG_FORMAT = '"%ci %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %tsc %ac/%bc/%sq/%bq host=%[capture.req.hdr(0)] %HM %HPO"'


def quoted(text: str) -> str:
    """One strongly quoted argument. ValueError when the text holds a single quote or a line break."""
    if "'" in text or "\n" in text:
        raise ValueError(f"cannot be quoted in a haproxy.cfg: {text!r}")
    return f"'{text}'"
