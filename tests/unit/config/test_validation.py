"""Types of variables: numbers and booleans in quotes, and values of another type."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from pgratchet.config import inventory, settings
from pgratchet.errors import ConfigurationError
from pgratchet.variables import PortList, Ports, Text, Variables
from tests.unit.config.helpers import TEMPLATES, no_server, resolve

QUOTED: dict[str, tuple[object, object]] = {
    **{name: ("7", 7) for name, kind in get_type_hints(Variables).items() if kind is int},
    **dict.fromkeys(("embedded", "confirm"), ("False", False)),
    **dict.fromkeys(("pg_port", "pg_direct_port", "pg_system_identifier"), ("7", "7")),
}


@pytest.mark.parametrize("name", QUOTED)
def test_a_number_or_boolean_may_be_in_quotes(tmp_path: Path, name: str) -> None:
    text, value = QUOTED[name]
    (tmp_path / "x.yml").write_text(f'all: {{hosts: {{h: {{pg_dbname: d, pg_user: u, {name}: "{text}"}}}}}}')
    (target,) = inventory.load(tmp_path, "x")
    rendered = settings.render_target(target, TEMPLATES, {}, no_server)
    assert getattr(rendered.variables, name) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("'yes'", True), ("'No'", False), ("'ON'", True), ("'off'", False), ("'true'", True), ("'False'", False)),
        *(("'1'", True), ("0", False), ("yes", True), ("\"{{ env('NOWHERE', 'yes') }}\"", True)),
    ],
)
def test_a_boolean_may_be_any_of_yamls_words(tmp_path: Path, text: str, value: bool) -> None:
    (tmp_path / "x.yml").write_text(f"all: {{hosts: {{h: {{pg_dbname: d, pg_user: u, confirm: {text}}}}}}}")
    (target,) = inventory.load(tmp_path, "x")
    assert settings.render_target(target, TEMPLATES, {}, no_server).variables.confirm is value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pg_dbname: 2024", "pg_dbname: expected a text that is not empty, not 2024. Put the value in quotes."),
        ("pg_user: 1e3.5", None),
        ("pg_user: 2024-01-01", "pg_user: expected a text. Put the value in quotes."),
        ("pg_user: yes", "pg_user: expected a text, not true. Put the value in quotes."),
        ("pg_port: yes", "pg_port: expected a port from 1 to 65535"),
        ("pg_port: 5432.5", "pg_port: expected a port from 1 to 65535"),
        ("lock_timeout: '5 s'", 'lock_timeout: "5 s": write milliseconds, 5000.'),
        ("migration_timeout: 1.5min", 'migration_timeout: "1.5min": write milliseconds, 90000.'),
        ("ssh_timeout: 2 m", 'ssh_timeout: "2 m": write seconds, 120.'),
        ("ssh_timeout: 1h", 'ssh_timeout: expected a whole number of seconds from 1 to 600, not "1h".'),
        ("ssh_timeout: 1500ms", 'ssh_timeout: expected a whole number of seconds from 1 to 600, not "1500ms".'),
        ("backup_keep_days: 2 weeks", 'backup_keep_days: "2 weeks": write days, 14.'),
        ("backup_parallel_from: 10GB", 'backup_parallel_from: "10GB": write bytes, 10000000000.'),
        ("backup_parallel_from: 1 MiB", 'backup_parallel_from: "1 MiB": write bytes, 1048576.'),
        ("backup_jobs: 4s", 'backup_jobs: expected a whole number from 1 to 64, not "4s".'),
        (
            "lock_timeout: three",
            'lock_timeout: expected a whole number of milliseconds from 0 to 2147483647, not "three".',
        ),
        ("lock_timeout: -1", "lock_timeout: expected a whole number of milliseconds from 0 to 2147483647, not -1."),
        ("password_command: pass show x", "expected a list of texts that are not empty. Write it as a list:"),
        ("backup_store_options: {timeout: 5}", "backup_store_options: expected a mapping of names to texts."),
        (
            "backup_policy: sometimes",
            'backup_policy: expected one of always, when-destructive, never, not "sometimes".',
        ),
        ("backup_policy: allways", 'never, not "allways". Did you mean always?'),
        ("pg_sslmode: verify_full", 'not "verify_full". Did you mean verify-full?'),
        ("pg_sslmode: REQUIRED", 'not "REQUIRED". Did you mean require?'),
        ("confirm: perhaps", 'confirm: expected true or false, not "perhaps".'),
        ("pg_port: 70000", "separated by commas, not 70000."),
        ("pg_port: 0", "separated by commas, not 0."),
        ("pg_direct_port: -1", "separated by commas, not -1."),
        ("reach: 'off'", 'reach: expected one of local, ssh, tunnel, not "off".'),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_in_words(tmp_path: Path, line: str, message: str | None) -> None:
    base = "" if line.startswith("pg_dbname") else "pg_dbname: d, "
    (tmp_path / "x.yml").write_text(f"all: {{hosts: {{h: {{{base}{line}}}}}}}")
    if message is None:
        inventory.load(tmp_path, "x")
        return
    with pytest.raises(ConfigurationError) as caught:
        inventory.load(tmp_path, "x")
    assert message in caught.value.detail
    assert not message.endswith(".") or caught.value.detail.endswith(message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pg_host: localhost:5432", "pg_host has a port: write pg_host: localhost and pg_port: 5432."),
        ("pg_host: 'a,b:5433'", "pg_host has a port: write pg_host: b and pg_port: 5433."),
        (
            "pg_direct_host: '[::1]:6000'",
            "pg_direct_host has a port: write pg_direct_host: ::1 and pg_direct_port: 6000.",
        ),
        ("pg_host: '[::1]'", "pg_host: write the address without brackets: ::1."),
        ("pg_host: postgresql://h/d", "pg_host: expected the name or address of a server. Write a URL as pg_url."),
        ("pg_host: u:hunter2@h:1", "pg_host: expected the name or address of a server. Write a URL as pg_url."),
        *((f"pg_host: '{host}'", None) for host in ("::1", "fe80::1%eth0", "/tmp/a:1", "@abstract", "a.b,c", "")),
    ],
)
def test_a_host_in_the_form_of_a_url_is_refused(tmp_path: Path, line: str, message: str | None) -> None:
    (tmp_path / "x.yml").write_text(f"all: {{hosts: {{h: {{pg_dbname: d, {line}}}}}}}")
    if message is None:
        inventory.load(tmp_path, "x")
        return
    with pytest.raises(ConfigurationError) as caught:
        inventory.load(tmp_path, "x")
    assert caught.value.detail == f"{tmp_path}/x.yml:1: target h: {message}"


def test_a_url_in_the_inventory_that_cannot_be_read_is_named_and_not_a_missing_database(tmp_path: Path) -> None:
    for url, message in (
        ("mysql://h/d", "It begins with mysql://. Begin it with postgresql://"),
        ("postgresql://h/d?sslmod=require", "sslmod: libpq does not know it. Did you mean sslmode?"),
    ):
        (tmp_path / "x.yml").write_text(f"all: {{hosts: {{h: {{pg_url: '{url}'}}}}}}")
        with pytest.raises(ConfigurationError, match=r"1 mistake\n") as caught:
            inventory.load(tmp_path, "x")
        assert message in caught.value.detail
        assert "pg_dbname" not in caught.value.detail
    (tmp_path / "x.yml").write_text("all: {hosts: {h: {pg_url: 'postgresql://h/d'}}}")
    with pytest.raises(ConfigurationError, match=r"pg_dbname is missing. It is needed beside pg_url too."):
        inventory.load(tmp_path, "x")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"pg_host": "a,b,c", "pg_port": "1,2"}, "pg_port: 2 ports for 3 hosts"),
        ({"pg_host": "a", "pg_port": "1,2"}, "pg_port: 2 ports for 1 hosts"),
        ({"pg_direct_host": "a,b", "pg_direct_port": "1,2,3"}, "pg_direct_port: 3 ports for 2 hosts"),
        ({"pg_host": "a,b", "reach": "tunnel", "ssh_host": "s"}, "pg_host: reach: tunnel connects to one server"),
        (
            {"pg_direct_host": "a,b", "reach": "tunnel", "ssh_host": "s"},
            "pg_direct_host: reach: tunnel connects to one",
        ),
        ({"pg_host": "a,b", "pg_port": "1,65536"}, "pg_port: expected a port from 1 to 65535"),
        ({"pg_port": 0}, "pg_port: expected a port from 1 to 65535"),
        ({"pg_port": "05432"}, "pg_port: expected a port from 1 to 65535"),
    ],
)
def test_hosts_and_ports_that_do_not_fit_are_named(variables: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve({}, **variables)
    assert message in caught.value.detail


@pytest.mark.parametrize("text", ["true", "yes", "'true'", "'Yes'", "'1'", "\"{{ env('E', 'on') }}\""])
def test_a_quoted_embedded_uses_the_bundled_server(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yml").write_text(f"all: {{hosts: {{h: {{pg_dbname: d, embedded: {text}}}}}}}")
    (target,) = inventory.load(tmp_path, "x")
    server = {"host": "/socket", "port": "5432", "user": "me"}
    assert settings.render_target(target, TEMPLATES, {}, lambda: server).connection["host"] == "/socket"


@pytest.mark.parametrize("text", ["false", "'no'", "'0'", "\"{{ env('E', 'false') }}\""])
def test_a_quoted_false_contradicts_nothing(text: str) -> None:
    target = resolve(embedded=text.strip("'\""), reach="tunnel", ssh_host="s")
    assert target.variables.embedded is False


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_only_a_line_feed_ends_a_line_of_the_service_file(character: str) -> None:
    name = f"x{character}host=evil"
    target = resolve({"NAME": name}, pg_user="{{ env('NAME') }}")
    assert (target.connection["host"], target.connection["user"]) == ("h", name)


def test_marks_of_different_meaning_are_unequal() -> None:
    """`typing` before Python 3.11.4 keeps one of two Annotated types whose marks are equal, such as empty tuples."""
    assert get_args(Text)[1] != get_args(PortList)[1]
    assert isinstance(get_args(PortList)[1], Ports)
