"""Rendering of settings and files: strict, escaped for each format, with secrets fetched late and masked."""

from __future__ import annotations

import ast
import os
import shutil
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pgratchet.config import inventory, settings, written_files
from pgratchet.config.inventory import InventoryTarget
from pgratchet.config.secrets import MASK
from pgratchet.config.settings import RenderedTarget
from pgratchet.database import target as access
from pgratchet.errors import ConfigurationError, RatchetError, Unreachable
from pgratchet.variables import Variables
from tests import ROOT
from tests.requirements import requires
from tests.unit.config.helpers import TEMPLATES, no_server, resolve

SHIPPED = ROOT / "inventory"


def shipped(name: str, environ: dict[str, str]) -> RenderedTarget:
    (target,) = inventory.load(SHIPPED, name)
    return settings.render_target(target, TEMPLATES, environ, lambda: {"host": "/socket", "port": "5432", "user": "me"})


def test_the_service_file_holds_the_connection_parameters() -> None:
    target = resolve(pg_sslmode="verify-full", pg_sslrootcert="system")
    assert target.connection["host"] == "h"
    assert target.connection["sslmode"] == "verify-full"
    assert target.service_file.startswith("# env\n[target]\nhost=h\nport=5432\ndbname=d\nuser=u\n")
    assert set(target.connection.items()) == {
        tuple(line.split("=", 1)) for line in target.service_file.splitlines() if "=" in line
    }


def test_migrations_use_the_direct_address_and_the_application_the_pooler() -> None:
    target = resolve(pg_port=6432, pg_direct_host="primary", pg_direct_port=5433)
    assert (target.connection["host"], target.connection["port"]) == ("primary", "5433")
    application = target.render("database.env", masked=True)
    assert "POSTGRES_HOST='h'\nPOSTGRES_PORT='6432'\n" in application
    assert "@h:6432/d?" in application
    assert "primary" not in application


def test_dev_uses_the_bundled_server_only_if_no_variable_names_another() -> None:
    assert shipped("dev", {}).connection["host"] == "/socket"
    assert shipped("dev", {"MIGRATION_TIMEOUT": "5"}).embedded
    target = shipped("dev", {"POSTGRES_PASSWORD": "p"})
    assert (target.embedded, target.connection["host"], target.connection["user"]) == (False, "localhost", "hyperpage")


def test_a_url_sets_every_parameter_that_it_contains() -> None:
    target = shipped(
        "dev", {"DATABASE_URL": "postgresql://me:p%40ss@db:6000/app?sslmode=require", "POSTGRES_HOST": "x"}
    )
    assert target.connection["host"] == "db"
    assert target.connection["port"] == "6000"
    assert target.connection["dbname"] == "app"
    assert target.connection["user"] == "me"
    assert target.connection["sslmode"] == "require"
    assert target.password() == "p@ss"


def test_database_url_is_ignored_by_other_environments() -> None:
    environ = {"DATABASE_URL": "postgresql://wrong/wrong", "POSTGRES_HOST": "wrong", "TEST_DATABASE_URL": ""}
    for name in ("prod", "staging", "test"):
        assert "wrong" not in shipped(name, environ).service_file


@pytest.mark.parametrize(
    "url",
    [
        "nonsense://x:hunter2@y/z",
        "postgresql://u:hunter2@h:port/d",
        "postgresql://[hunter2",
        "postgresql://u:p@hunter2@h/d",
        "postgresql://u:p/hunter2@h/d",
        "postgresql://u:p?p@hunter2@h/d",
    ],
)
def test_a_bad_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(RatchetError) as caught:
        shipped("dev", {"DATABASE_URL": url})
    assert "hunter2" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "url", ["postgresql://h/d?user=a@b", "postgresql://u:p?p@h/d", "postgresql://u:p@h/d?user=a@b"]
)
def test_special_characters_in_a_url_are_accepted(url: str) -> None:
    assert resolve(pg_url=url).connection["host"] == "h"


