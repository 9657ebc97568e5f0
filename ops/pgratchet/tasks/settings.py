"""Tasks that show rendered settings and templates, and start and stop the bundled PostgreSQL."""

from __future__ import annotations

from pgratchet.config import env_file, repository, settings
from pgratchet.console import commands, connection, output
from pgratchet.errors import ConfigurationError
from pgratchet.tasks.project import Project
from pgratchet.tasks.support import consent, task


@task("env", "limit", "write", "template")
def render(
    project: Project,
    env: str | None = None,
    limit: str | None = None,
    write: str | None = None,
    template: str | None = None,
) -> None:
    """Show or write rendered settings or a template."""
    if template is not None:
        _render_template(project, env, limit, write, template)
        return
    from pgratchet.config import written_files

    path = written_files.path_to_write(write) if write is not None else None
    kind = written_files.format_of(path) if path else "database.env"
    targets = [
        project.connect_settings(t, start=False, connects=False, for_application=kind == "database.env")
        for t in project.targets(env, limit)
    ]
    if path is None:
        for target in targets:
            output.write(target.render("pg_service.conf", masked=True).rstrip())
            output.write(target.render("database.env", masked=True).rstrip())
        return
    written_files.write(path, written_files.render_file(path, targets), project.templates, kind)
    output.say(f"wrote {path}, readable only by you")
    if kind != "pg_service.conf" and env_file.is_committable(path):
        output.say(f"WARNING: git does not ignore {path}, which has secrets; add the line {path.name} to .gitignore")


def _render_template(project: Project, env: str | None, limit: str | None, write: str | None, template: str) -> None:
    from pgratchet.config import written_files

    path = written_files.path_to_write(write) if write is not None else None
    targets = project.targets(env, limit)
    # As this call names its tasks: a project without a tasks.py has the program `pgratchet` only.
    command = commands.prefix()
    place = repository.locate(project.root, project.folders["sql"], command)
    text = settings.render_template(template, targets, project.templates, project.environ, place)
    lost = repository.backup_warnings(targets) if template.startswith("ci/") else ()
    for warning in (*repository.runner_warnings(targets), *lost):
        output.say(f"WARNING: {warning}")
    if path is None:
        output.write(text.rstrip())
    else:
        written_files.write(path, text, project.templates)
        output.say(f"wrote {path}")


@task("env", "json")
def up(project: Project, env: str | None = None, json: bool = False) -> None:
    """Start the bundled PostgreSQL and print how to connect."""
    for entry in project.targets(env):
        target = project.connect_settings(entry, start=True)
        variables = target.render("database.env", masked=True)
        connection.show_connection(target.environment, target.target, variables, is_embedded=target.embedded, json=json)


@task("env", "remove", "yes", "json")
def down(project: Project, env: str | None = None, remove: bool = False, yes: bool = False, json: bool = False) -> None:
    """Stop the bundled PostgreSQL, keeping its data."""
    from pgratchet import embedded

    targets = project.targets(env)
    environment = targets[0].environment
    server = embedded.locate(project.root, environment)
    has_data = server.data.exists()
    if not has_data and not any(target.variables.get("embedded") for target in targets):
        raise ConfigurationError(
            f"{environment} has no bundled PostgreSQL, so there is nothing to stop",
            detail="Its inventory names a server of your own, which pgratchet neither starts nor stops.",
            hint="Name the environment of the bundled server with `invoke down --env=NAME`.",
        )
    if remove and has_data:
        output.say(f"--remove deletes the bundled server of {environment} with all its databases; backups stay")
        consent(environment, yes)
    stopped = embedded.stop(server)
    if remove:
        embedded.remove(server)
    connection.show_stopped(environment, stopped=stopped, has_data=has_data, removed=remove and has_data, json=json)
