"""The settings of sessions that hold the migration lock, and the statements that reset a session. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pgratchet.database.timeouts import TIMEOUTS

_RESET = (
    b"RESET SESSION AUTHORIZATION",
    b"RESET ROLE",
    b"RESET ALL",
    b"CLOSE ALL",
    b"UNLISTEN *",
    b"DISCARD PLANS",
    b"DISCARD SEQUENCES",
    b"DISCARD TEMP",
)
"""Resets a session as DISCARD ALL does, except for advisory locks; with one of the next two for prepared statements."""
_RESET_DIRECT = (b"DEALLOCATE ALL",)
_RESET_POOLED = (
    # Statements that the pooler prepared by the protocol stay: the pooler counts on them. The pooler also tracks
    # client_encoding, and RESET ALL has set that to the value with which the pooler connected.
    b"""DO $$DECLARE n text; BEGIN FOR n IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql LOOP
    EXECUTE pg_catalog.format('DEALLOCATE %I', n); END LOOP; END$$""",
    b"SET client_encoding = 'UTF8'",
)

_SETTINGS = (
    (130000, b"standard_conforming_strings = on"),
    (130000, b"client_min_messages = notice"),
    *((since, f"{name} = 0".encode()) for name, since in TIMEOUTS.items()),
    (140000, b"client_connection_check_interval = '5s'"),
    (130000, b"tcp_keepalives_idle = 30"),
    (130000, b"tcp_keepalives_interval = 10"),
    (130000, b"tcp_keepalives_count = 3"),
    (130000, b"tcp_user_timeout = 60000"),
)
"""Settings of every session, each with the first server_version_num that has it.

The lexer needs standard_conforming_strings. No timeout of the role or the database may end the session with the lock.
The server ends the statement of a dead client, and ends the session when the network has swallowed the client: without
tcp_user_timeout the lock stays until TCP gives up (test_both_sides_give_up_when_packets_are_dropped).
"""


def session_settings(version: int) -> tuple[bytes, ...]:
    """The settings of a session that holds the migration lock, as a server of this version knows them."""
    return tuple(setting for since, setting in _SETTINGS if version >= since)


def reset_statements(settings: Sequence[bytes], *, pooled: bool) -> tuple[bytes, ...]:
    """A transaction that resets a session and applies the settings. Behind a pooler each transaction sets its own."""
    if pooled:
        return (b"BEGIN READ WRITE", *_RESET, *_RESET_POOLED, b"COMMIT")
    return (b"BEGIN READ WRITE", *_RESET, *_RESET_DIRECT, *(b"SET " + setting for setting in settings), b"COMMIT")


def reset_in_block_statements(settings: Sequence[bytes], *, pooled: bool) -> tuple[bytes, ...]:
    """The statements that reset a session inside a transaction, for the next of several files in it."""
    reset = (*_RESET, *(_RESET_POOLED if pooled else _RESET_DIRECT))
    return (*reset, *(b"SET LOCAL " + setting for setting in settings))