def test_the_files_of_several_servers_name_each_of_them() -> None:
    target = resolve({"P": "p"}, pg_host="a,::1", pg_port="5432,5433", pg_password="{{ env('P') }}")
    assert target.render("pgpass", masked=False) == "a:5432:*:u:p\n\\:\\:1:5433:*:u:p\n"
    assert "@a:5432,[::1]:5433/d?" in target.render("database.env", masked=False)
    assert resolve({"P": "p"}, pg_host="a,b", pg_port=1, pg_password="{{ env('P') }}").pgpass() == (
        "a:1:*:u:p\nb:1:*:u:p\n"
    )
    sockets = resolve({"P": "p"}, pg_host="/tmp,a", pg_password="{{ env('P') }}")
    assert sockets.pgpass() == "localhost:5432:*:u:p\n/tmp:5432:*:u:p\na:5432:*:u:p\n"
    assert "@/d?host=%2Ftmp%2Ca&port=5432" in sockets.render("database.env", masked=False)


def test_without_a_host_the_password_is_for_libpqs_socket() -> None:
    target = resolve({"P": "p"}, pg_host="", pg_password="{{ env('P') }}")
    assert target.pgpass() == "localhost:5432:*:u:p\n"
    with pytest.raises(ConfigurationError, match="env: target: pg_host is missing"):
        target.render("database.env", masked=True)


@pytest.mark.parametrize("url", ["", "postgresql://h/d", "postgresql:///d?host=h"])
def test_a_missing_user_is_named(url: str) -> None:
    variables = {"pg_dbname": "d", "pg_host": "h", "pg_url": "{{ env('URL', '') }}"}
    target = InventoryTarget("prod", "shop", (), variables)
    with pytest.raises(ConfigurationError) as caught:
        settings.render_target(target, TEMPLATES, {"URL": url}, no_server)
    assert caught.value.message == "prod: shop: pg_user is missing"
    assert caught.value.hint == "Set pg_user in the inventory."


def test_migration_settings_come_from_the_environment() -> None:
    target = shipped("prod", {"MIGRATION_TIMEOUT": "1500", "MIGRATION_BATCH_SIZE": "3"})
    assert (target.variables.migration_timeout, target.variables.migration_batch_size) == (1500, 3)


def test_every_value_that_cannot_be_rendered_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError, match="2 mistakes") as caught:
        resolve(pg_user="{{ env('NOWHERE') }}", pg_host="{{ nothing }}")
    assert "pg_user: the environment variable NOWHERE is not set" in caught.value.detail
    assert "pg_host: 'nothing' is undefined" in caught.value.detail


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{{ none }}", "gives none"),
        ("x{{ none }}", "gives none"),
        ("{{ nothing.at_all }}", "'nothing' is undefined"),
        ("{% if nothing %}{{ 1 }}{% endif %}", "'nothing' is undefined"),
        ("{{ env('EMPTY') }}", "EMPTY is empty"),
        ("{{ env('EMPTY', none) }}", "EMPTY is empty"),
        ("{{ env('EMPTY', '') }}", "pg_user is missing"),
        ("{{ '' }}", "pg_user is missing"),
        ("", "pg_user is missing"),
        (None, "pg_user: expected a text, not an empty value."),
    ],
)
def test_missing_none_and_empty_values_are_refused(value: object, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve({"EMPTY": ""}, pg_user=value)
    assert message in str(caught.value)


@pytest.mark.parametrize("wrong", ["{{ nothing }}", "{{ none }}", "{{ '' }}", "{% for x in nothing %}{% endfor %}"])
def test_templates_of_files_are_equally_strict(tmp_path: Path, wrong: str) -> None:
    for name in settings.FORMATS:
        shutil.copytree(TEMPLATES, tmp_path / name)
        path = tmp_path / name / f"{name}.j2"
        path.write_text(f"{wrong}\n{path.read_text()}")
        target = InventoryTarget("env", "target", (), {"pg_dbname": "d", "pg_user": "u", "pg_host": "h"})
        with pytest.raises(ConfigurationError, match="cannot be rendered"):
            settings.render_target(target, tmp_path / name, {}, no_server).render(name, masked=True)


def test_variables_that_hold_a_secret_are_recognised() -> None:
    target = resolve(
        {"A": "a", "B": "b", "C": "c"}, pg_user="{{ env('B') }}", pg_password="{{ env('A') }}{{ env('B') }}"
    )
    assert target.secret_variables == {"A", "B"}
    assert shipped("dev", {"DATABASE_URL": "postgresql://h/d", "POSTGRES_USER": "u"}).secret_variables == {
        "DATABASE_URL"
    }


def test_rendered_values_are_checked_for_their_types() -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve({"P": "many", "T": "-1"}, pg_port="{{ env('P') }}", migration_timeout="{{ env('T') }}")
    assert "pg_port" in caught.value.detail
    assert "migration_timeout" in caught.value.detail


@pytest.mark.parametrize("value", ["a\nhost=evil", "a\rb", "a\0b", " a", "a ", "x" * 901, "é" * 451])
def test_a_value_that_a_service_file_cannot_hold_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="env: target: the value of pg_user cannot be written"):
        resolve(pg_user=value)


