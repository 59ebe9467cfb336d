"""User-facing bundles of services. A service says in its own file to which it belongs."""

from __future__ import annotations

from collections.abc import Mapping

from stack.model import Profile

PROFILES: Mapping[Profile, str] = {
    Profile.AUTOMATION: "Workflows that answer webhooks, run on a schedule and call other services",
    Profile.CHAT: "Chat with local models in a browser, documents included",
}
