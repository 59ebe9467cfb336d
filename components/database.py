"""A database and its role, made by an idempotent job."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from components.common import Done
from components.job import JobArgs


@dataclass(frozen=True, kw_only=True)
class DatabaseArgs:
    """job: as the database's provider wants it run. The password becomes its file <files_dir>/password."""

    database: str
    role: str
    password: pulumi.Input[str]
    job: JobArgs
    extensions: tuple[str, ...] = ()


class Database(pulumi.ComponentResource):
    """`.done` when the database is there and its role has the password."""

    done: Done

    def __init__(self, name: str, args: DatabaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:Database", name, None, opts)
        raise NotImplementedError
