"""Failed connections: the text of libpq without the address, and a hint for its kind. No hint has a secret."""

from __future__ import annotations

import pytest

from pgratchet.database.connection_errors import Failure, explain, shorten
from pgratchet.database.target import Origins
from pgratchet.errors import Unreachable

PARAMETERS = {"host": "db", "port": "5433", "dbname": "shop", "user": "owner", "password": "hunter2"}
ORIGINS = Origins("PGPW", "DB_HOST", "DB_USER", "DB_NAME")
AT = 'connection failed: connection to server at "db", port 5433 failed: '
SOCKET = 'connection is bad: connection to server on socket "/s/.s.PGSQL.1" failed: '
ABNORMAL = "\n\tThis probably means the server terminated abnormally\n\tbefore or while processing the request."
GUESS = "\n\tIs the server running on that host and accepting TCP/IP connections?"

SEVERAL = f"""{AT}Connection refused{GUESS}
Multiple connection attempts failed. All failures were:
- host: 'a', port: '1', hostaddr: '10.0.0.5': {AT}Connection refused{GUESS}
- host: 'b', port: '2', hostaddr: '10.0.0.6': {AT}timeout expired"""


def hint(message: str, origins: Origins = ORIGINS, similar: str = "") -> str:
    error = explain(Failure(message, PARAMETERS, origins, lambda: similar), "there")
    assert isinstance(error, Unreachable)
    assert error.message == "cannot connect to there"
    assert "hunter2" not in str(error)
    return error.hint


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        (f"{AT}FATAL:  password authentication failed", "FATAL: password authentication failed."),
        (f"{AT}Connection refused{GUESS}", "Connection refused."),
        (f"{AT.replace('db', '10.0.0.5')}Connection refused{GUESS}", "10.0.0.5: Connection refused."),
        (f"{AT.replace('db', '127.0.0.1')}Connection refused{GUESS}", "Connection refused."),
        ('connection to server at "db" (10.0.0.5), port 5433 failed: timeout expired\n', "timeout expired."),
        (f"{SOCKET}No such file or directory{GUESS}", "/s/.s.PGSQL.1: No such file or directory."),
        (f"{AT}server closed the connection unexpectedly{ABNORMAL}", "server closed the connection unexpectedly."),
        (f"{AT}FATAL:  one\nDETAIL:  two\n\tthree", "FATAL: one. DETAIL: two. three."),
        (SEVERAL, "10.0.0.5: Connection refused.\n10.0.0.6: timeout expired."),
        ("connection timeout expired", "connection timeout expired."),
    ],
)
def test_the_detail_is_libpqs_text_without_the_address(message: str, detail: str) -> None:
    assert shorten(message, PARAMETERS) == detail


def test_several_hosts_are_named_with_their_failures() -> None:
    shown = shorten(SEVERAL, PARAMETERS | {"host": "a,b", "port": "1,2"})
    assert shown == "a, port 1: Connection refused.\nb, port 2: timeout expired."


def test_a_wrong_password_names_where_it_comes_from() -> None:
    message = f'{AT}FATAL:  password authentication failed for user "owner"'
    assert hint(message) == "The password comes from PGPW. Check it, and that it is the one of owner."
    assert hint(message, Origins()) == "Check the password of owner, and the role's name in pg_user."


def test_a_missing_database_names_a_similar_one_and_how_to_create_it() -> None:
    message = f'{AT}FATAL:  database "shop" does not exist'
    create = "To create it, run in psql: CREATE DATABASE shop OWNER owner;"
    assert hint(message, similar="Did you mean shops?") == f"Did you mean shops? The name comes from DB_NAME. {create}"
    assert hint(message, Origins()) == create


def test_names_are_quoted_where_sql_needs_it() -> None:
    parameters = PARAMETERS | {"user": 'My "role"'}
    message = f'{AT}FATAL:  role "My "role"" does not exist'
    error = explain(Failure(message, parameters, Origins(), str), "there")
    assert 'CREATE ROLE "My ""role""" LOGIN' in error.hint


def test_a_refused_connection_names_the_variable_without_which_the_bundled_server_is_used() -> None:
    message = f"{AT}Connection refused{GUESS}"
    check = "Is the server running, and does it listen on db, port 5433?"
    assert hint(message) == f"{check} The address comes from DB_HOST."
    bundled = Origins(host="DATABASE_URL", server_variable="DATABASE_URL")
    assert hint(message, bundled) == f"{check} To use the bundled PostgreSQL, unset DATABASE_URL."


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ("fe_sendauth: no password supplied", "Set pg_password or password_command"),
        ('FATAL:  role "owner" does not exist', "The name comes from DB_USER. To create it, run in psql: CREATE ROLE"),
        ('FATAL:  Peer authentication failed for user "owner"', "Set pg_user to it"),
        (
            'FATAL:  no pg_hba.conf entry for host "10.1.2.3", user "owner", database "shop", SSL encryption',
            "Add a line",
        ),
        ('FATAL:  no pg_hba.conf entry for host "10.1.2.3", no encryption', "pg_sslmode: require. If not, add a line"),
        ('FATAL:  no pg_hba.conf entry for host "fe80::1"', "host shop owner fe80::1/128 scram-sha-256"),
        ("server does not support SSL, but SSL was required", "pg_sslmode: prefer"),
        ("SSL error: certificate verify failed", "pg_sslrootcert"),
        ('root certificate file "/x" does not exist', "pg_sslrootcert"),
        ('server certificate for "x" does not match host name "db"', "pg_host"),
        ("failed to resolve host 'db': [Errno -2] Name or service not known", "pg_host"),
        ("connection timeout expired", "firewall"),
        ("FATAL:  the database system is starting up", "Run again"),
        ("server closed the connection unexpectedly", "PostgreSQL server listens on this port"),
        ("FATAL:  une autre langue", "`invoke render` shows them"),
    ],
)
def test_each_kind_of_failure_has_its_own_hint(message: str, part: str) -> None:
    assert part in hint(AT + message)
