"""Tasks that show rendered settings and templates, and start and stop the bundled PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from pgratchet.config import settings
from pgratchet.console import connection, output
from pgratchet.database.target import write_private
from pgratchet.tasks.project import Project
from pgratchet.tasks.support import task


@task("env", "limit", "write", "template")
def render(
    project: Project,
    env: str | None = None,
    limit: str | None = None,
    write: str | None = None,
    template: str | None = None,
) -> None:
    """Show settings or a template as rendered, or write them."""
    if template is not None:
        _render_template(project, env, limit, write, template)
        return
    targets = [project.connect_settings(t, start=False, connects=False) for t in project.targets(env, limit)]
    if write is None:
        for target in targets:
            output.write(target.render("pg_service.conf", masked=True).rstrip())
            output.write(target.render("database.env", masked=True).rstrip())
    else:
        write_private(Path(write), settings.render_file(Path(write), targets), replace=True)
        output.say(f"wrote {write}, readable by you alone")


def _render_template(project: Project, env: str | None, limit: str | None, write: str | None, template: str) -> None:
    text = settings.render_template(template, project.targets(env, limit), project.templates, project.environ)
    if write is None:
        output.write(text.rstrip())
    else:
        Path(write).write_text(text, encoding="utf-8")
        output.say(f"wrote {write}")


@task("env")
def up(project: Project, env: str | None = None) -> None:
    """Start the bundled PostgreSQL and print how to connect."""
    for entry in project.targets(env):
        target = project.connect_settings(entry, start=True)
        variables = target.render("database.env", masked=True)
        connection.show_connection(target.environment, target.target, variables, is_embedded=target.embedded)


@task("env", "remove")
def down(project: Project, env: str | None = None, remove: bool = False) -> None:
    """Stop the bundled PostgreSQL, keeping its data."""
    from pgratchet import embedded

    environment = project.targets(env)[0].environment
    server = embedded.locate(project.root, environment)
    stopped = embedded.stop(server)
    if remove:
        embedded.remove(server)
    state = "stopped" if stopped else "it was not running"
    output.say(f"{environment}: {state}; its data {'is gone' if remove else 'stays'}")