@pytest.mark.parametrize("value", ["it's", "a#b", 'q"q', "a=b", "$(x)", "ünï", "'; DROP TABLE x;--", "\\"])
def test_unusual_values_reach_the_service_file_unchanged(value: str) -> None:
    assert resolve(pg_user=value).connection["user"] == value


def test_an_undefined_name_in_a_template_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pg_service.conf.j2").write_text("[{{ target }}]\nhost={{ nothing }}\n")
    target = InventoryTarget("env", "t", (), {"pg_dbname": "d"})
    with pytest.raises(ConfigurationError, match="cannot be rendered") as caught:
        settings.render_target(target, tmp_path, {}, no_server)
    assert "'nothing' is undefined" in caught.value.detail


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("[{{ target }}]\n{% if %}", "not a template"),
        ("[other]\nhost=h\n", "one service"),
        ("[{{ target }}]\nhost=h\n[two]\n", "one service"),
        ("[{{ target }}]\nnonsense\n", "one service"),
        ("[{{ target }}]\nhost=h\nhost=other\n", "one service"),
        ("[{{ target }}]\nhost = h\n", "one service"),
        ("[{{ target }}]\npassword=x\n", "has the parameter password"),
        ("[{{ target }}]\nuser={{ pg_password }}\n", "cannot be rendered"),
        ("[{{ target }}]\nuser={{ 1 / 0 }}\n", "cannot be rendered"),
        ("", "one service"),
    ],
)
def test_an_invalid_template_is_refused(tmp_path: Path, template: str, message: str) -> None:
    (tmp_path / "pg_service.conf.j2").write_text(template)
    with pytest.raises(ConfigurationError, match=message):
        settings.render_target(InventoryTarget("env", "t", (), {"pg_dbname": "d"}), tmp_path, {}, no_server)


def test_the_packaged_template_is_used_if_the_project_has_none(tmp_path: Path) -> None:
    target = InventoryTarget("env", "t", (), {"pg_dbname": "d", "pg_user": "u"})
    rendered = settings.render_target(target, tmp_path, {}, no_server)
    assert rendered == replace(settings.render_target(target, TEMPLATES, {}, no_server), templates=tmp_path)


def test_a_missing_template_that_another_includes_is_named(tmp_path: Path) -> None:
    (tmp_path / "pg_service.conf.j2").write_text("{% include 'common.j2' %}")
    with pytest.raises(ConfigurationError, match=r"no template .*/common\.j2"):
        settings.render_target(InventoryTarget("env", "t", (), {"pg_dbname": "d"}), tmp_path, {}, no_server)


