"""User-facing bundles of services. A service says in its own file to which it belongs."""

from __future__ import annotations

from collections.abc import Mapping

from stack.model import Profile

PROFILES: Mapping[Profile, str] = {
    Profile.CHAT: "Chat with local models in a browser, documents included",
    Profile.REPLICA: "A second copy of the database, a moment behind, to go on with when the first is lost",
}
