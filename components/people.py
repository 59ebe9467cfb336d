"""The people and groups that the configuration names. Those made by hand, and their groups, are left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_keycloak as keycloak

from components.common import After, child
from components.realm import Realm


@dataclass(frozen=True, kw_only=True)
class PersonArgs:
    """role: "admin", "editor" or "viewer". groups: names among those of PeopleArgs. enabled: may they log in."""

    username: str
    email: str
    first_name: str
    last_name: str
    role: str
    groups: Sequence[str] = ()
    enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class PeopleArgs:
    """protect: taking somebody or a group out of the program is refused by the engine, instead of deleting them.

    Deleting a user takes their second factors and their id away, under which apps know them, for good.
    """

    realm: Realm
    people: Sequence[PersonArgs] = ()
    groups: Sequence[str] = ()
    protect: bool = True
    after: After = ()


class People(pulumi.ComponentResource):
    """Users without any password: the first is made when somebody asks for it, and is kept nowhere (ADR 0017)."""

    def __init__(self, name: str, args: PeopleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:keycloak:People", name, None, opts)
        gone_with = None if opts is None else opts.deleted_with
        realm = args.realm
        groups = {
            group: keycloak.Group(
                f"group-{group}",
                realm_id=realm.realm_id,
                name=group,
                opts=child(self, args.after, protect=args.protect, deleted_with=gone_with),
            )
            for group in args.groups
        }
        for person in args.people:
            user = keycloak.User(
                f"person-{person.username}",
                realm_id=realm.realm_id,
                username=person.username,
                email=person.email,
                email_verified=True,  # who wrote it down vouches for it; apps join accounts by it
                enabled=person.enabled,
                first_name=person.first_name,
                last_name=person.last_name,
                opts=child(
                    self,
                    args.after,
                    protect=args.protect,
                    deleted_with=gone_with,
                    # Theirs: what they chose themselves, what they are still asked for, whom they come in through.
                    ignore_changes=["attributes", "requiredActions", "federatedIdentities"],
                ),
            )
            keycloak.UserGroups(
                f"person-{person.username}-groups",
                realm_id=realm.realm_id,
                user_id=user.id,
                group_ids=[
                    realm.everybody_group_id,
                    realm.role_group_ids[person.role],
                    *(groups[group].id for group in person.groups),
                ],
                exhaustive=False,  # somebody may add them to more
                opts=child(self, deleted_with=gone_with),
            )
        self.register_outputs({})