def test_the_password_command_runs_only_when_a_password_is_needed(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    code = f"open({str(witness)!r}, 'w').close(); print('s3cret')"
    target = resolve(password_command=[sys.executable, "-c", code])
    assert MASK in target.render("database.env", masked=True)
    assert not witness.exists()
    assert target.parameters()["password"] == "s3cret"
    assert witness.exists()


def test_the_password_command_gets_neither_libpqs_variables_nor_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "other")
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    monkeypatch.setenv("SECRET_URL", "postgresql://h/d")
    monkeypatch.setenv("VAULT_ADDR", "https://vault")
    command = [sys.executable, "-c", "import os; print(sorted(os.environ))"]
    target = resolve(dict(os.environ), pg_url="{{ env('SECRET_URL') }}", password_command=command)
    names = ast.literal_eval(target.password())
    assert "VAULT_ADDR" in names
    assert not [name for name in names if name.startswith("PG") or name == "SECRET_URL"]
    assert os.environ["PGPASSWORD"] == "other"


@pytest.mark.parametrize(
    ("command", "detail"),
    [
        ([str(ROOT / "README.md")], "cannot be run: Permission denied"),
        ([sys.executable, "-c", "import sys; sys.exit('locked')"], "locked"),
        ([sys.executable, "-c", "pass"], "one line"),
        ([sys.executable, "-c", "print('a\\nb')"], "one line"),
    ],
)
def test_a_failing_password_command_is_reported(command: list[str], detail: str) -> None:
    with pytest.raises(Unreachable, match="returned no password") as caught:
        resolve(password_command=command).parameters()
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("program", "detail", "hint"),
    [
        ("vault-of-nobody", "vault-of-nobody is not installed, or not in PATH.", "Install vault-of-nobody"),
        ("/nowhere/at/all", "/nowhere/at/all does not exist.", "Correct the path"),
    ],
)
def test_a_password_command_that_is_not_installed_is_named(program: str, detail: str, hint: str) -> None:
    with pytest.raises(Unreachable, match=f"^the password command {program} cannot be run\n") as caught:
        resolve(password_command=[program]).parameters()
    assert caught.value.detail == detail
    assert hint in caught.value.hint


def test_a_password_command_has_a_time_limit() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(Unreachable) as caught:
        resolve(password_command=command, password_timeout=1).parameters()
    assert "within 1 s" in caught.value.detail


def test_pgpass_escapes_colons_and_backslashes() -> None:
    target = resolve({"P": "a:b\\c"}, pg_password="{{ env('P') }}")
    assert target.render("pgpass", masked=False) == "h:5432:*:u:a\\:b\\\\c\n"
    assert resolve().render("pgpass", masked=False) == ""


def test_the_env_file_has_the_variables_of_the_example_and_an_encoded_url() -> None:
    target = resolve({"P": "p@:/ß"}, pg_password="{{ env('P') }}")
    text = target.render("database.env", masked=False)
    assert "DATABASE_URL='postgresql://u:p%40%3A%2F%C3%9F@h:5432/d?sslmode=prefer'" in text
    assert "POSTGRES_PASSWORD='p@:/ß'" in text
    assert "p@" not in target.render("database.env", masked=True)


def test_an_env_file_refuses_a_single_quote() -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve({"P": "it's"}, pg_password="{{ env('P') }}").render("database.env", masked=False)
    assert "single quote" in caught.value.detail
    assert "it's" not in str(caught.value)


def test_client_files_are_private_and_are_removed() -> None:
    target = resolve({"P": "s3cret"}, pg_password="{{ env('P') }}")
    with target.client_environment() as environ:
        service, passfile = (Path(environ[name]) for name in ("PGSERVICEFILE", "PGPASSFILE"))
        assert stat.S_IMODE(passfile.stat().st_mode) == stat.S_IMODE(service.stat().st_mode) == 0o600
        assert stat.S_ISREG(passfile.stat().st_mode)
        assert (service.read_text(), passfile.read_text()) == (target.service_file, target.pgpass())
        assert "s3cret" not in "".join(environ.values())
    assert not passfile.exists()


