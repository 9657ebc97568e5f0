"""Decides whether a failed drill says something about the backup, or only about the scratch server.

The decision is made by SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html), and by the file of
the server's source that raised the error: one SQLSTATE stands for an unknown parameter, collation, role and type alike.
Texts decide only for errors of libpq and pg_restore, which have no SQLSTATE. Both run with LC_ALL=C.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg

from pgratchet.backups.processes import ProgramFailed

_OF_THE_SERVER = (
    *("08", "53", "57", "58", "F0", "HV"),
    *("0A000", "25006", "25P03", "25P04", "40001", "40P01", "54001", "55P03", "XX001", "XX002"),
)
"""Classes and codes of errors whose cause is the server, whatever the statement.

The classes are connections, resources, operators, files and libraries, configuration, and foreign-data wrappers.
"""
_PRIVILEGE = "42501"
_MISSING_HERE = (
    *("guc", "pg_locale", "collationcmds", "namespace", "tablespace", "amcmds", "dfmgr", "extension", "acl", "user"),
    "reloptions",
)
"""Beginnings of the names of PostgreSQL's source files that look up what a server has or supports.

A statement of pg_dump's own qualifies every name, so such a name is missing on the server. In the body of a function,
the same error may come from the search_path.
"""
_DATA = ("TABLE DATA ", "MATERIALIZED VIEW DATA ", "SEQUENCE SET ")
_BY_LOCALE = ("23505", "23514", "23P01")
"""Violations that another order or case of characters can cause: unique, check and exclusion constraints."""
_EXISTS = ("42P06", "42P07", "42710", "42723")
"""Errors of a statement that had taken effect before its session was lost."""
_NOT_IN_ARCHIVE = ("42P01", "3F000")
"""A table or a schema, which an archive has itself."""
_LOST = (
    "server closed the connection",
    "connection to server",
    "no connection to the server",
    "could not receive data from server",
    "could not send data to server",
    "SSL SYSCALL error",
    "SSL connection has been closed",
    "lost synchronization with server",
    "while INITIALIZING:",
    "unsupported version",
    "out of memory",
)
"""Texts of libpq and pg_restore: the connection is lost, the server refuses pg_restore's first statements, or the
program cannot read this version of an archive."""


_COMPLAINT = re.compile("pg_restore: (error|while INITIALIZING):")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The differences between the scratch server and the server of the backup, as far as they matter for an error."""

    is_superuser: bool = True
    same_major: bool = True
    same_locale: bool = True
    same_extensions: bool = True
    same_settings: bool = True


def is_of_program(error: ProgramFailed) -> bool:
    """Return whether a program failed without having tested the archive: not started, killed, or without a server."""
    if error.program_status is None or error.program_status < 0:
        return True
    own_texts = [line.partition("ERROR:")[0] for line in error.messages if _COMPLAINT.search(line)]
    return any(text in line for line in own_texts for text in _LOST) or any(
        line.startswith(_LOST) for line in error.messages
    )


def is_of_server(error: psycopg.Error, item: str, here: Circumstances) -> bool:
    """Return whether an error comes from the scratch server and not from the backup.

    `item` is the name of the archive's item, beginning with its kind.
    """
    code, source = error.sqlstate, error.diag.source_file or ""
    if code is None or item.startswith("EXTENSION ") or code.startswith(_OF_THE_SERVER) or code in _EXISTS:
        return True
    if code == _PRIVILEGE:
        return not here.is_superuser
    if code in _BY_LOCALE:
        return not here.same_locale
    if source.startswith("guc") and not here.same_settings:
        return True
    if _is_in_function(error):
        return False
    if source.startswith(_MISSING_HERE) and code not in _NOT_IN_ARCHIVE:
        return not (source.startswith("guc") and item.startswith(_DATA))
    return code.startswith("42") and not (here.same_major and here.same_extensions)


def _is_in_function(error: psycopg.Error) -> bool:
    """Return whether a function raised the error. COPY adds a line of its own, also in translations."""
    lines = (error.diag.context or "").splitlines()
    return any(not line.startswith("COPY ") for line in lines)
