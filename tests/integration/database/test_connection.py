"""Connections that a server refuses: the hint names a similar database, and a role that does not exist."""

from __future__ import annotations

import pytest

from pgratchet.database.connection import connect
from pgratchet.database.target import Origins
from pgratchet.errors import Unreachable
from tests.servers.databases import Database, Server


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_missing_database_names_a_similar_one_of_the_server(server: Server, database: Database) -> None:
    name = database.parameters["dbname"]
    with pytest.raises(Unreachable, match="cannot connect to database") as caught:
        connect({**database.parameters, "dbname": f"{name}x"}, origins=Origins(database="DB_NAME"))
    assert caught.value.detail == f'FATAL: database "{name}x" does not exist.'
    assert caught.value.hint.startswith(f"Did you mean {name}? The name comes from DB_NAME. To create it, run in psql:")


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_missing_role_and_a_missing_socket_are_named(server: Server, database: Database) -> None:
    with pytest.raises(Unreachable) as caught:
        connect({**database.parameters, "user": "nobody_here"})
    assert "CREATE ROLE nobody_here LOGIN" in caught.value.hint
    with pytest.raises(Unreachable) as caught:
        connect({**database.parameters, "port": "1"})
    assert "No such file or directory." in caught.value.detail
    assert "with its socket in" in caught.value.hint
