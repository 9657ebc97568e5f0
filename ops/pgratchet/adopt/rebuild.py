"""Tries whether the adopted files alone build the schema of the live database, on a scratch server.

The scratch server is the bundled one or that of the environment for drills, never the live one: a migration may create
or change roles, which all databases of a server share.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import psycopg

from pgratchet.adopt.conversion import require_runnable
from pgratchet.database.target import Target
from pgratchet.errors import RatchetError
from pgratchet.migrations.files import Migration
from pgratchet.schema import comparison
from pgratchet.schema.build import build, create_roles, missing_extensions, scratch_server
from pgratchet.schema.live import LiveSchema
from pgratchet.schema.scratch import Scratch

Outcome = Literal["same", "differs", "fails", "refused", "not tried"]
_OTHER_SERVER = "In the inventory set drill_environment to an environment whose server has it, and run again."


@dataclass(frozen=True, slots=True)
class Rebuild:
    """The result of building a database from files. `detail` are lines: mistakes, an error, a diff or a reason."""

    outcome: Outcome
    detail: tuple[str, ...] = ()


def try_rebuild(
    live: LiveSchema, files: Sequence[Migration], excluded_tables: Sequence[str], target: Target | None = None
) -> Rebuild:
    """Build a database from the files and compare its schema with the live one.

    `target` has the scratch server; None uses a bundled server, which ends afterwards.
    """
    if mistakes := require_runnable(files):
        return Rebuild("refused", tuple(mistakes.splitlines()))
    try:
        with scratch_server(live, excluded_tables, target) as scratch:
            return _rebuild(scratch, live, files, with_roles=target is None)
    except (RatchetError, psycopg.Error) as error:
        return not_tried(error)


def not_tried(error: RatchetError | psycopg.Error) -> Rebuild:
    """The result where the live schema cannot be dumped, or no scratch server can be used."""
    reason = f"{error.message}. {error.detail}" if isinstance(error, RatchetError) else f"{error}"
    return Rebuild("not tried", tuple(reason.strip().splitlines()))


def _rebuild(scratch: Scratch, live: LiveSchema, files: Sequence[Migration], *, with_roles: bool) -> Rebuild:
    server = scratch.server
    with closing(server.open_session(server.maintenance)) as connection:
        if missing := missing_extensions(connection, list(live.extensions)):
            reason = f"The scratch server lacks the extension {', '.join(missing)}."
            return Rebuild("not tried", (reason, _OTHER_SERVER))
        if with_roles:
            create_roles(connection, live.roles, files)
    with scratch.database("files") as built:
        try:
            build(scratch, built, files, "rebuild")
        except RatchetError as error:
            return Rebuild("fails", (f"{error.message}.", *error.detail.splitlines()))
        dump = scratch.dump(built)
    lines = comparison.differences(scratch, dump, live.dump, (*live.left_out, server.history.schema))
    return Rebuild("differs" if lines else "same", tuple(lines))