@requires("files in memory")
def test_no_secret_is_written_to_a_disk() -> None:
    target = resolve({"P": "s3cret"}, pg_password="{{ env('P') }}")
    with target.client_environment() as environ:
        assert str(Path(environ["PGPASSFILE"]).readlink()).startswith("/memfd:")


def test_a_target_reached_through_its_host_has_no_connection_from_this_machine() -> None:
    with pytest.raises(ConfigurationError, match="from its own host"):
        resolve(reach="ssh", ssh_host="db").parameters()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"reach": "ssh"}, "reach: ssh needs ssh_host or ansible_host"),
        ({"reach": "tunnel", "ssh_host": "b", "embedded": True}, "embedded is a server on this machine"),
        ({"reach": "ssh", "ssh_host": "b", "backup_store": "s3://b"}, "backup_store: not supported with reach: ssh"),
        (
            {"reach": "ssh", "ssh_host": "b", "backup_recipients": ["age1"]},
            "backup_recipients: not supported",
        ),
        (
            {"reach": "ssh", "ssh_host": "b", "backup_signing_key": "k"},
            "backup_signing_key: not supported with backup_at: host",
        ),
        (
            {"reach": "ssh", "ssh_host": "b", "backup_verify_keys": ["k"]},
            "backup_verify_keys: not supported with backup_at: host",
        ),
    ],
)
def test_contradicting_variables_are_named(variables: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve({}, **variables)
    assert message in caught.value.detail


def test_a_tunnel_changes_the_address_and_keeps_the_name_of_the_server() -> None:
    opened: list[tuple[str, int]] = []

    def tunnel(_: Variables, host: str, port: int, hidden: frozenset[str]) -> int:
        opened.append((host, port))
        return 4711

    variables = {"pg_host": "db", "pg_dbname": "d", "pg_user": "u", "pg_port": 6000, "reach": "tunnel", "ssh_host": "b"}
    target = InventoryTarget("env", "target", (), variables)
    rendered = settings.render_target(target, TEMPLATES, {}, no_server, tunnel)
    assert opened == [("db", 6000)]
    assert (rendered.connection["host"], rendered.connection["hostaddr"], rendered.connection["port"]) == (
        "db",
        "127.0.0.1",
        "4711",
    )
    assert "hostaddr" not in settings.render_target(target, TEMPLATES, {}, no_server).connection


def test_written_files_are_private_from_the_first_byte(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("old")
    path.chmod(0o644)
    access.write_private(path, "new", replace=True)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (".env", "database.env"),
        ("x.env", "database.env"),
        (".pgpass", "pgpass"),
        (".pg_service.conf", "pg_service.conf"),
    ],
)
def test_the_name_of_a_file_selects_its_template(name: str, kind: str) -> None:
    assert written_files.format_of(Path(name)) == kind


def test_a_file_name_without_a_template_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot write a file named"):
        written_files.format_of(Path("notes.txt"))


def test_a_restore_environment_gives_its_connection_to_the_backups_of_the_target() -> None:
    target = resolve(backup_dir="ours", pg_port=5433)
    other = replace(resolve(backup_dir="theirs", pg_user="admin", pg_password="s", pg_port=5433), environment="admin")
    merged = settings.for_restore(target, other)
    assert (merged.environment, merged.connection["user"], merged.password()) == ("env", "admin", "s")
    assert merged.variables.backup_dir == "ours"


@pytest.mark.parametrize(
    "variables", [{"pg_host": "other"}, {"pg_port": 5433}, {"pg_dbname": "other"}, {"reach": "ssh", "ssh_host": "h"}]
)
def test_a_restore_environment_of_another_database_is_refused(variables: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the restore_environment of env") as caught:
        settings.for_restore(resolve(), resolve({}, **variables))
    assert next(iter(variables)) in caught.value.message
