"""A database and its role, made by an idempotent job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pulumi

from components.common import Content, Done
from components.job import Job, JobArgs


@dataclass(frozen=True, kw_only=True)
class DatabaseArgs:
    """job: as the database's provider wants it run. The password becomes its file <files_dir>/password."""

    database: str
    role: str
    password: pulumi.Input[str]
    job: JobArgs
    extensions: Sequence[str] = ()


class Database(pulumi.ComponentResource):
    """`.done` when the database is there and its role has the password."""

    done: Done

    def __init__(self, name: str, args: DatabaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:Database", name, None, opts)
        job = Job(
            name,
            replace(
                args.job,
                env={
                    **args.job.env,
                    "KIT_DATABASE": args.database,
                    "KIT_ROLE": args.role,
                    "KIT_EXTENSIONS": " ".join(args.extensions),
                },
                files=[*args.job.files, Content(name="password", content=args.password)],
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.done = job.done
        self.register_outputs({})
