"""Checks that new expand files do not need new contract files before them.

A release runs the expand files first, and the contract files after the application was replaced. An expand file behind
a contract file therefore has to work without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from pgratchet.errors import ConfigurationError, MigrationFailed, StoppedPartWay
from pgratchet.formatting import join_names
from pgratchet.migrations.files import Migration
from pgratchet.migrations.scripts import is_contract


def check_phases(
    files: Sequence[Migration], new: Collection[str], apply: Callable[[Sequence[Migration]], object]
) -> None:
    """Apply the files without the new contract files; ConfigurationError when a new expand file behind one fails.

    `new` are the names that the main branch does not have. `apply` applies files to an empty scratch database.
    """
    versioned = [file for file in files if not file.is_repeatable]
    contract = [file for file in versioned if file.name in new and is_contract(file)]
    if not contract:
        return
    behind = [file for file in versioned if file.name in new and file.version > contract[0].version]
    if all(file in contract for file in behind):
        return
    try:
        apply([file for file in versioned if file not in contract])
    except (MigrationFailed, StoppedPartWay) as error:
        failed = next((file for file in behind if error.location and file.name == error.location.migration), None)
        if failed is None:
            raise
        before = [file.name for file in contract if file.version < failed.version]
        raise ConfigurationError(
            f"the expand file {failed.name} needs the contract file before it: {join_names(before)}",
            detail=f"Without that file: {error.message}.",
            hint=f"Give {failed.name} the line `-- migrate: phase=contract` too, or a version before {before[0]}.",
            location=error.location,
        ) from error
