"""Reads the fields of a server's error that show what it is about."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg

_DO_LINE = re.compile(r"inline_code_block\D+(\d+)")
_QUOTED = re.compile(r'"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The subject of an error, as far as the server names it. Positions are in characters, from 1."""

    position: int | None = None
    sqlstate: str | None = None
    names: tuple[str, ...] = ()
    quoted: str = ""
    inner_query: str = ""
    inner_position: int = 1
    do_line: int | None = None
    detail: str = ""

    @classmethod
    def of(cls, error: psycopg.Error) -> Diagnosis:
        fields = error.diag
        position, inner = fields.statement_position, fields.internal_position
        quoted = _QUOTED.search(fields.message_primary or "")
        do_line = _DO_LINE.search(fields.context or "")
        return cls(
            int(position) if position else None,
            error.sqlstate,
            tuple(name for name in (fields.constraint_name, fields.column_name) if name),
            quoted[1] if quoted else "",
            fields.internal_query or "",
            int(inner) if inner else 1,
            int(do_line[1]) if do_line else None,
            fields.message_detail or "",
        )
