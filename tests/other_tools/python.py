"""Tools from PyPI, each in its own virtual environment."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.other_tools import histories
from tests.other_tools.sample import SampleMigration
from tests.other_tools.tool import OtherTool, fetched, put, run
from tests.servers.databases import Database

_DRIVER = ("psycopg[binary]==3.3.9",)


class _Python(OtherTool):
    programs = ()
    packages: tuple[str, ...]

    def fetch(self, home: Path) -> None:
        fetched((sys.executable, "-m", "venv", "."), home)
        pip = (str(home / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "-q")
        fetched((*pip, "--retries=1", *self.packages), home)

    def _called(self, *arguments: str) -> tuple[str, ...]:
        # By the module: the scripts name the folder that the environment was first made in.
        return (str(self.home() / "bin" / "python"), "-m", *arguments)


class Alembic(_Python):
    """Revisions in Python with one call per statement."""

    name = "alembic"
    version = "1.20.1"
    packages = (f"alembic=={version}", "sqlalchemy==2.1.9", *_DRIVER)
    files = "scripts/versions"
    rebuilds = False
    history = histories.ALEMBIC

    def write(self, project: Path, steps: Sequence[SampleMigration]) -> None:
        put(project / "alembic.ini", _ALEMBIC_INI)
        put(project / "scripts" / "env.py", _ALEMBIC_ENV)
        for step in steps:
            put(project / self.files / f"{_revision(step.number)}_{step.name}.py", _module(step))

    def migrate(self, project: Path, database: Database) -> None:
        run(self._called("alembic", "upgrade", "head"), project, {"DATABASE_URL": _url(database)})


class Yoyo(_Python):
    name = "yoyo"
    version = "9.0.0"
    # sqlparse is what it splits files with: a newer one may split them otherwise.
    packages = (f"yoyo-migrations=={version}", "sqlparse==0.6.1", *_DRIVER)
    history = histories.YOYO

    def write(self, project: Path, steps: Sequence[SampleMigration]) -> None:
        names = [f"{step.number:04d}.{step.name.replace('_', '-')}" for step in steps]
        for step, name, before in zip(steps, names, [None, *names], strict=False):
            lines = [f"-- {step.name}", f"-- depends: {before}" if before else ""]
            lines += ["" if step.transactional else "-- transactional: false", "", step.text]
            put(project / self.files / f"{name}.sql", "\n".join(lines))

    def migrate(self, project: Path, database: Database) -> None:
        options = ("--batch", "--no-config-file", "apply", "--database", _url(database), self.files)
        run(self._called("yoyo", *options), project, {})


def _url(database: Database) -> str:
    return database.url.replace("postgresql://", "postgresql+psycopg://")


def _revision(number: int) -> str:
    return f"1a2b3c4d5e{number:02d}"


def _module(step: SampleMigration) -> str:
    lines = [f"op.execute({each!r})" for each in step.statements]
    if not step.transactional:
        lines = ["with op.get_context().autocommit_block():", *(f"    {line}" for line in lines)]
    down = _revision(step.number - 1) if step.number > 1 else None
    body = "".join(f"    {line}\n" for line in lines)
    return _MODULE.format(name=step.name, revision=_revision(step.number), down=down, body=body)


_ALEMBIC_INI = """\
[alembic]
script_location = %(here)s/scripts
path_separator = os
"""
_ALEMBIC_ENV = """\
import os

from alembic import context
from sqlalchemy import create_engine, pool

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(os.environ["DATABASE_URL"], poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
"""
_MODULE = '''\
"""{name}"""

from alembic import op

revision = {revision!r}
down_revision = {down!r}
branch_labels = None
depends_on = None


def upgrade():
{body}

def downgrade():
    pass
'''
