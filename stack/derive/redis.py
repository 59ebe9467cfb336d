"""What every Redis of a stack has in common, as text: who may do what, and how its health is asked."""

from __future__ import annotations

from stack.model import Command, HealthCheck

PORT = 6379

LISTEN = f"""\
bind * -::*
port {PORT}
dir /data

# Services are the user default; `health` may say PING, whoever it is, and nothing else.
user default on >{{password}} ~* &* +@all -@admin
user health on nopass resetkeys resetchannels -@all +ping
"""

PERSISTENCE = """\
appendonly yes
appendfsync everysec
save ""
"""

# As the user `health`: no password in the probe, and -e fails on LOADING as on any other error.
HEALTH = HealthCheck(
    test=Command(
        ("redis-cli", "-e", "-h", "127.0.0.1", "--user", "health", "--pass", "-", "--no-auth-warning", "ping")
    ),
    interval_s=3,
    start_period_s=30,
)
