"""The task that checks migrations before they are merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pgratchet.config import inventory
from pgratchet.console import output
from pgratchet.errors import ConfigurationError
from pgratchet.formatting import format_count
from pgratchet.tasks.project import Project
from pgratchet.tasks.support import read_migrations, task

if TYPE_CHECKING:
    from pgratchet.checks.ci import Branches, ScratchServer
    from pgratchet.migrations.files import Migration

_SERVERS = "--server=NAME, or a Docker image with --server=docker:IMAGE, such as --server=docker:postgres:18"


@task("sql", "against", "server", "roles", "json")
def ci(
    project: Project,
    sql: str | None = None,
    against: str | None = None,
    server: str | None = None,
    roles: str | None = None,
    json: bool = False,
) -> None:
    """Check the migrations before they are merged into main."""
    from pgratchet.checks import ci as checks
    from pgratchet.migrations.scripts import prepare_scripts

    folder = project.sql(sql)
    files = read_migrations(project, folder)
    prepare_scripts(files, {file.name for file in files if file.is_repeatable})
    branches = checks.compare_branches(folder, against)
    new, mistakes = _new_files(files, branches, quiet=json)
    linted = [file for file in files if new is None or file.name in new]
    findings = checks.lint([file for file in linted if not checks.is_baseline(file, files)])
    if new is None and findings and not json:
        output.say(
            f"squawk finds {format_count(len(findings), 'thing')}, counted only: which files are new is not known"
        )
    checks.require_clean([*mistakes, *(findings if new is not None else ())])
    with _scratch_server(project, server) as scratch:
        roles_of_inventory = inventory.all_roles(project.root / project.folders["inventory"])
        applied = checks.apply_twice(scratch, files, (*filter(None, (roles or "").split(",")), *roles_of_inventory))
    if json:
        counts = {"total": len(files), "main": branches.main if branches else None, "new": new}
        output.write_json(counts | {"findings": len(findings), "applied": applied})
    else:
        applied_text = format_count(applied, "migration")
        output.write(f"{applied_text} applied on a scratch server; a second run had nothing to do")


@contextmanager
def _scratch_server(project: Project, name: str | None) -> Iterator[ScratchServer]:
    """The server that a flag names, else that of $CI_DATABASE_URL, else the bundled one, which ends with the block."""
    from pgratchet import embedded
    from pgratchet.checks.ci import ScratchServer

    if name and name.startswith("docker:"):
        image = name.removeprefix("docker:")
        if not image:
            detail = "The image comes behind the colon."
            raise ConfigurationError("--server=docker: names no image", detail=detail, hint=f"Write {_SERVERS}.")
        with _container(image) as parameters:
            yield ScratchServer(parameters, f"the Docker image {image}")
    elif name and name != "bundled":
        yield _server_of(project, name)
    elif not name and (url := project.environ.get("CI_DATABASE_URL")):
        from pgratchet.config.url import parameters_from_url

        settings = parameters_from_url(url, "CI_DATABASE_URL")
        parameters = {"host": "localhost", "port": "5432", "dbname": "postgres", **settings}
        yield ScratchServer(parameters, f"that of CI_DATABASE_URL, on {parameters['host']}")
    else:
        with embedded.scratch() as server:
            yield ScratchServer({**server.parameters(), "dbname": "postgres"}, "the bundled PostgreSQL")


def _server_of(project: Project, environment: str) -> ScratchServer:
    """The server of an environment. ConfigurationError for one that asks for consent, such as production."""
    from pgratchet.checks.ci import ScratchServer

    target = project.connect_settings(project.targets(environment, named_by=_SERVERS)[0], start=True)
    if target.variables.confirm:
        raise ConfigurationError(
            f"{environment} cannot be the scratch server",
            detail="Its inventory has confirm: true, and migrations would be tried in a new database of its server.",
            hint="Name an environment for tests with `invoke ci --server=NAME`.",
        )
    parameters = {**target.parameters(), "dbname": target.variables.pg_maintenance_dbname}
    return ScratchServer(parameters, f"that of the environment {environment}")


@contextmanager
def _container(image: str) -> Iterator[Mapping[str, str]]:
    """The libpq parameters of a server of a Docker image, which ends with the block."""
    from pgratchet.testing.server import docker_server

    with ExitStack() as stack:
        try:
            parameters = stack.enter_context(docker_server(image))
        except ImportError as error:
            raise ConfigurationError(
                "the package testcontainers is not installed, so no Docker image can be run",
                hint="Run `pip install 'pgratchet[test]'`, or set CI_DATABASE_URL.",
            ) from error
        except Exception as error:  # of Docker's client, which has no common class for them
            raise ConfigurationError(
                f"the Docker image {image} cannot be run",
                detail=f"{type(error).__name__}: {error}".splitlines()[0],
                hint="Start Docker, check the name of the image, or set CI_DATABASE_URL.",
            ) from error
        yield parameters


def _new_files(
    files: tuple[Migration, ...], branches: Branches | None, *, quiet: bool
) -> tuple[list[str] | None, list[str]]:
    """The names that main does not have, None where main is not known, and the mistakes in the order.

    Repeatables that this branch has changed are among the names.
    """
    from pgratchet.checks.ci import check_order

    if branches is None:
        output.say("not compared with the main branch, which this clone does not have; --against=BRANCH names another")
        return None, []
    versioned = [file for file in files if not file.is_repeatable]
    new, mistakes = check_order(versioned, branches.theirs, branches.base)
    new += [file.name for file in files if file.is_repeatable and branches.is_changed(file)]
    if not quiet:
        output.write(f"{format_count(len(files), 'migration')}, {len(new)} of them new to {branches.main}")
    return new, mistakes
