"""The errors for a history table that cannot be read."""

from __future__ import annotations

import psycopg

from pgratchet.database.connection import first_line
from pgratchet.errors import ConfigurationError

NO_COLUMN = "42703"


def cannot_be_read(schema: str, table: str, role: str, error: psycopg.Error) -> ConfigurationError:
    """The error for a history that this role may not read, or that has other columns."""
    schema, table, role = ('"{}"'.format(name.replace('"', '""')) for name in (schema, table, role))
    if error.sqlstate == NO_COLUMN:
        detail = f"The table {schema}.{table} is no history of pgratchet, or was changed."
        hint = "Set history_schema and history_table in the inventory to a name that no other program uses."
    else:
        detail = f"The role {role} needs to read the table {schema}.{table}. Nothing was changed."
        hint = (
            "Let the owner of the history, or an administrator, run:\n"
            f"GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {schema}.{table} TO {role};"
        )
    return ConfigurationError(f"the history cannot be read: {first_line(error)}", detail=detail, hint=hint)


def hidden_rows(schema: str, table: str) -> ConfigurationError:
    """The error for a history that row-level security may hide rows of."""
    name = f'"{schema}"."{table}"'
    return ConfigurationError(
        "row-level security may hide rows of the history from this role",
        detail=f"The table {name} has row-level security, and its policies apply to this role. A migration whose row "
        "is hidden would count as pending, and would run again.",
        hint=f"Run ALTER TABLE {name} DISABLE ROW LEVEL SECURITY; or connect as a role with BYPASSRLS. The table's "
        "owner can read all rows too, unless FORCE ROW LEVEL SECURITY is set.",
    )
