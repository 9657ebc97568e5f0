"""The application's own login in its env file, the project's env file, and secrets that git would commit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pgratchet.config import env_file, settings, validation, written_files
from pgratchet.config.inventory import InventoryTarget
from pgratchet.config.settings import RenderedTarget, render_target, render_template
from pgratchet.errors import ConfigurationError
from tests.support.git import git
from tests.unit.config.helpers import TEMPLATES, no_server

OWNER = {
    "pg_dbname": "shop",
    "pg_host": "db.example.com",
    "pg_user": "owner",
    "pg_password": "{{ env('OWNER_PASSWORD') }}",
    "app_user": "shop_app",
    "app_password": "{{ env('APP_PASSWORD') }}",
}
SECRETS = {"OWNER_PASSWORD": "of the owner", "APP_PASSWORD": "of the app"}


def rendered(environ: dict[str, str], *, for_application: bool = True, **variables: object) -> RenderedTarget:
    target = InventoryTarget("prod", "shop", (), OWNER | variables)
    used = target if for_application else settings.without_application(target)
    return render_target(used, TEMPLATES, environ, no_server)


def test_the_env_file_has_the_login_of_the_application() -> None:
    target = rendered(SECRETS)
    text = written_files.render_file(Path(".env"), [target])
    assert "POSTGRES_USER='shop_app'" in text
    assert "postgresql://shop_app:of%20the%20app@db.example.com:5432/shop" in text
    assert "owner" not in text
    assert "of the app" not in target.render("database.env", masked=True)
    assert target.render("database.env", masked=True).count("********") == 2
    assert "owner:of the owner" in written_files.render_file(Path("pgpass"), [target]), "pgratchet's own login"
    assert target.parameters()["user"] == "owner"
    assert target.hidden_variables() == {"OWNER_PASSWORD", "APP_PASSWORD"}


def test_an_application_may_have_no_password() -> None:
    target = rendered({"OWNER_PASSWORD": "x"}, app_password="")
    assert "postgresql://shop_app@db.example.com:5432/shop" in written_files.render_file(Path(".env"), [target])


def test_migrations_run_without_the_password_of_the_application() -> None:
    environ = {"OWNER_PASSWORD": "x"}
    assert rendered(environ, for_application=False).parameters()["user"] == "owner"
    with pytest.raises(ConfigurationError) as caught:
        rendered(environ)
    assert "prod: shop: app_password: the environment variable APP_PASSWORD is not set" in caught.value.detail
    job = render_template("k8s/migrate-job.yaml", [InventoryTarget("prod", "shop", (), OWNER)], TEMPLATES, {})
    assert "OWNER_PASSWORD" in job
    assert "APP_PASSWORD" not in job


@pytest.mark.parametrize(
    ("values", "variable"),
    [
        ({"APP_PASSWORD": "a\nb"}, "app_password"),
        ({"APP_PASSWORD": "it's"}, "app_password"),
        ({"APP_PASSWORD": "ab\\"}, "app_password"),
        ({"APP_USER": "a\0b"}, "app_user"),
        ({"APP_USER": "${X}"}, "app_user"),
    ],
)
def test_a_value_that_an_env_file_cannot_hold_is_refused_by_its_name(values: dict[str, str], variable: str) -> None:
    target = rendered(SECRETS | {"APP_USER": "a"} | values, app_user="{{ env('APP_USER') }}")
    with pytest.raises(ConfigurationError, match=f"prod: shop: the value of {variable} cannot be written") as caught:
        written_files.render_file(Path(".env"), [target])
    assert not [value for value in values.values() if value in str(caught.value)]


def test_a_password_that_pgpass_cannot_hold_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigurationError, match="the value of pg_password cannot be written"):
        written_files.render_file(Path("pgpass"), [rendered(SECRETS | {"OWNER_PASSWORD": "a\nb"})])


def test_mistakes_with_the_login_of_the_application() -> None:
    wrong = {"pg_dbname": "x", "app_password": "secret", "env_file": "{{ env('X') }}"}
    assert [mistake.partition(":")[0] for mistake in validation.mistakes(wrong)] == [
        *("app_password", "env_file", "app_password")
    ]
    others = {"pg_dbname": "x", "app_port": 80, "app_name": "shop", "env_name": "prod", "app_users": []}
    assert list(validation.mistakes(others)) == [], "variables of other programs in the same inventory"


def test_the_env_file_of_the_project_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A='from # the file'\nB=file\nexport C=\"x\\ny\"\nD=${A}\nE\n")
    target = InventoryTarget("dev", "shop", (), {"env_file": ".env"})
    read = env_file.with_file(tmp_path, target, {"B": "environment"})
    assert read == {"A": "from # the file", "B": "environment", "C": "x\ny", "D": "${A}"}
    assert env_file.with_file(tmp_path, InventoryTarget("dev", "shop", (), {}), {"B": "b"}) == {"B": "b"}
    missing = InventoryTarget("dev", "shop", (), {"env_file": "missing.env"})
    assert env_file.with_file(tmp_path, missing, {"B": "b"}) == {"B": "b"}


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.write_bytes(b"A=\xff\n")])
def test_an_env_file_that_cannot_be_read_is_named(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / ".env")
    with pytest.raises(ConfigurationError, match=re.escape(f"the env_file {tmp_path / '.env'} cannot be read")):
        env_file.with_file(tmp_path, InventoryTarget("dev", "shop", (), {"env_file": ".env"}), {})


def test_git_would_commit_a_file_that_it_does_not_ignore(tmp_path: Path) -> None:
    path = tmp_path / "folder" / ".env"
    path.parent.mkdir()
    path.write_text("A=secret")
    assert not env_file.is_committable(path), "outside a repository"
    git(tmp_path, "init", "-q")
    assert env_file.is_committable(path)
    (tmp_path / ".gitignore").write_text(".env\n")
    assert not env_file.is_committable(path)
    git(tmp_path, "add", "-f", "folder/.env")
    assert env_file.is_committable(path), "git has it already"
