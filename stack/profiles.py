"""User-facing bundles of services. A service says in its own file to which it belongs."""

from __future__ import annotations

from collections.abc import Mapping

from stack.model import Profile

PROFILES: Mapping[Profile, str] = {
    Profile.API: "One OpenAI-compatible API for all models, with a key, a limit and a count for each person",
    Profile.AUTOMATION: "Workflows that answer webhooks, run on a schedule and call other services",
    Profile.CHAT: "Chat with local models in a browser, documents included",
    Profile.CLOUD: "Answers from OpenAI, or who speaks like it, where no local model can: questions leave the machine",
    Profile.GRAPH: "A graph database for services and workflows",
    Profile.REPLICA: "A second copy of the database, a moment behind, to go on with when the first is lost",
    Profile.SUPABASE: "A backend for apps of one's own: users, and a REST API over tables that are private by row",
}
