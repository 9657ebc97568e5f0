"""Opens the server on which migrations are tried: a bundled one, a Docker image, or that of an environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pgratchet.errors import ConfigurationError
from pgratchet.tasks.project import Project

if TYPE_CHECKING:
    from pgratchet.checks.ci import ScratchServer

_SERVERS = "--server=NAME, or a Docker image with --server=docker:IMAGE, such as --server=docker:postgres:18"


@contextmanager
def scratch_server(project: Project, name: str | None) -> Iterator[ScratchServer]:
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
